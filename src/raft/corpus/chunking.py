"""From documents to chunks with provenance, cut at the places where a reader would pause.

A text is seen as a row of units (a sentence, a table row, a list item, a line of code), and each place between two
units has a price for cutting there. Of all ways to cut, the cheapest is taken: chunks near the wanted size, whole
sections together, small sections with their neighbours, no table row or sentence apart.
"""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from raft.corpus.blocks import IN_SENTENCE, Section, Unit, is_boilerplate, trimmed_unit, units_of
from raft.protocols import Tokenizer, Workers, in_order
from raft.store import tables
from raft.text import embedded_text

CHARACTERS_PER_TOKEN = 16
"""A chunk has at most so many characters for each token that it may have, whatever the tokenizer counts: some count
a word of any length as one unknown token."""

_TINY, _TINY_TOKENS = 1.0, 40
_MOST_SECTIONS = 8
_LONGEST_KEPT = 64


class Span(NamedTuple):
    """A chunk's place in a text: `text[start:end]`, below the headings `heading`, `tokens` long with it."""

    start: int
    end: int
    heading: str
    tokens: int


def document_sha256(title: str, format: str, text: str) -> str:
    """Return the digest of all that decides how a document is cut."""
    return hashlib.sha256("\0".join((title, format, text)).encode()).hexdigest()


def chunk_documents(
    documents: Iterable[pl.DataFrame],
    tokenizer: Tokenizer,
    *,
    repeated: Collection[int] = frozenset(),
    previous: Callable[[str, str], pl.DataFrame | None] | None = None,
    workers: Workers | None = None,
    **shape: int,
) -> Iterator[pl.DataFrame]:
    """Yield one frame of `tables.CHUNKS` for each of `tables.DOCUMENTS` that has no error, in order.

    `shape` are `tokens`, `overlap` and `max_tokens` of `cut`. A chunk that is half or more of `repeated_lines` is
    boilerplate. `previous` returns for a doc_id and its `document_sha256` the rows cut from the same text in the same
    way before; only `boilerplate` is computed afresh for them. With `workers`, some documents are cut there at a time.
    """
    words: dict[str, int] = {}

    def begin(row: Mapping[str, Any]) -> Callable[[], pl.DataFrame]:
        digest = document_sha256(row["title"], row["format"], row["text"])
        chunks = previous(row["doc_id"], digest) if previous else None
        if chunks is not None:
            return lambda: chunks
        if workers:
            given = {name: row[name] for name in ("doc_id", "title", "format", "text", "pages")}
            return workers.begin(_cut_there, given, digest, shape, shared=tokenizer)
        return lambda: _cut_whole(row, digest, shape, tokenizer, words)

    readable = (frame.filter(pl.col("error").is_null()) for frame in documents)
    rows = (row for frame in readable for row in frame.iter_rows(named=True))
    for chunks in in_order(map(begin, rows), workers.ahead if workers else 0):
        flags = [is_boilerplate(text, repeated) for text in chunks["text"]]
        yield chunks.with_columns(pl.Series("boilerplate", flags, pl.Boolean))


def _cut_whole(
    row: Mapping[str, Any], digest: str, shape: Mapping[str, int], tokenizer: Tokenizer, words: dict[str, int]
) -> pl.DataFrame:
    spans = cut(row["text"], title=row["title"], format=row["format"], tokenizer=tokenizer, words=words, **shape)
    return _chunk_rows(row, digest, spans)


_WORDS: dict[str, dict[str, int]] = {}
"""What a worker has counted, by the tokenizer."""


def _cut_there(row: Mapping[str, Any], digest: str, shape: Mapping[str, int], tokenizer: Tokenizer) -> pl.DataFrame:
    return _cut_whole(row, digest, shape, tokenizer, _WORDS.setdefault(tokenizer.identity, {}))


