"""The user's folders: whatever lies in them and whatever they are called, raft changes nothing that it did not make."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from conftest import DOCUMENTS, Fakes, write_corpus
from raft import api
from raft.cli import main
from raft.errors import RaftError, UsageError
from raft.store import folders
from raft.store.ledger import Ledger

SETTINGS = {"chunking.tokens": 60}
NAMES = [
    *("manifest.json", "train.jsonl", "documents.parquet", "ledger.sqlite", "scratch", "scratch/index-cards/a.txt"),
    *("scratch/trial/mine", "lexical/mine.txt", "lexical/about.json", "index/chroma.sqlite3", "index/mine.bin"),
    *("report.html", "raft.yaml", "raft.yaml.draft", "manifest.json.draft", ".drafts/mine", "adapters/current"),
    *("export-openai/train.jsonl", "prompts/items.md", "notes/with spaces.md", "a.md", ".lock", ".git/config"),
]
CONTENTS = st.sampled_from([b"", b"mine", b"{}", b'{"name": "x", "steps": {}}', b"SQLite format 3\0", b"\xff\xfe\0"])
TREES = st.dictionaries(st.sampled_from(NAMES), CONTENTS, min_size=1, max_size=6)


def plant(folder, tree):
    """Write files into a folder, those that fit beside each other; return what lies there."""
    for name, content in tree.items():
        path = folder / name
        if path.exists() or any(above.is_file() for above in path.parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return contents(folder)


def contents(folder):
    """Return the bytes of each file below a folder, by its path."""
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(whole):
    """A folder with a corpus and its finished run, which no test writes to."""
    return whole


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES, command=st.sampled_from(["build", "estimate", "export", "init", "merged"]))
def test_every_byte_of_the_users_is_still_there(tree, command, finished, tmp_path_factory):
    """Whatever a folder holds, raft's names among it, no command that is pointed at it changes or deletes a byte."""
    mine = tmp_path_factory.mktemp("mine")
    before = plant(mine, tree)
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install(patch.setattr)
        try:
            if command == "build":
                api.build(finished / "corpus", out=mine, settings={"chunking.tokens": 60})
            elif command == "estimate":
                api.estimate(finished / "corpus", out=mine)
            elif command == "export":
                api.export(finished / "run", format="axolotl", out=mine)
            elif command == "merged":
                api.export_model(finished / "run", out=mine)
            else:
                api.initialise(mine)
        except RaftError as error:
            assert error.hint, error
    assert {path: content for path, content in contents(mine).items() if path in before} == before


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES.map(lambda tree: {name: content for name, content in tree.items() if "mine" in name or " " in name}))
@example(tree={"scratch/trial/mine": b"mine"})
def test_what_a_user_lays_into_a_run_stays_there(tree, finished, tmp_path_factory):
    """A build of a changed corpus deletes nothing that somebody has put into the run directory's folders."""
    home = shutil.copytree(finished, tmp_path_factory.mktemp("laid") / "home")
    before = contents(home / "run")
    mine = {
        path: content
        for path, content in plant(home / "run", tree).items()
        if path not in before and b"mine" in content
    }
    (home / "corpus" / "safety.md").write_text(
        "# Safety\n\nThe workshop holds 7 fire extinguishers.\n", encoding="utf-8"
    )
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install(patch.setattr)
        try:
            api.build(home / "corpus", out=home / "run", settings={"chunking.tokens": 60})
        except RaftError as error:
            assert "mv " in error.hint
    assert {path: content for path, content in contents(home / "run").items() if path in mine} == mine


def test_another_programs_lock_is_kept(finished, tmp_path, fake_models):
    """A folder that holds only a lock with something written in it is refused; with an empty one it is not."""
    mine, left = tmp_path / "mine", tmp_path / "left"
    for folder, content in ((mine, b"4711"), (left, b"")):
        folder.mkdir()
        (folder / ".lock").write_bytes(content)
    with pytest.raises(UsageError, match="raft did not make"):
        api.build(finished / "corpus", out=mine)
    assert (mine / ".lock").read_bytes() == b"4711"
    api.build(finished / "corpus", out=left, settings={"chunking.tokens": 60})


