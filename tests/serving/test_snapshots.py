"""Snapshots: a server answers from a finished build, whole, while others build, and takes over what they make."""

import errno
import json
import os
import shutil
import sqlite3
import tempfile
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

import raft
from conftest import last_of_user, reply_by_rule
from raft.errors import DamagedArtifact, RaftError, RunLocked, UsageError, of_system
from raft.serving.snapshots import Snapshots
from raft.serving.versions import Versions
from raft.store import artifacts
from raft.store import run as locking
from raft.store.run import unchanged
from served import Callers, Served, until

SETTINGS = {"chunking.tokens": 60, "questions.per_chunk": 1, "generator.attempts": 2}
MODEL = "openai/replying"
REQUESTS = int(os.environ.get("RAFT_REQUESTS", "200"))


def reply(request):
    """Answer with the first sentence of the first document that is shown, word for word."""
    documents = last_of_user(request).partition("[1]")[2].splitlines()
    sentence = next((line for line in documents[1:] if "." in line and not line.startswith("[")), "none.")
    return f'Answer: {sentence}\nQuote [1]: "{sentence}"'


@pytest.fixture
def home(whole, tmp_path, fake_models):
    """A copy of the finished build, with its corpus; models cost nothing, and quote when they answer."""
    asks = "Question:"
    fake_models.reply = lambda asked: reply(asked) if asks in last_of_user(asked) else reply_by_rule(asked)
    return shutil.copytree(whole, tmp_path / "home")


@contextmanager
def opened(run, told=None):
    """Open the snapshots of a run, answered by a model that quotes what it is shown."""
    with Versions(run, MODEL, None, lambda *event: told.append(event) if told is not None else None) as versions:
        yield versions


def look(versions):
    """Return what is offered where a build has finished since the last look, else None."""
    offered = []
    versions.refresh(offered.append)
    return offered[0] if offered else None


def rebuild(home):
    """Build again, while a server has the run open."""
    return raft.build(home / "corpus", out=home / "run", settings=SETTINGS)


def texts(folder):
    """Return the text of each document of a run by its path."""
    return dict(raft.load(folder).documents.select("path", "text").iter_rows())


def index_of(run):
    """Return the digest of a run's index."""
    return json.loads((run / "manifest.json").read_bytes())["steps"]["index"]["artifacts"]["index"]["digest"]


def test_a_build_changes_nothing_in_a_snapshot(home):
    """What is answered from a snapshot is the same before, during and after a build that deletes what it rests on."""
    with opened(home / "run") as snapshots:
        snapshot = snapshots.take().production
        snapshot.warm()
        before = snapshot.answerer.ask("How heavy is the Delta garden pump?")
        (home / "corpus" / "manuals" / "delta.md").unlink()
        rebuild(home)
        after = snapshot.answerer.ask("How heavy is the Delta garden pump?")
        assert (after.text, after.citations, after.passages) == (before.text, before.citations, before.passages)
        assert any(passage.document == "manuals/delta.md" for passage in after.passages)
        fresh = look(snapshots).production
        again = snapshot.answerer.ask("How heavy is the Delta garden pump?")
        assert again.text == before.text, "who answers from it still has it"
        assert (fresh.index, snapshot.index != fresh.index) == (index_of(home / "run"), True)
        found = fresh.answerer.ask("How heavy is the Delta garden pump?")
        assert all(passage.document != "manuals/delta.md" for passage in found.passages)
        folders = list((home / "run" / "scratch").glob("serving-*/[0-9]*"))
        snapshot.close()
        assert len(folders) == 2
        assert len(list((home / "run" / "scratch").glob("serving-*/[0-9]*"))) == 1, "nobody answers from it any more"


def test_nothing_new_is_no_snapshot(home):
    """A run that did not change, or in whose manifest only what no answer depends on did, is not copied again."""
    with opened(home / "run") as snapshots:
        snapshots.take()
        assert look(snapshots) is None
        manifest = json.loads((home / "run" / "manifest.json").read_bytes())
        (home / "run" / "manifest.json").write_text(json.dumps({**manifest, "remark": "benchmarked"}))
        assert look(snapshots) is None


def test_a_build_that_writes_is_not_taken_over(home):
    """While a build writes a running server takes nothing of it; when it has finished, what it made is."""
    with opened(home / "run") as snapshots:
        snapshots.take()
        (home / "corpus" / "new.md").write_text("# New\n\nThe new pump weighs 99 kg and costs 12 euros.\n")
        rebuild(home)
        with FileLock(home / "run" / ".lock"):
            assert look(snapshots) is None
        assert look(snapshots).production.snapshot.documents == 7


