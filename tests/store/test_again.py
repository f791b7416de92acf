"""The command that builds a run once more repeats the options of its build, and can be pasted."""

import json
import shlex

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import raft
from raft import settings
from raft.cli import main
from raft.errors import pasted
from raft.store.again import again, more_questions, option, pair_files
from raft.text.secrets import HIDDEN


def made(folder, overrides, **told):
    """Write the manifest of a run that was built with these settings."""
    chosen = settings.named(told.get("pipeline"), overrides)
    folder.mkdir(exist_ok=True)
    facts = {"settings": chosen.model_dump(mode="json"), "corpus": list(chosen.corpus), **told}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "steps": {}, **facts}), encoding="utf-8")
    return chosen


def read_again(command):
    """Return the settings that a command says."""
    options = {"--generator": "generator.model", "--limit": "questions.limit"}
    options |= {"--questions-per-chunk": "questions.per_chunk", "--seed": "seed", "--eval": "evaluation"}
    options |= {"--embedder": "index.embedder", "--student": "student", "--decisions": "decisions"}
    words, told, file, pairs = iter(shlex.split(command, comments=True)[2:]), {"corpus": []}, None, []
    for word in words:
        if word == "--pipeline":
            file = next(words)
        elif word == "--local-only":
            told["local_only"] = True
        elif word == "--set":
            key, value = settings.parse_assignment(next(words))
            told[key] = value
        elif word == "--qa":
            pairs.append(next(words))
        elif word.startswith("--"):
            told |= {options[word]: next(words)} if word != "--out" else {"out": next(words)}
        else:
            told["corpus"].append(word)
    told.pop("out")
    return settings.named(file, told | ({"questions.qa": pairs} if pairs else {}))


