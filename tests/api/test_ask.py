"""Asking: answers from a run directory with a real, tiny, random student; adapters swap while it runs."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from filelock import FileLock
from test_train import SETTINGS, build_for

import raft
from conftest import Cut, Fakes, write_corpus
from raft import api
from raft.backends.index.hybrid import Indexes
from raft.cli import answers, main, messages
from raft.errors import DamagedArtifact, RaftError, UsageError
from raft.rag.answering import read_reply
from raft.rag.format import ABSTENTION
from raft.rag.grounding import Answer, Citation, Passage
from raft.store import adapters, artifacts, tables

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("trl")

QUESTION = "How heavy is the Delta garden pump?"


@pytest.fixture(scope="module")
def finished(tiny_student, tmp_path_factory):
    """A finished build for the tiny student with two adapters that say different things; no test writes to it."""
    run = build_for(tiny_student, tmp_path_factory.mktemp("asked"))
    for seed in (0, 1):
        raft.train(run, learning_rate=0.05, settings={"seed": seed})
    return run


@pytest.fixture
def run(finished, tmp_path, fakes):
    """A copy of the finished build."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def untuned(run):
    """A copy of the build without its adapters."""
    shutil.rmtree(run / "adapters")
    return run


def replying(fakes, text):
    """Have the hosted model say this to every question."""
    fakes.reply = lambda request: text
    return "openai/replying"


def test_adapters_swap_while_it_runs(finished, fakes):
    """Each adapter answers in its own way, by the beginning of its id; without one the base answers as before."""
    built = raft.load(finished)
    first, second = (card["adapter"] for card in built.adapters)
    assert first != second
    base = built.ask(QUESTION, adapter="none")
    ours, theirs = built.ask(QUESTION, adapter=first[:6]), built.ask(QUESTION, adapter=second[:6])
    assert (base.adapter, ours.adapter, theirs.adapter) == (None, first, second)
    assert len({base.raw, ours.raw, theirs.raw}) == 3
    assert built.ask(QUESTION, adapter="none").raw == base.raw
    assert built.ask(QUESTION, adapter=first).raw == ours.raw
    assert built.ask(QUESTION).adapter == second == adapters.current(finished)


def test_many_questions_are_answered_in_order(finished, fakes):
    """Questions that are asked together are answered in their order, with their own passages and timings."""
    asked = [QUESTION, "Who approves refunds above 900 euros?", "When does the refund office close?"]
    answers = raft.load(finished).ask_all(asked, k=2)
    assert [answer.question for answer in answers] == asked
    assert "7.5 kg" in answers[0].passages[0].text
    assert all(len(answer.passages) == 2 for answer in answers)
    assert all(answer.seconds["generation"] > 0 and answer.tokens["input"] > 0 for answer in answers)


def test_nothing_asked_is_nothing_answered(finished, fakes):
    """No questions have no answers, and an empty question is refused."""
    built = raft.load(finished)
    assert built.ask_all([]) == []
    with pytest.raises(UsageError, match="empty"):
        built.ask("  ")
    with pytest.raises(UsageError, match="cannot be shown"):
        built.ask(QUESTION, k=0)


def test_quotes_of_a_hosted_model_are_checked(run, fakes):
    """Any model by name answers without an adapter; what it quotes is cited with document and place in the text."""
    model = replying(fakes, 'Quote [1]: "weighs 7.5 kg"\nAnswer: 7.5 kg')
    built = raft.load(run)
    said = built.ask(QUESTION, model=model)
    assert (said.text, said.adapter, said.supported, said.quotes_verbatim) == ("7.5 kg", None, True, True)
    (cited,) = said.citations
    texts = dict(built.documents.select("path", "text").iter_rows())
    assert (cited.document, texts[cited.document][cited.start : cited.end]) == ("manuals/delta.md", "weighs 7.5 kg")
    with pytest.raises(UsageError, match="takes no adapter"):
        built.ask(QUESTION, model=model, adapter=adapters.current(run))


