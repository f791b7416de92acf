"""A registry whose writer is killed at the calls that change files: no line that was acknowledged is lost."""

import json
import shutil

import pytest
from test_kills import lose_power, places

from raft.store import registry

EVERY = "rename fsync unlink mkdir write"
MOMENTS = 50


@pytest.fixture(scope="module")
def quiet(dying, tmp_path_factory):
    """A folder with a run that was never killed, and one in which nothing has happened; how many calls that took."""
    from test_registry import write_run

    fresh, done = (tmp_path_factory.mktemp(name) for name in ("fresh", "done"))
    write_run(fresh / "run", "aaa1")
    shutil.copytree(fresh, done, dirs_exist_ok=True)
    told = dying.do("turns", done, "aaa1", kinds=EVERY)
    assert told["ended"] == 0, told["error"]
    assert [line["version"] for line in registry.history(done / "run")] == ["aaa1", "0"] * 2
    return fresh, told["seen"]


def acknowledged(home):
    """Return the lines that were acknowledged."""
    log = home / "log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_a_writer_that_is_killed_loses_no_acknowledged_line(dying, quiet, tmp_path):
    """Killed at any of 50 moments, the history is whole, has all acknowledged lines, and goes on."""
    fresh, count = quiet
    for at in places(count, MOMENTS):
        home = shutil.copytree(fresh, tmp_path / "killed")
        assert dying.do("turns", home, "aaa1", at=at, kinds=EVERY)["ended"] == -9, at
        known, lines = acknowledged(home), registry.history(home / "run")
        assert lines[: len(known)] == known, at
        assert len(lines) <= len(known) + 1, at  # of one that was written, the word had not come yet
        assert [line["line"] for line in lines] == list(range(1, len(lines) + 1)), at
        told = dying.do("turns", home, "aaa1", kinds=EVERY)
        assert told["ended"] == 0, (at, told["error"])
        assert registry.history(home / "run")[: len(lines)] == lines, at
        assert registry.standing(home / "run").production.id == "0", at
        shutil.rmtree(home)


def test_a_loss_of_power_loses_no_acknowledged_line(dying, quiet, tmp_path):
    """With what was not synced gone, the history is whole, and has all acknowledged lines."""
    fresh, count = quiet
    for at in places(count, 12):
        home, shadow = shutil.copytree(fresh, tmp_path / "dark"), tmp_path / "shadow"
        shadow.mkdir()
        found = [path.stat() for path in (home / "run").rglob("*") if path.is_file()]
        before = {one.st_ino: (one.st_size, one.st_mtime_ns) for one in found}
        dying.do("turns", home, "aaa1", at=at, kinds=EVERY, shadow=shadow)
        lose_power(home / "run", shadow, before)
        known, lines = acknowledged(home), registry.history(home / "run")
        assert lines[: len(known)] == known, at
        assert dying.do("turns", home, "aaa1", kinds=EVERY)["ended"] == 0, at
        shutil.rmtree(home)
        shutil.rmtree(shadow)
