"""Questions that name nothing of what their document is about ("What is the notice period?"): completed with its title.

Any document of the kind would answer such a question, and otherwise. Words alone tell: it has no name, and no word of
the title that is in no other document's title. Neither the golden chunk's rank nor its margin over other documents
tells it, by what people labelled (benchmarks/results). In English.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from raft.similarity import names
from raft.text import contains, content_words, stem
from raft.text.values import rough_values

VERSION = 1
"""Raised when other questions are completed, or otherwise."""
MOST_WORDS, LONGEST_TITLE = 40, 12
"""Words of a completed question, and of a title that is put into one."""
_SPOKEN = re.compile(r"[^\W\d_]{2}")
_ALWAYS_LARGE = re.compile(r"I\b")
_JOINED = re.compile(r"[-_./]")
_POSSESSIVE = re.compile(r"['’]s?$")


def according(title: str, question: str) -> str:
    """Return a question that says by which document it is to be answered."""
    first = question[:1] if _ALWAYS_LARGE.match(question) else question[:1].lower()
    return f"According to {title}, {first}{question[1:]}"


@dataclass(frozen=True)
class Titles:
    """The titles of all documents.

    Attributes:
        of: each title by doc_id; documents without one, and those in other languages than English, may be left out.
    """

    of: Mapping[str, str]

    @cached_property
    def _own(self) -> Mapping[str, frozenset[str]]:
        """Return the words of each title that no other title has."""
        words = {doc: _stems(title) for doc, title in self.of.items()}
        counts = Counter(word for its in words.values() for word in its)
        return {doc: frozenset(word for word in its if counts[word] == 1) for doc, its in words.items()}

    def complete(self, question: str, answer: str, doc_id: str) -> str:
        """Return a question with the title of its document, if it names nothing of what that is about; else as it is.

        As it is, too, where the title is no words or too many, and where it would give the answer away.
        """
        title = " ".join(self.of.get(doc_id, "").split()).rstrip(" .!:")
        named = names(question) or contains(question, title) or _stems(question) & self._own.get(doc_id, frozenset())
        if named:
            return question
        whole = according(title, question)
        length = len(title.split()) > LONGEST_TITLE or len(whole.split()) > MOST_WORDS
        unfit = "?" in title or not _SPOKEN.search(title) or _given_away(answer, title)
        return question if length or unfit else whole


def _given_away(answer: str, title: str) -> bool:
    words = _stems(answer)
    known = bool(words) and words <= _stems(title)
    return known or contains(title, answer) or bool(rough_values(answer) & rough_values(title))


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(_POSSESSIVE.sub("", word)) for word in content_words(_JOINED.sub(" ", text)))
