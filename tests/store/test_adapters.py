"""Adapters of a run directory, and their cards."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from raft.api import measured
from raft.errors import DamagedArtifact, UsageError
from raft.protocols import TrainingPlan, TrainingReport
from raft.store import adapters

PLAN = TrainingPlan(
    student="org/tiny",
    rank=8,
    alpha=16,
    learning_rate=2e-4,
    epochs=3.0,
    batch=8,
    evaluations=2,
    patience=2,
    checkpoint_minutes=10.0,
    bits=16,
    max_tokens=512,
    seed=7,
)
REPORT = TrainingReport(
    curve=(
        {"step": 10, "epoch": 0.5, "loss": 2.5},
        {"step": 10, "epoch": 0.5, "valid_loss": 2.25},
        {"step": 20, "epoch": 1.0, "loss": 1.5},
        {"step": 20, "epoch": 1.0, "valid_loss": 1.125},
    ),
    best_step=20,
    steps=20,
    tokens=123_456,
    seconds=61.5,
    versions={"torch": "2.13.0", "peft": "0.21.2"},
    hardware="2 cores, 24 GB",
    backend="peft",
)
FACTS = {"base": "org/tiny", "base_identity": "sha256:" + "a" * 64, "data_digest": "d1", "prompt_digest": "p1"}
BENCHMARK = {
    "date": "2026-11-22",
    "verdict": {"decision": "ship", "reasons": ["The gain is 12.0 points, at least 5.0 were wanted."]},
    "arms": [
        {
            "title": "tuned + RAG",
            "adapter": "abc1",
            "sets": {"user": {"f1": {"value": 0.5, "low": 0.4, "high": 0.625, "questions": 80, "groups": 9}}},
        }
    ],
}


def make_card(name, **changes):
    """Return a card."""
    facts = {"adapter": name, "style": "friendly | short", **FACTS}
    made = adapters.card(facts, plan=PLAN, report=REPORT, rows=400, valid=40, rehearsal=44, rehearsal_seed=3, notes={})
    return {**made, **changes}


def write_adapter(run, name, **changes):
    """Write an adapter with weights of its own into a run directory and return its folder."""
    folder = run / "adapters" / name
    folder.mkdir(parents=True)
    settings = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "org/tiny", "target_modules": ["q", "v"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(
        {"q.lora_A.weight": np.full((8, 4), sum(name.encode()), np.float32)}, folder / "adapter_model.safetensors"
    )
    adapters.write_card(folder, make_card(name, **changes))
    return folder


@pytest.fixture
def run(tmp_path):
    """A run directory with three adapters, of which the second is current."""
    run = tmp_path / "run"
    for day, name in enumerate(["abc2", "abc1", "f00d"], 1):
        write_adapter(run, name, created=f"2026-11-0{day}T00:00:00+00:00")
    adapters.set_current(run, "abc1")
    return run


def test_adapters_are_listed_by_date(run):
    """The cards of whole adapters come oldest first; drafts and what has no card are left out."""
    (run / "adapters" / ".draft").mkdir()
    (run / "adapters" / "empty").mkdir()
    assert [card["adapter"] for card in adapters.listed(run)] == ["abc2", "abc1", "f00d"]
    assert adapters.listed(run / "no-run") == []


@pytest.mark.parametrize("text", ["", '{"val', "[]", "5", "null", "{}", '{"value": [5]}', '{"value": NaN}', "[" * 9999])
def test_a_damaged_figure_of_an_adapter_is_left_out(run, text):
    """The best other adapter is chosen of those whose last figure can be read, whatever stands beside another."""
    for name, kept in (("abc2", '{"value": 0.5}'), ("f00d", text)):
        adapters.write_card(run / "adapters" / name, make_card(name, base_identity="tiny"))
        (run / "adapters" / name / "measured.json").write_text(kept)
    assert measured.previous(run, run / "adapters" / "abc1", "tiny") == run / "adapters" / "abc2"
    (run / "adapters" / "abc2" / "measured.json").write_text(text)
    assert measured.previous(run, run / "adapters" / "abc1", "tiny") is None


@pytest.mark.parametrize(("wanted", "found"), [(None, "abc1"), ("abc2", "abc2"), ("f", "f00d"), ("abc1", "abc1")])
def test_an_adapter_is_found_by_id_or_a_beginning_of_it(run, wanted, found):
    """The current one is meant where none is named; a beginning is enough where only one id has it."""
    assert adapters.find(run, wanted) == run / "adapters" / found


def test_an_adapter_is_found_by_its_path(run, tmp_path):
    """The path of an adapter's folder will do, of another run too, and in a run that has none."""
    other = write_adapter(tmp_path / "other", "beef")
    assert adapters.find(run, str(other)) == other
    assert adapters.find(tmp_path / "empty", str(other)) == other


