"""Splitting: what is held out, and that nothing learned from is measured with."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.curation import split, user_questions
from raft.errors import RaftError, UsageError
from raft.rag.format import ABSTENTION
from raft.similarity import near
from raft.store import tables
from raft.testing import HashEmbedder, make_chunks, make_question
from raft.text import normalise

THINGS = ["kettle", "ladder", "bridge", "window", "garden", "engine", "violin", "saddle", "mirror", "hammer", "carpet"]
CHUNKS = make_chunks({f"d{n}": [f"The {thing} costs {n + 100} euros."] for n, thing in enumerate(THINGS)})
DOCUMENTS = tables.frame(
    tables.DOCUMENTS,
    [{"doc_id": f"d{n}", "path": f"{thing}.md", "characters": 100} for n, thing in enumerate(THINGS)],
)


def question(number, text=None, **changes):
    """Return a cleaned question on one of the documents."""
    chunk = CHUNKS.row(number, named=True)
    row = make_question(chunk, text or f"How much does the {THINGS[number]} cost?", f"{number + 100} euros")
    return {**row, **changes}


ROWS = [question(number) for number in range(len(THINGS))]


def cleaned(rows):
    """Return the rows as a cleaned table."""
    return tables.frame(tables.CLEANED, rows)


def split_up(rows, **changes):
    """Split with everyday settings."""
    usual = {"held_out": frozenset(), "user_questions": None, "embedder": HashEmbedder(), "similarity": 0.92}
    return split.split(cleaned(rows), **{**usual, "seen": 0.1, "valid": 0.1, "seed": 0, **changes})


def user(*questions):
    """Return a user's own questions."""
    rows = [{"question_id": f"u{n}", "question": text, "answers": ["x"]} for n, text in enumerate(questions)]
    return tables.frame(tables.EVALUATION, [{**row, "golden_chunk_ids": [], "split": "user"} for row in rows])


def sizes(*characters):
    """Return a table of documents of the given lengths."""
    rows = [{"doc_id": f"d{n}", "characters": size} for n, size in enumerate(characters)]
    return tables.frame(tables.DOCUMENTS, rows)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=30), st.floats(0.01, 1), st.integers())
def test_at_least_one_document_is_held_out_and_at_most_a_fifth(characters, share, seed):
    """Some document is held out, and a fifth of the characters at most, unless the shortest document is longer."""
    documents = sizes(*characters)
    held = split.hold_out(documents, share=share, seed=seed)
    size = documents.filter(pl.col("doc_id").is_in(list(held)))["characters"].sum()
    assert held
    assert size <= sum(characters) / 5 or (len(held) == 1 and size == min(characters))
    assert held == split.hold_out(documents.reverse(), share=share, seed=seed)


def test_held_out_documents_reach_the_wanted_share():
    """Documents are held out until the share of the characters is reached, and no longer."""
    assert len(split.hold_out(sizes(*[10] * 100), share=0.1, seed=1)) == 10
    assert len(split.hold_out(sizes(*[10] * 100), share=0.9, seed=1)) == 20
    assert split.hold_out(sizes(*[10] * 100), share=0.1, seed=1) != split.hold_out(
        sizes(*[10] * 100), share=0.1, seed=2
    )


def test_nothing_is_held_out_of_one_document_or_on_request():
    """A single readable document is not held out, and a share of 0 holds out none."""
    broken = sizes(10, 20).with_columns(error=pl.Series([None, "no text"]))
    assert split.hold_out(broken, share=0.1, seed=0) == frozenset()
    assert split.hold_out(sizes(10, 20), share=0.0, seed=0) == frozenset()


def test_documents_may_come_in_parts():
    """The choice is the same whether the documents come as one table or as several."""
    parts = [DOCUMENTS.head(4), DOCUMENTS.tail(-4)]
    assert split.hold_out(iter(parts), share=0.1, seed=3) == split.hold_out(DOCUMENTS, share=0.1, seed=3)


