"""The report: one page that is complete, harmless and readable, and its summary for a pull request."""

import base64
import copy
import csv
import hashlib
import io
import itertools
import json
import math
import random
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from browser import lines_of_picture, needs_chromium, rendered
from raft.cli import benchmarks
from raft.report import figures, report
from raft.report import page as pages
from raft.report.page import cell, sentence

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028<!--<script>'\"&$title|${run}"
ARMS = {
    "closed": ("model alone", False, "none", 0.08),
    "closed_few": ("model alone, few-shot", False, "none", 0.11),
    "rag": ("plain RAG", False, "retrieved", 0.31),
    "rag_few": ("plain RAG, few-shot", False, "retrieved", 0.352),
    "golden": ("model with the right text given", False, "golden", 0.52),
    "tuned_closed": ("tuned model alone", True, "none", 0.14),
    "raft": ("tuned + RAG", True, "retrieved", 0.461),
    "tuned_golden": ("tuned, with the right text given", True, "golden", 0.64),
    "other": ("tuned without distractors + RAG", True, "retrieved", 0.40),
    "previous": ("adapter in use until now + RAG", True, "retrieved", 0.43),
    "model:SmolLM2-1.7B-Instruct": ("SmolLM2-1.7B-Instruct + RAG", False, "retrieved", 0.49),
}
SETS = {"user": (36, 24), "eval_seen": (12, 9), "eval_unseen": (12, 30)}


def interval(value, width=0.06, questions=36, groups=24):
    """Return the JSON form of an interval, or None for no value."""
    if value is None:
        return None
    low, high = max(-1.0, value - width), min(1.0, value + width)
    return {"value": value, "low": low, "high": high, "questions": questions, "groups": groups}


def scores(name, value, questions, groups):
    """Return the scores of an arm on a set; some are not measured."""
    given_none = ARMS[name][2] == "none"
    made = {
        "f1": value,
        "exact_match": value * 0.6,
        "contains": min(1, value * 1.1),
        "rouge_l": value * 0.97,
        "fact_accuracy": None if name == "closed" else value * 0.9,
        "accuracy": None,
        "macro_f1": None,
        "quote_support": None if given_none else min(1.0, 0.5 + value),
        "citation_precision": None if given_none else min(1.0, 0.4 + value),
        "supported": None if given_none else min(1.0, 0.45 + value),
        "false_refusals": 0.2 - value / 5,
        "false_answers": None if given_none else 0.9 - value,
        "followed": min(1.0, 0.5 + value),
    }
    found = {key: interval(one, questions=questions, groups=groups) for key, one in made.items()}
    found["against"] = None if name == "rag_few" else {"f1": interval(value - 0.352, 0.05, questions, groups)}
    return found


def arm(name):
    """Return an arm of a benchmark."""
    title, tuned, context, value = ARMS[name]
    large = name.startswith("model:")
    return {
        "name": name,
        "title": title,
        "model": "HuggingFaceTB/SmolLM2-1.7B-Instruct" if large else "HuggingFaceTB/SmolLM2-135M-Instruct",
        "adapter": "3fa9c1d2e4b5" if tuned else None,
        "prompt": "answer",
        "prompt_digest": "b1946ac92492d2347c6235b4d2611184",
        "exemplars": 4 if name.endswith("_few") else 0,
        "context": context,
        "tuned": tuned,
        "sets": {one: scores(name, value, *sizes) for one, sizes in SETS.items() if one == "user" or not large},
        "tokens": {"input": 61.0 if context == "none" else 812.3, "output": 40.1},
        "cost_per_thousand": None if large else 0.1234,
        "questions_per_second": None if name == "other" else 1.4,
        "latency": None if large else {"median": 1.2, "p95": 2.04, "questions": 50},
    }


