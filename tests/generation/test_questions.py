"""Questions: an even budget, exact answers with verbatim quotes, and a record of what was not delivered."""

import json
import re
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft import prompts
from raft.generation import generate, plan
from raft.generation.facts import read_prefixes
from raft.rag.format import ABSTENTION
from raft.store import tables
from raft.testing import ScriptedGenerator, make_chunks
from raft.text import contains

PROMPTS = plan.Prompts(
    **{
        name: prompts.load(name) for name in ("answer_first", "items", "comparison", "unanswerable", "span", "decision")
    },
    prefixes=tuple(read_prefixes(prompts.load_text("openings.yaml"))),
)
THINGS = ["kettle", "ladder", "bridge", "window", "garden", "engine", "violin", "saddle", "mirror", "hammer"]
FACTS = ("fact", "number", "date", "name")


def weighs(thing, kilograms):
    """Return a sentence that states one fact."""
    return f"The {thing} in the cellar weighs {kilograms} kg when it is empty."


def last_user(request):
    """Return the last turn of the user."""
    return next(turn["content"] for turn in reversed(request.messages) if turn["role"] == "user")


def write(request):
    """Reply as a capable model would: to each prompt of the stage with what it asks for."""
    asked = last_user(request)
    if request.schema is not None:
        passage, count = asked.split('"""')[1].strip(), int(re.search(r"Write (\d+)", asked)[1])
        sentences = re.findall(r"[^.]+\.", passage)[:count]
        return json.dumps(
            {
                "items": [
                    {
                        "question": f"What is said of {one.split()[1]}?",
                        "answer": re.search(r"\d+ \w+", one)[0],
                        "quote": one.strip(),
                        "kind": "number",
                    }
                    for one in sentences
                ]
            }
        )
    statement = re.search(r"^(?:Sentence|Second.*?): (.*?)\.?$", asked, re.MULTILINE)[1]
    answer = re.search(r"^Answer: (.*)$", asked, re.MULTILINE)
    if request.messages[-1]["role"] == "user":
        return f"Which unicorn bought {statement}?"
    return f" {statement.replace(answer[1], '') if answer else statement}?"


def surveyed(chunks, *, strategy="answer_first", kinds=FACTS, size=3):
    """Return the survey of chunks that come in frames of `size` rows."""
    return plan.survey(chunks.iter_slices(size), PROMPTS.prefixes, plan.needed(strategy, kinds))


def run(
    chunks,
    *,
    generator=None,
    strategy="answer_first",
    kinds=FACTS,
    per_chunk=1.0,
    limit=None,
    failures=None,
    size=3,
    known=None,
):
    """Return the questions as one frame; the chunks come in frames of `size` rows."""
    frames = generate.ask(
        chunks.iter_slices(size),
        known or surveyed(chunks, strategy=strategy, kinds=kinds, size=size),
        generator or ScriptedGenerator(write),
        PROMPTS,
        strategy=strategy,
        kinds=kinds,
        per_chunk=per_chunk,
        limit=limit,
        model="scripted",
        failures=[] if failures is None else failures,
    )
    return pl.concat([tables.QUESTIONS.to_frame(), *frames])


def titled(chunks, **titles):
    """Return the chunks with headings: title and section."""
    return chunks.with_columns(
        heading=pl.col("doc_id").replace_strict(titles, default="Manual").cast(pl.String) + pl.lit(" > Data")
    )


CHUNKS = titled(
    make_chunks({f"d{n}": [weighs(thing, n + 11), f"A {thing} is blue."] for n, thing in enumerate(THINGS)}),
    d0="Kitchen",
)
TEXTS = dict(CHUNKS.select("chunk_id", "text").iter_rows())


@given(
    sizes=st.dictionaries(st.text(max_size=4), st.integers(0, 5000), min_size=1, max_size=12),
    chunks=st.integers(1, 200),
    per_chunk=st.floats(0.01, 5),
    limit=st.none() | st.integers(1, 50),
)
@settings(max_examples=100, deadline=None)
def test_a_budget_is_spent_in_proportion(sizes, chunks, per_chunk, limit):
    """Shares add up to what is wanted and differ from the exact proportion by less than one question."""
    given_ = plan.budgets(sizes, chunks, per_chunk=per_chunk, limit=limit)
    wanted = max(1, round(per_chunk * chunks))
    wanted = wanted if limit is None else min(wanted, limit)
    total = sum(sizes.values())
    assert given_.keys() == sizes.keys()
    assert sum(given_.values()) == (wanted if total else 0)
    assert all(abs(given_[doc] - wanted * size / max(1, total)) < 1 for doc, size in sizes.items() if total)