def test_named_documents_are_held_out_besides():
    """Documents named by globs are held out whatever their size, and the share is of the others."""
    drawn = split.hold_out(DOCUMENTS, share=0.1, seed=0)
    named = frozenset({"d0", "d1", "d5", "d9"})
    globs = ["[klh]*", "engine.md"]
    assert split.hold_out(DOCUMENTS, share=0.0, seed=0, besides=globs) == named
    held = split.hold_out(DOCUMENTS, share=0.1, seed=0, besides=globs)
    others = DOCUMENTS.filter(~pl.col("doc_id").is_in(list(named)))
    assert held == named | split.hold_out(others, share=0.1, seed=0)
    assert len(held) == len(named) + 1
    assert split.hold_out(DOCUMENTS, share=0.1, seed=0, besides=[]) == drawn


def test_globs_match_paths_and_files_of_records():
    """A glob is matched with the whole path, and a file of records with all its records; unreadable files are left."""
    paths = ["a/one.md", "a/b/two.md", "One.md", "faq.jsonl#0", "faq.jsonl#1", "a/broken.md"]
    rows = [
        {"doc_id": f"d{n}", "path": path, "error": "?" if "broken" in path else None} for n, path in enumerate(paths)
    ]
    documents = tables.frame(tables.DOCUMENTS, rows)
    for glob, found in {"a/*": {"d0", "d1"}, "one.md": None, "faq.jsonl": {"d3", "d4"}, "*#1": {"d4"}}.items():
        if found is None:
            with pytest.raises(UsageError):
                split.matching(documents, [glob])
        else:
            assert split.matching(documents, [glob]) == found
    assert split.matching(documents, []) == frozenset()


def test_a_glob_that_names_nothing_or_everything_is_refused():
    """A glob without a document names the nearest path; globs that leave nothing to ask about are an error."""
    with pytest.raises(UsageError, match=r"ketle\.md.*Did you mean kettle\.md"):
        split.hold_out(DOCUMENTS, share=0.1, seed=0, besides=["ladder.md", "ketle.md"])
    with pytest.raises(UsageError, match="no document to ask about"):
        split.hold_out(DOCUMENTS, share=0.1, seed=0, besides=["*"])


def test_rows_that_touch_held_out_documents_are_unseen():
    """A question on a held-out document, be it with another, is only measured with."""
    both = question(0, "Is the kettle or the ladder dearer?", kind="comparison", doc_ids=["d0", "d1"])
    result = split_up([both, *ROWS[1:]], held_out=frozenset({"d1", "d2"}))
    assert result["split"].to_list()[:3] == ["eval_unseen"] * 3
    assert "eval_unseen" not in result["split"].to_list()[3:]


def test_dropped_rows_have_no_split():
    """A row with a reason stays as it was, without a split."""
    result = split_up([{**ROWS[0], "reason": "too short"}, *ROWS[1:]])
    assert result.row(0, named=True)["reason"] == "too short"
    assert result["split"].null_count() == 1


def test_questions_for_one_fact_share_a_split():
    """Two wordings of a question for one fact never stand on both sides."""
    rows = [*ROWS, *(question(n, f"What is the price one pays for a {thing}?") for n, thing in enumerate(THINGS))]
    result = split_up(rows, seen=0.4, valid=0.3)
    assert result["split"].to_list()[: len(ROWS)] == result["split"].to_list()[len(ROWS) :]
    assert set(result["split"]) == {"eval_seen", "valid", "train"}


def test_unanswerable_questions_are_split_one_by_one():
    """Questions without golden chunks do not all fall into one split."""
    rows = [
        make_question(row, f"Who broke the {thing}?", ABSTENTION, kind="unanswerable")
        for row, thing in zip(CHUNKS.iter_rows(named=True), THINGS, strict=True)
    ]
    assert {"eval_seen", "valid", "train"} <= set(split_up(rows, seen=0.4, valid=0.3)["split"])


@pytest.mark.parametrize("seed", range(5))
def test_small_tables_still_have_something_to_learn_from(seed):
    """There is always a training row, and with ten rows or more a validation row."""
    assert split_up(ROWS[:1], seen=0.9, seed=seed)["split"].to_list() == ["train"]
    splits = split_up(ROWS[:10], valid=0.01, seed=seed)["split"].to_list()
    assert {"train", "valid"} <= set(splits)
    assert "valid" not in split_up(ROWS, valid=0.0, seed=seed)["split"].to_list()


