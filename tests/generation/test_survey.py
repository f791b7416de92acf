"""The survey: what is known of a corpus before the first question is found once, kept, and read again."""

from dataclasses import fields

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raft
from conftest import Cut
from raft import prompts
from raft.generation import generate
from raft.generation import plan as surveying
from raft.testing import make_chunks

PROMPTS = generate.read_prompts(None)
WAYS = ("answer_first", "spans", "items")
KINDS = (("fact", "number", "date", "name"), ("number", "comparison"), ("comparison",), ("number", "unanswerable"))
EVERYTHING = frozenset({"alike", "notices", "pairs", "vocabulary"})
SETTINGS = {"chunking.tokens": 60, "questions.per_chunk": 3, "generator.attempts": 2, "questions.kinds": KINDS[1]}
HOSTED = {"generator": "openai/some-model", "price": (1.0, 4.0)}
NOTICE = "The reading room in the harbour opens at 8:30 for all visitors."
LOOKALIKES = make_chunks(
    {
        doc: [text.format(weight=weight), NOTICE]
        for doc, weight, text in (
            ("a", 14, "The “pump” in the cellar weighs {weight} kg when it is empty."),
            ("b", 17, "The “pump” in the cellar weighs {weight} kg when it is empty."),
            ("c", 20, "The kettle in the kitchen was bought in March {weight}19 for the staff."),
        )
    }
)
WORDS = st.sampled_from(
    ["The pump weighs", "14 kg", "17 kg", "in the cellar", "on 3 May 2021", "K-77", 'è \u2028 "', "."]
)
TEXTS = st.lists(WORDS, min_size=1, max_size=14).map(" ".join)
CORPORA = st.dictionaries(st.sampled_from("abcd"), st.lists(TEXTS, min_size=1, max_size=3), min_size=1)


def survey(chunks, needs=EVERYTHING):
    """Return the survey of a frame of chunks."""
    return surveying.survey([chunks], PROMPTS.prefixes, needs)


@given(corpus=CORPORA)
@settings(max_examples=60, deadline=None)
def test_a_survey_comes_back_from_its_file_as_it_was(corpus):
    """A survey that was written and read again is the same, and has the same bytes."""
    found = survey(make_chunks(corpus))
    text = surveying.to_json(found)
    again = surveying.from_json(text.encode())
    assert again == found
    assert surveying.to_json(again) == text


