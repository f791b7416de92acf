"""Processes that are killed at the calls that change files, and machines that lose power there: the next command goes on."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import tables_of, write_corpus

HERE = Path(__file__).parent
ALL = "rename fsync unlink mkdir write"
ORDERED = "rename fsync unlink mkdir"
"""What gives files their names and takes them away; what is only written is half written at these, too."""

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("gcc") is None, reason="needs gcc, and a linker that preloads"
)


class Dying:
    """A process that does things in forks of itself, which end at a chosen call."""

    def __init__(self, library, *modules):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "dying.py"), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LD_PRELOAD": str(library)},
        )

    def do(self, what, home, *, at=0, kinds=ALL, shadow=""):
        """Do something in the run directory of a folder; return how it ended, what was seen, and the error."""
        given = {"do": what, "run": str(home / "run"), "corpus": str(home / "corpus"), "log": str(home / "log")}
        self.process.stdin.write(json.dumps({**given, "at": at, "kinds": kinds, "shadow": str(shadow)}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        """End it."""
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The library that ends processes, compiled."""
    made = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", made, HERE / "faults.c", "-ldl"], check=True, timeout=60)
    return made


@pytest.fixture(scope="module")
def dying(library):
    """What builds in forks of itself."""
    server = Dying(library)
    yield server
    server.close()


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
    """Return numbers of calls from 1 to `count`: so many, drawn evenly, or all of them where `RAFT_EVERY_CALL` is set."""
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


@pytest.mark.parametrize(("kinds", "wanted"), [(ORDERED, 24), ("write", 10)])
def test_a_build_that_is_killed_at_a_call_goes_on(dying, quiet, tmp_path, kinds, wanted):
    """Wherever a build is killed while it changes files, the next has the same bytes and pays nothing twice."""
    for at in places(quiet[1][kinds], wanted):
        home = corpus_in(tmp_path / "killed")
        assert dying.do("build", home, at=at, kinds=kinds)["ended"] == -9, at
        goes_on(dying, home, quiet)


def test_a_build_whose_machine_loses_power_goes_on(dying, quiet, tmp_path):
    """When what was never synced is gone besides, every reply that was paid for and kept is still there."""
    for at in places(quiet[1][ORDERED], 12):
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
    for at in places(count, 10):
        killed = tmp_path / "killed"
        shutil.rmtree(killed, ignore_errors=True)
        shutil.copytree(home, killed)
        assert dying.do("build", killed, at=at, kinds=ORDERED)["ended"] == -9
        told = dying.do("build", killed)
        assert told["ended"] == 0, told["error"]
        assert tables_of(killed / "run") == tables_of(fresh / "run"), at
