"""What an answer is: text, citations that were checked, and whether its figures are supported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Passage:
    """A chunk as an answer's context: where it stands in the corpus, and what it says.

    Attributes:
        chunk_id: its id.
        doc_id: its document's id.
        document: the document's path in the corpus.
        title: the line above its text in a prompt.
        page: page of the document, from 1; None where it has none.
        start: offset of the chunk's first character in the document's text.
        text: the chunk's text.
        score: the retriever's score, higher is better; 0 where it was not searched for.
    """

    chunk_id: str
    doc_id: str
    document: str
    title: str
    page: int | None
    start: int
    text: str
    score: float = 0.0


@dataclass(frozen=True)
class Citation:
    """A quote of an answer that stands verbatim in a chunk that was shown.

    Attributes:
        chunk_id: the chunk.
        document: the document's path.
        page: its page, from 1; None where it has none.
        start: offset of the quote's first character in the document's text.
        end: offset behind its last.
        text: the quote as the document has it.
    """

    chunk_id: str
    document: str
    page: int | None
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Answer:
    """A checked answer to one question.

    Attributes:
        question: what was asked.
        text: the answer without its quotes.
        citations: quotes that were found in a passage that was shown.
        quotes_given: how many quotes the reply had, found or not.
        quotes_verbatim: whether each quote stands word for word in the passage that it names; None without quotes.
        supported: whether every number, date and code of the answer stands in a cited passage, or in any that was
            shown if none is cited; None when it abstains, or nothing was shown.
        abstained: whether it says that the documents do not answer the question.
        followed: whether the reply kept the form (`raft.raftformat`).
        raw: the whole reply.
        passages: what was shown, in the prompt's order.
        model: the model's name.
        adapter: id of the adapter, None for the base model.
        tokens: `{"input", "output"}`.
        seconds: `{"retrieval", "generation"}`.
        cost: in US dollars; None when the price is unknown.
        error: why there is no reply; None when there is one.
        refused: whether an unsupported answer was replaced by the abstention (a setting).
    """

    question: str
    text: str
    citations: tuple[Citation, ...]
    quotes_given: int
    quotes_verbatim: bool | None
    supported: bool | None
    abstained: bool
    followed: bool
    raw: str
    passages: Sequence[Passage]
    model: str
    adapter: str | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    cost: float | None = None
    error: str | None = None
    refused: bool = False