@pytest.mark.parametrize("option", [["--out", ""], ["--out", " "]])
def test_an_unset_variable_is_no_place(option, finished, fake_models):
    """An empty path, as an unset variable of the shell leaves it, is refused wherever one is typed."""
    run = str(finished / "run")
    for arguments in (
        ["build", str(finished / "corpus"), *option],
        ["build", ""],
        ["status", ""],
        ["init", ""],
        ["export", run, "--format", "openai", *option],
    ):
        told = CliRunner().invoke(main, arguments)
        assert told.exit_code == 2, arguments
        assert "empty" in told.output, arguments
    with pytest.raises(UsageError, match="empty"):
        api.build(finished / "corpus", out="")
    with pytest.raises(UsageError, match="empty"):
        api.build("", out=finished / "run")


def test_a_tilde_is_the_home_folder_everywhere(finished, fake_models, tmp_path, monkeypatch):
    """`~` leads home in every path that a script gives, and makes no folder of that name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "corpus", tmp_path / "corpus")
    api.build("~/corpus", out="~/run", settings={"chunking.tokens": 60, "ledger": "~/ledger.sqlite"})
    api.export("~/run", format="openai", out="~/rows")
    api.initialise("~/mine")
    assert {"run", "rows", "mine", "ledger.sqlite"} <= {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "~").exists()
    assert api.load("~/run").documents.height == len(DOCUMENTS)


def test_a_database_of_another_program_is_no_ledger(tmp_path):
    """A file that another program keeps its tables in is refused as a ledger, and not changed."""
    import sqlite3
    from contextlib import closing

    path = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE orders (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(RaftError, match="no ledger") as caught:
        Ledger(path)
    assert caught.value.hint
    assert path.read_bytes() == before


def test_a_run_directory_in_the_corpus_is_not_read(tmp_path, fake_models, monkeypatch):
    """A build of the folder that its run directory lies in reads the documents alone, however often, and says so."""
    write_corpus(tmp_path)
    asked = tmp_path / "questions.jsonl"
    asked.write_text('{"question": "Who keeps records?", "answers": ["the desk"]}\n', encoding="utf-8")
    (tmp_path / "ratings.jsonl").write_text('{"pair_id": "p1", "choice": "a"}\n', encoding="utf-8")
    api.initialise(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = {"pipeline_file": "raft.yaml", "evaluation": "questions.jsonl", "settings": {"chunking.tokens": 60}}
    first = api.build(".", out="runs/here", **options)
    calls = len(fake_models.asked)
    again = api.build(".", out="runs/here", **options)
    assert set(first.documents["path"]) == set(again.documents["path"]) == set(DOCUMENTS)
    assert len(fake_models.asked) == calls
    left_out = dict(map(tuple, again.manifest["skipped"]))
    assert left_out["runs/here"] == "raft made it"
    assert "questions" in left_out["questions.jsonl"]
    assert "pipeline" in left_out["raft.yaml"]
    assert "blind comparison" in left_out["ratings.jsonl"]


def test_a_folder_that_was_claimed_is_known_again(tmp_path):
    """A folder is raft's from its mark alone; a file of that name that another program wrote is no mark."""
    folders.claim(tmp_path / "run")
    (tmp_path / "run" / "train.jsonl").write_text("made by raft")
    folders.claim(tmp_path / "run")
    mine = tmp_path / "mine"
    plant(mine, {folders.MARK: b"peers: 3", "train.jsonl": b"mine"})
    with pytest.raises(UsageError, match="raft did not make"):
        folders.claim(mine)


def test_a_manifest_of_a_later_raft_is_left_alone(tmp_path, fake_models):
    """A run directory of a later format is refused before anything else in its manifest is looked at."""
    run = tmp_path / "run"
    folders.claim(run)
    (run / "manifest.json").write_text(json.dumps({"format": 2, "raft": "9.0", "steps": ["documents"]}))
    before = contents(run)
    with pytest.raises(UsageError, match="format 2"):
        api.build(write_corpus(tmp_path / "corpus"), out=run)
    assert {path: content for path, content in contents(run).items() if path in before} == before
