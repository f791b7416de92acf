"""The registry's commands: what they print for people and programs, and each refusal on one screen."""

import getpass
import json
import re
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_adapters import write_adapter
from test_registry import measured

import fake_mlflow
from conftest import Fakes, write_corpus
from raft import api
from raft.backends import hub
from raft.cli import main
from raft.cli.registry import answers
from raft.errors import me
from raft.store import artifacts, registry, reports

SHIPS, OTHER = "aaa1bcde", "aab2cdef"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished build with two adapters, of which one was measured, approved and is current; no test writes to it."""
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        Fakes().install(patch.setattr)
        built = api.build(
            write_corpus(home / "corpus"), out=home / "run", questions_per_chunk=2, settings={"chunking.tokens": 60}
        )
        student = built.settings.student
        for name in (SHIPS, OTHER):
            write_adapter(home / "run", name, base=student, base_identity=hub.identity(student))
    (home / "run" / "adapters" / "current").write_text(SHIPS)
    measured(home / "run", SHIPS)
    reports.keep(home / "run", SHIPS)
    api.approve(home / "run", "Ann")
    return home / "run"


@pytest.fixture
def raft(finished, tmp_path, monkeypatch, fake_models, on_this_machine):
    """Run the command line beside a copy of the run; return what it printed and its exit code."""
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result, code, *words):
    """Check that a command ended with one screen that says these words, and what to type next; return that."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output and "does not know how to explain" not in result.output
    assert len(result.stderr.splitlines()) <= 8, result.stderr
    assert all(str(word) in result.stderr for word in words), result.stderr
    assert result.stdout == ""
    return re.search(r"  next:  (.+)", result.stderr)[1]


def test_a_run_without_adapters_is_listed_as_it_answers(raft):
    """Before a training plain RAG is the one version, in columns, and nobody is asked to approve it."""
    shutil.rmtree("run/adapters")
    listed = raft("registry", "list", "run").stdout
    header, plain = listed.splitlines()[:2]
    assert header.index("kind") == plain.index("plain")
    assert "nothing is in production: a server answers untuned, as version 0\n" in listed
    assert f"  next:  raft registry promote run 0 --by {me()}" in listed
    assert "approved" not in raft("registry", "show", "run", "0").stdout


def test_the_whole_way_from_a_report_to_production_and_back(raft):
    """Promoted, tried, withdrawn, gone back from and retired: each is told, and the log has all of it in order."""
    unsaid = raft("registry", "list", "run").stdout
    assert "nothing is in production: a server answers with the current adapter" in unsaid
    assert f"  next:  raft bench run --adapter {OTHER}" in unsaid, "which nobody has measured: it would be refused"
    done = raft("registry", "promote", "run", "aaa", "--by", "Marta Quill")
    assert re.match(rf"{SHIPS} is in production since 20..-..-.. ..:.. UTC, by Marta Quill\n", done.stdout)
    tried = raft("registry", "candidate", "run", "0", "--share", 0.1, "--shadow", 0.05, "--by", "Bo")
    assert "0 is tried: 10 percent of conversations meet it, 5 percent of requests are answered by both" in tried.stdout
    listed = raft("registry", "list", "run").stdout
    assert re.search(rf"  {SHIPS}  adapter  [0-9a-f]{{12}}  ship .*Ann   PRODUCTION\n", listed)
    assert re.search(r"\n  0 .*   candidate, previous\n", listed)
    assert "by Marta Quill" in listed and "0 is tried: 10 percent" in listed
    status = raft("status", "run").stdout
    assert re.search(rf"\n  in production: {SHIPS} since 20.* UTC, by Marta Quill\n  0 is tried: 10 percent", status)
    assert "(raft ask answers with it)" in status and "(answers)" not in status, "a server has the registry's"
    assert "0 is not tried any more" in raft("registry", "candidate", "run", "none", "--by", "Bo").stdout
    assert "There is no candidate" in raft("registry", "candidate", "run", "none", "--by", "Bo").stdout
    back = raft("registry", "rollback", "run", "--by", "Bo", "--because", "it invents figures").stdout
    assert back.startswith("0 (plain RAG) is in production since") and f"in the place of {SHIPS}" in back
    assert "is retired" in raft("registry", "retire", "run", SHIPS, "--by", "Bo").stdout
    lines = raft("registry", "log", "run").stdout
    told = [
        f"{SHIPS} put into production, by Marta Quill; verdict ship (report ",
        "0 (plain RAG) tried, by Bo: 10 percent",
    ]
    told += ["0 (plain RAG) not tried any more, by Bo", f"0 (plain RAG) gone back to, by Bo, in the place of {SHIPS}"]
    told += ["because: it invents figures", f"{SHIPS} retired, by Bo"]
    assert [lines.index(one) for one in told] == sorted(lines.index(one) for one in told)
    assert "approved by Ann" in lines
    shown = raft("registry", "show", "run", SHIPS).stdout
    assert "state     retired" in shown and "verdict   ship" in shown and "retired, by Bo" in shown


