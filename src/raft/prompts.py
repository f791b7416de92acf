"""Prompts: one Markdown file each, with `$placeholders`, known by their digest.

A file is a chat: a line `## system`, `## user` or `## assistant` begins a turn. A last `## assistant` turn is a
beginning that the model continues. Text above the first such line is a note to the reader and is not sent.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Literal

from raft.errors import UsageError, place, regular
from raft.protocols import Message
from raft.text import as_text

_BULLET = re.compile(r"^\s*(?:[-*+•]\s+|\d+[.)]\s+)?")
_TURN = re.compile(r"^## (system|user|assistant)[ \t]*$", re.MULTILINE)

Where = Literal["first", "last", "none"]
"""Where the quotes of a reply stand: before its answer, behind it, or nowhere."""


@dataclass(frozen=True)
class Prompt:
    """A prompt file: its name without the ending, role and template of each turn, and SHA-256 (hex) of the turns."""

    name: str
    turns: tuple[tuple[str, str], ...]
    digest: str

    def render(self, **values: str) -> tuple[Message, ...]:
        """Return the chat with each placeholder replaced; a turn that comes out empty is left out.

        Control tokens in a value are spelled as text (`raft.text.as_text`): the turns are the prompt's own.

        Raises:
            UsageError: the prompt has a placeholder that is not among `values`.
        """
        spelled = {name: as_text(value) for name, value in values.items()}
        try:
            chat = [(role, Template(text).substitute(spelled).strip()) for role, text in self.turns]
        except (KeyError, ValueError) as error:
            raise UsageError(
                f"The prompt {self.name} has a placeholder that cannot be filled: {error}.",
                where=f"{self.name}.md",
                hint=f"placeholders of this prompt: {', '.join('$' + name for name in values)}; write $$ for a dollar",
            ) from None
        return tuple({"role": role, "content": text} for role, text in chat if text)


def also(messages: tuple[Message, ...], words: str) -> tuple[Message, ...]:
    """Return a chat whose first turn also says some words; without words as it is."""
    first, *rest = messages
    return ({"role": first["role"], "content": f"{first['content']}\n\n{words}"}, *rest) if words else messages


def packaged(kind: str) -> dict[str, str]:
    """Return the files that come with the package, name to text; `kind` is "prompts" or "pipelines"."""
    folder = files("raft") / kind
    if not folder.is_dir():  # an editable checkout keeps them beside src/
        folder = Path(__file__).parents[2] / kind  # type: ignore[assignment]
    return {
        entry.name: entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith((".md", ".yaml"))
    }


def load(name: str, folder: Path | None = None) -> Prompt:
    """Return the prompt `name`: from `folder` if it holds that file, otherwise from the package.

    Raises:
        UsageError: there is no such prompt, the folder does not exist, or the file has no turn.
    """
    return parse(name, load_text(f"{name}.md", folder))


def load_addition(name: str, folder: Path | None = None) -> Prompt:
    """Return a prompt whose words, with $questions, are put behind those of another one: one turn, the user's.

    Raises:
        UsageError: as `load`, or it has other turns, no words or another placeholder.
    """
    found = load(name, folder)
    if [role for role, _ in found.turns] != ["user"] or len(found.render(questions="-")) != 1:
        what = f"The prompt {name} is put behind another one, and has to be one turn, the user's, with words in it."
        where = folder / f"{name}.md" if folder else f"{name}.md"
        raise UsageError(
            what, where=where, hint="raft init my-pipeline   (its prompts have it as it was: one `## user`)"
        )
    return found


def load_text(file: str, folder: Path | None = None) -> str:
    """Return a file of the prompts as text: from `folder` if it holds that file, otherwise from the package.

    Raises:
        UsageError: there is no such file, it is no UTF-8 text, or the folder does not exist.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError("The folder of prompts does not exist.", where=folder, hint="raft init my-pipeline")
    own = folder / file if folder else None
    if own is not None and own.is_file():
        try:
            return own.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"The prompt cannot be read: {error}.", where=own, hint="raft init my-pipeline") from None
    known = packaged("prompts")
    if file not in known:
        what = f"There is no prompt {file}; there are {', '.join(known)}."
        raise UsageError(what, where=folder, hint="raft init my-pipeline   (copies them all)")
    return known[file]


def listed(text: str) -> list[str]:
    """Return the lines of a text without bullets, numbers and quotes around; blank ones and notes (#) are none."""
    lines = [_BULLET.sub("", line).strip("\"' \t") for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [line for line in lines if line]


def rubric(name: str, default: Callable[[], str], *, setting: str) -> list[str]:
    """Return the questions of a rubric: a file (Markdown or YAML) with one a line, bulleted, numbered or bare.

    Blank lines, and those that begin with #, are passed over. The name "default" means the text that `default` returns;
    `setting` is what an error names.

    Raises:
        UsageError: the file cannot be read, holds no question, or a line is none.
    """
    try:
        text = default() if name == "default" else regular(place(name, setting)).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        hint = f"--set {setting}=default   (or the path of a file of yes/no questions)"
        raise UsageError(f"The rubric cannot be read: {error}.", where=name, hint=hint) from None
    lines = listed(text)
    wrong = next((line for line in lines if not line.endswith(("?", "？", "؟"))), None)
    if wrong is not None or not lines:
        said = f"A line of the rubric is no question: {wrong}" if wrong else "The rubric has no question."
        raise UsageError(
            said, where=name, hint="write one yes/no question a line, with its question mark; # begins a note"
        )
    return lines


def parse(name: str, text: str) -> Prompt:
    """Return the prompt written in `text`.

    Raises:
        UsageError: no line begins a turn.
    """
    _, *parts = _TURN.split(text)
    if not parts:
        raise UsageError(f"The prompt {name} has no turn.", where=f"{name}.md", hint="begin one with a line `## user`")
    turns = tuple((role, body.strip()) for role, body in zip(parts[::2], parts[1::2], strict=True))
    return Prompt(name, turns, hashlib.sha256(repr(turns).encode()).hexdigest())