def question(number, draw):
    """Return a question with an answer of each arm; the last two are asked without their text."""
    name = "user" if number < 36 else "eval_seen" if number < 48 else "eval_unseen"
    days = draw.randrange(5, 60)
    said = {}
    for one, (_, _, _, value) in ARMS.items():
        right, abstained = draw.random() < value, draw.random() < 0.1
        said[one] = {
            "condition": "withheld" if number >= 58 else "answerable",
            "answer": "The documents do not answer this question."
            if abstained
            else f"{days if right else days + 3} days",
            "quotes": [f"Goods may be returned within {days} days of delivery."] if right and not abstained else [],
            "f1": 0.0 if abstained else 1.0 if right else 0.5,
            "exact_match": 1.0 if right and not abstained else 0.0,
            "abstained": abstained,
            "supported": None if abstained else right,
            "shown": [] if ARMS[one][2] == "none" else [f"c{number % 24}", "c-lost"],
            "why": "Abstained."
            if abstained
            else "Same number as the reference."
            if right
            else f"{days + 3} is not {days}.",
        }
    return {
        "question_id": f"q{number:03}",
        "question_set": name,
        "question": f"How long may a customer of region {number} return goods that were opened?",
        "document": f"policies/region-{number % 24}.md",
        "references": [f"{days} days", f"within {days} days of delivery"],
        "golden": f"Region {number}\n\nGoods may be returned within {days} days of delivery." if number % 7 else "",
        "retrieved_bearing": None if number % 11 == 0 else number % 5 != 0,
        "answers": {key: answer for key, answer in said.items() if not (key.startswith("model:") and number >= 36)},
    }


def benchmark():
    """Return what a benchmark.json holds: 11 arms, 60 questions, and some figures that were not measured."""
    draw = random.Random(0)
    curve = [{"step": step, "epoch": step / 50, "loss": 0.7 + 1.4 * 0.97**step} for step in range(5, 101, 5)]
    curve += [
        {"step": step, "epoch": step / 50, "valid_loss": 1.0 + abs(step - 60) / 150} for step in range(20, 101, 20)
    ]
    return {
        "format": 1,
        "raft": "0.2.0",
        "date": "2026-11-22",
        "run": "runs/handbook",
        "hardware": "2 cores, 24 GiB",
        "k": 5,
        "seconds": 1834.2,
        "verdict": {
            "decision": "ship",
            "reasons": [
                "The gain's interval (+5.9 to +15.9) lies above zero.",
                "False answers fell from 54.8 to 43.9.",
                "General capability lost 1.0, less than the 2.0 that are allowed.",
            ],
            "measure": "f1",
            "question_set": "user",
            "contender": "raft",
            "baseline": "rag_few",
            "gain": interval(0.109, 0.05),
            "headroom": {"golden": 0.52, "retrieved": 0.352, "missed": 0.12},
            "advice": 'Ship the tuned model: raft ask runs/handbook "a question of yours"',
        },
        "question_sets": [
            {
                "name": name,
                "questions": questions,
                "withheld": questions // 5,
                "documents": groups,
                "written_by": "people" if name == "user" else "a model",
                "digest": "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab",
            }
            for name, (questions, groups) in SETS.items()
        ],
        "arms": [arm(name) for name in ARMS],
        "baseline_tuning": [
            {"arm": "rag_few", "exemplars": n, "split": "valid", "f1": f1, "questions": 40, "chosen": n == 4}
            for n, f1 in ((0, 0.29), (2, 0.31), (4, 0.34), (8, None))
        ],
        "retrieval": {
            name: {
                "recall": {str(k): interval(0.5 + k / 12, 0.05, *sizes) for k in (1, 3, 5)},
                "mrr": interval(0.66, 0.05, *sizes),
                "ndcg": interval(0.7, 0.05, *sizes) if name != "eval_seen" else None,
                "bearing": sizes[0] - 2,
            }
            for name, sizes in SETS.items()
        },
        "capability": {
            "arc_easy": {
                "title": "ARC-easy",
                "measure": "accuracy",
                "questions": 570,
                "before": 0.41,
                "after": 0.40,
                "change": interval(-0.01, 0.012, 570, 570),
            },
            "hellaswag": {
                "title": "HellaSwag",
                "measure": "accuracy",
                "questions": 400,
                "before": 0.43,
                "after": None,
                "change": None,
            },
        },
        "training": {
            "adapter": "3fa9c1d2e4b5",
            "base": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "rows": 400,
            "valid": 40,
            "seconds": 512.0,
            "curve": sorted(curve, key=lambda point: point["step"]),
            "best_step": 60,
            "hardware": "2 cores, 24 GiB",
        },
        "economics": {
            "training_seconds": 512.0,
            "build_cost": 0.0,
            "sentences": ["A larger model of the same quality costs $1.10 a thousand questions."],
            "break_even_questions": None,
        },
        "blind": {
            "pairs": 50,
            "rated": 48,
            "wins": 20,
            "losses": 15,
            "ties": 13,
            "win_rate": interval(0.55, 0.13, 48, 22),
        },
        "questions": [question(number, draw) for number in range(60)],
        "passages": {
            f"c{number}": {
                "document": f"policies/region-{number}.pdf",
                "page": number or None,
                "title": "Returns > Opened goods",
                "text": f"Goods of region {number} may be returned.",
            }
            for number in range(24)
        },
        "wrong_references": [{"question_id": "q099", "question": "What is the limit of region 99?"}],
        "earlier": [
            {
                "date": "2026-10-02",
                "adapter": "0a1b2c3d4e5f",
                "decision": "investigate",
                "question_set": "user",
                "measure": "f1",
                "gain": interval(0.043),
                "contender": interval(0.39),
                "baseline": None,
            }
        ],
    }


