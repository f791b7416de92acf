"""The benchmark: scores of answers, figures by document, and the verdict that follows."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.errors import RaftError
from raft.evaluation import scores, summary, systems
from raft.evaluation.metrics import Interval
from raft.evaluation.systems import System
from raft.rag.format import ABSTENTION
from raft.rag.relevant import Sources
from raft.report import figures
from raft.report.measures import COLUMNS
from raft.store import tables

SOURCES = Sources({"q": ["c1"]}, {"q": ["c2", "c1"]}, {"q": "a.md"}, {"c1": "It is 30 days."})


def question(question_id="q", *answers, question_set="user", **changes):
    """Return a row of an evaluation file."""
    row = {"question_id": question_id, "question": f"How long, {question_id}?", "answers": list(answers or ["30 days"])}
    return {**row, "document": "a.md", "golden_chunk_ids": [], "kind": "fact", "split": question_set, **changes}


def answer(text="30 days", question_id="q", arm="rag", **changes):
    """Return an answer; one that abstains where the text says so."""
    row = {"arm": arm, "question_set": "user", "condition": "answerable", "question_id": question_id}
    row |= {"retrieved": ["c2", "c1"], "shown": ["c2", "c1"], "raw": text, "answer": text, "quotes": []}
    row |= {"quotes_given": 0, "abstained": text == ABSTENTION, "followed": True, "supported": None}
    return {**row, "tokens": {"input": 100, "output": 10}, "cost": 0.0, **changes}


def quote(chunk_id):
    """Return a verbatim quote from a chunk."""
    return {"chunk_id": chunk_id, "start": 0, "end": 2, "text": "It"}


def scored(one, asked=None, relevant=("c1",)):
    """Return the scores of one answer."""
    rows = tables.frame(tables.ANSWERS, [one])
    asked = tables.frame(tables.EVALUATION, [asked or question()])
    return summary.score(rows, asked, relevant={"q": list(relevant)}).row(0, named=True)


def reason(one, asked=None, relevant=("c1",)):
    """Return why one answer has its score."""
    rows = tables.frame(tables.ANSWERS, [one]).row(0, named=True)
    return scores.why(rows, asked or question(), list(relevant))


def system(name, **changes):
    """Return the description of a system."""
    usual = {"title": systems.title(name), "model": "tiny", "adapter": None, "prompt": "answer", "prompt_digest": "0"}
    return System(**{"name": name, **usual, "exemplars": 0, "context": "retrieved", "tuned": name == "raft", **changes})


def summarised(answers, questions, sources=SOURCES, **changes):
    """Return the contents of benchmark.json with everyday settings."""
    names = dict.fromkeys(row["arm"] for row in answers)
    usual = {"systems": [system(name) for name in names], "sources": sources, "timings": {}, "capability": None}
    usual |= {"training": None, "baseline_tuning": [], "prices": {}, "build_cost": None}
    usual |= {"min_gain": 0.05, "k": 5, "header": {"raft": "0.2.0", "run": "runs/demo", "hardware": "2 cores"}}
    frames = tables.frame(tables.ANSWERS, answers), tables.frame(tables.EVALUATION, questions)
    return summary.summary(*frames, **{**usual, **changes})


def test_an_answer_is_scored_with_its_quotes():
    """Quotes count as support by how many are verbatim, and as precise by how many come from a relevant chunk."""
    row = scored(answer("within 30 days", quotes=[quote("c1"), quote("c2")], quotes_given=4, supported=True))
    assert (row["f1"], row["exact_match"], row["contains"]) == (pytest.approx(0.8), 0.0, 1.0)
    assert (row["quote_support"], row["citation_precision"], row["supported"]) == (0.5, 0.5, 1.0)
    assert (row["false_refusal"], row["false_answer"], row["followed"]) == (0.0, None, 1.0)
    unquoted = scored(answer())
    assert unquoted["quote_support"] is unquoted["citation_precision"] is unquoted["supported"] is None
    assert scored(answer(quotes=[quote("c1")], quotes_given=1), relevant=())["citation_precision"] is None
    assert scored(answer(quotes_given=2))["quote_support"] == 0.0


@pytest.mark.parametrize(
    ("one", "asked", "refusal", "false", "f1"),
    [
        (answer(ABSTENTION), question(), 1.0, None, 0.0),
        (answer(ABSTENTION), question("q", ABSTENTION), None, 0.0, 1.0),
        (answer("30 days"), question("q", ABSTENTION), None, 1.0, 0.0),
        (answer(ABSTENTION, condition="withheld"), question(), None, 0.0, None),
        (answer("30 days", condition="withheld"), question(), None, 1.0, None),
        (answer("", condition="withheld", error="timeout"), question(), None, None, None),
        (answer("", error="timeout"), question(), 0.0, None, 0.0),
    ],
)
def test_refusals_and_false_answers(one, asked, refusal, false, f1):
    """Abstaining is false where an answer was there, answering where nothing bears one; no reply is neither."""
    row = scored(one, asked)
    assert (row["false_refusal"], row["false_answer"], row["f1"]) == (refusal, false, f1)


def test_an_answer_without_its_question_is_refused():
    """Answers to questions of another evaluation file are an error that names the next command."""
    with pytest.raises(RaftError, match="question other"):
        scored(answer(question_id="other"))


LABELLED = [question(f"q{n}", ["Yes", "no.", "maybe"][n % 3]) for n in range(12)]


def test_a_closed_set_of_labels_is_recognised():
    """Two to five labels, one reference a question, four questions a label; spelling and refusals do not matter."""

    def found(rows):
        return summary.labels(tables.frame(tables.EVALUATION, rows))

    assert found(LABELLED) == ("maybe", "no", "yes")
    assert found([*LABELLED, question("u", ABSTENTION)]) == ("maybe", "no", "yes")
    assert found(LABELLED[:11]) == ()
    assert found([*LABELLED, question("q", "yes", "certainly")]) == ()
    assert found([question(f"q{n}", "yes") for n in range(12)]) == ()
    assert found([question(f"q{n}", str(n % 6)) for n in range(60)]) == ()
    assert found([question(f"q{n}", str(n % 5)) for n in range(20)]) == ("0", "1", "2", "3", "4")


def test_labels_are_right_or_wrong():
    """An answer names a label when it is one, in any case; a longer reply, or an abstention, is wrong."""
    texts = ["YES.", "yes", "Yes, it is.", ABSTENTION]
    answers = [answer(text, f"q{n}") for n, text in enumerate(texts)]
    frames = tables.frame(tables.ANSWERS, answers), tables.frame(tables.EVALUATION, LABELLED)
    rows = summary.score(*frames, relevant={}).to_dicts()
    assert [row["accuracy"] for row in rows] == [1.0, 0.0, 0.0, 0.0]
    assert [row["predicted"] for row in rows] == ["yes", "yes", None, None]
    assert [row["label"] for row in rows] == ["yes", "no", "maybe", "yes"]
    assert scored(answer())["accuracy"] is None


@pytest.mark.parametrize(
    ("one", "relevant", "said"),
    [
        (answer("30 days"), ["c1"], "same words as the reference '30 days'"),
        (answer("It is 30 days."), ["c1"], "reference '30 days' is contained in a longer answer"),
        (answer("30"), ["c1"], "answer is a part of the reference '30 days'"),
        (answer("14 days of grace"), ["c1"], "The word 'days' is in both the answer and the reference '30 days'."),
        (answer("a year"), ["c1"], "No word of the reference '30 days' is in the answer, though chunk c1 bears"),
        (answer("a year"), ["c9"], "the right chunk was not retrieved"),
        (answer("a year", shown=[]), ["c9"], "No word of the reference '30 days' is in the answer."),
        (answer("a year", followed=False), [], "the reply did not keep the form, and all of it was scored"),
        (answer(ABSTENTION), ["c1"], "Abstained, though chunk c1 bears the answer."),
        (answer(ABSTENTION), ["c9"], "Abstained, and the right chunk was not retrieved."),
        (answer(ABSTENTION, shown=[]), ["c9"], "no document was shown"),
        (answer(ABSTENTION), [], "though the question has an answer"),
        (answer(ABSTENTION, condition="withheld"), ["c1"], "Abstained, and rightly"),
        (answer("30 days", condition="withheld"), ["c1"], "Answered, though what bears the answer was withheld."),
        (answer("", error="It took too long."), ["c1"], "There is no reply: It took too long."),
    ],
)
def test_each_score_has_a_reason(one, relevant, said):
    """The reason of a score is one sentence that names what decided it."""
    told = reason(one, relevant=relevant)
    assert said in told
    assert told.endswith(".")
    assert ".." not in told


def test_several_common_words_are_all_named():
    """Words that answer and reference share are named in the reference's order, without articles."""
    told = reason(answer("days of the full thirty"), question("q", "the full thirty calendar days"))
    assert "The words 'full thirty days' are in both" in told


