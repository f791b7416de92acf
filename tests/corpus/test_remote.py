"""Documents at addresses are fetched once, anew where they change, and read as files of a folder are."""

import errno
import json
import os
import signal
import socket
import threading
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread

import fsspec
import pytest

import raft
from conftest import DOCUMENTS, tables_of, write_corpus
from raft.corpus import remote
from raft.corpus import web as pages
from raft.corpus.documents import find_sources
from raft.errors import RaftError, UsageError
from raft.text.secrets import bears_key


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
    monkeypatch.setattr(
        type(bucket), "get_file", lambda self, path, *more, **_: [got.append(path), get(self, path, *more)]
    )
    bucket.pipe("/bucket/docs/travel.md", b"# Travel anew")
    bucket.rm(f"/bucket/docs/{next(name for name in DOCUMENTS if name != 'travel.md')}")
    (entry,), _ = remote.fetch(["memory://bucket/docs"], tmp_path)
    assert [path.rpartition("/")[2] for path in got] == ["travel.md"]
    assert len(files(entry)) == len(DOCUMENTS) - 1
    assert files(entry)["travel.md"] == "# Travel anew"


@pytest.mark.parametrize("address", ["memory://bucket/docs", "memory://bucket/docs/**/*.md"])
def test_a_folder_that_cannot_be_listed_loses_nothing(tmp_path, bucket, monkeypatch, address):
    """Where a folder of an address is not told, the build ends in an error, and what was fetched of it stays."""
    (entry,), _ = remote.fetch([address], tmp_path)
    before, listed = files(entry.removesuffix("/**/*.md")), type(bucket).ls

    def ls(self, path, *given, **named):
        if path.rstrip("/").endswith("/refunds"):
            raise ConnectionResetError("reset")
        return listed(self, path, *given, **named)

    monkeypatch.setattr(type(bucket), "ls", ls)
    with pytest.raises(RaftError, match="reset"):
        remote.fetch([address], tmp_path)
    assert files(entry.removesuffix("/**/*.md")) == before


def test_what_a_link_leads_to_is_not_deleted(tmp_path, bucket):
    """A link that somebody has laid in the place of what was fetched goes, and what it leads to stays."""
    remote.fetch(["memory://bucket/docs"], tmp_path / "run")
    (fetched,) = [path.parent for path in (tmp_path / "run").rglob("fetched.jsonl")]
    theirs = tmp_path / "theirs"
    fetched.rename(theirs)
    (theirs / "own.md").write_text("mine")
    fetched.symlink_to(theirs)
    (entry,), _ = remote.fetch(["memory://bucket/docs"], tmp_path / "run")
    assert (theirs / "own.md").read_text() == "mine"
    assert files(entry) == DOCUMENTS