def test_a_question_about_something_else_is_not_asked(run, fakes):
    """With a least relevance, no model is asked where nothing found is about the question; others are."""
    model = replying(fakes, "Answer: 7.5 kg")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    manifest["settings"]["answering"]["min_relevance"] = 0.5
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    about, other = raft.load(run).ask_all([QUESTION, "Who painted the ceiling of the opera?"], model=model)
    assert (about.text, about.abstained) == ("7.5 kg", False)
    assert (other.text, other.abstained, other.raw, len(fakes.asked)) == (ABSTENTION, True, "", 1)
    assert other.passages
    assert 0 <= other.relevance < other.min_relevance == 0.5
    assert about.relevance is about.min_relevance is None
    tried = raft.load(run).ask(other.question, model=model, min_relevance=0)
    assert (tried.text, tried.min_relevance, len(fakes.asked)) == ("7.5 kg", None, 2)
    with pytest.raises(UsageError, match="no share"):
        raft.load(run).ask(QUESTION, model=model, min_relevance=2)


@pytest.mark.parametrize("way", ["mark", "retry", "refuse"])
def test_what_no_document_supports(run, fakes, way):
    """An unsupported answer is marked, asked for once more, or replaced by the abstention, as is wanted."""
    fakes.reply = lambda request: f"Answer: {'7.5' if request.temperature else '8'} kg"
    said = raft.load(run).ask(QUESTION, model="openai/x", when_unsupported=way)
    expected = {"mark": ("8 kg", False, 1), "retry": ("7.5 kg", False, 2), "refuse": (ABSTENTION, True, 1)}
    assert (said.text, said.refused, len(fakes.prompts)) == expected[way]
    assert said.supported is {"mark": False, "retry": True, "refuse": None}[way]


def test_boilerplate_makes_room(run, fakes, monkeypatch):
    """No chunk that is boilerplate is shown; as many others as are wanted take its place, and no more rows are read."""
    read, finder = [], artifacts.finder

    def opened(*given):
        find = finder(*given)
        return lambda wanted: read.append({*wanted}) or find(wanted)

    monkeypatch.setattr(artifacts, "finder", opened)
    built = raft.load(run)
    best = built.ask(QUESTION, model=replying(fakes, "Answer: 1"), k=3).passages[0].chunk_id
    marked = built.chunks.to_dicts()
    for row in marked:
        row["boilerplate"] = row["chunk_id"] == best
    tables.frame(built.chunks.schema, marked).write_parquet(run / "chunks.parquet")
    shown = [passage.chunk_id for passage in raft.load(run).ask(QUESTION, model="openai/replying", k=3).passages]
    assert best not in shown
    assert len(shown) == 3
    first, then, more = read  # of the run as it was, and with another best one
    assert first == then and then | more == {best, *shown} and len(more) == 1


def test_the_prompt_fits_into_the_context(run, tmp_path, tiny_student):
    """Passages that the model has no room for are left out, last first; a question that fits with none is refused."""
    small = shutil.copytree(tiny_student, tmp_path / "small")
    config = json.loads((small / "config.json").read_text())
    built = raft.load(run)
    whole = built.ask(QUESTION, adapter="none", k=4)
    room = whole.tokens["input"] + SETTINGS["answering.max_tokens"] - 10
    (small / "config.json").write_text(json.dumps({**config, "max_position_embeddings": room}))
    kept = built.ask(QUESTION, model=str(small), k=4)
    assert 1 <= len(kept.passages) < len(whole.passages)
    assert list(kept.passages) == list(whole.passages)[: len(kept.passages)]
    with pytest.raises(UsageError, match="do not fit into the context"):
        built.ask("pump " * 2000, model=str(small))


def test_a_reply_is_told_while_it_is_written(finished, fakes):
    """The pieces that are told are the reply; where they may have to be taken back nothing is told."""
    answerer = raft.load(finished).answerer(adapter="none")
    pieces, held = [], []
    said = answerer.ask(QUESTION, on_event=pieces.append)
    assert "".join(pieces) == said.raw == raft.load(finished).ask(QUESTION, adapter="none").raw
    assert said.tokens["input"] > 0
    assert answerer.ask(QUESTION, on_event=held.append, when_unsupported="refuse").question == QUESTION
    assert held == []


