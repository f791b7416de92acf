"""A build that learns from what people gave: their rows are placed, cleaned, split and told of as any others."""

import json

import polars as pl
import pytest
from click.testing import CliRunner

from raft import api
from raft.cli import main, messages
from raft.errors import RaftError, UsageError
from raft.store.run import Run

SETTINGS = {"chunking.tokens": 60, "generator.attempts": 2, "split.unseen": 0.0}
APPROVAL, TRADE, SEAL, DESK = (
    {"question": "Who has to approve home refunds above 250 euros?", "answer": "Marta Quill"},
    {"question": "Within how many days may trade customers return a pump?", "answer": "10 days"},
    {"question": "What is the part number of the seal kit of the Delta pump?", "answer": "QK-771-C"},
    {"question": "For how many months does the service desk keep call records?", "answer": "36 months"},
)
ROWS = [
    {**APPROVAL, "document": "refunds/home.md"},
    {**TRADE, "document": "refunds/trade.md", "quote": "may return a pump within\n10 days of delivery."},
    {**SEAL, "quote": "The seal kit of the Delta pump has the part number QK-771-C."},
    {**DESK, "document": "desk.md"},
    {"question": "How many fire extinguishers does the workshop hold?", "answer": "99", "document": "safety.md"},
    {"question": "Which phone number has the mayor of Orlin?", "answer": "555-0199", "document": "no/such.md"},
    {
        "question": "How long are the call records kept?",
        "answer": "35 months",
        "quote": "keeps call records for 36 months",
    },
    {"question": "Which colour has the roof of the depot?", "answer": "red"},
]


def written(path, rows):
    """Return a file with a row a line."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def built_with(corpus, run, people, **more):
    """Return a build from what people gave alone."""
    settings = {**SETTINGS, "questions.limit": 0, "questions.people": str(people), **more.pop("settings", {})}
    return api.build(corpus, out=run, settings=settings, **more)


def test_rows_of_people_are_learned_from(corpus, tmp_path, fake_models):
    """Each row finds its chunk by its quote or its answer, and is cleaned and split; what has none is told by line."""
    people = written(corpus / "people.jsonl", ROWS)
    built = built_with(corpus, tmp_path / "run", people)
    assert fake_models.asked == []
    assert "people.jsonl" not in built.documents["path"].to_list()
    rows = {row["answer"]: row for row in built.cleaned.iter_rows(named=True)}
    assert {*rows} == {row["answer"] for row in ROWS[:-1]}
    assert {row["model"] for row in rows.values()} == {"human"}
    assert [rows[one["answer"]]["reason"] for one in (APPROVAL, TRADE, SEAL, DESK)] == [None] * 4
    assert {rows[one]["reason"] for one in ("99", "555-0199", "35 months")} == {"no document says it"}
    (quote,) = rows["10 days"]["quotes"]
    text = built.chunks.filter(chunk_id=quote["chunk_id"])["text"].item()
    assert text[quote["start"] : quote["end"]] == quote["text"] == "may return a pump within 10 days of delivery."
    assert rows["QK-771-C"]["quotes"][0]["text"] == ROWS[2]["quote"]
    assert rows["10 days"]["kind"] == "number"
    learned = built.cleaned.filter(pl.col("split").is_in(["train", "valid"]))
    assert learned.height == built.examples.height > 0
    for said in (
        messages.summary(built.summary()),
        CliRunner().invoke(main, ["status", str(tmp_path / "run")]).output,
    ):
        assert "7 from people.jsonl, 4 of them kept" in said
        assert "people.jsonl, line 8: it names neither document nor quote" in said
        assert "people.jsonl, line 5: no passage of safety.md bears its answer" in said
        assert "people.jsonl, line 6: there is no document no/such.md" in said
        assert "people.jsonl, line 7: no passage holds its quote and the facts of its answer" in said


def test_rows_of_people_stand_beside_others(corpus, tmp_path, fake_models):
    """They win over generated questions that say the same, stand once where the pairs have them too, and can go again.

    Without them no step of the run is made anew.
    """
    settings = {**SETTINGS, "questions.per_chunk": 4}
    plain = api.build(corpus, out=tmp_path / "run", settings=settings)
    cleaned, asked, keys = plain.cleaned, len(fake_models.asked), keys_of(plain)
    kept = cleaned.filter(pl.col("split") == "train").row(0, named=True)
    twin = {"question": kept["question"], "answer": kept["answer"], "quote": kept["quotes"][0]["text"]}
    people = written(tmp_path / "people.jsonl", [twin, *ROWS[1:3]])
    pairs = written(tmp_path / "pairs.jsonl", [ROWS[2] | {"document": ""}, APPROVAL])
    both = api.build(corpus, out=tmp_path / "run", qa=pairs, settings={**settings, "questions.people": str(people)})
    assert len(fake_models.asked) == asked
    assert both.cleaned.height == cleaned.height + 4
    same = dict(both.cleaned.filter(pl.col("question") == kept["question"]).select("model", "reason").iter_rows())
    assert same.pop("human") is None
    assert set(same.values()) == {"duplicate"}
    said = messages.summary(both.summary())
    assert "2 from pairs.jsonl" in said
    assert "3 from people.jsonl" in said
    assert "1 stand among the pairs too" in said
    again = api.build(corpus, out=tmp_path / "run", settings=settings)
    assert again.cleaned.equals(cleaned)
    assert keys_of(again).items() >= keys.items()
    assert len(fake_models.asked) == asked


def test_pairs_alone_are_keyed_as_before(corpus, tmp_path, fake_models, monkeypatch):
    """Without people's rows the step of the pairs depends on what it always did: a finished run stays unchanged."""
    keyed, make = {}, Run.make

    def noting(run, name, *given, **more):
        keyed[name] = {*more["using"]}
        return make(run, name, *given, **more)

    monkeypatch.setattr(Run, "make", noting)
    pairs = written(tmp_path / "pairs.jsonl", [TRADE])
    api.build(corpus, out=tmp_path / "run", qa=pairs, limit=0, settings=SETTINGS)
    assert keyed["qa"] == {"name", "pairs", "wrong", "embedder"}
    assert "people" not in keyed["cleaned"]


