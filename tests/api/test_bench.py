"""Measuring: a run's contenders are asked, once, and what follows is said; real students, tiny and random."""

import json
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from test_train import build_for, told

import raft
from conftest import Cut, FakeEmbedder, Fakes
from fake_openai import FakeOpenAI
from raft import api
from raft.api import models
from raft.cli import benchmarks, main
from raft.errors import UsageError
from raft.report import figures
from raft.store import adapters, ledger
from raft.store.budget import Budget, CapReached, Price

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("trl")

QUICK = {
    "index.k": 3,
    "answering.batch": 4,
    "benchmark.latency_questions": 2,
    "benchmark.tuning_questions": 3,
    "benchmark.exemplars": [0, 2],
    "benchmark.withheld": 0.5,
}
UNTUNED = ["closed", "closed_few", "rag", "rag_few", "golden"]
TUNED = ["tuned_closed", "raft", "tuned_golden"]
FACTS = [
    ("Whose approval does a big home refund need?", "Marta Quill", "refunds/home.md"),
    ("Whose approval does a big trade refund need?", "Jonas Field", "refunds/trade.md"),
    ("What mass has the Delta?", "7.5 kg", "manuals/delta.md"),
    ("Since which day is there a desk?", "12 January 1998", "people/desk.md"),
    ("Whom does one tell of a large spill?", "Petra Lind", "safety.md"),
    ("Which clerk looks at journeys?", "Tomas Berg", "travel.md"),
]
OWN = [{"question": asked, "answers": [answer], "document": path} for asked, answer, path in FACTS]
NASTY = "</script><script>alert('1')</script><b>Which clerk?"


def write(path, rows):
    """Write rows as JSON lines and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def bench(run, *, settings=None, **options):
    """Measure with few questions to time and to tune with."""
    return raft.bench(run, settings={**QUICK, **(settings or {})}, **options)


def arms(facts):
    """Return the arms by name."""
    return {arm["name"]: arm for arm in facts["arms"]}


def counting(patch):
    """Return the key of each reply that is written to a ledger from now on."""
    keys, add = [], ledger.Ledger.add

    def noted(self, entries):
        entries = list(entries)
        keys.extend(entry.key for entry in entries)
        add(self, entries)

    patch.setattr(ledger.Ledger, "add", noted)
    return keys


def texts_of(run):
    """Return the text of each chunk by id."""
    return dict(raft.load(run).chunks.select("chunk_id", "text").iter_rows())


@pytest.fixture(scope="module")
def finished(tiny_student, tmp_path_factory):
    """A finished build for the tiny student that no test writes to."""
    return build_for(tiny_student, tmp_path_factory.mktemp("measured"))


@pytest.fixture(scope="module")
def trained(finished, tmp_path_factory):
    """The build with two adapters that say different things; no test writes to it."""
    run = shutil.copytree(finished, tmp_path_factory.mktemp("trained") / "run")
    for seed in (0, 1):
        raft.train(run, learning_rate=0.05, settings={"seed": seed})
    return run


@pytest.fixture(scope="module")
def before(finished, tmp_path_factory):
    """A copy of the build, what its benchmark said, and how many replies that took."""
    run = shutil.copytree(finished, tmp_path_factory.mktemp("before") / "run")
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install_around_student(patch.setattr)
        keys = counting(patch)
        facts = bench(run)
    return run, facts, keys


@pytest.fixture(scope="module")
def after(trained, tiny_student, tmp_path_factory):
    """A copy of the trained run, the facts of its second adapter's benchmark, and the folder of the user's files."""
    home = tmp_path_factory.mktemp("after")
    run = shutil.copytree(trained, home / "run")
    other = shutil.copytree(run / "adapters" / raft.load(run).adapters[0]["adapter"], home / "elsewhere")
    larger = shutil.copytree(tiny_student, home / "larger")
    config = json.loads((larger / "config.json").read_text())
    (larger / "config.json").write_text(json.dumps({**config, "rope_theta": 500.0}))
    general = [{"text": f"A pump has {number} of its own seals"} for number in range(5)]
    options = {
        "benchmark.capability": [str(write(home / "general.jsonl", general))],
        "benchmark.other_adapter": str(other),
        "benchmark.larger": [{"model": str(larger), "input_price": 2.0, "output_price": 10.0}],
    }
    questions = write(home / "own.jsonl", [*OWN, {"question": NASTY, "answers": ["Tomas Berg"]}])
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install_around_student(patch.setattr)
        first = raft.load(run).adapters[0]["adapter"]
        bench(run, questions=questions, adapter=first)
        facts = bench(run, questions=questions, settings=options)
    return run, facts, home


@pytest.fixture
def untuned(finished, tmp_path, fakes):
    """A copy of the build."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def run(trained, tmp_path, fakes):
    """A copy of the trained run."""
    return shutil.copytree(trained, tmp_path / "run")


