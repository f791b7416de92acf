"""Progress: one line that a person can read, in a terminal and elsewhere."""

import pytest

from raft.cli import progress
from raft.cli.progress import Progress

ASKED = {
    "new": 300,
    "replayed": 100,
    "in_flight": 64,
    "limit": 64,
    "cost": 0.414,
    "cap": 5.0,
    "input_tokens": 1_200_000,
    "output_tokens": 50_000,
    "failures": 3,
}
PART = {
    "purpose": "questions",
    "model": "m",
    "calls": 1000,
    "answered": 100,
    "input_tokens": (1, 2),
    "output_tokens": (1, 2),
    "dollars": (0.5, 2.0),
}
ESTIMATED = {
    "calls": 900,
    "parts": [PART],
    "known_dollars": (0.5, 2.0),
    "unpriced": [],
    "price": {"input": 1.0, "output": 4.0},
    "spent": 0.0,
    "cap": 5.0,
}


@pytest.fixture
def told(monkeypatch, capsys):
    """Tell a listener of events a minute apart by its clock; return the last line that it wrote, or the last ones."""
    clock = iter(range(0, 100_000, 60))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))

    def on_event(*events, last=1):
        with Progress() as listener:
            for event, facts in events:
                listener(event, facts)
        return "\n".join(capsys.readouterr().err.splitlines()[-last:])

    return on_event


def test_a_line_holds_all_that_counts(told):
    """Calls done of planned and in flight, rate, tokens, dollars of the cap, time left and failures are on one line."""
    line = told(("estimated", ESTIMATED), ("begins", {"step": "questions"}), ("asked", ASKED))
    assert line.startswith("writing questions: 400 of 1,000 calls, 100 from the ledger, 64 in flight, ")
    assert " a second, 1.2M tokens, $0.41 of $5.00, " in line
    assert line.endswith(" left, 3 failed")


def test_calls_add_up(told):
    """What was told before counts on; a new step begins at nothing."""
    begins, more = ("begins", {"step": "questions"}), {**ASKED, "new": 50, "replayed": 0, "failures": 0}
    assert "450 of 1,000 calls" in told(("estimated", ESTIMATED), begins, ("asked", ASKED), ("asked", more))
    line = told(("estimated", ESTIMATED), begins, ("asked", ASKED), ("begins", {"step": "cleaned"}), ("asked", more))
    assert "50 calls, 64 in flight" in line
    assert "failed" not in line
    assert "left" not in line


def test_a_plan_that_was_too_small_grows(told):
    """Where more calls are made than were planned, no more is said to be done than is planned."""
    line = told(("estimated", ESTIMATED), ("begins", {"step": "questions"}), ("asked", {**ASKED, "new": 2000}))
    assert "2,100 of 2,100 calls" in line


def test_no_cap_and_no_price_are_said(told):
    """Without a cap dollars stand alone; without a price it is said to be unknown, never zero."""
    begins = ("begins", {"step": "questions"})
    assert ", $0.41, 3 failed" in told(begins, ("asked", {**ASKED, "cap": None}))
    line = told(begins, ("asked", {**ASKED, "cost": None, "cap": None}))
    assert "price unknown" in line
    assert "$" not in line


def test_an_estimate_is_told(told):
    """Before the first call it is said what a build is going to ask and to cost."""
    line = told(("estimated", ESTIMATED))
    assert line == ("estimate   900 calls to make, $0.50 to $2.00 at $1/$4 a million tokens; the cap is $5.00")


def test_a_local_model_tells_its_rate(told):
    """Where nothing is in flight, replies and their rate are told."""
    line = told(("begins", {"step": "questions"}), ("planned", {"questions": 40}), ("asked", {"new": 8, "replayed": 0}))
    assert line.startswith("writing questions: 8 new replies for 40 questions, ")
    assert line.endswith(" left")


def test_a_batch_tells_where_it_is(told):
    """A batch at the provider has its id, its state and how much of it is answered."""
    facts = {"id": "batch_7", "status": "in_progress", "done": 120, "failed": 2, "total": 1000, "seconds": 600.0}
    line = told(("batch", facts))
    assert line == "batch batch_7: in_progress, 120 of 1,000 answered, 2 failed, 10 min old"


