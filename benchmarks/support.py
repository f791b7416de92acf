"""Which sentence supports a figure: how many right ones, and how many others of the same passages, are supported.

python benchmarks/support.py   (RAFT_DATA=FOLDER for XQuAD too)

A question with an answer that has figures is shown its golden passage and others: the two nearest by words in the
example, the next paragraph in XQuAD. Right are the figures of its first such answer; wrong are others that stand in the
passages, up to `OTHERS` a question in the first table, which says what the sentence must have that a figure stands in.
In the second a figure quotes the whole sentence, in each place where it stands; it says how many of the question's
words the sentence before one of "it" or "this" must have. No model is asked.
"""

import argparse
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from data import xquad_articles
from raft.corpus.chunking import chunk_documents
from raft.corpus.documents import find_sources, read_documents
from raft.curation.user_questions import register
from raft.rag import answering, grounding
from raft.rag.grounding import Passage, is_supported, locate
from raft.testing import OverlapRetriever, WordTokenizer
from raft.text import content_words, overlap, sentences
from raft.text.values import covers, facts, figures

EXAMPLES = Path(__file__).parents[1] / "examples"
OTHERS = 5
"""Wrong figures of a question in the first table, at most."""
WORDS = 150
"""Words of a chunk of the example."""


class Asked(NamedTuple):
    """A question, the figures that answer it as they are written, others that stand beside, and what is shown."""

    question: str
    right: str
    wrong: Sequence[str]
    passages: Sequence[Passage]


def asked(question: str, answers: Sequence[str], golden: Sequence[Passage], others: Sequence[Passage]) -> Asked | None:
    """Return a question with its figures; None: no answer has figures that one of the `golden` passages holds."""
    telling = [(one, shown) for one in answers if figures(one) for shown in golden if holds(shown, one)]
    if not telling:
        return None
    right = telling[0][0]
    first = max((shown for one, shown in telling if one == right), key=lambda shown: overlap(question, shown.text))
    passages = [first, *[one for one in others if one.chunk_id != first.chunk_id][:2]]
    good = frozenset().union(*map(figures, answers))
    found = dict.fromkeys(fact.text for shown in passages for fact in facts(shown.text) if figures(fact.text))
    return Asked(question, right, [one for one in found if not covers(good, figures(one))], passages)


def holds(passage: Passage, answer: str) -> bool:
    """Tell whether a passage has the figures of an answer."""
    return covers(figures(passage.text), figures(answer))


def example() -> Iterator[Asked]:
    """Yield the questions of the example's experts and colleagues, with the golden passage and two others."""
    sources, _ = find_sources([str(EXAMPLES / "handbook")])
    read = pl.concat(read_documents(sources, text_field="text"))
    shape = {"tokens": WORDS, "overlap": 0, "max_tokens": WORDS}
    chunks = pl.concat(chunk_documents([read], WordTokenizer(), **shape))
    paths, titles = (dict(read.select("doc_id", name).iter_rows()) for name in ("path", "title"))
    known, retriever = {row["chunk_id"]: row for row in chunks.to_dicts()}, OverlapRetriever(chunks)
    rows = pl.concat(register(EXAMPLES / f"{name}.jsonl") for name in ("questions", "colleagues")).to_dicts()
    hits = retriever.search([row["question"] for row in rows], chunks.height)
    shown = answering.passages_of(hits, known, paths=paths, titles=titles, queries=len(rows), k=chunks.height)
    for row, ranked in zip(rows, shown, strict=True):
        golden = [one for one in ranked if one.document == row["document"]]
        if found := asked(row["question"], row["answers"], golden, ranked):
            yield found


def xquad(split: str) -> Iterator[Asked]:
    """Yield the questions of a split of XQuAD, with the golden paragraph and the next of the article."""
    for article in xquad_articles()[split]:
        texts = [one["context"] for one in article["paragraphs"]]
        shown = [
            Passage(f"{place}", "", article["title"], article["title"], None, 0, text)
            for place, text in enumerate(texts)
        ]
        for place, paragraph in enumerate(article["paragraphs"]):
            for row in paragraph["qas"]:
                answers = [one["text"] for one in row["answers"]]
                if found := asked(row["question"], answers, [shown[place]], [shown[(place + 1) % len(shown)]]):
                    yield found


Rule = Callable[[str, Passage], list[str]]


def with_words(most: Callable[[int], float], *, titled: bool = False) -> Rule:
    """Return the rule that a sentence has as many of a question's words as `most` says of their number."""

    def telling(question: str, passage: Passage) -> list[str]:
        count, head = len(content_words(question)), f"{passage.title}\n" if titled else ""
        said = [passage.title, *(head + passage.text[start:end] for start, end in sentences(passage.text))]
        return [one for one in said if overlap(question, one) * count >= min(count, most(count)) - 1e-9]

    return telling


RULES: dict[str, Rule] = {
    "anything": lambda _, passage: [passage.title, passage.text],
    "one content word of the question": with_words(lambda count: 1),
    "two": with_words(lambda count: 2),
    "a third of them": with_words(lambda count: count / 3),
    "one, title included": with_words(lambda count: 1, titled=True),
}
BEFORE = {"(it is not looked at)": 2.0, "one word of the question": 1e-9, "half of them": 0.5}
"""Least share of the question's words in the sentence before one of "it"."""


def stand(one: Asked, figure: str, rule: Rule) -> bool:
    """Tell whether a figure of a question's passages is supported by a rule."""
    told = (text for passage in one.passages for text in rule(one.question, passage))
    return covers(frozenset().union(*map(figures, told)), figures(figure))


def quoted(one: Asked, figure: str) -> Iterator[bool]:
    """Yield for each sentence of the passages that has a figure whether the figure with it as quote is supported."""
    for number, passage in enumerate(one.passages, 1):
        for start, end in sentences(passage.text):
            sentence = passage.text[start:end]
            if covers(figures(sentence), figures(figure)):
                citations, _ = locate([(number, sentence)], one.passages)
                yield is_supported(figure, citations, one.passages, question=one.question, quotes=1) is True


def tables(name: str, rows: Sequence[Asked]) -> None:
    """Print both tables of a set of questions."""
    draw = random.Random(0)
    drawn = [(one, draw.sample(one.wrong, min(OTHERS, len(one.wrong)))) for one in rows]
    wrong = [(one, figure) for one, others in drawn for figure in others]
    print(f"\n{name}: {len(rows)} questions, {len(wrong)} wrong figures\n")
    print("| the figure's sentence has | right | wrong |\n| --- | ---: | ---: |")
    for words, rule in RULES.items():
        right = sum(stand(one, one.right, rule) for one in rows) / len(rows)
        print(f"| {words} | {right:.0%} | {sum(stand(*pair, rule) for pair in wrong) / len(wrong):.0%} |")
    print("\n| the sentence before has | right figures supported | wrong figures supported |\n| --- | ---: | ---: |")
    usual = grounding._LEAST
    for words, least in BEFORE.items():
        grounding._LEAST = least
        right = [said for one in rows for said in quoted(one, one.right)]
        others = [said for one in rows for figure in one.wrong for said in quoted(one, figure)]
        print(f"| {words} | {sum(right):,} of {len(right):,} | {sum(others):,} of {len(others):,} |")
    grounding._LEAST = usual


def main() -> None:
    """Print the tables of the example, and of XQuAD where RAFT_DATA is set: of `dev`, and of what is trained on."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    tables("the example's questions", list(example()))
    for split in ("dev", "seen") if os.environ.get("RAFT_DATA") else ():
        tables(f"XQuAD `{split}`", list(xquad(split)))


if __name__ == "__main__":
    main()