def test_a_question_that_the_user_asks_is_not_learned():
    """A question equal, nearly equal or similar to the user's own is a leak, and names it."""
    own = user(
        "how much does the KETTLE cost", "The ladder, how much does the ladder cost?", "How much does the boat cost?"
    )
    result = split_up(ROWS, user_questions=own, seen=0.0, similarity=0.9)
    assert result["reason"].to_list()[:3] == ["leak", "leak", None]
    assert result["duplicate_of"].to_list()[:3] == ["u0", "u1", None]
    assert result["split"].to_list()[:2] == [None, None]


def test_look_alikes_are_no_leaks():
    """A question on another product, with another number or name, may be learned."""
    rows = [question(0, "How heavy is the Quillon 2 heater?"), question(1, "Who signs the Aster contract?")]
    own = user("How heavy is the Quillon 3 heater?", "Who signs the Basel contract?")
    assert split_up(rows, user_questions=own, seen=0.0, valid=0.0, similarity=0.5)["reason"].to_list() == [None, None]


QUESTIONS = st.lists(
    st.builds(
        question,
        st.integers(0, 10),
        st.lists(st.sampled_from([*THINGS[:3], "new", "old", "cost", "2", "Bo"]), min_size=1, max_size=4).map(
            lambda words: f"How much is the {' '.join(words)}?"
        ),
        reason=st.sampled_from([None, None, None, "too short"]),
    ),
    max_size=25,
    unique_by=lambda row: row["question_id"],
)
HELD = st.frozensets(st.sampled_from(["d0", "d1", "d2"]))


@settings(max_examples=40, deadline=None)
@given(QUESTIONS, HELD, st.integers(0, 99))
def test_no_leak_is_left(rows, held, seed):
    """After splitting the final check finds nothing, and rows are unseen exactly where their document is held out."""
    own = user("How much is the new kettle?")
    result = split_up(rows, held_out=held, user_questions=own, seen=0.3, valid=0.2, seed=seed)
    check(result, held, own)
    for before, row in zip(rows, result.iter_rows(named=True), strict=True):
        assert (row["split"] is None) == (row["reason"] is not None)
        unseen = before["reason"] is None and not held.isdisjoint(before["doc_ids"])
        assert unseen == (row["split"] == "eval_unseen")