@given(corpus=CORPORA, size=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_frames_of_chunks_do_not_change_the_file(corpus, size):
    """However the chunks come in, the survey has the same bytes."""
    chunks = make_chunks(corpus)
    parts = surveying.survey(chunks.iter_slices(size), PROMPTS.prefixes, EVERYTHING)
    assert surveying.to_json(parts) == surveying.to_json(survey(chunks))


def test_look_alikes_and_notices_are_found():
    """What two documents state with other facts can be compared; what three say word for word is a notice."""
    found = survey(LOOKALIKES)
    assert (found.chunks, found.sizes.keys()) == (6, {"a", "b", "c"})
    assert found.paired >= {"b#0"}
    assert {partner["chunk_id"] for partner, _ in found.pairs.values()} >= {"a#0"}
    assert surveying.is_notice(NOTICE, found)
    assert found.alike
    assert "harbou" in found.vocabulary


def planned(known, strategy, kinds):
    """Return what would be asked of the look-alikes."""
    plan = generate.plan(iter([LOOKALIKES]), known, PROMPTS, strategy=strategy, kinds=kinds, per_chunk=2.0, limit=None)
    return [(one.item_id, one.doc_ids, one.request.messages, one.request.schema) for one in plan.tasks]


@pytest.mark.parametrize("strategy", WAYS)
@pytest.mark.parametrize("kinds", KINDS)
def test_what_is_not_needed_is_not_missed(strategy, kinds):
    """A survey of what a strategy and its kinds need gives the requests of one of everything, and holds no more."""
    needs = surveying.needed(strategy, kinds)
    known = survey(LOOKALIKES, needs)
    everything = survey(LOOKALIKES)
    empty = {one.name for one in fields(known) if not getattr(known, one.name)} - {"languages"}
    assert empty == EVERYTHING - needs
    assert planned(known, strategy, kinds) == planned(everything, strategy, kinds)


def test_questions_with_their_answers_need_no_reading():
    """For a capable model and plain kinds of question, no statement is looked at: sizes are all there is to know."""
    assert surveying.needed("items", KINDS[0]) == frozenset()


@pytest.fixture
def surveys(monkeypatch):
    """A list that grows with each survey that is made."""
    made, make = [], surveying.survey

    def counted(*args):
        made.append(args)
        return make(*args)

    monkeypatch.setattr(surveying, "survey", counted)
    return made


@pytest.fixture
def estimate(corpus, tmp_path, fake_models):
    """Estimate the build of a corpus with changed settings, in one run directory."""
    return lambda **changes: raft.estimate(corpus, out=tmp_path / "run", settings={**SETTINGS, **changes}, **HOSTED)


def build(corpus, out, changes=None, **options):
    """Build with a hosted generator and the settings of these tests, and others."""
    return raft.build(corpus, out=out, settings={**SETTINGS, **(changes or {})}, **{**HOSTED, **options})


@pytest.mark.parametrize("estimated", [True, False])
def test_estimate_and_restarts_share_one_survey(corpus, tmp_path, fake_models, surveys, estimated):
    """However often a build is estimated, cut off while it asks, and started again, its chunks are surveyed once."""
    out = tmp_path / "run"
    if estimated:
        raft.estimate(corpus, out=out, settings=SETTINGS, **HOSTED)
    cuts = 0

    def cut():
        if len(fake_models.asked) > 2 * cuts:
            raise Cut

    fake_models.busy = cut
    for _ in range(3):
        with pytest.raises(Cut):
            build(corpus, out)
        cuts += 1
    fake_models.busy = lambda: None
    build(corpus, out)
    assert len(surveys) == 1
    build(corpus, out)
    raft.estimate(corpus, out=out, settings=SETTINGS, **HOSTED)
    assert len(surveys) == 1


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"questions.kinds": ("number", "fact", "comparison")}, False),  # the same has to be known
        ({"questions.per_chunk": 2}, False),
        ({"index.k": 4}, False),
        ({"questions.kinds": ("number",)}, True),
        ({"questions.way": "answer_first"}, True),
        ({"split.hold_out": ["safety.md"]}, True),
        ({"chunking.tokens": 40}, True),
    ],
)
def test_a_survey_is_made_again_when_it_would_be_another(estimate, surveys, change, again):
    """What decides about a survey has it made anew, by an estimate too; what does not leaves it as it is."""
    estimate()
    estimate(**change)
    assert len(surveys) == 1 + again


@pytest.mark.parametrize("kinds", [KINDS[1], KINDS[0]])
def test_other_openings_are_another_survey(estimate, tmp_path, surveys, kinds):
    """Where statements are compared, changed openings have the survey made anew; where they aren't, they don't."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    changes = {"questions.kinds": kinds, "prompts": str(folder)}
    estimate(**changes)
    (folder / "openings.yaml").write_text(prompts.load_text("openings.yaml") + "\n# changed\n", encoding="utf-8")
    estimate(**changes)
    assert len(surveys) == 1 + ("comparison" in kinds)


def test_a_damaged_survey_is_made_again(corpus, tmp_path, fake_models, surveys):
    """A survey that was damaged or deleted is made again, with the same bytes, and nothing is asked for it."""
    path = build(corpus, tmp_path / "run").folder / "survey.json"
    whole, asked = path.read_bytes(), len(fake_models.asked)
    for garble in (lambda: path.write_bytes(whole[:-9]), path.unlink):
        garble()
        build(corpus, tmp_path / "run")
        assert path.read_bytes() == whole
    assert (len(surveys), len(fake_models.asked)) == (3, asked)


def test_documents_set_aside_are_not_surveyed(corpus, tmp_path, fake_models):
    """A document about which no question is written has no part in the survey."""
    built = build(corpus, tmp_path / "run", {"split.hold_out": ["safety.md"]})
    aside = built.documents.filter(pl.col("path") == "safety.md")["doc_id"][0]
    known = surveying.from_json((built.folder / "survey.json").read_bytes())
    assert known.sizes.keys() == set(built.documents["doc_id"]) - {aside}