def test_before_any_training(before):
    """Without an adapter the untuned contenders are measured, and what there is to gain is said, in all files."""
    run, facts, _ = before
    verdict = facts["verdict"]
    assert list(arms(facts)) == UNTUNED
    assert (verdict["decision"], verdict["contender"], verdict["gain"]) == ("not tuned yet", None, None)
    assert verdict["baseline"] in ("rag", "rag_few")
    assert verdict["advice"]
    assert all(0 <= verdict["headroom"][name] <= 1 for name in ("golden", "retrieved", "missed"))
    assert facts["training"] is facts["capability"] is facts["blind"] is None
    assert {one["name"] for one in facts["question_sets"]} <= {"eval_seen", "eval_unseen"}
    assert json.loads((run / "benchmark.json").read_text(encoding="utf-8")) == facts
    assert "Not tuned yet" in (run / "report.md").read_text(encoding="utf-8")
    assert "Not tuned yet" in (run / "report.html").read_text(encoding="utf-8")
    for name, arm in arms(facts).items():
        # where search finds what is golden, nothing is written anew for the golden arm, and so nothing is timed
        assert name == "golden" or arm["questions_per_second"] > 0
        assert (arm["latency"]["questions"], arm["cost_per_thousand"]) == (2, 0)


def test_the_strongest_baseline_is_chosen_on_valid(before):
    """Plain RAG and each number of examples are tried on the same questions of valid, and the effort is recorded."""
    run, facts, _ = before
    tried = facts["baseline_tuning"]
    valid = raft.load(run).cleaned.filter(split="valid").height
    assert [(one["arm"], one["exemplars"]) for one in tried] == [("rag", 0), ("rag_few", 0), ("rag_few", 2)]
    assert {(one["split"], one["questions"]) for one in tried} == {("valid", min(3, valid))}
    (chosen,) = (one for one in tried if one["arm"] == "rag_few" and one["chosen"])
    assert chosen["f1"] == max(one["f1"] for one in tried if one["arm"] == "rag_few")
    assert arms(facts)["rag_few"]["exemplars"] == chosen["exemplars"]


def test_a_second_time_nothing_is_asked(before, fakes, monkeypatch):
    """The same benchmark again takes all from the ledger; scores are the same, and timings are those of the first."""
    run, facts, first = before
    assert len(first) == len(set(first)) > 0
    keys, events, table = counting(monkeypatch), [], (run / "answers.parquet").read_bytes()
    again = bench(run, on_event=lambda *event: events.append(event))
    assert [one["step"] for one in told(events, "reused")] == ["answers"]
    (run / "answers.parquet").unlink()
    events.clear()
    anew = bench(run, on_event=lambda *event: events.append(event))
    assert (keys, (run / "answers.parquet").read_bytes()) == ([], table)
    assert "latency" not in [one["set"] for one in told(events, "asking")]
    for found in (again, anew):
        assert {**found, "seconds": 0, "date": ""} == {**facts, "seconds": 0, "date": ""}


def test_questions_with_a_wrong_reference_are_left_out(before, fakes, tmp_path):
    """What the report's page saves is read back: those questions are not measured, which is said; nothing is asked."""
    run = shutil.copytree(before[0], tmp_path / "run")
    first = before[1]["questions"][0]
    file = run / "wrong_references.jsonl"
    write(file, [{"question_id": first["question_id"], "question": first["question"]}, {"question_id": "gone"}])
    facts = bench(run)
    assert {row["question_id"] for row in before[1]["questions"]} - {
        row["question_id"] for row in facts["questions"]
    } == {first["question_id"]}
    assert facts["wrong_references"] == [{"question_id": first["question_id"], "question": first["question"]}]
    assert "1 question left out" in benchmarks.benchmark(facts) and f"{run}/report.csv" in benchmarks.benchmark(facts)
    shown = {one for row in facts["questions"] for said in row["answers"].values() for one in said["shown"]}
    assert shown == facts["passages"].keys() and all(one["document"] for one in facts["passages"].values())
    assert first["question"] not in (run / "report.csv").read_text(encoding="utf-8")
    assert [one["decision"] for one in facts["earlier"]] == ["not tuned yet"]
    for damaged, said in (('{"question": 1}\n', "not what the report saves"), ("[]", "not what the report saves")):
        file.write_text(damaged)
        with pytest.raises(UsageError, match=said):
            bench(run)
    write(file, [{"question_id": row["question_id"]} for row in before[1]["questions"]])
    with pytest.raises(UsageError, match="reference of each question"):
        bench(run)


