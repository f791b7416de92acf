"""Questions worded as people word them: kept ones worded anew, and a user's examples of how people ask.

Generated questions repeat the words of the chunk that they were made from, and a student that learned from these alone
answers worse when people ask in words of their own.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from raft import prompts
from raft.corpus import pii
from raft.curation import likeness, reading
from raft.curation.clean import HUMAN, judged, kept, passages_of, round_trip
from raft.curation.duplicates import DUPLICATE, REWORDED, one_wording
from raft.curation.user_questions import personal_data, refused
from raft.errors import UsageError, regular, typed
from raft.kinds import traits
from raft.prompts import Prompt, also
from raft.protocols import Completion, Generator, Request, Retriever
from raft.similarity import NearIndex, same_marks, set_apart, turned_round
from raft.store import tables
from raft.text import as_written, draw, from_json, normalise, overlap, word_count
from raft.text.languages import of_text

REWORD_TOKENS = 64
WARM = 0.7
"""Temperature of a rewording in a manner that was asked for before."""
SHOWN = 20
"""Most examples of a user's that a prompt shows."""
LONGEST = 500
"""Most characters of such an example."""
LOST, SAME, CLOSER, OTHERWISE = "other facts", "same words", "nearer to the source", reading.READ_OTHERWISE
_LABEL = re.compile(r".*\b(?:question|rewording)\s*:\s*", re.IGNORECASE)
_MARKS = re.compile(r"[*`]+|\A\s*(?:[-+•#>]+\s+|\d+[.)]\s+)+")
_LINE = '{"question": "how long do i have to send a parcel back?"}'
_SMOOTH = 2.0
Row = dict[str, Any]


def read_examples(path: Path, measured: Sequence[str] = (), *, found: str = "ignore") -> list[str]:
    """Return a user's own questions, as examples of how people ask: a question a line, bare or as JSON (`question`).

    Blank lines and those that begin with # are passed over. `measured` are questions that are measured with: none of
    them, nor one nearly equal, may be an example. `found` is `privacy.found`.

    Raises:
        RaftError: the file holds personal data, which is to be refused.
        UsageError: the file cannot be read or holds no question, a line holds none or is too long, or a question is
            measured with.
    """
    hint = f"a line reads {_LINE}, or is the question alone"
    try:
        lines = regular(path).read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise UsageError("There is no such file of examples.", where=path, hint=f"ls {typed(path.parent)}") from None
    except (OSError, UnicodeDecodeError) as error:
        what = "it is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UsageError(f"The file of examples cannot be read: {what}.", where=path, hint=hint) from None
    examples: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            question = _example(line.strip(), f"{path}, line {number}", hint)
            examples.setdefault(normalise(question), question)
    if not examples:
        raise UsageError("The file holds no questions.", where=path, hint=hint)
    if found == "refuse" and (kinds := personal_data(path)):
        raise refused("examples", [f"{path}: {pii.counted(kinds)}"])
    index = NearIndex([*measured, *examples.values()])
    for question in measured:
        index.add(question)
    twice = [question for question in examples.values() if next(index.find(question), None) is not None]
    if twice:
        raise UsageError(
            f"{len(twice)} of the examples in questions.like are measured with as well (--eval), first {twice[0]!r}."
            " What is shown to the generator may not be measured with.",
            where=path,
            hint="take them out of either file: 10 to 20 examples are enough",
        )
    return [pii.cleaned(one)[0] if found == "redact" else one for one in examples.values()]


def _example(line: str, where: str, hint: str) -> str:
    question: Any = line
    if line.startswith("{"):
        try:
            value = from_json(line)
        except ValueError as error:
            raise UsageError(f"The line is no JSON: {error}.", where=where, hint=hint) from None
        question = value.get("question") if isinstance(value, dict) else None
    if not isinstance(question, str) or not normalise(question):
        raise UsageError("The line has no question.", where=where, hint=hint)
    if len(question) > LONGEST:
        raise UsageError(f"The question has more than {LONGEST} characters.", where=where, hint=hint)
    return " ".join(question.split())


