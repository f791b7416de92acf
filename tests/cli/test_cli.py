"""The command line: what is wrong is said in one screen, and what is printed can be read by people and programs."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

import click
import pytest
from click.testing import CliRunner

from conftest import Fakes, write_corpus
from raft import api
from raft import settings as config
from raft.api import models
from raft.backends.local.generate import LocalModel
from raft.cli import main
from raft.cli.group import spelled_out
from raft.errors import UsageError, pasted
from raft.store.budget import Budget, Price
from raft.store.ledger import Ledger
from raft.store.run import Run

FAST = ["--set", "chunking.tokens=60", "--questions-per-chunk", "2", "--quiet"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished build that no test writes to."""
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install(patch.setattr)
        api.build(
            write_corpus(home / "corpus"), out=home / "run", questions_per_chunk=2, settings={"chunking.tokens": 60}
        )
    return home / "run"


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished build."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def raft(tmp_path, monkeypatch):
    """Run the command line in an empty folder; return what it printed and its exit code."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result, code, *words, next_step=True):
    """Check that a command ended with one screen that names what is wrong, and what to do next."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert "does not know how to explain" not in result.output
    assert len(result.stderr.splitlines()) <= 12, result.stderr
    for word in words:
        assert str(word) in result.stderr
    if next_step:
        assert "  next:  " in result.stderr, result.stderr
    assert result.stdout == ""


def test_a_missing_corpus(raft, fake_models):
    """A path that does not exist is named, and nothing is made."""
    refused(raft("build", "no-such-folder"), 2, "no-such-folder")
    assert not any(Path().iterdir())


def test_no_corpus(raft, fake_models):
    """Without a corpus the command to type is shown."""
    refused(raft("build"), 2, "raft build .")


def test_a_corpus_without_readable_files(raft, fake_models, tmp_path):
    """A corpus in which no file has a reader names what was left out, and why."""
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "one.mp4").write_bytes(b"\0")
    refused(raft("build", tmp_path / "films"), 2, "one.mp4", "there is no reader for .mp4")


def test_a_corpus_of_damaged_files(raft, fake_models, tmp_path):
    """A corpus in which no file can be read is a failure that names the files."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "one.pdf").write_bytes(b"%PDF-1.7")
    refused(raft("build", tmp_path / "scans", "--out", "run", *FAST), 1, "one.pdf")


def test_a_run_directory_below_a_file(raft, fake_models, corpus, tmp_path):
    """A run directory that cannot be made is named, with the option that chooses another."""
    (tmp_path / "file").write_text("here already")
    refused(raft("build", corpus, "--out", tmp_path / "file" / "run", *FAST), 2, "--out", tmp_path / "file")


def test_a_run_directory_that_is_a_file(raft, fake_models, corpus, tmp_path):
    """A file where the run directory should be is left as it is."""
    (tmp_path / "file").write_text("here already")
    refused(raft("build", corpus, "--out", tmp_path / "file", *FAST), 2, "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "here already"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("index:\n  kk: 3\n", ["index.kk", "index.k"]),
        ("indx: {k: 3}\n", ["indx", "index"]),
        ("split: {unseen: 2}\n", ["split.unseen", "2"]),
        ("index: [1\n", ["YAML", "line"]),
        ("- a\n- b\n", ["key: value"]),
        ("generator: gpt\n", ["generator"]),
    ],
)
def test_a_wrong_pipeline_file(raft, fake_models, corpus, text, words):
    """What is wrong in a pipeline file is named with the file and, for a key, the nearest that is known."""
    (corpus.parent / "mine.yaml").write_text(text, encoding="utf-8")
    refused(raft("build", corpus, "--pipeline", corpus.parent / "mine.yaml"), 2, corpus.parent / "mine.yaml", *words)


def test_a_missing_pipeline_file(raft, fake_models, corpus):
    """A pipeline that is neither a file nor one of the package's is named."""
    refused(raft("build", corpus, "--pipeline", "no-such.yaml"), 2, "no-such.yaml")


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("index.k", ["index.k", "key=value"]),
        ("index.k=zero", ["index.k", "zero"]),
        ("index.k=[1", ["index.k", "YAML"]),
        ("index.kk=1", ["index.kk", "index.k"]),
        ("=1", ["key=value"]),
    ],
)
def test_a_wrong_assignment(raft, fake_models, corpus, assignment, words):
    """What is wrong after --set is named, and nothing is made."""
    refused(raft("build", corpus, "--set", assignment), 2, *words)
    assert not any(Path().iterdir())


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (["build", "docs", "--engine", "rya"], "raft build docs --engine ray"),
        (["build", "docs", "--engine=RAY", "--limit", "3"], "raft build docs --limit 3 --engine ray"),
        (["build", "docs", "--set", "engine.kind=rya"], "raft build docs --set engine.kind=ray"),
        (["build", "docs", "--set=privacy.found=redakt"], "raft build docs --set privacy.found=redact"),
        (
            ["build", "docs", "--set", "examples.quotes=3", "--seed", "1"],
            "raft build docs --seed 1 --set examples.quotes=",
        ),
        (
            ["build", "docs", "--set", "questions.kinds=[date, nam]"],
            "raft build docs --set 'questions.kinds=[date, name]'",
        ),
        (["build", "docs", "--set", "index.kk=7", "--seed", "1"], "raft build docs --seed 1 --set index.k=7"),
        (["build", "docs", "--set", "indx.k=7", "--seed", "1"], "raft build docs --seed 1 --set index.k=7"),
        (
            ["build", "docs", "--set", "questions.kinds=[dat, nam]"],
            "raft build docs --set 'questions.kinds=[date, name]'",
        ),
        (["build", "docs", "--set", "seed"], "raft build docs --set index.k=8"),
        (
            ["build", "docs", "--limit", "1", "--set", "index.k=1k"],
            "raft build docs --limit 1 --set index.k=1000",
        ),
        (["build", "docs", "--pipeline", "embeded"], "raft build docs --pipeline embedded"),
        (["train", "run", "--backend", "pft"], "raft train run --backend peft"),
        (["export", "run", "--format", "opnai", "--out", "a b"], "raft export run --out 'a b' --format openai"),
        (["ask", "run", "Who?", "--when-unsupported=refsue"], "raft ask run 'Who?' --when-unsupported refuse"),
    ],
)
def test_a_wrong_choice_is_answered_with_the_command_that_chooses(raft, fake_models, finished, typed, hint):
    """Where one of a few values is meant, the next command is what was typed with the nearest of them, as it stands."""
    typed = [str(finished) if word == "run" else word for word in typed]
    result = raft(*typed)
    refused(result, 2, f"  next:  {hint.replace(' run ', f' {finished} ')}")
    assert "raft init" not in result.stderr
    assert not any(Path().iterdir())


