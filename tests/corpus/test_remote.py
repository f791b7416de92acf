"""Documents at addresses are fetched once, anew where they change, and read as files of a folder are."""

from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest

import raft
from conftest import DOCUMENTS, tables_of, write_corpus
from raft.corpus import remote
from raft.errors import RaftError, UsageError


@pytest.fixture
def bucket():
    """A file system in memory with the six documents, a picture and a hidden file."""
    system = fsspec.filesystem("memory")
    for name, text in DOCUMENTS.items():
        system.pipe(f"/bucket/docs/{name}", text.encode())
    system.pipe("/bucket/docs/logo.png", b"PNG")
    system.pipe("/bucket/docs/.git/config.md", b"# None")
    yield system
    system.rm("/bucket", recursive=True)


def files(entry):
    """Return what was fetched, by its name."""
    folder = Path(entry)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_build_of_an_address_is_that_of_its_folder(tmp_path, bucket, fake_models):
    """Tables, ids of documents and all, are those of the same files in a folder of this machine."""
    raft.build("memory://bucket/docs", out=tmp_path / "remote")
    raft.build(write_corpus(tmp_path / "docs"), out=tmp_path / "local")
    assert tables_of(tmp_path / "remote") == tables_of(tmp_path / "local")


def test_a_build_of_a_changed_address_reads_what_changed(tmp_path, bucket, fake_models):
    """The same command does nothing again, and one more document is told and read."""
    events = []
    raft.build("memory://bucket/docs", out=tmp_path / "run")
    fake_models.forget()
    raft.build("memory://bucket/docs", out=tmp_path / "run")
    assert fake_models.asked == []
    bucket.pipe("/bucket/docs/new.md", b"# Boats\n\nThe boats of Orlin Pumps carry 12 pumps each, since 2 May 2021.")
    raft.build("memory://bucket/docs", out=tmp_path / "run", on_event=lambda *event: events.append(event))
    assert ("changes", {"new": ["new.md"]}) in events


def test_only_what_changed_is_fetched_again(tmp_path, bucket, monkeypatch):
    """What is the same at the address is left as it is here; what is gone there goes here."""
    (entry,), skipped = remote.fetch(["memory://bucket/docs"], tmp_path)
    assert files(entry) == DOCUMENTS
    assert dict(skipped) == {
        "memory://bucket/docs/.git/config.md": "it is hidden",
        "memory://bucket/docs/logo.png": "there is no reader for .png",
    }
    got, get = [], type(bucket).get_file
    monkeypatch.setattr(type(bucket), "get_file", lambda self, path, *more: [got.append(path), get(self, path, *more)])
    bucket.pipe("/bucket/docs/travel.md", b"# Travel anew")
    bucket.rm(f"/bucket/docs/{next(name for name in DOCUMENTS if name != 'travel.md')}")
    (entry,), _ = remote.fetch(["memory://bucket/docs"], tmp_path)
    assert [path.rpartition("/")[2] for path in got] == ["travel.md"]
    assert len(files(entry)) == len(DOCUMENTS) - 1
    assert files(entry)["travel.md"] == "# Travel anew"


def test_a_file_and_a_glob_are_addresses_too(tmp_path, bucket):
    """One file and a glob name what they name of a folder on this machine, and other entries stay as they are."""
    entries, _ = remote.fetch(["memory://bucket/docs/travel.md", "memory://bucket/docs/**/*.md", "here"], tmp_path)
    assert Path(entries[0]).read_text() == DOCUMENTS["travel.md"]
    assert entries[1].endswith("memory/bucket/docs/**/*.md")
    assert entries[2] == "here"
    assert [remote.name_of(one) for one in ("s3://b/docs/", "s3://b/docs/*.md", "s3://b/a.pdf")] == [
        "docs",
        "docs",
        "a",
    ]


@pytest.mark.parametrize(
    ("address", "says", "hint"),
    [
        ("nix://bucket/docs", "Protocol not known: nix", "s3://"),
        ("s3://bucket/docs", "need a package that is not installed", "pip install s3fs"),
        ("gs://bucket/docs", "need a package that is not installed", "pip install gcsfs"),
        ("ftp://ada:secret@host/docs", "has a password or key in it", "environment"),
    ],
)
def test_an_address_that_cannot_be_read_is_one_error(tmp_path, address, says, hint):
    """An unknown protocol, a package that is missing and a key in the address are told before any work."""
    if "pip install" in hint and find_spec(hint.rpartition(" ")[2]):
        pytest.skip("the package is installed")
    with pytest.raises(UsageError, match=says) as caught:
        raft.build(address, out=tmp_path / "run")
    assert hint in caught.value.hint
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_nothing_at_an_address_is_one_error(tmp_path, bucket, fake_models):
    """An address without documents, and keys that are refused, are told with what shows what is there."""
    with pytest.raises(UsageError, match="There are no documents at memory://bucket/none"):
        raft.build("memory://bucket/none", out=tmp_path / "run")
    refused = type("Refused", (type(bucket),), {"find": refuse, "cachable": False})()
    place = remote._Place("s3://bucket/docs", refused, "bucket/docs", "", tmp_path / "s", tmp_path / "i")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_place", lambda *_: place)
        with pytest.raises(RaftError, match="NoKeys: Unable to locate credentials") as caught:
            remote.fetch(["s3://bucket/docs"], tmp_path)
    assert caught.value.hint.startswith("aws s3 ls s3://bucket/docs")


class NoKeys(Exception):
    """What a provider's package raises; it is no OSError."""


def refuse(self, path, **_):
    """Refuse to list a bucket."""
    raise NoKeys("Unable to locate credentials")


def test_local_only_refuses_documents_that_are_elsewhere(tmp_path, bucket, fake_models):
    """Under `local_only` nothing is fetched from another machine; a file system of this one is none."""
    with pytest.raises(UsageError, match="documents are elsewhere"):
        raft.build("s3://bucket/docs", out=tmp_path / "run", local_only=True)
    remote.check(["memory://bucket/docs"], local_only=True)
