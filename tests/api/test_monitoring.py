"""`raft monitor`: what production answers is measured through its endpoint, kept, compared, acted upon with care."""

import json
import shutil
import socket
import sqlite3
import time
from dataclasses import replace

import pytest
from click.testing import CliRunner
from filelock import FileLock

import raft
from conftest import Fakes, write_corpus
from raft.backends.hosted import endpoint as asking
from raft.cli import main
from raft.cli.progress import Progress
from raft.errors import NotMeasured, UsageError
from raft.evaluation import monitor as monitoring
from raft.pipeline.monitor import Measuring
from raft.store import registry
from raft.store.points import Points
from raft.store.traffic import Reply, Traffic
from stand_in import StandIn

COUNT = 40
ASKED = {f"How heavy is part number {number} of the Delta pump?": f"{number + 100} kg" for number in range(COUNT)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A finished build with forty questions of its user, whose models cost nothing."""
    home = tmp_path_factory.mktemp("monitored")
    lines = [{"question": question, "answers": [answer]} for question, answer in ASKED.items()]
    (home / "own.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install(patch.setattr)
        raft.build(
            write_corpus(home / "corpus"),
            out=home / "run",
            evaluation=home / "own.jsonl",
            settings={"generator.attempts": 2, "questions.per_chunk": 2},
        )
    return home / "run"


@pytest.fixture
def run(built, tmp_path):
    """A copy of it that nobody has measured."""
    return shutil.copytree(built, tmp_path / "run")


@pytest.fixture
def server():
    """What serves it: each answer is right."""
    with StandIn() as found:
        found.reply = ASKED.__getitem__
        yield found


@pytest.fixture(autouse=True)
def no_models(monkeypatch):
    """What is embedded costs nothing, and nobody waits."""
    fakes = Fakes()
    fakes.install(monkeypatch.setattr)
    monkeypatch.setattr(asking.Endpoint.__init__, "__kwdefaults__", {"wait": lambda seconds: None})
    return fakes


def wrong(count, *, of=ASKED):
    """Return a rule by which the first so many questions are answered wrongly."""
    bad = set([*of][:count])
    return lambda question: "nothing of the kind" if question in bad else of[question]


def look(run, server, **options):
    """Measure once."""
    return raft.monitor(run, url=server.url, **options)


def test_the_first_measure_is_kept_with_all_that_it_is_of(run, server):
    """A point tells when, of which version, adapter, index, model and questions it is, and each question's score."""
    found = look(run, server)
    point = found["measure"]
    assert (point["state"], point["count"], found["asked"]) == ("first", COUNT, COUNT)
    assert {name: point[name] for name in ("version", "adapter_digest", "index", "model")} == {
        name: server.served[name] for name in ("version", "adapter_digest", "index", "model")
    }
    assert point["value"]["value"] == 1.0
    with Points(run) as points:
        (kept,) = points.all()
        replies = points.replies(kept["id"])
    assert kept == point
    assert len(replies) == COUNT and {one["score"] for one in replies.values()} == {1.0}
    assert (run / "monitor.html").is_file()


def test_questions_say_that_they_are_probes(run, server):
    """Each request is a probe, so that it is no user's traffic and no candidate answers it."""
    look(run, server)
    assert all(body["raft"] == {"probe": True} for body in server.bodies)


def test_nothing_is_asked_where_nothing_has_changed(run, server):
    """A second look costs no model call, says so, and comes to the same; --again asks all the same."""
    look(run, server)
    second = look(run, server)
    assert second["asked"] == 0 and len(server.asked) == COUNT
    assert len(second["history"]) == 1
    assert "nobody was asked" in raft.cli.monitor.words(second)
    third = look(run, server, again=True)
    assert (third["asked"], third["measure"]["state"]) == (COUNT, "fine")


@pytest.mark.parametrize("changed", [{"index": "j" * 64}, {"adapter_digest": "b" * 64}, {"version": "v2"}])
def test_what_changed_is_asked_again(run, server, changed):
    """Another index, adapter or version is a reason to ask, and the measure says which it was."""
    look(run, server)
    server.served |= changed
    found = look(run, server)
    assert found["asked"] == COUNT
    assert found["measure"]["changed"] == [*changed]


@pytest.mark.parametrize(
    ("bad", "state", "code"), [(0, "fine", 0), (1, "fine", 0), (2, "perhaps", 0), (7, "act", 11), (40, "act", 11)]
)
def test_a_fall_is_told_by_its_size_and_by_chance(run, server, bad, state, code):
    """A fall of 5 points of 40 questions may be nothing, one of 17 is certain; exit codes tell them apart."""
    look(run, server)
    server.served["index"] = "j" * 64
    server.reply = wrong(bad)
    done = CliRunner().invoke(main, ["monitor", str(run), "--url", server.url, "--json"])
    found = json.loads(done.stdout)
    assert (found["measure"]["state"], done.exit_code) == (state, code), done.stderr
    assert found["measure"]["change"]["worse"] == bad == found["measure"]["change"]["replies"]
    assert len(found["worst"]) == min(bad, 30)


def test_limits_are_settings(run, server):
    """With other limits the same fall is looked into, or is none that counts; no question is asked for it."""
    look(run, server)
    server.served["index"] = "j" * 64
    server.reply = wrong(7)
    assert look(run, server)["measure"]["state"] == "act"
    for limits, state in (({"monitor.act": 0.3}, "look"), ({"monitor.act": 0.3, "monitor.look": 0.3}, "fine")):
        found = look(run, server, settings=limits)
        assert (found["measure"]["state"], found["asked"]) == (state, 0)
    with pytest.raises(UsageError, match="act"):
        look(run, server, settings={"monitor.look": 0.3})


def test_a_slow_fall_is_noticed(run, server):
    """The reference stays the first measure of a version, so that small falls add up."""
    states = []
    for step in range(6):
        server.served["index"] = str(step) * 64
        server.reply = wrong(step * 2)
        states.append(look(run, server)["measure"]["state"])
    assert states == ["first", "perhaps", "perhaps", "act", "act", "act"]


def test_a_measure_can_be_made_the_reference(run, server):
    """Who knows of a fall says so, and later measures are compared with that one."""
    look(run, server)
    server.reply = wrong(10)
    server.served["index"] = "j" * 64
    assert look(run, server, reference=True)["measure"]["state"] == "first"
    server.served["index"] = "k" * 64
    found = look(run, server)["measure"]
    assert (found["state"], found["reference"]) == ("fine", 2)


def test_another_version_is_compared_with_the_one_before_and_never_acted_upon(run, server):
    """A new version that is worse is looked into: somebody chose it, so nothing is done by itself."""
    look(run, server)
    server.served |= {"version": "v2", "adapter_digest": "b" * 64}
    server.reply = wrong(30)
    found = look(run, server, act=True)
    assert (found["measure"]["state"], found["measure"]["against"], found["acted"]) == ("look", "before", None)
    assert registry.history(run) == []


def test_plain_rag_gone_back_to_is_no_alarm(run, server):
    """Who went back to plain RAG on purpose is told how it scores, and not warned."""
    look(run, server)
    server.served |= {"version": "0", "adapter_digest": None}
    server.reply = wrong(30)
    found = look(run, server)
    assert found["measure"]["state"] == "first"
    assert found["measure"]["change"]["worse"] == 30


def test_act_goes_back_to_plain_rag(run, server):
    """A fall beyond doubt is answered by going back to plain RAG; the registry says who did it and why."""
    look(run, server)
    server.served["index"] = "j" * 64
    server.reply = wrong(20)
    found = look(run, server, act=True)
    assert found["acted"]["done"]
    (line,) = registry.history(run)
    assert (line["who"], line["action"], line["version"]) == ("monitor", "rollback", "0")
    assert "v1 fell by 50.0 points" in line["why"]
    assert registry.standing(run).production.id == "0"


def test_act_does_not_take_back_what_was_promoted_meanwhile(run, server, monkeypatch):
    """A promotion between the last look at the registry and the going back stands: that version was not measured."""
    registry.promote(run, "0", by="Marta")
    look(run, server)
    server.served["index"] = "j" * 64
    server.reply = wrong(20)
    stood = registry.standing(run)
    measured = replace(stood, production=replace(stood.production, id="v1"))
    monkeypatch.setattr(registry, "standing", lambda folder: measured)
    found = look(run, server, act=True)
    assert not found["acted"]["done"] and "is in production now, and v1 was measured" in found["acted"]["why"]
    assert [line["who"] for line in registry.history(run)] == ["Marta"]


def test_act_is_not_said_where_the_server_does_not_follow(run, server):
    """A server that was started with a version of its own stays with it: nothing is written, and it is said why."""
    look(run, server)
    server.served |= {"index": "j" * 64, "registry": False}
    server.reply = wrong(20)
    found = look(run, server, act=True)
    assert (found["acted"]["done"], "--adapter" in found["acted"]["why"]) == (False, True)
    assert registry.history(run) == []


@pytest.mark.parametrize("bad", [2, 7])
def test_act_does_nothing_that_chance_may_have_done(run, server, bad):
    """A fall that is certain for a person is not yet so for a program that looks every week."""
    look(run, server)
    server.served["index"] = "j" * 64
    server.reply = wrong(bad)
    found = look(run, server, act=True)
    assert not (found["acted"] or {}).get("done")
    assert registry.history(run) == []


def test_act_does_not_go_back_to_what_scores_lower(run, server):
    """Where plain RAG is known to score lower on the same questions, going back would make it worse."""
    server.served |= {"version": "0", "adapter_digest": None}
    server.reply = wrong(35)
    look(run, server)
    server.served |= {"version": "v1", "adapter_digest": "a" * 64}
    server.reply = wrong(0)
    look(run, server)
    server.served["index"] = "j" * 64
    server.reply = wrong(20)
    found = look(run, server, act=True)
    assert found["measure"]["state"] == "act"
    assert not found["acted"]["done"] and "scores lower still" in found["acted"]["why"]
    assert registry.history(run) == []


def test_without_act_nothing_is_done(run, server):
    """The monitor changes nothing that nobody asked it to change."""
    look(run, server)
    server.served["index"] = "j" * 64
    server.reply = wrong(40)
    assert look(run, server)["acted"] is None
    assert registry.history(run) == []


def test_a_measure_that_was_stopped_goes_on(run, server):
    """What was answered before a stop is kept, and not asked again."""
    until = 25

    def stopped(event, facts):
        if event == "asked" and len(server.asked) >= until:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look(run, server, on_event=stopped)
    found = look(run, server)
    assert found["measure"]["value"]["questions"] == COUNT
    assert 0 < found["asked"] <= COUNT - until + asking.AT_ONCE
    assert len(server.asked) <= COUNT + asking.AT_ONCE
    assert len(found["history"]) == 1


def test_a_measure_is_never_of_two_systems(run, server):
    """Where production changes while it is measured, the measure begins anew, and is of the later one alone."""

    def promoted(question):
        if len(server.asked) == 10:
            server.served = {**server.served, "version": "v2"}
        return ASKED[question]

    server.reply = promoted
    found = look(run, server)
    assert found["measure"]["version"] == "v2"
    assert found["asked"] == COUNT
    assert len(found["history"]) == 1


def test_what_changes_without_end_is_not_measured(run, server):
    """A server that is another one with each reply is told of as such."""

    def another(question):
        server.served = {**server.served, "index": str(len(server.asked)) * 8}
        return ASKED[question]

    server.reply = another
    found = look(run, server)
    assert found["measure"] is None
    assert "changed while it was measured" in found["not_measured"]["what"]


def test_a_busy_server_is_waited_for(run, server, monkeypatch):
    """A server that has no room is asked again after as long as it says."""
    waited = []
    monkeypatch.setattr(asking.Endpoint.__init__, "__kwdefaults__", {"wait": waited.append})
    server.fails = [503, 429, 503]
    assert look(run, server)["measure"]["lost"] == 0
    assert waited == [7.0, 7.0, 7.0]


@pytest.mark.parametrize(("lost", "measured"), [(2, True), (3, False)])
def test_some_questions_may_be_lost(run, server, monkeypatch, lost, measured):
    """One question of twenty may go without a reply, and counts neither way; with more nothing is told."""
    bad = set([*ASKED][:lost])
    asking_one = asking.Endpoint._ask

    def ask(self, model, question):
        return "it answers 502: no" if question in bad else asking_one(self, model, question)

    monkeypatch.setattr(asking.Endpoint, "_ask", ask)
    found = look(run, server)
    assert (found["measure"] is not None) == measured
    if measured:
        assert (found["measure"]["lost"], found["measure"]["value"]["questions"]) == (lost, COUNT - lost)
    else:
        assert "3 of 40 questions were not answered" in found["not_measured"]["what"]


def closed_port():
    """Return a port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def typed(run, *options, **more):
    """Run the command; return the exit code and what it says of an error."""
    done = CliRunner().invoke(main, ["monitor", str(run), *options], **more)
    assert "Traceback" not in done.output
    return done.exit_code, done.stderr, done.stdout


def test_nobody_listens(run):
    """An endpoint that is down is one screen, with the command that starts it, and an exit code of its own."""
    code, said, out = typed(run, "--url", f"http://127.0.0.1:{closed_port()}/v1")
    assert code == 12
    assert "Nothing answers there: Connection refused" in said
    assert f"raft serve {run}" in said and "--traffic-only" in said
    assert "There is no traffic yet" in out
    assert (run / "monitor.html").is_file()


def test_a_key_is_needed_and_never_told(run, server, tmp_path, monkeypatch):
    """Without the key it is refused; with it in a file or the environment it measures; no output has it."""
    server.key = "raft-secret-1234567890"
    code, said, _ = typed(run, "--url", server.url)
    assert code == 12 and "401" in said and "--key-file key.txt" in said
    (tmp_path / "key").write_text(f"{server.key}\n")
    code, said, out = typed(run, "--url", server.url, "--key-file", str(tmp_path / "key"))
    assert code == 0 and server.key not in said + out
    monkeypatch.setenv("RAFT_API_KEY", server.key)
    assert typed(run, "--url", server.url)[0] == 0
    monkeypatch.setenv("RAFT_API_KEY", f"{server.key}\r\nX-Evil: 1")
    code, said, _ = typed(run, "--url", server.url)
    assert code == 2 and "no key" in said and server.key not in said
    kept = b"".join(path.read_bytes() for path in run.iterdir() if path.name.startswith("monitor"))
    assert server.key.encode() not in kept


def test_there_is_no_such_key_file(run, server, tmp_path):
    """A file of the key that is not there is named."""
    code, said, _ = typed(run, "--url", server.url, "--key-file", str(tmp_path / "none"))
    assert code == 2 and "cannot be read" in said and "--new-key" in said


def test_another_server_is_no_raft(run, server):
    """A server that does not say which version answers is told of as none of raft's."""
    server.models = lambda: [{"id": "gpt-4o", "object": "model"}]
    code, said, _ = typed(run, "--url", server.url)
    assert code == 12 and "no server of raft's" in said and "raft serve" in said


def test_another_run_is_served(run, server):
    """A server of another run, with another index, is not measured as this one."""
    server.name = "other"
    code, said, _ = typed(run, "--url", server.url)
    assert code == 12 and "Another run is served there: other" in said
    assert server.asked == []


def test_a_copy_under_another_name_is_the_same_run(run, server):
    """A run that is served under another name is known by its index."""
    server.name = "copy"
    steps = json.loads((run / "manifest.json").read_text())["steps"]
    server.served["index"] = steps["index"]["artifacts"]["index"]["digest"]
    assert look(run, server)["measure"]["state"] == "first"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://x/v1", "http://", "http://user:word@127.0.0.1/v1", "http://[x"]
)
def test_what_is_no_address(run, url):
    """What is no address is refused, with an example; a password in it is not repeated."""
    code, said, _ = typed(run, "--url", url)
    assert code == 2 and "http://127.0.0.1:8080/v1" in said
    assert "word" not in said.replace("password", "")