@pytest.mark.parametrize("more", [[], ["--engine", "rya"], ["--set", "index.k=1k"], ["--estimat"]])
def test_a_key_that_is_typed_as_a_setting_is_not_said_again(raft, fake_models, corpus, more):
    """Whatever else is wrong, neither the error nor the command that it proposes holds the key, and no file does."""
    for typed in (["--set", "generator.api_key=sk-9"], ["--set=api_key=sk-9"]):
        result = raft("build", corpus, *typed, *more)
        assert result.exit_code == 2
        assert "sk-9" not in result.output + result.stderr
        assert not any(Path().iterdir())


@pytest.mark.parametrize("arguments", [["--limit", "0"], ["--questions-per-chunk", "-1"]])
def test_a_wrong_number(raft, fake_models, corpus, arguments):
    """A number out of its range is named with its setting, and nothing is made."""
    refused(raft("build", corpus, *arguments), 2, "questions.", arguments[1])
    assert not any(Path().iterdir())


def test_an_option_that_is_no_number(raft, corpus):
    """A word where a number belongs, or an unknown option, is refused with the command's help named."""
    for arguments in (["--limit", "many"], ["--no-such-option"]):
        result = raft("build", corpus, *arguments)
        assert result.exit_code == 2
        assert arguments[0] in result.stderr
        assert "build --help" in result.stderr


@pytest.mark.parametrize("option", ["--embedder", "--student", "--generator"])
def test_a_folder_of_a_model_that_is_not_there(raft, corpus, option):
    """A model's folder that does not exist is named."""
    refused(raft("build", corpus, option, "./models/none", "--out", "run", *FAST), 2, "./models/none")


@pytest.mark.parametrize("offline", ["0", "1"])
@pytest.mark.parametrize("option", ["--embedder", "--generator"])
def test_an_unknown_model_when_the_hub_is_out_of_reach(corpus, tmp_path, option, offline):
    """A hub name that cannot be fetched ends at once with where models are looked for, before anything is built."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": offline}
    run = tmp_path / "run"
    kept = "LocalModel" if option == "--generator" else "open_embedder"
    real = f"import conftest; from raft.api import models; real = models.{kept}\nconftest.Fakes().install(setattr)\n"
    real += f"models.{kept} = real\n"
    command = ["build", corpus, option, "no-such-org/no-such-model", "--out", run, *FAST]
    result = program(*command, fakes=False, before=real, **hub)
    refused(result, 2, "no-such-org/no-such-model", "RAFT_MODELS")
    assert not (run / "chunks.parquet").exists()


class Ended:
    """What a command of another process printed, and its exit code."""

    def __init__(self, done):
        self.exit_code, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr
        self.output = done.stdout + done.stderr


PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
{before}
from raft.cli import main
from raft.errors import UsageError
main()
"""


def program(*arguments, fakes=True, before="", **environment):
    """Run the command line in a process of its own."""
    install = "from conftest import Fakes; Fakes().install(setattr)\n" if fakes else ""
    code = PROGRAM.format(before=install + before)
    command = [sys.executable, "-c", code, str(Path(__file__).parents[1]), *map(str, arguments)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return Ended(subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=settings))


@pytest.mark.parametrize(("option", "package"), [("generator", "transformers"), ("embedder", "sentence_transformers")])
def test_a_missing_extra(corpus, tmp_path, option, package):
    """A package that is not installed is named with the command that installs it, without a traceback."""
    result = program(
        *("build", corpus, "--out", tmp_path / "run", *FAST),
        fakes=False,
        before=f"import sys; sys.modules['{package}'] = None",
        HF_HUB_OFFLINE="1",
    )
    refused(result, 2, "pip install 'raft-pipeline[local]'", package)


