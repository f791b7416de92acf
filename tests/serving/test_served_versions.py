"""Versions: a server answers with what the registry says, changes to another without an error, and a guard watches."""

import json
import shutil
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest
from test_adapters import write_adapter

from conftest import FakeModel, Fakes
from raft.api import asking, models
from raft.backends import hub
from raft.errors import RaftError
from raft.evaluation.guard import LIMIT
from raft.serving import routing, versions
from raft.serving.routing import HEADER, Router
from raft.serving.versions import Versions
from raft.store import adapters, registry, traffic
from raft.store.fitness import PLAIN
from served import Callers, Served, said, until

FIRST, SECOND, THIRD = "aaaa1111", "bbbb2222", "cccc3333"
SETTINGS = {"generator.attempts": 2}
BASE = "sha256:" + "a" * 64
QUESTION = "How heavy is the Delta garden pump?"


@pytest.fixture(scope="module")
def whole(whole):
    """A finished build with three adapters that no test writes to."""
    for name in (FIRST, SECOND, THIRD):
        write_adapter(whole / "run", name, base_identity=BASE)
    adapters.set_current(whole / "run", FIRST)
    return whole


class Named(FakeModel):
    """Says which adapter it has, or what a test has it say with that."""

    def __init__(self, name, fakes, adapter):
        super().__init__(name, fakes)
        self.adapter = adapter.name if adapter else PLAIN
        self.says = fakes.says

    def _reply(self, call):
        said = self.says.get(self.adapter, f"Answer: by {self.adapter}")
        self.fakes.reply = said if callable(said) else lambda _: said
        return super()._reply(call)


@pytest.fixture
def run(whole, tmp_path, monkeypatch):
    """A copy of the build, whose student says with which adapter it answers."""
    made = Fakes()
    made.says = {}
    made.install(monkeypatch.setattr)
    monkeypatch.setattr(models, "LocalModel", lambda name, adapter=None, **_: Named(name, made, adapter))
    monkeypatch.setattr(hub, "identity", lambda name: BASE)
    copied = shutil.copytree(whole / "run", tmp_path / "run")
    made.folder = copied
    monkeypatch.setattr(asking, "made_for_tests", made, raising=False)
    return copied


@pytest.fixture
def says():
    """What each adapter says, by its id."""
    return asking.made_for_tests.says


class Even(Router):
    """A router to which all replies take equally long: no candidate is stopped for other work of this machine."""

    def saw(self, conversation, question, arm, version, answered):
        """Show the guard a reply, but not how long it took."""
        untimed = answered if answered is None else replace(answered, took=None)
        super().saw(conversation, question, arm, version, untimed)


class Live(Served):
    """A server over a run, as `raft serve` puts it together."""

    def __init__(self, run, opened, **options):
        self.versions = opened
        first = opened.take()
        heard = []
        router = Even(run, "salt", lambda *event: heard.append(event), opened.wake.set)
        router.change(first, opened.standing)
        super().__init__(first, run=run, router=router, **options)
        self.router, self.heard, self._over = router, heard, threading.Event()

    def offer(self, sources):
        """Answer from other sources."""
        self.engine.offer(sources)
        self.router.change(sources, self.versions.standing)

    def watch(self):
        """Look at the registry as it goes."""
        self.versions.watch(self._over, self.offer, lambda *_: None)

    def look(self):
        """Look at the registry once."""
        return self.versions.look(self.offer)

    def of(self, question=QUESTION, *, headers=None, **more):
        """Return the object `raft` of a reply."""
        body = {"model": "raft", "messages": [{"role": "user", "content": question}], **more}
        status, _, text = self.ask("/v1/chat/completions", body, headers=headers)
        assert status == 200, text
        return json.loads(text)["raft"]

    def __exit__(self, *told):
        self._over.set()
        self.versions.wake.set()
        super().__exit__(*told)


@contextmanager
def live(run, *, adapter=None, keys=None):
    """Serve a run; its `events` are those of the versions too."""
    events = []
    with (
        Versions(run, None, adapter, lambda *event: events.append(event)) as opened,
        Live(run, opened, keys=keys) as server,
    ):
        server.told = events
        yield server