VALUES = {
    "generator.model": st.sampled_from(["openai/gpt-4o-mini", "models/my model", "$HOME/it's"]),
    "questions.limit": st.integers(0, 50),
    "questions.qa": st.sampled_from(["faq.csv", "our pairs (new).jsonl", ["a;b.csv", "it's.json"], ["c.csv"]]),
    "questions.kinds": st.lists(st.sampled_from(["fact", "date", "procedure"]), min_size=1, max_size=2),
    "evaluation": st.just("my questions.jsonl"),
    "index.embedder": st.sampled_from(["openai/text-embedding-3-small", "models/it's an embedder"]),
    "student": st.sampled_from(["Qwen/Qwen2.5-0.5B-Instruct", "models/my student"]),
    "decisions": st.sampled_from(["team.jsonl", "what we (both) decided.jsonl"]),
    "local_only": st.booleans(),
    "seed": st.integers(0, 9),
    "split.hold_out": st.just(["drafts/*", "a 'b'.md"]),
    "answer_style.tone": st.text("ab:'\" #*{é", min_size=1, max_size=8).filter(lambda text: HIDDEN not in text),
    "answer_style.examples": st.just([{"question": "Which?", "answer": "this, or: that"}]),
    "benchmark.larger": st.just([{"model": "openai/gpt-4o", "input_price": 2.5}]),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder for many runs."""
    return tmp_path_factory.mktemp("home")


@given(st.fixed_dictionaries({}, optional=VALUES), st.sampled_from([None, "hosted", "local"]))
def test_the_command_says_all_that_the_run_was_built_with(home, overrides, pipeline):
    """Pasted into a shell, it gives each setting of the build anew, whatever signs are in it."""
    chosen = made(home / "a run", {"corpus": ["docs (2)", "more.md"], **overrides}, pipeline=pipeline)
    assert read_again(again(home / "a run")) == chosen


def test_it_says_what_is_to_be_changed_what_is_hidden_and_nothing_that_is_usual(tmp_path):
    """A cap and defaults are left out, a change takes a setting's place, and hidden keys are told in the remark."""
    run = tmp_path / "run"
    made(run, {"corpus": ["docs"], "generator.max_cost": 2, "questions.per_chunk": 2, "seed": 0})
    assert again(run) == f"raft build docs --out {run} --questions-per-chunk 2.0"
    assert again(run, {"questions.per_chunk": 3}, remark="more") == (
        f"raft build docs --out {run} --questions-per-chunk 3   (more)"
    )
    made(run, {"corpus": ["docs"], "generator.api_base": "https://me:geheim@host/v1"})
    assert "geheim" not in again(run)
    assert again(run).endswith("(*** stands for a password or key)")


def _addresses(section, before=""):
    """Yield the dotted names of a section's settings that are dumped as addresses."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _addresses(kind, f"{before}{name}.")
        elif "shown_address" in repr((kind, field.metadata)):
            yield f"{before}{name}"


def test_what_is_changed_tells_no_password(tmp_path):
    """Each address among the changes is told as a dump of settings tells it, also one within a list or a section."""
    made(tmp_path, {"corpus": ["docs"]})
    names, secret = [*_addresses(settings.Settings)], "https://me:geheim@host/v1"
    assert {"generator.api_base", "index.url"} <= {*names}
    changes = [{name: secret} for name in names]
    changes += [{"benchmark.larger": [{"model": "openai/m", "api_base": secret}]}, {"index": {"api_base": secret}}]
    for change in changes:
        told = again(tmp_path, change, remark="more")
        assert "geheim" not in told
        assert "https://***@host/v1" in told
        assert told.endswith("(*** stands for a password or key; more)")


def test_a_build_that_was_stopped_is_what_goes_on(tmp_path):
    """What the stopped build was told counts, and not what the run was finished with before."""
    other = settings.named(None, {"seed": 7}).model_dump(mode="json")
    made(tmp_path, {"corpus": ["docs"]}, begun={"settings": other, "corpus": ["new docs"], "pipeline": None})
    assert again(tmp_path) == f"raft build 'new docs' --out {tmp_path} --seed 7"


@pytest.mark.parametrize("text", [None, "", "{}", '{"settings": 3}', "[[1]]", '{"settings": {}, "corpus": 1}'])
def test_of_a_run_that_nobody_knows_the_corpus_is_asked_for(tmp_path, text):
    """Where there is no manifest, or it tells nothing, the command has a place to fill in."""
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    assert again(tmp_path) == f"raft build CORPUS --out {tmp_path}"


def test_a_pipeline_that_is_gone_is_said_setting_by_setting(tmp_path):
    """A file that was moved since is not named: what it said stands in the command."""
    file = tmp_path / "my.yaml"
    file.write_text("index: {k: 9}\n")
    made(tmp_path, {"corpus": ["docs"]}, pipeline=str(file))
    assert again(tmp_path) == f"raft build docs --out {tmp_path} --pipeline {file}"
    file.unlink()
    assert again(tmp_path) == f"raft build docs --out {tmp_path} --set index.k=9"


def test_paths_are_those_from_where_the_reader_stands(tmp_path, monkeypatch):
    """Corpus, pipeline file and own files are named from the folder that one stands in, while they are found there."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "my.yaml").write_text("ledger: l.sqlite\nindex: {k: 9}\n")
    (tmp_path / "own.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    own = {"corpus": ["docs"], "decisions": "team.jsonl", "cleaning.learned": "own.json", "student": "my/student"}
    made(tmp_path / "runs" / "x", own, pipeline="my.yaml", home="../..")
    for folder, before, run in ((".", "", "runs/x"), ("runs", "../", "x"), ("docs", "../", "../runs/x")):
        monkeypatch.chdir(tmp_path / folder)
        words = shlex.split(again(run))
        assert words[:7] == ["raft", "build", f"{before}docs", "--out", run, "--pipeline", f"{before}my.yaml"]
        assert {f"{before}team.jsonl", f"cleaning.learned={before}own.json", "my/student"} <= {*words}
        assert not any("ledger" in word for word in words)
    (tmp_path / "docs").rename(tmp_path / "other")
    assert again("../runs/x").startswith("raft build docs --out ../runs/x ")


@pytest.mark.parametrize("told", [None, "faq.csv", ["faq.csv", "more.jsonl"]])
def test_files_of_pairs_are_those_of_the_build(tmp_path, monkeypatch, told):
    """None, one as earlier rafts wrote it down, or several: they are named from the folder that one stands in."""
    (tmp_path / "docs").mkdir()
    assert pair_files(tmp_path) == []
    tree = settings.named(None, {"questions.qa": told}).model_dump(mode="json")
    assert tree["questions"]["qa"] == told
    made(tmp_path / "x", {"corpus": ["docs"], "questions.qa": told}, home="..")
    monkeypatch.chdir(tmp_path / "docs")
    assert pair_files("../x") == [f"../{file}" for file in ([told] if isinstance(told, str) else told or [])]


def test_a_run_that_is_reached_by_a_link_names_its_own_corpus(tmp_path, monkeypatch):
    """Where a run is a link to one elsewhere, the corpus in the printed build is that beside the run itself."""
    (tmp_path / "a" / "docs").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    made(tmp_path / "a" / "run", {"corpus": ["docs"]}, home="..")
    (tmp_path / "b" / "run").symlink_to(tmp_path / "a" / "run")
    monkeypatch.chdir(tmp_path / "b")
    corpus = shlex.split(again("run"))[2]
    assert (tmp_path / "b" / corpus).resolve() == tmp_path / "a" / "docs"


def test_a_build_notes_where_it_was_typed(corpus, fake_models, monkeypatch):
    """From another folder the command of a real run finds its corpus, and builds it once more."""
    monkeypatch.chdir(corpus.parent)
    raft.build(corpus.name, out="runs/x", settings={"chunking.tokens": 60})
    monkeypatch.chdir("runs")
    command = again("x")
    assert command.startswith("raft build ../corpus --out x ")
    assert CliRunner().invoke(main, shlex.split(command)[1:]).exit_code == 0
    assert again("x") == command


def test_a_pipeline_of_the_package_is_named(tmp_path):
    """Of one that was named, or whose file is gone, what the package's nearest pipeline says is not repeated."""
    run = tmp_path / "run"
    chosen = made(run, {"corpus": ["docs"], "seed": 7}, pipeline="embedded")
    assert again(run) == f"raft build docs --out {run} --pipeline embedded --seed 7"
    facts = {"settings": chosen.model_dump(mode="json"), "corpus": ["docs"], "pipeline": "gone/mine.yaml"}
    (run / "manifest.json").write_text(json.dumps(facts))
    assert again(run) == f"raft build docs --out {run} --pipeline embedded --seed 7"


def test_what_begins_with_a_dash_is_no_option(tmp_path, monkeypatch):
    """A corpus and a run of such a name are told apart from options."""
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "-x", {"corpus": ["-docs"]})
    assert again("-x") == "raft build ./-docs --out ./-x"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("raft build 'a   (b) c' --out x   (goes on)", "raft build 'a   (b) c' --out x   # goes on"),
        ("raft build 'a   (b)'", "raft build 'a   (b)'"),
        ("raft train x   (learns from   (b) anew)", "raft train x   # learns from   (b) anew"),
        ("raft train x", "raft train x"),
    ],
)
def test_a_remark_is_what_stands_behind_the_command(command, line):
    """Three spaces and a bracket within a value are no remark, and the pasted line says the command alone."""
    assert pasted(command) == line
    assert shlex.split(line, comments=True) == shlex.split(command.partition("   (goes")[0].partition("   (l")[0])


def test_more_questions_are_asked_for_by_what_ends_the_build():
    """A larger wanted number where there is one, and else more questions a chunk, as an option that can be typed."""
    assert option(more_questions({"questions": {"per_chunk": 1.5, "keep": None}})) == "--questions-per-chunk 3.0"
    assert option(more_questions({"questions": {"per_chunk": 1.5, "keep": 40}})) == "--set questions.keep=80"
    assert option(more_questions({"questions": {"per_chunk": 1.5}})) == "--questions-per-chunk 3.0", (
        "of an earlier raft"
    )
