"""A tuned retriever in a run: made once of its questions, used where it is better, taken back by deleting it."""

import json
import shutil
import subprocess
import sys

import polars as pl
import pytest
from click.testing import CliRunner

import raft
from conftest import write_corpus
from raft.cli import benchmarks, main
from raft.errors import DamagedArtifact, RaftError, UsageError
from raft.pipeline import retriever
from raft.pipeline.retriever import CARD, FOLDER, Card
from raft.report.figures import paired, parts_shown
from raft.store import artifacts

pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

pytestmark = pytest.mark.slow

PARTS = ("valve", "rotor", "flange", "gasket", "bracket", "nozzle", "coupling", "bearing", "filter", "hose", "lever",
         "piston", "socket", "washer")  # fmt: skip
MEASURES = {
    "How many kg does the {} of Orlin Pumps weigh?": ("weighs {}", "{} kg"),
    "How many euros does the {} of Orlin Pumps cost?": ("costs {}", "{} euros"),
    "Within how many days is the {} of Orlin Pumps delivered?": ("is delivered within {}", "{} days"),
    "For how many hours is the {} of Orlin Pumps tested?": ("is tested for {}", "{} hours"),
    "How many years does the {} of Orlin Pumps last?": ("lasts {}", "{} years"),
    "How many bar does the {} of Orlin Pumps bear?": ("bears {}", "{} bar"),
    "How many metres may the {} of Orlin Pumps fall?": ("may fall {}", "{} metres"),
}
SETTINGS = {"questions.limit": 0, "chunking.tokens": 32, "split.unseen": 0.2, "index.k": 2, "cleaning.round_trip": 50,
            "answering.max_tokens": 8}  # fmt: skip
QUESTION = "How many euros does the rotor of Orlin Pumps cost?"


def corpus(folder):
    """Write a document about each of some parts, a sentence a measure."""
    write_corpus(folder)
    for place, name in enumerate(PARTS, 1):
        said = [
            f"The {name} of Orlin Pumps {one.format(value.format(11 + 7 * place + at))}."
            for at, (one, value) in enumerate(MEASURES.values())
        ]
        (folder / f"{name}.md").write_text(f"# The {name}\n\n" + "\n\n".join(said) + "\n", encoding="utf-8")
    return folder