def test_a_file_and_a_glob_are_addresses_too(tmp_path, bucket):
    """One file and a glob name what they name of a folder on this machine, and other entries stay as they are."""
    entries, _ = remote.fetch(["memory://bucket/docs/travel.md", "memory://bucket/docs/**/*.md", "here"], tmp_path)
    assert Path(entries[0]).read_text() == DOCUMENTS["travel.md"]
    assert {*files(entries[1])} == {name for name in DOCUMENTS if name.endswith(".md")}
    assert entries[2] == "here"
    assert [remote.name_of(one) for one in ("s3://b/docs/", "s3://b/docs/*.md", "s3://b/a.pdf", "s3://b/..")] == [
        "docs",
        "docs",
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    ("address", "says", "hint"),
    [
        ("nix://bucket/docs", "Protocol not known: nix", "s3://"),
        ("s3://bucket/docs", "need a package that is not installed", "pip install s3fs"),
        ("gs://bucket/docs", "need a package that is not installed", "pip install gcsfs"),
        ("sftp://host/docs", "need a package that is not installed", "pip install paramiko"),
        ("libarchive://docs", "need a package that is not installed", "raft build ."),
        ("ftp://ada:secret@host/docs", "has a password or key in it", "environment"),
        ("ftp://ada:it's,secret',so@host/docs", "has a password or key in it", "environment"),
        ("simplecache::https://ada:secret@host/docs", "has a password or key in it", "environment"),
        ("simplecache::https://host/docs", "take simplecache:: away", "https://"),
        ("filecache::zip::https://host/docs", "take filecache::zip:: away", "https://"),
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
    assert not (tmp_path / "run").exists()
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


def index_of(entry):
    """Return where is noted what was fetched."""
    return next(folder / "fetched.jsonl" for folder in Path(entry).parents if (folder / "fetched.jsonl").exists())


@pytest.fixture
def asked(bucket, monkeypatch):
    """The names of the files that are fetched, as they are."""
    names, get = [], type(bucket).get_file

    def get_file(self, path, *more, **others):
        if path.endswith("fails.md"):
            raise NoKeys("expired")
        names.append(path.rpartition("/")[2])
        return get(self, path, *more, **others)

    monkeypatch.setattr(type(bucket), "get_file", get_file)
    monkeypatch.setattr(remote, "_AT_ONCE", 1)
    return names


def test_what_was_fetched_before_a_failure_is_kept(tmp_path, bucket, asked):
    """Where a file cannot be fetched, those before it are not fetched again, nor kept once they are gone there."""
    bucket.pipe("/bucket/docs/sfails.md", b"# None")
    with pytest.raises(RaftError, match="What was fetched is kept"):
        remote.fetch(["memory://bucket/docs"], tmp_path)
    before = sorted(name for name in DOCUMENTS if name < "sfails.md")
    assert {name.rpartition("/")[2] for name in before} <= {*asked} != set()
    bucket.rm("/bucket/docs/sfails.md")
    bucket.rm(f"/bucket/docs/{before[0]}")
    (entry,), _ = remote.fetch(["memory://bucket/docs"], tmp_path)
    assert sorted(asked) == sorted(name.rpartition("/")[2] for name in DOCUMENTS)
    assert files(entry).keys() == DOCUMENTS.keys() - {before[0]}


def test_notes_that_were_lost_or_made_up_delete_nothing_else(tmp_path, bucket, asked):
    """Lost notes fetch anew and leave nothing behind; notes that name other places reach nothing there."""
    (entry,), _ = remote.fetch(["memory://bucket/docs"], tmp_path / "cache")
    mine = tmp_path / "mine.md"
    mine.write_text("# Mine")
    up = os.path.relpath(mine, entry)
    index_of(entry).write_text("".join(json.dumps([name, {"size": "1"}]) + "\n" for name in (str(mine), up)) + '["cut')
    bucket.rm("/bucket/docs/travel.md")
    (entry,), _ = remote.fetch(["memory://bucket/docs"], tmp_path / "cache")
    assert mine.read_text() == "# Mine"
    assert files(entry).keys() == DOCUMENTS.keys() - {"travel.md"}
    assert len(asked) == 2 * len(DOCUMENTS) - 1


def test_odd_names_are_left_out_alone(tmp_path, bucket, monkeypatch):
    """A key that no file here can be named by, or that is too large, is left out and told; all others are read."""
    monkeypatch.setattr(remote, "MAX_FILE", 5000)
    odd = {
        "x" * 253 + ".md": "its name is too long for a file here",
        "/".join(["y" * 200] * 25) + ".md": "its name is too long for a file here",
        "travel.md/b.md": "travel.md is a file, and cannot be its folder here",
        "a//travel.md": "a folder in its name has no name",
        "a\0.md": "no file here can have its name",
        "large.md": "it is too large: 0 MB; the most is 0",
    }
    for name in odd:  # as in an object store, which has no folders
        data, path = b"#" * (6000 if name == "large.md" else 10), f"/bucket/docs/{name}"
        monkeypatch.setitem(bucket.store, path, type(bucket.store["/bucket/docs/travel.md"])(bucket, path, data))
    listed = {path: {"size": file.size, "etag": 1} for path, file in bucket.store.items()}
    monkeypatch.setattr(type(bucket), "find", lambda *_, **__: listed)
    monkeypatch.setattr(type(bucket), "isdir", lambda *_: False)
    (entry,), skipped = remote.fetch(["memory://bucket/docs"], tmp_path)
    assert files(entry) == DOCUMENTS
    told = dict(skipped)
    assert {name: told[f"memory://bucket/docs/{name}"] for name in odd} == odd


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("abfs://container@account.dfs.core.windows.net/docs", False),
        ("sftp://me@host/docs", False),
        ("s3://b/Report2024FinalVersionApproved/x", False),
        ("github://owner:repository@main/docs", False),
        ("https://host:8000/docs/a@b.md", False),
        ("sftp://me:secret@host/docs", True),
        ("sftp://me:1234@host/docs", True),
        ("ftp://me:se/cret@host/docs", True),
        ("https://host/docs?sig=abc", True),
        ("https://host/docs?X-Amz-Signature=abc", True),
        ("s3://AKIAIOSFODNN7EXAMPLE@b/docs", True),
    ],
)
def test_a_user_or_a_container_is_no_password(address, refused):
    """Addresses with a user, a container or a long name are read; a password, a key or a signature is refused."""
    assert bears_key(address) == refused


