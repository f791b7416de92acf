"""The databases of a run: the same fault is told in the same words, with a command that goes on."""

import os
import shlex
import shutil
import sqlite3
from contextlib import closing

import pytest
from test_registry import write_run

from raft.errors import DamagedArtifact, RaftError
from raft.store import history, ledger, points, registry, traffic
from raft.store.points import Points
from raft.store.sqlite import transaction


def _begin(run):
    with Points(run) as opened:
        opened.begin({})


def _write(run):
    with closing(ledger.Ledger(run / "ledger.sqlite")) as opened:
        opened.register("a run", run, None)


NAMES = {
    "The registry": (history.FILE, lambda run: registry.promote(run, "0", by="Ann")),
    "The traffic": (traffic.FILE, lambda run: traffic.decide(run, [])),
    "The history of measures": (points.FILE, _begin),
    "The ledger": ("ledger.sqlite", _write),
}


@pytest.fixture
def run(tmp_path):
    """A run directory with an adapter."""
    write_run(tmp_path / "run", "aaa1")
    return tmp_path / "run"


def told(name, run):
    """Return what is said when the file of this name is written."""
    with pytest.raises(RaftError) as caught:
        NAMES[name][1](run)
    assert caught.value.where == str(run / NAMES[name][0])
    return caught.value


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_no_database_is_damaged_and_moved_aside(name, run):
    """Each says that its file is damaged, and by which command another one is made."""
    path = run / NAMES[name][0]
    path.write_bytes(b"no database at all" * 100)
    error = told(name, run)
    assert isinstance(error, DamagedArtifact)
    assert error.what.startswith(f"{name} cannot be used: the file is damaged (file is not a database)")
    shutil.move(*shlex.split(error.hint.split("   ")[0])[1:])
    NAMES[name][1](run)
    assert path.stat().st_size


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_is_full_and_a_file_that_is_closed_are_told_alike(name, run):
    """Words and command follow from the fault, not from the file: and no file is called damaged for it."""
    kept = {"The registry": history._REGISTRY, "The traffic": traffic._TRAFFIC, "The ledger": ledger._LEDGER}
    database, path = kept.get(name, points._POINTS), run / NAMES[name][0]
    full = [OSError(28, "No space left on device"), sqlite_error("SQLITE_FULL", "database or disk is full")]
    for error in map(database.unusable, [path] * 2, full):
        assert error.what.startswith(f"{name} cannot be used: the disk is full") and error.hint.startswith("df -h ")
    for code in ("SQLITE_READONLY_DBMOVED", "SQLITE_CANTOPEN", "SQLITE_CONSTRAINT_TRIGGER", "SQLITE_IOERR_WRITE", ""):
        error = database.unusable(path, sqlite_error(code, "it says why"))
        assert error.what == f"{name} cannot be used: it says why." and not isinstance(error, DamagedArtifact)
        assert "ls -ld " in error.hint


def sqlite_error(code, text):
    """Return an error as SQLite raises it."""
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorname = code
    return error


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_another_process_holds_is_not_called_unwritable(name, run, monkeypatch):
    """Who waited in vain for another process is told so, and how to find it."""
    NAMES[name][1](run)
    path = run / NAMES[name][0]
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **options: connect(*given, **{**options, "timeout": 0}))
    with closing(connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE" if name == "The registry" else "BEGIN IMMEDIATE")
        for module in (ledger, traffic):
            monkeypatch.setattr(module, "PATIENTLY", lambda act, *given: act(*given))
        error = told(name, run)
    assert error.what.startswith(f"{name} cannot be used: another process writes to it")
    assert error.hint.startswith(f"lsof {path}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_may_not_be_written_is_shown_with_its_rights(name, run):
    """What may not be written is told with the command that shows whose it is."""
    NAMES[name][1](run)
    path = run / NAMES[name][0]
    path.chmod(0o400)
    run.chmod(0o500)
    try:
        assert told(name, run).hint.startswith(f"ls -ld {run} {path}")
    finally:
        run.chmod(0o700)


def test_what_cannot_be_written_to_its_end_is_undone(tmp_path):
    """Where only the last step of writing fails, nothing of it stays, and what is written next begins as ever."""
    made = "CREATE TABLE rows (id INTEGER PRIMARY KEY, above INTEGER REFERENCES rows DEFERRABLE INITIALLY DEFERRED)"
    with closing(sqlite3.connect(tmp_path / "some.sqlite", isolation_level=None)) as database:
        for statement in ("PRAGMA foreign_keys=ON", made):
            database.execute(statement)
        with pytest.raises(sqlite3.IntegrityError), transaction(database):
            database.execute("INSERT INTO rows VALUES (1, 7)")
        with transaction(database):
            database.execute("INSERT INTO rows VALUES (2, NULL)")
        assert database.execute("SELECT id FROM rows").fetchall() == [(2,)]