def pairs(folder):
    """Write a question about each sentence, with its answer."""
    rows = [
        {"question": asked.format(name), "answer": value.format(11 + 7 * place + at), "document": f"{name}.md"}
        for place, name in enumerate(PARTS, 1)
        for at, (asked, (_, value)) in enumerate(MEASURES.items())
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def options(home, run):
    """Return how the run was built."""
    student = (home / "student").read_text(encoding="utf-8")
    return {"out": run, "eval": own(home), "qa": pairs(home), "student": student, "settings": SETTINGS}


def own(folder):
    """Write questions of a person's own, as people ask."""
    rows = [
        {"question": f"what do I pay for a {name}?", "answers": [f"{12 + 7 * place} euros"], "document": f"{name}.md"}
        for place, name in enumerate(PARTS, 1)
    ]
    rows += [
        {"question": f"days until I get my {name}", "answers": [f"{13 + 7 * place} days"], "document": f"{name}.md"}
        for place, name in enumerate(PARTS, 1)
    ]
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def home(tiny_student, tmp_path_factory):
    """A folder with a corpus, questions and a finished build, that no test writes to."""
    made = tmp_path_factory.mktemp("retriever")
    corpus(made / "corpus")
    (made / "student").write_text(str(tiny_student), encoding="utf-8")
    raft.build(made / "corpus", **options(made, made / "run"))
    return made


@pytest.fixture(scope="module")
def trained(home, tmp_path_factory):
    """A copy of the build with a tuned retriever that is used."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    shutil.copytree(home / "run", run)
    raft.train(run, part="retriever")
    use(run)
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run with a tuned retriever."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def plain(home, tmp_path):
    """A copy of the finished build."""
    return shutil.copytree(home / "run", tmp_path / "plain")


def card_of(run):
    """Return a run's card as it lies there."""
    return Card.model_validate_json((run / CARD).read_text(encoding="utf-8"))


def use(run, used=True):
    """Write into a run that its tuned retriever is used, as if it had measured so."""
    rewritten = card_of(run).model_copy(update={"used": used})
    (run / CARD).write_text(rewritten.model_dump_json(indent=1) + "\n", encoding="utf-8")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["steps"]["retriever"]["artifacts"][CARD]["digest"] = artifacts.digest(run / CARD)
    (run / "manifest.json").write_text(json.dumps(manifest))


def scores(run):
    """Return what search brings for a question, with its scores."""
    return raft.load(run).index.search([QUESTION], 3)


def test_it_is_tuned_once_and_says_what_it_found(plain):
    """A training makes a model, a card and a README, and changes nothing else; the second one makes nothing."""
    before = {path: artifacts.digest(path) for path in plain.glob("*.parquet")}
    events = []
    card = raft.train(plain, part="retriever", on_event=lambda *event: events.append(event))
    assert ("retriever", card) in events
    assert card["questions"] >= retriever.LEAST
    assert card["losses"][-1] < card["losses"][0]
    assert set(card["measured"]) == {"all", "user", "eval_unseen"}
    assert card["measured"]["user"]["questions"] == 2 * len(PARTS)
    told = (plain / FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"tuned on {card['questions']} questions" in told
    assert card["why"] in told
    few = [one for one in card["measured"].values() if one["mrr"]["difference"]["groups"] < 20]
    assert few and told.count("(too few to tell)") == 3 * len(few)
    assert {path: artifacts.digest(path) for path in plain.glob("*.parquet")} == before
    model = plain / FOLDER / card["name"]
    stamp = (model / "model.safetensors").stat().st_mtime_ns
    said = CliRunner().invoke(main, ["train", str(plain), "--part", "retriever", "--quiet"]).stdout
    assert (model / "model.safetensors").stat().st_mtime_ns == stamp
    assert f"recall@{card['k']}" in said
    assert card["why"] in said


def test_used_means_better_by_the_rule():
    """It is used where recall@k is not lower and MRR is higher, over enough questions; and never otherwise."""

    def measured(questions, recall, mrr):
        return {"all": {"questions": questions, "recall_at_k": {"difference": {"value": recall}},
                        "mrr": {"difference": {"value": mrr}}}}  # fmt: skip

    assert retriever._verdict(measured(20, 0.0, 0.01))[0]
    for worse in ((19, 0.1, 0.1), (20, -0.01, 0.1), (20, 0.0, 0.0)):
        assert not retriever._verdict(measured(*worse))[0]
    assert not retriever._verdict({})[0]


def test_answers_search_with_it_and_without_it_once_it_is_gone(run, plain):
    """What is used moves each question, in every search; deleting its folder brings the untuned results back."""
    tuned, untuned = scores(run), scores(plain)
    assert tuned["score"].to_list() != untuned["score"].to_list()
    assert raft.load(run).index.identity != raft.load(plain).index.identity
    found = [one.chunk_id for one in raft.load(run).answerer()._loaded.search([QUESTION], 3)[0]]
    assert found == tuned["chunk_id"].to_list()
    shutil.rmtree(run / FOLDER)
    assert scores(run).equals(untuned)


def test_what_is_not_better_is_kept_and_not_used(run, plain):
    """A tuned retriever that is not used stays where it is, and searches for nobody."""
    use(run, used=False)
    assert (run / FOLDER / card_of(run).name).is_dir()
    assert scores(run).equals(scores(plain))


def test_a_build_makes_its_rows_as_if_there_was_none(run, home):
    """A build on a run with a tuned retriever makes nothing anew; a new document is found with it at once."""
    events = []
    told = lambda event, facts: events.append((event, facts.get("step")))  # noqa: E731
    raft.build(home / "corpus", on_event=told, **options(home, run))
    assert "made" not in [event for event, _ in events]
    tuned = scores(run)
    more = shutil.copytree(home / "corpus", run.parent / "corpus")
    (more / "turbine.md").write_text(
        "# The turbine\n\nThe turbine of Orlin Pumps costs 4711 euros.\n", encoding="utf-8"
    )
    raft.build(more, **options(home, run))
    found = raft.load(run).index.search(["How many euros does the turbine of Orlin Pumps cost?"], 1)
    assert "4711" in found["text"][0]
    assert card_of(run).used
    assert scores(run)["score"][0] == tuned["score"][0]


def test_another_embedder_is_told(run, home, tmp_path):
    """Once a run is built with another embedder, a remark says that the tuned retriever is of the other one."""
    assert not any("tuned retriever" in one for one in raft.load(run).answerer().remarks)
    other = home_model(tmp_path)
    raft.build(home / "corpus", embedder=str(other), **options(home, run))
    (remark,) = [one for one in raft.load(run).answerer().remarks if "tuned retriever" in one]
    assert f"raft train {run} --part retriever" in remark
    untuned = raft.build(home / "corpus", embedder=str(other), **options(home, tmp_path / "fresh"))
    assert scores(run)["score"].to_list() == scores(untuned.folder)["score"].to_list()


def home_model(folder):
    """Write another embedder, of the same shape."""
    from raft.backends import hub
    from raft.settings.sections import Index

    made = shutil.copytree(hub.resolve(Index().embedder), folder / "other")
    settings = json.loads((made / "sentence_bert_config.json").read_text())
    (made / "sentence_bert_config.json").write_text(json.dumps({**settings, "max_seq_length": 128}))
    return made


@pytest.mark.parametrize("damage", ["cut", "gone", "card", "changed card"])
def test_damage_is_told_and_mended_by_the_training(run, damage):
    """Weights or a card that are not what was trained are never searched with; the next training makes them anew."""
    weights = run / FOLDER / card_of(run).name / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-7])
    elif damage == "gone":
        shutil.rmtree(weights.parent)
    elif damage == "card":
        (run / CARD).write_text("{", encoding="utf-8")
    else:
        (run / CARD).write_text((run / CARD).read_text().replace('"k": 2', '"k": 3'), encoding="utf-8")
    with pytest.raises(DamagedArtifact) as told:
        scores(run)
    assert "--part retriever" in str(told.value)
    if damage in ("cut", "card"):
        raft.train(run, part="retriever")
        use(run)
        assert scores(run).height == 3