def test_embedding_has_a_count_a_rate_and_an_end(told):
    """Chunks that are embedded are counted against those that there are."""
    cut = ("made", {"step": "chunks", "line": {"artifacts": {"chunks.parquet": {"rows": 2000}}, "seconds": 1.0}})
    more = ("embedded", {"new": 512})
    line = told(cut, ("begins", {"step": "index"}), more, more)
    assert line.startswith("embedding chunks: 1,024 of at most 2,000 chunks embedded, ")
    assert line.endswith(" left")


def test_a_rebuild_says_what_has_changed(told):
    """Files are named by what became of them, and what was asked anew is told from what was kept."""
    line = told(("changes", {"changed": ["it/vpn.md"], "gone": ["a.md", "b.md", "c.md", "d.md", "e.md"]}))
    assert line == "corpus     1 changed (it/vpn.md), 5 gone (a.md, b.md, c.md and 2 more)"
    asked = ("asked", {"new": 3, "replayed": 247})
    rows = {"artifacts": {"questions.parquet": {"rows": 250}}, "seconds": 1.0}
    line = told(("begins", {"step": "questions"}), asked, ("made", {"step": "questions", "line": rows}))
    assert line == "questions  250 questions in 1.0 s; 3 replies asked anew, 247 kept"


def test_lines_are_rare_where_there_is_no_terminal(monkeypatch, capsys):
    """Without a terminal a line is written now and then, not for each batch of replies."""
    monkeypatch.setattr(progress.time, "monotonic", lambda: 1.0)
    with Progress() as listener:
        for _ in range(50):
            listener("asked", ASKED)
    assert capsys.readouterr().err == ""


def test_silence(capsys):
    """A silent listener writes nothing."""
    with Progress(silent=True) as listener:
        listener("reused", {"step": "documents"})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("count", "words"),
    [(2, "2 do not fill one step of 8"), (8, "8 are under 200"), (199, "199 are under 200"), (200, "")],
)
def test_a_training_on_few_rows_says_so_before_it_begins(told, count, words):
    """Rows that fill no optimiser step, and rows under which tuning rarely pays, are said with what brings more."""
    rows = {"rows": count, "valid": 1, "shortened": 0, "tokens": 900, "epochs": 3.0, "batch": 8, "rehearsal": 0.0}
    line = told(("rows", rows))
    assert line.startswith(f"few rows   {words}" if words else "training on 200 rows")
    assert ("--questions-per-chunk" in line) == bool(words)


def test_the_last_line_says_who_answered(told):
    """How many calls each endpoint answered, who was left out or refuses all, and why in full, is told last."""
    facts = {"left_out": 0, "words": "", "denied": False}
    places = [
        {**facts, "where": "http://a/v1", "answered": 1412},
        {**facts, "where": "http://b/v1", "answered": 97, "left_out": 3, "words": "no connection: " + "late " * 30},
        {**facts, "where": "http://c/v1", "answered": 0, "words": "wrong key", "denied": True},
    ]
    facts = {**ASKED, "model": "vllm/m", "endpoints": places}
    line = told(("begins", {"step": "questions"}), ("asked", facts), last=6)
    assert line.split("\n") == [
        "endpoints  vllm/m, calls answered:",
        "             http://a/v1 1,412",
        "             http://b/v1    97   left out 3 times:",
        f"               no connection: {'late ' * 30}".rstrip(),
        "             http://c/v1     0   refuses all calls:",
        "               wrong key",
    ]


def test_an_endpoint_that_refuses_all_is_told_at_once(told):
    """The address, the model and the provider's words are on one line, and that others go on."""
    line = told(("refusing", {"model": "vllm/m", "where": "http://c/v1", "words": "wrong key"}))
    assert line == "refused    vllm/m by http://c/v1, and others go on: wrong key"


@pytest.mark.parametrize(("step", "said"), [("index", "embedding chunks …\n"), ("chunks", "")])
def test_a_model_at_work_is_said_at_once(capsys, step, said):
    """Also where nobody sees a live line, such as in a file, a step of a model is told when it begins."""
    with Progress() as listener:
        listener("begins", {"step": step})
    assert capsys.readouterr().err == said