def test_an_id_wins_over_a_path(run, monkeypatch):
    """A folder that happens to be called like an adapter does not take its place."""
    elsewhere = run.parent / "elsewhere"
    write_adapter(elsewhere, "x").rename(elsewhere / "abc1")
    monkeypatch.chdir(elsewhere)
    assert adapters.find(run, "abc1") == run / "adapters" / "abc1"


def test_a_whole_id_wins_over_a_longer_one(run):
    """An id that is the beginning of another is still found."""
    short = write_adapter(run, "abc")
    assert adapters.find(run, "abc") == short


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("abc", "abc1, abc2"), ("nope", r"no adapter nope; there are abc1, abc2, f00d"), ("", "abc1, abc2, f00d")],
)
def test_an_adapter_that_is_not_there_is_an_error_with_those_that_are(run, wanted, said):
    """An unknown id, and a beginning that several have, are answered with the ids."""
    with pytest.raises(UsageError, match=said) as caught:
        adapters.find(run, wanted)
    if wanted != "abc":
        assert caught.value.hint.startswith("--adapter f00d "), "an id that can be typed"


def test_a_run_without_adapters_says_how_to_get_one(tmp_path):
    """Before the first training the error names the command that trains."""
    with pytest.raises(UsageError) as error:
        adapters.find(tmp_path, None)
    assert error.value.hint == f"raft train {tmp_path}"


@pytest.mark.parametrize("text", ["", "gone\n", "../abc1", None])
def test_a_current_that_names_no_adapter_is_an_error(run, text):
    """Where `current` is missing, empty or names what is not there, the ids are named, and nothing else is opened."""
    path = run / "adapters" / "current"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UsageError, match="abc1, abc2, f00d"):
        adapters.find(run)


def test_only_what_is_there_becomes_current(run):
    """`current` never names an adapter that cannot answer."""
    (run / "adapters" / "f00d" / "card.json").unlink()
    with pytest.raises(DamagedArtifact):
        adapters.set_current(run, "f00d")
    with pytest.raises(UsageError):
        adapters.set_current(run, "../adapters/abc2")
    assert adapters.current(run) == "abc1"


@pytest.mark.parametrize("lost", ["adapter_config.json", "adapter_model.safetensors", "card.json"])
def test_what_is_missing_is_said(run, lost):
    """An adapter without weights, configuration or card is damaged, the error names the file, and it has no digest."""
    folder = run / "adapters" / "abc1"
    (folder / lost).unlink()
    with pytest.raises(DamagedArtifact, match=lost) as error:
        adapters.find(run, "abc1")
    assert error.value.hint.startswith(f"raft train {run} ")
    assert adapters.digest(folder) is None