def test_what_building_cost_may_be_unknown(before, fakes, tmp_path):
    """Where the price of some reply is unknown, so is what the rows cost, in all files."""
    run = shutil.copytree(before[0], tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    manifest["steps"]["questions"]["unpriced"] = 3.0
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert before[1]["economics"]["build_cost"] == 0.0
    assert bench(run)["economics"]["build_cost"] is None
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "unknown" in page.split("building the data cost")[1][:80]


def test_what_building_lost_counts(before, fakes, tmp_path):
    """A call of a build that nobody answered counts at its worst case, and one of a benchmark does not."""
    run = shutil.copytree(before[0], tmp_path / "run")
    name = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["collection"]
    with closing(ledger.Ledger(run / "ledger.sqlite")) as kept:
        own = Budget(kept, run=name, model="m", price=Price(1.0, 1.0), cap=None)
        for purpose, worst in (("questions", 0.25), ("benchmark", 0.5)):
            own.purpose = purpose
            own.lose(own.open(purpose, worst))
    assert bench(run)["economics"]["build_cost"] == pytest.approx(0.25)


def test_a_benchmark_that_was_cut_off_goes_on(before, untuned, monkeypatch):
    """What was answered and timed before an interruption is not asked or timed again, and the outcome is the same."""
    keys, timed = counting(monkeypatch), []
    replies = iter(range(10**6))

    def cut_while_asking(event, facts):
        if event == "asked" and facts["new"] and next(replies) == 4:
            raise Cut

    def cut_while_timing(event, facts):
        if event == "asking" and facts["set"] == "latency":
            timed.append(facts["arm"])
            if len(timed) == 2:
                raise Cut

    for cut in (cut_while_asking, cut_while_timing):
        with pytest.raises(Cut):
            bench(untuned, on_event=cut)
    facts = bench(untuned, on_event=cut_while_timing)
    run, whole, first = before
    assert (len(keys), max(Counter(keys).values())) == (len(first), 1)
    assert (untuned / "answers.parquet").read_bytes() == (run / "answers.parquet").read_bytes()
    assert Counter(timed) == {arm["title"]: 1 + (number == 1) for number, arm in enumerate(whole["arms"])}
    assert [bool(arm["questions_per_second"]) for arm in facts["arms"]] == [
        bool(arm["questions_per_second"]) for arm in whole["arms"]
    ]
    assert all(arm["latency"] for arm in facts["arms"])
    assert not any((untuned / "scratch").iterdir())


def test_after_a_training(after):
    """Each contender has its own model and adapter, and the same questions; the verdict is about the gain."""
    run, facts, home = after
    found, (first, second) = arms(facts), (card["adapter"] for card in raft.load(run).adapters)
    assert list(found) == [*UNTUNED, *TUNED, "other", "previous", f"model:{home / 'larger'}"]
    assert {name: arm["adapter"] for name, arm in found.items() if arm["adapter"]} == {
        **dict.fromkeys(TUNED, second),
        "other": "elsewhere",
        "previous": first,
    }
    for arm in facts["arms"]:
        assert arm["sets"]["user"]["f1"]["questions"] == len(OWN) + 1
        assert arm["tuned"] == bool(arm["adapter"])
    verdict = facts["verdict"]
    assert (verdict["question_set"], verdict["contender"], verdict["measure"]) == ("user", "raft", "f1")
    assert verdict["decision"] in ("investigate", "keep plain RAG")
    assert verdict["gain"]["questions"] == len(OWN) + 1
    against = {name: arm["sets"]["user"]["against"] for name, arm in found.items()}
    assert [name for name, one in against.items() if one is None] == [verdict["baseline"]]
    assert against["raft"]["f1"] == verdict["gain"]


def verdict_of(first):
    """Return a judge that finds all true of what it reads first, and nothing of the rest, whoever said it."""
    points = {str(number): {"A": "yes", "B": "no"} for number in (1, 2, 3)}
    swapped = {str(number): {"A": "no", "B": "yes"} for number in (1, 2, 3)}
    return json.dumps({**points, "better": "A"} if first else {**swapped, "better": "B"})


def test_a_judge_compares_in_both_orders_and_decides_nothing(after, tmp_path, fakes):
    """A judge that likes one answer is told, one that likes what stands first is not; a second run asks nothing."""
    run, home = shutil.copytree(after[0], tmp_path / "run"), after[2]
    options = {"questions": home / "own.jsonl", "settings": {"benchmark.contenders": "verdict"}}
    plain, said = bench(run, **options), []
    assert "judge" not in plain
    fakes.reply = lambda request: verdict_of(True)
    options["settings"] |= {"benchmark.judge": "openai/judge"}
    facts = bench(run, on_event=lambda event, told: said.append((event, told)), **options)
    judge = facts["judge"]
    calls = [told["questions"] for event, told in said if event == "asking" and told["arm"] == "the judge openai/judge"]
    assert calls == [2 * judge["pairs"]] == [len(fakes.asked)] and judge["pairs"] > 0
    assert judge["disagreed"] == judge["pairs"] and judge["wins"] == judge["losses"] == 0 and judge["preferred"] is None
    assert [one["contender"] for one in judge["yes"]] == [one["baseline"] for one in judge["yes"]] == [0.5] * 3
    assert facts["verdict"] == plain["verdict"]
    assert "the judge" not in benchmarks.benchmark(plain) and "judge: openai/judge" in benchmarks.benchmark(facts)
    assert "Judged by a model" in (run / "report.html").read_text(encoding="utf-8")
    fakes.forget()
    assert bench(run, **options)["judge"] == judge and fakes.asked == [], "what was paid for is not asked again"


def test_a_judge_is_paid_from_the_runs_cap(after, tmp_path, monkeypatch):
    """Its calls over the wire are in the run's spending, stop before the cap, and go on with a higher one."""
    run, home = shutil.copytree(after[0], tmp_path / "run"), after[2]
    monkeypatch.setattr(models, "open_embedder", lambda name, *_, **__: FakeEmbedder(name, Fakes()))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with FakeOpenAI() as server:
        judge = {"model": "openai/judge", "api_base": server.url, "input_price": 100.0, "output_price": 100.0}
        chosen = {"benchmark.contenders": "verdict", "benchmark.judge": judge}
        with pytest.raises(CapReached):
            bench(run, questions=home / "own.jsonl", settings={**chosen, "generator.max_cost": 0.06})
        assert (run / "benchmark.json").exists(), "what was measured is there"
        facts = bench(run, questions=home / "own.jsonl", settings={**chosen, "generator.max_cost": 5.0})
        assert facts["judge"]["disagreed"] == facts["judge"]["pairs"] > 0 == facts["judge"]["unusable"]
        assert sum(server.answered.values()) == 2 * facts["judge"]["pairs"]
    (row,) = [row for row in api.state(run)["money"]["rows"] if row["model"].startswith("openai/judge")]
    assert (row["purpose"], row["calls"]) == ("benchmark", 2 * facts["judge"]["pairs"]) and row["cost"] > 0


def test_what_a_judge_needs_is_looked_at_before_the_work(run, fakes):
    """A rubric that is none, or an address that is not on this machine where all has to be, stops before a question."""
    for settings, said in (
        ({"benchmark.judge": {"model": "openai/judge", "rubric": "nowhere.yaml"}}, "benchmark.judge.rubric=default"),
        (
            {"benchmark.judge": "openai/judge", "local_only": True},
            "the model openai/judge: api.openai.com is not the loopback",
        ),
        ({"benchmark.judge": {"model": "openai/judge", "api_base": "not an address"}}, "benchmark.judge.api_base"),
        ({"benchmark.judge": "openai/judge", "generator.max_cost": 1.0}, "--set 'benchmark.judge={model: openai/judge"),
    ):
        with pytest.raises(UsageError, match=said.replace(".", r"\.")):
            bench(run, settings=settings)
    assert not (run / "answers.parquet").exists()


def test_what_is_found_must_be_about_the_question_for_all_alike(run, fakes):
    """With a least relevance all contenders that retrieve refuse the same questions, some and not all."""
    own = write(run.parent / "own.jsonl", OWN)
    chosen = {"answering.min_relevance": 0.4, "benchmark.contenders": "verdict"}
    facts = bench(run, questions=own, settings=chosen)
    refused = {
        name: {row["question_id"] for row in facts["questions"] if row["answers"][name]["abstained"]}
        for name in ("rag", "rag_few", "raft")
    }
    everything = {row["question_id"] for row in facts["questions"]}
    assert refused["rag"] == refused["rag_few"] == refused["raft"]
    assert set() < refused["raft"] < everything
    told = facts["refused"]["user"]
    assert told["answerable_refused"] + told["unanswerable_refused"] > 0
    assert "refused unasked" in benchmarks.benchmark(facts)


def with_context(student, home, tokens):
    """Return a copy of a student that takes so many tokens."""
    copied = shutil.copytree(student, home / f"context-{tokens}")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "max_position_embeddings": tokens}))
    return str(copied)


