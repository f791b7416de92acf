"""When two texts say the same: equal and nearly equal questions, and chunks that repeat one another.

Look-alikes are not duplicates: "How heavy is the Quillon 2?" and "How heavy is the Quillon 3?" are nearly equal as
strings and as vectors, and ask for different things. So numbers, dates, codes and capitalised names are compared
apart from the rest.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from rapidfuzz import fuzz, process

from raft.text import content_words, normalise
from raft.text.values import agree, covers, fact_values, rough_values

BLOCK = 2000
"""Rows of vectors compared at once: two blocks and their cosines take about 30 MB at 384 dimensions."""

_ASKED, _PRODUCTS = 256, 1 << 25  # queries compared with all vectors at a time, and their cosines: 128 MB at most
_GROUPS = 4
_SLACK = 1e-5
"""More than products of matrices and sums by themselves differ by, in float32."""

NEAR = 92.0
"""Token-sort ratio (0 to 100) from which two questions are nearly equal as strings."""

_OPENER = re.compile(
    r"(?:what|which|who|whom|whose|when|where|why|how|is|are|was|were|am|do|does|did|can|could|may|might|must|should"
    r"|shall|will|would|has|have|had|in|on|at|by|for|from|to|under|with|within|until|after|before|during|if|according"
    r"|as|list|describe|explain|outline|give|name|state)(?:n['’]t|['’]\w+)?$"
)
_JOINING = frozenset(["and", "or"])
_ARTICLES = frozenset(["a", "an", "the"])
_ROLES = frozenset(
    ["in", "on", "at", "by", "for", "from", "to", "of", "with", "under", "after", "before", "during", "as"]
)
_APART = {
    word: (row, sense)
    for row, senses in enumerate(
        (
            "one two three four five six seven eight nine ten eleven twelve",
            "first second third fourth fifth sixth seventh eighth ninth tenth last",
            "maximum minimum",
            "most least/fewest",
            "more less/fewer",
            "before after",
            "above below",
            "begin/begins/began/begun/start/starts/started end/ends/ended/stop/stops/stopped",
            "open/opens/opened close/closes/closed",
            "upper lower",
            "wide deep high long",
            "home business trade",
        )
    )
    for sense, forms in enumerate(senses.split())
    for word in forms.split("/")
}
"""Words that are near as vectors and stand for opposites, or for others of a row: each with its row and its sense."""
_REVERSALS = frozenset(["not", "no", "never", "cannot", "without", "except", "non", "nor", "neither", "unless"])


@lru_cache(maxsize=65536)
def names(text: str) -> frozenset[str]:
    """Return the capitalised words of a text, case-folded, without possessive s; a question's opening word is none."""
    found: set[str] = set()
    for place, piece in enumerate(text.split()):
        words = normalise(piece).split()
        if words and piece != piece.lower() and not (place == 0 and _OPENER.match(words[0])):
            found.update(_unpossessed(word) for word in words)
    return frozenset(found - {"i"})


@lru_cache(maxsize=65536)
def _words(text: str) -> frozenset[str]:
    return frozenset(_unpossessed(word) for word in normalise(text).split())


def _unpossessed(word: str) -> str:
    return re.sub(r"['’]s?$", "", word)


def same_marks(one: str, other: str) -> bool:
    """Tell whether two texts have the same numbers, dates and codes, and each name of one is a word of the other.

    So must the digits behind a letter ("warranty-2023"), which are no number by themselves.
    """
    if not (_numbered(one) <= _digits(other) and _numbered(other) <= _digits(one)):
        return False
    return agree(one, other) and names(one) <= _words(other) and names(other) <= _words(one)


def _numbered(text: str) -> set[str]:
    return set(re.findall(r"(?<=[^\W\d_])[-_.]?(\d+)", text))


def _digits(text: str) -> set[str]:
    return set(re.findall(r"\d+", text))


def conflicting(one: str, other: str) -> bool:
    """Tell whether each text has a number, date or code, or each a name, that the other lacks."""
    left, right = fact_values(one), fact_values(other)
    differ = not covers(left, right) and not covers(right, left)
    return bool(differ or (names(one) - _words(other) and names(other) - _words(one)))


