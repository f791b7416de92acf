"""Training: a run's rows become an adapter, once, whatever interrupts; real trainers on a tiny random model."""

import json
import shutil

import polars as pl
import pytest
from click.testing import CliRunner

import raft
from conftest import Cut, Fakes, write_corpus
from raft import api
from raft.cli import main, messages
from raft.errors import DamagedArtifact, RaftError, UsageError
from raft.store import adapters, tables

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")
pytest.importorskip("peft")

SETTINGS = {
    "chunking.tokens": 60,
    "questions.per_chunk": 2,
    "split.valid": 0.3,
    "examples.documents": 2,
    "training.batch": 4,
    "training.epochs": 1,
    "training.rehearsal": 0,
    "answering.max_tokens": 8,
}


@pytest.fixture(scope="module")
def finished(tiny_student, tmp_path_factory):
    """A finished build for the tiny student that no test writes to."""
    return build_for(tiny_student, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished build."""
    return shutil.copytree(finished, tmp_path / "run")


def build_for(student, home, **more):
    """Build with models that cost nothing, counting rows in the tiny student's own tokens."""
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install_around_student(patch.setattr)
        api.build(
            write_corpus(home / "corpus"),
            out=home / "run",
            generator="openai/fake",
            price=(0.0, 0.0),
            student=str(student),
            settings={**SETTINGS, **more},
        )
    return home / "run"


def told(events, name):
    """Return the facts of each event of a name."""
    return [facts for event, facts in events if event == name]


def test_rows_become_an_adapter_that_is_the_current_one(run):
    """A training leaves a whole adapter with its card and the questions it learned, and it is the current one."""
    events = []
    card = raft.train(run, on_event=lambda *event: events.append(event))
    folder = adapters.find(run)
    assert folder.name == card["adapter"] == adapters.current(run)
    assert adapters.digest(folder) is not None
    built = raft.load(run)
    splits = dict(built.examples["split"].value_counts().iter_rows())
    assert (card["rows"], card["valid"]) == (splits["train"], splits["valid"])
    assert (card["base"], card["approved_by"], card["backend"]) == (built.settings.student, "", "peft")
    assert card["data_digest"] == built.manifest["steps"]["examples"]["artifacts"]["examples.parquet"]["digest"]
    learned = [json.loads(line) for line in (folder / "learned.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = built.cleaned.filter(pl.col("split").is_in(["train", "valid"])).select("question_id", "question")
    assert sorted(learned, key=str) == sorted(kept.to_dicts(), key=str)
    assert card["questions"] == len(learned)
    (rows,) = told(events, "rows")
    assert rows["rows"] == card["rows"] and rows["batch"] == built.settings.training.batch
    assert [facts["step"] for facts in told(events, "training") if "loss" in facts] == list(range(1, card["steps"] + 1))
    assert not any((run / "scratch").iterdir())


def test_the_same_training_is_not_done_twice(run, monkeypatch):
    """A second call with equal settings trains nothing and returns the same card; a lost adapter is trained again."""
    first, events = raft.train(run), []
    assert raft.train(run, on_event=lambda *event: events.append(event)) == first
    assert [event for event, _ in events] == ["reused"]
    shutil.rmtree(run / "adapters" / first["adapter"])
    assert raft.train(run)["adapter"] == first["adapter"]
    assert adapters.digest(run / "adapters" / first["adapter"]) is not None


def test_whatever_changes_an_adapter_changes_its_id(run):
    """Another seed, rank, choice of layers or weight is another adapter; how often work is saved changes nothing."""
    names = [raft.train(run, settings={"training.epochs": 0.1, **more})["adapter"] for more in ({}, {"seed": 1})]
    names.append(raft.train(run, epochs=0.1, settings={"training.layers": "qv"})["adapter"])
    held = {"training.kl": 0.1, "training.rehearsal": 0.25, "examples.max_tokens": 4000}
    names.append(raft.train(run, epochs=0.1, settings=held)["adapter"])
    names.append(raft.train(run, epochs=0.1, rank=2)["adapter"])
    assert len({*names}) == 5
    assert {card["adapter"] for card in raft.load(run).adapters} == {*names}
    assert [card["current"] for card in raft.load(run).adapters] == [False, False, False, False, True]
    again = raft.train(run, epochs=0.1, settings={"training.checkpoint_minutes": 3})
    assert again["adapter"] == names[0] == adapters.current(run)


def test_a_training_that_was_cut_off_goes_on_from_its_checkpoint(run):
    """After an interruption the same call begins behind the last checkpoint, and its adapter is that of one sitting."""
    settings = {"training.evaluations": 4, "training.epochs": 2, "training.patience": 9}
    seen = []

    def cut(event, facts):
        if event == "training" and "loss" in facts:
            seen.append(facts["step"])
            if facts["step"] == 5:
                raise Cut

    with pytest.raises(Cut):
        raft.train(run, settings=settings, on_event=cut)
    assert adapters.listed(run) == []
    assert any((run / "scratch").rglob("checkpoint-*"))
    events = []
    card = raft.train(run, settings=settings, on_event=lambda *event: events.append(event))
    again = [facts["step"] for facts in told(events, "training") if "loss" in facts]
    assert again[0] > 1
    assert again == list(range(again[0], card["steps"] + 1))
    assert adapters.find(run).name == card["adapter"]
    assert not any((run / "scratch").iterdir())
    whole = adapters.digest(adapters.find(run))
    shutil.rmtree(run / "adapters")
    raft.train(run, settings=settings)
    assert adapters.digest(adapters.find(run)) == whole


def test_rehearsal_is_mixed_in(run):
    """General chats are among the rows by their share, the card counts them, and another share is another adapter."""
    card = raft.train(run, epochs=0.1, settings={"training.rehearsal": 0.25, "examples.max_tokens": 4000})
    assert card["rehearsal"] == round(card["rows"] / 3)
    assert card["adapter"] != raft.train(run, epochs=0.1, settings={"examples.max_tokens": 4000})["adapter"]


def test_the_student_rehearses_what_it_would_say(run):
    """Its own replies are another adapter, told on the card; going on, or training otherwise, asks for none again."""
    settings = {"training.rehearsal": 0.25, "examples.max_tokens": 4000}
    own, events = {**settings, "training.rehearsal_replies": "own"}, []

    def cut(event, facts):
        events.append((event, facts))
        if event == "training":
            raise Cut

    with pytest.raises(Cut):
        raft.train(run, settings=own, on_event=cut)
    asked = sum(facts["new"] for facts in told(events, "asked"))
    events.clear()
    card = raft.train(run, settings=own, on_event=lambda *event: events.append(event))
    assert asked >= card["rehearsal"] > 0
    assert sum(facts["new"] for facts in told(events, "asked")) == 0
    assert card["rehearsal_replies"] == "own"
    assert "the base model's own replies" in (adapters.find(run) / "README.md").read_text(encoding="utf-8")
    theirs = raft.train(run, settings=settings)
    assert (theirs["rehearsal_replies"], theirs["rehearsal"]) == ("file", asked)
    assert theirs["adapter"] != card["adapter"]
    assert adapters.digest(run / "adapters" / theirs["adapter"]) != adapters.digest(run / "adapters" / card["adapter"])


def test_no_rows_to_train_on(tmp_path, tiny_student):
    """A run that has not come to its examples names the command that makes them."""
    folder = tmp_path / "run"
    folder.mkdir()
    manifest = {"format": 1, "raft": "0.3.0", "steps": {}, "settings": {"student": str(tiny_student)}, "models": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RaftError, match=r"no training rows yet(.|\n)*raft build CORPUS"):
        raft.train(folder)


def test_rows_that_were_edited(run):
    """Training rows that are not what the build made are refused: the card would name others."""
    rows = raft.load(run).examples
    tables.check(rows[:-1], tables.EXAMPLES, where="here").write_parquet(run / "examples.parquet")
    with pytest.raises(DamagedArtifact, match="not those that the build made"):
        raft.train(run)


def test_rows_measured_in_other_tokens(run, tmp_path, tiny_student):
    """A student whose tokenizer did not measure the rows is refused, with the build that measures them anew."""
    other = shutil.copytree(tiny_student, tmp_path / "other")
    template = other / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("<s>", "<s>\n"), encoding="utf-8")
    with pytest.raises(UsageError, match=f"another student(.|\n)*--student {other}"):
        raft.train(run, settings={"student": str(other)})


def test_a_student_at_another_place(run, tmp_path, tiny_student):
    """A student that lies elsewhere, on a machine that the run was moved to, becomes the run's."""
    moved = shutil.copytree(tiny_student, tmp_path / "moved")
    card = raft.train(run, epochs=0.1, settings={"student": str(moved)})
    assert card["base"] == raft.load(run).settings.student == str(moved)
    assert card["adapter"] == raft.train(run, epochs=0.1, settings={"student": str(tiny_student)})["adapter"]


@pytest.mark.parametrize(
    ("settings", "words_said"),
    [
        ({"index.k": 3}, "--set index.k=3"),
        ({"training.ranks": 3}, "training.rank"),
        ({"training.epochs": 0}, "training.epochs"),
        ({"training.bits": 4, "training.backend": "peft"}, "training.bits=16"),
        ({"training.rehearsal": 1.0}, "less than 1"),
        ({"training.kl": 0.1}, "training.rehearsal=0.1"),
        ({"training.kl": -1}, "training.kl"),
        ({"student": "openai/gpt-4o-mini"}, "hosted model cannot be tuned"),
        ({"student": "no/such/folder"}, "no/such/folder"),
        ({"examples.max_tokens": 64}, "examples.max_tokens=64"),
    ],
)
def test_what_cannot_be_trained_is_refused(run, settings, words_said):
    """A wrong setting or student is named with what to do, and nothing is left behind."""
    with pytest.raises(RaftError) as error:
        raft.train(run, settings=settings)
    assert words_said in str(error.value)
    assert adapters.listed(run) == []


def test_a_loss_that_is_no_number(run):
    """A training that diverges ends with a lower learning rate to try, and leaves no adapter."""
    with pytest.raises(RaftError, match=r"(loss|norm) is (nan|inf)(.|\n)*training.learning_rate="):
        raft.train(run, learning_rate=1e9)
    assert adapters.listed(run) == []


def test_an_approval_stands_in_the_card(run):
    """An approval fills the card and the list of adapters, and the adapter stays the same."""
    card = raft.train(run, epochs=0.1)
    before = adapters.digest(adapters.find(run))
    assert raft.approve(run, "Marta Quill", adapter=card["adapter"][:6])["approved_by"] == "Marta Quill"
    (line,) = api.state(run)["adapters"]
    assert (line["adapter"], line["approved_by"], line["current"]) == (card["adapter"], "Marta Quill", True)
    assert adapters.digest(adapters.find(run)) == before
    with pytest.raises(UsageError, match="name of the person"):
        raft.approve(run, " ")
    text = messages.status(**{"facts": api.state(run)["summary"], "spent": [], "running": False}, adapters=[line])
    assert "Marta Quill, 20" in text
    assert "verdict then: not measured   (answers)" in text


def test_approvals_are_a_history(run):
    """Each approval is a line with its note and the verdict of that time; `raft status` shows the last."""
    card = raft.train(run, epochs=0.1)
    raft.approve(run, "Marta Quill", note="read\n20 answers")
    measured = {"date": "2026-01-02", "arms": [{"adapter": card["adapter"], "sets": {}, "title": "x"}]}
    measured["verdict"] = {"decision": "ship", "reasons": [], "gain": None, "question_set": "user"}
    (run / "benchmark.json").write_text(json.dumps(measured))
    said = CliRunner().invoke(main, ["approve", str(run), "--by", "Ines Varga", "--note", "the week's tickets"])
    assert "Ines Varga, 20" in said.stdout
    history = run / "adapters" / card["adapter"] / "approvals.jsonl"
    first, last = map(json.loads, history.read_text(encoding="utf-8").splitlines())
    assert (first["by"], first["note"], first["verdict"]) == ("Marta Quill", "read 20 answers", None)
    assert (last["by"], last["verdict"]["decision"]) == ("Ines Varga", "ship")
    assert "verdict then: ship (the week's tickets)" in CliRunner().invoke(main, ["status", str(run)]).stdout


def test_the_tuned_model_is_exported_as_one(run):
    """Student and adapter are written as one model, which transformers loads; without an adapter that is said."""
    with pytest.raises(UsageError, match="raft train"):
        raft.export_model(run)
    raft.train(run, epochs=0.1)
    out = raft.export_model(run, out=run / "one")
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    base = transformers.AutoModelForCausalLM.from_pretrained(raft.load(run).settings.student)
    assert model.num_parameters() == base.num_parameters()
    with pytest.raises(UsageError, match="not empty"):
        raft.export_model(run, out=out)
    told = (out / "README.md").read_text(encoding="utf-8")
    assert "vllm serve . --served-model-name raft-" in told
    assert "library_name: transformers" in told and str(run) not in told
    turns = json.loads((out / "prompt.json").read_text(encoding="utf-8"))
    assert "$documents" in turns[-1]["content"] and "$question" in turns[-1]["content"]
    assert json.loads((out / "card.json").read_text())["adapter"] == raft.load(run).adapters[0]["adapter"]
    assert api.export_remarks(run) == []


def test_a_model_that_learned_from_other_rows_is_exported_with_a_word(run):
    """Where rows are not those that an adapter learned from, its export says so, on the screen and in the README."""
    raft.train(run, epochs=0.1)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["steps"]["examples"]["artifacts"]["examples.parquet"]["digest"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    (remark,) = api.export_remarks(run)
    assert "rows of another build" in remark
    done = CliRunner().invoke(main, ["export", str(run), "--merged", "--out", str(run / "one")])
    assert done.stderr.endswith(f"raft: {remark}\n")
    assert remark.replace(str(run), "RUN") in (run / "one" / "README.md").read_text(encoding="utf-8")
    manifest["steps"]["examples"]["inputs"] = {"cleaned.parquet": "1" * 64}
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "a later build was not finished" in api.export_remarks(run)[0]


CARD = {
    "adapter": "0a1b2c3d4e5f",
    "base": "org/tiny",
    "rows": 400,
    "valid": 40,
    "rehearsal": 44,
    "tokens": 480000,
    "seconds": 600.0,
    "steps": 60,
    "best_step": 40,
    "backend": "peft",
    "hardware": "2 cores",
    "notes": {},
    "loss_curve": [{"step": 20, "valid_loss": 2.0}, {"step": 21, "loss": 1.5}, {"step": 40, "valid_loss": 0.75}],
}


def test_a_training_is_told_in_words():
    """Rows, tokens, speed, losses, place and next commands are said; warnings where there is something to warn of."""
    text = " ".join(messages.trained(CARD, "runs/x").split())
    for said in (
        "444 learned from, 44 general ones",
        "480,000 read in 600 s, 800 a second",
        "2.0000 when first",
        "0.7500 at",
        "that of step 40",
        "runs/x/adapters/0a1b2c3d4e5f",
        "raft ask runs/x",
        "raft bench runs/x",
    ):
        assert said in text
    assert "few" not in text
    warned = messages.trained({**CARD, "rows": 40, "notes": {"few_rows": 40, "not_learned": True}}, "runs/x")
    assert "40 training questions are few" in warned
    assert "No measurement was better" in warned