def _chunk_rows(document: Mapping[str, Any], digest: str, spans: Iterable[Span]) -> pl.DataFrame:
    identity, pages = document["doc_id"], document["pages"]
    seen: Counter[str] = Counter()
    rows = []
    for position, span in enumerate(spans):
        part = document["text"][span.start : span.end]
        rows.append(
            {
                **span._asdict(),
                "chunk_id": hashlib.sha256("\0".join((identity, part, str(seen[part]))).encode()).hexdigest()[:16],
                "doc_id": identity,
                "position": position,
                "page": max(1, bisect_right(pages, span.start)) if pages else None,
                "text": part,
                "document_sha256": digest,
            }
        )
        seen[part] += 1
    return tables.frame(tables.CHUNKS, rows)


def cut(
    text: str,
    *,
    title: str,
    format: str,
    tokenizer: Tokenizer,
    tokens: int,
    overlap: int,
    max_tokens: int,
    words: dict[str, int] | None = None,
) -> list[Span]:
    """Cut a text into chunks, in order; with `overlap` 0 each character but whitespace lies in exactly one.

    The title begins each heading path; the format ("md", "csv", ...) says what is a heading and what a row. A chunk is
    about `tokens` long and at most `max_tokens`, heading included; at most `overlap` tokens of whole units are repeated
    from the chunk before, within a section. `words` are counts of words, kept from one text to the next to save time.
    """
    wanted = min(tokens, max_tokens * 4 // 5)
    overlap = min(overlap, wanted // 2)
    limit = min(max_tokens, wanted * 5 // 4)
    counter = _Counter(tokenizer, {} if words is None else words)
    units, sections = units_of(text, title, format)
    headings = {above: _fit(above, counter, max_tokens // 3) for above in {unit.above for unit in units}}
    costs = dict(zip(headings, counter.rough(list(headings.values())), strict=True))
    room = limit - overlap
    units, counts = _small_enough(text, units, counter, {above: max(1, room - costs[above]) for above in headings})
    ends = _cheapest(units, sections, counts, [costs[unit.above] for unit in units], wanted=wanted, limit=room)
    drafts = []
    before = 0
    for first, last in zip([0, *ends], ends, strict=False):
        begin, spare = first, overlap
        # The first unit of the chunk before is not repeated, so that each chunk begins after it.
        while begin - 1 > before and units[begin - 1].section == units[first].section and counts[begin - 1] <= spare:
            begin -= 1
            spare -= counts[begin]
        drafts.append((units[begin].start, units[first].start, units[last - 1].end, units[begin].above))
        before = first
    return _verified(text, drafts, headings, tokenizer, max_tokens)


class _Counter:
    """Counts tokens roughly, as the sum over words, each of which is asked for once."""

    def __init__(self, tokenizer: Tokenizer, words: dict[str, int]) -> None:
        self.tokenizer, self.words = tokenizer, words
        if len(words) > 200_000:
            words.clear()

    def rough(self, texts: Sequence[str]) -> list[int]:
        parts, known = [text.split() for text in texts], self.words
        missing = list({word for words in parts for word in words if word not in known})
        if missing:
            known.update(zip(missing, self.tokenizer.count(missing), strict=True))
        sums = [sum(map(known.__getitem__, words)) for words in parts]
        for word in missing:
            if len(word) > _LONGEST_KEPT:
                del known[word]
        return [max(1, count, len(text) // CHARACTERS_PER_TOKEN) for count, text in zip(sums, texts, strict=True)]


def _small_enough(
    text: str, units: list[Unit], counter: _Counter, rooms: dict[tuple[str, ...], int]
) -> tuple[list[Unit], list[int]]:
    """Halve each unit until it fits into its room; return the units and their rough counts."""
    known: dict[Unit, int] = {}
    while uncounted := [unit for unit in units if unit not in known]:
        known.update(zip(uncounted, _rough_counts(text, uncounted, counter, rooms), strict=True))
        parts: list[Unit] = []
        for unit in units:
            if known[unit] <= rooms[unit.above] or unit.end - unit.start < 2:
                parts.append(unit)
            else:
                middle = _halfway(text, unit.start, unit.end)
                halves = unit._replace(end=middle), unit._replace(start=middle, price=IN_SENTENCE)
                parts += [trimmed_unit(text, half) for half in halves]
        units = parts
    return units, [known[unit] for unit in units]


def _rough_counts(text: str, units: list[Unit], counter: _Counter, rooms: dict[tuple[str, ...], int]) -> list[int]:
    """Count units; one that is too long by its characters alone is not shown to the tokenizer."""
    lengths = [(unit.end - unit.start) // CHARACTERS_PER_TOKEN for unit in units]
    short = [length <= rooms[unit.above] for unit, length in zip(units, lengths, strict=True)]
    pieces = [text[unit.start : unit.end] for unit, fits in zip(units, short, strict=True) if fits]
    counted = iter(counter.rough(pieces))
    return [next(counted) if fits else length for fits, length in zip(short, lengths, strict=True)]


def _halfway(text: str, start: int, end: int) -> int:
    """Return the best place for a cut in the middle half of `text[start:end]`: a line end, a sentence's, a space."""
    middle, quarter = (start + end) // 2, (end - start) // 4
    for mark in ("\n", ". ", "。", "।", "؟", "; ", "；", "؛", ", ", "，", "、", "،", " "):
        left = text.rfind(mark, start + quarter, middle)
        right = text.find(mark, middle, end - quarter)
        found = [place for place in (left, right) if place >= 0]
        if found:
            return min(found, key=lambda place: abs(place - middle)) + len(mark)
    return max(middle, start + 1)


def _cheapest(
    units: list[Unit], sections: list[Section], counts: list[int], heads: list[int], *, wanted: int, limit: int
) -> list[int]:
    """Return where the cheapest way to cut ends each chunk (indices one past its last unit)."""
    tiny = min(_TINY_TOKENS, wanted // 4)
    best = [0.0] + [float("inf")] * len(units)
    came = [0] * (len(units) + 1)
    for first, unit in enumerate(units):
        base, head, size, joined, crossed = best[first], heads[first], 0, 0.0, 0
        level, section = sections[unit.section].level, unit.section
        for last in range(first, len(units)):
            here = units[last].section
            if here != section:
                section, crossed = here, crossed + 1
                joined += sections[here].joined
                if sections[here].level < level or crossed > _MOST_SECTIONS:
                    break
            size += counts[last]
            if head + size > limit and last > first:
                break
            miss = (head + size - wanted) / wanted
            cost = base + miss * miss + joined + (_TINY if size < tiny else 0.0)
            if last + 1 < len(units):
                cost += units[last + 1].price
            if cost < best[last + 1]:
                best[last + 1], came[last + 1] = cost, first
    ends = []
    place = len(units)
    while place > 0:
        ends.append(place)
        place = came[place]
    return ends[::-1]


def _fit(above: tuple[str, ...], counter: _Counter, room: int) -> str:
    """Return a heading path of at most `room` tokens: outer headings go first, then the end of the innermost."""
    for number in range(len(above)):
        heading = " > ".join(above[number:])
        if counter.rough([heading])[0] <= room:
            return heading
    heading = above[-1] if above else ""
    while heading and counter.rough([heading])[0] > room:
        heading = heading[: len(heading) // 2].rstrip()
    return heading


def _verified(
    text: str,
    drafts: list[tuple[int, int, int, tuple[str, ...]]],
    headings: dict[tuple[str, ...], str],
    tokenizer: Tokenizer,
    max_tokens: int,
) -> list[Span]:
    """Count each draft (start, start without overlap, end, headings) exactly; cut those that are over the limit."""
    done: list[Span] = []
    while drafts:
        heads = [headings[above] for _, _, _, above in drafts]
        counts = tokenizer.count(
            [embedded_text(head, text[start:end]) for head, (start, _, end, _) in zip(heads, drafts, strict=True)]
        )
        again = []
        for head, count, (start, own, end, above) in zip(heads, counts, drafts, strict=True):
            if count <= max_tokens or end - start < 2:
                done.append(Span(start, end, head, count))
            elif start < own:
                again.append((own, own, end, above))
            else:
                middle = _halfway(text, start, end)
                left, right = text[start:middle].rstrip(), text[middle:end].lstrip()
                again += [(start, start, start + len(left), above), (end - len(right), end - len(right), end, above)]
        drafts = again
    return sorted(done)