def test_what_cannot_be_answered_has_its_reasons():
    """Whether an unanswerable question was rightly refused is said."""
    asked = question("q", ABSTENTION)
    assert "rightly: the documents do not answer it" in reason(answer(ABSTENTION), asked, [])
    assert "Answered, though the documents do not answer it" in reason(answer("30 days"), asked, [])


@pytest.mark.parametrize(
    ("tuning", "measured", "expected"),
    [
        ([], ["rag", "rag_few"], "rag"),
        ([], ["rag_few"], "rag_few"),
        ([], ["closed"], None),
        ([("rag", 0, 0.3), ("rag_few", 2, 0.2), ("rag_few", 4, 0.4)], ["rag", "rag_few"], "rag_few"),
        ([("rag", 0, 0.4), ("rag_few", 2, 0.4)], ["rag", "rag_few"], "rag"),
        ([("rag", 0, 0.3), ("rag_few", 2, 0.4)], ["rag"], "rag"),
        ([("rag", 0, None), ("rag_few", 2, 0.1), ("raft", 0, 0.9)], ["rag", "rag_few", "raft"], "rag_few"),
    ],
)
def test_the_baseline_is_the_better_plain_rag(tuning, measured, expected):
    """Plain RAG with or without examples is the one to beat, by its score on valid; equals go without examples."""
    rows = [{"arm": name, "exemplars": count, "f1": score} for name, count, score in tuning]
    assert systems.baseline(rows, measured) == expected


