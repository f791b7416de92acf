"""The index of words: BM25 over headings and texts, for codes, names and numbers that vectors blur."""

import hashlib
import json
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from raft.backends.vendors import import_without
from raft.errors import DamagedArtifact
from raft.store import folders
from raft.store.tables import HITS
from raft.text import MARKS, PAIRED, embedded_text, neighbours
from raft.text.languages import EN, VERSION, of_text, stems

_FORMAT = 1
"""Version of the tokenisation and of the files; a change makes every lexical index anew."""

_ABOUT, _CHUNKS = "about.json", "chunks.arrow"
_MADE = r"about\.json|chunks\.arrow|\w+\.csc\.index\.npy|(?:params|vocab|corpus)\.index\.jsonl?"
_REBUILD = "delete the folder and run the same raft command again: it is built anew"

_MANY = 16  # questions, from which on all words are read; those of the first are looked for in the file as it is
_NUMBER = re.compile(rb" ?\d+")
_SHARE = 4  # of the chunks: a fourth of them is found faster by looking at all
_NOISE = 1e-3  # more than sums of scores differ by

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_WORD = re.compile(rf"[\w{MARKS}]+(?:[-./:][\w{MARKS}]+)*")
_PART = re.compile(rf"(?:[^\W_]|[{MARKS}])+")
_STOP_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "by", "did", "do", "does", "for", "from", "had", "has", "have", "how"}
    | {"in", "is", "it", "its", "of", "on", "or", "s", "t", "that", "the", "their", "this", "to", "was", "were", "what"}
    | {"when", "where", "which", "who", "whom", "whose", "why", "will", "with"}
)


def words(text: str, likely: str = "en") -> list[str]:
    """Return the tokens of a text: lower-case words without stop words; a code both whole and in parts.

    A word of another language than English comes with its stem; where a script has no spaces, and in Hangul, each two
    neighbours are a token. `likely` is the language of a text that does not tell it (ISO 639-1).

    Example:
        >>> words("The valve HX-204-B costs 1,250 euros")
        ['valve', 'hx-204-b', 'hx', '204', 'b', 'costs', '1250', 'euros']
    """
    plain = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).lower())
    found = [pair for run in PAIRED.findall(plain) for pair in neighbours(run)]
    plain = PAIRED.sub(" ", plain) if found else plain
    for word in _WORD.findall(plain):
        parts = _PART.findall(word)
        found += [word, *parts] if len(parts) > 1 else parts
    if (language := of_text(text, likely)) is EN:
        return [word for word in found if word not in _STOP_WORDS]
    found = [word for word in found if word not in language.words]
    return found + [stem for stem, word in zip(stems(found, language), found, strict=True) if stem != word]


