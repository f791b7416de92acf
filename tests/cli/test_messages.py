"""Words: what a run says to a person."""

import copy
import json
import shutil

import pytest
from click.testing import CliRunner

from conftest import write_corpus
from raft import api
from raft.cli import main, messages
from raft.store import tables
from raft.testing import make_chunks, make_question


def line(rows, notes=None, **totals):
    """Return a step as a run's summary holds it."""
    return {"rows": rows, "notes": notes or {}, "seconds": 1.25, "finished": "2026-03-12T08:00:00+00:00", **totals}


FACTS = {
    "run": "runs/handbook",
    "raft": "0.1.0",
    "corpus": ["handbook"],
    "models": {},
    "skipped": [["photo.jpg", "no reader"], ["a.bin", "no reader"]],
    "steps": {
        "documents": line(
            {"documents.parquet": 12},
            {"characters": 9000, "unreadable": [["broken.pdf", "it is encrypted"], ["empty.docx", "there is no text"]]},
        ),
        "chunks": line({"chunks.parquet": 1500}, {"tokens": 240000, "boilerplate": 40}),
        "index": line({}, {"added": 1500}),
        "questions": line(
            {"failures.parquet": 100, "questions.parquet": 1400},
            {"kinds": {"number": 1000, "date": 400}, "failures": {"malformed": 90, "length": 10}},
            calls=1600.0,
            replayed=600.0,
            input_tokens=320000.0,
            output_tokens=32000.0,
            cost=1.25,
            unpriced=0.0,
        ),
        "cleaned": line(
            {"cleaned.parquet": 1400, "eval.jsonl": 250},
            {
                "splits": {"train": 900, "valid": 100, "eval_seen": 120, "eval_unseen": 80, "user": 50},
                "reasons": {"duplicate": 150, "leak": 50},
            },
            calls=10.0,
        ),
        "examples": line(
            {"examples.parquet": 1000, "train.jsonl": 900, "valid.jsonl": 100}, {"shortened": {"q1": 2, "q2": 1}}
        ),
    },
}
SPENT = [
    {"model": "local", "calls": 7, "input_tokens": 1, "output_tokens": 2, "cost": None, "calls_without_price": 7},
    {
        "model": "openai/x",
        "calls": 1600,
        "input_tokens": 320000,
        "output_tokens": 3,
        "cost": 1.5,
        "calls_without_price": 0,
    },
]


def changed(**steps):
    """Return the facts with changed steps."""
    facts = copy.deepcopy(FACTS)
    for name, change in steps.items():
        for part, values in change.items():
            facts["steps"][name][part].update(values)
    return facts


def squeezed(text):
    """Return the text with single spaces."""
    return " ".join(text.split())


@pytest.mark.parametrize(
    "said",
    [
        "Built runs/handbook",
        "documents 10 read, 2 could not be read: broken.pdf: it is encrypted empty.docx: there is no text",
        "left out 2 files photo.jpg: no reader",
        "1,500 of 160 tokens",
        "40 boilerplate",
        "1,400 written (number 1,000, date 400); 100 failed:",
        "90: what came did not keep to the form or the facts that were asked for",
        "10: the reply was cut off at the token limit",
        "raft show runs/handbook failures # says what was wrong, with each reply",
        "kept 1,200 (train 900, valid 100, eval_seen 120, eval_unseen 80",
        "dropped 200 (duplicate 150, leak 50)",
        "900 to train on, 100 to validate with; 2 had to lose distractors to fit",
        "1,610 replies (600 from the ledger), 320,000 tokens read and 32,000 written, $1.2500",
        "raft show runs/handbook examples",
        "raft export runs/handbook --format openai",
        "raft serve runs/handbook # ask it on a page, or as OpenAI's API, tuned or not yet",
    ],
)
def test_a_summary_says_what_was_built(said):
    """Every number of a build is said once, in words, with the next commands to type."""
    assert said in squeezed(messages.summary(FACTS))


