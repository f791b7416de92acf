"""Fakes of the components, for tests of a pipeline without a model or an index; deterministic, and fast.

generator = ScriptedGenerator(lambda request: '{"mark": 5}')
embedder = HashEmbedder()
retriever = OverlapRetriever(chunks)
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from raft.protocols import Completion, Embedder, Failure, Message, Request, Tokenizer
from raft.store import tables
from raft.text import content_words, normalise


class ScriptedGenerator:
    """A generator whose replies a function computes; `requests` are all that were asked, in order.

    Args:
        reply: returns the text of the reply to a request.
        attempts: how often a request is asked before it fails because its check refuses each reply.
        identity: the name under which its replies are known; another script deserves another.
    """

    def __init__(self, reply: Callable[[Request], str], *, attempts: int = 2, identity: str = "scripted") -> None:
        self.reply, self.attempts, self.identity = reply, attempts, identity
        self.requests: list[Request] = []

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Yield one outcome a request, in order; a Failure of kind "malformed" where no reply passed the check."""
        for request in requests:
            self.requests.append(request)
            yield self._ask(request)

    def _ask(self, request: Request) -> Completion | Failure:
        text, message = "", ""
        for attempt in range(1, self.attempts + 1):
            text = self.reply(request)
            try:
                if request.check is not None:
                    request.check(text)
            except ValueError as error:
                message = str(error)
                continue
            asked = sum(WordTokenizer().count([turn["content"] for turn in request.messages]))
            return Completion(text, self.identity, asked, len(text.split()), cost=0.0, attempts=attempt)
        return Failure("malformed", message, text, self.attempts)


class WordTokenizer:
    """A tokenizer for which each word between spaces is one token, and each turn of a chat costs one more."""

    identity = "words"

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of words of each text."""
        return [len(text.split()) for text in texts]

    def count_chat(self, messages: Sequence[Message]) -> int:
        """Return the number of words of all turns, plus one a turn."""
        return sum(len(message["content"].split()) + 1 for message in messages)


class HashEmbedder:
    """An embedder that hashes words into 256 signed buckets, so that texts with common words are near.

    Feature hashing as in Weinberger et al., "Feature Hashing for Large Scale Multitask Learning" (ICML 2009). A text
    without words has the first unit vector.
    """

    identity = "hash-256"
    max_tokens = 256
    dimensions = 256

    def __init__(self) -> None:
        self.tokenizer: Tokenizer = WordTokenizer()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return a float32 array of shape (len(texts), 256) whose rows have length 1."""
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in normalise(text).split():
                digest = hashlib.sha256(word.encode()).digest()
                vectors[row, digest[0]] += 1.0 if digest[1] % 2 else -1.0
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[lengths[:, 0] == 0, 0] = 1.0
        return np.asarray(vectors / np.where(lengths == 0, 1.0, lengths), dtype=np.float32)


class OverlapRetriever:
    """A retriever that ranks chunks by how many of the question's words they hold.

    Args:
        chunks: a frame of `tables.CHUNKS`; heading and text are searched.
    """

    def __init__(self, chunks: pl.DataFrame) -> None:
        self.chunks = [
            (row["chunk_id"], row["doc_id"], row["text"], content_words(f"{row['heading'] or ''} {row['text']}"))
            for row in chunks.select("chunk_id", "doc_id", "text", "heading").to_dicts()
        ]
        digest = hashlib.sha256(repr([chunk[:3] for chunk in self.chunks]).encode()).hexdigest()
        self.identity = f"overlap-{digest[:16]}"
        self.embedder: Embedder = HashEmbedder()

    def search(self, queries: Sequence[str], k: int) -> pl.DataFrame:
        """Return the best `k` chunks of each query; among equals the shorter wins, then the smaller chunk_id."""
        rows = []
        for number, query in enumerate(queries):
            words = content_words(query)
            ranked = sorted((-len(words & chunk[3]), len(chunk[3]), chunk[0], chunk) for chunk in self.chunks)
            for rank, (score, _, chunk_id, chunk) in enumerate(ranked[:k], 1):
                hit = {"query": number, "rank": rank, "chunk_id": chunk_id, "doc_id": chunk[1]}
                rows.append({**hit, "score": float(-score), "text": chunk[2]})
        return tables.frame(tables.HITS, rows)


def make_chunks(texts: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """Return a frame of `tables.CHUNKS`: the chunks of each document by doc_id, with ids like "doc#0", no headings."""
    rows = []
    for doc_id, pieces in texts.items():
        start = 0
        for position, text in enumerate(pieces):
            place = {"position": position, "start": start, "end": start + len(text)}
            row = {"chunk_id": f"{doc_id}#{position}", "doc_id": doc_id, **place, "heading": "", "text": text}
            rows.append({**row, "tokens": len(text.split()), "boilerplate": False, "document_sha256": doc_id})
            start += len(text) + 2
    return tables.frame(tables.CHUNKS, rows)


def make_question(chunk: Mapping[str, Any], question: str, answer: str, *, kind: str = "fact") -> dict[str, Any]:
    """Return a row of `tables.QUESTIONS` on a row of `make_chunks`, with the chunk's whole text as its quote.

    For the kind "unanswerable" there are neither quotes nor golden chunks.
    """
    answered = kind != "unanswerable"
    quote = {"chunk_id": chunk["chunk_id"], "start": 0, "end": len(chunk["text"]), "text": chunk["text"]}
    return {
        "question_id": hashlib.sha256(f"{chunk['chunk_id']}|{kind}|{question}".encode()).hexdigest()[:16],
        "kind": kind,
        "question": question,
        "answer": answer,
        "quotes": [quote] if answered else [],
        "golden_chunk_ids": [chunk["chunk_id"]] if answered else [],
        "doc_ids": [chunk["doc_id"]],
        "reasoning": None,
        "model": "scripted",
        "prompt": "fact",
    }