class Web(SimpleHTTPRequestHandler):
    """A web server that lists folders, quietly; `tells` says whether it says when files were changed."""

    tells = True

    def log_message(self, *_):
        """Say nothing."""

    def send_header(self, name, value):
        """Leave out when a file was changed, if it is not told."""
        if self.tells or name != "Last-Modified":
            super().send_header(name, value)


@pytest.fixture
def web(tmp_path, monkeypatch):
    """The address of a folder on a web server, the folder, and what was asked for."""
    folder, got = tmp_path / "site", []
    write_corpus(folder / "docs" / "sub")
    (folder / "docs" / "logo.png").write_bytes(b"PNG")
    (folder / "docs" / "page.html").write_text('<a href="nowhere.md">A page</a>')
    answer = Web.do_GET
    monkeypatch.setattr(Web, "do_GET", lambda self: [got.append(self.path), answer(self)])
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Web, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/docs", folder / "docs", got
        server.shutdown()
        thread.join()


def fetched_of(got):
    """Return which files were fetched, and forget it."""
    names = [path.rpartition("/")[2] for path in got if "." in path.rpartition("/")[2]]
    got.clear()
    return sorted(names)


@pytest.mark.parametrize("more", ["", "/", "/**/*.md"])
def test_folders_of_a_web_server_are_read(tmp_path, web, more):
    """A folder and a glob over http fetch what is there once, and again what changed, though its size did not."""
    address, folder, got = web
    pages = [] if more == "/**/*.md" else ["page.html"]
    (entry,), skipped = remote.fetch([address + more], tmp_path / "cache")
    root = entry.partition("*")[0]
    assert files(root).keys() == {*(f"sub/{name}" for name in DOCUMENTS if "md" in name or pages), *pages}
    assert all(name == f"{address}/logo.png" for name, _ in skipped) and bool(skipped) == bool(pages)
    fetched_of(got)
    remote.fetch([address + more], tmp_path / "cache")
    assert fetched_of(got) == []
    changed = folder / "sub" / "travel.md"
    changed.write_text(changed.read_text().swapcase())
    os.utime(changed, (1, 1))
    remote.fetch([address + more], tmp_path / "cache")
    assert fetched_of(got) == ["travel.md"]
    assert files(root)["sub/travel.md"] == changed.read_text()


def test_a_file_of_a_web_server_is_read(tmp_path, web, monkeypatch):
    """One file over http, a page with links too, is that file; where nothing tells of a change it is fetched anew."""
    address, folder, got = web
    (entry,), _ = remote.fetch([f"{address}/page.html"], tmp_path / "cache")
    assert Path(entry).read_text() == (folder / "page.html").read_text()
    monkeypatch.setattr(Web, "tells", False)
    (folder / "page.html").write_text('<a href="nowhere.md">B page</a>')
    for _ in range(2):
        got.clear()
        (entry,), _ = remote.fetch([f"{address}/page.html"], tmp_path / "cache")
        assert fetched_of(got) == ["page.html"]
    assert Path(entry).read_text() == (folder / "page.html").read_text()


def test_pages_that_link_to_one_another_have_an_end(tmp_path, web, monkeypatch):
    """Pages without an end of folders are one error; a link that leads nowhere is left out and told."""
    address, folder, _ = web
    (folder / "sub" / "index.html").write_text('<a href="travel.md"></a><a href="gone.md"></a><a href="#top"></a>')
    (entry,), skipped = remote.fetch([f"{address}/sub"], tmp_path / "cache")
    assert [*files(entry)] == ["travel.md"]
    assert skipped == [(f"{address}/sub/gone.md", "it is listed, and not there")]
    monkeypatch.setattr(remote, "_MOST_FOLDERS", 1)
    with pytest.raises(UsageError, match="more than 1 folders"):
        remote.fetch([address], tmp_path / "cache")
    with pytest.raises(RaftError, match=r"Documents cannot be read from http://\S+: ClientConnector"):
        remote.fetch(["http://127.0.0.1:1/docs"], tmp_path / "cache")


def test_a_file_is_fetched_up_to_what_is_read(tmp_path, web, monkeypatch):
    """A body that is longer than the server says is given up where raft reads no more of a file, and is told."""
    address, folder, _ = web
    (folder / "endless.md").write_text("# A\n")
    answer = Web.do_GET

    def endless(self):
        if not self.path.endswith("endless.md"):
            return answer(self)
        self.send_response(200)
        self.end_headers()
        return self.wfile.write(b"a" * 5_000_000)

    monkeypatch.setattr(Web, "do_GET", endless)
    monkeypatch.setattr(remote, "MAX_FILE", 1_000_000)
    (entry,), skipped = remote.fetch([address], tmp_path / "run")
    assert dict(skipped)[f"{address}/endless.md"].startswith("it is too large")
    assert "endless.md" not in files(entry)
    assert not list((tmp_path / "run").rglob("*.draft"))