def test_who_promotes_what_was_retired_is_told_so(raft):
    """With a reason it goes into production, and the command says that it was retired, when, by whom and why."""
    raft("registry", "retire", "run", OTHER, "--by", "Bo", "--because", "invents figures")
    refused(raft("registry", "promote", "run", OTHER, "--by", "Ann"), 2, f"{OTHER} was retired on 20", "by Bo (invents")
    told = raft("registry", "promote", "run", OTHER, "--by", "Ann", "--because", "mended").stdout
    assert re.search(r"\nit was retired before, on 20.* UTC, by Bo\n +because: invents figures\n", told)
    raft("registry", "promote", "run", SHIPS, "--by", "Ann")
    assert "retired" not in raft("registry", "promote", "run", OTHER, "--by", "Ann", "--because", "again").stdout


def test_programs_read_one_object_a_line(raft):
    """With --json each version and each line of the history is an object on a line of its own, and so is a change."""
    line = json.loads(raft("registry", "promote", "run", SHIPS, "--by", "Ann", "--json").stdout)
    assert (line["action"], line["version"], line["verdict"]) == ("promote", SHIPS, "ship")
    (logged,) = map(json.loads, raft("registry", "log", "run", "--json").stdout.splitlines())
    assert logged == line == json.loads(json.dumps(registry.history(Path("run"))[0]))
    versions = [json.loads(one) for one in raft("registry", "list", "run", "--json").stdout.splitlines()]
    assert [one["id"] for one in versions] == ["0", SHIPS, OTHER]
    assert [one["aliases"] for one in versions] == [["previous"], ["production"], []]
    assert versions[1]["by"] == "Ann" and versions[1]["approved_by"] == "Ann"
    shown = json.loads(raft("registry", "show", "run", "production", "--json").stdout)
    assert shown["history"] == [line] and shown["lacks"] == ""
    status = json.loads(raft("status", "run", "--json").stdout)
    assert status["registered"]["production"]["id"] == SHIPS and status["registered"]["by"] == "Ann"


def test_a_run_without_a_registry_says_nothing_of_it(raft):
    """Where nothing was ever promoted, `raft status` is as before, and the log says how to begin."""
    assert "in production" not in raft("status", "run").stdout
    assert json.loads(raft("status", "run", "--json").stdout)["registered"] is None
    log = raft("registry", "log", "run")
    assert (log.stdout, log.exit_code) == ("", 0)
    assert "nothing was ever promoted" in log.stderr
    assert not Path("run", "registry.sqlite").exists()


def test_what_was_not_found_fit_is_refused_with_what_to_do_first(raft):
    """An unmeasured adapter is to be measured, one that nobody approved approved; a reason outweighs both."""
    first = refused(
        raft("registry", "promote", "run", OTHER, "--by", "Bo"), 2, "no benchmark", "nobody has approved it"
    )
    assert first == f"raft bench run --adapter {OTHER}"
    measured(Path("run"), OTHER)
    second = refused(raft("registry", "promote", "run", OTHER, "--by", "Bo"), 2, "nobody", "--because 'I know better'")
    assert second == f"raft approve run --by {me()} --adapter {OTHER}"
    measured(Path("run"), OTHER, "keep plain RAG")
    api.approve("run", "Ann", adapter=OTHER)
    third = refused(raft("registry", "promote", "run", OTHER, "--by", "Bo"), 2, "its verdict is keep plain RAG")
    assert third == f"raft registry promote run {OTHER} --by Bo --because 'I know better'"
    assert raft("registry", "promote", "run", OTHER, "--by", "Bo", "--because", "the law").exit_code == 0
    assert "in production: aab2cdef since" in raft("status", "run").stdout
    assert ": the law" in raft("status", "run").stdout


