"""The blind comparison: what an expert sees, what is kept from them, and what their ratings say."""

import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from browser import lines_of_picture, needs_chromium, rendered
from raft.errors import UsageError
from raft.evaluation import human

HOSTILE = "</script><img src=x onerror=alert(1)>'\"&$pairs"
QUESTIONS = [
    {
        "question_id": f"q{number:02}",
        "question": f"How long may goods of region {number} be returned?",
        "document": f"policies/region-{number}.md",
        "golden": f"Goods of region {number} may be returned within {number + 10} days." if number % 3 else "",
    }
    for number in range(60)
]
CONTENDER = {row["question_id"]: f"{number + 10} days" for number, row in enumerate(QUESTIONS)}
BASELINE = {row["question_id"]: f"{number + 20} days, I think" for number, row in enumerate(QUESTIONS)}


def drawn(n=50, seed=7, questions=QUESTIONS, system=CONTENDER, baseline=BASELINE):
    """Return pairs of the everyday answers."""
    return human.pairs(questions, system, baseline, n, seed)


PAIRS = drawn()


class Page(HTMLParser):
    """A page's elements with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, name, attributes):
        """Note an element."""
        self.elements.append((name, dict(attributes)))

    def handle_data(self, data):
        """Note text."""
        self.texts.append(data)

    def named(self, name):
        """Return the attributes of all elements of a name."""
        return [attributes for one, attributes in self.elements if one == name]


def write(path, rows):
    """Write ratings as the page does and return their path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def side_of(pair, answers):
    """Return the side, "a" or "b", on which a pair shows the answer of one of the two arms."""
    return "a" if pair.a == answers[pair.question_id] else "b"


def test_pairs_are_drawn_and_shuffled_by_the_seed():
    """The seed alone says which pairs are drawn, in which order and on which side, not the order of the questions."""
    assert drawn(questions=QUESTIONS[::-1]) == PAIRS
    assert len(PAIRS) == len({pair.pair_id for pair in PAIRS}) == 50
    order = [pair.question_id for pair in PAIRS]
    assert order != sorted(order)
    assert [pair.question_id for pair in drawn(seed=8)] != order
    assert drawn(n=10) == PAIRS[:10]
    assert drawn(n=1000)[:50] == PAIRS


def test_both_sides_are_drawn():
    """The contender stands on either side, and a question's side does not depend on the other questions."""
    sides = Counter(side_of(pair, CONTENDER) for pair in drawn(n=60))
    assert min(sides["a"], sides["b"]) >= 15
    few = {pair.question_id: pair for pair in drawn(questions=QUESTIONS[:5])}
    assert all(few[pair.question_id] == pair for pair in drawn(n=60) if pair.question_id in few)
    assert len(few) == 5


def test_questions_without_a_choice_are_left_out():
    """A question that only one arm answered, or to which both say the same, makes no pair."""
    said = {**BASELINE, "q03": CONTENDER["q03"].upper() + " \n"}
    del said["q04"]
    assert {f"q{n:02}" for n in range(60)} - {pair.question_id for pair in drawn(n=60, baseline=said)} == {"q03", "q04"}


def test_the_page_does_not_tell_which_side_is_which():
    """Neither question ids nor the seed stand in the page, and swapping the arms changes only sides and pair ids."""
    page = human.page(drawn(seed=918273))
    assert "918273" not in page
    assert not re.search(r"\bq\d\d\b|contender|baseline", re.sub(r"(?s)<style>.*?</style>", "", page))
    swapped = {pair.question_id: pair for pair in drawn(system=BASELINE, baseline=CONTENDER)}
    for pair in PAIRS:
        other = swapped[pair.question_id]
        assert (pair.a, pair.b) == (other.b, other.a)
        assert pair.pair_id != other.pair_id


PARAGRAPH = "According to the documents, goods of that region may be returned within {} days [2]. Do keep the receipt."


def test_both_answers_are_shown_in_one_form():
    """Preamble and citations go from either side and no sentence does; what reads the same then makes no pair."""
    wordy = {key: PARAGRAPH.format(number + 20) for number, key in enumerate(BASELINE)}
    wordy["q05"] = "Based on the provided documents, the answer is **15 days** [1]"
    whole = drawn(n=60, baseline=wordy)
    shown = human.in_one_form(whole)
    assert {pair.question_id for pair in whole} - {pair.question_id for pair in shown} == {"q05"}
    assert {pair.pair_id for pair in shown} < {pair.pair_id for pair in whole}
    kept = r"\d\d days|goods of that region may be returned within \d\d days\. Do keep the receipt\."
    assert all(re.fullmatch(kept, side) for pair in shown for side in (pair.a, pair.b))
    page = human.page(shown)
    assert "According" not in page and "[2]" not in page


