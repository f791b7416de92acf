"""Builds whose questions are worded as people's, against an endpoint on this machine: bytes, money, and people."""

import json
import re

import polars as pl
import pytest

import raft
from conftest import FakeEmbedder, Fakes, reply_by_rule, tables_of, write_corpus
from fake_openai import FakeOpenAI
from raft.api import models
from raft.cli import messages
from raft.errors import UsageError
from raft.pipeline import asking
from raft.pipeline import build as steps
from raft.pipeline.asking import reworded_at_most
from raft.settings import load
from raft.store.budget import CapReached
from raft.testing import WordTokenizer

pytestmark = pytest.mark.slow
REWORD = {"questions.reword": 1.0, "index.k": 4}


@pytest.fixture(autouse=True)
def _on_this_machine(monkeypatch, on_this_machine):
    """Give a key, and take hashed words for an embedder."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-dummy-0123456789abcdef")
    monkeypatch.setattr(models, "open_embedder", lambda name, *_, **__: FakeEmbedder(name, Fakes()))
    monkeypatch.setattr(models.hub, "tokenizer", lambda name: WordTokenizer())


def build(corpus, out, server, settings=None, **options):
    """Build with the endpoint's model."""
    given = {"chunking.tokens": 60, "questions.per_chunk": 2, "generator.api_base": server.url, **(settings or {})}
    options = {"generator": "openai/test-model", "price": (10.0, 10.0), "max_cost": 9.0, **options}
    return raft.build(corpus, out=out, settings=given, **options)


def test_kept_questions_are_worded_anew(tmp_path):
    """Rows that were worded anew take the places of those before; answers and quotes are theirs."""
    corpus = write_corpus(tmp_path / "corpus")
    with FakeOpenAI(limit=2000) as server:
        plain = build(corpus, tmp_path / "plain", server)
        built = build(corpus, tmp_path / "run", server, REWORD)
    assert "worded anew " in messages.summary(built.summary())
    new = built.cleaned.filter(pl.col("prompt").str.starts_with("reword@"))
    old = {row["question_id"]: row for row in plain.cleaned.iter_rows(named=True)}
    assert new["reason"].null_count() >= 5
    for row in new.iter_rows(named=True):
        before = old[row["prompt"].rpartition(" ")[2]]
        assert row["question"].startswith("What can you people tell me about ")
        assert (row["answer"], row["quotes"]) == (before["answer"], before["quotes"])
    said = dict(built.cleaned.select("question_id", "reason").iter_rows())
    replaced = {row["prompt"].rpartition(" ")[2] for row in new.filter(pl.col("reason").is_null()).to_dicts()}
    assert {said[name] for name in replaced} == {"other wording"}
    assert "What can you people tell me about " in (tmp_path / "run" / "train.jsonl").read_text(encoding="utf-8")
    held_out = set(built.manifest["steps"]["cleaned"]["notes"]["held_out"])
    assert held_out.isdisjoint(new["doc_ids"].explode())
    notes = built.manifest["steps"]["reworded"]["notes"]
    assert notes["wordings"] == new.height
    assert "other wording" not in plain.manifest["steps"]["cleaned"]["notes"]["reasons"]


def test_it_is_rebuilt_to_the_same_bytes(tmp_path):
    """With the ledger intact a run whose tables are gone is made again to the same bytes, and nothing is asked."""
    corpus = write_corpus(tmp_path / "corpus")
    with FakeOpenAI(limit=2000) as server:
        built = build(corpus, tmp_path / "run", server, {**REWORD, "questions.candidates": 2})
        before, came = tables_of(built.folder), server.came
        assert "reworded.parquet" in before
        for name in ("questions.parquet", "reworded.parquet", "cleaned.parquet", "examples.parquet"):
            (built.folder / name).unlink()
        again = build(corpus, tmp_path / "run", server, {**REWORD, "questions.candidates": 2})
        assert server.came == came
    assert tables_of(again.folder) == before