@settings(max_examples=25, deadline=None)
@given(QUESTIONS, HELD, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_split(rows, held, chance):
    """Each question has the same split wherever it stands in the table."""
    one = split_up(rows, held_out=held, seen=0.3)
    two = split_up(chance.sample(rows, len(rows)), held_out=held, seen=0.3)
    assert one.sort("question_id").equals(two.sort("question_id"))


def check(table, held_out, own=None):
    """Run the final check with everyday settings."""
    split.check_leaks(table, split.evaluation_rows(table, DOCUMENTS, own), held_out=held_out)


def test_the_final_check_refuses_a_leak():
    """A training question that stands among the evaluation questions fails the build, by name."""
    rows = [{**ROWS[0], "split": "train"}, {**ROWS[1], "split": "eval_seen"}]
    check(cleaned(rows), frozenset())
    with pytest.raises(RaftError, match="kettle"):
        check(cleaned(rows), frozenset(), user("How much does the kettle cost?"))
    with pytest.raises(RaftError, match="held-out document"):
        check(cleaned(rows), frozenset({"d0"}))
    same = [*rows, {**question(1, "What is the price of the ladder?"), "split": "valid"}]
    with pytest.raises(RaftError, match="price of the ladder"):
        check(cleaned(same), frozenset())


def reworded(number, text):
    """Return a question that stays as an other wording of it, and that wording, which names it."""
    before = question(number)
    new = question(number, text, prompt=f"reword@1 {before['question_id']}")
    return [{**before, "reason": "other wording", "duplicate_of": new["question_id"]}, new]


def test_a_question_that_was_worded_anew_is_still_a_leak():
    """A measured question that equals another wording of what would be learned makes that a leak, by name."""
    rows = [*reworded(0, "What do I have to pay for boiling water?"), *ROWS[1:]]
    assert split_up(rows, seen=0.0)["reason"].to_list()[:2] == ["other wording", None]
    result = split_up(rows, user_questions=user("how much does the kettle cost"), seen=0.0)
    assert result.select("reason", "duplicate_of", "split").rows()[1] == ("leak", "u0", None)
    check(result, frozenset(), user("how much does the kettle cost"))


def test_a_leak_is_found_through_a_duplicate_of_its_wording():
    """Where the wording that stayed is a duplicate of another row, that row stands for the question, and leaks."""
    before, new = reworded(0, "What do I have to pay for boiling water?")
    other = question(0, "What is to be paid for boiling water?")
    rows = [before, {**new, "reason": "duplicate", "duplicate_of": other["question_id"]}, other, *ROWS[1:]]
    result = split_up(rows, user_questions=user("How much does the kettle cost?"), seen=0.0)
    assert result["reason"].to_list()[:3] == ["other wording", "duplicate", "leak"]


def test_what_was_measured_before_it_was_worded_anew_is_not_learned():
    """A question that equals what a measured one was reworded from is a leak as well."""
    before, new = reworded(0, "What do I have to pay for boiling water?")
    same = {**question(1, before["question"]), "question_id": "same"}
    result = split_up([before, new, same, *ROWS[1:]], held_out=frozenset({"d0"}), seen=0.0)
    assert result["split"][1] == "eval_unseen"
    assert result.row(2, named=True)["reason"] == "leak"


@pytest.mark.parametrize("named", [True, False])
def test_the_final_check_looks_at_other_wordings(named):
    """What is learned may neither have been reworded from a measured question nor be chosen in its place."""
    before, new = reworded(0, "What do I have to pay for boiling water?")
    pair = [before, {**new, "prompt": "fact"}] if named else [{**before, "duplicate_of": None}, new]
    rows = [pair[0], {**pair[1], "split": "train"}, {**ROWS[1], "split": "eval_seen"}]
    check(cleaned(rows), frozenset())
    with pytest.raises(RaftError, match="boiling water"):
        check(cleaned(rows), frozenset(), user("how much does kettle cost"))


@pytest.mark.parametrize("own", ["how much does  kettle cost", "How much does the KETTLE cost ?"])
def test_the_final_check_does_not_rest_on_what_drops_leaks(monkeypatch, own):
    """With dropping, its index and its comparisons out of order, a leak that is left still fails the build."""
    monkeypatch.setattr(split, "_leaks", lambda *args, **more: iter(()))
    monkeypatch.setattr(split, "NearIndex", None)
    monkeypatch.setattr(split, "cosine_blocks", None)
    monkeypatch.setattr(split, "normalise", lambda text: text)
    result = split_up(ROWS, user_questions=user(own), seen=0.0)
    with pytest.raises(RaftError, match=r"kettle.*evaluation question u0"):
        check(result, frozenset(), user(own))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["Bo", "kettle,", "the", "the", "A", "5", "kg", "in", "(2014)", "-3", "“new”", "What"]),
        min_size=1,
    ),
    st.data(),
)
def test_what_the_final_check_finds_would_have_been_dropped(words, data):
    """Questions that are the same to the final check are nearly equal, so that it never fails a sound build."""
    changes = st.sampled_from([str, str.upper, lambda word: word + "?", lambda word: "" if word == "the" else word])
    one, two = " ".join(words), " ".join(data.draw(changes)(word) for word in words)
    if normalise(one) and split._bare(one) == split._bare(two):
        assert near(one, two)