class Likeness:
    """How much more often people word a question so than a set of questions does: by its first word and its length.

    Either is the ratio of the examples' share to that of the set, smoothed so that none is 0; the first word is taken
    with the most frequent ones of the examples, all others are one, and lengths (in words) fall between quartiles of
    the examples'.
    """

    def __init__(self, examples: Sequence[str], questions: Sequence[str]) -> None:
        quartiles = np.quantile(list(map(word_count, examples)), [0, 0.25, 0.5, 0.75, 1])
        self._edges = sorted(set(quartiles.tolist()))
        self._known = frozenset(map(_first, examples))
        self._ratios: list[dict[Any, float]] = []
        for part in (self._begun, self._long):
            theirs, ours = Counter(map(part, examples)), Counter(map(part, questions))
            shares = {name: count / len(questions) for name, count in ours.items()}
            total = len(examples) + _SMOOTH
            self._ratios.append({name: (theirs[name] / share + _SMOOTH) / total for name, share in shares.items()})

    def weight(self, question: str) -> float:
        """Return the ratio for a question of the set, above 0; 1 where people and the set word it so as often."""
        begun, long = self._ratios
        return begun[self._begun(question)] * long[self._long(question)]

    def _begun(self, question: str) -> str | None:
        word = _first(question)
        return word if word in self._known else None

    def _long(self, question: str) -> int:
        return bisect_left(self._edges, word_count(question))


def _first(question: str) -> str:
    return normalise(question).partition(" ")[0]


@dataclass(frozen=True)
class Rewording:
    """What is asked to word questions anew.

    Attributes:
        prompt: prompts/reword.md.
        reader: prompts/reader.md, with which the new question is answered again.
        like: prompts/like.md with the user's examples, as text; "" where there are none.
        manners: how to word it; each question draws where to begin.
        each: rewordings of one question; that which repeats least of its chunk is left, by cleaning.
        least: agreement (0 to 1) with the answer that a reader of the new question must have.
    """

    prompt: Prompt
    reader: Prompt
    like: str
    manners: tuple[str, ...]
    each: int
    least: float

    @property
    def identity(self) -> str:
        """Return all that can change what comes, but the model."""
        return repr((self.prompt.digest, self.reader.digest, self.like, self.manners, self.each, self.least))


def asked(folder: Path | None, examples: Sequence[str], *, each: int, least: float) -> Rewording:
    """Return what is asked, with the prompts of the package or those of a user's `folder`.

    Raises:
        UsageError: a prompt cannot be read, or there is no manner.
    """
    manners = prompts.listed(prompts.load_text("registers.yaml", folder))
    if not manners:
        raise UsageError("There is no manner to word questions in.", where="registers.yaml", hint="write one a line")
    how = prompts.load("reword", folder), prompts.load("reader", folder), shown(examples, folder)
    return Rewording(*how, tuple(manners), each, least)