def test_a_training_that_was_killed_changes_nothing_and_goes_again(plain):
    """Killed while it tunes, a training leaves a run that searches as before; the same command then does all of it."""
    before = scores(plain)
    dies = (
        "import os, raft\nfrom raft.backends.trainers import questions\nwhole = questions._loss\ncount = []\n"
        "def loss(*given):\n    count.append(1)\n    len(count) > 2 and os._exit(9)\n    return whole(*given)\n"
        f"questions._loss = loss\nraft.train({str(plain)!r}, part='retriever')\n"
    )
    assert subprocess.run([sys.executable, "-c", dies], check=False).returncode == 9
    assert scores(plain).equals(before)
    raft.train(plain, part="retriever")
    assert card_of(plain).name in [path.name for path in (plain / FOLDER).iterdir()]
    assert not (plain / FOLDER / ".draft").exists()


def test_what_cannot_be_tuned_is_refused_with_the_next_command(plain, tmp_path):
    """A hosted embedder, flags of another part and too few questions are refused before anything is trained."""
    with pytest.raises(UsageError, match="no epochs"):
        raft.train(plain, part="retriever", epochs=2)
    with pytest.raises(UsageError, match=r"does not read training\.rank"):
        raft.train(plain, part="retriever", settings={"training.rank": 4})
    few = pl.read_parquet(plain / "cleaned.parquet")
    rows = few.with_row_index().with_columns(
        split=pl.when(pl.col("index") < 30).then(pl.col("split")).otherwise(pl.lit("valid"))
    )
    rows.drop("index").write_parquet(plain / "cleaned.parquet")
    with pytest.raises(RaftError, match="50 questions at least") as told:
        raft.train(plain, part="retriever")
    assert "questions-per-chunk" in str(told.value)
    manifest = json.loads((plain / "manifest.json").read_text())
    manifest["settings"]["questions"]["keep"] = 40
    (plain / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RaftError, match="50 questions at least") as told:
        raft.train(plain, part="retriever")
    assert "questions.keep=80" in str(told.value) and "questions-per-chunk" not in str(told.value)
    manifest = json.loads((plain / "manifest.json").read_text())
    manifest["settings"]["index"]["embedder"] = "openai/text-embedding-3-small"
    (plain / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="is hosted") as told:
        raft.train(plain, part="retriever")
    assert "--embedder" in str(told.value)
    assert not (plain / FOLDER).exists()