@pytest.mark.parametrize(("learned", "held", "told"), [(9, 0, True), (9, 1, False), (10, 0, False)])
def test_nothing_to_validate_with_is_explained(learned, held, told):
    """A summary says why nothing is set aside to validate with where that is for so few questions."""
    facts = changed(examples={"rows": {"train.jsonl": learned, "valid.jsonl": held}})
    assert ("of so few questions none is set aside" in messages.summary(facts)) is told


def test_a_summary_of_a_clean_build_is_short():
    """What did not happen is not mentioned."""
    facts = changed(
        documents={"notes": {"unreadable": []}},
        questions={"notes": {"failures": {}}, "rows": {"failures.parquet": 0}},
        cleaned={"notes": {"reasons": {}}},
        examples={"notes": {"shortened": {}}},
    )
    text = squeezed(messages.summary({**facts, "skipped": None}))
    for unsaid in ("could not be read", "left out", "failed", "dropped 0", "lose distractors", "unknown price"):
        assert unsaid not in text
    assert "documents 12 read" in text


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"facts": [40, 1200]}, "3 of 4 documents, 5 of 9 sections and 40 of 1,200 facts"),
        ({}, "3 of 4 documents and 5 of 9 sections"),
    ],
)
def test_a_summary_says_how_much_has_a_question(facts, said):
    """Documents, sections and facts with a question are told; of a run that was built before facts were, the others."""
    found = {"documents": [3, 4], "sections": [5, 9], **facts, "begin": {"how": 7}}
    assert f"covered {said} have a question" in squeezed(
        messages.summary(changed(cleaned={"notes": {"coverage": found}}))
    )


@pytest.mark.parametrize(("kept", "few"), [(0, True), (199, True), (200, False), (900, False)])
def test_few_questions_are_said_to_be_few(kept, few):
    """Under 200 questions to train on the summary says so, however many rows each has, and how to get more."""
    notes = {"notes": {"splits": {"train": kept}, "reasons": {}}}
    text = messages.summary(changed(cleaned=notes, examples={"rows": {"train.jsonl": 3 * kept}}))
    assert (f"{kept} training questions are few" in text) is few
    assert ("raft build CORPUS --out runs/handbook --set questions.keep=" in text) is few


@pytest.mark.parametrize(
    ("facts", "wanted", "more"),
    [(1501, None, True), (1500, None, False), (900, None, False), (9000, "all", False), (9000, "barren", False)],
)
def test_no_more_questions_are_advised_where_nothing_is_left_to_ask(facts, wanted, more):
    """Where as much was asked as the documents state, more documents and pairs of one's own are advised, as typed."""
    notes = {"splits": {"train": 40}, "reasons": {}, "coverage": {"facts": [30, facts], "begin": {}}}
    told = {"wanted": {**WANTED, "ended": wanted}} if wanted else {}
    text = messages.summary(changed(questions={"notes": told}, cleaned={"notes": notes}))
    assert ("--set questions.keep=" in text) is more
    assert ("raft build CORPUS --out runs/handbook --qa pairs.jsonl   # a file of yours" in text) is not more


WANTED = {"keep": 160, "kept": 160, "asked": 200, "ended": None, "rounds": [[200, 160]]}


@pytest.mark.parametrize(
    ("reasons", "said"),
    [
        ({"leak": 6}, "160 of 160: 200 asked for in 1 round; splitting and leaks leave 120"),
        ({"leak": 1, "rejected by a person": 5}, "155 of 160: 200 asked for in 1 round; 5 were rejected since;"),
        ({"leak": 6, "rejected by a person": 5}, "160 of 160: 200 asked for in 1 round; splitting"),
        ({"leak": 2, "duplicate": 9}, "156 of 160: 200 asked for in 1 round; splitting"),
    ],
)
def test_as_many_are_said_to_be_kept_as_are(reasons, said):
    """What cleaning kept counts, whatever the rounds counted before people and rewordings; leaks are kept ones too."""
    notes = {"splits": {"train": 120, "valid": 14, "eval_seen": 20, "user": 50}, "reasons": reasons}
    facts = changed(questions={"notes": {"wanted": WANTED}}, cleaned={"notes": notes})
    assert f"wanted {said}" in squeezed(messages.summary(facts))


