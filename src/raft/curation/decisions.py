"""What people have said of questions: a file of decisions, each a line that is only ever added, and what they do.

A decision is about a question as it was read, its answer completed by cleaning: where another build makes it otherwise,
it holds no more. The last one of each reviewer counts. Reviewers who differ count as a rejection until they agree: to
lose a row costs little, and to learn a false one much.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock

from raft.errors import UsageError, of_system, regular, typed
from raft.store import artifacts, tables
from raft.text import from_json

FILE = "decisions.jsonl"
"""A run's own decisions, in its directory."""
APPROVED, EDITED, REJECTED, UNDONE = "approved", "edited", "rejected", "undone"
REASONS = (
    *("wrong answer", "wrong type of answer", "not what the source says", "does not stand alone"),
    *("could be asked of many documents", "garbled", "trivial", "twice", "other"),
)
"""What a rejection may say, in the order of their numbers on the page."""
DIFFER, HUMAN = "reviewers differ", "human"
LONGEST = 4_000
"""Most characters of a text that a person writes."""
_LINE = '{"question_id": "…", "digest": "…", "verdict": "rejected", "reason": "wrong answer", "reviewer": "Ada"}'


@dataclass(frozen=True)
class Decision:
    """A verdict of one reviewer on one question, `digest` being that of the text that was read (`digest_of`).

    `edit` has `question` and `answer`, and perhaps `quote`; `was` is why the rules had dropped the row (None: they had
    not), `shown` the list that it was shown in; "undone" takes the reviewer's last verdict on the question back.
    """

    question_id: str
    digest: str
    verdict: str
    reviewer: str
    reason: str | None = None
    edit: Mapping[str, str] | None = None
    was: str | None = None
    shown: str | None = None
    time: str = ""


Said = dict[str, dict[str, Decision]]
"""Of each question the verdict of each reviewer."""


def digest_of(question: str, answer: str) -> str:
    """Return what a decision knows the text of a question by."""
    return hashlib.sha256(json.dumps([question, answer]).encode()).hexdigest()[:16]


def read(path: Path) -> tuple[list[Decision], bool]:
    """Return the decisions of a file in their order, and whether its last line was cut off, which is left out then.

    Raises:
        UsageError: the file cannot be read, or a line is no decision.
    """
    try:
        text = regular(path).read_bytes()
        whole, _, rest = text.rpartition(b"\n")
        torn = _is_torn(rest)
        lines = [*artifacts.parse_objects((whole if torn else text).decode("utf-8-sig"), path, _LINE)]
    except FileNotFoundError:
        raise UsageError("There is no such file of decisions.", where=path, hint=f"ls {typed(path.parent)}") from None
    except (OSError, UnicodeDecodeError) as error:
        hint = f"ls -l {typed(path)}   (a file of decisions, as raft review writes it)"
        why = of_system(error).what if isinstance(error, OSError) else "It is no text in UTF-8."
        raise UsageError(f"The file of decisions cannot be read. {why}", where=path, hint=hint) from None
    return [_decision(value, where) for where, value in lines], torn


def _is_torn(rest: bytes) -> bool:
    """Tell whether what stands behind the last line is the beginning of a decision, or what a disk left of one."""
    text = rest.rstrip(b"\0")
    if not text.startswith(b"{") or b"\r" in text or b"\0" in text:
        return bool(rest) and not text
    try:
        from_json(rest.decode("utf-8"))
    except ValueError:
        return True
    return False


def _decision(value: Mapping[str, Any], where: str) -> Decision:
    texts: dict[str, Any] = {name: value.get(name) for name in Decision.__annotations__ if name != "edit"}
    needed = [name for name in ("question_id", "digest", "verdict", "reviewer") if not texts[name]]
    wrong = [name for name, text in texts.items() if not isinstance(text, str | None)]
    edit = value.get("edit")
    if texts["verdict"] not in (APPROVED, EDITED, REJECTED, UNDONE):
        wrong.append("verdict")
    if texts["verdict"] == EDITED and not is_edit(edit):
        wrong.append("edit")
    if needed or wrong:
        what = f"has no {', '.join(needed)}" if needed else f"has a wrong {', '.join(dict.fromkeys(wrong))}"
        raise UsageError(f"The line is no decision: it {what}.", where=where, hint=f"a line reads {_LINE}")
    texts["time"] = texts["time"] or ""
    return Decision(**texts, edit=edit if texts["verdict"] == EDITED else None)