class Page(HTMLParser):
    """A page's elements with their attributes, in order, and its texts outside of scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.inside = [], [], {}
        self._open = None
        self.feed(html)
        self.close()

    def handle_starttag(self, name, attributes):
        """Note an element."""
        self.elements.append((name, dict(attributes)))
        self._open = name

    def handle_endtag(self, name):
        """Note that text belongs to no script any more."""
        self._open = None

    def handle_data(self, data):
        """Note text, that of scripts and styles apart."""
        if self._open in ("script", "style", "title"):
            self.inside.setdefault(self._open, []).append(data)
        else:
            self.texts.append(data)

    def named(self, name):
        """Return the attributes of all elements of a name."""
        return [attributes for one, attributes in self.elements if one == name]

    def text(self):
        """Return the page's text with white space collapsed."""
        return " ".join(" ".join(self.texts).split())


def poisoned(facts, key=None):
    """Return facts with the hostile string behind each string; names of arms, sets and benchmarks change everywhere."""
    if isinstance(facts, dict):
        tail = HOSTILE if key in ("answers", "sets", "retrieval", "capability") else ""
        return {name + tail: poisoned(value, name) for name, value in facts.items()}
    if isinstance(facts, list):
        return [poisoned(one, key) for one in facts]
    return facts + HOSTILE if isinstance(facts, str) and key not in ("measure", "condition") else facts


FACTS = benchmark()
HTML = report.html(FACTS)


def test_a_benchmark_without_parts_is_still_told():
    """What an earlier raft measured, without form, substance, sections or a judge, is shown as it was, on each way."""
    assert not {"form", "substance", "resampled"} & FACTS["verdict"].keys() and "judge" not in FACTS
    page, told = report.html(FACTS), benchmarks.benchmark(FACTS)
    assert 'id="parts"' not in page and 'id="judge"' not in page and "of substance" not in report.markdown(FACTS)
    assert told.startswith(f"Verdict: {FACTS['verdict']['decision']}, gain ") and "of substance" not in told
    assert f"neither {FACTS['blind']['ties']} times" in page and f"neither {FACTS['blind']['ties']} times" in told


def test_what_pairings_reached_is_told_as_all_figures_are():
    """Page, summary and terminal have the same pairings; each figure of the page says what it rests on."""
    row = {"reader": True, "retriever": False, "refusal": False, "used": True}
    row |= {"f1": interval(0.47), "false_answers": interval(0.25, questions=7), "false_refusals": None}
    parts = {
        "measure": "f1",
        "by_rule": True,
        "rows": [row],
        "adds": {"reader": {name: row[name] for name in list(row)[4:]}},
    }
    facts = {**FACTS, "parts": parts}
    page, told = report.html(facts), benchmarks.benchmark(facts)
    assert '<th scope="row">tuned*</th><td>untuned</td><td>by rule</td>' in page
    assert 'title="7 questions, resampled in 24 groups">19.0 to 31.0</span>' in page
    assert (
        "| tuned\\* | untuned | by rule | 47.0 (41.0 to 53.0) | 25.0 (19.0 to 31.0) | not measured |"
        in report.markdown(facts)
    )
    assert re.search(
        r"tuned\* +untuned +by rule +47\.0 \(41\.0 to 53\.0\) +25\.0 \(19\.0 to 31\.0\) +not measured", told
    )