def test_a_short_context_shortens_what_all_are_shown(untuned, before, tiny_student, tmp_path):
    """All see as many documents as the model with the least context takes beside its answer, and the report says so."""
    usual = pl.read_parquet(before[0] / "answers.parquet").filter(arm="rag")["tokens"].struct.field("input")
    larger = with_context(tiny_student, tmp_path, int(usual.median()) + 8)
    facts = bench(untuned, larger=[larger], settings={"answering.max_tokens": 8})
    rows = pl.read_parquet(untuned / "answers.parquet").filter(~pl.col("arm").str.starts_with("closed"))
    small = rows.filter(arm=f"model:{larger}")
    assert small["tokens"].struct.field("input").max() <= usual.median()
    assert 0 < facts["shortened"] <= small["question_id"].n_unique()
    retrieving = rows.filter(pl.col("arm").is_in(["rag", "rag_few", f"model:{larger}"]))
    for _, same in retrieving.group_by("condition", "question_id"):
        assert len({tuple(shown) for shown in same["shown"].to_list()}) == 1
    assert rows["shown"].list.len().min() < 3
    relevant = {row["question_id"]: row["golden"] for row in facts["questions"]}
    texts = texts_of(untuned)
    for row in rows.filter(arm="golden").iter_rows(named=True):
        assert relevant[row["question_id"]] in [texts[name] for name in row["shown"]]
    assert "fewer for" in (untuned / "report.md").read_text(encoding="utf-8")