def test_copies_are_held_out_together_or_not_at_all():
    """Copies count as one document with all their characters, and naming one of them names the others."""
    copies = [["d0", "d3", "d7"]]
    for seed in range(30):
        held = split.hold_out(DOCUMENTS, share=0.2, seed=seed, copies=copies)
        assert held.isdisjoint(copies[0])  # more than a fifth
        held = split.hold_out(DOCUMENTS, share=0.2, seed=seed, copies=[["d0", "d3"]])
        assert len(held & {"d0", "d3"}) in (0, 2)
    assert any("d3" in split.hold_out(DOCUMENTS, share=0.2, seed=seed, copies=[["d0", "d3"]]) for seed in range(30))
    assert split.hold_out(DOCUMENTS, share=0.0, seed=0, besides=["window.md"], copies=copies) == set(copies[0])
    assert split.hold_out(sizes(10, 20), share=0.2, seed=0, copies=[["d0", "d1"]]) == frozenset()


def test_questions_for_one_fact_of_copies_share_a_split():
    """What two copies say is one fact, whichever of them is asked about."""
    copied = [{**row, "golden_chunk_ids": [f"x{n}"], "doc_ids": [f"x{n}"]} for n, row in enumerate(ROWS)]
    rows = [
        *ROWS,
        *(
            make_question(CHUNKS.row(0, named=True), f"What is {n}?", row["answer"])
            | {"golden_chunk_ids": row["golden_chunk_ids"], "doc_ids": row["doc_ids"]}
            for n, row in enumerate(copied)
        ),
    ]
    copies = [sorted([f"d{n}", f"x{n}"]) for n in range(len(ROWS))]
    splits = split_up(rows, seen=0.4, valid=0.3, copies=copies)["split"].to_list()
    assert splits[: len(ROWS)] == splits[len(ROWS) :]
    assert len(set(splits)) == 3


def write(path, *lines):
    """Write the lines, as JSON where they are not text, and return the path."""
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_users_register_their_own_questions(tmp_path):
    """A JSONL file of questions and answers becomes a table of evaluation questions."""
    path = write(
        tmp_path / "eval.jsonl",
        {"question": "How much is the kettle?", "answers": "100 euros", "document": "kettle.md"},
        "",
        {"question": "Who is it?", "answers": [], "question_id": "mine"},
        {"question": "Is it?", "answers": ["yes", "Yes.\u2028"], "kind": "decision"},
    )
    table = user_questions.register(path, DOCUMENTS)
    assert table.schema == tables.EVALUATION
    assert table["answers"].to_list() == [["100 euros"], [ABSTENTION], ["yes", "Yes.\u2028"]]
    assert table["kind"].to_list() == ["fact", "unanswerable", "decision"]
    assert table["question_id"][1] == "mine"
    assert set(table["split"]) == {"user"}


@pytest.mark.parametrize("answer", ["No information is stored about visitors.", "Unknown", "It is not stated."])
def test_what_a_user_says_the_answer_is_is_an_answer(tmp_path, answer):
    """A reference that sounds like an abstention does not make a user's question unanswerable."""
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"question": "What is stored?", "answers": [answer]}), encoding="utf-8")
    (row,) = user_questions.register(path, DOCUMENTS).to_dicts()
    assert (row["kind"], row["answers"]) == ("fact", [answer])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ({"query": "Who?", "answers": []}, "no key 'query'"),
        ({"question": " ", "answers": []}, "no question"),
        ({"question": "Who?"}, "no answers"),
        ({"question": "Who?", "answers": [1]}, "list of texts"),
        ({"question": "Who?", "answers": ["Bo", ""]}, "An answer is empty"),
        ({"question": "Who?", "answers": {"a": 1}}, "list of texts"),
        ({"question": "Who?", "answers": [], "kind": 3}, "value of kind"),
        ({"question": "Who?", "answers": [], "document": "ketle.md"}, "Did you mean kettle.md"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, said):
    """A line that cannot be used is refused with its number, what is wrong, and a line that is right."""
    path = write(tmp_path / "eval.jsonl", {"question": "Who?", "answers": ["Bo"]}, line)
    with pytest.raises(UsageError, match=said) as caught:
        user_questions.register(path, DOCUMENTS)
    assert "line 2" in str(caught.value)
    assert '"answers": ["2 years"]' in str(caught.value)


def test_a_file_without_questions_is_refused(tmp_path):
    """An empty file, a missing one, and one with a question_id twice are usage errors."""
    twice = {"question": "Who?", "answers": ["Bo"], "question_id": "q"}
    for path in (
        write(tmp_path / "empty.jsonl", ""),
        tmp_path / "missing.jsonl",
        write(tmp_path / "twice.jsonl", twice, twice),
    ):
        with pytest.raises(UsageError):
            user_questions.register(path, DOCUMENTS)