def test_without_an_adapter_the_base_answers(untuned):
    """Before any training the student answers as it is, and the next command is named."""
    answerer = raft.load(untuned).answerer()
    assert answerer.adapter is None
    assert f"raft train {untuned}" in answerer.remarks[0]
    assert answerer.ask(QUESTION).adapter is None
    with pytest.raises(UsageError, match="raft train"):
        raft.load(untuned).ask(QUESTION, adapter="3fa")


def test_an_adapter_of_another_base(run):
    """An adapter that was trained on another base model is refused before anything is loaded."""
    folder = adapters.find(run)
    adapters.write_card(folder, {**adapters.read_card(folder), "base": "org/other", "base_identity": "sha256:b"})
    with pytest.raises(UsageError, match=r"was trained on org/other(.|\n)*raft train"):
        raft.load(run).ask(QUESTION)


def test_an_adapter_of_another_prompt(run):
    """That the prompt is not the one of the training is remarked."""
    folder = adapters.find(run)
    adapters.write_card(folder, {**adapters.read_card(folder), "prompt_digest": "another"})
    (remark,) = raft.load(run).answerer().remarks
    assert "prompt" in remark


def test_an_index_of_another_embedder(run, monkeypatch):
    """An index that another embedder made is refused with the command that makes it anew."""
    from conftest import FakeEmbedder
    from raft.api import models

    monkeypatch.setattr(models, "open_embedder", lambda name, *_: FakeEmbedder("another", Fakes()))
    with pytest.raises(RaftError, match="raft build"):
        raft.load(run).ask(QUESTION)


def test_the_first_thing_said_of_an_unfinished_run_is_what_is_missing(untuned):
    """Advice about adapters is for runs that can be asked: of another one the build to go on with is said alone."""
    assert "raft train" in CliRunner().invoke(main, ["ask", str(untuned), QUESTION, "--min-relevance", "1"]).stderr
    (untuned / "chunks.parquet").unlink()
    told = CliRunner().invoke(main, ["ask", str(untuned), QUESTION])
    assert told.exit_code == 1
    assert told.stderr.startswith("raft: There is no chunks.parquet")
    assert "raft build" in told.stderr and "raft train" not in told.stderr
    with FileLock(untuned / ".lock"):
        told = CliRunner().invoke(main, ["ask", str(untuned), QUESTION])
    assert told.stderr.startswith("raft: There is no chunks.parquet"), "also while another raft writes"


def test_a_new_document_is_used_at_once(run, tmp_path, tiny_student):
    """A document that is added after the training is shown by the next question, by an old adapter and an open run."""
    corpus = write_corpus(tmp_path / "corpus")
    (corpus / "zephyr.md").write_text(
        "# Zephyr fountain pump\n\nThe Zephyr fountain pump weighs 3.25 kg and has the part number ZQ-404.\n",
        encoding="utf-8",
    )
    before, opened = adapters.current(run), raft.load(run)
    question = "What is the part number of the Zephyr fountain pump?"
    assert all(passage.document != "zephyr.md" for passage in opened.ask(question).passages)
    api.build(corpus, out=run, generator="openai/fake", price=(0.0, 0.0), student=str(tiny_student), settings=SETTINGS)
    for built in (raft.load(run), opened):
        said = built.ask(question)
        assert said.adapter == before
        assert any("ZQ-404" in passage.text and passage.document == "zephyr.md" for passage in said.passages)


PASSAGE = Passage("c1", "d1", "pumps.pdf", "Pumps > Delta", 3, 0, "The pump weighs 7.5 kg.\nIt is blue.")
SAID = Answer(
    question="How heavy?",
    text="7.5 kg",
    citations=(Citation("c1", "pumps.pdf", 3, 4, 22, "pump weighs\n7.5 kg"),),
    quotes_given=1,
    quotes_verbatim=True,
    supported=True,
    abstained=False,
    followed=True,
    raw="Answer: 7.5 kg",
    passages=(PASSAGE,),
    model="m",
)