def test_a_context_that_takes_no_document_is_refused(untuned, tiny_student, tmp_path):
    """Where no document fits into a model's context nobody is asked, and the message says what to do."""
    with pytest.raises(UsageError, match="Not even one passage") as refused:
        bench(untuned, larger=[with_context(tiny_student, tmp_path, 40)])
    assert "chunking.tokens" in str(refused.value.hint)
    assert not (untuned / "answers.parquet").exists()


def test_those_alone_that_the_verdict_needs_before_training(untuned):
    """With `contenders=verdict` and no adapter yet, what there is to gain is still said."""
    facts = bench(untuned, settings={"benchmark.contenders": "verdict"})
    assert list(arms(facts)) == ["rag", "rag_few", "golden"]
    assert 0 <= facts["verdict"]["headroom"]["golden"] <= 1


def test_those_alone_that_the_verdict_needs(run, fakes):
    """With `contenders=verdict` plain RAG, the tuned model and what was named are asked, and nobody else."""
    fakes.reply = lambda request: "Answer: 7.5 kg"
    facts = bench(run, larger=["openai/big"], settings={"benchmark.contenders": "verdict"})
    assert list(arms(facts)) == ["rag", "rag_few", "raft", "model:openai/big"]
    assert facts["verdict"]["gain"] is not None
    assert facts["verdict"]["headroom"]["golden"] is None
    assert facts["verdict"]["headroom"]["retrieved"] is not None
    for page in ("report.html", "report.md"):
        assert "golden document given" not in (run / page).read_text(encoding="utf-8")


def test_what_a_larger_model_costs(after):
    """A larger model's price list and tokens are its cost; what runs here costs nothing by itself."""
    _, facts, home = after
    found = arms(facts)
    arm = found[f"model:{home / 'larger'}"]
    tokens = arm["tokens"]
    assert arm["cost_per_thousand"] == pytest.approx((2 * tokens["input"] + 10 * tokens["output"]) / 1000)
    assert arm["exemplars"] == found["rag_few"]["exemplars"]
    assert found["raft"]["cost_per_thousand"] == 0


