"""A build whose index lies on a Chroma server."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from conftest import write_corpus
from raft import api
from raft.errors import OtherEmbedder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a Chroma server that lives as long as this module's tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("server")
    command = [Path(sys.executable).parent / "chroma", "run", "--path", home / "data", "--host", "127.0.0.1", "--port"]
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen([*map(str, command), str(port)], stdout=log, stderr=log) as process,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}/api/v2/heartbeat", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(address, process):
    """Ask until the server answers, a bounded number of times."""
    for _ in range(120):
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    raise AssertionError("the server does not answer")


def build(corpus, out, server, **options):
    """Build with an index on the server."""
    settings = {"index.url": server, "chunking.tokens": 60, "generator.attempts": 2}
    return api.build(corpus, out=out, settings=settings, questions_per_chunk=4, **options)


def test_the_index_is_on_the_server_alone(corpus, tmp_path, fake_models, server):
    """With a server there is no index in the run directory, and the server's answers the questions."""
    built = build(corpus, tmp_path / "run", server)
    assert not (tmp_path / "run" / "index").exists()
    hits = built.index.search(["How heavy is the Delta garden pump?"], k=3)
    assert "7.5 kg" in hits["text"][0]
    assert api.load(tmp_path / "run").manifest["steps"]["index"]["notes"]["embedded"] == built.chunks.height


def test_a_second_build_embeds_nothing(corpus, tmp_path, fake_models, server):
    """The server's index is found again, and only what changed is embedded."""
    build(corpus, tmp_path / "run", server)
    fake_models.forget()
    build(corpus, tmp_path / "run", server)
    assert (fake_models.asked, fake_models.embedded) == ([], [])
    path = corpus / "safety.md"
    path.write_text(path.read_text(encoding="utf-8").replace("EP-204", "EP-205"), encoding="utf-8")
    built = build(corpus, tmp_path / "run", server)
    assert built.manifest["steps"]["index"]["notes"] == {
        "embedded": 1,
        "deleted": 1,
        "unchanged": built.chunks.height - 1,
    }


def test_runs_do_not_share_a_collection(tmp_path, fake_models, server):
    """Two runs on one server find their own documents alone."""
    corpus = write_corpus(tmp_path / "corpus")
    whole = build(corpus, tmp_path / "whole", server)
    part = build(corpus / "refunds", tmp_path / "part", server)
    assert set(part.index.search(["How heavy is the Delta garden pump?"], k=50)["doc_id"]) <= set(part.chunks["doc_id"])
    assert whole.index.search(["Delta"], k=50)["doc_id"].n_unique() > 2


def test_the_tables_do_not_depend_on_where_the_index_is(corpus, tmp_path, fake_models, server):
    """Training rows are the same with an index in a folder and on a server."""
    local = build(corpus, tmp_path / "local", None)
    remote = build(corpus, tmp_path / "remote", server)
    assert (local.folder / "train.jsonl").read_bytes() == (remote.folder / "train.jsonl").read_bytes()


def test_another_embedder_deletes_nothing_on_a_server(corpus, tmp_path, fake_models, server):
    """A server may be shared: another embedder is refused, and what is there stays."""
    build(corpus, tmp_path / "run", server)
    with pytest.raises(OtherEmbedder, match=r"another/embedder"):
        build(corpus, tmp_path / "run", server, embedder="another/embedder")
    fake_models.forget()
    build(corpus, tmp_path / "run", server)
    assert fake_models.asked == []