def test_a_cap_holds_while_questions_are_worded_anew(tmp_path):
    """A build that reaches its cap while it words questions keeps what came, and a higher one goes on."""
    corpus = write_corpus(tmp_path / "corpus")
    with FakeOpenAI(limit=2000) as server:
        whole = build(corpus, tmp_path / "whole", server, REWORD)
        steps = whole.manifest["steps"]
        cost = steps["questions"]["cost"] + steps["reworded"]["cost"] / 2
        with pytest.raises(CapReached):
            build(corpus, tmp_path / "run", server, REWORD, max_cost=cost)
        came = server.came
        built = build(corpus, tmp_path / "run", server, REWORD)
        spent = built.manifest["steps"]["reworded"]
        assert 0 < server.came - came < steps["reworded"]["calls"]
        assert spent["rows" if "rows" in spent else "artifacts"]
    assert tables_of(built.folder)["cleaned.parquet"] == tables_of(whole.folder)["cleaned.parquet"]


def test_an_estimate_counts_the_wordings(tmp_path):
    """An estimate counts a call to word each question and one to read it, no fewer than the build then makes."""
    corpus = write_corpus(tmp_path / "corpus")
    with FakeOpenAI(limit=2000) as server:
        given = {"chunking.tokens": 60, "questions.per_chunk": 2, "generator.api_base": server.url, **REWORD}
        options = {"generator": "openai/test-model", "price": (10.0, 10.0), "out": tmp_path / "run"}
        found = raft.estimate(corpus, settings=given, **options)
        assert server.came == 0
        built = build(corpus, tmp_path / "run", server, REWORD)
    (part,) = [part for part in found.parts if part.purpose == "reworded"]
    assert part.calls >= built.manifest["steps"]["reworded"]["calls"] > 0
    assert part.calls == 2 * found.questions
    few = load(None, {"questions.reword": 0.25})
    assert reworded_at_most(few, 400) == 135
    assert (reworded_at_most(few, 0), reworded_at_most(few, 1)) == (0, 1)


