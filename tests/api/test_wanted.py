"""A wanted number of questions: rounds top up until so many are kept, evenly, and never ask twice."""

import shlex
import shutil
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import raft
from conftest import Cut, FakeEmbedder, Fakes, tables_of, write_corpus
from fake_openai import FakeOpenAI
from raft.api import models
from raft.cli import main, messages
from raft.generation import rounds
from raft.generation.plan import Survey
from raft.pipeline import counting
from raft.pipeline.asking import question_prompts
from raft.settings import load
from raft.store.budget import CapReached
from raft.testing import WordTokenizer, make_chunks

SETTINGS = {"chunking.tokens": 60, "questions.way": "answer_first", "generator.attempts": 2}
HANDBOOK = Path(__file__).parents[2] / "examples" / "handbook"
LEFT_OUT = {"support", "policies"}
HOSTED = {"generator": "openai/some-model", "price": (1.0, 4.0), "max_cost": 5.0}


@pytest.fixture
def home(tmp_path):
    """A corpus and the place of its run directory."""
    return write_corpus(tmp_path / "corpus"), tmp_path / "run"


def build(home, keep, *, on_event=None, out=None, way="answer_first", **more):
    """Build with a wanted number of questions."""
    changes = {**SETTINGS, "questions.keep": keep, "questions.way": way, **more.pop("changes", {})}
    return raft.build(home[0], out=out or home[1], settings=changes, on_event=on_event, **more)


def noted(built):
    """Return what a run's manifest notes of its rounds."""
    return built.manifest["steps"]["questions"]["notes"]["wanted"]


def passed(built):
    """Return how many rows passed all rules before the split, those that were not chosen not counted."""
    return built.cleaned.filter(pl.col("reason").is_null() | (pl.col("reason") == "leak")).height


DOCUMENTS = st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.integers(0, 9), st.integers(0, 30)), min_size=1)


@given(DOCUMENTS, st.integers(1, 60), st.integers(0, 80), st.floats(0, 1))
def test_a_round_is_shared_out_evenly_and_within_its_bounds(documents, wanted, most, rate):
    """No document is asked for more than it has, nor all for more than allowed; who has fewer kept comes first."""
    kept, room = ({doc: pair[place] for doc, pair in documents.items()} for place in (0, 1))
    given = rounds.shared_out(kept, room, wanted, most, rate)
    assert all(count <= room[doc] for doc, count in given.items())
    assert sum(given.values()) <= most
    rate = max(0.1, rate)
    assert sum(given.values()) >= min(most, sum(room.values()), wanted)
    level = {doc: kept[doc] + given.get(doc, 0) * rate for doc in documents}
    for doc in given:
        others = [level[one] for one in documents if given.get(one, 0) < room[one]]
        assert level[doc] - rate <= min(others, default=level[doc]) + 1e-9


@given(DOCUMENTS, st.integers(1, 60))
def test_a_round_that_may_ask_for_more_extends_one_that_may_ask_for_less(documents, most):
    """One question more is one question more of one document: nothing else of the round changes."""
    kept, room = ({doc: pair[place] for doc, pair in documents.items()} for place in (0, 1))
    less, more = (Counter(rounds.shared_out(kept, room, 1000, most + extra, 0.5)) for extra in (0, 1))
    assert not less - more
    assert (more - less).total() <= 1


@pytest.mark.parametrize(("way", "keep"), [("answer_first", 20), ("rules_first", 25), ("rules", 8), ("items", 15)])
def test_rounds_top_up_to_the_wanted_number(home, fake_models, way, keep):
    """More rounds are asked until so many are kept, and no row more; no request is made twice."""
    more = HOSTED if way == "items" else {}
    built = build(home, keep, way=way, **more)
    assert len(noted(built)["rounds"]) > 1
    assert passed(built) == keep
    assert fake_models.repeated() == 0
    assert f"wanted      {keep} of {keep}" in messages.summary(built.summary())


def test_one_round_is_enough_where_it_brings_enough(home, fake_models):
    """Few wanted ones take one round, of a quarter more than are wanted."""
    built = build(home, 6)
    assert noted(built)["rounds"] == [[8, 8]]
    assert passed(built) == 6


@pytest.mark.parametrize(("way", "keep"), [("answer_first", 20), ("answer_first", 99), ("items", 15)])
def test_the_same_bytes_come_of_the_ledger(home, fake_models, way, keep):
    """A second build finds all unchanged; a run without its artifacts is built to the same bytes, and nothing asked."""
    more = HOSTED if way == "items" else {}
    built = build(home, keep, way=way, **more)
    before, events = tables_of(home[1]), []
    fake_models.forget()
    build(home, keep, way=way, **more, on_event=lambda event, facts: events.append(event))
    assert "made" not in events
    for name in before:
        (home[1] / name).unlink()
    (home[1] / "manifest.json").unlink()
    again = build(home, keep, way=way, **more)
    assert tables_of(home[1]) == before
    assert fake_models.asked == []
    assert noted(again) == noted(built)


