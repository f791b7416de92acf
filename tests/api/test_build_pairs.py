"""A build with questions and answers that the user has already: they are placed, cleaned, split and told of."""

import json

import polars as pl
import pytest
from click.testing import CliRunner

from raft import api
from raft.cli import main, messages
from raft.errors import RaftError, UsageError
from raft.rag.format import parse
from raft.store.run import Run

SETTINGS = {"chunking.tokens": 60, "generator.attempts": 2, "split.unseen": 0.0}
PAIRS = """question,answer,document
Who approves home refunds above 250 euros?,Marta Quill,
Within how many days may trade customers return a pump?,10 days,refunds/trade.md
What is the part number of the seal kit of the Delta pump?,QK-771-C,
For how many months does the service desk keep call records?,36 months,
How many fire extinguishers does the workshop hold?,4 fire extinguishers,
Which phone number has the mayor of Orlin?,555-0199,
,no question,
"""
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
]
LOST = [
    ({"answer": "99", "document": "safety.md"}, "no passage of safety.md bears its answer"),
    ({"answer": "555-0199", "document": "no/such.md"}, "there is no document no/such.md, and no passage bears its"),
    ({"answer": "35 months", "quote": "keeps call records for 36 months"}, "no passage holds its quote and the facts"),
    ({"answer": "red"}, "no passage bears its answer"),
]


@pytest.fixture
def pairs(corpus):
    """A file of pairs that lies in the corpus."""
    path = corpus / "faq.csv"
    path.write_text(PAIRS)
    return path


def written(path, rows):
    """Return a file with a row a line."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def told(built):
    """Return what the summary and `raft status` say of a run."""
    return messages.summary(built.summary()), CliRunner().invoke(main, ["status", str(built.folder)]).output


def test_pairs_alone_become_training_rows_without_a_model(corpus, pairs, tmp_path, fake_models):
    """With a limit of 0 the pairs that the YAML file names are cleaned, split and made examples; nothing is asked."""
    (corpus / "raft.yaml").write_text("questions: {qa: faq.csv, limit: 0}\nsplit: {unseen: 0.0}\n")
    built = api.build(corpus, out=tmp_path / "run", pipeline=corpus / "raft.yaml", settings=SETTINGS)
    assert fake_models.asked == []
    assert "faq.csv" not in built.documents["path"].to_list()
    rows = {row["answer"]: row for row in built.cleaned.iter_rows(named=True)}
    assert rows["555-0199"]["reason"] == "no document says it"
    assert rows["10 days"]["reason"] is None
    assert set(built.cleaned["model"]) == {"human"}
    learned = built.cleaned.filter(pl.col("split").is_in(["train", "valid"]))
    assert learned.height == built.examples.height > 0
    for row in built.examples.filter(pl.col("golden_positions").list.len() > 0).iter_rows(named=True):
        assert parse(row["messages"][-1]["content"]).quotes
    for said in told(built):
        assert "6 from faq.csv, 5 of them kept; 2 cannot be learned from:" in said
        assert "faq.csv, line 8: it has no question" in said
        assert "faq.csv, line 7: no passage bears its answer" in said
    shown = CliRunner().invoke(main, ["show", str(tmp_path / "run"), "qa", "-n", "2"]).output
    assert shown.count("  quote ") == 2


def test_a_quote_and_a_document_say_where_an_answer_stands(corpus, tmp_path, fake_models):
    """A row finds its chunk by its quote or its answer; of each of several files what finds none is told by line."""
    lost = [{"question": f"What is number {count} of them called?", **row} for count, (row, _) in enumerate(LOST)]
    file = written(tmp_path / "own.jsonl", [*ROWS, *lost])
    mayor = {"question": "Which phone number has the mayor of Orlin?", "answer": "555-0199"}
    more = written(tmp_path / "more.jsonl", [{"question": "Who is the mayor?"}, mayor])
    built = api.build(corpus, out=tmp_path / "run", qa=[file, more], limit=0, settings=SETTINGS)
    rows = {
        row["answer"]: row for row in built.cleaned.filter(pl.col("prompt").str.starts_with("own.jsonl")).to_dicts()
    }
    assert [rows[one["answer"]]["reason"] for one in ROWS] == [None] * 4
    assert {rows[one["answer"]]["reason"] for one in lost} == {"no document says it"}
    (quote,) = rows["10 days"]["quotes"]
    text = built.chunks.filter(chunk_id=quote["chunk_id"])["text"].item()
    assert text[quote["start"] : quote["end"]] == quote["text"] == "may return a pump within 10 days of delivery."
    assert rows["QK-771-C"]["quotes"][0]["text"] == ROWS[2]["quote"]
    for said in told(built):
        assert "8 from own.jsonl, 4 of them kept; 4 cannot be learned from:" in said
        for line, (_, why) in enumerate(LOST, 5):
            assert f"own.jsonl, line {line}: {why}" in said
        assert "no/such.md: no such document, so all are searched" in said
        assert "1 from more.jsonl, 0 of them kept; 2 cannot be learned from:" in said
        assert "more.jsonl, line 1: it has no answer" in said
        assert "more.jsonl, line 2: no passage bears its answer" in said


def test_pairs_stand_beside_generated_questions(corpus, tmp_path, fake_models):
    """Pairs win over questions that say the same, and stand once where two files have them; they can go again.

    Without them the run is found as it was, and nothing is said of them.
    """
    settings = {**SETTINGS, "questions.per_chunk": 4}
    plain = api.build(corpus, out=tmp_path / "run", settings=settings)
    cleaned, asked, keys = plain.cleaned, len(fake_models.asked), keys_of(plain)
    kept = cleaned.filter(pl.col("split") == "train").row(0, named=True)
    one = written(tmp_path / "one.jsonl", [{"question": kept["question"], "answer": kept["answer"]}, ROWS[2]])
    two = written(tmp_path / "two.jsonl", [ROWS[2], APPROVAL])
    typed = ["build", corpus, "--out", tmp_path / "run", "--qa", one, "--qa", two]
    typed += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    said = CliRunner().invoke(main, [*map(str, typed)]).output
    assert "2 from one.jsonl" in said
    assert "2 from two.jsonl" in said
    assert said.count("; 1 stand in another file too") == 1
    both = api.load(tmp_path / "run")
    assert both.cleaned.height == cleaned.height + 3
    same = dict(both.cleaned.filter(pl.col("question") == kept["question"]).select("model", "reason").iter_rows())
    assert same.pop("human") is None
    assert set(same.values()) == {"duplicate"}
    again = api.build(corpus, out=tmp_path / "run", settings=settings)
    assert again.cleaned.equals(cleaned)
    assert keys_of(again).items() >= keys.items()
    assert len(fake_models.asked) == asked
    assert not [name for name, line in again.summary()["steps"].items() if line.get("stale")]
    assert not [said for said in told(again) if "\n  qa " in said or "one.jsonl" in said]
    shown = CliRunner().invoke(main, ["show", str(tmp_path / "run"), "qa"])
    assert (shown.exit_code, "--qa pairs.jsonl" in shown.output) == (2, True)


def test_files_of_one_name_are_told_apart(corpus, pairs, tmp_path, fake_models):
    """Of two files that have one name each is told by its path, what was kept of it and what is wrong with it."""
    (tmp_path / "faq.csv").write_text("question,answer\nWhich colour has the roof?,red\nWho?,\n")
    built = api.build(corpus, out=tmp_path / "run", qa=[pairs, tmp_path / "faq.csv"], limit=0, settings=SETTINGS)
    for said in told(built):
        assert f"6 from {pairs}, 5 of them kept" in said
        assert f"1 from {tmp_path / 'faq.csv'}, 0 of them kept" in said
        assert f"{tmp_path / 'faq.csv'}, line 3: it has no answer" in said


def keys_of(built):
    """Return the keys of a run's steps."""
    return {name: line["key"] for name, line in built.manifest["steps"].items() if name != "qa"}


