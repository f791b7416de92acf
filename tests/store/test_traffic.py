"""Traffic: replies and feedback on disk, what counts of them, what is deleted, and what cannot be read."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.errors import RaftError, UsageError
from raft.store import traffic
from raft.store.traffic import FILE, Reply, Traffic, UnknownReply

CITED = {"document": "refunds.pdf", "page": 3, "start": 4, "end": 11, "quote": "30 days", "chunk_id": "c1"}
DAY = 86_400.0


def reply(name, **more):
    """Return a reply with an id."""
    return Reply(**{"reply_id": name, "at": time.time(), "question": "How long?", "answer": "30 days", **more})


@pytest.fixture
def kept(tmp_path):
    """Return an open traffic in an empty folder."""
    opened = Traffic(tmp_path)
    yield opened
    opened.close()


def test_replies_come_back_as_they_were_recorded(tmp_path):
    """What is recorded is read again, every column with its type, once the traffic is closed."""
    recorded = Traffic(tmp_path)
    given_reply = reply("r1", citations=[CITED], supported=False, relevance=0.5, cost=None, streamed=True, caller="ada")
    recorded.record(given_reply)
    recorded.shadowed("r1", answer="31 days", version="0", arm="candidate", seconds=1.5)
    recorded.close()
    rows = traffic.replies(tmp_path).to_dicts()
    assert rows == [{name: getattr(given_reply, name) for name in traffic.REPLIES} | {"citations": [CITED]}]
    assert traffic.replies(tmp_path, since=given_reply.at + 1).is_empty()
    (shadow,) = traffic.shadows(tmp_path).to_dicts()
    assert (shadow["reply_id"], shadow["answer"], shadow["version"], shadow["seconds"]) == ("r1", "31 days", "0", 1.5)
    with pytest.raises(TypeError):
        recorded.shadowed("r1", said="31 days")


def test_a_run_without_traffic_has_none(tmp_path):
    """Nothing is made by reading: a run that was never served has empty tables, with the columns of others."""
    assert traffic.replies(tmp_path).schema == traffic.REPLIES
    assert traffic.shadows(tmp_path).schema == traffic.SHADOWS
    assert traffic.feedback(tmp_path).schema == traffic.FEEDBACK
    assert traffic.decisions(tmp_path).schema == traffic.DECISIONS
    assert not any(tmp_path.iterdir())


def test_feedback_is_on_disk_when_it_is_acknowledged(tmp_path, kept):
    """Once feedback has its number another process reads it, though nothing was closed, with the reply it is about."""
    kept.record(reply("r1"))
    number = kept.feedback("r1", rating="down", correction="60 days", comment="changed in May", caller="ada")
    (row,) = traffic.feedback(tmp_path).to_dicts()
    assert (row["id"], row["rating"], row["correction"], row["comment"]) == (
        number,
        "down",
        "60 days",
        "changed in May",
    )
    assert traffic.replies(tmp_path)["reply_id"].to_list() == ["r1"]


def test_feedback_on_what_was_never_said_is_refused(tmp_path, kept):
    """Feedback on an unknown reply raises, keeps nothing, and leaves others that wait with it as they are."""
    kept.record(reply("r1"))
    waiting = [kept.submit(name, rating="up") for name in ("r1", "r2", "r1")]
    with pytest.raises(UnknownReply, match="no reply r2"):
        waiting[1].result()
    assert [waiting[0].result(), waiting[2].result()] == traffic.feedback(tmp_path, history=True)["id"].to_list()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "ada", "bob"]), st.sampled_from(["up", "down"]))))
def test_the_last_feedback_of_a_caller_on_a_reply_counts(tmp_path_factory, given_feedback):
    """Whoever says what in whichever order: of each caller on each reply the last counts, and all of it is kept."""
    folder = tmp_path_factory.mktemp("traffic")
    opened = Traffic(folder)
    for name in "ab":
        opened.record(reply(name))
    done = [opened.submit(name, caller=caller, rating=rating) for name, caller, rating in given_feedback]
    assert [one.result() for one in done] == sorted(one.result() for one in done)
    opened.close()
    last = {(name, caller): rating for name, caller, rating in given_feedback}
    counted = traffic.feedback(folder)
    assert {(row["reply_id"], row["caller"]): row["rating"] for row in counted.to_dicts()} == last
    assert counted.height == len(last)
    assert traffic.feedback(folder, history=True)["rating"].to_list() == [rating for *_, rating in given_feedback]


def test_texts_are_redacted_before_they_are_written(tmp_path):
    """Where texts are redacted, no file of the traffic ever holds the original, not even the log beside it."""
    opened = Traffic(tmp_path, redact=lambda text: text.replace("Marta", "[NAME]"))
    opened.record(reply("r1", question="Is it Marta?", answer="It is Marta."))
    opened.shadowed("r1", answer="Marta it is")
    opened.feedback("r1", correction="Marta Quill", comment="I am Marta")
    assert not [path for path in tmp_path.iterdir() if b"Marta" in path.read_bytes()]
    opened.close()
    assert traffic.replies(tmp_path)["question"].to_list() == ["Is it [NAME]?"]
    assert traffic.feedback(tmp_path)["correction"].to_list() == ["[NAME] Quill"]


def test_quotes_are_redacted_too(tmp_path):
    """What an answer quotes is kept without what is redacted, whatever the documents were built with; places stay."""
    opened = Traffic(tmp_path, redact=lambda text: text.replace("bob@example.com", "[e-mail]"))
    quoted = {"document": "a.md", "page": 1, "start": 3, "end": 9, "quote": "Ask bob@example.com.", "chunk_id": "c"}
    opened.record(reply("r1", citations=[quoted]))
    opened.shadowed("r1", answer="x", citations=[quoted])
    opened.close()
    for kept in (traffic.replies(tmp_path), traffic.shadows(tmp_path)):
        assert kept["citations"].to_list() == [[{**quoted, "quote": "Ask [e-mail]."}]]
    assert not any(b"bob@example" in path.read_bytes() for path in tmp_path.iterdir())


def test_what_is_old_goes_and_accepted_feedback_stays(tmp_path):
    """Older than the retention, replies, shadows and feedback are gone from the file; what was accepted last stays."""
    first = Traffic(tmp_path, retention_days=365)
    old = time.time() - 91 * DAY
    for name in ("taken", "turned down", "open", "taken back"):
        first.record(reply(name, at=old, question="an old secret"))
        first.shadowed(name, at=old)
    first.record(reply("new"))
    numbers = {
        name: first.feedback(name, rating="up") for name in ("taken", "turned down", "open", "taken back", "new")
    }
    first.close()
    verdicts = [
        ("taken", "accepted"),
        ("turned down", "rejected"),
        ("taken back", "accepted"),
        ("taken back", "rejected"),
    ]
    traffic.decide(tmp_path, [{"feedback_id": numbers[name], "decision": said, "by": "M"} for name, said in verdicts])
    Traffic(tmp_path, retention_days=90).close()
    assert traffic.replies(tmp_path)["reply_id"].to_list() == ["new"]
    assert traffic.shadows(tmp_path).is_empty()
    assert traffic.feedback(tmp_path)["id"].to_list() == [numbers["taken"], numbers["new"]]
    assert traffic.decisions(tmp_path).height == len(verdicts)  # they are young; without their feedback they go in time
    assert not [path for path in tmp_path.iterdir() if b"an old secret" in path.read_bytes()]


def test_a_decision_has_a_name(tmp_path, kept):
    """Nobody decides without saying who they are, and then nothing is written."""
    rows = [
        {"feedback_id": 1, "decision": "accepted", "by": "M"},
        {"feedback_id": 2, "decision": "accepted", "by": " "},
    ]
    with pytest.raises(UsageError, match="name"):
        traffic.decide(tmp_path, rows)
    assert traffic.decisions(tmp_path).is_empty()


def test_a_later_format_and_a_damaged_file_are_refused(tmp_path):
    """A file of a later raft is neither read nor written, and one that is no database is named with what to do."""
    Traffic(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("PRAGMA user_version=2")
    for attempt in (lambda: Traffic(tmp_path), lambda: traffic.replies(tmp_path)):
        with pytest.raises(RaftError, match="format 2") as told:
            attempt()
        assert "pip install --upgrade" in told.value.hint
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    for attempt in (lambda: Traffic(tmp_path), lambda: traffic.feedback(tmp_path)):
        with pytest.raises(RaftError, match="cannot be used") as told:
            attempt()
        assert told.value.hint.startswith("mv ")


@pytest.mark.parametrize("version", [0, 1, 7])
def test_another_programs_database_is_left_alone(tmp_path, version):
    """A database in that place which is none of traffic is named and not changed, whatever number it has."""
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("CREATE TABLE customers (name TEXT)")
        database.execute(f"PRAGMA user_version={version}")
    before = (tmp_path / FILE).read_bytes()
    for attempt in (lambda: Traffic(tmp_path), lambda: traffic.replies(tmp_path)):
        with pytest.raises(RaftError, match="another program"):
            attempt()
    assert (tmp_path / FILE).read_bytes() == before


def test_who_cannot_be_told_of_a_failing_disk_ends_nothing(tmp_path):
    """Where the log is on the disk that is full too, feedback is refused all the same, and kept again afterwards."""

    def told(event, facts):
        raise OSError(28, "No space left on device")

    opened = Traffic(tmp_path, on_event=told)
    opened.record(reply("r1"))
    assert opened.feedback("r1", rating="up")
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("ALTER TABLE feedback RENAME TO elsewhere")
        with pytest.raises(RaftError, match="cannot be used"):
            opened.submit("r1", rating="up").result(30)
        database.execute("ALTER TABLE elsewhere RENAME TO feedback")
    assert opened.submit("r1", rating="down").result(30)
    opened.close()


def test_a_disk_that_fails_is_told_and_stops_nobody(tmp_path):
    """What cannot be written is counted and told; who gave feedback is told no; and it goes on once it can."""
    told = []
    opened = Traffic(tmp_path, on_event=lambda event, facts: told.append(event))
    opened.record(reply("r1"))
    assert opened.feedback("r1", rating="up")
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("ALTER TABLE feedback RENAME TO elsewhere")
        opened.record(reply("r2"))
        with pytest.raises(RaftError, match="cannot be used"):
            opened.feedback("r2", rating="up")
        database.execute("ALTER TABLE elsewhere RENAME TO feedback")
    assert told == ["stumbled"]
    assert opened.lost == 1
    opened.record(reply("r3"))
    assert opened.feedback("r3", rating="up")
    opened.close()
    with pytest.raises(RaftError, match="ends"):
        opened.feedback("r3", rating="up")


def test_too_many_replies_for_the_disk_are_given_up(tmp_path, monkeypatch):
    """Replies that wait take a limited room: more are counted as lost, which is told once, and nobody waits."""
    told = []
    monkeypatch.setattr(traffic, "WAITING", 3)
    monkeypatch.setattr(traffic, "GATHER", 30.0)
    opened = Traffic(tmp_path, on_event=lambda event, facts: told.append(facts["error"].what))
    for number in range(5):
        opened.record(reply(f"r{number}"))
    opened.close()
    assert opened.lost == 2
    assert len(told) == 1 and "2 of them are not kept" in told[0]
    assert traffic.replies(tmp_path).height == 3
    opened.record(reply("late"))
    assert opened.lost == 3, "what comes after the end is no silent loss"


def test_two_processes_write_to_one_file(tmp_path):
    """Two servers of one run keep all of what both were told, also where they make the file at the same moment."""
    script = (
        "import sys, time\nfrom raft.store.traffic import Reply, Traffic\nopened = Traffic(sys.argv[1])\n"
        "for number in range(20):\n    name = f'{sys.argv[2]}{number}'\n"
        "    opened.record(Reply(reply_id=name, at=time.time(), question='?'))\n"
        "    opened.feedback(name, rating='up')\nopened.close()\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in "ab"]
    assert [one.wait(60) for one in both] == [0, 0]
    assert traffic.replies(tmp_path).height == traffic.feedback(tmp_path).height == 40


def test_a_killed_process_keeps_what_it_acknowledged(tmp_path):
    """Killed at any of many moments, a process leaves every feedback that it acknowledged, and a file that opens."""
    script = (
        "import sys, time\nfrom raft.store.traffic import Reply, Traffic\nopened = Traffic(sys.argv[1])\n"
        "number = 0\n"
        "while True:\n    number += 1\n    name = f'{sys.argv[2]}-{number}'\n"
        "    opened.record(Reply(reply_id=name, at=time.time(), question='?'))\n"
        "    print(opened.feedback(name, rating='up'), flush=True)\n"
    )
    acknowledged = []
    for turn in range(4):
        command = [sys.executable, "-c", script, str(tmp_path), str(turn)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        acknowledged += [int(process.stdout.readline()) for _ in range(3 + 7 * turn)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().split("\n")[:-1]]
        process.wait()
        found = traffic.feedback(tmp_path)
        assert {*acknowledged} <= {*found["id"]}
        assert {*found["reply_id"]} <= {*traffic.replies(tmp_path)["reply_id"]}