def turned_round(one: str, other: str) -> bool:
    """Tell whether two texts give their names to one another's parts: "Did A defeat B?", "Did B defeat A?".

    Names that "and" or "or" joins may change places, and so may a name with the word before it ("in Moss"). Words
    that change places around others do it too: "What does the depot pay the shop?", "What does the shop pay the depot?"
    """
    if _exchanged(_bare(one), _bare(other)):
        return True
    left, right = _parts(one), _parts(other)
    return [who for who, _ in left] != [who for who, _ in right] and set(left) != set(right)


def _exchanged(left: list[str], right: list[str]) -> bool:
    """Tell whether two parts have changed places around words that do not just join them."""
    if left == right or len(left) != len(right) or sorted(left) != sorted(right):
        return False
    before = ""
    while left[0] == right[0]:
        before, left, right = left[0], left[1:], right[1:]
    while left[-1] == right[-1]:
        left, right = left[:-1], right[:-1]
    for size in range(1, len(left) - 1):
        for its in range(1, len(left) - size):
            between = left[size : len(left) - its]
            moved = right == [*left[len(left) - its :], *between, *left[:size]]
            alike = before in _ROLES and between[-1:] == [before]  # "in Moss … in 1998": only their order is another
            if moved and not alike and not _JOINING.issuperset(between) and not {left[0], right[0]} <= _ROLES:
                return True
    return False


def set_apart(one: str, other: str) -> bool:
    """Tell whether one text has a reversal ("not") that the other lacks, or each another word of a row ("first")."""
    words = [frozenset(normalise(text).split()) for text in (one, other)]
    if (words[0] ^ words[1]) & _REVERSALS:
        return True
    left, right = ({_APART[word] for word in known if word in _APART} for known in words)
    return not {row for row, _ in left - right}.isdisjoint(row for row, _ in right - left)


def _parts(text: str) -> list[tuple[frozenset[str], str]]:
    """Return the names of a text in order, joined ones together, each with the word before."""
    known, found = names(text), list[tuple[frozenset[str], str]]()
    group, before = frozenset[str](), ""
    for word in (*map(_unpossessed, normalise(text).split()), ""):
        if word in known:
            group |= {word}
        elif not group:
            before = word
        elif word not in _JOINING:
            found.append((group, before))
            group, before = frozenset[str](), word
    return found


def same_answer(one: str, other: str) -> bool:
    """Tell whether two answers agree: the same facts and names, and half the words of the shorter in common."""
    left, right = content_words(one), content_words(other)
    if normalise(one) == normalise(other):
        return True
    return same_marks(one, other) and 2 * len(left & right) >= max(1, min(len(left), len(right)))


def near(one: str, other: str) -> bool:
    """Tell whether two questions are equal or nearly equal as strings.

    They are when they have the same marks (`same_marks`), are not `turned_round`, and have either the same content
    words, or a token-sort ratio of at least `NEAR` where words that stand in one alone are spellings of each other
    ("colour", "color"), not others ("maximum", "minimum") and no reversal ("not").
    """
    if _bare(one) == _bare(other):
        return True
    if not same_marks(one, other) or turned_round(one, other):
        return False
    left, right = content_words(one) - content_words(other), content_words(other) - content_words(one)
    if not left and not right:
        return True
    if (left | right) & _REVERSALS or fuzz.token_sort_ratio(normalise(one), normalise(other)) < NEAR:
        return False
    return not (_unmatched(left, right) and _unmatched(right, left))


def _bare(text: str) -> list[str]:
    words = normalise(text).split()
    return [word for word in words if word not in _ARTICLES] or words


def _unmatched(words: frozenset[str], others: frozenset[str]) -> list[str]:
    return [word for word in words if not any(_spelling(word, other) for other in others)]


def _spelling(one: str, other: str) -> bool:
    return one[0] == other[0] and fuzz.ratio(one, other) >= 80