def test_one_file_is_keyed_as_before(corpus, pairs, tmp_path, fake_models, monkeypatch):
    """The step of the pairs of one file depends on what it always did: a finished run stays unchanged, and is told."""
    keyed, make = {}, Run.make

    def noting(run, name, *given, **more):
        keyed[name] = dict(more.get("formerly", [])).get(1, more["using"])
        return make(run, name, *given, **more)

    monkeypatch.setattr(Run, "make", noting)
    built = api.build(corpus, out=tmp_path / "run", qa=pairs, limit=0, settings=SETTINGS)
    assert {*keyed["qa"]} == {"name", "pairs", "wrong", "embedder"}
    assert {*keyed["qa"]["pairs"][0]} == {"line", "question", "answer", "document"}
    assert built.manifest["settings"]["questions"]["qa"] == str(pairs), "as an earlier raft wrote it down"
    facts = built.summary()
    facts["steps"]["qa"]["notes"] = {"file": "faq.csv", "wrong": ["faq.csv, line 8: it has no question"], "unknown": []}
    del facts["steps"]["cleaned"]["notes"]["pairs"]
    assert "6 from faq.csv; 1 cannot be learned from:\n" in messages.summary(facts)


def test_what_is_measured_with_is_not_learned_from(corpus, tmp_path, fake_models):
    """A pair that is asked in the evaluation too is a leak, and is not trained on; its twin is measured."""
    file = written(tmp_path / "pairs.jsonl", ROWS)
    own = written(tmp_path / "own.jsonl", [{"question": TRADE["question"].lower(), "answers": ["10 days"]}])
    built = api.build(corpus, out=tmp_path / "run", qa=file, eval=own, limit=0, settings=SETTINGS)
    rows = {row["answer"]: row for row in built.cleaned.iter_rows(named=True)}
    assert (rows["10 days"]["reason"], rows["10 days"]["split"]) == ("leak", None)
    learned = {row["messages"][-2]["content"] for row in built.examples.iter_rows(named=True)}
    assert not [text for text in learned if TRADE["question"] in text]
    assert "dropped     1 (leak 1)" in messages.summary(built.summary())


