"""What a benchmark measures of answers: each measure with its name, its title, its meaning and which way is better.

To add one is a line in `MEASURES` and its function: here where answer and references are all it takes, otherwise the
column of the scores that `raft.evaluation.summary` fills.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from rapidfuzz.distance import LCSseq

from raft.text import PIECE, spaced
from raft.text.languages import known
from raft.text.values import covers, fact_values, figures

_PUNCTUATION = frozenset(string.punctuation)


def exact_match(prediction: str, references: Sequence[str], language: str = "en") -> float:
    """Return 1.0 if the prediction is one of the references but for case, punctuation, articles and white space.

    The normal form is that of SQuAD v1.1 (Rajpurkar et al. 2016, arXiv 1606.05250) with typographic punctuation
    dropped too, the articles of a language (ISO 639-1), and a word for each character where a script has no spaces, as
    MLQA does (Lewis et al. 2019, arXiv 1910.07475); on English ASCII text they are the same. Unlike in both, a text of
    nothing but articles or punctuation stays as it is: the grade "A" is neither "the" nor an empty reply.
    """
    given = _squad(prediction, language)
    return max((float(given == _squad(reference, language)) for reference in references), default=0.0)


def f1(prediction: str, references: Sequence[str], language: str = "en") -> float:
    """Return the harmonic mean of precision and recall over words, of the best reference (arXiv 1606.05250).

    The normal form is that of `exact_match`. Two blank texts score 1, as in SQuAD 2.0 (arXiv 1806.03822).
    """
    given = _squad(prediction, language).split()
    return max((_word_f1(given, _squad(one, language).split()) for one in references), default=0.0)


def contains_reference(prediction: str, references: Sequence[str], language: str = "en") -> float:
    """Return 1.0 if one of the references stands in the prediction as whole words, in the form of `exact_match`."""
    reply = f" {_squad(prediction, language)} "
    return max((float(f" {_squad(reference, language)} " in reply) for reference in references), default=0.0)


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Return the F measure of the longest common subsequence of lower-cased words, of the best reference.

    Precision and recall weigh the same; words are not stemmed.

    References:
        Lin: ROUGE: A package for automatic evaluation of summaries. ACL workshop Text Summarization Branches Out, 2004.
    """
    words = _words(prediction)
    return max((_subsequence_f(words, _words(reference)) for reference in references), default=0.0)


def fact_accuracy(prediction: str, references: Sequence[str]) -> float | None:
    """Return 1.0 if all numbers, dates and codes of one reference stand in the prediction, in any spelling.

    References without any are passed over, so that whether a question is measured depends on its references alone;
    None where no reference has one.
    """
    wanted = [values for values in map(fact_values, references) if values]
    if not wanted:
        return None
    given = figures(prediction)
    return float(any(covers(given, values) for values in wanted))


@lru_cache(maxsize=65536)
def _squad(text: str, language: str) -> str:
    lower, articles = text.lower(), known(language).articles
    kept = "".join(char for char in lower if char not in _PUNCTUATION and unicodedata.category(char)[0] != "P")
    kept = re.sub(articles, " ", kept) if articles else kept
    return " ".join(spaced(kept).split()) or " ".join(lower.split())


def _word_f1(one: Sequence[str], other: Sequence[str]) -> float:
    common = (Counter(one) & Counter(other)).total()
    return 2 * common / (len(one) + len(other)) if one or other else 1.0


@lru_cache(maxsize=65536)
def _words(text: str) -> tuple[str, ...]:
    return tuple(PIECE.findall(spaced(text.lower())) or text.lower().split())


def _subsequence_f(one: Sequence[str], other: Sequence[str]) -> float:
    return 2 * LCSseq.similarity(one, other) / (len(one) + len(other)) if one or other else 1.0


@dataclass(frozen=True)
class Measure:
    """One measure of a benchmark, from 0 to 1.

    Attributes:
        title: what it is called in front of people.
        meaning: what it says, in one line.
        of: takes an answer and right answers, None where it is not told by them alone.
        column: its column in the scores of single answers where that has another name; None where there is none.
        better: which way is better.
        shown: with the scores, or with what went wrong.
        by_language: its function also takes the language of the answers.
    """

    title: str
    meaning: str
    of: Callable[..., float | None] | None = None
    column: str | None = ""
    better: Literal["higher", "lower"] = "higher"
    shown: Literal["scores", "failures"] = "scores"
    by_language: bool = False

    @property
    def explained(self) -> str:
        """Return the meaning, and which way is better where that is not plain."""
        return self.meaning + ("; lower is better" if self.better == "lower" else "")


MEASURES: Mapping[str, Measure] = {
    "f1": Measure("F1", "words that answer and reference share, the best reference counting", f1, by_language=True),
    "accuracy": Measure("accuracy", "share of questions whose label is right"),
    "macro_f1": Measure("macro F1", "F1 of each label, averaged over the labels", column=None),
    "exact_match": Measure(
        "exact match",
        "share of answers that are a reference, but for case, articles and punctuation",
        exact_match,
        by_language=True,
    ),
    "fact_accuracy": Measure(
        "facts right", "share of answers with the numbers, dates and codes of a reference", fact_accuracy
    ),
    "contains": Measure("contains", "share of answers that hold a reference", contains_reference, by_language=True),
    "rouge_l": Measure("ROUGE-L", "longest common subsequence of words with a reference", rouge_l),
    "bleu": Measure("BLEU", "runs of one to four words that stand in a reference; measured with benchmark.bleu alone"),
    "false_answers": Measure(
        "false answers",
        "answered although nothing that was shown bears the answer",
        column="false_answer",
        better="lower",
        shown="failures",
    ),
    "false_refusals": Measure(
        "false refusals",
        "abstained although the question can be answered",
        column="false_refusal",
        better="lower",
        shown="failures",
    ),
    "quote_support": Measure(
        "quotes verbatim",
        "share of the quotes given that stand word for word in what was shown",
        shown="failures",
    ),
    "citation_precision": Measure(
        "right source", "share of verbatim quotes that come from a text that bears the answer", shown="failures"
    ),
    "supported": Measure(
        "answers supported",
        "of the answers that can be checked, the share whose figures or words stand in the text, about the question",
        shown="failures",
    ),
    "followed": Measure("form kept", "share of replies that keep the form asked for", shown="failures"),
}
"""The measures by their names in `benchmark.json`, in the order in which they are shown."""

ANSWER_MEASURES = {name: one.of for name, one in MEASURES.items() if one.of is not None}
"""Those that an answer and right answers tell."""

COLUMNS = {name: one.column or name for name, one in MEASURES.items() if one.column is not None}
"""Those that single answers have, each with its column in the scores."""