def test_a_missing_extra_of_a_generator(raft, corpus, tmp_path, fake_models, monkeypatch):
    """Without torch a local generator says which extra brings it; what was done before is kept."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.setattr(models, "LocalModel", LocalModel)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = raft("build", corpus, "--generator", tmp_path / "model", "--out", "run", *FAST)
    refused(result, 2, "pip install 'raft-pipeline[local]'", "torch", tmp_path / "model")
    assert raft("show", "run", "chunks").exit_code == 0


@pytest.mark.parametrize("command", [["status"], ["show", "cleaned"], ["export", "--format", "openai"]])
def test_a_folder_that_is_no_run(raft, tmp_path, command):
    """A folder without a run is named, with the command that makes one."""
    (tmp_path / "other").mkdir()
    refused(raft(command[0], tmp_path / "other", *command[1:]), 2, tmp_path / "other", "raft build")
    assert not any((tmp_path / "other").iterdir())


def test_an_unknown_table(raft, finished):
    """A table that does not exist is refused with those that do."""
    refused(raft("show", finished, "riddles"), 2, "riddles", "cleaned", "duplicates")


@pytest.mark.parametrize("damage", ["noise", "missing", "other columns"])
def test_a_table_that_is_damaged(raft, copied, damage):
    """A damaged table is named with the command that mends it."""
    path = copied / "cleaned.parquet"
    if damage == "noise":
        path.write_bytes(b"no parquet at all")
    elif damage == "missing":
        path.unlink()
    else:
        shutil.copy(copied / "chunks.parquet", path)
    refused(raft("show", copied, "cleaned"), 1, "cleaned.parquet", "raft")


def test_lines_that_are_damaged(raft, copied):
    """Damaged evaluation lines are named with the command that mends them."""
    (copied / "eval.jsonl").write_text("{half a li", encoding="utf-8")
    refused(raft("show", copied, "eval"), 1, "eval.jsonl")


def test_a_manifest_that_is_damaged_is_mended_by_a_build(raft, copied, corpus, fake_models):
    """A run with a damaged manifest is built again without asking anything."""
    (copied / "manifest.json").write_text("{", encoding="utf-8")
    refused(raft("status", copied), 1, "manifest.json")
    assert raft("build", corpus, "--out", copied, *FAST).exit_code == 0
    assert fake_models.asked == []
    assert raft("status", copied).exit_code == 0


def test_a_run_of_a_newer_raft(raft, copied):
    """A run directory of another format is refused with what to do."""
    (copied / "manifest.json").write_text(json.dumps({"format": 99, "steps": {}}), encoding="utf-8")
    refused(raft("status", copied), 2, "99", "pip install --upgrade raft-pipeline")


def test_a_damaged_ledger(raft, fake_models, corpus, copied):
    """A ledger that is no ledger is left as it is, with the command that moves it aside."""
    for part in copied.glob("ledger.sqlite*"):
        part.unlink()
    (copied / "ledger.sqlite").write_bytes(b"these are not the rows you look for" * 100)
    refused(raft("build", corpus, "--out", copied, *FAST), 1, "ledger.sqlite", "mv ")
    assert (copied / "ledger.sqlite").read_bytes().startswith(b"these are not")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"query": "Why?", "answers": ["so"]}', ["query", "question, answers"]),
        ('{"question": "Why?"}', ["answers"]),
        ('{"question": "Why?", "answers": ["so"], "document": "safty.md"}', ["safty.md", "safety.md"]),
        ('{"question": "Why?", "answers": 3}', ["answers"]),
        ("why?", ["JSON"]),
        ("", ["no questions"]),
    ],
)
def test_a_wrong_evaluation_file(raft, fake_models, corpus, line, words):
    """What is wrong in a line of evaluation questions is named, and how a line reads is shown."""
    (corpus.parent / "own.jsonl").write_text(line, encoding="utf-8")
    refused(raft("build", corpus, "--out", "run", "--eval", corpus.parent / "own.jsonl", *FAST), 2, "own.jsonl", *words)


def test_a_missing_evaluation_file(raft, fake_models, corpus):
    """A file of evaluation questions that is not there is named."""
    refused(raft("build", corpus, "--out", "run", "--eval", "none.jsonl", *FAST), 2, "none.jsonl")


def test_a_folder_of_prompts_that_is_not_there(raft, fake_models, corpus):
    """A folder of prompts that does not exist is named."""
    refused(raft("build", corpus, "--out", "run", "--set", "prompts=none", *FAST), 2, "none", "raft init")


def test_a_prompt_with_an_unknown_placeholder(raft, fake_models, corpus, tmp_path):
    """A placeholder that cannot be filled is named with the prompt and those that can."""
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "answer_first.md").write_text("## user\nAsk about $sentense\n", encoding="utf-8")
    result = raft("build", corpus, "--out", "run", "--set", f"prompts={tmp_path / 'prompts'}", *FAST)
    refused(result, 2, "sentense", "answer_first.md", "$statement")


def test_a_model_that_writes_nothing_of_use(raft, fake_models, corpus):
    """A build without a single usable question fails and shows what came back."""
    fake_models.reply = lambda request: "No idea"
    asked = ["--set", "questions.way=answer_first"]
    refused(raft("build", corpus, "--out", "run", *FAST, *asked), 1, "No idea", "raft show run failures")
    assert "No idea" in raft("show", "run", "failures").stdout


def test_a_run_that_is_being_built(raft, fake_models, corpus, copied):
    """A build of a run directory that another holds is a failure that says what to do."""
    with Run(copied).writing():
        refused(raft("build", corpus, "--out", copied, *FAST), 1, copied, "the same command again")
        assert "a build is running" in raft("status", copied).stdout


def test_a_build_says_what_it_made_and_what_comes_next(raft, fake_models, corpus):
    """A build ends with its counts and the next commands, and exits 0."""
    result = raft("build", corpus, *FAST)
    assert result.exit_code == 0, result.output
    assert "Built runs/corpus" in result.stdout
    for word in ("documents", "6 read", "chunks", "questions", "kept", "examples", "raft show runs/corpus examples"):
        assert word in result.stdout
    assert result.stderr == ""


def test_progress_goes_to_the_error_stream(raft, fake_models, corpus):
    """Progress is told beside the result, never in it."""
    result = raft("build", corpus, "--json", *FAST[:-1])
    json.loads(result.stdout)
    assert "questions" in result.stderr


def test_names_in_a_summary_are_named(raft, fake_models, corpus):
    """Files that cannot be read, and those without a reader, are named with the reason in the summary."""
    (corpus / "broken.pdf").write_bytes(b"%PDF-1.7")
    (corpus / "film.mp4").write_bytes(b"\0")
    result = raft("build", corpus, *FAST)
    assert "broken.pdf: " in result.stdout
    assert "film.mp4: there is no reader for .mp4" in result.stdout


def test_json_is_for_programs(raft, fake_models, corpus):
    """With --json each command prints one JSON object a line, and nothing else; whole numbers are whole."""
    rest = (["status", "run"], ["export", "run", "--format", "openai"], ["init", "own"])
    for command in (["build", corpus, "--out", "run", *FAST], *rest):
        (line,) = raft(*command, "--json").stdout.splitlines()
        assert isinstance(json.loads(line), dict)
        assert not re.search(r"\d\.0[,}\]]", line)
    built = json.loads(raft("build", corpus, "--out", "run", "--json", *FAST).stdout)
    assert built["steps"]["examples"]["rows"]["train.jsonl"] > 0
    state = json.loads(raft("status", "run", "--json").stdout)
    assert state["summary"]["steps"].keys() == built["steps"].keys()
    assert (state["running"], state["spent"][0]["calls"] > 0) == (False, True)
    for table in ("documents", "chunks", "questions", "failures", "cleaned", "examples", "eval"):
        lines = raft("show", "run", table, "--json", "-n", "3").stdout.splitlines()
        assert all(isinstance(json.loads(line), dict) for line in lines)
        assert 1 <= len(lines) <= 3 or table == "failures"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("documents", ["manuals/delta.md", "Delta garden pump", "characters"]),
        ("chunks", ["chunk_id", "The Delta garden pump lifts"]),
        ("questions", ["  Q  ", "  A  ", "quote"]),
        ("failures", ["I would rather not", "malformed"]),
        ("cleaned", ["kept for train", "  Q  ", "  A  "]),
        ("examples", ["system:", "user:", "assistant:", "Answer:", "tokens"]),
        ("eval", ["question", "answers", "document"]),
    ],
)
def test_each_table_can_be_read(raft, finished, table, words):
    """Rows of each table are printed as a person reads them."""
    result = raft("show", finished, table, "-n", "50")
    assert result.exit_code == 0, result.output
    for word in words:
        assert word in result.stdout
    assert "{'" not in result.stdout


def test_the_text_of_a_document_can_be_looked_at(raft, finished):
    """`--text` prints what was read of a document, by its path or the end of it; a wrong name gets near ones."""
    whole = raft("show", finished, "documents", "--text", "refunds/home.md").stdout
    assert whole.startswith("# Refunds for home customers\n")
    assert raft("show", finished, "documents", "--text", "home.md").stdout == whole
    assert json.loads(raft("show", finished, "documents", "--text", "home.md", "--json").stdout)["text"] + "\n" == whole
    refused(raft("show", finished, "documents", "--text", "refunds/hom.md"), 2, "refunds/hom.md", "refunds/home.md")
    refused(raft("show", finished, "chunks", "--text", "refunds/home.md"), 2, "--text")


def test_rows_can_be_chosen(raft, finished):
    """`--only` chooses by split, reason, kind, kept or dropped; a word that no row has is refused."""
    kept = raft("show", finished, "cleaned", "--only", "kept", "-n", "99").stdout
    assert "kept for train" in kept
    assert "dropped" not in kept
    dropped = raft("show", finished, "cleaned", "--only", "dropped", "-n", "99").stdout
    assert "kept for" not in dropped
    assert "  date  " in raft("show", finished, "cleaned", "--only", "date").stdout
    assert "kept for valid" not in raft("show", finished, "cleaned", "--only", "train").stdout
    none = raft("show", finished, "cleaned", "--only", "sunshine")
    refused(none, 2, "No row of cleaned is 'sunshine'; they are kept, dropped, ", f"raft show {finished} cleaned")
    assert {"date", "train", "eval_unseen"} <= {*re.split("[,.]\\s", none.stderr)}
    refused(raft("show", finished, "documents", "--only", "kept"), 2, "documents")


def test_failures_are_counted_by_what_was_wrong(raft, finished):
    """Failures are counted by what was wrong with them, which chooses rows too, and each names its document."""
    said = raft("show", finished, "failures").stdout
    head, first = said.split("\n\n")[:2]
    assert re.findall(r"^ +\d+  (it .*)   \(malformed\)$", head, re.MULTILINE)
    wrong = re.findall(r"^message +(.*)$", first, re.MULTILINE)[0]
    assert re.search(r"^document +\w+/\w+\.md$", first, re.MULTILINE)
    assert re.search(r"^passage +\S", first, re.MULTILINE)
    chosen = raft("show", finished, "failures", "--only", wrong, "--json", "-n", "99").stdout.splitlines()
    assert {json.loads(line)["message"] for line in chosen} == {wrong}
    assert raft("show", finished, "failures", "--only", "sunshine").stderr.count(wrong) == 1


@pytest.mark.parametrize("table", ["chunks", "questions", "failures", "cleaned", "examples", "eval"])
def test_each_row_names_its_document(raft, finished, table):
    """Whatever a row is about, it says in which document that stands, for people and programs."""
    paths = set(api.load(finished).documents["path"])
    rows = [json.loads(line) for line in raft("show", finished, table, "--json").stdout.splitlines()]
    assert rows
    assert {path for row in rows for path in row["document"].split(", ")} <= paths
    assert rows[0]["document"].split(", ")[0] in raft("show", finished, table, "-n", "1").stdout


def test_rows_that_cannot_be(raft, finished):
    """A negative number of rows is an error, on the command line and in Python; so is a choice that no row fits."""
    refused(raft("show", finished, "chunks", "-n", "-1"), 2, "-1", next_step=False)
    with pytest.raises(UsageError, match="-1"):
        api.show(finished, "chunks", rows=-1)
    with pytest.raises(UsageError, match="sunshine") as error:
        api.show(finished, "cleaned", only="sunshine")
    assert "kept, dropped" in str(error.value)
    assert api.show(finished, "cleaned", only="kept", rows=2)["split"].null_count() == 0


def test_status_says_what_was_spent(raft, finished):
    """The state of a run names each step with its rows, and what its ledger holds."""
    result = raft("status", finished)
    assert result.exit_code == 0
    for word in ("documents", "chunks", "survey", "index", "lexical", "questions", "cleaned", "examples", "replies"):
        assert word in result.stdout


def test_status_of_a_run_that_was_moved(raft, finished, tmp_path):
    """A run directory that was moved can be looked at."""
    moved = shutil.copytree(finished, tmp_path / "elsewhere")
    assert str(moved) in raft("status", moved).stdout


def test_status_of_a_build_that_was_cut_off(raft, fake_models, corpus):
    """A run that was cut off says which steps are still to do and the command that goes on, which does as it stands."""
    fake_models.cut_at = 20
    assert raft("build", corpus, "--out", "run", *FAST).exit_code == 130
    result = raft("status", "run")
    assert result.exit_code == 0, result.output
    left, command = result.stdout.partition("  still to be made: ")[2].split("\n")[:2]
    assert left == "survey, index, lexical, questions, cleaned, examples"
    refused(raft("show", "run", "examples"), 1, "examples.parquet", "raft build")
    words = shlex.split(command.removeprefix("  next:  raft "), comments=True)
    assert raft(*words).exit_code == 0
    assert "still to be made" not in raft("status", "run").stdout
    others = [word.replace("tokens=60", "tokens=40") for word in words]
    fake_models.events, fake_models.cut_at = 0, 4
    assert raft(*others).exit_code == 130
    left, command = raft("status", "run").stdout.partition("  a build with other settings was ")[2].split("\n")[:2]
    assert left == "stopped" and "chunking.tokens=40" in command


def test_status_of_a_build_that_stopped_at_the_questions(raft, corpus, monkeypatch):
    """Where a build stopped at a file of questions, what is wrong there is said before the command that goes on."""
    own = Path("own.jsonl")
    own.write_text(json.dumps({"question": "Who pays?", "answers": ["it"], "document": "none.md"}) + "\n", "utf-8")
    command = ("build", corpus, "--out", "run", *FAST, "--eval", own)
    refused(raft(*command), 2, "There is no document none.md", "own.jsonl, line 1")
    said = raft("status", "run").stdout
    assert "first mend your questions: There is no document none.md" in said and "own.jsonl, line 1" in said
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert "own.jsonl, line 1" in raft("status", Path("..") / "run").stdout
    monkeypatch.chdir("..")
    own.write_text(json.dumps({"question": "Who pays?", "answers": ["it"]}) + "\n", "utf-8")
    assert "first mend" not in raft("status", "run").stdout
    Path("run", "documents.parquet").write_bytes(b"PAR1")  # read anew before the questions are looked at
    assert "still to be made" in raft("status", "run").stdout


def test_an_index_that_is_used_no_more_is_not_to_be_made(raft, corpus):
    """Without words beside vectors, an index of words that was deleted leaves a run whole."""
    assert raft("build", corpus, "--out", "run", *FAST).exit_code == 0
    assert raft("build", corpus, "--out", "run", *FAST, "--set", "index.hybrid=false").exit_code == 0
    shutil.rmtree(Path("run") / "lexical")
    said = raft("status", "run").stdout
    assert "still to be made" not in said and "was stopped" not in said


@pytest.fixture
def interruptible():
    """Have SIGINT interrupt this process and those that it starts, also where it is ignored outside."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_is_to_be_run_again_is_written_out():
    """A hint to run the same command again is that command, with the rest of its words behind it as a remark."""
    context = click.Context(main)
    context.meta["raft.typed"] = "raft build 'my docs' --set index.k=8"
    said = spelled_out("run the same command again later: replies are kept", context)
    assert pasted(said) == "raft build 'my docs' --set index.k=8   # later: replies are kept"
    assert spelled_out("mv a b   (then the same command again)", context) == "mv a b   (then the same command again)"


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_says_how_to_go_on(raft, fake_models, corpus):
    """A build that is interrupted exits 130 and says which command goes on, as it was typed."""
    fake_models.busy = lambda: signal.raise_signal(signal.SIGINT)
    result = raft("build", corpus, "--out", "run", *FAST)
    assert result.exit_code == 130
    assert f"  next:  raft build {corpus} --out run {' '.join(FAST)}   # goes on" in result.stderr
    assert "Traceback" not in result.output
    fake_models.busy = lambda: None
    assert raft("build", corpus, "--out", "run", *FAST).exit_code == 0


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_process(corpus, tmp_path):
    """A process that is sent SIGINT exits 130 with one line of what to do."""
    before = "import signal, conftest; conftest.FakeModel.batch = 1\n"
    before += "conftest.Fakes.event = lambda fakes: fakes.asked and signal.raise_signal(signal.SIGINT)\n"
    result = program("build", corpus, "--out", tmp_path / "run", *FAST, before=before)
    assert result.exit_code == 130, result.stderr
    assert f"  next:  raft build {corpus} --out {tmp_path / 'run'} {' '.join(FAST)}   # goes on" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_closed_pipe_is_no_error(finished):
    """A reader that closes early, as `head` does, ends the command without a word."""
    code = "from raft.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "show", str(finished), "examples", "-n", "99"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait(timeout=60) == 0
    assert said == ""


