"""Files are read in a process of their own, which may end at any time."""

import os
import subprocess
import sys

import pytest

from raft.corpus.readers import ReadingProcess
from raft.errors import RaftError

# what the converter to Markdown takes minutes for
SLOW = "<pre>" + " " * 200_000 + "b</pre>"


@pytest.fixture
def reading(tmp_path):
    """Read a file: `reading(name, content)` returns (text, error)."""
    process = ReadingProcess()

    def read(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        (found,) = process.read(path, text_field="text", drop_templates=False)
        return found.text, found.error

    read.process = process
    yield read
    process.close()


def test_what_takes_too_long_costs_one_file(reading, monkeypatch):
    """A file over its time is an error that says so, and the next file is read."""
    with monkeypatch.context() as patch:
        patch.setattr("raft.corpus.readers.seconds_for", lambda path: 1)
        assert reading("slow.html", SLOW) == ("", "It takes longer than 1 seconds to read.")
    assert reading("b.html", "<p>Words.</p>") == ("Words.", None)


def test_a_process_that_ended_is_started_again(reading):
    """When the system ends the process between two files, none of them notices."""
    for name in ("a.md", "b.md"):
        assert reading(name, "Words.") == ("Words.", None)
        reading.process._child.kill()
        reading.process._child.wait()


def test_a_pipe_is_not_waited_for(reading, tmp_path):
    """What is no file is an error at once."""
    os.mkfifo(tmp_path / "pipe.md")
    (found,) = reading.process.read(tmp_path / "pipe.md", text_field="text", drop_templates=False)
    assert "pipe" in found.error


@pytest.mark.parametrize("way", ["", ".", "here"])
def test_nothing_of_the_working_directory_is_imported(way, tmp_path):
    """Modules that lie beside the documents are not run, however Python was told to look there."""
    for name in ("json", "signal", "subprocess", "pypdfium2", "markdownify", "resource"):
        (tmp_path / f"{name}.py").write_text(f"open('ran', 'w').write({name!r})")
    (tmp_path / "a.html").write_text("<p>Words.</p>")
    path = str(tmp_path) if way == "here" else way
    program = (
        "import sys; from pathlib import Path; from raft.corpus.readers import ReadingProcess; "
        f"sys.path.insert(0, {path!r}); "
        "print(ReadingProcess().read(Path('a.html'), text_field='text', drop_templates=False)[0].text)"
    )
    started = [sys.executable, "-P", "-c", program]
    done = subprocess.run(started, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "Words.\n", done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_process_that_does_not_start_is_an_error_with_a_next_step(reading, monkeypatch):
    """Without a process to read in nothing is read, and the error says how to learn why."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RaftError, match="does not start") as caught:
        reading("a.md", "Words.")
    assert "import raft.corpus.readers" in caught.value.hint