@given(sizes=st.lists(st.integers(0, 100), min_size=1, max_size=8), order=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_a_budget_does_not_depend_on_the_order_of_documents(sizes, order):
    """The same documents in another order get the same shares."""
    pairs = [(f"d{i}", size) for i, size in enumerate(sizes)]
    first = plan.budgets(dict(pairs), 9, per_chunk=1.0, limit=None)
    order.shuffle(pairs)
    assert plan.budgets(dict(pairs), 9, per_chunk=1.0, limit=None) == first


def test_no_chunks_have_no_budget():
    """Where there is nothing, nothing is asked."""
    assert plan.budgets({}, 0, per_chunk=1.0, limit=None) == {}
    assert run(tables.CHUNKS.to_frame()).is_empty()


def test_answers_and_quotes_are_exact():
    """Each answer stands in its quote, each quote at its place in its chunk, and the question does not give it away."""
    made = run(CHUNKS)
    assert made.height == 10
    assert made.schema == tables.QUESTIONS
    for row in made.iter_rows(named=True):
        (quote,) = row["quotes"]
        assert TEXTS[quote["chunk_id"]][quote["start"] : quote["end"]] == quote["text"]
        assert contains(quote["text"], row["answer"])
        assert not contains(row["question"], row["answer"])
        assert row["golden_chunk_ids"] == [quote["chunk_id"]]
        assert row["doc_ids"] == [quote["chunk_id"].split("#")[0]]
        assert (row["model"], row["prompt"][:13]) == ("scripted", "answer_first@")


def test_rows_come_in_the_order_of_the_chunks():
    """Questions lie in the order of the corpus, so that the file does not depend on who was asked first."""
    made = run(CHUNKS)
    assert [ids[0] for ids in made["golden_chunk_ids"]] == [f"d{n}#0" for n in range(10)]


def test_every_document_is_asked_before_any_is_asked_twice():
    """A limit is spread over the documents."""
    made = run(CHUNKS, limit=5)
    assert made.height == 5
    assert max(Counter(row[0] for row in made["doc_ids"]).values()) == 1


def test_every_chunk_is_asked_before_any_is_asked_twice():
    """Within a document each chunk gets its best question before another gets its second."""
    pieces = [f"{weighs(thing, 20 + n)} The {thing} was sold for $7{n} in all." for n, thing in enumerate(THINGS)]
    chunks = titled(make_chunks({"d": pieces}))
    asked = Counter(ids[0] for ids in run(chunks)["golden_chunk_ids"])
    assert set(asked.values()) == {1}
    assert len(asked) == 10
    assert sum(Counter(ids[0] for ids in run(chunks, per_chunk=1.5)["golden_chunk_ids"]).values()) == 15


def test_a_small_budget_reaches_the_end_of_a_document():
    """Where there are fewer questions than chunks, they are spread over the whole document."""
    chunks = titled(make_chunks({"d": [weighs(thing, 20 + n) for n, thing in enumerate(THINGS)]}))
    places = [int(ids[0].split("#")[1]) for ids in run(chunks, per_chunk=0.3)["golden_chunk_ids"]]
    assert len(places) == 3
    assert max(places) >= 5


@pytest.mark.parametrize("strategy", ["answer_first", "items"])
def test_boilerplate_is_never_asked(strategy):
    """Chunks that are page furniture get no question and no share of the budget."""
    chunks = CHUNKS.with_columns(boilerplate=pl.col("doc_id").is_in(["d1", "d2"]))
    generator = ScriptedGenerator(write)
    made = run(chunks, strategy=strategy, generator=generator)
    assert not made.is_empty()
    assert not {"d1", "d2"} & {doc for row in made["doc_ids"] for doc in row}
    assert not [one for one in generator.requests if "ladder" in last_user(one) or "bridge" in last_user(one)]


def test_notices_are_not_asked():
    """What three documents say word for word is a notice and is not asked of any; what two say is."""
    notice = "The head office in the harbour opens at 8:30 for all visitors."
    docs = {f"d{n}": [f"{weighs(thing, n + 11)} {notice}"] for n, thing in enumerate(THINGS[:3])}
    assert set(run(titled(make_chunks(docs)), per_chunk=3)["answer"]) == {"11 kg", "12 kg", "13 kg"}
    docs["d2"] = [weighs("bridge", 13)]
    assert "8:30" in set(run(titled(make_chunks(docs)), per_chunk=3)["answer"])


def test_lookalike_documents_are_named_in_the_question():
    """Where two documents state another fact in the same words, the question says which it means; otherwise not."""
    docs = {"a": [weighs("pump", 14)], "b": [weighs("pump", 17)], "c": [weighs("kettle", 20)]}
    made = run(titled(make_chunks(docs), a="Aster handbook", b="Boreal handbook", c="Kitchen"))
    asked = {row["doc_ids"][0]: row["question"] for row in made.iter_rows(named=True)}
    assert asked["a"].startswith("According to Aster handbook, what weight")
    assert asked["b"].startswith("According to Boreal handbook, what weight")
    assert "Kitchen" not in asked["c"]


@pytest.mark.parametrize("strategy", ["answer_first", "items"])
def test_what_is_not_delivered_is_recorded(strategy):
    """A request without a usable reply is a failure with the chunk, the reply and the reason; the others go on."""
    failures = []
    generator = ScriptedGenerator(lambda one: "I'd rather not" if "violin" in last_user(one) else write(one))
    chunks = CHUNKS.filter(pl.col("text").str.contains("weighs"))
    made = run(chunks, strategy=strategy, generator=generator, failures=failures)
    assert made.height == 9
    (failure,) = failures
    assert (failure["stage"], failure["item_id"], failure["kind"], failure["attempts"]) == (
        "questions",
        "d6#0",
        "malformed",
        2,
    )
    assert failure["reply"] == "I'd rather not"
    assert failure["message"]
    assert tables.frame(tables.FAILURES, failures).height == 1


def test_items_are_written_for_the_whole_budget():
    """Asked for items, each chunk is asked once for its share, and the shares add up to the budget."""
    generator = ScriptedGenerator(write)
    pieces = [weighs(thing, 20 + n) + f" The {thing}s cost 5{n} euros in all." for n, thing in enumerate(THINGS)]
    chunks = titled(make_chunks({"a": pieces[:4], "b": pieces[4:]}))
    made = run(chunks, strategy="items", per_chunk=1.5, generator=generator)
    shares = [int(re.search(r"Write (\d+)", last_user(one))[1]) for one in generator.requests]
    assert sum(shares) == 15 == made.height
    assert len(shares) == 10
    assert set(shares) == {1, 2}
    assert all(row["quotes"][0]["start"] >= 0 for row in made.iter_rows(named=True))


def test_a_bad_item_is_a_failure_and_the_others_are_questions():
    """Of a reply with a bad item the good ones are kept without another call, and the bad one is recorded."""
    failures = []
    good = {"question": "How heavy is it?", "answer": "14 kg", "quote": "weighs 14 kg", "kind": "number"}
    generator = ScriptedGenerator(lambda one: json.dumps({"items": [{**good, "answer": None}, good]}))
    chunks = titled(make_chunks({"d": [weighs("pump", 14)]}))
    made = run(chunks, strategy="items", generator=generator, failures=failures)
    assert made["question"].to_list() == ["How heavy is it?"]
    assert len(generator.requests) == 1
    assert [(row["kind"], row["message"]) for row in failures] == [("malformed", "an item has no answer")]


@pytest.mark.parametrize("strategy", ["answer_first", "items"])
def test_question_ids_are_unique(strategy):
    """A question that comes twice for one chunk is kept once, and the second is recorded."""
    failures = []
    twice = {"question": "How heavy is it?", "answer": "14 kg", "quote": "weighs 14 kg", "kind": "number"}
    replies = {"items": lambda one: json.dumps({"items": [twice, twice]}), "answer_first": write}
    chunks = titled(make_chunks({"d": [weighs("pump", 14) + " All of the pumps were sold for $70 in May."]}))
    generator = ScriptedGenerator(replies[strategy])
    made = run(chunks, strategy=strategy, per_chunk=2, generator=generator, failures=failures)
    assert made["question_id"].is_unique().all()
    assert made.height + len(failures) == 2
    assert [failure["kind"] for failure in failures] == (["repeated"] if strategy == "items" else [])


def test_a_question_id_says_what_is_asked_of_what():
    """An id depends on golden chunks, kind and wording, not on their order, case or punctuation."""
    first = generate.question_id(["a", "b"], "number", "How heavy is it?")
    assert generate.question_id(["b", "a"], "number", "how heavy is it") == first
    others = [
        (["a"], "number", "How heavy is it?"),
        (["a", "b"], "fact", "How heavy is it?"),
        (["a", "b"], "number", "Why?"),
    ]
    assert first not in {generate.question_id(*other) for other in others}


def test_nothing_is_asked_before_it_is_wanted():
    """Questions are yielded one by one; no reply is asked for ahead."""
    generator = ScriptedGenerator(write)
    planned = []
    frames = generate.ask(
        iter([CHUNKS]),
        surveyed(CHUNKS),
        generator,
        PROMPTS,
        strategy="answer_first",
        kinds=FACTS,
        per_chunk=1.0,
        limit=None,
        model="scripted",
        failures=[],
        planned=planned.append,
    )
    assert (planned, generator.requests) == ([], [])
    for count in (1, 2, 3):
        assert next(frames).height == 1
        assert len(generator.requests) == count
    assert planned == [20]


def test_the_frames_of_chunks_do_not_matter():
    """However the chunks come in, the same questions come out."""
    whole = run(CHUNKS, size=100)
    assert all(run(CHUNKS, size=size).equals(whole) for size in (1, 3))


PAIR = titled(
    make_chunks({"a": [weighs("pump", 14)], "b": [weighs("pump", 17)], "c": [weighs("kettle", 20)]}),
    a="Aster handbook",
    b="Boreal handbook",
    c="Kitchen",
)


@pytest.mark.parametrize("strategy", ["answer_first", "items"])
def test_lookalikes_are_compared(strategy):
    """A comparison asks for the fact in which two documents differ, and quotes both."""
    made = run(PAIR, strategy=strategy, kinds=(*FACTS, "comparison"))
    (row,) = made.filter(kind="comparison").iter_rows(named=True)
    assert row["question"].startswith("How do Aster handbook and Boreal handbook differ in")
    assert row["answer"] == "Aster handbook: 14 kg; Boreal handbook: 17 kg"
    assert (row["golden_chunk_ids"], row["doc_ids"]) == (["a#0", "b#0"], ["a", "b"])
    assert made.height == 3


def test_a_comparison_compares_like_with_like():
    """In sentences with several facts, the weight is compared with the weight."""
    text = "The pump in the cellar weighs {} kg and is sold with a warranty of {} years."
    chunks = titled(make_chunks({"a": [text.format(14, 3)], "b": [text.format(9, 5)]}), a="Aster", b="Boreal")
    made = run(chunks, kinds=("number", "comparison"), per_chunk=2)
    answers = set(made.filter(kind="comparison")["answer"])
    assert answers
    assert answers <= {"Aster: 14 kg; Boreal: 9 kg", "Aster: 3 years; Boreal: 5 years"}


def test_comparisons_can_be_the_only_kind():
    """Where nothing but comparisons is asked for, comparisons come."""
    assert run(PAIR, kinds=("comparison",)).height == 1


def test_unanswerable_questions_are_marked():
    """A question that the corpus does not answer has the abstention as its answer, no quote and no golden chunk."""
    everything = run(CHUNKS, kinds=(*FACTS, "unanswerable"))
    made = everything.filter(kind="unanswerable")
    assert 0.05 * everything.height <= made.height <= 0.2 * everything.height
    assert set(made["answer"]) == {ABSTENTION}
    assert made["quotes"].list.len().sum() == made["golden_chunk_ids"].list.len().sum() == 0
    assert made["question_id"].is_unique().all()
    assert all(len(docs) == 1 for docs in made["doc_ids"])


def test_a_question_that_the_corpus_may_answer_is_not_unanswerable():
    """A reply all of whose words stand in the corpus is refused."""
    failures = []
    generator = ScriptedGenerator(lambda one: f"Is it {weighs('kettle', 11)[:-1]}?")
    made = run(CHUNKS, kinds=("unanswerable",), generator=generator, failures=failures)
    assert made.is_empty()
    assert failures
    assert all("corpus" in failure["message"] or "else" in failure["message"] for failure in failures)


@pytest.mark.parametrize("kind", ["comparison", "unanswerable"])
def test_the_limit_holds_for_all_kinds(kind):
    """No more questions are asked than the limit allows, whatever the kinds."""
    generator = ScriptedGenerator(write)
    run(PAIR, kinds=(*FACTS, kind), limit=3, generator=generator)
    assert len(generator.requests) <= 3


def test_a_document_without_facts_asks_nothing():
    """Where no sentence states a fact, no model is asked."""
    generator = ScriptedGenerator(write)
    assert run(titled(make_chunks({"d": ["All is well in the garden today."]})), generator=generator).is_empty()
    assert generator.requests == []


@pytest.mark.parametrize("strategy", ["answer_first", "items"])
def test_documents_left_out_are_not_asked_about(strategy):
    """Documents that the survey left out get no question, and the others get those that they would get alone."""
    generator = ScriptedGenerator(write)
    others = CHUNKS.filter(~pl.col("doc_id").is_in(["d0", "d3"]))
    result = run(CHUNKS, generator=generator, strategy=strategy, known=surveyed(others, strategy=strategy))
    assert set(result["doc_ids"].explode()) == set(others["doc_id"])
    assert result.equals(run(others, strategy=strategy))