@pytest.mark.parametrize("lost", ["adapter_config.json", "adapter_model.safetensors", "card.json"])
@pytest.mark.parametrize("left", [0, 5, 30, -2])
def test_what_is_cut_off_is_damaged(run, lost, left):
    """A file that was cut off anywhere is told from a whole one."""
    folder = run / "adapters" / "abc1"
    (folder / lost).write_bytes((folder / lost).read_bytes()[:left])
    with pytest.raises(DamagedArtifact):
        adapters.find(run, "abc1")
    assert adapters.digest(folder) is None


def test_pickles_are_refused(run):
    """Weights that could run code are not loaded, and the error says so; beside safetensors they do no harm."""
    folder = run / "adapters" / "abc1"
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    assert adapters.find(run) == folder
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UsageError, match="can run code"):
        adapters.find(run)


def test_an_adapter_of_another_base_is_refused(run):
    """The error names both base models and the command that trains on this one."""
    folder = adapters.find(run)
    adapters.check_base(folder, FACTS["base_identity"])
    with pytest.raises(UsageError, match=r"org/tiny \(sha256:aaaa.*org/other \(sha256:bbbb") as error:
        adapters.check_base(folder, "sha256:" + "b" * 64, "org/other")
    assert error.value.hint.startswith(f"raft train {run} ")


def test_the_digest_is_of_what_an_adapter_does(run):
    """Approving an adapter, or writing the same one elsewhere, leaves its digest; other weights or settings do not."""
    folder = run / "adapters" / "abc1"
    before = adapters.digest(folder)
    adapters.approve(folder, "Marta Quill")
    settings = json.loads((folder / "adapter_config.json").read_text())
    same = {**settings, "base_model_name_or_path": "/elsewhere", "target_modules": ["v", "q"]}
    (folder / "adapter_config.json").write_text(json.dumps(same))
    assert adapters.digest(folder) == before
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "r": 4}))
    assert adapters.digest(folder) not in (None, before, adapters.digest(run / "adapters" / "abc2"))


def test_an_approval_is_written_down(run):
    """Who approved an adapter stands with the day in its card and in its README, and nothing else is changed."""
    folder = run / "adapters" / "abc1"
    before = adapters.read_card(folder)
    assert before["approved_by"] == ""
    assert "Approved by: nobody yet." in (folder / "README.md").read_text(encoding="utf-8")
    adapters.approve(folder, " Märta\nQuill ")
    after = adapters.read_card(folder)
    told = {name: after[name] for name in ("approved", "approval")}
    assert after == {**before, "approved_by": "Märta\nQuill", **told}
    assert f"Approved by: Märta Quill, {after['approved']}." in (folder / "README.md").read_text(encoding="utf-8")
    with pytest.raises(UsageError):
        adapters.approve(folder, "  ")


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.lists(st.integers(0, 3), max_size=3), max_size=4))
def test_tensors_are_read_as_the_library_writes_them(tmp_path_factory, shapes):
    """The header gives each tensor's type and shape, as the safetensors library wrote it."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    path.write_bytes(save({name: np.zeros(shape, np.float16) for name, shape in shapes.items()}))
    found = {name: (entry["dtype"], entry["shape"]) for name, entry in adapters.tensors(path).items()}
    assert found == {name: ("F16", shape) for name, shape in shapes.items()}


@given(st.binary(max_size=60))
def test_any_bytes_are_tensors_or_a_value_error(tmp_path_factory, data):
    """A file that is no safetensors is a ValueError, whatever is in it."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"w\.safetensors"):
        adapters.tensors(path)


def test_a_card_says_what_the_adapter_was_made_of():
    """A card has all figures of plan and report, and keeps further facts as they are."""
    card = make_card("abc1")
    assert card["hyperparameters"]["rank"] == 8
    assert card["seeds"] == {"training": 7, "rehearsal": 3}
    assert card["loss_curve"] == list(REPORT.curve)
    assert (card["rows"], card["valid"], card["rehearsal"], card["best_step"]) == (400, 40, 44, 20)
    assert json.loads(json.dumps(card)) == card
    with pytest.raises(ValueError, match="base_identity"):
        adapters.card(
            {"adapter": "x"}, plan=PLAN, report=REPORT, rows=1, valid=0, rehearsal=0, rehearsal_seed=0, notes={}
        )


