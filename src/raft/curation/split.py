"""Splitting: what is held out, which questions are learned from, and that none of those is measured with.

Documents are held out whole, and their near-copies with them, before any question is written. The other questions are
split by the fact that they ask for, so that two questions for one fact never stand on both sides.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import polars as pl

from raft.curation.duplicates import OTHER_WORDING, origin, stand_ins
from raft.errors import RaftError, UsageError
from raft.protocols import Embedder
from raft.similarity import NearIndex, conflicting, cosine_blocks
from raft.store import tables
from raft.text import draw, normalise

LEAK = "leak"
MOST_HELD_OUT = 0.2
"""Largest share of a corpus's characters that is held out as whole documents."""

_LEARNED = ("train", "valid")
_PUNCTUATION = ".,;:!?\"'“”‘’"
_RECORD = re.compile(r"#\d+$")
Row = dict[str, Any]


def hold_out(
    documents: pl.DataFrame | Iterable[pl.DataFrame],
    *,
    share: float,
    seed: int,
    besides: Sequence[str] = (),
    copies: Sequence[Sequence[str]] = (),
) -> frozenset[str]:
    """Return the doc_ids of the documents that are held out whole, copies together or not at all.

    Documents are taken in the order of hash(seed, doc_id) until `share` (0 to 1) of all characters is reached: at least
    one, at most a fifth of the characters (one that would pass it is skipped; where each would, the shortest is taken).
    None when `share` is 0 or there are fewer than two readable documents. All this is of those that the globs `besides`
    do not match (see `matching`), which are held out in any case.

    Documents come with doc_id, path, characters and error; `copies` are groups of doc_ids that count as one document.
    """
    frames = [documents] if isinstance(documents, pl.DataFrame) else documents
    listed = pl.concat([table.select("doc_id", "path", "characters", "error") for table in frames])
    first = {doc_id: group[0] for group in copies for doc_id in group}
    wanted = matching(listed, besides)
    grouped = listed.with_columns(first=pl.col("doc_id").replace(first))
    named = grouped.filter(pl.col("first").is_in([first.get(doc_id, doc_id) for doc_id in wanted]))
    others = grouped.filter(pl.col("error").is_null()).join(named, on="doc_id", how="anti")
    sizes = dict(others.group_by("first").agg(pl.col("characters").sum()).iter_rows())
    drawn = others.filter(pl.col("first").is_in(list(_drawn(sizes, share=share, seed=seed))))
    return frozenset([*named["doc_id"], *drawn["doc_id"]])


def matching(documents: pl.DataFrame, globs: Sequence[str]) -> frozenset[str]:
    """Return the doc_ids of the readable documents (doc_id, path, error) whose path matches a glob (`fnmatch`).

    A path is matched whole, letter case counts, and `*` crosses `/`; a file of records is matched by its own name too
    (`faq.jsonl` for `faq.jsonl#3`).

    Raises:
        UsageError: a glob matches no readable document (the nearest path is named), or no document is left over.
    """
    readable = documents.filter(pl.col("error").is_null())
    paths = dict(readable.select("doc_id", "path").iter_rows()) if globs else {}
    found: set[str] = set()
    for glob in globs:
        hits = {one for one, path in paths.items() for name in (path, _RECORD.sub("", path)) if fnmatchcase(name, glob)}
        if not hits:
            near = get_close_matches(glob, paths.values(), n=1, cutoff=0)
            raise UsageError(
                f"split.hold_out: no document matches {glob}." + (f" Did you mean {near[0]}?" if near else ""),
                hint="name one of the files of the corpus, as a path below it or a pattern",
            )
        found |= hits
    if found and len(found) == len(paths):
        raise UsageError("split.hold_out leaves no document to ask about.", hint="name fewer documents there")
    return frozenset(found)


def _drawn(sizes: Mapping[str, int], *, share: float, seed: int) -> frozenset[str]:
    if len(sizes) < 2 or share <= 0:
        return frozenset()
    held: set[str] = set()
    total, size = sum(sizes.values()), 0
    for doc_id in sorted(sizes, key=lambda name: (draw(f"{seed}:{name}"), name)):
        if held and size >= share * total:
            break
        if size + sizes[doc_id] <= MOST_HELD_OUT * total:
            held.add(doc_id)
            size += sizes[doc_id]
    return frozenset(held or {min(sizes, key=lambda name: (sizes[name], draw(f"{seed}:{name}")))})


