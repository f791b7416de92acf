"""Decisions of people: a file that only grows, and what it does to the questions of a build."""

import json
from contextlib import suppress
from dataclasses import asdict, replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.curation import clean as cleaning
from raft.curation import decisions
from raft.curation.decisions import APPROVED, EDITED, REJECTED, UNDONE, Decision
from raft.errors import UsageError
from raft.store import tables
from raft.testing import HashEmbedder, OverlapRetriever, make_chunks, make_question

CHUNKS = make_chunks(
    {
        "pumps": [
            "The Orlin 4 pump weighs 14 kg and is sold for 320 euros in Halden.",
            "Ines Varga repairs the Orlin 4 pump within 9 days of its arrival.",
            "Spare seals of the Orlin 4 pump are stored in hall 7 of the harbour.",
        ]
    }
)
ROWS = {row["chunk_id"]: row for row in CHUNKS.iter_rows(named=True)}
ASKED = [
    ("pumps#0", "How heavy is the Orlin 4 pump?", "14 kg", "number"),
    ("pumps#0", "For how many euros is the Orlin 4 pump sold in Halden?", "320 euros", "number"),
    ("pumps#1", "Who repairs the Orlin 4 pump?", "Ines Varga", "name"),
    ("pumps#1", "Who is it that repairs it?", "Ines Varga", "name"),
    ("pumps#2", "In which hall are spare seals of the Orlin 4 pump stored?", "hall 7", "fact"),
]
QUESTIONS = tables.frame(
    tables.QUESTIONS, [make_question(ROWS[name], asked, answer, kind=kind) for name, asked, answer, kind in ASKED]
)
NAMES = QUESTIONS["question_id"].to_list()
TEXTS = {row["question_id"]: (row["question"], row["answer"]) for row in QUESTIONS.iter_rows(named=True)}
EDIT = {"question": "What does the Orlin 4 pump weigh?", "answer": "14 kg"}


def verdict(name, said, who="Ada", **more):
    """Return a decision on one of the questions."""
    digest = decisions.digest_of(*TEXTS[name])
    more |= {"edit": more.get("edit") or EDIT} if said == EDITED else {}
    more |= {"reason": "garbled"} if said == REJECTED else {}
    return Decision(name, digest, said, who, **more)


def clean(lines):
    """Clean the questions by these decisions."""
    decided = decisions.decided(decisions.said(lines, TEXTS))
    return cleaning.clean(
        decisions.edited(QUESTIONS, decided),
        CHUNKS,
        retriever=OverlapRetriever(CHUNKS),
        embedder=HashEmbedder(),
        held_out=frozenset(),
        min_words=4,
        max_words=40,
        max_answer_words=60,
        similarity=0.95,
        round_trip_k=3,
        judge=None,
        judge_prompt=None,
        judge_minimum=0.5,
        decided=decided,
    )


def reasons(lines):
    """Return the reason of each question."""
    return dict(clean(lines).select("question_id", "reason").iter_rows())


def written(path, lines):
    """Write decisions to a file and return its path."""
    for one in lines:
        decisions.add(path, one)
    return path


LINES = st.lists(
    st.builds(
        verdict,
        st.sampled_from(NAMES),
        st.sampled_from([APPROVED, REJECTED, EDITED, UNDONE]),
        st.sampled_from(["Ada", "Bo"]),
    ),
    max_size=12,
)


@given(LINES, st.randoms())
def test_the_order_of_decisions_on_different_rows_does_not_matter(lines, random):
    """Files that agree on the order of each reviewer's verdicts on each row say the same."""
    queues = {}
    for one in lines:
        queues.setdefault((one.question_id, one.reviewer), []).append(one)
    mixed, left = [], [list(queue) for queue in queues.values()]
    while left := [queue for queue in left if queue]:
        mixed.append(random.choice(left).pop(0))
    said = [decisions.decided(decisions.said(order, TEXTS)) for order in (lines, mixed)]
    assert said[0] == said[1]
    assert list(said[0]) == list(said[1])


@settings(max_examples=20)
@given(LINES)
def test_rows_in_equals_rows_out_and_cleaning_again_changes_nothing(lines):
    """Whatever people say, each question has its one row, and only what they wrote is written otherwise."""
    found, again = clean(lines), clean(lines)
    assert found.equals(again)
    assert found["question_id"].to_list() == NAMES
    last = decisions.decided(decisions.said(lines, TEXTS))
    for row in found.iter_rows(named=True):
        changed = (row["question"], row["answer"]) != TEXTS[row["question_id"]]
        assert changed == (row["model"] == decisions.HUMAN) == (last.get(row["question_id"], [""])[0] == EDITED)
        assert (row["reason"] == cleaning.REJECTED) <= (last.get(row["question_id"], [""])[0] == REJECTED)


def test_the_last_verdict_of_a_reviewer_counts_and_undoing_brings_back_the_one_before():
    """A reviewer may think again, and again."""
    lines = [verdict(NAMES[0], said) for said in (APPROVED, REJECTED, UNDONE, UNDONE, UNDONE)]
    expected = [[APPROVED], [REJECTED], [APPROVED], None, None]
    for count, last in enumerate(expected, 1):
        assert decisions.decided(decisions.said(lines[:count], TEXTS)).get(NAMES[0]) == last


def test_reviewers_who_differ_count_as_a_rejection_until_they_agree():
    """A row that one of two would not sign is not learned from; what they agree on holds, whatever their reasons."""
    one, two = verdict(NAMES[0], APPROVED), verdict(NAMES[0], REJECTED, "Bo")
    assert decisions.settled({"Ada": one, "Bo": two}).reason == decisions.DIFFER
    assert reasons([one, two])[NAMES[0]] == cleaning.REJECTED
    assert reasons([one, two, verdict(NAMES[0], APPROVED, "Bo")])[NAMES[0]] is None
    both = {"Ada": replace(two, reviewer="Ada", reason="trivial"), "Bo": two}
    assert decisions.settled(both).reason == "trivial"