def test_refusals_are_one_screen_with_the_next_command(raft):
    """No name, unknown and ambiguous ids, what answers, no share, no run: each is told with what to type."""
    refused(raft("registry", "promote", "run", SHIPS), 2, "no name is given")
    assert refused(raft("registry", "show", "run", "zz"), 2, "There is no version zz") == "raft registry list run"
    assert refused(raft("registry", "promote", "run", "aa", "--by", "x"), 2, SHIPS, OTHER) == "raft registry list run"
    refused(raft("registry", "show", "run", "production"), 2, "Nothing is in production")
    refused(raft("registry", "rollback", "run", "--by", "x"), 2, "Nothing is in production")
    raft("registry", "promote", "run", SHIPS, "--by", "Ann")
    retired = refused(raft("registry", "retire", "run", SHIPS, "--by", "Ann"), 2, "is in production")
    assert retired.startswith("raft registry rollback run --by Ann")
    refused(raft("registry", "retire", "run", "0", "--by", "Ann"), 2, "can always be gone back to")
    refused(raft("registry", "candidate", "run", SHIPS, "--share", 0.5, "--by", "x"), 2, "cannot be the candidate too")
    refused(raft("registry", "candidate", "run", OTHER, "--by", "x"), 2, "--share 0.1 --shadow 0.05")
    refused(raft("registry", "candidate", "run", "none", "--share", 0.1, "--by", "x"), 2, "no share")
    refused(raft("registry", "candidate", "run", OTHER, "--share", 2, "--by", "x"), 2, "--share")
    refused(raft("registry", "list", "corpus-or-what"), 2, "no run directory")
    refused(raft("registry", "promot", "run"), 2, "promote")
    assert refused(raft("registry", "promote", "run"), 2, "ID") == "raft registry promote --help"
    refused(raft("bench", "run", "--version", "0"), 2, "Each benchmark measures plain RAG")


def test_a_registry_of_a_newer_raft_is_one_screen_and_status_still_answers(raft):
    """Each command refuses a newer format with the command that brings a newer raft; the status tells all else."""
    raft("registry", "promote", "run", SHIPS, "--by", "Ann")
    with closing(sqlite3.connect("run/registry.sqlite")) as database:
        database.execute("PRAGMA user_version = 9")
    for command in (
        ["list", "run"],
        ["promote", "run", "0", "--by", "x"],
        ["log", "run"],
        ["rollback", "run", "--by", "x"],
    ):
        upgrade = refused(raft("registry", *command), 1, "has format 9", "reads format 1")
        assert upgrade == "pip install --upgrade raft-pipeline"
    status = raft("status", "run")
    assert status.exit_code == 0 and "has format 9" in status.stdout and SHIPS in status.stdout


def test_changed_files_are_seen_in_the_list_and_refused(raft):
    """An adapter whose files are others than those that were promoted is marked in the list, and does not come back."""
    raft("registry", "promote", "run", SHIPS, "--by", "Ann")
    raft("registry", "rollback", "run", "--by", "Ann")
    weights = Path("run", "adapters", SHIPS, "adapter_model.safetensors")
    shutil.copyfile(Path("run", "adapters", OTHER, weights.name), weights)
    assert "its files have changed" in raft("registry", "list", "run").stdout
    assert "  ! The files of version" in raft("registry", "show", "run", SHIPS).stdout
    back = refused(
        raft("registry", "promote", "run", SHIPS, "--by", "Ann"), 1, "have changed since it became a version"
    )
    assert back.startswith(f"raft registry promote run 0 --by {me()}")
    weights.unlink()
    assert "its files are damaged" in raft("registry", "list", "run").stdout
    shutil.rmtree(weights.parent)
    assert "its files are missing" in raft("registry", "list", "run").stdout


