"""Answering: what is shown, what is asked, and what becomes of each reply."""

from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft import prompts
from raft.errors import UsageError
from raft.protocols import Failure
from raft.rag import answering
from raft.rag.format import ABSTENTION, render_target
from raft.rag.grounding import Passage
from raft.store import tables
from raft.testing import OverlapRetriever, ScriptedGenerator, WordTokenizer, make_chunks

PROMPT = prompts.load("answer")
CHUNKS = make_chunks(
    {
        "pumps": ["The Delta pump weighs 7.5 kg.", "Page 2 of 9", "The Delta pump costs 240 euros from May."],
        "desk": ["The service desk answers calls from 08:15."],
    }
)
ROWS = {row["chunk_id"]: row for row in CHUNKS.to_dicts()}
ROWS["pumps#1"]["boilerplate"] = True
ROWS["pumps#2"] |= {"heading": "Pumps > Prices", "page": 3}
PATHS = {"pumps": "manuals/pumps.md", "desk": "desk.md"}
TITLES = {"pumps": "Pumps", "desk": None}
QUESTIONS = [
    "How many euros is the Delta pump?",
    "How heavy is the Delta pump?",
    "When does the service desk answer calls?",
]
PRICE = render_target("240 euros", [(1, "The Delta pump costs 240 euros from May.")])
WRONG = render_target("250 euros", [(1, "The Delta pump costs 240 euros from May.")])
ASKED = {"prompt": PROMPT, "style": "", "max_tokens": 50}
EXEMPLARS = ({"role": "user", "content": "Question: Why?"}, {"role": "assistant", "content": "Answer: So."})


def found(questions=QUESTIONS, **options):
    """Return the passages of each question."""
    hits = OverlapRetriever(CHUNKS).search(questions, 4)
    return answering.passages_of(hits, ROWS, paths=PATHS, titles=TITLES, queries=len(questions), **options)


def ask(reply, *, questions=QUESTIONS, passages=None, when_unsupported="mark", **options):
    """Return all answers to the questions, and the generator that was asked."""
    generator = reply if isinstance(reply, ScriptedGenerator) else ScriptedGenerator(reply)
    passages = found(questions) if passages is None else passages
    known = {"when_unsupported": when_unsupported, "model": "small", "adapter": "3fa"}
    return list(answering.answer_all(questions, passages, generator, **ASKED, **known, **options)), generator


def test_passages_say_where_they_are_from():
    """A passage has its document's path, a title line, its page and its offset, best first."""
    (price, *_) = found()
    assert [passage.chunk_id for passage in price] == ["pumps#2", "pumps#0", "desk#0"]
    assert price[0] == Passage(
        "pumps#2",
        "pumps",
        "manuals/pumps.md",
        "Pumps > Prices",
        3,
        ROWS["pumps#2"]["start"],
        ROWS["pumps#2"]["text"],
        3.0,
    )
    assert [passage.title for passage in price[1:]] == ["Pumps", ""]


def test_boilerplate_is_never_shown_and_leaves_its_place_to_the_next():
    """With a limit, the best passages that are no boilerplate are shown."""
    assert [[passage.chunk_id for passage in shown] for shown in found(["page"], k=2)] == [["pumps#0", "pumps#2"]]


def test_each_query_keeps_its_place():
    """A query without hits has an empty list, and a chunk that was found twice is shown once."""
    hits = OverlapRetriever(CHUNKS).search(QUESTIONS, 2).filter(pl.col("query") == 1)
    shown = answering.passages_of(pl.concat([hits, hits]), ROWS, paths=PATHS, titles=TITLES, queries=len(QUESTIONS))
    assert [len(passages) for passages in shown] == [0, 2, 0]