def test_the_verdict_stands_first_in_plain_words():
    """The page begins with the decision, the gain with its interval, and what to do next."""
    said = Page(HTML).text()
    first = ["Ship the tuned model.", "+10.9", "+5.9 to +15.9", "What to do next", "raft ask runs/handbook", "Why"]
    places = [said.index(words) for words in first]
    assert places == sorted(places)
    headings = re.findall(r"<h2>(?:<span.*?</span> )?(.*?)</h2>", HTML)
    assert headings == [
        *("Ship the tuned model.", "All systems", "What kind of failure", "General capability", "Training"),
        *("Cost, tokens and latency", "Earlier benchmarks of this run", "Fairness of the comparison", "Every question"),
    ]


def test_the_page_is_well_formed():
    """The page has a language, one title and one heading of the first level, and each table header its scope."""
    page = Page(HTML)
    assert page.elements[0] == ("html", {"lang": "en"})
    assert page.inside["title"][0] == "handbook: Ship the tuned model."
    assert len(page.named("h1")) == 1
    assert page.named("th")
    assert {attributes.get("scope") for attributes in page.named("th")} == {"row", "col"}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for attributes in page.named("a")} <= set(ids)
    assert all(
        {"role", "aria-label", "tabindex"} <= one.keys() for one in page.named("div") if one.get("class") == "scroll"
    )


