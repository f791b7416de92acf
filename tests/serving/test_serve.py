"""`raft serve`, as it is typed: asked by the clients that people have, ended by signals, and refused in one screen."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_train import build_for

import raft
from conftest import Fakes
from raft.api.asking import LoadedRun
from raft.api.feedback import accepted
from raft.api.training import export_model
from raft.cli import main
from raft.errors import RaftError, UsageError
from raft.serving.engine import Engine
from raft.serving.keys import new_key, owner, read
from raft.serving.process import serve
from raft.serving.routing import Router
from raft.serving.snapshots import Snapshots
from raft.serving.versions import Voice
from raft.store import registry, traffic
from raft.store.fitness import PLAIN
from served import ask, pieces, said, until

SETTINGS = {"generator.attempts": 2}
QUESTION = "How heavy is the Delta garden pump?"
GOOD = {"model": "raft", "messages": [{"role": "user", "content": QUESTION}]}
PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from conftest import Fakes
fakes = Fakes()
{before}
from raft.cli import main
main()
"""


@pytest.fixture(scope="module")
def tuned(tiny_student, tmp_path_factory):
    """A finished build for a tiny student, with an adapter."""
    pytest.importorskip("peft")
    pytest.importorskip("trl")
    run = build_for(tiny_student, tmp_path_factory.mktemp("served"))
    raft.train(run, learning_rate=0.05)
    return run


@pytest.fixture(scope="module")
def plain(whole):
    """A finished build whose models cost nothing."""
    return whole / "run"


class Process:
    """A server in a process of its own.

    Attributes:
        address: where it listens.
        said: what it said, line by line, all of it when it has ended.
    """

    def __init__(self, process):
        self.process, self.said, self.address = process, [], None
        for line in process.stderr:
            self.said.append(line)
            if "listening at" in line:
                self.address = line.split()[3].removesuffix("/v1")
            if "ready after" in line:
                break
        self._reading = threading.Thread(target=lambda: self.said.extend(process.stderr), daemon=True)
        self._reading.start()

    def end(self, sign=signal.SIGTERM):
        """Send a signal; return the exit code."""
        self.process.send_signal(sign)
        code = self.process.wait(60)
        self._reading.join(60)
        assert "Traceback" not in "".join(self.said)
        return code


INSTANT = "fakes.install(setattr); fakes.reply = lambda request: 'Answer: 7.5 kg'"
AROUND = "fakes.install_around_student(setattr)"


@contextmanager
def serving(run, *options, before=INSTANT):
    """Serve a run in a process."""
    code = PROGRAM.format(before=before)
    command = [sys.executable, "-c", code, str(Path(__file__).parents[1]), "serve", str(run), "--port", "0", *options]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=settings)
    try:
        yield Process(process)
    finally:
        process.kill()
        process.wait(30)
        process.stderr.close()


@pytest.mark.slow
def test_the_openai_package_is_answered_by_a_tuned_model(tuned):
    """OpenAI's own package reads the answer of the run's adapter, whole, streamed, and refused."""
    openai = pytest.importorskip("openai")
    with serving(tuned, before=AROUND) as server:
        client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)
        (first, second) = client.models.list().data
        assert (first.id, second.id, first.owned_by) == ("run", "raft", "raft")
        reply = client.chat.completions.create(**GOOD, extra_body={"raft": {"passages": True}})
        text = reply.choices[0].message.content
        assert text
        assert reply.raft["adapter"] == raft.load(tuned).adapters[0]["adapter"]
        assert reply.raft["passages"][0]["document"] == "manuals/delta.md"
        assert reply.usage.completion_tokens > 0
        chunks = list(client.chat.completions.create(**GOOD, stream=True, stream_options={"include_usage": True}))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
        assert chunks[-2].raft["index"] == reply.raft["index"]
        assert chunks[-1].usage.completion_tokens > 0
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**{**GOOD, "model": "gpt-4o"})
        with pytest.raises(openai.BadRequestError, match="one choice"):
            client.chat.completions.create(**GOOD, n=2)
        assert server.end() == 0
    assert list((tuned / "scratch").glob("serving-*")) == []