def test_a_document_that_was_added_by_other_means_is_shown_at_once():
    """A hit that is among no known chunks is shown with the text that the index has, under its own name."""
    hit = {
        "query": 0,
        "rank": 1,
        "chunk_id": "new#0",
        "doc_id": "new",
        "score": 0.9,
        "text": "The Rho pump costs 9 euros.",
    }
    hits = tables.frame(tables.HITS, [hit])
    shown = answering.passages_of(hits, ROWS, paths=PATHS, titles=TITLES, queries=1)
    assert shown == [[Passage("new#0", "new", "new", "", None, 0, "The Rho pump costs 9 euros.", 0.9)]]
    reply = render_target("9 euros", [(1, "costs 9 euros")])
    ((answer,), _) = ask(lambda request: reply, questions=["What does the Rho pump cost?"], passages=shown)
    assert (answer.supported, answer.quotes_verbatim, answer.citations[0].document) == (True, True, "new")


def test_what_is_found_must_be_about_the_question():
    """Where a question is not worth asking, no model is asked, and what was found is kept."""
    questions = ["How heavy is the Delta pump?", "How heavy is the Omega press?"]
    shown = [found(questions)[0]] * 2
    answers, generator = ask(lambda request: PRICE, questions=questions, passages=shown, asked=[True, False])
    assert [answer.abstained for answer in answers] == [False, True]
    assert len(generator.requests) == 1
    refused = answers[1]
    assert (refused.text, refused.raw, refused.supported, refused.passages) == (ABSTENTION, "", None, tuple(shown[1]))
    assert refused.tokens == {"input": 0, "output": 0}
    assert not any(answer.abstained for answer in ask(lambda request: PRICE, questions=questions, passages=shown)[0])


def test_the_question_and_its_documents_are_asked_and_exemplars_stand_before_them():
    """A request has the prompt's turns, the exemplars before the last of them, and wants the most likely reply."""
    plain = answering.request(QUESTIONS[0], found()[0], **ASKED)
    taught = answering.request(QUESTIONS[0], found()[0], **ASKED, exemplars=EXEMPLARS)
    assert taught.messages == (plain.messages[0], *EXEMPLARS, plain.messages[1])
    assert plain.messages[1]["content"].startswith("[1] Pumps > Prices\nThe Delta pump costs 240 euros")
    assert (plain.max_tokens, plain.temperature, plain.sample) == (50, 0.0, 0)


def test_exemplars_stand_before_the_last_question_of_any_prompt():
    """A prompt without a system turn, or with a beginning of the reply, takes exemplars too."""
    prompt = prompts.parse("own", "## user\n$question\n\n## assistant\nAnswer:")
    chat = answering.request("How?", [], prompt=prompt, style="", max_tokens=5, exemplars=EXEMPLARS).messages
    assert [turn["content"] for turn in chat] == ["Question: Why?", "Answer: So.", "How?", "Answer:"]


def test_a_prompt_with_an_unknown_placeholder_is_refused():
    """A prompt that wants what there is not is an error of use."""
    with pytest.raises(UsageError, match="unknown"):
        answering.request("How?", [], prompt=prompts.parse("own", "## user\n$unknown"), style="", max_tokens=5)


def test_what_bears_the_answer_is_dropped_last():
    """A chunk that is to be kept stays while another can go, wherever it stands."""
    shown, options = found()[0], {"prompt": PROMPT, "style": "dry"}
    tokenizer, last = WordTokenizer(), found()[0][-1]
    alone = answering.request(QUESTIONS[0], [last], **options, max_tokens=1)
    limit = tokenizer.count_chat(alone.messages)
    kept = answering.fit(shown, QUESTIONS[0], **options, tokenizer=tokenizer, limit=limit, keep={last.chunk_id})
    assert len(shown) > 1
    assert kept == [last]


@given(limit=st.integers(0, 200))
def test_what_does_not_fit_is_dropped_from_the_end(limit):
    """As many passages as fit are kept, the best ones."""
    shown, options = found()[0], {"prompt": PROMPT, "style": "dry"}
    tokenizer = WordTokenizer()
    kept = answering.fit(shown, QUESTIONS[0], **options, tokenizer=tokenizer, limit=limit)
    assert kept == shown[: len(kept)]

    def size(passages):
        return tokenizer.count_chat(answering.request(QUESTIONS[0], passages, **options, max_tokens=1).messages)

    assert not kept or size(kept) <= limit
    assert len(kept) == len(shown) or size(shown[: len(kept) + 1]) > limit


