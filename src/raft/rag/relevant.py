"""Which chunks bear a question's answer, and what follows for retrieval, withheld questions and intervals."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from raft.protocols import Retriever
from raft.rag.format import is_no_answer
from raft.text import contains, normalise, overlap
from raft.text.languages import of_text
from raft.text.values import Value, covers, fact_values, says

SHORT_ANSWERS = frozenset({"yes", "no", "maybe"})
"""Normalised answers that stand in any text, so that a text that holds one does not bear it."""


ABOUT = 1 / 3
"""Least share of a question's words in a text that is about it. So few, because a text that answers a question whose
answer was removed spoils the measurement, and one more that is removed does not."""

Grain = Literal["chunk", "page", "document"]
"""What retrieval is measured by: the chunk that bears the answer word for word, or the page or document that is named
for a question whose answer stands nowhere word for word."""
GRAINS: Mapping[Grain, str] = {
    "chunk": "the chunk that bears the answer",
    "page": "the named page",
    "document": "the named document",
}

_BATCH = 256  # queries
_BARE = re.compile(r"\d{1,2}")
_NO_DIGITS = re.compile(r"\D+")


def holds_answer(text: str, answer: str) -> bool:
    """Tell whether a text holds an answer: its words in a row, or all its numbers, dates and codes in any spelling.

    A number of one or two digits alone does not tell: it stands everywhere.
    """
    return not _BARE.fullmatch(normalise(answer)) and _holds(text, answer)


def states_answer(text: str, answer: str, question: str) -> bool:
    """Tell whether a text holds an answer, however short, and is about its question: it has `ABOUT` of its words."""
    return not is_short(answer, question) and _holds(text, answer) and overlap(question, text) >= ABOUT


def is_short(answer: str, question: str) -> bool:
    """Tell whether an answer is yes, no or maybe, in English or in the language of its question."""
    said = normalise(answer)
    return said in SHORT_ANSWERS or said in map(normalise, of_text(question).decided)


def mentions_answer(text: str, answer: str) -> bool:
    """Tell whether the words of an answer stand in a text, whatever they mean there, or it holds the answer."""
    return contains(text, answer) or holds_answer(text, answer)


def _holds(text: str, answer: str) -> bool:
    values = fact_values(answer)
    if not values:
        return contains(text, answer)
    if _lacks_digits(text, values):
        return False
    known = fact_values(text)
    return covers(known, values) and (contains(text, answer) or any(_tells(value, known) for value in values))


def _lacks_digits(text: str, values: Iterable[Value]) -> bool:
    """Tell, a hundred times as fast as its values are read, that a text cannot say one of some values, by its digits.

    Only numbers with a unit are looked for: a year may stand in a date with two digits; and twelve may be a dozen.
    """
    if not text.isascii() or "dozen" in text.lower():
        return False
    told = [value.stated for value in values if value.unit and isinstance(value.stated, Decimal)]
    digits = _NO_DIGITS.sub("", text)
    return any("".join(map(str, one.as_tuple().digits)).strip("0") not in digits for one in told)


def _tells(value: Value, known: Iterable[Value]) -> bool:
    """Tell whether a value of a text hardly stands there by chance.

    It is a date, has more than two digits or characters, or has a unit in the text too ("14-day" for "14 days").
    """
    return (
        isinstance(value.stated, frozenset)
        or (bool(value.unit) and any(one.unit and says(one, value) for one in known))
        or len(f"{value.stated:f}" if isinstance(value.stated, Decimal) else value.stated) > 2
    )


def unanswerable(question: Mapping[str, Any]) -> bool:
    """Tell whether the right reply to a row of `tables.EVALUATION` is that the documents do not answer it."""
    return bool(question["answers"]) and all(map(is_no_answer, question["answers"]))


def relevant(question: Mapping[str, Any], chunks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the ids of the chunks that bear a question's answer: the golden ones first, others in their order.

    These are its golden chunks, and those of `chunks` (of its document, or of its golden chunks' documents, or all
    where it names none) that hold one of its answers and are no boilerplate; where that is a number of one or two
    digits, they must be about the question too. Yes, no and maybe tell nothing: they stand everywhere. Nothing bears
    the answer of an unanswerable question.
    """
    if unanswerable(question):
        return []
    asked = question["question"]
    telling = [one for one in question["answers"] if not is_short(one, asked) and not is_no_answer(one)]
    holding = (
        chunk["chunk_id"]
        for chunk in chunks
        if not chunk["boilerplate"]
        and any(holds_answer(chunk["text"], one) or states_answer(chunk["text"], one, asked) for one in telling)
    )
    return list(dict.fromkeys([*question["golden_chunk_ids"], *holding]))


