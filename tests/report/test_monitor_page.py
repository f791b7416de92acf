"""The page of `raft monitor`: complete, harmless and readable, whatever was found."""

import base64
import hashlib
import random
import re
from html.parser import HTMLParser

import pytest

from browser import Driven, lines_of_picture, needs_chromium
from raft.cli.monitor import words
from raft.errors import me
from raft.report import monitor
from raft.report.shown import Monitored

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028'\"&{{7*7}}"
DAY = 86_400.0
BEGUN = 1_793_000_000.0


def interval(value, width=0.04, questions=120, groups=120):
    """Return the JSON form of an interval."""
    return {"value": value, "low": value - width, "high": value + width, "questions": questions, "groups": groups}


def point(number, *, version="3fa9c1d2e4b5", state="fine", value=0.6, change=None, against="itself"):
    """Return a measure."""
    compared = None
    if change is not None:
        counts = {"replies": 9, "worse": 6, "better": 1}
        compared = {
            "state": state,
            "difference": interval(change),
            "p": 0.004,
            "certain": True,
            "sure": False,
            **counts,
        }
    return {
        **{"id": number, "at": BEGUN + 7 * DAY * number, "version": version, "adapter_digest": "a" * 64},
        **{"index": f"{number:x}" * 64, "model": HOSTILE, "questions": "d" * 16, "measure": "f1", "count": 120},
        **{"lost": 0, "resampled": "questions", "value": interval(value, 0.08), "abstained": 4, "unsupported": 3},
        **{"reference_from_here": False, "state": state, "against": against if compared else None},
        **{"reference": 2 if compared else None, "change": compared, "changed": ["index"] if compared else []},
        "needed": 800 if state == "perhaps" else None,
    }


def system(arm, version, replies):
    """Return the rates of a system."""
    told = {name: {**interval(0.1, questions=replies), "hits": 3} for name in ("unsupported", "abstained", "slow")}
    return {"arm": arm, "version": version, "replies": replies, **told, "failed": None}


def traffic():
    """Return what is told of the traffic."""
    draw = random.Random(3)
    systems = [("production", "3fa9c1d2e4b5", 900), ("candidate", "0", 100)]
    periods = [
        {**system(arm, version, 40), "begin": f"2026-10-{day:02}"}
        for arm, version, _ in systems
        for day in range(1, 29, 7)
    ]
    topic = {"times": 9, "conversations": 8, "wordings": 3, "first": "2026-10-02", "last": "2026-10-28"}
    topic |= {"why": {"abstained": 7, "rated down": 2}}
    topics = [{**topic, "example": f"{HOSTILE} {n}", "others": [HOSTILE], "far": n % 2 == 0} for n in range(60)]
    drifted = {"p": 0.001, "mmd": 0.03, "ours": 90, "theirs": 120}
    quantiles = {name: sorted(draw.random() for _ in range(21)) for name in ("asked", "known")}
    return {
        **{"replies": 1000, "conversations": 800, "first": "2026-10-01", "last": "2026-10-28", "enough": True},
        **{"slow": 10.0, "feedback": {"up": 5, "down": 2}, "unanswered": 77, "without_vectors": None},
        "rates": {"period": "week", "periods": periods, "systems": [system(*one) for one in systems]},
        **{"known": drifted, "recently": None, "days": 7, "by_people": True, "similarity": 0.6, "topics": topics},
        "far": {"share": interval(0.2), "examples": [HOSTILE], "quantiles": quantiles},
    }


def facts(**changed):
    """Return what a look found: a fall, after a year of versions."""
    history = [point(1, version="0", state="first", value=0.5), point(2, state="first", change=0.1, against="before")]
    history += [point(3, change=-0.01), point(4, state="act", value=0.52, change=-0.08)]
    worst = [
        {
            "question": f"{HOSTILE} {n}",
            "answers": ["30 days", HOSTILE],
            "before": "30 days",
            "now": HOSTILE,
            "change": -1.0 if n < 12 else 0.5,
        }
        for n in range(14)
    ]
    found = {"format": 1, "raft": "0.3.0", "run": "/home/ada/runs/handbook", "at": "2026-11-30T05:31:28+00:00"}
    found |= {"look": 0.03, "act": 0.05, "measure": history[-1], "not_measured": None, "asked": 120, "acted": None}
    return {**found, "history": history, "worst": worst, "traffic": traffic(), **changed}


MISSING = {
    "what": "Nothing answers there.",
    "where": "http://127.0.0.1:8080/v1",
    "hint": "raft serve /home/ada/runs/handbook",
}
CASES = {
    "a fall": {},
    "acted": {"acted": {"done": True, "why": "version x fell"}},
    "not acted": {"acted": {"done": False, "why": "it may still be chance"}},
    "down": {"measure": None, "not_measured": MISSING, "asked": 0, "worst": []},
    "nothing yet": {"measure": None, "history": [], "worst": [], "traffic": None},
    "first": {"measure": point(1, state="first"), "history": [point(1, state="first")], "worst": [], "traffic": None},
    "perhaps": {"measure": point(4, state="perhaps", change=-0.04)},
    "look": {"measure": point(4, state="look", change=-0.04)},
    "fine": {"measure": point(4, change=0.01), "asked": 0},
    "no vectors": {"traffic": {**traffic(), "without_vectors": "There is no such model.", "topics": None, "far": None}},
    "few": {"traffic": {**traffic(), "enough": False, "far": None, "known": None, "topics": []}},
}