def board(gains=(0.0, 1.0), documents=24, **changes):
    """Return a summary of raft against rag on a question a document: rag is always wrong, raft right by `gains`."""
    ids = [f"q{n}" for n in range(documents)]
    right = [gains[n % len(gains)] for n in range(documents)]
    answers = [answer("a year", name, shown=["c"]) for name in ids]
    answers += [answer("30 days" if one else "a year", name, "raft") for name, one in zip(ids, right, strict=True)]
    answers += [answer("30 days", name, "golden") for name in ids]
    sources = Sources(
        {name: ["c1"] for name in ids},
        {name: ["c1"] if n % 4 else ["c2"] * 5 + ["c1"] for n, name in enumerate(ids)},
        {name: f"{name}.md" for name in ids},
        {"c1": "It is 30 days."},
    )
    return summarised(answers, [question(name) for name in ids], sources, **changes)


CAPABILITY = {"arc": {"title": "ARC", "measure": "accuracy", "questions": 9, "before": 0.4, "after": 0.4}}
UNCHANGED = {"value": 0.0, "low": -0.01, "high": 0.01, "questions": 9, "groups": 9}


def test_a_summary_has_all_that_a_report_shows():
    """Figures, paired differences, retrieval and verdict follow from the answers, and all of it is plain JSON."""
    found = board(capability={"arc": {**CAPABILITY["arc"], "change": Interval(**UNCHANGED)}})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["verdict"]["decision"] == "ship"
    assert found["verdict"]["gain"]["value"] == pytest.approx(0.5)
    assert found["verdict"]["gain"]["groups"] == 24
    assert found["verdict"]["headroom"] == {"golden": 1.0, "retrieved": 0.0, "missed": 0.25}
    by_name = {arm["name"]: arm for arm in found["arms"]}
    assert list(by_name) == ["rag", "raft", "golden"]
    assert by_name["rag"]["sets"]["user"]["against"] is None
    ours = by_name["raft"]["sets"]["user"]
    assert ours["f1"]["value"] == ours["against"]["f1"]["value"] == pytest.approx(0.5)
    assert 0.2 < ours["f1"]["low"] < 0.5 < ours["f1"]["high"] < 0.8
    assert ours["accuracy"] is ours["macro_f1"] is ours["false_answers"] is None
    assert "accuracy" not in ours["against"]
    assert by_name["raft"]["tokens"] == {"input": 100, "output": 10}
    retrieval = found["retrieval"]["user"]
    assert {k: one["value"] for k, one in retrieval["recall"].items()} == {"1": 0.75, "3": 0.75, "5": 0.75}
    assert retrieval["mrr"]["value"] == pytest.approx(0.75 + 0.25 / 6)
    assert retrieval["bearing"] == 24
    assert [(one["name"], one["questions"], one["documents"]) for one in found["question_sets"]] == [("user", 24, 24)]
    first = found["questions"][0]
    assert (first["golden"], first["retrieved_bearing"]) == ("It is 30 days.", False)
    assert set(first["answers"]) == {"rag", "raft", "golden"}
    assert first["answers"]["rag"]["why"].startswith("No word of the reference '30 days' is in the answer; the right")


