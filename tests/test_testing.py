"""The public fakes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raft.protocols import Completion, Failure, Request
from raft.store import tables
from raft.testing import HashEmbedder, OverlapRetriever, ScriptedGenerator, WordTokenizer, make_chunks, make_question

CHAT = ({"role": "user", "content": "Say a number"},)
CHUNKS = make_chunks({"a": ["Refunds take 30 days.", "Heaters weigh 4 kg."], "b": ["Leave is 25 days a year."]})


def test_the_scripted_generator_answers_lazily_and_in_order():
    """One reply a request, in order, and none is asked before it is wanted."""
    generator = ScriptedGenerator(lambda request: str(request.sample))
    outcomes = generator.complete(Request(CHAT, max_tokens=5, sample=number) for number in range(3))
    assert next(outcomes).text == "0"
    assert len(generator.requests) == 1
    assert [outcome.text for outcome in outcomes] == ["1", "2"]


def test_the_scripted_generator_asks_again_until_the_check_passes():
    """A reply that its check refuses is asked for again, as often as allowed."""
    replies = iter(["x", "7"])
    outcome = next(ScriptedGenerator(lambda _: next(replies)).complete([Request(CHAT, max_tokens=5, check=int)]))
    assert isinstance(outcome, Completion)
    assert (outcome.text, outcome.attempts) == ("7", 2)


def test_the_scripted_generator_reports_what_never_passed():
    """A request without a usable reply yields a failure with the last reply."""
    outcome = next(ScriptedGenerator(lambda _: "x", attempts=3).complete([Request(CHAT, max_tokens=5, check=int)]))
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.reply, outcome.attempts) == ("malformed", "x", 3)


@given(st.lists(st.text(), max_size=5))
def test_vectors_have_length_one(texts):
    """Each text, even an empty one, has a vector of length 1 that depends on nothing else."""
    vectors = HashEmbedder().embed(texts)
    assert vectors.shape == (len(texts), 256)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert all(
        np.array_equal(HashEmbedder().embed([text])[0], vector) for text, vector in zip(texts, vectors, strict=True)
    )


def test_common_words_make_texts_near():
    """Texts that share words are nearer than those that do not."""
    one, two, other = HashEmbedder().embed(["refunds take thirty days", "refunds take long", "heaters weigh little"])
    assert one @ two > one @ other


def test_tokens_are_words():
    """The word tokenizer counts words, and one more for each turn of a chat."""
    assert WordTokenizer().count(["a b", ""]) == [2, 0]
    assert WordTokenizer().count_chat(CHAT) == 4


def test_the_overlap_retriever_ranks_by_common_words():
    """The chunk with most words of the question comes first, and hits follow their schema."""
    hits = OverlapRetriever(CHUNKS).search(["How long do refunds take?", "How heavy are heaters?"], 2)
    assert hits.schema == tables.HITS
    assert hits.filter(rank=1)["chunk_id"].to_list() == ["a#0", "a#1"]
    assert len(OverlapRetriever(CHUNKS).search(["x"], 9)) == 3


def test_identities_name_what_changes_results():
    """Retrievers over different chunks have different names; equal ones the same."""
    assert OverlapRetriever(CHUNKS).identity == OverlapRetriever(CHUNKS).identity
    assert OverlapRetriever(CHUNKS).identity != OverlapRetriever(CHUNKS.head(2)).identity


def test_made_rows_follow_their_schemas():
    """Rows from the makers fit the tables that they are for."""
    row = make_question(CHUNKS.row(0, named=True), "How long do refunds take?", "30 days")
    assert tables.frame(tables.QUESTIONS, [row]).schema == tables.QUESTIONS
    assert row["quotes"][0]["text"] == "Refunds take 30 days."
