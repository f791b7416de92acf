"""Questions as people bring them: long answers, pages of PDFs, several documents, and some that nothing answers."""

import json

import pytest
from reportlab.pdfgen.canvas import Canvas

import raft
from conftest import Fakes, write_corpus

pytest.importorskip("torch")

PLANS = {
    "harbour": [
        "The Harbour plan covers dental work from the third month.",
        "It may be left at each end of a quarter.",
    ],
    "meadow": [
        "The Meadow plan covers dental work from the ninth month.",
        "It may be left at each end of a half year.",
    ],
}
ASKED = [
    {"question": "What mass has the Delta?", "answers": ["7.5 kg"], "document": "manuals/delta.md"},
    {
        "question": "How does somebody get out of the Harbour plan again?",
        "answers": ["One hands in a written notice, which then counts from the close of the running three months on."],
        "document": "plans/harbour.pdf",
        "page": 2,
    },
    {
        "question": "What happens to the Delta pump when it gets cold?",
        "answers": ["All of the water has to be let out of it before the middle of the last month of autumn."],
        "document": "manuals/delta.md",
    },
    {
        "question": "Which plan pays for teeth sooner?",
        "answers": ["The Harbour plan"],
        "documents": [{"document": "plans/harbour.pdf", "page": 1}, {"document": "plans/meadow.pdf", "page": 1}],
        "kind": "comparison",
    },
    {"question": "Who designed the logo of the harbour?", "answers": []},
]


def pdf(path, pages):
    """Write a PDF with a line a page."""
    canvas = Canvas(str(path))
    for text in pages:
        for row in range(4):
            canvas.drawString(72, 720 - 20 * row, f"{text} This is clause {row + 1} of it.")
        canvas.showPage()
    canvas.save()


@pytest.fixture(scope="module")
def measured(tiny_student, tmp_path_factory):
    """A build and a benchmark with such questions: its run, its facts, and their file."""
    home = tmp_path_factory.mktemp("own")
    corpus = write_corpus(home / "corpus")
    (corpus / "plans").mkdir()
    for name, pages in PLANS.items():
        pdf(corpus / "plans" / f"{name}.pdf", pages)
    file = home / "questions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in ASKED), encoding="utf-8")
    settings = {
        "chunking.tokens": 40,
        "examples.documents": 2,
        "answering.max_tokens": 8,
        "index.k": 3,
        "split.valid": 0.3,
        "benchmark.withheld": 1.0,
        "benchmark.latency_questions": 1,
        "benchmark.tuning_questions": 2,
        "benchmark.exemplars": [0],
    }
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install_around_student(patch.setattr)
        options = {"generator": "openai/fake", "price": (0.0, 0.0), "student": str(tiny_student)}
        raft.build(corpus, out=home / "run", eval=file, settings=settings, **options)
        facts = raft.bench(home / "run")
        again = raft.bench(home / "run", questions=file)
    return home / "run", facts, again


def test_retrieval_is_measured_by_what_each_question_names(measured):
    """Each question that has an answer counts for retrieval, and the report says by what it was measured."""
    run, facts, again = measured
    found = facts["retrieval"]["user"]
    assert found["measured_by"] == {"chunk": 1, "page": 2, "document": 1}
    assert found["bearing"] == 4
    assert all(found["recall"][k] is not None for k in ("1", "3", "5"))
    assert found["together"]["questions"] == 1
    assert again["retrieval"]["user"] == found
    said = "by the chunk that bears the answer: 1 question; by the named page: 2 questions; by the named document: 1"
    assert found["measured"].startswith(said)
    for name in ("report.html", "report.md"):
        assert said in (run / name).read_text(encoding="utf-8")


def test_what_is_named_is_given_and_withheld(measured):
    """The golden context holds chunks of each place that is named, and the answers without it show none of them."""
    run, facts, _ = measured
    built = raft.load(run)
    home = dict(built.chunks.join(built.documents, on="doc_id").select("chunk_id", "path").iter_rows())
    page = dict(built.chunks.select("chunk_id", "page").iter_rows())
    told = [row for row in facts["questions"] if row["question_set"] == "user"]

    def places(arm, condition):
        found = [(row["question"], row["answers"][arm]) for row in told if arm in row["answers"]]
        shown = {asked: said["shown"] for asked, said in found if said["condition"] == condition}
        return {asked: {(home[one], page[one]) for one in ids} for asked, ids in shown.items()}

    given, without = places("golden", "answerable"), places("rag", "withheld")
    assert set(given) == set(without) == {line["question"] for line in ASKED[:4]}
    needed = {("plans/harbour.pdf", 1), ("plans/meadow.pdf", 1)}
    assert needed <= given[ASKED[3]["question"]] and not needed & without[ASKED[3]["question"]]
    assert ("plans/harbour.pdf", 2) in given[ASKED[1]["question"]] - without[ASKED[1]["question"]]
    assert ("manuals/delta.md", None) in given[ASKED[2]["question"]] - without[ASKED[2]["question"]]


def test_a_run_keeps_what_its_questions_name(measured):
    """The run's own questions have their places, beside those that a model wrote, which have none."""
    run, _, _ = measured
    kept = raft.load(run).evaluation.filter(split="user")
    assert kept["places"].null_count() == 3
    assert kept["places"].drop_nulls().list.len().to_list() == [1, 2]


def test_an_estimate_refuses_a_page_that_is_not_there(tiny_student, tmp_path):
    """Before anything is paid, an estimate says which line of the questions names a page that its document lacks."""
    corpus = write_corpus(tmp_path / "corpus")
    pdf(corpus / "harbour.pdf", PLANS["harbour"])
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps({"question": "When?", "answers": ["Then"], "document": "harbour.pdf", "page": 3}))
    with pytest.raises(raft.RaftError, match="page") as refused:
        raft.estimate(corpus, out=tmp_path / "run", eval=file, generator="openai/fake", student=str(tiny_student))
    assert "line 1" in str(refused.value.where)


def test_long_answers_are_told_and_bleu_is_measured_where_it_is_wanted(measured):
    """Where references are sentences ROUGE-L stands beside F1, and the verdict says so; BLEU is on request."""
    run, facts, _ = measured
    (own,) = (one for one in facts["question_sets"] if one["name"] == "user")
    assert own["long_answers"] and own["answer_words"] >= 10
    assert "ROUGE-L" in (run / "report.md").read_text(encoding="utf-8")
    assert any(reason.startswith("To know: what is trained on") for reason in facts["verdict"]["reasons"])
    assert all(arm["sets"]["user"]["bleu"] is None for arm in facts["arms"])
    assert "BLEU" not in (run / "report.html").read_text(encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install_around_student(patch.setattr)
        found = raft.bench(run, settings={"benchmark.bleu": True})
    assert all(0 <= arm["sets"]["user"]["bleu"]["value"] <= 1 for arm in found["arms"])
    assert "BLEU" in (run / "report.html").read_text(encoding="utf-8")