def test_folders_that_hold_themselves_have_an_end(tmp_path, web, monkeypatch):
    """A web folder that lists itself is one error, and not searched for ever."""
    address, folder, _ = web
    (folder / "loop").symlink_to(folder)
    monkeypatch.setattr(remote, "_MOST_FOLDERS", 30)
    with pytest.raises(UsageError, match="more than 30 folders"):
        remote.fetch([address], tmp_path / "run")


def test_a_page_without_an_end_fills_no_memory(tmp_path, web, monkeypatch):
    """A list of a folder that never ends is given up after as much as any list has, and told."""
    sent = []  # of more bytes than lie between the two on their way, however busy the machine is

    def endless(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        with suppress(OSError):
            while len(sent) < 400:
                self.wfile.write(b"<!-- none -->" * 10_000)
                sent.append(1)

    monkeypatch.setattr(Web, "do_GET", endless)
    monkeypatch.setattr(pages, "_LONGEST", 300_000)
    with pytest.raises(UsageError, match="is longer than") as caught:
        remote.fetch([web[0]], tmp_path / "run")
    assert "name the files" in caught.value.hint
    assert len(sent) < 400


def test_links_are_read_as_a_browser_reads_them(tmp_path, web):
    """Entities, quotes of either kind, line ends and fragments in a link, and a bare address, lead to the files."""
    address, folder, _ = web
    for name in ("a&b.md", "c.md", "d.md", "e.md", "ü.md"):
        (folder / "sub" / name).write_text("# A\n")
    links = (
        """<a class="x" href="a&amp;b.md"><A\nHREF='c.md#top'><a href=d.md><a href="%C3%BC.md"><a href="?C=N;O=D">
        <a href="../page.html"><a href="mailto:a@b.c"><a href="http://[b.md"><!-- -->"""
        + f"{address}/sub/e.md"
    )
    (folder / "sub" / "index.html").write_text(links)
    (entry,), skipped = remote.fetch([f"{address}/sub"], tmp_path / "run")
    assert {*files(entry)} == {"a&b.md", "c.md", "d.md", "e.md", "ü.md"}
    assert skipped == []


def test_a_page_in_the_place_of_a_document_is_none(tmp_path, web, monkeypatch):
    """A login page for a PDF or a text is left out and told; text that shows one, or is called one, is read."""
    address, folder, _ = web
    page = "\ufeff<!-- in --><!DOCTYPE html><html><body>Log in</body></html>"
    names = ("manual.pdf", "login.md", "shown.txt", "told.md")
    for name in names:
        (folder / "sub" / name).write_text("# A title\n" if name == "told.md" else page)
    guess = Web.guess_type
    monkeypatch.setattr(Web, "guess_type", lambda self, path: (
        "text/html" if path.endswith(("login.md", "told.md")) else guess(self, path)))  # fmt: skip
    (entry,), skipped = remote.fetch([f"{address}/sub"], tmp_path / "run")
    assert {*files(entry)} == {*DOCUMENTS, "shown.txt", "told.md"}
    assert {name.rpartition("/")[2] for name, why in skipped if "a web page came" in why} == {"manual.pdf", "login.md"}
    with pytest.raises(UsageError, match=r"There are no documents at .*a web page came in the place of a \.pdf"):
        remote.fetch([f"{address}/sub/manual.pdf"], tmp_path / "run")


def ended(threads):
    """Wait until threads have ended, but for that of fsspec, which never does."""
    for thread in threads:
        if "fsspec" not in thread.name:
            thread.join(10)


@pytest.mark.parametrize("late", ["whole", "half", "none"])
def test_nobody_waits_for_a_silent_server(tmp_path, web, monkeypatch, late):
    """Ctrl-C while a server says nothing ends the fetch at once, and what comes after it changes nothing any more."""
    import polars  # noqa: F401  it has its own way with signals

    (web[1] / "sub" / "travel.md").write_text("# Before\n" * 10_000)
    answer, released, spoken, before = Web.do_GET, Event(), [], {*threading.enumerate()}

    def silent(self):
        if not self.path.endswith(".md"):
            return answer(self)
        if late == "half":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"# Half\n" * 10_000)
        os.kill(os.getpid(), signal.SIGINT)
        released.wait(10)
        spoken.append(self.path)
        with suppress(OSError):
            return {"whole": lambda: answer(self), "none": lambda: self.send_error(404),
                    "half": lambda: self.wfile.write(b"# Half\n" * 10_000)}[late]()  # fmt: skip

    def anew(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"# After\n" * 10_000)
        released.set()
        ended(waiting)
        self.wfile.write(b"# After\n" * 10_000)

    monkeypatch.setattr(Web, "do_GET", silent)
    try:
        with pytest.raises(KeyboardInterrupt):
            remote.fetch([f"{web[0]}/sub/travel.md"], tmp_path / "run")
        assert spoken == [] and not list((tmp_path / "run").rglob("*.md"))
        waiting = {*threading.enumerate()} - before
        monkeypatch.setattr(Web, "do_GET", anew)
        (entry,), _ = remote.fetch([f"{web[0]}/sub/travel.md"], tmp_path / "run")
    finally:
        released.set()
    assert spoken and Path(entry).read_text() == "# After\n" * 20_000
    assert not list((tmp_path / "run").rglob("*.draft"))