def search_all(queries: Sequence[str], retriever: Retriever, k: int) -> list[list[str]]:
    """Return for each query the ids of the first `k` chunks that search brings, best first."""
    found: list[list[str]] = [[] for _ in queries]
    for start in range(0, len(queries), _BATCH):
        hits = retriever.search(queries[start : start + _BATCH], k).sort("query", "rank")
        for query, chunk_id in hits.select("query", "chunk_id").iter_rows():
            found[start + query].append(chunk_id)
    return found


def ranks(relevant: Sequence[str], hits: Sequence[str]) -> list[int | None]:
    """Return the rank (from 1) of each relevant chunk among a question's hits, best first; None where it is not."""
    places = {name: rank for rank, name in reversed(list(enumerate(hits, 1)))}
    return [places.get(name) for name in relevant]


def golden_of(relevant: Sequence[str], hits: Sequence[str]) -> str | None:
    """Return the relevant chunk that the retriever ranks best, the first where it finds none; None without any."""
    known = set(relevant)
    return next((name for name in hits if name in known), next(iter(relevant), None))


def withheld(question_id: str, share: float, seed: int) -> bool:
    """Tell whether a question is also asked without what bears its answer: a share (0 to 1), fixed by a hash."""
    digest = hashlib.sha256(f"withheld:{seed}:{question_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def group_of(question: Mapping[str, Any], golden: str | None, paths: Mapping[str, str]) -> str:
    """Return what a question is resampled with: its document, or its golden chunk's, or else the question alone."""
    return question["document"] or paths.get(golden or "") or str(question["question_id"])


@dataclass(frozen=True)
class Sources:
    """Where the answers to the questions of a benchmark stand, and what search brings for them.

    Attributes:
        relevant: for each question id the chunks that bear its answer; missing or empty where none is known.
        hits: for each question id the chunks that search brings, best first; ten or more, for MRR and nDCG.
        documents: for each question id what it is resampled with (`group_of`); where missing, the question alone.
        texts: text of the chunks by id, at least of those that bear an answer.
        needed: for the questions whose answer needs several documents, the relevant chunks of each; one chunk of each
            is enough. Where missing, one of all the relevant chunks is.
        grains: for each question id what retrieval is measured by; where missing, it is "chunk".
        given: for each question id the chunks that the golden context gives, best first; where missing, it is the
            relevant chunk that the retriever ranks best.
    """

    relevant: Mapping[str, Sequence[str]]
    hits: Mapping[str, Sequence[str]]
    documents: Mapping[str, str]
    texts: Mapping[str, str]
    needed: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    grains: Mapping[str, Grain] = field(default_factory=dict)
    given: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def group(self, question_id: str) -> str:
        """Return what a question is resampled with."""
        return self.documents.get(question_id, question_id)

    def sought(self, question_id: str) -> Sequence[Sequence[str]]:
        """Return groups of chunks of each of which one has to be found; empty where none is known."""
        known = self.relevant.get(question_id)
        return self.needed.get(question_id) or ([known] if known else [])

    def retrieved(self, question_id: str, k: int) -> bool | None:
        """Tell whether all that is sought is among the first k hits; None where that is not known."""
        sought, hits = self.sought(question_id), self.hits.get(question_id)
        return None if not sought or hits is None else not any(set(one).isdisjoint(hits[:k]) for one in sought)

    def grain(self, question_id: str) -> Grain:
        """Return what retrieval is measured by for a question."""
        return self.grains.get(question_id, "chunk")

    def measured_by(self, question_ids: Iterable[str]) -> dict[Grain, int]:
        """Return by how many of the questions retrieval is measured in which way; those of none are left out."""
        counts = Counter(self.grain(name) for name in question_ids if self.retrieved(name, 1) is not None)
        return {grain: counts[grain] for grain in GRAINS if counts[grain]}

    def golden(self, question_id: str) -> str:
        """Return the texts that the golden context gives; empty where nothing is known."""
        best = golden_of(self.relevant.get(question_id, ()), self.hits.get(question_id, ()))
        return "\n\n".join(self.texts.get(name, "") for name in self.given.get(question_id) or ([best] if best else []))
