"""Files of a finished run that are cut, emptied, flipped, replaced, deleted or newer: no command breaks, or lies."""

import json
import os
import random
import shutil
import sqlite3
from contextlib import closing

import pytest
from test_kills import asked, corpus_in

from conftest import tables_of

BUILD = ["build", "corpus", "--out", "run", "--quiet"]
BUILD += [f"--set={one}" for one in ("chunking.tokens=60", "questions.per_chunk=8", "generator.attempts=2")]
COMMANDS = [
    ["status", "run"],
    ["status", "run", "--json"],
    ["show", "run", "documents"],
    ["show", "run", "chunks", "-n", "2"],
    ["show", "run", "cleaned", "--only", "dropped"],
    ["show", "run", "examples"],
    ["show", "run", "failures", "--json"],
    ["show", "run", "eval"],
    ["export", "run", "--format", "openai", "--out", "rows"],
    ["export", "run", "--format", "axolotl", "--out", "rows"],
    ["ask", "run", "Who approves refunds?"],
]
ARTIFACTS = [
    *("manifest.json", "ledger.sqlite", "documents.parquet", "chunks.parquet", "survey.json", "questions.parquet"),
    *("failures.parquet", "cleaned.parquet", "examples.parquet", "train.jsonl", "valid.jsonl", "eval.jsonl"),
    *("index", "index/chroma.sqlite3", "index/*/data_level0.bin", "index/*/header.bin", "index/*/length.bin"),
    *("index/*/link_lists.bin", "lexical", "lexical/*.npy", "lexical/*.json"),
]


def cut(path):
    """Leave the first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    """Leave nothing in it."""
    path.write_bytes(b"")


def flip(path):
    """Change some bytes all over it."""
    content, draw = bytearray(path.read_bytes()), random.Random(path.name)
    for _ in range(-(-len(content) // 400)):
        content[draw.randrange(len(content))] ^= 0x5A
    path.write_bytes(bytes(content))


def replace(path):
    """Put a folder with a file of the user's in its place, or a file in the place of a folder."""
    was_folder = path.is_dir()
    delete(path)
    if was_folder:
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "mine.txt").write_text("mine")


def delete(path):
    """Take it away."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def renew(path):
    """Make it what a later raft might have written."""
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version=99")
    elif path.suffix == ".json":
        path.write_text(json.dumps({"format": 99, "steps": [], "version": 99}))
    else:
        path.write_bytes(b"\0later\0" * 50)


DAMAGE = [cut, empty, flip, replace, delete, renew]


@pytest.fixture(scope="module")
def finished(dying, tmp_path_factory):
    """A folder with a corpus and its finished run."""
    home = corpus_in(tmp_path_factory.mktemp("finished"))
    told = dying.do("command", home, *BUILD)
    assert told["ended"] == 0, told["output"]
    return home


def explained(told, arguments):
    """Assert that a command ended, and that what went wrong is said with what to do next."""
    words = told["output"]
    assert told["ended"] in (0, 1, 2), (arguments, told["ended"], words, told["error"])
    assert "Traceback" not in words + told["error"], (arguments, words, told["error"])
    assert "does not know how to explain" not in words, (arguments, words)
    assert told["ended"] == 0 or "next:" in words or "Usage:" in words, (arguments, words)


def chosen(number):
    """Return the commands to try on a damaged run: one in turn, or all where `RAFT_EVERY_CALL` is set."""
    if os.environ.get("RAFT_EVERY_CALL"):
        return COMMANDS
    return [COMMANDS[number % len(COMMANDS)]]


@pytest.mark.parametrize("name", ["data.csc.index.npy", "vocab.index.json", "chunks.arrow"])
def test_a_damaged_index_of_words_gives_no_answer(dying, finished, tmp_path, name):
    """A question to a run whose index of words is not what the build made is refused with the next command."""
    home = shutil.copytree(finished, tmp_path / "home")
    flip(home / "run" / "lexical" / name)
    told = dying.do("command", home, "ask", "run", "Who approves refunds?")
    assert told["ended"] == 1, told["output"]
    assert "raft build corpus --out run" in told["output"]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_a_damaged_run_is_explained_and_mended(dying, finished, tmp_path, artifact, damage):
    """Each command on a run with a damaged file ends well or says what to do; a build mends it, for nothing."""
    home = shutil.copytree(finished, tmp_path / "home")
    found = sorted((home / "run").glob(artifact))
    assert found, artifact
    for path in found[:1]:
        if damage not in (replace, delete) and path.is_dir():
            pytest.skip("a folder is no file")
        damage(path)
    number = 7 * ARTIFACTS.index(artifact) + 3 * DAMAGE.index(damage)
    for arguments in chosen(number):
        explained(dying.do("command", home, *arguments), arguments)
    before = asked(home)
    told = dying.do("command", home, *BUILD)
    explained(told, BUILD)
    if damage is replace:  # it is the user's, whatever its name
        assert (path / "mine.txt" if path.is_dir() else path).read_text() == "mine"
    elif told["ended"] == 0:
        assert tables_of(home / "run") == tables_of(finished / "run")
        assert artifact == "ledger.sqlite" or asked(home) == before
    else:
        assert damage is renew or artifact == "ledger.sqlite", told["output"]