def test_the_page_loads_nothing():
    """No element refers to anything outside of the page, and its policy allows its own script and no other."""
    page = Page(HTML)
    for name, attributes in page.elements:
        assert name not in ("link", "img", "iframe", "object", "embed", "base", "audio", "video"), name
        assert not {"src", "srcset", "action", "data", "style"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in HTML and "@import" not in HTML
    policy = next(one["content"] for one in page.named("meta") if one.get("http-equiv") == "Content-Security-Policy")
    script = page.inside["script"][-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_page_is_complete_without_a_script():
    """All arms, measures and settings stand in the page's markup; of the questions it says that they need a script."""
    said = Page(HTML).text()
    for title, *_ in ARMS.values():
        assert said.count(title) >= 4, title
    for words in (
        "46.1",
        "40.1 to 52.1",
        "−1.0",
        "−2.2 to +0.2",
        "91.7",
        "812.3",
        "2.04 s",
        "$0.12",
        "8 min 32 s",
        "written by",
        "9c56cc51b374c3ba",
        "people",
        "chosen",
        "20 times",
        "Not measured: accuracy, macro F1.",
    ):
        assert words in said, words
    assert "60 questions needs JavaScript" in said
    assert {one.get("hidden", "shown") for one in Page(HTML).named("form")} == {None}


def test_no_word_of_the_files_is_shown_to_a_person():
    """Page and summary speak of systems by their titles, never of arms, and say which questions are left out."""
    for said in (Page(HTML).text(), report.markdown(FACTS)):
        assert not re.search(r"\b[Aa]rms?\b", said)
        assert "1 question left out" in said
    assert "2026-10-02 0a1b2c3d4e5f user F1 39.0" in Page(HTML).text()
    bare = report.html({name: one for name, one in FACTS.items() if name not in ("earlier", "wrong_references")})
    assert "Earlier benchmarks" not in bare and "left out" not in Page(bare).text()


@pytest.mark.parametrize("home", ["/srv/quellwerk/runs", "D:\\quellwerk\\runs"])
def test_no_page_tells_where_things_lie(home):
    """Runs and models at absolute paths are called by their names in page, data and summary; commands too."""
    facts = json.loads(json.dumps(FACTS).replace("runs/handbook", json.dumps(f"{home}/handbook")[1:-1]))
    for system in facts["arms"]:
        system["model"] = f"{home}/models/tiny"
        system["title"] = system["title"].replace("SmolLM2-1.7B-Instruct", system["model"])
    facts["training"]["base"] = f"{home}/models/tiny"
    for said in (report.html(facts), report.markdown(facts)):
        assert "quellwerk" not in said
        assert "tiny + RAG" in said and "raft ask handbook" in said


def test_every_answer_is_a_row_of_the_csv():
    """The CSV has a row a question and system, with the places that were shown; no cell is run by a spreadsheet."""
    facts = copy.deepcopy(FACTS)
    facts["questions"][0]["question"] = '=HYPERLINK("x")'
    facts["questions"][0]["references"] = ["-5 °C"]
    rows = list(csv.DictReader(io.StringIO(report.rows_as_csv(facts).removeprefix("\ufeff"))))
    assert len(rows) == sum(len(one["answers"]) for one in facts["questions"])
    ours = [row for row in rows if row["system"] == "tuned + RAG"]
    assert [float(row["f1"]) for row in ours] == [one["answers"]["raft"]["f1"] for one in facts["questions"]]
    assert ours[7]["shown"] == "policies/region-7.pdf, page 7: Returns > Opened goods\nc-lost"
    assert rows[0]["question"] == '\'=HYPERLINK("x")'
    assert rows[0]["references"] == "-5 °C"


def test_hostile_text_creates_no_element():
    """Whatever corpus, models, names and settings say, the page has the elements that it has with harmless text."""
    page, harmless = Page(report.html(poisoned(FACTS))), Page(HTML)
    assert [(name, list(one)) for name, one in page.elements] == [(name, list(one)) for name, one in harmless.elements]
    assert page.inside["script"][-1] == harmless.inside["script"][-1]
    assert page.text().count("onerror=alert(1)") > 100
    data = json.loads(page.inside["script"][0])
    assert data["rows"][0][2] == FACTS["questions"][0]["question"] + HOSTILE


@given(st.text(st.characters(exclude_categories=())))
def test_text_and_data_come_through_a_page_unharmed(said):
    """Any string is read back from the page as text and as data, and no markup can be made of it."""
    whole = said.encode("utf-8", "replace").decode()
    made, harmless = (
        Page(pages.fill("blind", title=one, key=one, pairs=[], choices={})) for one in (f">{said}", "harmless")
    )
    assert [name for name, _ in made.elements] == [name for name, _ in harmless.elements]
    assert f">{whole}" in made.texts
    assert made.named("body") == [{"data-key": f">{whole}"}]
    written = pages.embed({"said": [said]})
    assert not set(written) & set("<>&\u2028\u2029")
    read = json.loads(written.encode("utf-8"))["said"][0]
    assert read.encode("utf-16", "surrogatepass") == said.encode("utf-16", "surrogatepass")


def test_a_template_is_told_all_that_it_shows():
    """A placeholder without a value is an error where the page is made, never a gap that nobody notices."""
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        pages.fill("blind", key="", pairs=[], choices={})


def test_numbers_that_are_none_become_null():
    """What is not finite is null in the page's data, which a browser could not read otherwise."""
    assert pages.embed([math.nan, {"a": (math.inf, 1.5)}]) == '[null,{"a":[null,1.5]}]'


def test_commands_are_set_as_code():
    """What stands between backticks, or behind a colon as a command, is code; a lonely backtick is text."""
    assert pages.code_spans("Type `a<b` now.") == "Type <code>a&lt;b</code> now."
    assert pages.code_spans("Measure: raft bench runs/x") == "Measure: <code>raft bench runs/x</code>"
    assert pages.code_spans("Do: raft train x, then raft bench x") == (
        "Do: <code>raft train x</code>, then <code>raft bench x</code>"
    )
    assert pages.code_spans("a ` b") == "a ` b"


OPTIONAL = ["capability", "training", "blind", "economics", "retrieval", "baseline_tuning", "hardware", "seconds"]


def test_page_and_summary_tell_how_questions_are_worded_and_whether_all_their_documents_are_found():
    """What a build's questions look like, and for how many search brings each document, stands in page and summary."""
    facts = benchmark()
    figure = {"questions": 90, "words": [12, 16, 19], "begin": {"how": 0.4, "<marquee>": 0.1}}
    facts["wording"] = {"generated": {**figure, "overlap": {"of": 80, "mean": 0.84, "all": 0.29}}, "own": figure}
    several = {"questions": 17, "all_found": {"1": interval(0.31), "5": None}}
    facts["retrieval"]["user"]["together"] = several
    page, summary = report.html(facts), report.markdown(facts)
    for said in (page, summary):
        assert "84% of the content words stand in the passage (all of them in 29% of 80)" in said
        assert "they begin with how 40%" in said and "<marquee>" not in said
        assert "user: 17 questions need several documents; all found for 31.0" in said
    facts["wording"] = None
    assert "Wording of the questions" not in report.html(facts)


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_section_that_was_not_measured_is_said_to_be(name):
    """Without one of its sections the page and the summary are made all the same, and say nothing of None."""
    facts = {**FACTS, name: None}
    for said in (Page(report.html(facts)).text(), report.markdown(facts)):
        assert "None" not in said
        assert "not measured" in said


def test_before_tuning_there_is_a_report_too():
    """A benchmark without a tuned model says so, and shows the figures to beat."""
    arms = [one for one in FACTS["arms"] if not one["tuned"]]
    questions = [
        {**one, "answers": {arm: said for arm, said in one["answers"].items() if arm in {a["name"] for a in arms}}}
        for one in FACTS["questions"]
    ]
    changes = {"decision": "not tuned yet", "contender": None, "gain": None, "headroom": None}
    facts = {**FACTS, "arms": arms, "questions": questions, "verdict": {**FACTS["verdict"], **changes}}
    for said in (Page(report.html({**facts, "training": None})).text(), report.markdown(facts)):
        assert "Not tuned yet." in said
        assert "Gain over plain RAG, few-shot: not measured." in said
        assert "None" not in said


def test_too_few_documents_are_not_given_bounds():
    """Under 20 documents the page and the summary say that there are too few to tell, and the dot is hollow."""
    assert figures.full(interval(0.421, groups=19)) == "42.1 (too few to tell)"
    assert figures.full(interval(0.421, groups=20)) == "42.1 (36.1 to 48.1)"
    facts = copy.deepcopy(FACTS)
    facts["verdict"]["gain"]["groups"] = 9
    assert "F1 points 9 documents: too few to tell" in Page(report.html(facts)).text()
    assert "**+10.9 (too few to tell) F1 points**" in report.markdown(facts)
    small = report.html({**FACTS, "verdict": {**FACTS["verdict"], "question_set": "eval_seen"}})
    assert small.count('class="mark few"') > HTML.count('class="mark few"') - 1 > 0


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [
        (0.4205, "42.0", "+42.0"),
        (-0.031, "−3.1", "−3.1"),
        (-0.0004, "0.0", "0.0"),
        (None, "not measured", "not measured"),
        (math.nan, "not measured", "not measured"),
        (1.0, "100.0", "+100.0"),
    ],
)
def test_shares_are_shown_times_100(value, plain, signed):
    """A share is shown times 100 with one decimal, a real minus sign, and no minus before zero."""
    assert figures.share(value) == plain
    assert figures.share(value, signed=True) == signed


def test_fewer_documents_than_asked_for_are_told():
    """Where not all documents fit into a model's context, the line says for how many questions."""
    assert figures.documents_shown({"k": 3, "shortened": 0}) == figures.documents_shown({"k": 3})
    assert figures.documents_shown({"k": 3, "shortened": 1200}).startswith("3 documents a question, fewer for 1,200 q")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3.21, "3.2 s"), (59.99, "1 min 0 s"), (512, "8 min 32 s"), (7384, "2 h 3 min"), (None, "not measured")],
)
def test_durations_are_shown_in_two_units(seconds, said):
    """Seconds are shown in the two greatest units."""
    assert figures.duration(seconds) == said


