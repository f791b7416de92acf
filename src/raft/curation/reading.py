"""What a model is asked about a question, one call a row: what it answers with and without the chunk, how it judges it.

It is asked about what cheaper rules keep, before duplicates are looked for. Each filter notes in the row's `readings`
what was asked, its verdict from 0 to 1, and what was said; a question without a usable reply is kept.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raft import prompts
from raft.kinds import traits
from raft.prompts import Prompt
from raft.protocols import Completion, Generator, Request
from raft.report.measures import f1
from raft.settings.sections import Cleaning
from raft.text import draw, normalise
from raft.text.languages import of_text
from raft.text.replies import json_readings
from raft.text.values import agree, fact_values

READ_OTHERWISE, KNOWN, JUDGED = "read otherwise", "known without it", "judged poor"
READER_TOKENS = 64
RUBRIC_TOKENS = 80
"""Of a reply, for each question of a rubric."""
SETTINGS = frozenset({"reader", "reader_minimum", "closed_book_share", "rubric", "learned"})
"""Settings of cleaning that are part of a filter's identity."""
JUDGE_TOKENS = 64
JUDGE_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"mark": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["mark"],
    "additionalProperties": False,
}
_MARK = re.compile(r"\bmark\b\W{1,6}(\d(?:\.\d+)?)", re.IGNORECASE)
_OF_FIVE = re.compile(r"([1-4](?:\.\d+)?|5(?:\.0+)?)(?:\s*(?:/|out of)\s*5)?")
Row = dict[str, Any]
Passages = Callable[[Row], str]
"""Returns headings and texts of a row's golden chunks."""


@dataclass(frozen=True)
class Filter:
    """A filter that a model is asked for; `identity` holds all that can change its verdicts, but the model.

    A call reads `prompt` with a question and its passages, and may write so many `tokens`. `apply` is given rows that
    are kept, their passages, the model and the doc_ids held out; it sets reasons and appends readings.
    """

    identity: str
    prompt: Prompt
    tokens: int
    apply: Callable[[Sequence[Row], Passages, Generator, frozenset[str]], None]


def chosen(settings: Cleaning, folder: Path | None, *, seed: int) -> list[Filter]:
    """Return the filters that the settings ask for, in their order; `folder` has the user's own prompts.

    Raises:
        UsageError: a prompt cannot be read.
    """
    found: list[Filter] = []
    if settings.reader:
        prompt, least = prompts.load("reader", folder), settings.reader_minimum
        apply = partial(_read_again, prompt=prompt, least=least)
        found.append(Filter(f"reader {prompt.digest} {least}", prompt, READER_TOKENS, apply))
    if settings.closed_book_share < 1:
        prompt, share, least = prompts.load("closed", folder), settings.closed_book_share, settings.reader_minimum
        apply = partial(_ask_without, prompt=prompt, share=share, seed=seed, least=least)
        found.append(Filter(f"closed book {prompt.digest} {share} {seed} {least}", prompt, READER_TOKENS, apply))
    if settings.rubric is not None:
        prompt, rubric = prompts.load("rubric", folder), read_rubric(settings.rubric, folder)
        tokens = RUBRIC_TOKENS * len(rubric)
        found.append(Filter(f"{prompt.digest} {rubric}", prompt, tokens, partial(_judge, prompt=prompt, rubric=rubric)))
    return found


def read_rubric(name: str, folder: Path | None = None) -> list[str]:
    """Return the questions of `cleaning.rubric`, as `prompts.rubric` does; "default": those in `rubric.yaml`."""
    return prompts.rubric(name, lambda: prompts.load_text("rubric.yaml", folder), setting="cleaning.rubric")


def agreement(answer: str, said: str, *, kind: str, language: str = "en") -> float:
    """Return how far a reader says the same as an answer, from 0 to 1.

    Exact facts agree or don't (`values.agree`), and so do yes and no, by the first word; else it is the F1 of
    words, as for SQuAD (arXiv 1606.05250).
    """
    if traits(kind).fixed:
        return float(normalise(said).split()[:1] == normalise(answer).split()[:1])
    return float(agree(answer, said)) if fact_values(answer) else f1(said, [answer], language)


def _read_again(
    rows: Sequence[Row],
    passages: Passages,
    model: Generator,
    _held_out: frozenset[str],
    *,
    prompt: Prompt,
    least: float,
) -> None:
    """Drop what a reader of the golden chunks answers otherwise (roundtrip consistency).

    References:
        Alberti et al.: Synthetic QA Corpora Generation with Roundtrip Consistency. ACL 2019, arXiv 1906.05416.
        Puri et al.: Training Question Answering Models From Synthetic Data. EMNLP 2020, arXiv 2002.09599.
    """
    for row, agreed in answered(rows, "reader", model, prompt, lambda row: {"passage": passages(row)}):
        row["reason"] = READ_OTHERWISE if agreed < least else None


def _ask_without(
    rows: Sequence[Row],
    _passages: Passages,
    model: Generator,
    held_out: frozenset[str],
    *,
    prompt: Prompt,
    share: float,
    seed: int,
    least: float,
) -> None:
    """Drop all but a share of what is answered rightly without a document: it teaches nothing about reading one.

    Questions on held-out documents stay: a yardstick without what a model knows would flatter the documents. Neither is
    yes or no asked for: half of it is guessed.
    """
    asked = [row for row in rows if held_out.isdisjoint(row["doc_ids"]) and not traits(row["kind"]).fixed]
    for row, agreed in answered(asked, "closed book", model, prompt, lambda row: {"style": ""}):
        row["reason"] = KNOWN if agreed >= least and draw(f"closed book:{seed}:{row['question_id']}") >= share else None


