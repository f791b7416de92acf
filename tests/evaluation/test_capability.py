"""General questions before and after tuning, and labels chosen by likelihood."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.errors import RaftError, UsageError
from raft.evaluation import capability

ARC = {
    "id": "A_1",
    "question": "What melts in the sun?",
    "choices": {"text": ["stone", "ice", "iron"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
LAMBADA = {"id": 7, "context": '"Did you bring the lamp?" asked Tom. She showed him the', "last_word": "lamp"}
CHOICE = {"question": "What is wet?", "choices": ["water", "sand"], "answer": 0}


class Believer:
    """A scorer for which each word costs 1 nat in a text that it believes, and 3 nats in any other."""

    identity = "believer"

    def __init__(self, *believed):
        self.believed, self.asked = believed, []

    def score(self, pairs):
        """Score, and remember what was asked."""
        self.asked += pairs
        known = [(context + text in self.believed, len(text.split())) for context, text in pairs]
        return [(-words if believed else -3.0 * words, believed, words) for believed, words in known]

    def render(self, messages):
        """Return the last turn."""
        return messages[-1]["content"]


def write(folder, rows, name="arc_easy.jsonl"):
    """Write rows, or lines as they are, into a file and return its path."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_set_in_the_form_of_arc_is_asked_by_likelihood(tmp_path):
    """Each choice is scored after the question, and the likeliest is the answer."""
    check = capability.read(write(tmp_path, [ARC]))
    assert (check.name, check.title, check.measure) == ("arc_easy", "ARC-easy", "accuracy")
    scorer = Believer("Question: What melts in the sun?\nAnswer: ice")
    assert capability.measure(check, scorer).to_dicts() == [{"question_id": "A_1", "correct": 1.0}]
    assert scorer.asked == [
        ("Question: What melts in the sun?\nAnswer:", f" {text}") for text in ("stone", "ice", "iron")
    ]
    wrong = Believer("Question: What melts in the sun?\nAnswer: iron")
    assert capability.measure(check, wrong)["correct"].to_list() == [0.0]


def test_likelihoods_are_summed_not_averaged(tmp_path):
    """A longer choice is not favoured by its length: the plain sum decides."""
    check = capability.read(write(tmp_path, [{"question": "Why?", "choices": ["a b c d", "e"], "answer": "e"}]))
    assert capability.measure(check, Believer("Question: Why?\nAnswer: a b c d"))["correct"].to_list() == [1.0]


@pytest.mark.parametrize("row", [LAMBADA, {"id": 7, "text": LAMBADA["context"] + "  lamp\n"}])
def test_a_last_word_counts_when_the_model_would_write_it(tmp_path, row):
    """Both forms of LAMBADA ask for the last word after all that stands before it."""
    check = capability.read(write(tmp_path, [row], "lambada_500.jsonl"))
    assert (check.title, check.measure) == ("LAMBADA", "last-word accuracy")
    scorer = Believer(LAMBADA["context"] + " lamp")
    assert capability.measure(check, scorer).to_dicts() == [{"question_id": "7", "correct": 1.0}]
    assert scorer.asked == [(LAMBADA["context"], " lamp")]
    assert capability.measure(check, Believer())["correct"].to_list() == [0.0]


@pytest.mark.parametrize(("answer", "right"), [(1, 1), ("sand", 1), ("B", 1), ("A", 0), (0, 0)])
def test_an_answer_is_a_number_a_text_or_a_letter(tmp_path, answer, right):
    """The generic form takes the answer in three spellings."""
    check = capability.read(write(tmp_path, [{**CHOICE, "answer": answer}], "own.jsonl"))
    assert check.questions[0].right == right
    assert check.title == "own"


def test_a_text_that_is_a_letter_is_a_text(tmp_path):
    """Where the choices themselves are letters, the answer is the text, not the place."""
    check = capability.read(write(tmp_path, [{"question": "Grade?", "choices": ["C", "B", "A"], "answer": "A"}]))
    assert check.questions[0].right == 2


def test_a_set_is_named_after_its_folder_where_the_file_says_nothing(tmp_path):
    """`trivia/test.jsonl` is the set trivia."""
    assert capability.read(write(tmp_path, [CHOICE], "trivia/test.jsonl")).name == "trivia"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([CHOICE, "{"], "line 2"),
        ([CHOICE, "[1]"], "line 2"),
        ([CHOICE, "", {"question": "What?"}], "line 3"),
        ([CHOICE, {"text": "a b c"}], "line 2"),
        ([{"text": "alone"}], "line 1"),
        ([{"context": "a b", "last_word": "two words"}], "line 1"),
        ([{**CHOICE, "answer": 2}], "none of the choices"),
        ([{**CHOICE, "answer": -1}], "none of the choices"),
        ([{**CHOICE, "answer": True}], "none of the choices"),
        ([{**CHOICE, "answer": "C"}], "none of the choices"),
        ([{**ARC, "answerKey": "A"}], "none of the choices"),
        ([{**CHOICE, "choices": ["water"]}], "fewer than two"),
        ([{**CHOICE, "choices": "water"}], "no list"),
        ([{**CHOICE, "question": " "}], "no text in question"),
        ([ARC, ARC], "stands twice"),
        ([], "no questions"),
    ],
)
def test_what_is_no_question_is_said_with_its_line(tmp_path, rows, said):
    """A wrong file is an error that names the file, mostly the line, and shows the right form."""
    path = write(tmp_path, rows)
    with pytest.raises(UsageError, match=said) as caught:
        capability.read(path)
    assert str(path) in str(caught.value)
    assert '"choices"' in caught.value.hint


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    """A missing file is said, and so is a name that is neither a file nor a set on the hub."""
    with pytest.raises(UsageError, match="There is no such file"):
        capability.read(tmp_path / "none.jsonl")
    for name in ("sets/none.jsonl", "arc", str(tmp_path / "none"), "a/b/c"):
        with pytest.raises(UsageError, match="no such file"):
            capability.open_check(name, lambda _: [CHOICE])