def test_debug_shows_the_traceback(raft, fake_models):
    """With --debug the error itself comes through, for a report."""
    result = raft("build", "no-such-folder", "--debug")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "UsageError"


def test_debug_prints_the_traceback(tmp_path):
    """With --debug a process prints the traceback."""
    result = program("status", tmp_path, "--debug")
    assert "Traceback" in result.stderr
    assert "UsageError" in result.stderr


def test_what_nobody_foresaw_is_one_screen_too(raft, fake_models, corpus):
    """An error that nobody foresaw is one screen that says what to report."""

    def broken(request):
        raise ZeroDivisionError("of all things")

    fake_models.reply = broken
    result = raft("build", corpus, "--out", "run", *FAST)
    assert result.exit_code == 1
    assert "ZeroDivisionError: of all things" in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" not in result.output


def test_init_writes_what_can_be_edited(raft):
    """`init` writes pipelines, prompts and a YAML file whose settings are the defaults."""
    result = raft("init", "mine")
    assert result.exit_code == 0
    assert "mine/raft.yaml" in result.stdout
    written = config.load(Path("mine/raft.yaml"))
    assert written.prompts == Path("mine/prompts")
    assert written.model_copy(update={"prompts": None}) == config.Settings()
    assert (Path("mine") / "prompts" / "answer.md").is_file()
    assert (Path("mine") / "pipelines" / "hosted.yaml").is_file()