def test_without_questions_nothing_can_be_measured(run, server):
    """A run without held-out questions says how to give some."""
    (run / "eval.jsonl").write_text("")
    code, said, _ = typed(run, "--url", server.url)
    assert code == 2 and "--questions questions.jsonl" in said


def test_questions_of_a_file_are_asked(run, server, tmp_path):
    """With --questions those of the file are asked, and not the run's."""
    some = dict([*ASKED.items()][:30])
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": q, "answers": [a]}) + "\n" for q, a in some.items()))
    code, _, out = typed(run, "--url", server.url, "--questions", str(path), "--json")
    assert code == 0 and json.loads(out)["measure"]["count"] == 30
    assert sorted(server.asked) == sorted(some)


def test_what_is_asked_is_said_as_it_is(run, server, tmp_path, capsys):
    """The progress calls questions of a file by the file, people's theirs, and generated ones alone held out."""
    path, (question, answer) = tmp_path / "own.jsonl", next(iter(ASKED.items()))
    path.write_text(json.dumps({"question": question, "answers": [answer]}) + "\n")
    generated = Measuring(raft.load(run)._run, [{"split": "eval_unseen", "key": "x"}], None, None, print)
    assert generated.asked == "the held-out questions"
    for options, said in (({}, "questions that people wrote"), ({"questions": path}, f"the questions in {path}")):
        found = []
        look(run, server, on_event=lambda event, facts, found=found: found.append((event, facts)), **options)
        (asking_of,) = [facts["set"] for event, facts in found if event == "asking"]
        assert asking_of == said
        Progress()("asking", dict(found)["asking"])
        assert f" of {said}" in capsys.readouterr().err