def test_a_benchmark_shows_both_retrievers_side_by_side(run):
    """What is measured holds recall and MRR of each set untuned and tuned; without a tuned retriever it holds none."""
    settings = {"benchmark.contenders": "verdict", "benchmark.latency_questions": 1, "benchmark.capability": []}
    facts = raft.bench(run, settings=settings)
    measured = facts["retriever"]
    said = dict(parts_shown(facts))["retriever"]
    assert "untuned" in said and "tuned" in said and said.endswith("questions; used")
    assert (measured["used"], measured["k"]) == (True, 2)
    known = card_of(run).measured["user"]
    assert measured["sets"]["user"] == known
    shutil.rmtree(run / FOLDER)
    assert raft.bench(run, settings=settings)["retriever"] is None


def test_a_question_that_it_learned_from_is_not_measured_with(run, tmp_path):
    """A benchmark refuses questions that the retriever in use learned from, or leaves them out when told to."""
    learned = json.loads(next((run / FOLDER).glob("*/learned.jsonl")).read_text().splitlines()[0])["question"]
    questions = tmp_path / "questions.jsonl"
    rows = [{"question": learned, "answers": ["x"]}, {"question": "Who feeds the harbour cat?", "answers": []}]
    questions.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    settings = {"benchmark.contenders": "verdict", "benchmark.latency_questions": 1, "benchmark.capability": []}
    with pytest.raises(UsageError, match=r"tuned retriever was trained on(.|\n)*--drop-leaks"):
        raft.bench(run, questions=questions, settings=settings)
    facts = raft.bench(run, questions=questions, drop_leaks=True, settings=settings)
    assert facts["question_sets"][0]["questions"] == 1
    shutil.rmtree(run / FOLDER)
    assert raft.bench(run, questions=questions, settings=settings)["question_sets"][0]["questions"] == 2


def test_one_that_is_not_used_is_shown_with_its_reason(run, tmp_path):
    """The reason is its card's, and it is measured without the questions that it learned from, which others keep."""
    use(run, used=False)
    learned = json.loads(next((run / FOLDER).glob("*/learned.jsonl")).read_text().splitlines()[0])["question"]
    questions = tmp_path / "questions.jsonl"
    rows = [{"question": learned, "answers": ["x"], "document": "valve.md"}]
    rows += [{"question": "what do I pay for a valve?", "answers": ["19 euros"], "document": "valve.md"}]
    questions.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    settings = {"benchmark.contenders": "verdict", "benchmark.latency_questions": 1, "benchmark.capability": []}
    facts = raft.bench(run, questions=questions, settings=settings)
    assert facts["question_sets"][0]["questions"] == 2
    assert facts["retriever"]["sets"]["user"]["questions"] == 1
    assert dict(parts_shown(facts))["retriever"].endswith(f"1 questions; not used: {card_of(run).why}")
    told = {**facts, "retriever": {**facts["retriever"], "why": "20 are too few"}}
    assert dict(parts_shown(told))["retriever"].endswith("not used: 20 are too few")


def test_a_damaged_one_that_is_not_used_is_told_before_anybody_is_asked(run):
    """A benchmark does not ask for an hour to end without a result."""
    use(run, used=False)
    next((run / FOLDER).rglob("*.safetensors")).write_bytes(b"x")
    events = []
    with pytest.raises(DamagedArtifact, match="tuned retriever"):
        raft.bench(run, on_event=lambda name, _: events.append(name))
    assert "asking" not in events


