"""What is made of an adapter: a version of its own, with figures of its own that say whether it may be used."""

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from importlib.util import find_spec

import pytest
from click.testing import CliRunner
from test_bench import QUICK
from test_train import build_for

import raft
from conftest import Fakes
from raft.api import registry as registered
from raft.backends import hub
from raft.backends.trainers import merge
from raft.cli import main
from raft.errors import DamagedArtifact, MissingExtra, UsageError
from raft.store import adapters, fitness, registry, reports

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("trl")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tiny_student, tmp_path_factory):
    """A run with an adapter and the merged model of it; no test writes to it."""
    run = build_for(tiny_student, tmp_path_factory.mktemp("made"))
    raft.train(run, epochs=0.1, learning_rate=0.05)
    raft.export_model(run)
    return run


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A copy of it, with embedder and generator that cost nothing."""
    Fakes().install_around_student(monkeypatch.setattr)
    return shutil.copytree(made, tmp_path / "run")


def measure(run, **options):
    """Measure quickly, with what the verdict needs alone."""
    return raft.bench(run, settings={**QUICK, "benchmark.contenders": "verdict"}, **options)


def says(run, decision):
    """Write a decision into the benchmark of each version."""
    for path in (run / "benchmark.json", *run.glob("benchmarks/*/benchmark.json")):
        facts = json.loads(path.read_text())
        facts["verdict"]["decision"] = decision
        path.write_text(json.dumps(facts))


def test_what_is_exported_becomes_a_version(run):
    """A merged model is a version with the adapter's id in its own, its own digest, and a path relative to the run."""
    adapter = adapters.current(run)
    found = registry.find(run, f"{adapter}-merged")
    assert (found.kind, found.adapter, found.path) == ("merged", adapter, f"export-merged-{adapter}")
    assert fitness.whole(run, found) == run / found.path
    assert [line["action"] for line in registry.history(run)] == ["register"]
    assert registry.standing(run).production is None


def test_an_export_says_which_version_it_is_and_where_it_cannot_be_one(run, tmp_path):
    """The screen names the version and what measures it; where the registry cannot be written, the model still is."""
    adapter = adapters.current(run)
    done = CliRunner().invoke(main, ["export", str(run), "--merged", "--out", str(tmp_path / "first")])
    assert f"it is version {adapter}-merged; raft bench {run} --version {adapter}-merged" in done.stderr
    with closing(sqlite3.connect(run / "registry.sqlite")) as database:
        database.execute("PRAGMA user_version = 9")
    done = CliRunner().invoke(main, ["export", str(run), "--merged", "--out", str(tmp_path / "second")])
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "second"))
    assert "it is no version" in done.stderr
    assert (tmp_path / "second" / "model.safetensors").is_file()


def test_a_version_is_measured_beside_the_adapter_that_it_was_made_of(run):
    """`bench --version` measures it against plain RAG and its adapter, and its report lies beside that of the run."""
    adapter = adapters.current(run)
    measure(run)
    first = (run / "benchmark.json").read_bytes()
    facts = measure(run, version=f"{adapter}-merged")
    systems = {one["name"]: one for one in facts["arms"]}
    assert systems["raft"]["adapter"] == f"{adapter}-merged"
    assert systems["original"]["adapter"] == adapter
    assert systems["original"]["title"] == "the adapter that it was made of + RAG"
    assert facts["verdict"]["contender"] == "raft"
    assert (run / "benchmark.json").read_bytes() == first
    place = run / "benchmarks" / f"{adapter}-merged"
    assert {"benchmark.json", "report.html", "report.md", "report.csv"} <= {one.name for one in place.iterdir()}
    assert reports.of(run, f"{adapter}-merged").facts["version"] == f"{adapter}-merged"
    assert reports.of(run, adapter).path == run / "benchmark.json"
    shown = registered.shown(run, f"{adapter}-merged")
    assert shown["verdict"] == facts["verdict"]["decision"]
    assert "the adapter that it was made of + RAG" in shown["compared"]
    said = CliRunner().invoke(main, ["registry", "show", str(run), f"{adapter}-merged"])
    assert "a merged model of" in said.stdout and "the adapter that it was made of + RAG on" in said.stdout
    told = CliRunner().invoke(main, ["registry", "list", str(run)])
    assert f"{adapter}-merged  merged" in told.stdout