@pytest.mark.parametrize("content", [None, "{\n", '{"text": "word"}\n'])
def test_files_are_looked_at_before_anybody_is_asked(untuned, tmp_path, content):
    """A file of general questions that is missing or wrong is an error before the first model is loaded or asked."""
    path, events = tmp_path / "general.jsonl", []
    if content:
        path.write_text(content)
    with pytest.raises(UsageError) as caught:
        bench(untuned, settings={"benchmark.capability": [str(path)]}, on_event=lambda *event: events.append(event))
    assert str(path) in caught.value.where
    assert events == []


def test_what_tuning_cost_elsewhere(after):
    """General capability is measured before and after from a local file, and the training is told."""
    run, facts, _ = after
    ((name, one),) = facts["capability"].items()
    assert (name, one["questions"], one["measure"]) == ("general", 5, "last-word accuracy")
    assert one["change"]["value"] == pytest.approx(one["after"] - one["before"])
    card = adapters.read_card(adapters.find(run))
    assert (facts["training"]["adapter"], facts["training"]["rows"]) == (card["adapter"], card["rows"])
    assert facts["training"]["curve"]


def test_an_adapter_knows_what_it_was_measured_at(after):
    """Beside each measured adapter stands its score, and its README has the figures of the last benchmark."""
    run, facts, _ = after
    for card in raft.load(run).adapters:
        kept = json.loads((run / "adapters" / card["adapter"] / "measured.json").read_text())
        assert (kept["measure"], kept["question_set"]) == ("f1", "user")
    assert kept["value"] == arms(facts)["raft"]["sets"]["user"]["f1"]["value"]
    assert facts["verdict"]["decision"] in (adapters.find(run) / "README.md").read_text(encoding="utf-8")


def test_what_is_shown(after):
    """Retrieving arms see the same chunks; a golden arm sees one that bears the answer, a withheld question none."""
    run, facts, _ = after
    texts, rows = texts_of(run), pl.read_parquet(run / "answers.parquet")
    answers = {row["question_id"]: row["references"][0] for row in facts["questions"]}
    withheld = rows.filter(condition="withheld")
    assert withheld.height > 0
    for row in rows.iter_rows(named=True):
        holding = [name for name in row["shown"] if answers[row["question_id"]] in texts[name]]
        if row["condition"] == "withheld":
            assert holding == []
        elif row["arm"] in ("golden", "tuned_golden"):
            assert len(holding) >= 1
        assert len(row["shown"]) == (0 if "closed" in row["arm"] else 3)
    retrieving = rows.filter(pl.col("arm").is_in(["rag", "rag_few", "raft", "other", "previous"]))
    for _, same in retrieving.group_by("condition", "question_id"):
        assert same.height == 5
        assert len({tuple(shown) for shown in same["shown"].to_list()}) == 1
    assert set(withheld["arm"]) == {arm["name"] for arm in facts["arms"] if arm["context"] == "retrieved"}
    assert facts["question_sets"][0]["withheld"] == withheld["question_id"].n_unique()
    assert arms(facts)["raft"]["sets"]["user"]["false_answers"]["questions"] == withheld["question_id"].n_unique()


def test_the_report_escapes_what_was_asked(after):
    """A question with markup is text in the report, for people and for programs."""
    run, facts, _ = after
    assert NASTY in [row["question"] for row in facts["questions"]]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "alert(" in page
    assert NASTY not in page
    assert "<script>alert" not in page