def test_init_leaves_alone_what_was_edited(raft):
    """A second `init` leaves edited files as they are and brings back missing ones."""
    raft("init", "mine")
    edited, missing = Path("mine/prompts/answer.md"), Path("mine/prompts/judge.md")
    edited.write_text("## user\nmine\n", encoding="utf-8")
    missing.unlink()
    assert "1 file" in raft("init", "mine").stdout
    assert edited.read_text(encoding="utf-8") == "## user\nmine\n"
    assert missing.is_file()
    assert "has all files already" in raft("init", "mine").stdout


def test_init_below_a_file(raft):
    """A folder that cannot be made is named."""
    Path("file").write_text("")
    refused(raft("init", "file/mine"), 2, "file")


def test_a_build_with_what_init_wrote(raft, fake_models, corpus, finished):
    """The YAML file and prompts that `init` writes build as the package's own do."""
    raft("init", "mine")
    result = raft("build", corpus, "--pipeline", "mine/raft.yaml", "--out", "run", *FAST)
    assert result.exit_code == 0, result.output
    assert Path("run/train.jsonl").read_bytes() == (finished / "train.jsonl").read_bytes()


def test_a_pipeline_of_the_package(raft, fake_models, corpus):
    """A pipeline of the package is found by its name."""
    result = raft("build", corpus, "--pipeline", "hosted", "--out", "run", *FAST)
    assert result.exit_code == 0, result.output
    assert api.load("run").settings.questions.way == "items"


