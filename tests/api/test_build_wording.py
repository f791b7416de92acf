"""Builds whose questions are worded as people's, against an endpoint on this machine: bytes, money, and people."""

import json
import re

import polars as pl
import pytest

import raft
from conftest import FakeEmbedder, Fakes, tables_of, write_corpus
from fake_openai import FakeOpenAI
from raft.api import models
from raft.errors import UsageError
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


def test_what_a_person_rejects_takes_its_wording_along(tmp_path):
    """A wording is reviewed as any row: rejected, neither it nor the question before it is learned."""
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
    assert said[row["prompt"].rpartition(" ")[2]] == "other wording"


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


def test_each_question_is_asked_for_as_often_as_there_are_candidates(tmp_path):
    """With candidates each chunk is asked about so many times, warmer, and of what says one fact one question stays."""
    corpus = write_corpus(tmp_path / "corpus")
    with FakeOpenAI(limit=2000) as server:
        once = build(corpus, tmp_path / "once", server)
        calls = server.came
        built = build(corpus, tmp_path / "run", server, {"questions.candidates": 3})
        assert server.came - calls == 3 * once.manifest["steps"]["questions"]["calls"]
        warm = {body["temperature"] for body in server.seen[calls:]}
    assert warm == {0.0, 0.8}
    assert built.cleaned["question_id"].to_list() == once.cleaned["question_id"].to_list()


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
