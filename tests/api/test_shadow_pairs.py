"""Blind pairs from the shadow: what production and a candidate said, for experts, and what they chose read back."""

import json

import pytest
from click.testing import CliRunner
from test_registry import write_run

from raft.api import pairs
from raft.cli import main
from raft.errors import DamagedArtifact, UsageError
from raft.store import registry
from raft.store.traffic import Reply, Traffic

OLD, NEW, OTHER = "aaaa1111", "bbbb2222", "cccc3333"


@pytest.fixture
def run(tmp_path):
    """A run with three adapters, the first in production, the second its candidate in the shadow."""
    made = write_run(tmp_path / "run", OLD, NEW, OTHER)
    registry.promote(made, OLD, by="Ann", because="a test")
    registry.nominate(made, NEW, share=0.0, shadow=1.0, by="Ann")
    return made


def answered(run, rows):
    """Write replies of production and shadows of a candidate: (number, question, version, what it says, ...)."""
    kept = Traffic(run)
    for number, question, old, says, new, also in rows:
        common = {"at": 1_800_000_000.0 + number, "model": "org/tiny"}
        kept.record(Reply(reply_id=f"r{number}", version=old, question=question, answer=says, **common))
        kept.shadowed(f"r{number}", version=new, arm="candidate", answer=also, **common)
    kept.close()


USUAL = [(n, f"How heavy is pump {n}?", OLD, f"It weighs {n} kg.", NEW, f"{n} kg") for n in range(1, 7)]


def test_a_page_has_what_both_said_and_tells_nothing(run):
    """Each question that both answered is on the page with both answers, without version, key or reply's id."""
    answered(run, USUAL)
    told = pairs.write(run)
    counts = {"meant": 6, "shadowed": 6, "given_up": 0}
    assert told == {"path": str(run / "pairs.html"), "pairs": 6, "candidate": NEW, "production": OLD, **counts}
    page = (run / "pairs.html").read_text(encoding="utf-8")
    for number in range(1, 7):
        assert f"How heavy is pump {number}?" in page
        assert f"It weighs {number} kg." in page
    assert not any(secret in page for secret in (OLD, NEW, "r1", "candidate"))
    kept = (run / "pairs.json").read_text()
    assert "pump" not in kept and "kg" not in kept, "no text outlives the traffic but on the page"


def test_what_cannot_be_compared_is_left_out(run):
    """Answers that read the same, what failed, other versions, and a question's earlier replies are no pair."""
    same = (7, "Alike?", OLD, "The same.", NEW, "the  same.")
    other = (8, "Another?", OTHER, "By another.", NEW, "By the new.")
    itself = (9, "Itself?", NEW, "By itself.", NEW, "By it again.")
    twice = (10, "How heavy is pump 1?", OLD, "It weighs 99 kg.", NEW, "98 kg")
    failed = (11, "Failed?", OLD, "", NEW, "Something.")
    answered(run, [*USUAL, same, other, itself, twice, failed])
    told = pairs.write(run, count=50)
    page = (run / "pairs.html").read_text(encoding="utf-8")
    assert (told["pairs"], told["production"]) == (6, OLD)
    assert "99 kg" in page and "It weighs 1 kg" not in page
    assert not any(question in page for question in ("Alike?", "Another?", "Itself?", "Failed?"))
    assert pairs.write(run, count=2)["pairs"] == 2


def test_how_many_were_given_up_beside_the_pairs_is_said(run):
    """Replies that the candidate was to answer unseen and did not are counted, by the history of its shadow."""
    answered(run, USUAL)
    kept = Traffic(run)
    for number in range(30, 44):
        at = 1_800_000_000.0 + number if number < 40 else 1.0  # the last four before there was a candidate
        kept.record(Reply(reply_id=f"r{number}", version=OLD, question="Who?", answer="Ann", at=at))
    kept.close()
    told = pairs.write(run)
    assert (told["pairs"], told["meant"], told["shadowed"], told["given_up"]) == (6, 16, 6, 10)
    said = CliRunner().invoke(main, ["registry", "pairs", str(run)]).output
    assert f"of about 16 replies that {NEW} was to answer unseen, it answered 6; 10 were given up" in said
    registry.nominate(run, OTHER, share=0.0, shadow=0.5, by="Ann")
    with pytest.raises(UsageError, match="version cccc3333: 8 of 8 were given up"):
        pairs.write(run, version=OTHER)


def choose(run, pick):
    """Rate each pair that was ever shown; `pick` returns a choice for whether the candidate is on the left."""
    known = json.loads((run / "pairs.json").read_text())
    rows = []
    for pair in known["pairs"]:
        left = pairs.human._contender_is_a(known["seed"], pair["question_id"])
        rows.append({"pair_id": pair["pair_id"], "choice": pick(left)})
    path = run / "chosen.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_what_experts_chose_is_read_back(run):
    """Ratings of the page, and of an earlier page of the same two, say how often each was chosen."""
    answered(run, USUAL)
    pairs.write(run, count=3)
    pairs.write(run)
    told = pairs.rated(run, choose(run, lambda left: "a" if left else "b"))
    assert (told["pairs"], told["rated"], told["wins"], told["losses"]) == (6, 6, 6, 0)
    assert told["preferred"]["value"] == 1 and told["sign_test"] == pytest.approx(2 / 64)
    told = pairs.rated(run, choose(run, lambda left: "tie"))
    assert (told["wins"], told["ties"], told["preferred"]) == (0, 6, None)


def test_the_command_says_what_comes_next(run, tmp_path):
    """Typed, it writes the page, reads ratings back, and names the next command; refusals are one screen."""
    answered(run, USUAL)
    out = tmp_path / "page.html"
    said = CliRunner().invoke(main, ["registry", "pairs", str(run), "--out", str(out)])
    assert (said.exit_code, out.is_file()) == (0, True), said.output
    assert f"raft registry pairs {run} --ratings" in said.output
    chosen = choose(run, lambda left: "a" if left else "b")
    said = CliRunner().invoke(main, ["registry", "pairs", str(run), "--ratings", str(chosen)])
    assert f"{NEW} was chosen 6 times" in said.output and f"raft registry promote {run} {NEW}" in said.output
    for wrong in (["--ratings", str(out)], ["--ratings", str(chosen), "--out", "x"], ["--version", "zzzz"]):
        said = CliRunner().invoke(main, ["registry", "pairs", str(run), *wrong])
        assert (said.exit_code, "next:" in said.output) == (2, True)


def test_where_there_is_nothing_the_command_that_makes_some_is_named(run):
    """Without a shadow's answers, without a page, and with a page that cannot be read, the refusal has a way on."""
    with pytest.raises(UsageError, match="--shadow"):
        pairs.write(run)
    with pytest.raises(UsageError, match="raft registry pairs"):
        pairs.rated(run, run / "none.jsonl")
    answered(run, [(1, "Alike?", OLD, "The same.", NEW, "The same.")])
    with pytest.raises(UsageError, match="no pair"):
        pairs.write(run)
    (run / "pairs.json").write_text("[]")
    with pytest.raises(DamagedArtifact, match="cannot be read"):
        pairs.rated(run, run / "none.jsonl")


def test_the_last_in_the_shadow_is_meant_where_no_candidate_stands(run):
    """After a candidate was withdrawn its pairs can still be shown, and those of an earlier one by its id."""
    answered(run, [*USUAL, (20, "Later?", OLD, "By the old.", OTHER, "By the other.")])
    registry.withdraw(run, by="Ann", because="enough")
    assert pairs.write(run)["candidate"] == OTHER
    assert pairs.write(run, version=NEW[:3])["pairs"] == 6
