"""The page of a server in a real browser: asked by keys, read as it is written, quotes lit up in their passages."""

import pytest

from browser import Driven, needs_chromium
from raft.serving.keys import new_key, read
from raft.store import traffic
from served import Served, Source, until

HOSTILE = '<img src=x onerror="document.title=1"></script><script>document.title=1</script>'


@needs_chromium
@pytest.mark.parametrize(("width", "height"), [(1100, 800), (390, 780)])
def test_a_person_asks_and_sees_what_the_answer_rests_on(tmp_path, width, height):
    """By keys alone a question is asked, and its answer, verdict and quote in its passage are seen; markup is text."""
    source = Source()
    with Served(source) as served, Driven(served.address, tmp_path, width=width, height=height) as page:
        page.until("document.activeElement.id === 'question'")
        page.write(f"How long may a parcel be returned? {HOSTILE}")
        page.press("Enter")
        page.until("document.querySelector('details mark')")
        assert page.value("document.querySelector('.answer').textContent") == "30 days"
        assert page.value("document.querySelector('mark').textContent") == "may be returned within 30 days"
        assert page.value("document.querySelector('summary').textContent") == "Quoted: refunds/home page.pdf, page 3"
        assert page.value("document.querySelector('.good').textContent").startswith("Supported")
        assert HOSTILE in page.value("document.querySelector('h2').textContent")
        assert page.value("document.title") == "Ask the documents"
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        page.picture(tmp_path / "page.png")
        page.write("And then?")
        page.press("Enter")
        page.until("document.querySelectorAll('details mark').length === 2")
        assert source.searched[-1].endswith("And then?")
        assert source.searched[-1].startswith("How long"), "the page sends what was said before"


@needs_chromium
def test_an_answer_without_quotes_is_not_said_to_quote(tmp_path):
    """Where an answer quotes nothing, the page says that it rests on what was read, and quotes nothing."""
    source = Source()
    source.reply = lambda question: "Answer: 30 days"
    with Served(source) as served, Driven(served.address, tmp_path, width=800, height=600) as page:
        page.until("document.activeElement.id === 'question'")
        page.write("How long may a parcel be returned?")
        page.press("Enter")
        page.until("document.querySelector('summary')")
        said = page.value("document.querySelector('.good').textContent")
        assert said == "Supported by what was read; it quotes nothing."
        assert page.value("document.querySelector('summary').textContent").startswith("Read: ")


@needs_chromium
def test_a_person_stops_what_is_written(tmp_path):
    """Escape stops an answer, for whom the model then does not write, and the question can be asked again."""
    source = Source()
    with Served(source) as served, Driven(served.address, tmp_path, width=800, height=600) as page:
        source.gate.clear()
        page.until("document.activeElement.id === 'question'")
        page.write("How long?")
        page.press("Enter")
        page.until("!document.getElementById('stop').hidden")
        assert source.inside.wait(30)
        page.press("Escape")
        page.until("document.querySelector('.warn').textContent === 'Stopped.'")
        assert page.value("document.getElementById('question').value") == "How long?"
        until(lambda: 'outcome="gone"} 1.0' in served.ask("/metrics")[2])  # the server has heard of it
        source.gate.set()
        assert source.left.wait(30)


@needs_chromium
@pytest.mark.parametrize(("width", "height", "dark"), [(1100, 800, False), (390, 780, False), (390, 780, True)])
def test_a_person_says_that_an_answer_is_wrong(tmp_path, width, height, dark):
    """By keys alone an answer is rated and corrected, which is kept; markup in it is text, and nothing overflows."""
    with (
        Served(Source(), run=tmp_path) as served,
        Driven(served.address, tmp_path, width=width, height=height, dark=dark) as page,
    ):
        page.until("document.activeElement.id === 'question'")
        page.write("How long may a parcel be returned?")
        page.press("Enter")
        page.until("document.querySelector('.feedback')")
        page.value("document.querySelector('article summary').focus()")
        for _ in range(2):
            page.press("Tab")
        assert page.value("document.activeElement.textContent") == "Wrong"
        page.press("Enter")
        page.until("document.querySelector('.feedback .good')")
        assert page.value("document.activeElement.parentElement.textContent").startswith("What should the answer be?")
        page.write(f"60 days {HOSTILE}")
        page.press("Tab")
        page.write("since May")
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        page.picture(tmp_path / "feedback.png")
        page.press("Tab")
        assert page.value("document.activeElement.textContent") == "Send"
        shown = "((box) => box.top >= 0 && box.bottom <= document.getElementById('form').getBoundingClientRect().top)"
        assert page.value(f"{shown}(document.activeElement.getBoundingClientRect())"), "the keyboard's place is seen"
        page.press("Enter")
        page.until("document.querySelector('.feedback [role=status]').textContent.includes('correction is kept')")
        pressed = "[...document.querySelectorAll('.feedback [aria-pressed]')].map((one) => one.ariaPressed).join()"
        assert page.value(pressed) == "false,true"
        assert page.value("document.querySelector('.correction').hidden")
        assert page.value("document.title") == "Ask the documents"
    (row,) = traffic.feedback(tmp_path).to_dicts()
    assert (row["rating"], row["correction"], row["comment"]) == ("down", f"60 days {HOSTILE}", "since May")
    assert traffic.feedback(tmp_path, history=True).height == 2


@needs_chromium
def test_where_feedback_cannot_be_kept_a_person_is_told(tmp_path, monkeypatch):
    """Where nothing is kept there are no thumbs; where it fails the page says that it was not kept."""
    with Served(Source()) as served, Driven(served.address, tmp_path, width=390, height=780) as page:
        page.until("document.activeElement.id === 'question'")
        page.write("How long?")
        page.press("Enter")
        page.until("document.querySelector('.feedback')")
        assert page.value("getComputedStyle(document.querySelector('.feedback')).display") == "none"
    with Served(Source(), run=tmp_path) as served, Driven(served.address, tmp_path, width=390, height=780) as page:
        page.until("document.activeElement.id === 'question'")
        page.write("How long?")
        page.press("Enter")
        page.until("document.querySelector('.feedback')")

        def fails(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(traffic, "_insert", fails)
        page.value("document.querySelector('.feedback button').click()")
        page.until("document.querySelector('.feedback .warn').textContent.startsWith('It was not kept')")


@needs_chromium
def test_a_person_gives_a_key(tmp_path):
    """Where the server asks for keys the page has a place for one, and is answered with it."""
    key = new_key(tmp_path / "keys.txt", "ada")
    keys = read(tmp_path / "keys.txt")
    with Served(Source(), keys=keys) as served, Driven(served.address, tmp_path, width=800, height=600) as page:
        page.until("document.activeElement.id === 'question'")
        page.write("How long?")
        page.press("Enter")
        page.until("document.activeElement.id === 'key'")
        page.write(key)
        page.press("Enter")
        page.until("document.querySelector('details mark')")


def test_the_page_may_run_nothing_but_its_own():
    """The page's policy names its one script and style by digest, and lets it ask this server alone."""
    with Served(Source()) as served:
        status, headers, text = served.ask("/")
    policy = headers["Content-Security-Policy"]
    assert status == 200
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "connect-src 'self'" in policy
    assert "http://" not in text
    assert "https://" not in text
