"""Coverage: what the kept questions are about, and the choice of those that cover most."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from raft.curation.coverage import choose, coverage
from raft.store import tables

HEADINGS = {f"d{d}#{s}": f"Part {s}" for d in range(3) for s in range(3)}


def row(number, doc, section, kind, reason=None):
    """Return a row of cleaned.parquet."""
    place = {"golden_chunk_ids": [f"d{doc}#{section}"], "doc_ids": [f"d{doc}"], "kind": kind, "reason": reason}
    return {"question_id": f"q{number}", "question": f"How is {number}?", "answer": "5", "quotes": [], **place}


ROWS = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 2), st.sampled_from(["date", "number"]), st.sampled_from([None, "leak"])
    ),
    max_size=25,
).map(lambda given: [row(number, *one) for number, one in enumerate(given)])


def chosen(rows, keep, seed=0):
    """Return the ids of the chosen rows."""
    found = choose(tables.frame(tables.CLEANED, rows), HEADINGS, keep, seed=seed)
    assert found.height == len(rows)
    assert found["question_id"].to_list() == [one["question_id"] for one in rows]
    return set(found.filter(pl.col("reason").is_null())["question_id"])


@given(ROWS, st.integers(1, 25), st.randoms())
def test_a_choice_is_the_same_in_any_order_and_grows(rows, keep, luck):
    """So many are chosen as are wanted and there; the order does not matter, and one more only adds to them."""
    found, mixed = chosen(rows, keep), [*rows]
    luck.shuffle(mixed)
    kept = [one["question_id"] for one in rows if one["reason"] is None]
    assert found <= set(kept)
    assert len(found) == min(keep, len(kept))
    assert chosen(mixed, keep) == found <= chosen(rows, keep + 1)


@given(ROWS, st.integers(1, 25))
def test_what_people_approved_is_chosen_first(rows, keep):
    """No row that a person approved is left out while another one is kept."""
    kept = [one["question_id"] for one in rows if one["reason"] is None]
    approved = {*kept[::3]}
    found = choose(tables.frame(tables.CLEANED, rows), HEADINGS, keep, seed=0, first=approved)
    chosen_ = set(found.filter(pl.col("reason").is_null())["question_id"])
    assert len(approved & chosen_) == min(keep, len(approved))


@given(ROWS, st.integers(1, 25))
def test_a_choice_covers_documents_and_sections_first(rows, keep):
    """No document has two more than one that has questions left over, nor has a section within its document."""
    found = chosen(rows, keep)
    kept = [one for one in rows if one["reason"] is None]
    for part in (lambda one: one["doc_ids"][0], lambda one: one["golden_chunk_ids"][0]):
        for one in kept:
            if one["question_id"] not in found:
                rivals = [other for other in kept if other["question_id"] in found]
                if part(one) == one["golden_chunk_ids"][0]:
                    rivals = [other for other in rivals if other["doc_ids"] == one["doc_ids"]]
                counts = {part(other): 0 for other in [*rivals, one]}
                for other in rivals:
                    counts[part(other)] += 1
                assert max(counts.values()) <= counts[part(one)] + 1


def test_coverage_counts_what_has_a_question():
    """Documents and sections with a kept question are counted, boilerplate left out, and how questions begin."""
    chunks = pl.DataFrame(
        [
            {"chunk_id": one, "doc_id": one[:2], "heading": head, "boilerplate": one == "d2#2"}
            for one, head in HEADINGS.items()
        ]
    )
    rows = [row(0, 0, 0, "date"), row(1, 0, 1, "number"), row(2, 1, 0, "number", "leak")]
    found = coverage(tables.frame(tables.CLEANED, rows), [chunks])
    assert found == {"documents": [1, 3], "sections": [2, 8], "kinds": {"date": 1, "number": 1}, "begin": {"how": 2}}
