"""A blind comparison: experts choose between two answers without knowing which is the tuned system's.

The page holds pair ids and no key. Which side is which is drawn per pair from (seed, question_id), so the ratings are
read with the seed alone; a pair's id holds its answers' digest too, so that ratings of other answers are refused.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raft.errors import UsageError
from raft.evaluation.form import bare
from raft.report.page import fill
from raft.text import from_json

CHOICES = {"a": "A is better", "b": "B is better", "tie": "equally good", "both wrong": "both wrong"}
_LINE = '{"pair_id": "…", "choice": "a"}'
"""What can be chosen for a pair, as a ratings file has it, and what the page says."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one question, `a` shown on the left and `b` on the right.

    The page and a ratings file know it by `pair_id`, which tells neither question nor side; the `question_id` is never
    on the page. `document` is the path of what bears the answer, and `golden` its text; both may be empty.
    """

    pair_id: str
    question_id: str
    question: str
    document: str
    golden: str
    a: str
    b: str


def pairs(
    questions: Sequence[Mapping[str, Any]], system: Mapping[str, str], baseline: Mapping[str, str], n: int, seed: int
) -> list[Pair]:
    """Return at most `n` pairs, drawn and shuffled by the seed, whatever the order of the questions.

    Questions (rows with `question_id`, `question` and, where known, `document` and `golden`) without an answer of both
    systems, each by question_id, are left out, and so are those whose two answers read the same but for case and white
    space: there is nothing to choose. 50 to 100 pairs are an hour or two of an expert's time.
    """
    drawn = {}
    for row in questions:
        key = row["question_id"]
        if key in system and key in baseline and _plain(system[key]) != _plain(baseline[key]):
            drawn[_digest("draw", seed, key)] = _pair(row, system[key], baseline[key], seed)
    return [drawn[order] for order in sorted(drawn)[: max(0, n)]]


def in_one_form(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the pairs with both answers without their form (`form.bare`), without those that read the same then.

    They are not cut: a rule that chooses from an answer may choose wrongly, and a right one would be judged by that. So
    their length may still tell which is the tuned model's. The ids stay: what was chosen is known by them.
    """
    made = [replace(pair, a=bare(pair.a), b=bare(pair.b)) for pair in pairs]
    return [pair for pair in made if _plain(pair.a) != _plain(pair.b)]


def _pair(row: Mapping[str, Any], system: str, baseline: str, seed: int) -> Pair:
    key = row["question_id"]
    a, b = (system, baseline) if _contender_is_a(seed, key) else (baseline, system)
    about = (str(row["question"]), str(row.get("document") or ""), str(row.get("golden") or ""))
    return Pair(_digest("pair", seed, key, a, b)[:16], key, *about, a, b)


def _contender_is_a(seed: int, question_id: str) -> bool:
    return int(_digest("side", seed, question_id)[:8], 16) % 2 == 0


def _digest(*parts: object) -> str:
    written = json.dumps([str(part) for part in parts])
    return hashlib.sha256(written.encode("ascii")).hexdigest()


def _plain(answer: str) -> str:
    return " ".join(answer.split()).casefold()


def page(pairs: Sequence[Pair], *, title: str = "Which answer is better?") -> str:
    """Return a page on which an expert rates pairs, keeps the ratings in the browser and saves them as JSONL.

    It loads nothing and sends nothing; without a script it can be read, and not saved.

    Raises:
        UsageError: there are no pairs.
    """
    if not pairs:
        raise UsageError(
            "There is no pair of answers to compare.",
            hint="both systems need answers to the same questions, and some that differ",
        )
    key = _digest("page", *(pair.pair_id for pair in pairs))[:16]
    return fill("blind", title=title, key=key, pairs=pairs, choices=CHOICES)