def test_export_says_where(raft, copied):
    """`export` prints the folder that it wrote."""
    result = raft("export", copied, "--format", "openai")
    assert result.stdout.strip() == str(copied / "export-openai")
    assert (copied / "export-openai" / "train.jsonl").is_file()
    assert raft("export", copied, "--format", "csv").exit_code == 2


@pytest.mark.parametrize("arguments", [[], ["--merged", "--gguf"], ["--format", "hf", "--merged"]])
def test_one_thing_is_exported_at_a_time(raft, copied, arguments):
    """`export` without a form, or with two, says what there is."""
    refused(
        raft("export", copied, *arguments),
        2,
        "--format, --merged, --gguf or --4bit",
        f"export {copied} --format openai",
    )


def test_rows_have_no_adapter(raft, copied):
    """An adapter is refused where training rows are exported."""
    refused(raft("export", copied, "--format", "hf", "--adapter", "3fa"), 2, "--adapter")


@pytest.mark.parametrize(
    "arguments", [["train", "nowhere"], ["ask", "nowhere", "Why?"], ["approve", "nowhere", "--by", "Marta Quill"]]
)
def test_no_run_directory(raft, arguments):
    """A command for a run directory that is none names the build that makes one."""
    refused(raft(*arguments), 2, "nowhere", "raft build CORPUS")


@pytest.mark.parametrize(
    "arguments", [["approve", "--by", "Marta Quill"], ["export", "--merged"], ["export", "--gguf"]]
)
def test_no_adapter_yet(raft, copied, arguments):
    """What needs an adapter names the command that trains one."""
    command, *options = arguments
    refused(raft(command, copied, *options), 2, f"raft train {copied}")


def test_a_setting_that_a_training_does_not_read(raft, copied):
    """A setting that had its effect in the build is refused, with the build that changes it."""
    refused(raft("train", copied, "--set", "index.k=3"), 2, "raft build", f"--out {copied}", "--set index.k=3")


@pytest.fixture
def says(fake_models):
    """Have models say this to every question."""

    def say(text):
        fake_models.reply = lambda request: text

    say('Quote [1]: "weighs 7.5 kg"\nAnswer: 7.5 kg')
    return say


HEAVY = "How heavy is the Delta garden pump?"


def test_an_answer_is_printed_with_its_quote(raft, copied, says):
    """`ask` prints the answer, then document and quote; with --show-context also what the model was shown."""
    result = raft("ask", copied, HEAVY, "--model", "openai/x")
    assert result.stdout.splitlines() == ["7.5 kg", "  manuals/delta.md", "    “weighs 7.5 kg”"]
    assert "  [2] " in raft("ask", copied, HEAVY, "--model", "openai/x", "--show-context", "--k", "2").stdout
    says("Answer: 8 kg")
    assert "! not supported" in raft("ask", copied, HEAVY, "--model", "openai/x").stdout
    result = raft("ask", copied, HEAVY, "--model", "openai/x", "--when-unsupported", "refuse")
    assert "! an answer was withheld" in result.stdout
    assert "--model openai/x --when-unsupported refuse --show-context" in result.stdout


def test_an_answer_for_programs(raft, copied, says):
    """With --json an answer is one line of JSON with citations, checks and timings."""
    (line,) = raft("ask", copied, HEAVY, "--model", "openai/x", "--json").stdout.splitlines()
    answer = json.loads(line)
    assert (answer["text"], answer["supported"], answer["quotes_verbatim"]) == ("7.5 kg", True, True)
    assert answer["citations"][0]["document"] == "manuals/delta.md"
    assert set(answer["seconds"]) == {"retrieval", "generation"}


def test_a_session(raft, copied, says):
    """Without a question each line is answered until an empty one; commands change how, and a failure ends nothing."""
    lines = [HEAVY, ":context", "Who is it?", ":adapter 3fa", ":what", HEAVY, "", "never asked"]
    result = CliRunner().invoke(main, ["ask", str(copied), "--model", "openai/x"], input="\n".join(lines))
    assert result.exit_code == 0, result.output
    assert result.stdout.count("“weighs 7.5 kg”") == 2
    assert result.stdout.count("! not supported") == 1
    assert result.stdout.index("  [1] ") > result.stdout.index("“weighs 7.5 kg”")
    assert "no adapter in this run yet" in result.stderr
    assert ":adapter ID" in result.stderr


