"""Near-copies of documents: the same text in another format, with a page more, or with some words changed.

Texts are compared by word 5-grams, as in Broder, "On the resemblance and containment of documents" (1997): the smallest
hashes of each tell what share of the shorter text stands in the longer one. Look-alikes (the same form with other
facts: two years of a warranty, two models of a machine) are no copies, so their facts are compared as well.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from raft.text import normalise

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
    by pair.

    Args:
        documents: doc_id and text of each; a document takes at most 6 kB of memory here.

    Returns:
        Sorted lists of two or more doc_ids, in order.
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