@pytest.mark.parametrize("cut_after", [1, 2])
@pytest.mark.parametrize("way", ["answer_first", "items"])
def test_a_build_cut_off_between_rounds_goes_on(home, fake_models, way, cut_after):
    """Killed after a round, a build goes on with what it has, asks nothing twice, and comes to the same bytes."""
    more, keep = (HOSTED, 15) if way == "items" else ({}, 20)

    def cut(event, facts):
        if event == "round" and facts["round"] == cut_after:
            raise Cut

    with pytest.raises(Cut):
        build(home, keep, way=way, **more, on_event=cut)
    build(home, keep, way=way, **more)
    assert fake_models.repeated() == 0
    whole = home[1].with_name("whole")
    build(home, keep, way=way, **more, out=whole)
    assert tables_of(whole) == tables_of(home[1])


def test_rounds_ask_most_of_the_documents_that_have_least(home, fake_models):
    """Once a second round was asked, no document that had facts left has far fewer kept questions than another."""
    built = build(home, 24)
    kept = Counter(names[-1] for names in built.cleaned.filter(pl.col("reason").is_null())["doc_ids"])
    assert len(kept) == 6
    assert max(kept.values()) - min(kept.values()) <= 3


def test_a_limit_bounds_all_rounds_together(home, fake_models):
    """No more is asked than `questions.limit` says, and that is told as the reason."""
    built = build(home, 20, limit=14)
    told = noted(built)
    assert (told["asked"], told["ended"]) == (14, "limit")
    assert "questions.limit was asked" in messages.summary(built.summary())


def test_documents_that_are_exhausted_are_said_to_be(home, fake_models):
    """Where each fact was asked, the summary says how many are kept, why the others are not, and what brings more."""
    built = build(home, 300)
    told = noted(built)
    assert (told["ended"], told["kept"]) == ("all", passed(built))
    said = messages.summary(built.summary())
    assert f"{told['kept']} of 300: the documents were asked until nothing new came of them" in said
    assert "most were lost to" in said
    assert "more come from more documents" in said


def test_items_that_bring_nothing_new_end_the_rounds(home, fake_models):
    """A model that repeats itself isn't asked for ever: a chunk that brought nothing new is closed."""
    built = build(home, 60, way="items", **HOSTED)
    told = noted(built)
    assert told["ended"] in ("all", "barren")
    assert told["asked"] <= rounds.MOST * 60
    others = [prompt for prompt in fake_models.prompts if "exist already" in prompt]
    assert others
    assert all("\n  - " in prompt for prompt in others)


def test_a_judge_is_asked_about_each_question_once(home, fake_models):
    """What the rounds had judged is not judged again by the step that cleans, nor by the next build."""
    built = build(home, 15, way="items", **HOSTED, changes={"cleaning.judge": True})
    assert passed(built) == 15
    assert fake_models.repeated() == 0
    asked = len(fake_models.prompts)
    build(home, 15, way="items", **HOSTED, changes={"cleaning.judge": True})
    assert len(fake_models.prompts) == asked


def test_pairs_of_the_users_own_count(home, tmp_path, fake_models):
    """Pairs that are kept are of the wanted ones, and the first round asks for the others alone."""
    file = tmp_path / "qa.csv"
    file.write_text("question,answer\nHow many days may trade customers return a pump?,10 days\n", encoding="utf-8")
    built = build(home, 7, qa=file)
    assert noted(built)["rounds"][0][0] == 8
    assert passed(built) == 7
    assert "human" in built.cleaned.filter(pl.col("reason").is_null())["model"].to_list()


def test_pairs_are_no_yield_of_a_round(home, tmp_path, fake_models, monkeypatch):
    """The second round is as large as what the first one's questions brought says, the user's pairs not counted."""
    file, rates, shared_out = tmp_path / "qa.csv", [], rounds.shared_out

    def noting(kept, room, wanted, most, rate):
        rates.append(rate)
        return shared_out(kept, room, wanted, most, rate)

    monkeypatch.setattr(rounds, "shared_out", noting)
    file.write_text("question,answer\nHow many days may trade customers return a pump?,10 days\n", encoding="utf-8")
    asked, kept = noted(build(home, 20, qa=file))["rounds"][0]
    assert rates[0] == (kept - 1 + 1) / (asked + 2)