def test_money_keeps_its_digits():
    """A small amount of money is not rounded to nothing."""
    assert [figures.money(value) for value in (0.0, 0.0123, 1234.5, None)] == [
        "$0.00",
        "$0.0123",
        "$1,234.50",
        "unknown",
    ]


NUMBERS = st.floats(-1e6, 1e6)


@given(st.lists(NUMBERS, max_size=8))
def test_ticks_hold_all_values_at_even_steps(values):
    """The marks of an axis are few, even, and reach from under the least value to above the greatest."""
    marks = report.ticks(values)
    assert 2 <= len(marks) <= 9
    step = marks[1] - marks[0]
    assert step > 0
    assert all(
        math.isclose(after - before, step, rel_tol=1e-6, abs_tol=1e-9) for before, after in itertools.pairwise(marks)
    )
    assert all(marks[0] - 1e-6 * step <= value <= marks[-1] + 1e-6 * step for value in values)


DOTS = st.builds(
    report.Dot,
    *(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])), st.just("1.0")),
    *(st.none() | NUMBERS, st.none() | NUMBERS, st.none() | NUMBERS),
    role=st.sampled_from(["contender", "baseline", "other"]),
    few=st.booleans(),
)


@given(st.lists(DOTS, min_size=1, max_size=5), st.none() | NUMBERS, st.booleans())
def test_a_plot_is_one_picture_inside_its_frame(rows, reference, beside):
    """Whatever the values and labels, the plot is well-formed, and all of it lies between 0 and 100 percent."""
    plot = report.dots(rows, title="a < b", reference=reference, reference_label="base", beside=beside)
    root = ElementTree.fromstring(str(plot).replace("\ufffe", "").replace("\uffff", ""))
    assert root.get("role") == "img" and root.get("aria-label") == "a < b"
    places = [
        value for one in root.iter() for key, value in one.attrib.items() if key in ("x", "x1", "x2") and "%" in value
    ]
    assert all(-0.01 <= float(place.rstrip("%")) <= 100.01 for place in places)
    assert len(root.findall(".//path")) == sum(row.value is not None for row in rows)
    assert len([one for one in root.iter("line") if one.get("class", "").startswith("whisker")]) == sum(
        row.low is not None and row.high is not None for row in rows
    )


