"""A registry that is mirrored to an MLflow server, by the calls that one answers (`fake_mlflow`)."""

import pytest

import fake_mlflow
from raft.backends import mlflow
from raft.backends.mlflow import Mirrored
from raft.errors import RaftError, UsageError

PLAIN = Mirrored("0", "", "", "Plain RAG: tiny.", {"user/f1": 0.4}, {"raft.kind": "rag"})
TUNED = Mirrored("aaa1", "d1", "r1", "# aaa1", {"user/f1": 0.5, "gain": 0.1}, {"raft.verdict": "ship", "raft.kind": ""})
MADE = Mirrored("aaa1-gguf", "d2", "", "x" * 9000, {}, {"raft.note": "y" * 9000})
ALIASES = {"production": "aaa1", "candidate": "aaa1-gguf", "previous": "0"}

pytestmark = pytest.mark.usefixtures("on_this_machine")


@pytest.fixture
def server():
    """Return the address of a stand-in, and what it holds."""
    with fake_mlflow.serving() as found:
        yield found


def push(url, versions=(PLAIN, TUNED, MADE), aliases=ALIASES, owner="raft-1"):
    """Mirror versions to a server."""
    return mlflow.push(url, "handbook", owner, versions, aliases)


def version_of(holds, name):
    """Return the version of the registered model that mirrors a version."""
    return next(
        one for one in holds.models["handbook"]["versions"] if {"key": "raft.version", "value": name} in one["tags"]
    )


def test_versions_aliases_cards_and_figures_are_mirrored(server):
    """Each version is one of the registered model, with card and digests, and a run with its figures."""
    url, holds = server
    done = push(url)
    assert (done["name"], done["new"], done["same"]) == ("handbook", ["0", "aaa1", "aaa1-gguf"], [])
    tuned = version_of(holds, "aaa1")
    told = {tag["key"]: tag["value"] for tag in tuned["tags"]}
    assert (told["raft.digest"], told["raft.report"], told["raft.verdict"]) == ("d1", "r1", "ship")
    assert tuned["description"] == "# aaa1"
    run = holds.runs[tuned["run_id"]]
    assert {one["key"]: one["value"] for one in run["data"]["metrics"]} == {"user/f1": 0.5, "gain": 0.1}
    assert (run["info"]["status"], run["info"]["run_name"]) == ("FINISHED", "aaa1")
    aliases = {alias: version_of(holds, name)["version"] for alias, name in ALIASES.items()}
    assert holds.models["handbook"]["aliases"] == aliases


def test_what_is_there_and_unchanged_is_left_alone(server):
    """A second time only aliases are set; what changed meanwhile is changed, and an alias that is gone goes."""
    url, holds = server
    push(url)
    versions = [dict(one) for one in holds.models["handbook"]["versions"]]
    assert push(url)["same"] == ["0", "aaa1", "aaa1-gguf"]
    assert holds.models["handbook"]["versions"] == versions
    better = Mirrored("aaa1", "d1", "r2", "# measured anew", {"user/f1": 0.6}, {"raft.verdict": "ship"})
    done = push(url, (PLAIN, better, MADE), {"production": "0", "candidate": None, "previous": None})
    assert (done["changed"], done["same"]) == (["aaa1"], ["0", "aaa1-gguf"])
    tuned = version_of(holds, "aaa1")
    assert tuned["description"] == "# measured anew"
    assert {"key": "raft.report", "value": "r2"} in tuned["tags"]
    assert {"key": "user/f1", "value": 0.6} in [
        {"key": one["key"], "value": one["value"]} for one in holds.runs[tuned["run_id"]]["data"]["metrics"]
    ]
    assert holds.models["handbook"]["aliases"] == {"production": version_of(holds, "0")["version"]}
    assert len(holds.runs) == len(holds.models["handbook"]["versions"]) == 3


def test_what_was_cut_short_is_completed(server):
    """Wherever a mirroring ends, the next one ends as a quiet one does, with no version and no run twice."""
    url, holds = server
    push(url)
    count = len(holds.calls)
    for at in range(1, count + 1):
        with fake_mlflow.serving() as (other, halfway):

            def breaks(_, halfway=halfway, at=at):
                if len(halfway.calls) == at:
                    raise fake_mlflow.Refused("INTERNAL_ERROR", "out of memory", 500)

            halfway.breaks = breaks
            with pytest.raises(RaftError, match="out of memory"):
                push(other)
            push(other)
            assert halfway.models["handbook"]["aliases"] == holds.models["handbook"]["aliases"], at
            assert len(halfway.runs) == len(halfway.models["handbook"]["versions"]) == 3, at