def test_experts_choose_blindly(after, fakes):
    """A page of pairs is written, its ratings are read back into the report, and those of other answers are refused."""
    run, _, home = after
    facts = bench(run, questions=home / "own.jsonl", blind_pairs=4)
    pairs = json.loads((run / "blind.json").read_text(encoding="utf-8"))
    page = (run / "blind.html").read_text(encoding="utf-8")
    assert facts["blind"] is None
    assert 1 <= len(pairs) <= 4
    said = {row["question_id"]: row["answers"] for row in facts["questions"] if _is_answerable(row)}
    for pair in pairs:
        assert pair["pair_id"] in page
        answers = [said[pair["question_id"]][facts["verdict"][side]]["answer"] for side in ("contender", "baseline")]
        assert sorted(answers) == sorted([pair["a"], pair["b"]])
    ratings = write(home / "ratings.jsonl", [{"pair_id": pair["pair_id"], "choice": "a"} for pair in pairs])
    rated = bench(run, questions=home / "own.jsonl", ratings=ratings)
    assert rated["blind"]["rated"] == rated["blind"]["wins"] + rated["blind"]["losses"] == len(pairs)
    assert json.loads((run / "benchmark.json").read_text(encoding="utf-8"))["blind"] == rated["blind"]
    assert figures.chosen_blindly(rated["blind"]) in benchmarks.benchmark(rated)
    other = arms(rated)["previous"]["adapter"]
    with pytest.raises(UsageError, match=r"not those of the blind page(.|\n)*--blind"):
        bench(run, questions=home / "own.jsonl", ratings=ratings, adapter=other)
    ratings.unlink()
    assert bench(run, questions=home / "own.jsonl")["blind"] == rated["blind"], "they are kept with the run"
    assert bench(run, questions=home / "own.jsonl", adapter=other)["blind"] is None, "they are of other answers"
    kept = (run / "ratings.jsonl").read_bytes()
    again = bench(run, questions=home / "own.jsonl", blind_pairs=4)
    assert again["blind"] == rated["blind"], "the same pairs on another page are rated already"
    assert bench(run, questions=home / "own.jsonl", adapter=other, blind_pairs=4)["blind"] is None, "other pairs"
    assert bench(run, questions=home / "own.jsonl", blind_pairs=1)["blind"] == rated["blind"]
    assert (run / "ratings.jsonl").read_bytes() == kept, "nothing that a person chose is deleted"


def _is_answerable(row):
    return all(one["condition"] == "answerable" for one in row["answers"].values())


def test_questions_that_were_learned(run, tmp_path):
    """Questions that say the same as training questions are refused with the way on, or left out, each of them."""
    learned = json.loads((adapters.find(run) / "learned.jsonl").read_text(encoding="utf-8").splitlines()[0])
    leaks = [
        {"question": learned["question"], "answers": ["x"], "question_id": name, "document": path}
        for name, path in (("one", None), ("two", "safety.md"))
    ]
    mixed = write(tmp_path / "mixed.jsonl", [leaks[0], *OWN[:2], leaks[1]])
    with pytest.raises(UsageError) as error:
        bench(run, questions=mixed)
    assert "2 of the 4 questions say the same" in str(error.value)
    assert f"raft bench {run} --questions {mixed} --drop-leaks" in str(error.value)
    assert not (run / "benchmark.json").exists()
    facts = bench(run, questions=mixed, drop_leaks=True, settings={"benchmark.exemplars": [0]})
    assert sorted(row["question"] for row in facts["questions"] if _is_answerable(row)) == sorted(
        one["question"] for one in OWN[:2]
    )
    with pytest.raises(UsageError, match="trained on each"):
        bench(run, questions=write(tmp_path / "leaks.jsonl", leaks), drop_leaks=True)


def test_questions_that_the_generator_was_shown(run, tmp_path):
    """One's own questions that say the same as examples of questions.like are refused, or left out; no other ones."""
    manifest = run / "manifest.json"
    made = raft.load(run).evaluation["question"][0]
    facts = {**json.loads(manifest.read_text(encoding="utf-8")), "like": [OWN[0]["question"].lower(), made]}
    manifest.write_text(json.dumps(facts), encoding="utf-8")
    own = write(tmp_path / "own.jsonl", OWN[:3])
    with pytest.raises(UsageError, match=r"1 of the 3 questions .* shown in questions\.like(.|\n)*--drop-leaks"):
        bench(run, questions=own)
    facts = bench(run, questions=own, drop_leaks=True)
    assert OWN[0]["question"] not in {row["question"] for row in facts["questions"]}
    assert {OWN[1]["question"], OWN[2]["question"]} <= {row["question"] for row in facts["questions"]}
    assert made in {row["question"] for row in bench(run)["questions"]}