def test_a_name_is_a_file_or_a_set_on_the_hub(tmp_path):
    """A file wins; of a set on the hub the configuration names the check, and a wrong row is said by its number."""
    asked = []

    def rows(name):
        asked.append(name)
        return [ARC, {**ARC, "id": "A_2"}]

    assert capability.open_check(str(write(tmp_path, [CHOICE], "own.jsonl")), rows).name == "own"
    assert asked == []
    check = capability.open_check("allenai/ai2_arc:ARC-Easy:test", rows)
    assert (check.name, check.title, len(check.questions)) == ("arc_easy", "ARC-easy", 2)
    assert asked == ["allenai/ai2_arc:ARC-Easy:test"]
    assert capability.open_check("org/lambada_openai", lambda _: [{"text": "a b"}]).title == "LAMBADA"
    with pytest.raises(UsageError, match="row 2"):
        capability.open_check("org/set", lambda _: [CHOICE, {}])


def test_a_folder_of_data_is_loaded_as_the_hub_is(tmp_path, monkeypatch):
    """The rows of a set come from its named split, or from the validation split before others."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    from raft.backends import hub

    write(tmp_path, [{**CHOICE, "id": "v"}], "set/validation.jsonl")
    write(tmp_path, [{**CHOICE, "id": "t"}], "set/test.jsonl")
    folder = str(tmp_path / "set")
    assert hub.rows(folder) == [{**CHOICE, "id": "v"}]
    assert hub.rows(f"{folder}::test") == [{**CHOICE, "id": "t"}]
    with pytest.raises(UsageError, match="no split dev, but"):
        hub.rows(f"{folder}::dev")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UsageError, match="cannot be loaded"):
        hub.rows(str(tmp_path / "bare"))


def frame(answers):
    """Return a frame as `measure` does."""
    return pl.DataFrame(
        {"question_id": list(answers), "correct": [float(one) for one in answers.values()]}, schema=capability.SCHEMA
    )


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_a_comparison_is_paired_by_question(answers, order):
    """Shares and their difference are those of the same questions, in whatever order they come."""
    before = frame({f"q{number}": one for number, (one, _) in enumerate(answers)})
    after = frame({f"q{number}": one for number, (_, one) in enumerate(answers)})
    check = capability.Check("own", "Own", "accuracy", ())
    found = capability.compare(check, before, after[order.sample(range(len(after)), len(after))])
    assert list(found) == ["title", "measure", "questions", "before", "after", "change"]
    assert (found["title"], found["measure"], found["questions"]) == ("Own", "accuracy", len(answers))
    assert found["before"] == pytest.approx(sum(one for one, _ in answers) / len(answers))
    assert found["after"] == pytest.approx(sum(one for _, one in answers) / len(answers))
    assert found["change"].value == pytest.approx(found["after"] - found["before"])
    assert found["change"].low - 1e-9 <= found["change"].value <= found["change"].high + 1e-9


@pytest.mark.parametrize("after", [{"a": 1}, {"a": 1, "c": 0}, {"a": 1, "b": 0, "c": 1}])
def test_other_questions_are_not_compared(after):
    """Two models that were asked different questions are not compared."""
    check = capability.Check("own", "Own", "accuracy", ())
    with pytest.raises(RaftError, match="not asked the same questions of Own"):
        capability.compare(check, frame({"a": 1, "b": 0}), frame(after))


def test_the_likeliest_label_is_chosen():
    """Each context gets the label that most likely follows, with a space where one is needed."""
    scorer = Believer("Grade: low", "Is it?\nyes", "maybe")
    assert capability.choose(scorer, ["Grade:"], ["high", "low"]) == ["low"]
    assert capability.choose(scorer, ["Is it?\n", "Is it? ", ""], ["no", "yes", "maybe"]) == ["yes", "no", "maybe"]
    assert ("Grade:", " low") in scorer.asked
    assert ("Is it?\n", "yes") in scorer.asked
    assert capability.choose(scorer, [], ["no"]) == []


def test_labels_must_be_given():
    """No labels, or an empty one, is an error."""
    for labels in ([], ["yes", " "]):
        with pytest.raises(UsageError, match="Labels"):
            capability.choose(Believer(), ["Is it?"], labels)