def test_a_measure_of_other_questions_is_a_new_beginning(run, server, tmp_path):
    """Measures that share fewer than half of the questions are not compared; those that share more are."""
    look(run, server)
    path = tmp_path / "q.jsonl"

    def asking_for(rows):
        path.write_text("".join(json.dumps({"question": q, "answers": [a]}) + "\n" for q, a in rows.items()))
        server.reply = lambda question: rows[question]
        return look(run, server, questions=path)["measure"]

    more = {f"What does part {number} cost?": f"{number + 500} euros" for number in range(80)}
    assert (
        asking_for(dict([*ASKED.items()][:30]) | dict([*more.items()][:20]))["change"]["difference"]["questions"] == 30
    )
    assert asking_for(more)["change"] is None


def test_a_newer_format_is_refused(run, server):
    """What a later raft has kept is left alone."""
    look(run, server)
    database = sqlite3.connect(run / "monitor.sqlite")
    database.execute("PRAGMA user_version=2")
    database.close()
    code, said, _ = typed(run, "--url", server.url)
    assert code == 1 and "format 2" in said and "pip install --upgrade" in said


def test_there_is_no_run(tmp_path):
    """A folder that is no run is said to be none."""
    code, said, _ = typed(tmp_path / "none")
    assert code == 2 and "raft build" in said


