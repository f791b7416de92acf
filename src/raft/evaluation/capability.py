"""What tuning costs: general questions that base and tuned model answer by likelihood, and labels chosen the same way.

Two forms of question, both scored as lm-evaluation-harness does (github.com/EleutherAI/lm-evaluation-harness), without
a chat template. Multiple choice, as ARC (Clark et al., arXiv 1803.05457): the choice with the largest summed
log-likelihood after "Question: ... Answer:" counts, which the harness calls `acc`; nothing is divided by length. Last
word, as LAMBADA (Paperno et al., arXiv 1606.06031): the word counts when each of its tokens is the most likely one.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from raft.errors import RaftError, UsageError
from raft.evaluation.metrics import paired_difference
from raft.evaluation.systems import BenchmarkModels
from raft.protocols import OnEvent, Scorer
from raft.store.artifacts import read_objects

Rows = Callable[[str], Sequence[Mapping[str, Any]]]
"""Delivers the rows of a public data set by its hub name, `org/set[:configuration[:split]]`; raises UsageError."""

SCHEMA = pl.Schema({"question_id": pl.String, "correct": pl.Float64})
_TITLES = {"arc_easy": "ARC-easy", "arc_challenge": "ARC-challenge", "lambada": "LAMBADA"}
_COMMON_NAMES = ("validation", "valid", "test", "train", "dev", "data", "questions")
_HUB_NAME = re.compile(r"[\w.-]+/(?P<set>[\w.-]+)(?::(?P<configuration>[^:]*)(?::[^:]*)?)?")
_HINT = (
    'lines read {"question": "...", "choices": ["...", "..."], "answer": 0} or {"text": "... whose last word is asked"}'
)


@dataclass(frozen=True)
class Question:
    """One question: the texts that may follow the context, and which of them is right.

    A single continuation is asked for word by word: it is right when the model would write it.
    """

    question_id: str
    context: str
    continuations: tuple[str, ...]
    right: int = 0


@dataclass(frozen=True)
class Check:
    """A set of questions of one form; `measure` is "accuracy" (multiple choice) or "last-word accuracy"."""

    name: str
    title: str
    measure: str
    questions: tuple[Question, ...]


def read(path: Path) -> Check:
    """Read a set of questions from JSON lines, all multiple choice or all last word.

    Multiple choice: `{"question", "choices": [texts], "answer"}`, where the answer is one of the texts, a letter from
    A, or a number from 0; or as ARC has it, `{"question", "choices": {"text": [...], "label": [...]}, "answerKey"}`.
    Last word: `{"text"}`, which ends with the word that is asked for and no full stop; or `{"context", "last_word"}`. A
    key "id" names the question, otherwise its place does; other keys are of no concern. The set is named after the
    file, or after its folder where the file is called `test.jsonl` or the like.

    Raises:
        UsageError: the file cannot be read, holds no question, or a line is none.
    """
    name = path.parent.resolve().name if path.stem.lower() in _COMMON_NAMES else path.stem
    return _check(name, path, read_objects(path, _HINT))


def open_check(name: str, rows: Rows) -> Check:
    """Return the set in the file `name` (as for `read`), or the public set of that name.

    Raises:
        UsageError: it is neither, or a row is no question.
    """
    if Path(name).is_file():
        return read(Path(name))
    hub_name = _HUB_NAME.fullmatch(name)
    if hub_name is None or name.endswith((".jsonl", ".json")):
        raise UsageError(
            "There is no such file of questions.", where=name, hint="give a file, or org/set:configuration:split"
        )
    found = ((f"{name}, row {number}", row) for number, row in enumerate(rows(name), 1))
    configuration = hub_name["configuration"]
    return _check(configuration if configuration not in (None, "", "default") else hub_name["set"], name, found)


def _check(name: str, source: object, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Check:
    known: dict[str, Question] = {}
    measures: set[str] = set()
    for number, (where, row) in enumerate(rows, 1):
        measure, question = _question(row, str(row.get("id", number)), where)
        measures.add(measure)
        if len(measures) > 1:
            raise _wrong("The questions before are of the other form; a set has one.", where)
        if known.setdefault(question.question_id, question) is not question:
            raise _wrong(f"The id {question.question_id} stands twice.", where)
    if not known:
        raise _wrong("There are no questions.", source)
    plain = name.lower().replace("-", "_")
    title = next((title for start, title in _TITLES.items() if plain.startswith(start)), name)
    return Check(plain, title, measures.pop(), tuple(known.values()))


def _wrong(what: str, where: object) -> UsageError:
    return UsageError(what, where=where, hint=_HINT)


def _question(row: Mapping[str, Any], name: str, where: str) -> tuple[str, Question]:
    if "choices" in row:
        choices, right = _choices(row, where)
        # the form in which the harness asks ARC: part of the measure, like its data
        context = f"Question: {_text(row, 'question', where)}\nAnswer:"
        return "accuracy", Question(name, context, tuple(f" {choice}" for choice in choices), right)
    if "last_word" in row:
        context, word = _text(row, "context", where), _text(row, "last_word", where)
    elif "text" in row:
        context, word = ["", *_text(row, "text", where).rsplit(None, 1)][-2:]
    else:
        raise _wrong("The line is no question: there are neither choices nor a text.", where)
    if not context or len(word.split()) != 1:
        raise _wrong("The last word is asked for, and there is not one word after others.", where)
    return "last-word accuracy", Question(name, context, (f" {word}",))


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    text = row.get(key)
    if not isinstance(text, str) or not text.strip():
        raise _wrong(f"There is no text in {key}.", where)
    return text.strip()


def _choices(row: Mapping[str, Any], where: str) -> tuple[list[str], int]:
    choices = row["choices"]
    texts = choices.get("text") if isinstance(choices, Mapping) else choices
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise _wrong("The choices are no list of texts.", where)
    if len(texts) < 2:
        raise _wrong("There are fewer than two choices.", where)
    labels = choices.get("label") if isinstance(choices, Mapping) else None
    answer = row.get("answerKey") if labels is not None else row.get("answer")
    right = _place(answer, texts, labels)
    if right is None:
        raise _wrong(f"The answer {answer!r} is none of the choices.", where)
    return [text.strip() for text in texts], right


def _place(answer: object, texts: Sequence[str], labels: object) -> int | None:
    """Return the number of the right choice; None where the answer names none."""
    if labels is not None:
        known = labels if isinstance(labels, list) and len(labels) == len(texts) else []
        return known.index(answer) if answer in known else None
    if isinstance(answer, str):
        letters = [chr(ord("A") + number) for number in range(len(texts))]
        return next((names.index(answer) for names in (list(texts), letters) if answer in names), None)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(texts):
        return answer
    return None


def measure(check: Check, scorer: Scorer) -> pl.DataFrame:
    """Ask a model all questions of a set; return a frame of `SCHEMA`, in their order: `correct` is 1.0 or 0.0.

    Among choices of equal likelihood the first counts.
    """
    pairs = [(question.context, text) for question in check.questions for text in question.continuations]
    scores = iter(scorer.score(pairs))
    rows = []
    for question in check.questions:
        own = [next(scores) for _ in question.continuations]
        correct = own[0][1] if len(own) == 1 else _best(own) == question.right
        rows.append({"question_id": question.question_id, "correct": float(correct)})
    return pl.DataFrame(rows, schema=SCHEMA)


def _best(scores: Sequence[tuple[float, bool, int]]) -> int:
    return max(range(len(scores)), key=lambda number: scores[number][0])


def compare(check: Check, before: pl.DataFrame, after: pl.DataFrame) -> dict[str, Any]:
    """Compare what two models answered right, by the frames of `measure` for the base model and the tuned one.

    Returns:
        `title`, `measure`, the number of `questions`, the shares of right answers `before` and `after` (0 to 1), and
        their difference `change` as an `Interval`, after minus before, paired by question.

    Raises:
        RaftError: the two were not asked the same questions, or none.
    """
    both = before.join(after, on="question_id", suffix="_after", maintain_order="left", validate="1:1")
    theirs, ours = both["correct"].to_list(), both["correct_after"].to_list()
    change = paired_difference(ours, theirs, both["question_id"].to_list())
    if not len(before) == len(after) == len(both) or change is None:
        raise RaftError(
            f"The two models were not asked the same questions of {check.title}: {len(before)}, {len(after)}, and "
            f"{len(both)} of them equal.",
            hint="measure both models on one file",
        )
    return {
        "title": check.title,
        "measure": check.measure,
        "questions": len(both),
        "before": sum(theirs) / len(both),
        "after": sum(ours) / len(both),
        "change": change,
    }


def choose(scorer: Scorer, contexts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return for each context the label that a model finds most likely to follow it.

    Log-likelihoods are summed over a label's tokens, so that a label of more tokens is at a disadvantage; labels are
    best chosen with equally many. A space comes before the label unless the context (a text, or a chat as
    `scorer.render` returns it) is empty or ends with white space. Among equally likely labels the first wins.

    Raises:
        UsageError: there are no labels, or one is empty.
    """
    if not labels or not all(label.strip() for label in labels):
        raise UsageError("Labels to choose from are needed, and none may be empty.", hint="give a closed set of labels")
    spaces = ["" if not context or context[-1].isspace() else " " for context in contexts]
    pairs = [(context, space + label) for context, space in zip(contexts, spaces, strict=True) for label in labels]
    scores, count = scorer.score(pairs), len(labels)
    return [labels[_best(scores[begin : begin + count])] for begin in range(0, len(scores), count)]


def check_capability(
    checks: Sequence[Check], models: BenchmarkModels, *, on_event: OnEvent
) -> dict[str, dict[str, Any]] | None:
    """Measure general capability before and after tuning; `on_event` is told "asking".

    None when nothing was asked for or nothing was tuned.
    """
    if not checks or models.tuned is None:
        return None
    found: dict[str, dict[str, Any]] = {}
    for check in checks:
        facts = {"title": check.title, "measure": check.measure, "questions": len(check.questions)}
        if models.base.scorer is None or models.tuned.scorer is None:
            found[check.name] = {**facts, "before": None, "after": None, "change": None}
            continue
        on_event("asking", {"arm": "base and tuned", "set": check.title, "condition": "", **facts})
        found[check.name] = compare(check, measure(check, models.base.scorer), measure(check, models.tuned.scorer))
    return found