def promoted(run, name):
    """Put a version into production."""
    return registry.promote(run, name, by="Ann", because="a test")


def test_the_registry_says_what_answers(run):
    """What is in production answers, its reply names it, and the list of models tells it before anybody asks."""
    promoted(run, SECOND)
    with live(run) as server:
        said = server.of()
        assert (said["version"], said["arm"], said["adapter"]) == (SECOND, "production", SECOND)
        assert said["id"].startswith("chatcmpl-")
        (first, _) = json.loads(server.ask("/v1/models")[2])["data"]
        told = {name: said[name] for name in ("version", "adapter_digest", "index", "model")}
        assert first["raft"] == {**told, "candidate": None, "registry": True}
        assert said["adapter_digest"] == adapters.digest(run / "adapters" / SECOND)


def test_without_a_production_the_current_adapter_answers(run):
    """Where nobody promoted anything the adapter of the start answers, also once another one is current."""
    with live(run) as server:
        assert server.of()["version"] == FIRST
        adapters.set_current(run, SECOND)
        assert (server.look(), server.of()["version"]) == (False, FIRST)


def test_a_given_adapter_is_no_matter_of_the_registry(run):
    """With --adapter the registry is not looked at, which is said, and a later promotion changes nothing."""
    promoted(run, SECOND)
    with live(run, adapter=THIRD) as server:
        assert any("registry" in one for one in server.versions.remarks)
        promoted(run, FIRST)
        assert (server.look(), server.of()["version"]) == (False, THIRD)
        assert json.loads(server.ask("/v1/models")[2])["data"][0]["raft"]["registry"] is False


def test_one_look_is_enough_to_go_back(run):
    """The first answer after the look that follows a promotion or a rollback is the new version's; looks come often."""
    assert versions.LOOK <= 0.25
    promoted(run, FIRST)
    with live(run) as server:
        for change, version in (
            (lambda: promoted(run, SECOND), SECOND),
            (lambda: registry.rollback(run, by="Ann"), FIRST),
            (lambda: registry.rollback(run, by="Ann", to=PLAIN), PLAIN),
        ):
            change()
            assert server.look()
            assert server.of()["version"] == version
            assert not server.look()
        assert [event for event, _ in server.told if event != "asked"] == ["changed"] * 3


def test_a_rollback_during_traffic_drops_no_request(run):
    """While four callers ask, one of them in streams, a promotion and a rollback come into effect and nobody fails."""
    promoted(run, FIRST)
    replies, effects = [], []
    with live(run) as server:
        server.watch()

        def call(number):
            before = len(replies)
            reply = server.chat(f"{QUESTION} {number}", stream=number == 0)
            answered = (reply[-1] if number == 0 else reply)["raft"]
            text = said(reply) if number == 0 else reply["choices"][0]["message"]["content"]
            assert text == f"by {answered['version']}", "it was written by whom it names"
            replies.append((before, answered["version"]))

        with Callers(4, call, again=True) as callers:
            for change, version in (
                (lambda: promoted(run, SECOND), SECOND),
                (lambda: registry.rollback(run, by="Ann"), FIRST),
            ):
                seen = len(replies)
                until(lambda seen=seen: callers.problems or len(replies) >= seen + 60)
                change()
                until(lambda version=version: callers.problems or replies[-1][1] == version)
                effects.append((len(replies), version))
            wanted = max(len(replies) + 60, 220)
            until(lambda: callers.problems or len(replies) >= wanted)
        assert 'outcome="failed"' not in server.ask("/metrics")[2]
        assert [event for event, _ in server.events if event == "stumbled"] == []
    (second, _), (back, _) = effects
    assert {version for begun, version in replies if begun < second} == {FIRST, SECOND}
    assert {version for begun, version in replies if begun >= back} == {FIRST}, "asked after it came into effect"
    rows = traffic.replies(run)
    assert Counter(rows["version"]) == Counter(version for _, version in replies)