def test_a_question_that_stands_twice_has_the_answers_of_both_lines(tmp_path):
    """Answers of one question in several lines are references of it, unless one line says that there is none."""
    lines = [
        {"question": "How much is the kettle?", "answers": ["100 euros"]},
        {"question": "Who is it?", "answers": "Bo"},
        {"question": "how much is the kettle", "answers": ["100 euros", "a hundred euros"]},
        {"question": "How much is the kettle?", "answers": ["100 euros"], "document": "kettle.md"},
        {"question": "How much is the kettle?", "answers": ["100 €"], "question_id": "mine"},
    ]
    table = user_questions.register(write(tmp_path / "eval.jsonl", *lines), DOCUMENTS)
    assert table["answers"].to_list() == [["100 euros", "a hundred euros"], ["Bo"], ["100 euros"], ["100 €"]]
    assert table["question_id"].n_unique() == 4
    with pytest.raises(UsageError, match=r"with an answer and without one(.|\n)*line 2"):
        user_questions.register(write(tmp_path / "both.jsonl", lines[1], {**lines[1], "answers": []}), DOCUMENTS)


def test_the_example_line_of_the_errors_is_right(tmp_path):
    """The line that an error shows as right is read without one."""
    documents = DOCUMENTS.head(1).with_columns(path=pl.lit("warranty.md"))
    assert len(user_questions.register(write(tmp_path / "eval.jsonl", user_questions._EXAMPLE), documents)) == 1


def test_evaluation_rows_are_those_measured_with():
    """Seen, unseen and the user's questions are listed with their answer and their document's path."""
    result = split_up(ROWS, held_out=frozenset({"d3"}), seen=0.5)
    table = split.evaluation_rows(result, DOCUMENTS, user("Who?"))
    assert table.schema == tables.EVALUATION
    measured = result.filter(pl.col("split").is_in(["eval_seen", "eval_unseen"]))
    assert table["question_id"].to_list() == [*measured["question_id"], "u0"]
    assert table.filter(split="eval_unseen").row(0, named=True)["document"] == "window.md"
    assert table["answers"].to_list()[0] == [measured["answer"][0]]


def test_what_filters_said_of_a_row_is_no_part_of_what_is_measured():
    """Rows with readings become questions to measure with like those without."""
    noted = [{**row, "readings": [{"asked": "reader", "verdict": 1.0, "said": "yes"}]} for row in ROWS]
    result = split_up(noted, held_out=frozenset({"d3"}), seen=0.5)
    assert "readings" in result.columns
    assert split.evaluation_rows(result, DOCUMENTS, user("Who?")).schema == tables.EVALUATION


def test_a_question_of_the_user_is_measured_once():
    """A held-out row that asks what the user asks, but for case and punctuation, gives way to the user's."""
    result = split_up(ROWS, held_out=frozenset({"d3"}), seen=0.5)
    measured = result.filter(pl.col("split").is_in(["eval_seen", "eval_unseen"]))
    own = user(measured["question"][0].upper().replace("?", " ?"))
    assert split.evaluation_rows(result, DOCUMENTS, own)["question_id"].to_list() == [
        *measured["question_id"][1:],
        "u0",
    ]


def test_every_question_that_was_learned_is_found():
    """Each question to measure with that says the same as a learned one is named, with that one, and no other is."""
    learned = [{"question_id": "l0", "question": ROWS[0]["question"]}, {"question_id": "l1", "question": "Who is Bo?"}]
    asked = user(ROWS[0]["question"], "Where does the train to Halden stop?", ROWS[0]["question"].rstrip("?"))
    found = split.collisions(learned, asked, embedder=HashEmbedder(), similarity=0.92)
    assert sorted(found) == [(ROWS[0]["question"], "u0"), (ROWS[0]["question"], "u2")]
    assert split.collisions([], asked, embedder=HashEmbedder(), similarity=0.92) == []
