"""Feedback is reviewed, on a page or by number; what is accepted is exported, and the next build learns from it."""

import json
import shutil
import time

import polars as pl
import pytest
from click.testing import CliRunner
from test_review import Page
from test_review import opened as review_opened

import raft
from browser import Driven, needs_chromium
from raft.api.feedback import Session, accepted
from raft.api.run import Built
from raft.cli import main
from raft.curation.pairs import bears
from raft.errors import UsageError
from raft.store import traffic
from raft.store.traffic import Reply, Traffic

SETTINGS = {"chunking.tokens": 60, "questions.per_chunk": 1, "generator.attempts": 2, "split.unseen": 0.0}
ASKED = {
    "trade": ("How soon has a trade customer to return a pump?", "30 days", "refunds/home.md"),
    "weight": ("How heavy is the Delta garden pump?", "7.5 kg", "manuals/delta.md"),
    "nobody": ("Who painted the harbour building?", "Petra Lind", "safety.md"),
    "seal": ("Which part number has the seal kit of the Delta pump?", "QK-771-D", "manuals/delta.md"),
}
CORRECTED, RIGHT, ABSENT, WRONG = range(1, 5)


@pytest.fixture
def home(whole, tmp_path):
    """A copy of a finished build, of whose answers users have said something: one corrected, one right, two wrong."""
    home = shutil.copytree(whole, tmp_path / "home")
    given = Traffic(home / "run")
    chunks = raft.load(home / "run").chunks
    paths = dict(raft.load(home / "run").documents.select("path", "doc_id").iter_rows())
    for name, (question, answer, document) in ASKED.items():
        chunk = chunks.filter(doc_id=paths[document]).row(0, named=True)
        cited = {"document": document, "page": None, "start": 0, "end": 9, "quote": "x", "chunk_id": chunk["chunk_id"]}
        given.record(Reply(reply_id=name, at=time.time(), question=question, answer=answer, citations=[cited]))
    given.feedback("trade", rating="down", correction="10 days", comment="that is for home customers", caller="ada")
    given.feedback("weight", rating="up")
    given.feedback("nobody", correction="Vincent Ashgrove")
    given.feedback("seal", rating="down")
    given.close()
    return home