def test_what_cannot_answer_changes_nothing(run):
    """A version whose files changed, of another base, or of a form that is not run here is told once, with advice."""
    promoted(run, FIRST)
    with live(run) as server:
        promoted(run, SECOND)
        weights = run / "adapters" / SECOND / adapters.WEIGHTS
        shutil.copy(run / "adapters" / THIRD / adapters.WEIGHTS, weights)
        assert server.look()
        assert server.of()["version"] == FIRST
        assert not server.look()
        kept = [facts for event, facts in server.told if event == "kept"]
        assert [facts["version"] for facts in kept] == [SECOND]
        assert "changed since" in kept[0]["why"] and "raft registry promote" in kept[0]["why"]
        card = adapters.read_card(run / "adapters" / THIRD)
        adapters.write_card(run / "adapters" / THIRD, {**card, "base_identity": "sha256:" + "b" * 64})
        promoted(run, THIRD)
        assert server.look()
        assert server.of()["version"] == FIRST
        assert [facts["version"] for event, facts in server.told if event == "kept"][1:] == [THIRD]
        file = run / "made.gguf"
        file.write_bytes(b"GGUF")
        made = registry.register(run, adapter=FIRST, kind="gguf", path=file, by="Ann")
        promoted(run, made.id)
        server.look()
        assert server.of()["version"] == FIRST
        assert "GGUF" in [facts["why"] for event, facts in server.told if event == "kept"][-1]
        registry.rollback(run, by="Ann", to=PLAIN)
        server.look()
        assert server.of()["version"] == PLAIN


def test_what_was_in_production_and_cannot_answer_is_refused_at_the_start(run):
    """A server does not start with another version than the one in production; the refusal has the next command."""
    promoted(run, SECOND)
    (run / "adapters" / SECOND / adapters.WEIGHTS).unlink()
    with pytest.raises(RaftError) as told, Versions(run, None, None, lambda *_: None):
        pass
    assert "raft registry promote" in str(told.value)
    assert list((run / "scratch").glob("serving-*[!k]")) == []


def test_a_version_that_does_not_load_is_told_and_left_out(run, monkeypatch):
    """Where weights cannot be loaded though all looked well, production goes on, and a new try comes with a change."""
    promoted(run, FIRST)
    warm = versions.Voice.warm

    def fails(voice):
        if voice.version == SECOND:
            raise RaftError("The adapter does not fit.", hint="train another")
        warm(voice)

    monkeypatch.setattr(versions.Voice, "warm", fails)
    with live(run) as server:
        server.engine._on_event = lambda event, facts: (
            server.versions.unfit(**facts) if event == "unfit" else server.events.append((event, facts))
        )
        promoted(run, SECOND)
        server.look()
        assert server.of()["version"] == FIRST
        until(lambda: any(event == "kept" for event, _ in server.told))
        server.look()
        assert server.of()["version"] == FIRST
        monkeypatch.setattr(versions.Voice, "warm", warm)
        registry.rollback(run, by="Ann")
        promoted(run, SECOND)
        server.look()
        assert server.of()["version"] == SECOND