@pytest.mark.slow
def test_litellm_and_curl_are_answered(plain, on_this_machine):
    """Litellm and curl read what they know from OpenAI, quotes as annotations."""
    litellm = pytest.importorskip("litellm")
    before = "fakes.install(setattr); fakes.reply = lambda request: 'Answer: 7.5 kg\\nQuote [1]: \"weighs 7.5 kg\"'"
    with serving(plain, before=before) as server:
        given = {"model": "openai/run", "api_base": f"{server.address}/v1", "api_key": "none"}
        reply = litellm.completion(messages=GOOD["messages"], **given)
        assert reply.choices[0].message.content == "7.5 kg"
        assert reply.choices[0].message.annotations[0]["url_citation"]["title"] == "manuals/delta.md"
        stream = litellm.completion(messages=GOOD["messages"], stream=True, **given)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "7.5 kg"
        command = ["curl", "-sN", f"{server.address}/v1/chat/completions", "-H", "Content-Type: application/json"]
        sent = json.dumps({**GOOD, "stream": True})
        done = subprocess.run([*command, "-d", sent], capture_output=True, text=True, check=True, timeout=60)
        assert said(pieces(done.stdout)) == "7.5 kg"


SLOW = """
import threading
gate = threading.Event()
fakes.install(setattr)
def slow(request):
    print("asked", file=sys.stderr, flush=True)
    gate.wait({seconds})
    return "Answer: 7.5 kg"
fakes.reply = slow
"""


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_is_in_flight_first(plain, sign):
    """After SIGTERM or Ctrl-C who waits is still answered; then the process ends well, and leaves nothing behind."""
    with serving(plain, before=SLOW.format(seconds=1)) as server:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(ask(server.address, "/v1/chat/completions", GOOD)[0]))
        asking.start()
        until(lambda: any("asked" in line for line in server.said), server.process)
        assert server.end(sign) == 0
        asking.join(30)
    assert answers == [200]
    assert list((plain / "scratch").glob("serving-*")) == []


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(plain, sign):
    """Who presses Ctrl-C twice waits for nothing: the process ends with 130 while the model is busy, and tidies up."""
    with serving(plain, before=SLOW.format(seconds=600)) as server:
        body = json.dumps(GOOD).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        line = socket.create_connection(("127.0.0.1", int(server.address.rsplit(":", 1)[1])))
        with closing(line):
            line.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            until(lambda: any("asked" in one for one in server.said), server.process)
            server.process.send_signal(sign)
            until(lambda: not ask_health(server.address))
            assert server.end(sign) == 130
    assert "not answered" in server.said[-1]
    assert list((plain / "scratch").glob("serving-*[!k]")) == [], "nothing is left for the next one to tidy up"


def test_a_listener_that_fails_ends_nothing(plain, monkeypatch):
    """Where what is told cannot be written (the terminal was closed, the disk is full), the server serves on."""
    fakes = Fakes()
    fakes.install(monkeypatch.setattr)
    fakes.reply = lambda request: "Answer: 7.5 kg"
    answers = []

    def asks(address):
        until(lambda: ask(address, "/readyz")[0] == 200)
        answers.append(ask(address, "/v1/chat/completions", GOOD)[0])
        os.kill(os.getpid(), signal.SIGTERM)

    def told(event, facts):
        if event == "opened":
            threading.Thread(target=asks, args=(facts["address"],), daemon=True).start()
        raise OSError(28, "No space left on device")

    serve(plain, port=0, on_event=told)
    assert answers == [200]


COPYING = """
import threading
from raft.serving.versions import Versions
def take(versions):
    print("raft: ready after copying", file=sys.stderr, flush=True)
    threading.Event().wait(600)
Versions.take = take
"""