POINTS = st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 50)), max_size=6)


@given(POINTS, POINTS, st.none() | st.integers(0, 10_000))
def test_a_loss_curve_has_a_point_for_each_measurement(train, valid, best):
    """The curve is well-formed, holds each step of both lines in its frame, and a dot for each validation."""
    root = ElementTree.fromstring(report.curve(train, valid, title="Loss", best=best))
    lines = {one.get("class"): one.get("points").split() for one in root.iter("polyline")}
    assert [len(lines["train"]), len(lines["valid"])] == [len(train), len(valid)]
    numbers = [float(number) for line in lines.values() for point in line for number in point.split(",")]
    assert all(-0.1 <= number <= 1000.1 for number in numbers)
    assert len(root.findall(".//path")) == len(valid) + (len(train) == 1) * len(train)


def cells(row):
    """Return the cells of a row of a Markdown table."""
    return re.split(r"(?<!\\)(?:\\\\)*\|", row)[1:-1]


def test_the_summary_has_the_figures_of_the_arms():
    """The summary begins with the verdict, and has each arm of the primary set with its figures."""
    said = report.markdown(FACTS)
    assert said.startswith("## raft: Ship the tuned model.\n")
    assert "**+10.9 (+5.9 to +15.9) F1 points**: tuned + RAG against plain RAG, few-shot" in said
    row = next(line for line in said.splitlines() if "(contender)" in line)
    assert [one.strip() for one in cells(row)][1:] == [
        "46.1 (40.1 to 52.1)",
        "27.7",
        "43.9",
        "10.8",
        "1.20 s",
        r"\$0.12",
    ]
    assert "| ARC-easy | 41.0 | 40.0 | −1.0 (−2.2 to +0.2) |" in said
    assert '`raft ask runs/handbook "a question of yours"`' in said
    assert "400 rows, 8 min 32 s, least validation loss 1.000." in said
    assert all(title in said for title, *_ in ARMS.values())


def test_no_name_breaks_a_table_of_the_summary():
    """Each row of the summary's tables has as many cells as its head, whatever arms and benchmarks are called."""
    said = report.markdown(poisoned(FACTS))
    widths = [len(cells(line)) for line in said.splitlines() if line.startswith("|")]
    assert sorted(set(widths)) == sorted({7, 4})
    assert len(widths) == (2 + 11) + (2 + 2) + (2 + 3)
    assert "<img" not in re.sub(r"`[^`]*`", "", said).replace("\\<img", "")  # in code it is text


@given(st.text())
def test_a_cell_is_one_line_without_a_border(said):
    """A cell of a table is one line, and reads back as what it was but for white space."""
    made = cell(said)
    assert len(made.splitlines()) <= 1
    assert len(cells(f"| {made} |")) == 1
    assert re.sub(r"\\([\\`*_\[\]<>|~#&$])", r"\1", made) == " ".join(said.split())


def test_a_command_in_the_summary_is_code():
    """A sentence keeps its code, and shows other markup as it is."""
    assert sentence("Train *more*: raft train runs/x") == r"Train \*more\*: `raft train runs/x`"
    assert sentence("Try `a_b` on a_b.") == r"Try `a_b` on a\_b."
    assert sentence("one ` tick") == r"one \` tick"


@needs_chromium
def test_the_table_of_questions_is_rendered_and_hostile_text_stays_text(tmp_path):
    """In a browser, under the page's own policy, each question becomes a row, and no text becomes an element."""
    page = Page(rendered(report.html(poisoned(FACTS)), tmp_path))
    assert page.named("img") == []
    assert len([one for one in page.named("tr") if one.get("role") == "row"]) == 1 + 60
    assert (
        page.text().count("How long may a customer of region 7 return goods that were opened?</script><img src=x") == 1
    )
    assert "60 of 60 matching questions shown, 60 in all" in page.text()


