"""Estimates: what a build is going to ask is known before the first call, and nothing dear begins unasked."""

from contextlib import closing

import pytest

import raft
from conftest import FakeEmbedder, Fakes, tables_of, write_corpus
from fake_openai import FakeOpenAI
from raft import api
from raft.api import models
from raft.cli import messages
from raft.corpus import documents as corpus
from raft.curation import learned
from raft.errors import RaftError, UsageError
from raft.pipeline import estimate
from raft.pipeline.build import STEPS
from raft.pipeline.estimate import Estimate, Part
from raft.store.budget import Price
from raft.store.ledger import Ledger
from raft.store.run import Run
from raft.testing import WordTokenizer

HOSTED = "openai/some-model"
SETTINGS = {
    "chunking.tokens": 60,
    "questions.per_chunk": 3,
    "generator.attempts": 1,
    "generator.input_price": 1.0,
    "generator.output_price": 4.0,
    "split.seen": 0.0,
}


@pytest.fixture
def home(tmp_path):
    """A corpus and the place of its run directory."""
    return write_corpus(tmp_path / "corpus"), tmp_path / "run"


def options(home, changes=None, **more):
    """Return the arguments of a build, and of its estimate."""
    corpus, out = home
    return {"corpus": corpus, "out": out, "generator": HOSTED, "settings": {**SETTINGS, **(changes or {})}, **more}


def part_of(found, purpose):
    """Return the part of an estimate that one step asks."""
    (part,) = [part for part in found.parts if part.purpose == purpose]
    return part


def made(**changes):
    """Return an estimate of twelve calls; what is not given is invented."""
    part = Part("questions", "m", 12, 0, (900, 1200), (300, 900), (0.5, 2.0))
    whole = {
        "run": "run",
        "documents": 3,
        "chunks": 12,
        "questions": 30,
        "parts": (part,),
        "seconds": (10.0, 60.0),
        "measured": 0,
        "model": "m",
        "price": Price(1.0, 4.0),
        "own": False,
        "spent": 0.0,
        "cap": None,
        "confirm_above": 1.0,
    }
    return Estimate(**{**whole, **changes})