def test_two_do_not_measure_at_once(run, server):
    """A monitor that finds another one at work on the run ends, and says so."""
    told = []

    def asked(question):  # by several threads: a command's output would go wherever the last one wants it
        try:
            look(run, server)
        except NotMeasured as error:
            told.append((error.what, error.hint))
        return ASKED[question]

    server.reply = asked
    look(run, server)
    assert {what for what, _ in told} == {"Another raft monitor is at work on this run."}
    assert {hint for _, hint in told} == {"the same command again   (when it is done)"}


def test_who_comes_second_is_told_the_command_as_it_was_typed(run, server):
    """The command to type again names the address that was typed."""
    with FileLock(run / "scratch" / "monitor.lock"):
        code, said, _ = typed(run, "--url", server.url)
    assert code == 12 and f"raft monitor {run} --url {server.url}   # when it is done" in said


def test_local_only_holds(run):
    """With local_only no other machine is asked."""
    code, said, _ = typed(run, "--url", "http://10.0.0.1:8080/v1", "--set", "local_only=true")
    assert code == 2 and "local_only" in said


def traffic(run, rows):
    """Write traffic."""
    with_ids = [{"reply_id": f"r{number}", "conversation": f"c{number}", **row} for number, row in enumerate(rows)]
    kept = Traffic(run)
    for row in with_ids:
        kept.record(Reply(**row))
    kept.close()


