"""Processes that are killed at the calls that change files, and machines that lose power there: the next goes on."""

import os
import random
import shutil

import pytest

from conftest import tables_of, write_corpus

ORDERED = "rename fsync unlink mkdir"
"""What gives files their names and takes them away; what is only written is half written at these, too."""


@pytest.fixture(scope="module")
def quiet(dying, tmp_path_factory):
    """A build that nothing disturbs: its folder, and how many calls of each group it makes."""
    home = corpus_in(tmp_path_factory.mktemp("quiet"))
    seen = {"write": dying.do("build", home, kinds="write")["seen"]}
    shutil.rmtree(home / "run")
    told = dying.do("build", home, kinds=ORDERED)
    assert told["ended"] == 0, told["error"]
    return home, {**seen, ORDERED: told["seen"]}


def corpus_in(home):
    """Write the corpus, and the log of calls, into a new folder; return it."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    write_corpus(home / "corpus")
    (home / "log").touch()
    return home


def places(count, wanted):
    """Return numbers of calls from 1 to `count`: so many, drawn evenly, or all where `RAFT_EVERY_CALL` is set."""
    if os.environ.get("RAFT_EVERY_CALL"):
        return [*range(1, count + 1)]
    draw, step = random.Random(count), count / wanted
    return [1 + int(step * place + draw.random() * step) for place in range(wanted)]


def asked(home):
    """Return the calls that the generator was asked, over all builds, in order."""
    return (home / "log").read_text(encoding="utf-8").split()


def lose_power(folder, shadow, before):
    """Throw away what was not synced: a file has what it had at its last sync, before the start, or nothing."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        number = path.stat().st_ino
        kept = shadow / str(number)
        if kept.exists():
            shutil.copyfile(kept, path)
        elif before.get(number) != (path.stat().st_size, path.stat().st_mtime_ns):
            path.write_bytes(b"")


def goes_on(dying, home, quiet):
    """Assert that the next build ends well, with the bytes of a quiet one, and asked again what was in flight alone."""
    told = dying.do("build", home)
    assert told["ended"] == 0, told["error"]
    assert tables_of(home / "run") == tables_of(quiet[0] / "run")
    calls = asked(home)
    assert set(calls) == set(asked(quiet[0]))
    assert len(calls) - len(set(calls)) <= 2


@pytest.mark.parametrize(("kinds", "wanted"), [(ORDERED, 16), ("write", 6)])
def test_a_build_that_is_killed_at_a_call_goes_on(dying, quiet, tmp_path, kinds, wanted):
    """Wherever a build is killed while it changes files, the next has the same bytes and pays nothing twice."""
    for at in places(quiet[1][kinds], wanted):
        home = corpus_in(tmp_path / "killed")
        assert dying.do("build", home, at=at, kinds=kinds)["ended"] == -9, at
        goes_on(dying, home, quiet)


def test_a_build_whose_machine_loses_power_goes_on(dying, quiet, tmp_path):
    """When what was never synced is gone besides, every reply that was paid for and kept is still there."""
    for at in places(quiet[1][ORDERED], 8):
        home = corpus_in(tmp_path / "dark")
        shadow = tmp_path / "shadow"
        shutil.rmtree(shadow, ignore_errors=True)
        shadow.mkdir()
        dying.do("build", home, at=at, kinds=ORDERED, shadow=shadow)
        if (home / "run").exists():
            lose_power(home / "run", shadow, {})
        goes_on(dying, home, quiet)


def test_a_finished_run_survives_a_build_that_is_killed(dying, quiet, tmp_path):
    """A build of a changed corpus on a finished run may be killed anywhere: the next one has what a new run would."""
    home = tmp_path / "changed"
    fresh = corpus_in(tmp_path / "fresh")
    for folder in (home, fresh):
        if folder is home:
            shutil.copytree(quiet[0], home)
        (folder / "corpus" / "safety.md").write_text("# Safety\n\nThe workshop holds 7 fire extinguishers.\n")
    assert dying.do("build", fresh)["ended"] == 0
    shutil.copytree(home, tmp_path / "counted")
    count = dying.do("build", tmp_path / "counted", kinds=ORDERED)["seen"]
    for at in places(count, 6):
        killed = tmp_path / "killed"
        shutil.rmtree(killed, ignore_errors=True)
        shutil.copytree(home, killed)
        assert dying.do("build", killed, at=at, kinds=ORDERED)["ended"] == -9
        told = dying.do("build", killed)
        assert told["ended"] == 0, told["error"]
        assert tables_of(killed / "run") == tables_of(fresh / "run"), at
