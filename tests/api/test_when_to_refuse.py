"""A refusal head in a run: learned once, used by questions and benchmarks, promised on what it was set on."""

import json
import shutil

import pytest
from click.testing import CliRunner

import raft
from conftest import Fakes, write_corpus
from raft import api
from raft.cli import main
from raft.errors import DamagedArtifact, RaftError, UsageError
from raft.pipeline.refusal import CARD, HEAD
from raft.rag.refusal import Head, question_digest, threshold
from raft.store import artifacts

pytest.importorskip("torch")
pytest.importorskip("transformers")

QUESTION = "How long may home customers of Orlin Pumps return a pump?"
ELSEWHERE = "Who painted the ceiling of the opera?"


@pytest.fixture(scope="module")
def finished(tiny_student, tmp_path_factory):
    """A finished build with enough questions to learn a head from, that no test writes to."""
    return built(tiny_student, tmp_path_factory.mktemp("refusing"), 8)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished build."""
    return shutil.copytree(finished, tmp_path / "run")


SETTINGS = {
    "chunking.tokens": 60,
    "index.k": 2,
    "examples.documents": 2,
    "split.unseen": 0.0,
    "split.seen": 0.0,
    "answering.max_tokens": 8,
}
PARTS = ("valve", "rotor", "flange", "gasket", "bracket", "nozzle", "coupling", "bearing", "filter", "hose")


def corpus(folder):
    """Write the six documents and one about each of some parts."""
    write_corpus(folder)
    for place, name in enumerate(PARTS, 1):
        text = f"# The {name}\n\nThe {name} of Orlin Pumps weighs {place + 0.5} kg and costs {30 + 7 * place} euros."
        (folder / f"{name}.md").write_text(f"{text}\n", encoding="utf-8")
    return folder


def built(student, home, each, **more):
    """Build with models that cost nothing, `each` questions a chunk; return the run directory."""
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install_around_student(patch.setattr)
        api.build(
            corpus(home / "corpus"),
            out=home / "run",
            generator="openai/fake",
            price=(0.0, 0.0),
            student=str(student),
            **more,
            settings=SETTINGS | {"questions.per_chunk": each},
        )
    return home / "run"


def rewritten(run, text):
    """Write another head into a run, as if it had been learned."""
    (run / HEAD).write_text(text, encoding="utf-8")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["steps"]["refusal"]["artifacts"][HEAD]["digest"] = artifacts.digest(run / HEAD)
    (run / "manifest.json").write_text(json.dumps(manifest))


def head_of(run):
    """Return a run's head as it lies there."""
    return Head.model_validate_json((run / HEAD).read_text(encoding="utf-8"))


def test_a_head_is_learned_once_and_says_what_it_promises(run, fakes):
    """A head with its card is made of the run's questions; it stays as it is where another rate is promised."""
    events = []
    facts = raft.train(run, part="refusal", on_event=lambda *event: events.append(event))
    head = head_of(run)
    assert (facts["wanted"], facts["whose"], facts["learned_from"]) == (0.1, "the run's", head.questions)
    assert (facts["threshold"], facts["promised"]) == threshold(head.unanswerable, 0.1)
    assert facts["answered"] == sum(score >= facts["threshold"] for score in head.unanswerable)
    assert facts["refused"] == sum(score < facts["threshold"] for score in head.answerable)
    assert head.reading is not None and len(head.signals.weights) == 4
    assert ("refusal", facts) in events
    card = (run / CARD).read_text(encoding="utf-8")
    assert f"learned from {head.questions} questions" in card
    before = (run / HEAD).read_bytes()
    again = raft.train(run, part="refusal", settings={"answering.false_answers": 0.3})
    assert (run / HEAD).read_bytes() == before
    assert again["threshold"] <= facts["threshold"]
    assert raft.load(run).settings.answering.false_answers == 0.3


def test_questions_that_the_passages_seem_not_to_answer_are_asked_of_nobody(run, fakes):
    """Once there is a head, what does not reach its threshold is refused with score, threshold and promise."""
    raft.train(run, part="refusal", settings={"answering.false_answers": 0.3})
    head = head_of(run)
    about, other = raft.load(run).ask_all([QUESTION, ELSEWHERE])
    assert (other.abstained, other.raw) == (True, "")
    assert (other.min_relevance, other.promised) == threshold(head.unanswerable, 0.3)
    assert other.relevance < other.min_relevance
    assert about.relevance is about.promised is None
    assert raft.load(run).ask(ELSEWHERE, min_relevance=0).raw
    told = CliRunner().invoke(main, ["ask", str(run), ELSEWHERE])
    assert "(answering.false_answers)" in told.output
    assert "--min-relevance 0 " in told.output
    assert (
        json.loads(CliRunner().invoke(main, ["ask", str(run), ELSEWHERE, "--json"]).stdout)["promised"]
        == other.promised
    )