def split(
    cleaned: pl.DataFrame,
    *,
    held_out: frozenset[str],
    user_questions: pl.DataFrame | None,
    embedder: Embedder,
    similarity: float,
    seen: float,
    valid: float,
    seed: int,
    copies: Sequence[Sequence[str]] = (),
) -> pl.DataFrame:
    """Return the cleaned questions with the split of each that is kept, and leaks dropped.

    A row that touches a held-out document is `eval_unseen`. The others are `eval_seen`, `valid` or `train` by the
    hash of (seed, golden chunks and answer); there is always a `train` row, and a `valid` row where there are at
    least ten rows for at least two facts. A `train` or `valid` question that is equal or nearly equal to an
    evaluation question, or whose cosine with it is at least `similarity` unless each names what the other does not,
    is dropped with reason `leak`, and `duplicate_of` names that question. So is one that is kept in the place of such a
    question, as another wording of it.

    The frames are of `tables.CLEANED` and `tables.EVALUATION`; `held_out` are doc_ids that `hold_out` returned; `seen`
    and `valid` are shares (0 to 1) of the rows outside these documents; `copies` are groups of doc_ids that say the
    same, so that their questions for one answer are for one fact.
    """
    first = {doc_id: group[0] for group in copies for doc_id in group}
    rows: list[Row] = [{**row, "split": None, "fact": _fact(row, first)} for row in cleaned.iter_rows(named=True)]
    kept = [row for row in rows if row["reason"] is None]
    unseen = [row for row in kept if not held_out.isdisjoint(row["doc_ids"])]
    for row in unseen:
        row["split"] = "eval_unseen"
    _share_out([row for row in kept if row["split"] is None], seen=seen, valid=valid, seed=seed)
    learned = [row for row in kept if row["split"] in _LEARNED]
    measured = [(row["question_id"], row["question"]) for row in kept if row["split"] not in _LEARNED]
    if user_questions is not None:
        measured += user_questions.select("question_id", "question").iter_rows()
    by_id, wordings = {row["question_id"]: row for row in learned}, stand_ins(rows)
    standing = [(row, wordings[row["question_id"]]) for row in rows if row["question_id"] in wordings]
    measured += [(best, row["question"]) for row, best in standing if best not in by_id]
    learned += [row for row, best in standing if best in by_id]
    for row, other in _leaks(learned, measured, embedder=embedder, similarity=similarity):
        leaked = by_id[wordings.get(row["question_id"], row["question_id"])]
        leaked["reason"], leaked["duplicate_of"], leaked["split"] = LEAK, other, None
    _ensure_valid([row for row in kept if row["split"] in (*_LEARNED, "eval_seen")], share=valid, seed=seed)
    return tables.frame(tables.CLEANED, rows)


def _fact(row: Row, first: Mapping[str, str]) -> str:
    """Name the fact that a row asks for; an unanswerable question is its own."""
    asked = row["answer"] if row["golden_chunk_ids"] else row["question"]
    homes = row["golden_chunk_ids"] or row["doc_ids"]
    if not first.keys().isdisjoint(row["doc_ids"]):  # copies say it in other chunks
        homes = {first.get(doc_id, doc_id) for doc_id in row["doc_ids"]}
    return json.dumps([sorted(homes), normalise(asked)])


def _share_out(rows: list[Row], *, seen: float, valid: float, seed: int) -> None:
    for row in rows:
        drawn = draw(f"{seed}:{row['fact']}")
        row["split"] = "eval_seen" if drawn < seen else "valid" if drawn < seen + valid else "train"
    if rows and not any(row["split"] == "train" for row in rows):
        last = max((row["fact"] for row in rows), key=lambda fact: draw(f"{seed}:{fact}"))
        _move(rows, last, "train")
    _ensure_valid(rows, share=valid, seed=seed)


def _ensure_valid(rows: list[Row], *, share: float, seed: int) -> None:
    """Give `valid` one fact of `train`, if it has none and `train` keeps another."""
    facts = sorted({row["fact"] for row in rows if row["split"] == "train"}, key=lambda fact: draw(f"{seed}:{fact}"))
    wanted = share > 0 and len(rows) >= 10 and len(facts) > 1
    if wanted and not any(row["split"] == "valid" for row in rows):
        _move(rows, facts[0], "valid")


def _move(rows: list[Row], fact: str, name: str) -> None:
    for row in rows:
        if row["fact"] == fact:
            row["split"] = name


def _leaks(
    learned: list[Row], measured: Iterable[tuple[str, str]], *, embedder: Embedder, similarity: float
) -> Iterator[tuple[Row, str]]:
    """Yield each learned row that says the same as a measured question (its id and text), with that question's id."""
    measured = sorted(measured)
    if not learned or not measured:
        return
    asked = [question for _, question in measured]
    index = NearIndex([*asked, *(row["question"] for row in learned)])
    for question in asked:
        index.add(question)
    meant = _meant([row["question"] for row in learned], asked, embedder=embedder, similarity=similarity)
    for number, row in enumerate(learned):
        match = next(index.find(row["question"]), meant.get(number))
        if match is not None:
            yield row, measured[match][0]