def changed(**facts):
    """Return the answer with other facts."""
    return Answer(**{**{name: getattr(SAID, name) for name in asdict(SAID)}, **facts})


def told(said, **options):
    """Return an answer as the command prints it."""
    return answers.answer(said, run=Path("runs/pumps"), **options)


def test_an_answer_is_told_with_what_it_cites():
    """The text comes first, then each quote with document and page; a sound answer has no mark."""
    text = told(SAID)
    assert text.splitlines() == ["7.5 kg", "  pumps.pdf, page 3", "    “pump weighs 7.5 kg”"]
    assert told(SAID, heard=True).splitlines() == text.splitlines()[1:]
    assert "  [1] pumps.pdf, page 3: Pumps > Delta\n    The pump weighs" in told(SAID, context=True)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"supported": False}, "not supported"),
        ({"quotes_given": 3, "quotes_verbatim": False}, "2 of 3 quotes stand in no document"),
        ({"quotes_verbatim": False}, "names the wrong document"),
        ({"abstained": True, "supported": None}, "nothing that was found answers it; the model was shown pumps.pdf"),
        ({"passages": (), "abstained": True, "supported": None}, "nothing was found for this question"),
        ({"raw": "", "abstained": True, "supported": None}, "too little about the question (answering.min_relevance)"),
        ({"supported": None, "citations": (), "quotes_given": 0, "quotes_verbatim": None}, "not checked"),
        ({"supported": True, "citations": (), "quotes_given": 0, "quotes_verbatim": None}, "no quote shows it"),
        (
            {"raw": "", "abstained": True, "supported": None, "relevance": 0.312, "min_relevance": 0.6},
            "0.31 of 1, and under 0.6 (answering.min_relevance) no model is asked",
        ),
        ({"refused": True, "abstained": True, "supported": None}, "an answer was withheld"),
    ],
)
def test_what_is_to_be_doubted_is_marked(facts, said):
    """Each doubt about an answer is a line with a mark."""
    (mark,) = [line for line in told(changed(**facts)).splitlines() if line.startswith("  ! ")]
    assert said in mark


@pytest.mark.parametrize(
    ("question", "reply", "mark"),
    [
        ("Was kostet der Neue?", "138 euros", "not checked: neither a quote nor a figure ties it to words"),
        ("What is the warranty?", "138 euros", "not supported: not all of its figures and quotes stand in what it"),
        ("Whose warranty is it?", "Answer: Ms Roe\nQuote [1]: Ms Roe has it.", "not supported: not all of its figures"),
        ("What is the price?", "Answer: 138 euros\nQuote [1]: It is 138.", "no quote shows it: its figures stand"),
        ("What is the price?", "...", "not supported: it says nothing"),
    ],
)
def test_a_mark_says_no_more_than_was_found(question, reply, mark):
    """What is said of an answer's figures and quotes is true of answers in another language, and of far figures."""
    text = "The price is 138 euros. The warranty is Ms Roe's."
    said = read_reply(question, reply, [replace(PASSAGE, text=text)], model="m")
    assert f"  ! {mark}" in told(said)