CHECKS = """
const said = [];
const count = () => document.querySelectorAll("#rows tr").length;
const later = (change) => new Promise((done) => { change(); setTimeout(() => { said.push(count()); done(); }, 400); });
const choose = (id, value) => later(() => {
  const control = document.getElementById(id);
  control.value = value;
  control.dispatchEvent(new Event(id === "filter" ? "input" : "change"));
});
(async () => {
  %s
  document.body.dataset.said = JSON.stringify(said);
})();
"""


def checked(facts, tmp_path, script):
    """Return how many rows a page shows after each step of a script."""
    page = Page(rendered(report.html(facts), tmp_path, then=CHECKS % script))
    return json.loads(page.named("body")[0]["data-said"])


@needs_chromium
def test_questions_can_be_filtered(tmp_path):
    """The text filter, the question set, the outcome and the arms choose the rows that are shown."""

    def score(row, arm):
        said = row["answers"][arm]
        return float(said["abstained"]) if said["condition"] == "withheld" else said["f1"]

    rows = FACTS["questions"]
    better = sum(score(row, "raft") > score(row, "rag_few") for row in rows)
    over_closed = sum(score(row, "raft") > score(row, "closed") for row in rows)
    abstained = sum(row["answers"]["raft"]["abstained"] for row in rows)
    assert 0 < better != over_closed and abstained > 0
    steps = """
      await choose("filter", "REGION-7.md opened");
      await choose("filter", "");
      await choose("set", "eval_seen");
      await choose("set", "");
      await choose("outcome", "better");
      await choose("second", "closed");
      await choose("outcome", "abstained");
      await choose("outcome", "");
      await choose("condition", "withheld");
      await choose("order", "down");
    """
    shown = checked(FACTS, tmp_path, steps)
    assert shown == [3, 60, 12, 60, better, over_closed, abstained, 60, 2, 2]


@needs_chromium
def test_thousands_of_questions_are_shown_a_hundred_at_a_time(tmp_path):
    """With 2,000 questions of 11 arms the page shows 100 rows, and 100 more when asked to."""
    rows = [{**FACTS["questions"][n % 36], "question_id": f"q{n}"} for n in range(2000)]
    more = 'await choose("order", "up"); await later(() => document.getElementById("more").click());'
    assert checked({**FACTS, "questions": rows}, tmp_path, more) == [100, 200]


@needs_chromium
def test_a_question_is_linked_its_passages_are_opened_and_its_reference_is_ticked(tmp_path):
    """A link leads to its question among thousands; passages open with their places; ticks are saved as lines."""
    rows = [{**FACTS["questions"][n % 36], "question_id": f"q{n}"} for n in range(2000)]
    then = """
      const later = (done) => setTimeout(done, 200);
      const said = [];
      URL.createObjectURL = (blob) => { blob.text().then((text) => said.push(text)); return "#saved"; };
      location.hash = "#q-q1500";
      later(() => {
        const row = document.querySelector("#rows tr");
        const details = row.querySelectorAll("td")[1].querySelector("details");
        details.open = true;
        row.querySelector("input").click();
        document.querySelector("#left-out input").click();
        document.getElementById("save").click();
        const finish = () => {
              if (!said.length) return later(finish);
              said.push(row.id, row.querySelector("a").getAttribute("href"), details.innerText);
              document.body.dataset.said = JSON.stringify(said);
            };
            later(finish);
      });
    """
    page = Page(rendered(report.html({**FACTS, "questions": rows}), tmp_path, then=then))
    lines, name, link, opened = json.loads(page.named("body")[0]["data-said"])
    assert (name, link) == ("q-q1500", "#q-q1500")
    (line,) = map(json.loads, lines.splitlines())
    assert line == {"question_id": "q1500", "question": rows[1500]["question"]}
    assert "2 passages shown" in opened and "policies/region-0.pdf: Returns > Opened goods" in opened


@needs_chromium
@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_is_seen(width, tmp_path):
    """A picture of the page is not blank, and has the contender's colour in it."""
    lines = lines_of_picture(HTML, tmp_path, width=width, height=1400)
    assert len(set(lines)) > 300
