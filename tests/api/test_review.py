"""Review: people judge rows on a page, their verdicts outlive kills and rebuilds, and say how many of all are wrong."""

import http.client
import json
import os
import queue
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from urllib.parse import urlsplit

import polars as pl
import pytest
from click.testing import CliRunner

import raft
from browser import Driven, needs_chromium
from conftest import Fakes
from raft.api import http as served
from raft.api.http import Connection
from raft.cli import main, messages
from raft.cli.progress import Progress
from raft.curation import clean, decisions, figures, learned
from raft.errors import RaftError, UsageError
from raft.pipeline import review as reviewed
from raft.pipeline.train import examples_digest
from raft.store.run import Run

SETTINGS = {"chunking.tokens": 60, "questions.per_chunk": 8, "generator.attempts": 2}


@pytest.fixture
def home(whole, tmp_path):
    """A copy of the finished build, with its corpus."""
    return shutil.copytree(whole, tmp_path / "home")


class Likelihoods:
    """A scorer that finds a text likelier the more of its words the context holds."""

    identity = "likelihoods"

    def score(self, pairs):
        """Return how many words of each continuation its context lacks, as nats."""
        return [(-float(sum(word not in one for word in two.split())), False, 1) for one, two in pairs]

    def render(self, messages):
        """Return the turns, a line each."""
        return "\n".join(message["content"] for message in messages)


def test_weights_that_were_changed_since_the_build_teach_nothing(home, tmp_path, monkeypatch):
    """A file beside the pipeline file filters; with other numbers, or another model's name, in it nothing is taught."""
    run, file = home / "run", tmp_path / "elsewhere" / "own.json"
    weights = learned.load(learned.BROUGHT[0])
    file.parent.mkdir()
    file.with_name("mine.yaml").write_text("cleaning: {learned: own.json}\nquestions: {way: answer_first}\n")
    file.write_text(weights.model_copy(update={"minimum": 0.0}).identity)
    Fakes().install(monkeypatch.setattr)
    monkeypatch.setattr(raft.api.models, "_scorer", lambda *_: Likelihoods())
    built = raft.build(home / "corpus", out=run, pipeline=file.with_name("mine.yaml"), settings=SETTINGS)
    row = next(one for one in built.cleaned.iter_rows(named=True) if one["readings"])
    digest = decisions.digest_of(row["question"], row["answer"])
    decisions.add(run / decisions.FILE, decisions.Decision(row["question_id"], digest, "approved", "Ada"))
    with pytest.raises(UsageError, match="1 right and 0 wrong"):
        raft.review(run, learn=tmp_path / "taught.json")
    for changed in ({"bias": weights.bias + 1}, {"model": "another/model"}):
        file.write_text(weights.model_copy(update={"minimum": 0.0, **changed}).identity)
        with pytest.raises(UsageError, match="not those that the run was built with"):
            raft.review(run, learn=tmp_path / "taught.json")
    assert not (tmp_path / "taught.json").exists()


class Page:
    """The page of a review, as a program asks it."""

    def __init__(self, address):
        self.address, self.place = address, urlsplit(address)

    def ask(self, what, sent=None, *, body=None, method=None, headers=None):
        """Return status and text of the answer to a request."""
        line = http.client.HTTPConnection(self.place.hostname, self.place.port, timeout=20)
        body = json.dumps(sent) if sent is not None else body
        usual = {"content-type": "application/json"} if body is not None else {}
        path = what if what.startswith("/") else self.place.path + what
        line.request(method or ("GET" if body is None else "POST"), path, body, {**usual, **(headers or {})})
        answer = line.getresponse()
        text = answer.read().decode()
        line.close()
        return answer.status, text

    def told(self, what, sent=None):
        """Return what is answered to a request that is understood."""
        status, text = self.ask(what, sent)
        assert status == 200, text
        return json.loads(text)

    def judge(self, name, verdict, shown="sample", **more):
        """Judge a row."""
        return self.told("decide", {"id": name, "verdict": verdict, "list": shown, **more})


