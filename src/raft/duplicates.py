"""When two texts say the same: equal and nearly equal questions, and chunks that repeat one another.

Look-alikes are not duplicates: "How heavy is the Quillon 2?" and "How heavy is the Quillon 3?" are nearly equal as
strings and as vectors, and ask for different things. So numbers, dates, codes and capitalised names are compared
apart from the rest.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from rapidfuzz import fuzz, process

from raft.text import content_words, normalise
from raft.values import agree, covers, fact_values, rough_values

BLOCK = 2000
"""Rows of vectors compared at once: two blocks and their cosines take about 30 MB at 384 dimensions."""

NEAR = 92.0
"""Token-sort ratio (0 to 100) from which two questions are nearly equal as strings."""

_OPENER = re.compile(
    r"(?:what|which|who|whom|whose|when|where|why|how|is|are|was|were|am|do|does|did|can|could|may|might|must|should"
    r"|shall|will|would|has|have|had|in|on|at|by|for|from|to|under|with|within|until|after|before|during|if|according"
    r"|as|list|describe|explain|outline|give|name|state)(?:n['’]t|['’]\w+)?$"
)
_JOINING = frozenset(["and", "or"])
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
    """Tell whether two texts have the same numbers, dates and codes, and each name of one is a word of the other."""
    return agree(one, other) and names(one) <= _words(other) and names(other) <= _words(one)


def conflicting(one: str, other: str) -> bool:
    """Tell whether each text has a number, date or code, or each a name, that the other lacks."""
    left, right = fact_values(one), fact_values(other)
    differ = not covers(left, right) and not covers(right, left)
    return bool(differ or (names(one) - _words(other) and names(other) - _words(one)))


def turned_round(one: str, other: str) -> bool:
    """Tell whether two texts give their names to one another's parts: "Did A defeat B?", "Did B defeat A?".

    Names that "and" or "or" joins may change places, and so may a name with the word before it ("in Moss").
    """
    left, right = _parts(one), _parts(other)
    return [who for who, _ in left] != [who for who, _ in right] and set(left) != set(right)


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
    if normalise(one) == normalise(other):
        return True
    if not same_marks(one, other) or turned_round(one, other):
        return False
    left, right = content_words(one) - content_words(other), content_words(other) - content_words(one)
    if not left and not right:
        return True
    if (left | right) & _REVERSALS or fuzz.token_sort_ratio(normalise(one), normalise(other)) < NEAR:
        return False
    return not (_unmatched(left, right) and _unmatched(right, left))


def _unmatched(words: frozenset[str], others: frozenset[str]) -> list[str]:
    return [word for word in words if not any(_spelling(word, other) for other in others)]


def _spelling(one: str, other: str) -> bool:
    return one[0] == other[0] and fuzz.ratio(one, other) >= 80


class NearIndex:
    """Questions among which nearly equal ones are found without comparing each with each.

    Two questions are compared when they hold the same numbers, dates and codes and share one of their three rarest
    content words: the prefix filter of Chaudhuri et al., "A Primitive Operator for Similarity Joins" (ICDE 2006).

    Args:
        vocabulary: all questions that will be added or looked up; they say which words are rare.
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

    Args:
        rows: vectors of length 1, one a row.
        columns: vectors of length 1, one a row.
        similarity: least cosine, -1 to 1; rounding of float32 is allowed for.
    """
    for top in range(0, len(rows), BLOCK):
        for left in range(0, len(columns), BLOCK):
            cosines = rows[top : top + BLOCK] @ columns[left : left + BLOCK].T
            found, matched = np.nonzero(cosines >= similarity - 1e-6)
            yield found + top, matched + left


def nearest(rows: np.ndarray, columns: np.ndarray, *, own: Sequence[int] | None) -> np.ndarray:
    """Return the highest cosine of each row with any of the columns, NaN where there is none; in blocks.

    Args:
        rows: vectors of length 1, one a row.
        columns: vectors of length 1, one a row.
        own: for each row the number of the column that is the row itself and is not compared, -1 for none; or None.
    """
    best = np.full(len(rows), np.nan, dtype=np.float32)
    for top in range(0, len(rows), BLOCK):
        for left in range(0, len(columns), BLOCK):
            cosines = rows[top : top + BLOCK] @ columns[left : left + BLOCK].T
            if own is not None:
                for row, column in enumerate(own[top : top + BLOCK]):
                    if left <= column < left + cosines.shape[1]:
                        cosines[row, column - left] = np.nan
            best[top : top + BLOCK] = np.fmax(best[top : top + BLOCK], np.fmax.reduce(cosines, axis=1))
    return best


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