def is_edit(edit: Any) -> bool:
    """Tell whether a value is the edit of a decision: its texts, and nothing else."""
    if not isinstance(edit, dict):
        return False
    texts = [edit.get("question"), edit.get("answer"), edit.get("quote", "-")]
    return edit.keys() <= {"question", "answer", "quote"} and all(
        isinstance(text, str) and text.strip() and len(text) <= LONGEST for text in texts
    )


def add(path: Path, decision: Decision) -> None:
    """Write a decision to the end of a file and onto the disk; a line that was cut off there is taken away first.

    Raises:
        OSError: it cannot be written.
    """
    line = json.dumps({name: one for name, one in asdict(decision).items() if one is not None}, ensure_ascii=False)
    with FileLock(path.with_name(f".{path.name}.lock"), timeout=5), path.open("a+b") as file:
        file.seek(0)
        whole, _, rest = file.read().rpartition(b"\n")
        if _is_torn(rest):
            file.truncate(len(whole) + 1 if whole else 0)
            rest = b""
        file.write((b"\n" if rest else b"") + line.encode("utf-8", "replace") + b"\n")
        file.flush()
        os.fsync(file.fileno())


def said(lines: Iterable[Decision], texts: Mapping[str, tuple[str, str]]) -> Said:
    """Return what holds of questions (question and answer by id): the last verdict of each reviewer."""
    digests = {name: digest_of(*text) for name, text in texts.items()}
    stacks: dict[str, dict[str, list[Decision]]] = {}
    for one in lines:
        if digests.get(one.question_id) != one.digest:
            continue
        stack = stacks.setdefault(one.question_id, {}).setdefault(one.reviewer, [])
        if one.verdict != UNDONE:
            stack.append(one)
        elif stack:
            stack.pop()
    last = {name: {who: stack[-1] for who, stack in own.items() if stack} for name, own in stacks.items()}
    return {name: own for name, own in last.items() if own}


def settled(own: Mapping[str, Decision]) -> Decision:
    """Return the one decision of all reviewers of a question; where they differ, a rejection for that reason."""
    first, *others = (own[who] for who in sorted(own))
    if all((one.verdict, one.edit) == (first.verdict, first.edit) for one in others):
        return first
    return replace(first, verdict=REJECTED, reason=DIFFER, edit=None)


Decided = Mapping[str, Sequence[Any]]
"""Of each question that was decided the verdict, and the edit if it is one: what changes the rows of a build."""


def decided(found: Said) -> dict[str, list[Any]]:
    """Return what decisions do to the rows of a build, in the order of the questions' ids."""
    last = {name: settled(found[name]) for name in sorted(found)}
    return {name: [one.verdict, dict(one.edit)] if one.edit else [one.verdict] for name, one in last.items()}


def digests(by_people: Decided) -> dict[str, str]:
    """Return what a build that counted decisions notes of them, by question: whether a decision is another one now."""
    return {name: digest_of(one[0], json.dumps(one[1:], sort_keys=True)) for name, one in by_people.items()}


def edited(questions: pl.DataFrame, by_people: Decided) -> pl.DataFrame:
    """Return questions as people have written them, with the provenance `human` (`model`) where they have."""
    edits = {name: one[1] for name, one in by_people.items() if one[0] == EDITED}
    if not edits:
        return questions
    rows = [_rewritten(row, edits.get(row["question_id"])) for row in questions.iter_rows(named=True)]
    return tables.frame(tables.QUESTIONS, rows)


def _rewritten(row: dict[str, Any], edit: Mapping[str, str] | None) -> dict[str, Any]:
    if edit is None:
        return row
    new = {**row, "question": edit["question"], "answer": edit["answer"], "reasoning": None, "model": HUMAN}
    if edit.get("quote"):  # where it stands in the golden chunks is looked for as for any quote
        home = (row["golden_chunk_ids"] or [None])[0]
        new["quotes"] = [{"chunk_id": home, "start": None, "end": None, "text": edit["quote"]}]
    return new