def test_a_summary_does_not_depend_on_the_order_of_answers():
    """The same answers in another order give the same figures, to the last digit."""
    questions = [question(f"q{n}") for n in range(6)]
    answers = [answer(["30 days", "30", "a year"][n % 3], f"q{n}", arm) for n in range(6) for arm in ("rag", "raft")]
    one, other = summarised(answers, questions), summarised(answers[::-1], questions[::-1])
    assert one["question_sets"] == other["question_sets"]
    assert one["verdict"] == other["verdict"]
    assert {arm["name"]: arm for arm in one["arms"]} == {arm["name"]: arm for arm in other["arms"]}


def test_nothing_to_measure_is_refused():
    """A benchmark without answers is an error with the next command."""
    with pytest.raises(RaftError, match="no answer to measure"):
        summarised([], [question()])


def test_without_a_tuned_arm_the_verdict_is_advice():
    """Where no tuned model answered, the verdict is that it is not tuned, with headroom and a command."""
    found = summarised([answer("a year"), answer("30 days", arm="golden")], [question()])
    assert found["verdict"]["decision"] == "not tuned yet"
    assert found["verdict"]["headroom"] == {"golden": 1.0, "retrieved": 0.0, "missed": 0.0}
    assert found["economics"]["sentences"] == []


def test_the_users_questions_decide():
    """With questions of people and of a model the verdict rests on the people's; without, on unseen documents."""
    sets = ["eval_seen", "eval_unseen", "user"]
    questions = [question(name, question_set=name) for name in sets]
    answers = [answer("30 days", name, question_set=name) for name in sets]
    found = summarised(answers, questions)
    assert found["verdict"]["question_set"] == "user"
    assert [one["name"] for one in found["question_sets"]] == ["user", "eval_unseen", "eval_seen"]
    assert [one["written_by"] for one in found["question_sets"]] == ["people", "a model", "a model"]
    assert summarised(answers[:2], questions[:2])["verdict"]["question_set"] == "eval_unseen"


def test_what_was_refused_unasked_is_counted():
    """Of questions with and without an answer it is told how many no model was asked, and what asking could change."""
    asked = [question("q0"), question("q1"), question("q2", ABSTENTION), question("q3")]
    said = [answer("30 days" if n == 3 else ABSTENTION, f"q{n}", arm) for arm in ("rag", "raft") for n in range(4)]
    said += [answer(ABSTENTION, "q3", arm, condition="withheld") for arm in ("rag", "raft")]
    sources = Sources({"q0": ["c1"], "q1": ["c1"]}, {"q0": ["c1"], "q1": ["c2"]}, {}, {})
    unasked = {("answerable", "q0"), ("answerable", "q1"), ("withheld", "q3")}
    facts = summarised(said, asked, sources, unasked=unasked)
    names = ("answerable", "answerable_refused", "found_refused", "unanswerable", "unanswerable_refused")
    assert facts["refused"] == {"user": dict(zip(names, (3, 2, 1, 2, 1), strict=True))}
    shown = dict(figures.parts_shown(facts))
    assert "2 of 3 questions with an answer were refused unasked (1 although it was found)" in shown["refusal"]
    assert "at most 66.7 points more right answers and 50.0 more false ones" in shown["refusal"]
    assert "gain 0.0 points" in shown["reader"]
    without = summarised(said, asked, sources)
    assert without["refused"] is None and list(dict(figures.parts_shown(without))) == ["reader"]