@pytest.mark.parametrize(
    "right",
    [
        "Members under 18 pay 20 euros; adults pay 45 euros.",
        "The warranty is 12 years for the frame and 3 years for the fabric.",
        "It closes at 6 p.m. on weekdays and at 8 p.m. on Saturdays.",
        "First, you should contact support. Then wait 5 days.",
        "In addition to the required documents, you need a passport.",
        "Certainly. Within 30 days.",
    ],
)
def test_a_right_answer_is_shown_whole(right):
    """People and judge see all that an answer says: what a rule chooses from it may be wrong."""
    rows = [{"question_id": "q", "question": "How much do adults pay, for how many years, and when does it close?"}]
    (pair,) = human.in_one_form(human.pairs(rows, {"q": "45 euros"}, {"q": right}, 1, 3))
    assert {pair.a, pair.b} == {"45 euros", right}


def test_the_two_sides_of_a_pair_are_the_same_elements():
    """Nothing in the page's elements tells the order of the two answers, or how long they were."""
    rows = [{"question_id": "q", "question": "How long may it be kept?"}]
    elements = []
    for mine, other in (("30 days", PARAGRAPH.format(40)), (PARAGRAPH.format(40), "30 days")):
        page = Page(human.page(human.in_one_form(human.pairs(rows, {"q": mine}, {"q": other}, 1, 3))))
        ids = {one["data-pair"] for one in page.named("article")}
        hidden = [
            (name, {key: "…" if value in ids else value for key, value in own.items()}) for name, own in page.elements
        ]
        elements.append([(name, own) for name, own in hidden if name != "body"])
    assert elements[0] == elements[1]


def test_the_page_shows_each_pair_with_its_choices():
    """Each pair has its question, the text with the answer, both answers, and four choices to make by keyboard."""
    page = Page(human.page(PAIRS, title="Returns"))
    said = " ".join(page.texts)
    for pair in PAIRS:
        assert said.count(pair.question) == 1
        assert pair.golden in said
        assert pair.a in said and pair.b in said
    choices = Counter(one["name"] for one in page.named("input") if one["type"] == "radio")
    assert choices == dict.fromkeys((pair.pair_id for pair in PAIRS), 4)
    assert len(page.named("label")) == 4 * len(PAIRS)
    assert len(page.named("fieldset")) == len(page.named("legend")) == len(PAIRS)
    assert len(page.named("details")) == sum(bool(pair.golden) for pair in PAIRS)
    assert page.elements[0] == ("html", {"lang": "en"})
    assert not [one for _, one in page.elements if {"src", "href", "action", "style"} & one.keys()]


@given(st.text(), st.text(), st.text())
def test_no_text_becomes_an_element(question, answer, golden):
    """Whatever questions, answers and documents say, the page's elements are the same."""
    elements = []
    for tail in ("", HOSTILE):
        row = {
            "question_id": "q",
            "question": "x" + question + tail,
            "document": "d" + tail,
            "golden": "g" + golden + tail,
        }
        pairs = human.pairs([row], {"q": "yes " + answer + tail}, {"q": "no " + answer + tail}, 1, 0)
        page = Page(human.page(pairs, title="t" + tail))
        elements.append([(name, list(one)) for name, one in page.elements])
    assert elements[0] == elements[1]


def test_a_page_without_pairs_is_refused():
    """Where both arms say the same throughout, there is nothing to rate, and that is said."""
    with pytest.raises(UsageError, match="no pair"):
        human.page(drawn(baseline=CONTENDER))


CHOICES = st.sampled_from(["contender", "baseline", "tie", "both wrong", None])


@given(st.lists(CHOICES, min_size=60, max_size=60).filter(any), st.integers(0, 2**32))
def test_ratings_are_read_back_for_the_right_arm(tmp_path_factory, chosen, seed):
    """What experts choose is counted for the arm whose answer stood there, with no more than the seed as the key."""
    pairs, rows = drawn(n=60, seed=seed), []
    for pair, choice in zip(pairs, chosen, strict=True):
        arms = {"contender": side_of(pair, CONTENDER), "baseline": side_of(pair, BASELINE)}
        if choice:
            rows.append({"pair_id": pair.pair_id, "choice": arms.get(choice, choice)})
    path = write(tmp_path_factory.mktemp("ratings") / "ratings.jsonl", rows[::-1])
    counts = Counter(chosen)
    assert human.count(human.read_ratings(path, pairs), pairs, seed) == {
        "pairs": 60,
        "rated": len(rows),
        "wins": counts["contender"],
        "losses": counts["baseline"],
        "ties": counts["tie"],
        "both_wrong": counts["both wrong"],
    }