def read_ratings(path: Path | str, pairs: Iterable[Pair]) -> dict[str, str]:
    """Return what an expert chose on the page of these pairs, one of `CHOICES` by pair_id.

    The file has one object a line, with `pair_id` and `choice`.

    Raises:
        UsageError: the file cannot be read, holds no rating, or a line is none of these pairs' ratings, or a second
            one of the same pair.
    """
    known = {pair.pair_id for pair in pairs}
    seen: dict[str, int] = {}
    chosen: dict[str, str] = {}
    for number, line in _lines(path):
        pair_id, choice = _rating(line, f"{path}, line {number}")
        if pair_id not in known:
            raise UsageError(
                f"The pair {pair_id!r} is not one of these {len(known)} pairs.",
                where=f"{path}, line {number}",
                hint="give the questions, answers and seed that the page was made from",
            )
        if pair_id in seen:
            raise UsageError(
                f"The pair {pair_id!r} is rated twice, first in line {seen[pair_id]}.",
                where=f"{path}, line {number}",
                hint="keep one line for each pair",
            )
        seen[pair_id], chosen[pair_id] = number, choice
    if not seen:
        raise UsageError("The file holds no rating.", where=path, hint="rate some pairs, then press “Save ratings”")
    return chosen


def kept_ratings(path: Path) -> dict[str, str]:
    """Return the choices in a file of `added_ratings`, of pairs of whatever answers; none where there is no file."""
    lines = _lines(path) if path.is_file() else []
    return dict(_rating(line, f"{path}, line {number}") for number, line in lines)


def added_ratings(path: Path, chosen: Mapping[str, str]) -> str:
    """Return what a file of ratings holds, with the choices it does not hold yet; a pair's last line counts."""
    before = kept_ratings(path)
    lines = [line for _, line in _lines(path)] if path.is_file() else []
    new = [{"pair_id": name, "choice": choice} for name, choice in chosen.items() if before.get(name) != choice]
    return "".join(f"{line}\n" for line in [*lines, *map(json.dumps, new)])


def count(chosen: Mapping[str, str], pairs: Iterable[Pair], seed: int) -> dict[str, int]:
    """Return how many `pairs` there are, how many are `rated`, and of these `wins`, `losses`, `ties` and `both_wrong`.

    Wins are the tuned system's. Choices of other pairs do not count.
    """
    known = {pair.pair_id: pair for pair in pairs}
    counts = {"pairs": len(known), **dict.fromkeys(("rated", "wins", "losses", "ties", "both_wrong"), 0)}
    for pair_id in known.keys() & chosen.keys():
        counts["rated"] += 1
        counts[outcome(chosen[pair_id], known[pair_id], seed)] += 1
    return counts


def outcome(choice: str, pair: Pair, seed: int) -> str:
    """Return what a choice (one of `CHOICES`) means for the tuned system, as `count` names it."""
    if choice not in ("a", "b"):
        return "ties" if choice == "tie" else "both_wrong"
    return "wins" if (choice == "a") == _contender_is_a(seed, pair.question_id) else "losses"


def _lines(path: Path | str) -> list[tuple[int, str]]:
    try:
        written = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        hint = "--ratings ratings.jsonl   (as the blind page saved it)"
        raise UsageError(f"The ratings cannot be read: {error}.", where=path, hint=hint) from None
    return [(number, line) for number, line in enumerate(written.split("\n"), 1) if line.strip()]


def _rating(line: str, where: str) -> tuple[str, str]:
    try:
        found = from_json(line)
    except ValueError as error:
        raise UsageError(f"The line is not JSON: {error}.", where=where, hint=_LINE) from None
    pair_id, choice = (found.get(key) if isinstance(found, dict) else None for key in ("pair_id", "choice"))
    if not isinstance(pair_id, str):
        raise UsageError("The line has no pair_id.", where=where, hint=_LINE)
    if not isinstance(choice, str) or choice not in CHOICES:
        raise UsageError(f"The choice {choice!r} is none of {', '.join(CHOICES)}.", where=where, hint=_LINE)
    return pair_id, choice