class LexicalIndex:
    """Chunks by BM25; a `Retriever`. Open one with `build` or `load`.

    Attributes:
        identity: the indexed chunks and how words are made of them.
    """

    def __init__(
        self, folder: Path, about: dict[str, Any], chunks: pl.DataFrame, vocabulary: bytes, held: list[np.ndarray]
    ) -> None:
        self._folder = folder
        self._chunks, self._language, self.identity = chunks, about.get("language", "en"), f"bm25:{about['digest']}"
        self._vocabulary: bytes | dict[str, int] = vocabulary
        self._held, self._asked = held, 0
        self._most: dict[int, float] = {}

    @classmethod
    def build(cls, chunks: Iterable[pl.DataFrame], folder: Path) -> "LexicalIndex":
        """Index chunks into `folder`, which is replaced as a whole once the index is complete.

        Args:
            chunks: frames with `chunk_id`, `doc_id`, `heading` and `text`; their order does not matter.
            folder: where the index goes.
        """
        columns = ["chunk_id", "doc_id", "heading", "text"]
        parts = [pl.DataFrame(schema=dict.fromkeys(columns, pl.String)), *(part.select(columns) for part in chunks)]
        # in the order of ids: the row number then breaks ties
        table = pl.concat(parts).unique("chunk_id", keep="first").sort("chunk_id")
        texts = [embedded_text(heading, text) for heading, text in table.select("heading", "text").iter_rows()]
        spoken = Counter(of_text(text).code for text in texts) or Counter({"en": 1})
        version = f"{_FORMAT}" if {*spoken} == {"en"} else f"{_FORMAT} {VERSION}"
        about = {"format": _FORMAT, "chunks": len(texts), "digest": _digest(table["chunk_id"], texts, version)}
        about |= {"language": code} if (code := spoken.most_common(1)[0][0]) != "en" else {}
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as work:
            draft = Path(work) / folder.name
            draft.mkdir()
            table.select("chunk_id", "doc_id", "text").write_ipc(draft / _CHUNKS)
            if texts:
                _rank(texts).save(draft, show_progress=False)
            (draft / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
            folders.clear(folder, _MADE)
            draft.rename(folder)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> "LexicalIndex":
        """Open an index; texts and scores stay on disk and are mapped into memory.

        Raises:
            DamagedArtifact: files are missing, cut off or from another version.
        """
        try:
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            chunks = pl.read_ipc(folder / _CHUNKS)
            # read as bm25s does, which takes as long to be imported as all of this
            vocabulary = (folder / "vocab.index.json").read_bytes() if about["chunks"] else b"{}"
            paths = [folder / f"{part}.csc.index.npy" for part in ("indptr", "indices", "data") if about["chunks"]]
            opened = cls(
                folder, about, chunks, vocabulary, [np.asarray(np.load(path, mmap_mode="r")) for path in paths]
            )
            whole = about["format"] == _FORMAT and len(chunks) == about["chunks"] and vocabulary.endswith(b"}")
            listed = vocabulary.count(b'":') - vocabulary.count(b'"":')  # bm25s lists a word of no letters
            whole = whole and (not paths or listed == len(opened._held[0]) - 1)
        except (OSError, ValueError, KeyError, TypeError, EOFError, pl.exceptions.PolarsError) as error:
            raise DamagedArtifact(f"The lexical index cannot be read: {error}", where=folder, hint=_REBUILD) from None
        if not whole:
            raise DamagedArtifact("The lexical index is damaged, or of another version.", where=folder, hint=_REBUILD)
        return opened

    def search(self, queries: Sequence[str], k: int) -> pl.DataFrame:
        """Return the best `k` chunks of each query as a frame of `tables.HITS`; the score is BM25's.

        A chunk that shares no word with the query is not a hit, so fewer than `k` may come back. Equal scores are
        ordered by chunk_id.
        """
        self._asked += len(queries)
        try:
            if self._asked >= _MANY and isinstance(self._vocabulary, bytes):
                self._vocabulary = json.loads(self._vocabulary)
            found = [
                (number, rank, row, score)
                for number, query in enumerate(queries)
                for rank, (row, score) in enumerate(self._best(query, k), start=1)
            ]
        except (ValueError, IndexError) as error:  # all words are not looked at before
            raise DamagedArtifact(f"The lexical index is damaged: {error}", where=self._folder, hint=_REBUILD) from None
        kinds = {"query": pl.Int64, "rank": pl.Int64, "row": pl.Int64, "score": pl.Float64}
        hits = pl.DataFrame(found, schema=kinds, orient="row")
        return pl.concat([hits, self._chunks[hits["row"]]], how="horizontal").select(list(HITS))

    def _best(self, query: str, k: int) -> list[tuple[int, float]]:
        """Row and score of the best `k` chunks."""
        known = [number for word in words(query, self._language) if (number := self._number(word)) is not None]
        if not known:
            return []
        rows = self._likely(known, k)
        if rows is None:
            scores = np.zeros(len(self._chunks), dtype=np.float32)
            for word in known:
                holders, values, _ = self._holders(word)
                scores[holders] += values
            rows = np.flatnonzero(scores > 0)
            scores = scores[rows]
        else:
            scores = self._scores(known, rows)
        if len(rows) > k:
            likely = scores >= np.partition(scores, -k)[-k]
            rows, scores = rows[likely], scores[likely]
        best = np.argsort(-scores, kind="stable")[:k]
        return [(int(rows[place]), float(scores[place])) for place in best]

    def _number(self, word: str) -> int | None:
        if isinstance(self._vocabulary, dict):
            return self._vocabulary.get(word)
        name = f'"{word}":'.encode()
        begin = self._vocabulary.find(name) + len(name)
        found = _NUMBER.match(self._vocabulary, begin) if begin >= len(name) else None
        return int(found[0]) if found else None

    def _likely(self, known: Sequence[int], k: int) -> np.ndarray | None:
        """Return the rows, in order, that can be among the best `k`; None where it is as fast to look at all.

        Rare words first: once the k-th best is worth more than all words together that are left, no chunk that has
        none but these comes near it (Turtle and Flood: Query evaluation, strategies and optimizations, 1995).
        """
        lists = sorted((self._holders(word) for word in known), key=lambda one: len(one[0]))
        left, read = sum(most for *_, most in lists), 0
        union = np.empty(0, dtype=np.int32)
        for number, (rows, _, most) in enumerate(lists, 1):
            left, read = left - most, read + len(rows)
            if _SHARE * read > len(self._chunks):
                return None
            if number == len(lists) or len(lists[number][0]) > read >= k:  # else reading on costs less than looking
                union, places = np.unique(np.concatenate([one for one, *_ in lists[:number]]), return_inverse=True)
                scores = np.bincount(places, np.concatenate([one for _, one, _ in lists[:number]]))
                if len(union) >= k and (least := np.partition(scores, -k)[-k] - _NOISE) > left:
                    union = union[scores + left >= least]
                    break
        return union

    def _holders(self, word: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the rows that hold a word, in order, what it is worth to each, and the most of that."""
        ends, rows, values = self._held
        part = slice(ends[word], ends[word + 1])
        if word not in self._most:
            self._most[word] = float(values[part].max())
        return rows[part], values[part], self._most[word]

    def _scores(self, known: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """Return the scores of some rows, which are in order, as bm25s does: word by word, as the last digit shows."""
        scores = np.zeros(len(rows), dtype=np.float32)
        for word in known:
            holders, values, _ = self._holders(word)
            places = np.minimum(holders.searchsorted(rows), len(holders) - 1)
            held = holders[places] == rows
            scores[held] += values[places[held]]
        return scores


def _rank(texts: Sequence[str]) -> Any:
    numbers: dict[str, int] = {}
    ids = [[numbers.setdefault(word, len(numbers)) for word in words(text)] for text in texts]
    bm25s = import_without("bm25s", "jax")  # which it tries out at once, and which takes most of a card's memory
    ranking = bm25s.BM25(method="lucene", backend="numpy")
    ranking.index((ids, numbers), show_progress=False)
    return ranking


def _digest(chunk_ids: Iterable[str], texts: Iterable[str], version: str) -> str:
    whole = hashlib.sha256(f"bm25 {version}".encode())
    for chunk_id, text in zip(chunk_ids, texts, strict=True):
        whole.update(f"\n{chunk_id} {hashlib.sha256(text.encode()).hexdigest()}".encode())
    return whole.hexdigest()