class NearIndex:
    """Questions among which nearly equal ones are found without comparing each with each.

    Two questions are compared when they hold the same numbers, dates and codes and share one of their three rarest
    content words: the prefix filter of Chaudhuri et al., "A Primitive Operator for Similarity Joins" (ICDE 2006).

    The `vocabulary`, all questions that will be added or looked up, says which words are rare.
    """

    def __init__(self, vocabulary: Iterable[str]) -> None:
        self._frequency = Counter(word for question in vocabulary for word in content_words(question))
        self._shelves: dict[tuple[str, frozenset[object]], dict[int, str]] = defaultdict(dict)
        self._reworded: dict[tuple[frozenset[str], frozenset[object]], list[int]] = defaultdict(list)
        self._questions: list[str] = []

    def add(self, question: str) -> None:
        """Put a question in; its number is how many were put in before it."""
        number = len(self._questions)
        self._questions.append(question)
        self._reworded[content_words(question), rough_values(question)].append(number)
        for key in self._keys(question):
            self._shelves[key][number] = normalise(question)

    def find(self, question: str) -> Iterator[int]:
        """Yield the numbers of the questions that are `near` this one, in the order in which they were added."""
        candidates = set(self._reworded.get((content_words(question), rough_values(question)), ()))
        for key in self._keys(question):
            hits = process.extract(
                normalise(question),
                self._shelves.get(key, {}),
                scorer=fuzz.token_sort_ratio,
                score_cutoff=NEAR,
                limit=None,
            )
            candidates.update(number for _, _, number in hits)
        yield from (number for number in sorted(candidates) if near(question, self._questions[number]))

    def _keys(self, question: str) -> list[tuple[str, frozenset[object]]]:
        rare = sorted(content_words(question), key=lambda word: (self._frequency[word], word))[:3]
        return [(word, rough_values(question)) for word in rare or [""]]