GOOD = {"pair_id": PAIRS[0].pair_id, "choice": "a"}
BAD = [
    ("{", "not JSON"),
    ("[1]", "no pair_id"),
    ('{"choice": "a"}', "no pair_id"),
    ('{"pair_id": 7, "choice": "a"}', "no pair_id"),
    (json.dumps({"pair_id": PAIRS[1].pair_id, "choice": "c"}), "'c' is none of a, b, tie, both wrong"),
    (json.dumps({"pair_id": PAIRS[1].pair_id, "choice": ["a"]}), "is none of"),
    (json.dumps({"pair_id": PAIRS[1].pair_id}), "None is none of"),
    (json.dumps({"pair_id": "0123456789abcdef", "choice": "a"}), "not one of these 50 pairs"),
    (json.dumps(GOOD), "rated twice, first in line 1"),
]


@pytest.mark.parametrize(("line", "what"), BAD)
def test_a_bad_line_is_named(line, what, tmp_path):
    """A line that is no rating of these pairs is refused with its number."""
    path = tmp_path / "ratings.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape(what)) as caught:
        human.read_ratings(path, PAIRS)
    assert caught.value.where == f"{path}, line 3"


def test_ratings_of_other_answers_are_refused(tmp_path):
    """Ratings of a page whose answers have changed since, or that had another seed, are not counted."""
    path = write(tmp_path / "ratings.jsonl", [GOOD])
    assert human.read_ratings(path, PAIRS) == {GOOD["pair_id"]: "a"}
    changed = {key: answer + "!" for key, answer in CONTENDER.items()}
    for other in (drawn(system=changed), drawn(seed=8)):
        with pytest.raises(UsageError, match="not one of these"):
            human.read_ratings(path, other)


def test_the_ratings_of_a_run_only_grow(tmp_path):
    """What was chosen once stays in the run's file; another choice for the same pair comes after it and counts."""
    path, first, second = tmp_path / "ratings.jsonl", PAIRS[0].pair_id, PAIRS[1].pair_id
    assert human.kept_ratings(path) == {}
    for chosen in ({first: "a"}, {first: "a"}, {second: "tie"}, {first: "b"}):
        path.write_text(human.added_ratings(path, chosen), encoding="utf-8")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["pair_id"], line["choice"]) for line in lines] == [(first, "a"), (second, "tie"), (first, "b")]
    assert human.kept_ratings(path) == {first: "b", second: "tie"}


@pytest.mark.parametrize(
    ("written", "what"), [(None, "cannot be read"), (b"", "no rating"), (b"\xff\n", "cannot be read")]
)
def test_a_file_without_ratings_is_refused(written, what, tmp_path):
    """A file that is missing, empty or no text is named in an error."""
    path = tmp_path / "ratings.jsonl"
    if written is not None:
        path.write_bytes(written)
    with pytest.raises(UsageError, match=what) as caught:
        human.read_ratings(path, PAIRS)
    assert str(path) in caught.value.where


def test_a_file_that_an_editor_touched_is_read(tmp_path):
    """A byte order mark, Windows line ends and blank lines do no harm."""
    path = tmp_path / "ratings.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert human.read_ratings(path, PAIRS) == {GOOD["pair_id"]: "a"}


@needs_chromium
def test_what_is_chosen_in_a_browser_is_saved_and_kept(tmp_path):
    """The save button hands out the choices as ratings that can be read, and the browser keeps them."""
    then = """
      const texts = [];
      URL.createObjectURL = (blob) => { texts.push(blob.text()); return "#"; };
      const pairs = [...document.querySelectorAll("article")];
      pairs[0].querySelector("input[value=a]").click();
      pairs[2].querySelector("input[value=a]").click();
      pairs[2].querySelector("input[value=b]").click();
      pairs[3].querySelector("input[value='both wrong']").click();
      document.getElementById("next").click();
      document.body.dataset.next = document.activeElement.name;
      document.getElementById("save").click();
      document.body.dataset.kept = Object.values(localStorage).join();
      texts[0].then((text) => { document.body.dataset.saved = text; });
    """
    page = Page(rendered(human.page(PAIRS), tmp_path, then=then))
    body = page.named("body")[0]
    assert body["data-next"] == PAIRS[1].pair_id
    assert "3 of 50 rated" in page.texts
    saved = tmp_path / "ratings.jsonl"
    saved.write_text(body["data-saved"], encoding="utf-8")
    rows = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()]
    places = ((0, "a"), (2, "b"), (3, "both wrong"))
    assert rows == [{"pair_id": PAIRS[place].pair_id, "choice": choice} for place, choice in places]
    assert json.loads(body["data-kept"]) == {row["pair_id"]: row["choice"] for row in rows}
    assert len(human.read_ratings(saved, PAIRS)) == 3


@needs_chromium
def test_the_page_is_seen_and_runs_under_its_own_policy(tmp_path):
    """A picture of the page is not blank, and its script runs although no other may."""
    page = human.page(drawn(system={key: said + HOSTILE for key, said in CONTENDER.items()}))
    seen = Page(rendered(page, tmp_path))
    assert "0 of 50 rated" in seen.texts
    assert seen.named("img") == []
    assert len(set(lines_of_picture(page, tmp_path, width=1280, height=900))) > 200
