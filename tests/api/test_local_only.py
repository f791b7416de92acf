"""`local_only`: what is not on this machine is refused before anything is started."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import raft
from conftest import Fakes, write_corpus
from raft import api
from raft.api.models import check
from raft.backends import hub
from raft.errors import RaftError, UsageError
from raft.settings.sections import Engine, Generator, Index, Larger, Settings

ADDRESSES = ("BASE_URL", "API_BASE", "_PROXY", "_proxy")


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    """No test sees addresses, proxies or switches of the machine, or leaves its own."""
    for name in [*os.environ]:
        if name.endswith(ADDRESSES) or name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
            monkeypatch.delenv(name)
    yield
    hub.offline(False)


def settings(model="HuggingFaceTB/SmolLM2-135M-Instruct", api_base=None, **sections):
    """Return settings that are local only, with a generator."""
    return Settings(local_only=True, generator=Generator(model=model, api_base=api_base), **sections)


def refusal(settings, **options):
    """Return what is said of settings that are refused."""
    with pytest.raises(UsageError) as refused:
        check(settings, **options)
    return str(refused.value)


def test_models_in_folders_and_packages_are_local():
    """The defaults, which name local models, are let through."""
    check(settings())


@pytest.mark.parametrize(
    "address",
    [
        *("http://127.0.0.1:8000/v1", "http://localhost:8000/v1", "http://[::1]:8000/v1", "https://127.3.2.1/v1"),
        *("http://LOCALHOST:1", "localhost:8000/v1", "http://localhost.:8000", "http://user:key@127.0.0.1:8000/v1"),
    ],
)
def test_a_server_on_the_loopback_is_local(address):
    """Generator, embedder, index and larger models may be servers at 127.0.0.0/8, ::1 or localhost."""
    index = Index(embedder="openai/embedder", api_base=address, url="http://127.0.0.1:8000")
    check(settings("hosted_vllm/model", address, index=index))
    check(settings(), asked={"openai/larger": address})


@pytest.mark.parametrize(
    "address",
    [
        *("https://api.openai.com/v1", "http://10.0.0.7:8000/v1", "http://192.168.1.2", "http://0.0.0.0:8000"),
        *("http://127.0.0.1@evil.example/v1", "http://evil.example#@127.0.0.1", "http://127.0.0.1.evil.example/v1"),
        *("http://evil.example\\@127.0.0.1/", "http://localhost.evil.example", "http://[::ffff:8.8.8.8]/", "http://["),
        *("http://2130706433/", "http://127.1/", "http://127.0.0.1\n.evil.example/", "http://", "evil.example", "::"),
    ],
)
def test_any_other_address_is_not(address):
    """An address is refused unless it is plainly the loopback; no name is looked up, no odd spelling guessed at."""
    assert "hosted_vllm/model" in refusal(settings("hosted_vllm/model", address))
    assert "index.url" in refusal(settings(index=Index(url=address)))


@given(st.text(max_size=40))
def test_no_address_breaks_the_check(address):
    """Whatever an address holds, it is let through or refused in words."""
    try:
        check(settings("hosted_vllm/model", f"http://{address}/v1"))
    except UsageError as refused:
        assert "hosted_vllm/model" in str(refused)


def test_a_hosted_model_without_an_address_is_refused():
    """A provider's own address is elsewhere; where the name alone is given, the refusal says so."""
    assert "openai/gpt-4o-mini" in refusal(settings("openai/gpt-4o-mini"))


@pytest.mark.parametrize("name", ["anthropic/model", "bedrock/model", "azure/model", "gemini/model"])
def test_an_address_does_not_make_a_provider_local(name):
    """Providers that no server on this machine stands for are refused with any address: some ignore it."""
    assert name in refusal(settings(name, "http://127.0.0.1:8000"))


@pytest.mark.parametrize("name", ["ollama/llama3", "ollama_chat/llama3", "xinference/llama3"])
def test_servers_that_are_local_by_themselves_need_no_address(name, monkeypatch):
    """Ollama and Xinference run on this machine unless a variable says otherwise."""
    check(settings(name))
    monkeypatch.setenv(f"{name.partition('_')[0].partition('/')[0].upper()}_API_BASE", "http://gpu.example:11434")
    assert "gpu.example" in refusal(settings(name))


def test_addresses_in_the_environment_count(monkeypatch):
    """A server named by its provider's variable is judged by it; of two, both have to be on the loopback."""
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:8000/v1")
    check(settings("openai/model"))
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.openai.com/v1")
    assert "api.openai.com" in refusal(settings("openai/model"))
    check(settings("openai/model", "http://127.0.0.1:8000/v1"))


def test_a_proxy_is_elsewhere(monkeypatch):
    """Requests to the loopback that a proxy would see are refused, until NO_PROXY leaves the loopback out."""
    local = settings("hosted_vllm/model", "http://127.0.0.1:8000/v1")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    assert "NO_PROXY" in refusal(local)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    check(local)