def test_questions_that_stay_in_another_wording_are_no_fault():
    """The summary says how many were worded anew and what it changed, and drops none for it."""
    figures = {"before": {"overlap": 0.841}, "after": {"overlap": 0.7249}}
    reworded = line({"reworded.parquet": 70}, {"drawn": 60, "questions": 41, "wordings": 70, **figures})
    facts = changed(cleaned={"notes": {"reasons": {"duplicate": 5, "other wording": 41}}})
    facts["steps"]["reworded"] = reworded
    said = squeezed(messages.summary(facts))
    assert "worded anew 41 of 60 questions; they share 72 instead of 84 percent of their words" in said
    assert "dropped 5 (duplicate 5); 41 stay in another wording" in said
    reworded["notes"] |= {"drawn": 0, "questions": 0, "before": {}, "after": {}}
    facts["steps"]["cleaned"]["notes"]["reasons"] = {"other wording": 1}
    said = squeezed(messages.summary(facts))
    assert "worded anew 0 of 0 questions " in said
    assert "dropped none; 1 stays in another wording" in said


def test_what_was_left_out_of_documents_is_said_with_counts():
    """The summary adds up what readers left out, the most first, and says how to see what was read."""
    notes = {"left_out": {"a.pdf": {"running lines": 12}, "b.html": {"hidden parts": 3, "running lines": 1}}}
    text = messages.summary(changed(documents={"notes": notes}))
    assert "left out    13 running lines, 3 hidden parts   (raft show runs/handbook documents --text NAME" in text


def test_one_that_was_left_out_is_said_in_the_singular():
    """What a reader left out once, and one file without a reader, are no plurals."""
    once = {"hidden parts": 1, "menus and banners": 1, "parts that are no text": 1, "pictures without text": 2}
    notes = {"left_out": {"a.html": once}}
    text = squeezed(messages.summary(changed(documents={"notes": notes}) | {"skipped": [("photo.jpg", "no reader")]}))
    assert "2 pictures without text, 1 hidden part, 1 menu and banner, 1 part that is no text (" in text
    assert "left out 1 file photo.jpg: no reader" in text


def test_many_unreadable_files_are_not_all_listed():
    """A long list is cut and its rest counted."""
    unreadable = [[f"file-{number}.pdf", "no text"] for number in range(1250)]
    facts = changed(documents={"notes": {"unreadable": unreadable}, "rows": {"documents.parquet": 1300}})
    text = messages.summary(facts)
    assert "50 read, 1,250 could not be read" in text
    assert "file-9.pdf" in text
    assert "file-10.pdf" not in text
    assert "and 1,240 more" in text


def test_unknown_prices_are_said():
    """Replies whose price is unknown are not said to be free."""
    facts = copy.deepcopy(FACTS)
    facts["steps"]["questions"]["unpriced"] = 1000.0
    assert "1,000" in messages.summary(facts).split("$1.2500")[1].split("\n")[0]
    facts["steps"]["questions"]["cost"] = 0.0
    assert "32,000 written, 1,000 replies of unknown price" in squeezed(messages.summary(facts))
    state = messages.status(facts, [], running=False)
    assert next(one.split() for one in state.splitlines() if "questions" in one)[4] == "unknown"
    rows = [
        {
            "purpose": "questions",
            "model": "m",
            "calls": 3,
            "cost": 0.0,
            "calls_without_price": 3,
            **dict.fromkeys(["input_tokens", "output_tokens", "lost", "open", "batch"], 0),
        }
    ]
    money = {"rows": rows, "spent": 0.0, "open": 0.0, "cap": None, "left": None}
    assert messages.spending(money)[-1] == "  in all: unknown"


