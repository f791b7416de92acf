"""What models cost by the list in litellm's folder, read without importing litellm, which would take seconds."""

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raft.spending import Price

_LIST = "model_prices_and_context_window_backup.json"


def list_price(name: str) -> Price | None:
    """Return what a hosted model or embedder costs; None when the list does not know it.

    A price of nothing is no price: the list has it for models on trial, in other units, and on one's own machine.

    Args:
        name: `provider/name`.
    """
    entry = listed(name)
    read, written = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    if entry.get("mode") == "embedding":
        written = written or 0.0
    if read is None or written is None or not (read or written):
        return None
    return Price(input=float(read) * 1e6, output=float(written) * 1e6)


def listed(name: str) -> Mapping[str, Any]:
    """Return what the list says of a model, by its whole name or by its name at the provider; nothing if unknown."""
    provider, _, short = name.partition("/")
    entry = _entries().get(name)
    if entry is None:
        entry = _entries().get(short) or {}
        # the same name at another provider, or on a machine of one's own, has another price
        if not str(entry.get("litellm_provider", "")).startswith(provider):
            return {}
    return entry


@lru_cache(maxsize=1)
def _entries() -> Mapping[str, Mapping[str, Any]]:
    spec = find_spec("litellm")
    path = Path(spec.origin).parent / _LIST if spec and spec.origin else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