def test_a_few_documents_are_told_to_be_too_few(run):
    """The terminal prints no interval that rests on fewer than 20 documents, sections or questions."""
    card = card_of(run).model_dump()
    assert card["measured"]["user"]["resampled"] != "documents", "they are of fourteen"
    for one in card["measured"].values():
        for name in ("recall_at_1", "recall_at_k", "mrr"):
            one[name]["difference"]["groups"] = 19
    assert benchmarks.tuned(card, "run").count("(too few to tell)") == 9


def test_a_refusal_head_is_of_the_retriever_that_it_learned_with(run):
    """A head of before the retriever was tuned is told to be another's, and counts again once that is gone."""
    shutil.move(run / FOLDER, run.parent / "kept")
    raft.train(run, part="refusal", settings={"answering.false_answers": 0.3})
    assert not raft.load(run).answerer().remarks or "refusal head" not in " ".join(raft.load(run).answerer().remarks)
    shutil.move(run.parent / "kept", run / FOLDER)
    assert "refusal head is of another" in " ".join(raft.load(run).answerer().remarks)
    raft.train(run, part="refusal")
    assert "refusal head" not in " ".join(raft.load(run).answerer().remarks)
    shutil.rmtree(run / FOLDER)
    assert "refusal head is of another" in " ".join(raft.load(run).answerer().remarks)


def test_a_benchmark_of_all_systems_tells_reader_retriever_and_refusal_apart(run):
    """Each pairing of what was learned and what was before is asked; what is in use scores as its system does."""
    raft.train(run, settings={"training.learning_rate": 0.01})
    raft.train(run, part="refusal", settings={"answering.false_answers": 0.3})
    facts = raft.bench(
        run,
        settings={
            "answering.false_answers": 0.3,
            "answering.min_relevance": 0.3,
            "benchmark.latency_questions": 1,
            "benchmark.capability": [],
            "benchmark.tuning_questions": 2,
        },
    )
    found = facts["parts"]
    names = ("reader", "retriever", "refusal")
    assert len({tuple(row[name] for name in names) for row in found["rows"]}) == len(found["rows"]) == 8
    (used,) = (row for row in found["rows"] if row["used"])
    assert [used[name] for name in names] == [True, True, True]
    by_name = {one["name"]: one["sets"]["user"] for one in facts["arms"]}
    (untuned,) = (row for row in found["rows"] if [row[name] for name in names] == [False, True, True])
    for row, system in ((used, "raft"), (untuned, facts["verdict"]["baseline"])):
        for name in ("f1", "false_answers", "false_refusals"):
            assert row[name] == by_name[system][name]
    told = {row["refusal"]: row["false_refusals"]["value"] for row in found["rows"]}
    assert told[True] != told[False], "the rule refuses other questions than the head"
    assert list(found["adds"]) == list(names)
    assert found["adds"]["reader"]["f1"] == by_name["raft"]["against"]["f1"]
    said = benchmarks.benchmark(facts)
    assert "each with and without the others (* in use)" in said and "reader, tuned for untuned: F1" in said
    for page in ("report.html", "report.md"):
        assert "refusal, by head for by rule: F1" in (run / page).read_text(encoding="utf-8")
    asked = ["Who feeds the harbour cat?", "Which colour has the night ferry?"]
    with next((run / FOLDER).glob("*/learned.jsonl")).open("a", encoding="utf-8") as learned:
        learned.write(json.dumps({"question_id": "own", "question": asked[0]}) + "\n")
    rows = [{"question": one, "answers": []} for one in asked]
    questions = run.parent / "questions.jsonl"
    questions.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    use(run, used=False)
    settings = {
        "benchmark.latency_questions": 1,
        "benchmark.capability": [],
        "benchmark.tuning_questions": 2,
        "answering.false_answers": 0,
    }
    facts = raft.bench(run, questions=questions, settings=settings)
    assert facts["question_sets"][0]["questions"] == 2
    assert facts["parts"]["questions"] == 1, "the retriever learned from the other one"
    assert [(row["retriever"], row["used"]) for row in facts["parts"]["rows"][2:]] == [(False, True), (True, False)]
    assert {names[2] for names, _ in paired(facts)} == {"none"}
    without = raft.bench(run, questions=questions, settings={**settings, "benchmark.contenders": "verdict"})
    assert without["parts"] is None and "each with and without" not in benchmarks.benchmark(without)