def test_ray_on_the_loopback_is_local_whatever_proxy_is_set(monkeypatch):
    """Ray asks no proxy: one of this machine is taken, and one of another is refused before it is reached."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    check(settings("HuggingFaceTB/SmolLM2-135M-Instruct", engine=Engine(kind="ray", address="127.0.0.1:6379")))
    check(settings("HuggingFaceTB/SmolLM2-135M-Instruct", engine=Engine(kind="ray", address="auto")))
    away = settings("HuggingFaceTB/SmolLM2-135M-Instruct", engine=Engine(kind="ray", address="203.0.113.7:6379"))
    assert "engine.address: 203.0.113.7" in refusal(away)


def test_everything_that_is_remote_is_named_at_once():
    """One refusal names the generator, the embedder and the index, and no key in their addresses."""
    index = Index(embedder="openai/embedder", url="http://user:sk-secret-1@chroma.example:8000")
    said = refusal(settings("openai/model", "http://user:sk-secret-1@host.example/v1", index=index))
    assert "openai/model: host.example" in said
    assert "openai/embedder" in said
    assert "index.url: chroma.example" in said
    assert "sk-secret-1" not in said


def test_without_the_setting_nothing_is_refused():
    """What is not local only may ask whom it likes."""
    check(Settings(generator=Generator(model="openai/gpt-4o-mini"), index=Index(url="http://chroma.example:8000")))


def test_only_what_is_asked_counts():
    """A command that asks another model than the generator is judged by that one."""
    check(settings("openai/gpt-4o-mini"), asked={"HuggingFaceTB/SmolLM2-135M-Instruct": None})
    assert "openai/other" in refusal(settings(), asked={"openai/other": None})


# downloads ------------------------------------------------------------------------------------------------------------


def test_downloads_are_refused_and_allowed_again(monkeypatch):
    """Under `local_only` the vendors' own switches are on, in variables and in what was imported; then as before."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    check(settings())
    assert constants.HF_HUB_OFFLINE is True
    assert (
        os.environ["HF_HUB_OFFLINE"] == os.environ["HF_DATASETS_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"
    )
    check(settings())
    check(Settings())
    assert constants.HF_HUB_OFFLINE is False
    assert "HF_HUB_OFFLINE" not in os.environ
    assert os.environ["TRANSFORMERS_OFFLINE"] == "0"


def test_a_user_who_is_offline_stays_so(monkeypatch):
    """Leaving `local_only` does not switch on what the user had switched off."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check(settings())
    check(Settings())
    assert constants.HF_HUB_OFFLINE is True
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_model_of_the_hub_is_not_fetched(monkeypatch):
    """A model that is not on this machine is refused with the reason, and the network is not touched."""
    import socket

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("the network was used"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network was used"))
    check(settings())
    with pytest.raises(UsageError, match="local_only is set"):
        hub.identity("nobody/no-such-model")


@pytest.mark.slow
def test_a_set_of_the_hub_is_not_fetched(monkeypatch):
    """Sets that a benchmark would fetch are refused as well, also when the vendor's package was imported before."""
    import socket

    import datasets.config
    from huggingface_hub import constants

    for owner, name in ((constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE")):
        monkeypatch.setattr(owner, name, False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network was used"))
    check(settings())
    with pytest.raises(UsageError, match="cannot be loaded"):
        hub.rows("nobody/no-such-set")


def test_who_is_imported_later_is_offline_too():
    """The switch is set before vendors are imported, and worker processes inherit it."""
    program = (
        "from raft.backends import hub; hub.offline(True); "
        "from huggingface_hub import constants; import subprocess, sys; print(constants.HF_HUB_OFFLINE, flush=True); "
        "subprocess.run([sys.executable, '-c', 'import os; print(os.environ[\"HF_HUB_OFFLINE\"])'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "1"]


# commands -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fakes(monkeypatch):
    """Models by rule."""
    fakes = Fakes()
    fakes.install(monkeypatch.setattr)
    return fakes


@pytest.fixture
def run(fakes, tmp_path):
    """A run that was built on this machine, local only."""
    small = {"chunking.tokens": 60, "questions.limit": 6, "local_only": True}
    built = api.build(write_corpus(tmp_path / "corpus"), out=tmp_path / "run", settings=small)
    fakes.forget()
    return built


def test_a_build_refuses_a_hosted_generator(fakes, tmp_path):
    """A build that would send documents elsewhere stops before it reads one."""
    corpus = write_corpus(tmp_path / "corpus")
    with pytest.raises(UsageError, match="local_only"):
        api.build(corpus, out=tmp_path / "run", generator="openai/gpt-4o-mini", settings={"local_only": True})
    assert not (tmp_path / "run" / "documents.parquet").exists()
    assert fakes.asked == fakes.embedded == []


def test_answers_come_from_this_machine(run, fakes):
    """A run that is local only answers with a local model, and refuses a hosted one."""
    with pytest.raises(UsageError, match="openai/gpt-4o"):
        run.ask("How long is the warranty?", model="openai/gpt-4o")
    assert fakes.asked == []


def test_a_benchmark_refuses_a_hosted_contender(run, fakes):
    """No contender of a run that is local only is asked elsewhere, whether it is given or set."""
    with pytest.raises(UsageError, match="openai/gpt-4o"):
        raft.bench(run.folder, larger=["openai/gpt-4o"])
    larger = [Larger(model="openai/other", api_base="http://host.example/v1").model_dump()]
    with pytest.raises(UsageError, match=r"host\.example"):
        raft.bench(run.folder, settings={"benchmark.larger": larger})
    assert fakes.asked == []


def test_a_training_refuses_a_hosted_student(run):
    """A student that is not on this machine is refused before anything is looked up."""
    with pytest.raises(UsageError, match="local_only"):
        raft.train(run.folder, settings={"student": "openai/gpt-4o"})


def test_a_retriever_is_tuned_without_a_student(run):
    """Where the student is not on this machine its retriever is looked at all the same."""
    file = run.folder / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest["settings"]["student"] = "openai/gpt-4o"
    file.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(RaftError, match="50 questions at least"):
        raft.train(run.folder, part="retriever")