def test_a_change_that_was_cut_short_is_looked_at_again(run, monkeypatch):
    """Where the history cannot be read in the middle of a change, the next look brings the candidate its share."""
    promoted(run, FIRST)
    with live(run) as server:
        nominated(run, 1.0)
        with monkeypatch.context() as patch:
            patch.setattr(routing, "since", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                server.look()
        server.look()
        assert server.of()["version"] == SECOND


def nominated(run, share, shadow=0.0, name=SECOND):
    """Make a version the candidate."""
    return registry.nominate(run, name, share=share, shadow=shadow, by="Ann")


def test_a_caller_always_meets_the_same_system(run):
    """Of 60 users a part meets the candidate, each always the same; with a larger share those and others do."""
    promoted(run, FIRST)
    nominated(run, 0.3)
    users = [f"user {number}" for number in range(60)]
    with live(run) as server:
        once = {user: server.of(user=user)["arm"] for user in users}
        assert once == {user: server.of("What else is there?", user=user)["arm"] for user in users}
        few = {user for user, arm in once.items() if arm == "candidate"}
        assert 5 < len(few) < 35
        nominated(run, 0.6)
        server.look()
        said = {user: server.of(user=user) for user in users}
        more = {user for user, one in said.items() if one["arm"] == "candidate"}
        assert few < more
        assert {(one["arm"], one["version"]) for one in said.values()} == {("production", FIRST), ("candidate", SECOND)}
        registry.withdraw(run, by="Ann", because="enough")
        server.look()
        assert {server.of(user=user)["arm"] for user in users[:20]} == {"production"}
        assert json.loads(server.ask("/v1/models")[2])["data"][0]["raft"]["candidate"] is None


def test_a_header_or_a_chat_stands_for_the_conversation(run):
    """Without `user` the header decides, and without it the first question, which later turns of a chat bring along."""
    promoted(run, FIRST)
    nominated(run, 0.5)
    with live(run) as server:
        arms = {}
        for number in range(20):
            named = [server.of(f"Question {turn}?", headers={HEADER: f"chat {number}"})["arm"] for turn in range(2)]
            first, later = {"role": "user", "content": f"Question {number}?"}, {"role": "user", "content": "And then?"}
            turns = [first, {"role": "assistant", "content": "x"}, later]
            chat = server.of(f"Question {number}?")["arm"], server.chat(turns)["raft"]["arm"]
            arms[number] = {*named}, {*chat}
        assert all(len(one) == 1 for pair in arms.values() for one in pair)
        assert len({tuple(pair[0]) for pair in arms.values()}) == len({tuple(pair[1]) for pair in arms.values()}) == 2
        assert server.of(raft={"probe": True}, user="user 1")["arm"] == "production"


HOSTILE = {
    "an empty text": "",
    "a zero byte": "\x00",
    "half a character": "\ud800",
    "a path": "../../etc/passwd",
    "a query": "'; DROP TABLE replies; --",
    "markup": "<script>alert(1)</script>",
    "a long text": "x" * 200_000,
    "white space": " \n\t ",
    "another script": "ʎuunɟ 用户 👩‍👩‍👧",
}


def test_hostile_names_of_users_are_names(run):
    """Any text as `user` is answered, always by the same system; what is no text is refused; no header does harm."""
    promoted(run, FIRST)
    nominated(run, 0.5)
    with live(run) as server:
        for name, value in HOSTILE.items():
            arms = {server.of(user=value)["arm"] for _ in range(2)}
            assert len(arms) == 1, name
        for value in (1, 1.5, True, [], {}, ["user"]):
            body = {"model": "raft", "messages": [{"role": "user", "content": QUESTION}], "user": value}
            status, _, text = server.ask("/v1/chat/completions", body)
            assert (status, json.loads(text)["error"]["param"]) == (400, "user")
        for value in ("", " ", "\xff\xfe", "%00", "x" * 8_000, "a, b"):
            assert server.of(headers={HEADER: value})["arm"] in ("production", "candidate")
        assert [event for event, _ in server.events if event == "stumbled"] == []
    rows = traffic.replies(run)
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in rows["conversation"])
    assert not any("passwd" in one for one in rows["conversation"])


def test_the_guard_stops_a_candidate_in_a_running_server(run, says):
    """A candidate that abstains is withdrawn by the guard, figures in the history and told, and gets nothing more."""
    says[SECOND] = "Answer: The documents do not answer this question."
    promoted(run, FIRST)
    nominated(run, 0.5)
    with live(run) as server:
        count = 0
        while not server.heard:
            count += 1
            assert count < 300
            server.of(user=f"user {count}")
        ((event, facts),) = server.heard
        assert (event, facts["candidate"]) == ("stopped", SECOND)
        assert {server.of(user=f"user {number}")["arm"] for number in range(count)} == {"production"}, "at once"
        assert server.engine.sources.candidate is not None, "it is not for lack of one"
        until(lambda: registry.standing(run).candidate is None)
        line = registry.history(run)[-1]
        assert (line["action"], line["who"], line["version"]) == ("withdraw", "guard", SECOND)
        assert "abstentions" in line["why"] and f"{LIMIT:g} to 1" in line["why"]
        server.watch()
        until(lambda: server.engine.sources.candidate is None)
        assert server.of()["version"] == FIRST