def test_a_status_lists_the_steps_and_the_ledger():
    """Steps come in the order of a build with rows, seconds, calls and dollars; steps not done have a dash."""
    text = messages.status(FACTS, SPENT, running=False)
    rows = {one.split()[0]: one.split() for one in text.splitlines()[3:11]}
    assert list(rows) == ["documents", "chunks", "survey", "index", "lexical", "questions", "cleaned", "examples"]
    assert rows["questions"][1:5] == ["1,400", "1.2", "1,600", "1.2500"]
    assert rows["lexical"] == ["lexical", "-"]
    assert rows["index"][1] == "1.2"
    assert "a build is running" not in text
    assert "openai/x: 1,600 replies, 320,000 tokens read, 3 written, $1.5000" in text
    assert "local: 7 replies, 1 tokens read, 2 written, 7 replies of unknown price" in text


def test_a_status_says_that_a_build_is_running():
    """A run that is being written to is said to be, and an unused ledger to hold nothing."""
    text = messages.status(FACTS, [], running=True)
    assert "a build is running" in text
    assert text.endswith("no reply yet")


CHUNK = make_chunks({"d": ["The Quillon heater weighs 14 kg."]}).row(0, named=True)
ROW = make_question(CHUNK, "How heavy is the heater?", "14 kg", kind="number")


def test_a_question_is_shown_with_its_answer_and_quote():
    """A row of the questions shows id, kind, question, answer and quotes."""
    (text,) = messages.rows(tables.frame(tables.QUESTIONS, [ROW]), "questions")
    for part in (ROW["question_id"], "number", "How heavy is the heater?", "14 kg", CHUNK["text"]):
        assert part in text


def test_a_dropped_question_is_shown_with_its_reason():
    """A row of the cleaned table says for what it is kept, or why it was dropped and of what it is a duplicate."""
    rows = [{**ROW, "split": "train"}, {**ROW, "reason": "duplicate", "duplicate_of": "q7"}]
    kept, dropped = messages.rows(tables.frame(tables.CLEANED, rows), "cleaned")
    assert "kept for train" in kept
    assert "dropped: duplicate of q7" in dropped


def test_an_example_is_shown_turn_by_turn():
    """A training row is shown as the chat that it is."""
    turns = [{"role": "user", "content": "Line one\nLine two"}, {"role": "assistant", "content": "Yes"}]
    row = {"question_id": "q1", "split": "train", "messages": turns, "golden_positions": [2], "tokens": 99}
    (text,) = messages.rows(tables.frame(tables.EXAMPLES, [row]), "examples")
    assert "q1  train  99 tokens" in text
    assert "user:\n    Line one\n    Line two\nassistant:\n    Yes" in text


def test_other_rows_are_shown_field_by_field():
    """Any other table is shown one field a line, long texts cut."""
    row = {**CHUNK, "text": "word " * 1000}
    (text,) = messages.rows(tables.frame(tables.CHUNKS, [row]), "chunks")
    assert "chunk_id         d#0" in text
    assert max(map(len, text.splitlines())) < 450
    assert "…" in text


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_names_and_texts_cannot_speak_to_the_terminal(tmp_path, fake_models, as_json):
    """Escape sequences, C1 controls and direction marks in names and texts are printed as what they are, not obeyed."""
    corpus = write_corpus(tmp_path / "corpus")
    bad = "red\x1b[31m\x9b2J\u202egnp.exe\u200b\U000e0041\ud83d"
    (corpus / "a\x1b]0;owned\x07b.md").write_text("# Title\n\nThe pump weighs 14 kg.\n")
    (corpus / "c.md").write_text(f"# Title {bad[:-1]}\n\nThe \u202efan\x1b[2J weighs 15 kg.\n")
    shutil.copy(corpus / "c.md", corpus / "d\u202e.md")
    api.build(corpus, out=tmp_path / "run", settings={"chunking.tokens": 60})
    run = str(tmp_path / "run")
    for arguments in (["status", run, *as_json], ["show", run, "documents", "-n", "99", *as_json], ["show", run, bad]):
        told = CliRunner().invoke(main, arguments)
        said = told.output
        assert not set(said) & set("\x1b\x9b\x07\u202e\u200b\U000e0041"), arguments
        if as_json and told.exit_code == 0:
            json.loads(said.splitlines()[0] if arguments[0] == "show" else said)