def test_an_answer_is_read_checked_and_priced():
    """An answer has its citation's place in the document, both checks, and what it took."""
    (answer, *_), generator = ask(lambda request: PRICE, retrieval_seconds=[0.5, 0.25, 0.125])
    (citation,) = answer.citations
    start = ROWS["pumps#2"]["start"]
    assert (answer.text, answer.question, answer.raw) == ("240 euros", QUESTIONS[0], PRICE)
    assert (citation.document, citation.page, citation.start) == ("manuals/pumps.md", 3, start)
    assert citation.end == start + len(ROWS["pumps#2"]["text"])
    assert (answer.quotes_given, answer.quotes_verbatim, answer.supported, answer.followed) == (1, True, True, True)
    assert (answer.model, answer.adapter, answer.cost, answer.error) == ("small", "3fa", 0.0, None)
    assert answer.tokens == {
        "input": WordTokenizer().count_chat(generator.requests[0].messages) - 2,
        "output": len(PRICE.split()),
    }
    assert answer.seconds == {"retrieval": 0.5, "generation": 0.0}
    assert list(answer.passages) == found()[0]


def test_where_nothing_was_found_no_model_is_asked():
    """Without passages the answer is the abstention, in its place, at no cost."""
    first, _, last = found()
    (_, nothing, third), generator = ask(lambda request: PRICE, passages=[first, [], last])
    assert [request.messages[-1]["content"].rsplit("Question: ")[1] for request in generator.requests] == [
        QUESTIONS[0],
        QUESTIONS[2],
    ]
    assert (nothing.text, nothing.question, nothing.raw) == (ABSTENTION, QUESTIONS[1], "")
    assert (nothing.abstained, nothing.supported, nothing.followed, nothing.cost) == (True, None, True, 0.0)
    assert third.question == QUESTIONS[2]


def test_a_closed_book_question_is_asked_without_passages():
    """Where it is wanted, the model answers from memory; nothing is judged that nothing was shown for."""
    (answer, *_), generator = ask(lambda request: PRICE, passages=[[], [], []], asked=[True] * 3)
    assert generator.requests[0].messages[-1]["content"] == f"Question: {QUESTIONS[0]}"
    assert (answer.text, answer.supported, answer.citations, answer.quotes_verbatim) == ("240 euros", None, (), False)


def test_a_failure_is_an_answer_that_says_why():
    """A question without a reply has an error, no text, and no verdict; the others are answered."""

    class Failing(ScriptedGenerator):
        def complete(self, requests):
            for request in requests:
                outcomes = super().complete([request])
                yield Failure("error", "the line is down") if "heavy" in str(request.messages) else next(outcomes)

    answers, _ = ask(Failing(lambda request: PRICE))
    assert [answer.error for answer in answers] == [None, "error: the line is down", None]
    lost = answers[1]
    assert (lost.text, lost.raw, lost.abstained, lost.followed, lost.supported) == ("", "", False, False, None)
    assert (lost.cost, lost.tokens, len(lost.passages)) == (None, {}, 3)


def test_an_unsupported_answer_is_marked():
    """An answer whose figure no passage has is given as it is, and said to be unsupported."""
    (answer, *_), generator = ask(lambda request: WRONG)
    assert (answer.text, answer.supported, answer.refused, answer.quotes_verbatim) == ("250 euros", False, False, True)
    assert len(generator.requests) == len(QUESTIONS)


def test_an_unsupported_answer_is_refused():
    """An abstention stands in its place, cites nothing, and keeps the reply; supported answers stay."""
    replies = iter([WRONG, render_target("7.5 kg", [(1, "weighs 7.5 kg")]), ABSTENTION])
    answers, _ = ask(lambda request: next(replies), when_unsupported="refuse")
    assert [answer.text for answer in answers] == [ABSTENTION, "7.5 kg", ABSTENTION]
    assert [answer.refused for answer in answers] == [True, False, False]
    first = answers[0]
    assert (first.abstained, first.supported, first.citations, first.quotes_given) == (True, None, (), 0)
    assert first.raw == WRONG