def test_a_later_round_names_no_more_questions_than_an_estimate_counts():
    """Of all questions that came of a chunk its newest are named, and take no more room than is reckoned with."""
    frames = [make_chunks({"a": ["The pump weighs 7 kg."]})]
    row = frames[0].row(0, named=True)
    asked, prompts = rounds.Asked(), question_prompts(load(None, {"questions.way": "items"}))

    def size():
        given = {row["doc_id"]: 1}
        (task,) = rounds.more_items(frames, Survey(), asked, given, prompts=prompts, kinds=["fact"])
        said = "".join(turn["content"] for turn in task.request.messages)
        return len(said.encode()), said

    bare, _ = size()
    words = "and so on " * 12
    asked.questions["a#0"] += [f"What is said of number {number}, {words}?" for number in range(40)]
    named, said = size()
    assert ("number 39," in said, "number 29," in said) == (True, False)
    assert named - bare <= rounds.NAMED * counting._QUESTION_BYTES


@pytest.mark.parametrize("change", [{"questions.limit": 14}, {"questions.keep": 6}])
def test_the_commands_after_a_build_work(home, fake_models, monkeypatch, change):
    """Each command that a summary names does what it says when it is pasted: one wants enough questions to train on."""
    monkeypatch.chdir(home[1].parent)
    built = raft.build(home[0], out=home[1], settings={**SETTINGS, **change})
    lines = [line.strip().removeprefix("next:").strip() for line in messages.summary(built.summary()).splitlines()]
    commands = [line for line in lines if line.startswith(("raft build", "raft show"))]
    assert len(commands) >= 2
    for command in sorted(commands, reverse=True):  # those that read first
        done = CliRunner().invoke(main, shlex.split(command, comments=True)[1:])
        assert done.exit_code == 0, (command, done.output)
    told = noted(raft.load(home[1]))
    assert (told["keep"] >= 200, told["ended"]) == (True, "all")


def test_an_estimate_says_what_rounds_may_ask(home, fake_models):
    """It names the first round and the most of all, which hold; of a build that is done there is nothing left."""
    options = {"out": home[1], "settings": {**SETTINGS, "questions.keep": 20}, **HOSTED}
    found = raft.estimate(home[0], **options)
    assert (found.keep, found.questions) == (20, 12)
    assert "20 kept questions wanted: 12 asked for in the first round, at most" in messages.estimate(found.summary())
    assert fake_models.asked == []
    built = raft.build(home[0], **options)
    assert found.questions < noted(built)["asked"] <= found.most <= rounds.MOST * 20
    assert found.dollars[0] < found.dollars[1]
    again = raft.estimate(home[0], **options)
    assert (again.calls, again.dollars, again.most) == (0, (0.0, 0.0), noted(built)["asked"])


@pytest.mark.slow
def test_the_embedded_model_tops_up_too(tmp_path):
    """With the models of the demo, a second round brings what the first one lacks, and the ledger brings it again."""
    corpus = tmp_path / "corpus"
    shutil.copytree(HANDBOOK, corpus, ignore=lambda folder, names: [one for one in names if one in LEFT_OUT])
    changes = {"questions.keep": 10, "questions.per_chunk": 0.06, "questions.way": "answer_first"}
    options = {"pipeline": "embedded", "settings": changes}
    built = raft.build(corpus, out=tmp_path / "run", **options)
    told, before = noted(built), tables_of(tmp_path / "run")
    assert (told["ended"], passed(built)) == (None, 10)
    assert len(told["rounds"]) > 1
    for name in before:
        (tmp_path / "run" / name).unlink()
    again = raft.build(corpus, out=tmp_path / "run", **options)
    assert tables_of(tmp_path / "run") == before
    line = again.manifest["steps"]["questions"]
    assert line["calls"] == line["replayed"] > 10


@pytest.mark.slow
@pytest.mark.usefixtures("on_this_machine")
def test_a_cap_stops_a_later_round_and_a_higher_one_goes_on(home, monkeypatch):
    """The provider is asked no more than the cap allows, and each request once, over both builds."""
    fakes, reached = Fakes(), []
    monkeypatch.setattr(models, "open_embedder", lambda name, *_, **__: FakeEmbedder(name, fakes))
    monkeypatch.setattr(models.hub, "tokenizer", lambda name: WordTokenizer())
    with FakeOpenAI() as server:
        options = {"generator": "hosted_vllm/test-model", "price": (10.0, 40.0), "way": "items"}
        changes = {"generator.api_base": server.url, "cleaning.similarity": 1.0, "generator.concurrency": 1}

        def note(event, facts):
            reached.append(facts["round"]) if event == "round" else None

        first = {"changes": changes, "on_event": note, **options}
        whole = build(home, 16, **first, max_cost=9.0, out=home[1].with_name("whole"))
        assert len(noted(whole)["rounds"]) > 1
        asked, price = len(server.seen), whole.manifest["steps"]["questions"]["cost"]
        server.seen.clear()
        reached.clear()
        with pytest.raises(CapReached):
            build(home, 16, **first, max_cost=price * 0.95)
        assert reached == [1]
        built = build(home, 16, **first, max_cost=9.0)
        assert len(server.seen) == asked
        assert max(server.answered.values()) <= 2  # once for either run
    assert built.cleaned.equals(whole.cleaned)