def test_a_server_starts_while_a_build_asks(home, fake_models):
    """A build whose index is made, and which goes on asking for hours, keeps no server from starting with it."""
    asks, goes_on, usual = threading.Event(), threading.Event(), fake_models.reply

    def reply(request):
        if "Question:" in last_of_user(request):
            return usual(request)
        asks.set()
        assert goes_on.wait(60)
        return usual(request)

    fake_models.reply = reply
    (home / "corpus" / "new.md").write_text("# New\n\nThe Zeta pump weighs 99 kg and costs 12 euros.\n")
    building = threading.Thread(target=rebuild, args=(home,))
    building.start()
    try:
        assert asks.wait(60)
        assert locking.is_locked(home / "run")
        with opened(home / "run") as snapshots:
            first = snapshots.take().production
            first.warm()
            assert (first.snapshot.documents, first.index) == (7, index_of(home / "run"))
            found = first.answerer.ask("How heavy is the Zeta pump?")
            assert any(passage.document == "new.md" for passage in found.passages)
            assert look(snapshots) is None
            goes_on.set()
            building.join(60)
            assert not locking.is_locked(home / "run")
            look(snapshots)
            assert first.answerer.ask("How heavy is the Zeta pump?").text == found.text
            first.close()
    finally:
        goes_on.set()
        building.join(60)
    assert list((home / "run" / "scratch").glob("serving-*")) == []


@pytest.mark.parametrize("change", ["unfinished", "while it is copied", "the index alone"])
def test_a_server_does_not_start_on_what_a_build_is_changing(home, monkeypatch, change):
    """What is half new, or becomes so while it is copied, is refused with who is at work, and never answered from."""
    manifest, usual = home / "run" / "manifest.json", Snapshots._copy
    sound = manifest.read_text()

    def busy(snapshots, folder):
        found = usual(snapshots, folder)
        if change == "while it is copied":
            manifest.write_text(json.dumps({**json.loads(sound), "remark": str(folder)}))
        elif change == "the index alone":
            with closing(sqlite3.connect(folder / "index" / "chroma.sqlite3")) as database, database:
                database.execute("DELETE FROM embeddings WHERE id = (SELECT MIN(id) FROM embeddings)")
        return found

    monkeypatch.setattr(Snapshots, "_copy", busy)
    expected = DamagedArtifact if change == "the index alone" else RunLocked
    with FileLock(home / "run" / ".lock"), pytest.raises(expected) as caught:
        if change == "unfinished":
            broken = json.loads(sound)
            broken["steps"]["index"]["unfinished"] = True
            manifest.write_text(json.dumps(broken))
        with opened(home / "run") as snapshots:
            snapshots.take()
    assert "raft status" in caught.value.hint
    assert "--out" not in caught.value.hint, "a server has none"
    assert str(home / "run") in str(caught.value.where)
    assert "scratch" not in str(caught.value.where)
    assert list((home / "run" / "scratch").glob("serving-*")) == []


def test_a_build_waits_while_a_run_is_copied(home, monkeypatch):
    """A build that begins while the run is being copied waits for it, and is not refused."""
    order, waits, is_locked = [], threading.Event(), locking.is_locked

    def looked(folder):
        waits.set()
        return is_locked(folder)

    monkeypatch.setattr(locking, "is_locked", looked)
    building = threading.Thread(target=lambda: (rebuild(home), order.append("built")))
    with unchanged(home / "run"):
        building.start()
        assert waits.wait(60)
        order.append("copied")
    building.join(60)
    assert order == ["copied", "built"]


def test_a_build_that_was_stopped_is_not_taken_over(home):
    """A server goes on with what it has where a build was stopped, says so once, and takes the next one over."""
    told = []
    with opened(home / "run", told) as snapshots:
        snapshot, manifest = snapshots.take().production, home / "run" / "manifest.json"
        sound = manifest.read_text()
        broken = json.loads(sound)
        broken["steps"]["index"]["unfinished"] = True
        manifest.write_text(json.dumps(broken))
        assert look(snapshots) is look(snapshots) is None
        ((event, facts),) = told
        assert (event, "not finished" in facts["why"]) == ("kept", True)
        assert snapshot.answerer.ask("How heavy is the Delta garden pump?").passages
        (home / "corpus" / "travel.md").unlink()
        rebuild(home)
        assert look(snapshots).production.snapshot.documents == 5


def test_a_run_that_comes_back_is_watched_on(home):
    """A run that is moved away is told of once; when it is back, the next build is taken over as ever."""
    told = []
    with opened(home / "run", told) as snapshots:
        first = snapshots.take().production.snapshot.documents
        (home / "run").rename(home / "away")
        assert [look(snapshots) for _ in range(3)] == [None] * 3
        assert [event for event, _ in told] == ["kept"]
        (home / "away").rename(home / "run")
        assert look(snapshots) is None
        (home / "corpus" / "new.md").write_text("# New\n\nThe new hall opens at 06:45.\n", encoding="utf-8")
        rebuild(home)
        after = look(snapshots)
        assert after is not None and after.production.snapshot.documents == first + 1