def shown(examples: Sequence[str], folder: Path | None) -> str:
    """Return what a prompt says of a user's examples (prompts/like.md): at most `SHOWN`, evenly spread; "" for none."""
    count = min(SHOWN, len(examples))
    some = [examples[place * len(examples) // count] for place in range(count)]
    lines = "\n".join(f"- {one}" for one in some)
    return prompts.load_addition("like", folder).render(questions=lines)[0]["content"] if some else ""


def reword(
    questions: pl.DataFrame,
    chunks: pl.DataFrame,
    how: Rewording,
    *,
    generator: Generator,
    model: str,
    retriever: Retriever,
    share: float,
    seed: int,
    k: int,
    limits: Mapping[str, int],
    languages: Mapping[str, str],
    held_out: frozenset[str],
    identify: Callable[[Sequence[str], str, str], str],
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return other wordings of a share of the questions, as `tables.QUESTIONS`; kinds, answers and quotes stay.

    Worded anew is what the rules of cleaning keep, and what finds its chunk again; of candidates for one question the
    one that stays, so that no wording takes a better one's place. Neither is what people wrote, what is answered with
    yes or no, by steps or by nothing, nor a question on a document that is held out. A wording is left out unless it
    passes the rules too, has the same numbers, dates, codes and names, has no more words of its chunk than the old one,
    is no duplicate of a question for another fact, finds its chunk among `k` results, and is answered alike by a
    reader of it.

    Args:
        questions: of `tables.QUESTIONS`.
        chunks: at least their golden ones.
        how: what is asked.
        generator: which words and reads.
        model: its name, for the rows.
        retriever: finds chunks.
        share: of these questions (0 to 1), drawn by (seed, question_id).
        seed: of the draws.
        k: results among which the golden chunk must be.
        limits: words of a question and an answer, as `clean.clean` is given.
        languages: of documents, by doc_id, but English.
        held_out: doc_ids.
        identify: returns the question_id of golden chunks, kind and question.

    Returns:
        The rows, whose `prompt` names the question_id that each was reworded from; and how many questions were "drawn"
        about, how many "wordings" are left, of how many "questions", why others were "left_out", and the `measures` of
        what was asked about ("before") and of what is left ("after").

    References:
        Gan and Ng: Improving the Robustness of Question Answering Systems to Question Paraphrasing. ACL 2019.
    """
    texts = {row["chunk_id"]: row for row in chunks.select("chunk_id", "heading", "text").iter_rows(named=True)}
    passage = passages_of(texts)

    def judge(rows: Sequence[Row]) -> list[Row]:
        found = [judged(row, texts, limits, languages, {}) for row in rows]
        round_trip(kept(found), texts, retriever=retriever, k=k, held_out=held_out, good={})
        return found

    raw = {row["question_id"]: row for row in questions.iter_rows(named=True) if _may_be_asked(row, held_out)}
    found = judge([*raw.values()])
    one_wording(found, passage)
    old = [row for row in kept(found) if _draw(seed, row["question_id"]) < share]
    reasons: Counter[str] = Counter()
    wordings: dict[str, tuple[Row, Row]] = {}
    turns = [(row, turn) for row in old for turn in range(how.each)]
    outcomes = generator.complete(_request(row, texts, how, turn, seed) for row, turn in turns)
    others = _Others(questions)
    for (row, _), outcome in zip(turns, outcomes, strict=True):
        text = read_reply(outcome.text) if isinstance(outcome, Completion) else ""
        why = changed_wrongly(row["question"], text, passage(row)) if text else "no question"
        name = identify(row["golden_chunk_ids"], row["kind"], text)
        if why is None and (name in wordings or name in others.names):
            why = SAME
        if why is None and others.ask(text, row):
            why = DUPLICATE
        if why is not None:
            reasons[why] += 1
            continue
        its = f"{REWORDED}{how.prompt.digest[:12]} {row['question_id']}"
        new = {**raw[row["question_id"]], "question_id": name, "question": text, "model": model, "prompt": its}
        wordings[name] = new, row
    found = judge([new for new, _ in wordings.values()])
    for new in found:
        if new["reason"] is None and new["answer"] != wordings[new["question_id"]][1]["answer"]:
            new["reason"] = LOST  # by what the question says, cleaning completes its answer otherwise
    left = kept(found)
    alike = reading.answered(left, "reworded", generator, how.reader, lambda row: {"passage": passage(row)})
    agreed = {new["question_id"]: share for new, share in alike}
    for new in left:
        new["reason"] = OTHERWISE if agreed.get(new["question_id"], 0.0) < how.least else None
    reasons.update(new["reason"] for new in found if new["reason"] is not None)
    good = [wordings[new["question_id"]] for new in kept(found)]
    stats = {
        "drawn": len(old),
        "wordings": len(good),
        "questions": len({row["question_id"] for _, row in good}),
        "left_out": dict(sorted(reasons.items(), key=lambda one: (-one[1], one[0]))),
        "before": measures(old, passage),
        "after": measures(kept(found), passage),
    }
    return tables.frame(tables.QUESTIONS, [new for new, _ in good]), stats


class _Others:
    """All questions of a table and what they ask for: none may be nearly equal to a wording of another fact."""

    def __init__(self, questions: pl.DataFrame) -> None:
        self._rows = questions.select("question_id", "question", "answer", "golden_chunk_ids").to_dicts()
        self.names = frozenset(row["question_id"] for row in self._rows)
        self._index = NearIndex(row["question"] for row in self._rows)
        for row in self._rows:
            self._index.add(row["question"])

    def ask(self, text: str, row: Row) -> bool:
        """Tell whether a question for another fact than a row's is nearly equal to a text."""
        asked = (self._rows[number] for number in self._index.find(text))
        return any(
            (one["answer"], one["golden_chunk_ids"]) != (row["answer"], row["golden_chunk_ids"]) for one in asked
        )


def _may_be_asked(row: Row, held_out: frozenset[str]) -> bool:
    kind = traits(row["kind"])
    asks = kind.answered and not kind.fixed and not kind.steps
    return bool(asks and row["model"] != HUMAN and row["quotes"] and held_out.isdisjoint(row["doc_ids"]))


def _draw(seed: int, name: str) -> float:
    return draw(f"reword:{seed}:{name}")


def _request(row: Row, texts: Mapping[str, Row], how: Rewording, turn: int, seed: int) -> Request:
    start = int(_draw(seed, f"manner:{row['question_id']}") * len(how.manners))
    chunk = texts.get(row["quotes"][0]["chunk_id"], {"heading": ""})
    messages = how.prompt.render(
        context=chunk["heading"] or "-",
        statement=" ".join(" ".join(quote["text"] for quote in row["quotes"]).split()),
        question=row["question"],
        answer=" ".join(row["answer"].split()),
        manner=how.manners[(start + turn) % len(how.manners)],
    )
    request = Request(also(messages, how.like), REWORD_TOKENS, check=read_reply)
    return request if turn < len(how.manners) else replace(request, temperature=WARM, sample=turn)


def read_reply(reply: str) -> str:
    """Return the question in a reply: the first line that asks, without what chats put around it.

    That is a label ("New question:", wherever it stands), a bullet or number, quotes and marks of Markdown; a line
    that ends in a colon only leads in.

    Raises:
        ValueError: it holds none.
    """
    for line in as_written(reply).splitlines():
        text = " ".join(_LABEL.sub("", _MARKS.sub("", line)).strip().strip('"“”').split())
        if normalise(text) and not text.endswith((":", "：")) and _asks(text):
            return text
    raise ValueError("it has no question")


def _asks(text: str) -> bool:
    language = of_text(text)
    return any(mark in text for mark in language.marks) or language.asks(text)


def changed_wrongly(before: str, after: str, source: str) -> str | None:
    """Return why a wording may not take the place of another, or None: it says otherwise, the same, or the source's.

    `source` is what the golden chunks say, of whose words `after` may repeat no larger share than `before`.
    """
    if normalise(before) == normalise(after):
        return SAME
    begun = after[:1].lower() + after[1:]  # a first word is no name for its capital
    if not same_marks(before, begun) or set_apart(before, begun) or turned_round(before, begun):
        return LOST
    return CLOSER if overlap(after, source) > overlap(before, source) else None


def measures(rows: Sequence[Row], source: Callable[[Row], str]) -> dict[str, float]:
    """Return what tells people's questions from generated ones, of rows and what their golden chunks say.

    `overlap` is the mean share (0 to 1) of a question's content words that stand in its chunk, `all` the share of
    questions all of whose do, `words` the mean length; nothing where there are no rows.
    """
    if not rows:
        return {}
    shares = likeness.repeated([overlap(row["question"], source(row)) for row in rows])
    return {
        "overlap": shares["mean"],
        "all": shares["all"],
        "words": round(sum(word_count(row["question"]) for row in rows) / len(rows), 2),
    }