def test_a_terminal_is_told_what_is_waited_for(copied, says, monkeypatch, capfd):
    """While index and models are loaded, and while one answers, a terminal shows so, and nothing else is told it."""
    asked = ["ask", str(copied), HEAVY, "--model", "openai/x"]
    main(asked, standalone_mode=False)
    assert capfd.readouterr().err == ""
    terminal, other = os.openpty()
    heard: list[bytes] = []

    def listen():
        with suppress(OSError):  # what a terminal that is closed ends in
            while piece := os.read(terminal, 4096):
                heard.append(piece)

    listening = Thread(target=listen)
    listening.start()
    with os.fdopen(other, "w") as there, monkeypatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stderr", there)
        main(asked, standalone_mode=False)
        patch.setattr(sys, "stdin", io.StringIO(f"{HEAVY}\n{HEAVY}\n\n"))
        main([asked[0], asked[1], *asked[3:]], standalone_mode=False)
    listening.join(60)
    os.close(terminal)
    shown = b"".join(heard).decode()
    assert "loading the index and the models …" in shown
    assert shown.rindex("answering …") > shown.rindex("loading the index")
    assert not re.search("loading|answering", capfd.readouterr().out)


def test_the_version_is_told(raft):
    """`--version` prints name and version."""
    import raft as package

    assert package.__version__ in raft("--version").stdout


@pytest.mark.parametrize("command", ["init", "build", "status", "show", "export", "train", "approve", "ask"])
def test_each_command_explains_itself(raft, command):
    """Each command has help with a sentence and every option explained."""
    result = raft(command, "-h")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    assert command in raft("--help").stdout


@pytest.mark.parametrize("group", [(), ("registry",)])
def test_each_command_is_listed_with_a_whole_sentence(raft, group):
    """What a command is for stands on its line in full, on a terminal of 80 columns."""
    lines = raft(*group, "--help").stdout.partition("Commands:\n")[2].strip().splitlines()
    assert len(lines) > 8
    assert all(line.endswith(".") and not line.endswith("...") for line in lines), lines


PRICED = ["--generator", "openai/some-model", "--price", "1/4", "--out", "run", *FAST]


@pytest.mark.parametrize("text", ["1", "a/b", "1/2/3", ""])
def test_a_wrong_price(raft, fake_models, corpus, text):
    """A price is two numbers; what it looks like is shown."""
    refused(raft("build", corpus, "--price", text), 2, "--price 0.15/0.60")


def test_a_price_below_nothing(raft, fake_models, corpus):
    """A negative price is named."""
    refused(raft("build", corpus, "--price", "-1/2"), 2, "generator.input_price")


def test_a_sample_without_an_estimate(raft, fake_models, corpus):
    """A sample belongs to an estimate; the command is shown."""
    refused(raft("build", corpus, "--sample", "5"), 2, "--sample 5 --estimate")


def test_an_estimate_is_printed(raft, fake_models, corpus):
    """An estimate says what there is to ask, what it costs and what to type next, and asks nothing."""
    result = raft("build", corpus, "--estimate", *PRICED)
    assert result.exit_code == 0, result.output
    for words in ("6 documents", "for writing questions", "$1/$4 a million tokens", "  next:  ", "--max-cost"):
        assert words in result.stdout
    assert fake_models.asked == []
    (line,) = [line for line in result.stdout.splitlines() if "  next:  " in line]
    assert line.startswith(f"  next:  raft build {corpus} {' '.join(PRICED)} --max-cost "), (
        "what was typed, as it builds"
    )
    sampled = raft("build", corpus, "--estimate", "--sample", "2", "--json", *PRICED)
    facts = json.loads(sampled.stdout)
    assert facts["parts"][0]["answered"] == 2 <= len(fake_models.asked)
    assert facts["dollars"][0] < facts["dollars"][1]


@pytest.mark.parametrize(
    ("arguments", "then"),
    [
        ((), ""),
        (("--sample=0", "--set", "seed=3"), " --set seed=3"),
        (("--generator", "openai/some-model"), " --generator openai/some-model --estimate --price 0.15/0.60"),
        (("--seed", "3", *PRICED), f" --seed 3 {' '.join(PRICED)} --max-cost "),
    ],
)
def test_an_estimate_ends_with_the_command_that_builds(raft, fake_models, corpus, arguments, then):
    """What was typed is written out without --estimate and --sample, with what is needed besides; it can be typed."""
    printed = raft("build", "--estimate", corpus, "--sample", "0", *arguments) if then != " --set seed=3" else None
    printed = printed or raft("build", "--estimate", corpus, *arguments)
    line = printed.stdout.splitlines()[-1].partition("   #")[0]
    assert f"{line} ".startswith(f"  next:  raft build {corpus}{then}") and "the same command" not in printed.output


def test_an_estimate_names_what_cannot_be_read(raft, fake_models, corpus):
    """Files that a build would not read are named with their reasons, as by the build."""
    (corpus / "broken.pdf").write_bytes(b"%PDF-1.7")
    told = raft("build", corpus, "--estimate").stdout
    built = raft("build", corpus).stdout
    (reason,) = [line.strip() for line in built.splitlines() if "broken.pdf: " in line]
    assert "  unreadable  1 could not be read:" in told and f"    {reason}" in told


def test_a_dear_build_is_refused_first(raft, fake_models, corpus):
    """A build that may cost more than the setting shows its estimate and the flag to type, and asks nothing."""
    result = raft("build", corpus, *PRICED, "--set", "generator.confirm_above=0")
    refused(result, 2, "This build may cost", "12 chunks", "--max-cost")
    assert fake_models.asked == []
    assert raft("build", corpus, *PRICED, "--set", "generator.confirm_above=0", "--max-cost", "3").exit_code == 0


def test_an_unknown_price_is_refused_first(raft, fake_models, corpus):
    """A provider whose price nobody knows is not asked; with a cap neither."""
    refused(
        raft("build", corpus, "--generator", "openai/some-model", *FAST), 2, "openai/some-model", "--price 0.15/0.60"
    )
    assert fake_models.asked == []