def test_a_head_is_of_the_questions_and_models_that_made_it(run, fakes, tiny_student, tmp_path):
    """Without a head, or with one of other models, the rule decides as before, and a remark says how to learn one."""
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["settings"]["answering"]["false_answers"] = 0.1
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "raft train" in " ".join(raft.load(run).answerer().remarks)
    assert raft.load(run).ask(ELSEWHERE).raw
    raft.train(run, part="refusal")
    assert not any("refusal head" in one for one in raft.load(run).answerer().remarks)
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"question": QUESTION, "answers": ["30 days"]}) + "\n", encoding="utf-8")
    whole = (run / HEAD).read_text(encoding="utf-8")
    for this, other in (
        ('"reader": "', '"reader": "another '),
        ('"embedder": "', '"embedder": "another '),
        ('"hybrid": true', '"hybrid": false'),
    ):
        assert this in whole
        rewritten(run, whole.replace(this, other))
        for how in ({}, {"adapter": "none"}):
            assert "is of another student, prompt, embedder" in " ".join(raft.load(run).answerer(**how).remarks)
        assert raft.load(run).ask(ELSEWHERE).raw
        with pytest.raises(UsageError, match="Nothing can be promised"):
            raft.bench(run, questions=own, settings={"benchmark.contenders": "verdict"})
    rewritten(run, "{")
    with pytest.raises(DamagedArtifact, match="refusal head cannot be read"):
        raft.load(run).ask(ELSEWHERE)
    (run / HEAD).write_text(whole.replace("0.", "0.0", 1), encoding="utf-8")
    with pytest.raises(DamagedArtifact, match="is not what was learned"):
        raft.load(run).ask(ELSEWHERE)


def test_a_build_keeps_what_a_head_promises(run, fakes):
    """The same build again, without a rate, leaves the head in use; one with other questions leaves a remark."""
    raft.train(run, part="refusal")
    settings = raft.load(run).settings
    again = SETTINGS | {"questions.per_chunk": 8}
    options = {"out": run, "generator": "openai/fake", "price": (0.0, 0.0), "student": settings.student}
    api.build(settings.corpus[0], **options, settings=again)
    assert raft.load(run).settings.answering.false_answers == 0.1
    assert raft.load(run).ask(ELSEWHERE).promised is not None
    api.build(settings.corpus[0], **options, settings={**again, "questions.per_chunk": 6})
    assert "no refusal head of its questions of now" in " ".join(raft.load(run).answerer().remarks)


def test_a_promise_can_be_taken_back(run, fakes):
    """With a rate of 0 nothing is promised any more, and the head stays for another rate."""
    raft.train(run, part="refusal")
    told = CliRunner().invoke(main, ["train", str(run), "--part", "refusal", "--set", "answering.false_answers=0"])
    assert "Nothing is promised" in told.output
    assert raft.load(run).ask(ELSEWHERE).raw
    assert raft.train(run, part="refusal")["wanted"] == 0.1
    assert raft.load(run).ask(ELSEWHERE).promised is not None


def test_each_part_of_a_training_reads_its_own_settings(run, fakes):
    """What a part does not read is refused, with the command that reads it."""
    for part, name in (("refusal", "training.rank"), ("refusal", "student"), ("adapter", "answering.false_answers")):
        with pytest.raises(UsageError, match=f"The part {part} does not read {name}"):
            raft.train(run, part=part, settings={name: 0.5 if part == "adapter" else "4"})


def test_a_benchmark_refuses_alike_and_leaves_out_what_the_threshold_was_set_on(tiny_student, tmp_path, fakes):
    """A person's questions set the threshold by half, and a benchmark measures with the other half alone."""
    asked = [{"question": f"Who painted picture {n} of the opera?", "answers": []} for n in range(60)]
    asked.append({"question": QUESTION, "answers": ["30 days"]})
    asked.append({"question": "What does the Delta impeller cost?", "answers": ["42 euros"]})
    own = tmp_path / "own.jsonl"
    own.write_text("\n".join(map(json.dumps, asked)) + "\n", encoding="utf-8")
    folder = built(tiny_student, tmp_path, 8, evaluation=own)
    facts = raft.train(folder, part="refusal")
    calibrated = set(head_of(folder).calibrated)
    wanted = {question_digest(one["question"]) for one in asked}
    assert facts["whose"] == "yours"
    assert len(calibrated) == 31
    measured = raft.bench(folder, settings={"benchmark.contenders": "verdict"})
    assert measured["refusal"] == {"least": facts["threshold"], "promised": facts["promised"], "left_out": 31}
    user = [row for row in measured["questions"] if row["question_set"] == "user"]
    assert calibrated < wanted
    assert calibrated.isdisjoint(question_digest(row["question"]) for row in user)
    refused = [{row["question_id"] for row in user if row["answers"][name]["abstained"]} for name in ("rag", "rag_few")]
    assert set() < refused[0] == refused[1]
    assert "31 questions left out: the threshold of refusals was set on them." in (folder / "report.md").read_text()


def test_too_few_questions_teach_no_head(tiny_student, tmp_path, fakes):
    """A run with a handful of questions is refused with what to do; a head takes no options of a training."""
    folder = built(tiny_student, tmp_path, 0.5)
    with pytest.raises(RaftError, match="learns from 20 questions at least"):
        raft.train(folder, part="refusal")
    assert not (folder / HEAD).exists()
    with pytest.raises(UsageError, match="has no epochs"):
        raft.train(folder, part="refusal", epochs=1)
    with pytest.raises(UsageError, match="no part index"):
        raft.train(folder, part="index")