def test_pairs_may_be_held_out(corpus, tmp_path, fake_models):
    """Of a document that is held out whole the pairs are measured with, and none is trained on."""
    file, settings = written(tmp_path / "pairs.jsonl", ROWS), {**SETTINGS, "split.hold_out": ["refunds/*"]}
    built = api.build(corpus, out=tmp_path / "run", qa=file, limit=0, settings=settings)
    splits = dict(built.cleaned.select("answer", "split").iter_rows())
    assert splits["10 days"] == splits["Marta Quill"] == "eval_unseen"
    assert splits["QK-771-C"] != "eval_unseen"


def test_pairs_show_how_people_ask(corpus, tmp_path, fake_models):
    """The same file may be questions.like: its questions are the examples, of which none may be measured with."""
    file = written(tmp_path / "pairs.jsonl", ROWS)
    given = {**SETTINGS, "questions.like": str(file), "questions.keep": 6}
    built = api.build(corpus, out=tmp_path / "run", qa=file, settings=given)
    assert built.manifest["like"] == [row["question"] for row in ROWS]
    own = written(tmp_path / "own.jsonl", [{"question": TRADE["question"], "answers": ["10 days"]}])
    with pytest.raises(UsageError, match="measured with as well"):
        api.build(corpus, out=tmp_path / "run", qa=file, eval=own, settings=given)


def test_an_estimate_counts_pairs(corpus, pairs, tmp_path, fake_models):
    """Pairs alone cost nothing to write, and an estimate says so before the build."""
    assert api.estimate(corpus, out=tmp_path / "run", qa=pairs, limit=0, settings=SETTINGS).dollars == (0.0, 0.0)


def test_nothing_to_ask_is_refused(corpus, pairs, tmp_path, fake_models):
    """No questions of the generator and no pairs either is an error that names both, and so is one file that is none.

    Nothing is made before.
    """
    with pytest.raises(UsageError, match="no pairs are given") as refused:
        api.build(corpus, out=tmp_path / "run", limit=0)
    assert "behind --qa" in refused.value.hint
    with pytest.raises(UsageError, match="no such file"):
        api.build(corpus, out=tmp_path / "run", qa=[pairs, tmp_path / "none.jsonl"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("found", ["redact", "refuse"])
def test_privacy_of_the_run_holds_for_pairs(corpus, pairs, tmp_path, fake_models, found):
    """Personal data in any file of pairs is replaced or refused as in documents."""
    row = {**ROWS[1], "question": "Does ada.berg@example.com know in how many days a pump may be returned by trade?"}
    file, settings = written(tmp_path / "own.jsonl", [row]), {**SETTINGS, "privacy.found": found}
    given = {"out": tmp_path / "run", "qa": [pairs, file], "limit": 0, "settings": settings}
    if found == "refuse":
        with pytest.raises(RaftError, match="The questions hold personal data"):
            api.build(corpus, **given)
        return
    built = api.build(corpus, **given)
    assert [one for one in built.cleaned["question"] if "[EMAIL]" in one]
    assert "ada.berg" not in "".join(built.cleaned["question"])


def test_personal_data_in_examples_is_named(corpus, tmp_path, fake_models):
    """What examples of how people ask hold is told as it is of documents and own questions."""
    (tmp_path / "like.txt").write_text("Who answers at ada.berg@example.com on working days?\n")
    built = api.build(corpus, out=tmp_path / "run", settings={**SETTINGS, "questions.like": str(tmp_path / "like.txt")})
    assert "in your own questions, left as they are" in messages.summary(built.summary())


def test_what_an_earlier_search_placed_stays(corpus, pairs, tmp_path, fake_models, monkeypatch):
    """A run whose pairs and rounds were searched for otherwise does none of it again; its keys say so from then on."""
    make, options = Run.make, {"out": tmp_path / "run", "qa": pairs, "settings": {**SETTINGS, "questions.keep": 2}}
    with monkeypatch.context() as before:
        before.setattr(
            Run,
            "make",
            lambda run, name, work, *, using, **more: make(
                run, name, work, using={one: using[one] for one in using if one != "alike"}, **more
            ),
        )
        earlier = api.build(corpus, **options).manifest["steps"]
    begun = []
    now = api.build(
        corpus, **options, on_event=lambda event, facts: begun.append(facts["step"]) if event == "begins" else 0
    )
    assert begun == []
    for name in ("qa", "questions", "cleaned"):
        assert now.manifest["steps"][name]["key"] != earlier[name]["key"]
