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


def covered(rows, texts):
    """Return what coverage says of chunks with these texts by their ids."""
    chunks = pl.DataFrame(
        [
            {"chunk_id": one, "doc_id": one[:2], "heading": HEADINGS[one], "text": text, "boilerplate": one == "d2#2"}
            for one, text in texts.items()
        ]
    )
    return coverage(tables.frame(tables.CLEANED, rows), [chunks.head(2), chunks.tail(-2)])


def quoting(one, text, quote):
    """Return a row whose quote stands in the chunk's text."""
    start = text.index(quote)
    return {**one, "quotes": [{"chunk_id": one["golden_chunk_ids"][0], "start": start, "end": start + len(quote)}]}


def test_coverage_counts_what_has_a_question():
    """Documents, sections and facts with a kept question are counted, boilerplate left out, and how questions begin."""
    texts = dict.fromkeys(HEADINGS, "# Part 7\n\nIt weighs 8 kg. It is green.\n\n1. Turn it.\n2. Wait 5 minutes.")
    texts["d1#0"] = texts["d1#1"] = "The seal holds for 24 months."
    rows = [
        quoting(row(0, 0, 0, "date"), texts["d0#0"], "weighs 8"),
        quoting(row(1, 0, 1, "number"), texts["d0#1"], "It is green."),
        quoting(row(2, 1, 0, "number", "leak"), texts["d1#0"], "24 months"),
    ]
    counts = {"documents": [1, 3], "sections": [2, 8], "facts": [1, 7]}
    assert covered(rows, texts) == {**counts, "kinds": {"date": 1, "number": 1}, "begin": {"how": 2}}


@given(ROWS)
def test_a_quoted_fact_counts_once(rows):
    """The facts with a question are those that a kept row quotes, however many quote them."""
    texts = {one: f"Pump {one[1]} of part {one[3]} lasts. It is blue." for one in HEADINGS}
    asked = [quoting(one, texts[one["golden_chunk_ids"][0]], "lasts") for one in rows]
    golden = {one["golden_chunk_ids"][0] for one in rows if one["reason"] is None} - {"d2#2"}
    assert covered(asked, texts)["facts"] == [len(golden), 8]