def test_the_guard_goes_on_where_the_last_server_ended(run, says):
    """What a server saw counts in the next one; what was seen before the candidate was nominated does not."""
    says[SECOND] = "Answer: The documents do not answer this question."
    promoted(run, FIRST)
    nominated(run, 0.5)
    with live(run) as server:
        for number in range(7):
            server.of(user=f"user {number}")
        seen = [(one.candidate_replies, one.evidence) for one in server.router._trial.guard.figures()]
        assert server.heard == []
    with live(run) as server:
        again = [(one.candidate_replies, one.evidence) for one in server.router._trial.guard.figures()]
        assert again[:3] == seen[:3] and again[1][1] > 1
        count = 7
        while not server.heard:
            count += 1
            assert count < 300
            server.of(user=f"user {count}")
        until(lambda: registry.standing(run).candidate is None)
    nominated(run, 0.5)
    with live(run) as server:
        assert [one.candidate_replies for one in server.router._trial.guard.figures()] == [0] * 4


def test_a_candidate_found_worse_in_the_traffic_is_stopped_at_the_start(run):
    """Where the traffic of other servers tells enough, a server withdraws the candidate before it answers anybody."""
    promoted(run, FIRST)
    nominated(run, 0.5)
    begun = routing.since(registry.history(run))
    with traffic_of(run) as kept:
        for number in range(60):
            for arm, version in (("production", FIRST), ("candidate", SECOND)):
                facts = {
                    "outcome": "failed" if arm == "candidate" else "answered",
                    "conversation": routing.conversation("salt", "", user=str(number)),
                }
                kept.record(
                    traffic.Reply(
                        reply_id=f"{arm}{number}", at=begun + 1, arm=arm, version=version, question="?", **facts
                    )
                )
    with live(run) as server:
        assert [event for event, _ in server.heard] == ["stopped"]
        assert server.of(user="anybody")["version"] == FIRST
        until(lambda: registry.standing(run).candidate is None)


@contextmanager
def traffic_of(run):
    """Open the traffic of a run for writing."""
    kept = traffic.Traffic(run)
    yield kept
    kept.close()


def test_a_shadow_is_nobodys_wait(run, says):
    """Of a sampled request the caller sees production while the candidate still writes; what it says is kept."""
    gate, inside = threading.Event(), threading.Event()

    def slow(_):
        inside.set()
        assert gate.wait(60)
        return "Answer: by the shadow"

    says[SECOND] = slow
    promoted(run, FIRST)
    nominated(run, 0.0, 1.0)
    with live(run) as server:
        said = server.of()
        assert (said["version"], said["arm"]) == (FIRST, "production"), "it came while the shadow is not written yet"
        assert inside.wait(60)
        gate.set()
        assert {server.of(f"Question {number}?")["version"] for number in range(5)} == {FIRST}
        until(lambda: not server.engine._shadows)
    shadows = traffic.shadows(run)
    assert said["id"] in list(shadows["reply_id"])
    row = shadows.filter(shadows["reply_id"] == said["id"]).row(0, named=True)
    assert (row["version"], row["arm"], row["answer"]) == (SECOND, "candidate", "by the shadow")
    assert set(traffic.replies(run)["version"]) == {FIRST}


def test_keys_are_callers_of_their_own(run, tmp_path):
    """Where a request names no user, its key's name stands for the caller; the same user of two keys is two."""
    names = [
        routing.conversation("salt", caller, user=user, first=first)
        for caller, user, first in (
            ("ada", "", "One?"),
            ("ada", "", "Two?"),
            ("bo", "", "One?"),
            ("ada", "1", "One?"),
            ("bo", "1", "One?"),
            ("", "1", "One?"),
            ("", "", "One?"),
        )
    ]
    assert names[0] == names[1]
    assert len(set(names)) == len(names) - 1