def test_what_a_person_rejects_gives_the_question_back(tmp_path):
    """A wording is reviewed as any row: rejected it is not learned, and the question before it is."""
    corpus = write_corpus(tmp_path / "corpus")
    with FakeOpenAI(limit=2000) as server:
        built = build(corpus, tmp_path / "run", server, REWORD)
        row = built.cleaned.filter(pl.col("prompt").str.starts_with("reword@") & pl.col("reason").is_null()).to_dicts()[
            0
        ]
        line = {"question_id": row["question_id"], "verdict": "rejected", "reviewer": "Ada", "reason": "garbled"}
        from raft.curation.decisions import digest_of

        line["digest"] = digest_of(row["question"], row["answer"])
        (built.folder / "decisions.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
        after = build(corpus, tmp_path / "run", server, REWORD).cleaned
    said = dict(after.select("question_id", "reason").iter_rows())
    assert said[row["question_id"]] == "rejected by a person"
    assert said[row["prompt"].rpartition(" ")[2]] is None


def test_what_was_worded_anew_is_checked_for_leaks_as_it_was(tmp_path):
    """A question that is measured with is not learned from under another wording either."""
    corpus, own = write_corpus(tmp_path / "corpus"), tmp_path / "eval.jsonl"
    with FakeOpenAI(limit=2000) as server:
        built = build(corpus, tmp_path / "first", server, REWORD)
        old = {row["question_id"]: row for row in built.cleaned.iter_rows(named=True)}
        new = next(row for row in old.values() if row["split"] == "train" and row["prompt"].startswith("reword@"))
        before = old[new["prompt"].rpartition(" ")[2]]
        own.write_text(json.dumps({"question": before["question"], "answers": [before["answer"]]}) + "\n", "utf-8")
        after = build(corpus, tmp_path / "run", server, REWORD, eval=own).cleaned
    said = {row["question_id"]: row for row in after.iter_rows(named=True)}
    assert (said[new["question_id"]]["reason"], said[new["question_id"]]["split"]) == ("leak", None)


def test_wordings_are_judged_anew_by_other_rules(tmp_path, monkeypatch):
    """What words questions anew is made again when the rules that judge its wordings are others."""
    corpus = write_corpus(tmp_path / "corpus")
    with FakeOpenAI(limit=2000) as server:
        first = build(corpus, tmp_path / "run", server, REWORD).manifest["steps"]["reworded"]["key"]
        monkeypatch.setattr(steps, "_CLEANED", steps._CLEANED + 1)
        assert build(corpus, tmp_path / "run", server, REWORD).manifest["steps"]["reworded"]["key"] != first


@pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-135M-Instruct", "models/smollm2-135m"])
def test_too_small_a_model_is_refused(tmp_path, name):
    """The smallest model, which was found to ask for something else, is refused before anything is read."""
    with pytest.raises(UsageError, match="cannot word questions anew") as error:
        raft.build(write_corpus(tmp_path / "corpus"), out=tmp_path / "run", generator=name, settings=REWORD)
    assert "--generator" in str(error.value.hint)
    assert not (tmp_path / "run").exists()


def test_rewording_can_be_taken_back(tmp_path):
    """Built without rewording again, the run is what it would have been, and no table of before is counted."""
    corpus = write_corpus(tmp_path / "corpus")
    with FakeOpenAI(limit=2000) as server:
        plain = build(corpus, tmp_path / "plain", server)
        build(corpus, tmp_path / "run", server, REWORD)
        built = build(corpus, tmp_path / "run", server)
    assert tables_of(built.folder)["cleaned.parquet"] == tables_of(plain.folder)["cleaned.parquet"]
    assert "reworded" not in built.summary()["steps"]


def test_items_have_no_candidates(tmp_path):
    """A model that writes several items a chunk is asked once: a second reply would be other questions."""
    corpus = write_corpus(tmp_path / "corpus")
    with FakeOpenAI(limit=2000) as server:
        once = build(corpus, tmp_path / "once", server)
        calls = server.came
        built = build(corpus, tmp_path / "run", server, {"questions.candidates": 3})
        assert server.came == 2 * calls
    assert tables_of(built.folder)["questions.parquet"] == tables_of(once.folder)["questions.parquet"]


def varied(request):
    """Word a question otherwise each time it is asked for."""
    said = reply_by_rule(request)
    return said.replace("?", f"{' please' * request.sample}?")


def test_each_question_is_asked_for_as_often_as_there_are_candidates(tmp_path, fake_models):
    """With candidates each question is asked for so many times, and of what one task brought one question stays."""
    corpus, way = write_corpus(tmp_path / "corpus"), {"questions.way": "answer_first", "chunking.tokens": 60}
    once = raft.build(corpus, out=tmp_path / "once", settings={**way, "questions.limit": 30})
    fake_models.reply = varied
    many = {**way, "questions.limit": 30, "questions.candidates": 3}
    built = raft.build(corpus, out=tmp_path / "run", settings=many)
    calls = [one.manifest["steps"]["questions"]["calls"] for one in (once, built)]
    assert calls[1] > 2 * calls[0]
    kept = built.cleaned.filter(pl.col("reason").is_null())
    tasks = kept["prompt"].str.extract(" of (.*)")
    assert kept.height == tasks.n_unique() > 10
    assert (built.cleaned["reason"] == "other wording").sum() > 10


@pytest.mark.parametrize("way", ["answer_first", "rules", "items"])
def test_an_estimate_counts_candidates_and_their_wordings(tmp_path, fake_models, way):
    """With candidates, and a share that is worded anew, no step asks more than the estimate says at most."""
    corpus = write_corpus(tmp_path / "corpus")
    fake_models.reply = varied
    more = {"questions.way": way, "chunking.tokens": 60, "questions.candidates": 3, "questions.reword": 0.5}
    more |= {"cleaning.judge": True, "generator.attempts": 1}
    options = {"out": tmp_path / "run", "generator": "openai/some-model", "settings": more}
    whole = raft.estimate(corpus, **options, price=(1.0, 1.0))
    found = {part.purpose: part.calls for part in whole.parts}
    new = reworded_at_most(load(None, {"questions.reword": 0.5}), whole.questions)
    assert found["reworded"] == 2 * 3 * new
    assert found["cleaned"] == whole.questions * (3 if way == "answer_first" else 1) + 3 * new
    built = raft.build(corpus, **options, price=(1.0, 1.0), max_cost=50.0)
    for step in ("questions", "reworded", "cleaned"):
        assert found.get(step, 0) >= built.manifest["steps"][step].get("calls", 0)
    notes = built.manifest["steps"]["reworded"]["notes"]
    assert 0 < notes["wordings"] + sum(notes["left_out"].values()) <= found["reworded"] / 2


def test_examples_are_read_once(tmp_path, fake_models):
    """A build reads the user's examples, and what is measured with beside them, once; changed, they are read anew."""
    corpus, like = write_corpus(tmp_path / "corpus"), tmp_path / "like.txt"
    like.write_text("whats the phone number of the desk?\n", encoding="utf-8")
    options = {"out": tmp_path / "run", "settings": {"questions.like": str(like), "chunking.tokens": 60}}
    before = asking._examples.cache_info().misses
    assert raft.build(corpus, **options).manifest["like"] == ["whats the phone number of the desk?"]
    assert asking._examples.cache_info().misses == before + 1
    like.write_text("who do i call about a pump?\n", encoding="utf-8")
    assert raft.build(corpus, **options).manifest["like"] == ["who do i call about a pump?"]
    assert raft.build(corpus, out=tmp_path / "run", settings={"chunking.tokens": 60}).manifest["like"] is None


@pytest.mark.parametrize("name", ["like", "others"])
def test_an_addition_with_a_system_turn_is_refused_before_anything_is_paid(tmp_path, fake_models, name):
    """A user's like.md or others.md that is no single turn of the user's stops a build before its first call."""
    corpus, like, own = write_corpus(tmp_path / "corpus"), tmp_path / "like.txt", tmp_path / "prompts"
    like.write_text("whats the phone number of the desk?\n", encoding="utf-8")
    own.mkdir()
    (own / f"{name}.md").write_text("## system\nBe kind.\n\n## user\n$questions\n", encoding="utf-8")
    with pytest.raises(UsageError, match=f"The prompt {name}"):
        raft.build(
            corpus,
            out=tmp_path / "run",
            generator="openai/some-model",
            price=(1.0, 1.0),
            settings={"questions.like": str(like), "prompts": str(own), "questions.keep": 8},
        )
    assert fake_models.asked == []


def test_examples_are_shown_and_never_measured_with(tmp_path):
    """The user's examples stand in the prompts; one that is also in --eval stops the build before anything is asked."""
    corpus, like = write_corpus(tmp_path / "corpus"), tmp_path / "corpus" / "like.txt"
    like.write_text("whats the phone number of the desk?\nwho do i call about a pump?\n", encoding="utf-8")
    own = tmp_path / "eval.jsonl"
    own.write_text('{"question": "Who do I call about a pump?", "answers": ["Ines Varga"]}\n', encoding="utf-8")
    with FakeOpenAI(limit=2000) as server:
        with pytest.raises(UsageError, match="measured with"):
            build(corpus, tmp_path / "run", server, {"questions.like": str(like)}, eval=own)
        assert server.came == 0
        built = build(corpus, tmp_path / "run", server, {"questions.like": str(like), "questions.keep": 8, **REWORD})
        told = [body["messages"][0]["content"] for body in server.seen]
    assert sum("- whats the phone number of the desk?" in text for text in told) > 10
    assert not any(re.search("like", path) for path in built.documents["path"])
    assert built.cleaned["reason"].null_count() <= 8