def _meant(learned: list[str], asked: list[str], *, embedder: Embedder, similarity: float) -> dict[int, int]:
    """Return for each learned question, by number, the first asked one of about the same meaning."""
    found: dict[int, int] = {}
    for left, right in cosine_blocks(embedder.embed(learned), embedder.embed(asked), similarity):
        for mine, theirs in zip(left.tolist(), right.tolist(), strict=True):
            if mine not in found and not conflicting(learned[mine], asked[theirs]):
                found[mine] = theirs
    return found


def check_leaks(cleaned: pl.DataFrame, measured: pl.DataFrame, *, held_out: frozenset[str]) -> None:
    """Check what is about to be written: that nothing is learned from what `evaluation_rows` measure with.

    It goes another road than `split`: no embedder, no index and none of its comparisons, but plain equality of what
    would be on both sides.

    Raises:
        RaftError: a train or valid row touches a held-out document, asks what an evaluation question asks in the same
            words (but for case, punctuation and articles), as it stands or as it was before it was reworded or chosen
            of several wordings, or asks for the same answer from the same chunks.
    """
    asked = {_bare(row["question"]): row["question_id"] for row in measured.iter_rows(named=True)}
    answered = {
        (*sorted(row["golden_chunk_ids"]), row["answers"][0]): row["question_id"]
        for row in measured.filter(split="eval_seen").iter_rows(named=True)
        if row["golden_chunk_ids"]
    }
    texts = dict(cleaned.select("question_id", "question").iter_rows())
    others: dict[str, list[str]] = {}
    for row in cleaned.filter(reason=OTHER_WORDING).iter_rows(named=True):
        others.setdefault(row["duplicate_of"], []).append(row["question"])
    for row in cleaned.filter(pl.col("split").is_in(_LEARNED)).iter_rows(named=True):
        if not held_out.isdisjoint(row["doc_ids"]):
            raise _leaked(row, "a held-out document")
        worded = [row["question"], texts.get(origin(row) or "", ""), *others.get(row["question_id"], ())]
        same = next((asked[_bare(text)] for text in worded if _bare(text) in asked), None)
        same = same or answered.get((*sorted(row["golden_chunk_ids"]), row["answer"]))
        if same is not None:
            raise _leaked(row, f"the evaluation question {same}")


def _bare(text: str) -> str:
    words = (word.casefold().strip(_PUNCTUATION) for word in text.split() if word not in ("a", "an", "the"))
    return " ".join(word for word in words if word)


def _leaked(row: Row, source: str) -> RaftError:
    return RaftError(
        f"The {row['split']} question {row['question']!r} comes from {source}.",
        where=f"cleaned.parquet, question {row['question_id']}",
        hint="delete cleaned.parquet and run the same raft command again",
    )


def collisions(
    learned: list[Row], questions: pl.DataFrame, *, embedder: Embedder, similarity: float
) -> list[tuple[str, str]]:
    """Return which questions (`tables.EVALUATION`) were learned from, as pairs: a learned one and its question_id.

    Learned are rows with question_id and question; from a cosine of `similarity` (0 to 1) on two say the same.
    """
    # the roles are changed: each of the questions is looked up among the learned ones
    texts = {row["question_id"]: row["question"] for row in learned}
    known = [(row["question_id"], row["question"]) for row in learned]
    found = _leaks([*questions.iter_rows(named=True)], known, embedder=embedder, similarity=similarity)
    return [(texts[other], row["question_id"]) for row, other in found]


def evaluation_rows(
    cleaned: pl.DataFrame, documents: pl.DataFrame, user_questions: pl.DataFrame | None
) -> pl.DataFrame:
    """Return all questions to measure with as `tables.EVALUATION`: `eval_seen` and `eval_unseen`, then the user's own.

    What the user asks is measured once: a question of the rows that is equal to one of those is left out. `document`
    is the path of a question's first document.
    """
    paths = dict(documents.select("doc_id", "path").iter_rows())
    measured = cleaned.filter(pl.col("split").is_in(["eval_seen", "eval_unseen"]))
    own = [] if user_questions is None else [user_questions]
    asked = {normalise(question) for table in own for question in table["question"]}
    rows = [
        {**row, "answers": [row["answer"]], "document": paths.get(row["doc_ids"][0]) if row["doc_ids"] else None}
        for row in measured.iter_rows(named=True)
        if normalise(row["question"]) not in asked
    ]
    return pl.concat([tables.frame(tables.EVALUATION, rows), *own], how="diagonal")  # `places` are the user's alone