@pytest.mark.parametrize(
    ("count", "unit", "groups"), [(24, "sections", 24), (10, "questions", 48), (0, "questions", 48)]
)
def test_of_few_documents_something_finer_is_resampled(count, unit, groups):
    """Of two documents their sections are resampled where there are enough, else questions; the documents are told."""
    names = [f"q{number:02}" for number in range(48)]
    asked = [question(name, document="a.md" if number % 2 else "b.md") for number, name in enumerate(names)]
    said = [answer("40 days", name, "rag") for name in names] + [answer("30 days", name, "raft") for name in names]
    sources = Sources({n: [n] for n in names}, {}, {row["question_id"]: row["document"] for row in asked}, {})
    sections = {name: f"section {number % count}" for number, name in enumerate(names)} if count else {}
    facts = summarised(said, asked, sources, sections=sections)
    assert facts["verdict"]["gain"]["groups"] == groups and facts["verdict"]["gain"]["questions"] == 48
    assert (facts["verdict"]["resampled"], facts["verdict"]["documents"]) == (unit, 2)
    assert facts["question_sets"][0]["resampled"] == unit and facts["question_sets"][0]["documents"] == 2
    many = Sources({}, {}, {name: f"{number % 20}.md" for number, name in enumerate(names)}, {})
    assert summarised(said, asked, many, sections=sections)["verdict"]["resampled"] == "documents"


def test_a_question_without_a_place_counts_as_no_document():
    """Of three documents and twenty questions about none, the verdict is for these three, however many groups."""
    names = [f"q{number:02}" for number in range(60)]
    asked = [question(name, document=f"{number % 3}.md") for number, name in enumerate(names)]
    places = {row["question_id"]: row["document"] for row in asked}
    lost = [f"z{number:02}" for number in range(20)]
    asked += [question(name, ABSTENTION, document=None) for name in lost]
    said = [answer(text, name, arm) for name in [*names, *lost] for text, arm in (("x", "rag"), ("30 days", "raft"))]
    facts = summarised(said, asked, Sources({}, {}, {**places, **{name: name for name in lost}}, {}))
    assert (facts["verdict"]["resampled"], facts["verdict"]["documents"]) == ("questions", 3)
    assert facts["question_sets"][0]["documents"] == 3


def test_the_advice_has_what_brings_more_rows():
    """Where tuning lost, the next command has the option that the run takes for more questions."""
    said = [answer("x", arm="raft"), answer("30 days")]
    header = {"run": "runs/demo", "more_rows": "--set questions.keep=80"}
    found = summarised(said, [question()], header=header)["verdict"]
    assert "--set questions.keep=80" in found["advice"]


def test_a_gain_in_form_alone_is_told():
    """Where plain RAG's replies hold the answer too, and the contender refuses more, the verdict's reasons say so."""
    names = [f"q{number}" for number in range(24)]
    asked = [question(name, document=f"{name}.md") for name in names]
    said = [answer("it takes 30 days or so, they say", name, "rag") for name in names]
    said += [answer(ABSTENTION if name in names[:8] else "30 days", name, "raft") for name in names]
    facts = summarised(said, asked, Sources({}, {}, {name: name for name in names}, {}))
    assert facts["verdict"]["decision"] == "investigate" and "format would buy this" in facts["verdict"]["advice"]
    assert any("form alone, since no more replies hold the answer" in one for one in facts["verdict"]["reasons"])
    (note,) = [reason for reason in facts["verdict"]["reasons"] if reason.startswith("To know")]
    assert "can be answered is refused" in note and "+33.3 points" in note