def test_a_model_of_somebody_else_is_left_alone(server):
    """A registered model of that name which is of another run is not written to."""
    url, holds = server
    push(url)
    before = len(holds.models["handbook"]["versions"])
    with pytest.raises(UsageError, match="not of this run") as refused:
        push(url, owner="raft-2")
    assert "--name handbook-2" in refused.value.hint
    assert len(holds.models["handbook"]["versions"]) == before


def test_who_asks_is_told_as_mlflow_tells_it(server, monkeypatch):
    """A server that wants a token gets it from the variable of MLflow's own client; without one that is said."""
    url, holds = server
    holds.token = "secret"
    with pytest.raises(RaftError, match="does not let you in") as refused:
        push(url)
    assert "MLFLOW_TRACKING_TOKEN" in refused.value.hint
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    assert push(url)["new"]


def test_what_is_no_mlflow_server_is_told(server, monkeypatch):
    """A wrong address, a server that is none of MLflow's, and nobody at all: one screen with the next command."""
    url, _ = server
    with pytest.raises(RaftError, match="refuses registered-models") as refused:
        push(f"{url}/elsewhere")
    assert refused.value.hint.startswith("curl ")
    with pytest.raises(UsageError, match="is no address"):
        push("localhost:5000")
    with fake_mlflow.serving() as (gone, _):
        pass
    with pytest.raises(RaftError, match="No MLflow server answers"):
        push(gone)
    monkeypatch.setattr(fake_mlflow.json, "dumps", lambda *_, **__: "<html>")
    with pytest.raises(RaftError, match="What answers is no MLflow server"):
        push(url)


def test_a_key_in_the_address_is_not_told(server):
    """What stands before the @ of an address is shown nowhere."""
    url, _ = server
    with fake_mlflow.serving() as (gone, _):
        pass
    with pytest.raises(RaftError) as refused:
        push(gone.replace("http://", "http://me:hunter2secret@"))
    assert "hunter2secret" not in str(refused.value)
    assert "hunter2secret" not in str(push(url.replace("http://", "http://me:hunter2secret@")))


def test_mlflows_own_client_reads_what_was_mirrored(server):
    """Where MLflow's client is installed, it finds version, card and figures by the alias."""
    client = pytest.importorskip("mlflow").MlflowClient
    url, _ = server
    push(url)
    found = client(url, registry_uri=url)
    version = found.get_model_version_by_alias("handbook", "production")
    assert (version.tags["raft.version"], version.description) == ("aaa1", "# aaa1")
    assert found.get_run(version.run_id).data.metrics == {"user/f1": 0.5, "gain": 0.1}


@pytest.mark.parametrize(
    "reply", [{}, {"registered_model": None}, {"registered_model": {"tags": 7}}, {"registered_model": {"tags": [{}]}}]
)
def test_what_answers_with_other_objects_is_no_mlflow_server(server, monkeypatch, reply):
    """A server whose replies lack what MLflow says is told of in words, whatever they are instead."""
    url, holds = server
    monkeypatch.setattr(holds, "answer", lambda method, path, given: reply)
    with pytest.raises(RaftError, match="no MLflow server"):
        push(url)


def test_a_list_without_end_ends(server, monkeypatch):
    """A server that names the same next page for ever is not asked for ever."""
    url, holds = server
    monkeypatch.setattr(holds, "post_runs_search", lambda **_: {"runs": [], "next_page_token": "2"}, raising=False)
    assert push(url)["new"] == ["0", "aaa1", "aaa1-gguf"]
    assert sum("runs/search" in call for call in holds.calls) == 2


def test_what_is_too_long_is_not_read(server, monkeypatch):
    """A reply has a size: a server that sends more is told of as none."""
    url, holds = server
    monkeypatch.setattr(mlflow, "_LARGEST", 1000)
    monkeypatch.setattr(holds, "answer", lambda method, path, given: {"x": "y" * 2000})
    with pytest.raises(RaftError, match="brings too much"):
        push(url)


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME"])
def test_a_token_with_more_in_it_is_not_shown(server, monkeypatch, variable):
    """A token of two lines cannot be sent, and is not repeated; the end of a line behind it is passed over."""
    url, holds = server
    monkeypatch.setenv(variable, "geheim-123\r\nX-Else: 1")
    with pytest.raises(UsageError) as told:
        push(url)
    assert "geheim" not in str(told.value) and told.value.where == variable
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "geheim-123\r\n")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    holds.token = "geheim-123"
    assert push(url)["new"]