def test_an_adapters_approval_is_not_given_by_the_figures_of_another(run):
    """A version rests on its own figures: the adapter's verdict does not stand for what was made of it."""
    adapter = adapters.current(run)
    measure(run)
    says(run, "ship")
    raft.approve(run, "Marta")
    registered.promote(run, adapter, by="Marta")
    with pytest.raises(UsageError, match="no benchmark of this run measured it"):
        registered.promote(run, f"{adapter}-merged", by="Marta")
    measure(run, version=f"{adapter}-merged")
    says(run, "ship")
    line = registered.promote(run, f"{adapter}-merged", by="Marta")
    assert (line["verdict"], line["approved_by"], line["former"]) == ("ship", "Marta", adapter)
    assert line["report"] == reports.of(run, f"{adapter}-merged").digest


def test_a_merged_model_answers_from_where_it_lies(run):
    """A version that is one model is a model's name like any other, once its files are known to be its own."""
    found = registry.find(run, f"{adapters.current(run)}-merged")
    answerer = raft.load(run).answerer(model=str(fitness.whole(run, found)))
    assert answerer.adapter is None
    assert answerer.ask("How long may a pump be returned?").passages
    (run / found.path / "model.safetensors").write_bytes(b"others")
    with pytest.raises(DamagedArtifact, match="have changed"):
        fitness.whole(run, found)


def test_what_cannot_be_measured_is_refused(run):
    """Plain RAG, an unknown version, and one of another adapter are refused before anything is asked."""
    raft.train(run, epochs=0.1, settings={"seed": 1})
    adapter = next(one["adapter"] for one in raft.load(run).adapters if not one["current"])
    with pytest.raises(UsageError, match="Each benchmark measures plain RAG"):
        raft.bench(run, version="0")
    with pytest.raises(UsageError, match="There is no version zz"):
        raft.bench(run, version="zz")
    with pytest.raises(UsageError, match=f"is of the adapter {adapter}"):
        raft.bench(run, version=f"{adapter}-merged", adapter=adapters.current(run))


def test_an_adapter_of_another_base_is_not_put_into_production(run):
    """An adapter that was trained on another model than the run's student is refused, with what to do."""
    adapter = adapters.current(run)
    card = adapters.read_card(run / "adapters" / adapter)
    adapters.write_card(run / "adapters" / adapter, {**card, "base_identity": "sha256:" + "0" * 64})
    for change in (
        lambda: registered.promote(run, adapter, by="Bo", because="a try"),
        lambda: registered.candidate(run, adapter, share=0.1, by="Bo"),
    ):
        with pytest.raises(UsageError, match="was trained on") as refused:
            change()
        assert "raft train" in refused.value.hint
    assert [line["action"] for line in registry.history(run)] == ["register"]


def test_four_bits_need_a_package_and_say_so(run, monkeypatch):
    """Without bitsandbytes the extra that brings it is named, before anything is merged."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(merge, "find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name))
    with pytest.raises(MissingExtra, match="bitsandbytes") as refused:
        raft.export_model(run, four_bits=True)
    assert "raft-pipeline[4bit]" in refused.value.hint


def test_a_model_in_four_bits_is_a_version_that_answers_and_is_measured(tiny_student, tmp_path, monkeypatch):
    """Where bitsandbytes is installed, its linear layers are in 4 bits, and it is measured as any version."""
    pytest.importorskip("bitsandbytes")
    student = shutil.copytree(tiny_student, tmp_path / "student")
    config = transformers.AutoConfig.from_pretrained(student)
    config.hidden_size = config.intermediate_size = 64  # its kernels take 32 rows at a time
    config.head_dim = 32
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(student)
    run = build_for(student, tmp_path)
    Fakes().install_around_student(monkeypatch.setattr)
    adapter = raft.train(run, epochs=0.1)["adapter"]
    out = raft.export_model(run, four_bits=True)
    assert json.loads((out / "config.json").read_text())["quantization_config"]["load_in_4bit"]
    assert "in 4 bits" in (out / "README.md").read_text()
    assert registry.find(run, f"{adapter}-4bit").path == f"export-4bit-{adapter}"
    facts = measure(run, version=f"{adapter}-4bit")
    assert {one["name"]: one["adapter"] for one in facts["arms"]}["raft"] == f"{adapter}-4bit"


def test_a_gguf_file_answers_as_its_weights_were_rounded(tmp_path, monkeypatch):
    """A GGUF file is a model's name like any folder: it is unpacked once, and known by what is in it."""
    file = tmp_path / "abc.gguf"
    file.write_bytes(b"GGUF")
    unpacked = []

    def convert(gguf, into):
        unpacked.append(gguf)
        into.mkdir()
        (into / "config.json").write_text("{}")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_convert", convert)
    folder = hub.resolve(str(file))
    assert hub.resolve(str(file)) == folder and unpacked == [file]
    assert not hub.is_hosted(str(file))
    file.write_bytes(b"GGUF others")
    assert hub.resolve(str(file)) != folder
