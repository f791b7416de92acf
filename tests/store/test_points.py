"""What was measured: kept as it comes, never changed, and of one format."""

import sqlite3
import subprocess
import sys
import textwrap

import pytest

from raft.errors import RaftError
from raft.store.points import Points

FACTS = {"version": "v1", "state": "first"}


def test_nothing_is_made_before_something_is_measured(tmp_path):
    """Looking at a run that was never measured leaves no file."""
    with Points(tmp_path) as points:
        assert (points.all(), points.replies(1)) == ([], {})
    assert list(tmp_path.iterdir()) == []


def test_points_come_back_as_they_were_kept(tmp_path):
    """A point and its replies are there when the file is opened again."""
    with Points(tmp_path) as points:
        number = points.begin({"version": "v1"})
        points.reply(number, "q1", {"answer": "ä\n30 days", "score": 0.5})
        kept = points.end(number, FACTS)
    with Points(tmp_path) as points:
        assert points.all() == [kept]
        assert points.replies(number) == {"q1": {"answer": "ä\n30 days", "score": 0.5}}


def test_a_measure_that_was_stopped_is_gone_on_with(tmp_path):
    """The same measure goes on where it was; another one, or one after it was done, begins anew."""
    with Points(tmp_path) as points:
        first = points.begin({"version": "v1"})
        points.reply(first, "q1", {})
    with Points(tmp_path) as points:
        assert points.begin({"version": "v1"}) == first
        points.end(first, FACTS)
        second = points.begin({"version": "v1"})
        assert second != first and points.replies(second) == {}
        assert points.begin({"version": "v2"}) not in (first, second)


@pytest.mark.parametrize("table", ["begun", "replies", "points"])
@pytest.mark.parametrize(
    "statement", ["DELETE FROM {}", "UPDATE {} SET at = 0", "INSERT OR REPLACE INTO {0} SELECT * FROM {0}"]
)
def test_rows_are_never_changed(tmp_path, table, statement):
    """The database itself refuses to change or delete what was measured."""
    with Points(tmp_path) as points:
        number = points.begin({})
        points.reply(number, "q1", {})
        points.end(number, FACTS)
    database = sqlite3.connect(tmp_path / "monitor.sqlite")
    with pytest.raises(sqlite3.IntegrityError, match="never changed"):
        database.execute(statement.format(table))
    database.close()


def test_another_format_and_another_file_are_refused(tmp_path):
    """A later raft's file is left alone; one that is no database is told how to be put aside."""
    with Points(tmp_path) as points:
        points.begin({})
    database = sqlite3.connect(tmp_path / "monitor.sqlite")
    database.execute("PRAGMA user_version=7")
    database.close()
    with pytest.raises(RaftError, match="format 7"):
        Points(tmp_path)
    (tmp_path / "monitor.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(RaftError, match="damaged"):
        Points(tmp_path)


def test_another_programs_database_is_left_alone(tmp_path):
    """A database in that place which holds no measures is named, and not changed."""
    database = sqlite3.connect(tmp_path / "monitor.sqlite")
    database.execute("CREATE TABLE customers (name TEXT)")
    database.close()
    before = (tmp_path / "monitor.sqlite").read_bytes()
    with pytest.raises(RaftError, match="another program"):
        Points(tmp_path)
    assert (tmp_path / "monitor.sqlite").read_bytes() == before


def test_a_reply_that_was_kept_outlives_a_kill(tmp_path):
    """What `reply` returned from is there after kill -9, whole; a point is there only with `end`."""
    program = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from raft.store.points import Points
        points = Points(Path({str(tmp_path)!r}))
        number = points.begin({{"version": "v1"}})
        for place in range(20):
            points.reply(number, f"q{{place}}", {{"score": 1.0}})
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -9
    with Points(tmp_path) as points:
        assert points.all() == []
        assert len(points.replies(points.begin({"version": "v1"}))) == 20