def test_a_refusal_shows_what_was_found_and_how_to_go_on():
    """Where there is no answer, the nearest sentence of each passage stands with document and page, then a command."""
    refused = changed(
        text=ABSTENTION,
        citations=(),
        quotes_given=0,
        quotes_verbatim=None,
        abstained=True,
        raw="",
        supported=None,
        question="Is it blue?",
        relevance=0.312,
        min_relevance=0.6,
    )
    assert told(refused).splitlines()[-5:] == [
        "  nearest in the documents:",
        "  pumps.pdf, page 3: Pumps > Delta",
        "    “It is blue.”",
        "",
        "  next:  raft ask runs/pumps 'Is it blue?' --min-relevance 0.3   # have the model try all the same",
    ]
    assert "pumps.pdf, page 3: Pumps" in refused._repr_html_()
    typed = {"model": "my model", "adapter": None, "k": 2, "min_relevance": 0.9}
    assert "'Is it blue?' --model 'my model' --k 2 --min-relevance 0.3   # have" in told(refused, options=typed)
    assert "0.59 of 1, and under 0.6" in told(replace(refused, relevance=0.597))
    said = changed(abstained=True, supported=None, citations=(), quotes_given=0, quotes_verbatim=None)
    assert "'How heavy?' --model 'my model' --k 2 --min-relevance 0.9 --show-context" in told(said, options=typed)
    assert "raft ask runs/pumps 'How heavy?' --show-context" in told(said)
    assert "raft ask runs/pumps --show-context -- '-5 °C?'   # read" in told(replace(said, question="-5 °C?"))
    assert "next:" not in told(said, context=True)
    assert "nearest" not in told(changed(passages=(), abstained=True, supported=None))


def test_an_error_is_told():
    """Where there is no reply the reason is said, and nothing else."""
    text = told(changed(text="", citations=(), quotes_given=0, error="refused: no"), heard=True)
    assert text == "There is no answer: refused: no"


def test_a_run_that_is_half_new_answers_nothing(run, tmp_path, tiny_student, monkeypatch):
    """After a build that was cut off between chunks and index, ask, bench, train and export name the build to go on."""
    opened = raft.load(run)
    opened.ask(QUESTION)
    corpus = write_corpus(tmp_path / "corpus")
    (corpus / "zephyr.md").write_text("# Zephyr pump\n\nThe Zephyr pump weighs 3.25 kg.\n", encoding="utf-8")
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(Indexes, "sync", lambda *_: Fakes().interrupt())
        build_anew(corpus, run, tiny_student)
    told = {name for name, line in api.state(run)["summary"]["steps"].items() if line.get("stale")}
    assert told == {"index", "lexical", "questions", "cleaned", "examples"}
    shown = messages.status(api.state(run)["summary"], [], running=False)
    (line,) = [line for line in shown.splitlines() if "# goes on" in line]
    assert f"raft build {corpus} --out {run} " in line
    assert f" --student {tiny_student} " in line
    for reader in (
        lambda: opened.ask(QUESTION),
        lambda: raft.load(run).ask(QUESTION),
        lambda: raft.bench(run),
        lambda: raft.train(run),
        lambda: api.export(run, format="openai"),
    ):
        with pytest.raises(DamagedArtifact, match=f"raft build {corpus} --out {run} .*--student"):
            reader()
    build_anew(corpus, run, tiny_student)
    for built in (opened, raft.load(run)):
        assert built.ask(QUESTION).passages


def build_anew(corpus, run, student):
    """Build as the run was built, from another corpus."""
    api.build(corpus, out=run, generator="openai/fake", price=(0.0, 0.0), student=str(student), settings=SETTINGS)


@pytest.mark.parametrize(("gone", "what"), [("index", "index"), ("lexical", "lexical index")])
def test_an_index_that_is_gone_is_named_with_the_build_that_makes_it(run, gone, what):
    """Which of the two is not there is said, and the command names the corpus and the run."""
    shutil.rmtree(run / gone)
    with pytest.raises(RaftError, match=f"The run has no {what}") as refused:
        raft.load(run).ask(QUESTION)
    assert str(refused.value.hint).startswith("raft build ")
    assert f"--out {run}" in str(refused.value.hint)


@pytest.mark.parametrize("table", ["documents", "chunks", "cleaned"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_table_is_explained(run, table, damage):
    """A benchmark of a run whose table is missing or damaged says which, and what to type."""
    path = run / f"{table}.parquet"
    path.write_bytes(path.read_bytes()[:100])
    if damage == "missing":
        path.unlink()
    with pytest.raises(DamagedArtifact, match=rf"{table}\.parquet(.|\n)*raft build"):
        raft.bench(run, settings={"benchmark.contenders": "verdict"})