def test_the_registry_is_mirrored_to_an_mlflow_server(raft):
    """`push` sends versions, aliases, cards and figures, and no question or answer; again, it changes nothing."""
    raft("registry", "promote", "run", SHIPS, "--by", "Ann")
    facts = json.loads(Path("run", "benchmark.json").read_text())
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "questions": 9, "groups": 3}
    facts["arms"][1]["sets"] = {"user": {"f1": score}}
    facts["verdict"]["gain"] = score
    facts["questions"] = [{"question": "how secret?", "answer": "very secret"}]
    artifacts.atomically(Path("run", "benchmark.json"), json.dumps(facts))
    with fake_mlflow.serving() as (url, holds):
        done = raft("registry", "push", "run", "--mlflow", url)
        assert f"Versions of the registered model run at {url}: 3 new, 0 changed, 0 as they were" in done.stdout
        assert f"production {SHIPS}" in done.stdout
        again = json.loads(raft("registry", "push", "run", "--mlflow", url, "--json").stdout)
        assert (again["new"], again["changed"]) == ([], [])
        other = raft("registry", "push", "run", "--mlflow", url, "--name", "by hand/v:2")
        assert "registered model by-hand-v-2" in other.stdout
    (version,) = [
        one for one in holds.models["run"]["versions"] if {"key": "raft.version", "value": SHIPS} in one["tags"]
    ]
    assert {"raft.production_by", "raft.verdict"} <= {tag["key"] for tag in version["tags"] if tag["value"]}
    assert "trained" in version["description"].lower()
    metrics = {one["key"]: one["value"] for one in holds.runs[version["run_id"]]["data"]["metrics"]}
    assert metrics == {"user/f1": 0.5, "gain": 0.5}
    assert "secret" not in json.dumps([holds.runs, holds.models])


def test_what_keeps_to_this_machine_is_not_mirrored_elsewhere(raft):
    """With `local_only` a server elsewhere is refused before anything is sent; one on this machine is asked."""
    manifest = json.loads(Path("run", "manifest.json").read_text())
    manifest["settings"]["local_only"] = True
    Path("run", "manifest.json").write_text(json.dumps(manifest))
    refused(raft("registry", "push", "run", "--mlflow", "http://mlflow.example.com"), 2, "local_only is set")
    refused(raft("registry", "push", "run", "--mlflow", "http://127.0.0.1:1"), 1, "No MLflow server answers")


def test_every_command_of_the_registry_says_what_it_does(raft):
    """The help of the group names each command, and each takes the run first."""
    told = raft("registry", "--help").stdout
    for name, command in main.commands["registry"].commands.items():
        assert name in told and command.help
        assert f"registry {name} [OPTIONS] RUN" in raft("registry", name, "--help").stdout


def test_a_shadow_needs_the_traffic_that_it_is_kept_in(raft):
    """Where the run keeps no traffic, a candidate in the shadow is refused with what to type, and a share is not."""
    manifest = json.loads(Path("run/manifest.json").read_bytes())
    manifest["settings"]["serving"]["traffic"] = False
    Path("run/manifest.json").write_text(json.dumps(manifest))
    refused(raft("registry", "candidate", "run", OTHER, "--shadow", 0.1, "--by", "Bo"), 2, "keeps none", "--share 0.1")
    assert raft("registry", "candidate", "run", OTHER, "--share", 0.1, "--by", "Bo", "--because", "x").exit_code == 0


def test_a_merged_model_that_answers_is_named_by_its_version_and_digest(raft):
    """A model that an adapter was merged into is not said to have none: it is told which version it is."""
    made = Path("run", "export-merged")
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(b"weights")
    found = registry.register(Path("run"), adapter=SHIPS, kind="merged", path=made, by="Ann")
    told = f"which is version {SHIPS}-merged (digest {found.digest[:12]})"
    assert answers(Path("run"), str(made.resolve()), None) == f"{made.resolve()}, {told}"
    assert answers(Path("run"), "org/tiny", None) == "org/tiny, adapter none"
    assert answers(Path("run"), "org/tiny", SHIPS) == f"org/tiny, adapter {SHIPS}"
    assert re.search(rf"  {SHIPS}-merged +merged +{found.digest[:12]} ", raft("registry", "list", "run").stdout)
    shown = raft("registry", "show", "run", f"{SHIPS}-merged").stdout
    assert shown.startswith(f"{SHIPS}-merged: a merged model of SmolLM2-135M-Instruct, made of adapter {SHIPS}\n")
    assert f"digest    {found.digest}\n" in shown


def test_the_same_command_is_spelled_out(raft):
    """A hint that says "the same command with ..." shows what was typed, with the option in the place of its own."""
    typed = ["registry", "promote", "run", OTHER, "--by", " ", "--because", "it's urgent"]
    said = refused(raft(*typed), 2, "no name is given")
    assert shlex.split(said) == ["raft", *typed[:4], *typed[6:], "--by", getpass.getuser()]
    assert raft(*shlex.split(said)[1:]).exit_code == 0