def test_a_rejected_row_is_dropped_and_its_twin_does_not_come_back():
    """A rejection drops the row for its own reason, and what was dropped as its duplicate stays so."""
    twin = {**make_question(ROWS["pumps#0"], "How heavy is the Orlin 4 pump", "14 kg", kind="number")}
    both = tables.frame(tables.QUESTIONS, [*QUESTIONS.iter_rows(named=True), {**twin, "question_id": "twin"}])
    options = {
        **{"retriever": OverlapRetriever(CHUNKS), "embedder": HashEmbedder(), "held_out": frozenset()},
        **{"min_words": 4, "max_words": 40, "max_answer_words": 60, "similarity": 0.95, "round_trip_k": 3},
        **{"judge": None, "judge_prompt": None, "judge_minimum": 0.5},
    }
    twin_text = both.with_columns(question=pl.col("question").str.strip_suffix("?") + "?")
    before = dict(cleaning.clean(twin_text, CHUNKS, **options).select("question_id", "reason").iter_rows())
    (kept,) = [name for name in (NAMES[0], "twin") if before[name] is None]
    after = cleaning.clean(twin_text, CHUNKS, **options, decided={kept: [REJECTED]})
    found = dict(after.select("question_id", "reason").iter_rows())
    assert found == {**before, kept: cleaning.REJECTED}


def test_what_a_person_vouches_for_is_kept_against_rules_of_form_alone():
    """An approval outweighs what a rule says of the wording; nothing outweighs that the documents do not say it."""
    assert reasons([])[NAMES[3]] == "does not stand alone"
    assert reasons([verdict(NAMES[3], APPROVED)])[NAMES[3]] is None
    wrong = {"question": "How heavy is the Orlin 4 pump in Halden?", "answer": "15 kg"}
    assert reasons([verdict(NAMES[0], EDITED, edit=wrong)])[NAMES[0]] == "answer not in chunk"


def test_an_edit_brings_its_own_quote_which_is_found_in_the_source():
    """A row that a person wrote has the provenance `human`, and a quote where it stands in the chunk."""
    edit = {"question": "Where is the Orlin 4 pump sold for 320 euros?", "answer": "Halden"}
    quote = "sold for 320 euros in Halden"
    row = clean([verdict(NAMES[0], EDITED, edit={**edit, "quote": quote})]).row(0, named=True)
    assert (row["model"], row["reason"], row["question"]) == (decisions.HUMAN, None, edit["question"])
    (found,) = row["quotes"]
    assert ROWS["pumps#0"]["text"][found["start"] : found["end"]] == found["text"] == quote


def test_a_decision_on_a_text_that_changed_holds_no_more():
    """A verdict is about what was read: of a question that another build writes otherwise it says nothing."""
    other = {name: (question, "15 kg") for name, (question, _) in TEXTS.items()}
    assert decisions.said([verdict(NAMES[0], REJECTED)], other) == {}


@settings(max_examples=40)
@given(st.data())
def test_a_file_that_is_cut_off_anywhere_keeps_all_whole_lines_and_grows_on(tmp_path_factory, data):
    """However short a kill leaves the file, whole lines count, the torn one is said, and the next is written well."""
    lines = [verdict(NAMES[0], APPROVED, "Zoë 日本"), verdict(NAMES[1], EDITED), verdict(NAMES[2], REJECTED)]
    path = written(tmp_path_factory.mktemp("torn") / "decisions.jsonl", lines)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    found, torn = decisions.read(path)
    ends = [at + 1 for at, byte in enumerate(whole) if byte == 10]
    assert found == lines[: sum(cut >= end - 1 for end in ends)]
    assert torn == (cut not in (0, *ends) and cut + 1 not in ends)
    decisions.add(path, verdict(NAMES[4], APPROVED))
    assert decisions.read(path) == ([*found, verdict(NAMES[4], APPROVED)], False)


@pytest.mark.parametrize("end", [b"\r", b"\r# a remark", b"\xff\xfe{\x00x"])
def test_what_is_no_torn_line_is_never_taken_away(end, tmp_path):
    """A file that another program wrote otherwise is read or refused, and keeps what it holds."""
    path = written(tmp_path / "decisions.jsonl", [verdict(NAMES[0], APPROVED)])
    before = path.read_bytes().rstrip(b"\n") + end
    path.write_bytes(before)
    with suppress(UsageError):
        assert decisions.read(path) == ([verdict(NAMES[0], APPROVED)], False)
    decisions.add(path, verdict(NAMES[1], APPROVED))
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"verdict": "maybe"}, "wrong verdict"),
        ({"question_id": None}, "no question_id"),
        ({"reviewer": 7}, "wrong reviewer"),
        ({"verdict": EDITED}, "wrong edit"),
        ({"verdict": EDITED, "edit": {"question": "Why?", "answer": " "}}, "wrong edit"),
        ({"verdict": EDITED, "edit": {"question": "Why?", "answer": "x" * 5000}}, "wrong edit"),
    ],
)
def test_a_line_that_is_no_decision_is_named(changes, what, tmp_path):
    """A file of a team may have been written by hand: what is wrong with it is said with its line."""
    path = tmp_path / "team.jsonl"
    good = json.dumps(asdict(verdict(NAMES[0], APPROVED)))
    path.write_text(f"{good}\n{json.dumps({**json.loads(good), **changes})}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=what) as caught:
        decisions.read(path)
    assert caught.value.where == f"{path}, line 2"
    assert caught.value.hint