def test_an_unsupported_answer_is_asked_again_once():
    """The second reply is kept where it is supported, the first one marked where it is not; both are paid for."""

    def reply(request):
        if "heavy" in request.messages[-1]["content"]:
            return render_target("8 kg", []) if request.sample else render_target("9 kg", [])
        return PRICE if request.sample else WRONG

    answers, generator = ask(reply, questions=QUESTIONS[:2], when_unsupported="retry")
    assert [(answer.text, answer.supported) for answer in answers] == [("240 euros", True), ("9 kg", False)]
    assert [(one.temperature, one.sample) for one in generator.requests] == [(0.0, 0), (0.0, 0), (0.7, 1), (0.7, 1)]
    assert answers[0].tokens["output"] == len(PRICE.split()) + len(WRONG.split())
    assert answers[1].raw == render_target("9 kg", [])


def test_many_are_asked_again_in_their_places():
    """However many questions there are, each answer stands where its question does."""
    many = [f"{question} ({number})" for number in range(50) for question in QUESTIONS]
    answers, generator = ask(lambda request: WRONG, questions=many, when_unsupported="retry")
    assert [answer.question for answer in answers] == many
    assert len(generator.requests) == 2 * len(many)


def test_answers_come_while_questions_are_asked():
    """The first answer is there before the second question is asked."""
    generator = ScriptedGenerator(lambda request: PRICE)
    known = {"when_unsupported": "refuse", "model": "small", "adapter": None}
    answers = answering.answer_all(QUESTIONS, found(), generator, **ASKED, **known)
    assert generator.requests == []
    next(answers)
    assert len(generator.requests) == 1


@pytest.mark.parametrize("options", [{"passages": [[]]}, {"retrieval_seconds": [0.1]}])
def test_what_belongs_together_has_one_length(options):
    """Passages or durations that are not one a question are refused."""
    with pytest.raises(ValueError, match="length"):
        ask(lambda request: PRICE, **options)


def test_a_reply_that_keeps_no_form_is_read_as_an_answer():
    """A streamed reply is checked as any other; one without the form is its own answer."""
    shown = found()[0]
    answer = answering.read_reply(QUESTIONS[0], "It costs 240 euros.", shown, model="small")
    assert (answer.text, answer.followed, answer.supported, answer.quotes_given) == (
        "It costs 240 euros.",
        False,
        True,
        0,
    )
    empty = answering.read_reply(QUESTIONS[0], " ", shown, model="small")
    assert (empty.text, empty.supported, empty.abstained) == ("", False, False)


def test_answers_become_rows_with_offsets_into_their_chunks():
    """A row says what was retrieved and shown, and its quotes stand in the chunk's own text at their offsets."""
    quotes = [(1, "costs 240 euros"), (2, "weighs 7.5 kg"), (1, "is free")]
    answers, _ = ask(lambda request: render_target("240 euros", quotes))
    answers[2] = replace(answers[2], error="length: cut off", tokens={}, cost=None)
    retrieved = [["pumps#1", "pumps#2"], [], ["desk#0"]]
    known = {"system": "raft", "question_set": "user", "condition": "answerable"}
    table = answering.answer_rows(answers, ["a", "b", "c"], **known, retrieved=retrieved)
    assert table.schema == tables.ANSWERS
    first, _, last = table.to_dicts()
    assert {quote["chunk_id"] for quote in first["quotes"]} == {"pumps#0", "pumps#2"}
    for quote in first["quotes"]:
        assert ROWS[quote["chunk_id"]]["text"][quote["start"] : quote["end"]] == quote["text"]
    assert (first["quotes_given"], first["quotes_verbatim"], first["supported"]) == (3, False, True)
    assert (first["question_id"], first["arm"], first["adapter"], first["answer"]) == ("a", "raft", "3fa", "240 euros")
    assert (first["retrieved"], first["shown"]) == (retrieved[0], ["pumps#2", "pumps#0", "desk#0"])
    assert (last["error"], last["cost"], last["tokens"]) == ("length: cut off", None, {"input": None, "output": None})


def test_rows_need_an_id_each():
    """Answers without their questions' ids are refused."""
    with pytest.raises(ValueError, match="shorter"):
        answering.answer_rows(
            ask(lambda request: PRICE)[0],
            ["a"],
            system="rag",
            question_set="user",
            condition="answerable",
            retrieved=[[]],
        )