def test_an_estimate_asks_nothing_and_is_kept(home, fake_models):
    """Documents are read and chunks cut as the build would, which uses them; no model is asked."""
    found = raft.estimate(**options(home))
    assert (fake_models.asked, fake_models.embedded) == ([], [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raft.pipeline.build.chunk_documents", None)
        patch.setattr(corpus, "read_documents", None)
        raft.build(**options(home))
    assert (found.documents, found.chunks) == (6, len(raft.load(home[1]).chunks))


def everything(folder):
    """Return the bytes of what a reader of a run looks at, and what its status says."""
    return {**tables_of(folder), "manifest": (folder / "manifest.json").read_bytes()}, api.state(folder)


@pytest.mark.parametrize("refused", [False, True], ids=["estimated", "refused"])
def test_a_finished_run_stays_what_it_is(home, fake_models, refused):
    """Neither an estimate with other settings nor a build that its price stops changes anything of a finished run."""
    raft.build(**options(home))
    before = everything(home[1])
    other = {"chunking.tokens": 30, "index.k": 2, "generator.confirm_above": 0.0}
    if refused:
        with pytest.raises(UsageError, match="--max-cost"):
            raft.build(**options(home, other))
    else:
        assert raft.estimate(**options(home, other)).chunks != raft.load(home[1]).chunks.height
    assert everything(home[1]) == before
    raft.load(home[1])._run.require(*[step for step in STEPS if step not in ("qa", "reworded")])
    raft.build(**options(home, other), max_cost=50.0)
    assert raft.load(home[1]).settings.index.k == 2
    assert not (home[1] / "scratch" / "trial").exists()


def test_the_calls_are_those_of_the_build(home, fake_models):
    """The build asks what was counted, and afterwards there is nothing left to ask or to pay."""
    found = raft.estimate(**options(home))
    raft.build(**options(home))
    assert part_of(found, "questions").calls == len(fake_models.asked) == found.calls
    again = raft.estimate(**options(home))
    part = part_of(again, "questions")
    assert (part.calls, part.answered, again.calls, again.dollars) == (found.calls, found.calls, 0, (0.0, 0.0))
    assert again.measured > 0


def test_the_tokens_are_in_the_range(home, fake_models):
    """What the prompts hold lies between the two ends, where tokens are about as long as is usual."""
    found = part_of(raft.estimate(**options(home)), "questions")
    fake_models.reply = lambda request: sizes.append(sum(len(turn["content"]) for turn in request.messages)) or "no"
    sizes = []
    with pytest.raises(RaftError):
        raft.build(**options(home))
    low, high = found.input_tokens
    assert low < sum(sizes) / 4 < high
    cost = [Price(1.0, 4.0).cost(*pair) for pair in zip(found.input_tokens, found.output_tokens, strict=True)]
    assert found.dollars == pytest.approx(cost)


def test_a_limit_is_counted(home, fake_models):
    """Fewer questions are fewer calls."""
    whole, few = raft.estimate(**options(home)), raft.estimate(**options(home), limit=4)
    assert few.questions == 4
    assert few.calls <= 4 < whole.calls
    assert few.dollars[1] < whole.dollars[0]


def test_a_sample_is_asked_and_kept(home, fake_models):
    """So many requests are asked as are wanted, the estimate rests on them, and the build does not ask them again."""
    guessed = raft.estimate(**options(home))
    found = raft.estimate(**options(home), sample=4)
    sampled = list(fake_models.asked)
    assert (len(sampled), part_of(found, "questions").answered) == (4, 4)
    assert found.measured == 4 - sum("I would rather not" in reply for reply in replies(home, sampled))
    assert found.calls == guessed.calls - 4
    raft.build(**options(home))
    assert len(fake_models.asked) == len(set(fake_models.asked)) == guessed.calls


def replies(home, keys):
    """Return the replies that the ledger has."""
    with closing(Ledger(home[1] / "ledger.sqlite")) as ledger:
        return [entry.reply for entry in ledger.find(keys).values()]


def test_a_sample_is_spread_over_the_documents(home, fake_models):
    """The first and the last document are both asked about."""
    raft.estimate(**options(home), sample=3)
    texts = "\n".join(fake_models.prompts)
    assert "Delta" in texts or "service desk" in texts
    assert len({prompt.split('"""')[1][:20] for prompt in fake_models.prompts}) == 3


def test_a_sample_is_no_larger_than_what_is_asked(home, fake_models):
    """A sample of more requests than there are asks each of them once; a negative one is refused."""
    found = raft.estimate(**options(home), sample=1000)
    assert found.calls == 0
    assert len(fake_models.asked) == part_of(found, "questions").calls
    with pytest.raises(UsageError, match="sample"):
        raft.estimate(**options(home), sample=-1)


def test_judging_and_wording_are_counted(home, fake_models):
    """Steps after the questions that ask the generator are parts of their own, and are known once they were paid."""
    plain = raft.estimate(**options(home))
    found = raft.estimate(**options(home, {"cleaning.judge": True, "answer_style.tone": "friendly"}))
    assert [part.purpose for part in plain.parts] == ["questions"]
    assert [part.purpose for part in found.parts] == ["questions", "cleaned", "examples"]
    assert part_of(found, "cleaned").calls == found.questions
    assert found.dollars[1] > plain.dollars[1]
    form = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    filled = raft.estimate(**options(home, {"answer_style.format": form}))
    assert [part.purpose for part in filled.parts] == ["questions"]


def test_what_filters_ask_is_counted(home, fake_models):
    """Each filter that asks the generator is a call a question; a build that has asked them finds them paid."""
    judged = raft.estimate(**options(home, {"cleaning.judge": True}))
    both = options(home, {"cleaning.judge": True, "cleaning.reader": True, "cleaning.reader_minimum": 0.0})
    found = part_of(raft.estimate(**both), "cleaned")
    assert found.calls == 2 * part_of(judged, "cleaned").calls
    assert found.dollars[1] > part_of(judged, "cleaned").dollars[1]
    usual = fake_models.reply
    fake_models.reply = lambda call: usual(call) if call.schema else "25"
    raft.build(**both)
    assert part_of(raft.estimate(**both), "cleaned").answered == found.calls


def test_an_unknown_price_is_never_nothing(home, fake_models):
    """Where the price is unknown, the estimate has no dollars, and says what to type."""
    found = raft.estimate(**options(home, {"generator.input_price": None, "generator.output_price": None}))
    words = estimate.as_text(found.summary())
    assert (found.dollars, found.unpriced, found.price) == (None, [HOSTED], None)
    assert "unknown" in words
    assert "$" not in words
    assert any("--price" in line for line in messages.advice(found.summary(), "raft build docs"))


def test_half_a_price_is_none(home, fake_models):
    """One of the two prices alone is refused where the list does not know the other."""
    with pytest.raises(UsageError, match="Only one of the two prices"):
        raft.estimate(**options(home, {"generator.output_price": None}))


def test_a_price_can_be_given(home, fake_models):
    """A price on the command line wins over the list; one of nothing means nothing."""
    bare = {**options(home), "settings": {"chunking.tokens": 60}}
    found = raft.estimate(**{**bare, "generator": "openai/gpt-4o-mini"})
    given = raft.estimate(**{**bare, "generator": "openai/gpt-4o-mini", "price": (50.0, 200.0)})
    free = raft.estimate(**bare, price=(0.0, 0.0))
    assert 0 < found.dollars[0] < found.dollars[1] < given.dollars[0]
    assert free.dollars == (0.0, 0.0)


def test_a_batch_endpoint_costs_half(home, fake_models, monkeypatch):
    """Calls in batches are reckoned at half the price, and without a time."""
    whole = raft.estimate(**options(home))
    monkeypatch.setattr(models, "BatchModel", lambda name, **_: models.HostedModel(name))
    half = raft.estimate(**options(home, {"generator.batch_endpoint": True}))
    assert half.dollars == pytest.approx([end / 2 for end in whole.dollars])
    assert (half.seconds, whole.seconds is None) == (None, False)


def test_a_local_model_costs_nothing(home, fake_models):
    """A model on this machine has calls and tokens, and no price and no time."""
    found = raft.estimate(**{**options(home), "generator": "some/local-model"})
    assert (found.dollars, found.seconds, found.unpriced) == ((0.0, 0.0), None, [])
    assert found.calls > 0
    raft.build(**{**options(home, {"generator.confirm_above": 0.0}), "generator": "some/local-model"})


def test_the_time_keeps_to_the_limits(home, fake_models):
    """A limit of requests or tokens a minute sets the least time."""
    free = raft.estimate(**options(home))
    slow = raft.estimate(**options(home, {"generator.requests_per_minute": 2}))
    thin = raft.estimate(**options(home, {"generator.tokens_per_minute": 100}))
    assert slow.seconds[0] == pytest.approx(30 * free.calls)
    assert thin.seconds[0] == pytest.approx(0.6 * (free.parts[0].input_tokens[0] + free.parts[0].output_tokens[0]))
    assert free.seconds[0] < slow.seconds[0]


def test_a_hosted_embedder_is_counted(home, fake_models):
    """A hosted embedder's texts are a part with its own price, and those that have vectors are not paid again."""
    mine = {**options(home), "embedder": "openai/text-embedding-3-small"}
    found = raft.estimate(**mine)
    part = part_of(found, "embeddings")
    assert (part.model, part.calls, part.answered) == (mine["embedder"], found.chunks + found.questions, 0)
    assert 0 < part.dollars[0] < part.dollars[1] < 0.001
    raft.build(**mine)
    assert part_of(raft.estimate(**mine), "embeddings").answered == found.chunks
    with closing(Ledger(home[1] / "ledger.sqlite")) as ledger:
        rows = ledger.spending(raft.load(home[1]).manifest["collection"])
    assert {(row["purpose"], row["model"]) for row in rows} >= {("index", mine["embedder"])}


def test_a_dear_build_does_not_begin(home, fake_models):
    """A build that may cost more than the setting asks no model, and says what to type."""
    dear = {"generator.confirm_above": 0.001}
    with pytest.raises(UsageError) as caught:
        raft.build(**options(home, dear))
    assert fake_models.asked == []
    found = raft.estimate(**options(home))
    assert f"--max-cost {estimate.rounded_up(found.dollars[1])}" in str(caught.value)
    assert "12 chunks" in str(caught.value)
    raft.build(**options(home, dear, max_cost=1.0))
    assert len(fake_models.asked) == found.calls


def test_a_finished_build_may_be_built_again(home, fake_models):
    """What costs nothing any more needs no consent: a second build, and one that lost its tables."""
    raft.build(**options(home, {"cleaning.judge": True}))
    asked = len(fake_models.asked)
    for name in ("questions.parquet", "cleaned.parquet"):
        (home[1] / name).unlink()
        raft.build(**options(home, {"cleaning.judge": True, "generator.confirm_above": 0.0}))
    assert len(fake_models.asked) == asked


def test_an_unknown_price_stops_a_build(home, fake_models):
    """A provider whose price nobody knows is not asked before a price is given; one's own endpoint is."""
    bare = {"generator.input_price": None, "generator.output_price": None}
    with pytest.raises(UsageError, match=r"the same command with --price 0\.15/0\.60"):
        raft.build(**options(home, bare))
    assert fake_models.asked == []
    raft.build(**options(home, {**bare, "generator.api_base": "http://127.0.0.1:9/v1"}))
    assert fake_models.asked


def test_a_hosted_embedder_waits_for_consent_too(home, fake_models):
    """Where the build has to be confirmed first, no text is sent to a hosted embedder either."""
    with pytest.raises(UsageError, match="--max-cost"):
        raft.build(**options(home, {"generator.confirm_above": 0.0}), embedder="openai/text-embedding-3-small")
    assert fake_models.embedded == []


def test_a_cap_needs_the_price_of_the_embedder(home, fake_models):
    """With a cap, an embedder whose price nobody knows is refused wherever it is, unless that is this machine."""
    mine = {**options(home), "embedder": "openai/no-such-embedder", "max_cost": 5.0}
    for address in (None, "http://gpu.example:8000/v1"):
        mine["settings"]["index.api_base"] = address
        with pytest.raises(UsageError, match="price of openai/no-such-embedder") as caught:
            raft.build(**mine)
        assert "--set index.input_price=" in str(caught.value)
    raft.build(**mine | {"settings": {**mine["settings"], "index.input_price": 0.1}})
    mine["settings"]["index.api_base"] = "http://127.0.0.1:9/v1"
    raft.build(**{**mine, "out": home[1].with_name("local")})


def test_what_needs_consent():
    """More than the setting, or an unknown price at a provider; not below it, with a cap, or at one's own endpoint."""
    unpriced = (Part("questions", "m", 12, 0, (900, 1200), (300, 900), None),)
    for dear in (made(), made(parts=unpriced, price=None), made(confirm_above=1.99)):
        with pytest.raises(UsageError):
            estimate.confirm(dear)
    for cheap in (
        made(confirm_above=2.0),
        made(cap=0.5),
        made(parts=unpriced, price=None, own=True),
        made(parts=(Part("questions", "m", 12, 12, (0, 0), (0, 0), None),), price=None),
    ):
        estimate.confirm(cheap)


@pytest.mark.parametrize(
    ("amount", "text"), [(0.001, "0.01"), (0.123, "0.13"), (4.981, "4.99"), (6.0, "6"), (17.2, "18"), (1234.0, "1300")]
)
def test_a_proposed_cap_is_never_less_than_the_estimate(amount, text):
    """The cap to type is rounded up, to cents or to two digits."""
    assert estimate.rounded_up(amount) == text


def test_an_estimate_in_words():
    """Counts, tokens, dollars, time and what it all rests on are each on a line."""
    words = estimate.as_text(made().summary())
    for said in (
        "3 documents, 12 chunks, 30 questions",
        "12 for writing questions with m",
        "900 to 1.2k tokens read",
        "$0.50 to $2.00 at $1/$4 a million tokens",
        "10 s to 60 s",
        "--sample 10",
    ):
        assert said in words
    told = estimate.as_text(made(measured=40, spent=0.5, cap=3.0).summary())
    for said in ("40 replies of this model", "$0.50 spent before", "the cap is $3.00"):
        assert said in told
    assert "1 reply of this model" in estimate.as_text(made(measured=1).summary())
    batched = {"keep": 30, "most": 120, "batched": True}
    assert "a batch of its own: up to 8 turnarounds" in estimate.as_text(made(**batched).summary())
    assert "turnarounds" not in estimate.as_text(made(**{**batched, "batched": False}).summary())
    (line,) = messages.advice(made(spent=0.5).summary(), "raft build docs")
    assert line == "  next:  raft build docs --max-cost 2.5"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A build whose generator is a real server on this machine."""
    fakes = Fakes()
    monkeypatch.setattr(models, "open_embedder", lambda name, *_, **__: FakeEmbedder(name, fakes))
    monkeypatch.setattr(models.hub, "tokenizer", lambda name: WordTokenizer())
    with FakeOpenAI() as server:
        changes = {"generator.api_base": server.url, "generator.concurrency": 4}
        mine = options((write_corpus(tmp_path / "corpus"), tmp_path / "run"), changes)
        yield server, {**mine, "generator": "hosted_vllm/test-model"}


@pytest.mark.slow
def test_a_cap_holds_over_restarts(served):
    """Builds with a cap stop before they pass it, time and again; with a higher one nothing is paid for twice."""
    server, mine = served
    found = raft.estimate(**mine, sample=2)
    cap = found.spent + 0.6 * found.dollars[0]
    for _ in range(2):
        with pytest.raises(RaftError, match="--max-cost"):
            raft.build(**mine, max_cost=cap)
        facts = api.state(mine["out"])["money"]
        assert 0 < facts["spent"] <= facts["cap"] == pytest.approx(cap)
        assert facts["left"] == pytest.approx(cap - facts["spent"])
    assert server.came < found.calls + 2
    raft.build(**mine, max_cost=100.0)
    facts = api.state(mine["out"])["money"]
    assert {row["purpose"] for row in facts["rows"]} == {"sample", "questions"}
    assert sum(row["calls"] for row in facts["rows"]) == server.came == len(server.answered)
    assert raft.estimate(**mine).calls == 0


@pytest.mark.slow
def test_an_estimate_from_a_sample_comes_near(served):
    """After a sample, what the build then costs lies in the range that was told."""
    _, mine = served
    found = raft.estimate(**mine, sample=6)
    raft.build(**mine, max_cost=100.0)
    spent = api.state(mine["out"])["money"]["spent"] - found.spent
    assert found.dollars[0] < spent < found.dollars[1]


def test_the_run_is_described_before_it_is_estimated(home, fake_models):
    """A run that was only estimated can be looked at, and the build that follows is the same run."""
    raft.estimate(**options(home))
    before = Run(home[1]).manifest["collection"]
    assert api.state(home[1])["money"] == {"rows": [], "spent": 0, "open": 0, "cap": None, "left": None}
    raft.build(**options(home))
    assert Run(home[1]).manifest["collection"] == before


def test_a_reasoning_models_thoughts_count_in_the_worst_case(home, fake_models):
    """What a model that is known to think may write besides its replies is part of the most that a build can cost."""
    plain, thinking = (
        raft.estimate(**{**options(home), "generator": name}) for name in ("openai/gpt-4o-mini", "openai/gpt-5-mini")
    )
    assert thinking.dollars[1] > 2 * plain.dollars[1]


def test_calls_that_are_made_again_are_said(home, fake_models):
    """An estimate says how many calls there are at most, with those that are made again, for any model."""
    found = raft.estimate(**options(home, {"generator.attempts": 3}))
    said = f"at most {3 * found.calls:,} calls in all (generator.attempts)"
    assert found.attempts == 3 and said in messages.estimate(found.summary())
    assert "asked for again" not in messages.estimate(made(attempts=1).summary())
    assert "at most 24 calls" in messages.estimate(made(attempts=2, price=Price(0, 0), own=True).summary())


@pytest.mark.parametrize("change", ["filter", "other filter", "pairs", "looser", "style"])
def test_what_was_not_asked_before_is_not_taken_for_paid(home, fake_models, change):
    """What a judge was asked pays for no filter, pair, looser rule or other style: the build waits for a word."""
    before = {"cleaning.judge": True, "answer_style.tone": "friendly", "cleaning.max_words": 14}
    before |= {"cleaning.reader_minimum": 0.0}
    raft.build(**options(home, before))
    assert raft.estimate(**options(home, before)).calls == 0
    pairs = home[1].with_name("own.csv")
    pairs.write_text("question,answer\nWho approves home refunds above 250 euros?,Marta Quill\n")
    changes = {
        "filter": {"cleaning.reader": True},
        "other filter": {"cleaning.judge": False, "cleaning.reader": True},
        "pairs": {"questions.qa": str(pairs)},
        "looser": {"cleaning.max_words": 60},
        "style": {"answer_style.tone": "formal"},
    }
    after, asked = options(home, {**before, **changes[change], "generator.confirm_above": 0.0}), len(fake_models.asked)
    found = raft.estimate(**after)
    with pytest.raises(UsageError, match="Nothing was asked yet"):
        raft.build(**after)
    assert len(fake_models.asked) == asked
    usual = fake_models.reply
    fake_models.reply = lambda call: usual(call) if call.schema or "Exact" in str(call.messages) else "x"
    raft.build(**after, max_cost=9.0)
    assert 0 < len(fake_models.asked) - asked <= found.calls


def test_a_filter_beside_a_judge_asks_its_own_calls_alone(home, fake_models):
    """What the judge has said stays paid when a filter is added."""
    judged = raft.build(**options(home, {"cleaning.judge": True}))
    found = raft.estimate(**options(home, {"cleaning.judge": True, "cleaning.reader": True}))
    assert part_of(found, "cleaned").answered * 2 == part_of(found, "cleaned").calls
    assert judged.summary()["steps"]["cleaned"]["notes"]["asked"]["by"]


def test_finding_the_source_of_a_pair_is_counted(home, fake_models):
    """A pair is embedded twice: as a question, and with its answer to find the chunk that bears it."""
    pairs = home[1].with_name("own.csv")
    pairs.write_text("question,answer\nWho approves home refunds above 250 euros?,Marta Quill\n")
    mine = {
        **options(home, {"split.unseen": 0.0}),
        "embedder": "openai/text-embedding-3-small",
        "limit": 0,
        "qa": pairs,
    }
    found = raft.estimate(**mine)
    assert part_of(found, "embeddings").calls == found.chunks + 2
    raft.build(**mine)
    assert len(fake_models.embedded) == found.chunks + 2


def test_questions_by_rule_are_of_no_generator(home, fake_models):
    """Where no model writes, another generator, its attempts or its prompts remake nothing."""
    rules, events = {"questions.way": "rules"}, []
    raft.build(**options(home, rules))
    other = options(home, {**rules, "generator.attempts": 3}) | {"generator": "openai/other"}
    raft.build(**other, on_event=lambda event, facts: events.append((event, facts.get("step"))))
    assert ("reused", "questions") in events and "begins" not in {event for event, _ in events}


def test_what_the_learned_filter_reads_is_said(home, fake_models, monkeypatch):
    """A filter asks nobody that is paid, and takes its time: whose, and of how many questions, is told."""
    monkeypatch.setattr(models, "_scorer", lambda *_: None)
    given = options(home, {"cleaning.learned": learned.BROUGHT[0]})
    found = raft.estimate(**given)
    (line,) = [line for line in estimate.as_text(found.summary()).splitlines() if "  filter  " in line]
    assert learned.load(learned.BROUGHT[0]).model in line and f"at most {found.questions}: it takes time" in line
    by_rule = {**given, "settings": {**given["settings"], "questions.way": "rules"}}
    for other in (options(home), by_rule):
        assert "filter" not in estimate.as_text(raft.estimate(**other).summary())