def test_a_benchmark_is_told_of_the_training():
    """The excerpt for a benchmark has the figures of the card, with the curve under the name used there."""
    found = adapters.excerpt(make_card("abc1"))
    assert found == {
        "adapter": "abc1",
        "base": "org/tiny",
        "rows": 400,
        "valid": 40,
        "seconds": 61.5,
        "best_step": 20,
        "hardware": "2 cores, 24 GB",
        "curve": list(REPORT.curve),
    }


def front_matter(text):
    """Return what the hub reads above a model card."""
    return ModelCard(text).data.to_dict()


def test_the_readme_is_a_model_card_of_the_hub():
    """The front matter names base model, library and license; the tables have the figures."""
    text = adapters.readme(make_card("abc1", revision="c0ffee"))
    front = front_matter(text)
    assert (front["base_model"], front["library_name"], front["license"]) == ("org/tiny", "peft", "other")
    for line in (
        "| learning_rate | 0.0002 |",
        "| 20 | 1.00 | 1.5000 | 1.1250 |",
        "| answer style | friendly \\| short |",
    ):
        assert line in text
    assert "at revision c0ffee" in text
    assert "only from them" in text
    assert "raft bench RUN" in text


@pytest.mark.parametrize(
    "base", [Path("models/tiny").absolute().as_posix(), "./models/tiny", "C:\\models\\tiny", "a/b/tiny", "~/tiny"]
)
def test_the_readme_keeps_folders_to_itself(base):
    """Where the base model lies on this machine is not published with the adapter, nor taken for a name of the hub."""
    card = make_card("abc1", base=base)
    card["hyperparameters"]["student"] = base
    text = adapters.readme(card)
    assert "base_model" not in front_matter(text)
    assert base not in text
    assert "A LoRA adapter of tiny," in text


def test_a_long_curve_is_shortened_to_its_measurements():
    """The README of a long training shows each validation loss and a few of the training losses."""
    points = [{"step": step, "epoch": step / 100, "loss": 1.0} for step in range(1, 1001)]
    points.append({"step": 777, "epoch": 7.77, "valid_loss": 0.5})
    text = adapters.readme(make_card("abc1", loss_curve=points))
    assert "| 777 | 7.77 | 1.0000 | 0.5000 |" in text
    assert 10 <= text.count(" | 1.0000 |") <= 21


def test_a_benchmark_fills_the_evaluation(run):
    """Once the run's benchmark has measured this adapter, its README shows verdict and figures; others' do not."""
    (run / "benchmark.json").write_text(json.dumps(BENCHMARK))
    texts = {}
    for name in ("abc1", "abc2"):
        folder = run / "adapters" / name
        adapters.write_card(folder, adapters.read_card(folder))
        texts[name] = (folder / "README.md").read_text(encoding="utf-8")
    assert "**ship**" in texts["abc1"]
    assert "| user | tuned + RAG | F1 | 50.0 (40.0 to 62.5), 80 questions |" in texts["abc1"]
    assert "Not measured yet" in texts["abc2"]


def test_a_failed_write_leaves_the_old_card(run, monkeypatch):
    """A card that cannot be written whole leaves the old one as it was."""
    folder = run / "adapters" / "abc1"
    before = (folder / "card.json").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        adapters.approve(folder, "Marta")
    assert (folder / "card.json").read_bytes() == before


def test_a_card_of_no_numbers_is_not_written(run):
    """Not-a-number has no place in JSON: such a card is refused, and the old one stays."""
    folder = run / "adapters" / "abc1"
    with pytest.raises(ValueError, match="JSON"):
        adapters.write_card(folder, make_card("abc1", seconds=float("nan")))
    assert adapters.read_card(folder)["seconds"] == 61.5