def test_nothing_lands_after_an_interruption(tmp_path, web, monkeypatch):
    """What a server says after Ctrl-C is no file of the run."""
    answer, released, before = Web.do_GET, Event(), {*threading.enumerate()}

    def silent(self):
        if self.path.endswith(".md"):
            os.kill(os.getpid(), signal.SIGINT)
            released.wait(10)
        answer(self)

    monkeypatch.setattr(Web, "do_GET", silent)
    with pytest.raises(KeyboardInterrupt):
        remote.fetch([f"{web[0]}/sub/travel.md"], tmp_path / "run")
    waiting = {*threading.enumerate()} - before
    released.set()
    ended(waiting)
    assert [path.name for path in (tmp_path / "run").rglob("*.*")] == ["fetched.jsonl"]


def test_names_of_the_web_are_decoded(tmp_path, web, monkeypatch):
    """Documents are called as their files are, but where two would be one, or a name could not be a file's."""
    address, folder, got = web
    (folder / "My Docs").mkdir()
    for name in ("My Doc.md", "100 %.md", "line\nend.md", "xA.md"):
        (folder / "My Docs" / name).write_text(f"# {name}\n")
    links = ("My%20Doc.md", "100%20%25.md", "line%0Aend.md", "xA.md", "x%41.md", "%2E%2E%2Fpage.md", "%FF.md")
    (folder / "My Docs" / "index.html").write_text("".join(f'<a href="{one}">' for one in links))
    place, names = f"{address}/My%20Docs", {"My Doc.md", "100 %.md", "line%0Aend.md", "xA.md", "x%41.md"}
    (entry,), _ = remote.fetch([place], tmp_path / "new")
    assert {*files(entry)} == names and entry.endswith("/docs/My Docs")
    (alone,), _ = remote.fetch([f"{place}/My%20Doc.md"], tmp_path / "new")
    assert Path(alone).name == "My Doc.md" and Path(alone).is_file()
    with monkeypatch.context() as patch:  # as earlier rafts did
        patch.setattr(pages, "decoded", str)
        (before,), _ = remote.fetch([place], tmp_path / "old")
    got.clear()
    (entry,), _ = remote.fetch([place], tmp_path / "old")
    assert entry == before and "My%20Doc.md" in files(entry)
    assert {path.rpartition("/")[2] for path in got if path.endswith(".md")} <= {"%FF.md", "..%2Fpage.md"}  # none


def test_a_failed_fetch_leaves_documents_their_names(tmp_path, web, monkeypatch):
    """A document that an earlier raft called by its raw name keeps it, also where a fetch of its change failed."""
    address, folder, _ = web
    (folder / "sub" / "My Doc.md").write_text("# Mine\n")
    with monkeypatch.context() as patch:  # as earlier rafts did
        patch.setattr(pages, "decoded", str)
        remote.fetch([f"{address}/sub"], tmp_path / "run")
    (folder / "sub" / "My Doc.md").write_text("# Mine, changed\n")
    with monkeypatch.context() as patch:
        answer = Web.do_GET
        patch.setattr(Web, "do_GET", lambda self: (
            self.send_error(503) if self.path.endswith("Doc.md") else answer(self)))  # fmt: skip
        with pytest.raises(RaftError, match="503"):
            remote.fetch([f"{address}/sub"], tmp_path / "run")
    (entry,), _ = remote.fetch([f"{address}/sub"], tmp_path / "run")
    assert files(entry).keys() == {*DOCUMENTS, "My%20Doc.md"}
    assert files(entry)["My%20Doc.md"] == "# Mine, changed\n"