@pytest.fixture(params=CASES, ids=str)
def found(request):
    """Return what a look found, of each kind."""
    return facts(**CASES[request.param])


class Tags(HTMLParser):
    """The elements of a page, and whether they are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.wrong = [], [], []

    def handle_starttag(self, tag, attrs):
        """Note an element."""
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br", "col"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Close it."""
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def read(page):
    """Return the parsed page."""
    tags = Tags()
    tags.feed(page)
    return tags


def test_the_page_is_well_formed_and_loads_nothing(found):
    """Elements are closed in order; nothing has an address but the page itself; its script is the one that may run."""
    page = monitor.html(found)
    tags = read(page)
    assert (tags.open, tags.wrong) == ([], [])
    assert not {tag for tag, _ in tags.seen} & {"img", "link", "iframe", "object", "form", "b{"}
    assert all(attrs.get("href", "#").startswith("#") for _, attrs in tags.seen)
    assert not any("src" in attrs or any(name.startswith("on") for name in attrs) for _, attrs in tags.seen)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page


def test_hostile_text_stays_text(found):
    """Questions, answers and names of others create no element, and no template runs in them."""
    page = monitor.html(found)
    assert "<img" not in page and "49" not in re.findall(r"&amp;([^<]*)", page)
    assert page.count("</script>") == 1


def test_every_link_of_the_page_leads_somewhere(found):
    """Each link within the page has its place, and each picture a name for those who cannot see it."""
    tags = read(monitor.html(found))
    places = {attrs["id"] for _, attrs in tags.seen if "id" in attrs}
    assert {attrs["href"][1:] for tag, attrs in tags.seen if tag == "a"} <= places
    assert all(attrs["aria-label"] for tag, attrs in tags.seen if tag == "svg" and attrs.get("role") == "img")


def test_page_and_terminal_say_the_same(found):
    """The headline, each sentence and each next command of the page are those of the terminal."""
    page, said = re.sub(r"<[^>]+>", "", monitor.html(found)), words(found)
    assert monitor.headline(found) in said
    assert monitor.headline(found) in page
    if not found["not_measured"]:
        assert all(one in said for one in monitor.sentences(found))
    assert repr(Monitored(found)) == f"<monitor of {found['run']}: {monitor.headline(found)}>"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a fall", "Fell by 8.0 points, certain: retrain or go back."),
        ("perhaps", "Fell by 4.0 points, and it may be nothing."),
        ("look", "Fell by 4.0 points, certain: look into it."),
        ("fine", "No fall that counts (+1.0 points)."),
        ("first", "The first measure: later ones are compared with it."),
        ("down", "Not measured."),
        ("nothing yet", "The traffic alone was looked at."),
    ],
)
def test_a_certain_fall_is_told_from_one_that_may_be_nothing(name, said):
    """The first line tells what the fall is, and how certain."""
    assert monitor.headline(facts(**CASES[name])) == said


def test_a_person_is_told_what_to_type():
    """After a certain fall the page names training and going back; after one that may be nothing, how to take it."""
    assert monitor.advice(facts())[1].startswith(f"raft registry rollback /home/ada/runs/handbook --to 0 --by {me()}")
    assert any("--reference" in one for one in monitor.advice(facts(**CASES["perhaps"])))
    assert "About 800 questions" in " ".join(monitor.sentences(facts(**CASES["perhaps"])))
    assert monitor.advice(facts(**CASES["down"])) == ["raft serve /home/ada/runs/handbook"]


def test_one_is_counted_like_many():
    """A single reply and a single score are told in words that are right for one as for many."""
    one = point(4, change=0.01)
    one["change"] |= {"replies": 1, "worse": 1, "better": 0}
    said = monitor.sentences(facts(measure=one))
    assert "Replies in other words: 1; scores that fell: 1; that rose: 0." in said


def test_topics_are_named_for_what_they_hold(found):
    """What is rated wrong was answered: page and terminal say so where it stands among what was not."""
    page, said = monitor.html(found), words(found)
    assert "Asked and not answered" not in page
    assert "asked and not answered (" not in said
    if found["traffic"] and found["traffic"]["topics"]:
        assert "asked, and not answered or rated wrong (" in said


def test_no_home_is_told(found):
    """The page calls the run by its name alone: who it is sent to need not know where it lies."""
    page = monitor.html(found)
    assert "/home/ada" not in page
    assert "<title>handbook: " in page
    assert "<h1>Is it still as good? handbook</h1>" in page


@needs_chromium
@pytest.mark.parametrize("width", [390, 1100])
def test_the_page_is_seen_and_is_no_wider_than_its_window(width, tmp_path):
    """In a browser the page shows its plots, and nothing of it lies beside the window, on a telephone too."""
    (tmp_path / "seen").mkdir()
    drawn = lines_of_picture(monitor.html(facts()), tmp_path / "seen", width=width, height=2000)
    assert len(set(drawn)) > 400
    (tmp_path / "monitor.html").write_text(monitor.html(facts()), encoding="utf-8")
    with Driven((tmp_path / "monitor.html").as_uri(), tmp_path, width=width, height=900) as page:
        page.until("document.querySelectorAll('svg.plot').length >= 6")
        assert page.value("document.documentElement.scrollWidth") <= width
        page.press("Tab")
        assert page.value("document.activeElement.textContent") == "Skip to what was found"