def day(number):
    """Return a time on a day of the last thirty: what is older than its retention may be deleted."""
    return 86400.0 * (time.time() // 86400 - 30 + number)


def test_the_traffic_is_told_without_a_server(run):
    """Rates, drift and what is not answered are told of the traffic alone; nobody is asked."""
    usual = [*ASKED]
    rows = [
        {
            "at": day(n % 20),
            "question": usual[n % COUNT],
            "answer": "x",
            "supported": n % 4 > 0,
            "seconds": 20.0 * (n % 5 == 0),
        }
        for n in range(200)
    ]
    rows += [
        {"at": day(n), "question": f"Can I bring my dog to the office{'?' * (n % 3)}", "answer": "", "abstained": True}
        for n in range(9)
    ]
    rows += [{"at": day(3), "question": "What is the wifi password?", "abstained": True, "refused": True}]
    traffic(run, rows)
    code, said, out = typed(run, "--traffic-only", "--json")
    found = json.loads(out)
    assert code == 0, said
    told = found["traffic"]
    assert told["replies"] == 210
    (system,) = told["rates"]["systems"]
    assert system["unsupported"]["value"] == pytest.approx(0.25)
    assert system["abstained"]["hits"] == 10
    assert system["failed"]["value"] == 0.0
    assert [one["times"] for one in told["topics"]] == [9, 1]
    assert told["topics"][0]["last"] == monitoring.day(day(8))
    assert told["topics"][1]["why"] == {"refused": 1}
    assert found["measure"] is None


def test_a_second_look_at_the_traffic_embeds_nothing(run, no_models):
    """Vectors of questions are kept in the ledger; only new questions are embedded."""
    rows = [{"at": day(n), "question": f"Where is room {n}?", "abstained": True} for n in range(30)]
    traffic(run, rows)
    raft.monitor(run, traffic_only=True)
    assert any("Where is room" in text for text in no_models.embedded)
    no_models.forget()
    raft.monitor(run, traffic_only=True)
    assert no_models.embedded == []


def test_chunks_are_never_embedded_for_it(run, no_models):
    """Where the ledger is gone, the chunks are not embedded anew: questions are compared with questions alone."""
    (run / "ledger.sqlite").unlink()
    traffic(run, [{"at": day(n), "question": f"Where is room {n}?"} for n in range(30)])
    no_models.forget()
    found = raft.monitor(run, traffic_only=True)["traffic"]
    assert found["far"] is not None
    assert not any("Home customers of Orlin Pumps may return" in text for text in no_models.embedded)


def test_of_few_replies_nothing_is_told(run):
    """Fewer than twenty replies give no rate and no drift; what was asked is still listed."""
    traffic(run, [{"at": day(n), "question": f"Where is room {n}?", "abstained": n == 0} for n in range(5)])
    found = raft.monitor(run, traffic_only=True)["traffic"]
    assert not found["enough"]
    assert found["rates"]["systems"][0]["abstained"] is None
    assert found["known"] is None and found["recently"] is None and found["far"] is None
    assert [one["example"] for one in found["topics"]] == ["Where is room 0?"]
    assert "nothing can be told of so few" in typed(run, "--traffic-only")[2]


def test_a_clock_that_went_wrong_does_not_stop_the_telling(run):
    """Replies that a clock dated years ahead count as of now: the last days are still told from those before."""
    rows = [{"at": day(n % 30), "question": f"Where is room {n}?"} for n in range(150)]
    traffic(run, [*rows, {"at": day(4000), "question": "Where is room 999?"}])
    found = raft.monitor(run, traffic_only=True)["traffic"]
    assert found["last"] <= monitoring.day(time.time())
    assert found["recently"] is not None


def test_a_question_without_end_fills_no_screen(run):
    """A question of any length is cut where a person reads it, and whole for programs."""
    endless = "Where is room 7? " * 4000
    traffic(run, [{"at": day(1), "question": endless, "abstained": True}])
    (topic,) = raft.monitor(run, traffic_only=True)["traffic"]["topics"]
    assert topic["example"] == endless.strip()
    assert "Where is room 7?" in typed(run, "--traffic-only")[2]
    assert max(map(len, typed(run, "--traffic-only")[2].splitlines())) < 250
    assert (run / "monitor.html").read_text().count("Where is room 7?") < 50


def test_ratings_leave_questions_open(run):
    """A reply that was rated down counts among those that the documents do not answer."""
    traffic(run, [{"at": day(n), "question": f"Where is room {n}?", "answer": "here"} for n in range(3)])
    kept = Traffic(run)
    kept.feedback("r1", rating="down", correction="", comment="no", caller="")
    kept.close()
    (topic,) = raft.monitor(run, traffic_only=True)["traffic"]["topics"]
    assert (topic["example"], topic["why"]) == ("Where is room 1?", {"rated down": 1})


def test_the_page_is_made_of_any_of_it(run, server):
    """The page holds what was said of a measure, of a fall and of the traffic, and hostile text stays text."""
    look(run, server)
    server.served["index"] = "j" * 64
    server.reply = lambda question: "<script>alert(1)</script>"
    traffic(run, [{"at": day(n), "question": "<img src=x onerror=alert(1)>", "abstained": True} for n in range(30)])
    look(run, server)
    page = (run / "monitor.html").read_text()
    assert "Fell by 100.0 points, certain: retrain or go back." in page
    assert "<script>alert" not in page and "<img" not in page
    assert "&lt;img src=x" in page


def test_it_stays_and_outlives_a_server_that_is_down(run, server, monkeypatch):
    """With --every it looks again and again; a server that is down is tried again within the hour."""
    slept, url = [], server.url

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 1:
            server.key = "now-a-key-is-needed"
        if len(slept) == 2:
            server.key = None
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("raft.cli.monitor.time.sleep", sleep)
    code, said, _ = typed(run, "--url", url, "--every", "7d")
    assert code == 130
    assert slept == [7 * 86400.0, 3600.0, 7 * 86400.0]
    assert said.count("the next look is at") == 3


def test_the_reference_is_the_first_look_that_measured(run, server, monkeypatch):
    """With --every and --reference a server that is down at first does not lose the reference, and one is enough."""
    look(run, server)
    server.key = "a-key-is-needed"
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        server.key = None
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("raft.cli.monitor.time.sleep", sleep)
    assert typed(run, "--url", server.url, "--every", "7d", "--reference")[0] == 130
    with Points(run) as points:
        assert [point["reference_from_here"] for point in points.all()] == [False, True]


@pytest.mark.parametrize("every", ["7", "0d", "x", "7 days", "-1d"])
def test_how_often_is_a_time(run, every):
    """What is no time is refused before anything is asked."""
    code, said, _ = typed(run, f"--every={every}")
    assert code == 2 and "7d" in said