def test_no_two_documents_of_the_web_have_one_name(tmp_path, web):
    """Where a decoded name is another's raw one, each is called by its own."""
    address, folder, _ = web
    (folder / "odd").mkdir()
    names = {"xA.md": "xA.md", "x%41.md": "x%2541.md", "y%41.md": "y%2541.md", "yA.md": "y%41.md"}
    for name in names:
        (folder / "odd" / name).write_text(f"# {name}\n")
    links = [*names.values(), "x%41.md"]
    (folder / "odd" / "index.html").write_text("".join(f'<a href="{one}">' for one in links))
    (entry,), _ = remote.fetch([f"{address}/odd"], tmp_path / "run")
    assert files(entry) == {
        "xA.md": "# xA.md\n",
        "x%41.md": "# xA.md\n",
        "x%2541.md": "# x%41.md\n",
        "yA.md": "# yA.md\n",
        "y%2541.md": "# y%41.md\n",
    }


def test_only_what_was_fetched_is_forgotten(tmp_path, bucket):
    """What others lay beside what was fetched stays, by whatever name, and so does what a link leads to."""
    cache = tmp_path / "scratch" / "fetched"
    remote.fetch(["memory://bucket/docs"], cache)
    (fetched,) = cache.iterdir()
    (cache / ("0" * 16)).mkdir()
    (cache / ("0" * 16) / "mine.md").write_text("mine")
    elsewhere = cache.rename(tmp_path / "elsewhere")
    cache.symlink_to(elsewhere)
    remote.forget([], cache)
    assert (elsewhere / fetched.name).exists()
    cache.unlink()
    elsewhere.rename(cache)
    scratch = cache.parent.rename(tmp_path / "other")
    cache.parent.symlink_to(scratch)
    remote.forget([], cache)
    assert fetched.exists()
    cache.parent.unlink()
    scratch.rename(cache.parent)
    remote.forget([], cache)
    assert [path.name for path in cache.iterdir()] == ["0" * 16]


def test_headers_of_the_configuration_are_sent_for_pages(tmp_path, web, monkeypatch):
    """What fsspec's configuration says of the web holds for lists of folders and for files, clients' options too."""
    seen, answer = [], Web.do_GET

    def do_get(self):
        seen.append((self.headers["X-Key"], self.headers["X-Client"]))
        answer(self)

    monkeypatch.setattr(Web, "do_GET", do_get)
    given = {"headers": {"X-Key": "a"}, "client_kwargs": {"headers": {"X-Client": "b"}}}
    monkeypatch.setitem(fsspec.config.conf, "http", given)
    remote.fetch([f"{web[0]}/sub"], tmp_path / "run")
    assert len(seen) > 2 and {*seen} == {("a", "b")}


@pytest.mark.parametrize("kind", ["text/html; charset=utf8mb4", "Text/HTML ;charset=utf-8", "application/xhtml+xml"])
def test_pages_are_read_whatever_their_servers_call_them(tmp_path, web, monkeypatch, kind):
    """A charset that nobody knows, capitals and spaces in the type, and XHTML make no list unreadable."""
    monkeypatch.setattr(Web, "end_headers", lambda self: [
        self.path.endswith("/") and self.send_header("Content-Type", kind),
        SimpleHTTPRequestHandler.end_headers(self),
    ])  # fmt: skip
    send = Web.send_header
    monkeypatch.setattr(Web, "send_header", lambda self, name, value: (
        None if name == "Content-type" and self.path.endswith("/") else send(self, name, value)))  # fmt: skip
    (entry,), _ = remote.fetch([f"{web[0]}/sub/"], tmp_path / "run")
    assert files(entry).keys() == DOCUMENTS.keys()


def test_links_of_the_other_scheme_lead_to_the_same_server(tmp_path, web):
    """A page that names its own server with https is read as if it named it as it was asked, and others are not."""
    address, folder, _ = web
    other = address.replace("http", "https")
    (folder / "sub" / "index.html").write_text(f'<a href="{other}/sub/travel.md"><a href="https://host/sub/b.md">')
    (entry,), skipped = remote.fetch([f"{address}/sub"], tmp_path / "run")
    assert [*files(entry)] == ["travel.md"] and skipped == []


def test_what_is_kept_is_of_the_address_that_failed(tmp_path, bucket, asked):
    """That something is kept is said where something of this address was fetched, not where another's was."""
    bucket.pipe("/bucket/more/fails.md", b"# None")
    with pytest.raises(RaftError, match="expired") as caught:
        remote.fetch(["memory://bucket/docs", "memory://bucket/more"], tmp_path)
    assert "kept" not in caught.value.what