def test_labels_of_a_closed_set(run, fakes, tmp_path):
    """Where the answers are a few labels, each arm that has likelihoods answers with one, and nothing is withheld."""
    labels, things = ("yes", "no", "maybe"), ("oil", "sand", "salt", "tar")
    rows = [{"question": f"Does {thing} harm {label}?", "answers": [label]} for thing in things for label in labels]
    rows[0]["document"] = "safety.md"
    file = write(tmp_path / "labels.jsonl", rows)
    fakes.reply = lambda request: "Answer: Yes."
    facts = bench(run, questions=file, larger=["openai/x"], settings={"benchmark.exemplars": [0]})
    answers = pl.read_parquet(run / "answers.parquet")
    hosted = answers.filter(arm="model:openai/x")
    assert set(answers["arm"]) == {*UNTUNED, *TUNED, "model:openai/x"}
    assert set(answers.filter(pl.col("arm") != "model:openai/x")["answer"]) <= {*labels}
    assert (hosted.height, set(hosted["answer"])) == (12, {"Yes."})
    assert set(answers["condition"]) == {"answerable"}
    assert not any(answers["abstained"])
    assert facts["verdict"]["measure"] == "accuracy"
    scores = {name: arm["sets"]["user"] for name, arm in arms(facts).items()}
    assert {name: one["accuracy"]["questions"] for name, one in scores.items()} == {
        # a document is known for one question alone
        name: 1 if name in ("golden", "tuned_golden") else 12
        for name in scores
    }
    assert scores["model:openai/x"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert scores["model:openai/x"]["macro_f1"]["value"] == pytest.approx(1 / 6)


def test_an_adapter_of_another_base_model(run, tmp_path, tiny_student):
    """A student that the adapter was not trained on is refused, and so is another corpus's adapter of another base."""
    adapter = adapters.find(run)
    card = adapters.read_card(adapter)
    foreign = shutil.copytree(adapter, tmp_path / "foreign")
    (foreign / "card.json").write_text(json.dumps({**card, "base_identity": "sha256:other"}))
    with pytest.raises(UsageError, match="was trained on"):
        bench(run, settings={"benchmark.other_adapter": str(foreign)})
    with pytest.raises(UsageError, match="There is no adapter"):
        bench(run, settings={"benchmark.other_adapter": str(tmp_path / "nowhere")})
    (adapter / "card.json").write_text(json.dumps({**card, "base_identity": "sha256:other"}))
    with pytest.raises(UsageError, match=r"was trained on(.|\n)*raft train"):
        bench(run)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settings": {"chunking.tokens": 90}}, "--set chunking.tokens=90"),
        ({"settings": {"evaluation": "mine.jsonl"}}, "--questions mine.jsonl"),
        ({"settings": {"benchmark.min_gains": 1}}, "benchmark.min_gain"),
        ({"adapter": "0a"}, "raft train"),
        ({"blind_pairs": 50}, "raft train"),
        ({"larger": ["no/such/folder"]}, "no/such/folder"),
        ({"questions": "none.jsonl"}, "none.jsonl"),
    ],
)
def test_what_cannot_be_measured(untuned, options, said):
    """What is wrong is said before anything is asked, with what to do."""
    with pytest.raises(raft.RaftError) as error:
        bench(untuned, **options)
    assert said in str(error.value)
    assert not (untuned / "answers.parquet").exists()


def command(*arguments):
    """Run the command line."""
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no question"),
        ([{"query": "Who?", "answers": ["Bo"]}], "no key 'query'"),
        ([{"question": "Who?", "answers": ["Bo"], "document": "safe.md"}], "Did you mean safety.md"),
    ],
)
def test_a_wrong_file_of_questions(untuned, tmp_path, rows, said):
    """A file of questions that cannot be used is a usage error that says what is wrong, and where."""
    result = command(untuned, "--questions", write(tmp_path / "own.jsonl", rows))
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert "own.jsonl" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_says_the_verdict(before, fakes):
    """The command prints verdict, table and report's place, or the same as JSON; without a run it is a usage error."""
    run, facts, _ = before
    settings = [part for name, value in QUICK.items() for part in ("--set", f"{name}={value}")]
    result = command(run, *settings)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Verdict: not tuned yet")
    assert f"{run}/report.html" in result.stdout
    assert all(arm["title"] in result.stdout for arm in facts["arms"])
    printed = json.loads(command(run, *settings, "--quiet", "--json").stdout)
    assert printed["arms"] == facts["arms"]
    missing = command(Path(run) / "nowhere")
    assert missing.exit_code == 2
    assert "raft build" in missing.stderr


def test_the_words_of_a_verdict(after):
    """The terminal shows each contender's score with its interval, and what tuning cost elsewhere."""
    _, facts, _ = after
    said = benchmarks.benchmark(facts)
    score = arms(facts)["raft"]["sets"]["user"]["f1"]
    assert f"{100 * score['low']:.1f}-{100 * score['high']:.1f}" in said
    assert "too few questions to tell" in said
    assert "general: " in said
    assert facts["verdict"]["advice"] in said
    nothing = {"general": {"title": "general", "measure": "accuracy", "change": None}}
    assert "general: not measured" in benchmarks.benchmark({**facts, "capability": nothing})