def test_a_signal_before_it_listens_leaves_nothing(plain):
    """SIGTERM while the run is still being copied ends the process, and what it had copied goes with it."""
    with serving(plain, before=COPYING) as server:
        assert list((plain / "scratch").glob("serving-????????"))
        assert server.end(signal.SIGTERM) == 130
    assert list((plain / "scratch").glob("serving-????????")) == []


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "place", [(Snapshots, "_copy"), (LoadedRun, "open"), (Router, "change"), (Engine, "start"), (Engine, "end"), None]
)
def test_a_signal_at_any_stage_leaves_nothing(plain, monkeypatch, place, sign):
    """A signal while a run is copied, opened, announced or loaded, or a second one while the server ends, ends it all.

    No copy, no thread and no open port is left.
    """
    fakes, before = Fakes(), {*threading.enumerate()}
    fakes.install(monkeypatch.setattr)
    signals = {one: signal.signal(one, signal.default_int_handler) for one in (signal.SIGINT, signal.SIGTERM)}
    if place:
        usual = getattr(*place)

        def interrupted(*given, **named):
            found = usual(*given, **named)
            signal.raise_signal(sign)
            return found

        monkeypatch.setattr(*place, interrupted)
    addresses = []

    def told(event, facts):
        if event == "opened":
            addresses.append(facts["address"])
            if place is None:
                signal.raise_signal(sign)
        if event == "ready":
            os.kill(os.getpid(), sign)

    try:
        with pytest.raises(KeyboardInterrupt):
            serve(plain, port=0, on_event=told)
    finally:
        for one, usual_handler in signals.items():
            signal.signal(one, usual_handler)
    left = [thread for thread in threading.enumerate() if thread not in before and thread.name.startswith("raft-")]
    for thread in left:
        thread.join(60)
    assert not any(thread.is_alive() for thread in left)
    assert list((plain / "scratch").glob("serving-????????")) == []
    assert not addresses or not ask_health(addresses[0])


def test_a_build_is_taken_over_without_a_restart(plain, tmp_path):
    """A server notices by itself that a build in another process has finished, and answers from it."""
    home = shutil.copytree(plain.parent, tmp_path / "home")
    with serving(home / "run") as server:
        before = raft_of(server.address)["index"]
        (home / "corpus" / "new.md").write_text("# Delta garden pump\n\nThe Delta garden pump of 2026 weighs 9.5 kg.\n")
        with pytest.MonkeyPatch.context() as patch:
            Fakes().install(patch.setattr)
            raft.build(home / "corpus", out=home / "run", settings={"generator.attempts": 2})
        until(lambda: any("taken over: 7 documents" in line for line in server.said), server.process)
        after = raft_of(server.address)
        assert after["index"] != before
        assert "new.md" in [passage["document"] for passage in after["passages"]]
        assert len(list((home / "run" / "scratch").glob("serving-*/[0-9]*"))) == 1, "the old copy is gone"


def test_feedback_reaches_the_run(plain, tmp_path):
    """A server as it is typed keeps what it is asked and told in the run, says so, and ends with it all on disk."""
    run = shutil.copytree(plain, tmp_path / "run", ignore=shutil.ignore_patterns("traffic.sqlite*"))
    with serving(run) as server:
        assert any("kept in traffic.sqlite" in line for line in server.said)
        name = json.loads(ask(server.address, "/v1/chat/completions", GOOD)[2])["id"]
        said = {"reply_id": name, "rating": "down", "correction": "7.5 kg"}
        assert ask(server.address, "/v1/feedback", said)[0] == 200
        assert ask(server.address, "/v1/chat/completions", GOOD)[0] == 200
        assert server.end() == 0
    assert traffic.replies(run)["question"].to_list() == [QUESTION, QUESTION]
    assert raft.feedback(run, accept=[1], by="Marta Quill")["accepted"] == 1
    assert accepted(run)[0]["document"] == "manuals/delta.md"


def raft_of(address, **more):
    """Return what raft says beside an answer."""
    return json.loads(ask(address, "/v1/chat/completions", {**GOOD, "raft": {"passages": True}, **more})[2])["raft"]