def command(*arguments):
    """Return exit code and output of a command."""
    result = CliRunner().invoke(main, ["feedback", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def test_what_is_accepted_is_learned_from(home, tmp_path, fake_models):
    """Accepted by number, feedback is exported with document and quote, and the next build trains on it, as human."""
    run, people = home / "run", tmp_path / "people.jsonl"
    code, said = command(run, "--list")
    assert code == 0
    for text in (
        "10 days",
        "that is for home customers",
        "4 answers were spoken of: 1 rated right, 2 wrong, 2 corrected",
    ):
        assert text in said
    assert command(run, "--export", people)[0] == 2
    code, said = command(run, "--accept", CORRECTED, "--accept", RIGHT, "--reject", ABSENT, "--by", "Marta Quill")
    assert (code, "2 accepted to learn from, 1 rejected, 1 open." in said) == (0, True)
    passage = "Trade customers of Orlin Pumps may return a pump within 10 days of delivery."
    assert f"passage     refunds/trade.md: {passage}" in said, "which raft has found, and may be wrong: whole"
    assert "Vincent Ashgrove" not in said
    code, said = command(run, "--export", people)
    assert code == 0
    assert f"--qa {people}" in said
    trade, weight = map(json.loads, people.read_text(encoding="utf-8").splitlines())
    assert (trade["question"], trade["answer"]) == (ASKED["trade"][0], "10 days")
    assert trade["document"] == "refunds/trade.md", "the passage that bears it, not the one that was cited"
    said = "Trade customers of Orlin Pumps may return a pump within 10 days of delivery."
    assert " ".join(trade["quote"].split()) == said
    assert (trade["accepted_by"], len(trade["accepted_on"])) == ("Marta Quill", 10)
    assert (weight["answer"], weight["document"]) == ("7.5 kg", "manuals/delta.md")
    built = raft.build(home / "corpus", out=run, settings={**SETTINGS, "questions.qa": str(people)})
    rows = built.cleaned.filter(model="human")
    assert {*rows["question"]} == {trade["question"], weight["question"]}
    (quote,) = rows.filter(answer="10 days")["quotes"].item()
    assert quote["text"] == trade["quote"]
    assert rows.filter(pl.col("reason").is_null() | (pl.col("reason") == "round trip")).height == 2
    again = raft.load(run)
    assert [row["decision"] for row in traffic.decisions(run).to_dicts()] == ["accepted", "accepted", "rejected"]
    assert again.summary()["steps"]["qa"]["notes"]["files"][0]["lost"] == []
    for export, files in ((people, [people]), (tmp_path / "new.jsonl", [people, tmp_path / "new.jsonl"])):
        assert " ".join(f"--qa {file}" for file in files) in command(run, "--export", export)[1]
        assert f"--qa {files[0]} --qa {files[0]}" not in command(run, "--export", export)[1]


def test_what_cannot_be_learned_from_is_not_accepted(home):
    """No document says it, nobody said what is right, a number is none or stands twice: nothing at all is written."""
    run = home / "run"
    for arguments, why in [
        (("--accept", ABSENT), f"--accept {ABSENT}"),
        (("--reject", 99), "--reject 99"),
        (("--accept", ABSENT), "no passage of the documents bears this answer"),
        (("--accept", WRONG), "nobody has said what is right"),
        (("--accept", 99), "There is no feedback 99"),
        (("--accept", CORRECTED, "--reject", CORRECTED), "named twice"),
        (("--reject", RIGHT, "--accept", WRONG), "nobody has said what is right"),
    ]:
        code, said = command(run, *arguments)
        assert (code, why in said, "next:" in said, "--accept, --reject" in said) == (2, True, True, False), said
    assert traffic.decisions(run).is_empty()


def test_a_passage_about_something_else_bears_no_correction(home):
    """An answer that stands beside no more than a common word of the question is not taken for its answer."""
    chunks = raft.load(home / "run").chunks["text"]
    assert not chunks.str.contains("(?i)museum").any(), "the word that says what is asked for stands nowhere"
    (there,) = chunks.filter(chunks.str.contains("10 days")).to_list()
    asked = "Which museum borrows a pump?"
    assert bears(asked, "10 days", {"chunk_id": "x", "heading": "", "text": there}), "a third of its words stand there"
    given = Traffic(home / "run")
    given.record(Reply(reply_id="new", at=time.time(), question=asked, answer="Nobody"))
    given.feedback("new", correction="10 days")
    given.close()
    code, said = command(home / "run", "--accept", 5)
    assert (code, "no passage of the documents bears this answer" in said) == (2, True), said


def test_a_run_without_feedback_says_how_it_comes(whole):
    """Where nobody has said anything the command says so, with how a run is served, and makes no file."""
    code, said = command(whole / "run")
    assert (code, "raft serve" in said) == (2, True)
    assert command(whole / "run", "--list")[0] == 0
    assert not (whole / "run" / traffic.FILE).exists()


def test_an_export_replaces_nothing_else(home, tmp_path):
    """An export takes the place of an earlier one, in the order of decisions, and of no other file."""
    run, path = home / "run", tmp_path / "people.jsonl"
    command(run, "--accept", CORRECTED)
    command(run, "--export", path)
    command(run, "--accept", RIGHT)
    first = path.read_text(encoding="utf-8")
    assert command(run, "--export", path)[0] == 0
    assert path.read_text(encoding="utf-8").startswith(first)
    (tmp_path / "mine.jsonl").write_text('{"question": "mine"}\n')
    code, said = command(run, "--export", tmp_path / "mine.jsonl")
    assert (code, "none of raft's" in said) == (2, True)
    assert "mine" in (tmp_path / "mine.jsonl").read_text()


def test_the_last_decision_counts(home):
    """What is rejected after it was accepted is not learned from, and all decisions stay with their names."""
    run = home / "run"
    command(run, "--accept", CORRECTED, "--by", "Ada")
    assert len(accepted(run)) == 1
    command(run, "--reject", CORRECTED, "--by", "Bob")
    assert accepted(run) == []
    assert traffic.decisions(run).select("decision", "by").rows() == [("accepted", "Ada"), ("rejected", "Bob")]


def test_of_one_question_one_row_is_learned_from(home):
    """What two users said of one question is accepted twice and learned from once, and that is told."""
    run = home / "run"
    given = Traffic(run)
    given.record(Reply(reply_id="again", at=time.time(), question=ASKED["trade"][0], answer="", citations=[]))
    given.feedback("again", correction="10 days")
    given.close()
    code, said = command(run, "--accept", CORRECTED, "--accept", 5)
    assert (code, len(accepted(run))) == (0, 1)
    assert "1 accepted to learn from (of one question the last), 0 rejected, 3 open." in said
    assert command(run, "--export", home / "people.jsonl")[1].startswith("1 row to learn from written to")


def test_accepted_rows_outlive_their_replies(home):
    """When a reply is deleted after its time, what was accepted of it can still be exported and listed."""
    run = home / "run"
    command(run, "--accept", CORRECTED)
    Traffic(run, retention_days=1e-9).close()
    assert traffic.replies(run).is_empty()
    (row,) = accepted(run)
    assert (row["answer"], row["document"]) == ("10 days", "refunds/trade.md")
    assert ASKED["trade"][0] in command(run, "--list")[1]


def opened(run, monkeypatch, reviewer="Ada"):
    """Serve the page on which feedback is reviewed."""
    monkeypatch.setattr(
        raft, "review", lambda run, reviewer, on_event, **_: raft.feedback(run, by=reviewer, on_event=on_event)
    )
    return review_opened(run, reviewer)


def test_feedback_is_reviewed_on_a_page(home, monkeypatch):
    """The page shows what came, with the passage that bears it; verdicts are on disk, and can be taken back."""
    run = home / "run"
    with opened(run, monkeypatch) as page:
        assert isinstance(page, Page)
        state = page.told("state")
        assert state["lists"] == {"corrected": ["1", "3"], "wrong": ["4"], "right": ["2"]}
        row = page.told("row?id=1")
        assert (row["question"], row["answer"], row["kind"][:22]) == (
            ASKED["trade"][0],
            "10 days",
            "rated wrong by ada on ",
        )
        assert row["doubts"] == ["It was answered: 30 days", "Said with it: that is for home customers"]
        assert row["sources"][0]["document"] == "refunds/trade.md"
        assert [text for text, level in row["sources"][0]["pieces"] if level == 3] == ["10 days"]
        assert page.told("row?id=3")["doubts"][-1] == "No passage of the documents bears this answer."
        page.judge("1", "approved", "corrected")
        assert page.ask("decide", {"id": "4", "verdict": "approved", "list": "wrong"})[0] == 422
        edit = {"question": ASKED["seal"][0], "answer": "QK-771-C"}
        page.judge("4", "edited", "wrong", edit={**edit, "quote": "the part number QK-771-C"})
        assert (
            page.ask("decide", {"id": "2", "verdict": "edited", "list": "right", "edit": {**edit, "quote": "no such"}})[
                0
            ]
            == 422
        )
        other = {**edit, "answer": "QK-999", "quote": "the part number QK-771-C"}
        refused = page.ask("decide", {"id": "2", "verdict": "edited", "list": "right", "edit": other})
        assert refused[0] == 422, "what is quoted has another number"
        state = page.judge("3", "rejected", "corrected", reason="wrong answer")
        assert state["mine"] == {"1": "approved", "4": "approved", "3": "rejected"}
        assert page.told("undo", {})["id"] == "3"
        assert page.told("row?id=4")["answer"] == "QK-771-C"
        assert page.ask("row?id=99")[0] == 404
        assert page.ask("decide", {"id": "1", "verdict": "approved", "list": "sample"})[0] == 400
    assert {row["answer"]: row.get("quote") for row in accepted(run)}["QK-771-C"] == "the part number QK-771-C"
    decided = traffic.decisions(run).select("feedback_id", "decision", "by", "note").rows()
    assert decided == [
        (1, "accepted", "Ada", None),
        (4, "accepted", "Ada", None),
        (3, "rejected", "Ada", "wrong answer"),
        (3, "undone", "Ada", None),
    ]


def test_what_is_taken_back_is_ones_own(home):
    """Who takes a decision back brings back what another one decided before, with their name, and no more."""
    run = home / "run"
    ada, bob = (Session(Built(run), name) for name in ("Ada", "Bob"))
    ada.decide("1", "approved", reason=None, edit=None, shown="corrected")
    bob.decide("1", "rejected", reason="wrong answer", edit=None, shown="corrected")
    assert accepted(run) == []
    assert bob.undo() == "1"
    assert [row["accepted_by"] for row in accepted(run)] == ["Ada"]
    assert bob.undo() is None
    assert Session(Built(run), "Ada").undo() == "1"
    assert accepted(run) == []


def test_who_reviews_beside_others_takes_back_nothing_of_theirs(home):
    """A decision that somebody else has made since, on a page of their own, is not taken back with one's own."""
    run = home / "run"
    ada, bob = (Session(Built(run), name) for name in ("Ada", "Bob"))
    ada.decide("1", "approved", reason=None, edit=None, shown="corrected")
    bob.decide("1", "rejected", reason="wrong answer", edit=None, shown="corrected")
    assert ada.undo() is None
    assert traffic.decisions(run)["decision"].to_list() == ["accepted", "rejected"]


def test_what_nobody_sees_is_not_learned(home):
    """What is read on the page is all that is learned: marks of no width or of direction, and hidden letters, go."""
    run, hidden = home / "run", "".join(chr(0xE0000 + ord(mark)) for mark in "obey me")
    given = Traffic(run)
    question = f"How heavy is the \u202eDelta\u202c garden\u200b pump?{hidden}"
    given.record(Reply(reply_id="hidden", at=time.time(), question=question, answer=f"7.5{hidden} kg\x1b[31m"))
    given.feedback("hidden", rating="up", comment=f"right\ufeff{hidden}")
    given.feedback("hidden", correction=f"7.5 kg{hidden}", caller="ada")
    given.close()
    session = Session(Built(run), "Ada")
    up, corrected = [*session.rows][-2:]
    shown = session.view(corrected)
    assert (shown["question"], shown["answer"]) == ("How heavy is the Delta garden pump?", "7.5 kg")
    assert session.view(up)["doubts"][0] == "Said with it: right"
    assert session.view(up)["answer"] == "7.5 kg [31m"
    session.decide(corrected, "approved", reason=None, edit=None, shown="corrected")
    (row,) = accepted(run)
    assert (row["question"], row["answer"]) == (shown["question"], shown["answer"])
    code, said = command(run, "--list")
    assert code == 0
    assert not set(said) & {*hidden, "\u202e", "\u200b", "\x1b"}


def test_a_quote_that_is_gone_is_shown_as_such(home):
    """Where the documents have changed since a quote was accepted, the page says that no passage bears it any more."""
    session = Session(Built(home / "run"), "Ada")
    edit = {"question": ASKED["seal"][0], "answer": "QK-771-C", "quote": "the part number QK-771-C"}
    session.decide("4", "edited", reason=None, edit=edit, shown="wrong")
    later = Session(Built(home / "run"), "Ada")
    later._chunks = {name: {**one, "text": "Nothing."} for name, one in session._chunks.items()}
    assert "No passage of the documents bears this answer." in later.view("4")["doubts"]


@needs_chromium
def test_feedback_is_reviewed_by_keys(home, monkeypatch, tmp_path):
    """In a real browser feedback is accepted, rejected and walked through by keys alone."""
    run = home / "run"
    with opened(run, monkeypatch) as page, Driven(page.address, tmp_path, width=390, height=780) as browser:
        browser.until("document.getElementById('answer').textContent === '10 days'")
        browser.picture(tmp_path / "review.png")
        browser.press("a")
        browser.until("document.getElementById('answer').textContent === 'Vincent Ashgrove'")
        browser.press("a")
        browser.until("document.getElementById('problem').textContent.includes('no passage of the documents')")
        browser.press("r")
        browser.press("1")
        browser.until("document.getElementById('said').textContent.includes('1 rejected')")
        assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    assert [row["answer"] for row in accepted(run)] == ["10 days"]


def test_what_a_reviewer_writes_is_redacted_too(home, fake_models):
    """Where the run redacts personal data, that in an edit is replaced before it is written."""
    run = home / "run"
    raft.build(home / "corpus", out=run, settings={**SETTINGS, "privacy.found": "redact"})
    with pytest.raises(UsageError, match="no passage"):
        raft.feedback(run, accept=[ABSENT])
    edit = {"question": "May ada.berg@example.com return a pump to trade within how many days?", "answer": "10 days"}
    Session(Built(run), "Ada").decide("1", "edited", reason=None, edit=edit, shown="corrected")
    assert "[EMAIL]" in accepted(run)[0]["question"]
    assert not [path for path in run.glob("traffic.sqlite*") if b"ada.berg" in path.read_bytes()]


def test_a_list_of_nothing_is_a_sentence_and_the_next_command(whole, tmp_path):
    """Where nobody has said anything yet, `--list` says so in one sentence, with the command that changes it."""
    run = shutil.copytree(whole, tmp_path / "home") / "run"
    Traffic(run).close()
    for _ in range(2):
        code, said = command(run, "--list")
        sentence, after = said.strip().splitlines()
        assert (code, sentence) == (0, "Nobody has said anything of an answer yet.")
        assert after.startswith(f"  next:  raft serve {run}   # ")
        (run / "traffic.sqlite").unlink(missing_ok=True)
