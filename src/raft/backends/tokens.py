"""Tokenizers: how many tokens a text, or a whole chat, is to one model."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from raft.backends.models import model_file, model_json
from raft.backends.quiet import import_litellm, quiet
from raft.errors import UsageError
from raft.protocols import Message


class LocalTokenizer:
    """Counts with a model's `tokenizer.json`; neither torch nor transformers is needed.

    Args:
        name: a hub name or a folder.

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
        return self.count([_render(self._template, messages, self._settings)])[0]

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
    """Counts as litellm believes the provider does; for models that it doesn't know an estimate.

    Args:
        name: `provider/model`.
    """

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
        return world.from_string(plain).render(messages=list(messages), add_generation_prompt=False, **tokens)
    except TemplateError as error:
        raise UsageError(f"The model's chat template refuses these messages: {error}") from None