def answered(
    rows: Sequence[Row], name: str, model: Generator, prompt: Prompt, shown: Callable[[Row], Mapping[str, str]]
) -> Iterator[tuple[Row, float]]:
    """Yield each row that the model answers, with how far it says the same (`agreement`), which is noted under a name.

    `shown` returns what the prompt is given of a row beside question and answer.
    """
    asked = [row for row in rows if traits(row["kind"]).answered and not traits(row["kind"]).steps]
    for row, said in _replies(asked, model, prompt, shown, max_tokens=READER_TOKENS):
        agreed = agreement(row["answer"], said, kind=row["kind"], language=of_text(row["question"]).code)
        _note(row, name, agreed, said)
        yield row, agreed


def _judge(
    rows: Sequence[Row],
    passages: Passages,
    model: Generator,
    _held_out: frozenset[str],
    *,
    prompt: Prompt,
    rubric: Sequence[str],
) -> None:
    """Drop what a judge answers a question of the rubric with no for; each verdict is noted with its words."""
    asked = [row for row in rows if traits(row["kind"]).answered]
    points = "\n".join(f"{number}. {point}" for number, point in enumerate(rubric, 1))
    verdict = {"words": {"type": "string"}, "verdict": {"type": "string", "enum": ["yes", "no"]}}
    names = [str(number) for number in range(1, len(rubric) + 1)]
    how = {
        "max_tokens": RUBRIC_TOKENS * len(rubric),
        "schema": _object({name: _object(verdict) for name in names}),
        "check": lambda reply: read_verdicts(reply, len(rubric)),
    }

    for row, reply in _replies(asked, model, prompt, lambda row: {"passage": passages(row), "rubric": points}, **how):
        for point, (passed, words) in zip(rubric, read_verdicts(reply, len(rubric)), strict=True):
            _note(row, point, passed, words)
            row["reason"] = JUDGED if not passed else row["reason"]


def mark(rows: Sequence[Row], passages: Passages, *, judge: Generator, prompt: Prompt, minimum: float) -> None:
    """Drop what a judge marks below the `minimum` (0 to 1); the mark is noted in the row's scores."""
    asked = [row for row in rows if traits(row["kind"]).answered]
    how = {"max_tokens": JUDGE_TOKENS, "schema": JUDGE_SCHEMA, "check": read_mark}
    for row, reply in _replies(asked, judge, prompt, lambda row: {"passage": passages(row)}, **how):
        row["scores"]["judge"] = given = read_mark(reply)
        row["reason"] = JUDGED if given < minimum else None


def read_mark(reply: str) -> float:
    """Return the mark in a judge's reply, `{"mark": 1}` to `{"mark": 5}`, as 0 to 1; ValueError if it holds none.

    Wrapping and spelling do not matter, as long as it is called a mark.
    """
    told = [mark for tree in json_readings(reply) for mark in _marks(tree)] or _MARK.findall(reply)[-1:]
    mark = _OF_FIVE.fullmatch(told[0]) if told else None
    if not mark:
        raise ValueError('the reply is not {"mark": 1 to 5}')
    return (float(mark[1]) - 1) / 4


def _marks(tree: Any) -> Iterator[str]:
    for name, value in tree.items() if isinstance(tree, dict) else ():
        if str(name).strip().lower() in ("mark", "score", "rating"):
            yield str(value).strip()
    for part in tree if isinstance(tree, list) else tree.values() if isinstance(tree, dict) else ():
        if isinstance(part, (dict, list)):
            yield from _marks(part)


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    needed = {"required": [*properties], "additionalProperties": False}
    return {"type": "object", "properties": dict(properties), **needed}


def read_verdicts(reply: str, count: int) -> list[tuple[bool, str]]:
    """Return the verdict on each of so many questions of a rubric, with the words that it rests on.

    They are read whatever the JSON is wrapped in: an object by numbers, or a list in their order.

    Raises:
        ValueError: one is missing, or neither yes nor no.
    """
    for tree in json_readings(reply):
        for one in (tree, *(tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ())):
            entries = [one.get(str(n)) for n in range(1, count + 1)] if isinstance(one, dict) else one
            if isinstance(entries, list) and len(entries) == count and all(map(_is_verdict, entries)):
                return [(_yes(entry["verdict"]), str(entry.get("words") or "")) for entry in entries]
    raise ValueError('the reply is not {"1": {"words": ..., "verdict": "yes" or "no"}, ...}')


def _is_verdict(entry: Any) -> bool:
    return isinstance(entry, dict) and str(entry.get("verdict")).strip().lower() in ("yes", "no", "true", "false")


def _yes(verdict: Any) -> bool:
    return str(verdict).strip().lower() in ("yes", "true")


def _replies(
    rows: Sequence[Row], model: Generator, prompt: Prompt, shown: Callable[[Row], Mapping[str, str]], **how: Any
) -> Iterator[tuple[Row, str]]:
    """Yield each row that got a usable reply, with it; a prompt is given question, answer and what is `shown`."""
    chats = (prompt.render(question=row["question"], answer=row["answer"], **shown(row)) for row in rows)
    outcomes = model.complete(Request(chat, **how) for chat in chats)
    for row, outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, Completion):
            yield row, outcome.text.strip()


def _note(row: Row, asked: str, verdict: float, said: str) -> None:
    row["readings"] = [*(row.get("readings") or []), {"asked": asked, "verdict": round(verdict, 4), "said": said}]