def test_the_stronger_plain_rag_is_named_where_valid_chose_the_other():
    """The gain against whichever prompt of plain RAG did better on the questions themselves is among the reasons."""
    names = [f"q{number}" for number in range(24)]
    replies = {"rag": ["30 days", "a year"], "rag_few": ["a year"], "raft": ["30 days"]}
    said = [answer(text[n % len(text)], name, arm) for arm, text in replies.items() for n, name in enumerate(names)]
    asked = [question(name, document=f"{name}.md") for name in names]
    sources = Sources({}, {}, {name: name for name in names}, {})
    chosen = {
        better: [{"arm": arm, "exemplars": 0, "f1": 0.5 + 0.1 * (arm == better)} for arm in ("rag", "rag_few")]
        for better in ("rag", "rag_few")
    }
    facts = summarised(said, asked, sources, baseline_tuning=chosen["rag_few"])
    assert facts["verdict"]["baseline"] == "rag_few"
    assert any(
        "against “base model + RAG” the gain is +50.0 points" in reason for reason in facts["verdict"]["reasons"]
    )
    facts = summarised(said, asked, sources, baseline_tuning=chosen["rag"])
    assert not any("chosen beforehand" in reason for reason in facts["verdict"]["reasons"])


def test_withheld_questions_count_apart():
    """A question that was also asked without its chunks is listed twice, and counts in false answers alone."""
    rows = [answer("30 days"), answer("a year", condition="withheld", shown=["c2"])]
    found = summarised(rows, [question()])
    figures = found["arms"][0]["sets"]["user"]
    assert figures["f1"]["value"] == 1.0
    assert figures["f1"]["questions"] == figures["false_answers"]["questions"] == 1
    assert figures["false_answers"]["value"] == 1.0
    assert (found["question_sets"][0]["questions"], found["question_sets"][0]["withheld"]) == (1, 1)
    conditions = [one["answers"]["rag"]["condition"] for one in found["questions"]]
    assert conditions == ["answerable", "withheld"]
    assert [one["retrieved_bearing"] for one in found["questions"]] == [True, None]


def test_labels_are_decided_by_accuracy():
    """In a closed set of labels the verdict rests on accuracy, and macro F1 is measured and compared too."""
    answers = [answer("yes", f"q{n}") for n in range(12)]
    answers += [answer(row["answers"][0], row["question_id"], "raft") for row in LABELLED]
    found = summarised(answers, LABELLED)
    assert found["verdict"]["measure"] == "accuracy"
    assert found["verdict"]["gain"]["value"] == pytest.approx(2 / 3)
    ours = found["arms"][1]["sets"]["user"]
    assert (ours["accuracy"]["value"], ours["macro_f1"]["value"]) == (1.0, 1.0)
    assert ours["against"]["macro_f1"]["value"] == pytest.approx(1 - 1 / 6)


def test_what_serving_takes():
    """Cost is by the price list, or the answers' own; what is not known is None."""
    rows = [answer(cost=0.002), answer(cost=0.004), answer(cost=None, error="timeout", tokens=None)]
    timing = {"questions_per_second": 2.0, "latencies": [1.0, 2.0, 3.0]}
    rows = tables.frame(tables.ANSWERS, rows).to_dicts()
    own = scores.serving(rows, timing, {})
    assert own["tokens"] == {"input": 100, "output": 10}
    assert own["cost_per_thousand"] == pytest.approx(3.0)
    assert (own["questions_per_second"], own["latency"]["median"], own["latency"]["questions"]) == (2.0, 2.0, 3)
    listed = scores.serving(rows, timing, {"input": 10.0, "output": 100.0})
    assert listed["cost_per_thousand"] == pytest.approx(2.0)
    unknown = scores.serving(tables.frame(tables.ANSWERS, [answer(cost=None)]).to_dicts(), {}, {})
    assert unknown["cost_per_thousand"] is unknown["latency"] is unknown["questions_per_second"] is None