def test_what_a_killed_server_left_is_removed(home):
    """The next server removes the copies of one that was killed, and none of one that lives."""
    scratch = home / "run" / "scratch"
    (scratch / "serving-killed00" / "1").mkdir(parents=True)
    (scratch / "serving-killed00" / "1" / "manifest.json").write_text("{}")
    with opened(home / "run") as living:
        assert not (scratch / "serving-killed00").exists()
        snapshot = living.take().production
        with opened(home / "run"):
            assert len(list(scratch.glob("serving-*"))) == 2
            assert snapshot.answerer.ask("How heavy is the Delta garden pump?").passages
    assert list(scratch.glob("serving-*")) == []


def test_a_run_that_cannot_be_written_to_is_to_be_copied(home, monkeypatch):
    """Where the run lies on what is mounted to be read alone, the command that serves a copy is named."""

    def refuse(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "scratch")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(RaftError, match="Read-only") as told, opened(home / "run"):
        pass
    assert f"cp -r {home / 'run'} {home / 'run'}-served && raft serve {home / 'run'}-served" in str(told.value)


def test_a_full_disk_is_told_in_a_line(home, monkeypatch):
    """Where the copy of the index finds no room, that is what is said, with the file; nothing is left of it."""

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))

    with opened(home / "run") as snapshots, monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        patch.setattr(artifacts, "link", lambda *_: None)
        with pytest.raises(OSError, match="No space left on device") as caught:
            snapshots.take()
    told = of_system(caught.value)
    assert "df -h" in told.hint
    assert str(home / "run") in str(told.where)
    assert list((home / "run" / "scratch").glob("serving-*")) == []


def test_files_that_are_links_are_served(home):
    """A run whose files lie elsewhere, behind relative links, is served as any other."""
    run, there = home / "run", home / "there"
    there.mkdir()
    for name in ("documents.parquet", "chunks.parquet", "index", "lexical"):
        if (run / name).exists():
            shutil.move(run / name, there / name)
            (run / name).symlink_to(Path("..") / "there" / name)
    (home / "link").symlink_to("run")
    with opened(home / "link") as snapshots:
        assert snapshots.take().production.answerer.ask("How heavy is the Delta garden pump?").passages
    assert (run / "documents.parquet").is_symlink()


def test_what_cannot_be_asked_is_not_served(home, tmp_path):
    """No run, a run that was left half new, and a run without its index are refused as asking refuses them."""
    with pytest.raises(UsageError, match="no run directory"), opened(tmp_path):
        pass
    manifest = home / "run" / "manifest.json"
    sound = manifest.read_text()
    broken = json.loads(sound)
    broken["steps"]["index"]["unfinished"] = True
    manifest.write_text(json.dumps(broken))
    with pytest.raises(DamagedArtifact, match="not finished"), opened(home / "run"):
        pass
    manifest.write_text(sound)
    database = home / "run" / "index" / "chroma.sqlite3"
    database.write_bytes(b"no database" * 999)
    with pytest.raises(DamagedArtifact) as told, opened(home / "run") as snapshots:
        snapshots.take()
    assert str(told.value.where) == str(database), "the run's own file is named, not that of the copy"
    shutil.rmtree(home / "run" / "index")
    with pytest.raises(RaftError, match="has no index"), opened(home / "run") as snapshots:
        snapshots.take()


def test_two_hundred_questions_during_three_builds(home):
    """While builds add, change and delete documents no request fails, and each answer is of the index that it names."""
    known, replies = {index_of(home / "run"): texts(home / "run")}, []

    def change(number):
        corpus = home / "corpus"
        if number == 0:
            (corpus / "new.md").write_text("# Delta garden pump\n\nThe Delta garden pump of 2026 weighs 9.5 kg.\n")
        elif number == 1:
            path = corpus / "manuals" / "delta.md"
            path.write_text(path.read_text().replace("7.5 kg", "8.25 kg"))
        else:
            (corpus / "new.md").unlink()
        rebuild(home)
        known[index_of(home / "run")] = texts(home / "run")

    with opened(home / "run") as snapshots, Served(snapshots.take()) as served:

        def ask(number):
            reply = served.chat("How heavy is the Delta garden pump?", raft={"passages": True}, stream=number == 0)
            replies.append(reply[-1]["raft"] if number == 0 else reply["raft"])

        with Callers(4, ask, again=True) as callers:
            for number in range(3):
                change(number)
                assert snapshots.refresh(served.engine.offer) is not None
            wanted = max(REQUESTS, len(replies) + 20)
            until(lambda: callers.problems or len(replies) >= wanted)
        assert [event for event, _ in served.events if event == "stumbled"] == []
        assert 'outcome="failed"' not in served.ask("/metrics")[2]
    assert len(replies) >= REQUESTS
    assert len({reply["index"] for reply in replies}) >= 3
    assert replies[-1]["index"] == index_of(home / "run")
    for one in replies:
        corpus = known[one["index"]]
        assert one["passages"]
        for passage in one["passages"]:
            text = corpus[passage["document"]]
            assert text[passage["start"] : passage["start"] + len(passage["text"])] == passage["text"]
        for cited in one["citations"]:
            assert corpus[cited["document"]][cited["start"] : cited["end"]] == cited["quote"]
    assert any(one["citations"] for one in replies)