@pytest.mark.slow
def test_versions_of_a_real_model_follow_the_registry(tuned, tmp_path):
    """One process answers by turns with two adapters, with a merged model and with plain RAG, each in its own words."""
    run = shutil.copytree(tuned, tmp_path / "run")
    (first,) = [card["adapter"] for card in raft.load(run).adapters]
    second = raft.train(run, learning_rate=0.2)["adapter"]
    merged = f"{first}-merged"
    export_model(run, adapter=first)
    says = {}
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install_around_student(patch.setattr)
        for name, adapter in {first: first, second: second, PLAIN: "none"}.items():
            says[name] = raft.load(run).ask(QUESTION, adapter=adapter).text
        says[merged] = raft.load(run).ask(QUESTION, model=str(run / f"export-merged-{first}")).text
    assert len({says[first], says[second], says[PLAIN]}) == 3, "they can be told apart"
    registry.promote(run, first, by="Ann", because="a test")
    with serving(run, before=AROUND) as server:

        def answers(name):
            body = {**GOOD, "user": "somebody"}
            reply = json.loads(ask(server.address, "/v1/chat/completions", body)[2])
            said = reply["choices"][0]["message"]["content"]
            assert said == says[reply["raft"]["version"]]
            return reply["raft"]["version"] == name

        assert answers(first)
        for name in (second, merged, PLAIN):
            registry.promote(run, name, by="Ann", because="a test")
            until(lambda name=name: answers(name), server.process)
        for name in (merged, second, first):
            registry.rollback(run, by="Ann")
            until(lambda name=name: answers(name), server.process)
        registry.nominate(run, second, share=1.0, shadow=0.0, by="Ann")
        until(lambda: raft_of(server.address)["arm"] == "candidate", server.process)
        assert answers(second)
        assert server.end() == 0
    assert any("is in production" in line for line in server.said)
    rows = traffic.replies(run)
    assert set(rows["version"]) == {first, second, merged, PLAIN}


def ask_health(address):
    """Tell whether a server still takes connections."""
    try:
        return ask(address, "/healthz")[0] == 200
    except OSError:
        return False


def screen(*arguments):
    """Return exit code and what a refused command said."""
    result = CliRunner().invoke(main, ["serve", *map(str, arguments)])
    assert "Traceback" not in result.output
    assert "next:" in result.output
    return result.exit_code, result.output


def test_what_cannot_be_served_is_one_screen(plain, tmp_path):
    """Other addresses without keys, a taken port, no run, and no file of keys are told with the next command."""
    code, said = screen(plain, "--host", "0.0.0.0")
    assert (code, "--new-key NAME --keys keys.txt && raft serve" in said) == (2, True)
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = screen(plain, "--port", taken.getsockname()[1])
    assert (code, "in use" in said, "--port 0" in said) == (1, True, True)
    assert screen(tmp_path / "none", "--port", 0)[0] == 2
    assert screen()[0] == 2
    code, said = screen(plain, "--keys", tmp_path / "none.txt")
    assert (code, "--new-key" in said) == (2, True)
    (tmp_path / "empty.txt").write_text("# nobody\n")
    assert screen(plain, "--keys", tmp_path / "empty.txt")[0] == 2
    assert screen("--new-key", "ada")[0] == 2


def test_a_model_that_does_not_load_ends_the_server(plain, monkeypatch):
    """Where the model cannot be loaded the server ends, with the error in one screen, and leaves nothing behind."""

    def fails(snapshot):
        raise RaftError("There is no such model.", hint="name another")

    Fakes().install(monkeypatch.setattr)
    monkeypatch.setattr(Voice, "warm", fails)
    code, said = screen(plain, "--port", 0)
    assert (code, "There is no such model." in said) == (1, True)
    assert list((plain / "scratch").glob("serving-*")) == []


def test_a_key_is_told_once_and_not_kept(tmp_path):
    """A new key is printed, its file has its digest alone and is its owner's, and it opens the server for its name."""
    path = tmp_path / "keys.txt"
    result = CliRunner().invoke(main, ["serve", "--new-key", "ada", "--keys", str(path)])
    key = result.stdout.strip()
    assert (result.exit_code, key[:5], key in path.read_text()) == (0, "raft-", False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other = new_key(path, "bo@example.org")
    known = read(path)
    assert (owner(known, key), owner(known, other), owner(known, "raft-")) == ("ada", "bo@example.org", None)
    for wrong in ("ada", "", "two words", "a\nb", "x" * 65):
        with pytest.raises(UsageError):
            new_key(path, wrong)
    assert read(path) == known
    path.write_text(f"ada {key}\n")
    with pytest.raises(UsageError) as told:
        read(path)
    assert key not in str(told.value), "a key in the place of its digest is not shown"