def test_break_even_is_with_the_larger_model_that_has_a_price():
    """A larger model's price makes tuning's costs count, and the verdict to keep plain RAG tells them."""
    bigger = [answer("30 days", f"q{n}", "model:big", cost=0.001) for n in range(4)]
    answers = [answer("a year", f"q{n}", arm) for n in range(4) for arm in ("rag", "raft")] + bigger
    training = {"adapter": "3fa", "seconds": 3600.0}
    found = summarised(answers, [question(f"q{n}") for n in range(4)], training=training, build_cost=3.0)
    assert found["economics"]["break_even_questions"] == 3000
    assert found["training"] == training
    assert found["verdict"]["decision"] == "keep plain RAG"
    assert found["verdict"]["reasons"][-1] == found["economics"]["sentences"][-1]


def test_changes_of_capability_are_shown_as_dictionaries():
    """The interval of a change of general capability is shown as a dictionary, and what was not measured as nothing."""
    one = board(capability={"arc": {**CAPABILITY["arc"], "change": Interval(**UNCHANGED)}})
    assert one["capability"]["arc"]["change"] == UNCHANGED
    assert board(capability=None)["capability"] is None
    assert board(capability={"arc": {**CAPABILITY["arc"], "change": None}})["capability"]["arc"]["change"] is None


TEXTS = st.sampled_from(["30 days", "30", "a year", "", ABSTENTION, "Yes", "It is 30 days, they say."])


CASES = st.fixed_dictionaries(
    {
        "condition": st.sampled_from(["answerable", "withheld"]),
        "shown": st.lists(st.sampled_from(["c1", "c2", "c3"]), unique=True),
        "error": st.sampled_from([None, "timeout"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    TEXTS,
    st.sampled_from([("30 days",), (ABSTENTION,), ("yes",), ("a year", "12 months")]),
    CASES,
    st.lists(st.sampled_from(["c1", "c2"]), unique=True),
)
def test_every_answer_has_shares_and_a_reason(text, references, case, relevant):
    """Whatever was asked and said, each score is a share or not measured, and its reason is one sentence."""
    one = answer(text, quotes=[quote("c1")], quotes_given=2, **case)
    asked = question("q", *references)
    row = scored(one, asked, relevant)
    values = [row[name] for name in COLUMNS.values()]
    assert all(value is None or 0 <= value <= 1 for value in values)
    assert (row["f1"] is None) == (case["condition"] == "withheld")
    assert row["false_refusal"] is None or row["false_answer"] is None
    told = reason(one, asked, relevant)
    assert told.endswith(".")
    assert "\n" not in told


def test_recall_counts_all_that_a_question_needs():
    """Of a question that needs two documents, one that is found is half of it, and all are told by themselves."""
    hits = {"two": ["a1", "x", "b1", "a2"], "one": ["x", "c1"]}
    known = {"two": ["a1", "a2", "b1"], "one": ["c1"]}
    needed, grains = {"two": [["a1", "a2"], ["b1"]]}, {"two": "page", "one": "document"}
    found = scores.retrieval(["two", "one"], Sources(known, hits, {}, {}, needed, grains))
    assert [found["recall"][k]["value"] for k in ("1", "3")] == [0.25, 1.0]
    assert found["together"]["questions"] == 1
    assert [found["together"]["all_found"][k]["value"] for k in ("1", "3")] == [0.0, 1.0]
    assert found["mrr"]["value"] == (1 + 1 / 2) / 2
    assert (found["measured_by"], found["bearing"]) == ({"page": 1, "document": 1}, 2)
    assert found["measured"] == "by the named page: 1 question; by the named document: 1 question"
    gain, ideal = 1 + 1 / math.log2(4), 1 + 1 / math.log2(3)
    assert found["ndcg"]["value"] == pytest.approx((gain / ideal + 1 / math.log2(3)) / 2)


def test_a_place_is_not_said_to_bear_the_answer():
    """Why an answer scored as it did names the page or document that was looked for, not a chunk that bears it."""
    asked = {"answers": ["Ask the board first"]}
    said = {"error": None, "condition": "answerable", "abstained": False, "answer": "42", "followed": True}
    found = scores.why({**said, "shown": ["c1"]}, asked, ["c1"], "page")
    assert found.endswith("though chunk c1 is of the named page.")
    lost = scores.why({**said, "shown": ["x"], "abstained": True}, asked, ["c1"], "document")
    assert lost == "Abstained, and the named document was not retrieved."