def test_what_is_listed_no_more_is_not_kept(tmp_path, bucket, fake_models):
    """A build forgets what was fetched of addresses that are not in its corpus; an estimate forgets nothing."""
    bucket.pipe("/bucket/more/a.md", b"# Boats\n\nThe boats of Orlin Pumps carry 12 pumps each, since 2 May 2021.")
    both, run = ["memory://bucket/docs", "memory://bucket/more"], tmp_path / "run"
    raft.build(both, out=run)
    mine = run / "scratch" / "fetched" / "mine"
    mine.mkdir()
    raft.estimate(both[:1], out=run)
    assert len([*mine.parent.iterdir()]) == 3
    raft.build(both[:1], out=run)
    assert mine.exists() and len([*mine.parent.iterdir()]) == 2
    raft.build(write_corpus(tmp_path / "docs"), out=run)
    assert [*mine.parent.iterdir()] == [mine]


def test_an_address_is_told_as_it_was_typed(tmp_path):
    """What is left out has its host; where nothing was fetched nothing is said to be kept."""
    place = remote._Place("sftp://host/docs/*.md", None, "/docs", "*.md", tmp_path, tmp_path)
    assert remote._shown(place, "/docs/sub/a.md") == "sftp://host/docs/sub/a.md"
    with pytest.raises(RaftError, match=r"cannot be read from http://127\.0\.0\.1:1/docs: ") as caught:
        remote.fetch(["http://127.0.0.1:1/docs"], tmp_path / "cache")
    assert "is kept" not in str(caught.value)
    with pytest.raises(UsageError, match=f"There is no {tmp_path}/none"):
        raft.build(f"file://{tmp_path}/none", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_glob_is_that_of_the_address_alone(tmp_path, bucket):
    """Brackets and stars in the name of the run's folder are its name, and no pattern."""
    (entry,), _ = remote.fetch(["memory://bucket/docs/*.md"], tmp_path / "a[1]*b")
    sources, _ = find_sources([entry])
    assert {source.path.name for source in sources} == {name for name in DOCUMENTS if "/" not in name}


@pytest.mark.parametrize("more", ["", "/**/*.md", "/sub/b.md"])
def test_files_of_this_machine_are_read_where_they_lie(tmp_path, more):
    """Over file:// the same is read, and left out, as by the path: links to folders, loops, names that are no text."""
    (tmp_path / "docs" / "sub").mkdir(parents=True)
    for name in (b"docs/sub/b.md", b"docs/a.md", b"docs/bad\xff.md", b"out.md"):
        (tmp_path / os.fsdecode(name)).write_text(f"# {name!r}")
    (tmp_path / "docs" / "link").symlink_to("sub")
    (tmp_path / "docs" / "sub" / "loop").symlink_to("..")
    (tmp_path / "docs" / "out.md").symlink_to("../out.md")
    plain = f"{tmp_path}/docs{more}"
    entries, skipped = remote.fetch([f"file://{plain}"], tmp_path / "cache")
    assert find_sources(entries) == find_sources([plain])
    assert skipped == [] and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", ["[" * 100_000, "[1]", '"a"', "\0"])
def test_damaged_notes_cost_a_fetch(tmp_path, bucket, damage):
    """Notes that say nothing are as none: everything is fetched anew."""
    remote.fetch(["memory://bucket/docs"], tmp_path)
    (notes,) = tmp_path.rglob("fetched.jsonl")
    notes.write_text(damage)
    (entry,), _ = remote.fetch(["memory://bucket/docs"], tmp_path)
    assert files(entry) == DOCUMENTS


@pytest.mark.parametrize("status", [202, 204, 206, 304])
def test_only_a_whole_reply_is_a_document(tmp_path, web, monkeypatch, status):
    """A reply without a document, or with a part of one, is an error, and what was fetched before stays."""
    address, folder, _ = web
    remote.fetch([f"{address}/sub"], tmp_path / "run")
    (folder / "sub" / "travel.md").write_text("# Travel anew, and longer")
    answer = Web.do_GET

    def in_part(self):
        if not self.path.endswith("travel.md"):
            return answer(self)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        return self.end_headers()

    monkeypatch.setattr(Web, "do_GET", in_part)
    with pytest.raises(RaftError, match=rf"{status}.*no document, or a part of one.*fetched is kept") as caught:
        remote.fetch([f"{address}/sub"], tmp_path / "run")
    assert caught.value.hint.startswith(f"curl -iL {address}/sub ")
    (kept,) = (tmp_path / "run").rglob("travel.md")
    assert kept.read_text() == DOCUMENTS["travel.md"]
    assert not list((tmp_path / "run").rglob("*.draft"))


def test_what_came_in_part_is_fetched_again(tmp_path, bucket, asked):
    """A file that is shorter here than it came, as after a loss of power, is fetched again, though it is the same."""
    (entry,), _ = remote.fetch(["memory://bucket/docs"], tmp_path)
    asked.clear()
    (Path(entry) / "travel.md").write_text("")
    (entry,), _ = remote.fetch(["memory://bucket/docs"], tmp_path)
    assert asked == ["travel.md"]
    assert files(entry) == DOCUMENTS


def test_a_full_disk_is_not_the_addresss_fault(tmp_path, bucket, monkeypatch):
    """Where there is no room for what comes, that is told, with what shows it, and no half of a file takes any."""

    def get_file(self, path, local, **_):
        Path(local).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(bucket), "get_file", get_file)
    with pytest.raises(RaftError, match=r"^No space left on device") as caught:
        remote.fetch(["memory://bucket/docs"], tmp_path)
    assert caught.value.hint.startswith("df -h")
    assert not list(tmp_path.rglob("*.draft"))


def test_keys_in_the_links_of_a_page_are_not_shown(tmp_path, web):
    """What a page links to with a key or a signature is left out, and told without it."""
    address, folder, _ = web
    links = ("travel.md", "a.md?sig=SeCrEt", "b.bin?key=K3y", "get?token=K3y&amp;file=c.md")
    (folder / "sub" / "index.html").write_text("".join(f'<a href="{link}">' for link in links))
    (entry,), skipped = remote.fetch([f"{address}/sub"], tmp_path / "run")
    left = ("a.md?sig=***", "b.bin?key=***", "get?token=***&file=c.md")
    assert dict(skipped) == {f"{address}/sub/{one}": "its address has a password or a key in it" for one in left}
    assert [*files(entry)] == ["travel.md"]


def test_a_file_and_a_folder_of_one_name_end_no_build(tmp_path, web):
    """Where a document's decoded name is the folder of another's, it is read, and the other one left out and told."""
    address, folder, _ = web
    (folder / "sub" / "index.html").write_text('<a href="tr%61vel.md/b.md"><a href="travel.md">')
    (entry,), skipped = remote.fetch([f"{address}/sub"], tmp_path / "run")
    assert files(entry) == {"travel.md": DOCUMENTS["travel.md"]}
    assert skipped == [(f"{address}/sub/tr%61vel.md/b.md", "travel.md is a file, and cannot be its folder here")]


class WebOfIPv6(ThreadingHTTPServer):
    """A server that listens at ::1."""

    address_family = socket.AF_INET6


@pytest.mark.parametrize("more", ["", "/", "/travel.md", "/**/*.md", "/t*.md"])
def test_an_address_of_ipv6_is_one(tmp_path, more):
    """A host in brackets is read like any other, by a folder, a file and a glob: it is neither a pattern nor two."""
    write_corpus(tmp_path / "site" / "docs")
    try:
        server = WebOfIPv6(("::1", 0), partial(Web, directory=str(tmp_path / "site")))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        (entry,), _ = remote.fetch([f"http://[::1]:{server.server_port}/docs{more}"], tmp_path / "run")
        server.shutdown()
    assert "travel.md" in (files(entry) if Path(entry).is_dir() else Path(entry).name)
    assert remote.name_of("http://[::1]:80/docs/") == "docs"


def test_a_folder_is_asked_for_as_it_is_linked_to(tmp_path, web, monkeypatch):
    """Where a server knows a folder by its slash alone, and leads nowhere without it, what is in it is read."""
    answer, address = Web.do_GET, web[0]
    monkeypatch.setattr(Web, "do_GET", lambda self: (
        self.send_error(404) if self.path.endswith("sub") else answer(self)))  # fmt: skip
    (entry,), _ = remote.fetch([f"{address}/"], tmp_path / "run")
    assert {f"sub/{name}" for name in DOCUMENTS} <= {*files(entry)}


def test_a_server_that_is_too_slow_is_told_as_that(tmp_path, web, monkeypatch):
    """Where nothing comes in time, that is said, and not the name of a class alone."""
    monkeypatch.setattr(pages, "_SILENT", 0.2)
    released = Event()
    monkeypatch.setattr(Web, "do_GET", lambda self: released.wait(10))
    with pytest.raises(RaftError, match="does not answer in time"):
        remote.fetch([f"{web[0]}/sub/"], tmp_path / "run")
    released.set()
