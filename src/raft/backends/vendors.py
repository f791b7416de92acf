"""No telemetry, no fetched price lists, no progress bars: what is set before a vendor's package is imported."""

import asyncio
import os
import sys
import warnings
from importlib import import_module
from typing import Any

_SETTINGS = {
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def quiet() -> None:
    """Switch off what vendors would send or print unasked; a variable that the user has set stays as it is.

    Every backend calls this before it imports a heavy package: most of them read these variables only then.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


def import_without(name: str, other: str) -> Any:
    """Import a vendor's package so that it does without another one, unless that is imported already."""
    quiet()
    # once it is imported nothing is hidden any more: another thread may want the other one meanwhile
    hidden = name not in sys.modules and sys.modules.setdefault(other, None) is None  # type: ignore[arg-type]
    try:
        return import_module(name)
    finally:
        if hidden:
            sys.modules.pop(other, None)


def import_litellm() -> Any:
    """Import litellm (some seconds) so that it fetches nothing, prints no hints and leaves retrying to its caller."""
    quiet()
    # pydantic says of litellm's own types, at the first call, that it does not guard them
    warnings.filterwarnings("ignore", message="Item .* on TypedDict class", category=UserWarning)
    import litellm

    vendor: Any = litellm
    vendor.telemetry = False
    vendor.suppress_debug_info = True
    vendor.disable_hf_tokenizer_download = True
    vendor.DEFAULT_MAX_RETRIES = 0  # where a call asks for 0 retries, embeddings take this instead
    return vendor


def fastest_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of uvloop's where that is installed (Chroma's server brings it), else Python's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