@contextmanager
def opened(run, reviewer="Ada", **options):
    """Serve the page of a review; what it said is in `said` when it is closed."""
    heard, said = queue.Queue(), {}

    def serve():
        try:
            said.update(raft.review(run, reviewer=reviewer, on_event=lambda _, facts: heard.put(facts), **options))
        except BaseException as error:  # else the test would wait
            heard.put(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    facts = heard.get(timeout=60)
    if isinstance(facts, BaseException):
        raise facts
    page = Page(facts["address"])
    page.said, page.facts = said, facts
    try:
        yield page
    finally:
        with suppress(OSError):  # it may be done already
            page.ask("done", {})
        thread.join(20)
        assert not thread.is_alive()


def rebuild(home, fakes=None, **options):
    """Build again, and return the run, what was asked, and which steps were made."""
    fakes, events = fakes or Fakes(), []
    with pytest.MonkeyPatch.context() as patch:
        fakes.install(patch.setattr)
        built = raft.build(
            home / "corpus",
            out=home / "run",
            settings=SETTINGS,
            on_event=lambda event, facts: events.append((event, facts.get("step"))),
            **options,
        )
    return built, fakes.asked, [step for event, step in events if event == "made"]


def test_verdicts_count_in_the_next_build_which_asks_no_model(home):
    """What people rejected is dropped by that reason, what they wrote stands in the rows; nothing is generated anew."""
    with opened(home / "run") as page:
        good, bad, poor, *_ = page.told("state")["lists"]["sample"]
        row = page.told(f"row?id={poor}")
        page.judge(good, "approved")
        page.judge(bad, "rejected", reason="garbled")
        page.judge(poor, "edited", edit={"question": f"Say again: {row['question']}", "answer": row["answer"]})
    assert page.said["text"][0].startswith("2 of 3 wrong: between ")
    built, asked, made = rebuild(home)
    assert asked == []
    assert {"cleaned"} <= {*made} <= {"cleaned", "examples"}
    rows = {one["question_id"]: one for one in built.cleaned.iter_rows(named=True)}
    assert rows[good]["reason"] is None
    assert (rows[bad]["reason"], rows[bad]["split"]) == ("rejected by a person", None)
    assert rows[poor]["model"] == "human"
    assert rows[poor]["question"] == f"Say again: {row['question']}"
    assert bad not in built.examples["question_id"].to_list()
    assert built.summary()["reviewed"]["seen"] == 3
    assert built.summary()["reviewed"]["text"] == page.said["text"], "a rebuild does not change what was found"
    assert rebuild(home)[2] == []


def test_without_verdicts_no_step_is_made_again(home):
    """An empty review, or one whose verdicts were all taken back, leaves each step as it was."""
    with opened(home / "run") as page:
        first = page.told("state")["lists"]["sample"][0]
        page.judge(first, "rejected", reason="trivial")
        assert page.told("undo", {})["id"] == first
        assert page.told("undo", {})["id"] is None
    assert rebuild(home)[2] == []


def test_a_team_brings_its_file(home, tmp_path):
    """`decisions=FILE` counts like the run's own, wherever it lies; a wrong file is refused before anything is read."""
    with opened(home / "run") as page:
        bad = page.told("state")["lists"]["sample"][0]
        page.judge(bad, "rejected", reason="twice")
    team = tmp_path / "team.jsonl"
    (home / "run" / decisions.FILE).rename(team)
    built, asked, _ = rebuild(home, decisions=team)
    assert asked == []
    assert dict(built.cleaned.select("question_id", "reason").iter_rows())[bad] == "rejected by a person"
    assert built.reviewed()["seen"] == 1
    team.write_text("{}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no decision"):
        rebuild(home, decisions=team)


def test_two_reviewers_are_compared_and_neither_sees_the_other(home):
    """Each judges for themselves; what they agree on is told, and where they differ the row is dropped."""
    with opened(home / "run") as page:
        names = page.told("state")["lists"]["sample"][:4]
        for name in names:
            page.judge(name, "approved")
    with opened(home / "run", "Bo") as page:
        assert page.told("state")["mine"] == {}
        assert page.told(f"row?id={names[0]}")["mine"] is None
        for name in names[:3]:
            page.judge(name, "approved")
        page.judge(names[3], "rejected", reason="trivial")
    assert page.said["agreement"]["share"] == 0.75
    assert page.said["differ"] == names[3:]
    assert page.said["reviewers"] == {"Ada": 4, "Bo": 4}
    assert any("agree on 75 percent of 4 rows" in line for line in page.said["text"])
    built, _, _ = rebuild(home)
    assert dict(built.cleaned.select("question_id", "reason").iter_rows())[names[3]] == "rejected by a person"


def test_the_share_of_wrong_rows_is_told_by_the_sample_alone(home):
    """Rows that were shown because they look wrong say nothing of the others; a draw does, with its interval."""
    with opened(home / "run", sample=10) as page:
        lists = page.told("state")["lists"]
        assert not {*lists["sample"]} & {*lists["suspicious"]}
        for name in lists["suspicious"][:3]:
            state = page.judge(name, "rejected", "suspicious", reason="wrong answer")
        assert "nothing can be said of all" in state["said"][0]
        for name in lists["sample"]:
            state = page.judge(name, "approved")
    assert state["said"][0].startswith("0 of 10 wrong: between 0 and 28 percent of the ")


def test_a_row_that_was_judged_as_suspicious_counts_when_the_sample_comes_to_it(home):
    """A larger sample takes in rows that were judged before: else the wrong ones would be missing in it."""
    with opened(home / "run", sample=2) as page:
        suspect = page.told("state")["lists"]["suspicious"][0]
        page.judge(suspect, "rejected", "suspicious", reason="wrong answer")
    with opened(home / "run", sample=1000) as page:
        names = page.told("state")["lists"]["sample"]
        for name in names:
            if name != suspect:
                state = page.judge(name, "approved")
    count = len(names)
    assert state["said"][0] == f"1 of {count} wrong: {round(100 / count)} percent of the {count} kept"


def test_a_row_of_the_sample_counts_in_whatever_list_it_is_judged(home):
    """One that is read among the questions to measure with is one of the sample all the same; others of it are not."""
    with opened(home / "run", sample=10) as page:
        lists = page.told("state")["lists"]
        both = [name for name in lists["sample"] if name in lists["evaluation"]]
        other = next(name for name in lists["evaluation"] if name not in lists["sample"])
        state = page.judge(other, "rejected", "evaluation", reason="other")
        assert "nothing can be said of all" in state["said"][0]
        state = page.judge(both[-1], "approved", "evaluation")
        assert state["said"][0].startswith("0 of 1 wrong: between ")
        assert not any("passed over" in line for line in state["said"])
        for name in lists["sample"]:
            state = page.judge(name, "approved")
        assert state["said"][0].startswith("0 of 10 wrong: between ")


def test_an_export_takes_no_signed_question_away(home, tmp_path):
    """What is in the file is written again or added to; where a question of it would be lost it is left as it is."""
    file = tmp_path / "signed (1).jsonl"
    with opened(home / "run") as page:
        one, two, *_ = page.told("state")["lists"]["evaluation"]
        page.judge(one, "approved", "evaluation")
        assert raft.review(home / "run", export=file)["exported"] == 1
        page.judge(two, "approved", "evaluation")
        assert raft.review(home / "run", export=file)["exported"] == 2
        page.judge(one, "rejected", "evaluation", reason="other")
    before = file.read_bytes()
    with pytest.raises(UsageError, match="1 of its questions") as refused:
        raft.review(home / "run", export=file)
    assert file.read_bytes() == before
    assert refused.value.hint.startswith(f"mv '{file}' '{file}'.before   (")
    file.rename(f"{file}.before")
    assert raft.review(home / "run", export=file)["exported"] == 1


def test_who_reads_a_run_that_is_written_is_told(home, monkeypatch):
    """While another raft builds, rows and reviews are shown with a word, and without one afterwards."""
    monkeypatch.setattr("raft.api.review_page.serve", lambda *_: None)
    run, word = str(home / "run"), "a build is running, or a training"
    for command in (["show", run, "cleaned"], ["show", run, "duplicates"], ["review", run]):
        with Run(home / "run").writing():
            assert word in CliRunner().invoke(main, command).stderr
        assert word not in CliRunner().invoke(main, command).stderr


def test_approved_evaluation_questions_become_a_file_to_measure_with(home, tmp_path):
    """What experts signed is written as `--eval` takes it, and only that; where there is nothing that is said."""
    file = tmp_path / "signed.jsonl"
    with pytest.raises(UsageError, match="Nobody has approved"):
        raft.review(home / "run", export=file)
    with opened(home / "run") as page:
        one, two, three, *_ = page.told("state")["lists"]["evaluation"]
        text = page.told(f"row?id={two}")
        page.judge(one, "approved", "evaluation")
        edit = {"question": f"Say again: {text['question']}", "answer": text["answer"]}
        page.judge(two, "edited", "evaluation", edit=edit)
        page.judge(three, "rejected", "evaluation", reason="other")
    told = CliRunner().invoke(main, ["review", str(home / "run"), "--export", str(file)])
    assert told.exit_code == 0, told.output
    assert "2 questions" in told.output and "--eval" in told.output
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert edit["question"] in [line["question"] for line in lines]
    built, _, _ = rebuild(home, eval=file)
    assert built.evaluation.filter(split="user").height == 2


def test_an_edit_that_the_documents_do_not_bear_is_not_taken(home):
    """An answer or a quote that no golden chunk has is refused while its writer is there to mend it."""
    with opened(home / "run") as page:
        lists = page.told("state")["lists"]
        name = next(one for one in lists["sample"] if page.told(f"row?id={one}")["kind"] == "number")
        row = page.told(f"row?id={name}")
        for edit in ({"answer": "4711 tonnes"}, {"quote": "No such sentence stands in any of these documents."}):
            whole = {"question": row["question"], "answer": row["answer"], **edit}
            sent = {"id": name, "verdict": "edited", "list": "sample", "edit": whole}
            status, text = page.ask("decide", sent)
            assert (status, "the build would drop it" in text) == (422, True)
    assert not (home / "run" / decisions.FILE).exists()


def test_the_quote_is_lit_up_in_its_source(home):
    """A row's source is shown whole, with what stands around it, its quote bright and the answer in it brighter."""
    with opened(home / "run") as page:
        row = page.told(f"row?id={page.told('state')['lists']['sample'][0]}")
    (source,) = row["sources"]
    document = (home / "corpus" / source["document"]).read_text(encoding="utf-8")
    text = "".join(piece for piece, _ in source["pieces"])
    assert text.strip() in document
    assert row["answer"] == "".join(piece for piece, level in source["pieces"] if level == 3)
    assert row["quote"] == "".join(piece for piece, level in source["pieces"] if level >= 2)


def bounded(said):
    """Complete an answer with the bound before it, whatever the question says."""
    whole = f"within {said.answer}"
    return whole if whole in said.quote else said.answer


@pytest.fixture
def bound(monkeypatch):
    """Let rules complete answers from now on; return the id of a row of the run that one is about."""

    def started(page):
        monkeypatch.setattr(figures, "completed", bounded)
        rows = (page.told(f"row?id={name}") for name in page.told("state")["lists"]["sample"])
        return next(row["id"] for row in rows if f"within {row['answer']}" in row["quote"])

    return started


def test_a_verdict_is_about_the_answer_that_was_read(home, bound):
    """What a person approved is not completed behind their back: it counts no more, which is told; anew, it counts."""
    with opened(home / "run") as page:
        name = bound(page)
        before = page.told(f"row?id={name}")["answer"]
        page.judge(name, "approved")
    built, _, _ = rebuild(home)
    assert dict(built.cleaned.select("question_id", "answer").iter_rows())[name] == before
    assert (built.reviewed()["seen"], built.reviewed()["gone"]) == (0, 1)
    assert any("1 decision is of rows" in line for line in messages.seen(built.reviewed()))
    with opened(home / "run") as page:
        after = page.told(f"row?id={name}")["answer"]
        assert after == f"within {before}"
        page.judge(name, "approved")
    built, _, _ = rebuild(home)
    assert dict(built.cleaned.select("question_id", "answer").iter_rows())[name] == after
    assert built.reviewed()["seen"] == 1


def test_a_second_reviewer_reads_the_row_as_nobody_has_edited_it(home, bound):
    """After a build with one reviewer's edit, another is shown the question, the completed answer and the old quote."""
    with opened(home / "run") as page:
        name = bound(page)
    with opened(home / "run") as page:
        first = page.told(f"row?id={name}")
        edit = {"question": "Would you say that again, of the pump?", "answer": first["answer"].removeprefix("within ")}
        page.judge(name, "edited", edit={**edit, "quote": " ".join(first["quote"].split()[1:])})
    rebuild(home)
    with opened(home / "run", "Bo") as page:
        second = page.told(f"row?id={name}")
    assert [second[part] for part in ("question", "answer", "quote")] == [
        first[part] for part in ("question", "answer", "quote")
    ]
    assert second["answer"].startswith("within ")


def test_a_second_edit_keeps_the_quote_of_the_first(home):
    """The page sends a quote where it was changed; the one that was chosen before stays."""
    with opened(home / "run") as page:
        name = page.told("state")["lists"]["sample"][0]
        row = page.told(f"row?id={name}")
        quote = " ".join(row["quote"].split()[1:])
        edit = {"question": row["question"], "answer": row["answer"]}
        page.judge(name, "edited", edit={**edit, "quote": quote})
        page.judge(name, "edited", edit={**edit, "question": "Would you say that again, of the pump?"})
        assert page.told(f"row?id={name}")["quote"] == quote
    (_, last), _ = decisions.read(home / "run" / decisions.FILE)
    assert last.edit["quote"] == quote


def test_two_pages_of_one_reviewer_write_all_that_was_clicked(home):
    """A verdict that another page has changed meanwhile is written again, not taken for said."""
    with opened(home / "run") as one, opened(home / "run") as other:
        name = one.told("state")["lists"]["sample"][0]
        one.judge(name, "approved")
        other.judge(name, "rejected", reason="trivial")
        one.judge(name, "approved")
    found, _ = decisions.read(home / "run" / decisions.FILE)
    assert [line.verdict for line in found] == ["approved", "rejected", "approved"]


def test_a_verdict_is_not_written_behind_damage_nor_on_rows_that_are_no_more(home):
    """What the build could not read, or would not apply, is refused in a sentence while the reviewer is there."""
    path = home / "run" / decisions.FILE
    with opened(home / "run") as page:
        name = page.told("state")["lists"]["sample"][0]
        path.write_text("damage\n")
        sent = {"id": name, "verdict": "approved", "list": "sample"}
        assert page.ask("decide", sent)[0] == 409
        assert path.read_text() == "damage\n"
        path.unlink()
        row = page.told(f"row?id={name}")
        same = {**sent, "verdict": "edited", "edit": {"question": row["question"], "answer": row["answer"]}}
        assert page.ask("decide", same) == (422, "nothing was changed: approve it\n")
        table = home / "run" / "cleaned.parquet"
        os.utime(table, ns=(1, 1))
        status, text = page.ask("decide", sent)
        assert (status, "raft review" in text) == (409, True)


def test_undo_takes_back_a_verdict_that_stands_in_two_files(home, tmp_path):
    """A copy of the run's decisions, given as a team's, says nothing twice."""
    with opened(home / "run") as page:
        page.judge(page.told("state")["lists"]["sample"][0], "approved")
    team = shutil.copy(home / "run" / decisions.FILE, tmp_path / "team.jsonl")
    rebuild(home, decisions=team)
    with opened(home / "run") as page:
        page.told("undo", {})
        assert page.told("state")["mine"] == {}


def test_undo_goes_back_in_time_after_the_page_was_closed(home):
    """The last verdict is taken back first, then the one before, whichever row was judged first of all."""
    with opened(home / "run") as page:
        one, two, *_ = page.told("state")["lists"]["sample"]
        page.judge(one, "approved")
        page.judge(two, "approved")
        page.judge(one, "rejected", reason="trivial")
    with opened(home / "run") as page:
        assert [page.told("undo", {})["id"] for _ in range(4)] == [one, two, one, None]


def test_a_verdict_reads_no_table_again(home, monkeypatch):
    """Each click is answered at once, however large the run is."""
    read = []
    with opened(home / "run") as page:
        first, second, *_ = page.told("state")["lists"]["sample"]
        page.judge(first, "approved")
        for name in ("read", "stream"):
            old = getattr(Run, name)
            monkeypatch.setattr(Run, name, lambda *given, old=old: read.append(given[1]) or old(*given))
        page.judge(second, "approved")
        page.told("undo", {})
        assert page.told(f"row?id={second}")["mine"] is None
    assert read == []


def test_an_edit_is_checked_by_the_rules_of_its_documents_language(home, monkeypatch):
    """What the page takes is what the build takes, in each language."""
    spoken, seen, judged = {"d": "de"}, [], clean.judged
    monkeypatch.setattr(reviewed, "surveyed_languages", lambda run: spoken)
    with opened(home / "run") as page:
        name = page.told("state")["lists"]["sample"][0]
        row = page.told(f"row?id={name}")
        monkeypatch.setattr(clean, "judged", lambda *given, **more: seen.append(given[3]) or judged(*given, **more))
        page.judge(name, "edited", edit={"question": f"Say: {row['question']}", "answer": row["answer"]})
    assert seen and all(languages == spoken for languages in seen)


def test_rows_that_are_dropped_for_others_are_no_mistakes_of_the_rules():
    """Duplicates, leaks and what was not chosen may be right: "dropped by the rules" is of the other ones."""
    reasons = [("a", None), ("b", "duplicate"), ("c", "leak"), ("d", "not chosen"), ("e", "malformed")]
    assert reviewed.by_rules(reasons, {}) == (["a"], ["e"])


def test_decisions_that_moved_away_and_a_table_that_is_gone_are_told(home, tmp_path):
    """Reading a run says which file of decisions or which table is missing, in place of failing."""
    run, team = home / "run", tmp_path / "team.jsonl"
    with opened(run) as page:
        page.judge(page.told("state")["lists"]["sample"][0], "approved")
    team.write_bytes((run / decisions.FILE).read_bytes())
    rebuild(home, decisions=team)
    team.unlink()
    with opened(run) as page:
        assert any("team.jsonl" in remark for remark in page.facts["remarks"])
    (run / decisions.FILE).rename(tmp_path / "mine.jsonl")
    for command in ("status", "train"):
        told = CliRunner().invoke(main, [command, str(run), *(["--backend", "none"] if command == "train" else [])])
        assert "team.jsonl" in told.output and "is no more there" in told.output, command
    (tmp_path / "mine.jsonl").rename(run / decisions.FILE)
    (run / "cleaned.parquet").unlink()
    told = CliRunner().invoke(main, ["status", str(run)])
    assert told.exit_code == 0, told.output
    assert "gone: cleaned.parquet" in told.output


GOOD = {"verdict": "approved", "list": "sample"}
SENT = [
    ("a token that is wrong", "/wrong/state", {}, 404),
    ("no token", "/", {}, 404),
    ("a path above", "/../../etc/passwd", {}, 404),
    ("a host elsewhere", "state", {"headers": {"host": "evil.example"}}, 421),
    ("no host that is one", "state", {"headers": {"host": "[::1"}}, 421),
    ("another page", "decide", {"body": "{}", "headers": {"origin": "http://evil.example"}}, 403),
    ("a form", "decide", {"body": "id=1", "headers": {"content-type": "application/x-www-form-urlencoded"}}, 415),
    ("no JSON", "decide", {"body": "{"}, 400),
    ("deep JSON", "decide", {"body": "[" * 60_000}, 400),
    ("no object", "decide", {"body": "[1]"}, 400),
    ("no UTF-8", "decide", {"body": b"\xff\xfe"}, 400),
    ("too much", "decide", {"body": " " * 70_000}, 413),
    ("another method", "state", {"method": "DELETE"}, 405),
    ("a verdict by GET", "decide", {}, 404),
    ("no row", "decide", {"sent": {**GOOD, "id": "x"}}, 404),
    ("a row that is none", "decide", {"sent": {**GOOD, "id": {"$ne": 1}}}, 404),
    ("no verdict", "decide", {"sent": {"id": "ROW", "verdict": "undone", "list": "sample"}}, 400),
    ("no list", "decide", {"sent": {"id": "ROW", "verdict": "approved", "list": ["x"]}}, 400),
    ("a verdict that is none", "decide", {"sent": {"id": "ROW", "verdict": {}, "list": "sample"}}, 400),
    ("no reason", "decide", {"sent": {"id": "ROW", "verdict": "rejected", "list": "sample"}}, 400),
    ("a reason of their own", "decide", {"sent": {**GOOD, "id": "ROW", "verdict": "rejected", "reason": "x"}}, 400),
    ("a reason that is none", "decide", {"sent": {**GOOD, "id": "ROW", "verdict": "rejected", "reason": []}}, 400),
    ("an edit without text", "decide", {"sent": {**GOOD, "id": "ROW", "verdict": "edited", "edit": {}}}, 400),
    ("an edit that is none", "decide", {"sent": {**GOOD, "id": "ROW", "verdict": "edited", "edit": [1]}}, 400),
]


def test_what_is_not_of_the_page_is_answered_shortly_and_changes_nothing(home, caplog):
    """Hostile requests get a short 4xx, never a traceback; the page goes on, and nothing is written."""
    with opened(home / "run") as page:
        first = page.told("state")["lists"]["sample"][0]
        for name, what, given, expected in SENT:
            sent = json.loads(json.dumps(given.get("sent")).replace('"ROW"', json.dumps(first)))
            status, text = page.ask(what, sent, **{key: one for key, one in given.items() if key != "sent"})
            assert status == expected, (name, status, text)
            assert len(text) < 200 and "Traceback" not in text, name
        for raw in (b"\0\1\2\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"POST /x HTTP/1.1\r\nContent-Length: -5\r\n\r\n"):
            with socket.create_connection((page.place.hostname, page.place.port), timeout=20) as line:
                line.sendall(raw)
                assert line.recv(4096).startswith(b"HTTP/1.1 4"), raw
        assert page.told("state")["mine"] == {}
    assert not (home / "run" / decisions.FILE).exists()
    assert caplog.text == ""


def test_the_page_runs_its_own_script_alone_and_asks_nobody_else(home):
    """The policy allows one script by its digest and requests to this server; no browser keeps or frames the page."""
    with opened(home / "run") as page:
        line = http.client.HTTPConnection(page.place.hostname, page.place.port, timeout=20)
        line.request("GET", page.place.path)
        answer = line.getresponse()
        html, headers = answer.read().decode(), dict(answer.getheaders())
        line.close()
    assert "default-src 'none'" in html and "connect-src 'self'" in html and "'sha256-" in html
    assert "http://" not in html and "https://" not in html and " on" + "click" not in html
    lowered = {name.lower(): value for name, value in headers.items()}
    assert lowered["cache-control"] == "no-store"
    assert lowered["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in lowered["content-security-policy"]
    assert page.place.hostname == "127.0.0.1"
    assert len(page.place.path) > 30


def test_a_kill_between_verdicts_loses_none(home):
    """What was answered is on the disk: a review that is killed goes on where it was."""
    command = [sys.executable, "-m", "raft", "review", str(home / "run"), "--reviewer", "Ada"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        page = Page(process.stderr.readline().split()[2])
        names = page.told("state")["lists"]["sample"][:3]
        for name in names:
            page.judge(name, "approved")
        process.send_signal(signal.SIGKILL)
    with opened(home / "run") as again:
        assert again.told("state")["mine"] == dict.fromkeys(names, "approved")


def test_a_training_says_what_people_found_or_that_nobody_looked(home):
    """Before rows are learned from, it is said who has seen them, and how many of them may be wrong."""
    told = CliRunner().invoke(main, ["train", str(home / "run"), "--backend", "none"])
    assert "nobody has judged the rows" in told.stderr and "raft review" in told.stderr
    with opened(home / "run") as page:
        page.judge(page.told("state")["lists"]["sample"][0], "approved")
    told = CliRunner().invoke(main, ["train", str(home / "run"), "--backend", "none"])
    assert re.search(r"1 of \d+ rows were seen by a person", told.stderr)
    assert "0 of 1 wrong: between 0 and 79 percent" in told.stderr


def test_a_training_does_not_pass_over_an_edited_file(home):
    """Whoever edits `train.jsonl` learns that no training reads it, and what to do; deleted, it is no matter."""
    run = raft.load(home / "run")._run
    digest = examples_digest(run)
    file = home / "run" / "train.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("Orlin", "Marlin"), encoding="utf-8")
    with pytest.raises(RaftError, match="not as the build made it") as caught:
        examples_digest(run)
    assert "raft review" in caught.value.hint
    file.unlink()
    assert examples_digest(run) == digest


def test_a_build_says_before_its_first_step_that_it_writes_an_edited_file_anew(home, capsys):
    """Whoever edited `train.jsonl` learns of it while there is time to stop."""
    (home / "run" / "train.jsonl").write_text("{}\n", encoding="utf-8")
    events = []
    with pytest.MonkeyPatch.context() as patch, Progress() as progress:
        Fakes().install(patch.setattr)

        def on_event(event, facts):
            events.append(event)
            progress(event, facts)

        raft.build(home / "corpus", out=home / "run", settings=SETTINGS, on_event=on_event)
    assert events.index("edited") < min(events.index(one) for one in ("begins", "reused") if one in events)
    assert "train.jsonl, by hand: written anew" in capsys.readouterr().err


def test_a_row_that_may_be_wrong_is_shown_with_the_reason():
    """Two figures of a kind, a range, a bound and a lost qualifier are what a reader should look at first."""
    sentences = {
        "58 euros": "The call-out fee is 65 euros and an hour costs 58 euros.",
        "12 months": "Goods may be returned within 12 months.",
        "15:30": "The office is open between 7:00 and 15:30.",
        "2.25 days": "Staff earn 2.25 days per full month.",
    }
    words = ("another number in the quote: 65 euros", "after “within”", "another date", "goes on: “per full month”")
    for (answer, text), expected in zip(sentences.items(), words, strict=True):
        quote = {"chunk_id": "c", "start": 0, "end": len(text), "text": text}
        row = {"question": "What is it?", "answer": answer, "quotes": [quote], "scores": None, "original_quotes": None}
        assert any(expected in said for said, _ in reviewed.doubts(row)), answer
    plain = {**row, "answer": "Staff", "quotes": [{**quote, "text": "Staff are paid."}], "question": "Who are paid?"}
    assert reviewed.doubts(plain) == []


@pytest.mark.parametrize(
    ("words", "is_bound"),
    [
        *((words, False) for words in ("about", "Exactly", "nearly", "a total of", "since")),
        *((words, True) for words in ("no more than", "within", "a maximum of", "before", "longer than", "from")),
    ],
)
def test_a_word_that_sets_no_bound_is_not_called_one(words, is_bound):
    """A figure behind “about” or “since” is no bound, nor the end of a range."""
    text = f"The stock of the depot has been counted {words} 40 days."
    quote = {"chunk_id": "c", "start": 0, "end": len(text), "text": text}
    row = {"question": "What is it?", "answer": "40 days", "quotes": [quote], "scores": None, "original_quotes": None}
    assert any("a bound" in said for said, _ in reviewed.doubts(row)) == is_bound


def test_rows_that_people_wrote_are_a_list_of_their_own(home, tmp_path):
    """Pairs of one's own and edits, built in or not, can be looked at alone; a list without rows is refused."""
    with pytest.raises(UsageError, match="human"):
        raft.review(home / "run", only="human")
    with opened(home / "run") as page:
        name = page.told("state")["lists"]["sample"][0]
        row = page.told(f"row?id={name}")
        page.judge(name, "edited", edit={"question": f"Say again: {row['question']}", "answer": row["answer"]})
    with opened(home / "run", "Bo", only="human") as page:
        lists = page.told("state")["lists"]
        assert [lists.pop("human"), *lists.values()] == [[name], *[[]] * 4]
        page.judge(name, "approved", "human")
    pairs = tmp_path / "faq.jsonl"
    pairs.write_text(json.dumps({"question": row["question"].replace("What", "Which"), "answer": row["answer"]}) + "\n")
    built, _, _ = rebuild(home, qa=pairs)
    with opened(home / "run", only="human") as page:
        mine = page.told("state")["lists"]["human"]
    assert {*built.cleaned.filter(model="human")["question_id"]} | {name} == {*mine}
    assert len(mine) > 1


def test_after_a_review_the_next_commands_are_those_that_are_left(home, monkeypatch):
    """Rows of the sample first, then a build that counts the verdicts with its options, then the training."""
    run = home / "run"
    rebuild(home)  # from the corpus beside it

    def told():
        return CliRunner().invoke(main, ["review", str(run)]).stdout.splitlines()

    def judged(names):
        def serve(session, *_):
            for name in names(session):
                session.decide(name, "rejected", reason="garbled", edit=None, shown="sample")

        monkeypatch.setattr("raft.api.review_page.serve", serve)
        return [line.removeprefix("  next:").strip() for line in told() if "raft " in line]

    assert judged(lambda session: []) == []
    first, build, train = judged(lambda session: session.lists["sample"][:1])
    assert (first.split("   # ")[0], train) == (f"raft review {run}", f"raft train {run}")
    assert shlex.split(build, comments=True)[:5] == ["raft", "build", str(home / "corpus"), "--out", str(run)]
    assert "--questions-per-chunk 8" in build and "chunking.tokens=60" in build
    build, train = judged(lambda session: [])[1:]
    assert [build.split()[1], train.split()[1]] == ["build", "train"]
    assert any("1 verdict is not in the rows yet" in line for line in messages.seen(raft.load(run).reviewed()))
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install(patch.setattr)
        built = CliRunner().invoke(main, shlex.split(build, comments=True)[1:])
    assert built.exit_code == 0, built.output
    said = built.stdout.partition("next:")[2].splitlines()
    assert said[0].strip().startswith(f"raft train {run}")
    assert ["raft review" in said[-2], "raft serve" in said[-1]] == [True, True]
    assert [line.split()[1] for line in judged(lambda session: [])] == ["review", "train"]
    assert not any("not in the rows" in line for line in messages.seen(raft.load(run).reviewed()))


def waiting(home):
    """Return how many verdicts are told to wait for the next build."""
    found = raft.load(home / "run").reviewed()
    assert any("not in the rows yet" in line for line in messages.seen(found)) == (found["waiting"] > 0)
    return found["waiting"]


def edit_of(row, words):
    """Return an edit of a row's question."""
    return {"question": f"{words}: {row['question']}", "answer": row["answer"]}


def test_a_verdict_waits_for_one_build(home):
    """One that the rules keep from the rows, an edit, and another one of it: each waits until a build counted it."""
    with opened(home / "run") as page:
        kept, poor, absent, bad, *_ = page.told("state")["lists"]["sample"]
        row, other = (page.told(f"row?id={name}") for name in (poor, absent))
        page.judge(kept, "approved")
        assert waiting(home) == 0, "the rules keep it already"
        for words in ("Say again", "Tell me again"):
            page.judge(poor, "edited", edit=edit_of(row, words))
            assert waiting(home) == 1
        page.judge(bad, "rejected", reason="garbled")
    digest = decisions.digest_of(other["question"], other["answer"])
    edit = {"question": other["question"], "answer": "4711 tonnes"}
    lost = decisions.Decision(absent, digest, "edited", "Ada", edit=edit, was=clean.ABSENT, time="2099-01-01")
    decisions.add(home / "run" / decisions.FILE, lost)
    assert waiting(home) == 3
    built, _, _ = rebuild(home)
    assert dict(built.cleaned.select("question_id", "reason").iter_rows())[absent] == clean.ABSENT
    assert waiting(home) == 0
    with opened(home / "run") as page:
        page.judge(poor, "edited", edit=edit_of(row, "Once more"))
    assert waiting(home) == 1


def test_a_verdict_that_is_taken_back_waits_too(home):
    """A rejection that was built in and is undone: the rows are as they were only after the next build."""
    with opened(home / "run") as page:
        bad = page.told("state")["lists"]["sample"][0]
        page.judge(bad, "rejected", reason="garbled")
    rebuild(home)
    assert waiting(home) == 0
    with opened(home / "run") as page:
        assert page.told("undo", {})["id"] == bad
    assert (waiting(home), raft.load(home / "run").reviewed()["seen"]) == (1, 0)
    rebuild(home)
    assert waiting(home) == 0


def test_an_edit_of_a_pair_of_ones_own_waits(home, tmp_path):
    """A pair of `--qa` was written by a person before; that its edit is not in the rows is told all the same."""
    row = raft.load(home / "run").cleaned.filter(pl.col("split") == "train").row(0, named=True)
    pair = {"question": row["question"].replace("What", "Which"), "answer": row["answer"]}
    pairs = tmp_path / "faq.jsonl"
    pairs.write_text(json.dumps(pair) + "\n")
    rebuild(home, qa=pairs)
    with opened(home / "run", only="human") as page:
        (pair,) = page.told("state")["lists"]["human"]
        page.judge(pair, "edited", "human", edit=edit_of(page.told(f"row?id={pair}"), "Say again"))
    assert waiting(home) == 1
    rebuild(home, qa=pairs)
    assert waiting(home) == 0


def test_in_a_run_of_before_newer_verdicts_wait(home):
    """Where the build noted no verdicts, those that were given since it made the rows are taken for new ones."""
    with opened(home / "run") as page:
        bad, poor, *_ = page.told("state")["lists"]["sample"]
        page.judge(bad, "rejected", reason="garbled")
        rebuild(home)
    manifest = home / "run" / "manifest.json"
    told = json.loads(manifest.read_bytes())
    del told["decided"]
    told["steps"]["cleaned"]["finished"] = datetime.now(UTC).isoformat()
    manifest.write_text(json.dumps(told))
    with opened(home / "run") as page:
        page.judge(poor, "edited", edit=edit_of(page.told(f"row?id={poor}"), "Say again"))
    assert waiting(home) == 1
    rebuild(home)
    assert waiting(home) == 0


def test_a_page_in_use_goes_on_while_many_idle_connections_are_open(home):
    """Whoever opens connections and asks nothing, or half a line, keeps nobody from judging."""
    with opened(home / "run") as page, ExitStack() as lines:
        idle = []
        for number in range(150):
            idle.append(lines.enter_context(closing(socket.create_connection((page.place.hostname, page.place.port)))))
            idle[-1].sendall([b"", b"GET /", b"GET / HTTP/1.1\r\nhost: localhost\r\n"][number % 3])
            if number % 15 == 0:
                page.judge(page.told("state")["lists"]["sample"][0], "approved")
        page.told("state")  # by now all of them have come
        closed = [line for line in idle if select.select([line], [], [], 0)[0]]
        assert len(closed) >= 150 - 64 - 2


def line_to(page, stack):
    """Open a connection to a page, which is closed with the stack."""
    place = (page.place.hostname, page.place.port)
    return stack.enter_context(closing(socket.create_connection(place, timeout=20)))


def test_of_connections_that_asked_the_one_that_waits_longest_makes_room(home, monkeypatch):
    """A page that was opened first and is in use stays; one that asked before it, and nothing since, is closed."""
    monkeypatch.setattr(Connection, "MOST", 3)
    with opened(home / "run") as page, ExitStack() as stack:
        lines = [http.client.HTTPConnection(page.place.hostname, page.place.port, timeout=20) for _ in range(3)]
        for line in lines:
            stack.enter_context(closing(line)).connect()

        def asks(line):
            line.request("GET", "/nothing")
            answer = line.getresponse()
            return answer.status, answer.read() != b""

        assert [asks(line) for line in (*lines, lines[0])] == [(404, True)] * 4
        line_to(page, stack)
        assert lines[1].sock.recv(1) == b""
        assert asks(lines[0]) == (404, True)


def test_requests_in_flight_are_bounded_too(home, monkeypatch):
    """Where each connection is being answered, a new one is closed, and the others are answered."""
    monkeypatch.setattr(Connection, "MOST", 2)
    with opened(home / "run") as page, ExitStack() as stack:
        head = f"POST {page.place.path}undo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        lines = [line_to(page, stack) for _ in range(2)]
        for line in lines:
            line.sendall(f"{head}content-length: 2\r\nexpect: 100-continue\r\n\r\n".encode())
            assert line.recv(4096).startswith(b"HTTP/1.1 100")
        assert line_to(page, stack).recv(1) == b""
        for line in lines:
            line.sendall(b"{}")
            assert line.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_head_that_does_not_come_is_not_waited_for(home, monkeypatch):
    """A connection that sends nothing, or the pieces of a head one by one, is closed after its time."""
    monkeypatch.setattr(served, "PATIENCE", 0.05)
    with opened(home / "run") as page:
        for sent in (b"", b"GET / HTTP/1.1\r\nhost: local"):
            with closing(socket.create_connection((page.place.hostname, page.place.port), timeout=20)) as line:
                line.sendall(sent)
                assert line.recv(1) == b""


@needs_chromium
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_a_person_reviews_by_keyboard_alone(width, height, home, tmp_path):
    """In a browser, wide or narrow: approve, reject with a reason, edit, undo, go back and on, other lists, done."""
    place, element = "document.getElementById('place').textContent", "document.getElementById('{}')"
    with opened(home / "run", sample=6) as page, Driven(page.address, tmp_path, width=width, height=height) as browser:
        names = page.told("state")["lists"]["sample"]

        def at(number):
            idle = "document.body.dataset.busy === 'no'"
            browser.until(f"{idle} && {place} === '{number} of 6' && !{element.format('row')}.hidden")

        at(1)
        assert browser.value("document.documentElement.scrollWidth") <= width
        seen = """(() => { const box = document.getElementById('sources').getBoundingClientRect();
            const lit = document.querySelector('mark').getBoundingClientRect();
            return lit.top >= box.top && lit.bottom <= box.bottom; })()"""
        assert browser.value(seen), "the quote is scrolled to"
        browser.press("a")
        at(2)
        browser.press("r")
        browser.until(f"!{element.format('reasons')}.hidden")
        browser.press("6")
        at(3)
        browser.press("e")
        browser.until("document.activeElement.id === 'new-question'")
        browser.tell("Input.dispatchKeyEvent", type="keyDown", key="a", modifiers=2, commands=["selectAll"])
        browser.write("Would <b>you</b> say that of the Delta pump, of all pumps?")
        browser.press("Enter", control=True)
        at(4)
        browser.press("k")
        at(3)
        assert "<b>you</b>" in browser.value(f"{element.format('question')}.textContent")
        browser.press("j")
        at(4)
        browser.press("a")
        at(5)
        browser.press("u")
        at(4)
        mine = page.told("state")["mine"]
        assert mine == dict(zip(names, ("approved", "rejected", "edited"), strict=False))
        browser.press("l")
        browser.until(f"{element.format('list')}.value !== 'sample' && document.body.dataset.busy === 'no'")
        for _ in range(30):
            browser.press("Tab")
            if browser.value("document.activeElement.id") == "done":
                break
        browser.press("Enter")
        browser.until("document.querySelector('h1').textContent === 'Thank you'")
        assert "2 of 3 wrong" in browser.value("document.body.textContent")
    kept = pl.read_ndjson(home / "run" / decisions.FILE)
    assert kept["verdict"].to_list() == ["approved", "rejected", "edited", "approved", "undone"]