def test_a_cap_that_is_no_cap(raft, fake_models, corpus):
    """A cap of nothing is refused."""
    refused(raft("build", corpus, *PRICED, "--max-cost", "0"), 2, "generator.max_cost")


def test_only_what_is_on_this_machine(raft, fake_models, corpus):
    """With --local-only a hosted model is refused before anything is read."""
    refused(raft("build", corpus, *PRICED, "--local-only"), 2, "openai/some-model")
    assert fake_models.asked == []


def test_status_tells_what_was_spent(raft, copied):
    """Spending is told by step and model, with lost calls at their worst case, the cap and what is left of it."""
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["settings"]["generator"]["max_cost"] = 5.0
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with closing(Ledger(copied / "ledger.sqlite")) as ledger:
        budget = Budget(ledger, run=manifest["collection"], model="openai/x", price=Price(1, 4), cap=5.0)
        budget.pay(budget.open("a", 1.0), None, cost=0.5, input_tokens=1200, output_tokens=300)
        budget.purpose = "cleaned"
        budget.lose(budget.open("b", 0.25))
        budget.open("c", 0.125)
    text = raft("status", copied).stdout
    for words in (
        "writing questions",
        "1,200",
        "0.5000",
        "judging questions",
        "lost, at their worst",
        "0.3750",
        "in all: $0.875 of $5.00, $4.12 left",
    ):
        assert words in text
    with Run(copied).writing():
        text = raft("status", copied).stdout
        money = json.loads(raft("status", copied, "--json").stdout)["money"]
    assert "under way, at most" in text
    assert "$0.75 of $5.00, $4.12 left; $0.125 at most is under way" in text
    assert (money["spent"], money["cap"], money["open"], money["left"]) == (0.75, 5.0, 0.125, 4.125)


@pytest.mark.parametrize("name", ["raft-ft", "raft-toolkit"])
def test_a_package_of_the_same_name_is_noticed(raft, tmp_path, monkeypatch, name):
    """Where another package that brings a `raft` is installed too, each command says so, and how to mend it."""
    home = tmp_path / "site" / f"{name.replace('-', '_')}-1.0.dist-info"
    home.mkdir(parents=True)
    (home / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    assert "installed beside" not in raft("init", "a").output
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert f"pip uninstall {name} raft-pipeline" in raft("init", "b").output


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["build", "docs", "--questons", "3"], ["--questons", "raft build"]),
        (["build", "docs", "--estimat"], ["raft build --help   # --estimate is meant"]),
        (["status"], ["RUN", "raft status --help"]),
        (["show", "run", "chunks", "-n", "many"], ["many", "raft show --help"]),
        (["export", "run", "--format", "csv"], ["csv", "openai", "raft export --help"]),
        (["biuld", "docs"], ["biuld", "raft"]),
        (["approve", "run"], ["--by", "raft approve --help"]),
    ],
)
def test_what_is_typed_wrongly_has_a_next_step(raft, typed, words):
    """An unknown option or command, a missing argument and a bad value name the next command, as every error does."""
    refused(raft(*typed), 2, *words)


@pytest.mark.parametrize(
    "typed",
    [
        ["export", "run", "--format", "hf", "--format", "openai"],
        ["build", "docs", "--limit", "3", "--seed", "1", "--limit=4"],
        ["show", "run", "chunks", "-n", "2", "--rows", "3"],
        ["build", "docs", "--set", "index.k=3", "--set", "index.k=4"],
    ],
)
def test_what_may_be_given_once_is_not_taken_from_the_last(raft, typed):
    """An option, or a setting, that is given two values is refused: which of them is meant, nobody knows."""
    result = raft(*typed)
    refused(result, 2)
    assert re.search("is given (more than once|twice)", result.stderr)


def test_what_may_be_repeated_is_taken_as_often(raft, fake_models):
    """Flags, settings that differ and a setting that is said twice alike are no contradiction."""
    write_corpus(Path("docs"))
    same = ["--set", "index.k=3"]
    assert (
        raft("build", "docs", "--estimate", "--json", "--json", *same, *same, *FAST, "--set", "seed=3").exit_code == 0
    )


def test_an_answer_that_has_to_wait_says_so(raft, copied, fake_models, monkeypatch):
    """Where an endpoint makes a question wait, `raft ask` says for how long and why, as builds do."""
    asker = models.asker

    def held_up(*args, on_event, **options):
        on_event("waiting", {"model": "openai/x", "seconds": 43, "words": "daily limit"})
        on_event("asked", {"new": 1, "replayed": 0})
        return asker(*args, on_event=on_event, **options)

    monkeypatch.setattr(models, "asker", held_up)
    result = raft("ask", copied, "How heavy is the Delta garden pump?", "--model", "openai/x", "--json")
    assert "openai/x asks to wait 43 s: daily limit" in result.stderr
    assert "replies" not in result.stderr


@pytest.mark.parametrize("table", ["cleaned", "chunks", "examples"])
def test_show_says_how_many_rows_it_left_out_and_how_to_see_them(raft, finished, table):
    """Where a table is cut, the command that shows all of it is named, with what was chosen; else nothing is said."""
    cut = raft("show", finished, table, "-n", "1")
    (command,) = [line.split("next:")[1] for line in cut.stderr.splitlines() if "next:" in line]
    whole = raft(*shlex.split(command, comments=True)[1:])
    assert whole.exit_code == 0
    assert "are shown" not in whole.stderr
    assert f"1 of {command.split('-n')[1].split()[0]} are shown" in cut.stderr
    assert "are shown" not in raft("show", finished, table, "-n", "1", "--json").stderr


def test_show_names_what_was_chosen_where_it_cuts(raft, finished):
    """The command that shows all rows of a choice repeats the choice."""
    assert "cleaned --only kept -n" in raft("show", finished, "cleaned", "--only", "kept", "-n", "1").stderr