def keys_of(built):
    """Return the keys of a run's steps."""
    return {name: line["key"] for name, line in built.manifest["steps"].items() if name != "qa"}


def test_what_is_measured_with_is_not_learned_from(corpus, tmp_path, fake_models):
    """A row of people's that is asked in the evaluation too is a leak, and is not trained on; its twin is measured."""
    people = written(tmp_path / "people.jsonl", ROWS[:4])
    own = written(tmp_path / "own.jsonl", [{"question": TRADE["question"].lower(), "answers": ["10 days"]}])
    built = built_with(corpus, tmp_path / "run", people, eval=own)
    rows = {row["answer"]: row for row in built.cleaned.iter_rows(named=True)}
    assert (rows["10 days"]["reason"], rows["10 days"]["split"]) == ("leak", None)
    learned = {row["messages"][-2]["content"] for row in built.examples.iter_rows(named=True)}
    assert not [text for text in learned if TRADE["question"] in text]
    assert "dropped: leak 1" in messages.summary(built.summary())


def test_rows_of_people_may_be_held_out(corpus, tmp_path, fake_models):
    """Of a document that is held out whole people's rows are measured with, and none is trained on."""
    people = written(tmp_path / "people.jsonl", ROWS[:4])
    built = built_with(corpus, tmp_path / "run", people, settings={"split.hold_out": ["refunds/*"]})
    splits = dict(built.cleaned.select("answer", "split").iter_rows())
    assert splits["10 days"] == splits["Marta Quill"] == "eval_unseen"
    assert splits["QK-771-C"] != "eval_unseen"


def test_people_show_how_they_ask(corpus, tmp_path, fake_models):
    """The same file may be questions.like: its questions are the examples, of which none may be measured with."""
    people = written(tmp_path / "people.jsonl", ROWS[:4])
    given = {**SETTINGS, "questions.people": str(people), "questions.like": str(people), "questions.keep": 6}
    built = api.build(corpus, out=tmp_path / "run", settings=given)
    assert built.manifest["like"] == [row["question"] for row in ROWS[:4]]
    own = written(tmp_path / "own.jsonl", [{"question": TRADE["question"], "answers": ["10 days"]}])
    with pytest.raises(UsageError, match="measured with as well"):
        api.build(corpus, out=tmp_path / "run", eval=own, settings=given)


def test_an_estimate_counts_them(corpus, tmp_path, fake_models):
    """People's rows alone cost nothing to write, and an estimate says so before the build."""
    people = written(tmp_path / "people.jsonl", ROWS[:4])
    settings = {**SETTINGS, "questions.limit": 0, "questions.people": str(people)}
    assert api.estimate(corpus, out=tmp_path / "run", settings=settings).dollars == (0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "No row has a question, an answer, and a document or a quote"),
        ('{"question": "How long?", "answer": "2 years"}\n', "No row has a question, an answer, and a document"),
        ("no json\n", "No row has"),
    ],
)
def test_a_file_without_rows_is_refused(corpus, tmp_path, fake_models, text, match):
    """A file of which no row can be learned from is an error before any work, and so is one that is not there."""
    (tmp_path / "people.jsonl").write_text(text)
    with pytest.raises(UsageError, match=match):
        built_with(corpus, tmp_path / "run", tmp_path / "people.jsonl")
    with pytest.raises(UsageError, match="no such file"):
        built_with(corpus, tmp_path / "run", tmp_path / "none.jsonl")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("found", ["redact", "refuse"])
def test_privacy_of_the_run_holds_for_people(corpus, tmp_path, fake_models, found):
    """Personal data in what people gave is replaced or refused as in documents."""
    row = {**TRADE, "question": "Does ada.berg@example.com know in how many days a pump may be returned by trade?"}
    people = written(tmp_path / "people.jsonl", [{**row, "document": "refunds/trade.md"}, ROWS[0]])
    settings = {"privacy.found": found}
    if found == "refuse":
        with pytest.raises(RaftError, match="The questions hold personal data"):
            built_with(corpus, tmp_path / "run", people, settings=settings)
        return
    built = built_with(corpus, tmp_path / "run", people, settings=settings)
    assert [one for one in built.cleaned["question"] if "[EMAIL]" in one]
    assert "ada.berg" not in "".join(built.cleaned["question"])