def cosine_blocks(rows: np.ndarray, columns: np.ndarray, similarity: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield row numbers and column numbers of the pairs whose cosine is at least `similarity`, block by block.

    Both hold vectors of length 1, one a row; rounding of float32 is allowed for.
    """
    for top, left, cosines in _blocks(rows, columns):
        found, matched = np.nonzero(cosines >= similarity - 1e-6)
        yield found + top, matched + left


def _blocks(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    for top in range(0, len(rows), BLOCK):
        for left in range(0, len(columns), BLOCK):
            yield top, left, rows[top : top + BLOCK] @ columns[left : left + BLOCK].T


def nearest(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the highest cosine of each row with any of the columns, NaN where there is none; vectors have length 1."""
    best = np.full(len(rows), np.nan, dtype=np.float32)
    for top, _, cosines in _blocks(rows, columns):
        best[top : top + BLOCK] = np.fmax(best[top : top + BLOCK], np.fmax.reduce(cosines, axis=1))
    return best


def nearest_rows(queries: np.ndarray, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the `count` vectors that are nearest to each query, nearest first, and their cosine distances.

    All are float32 and of length 1, one a row; distances are rounded to the sixth digit, beyond which is noise, and of
    equal ones the first row comes first. There are at least `count` vectors.

    A product of matrices only says which are near: how it is rounded depends on its shape and on the number of
    threads. What counts is the sum for each pair by itself, so that a query finds the same whatever is asked beside it.
    """
    places = np.empty((len(queries), count), dtype=np.int64)
    distances = np.empty((len(queries), count), dtype=np.float32)
    asked = max(1, min(_ASKED, _PRODUCTS // len(vectors)))
    for begin in range(0, len(queries), asked):
        part = queries[begin : begin + asked]
        products = part @ vectors.T
        least = _least(products, count) - _SLACK
        for number, query in enumerate(part, begin):
            near = np.flatnonzero(products[number - begin] >= least[number - begin])
            exact = np.round(1.0 - np.einsum("ij,j->i", vectors[near], query), 6)
            order = exact.argsort(kind="stable")[:count]
            places[number], distances[number] = near[order], exact[order]
    return places, distances


def _least(products: np.ndarray, count: int) -> np.ndarray:
    """Return for each row a number that at least `count` of its products reach, and few more."""
    # as many groups reach it with their best, which costs a look at each product and no sorting of all
    wide = products.shape[1] // (_GROUPS * count)
    if wide > 1:
        products = products[:, : _GROUPS * count * wide].reshape(len(products), -1, wide).max(axis=2)
    return np.partition(products, -count, axis=1)[:, -count]


def holds_text(text: str, other: str) -> bool:
    """Tell whether a chunk's text contains another, in any case and spacing, or nearly equals it.

    Nearly: a rapidfuzz ratio of at least 90 and the same marks; the same form with other figures says other things.
    """
    whole, part = normalise(text), normalise(other)
    if f" {part} " in f" {whole} ":
        return True
    return fuzz.ratio(whole, part, score_cutoff=90) >= 90 and same_marks(text, other)


def same_text(one: str, other: str) -> bool:
    """Tell whether two chunks are nearly equal, or one contains the other."""
    return holds_text(one, other) or holds_text(other, one)


LEAST_TEXT, LEAST_FACTS = 0.7, 0.9
"""Shares of the shorter text's 5-grams and facts that the longer one holds. Of the 5-grams, look-alikes in `examples/`
have 0.42 at most, pages of a handbook on the web 0.51, and a manual as PDF and as Markdown all."""
LONGER = 2.0
"""A text that is so many times as long quotes another, and is no copy of it."""

_WORDS, _SKETCH, _RAREST, _NEIGHBOURS = 5, 256, 16, 5
_FIGURE = r"\d(?:[\w.,:/-]*\w)?"
_FACT = re.compile(_FIGURE + r"|(?<=[a-z,;]\s)[A-Z][\w'’-]+")
_PLACE = re.compile(_FIGURE + r"|\b[A-Z][\w'’-]+")
"""Where a fact of another text may stand: a name begins a sentence here and a line there."""


def near_copies(documents: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return groups of documents that are near-copies of one another, the same in whatever order the documents come.

    Two are compared when they share one of the rarest 5-grams of each (the prefix filter of Chaudhuri et al., ICDE
    2006) and are close in length among all that share it, so that a thousand pages of one form are not compared pair
    by pair. A document, given as doc_id and text, takes at most 6 kB of memory here. Groups are sorted, and in order.
    """
    known = sorted((_read(*document) for document in documents), key=lambda text: (-text.size, text.doc_id))
    root = {text.doc_id: text.doc_id for text in known}

    def find(doc_id: str) -> str:
        while root[doc_id] != doc_id:
            doc_id = root[doc_id]
        return doc_id

    for one, other in _candidates([text.grams for text in known]):
        if _is_copy(known[other], known[one]):
            root[find(known[other].doc_id)] = find(known[one].doc_id)
    groups = defaultdict(list)
    for doc_id in sorted(root):
        groups[find(doc_id)].append(doc_id)
    return sorted(group for group in groups.values() if len(group) > 1)


@dataclass(frozen=True)
class _Text:
    doc_id: str
    size: int
    grams: np.ndarray
    facts: np.ndarray
    places: np.ndarray


def _is_copy(shorter: _Text, longer: _Text) -> bool:
    return (
        longer.size < LONGER * shorter.size
        and _share(shorter.facts, longer.places) >= LEAST_FACTS
        and _share(shorter.grams, longer.grams) >= LEAST_TEXT
    )


def _read(doc_id: str, text: str) -> _Text:
    words = _hashes(normalise(text).split())
    grams = np.zeros(max(1, len(words) - _WORDS + 1), dtype=np.uint64) if len(words) else words
    for place in range(min(_WORDS, len(words))):
        grams = (grams ^ words[place : place + len(grams)]) * np.uint64(0x9E3779B97F4A7C15)
        grams ^= grams >> np.uint64(32)
    facts, places = _hashes(_FACT.findall(text)), _hashes(_PLACE.findall(text))
    return _Text(doc_id, len(words), _sketch(grams), _sketch(facts), _sketch(places))


def _hashes(words: Sequence[str]) -> np.ndarray:
    return np.array([_hash(word) for word in words], dtype=np.uint64)


@lru_cache(maxsize=1 << 18)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _sketch(hashes: np.ndarray) -> np.ndarray:
    return np.unique(hashes)[:_SKETCH]


def _share(few: np.ndarray, many: np.ndarray) -> float:
    """Estimate which share of one set stands in another, from their smallest hashes."""
    # beyond the end of a cut sketch nobody knows what the set holds
    end = min((sketch[-1] for sketch in (few, many) if len(sketch) == _SKETCH), default=None)
    if end is not None:
        few = few[few <= end]
    if not len(few) or not len(many):
        return float(not len(few))
    return float((many[np.minimum(many.searchsorted(few), len(many) - 1)] == few).mean())


def _candidates(sketches: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    hashes, counts = np.unique(np.concatenate([*sketches, np.array([], dtype=np.uint64)]), return_counts=True)
    holders = defaultdict(list)
    for number, sketch in enumerate(sketches):
        often = counts[np.searchsorted(hashes, sketch)]
        shared = np.lexsort((sketch, often))[np.count_nonzero(often == 1) :]  # what no other has finds nothing
        for gram in sketch[shared[:_RAREST]].tolist():
            holders[gram].append(number)
    seen: set[tuple[int, int]] = set()
    for numbers in holders.values():
        for place in range(len(numbers)):
            for other in numbers[place + 1 : place + 1 + _NEIGHBOURS]:
                seen.add((numbers[place], other))
    yield from sorted(seen)
