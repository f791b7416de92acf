"""What the documents say is true of the software."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import raft
from conftest import Fakes, reply_by_rule, write_corpus
from raft import settings
from raft.api import building
from raft.cli import main
from raft.curation import clean
from raft.report import shown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
TOLD = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
"""All that a user is told."""
NAMES = "init|build|review|train|ask|serve|bench|approve|status|show|export|monitor|feedback|registry"
COMMANDS = sorted(set(re.findall(rf"^\s*(raft (?:{NAMES})\b[^\n#`(]*)", TOLD, re.MULTILINE)))
BENCHMARKS = sorted(
    path.name
    for path in (ROOT / "benchmarks").glob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)


def test_every_command_is_documented():
    """Each command of the command line is documented."""
    assert all(f"raft {name}" in TOLD for name in main.commands)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_documents_are_understood(line):
    """Each command line in README and docs has only arguments and options that exist."""
    _, name, *arguments = shlex.split(line.strip())
    command = main.commands[name]
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    with click.Context(command, help_option_names=["-h", "--help"]) as context:  # click keeps the first it is given
        command.parse_args(context, arguments)


def test_no_row_of_a_table_stands_twice():
    """What a table says stands in one place, of the documents and of the benchmarks, where a command has one row."""
    rows = [line for line in TOLD.splitlines() if re.match(r"\| .*[a-z]", line)]
    told = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").splitlines()
    rows += [line.split(" | ")[1] for line in told if line.startswith("| ") and "`" in line]
    assert [row for row in set(rows) if rows.count(row) > 1] == []


STARTS = """
import os, runpy, sys
for script in sys.argv[1:]:
    sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        print("ended", script, end.code)
"""
"""One process for all: what they import takes seconds."""


def test_benchmarks_start(tmp_path):
    """Each benchmark can be imported, with what it imports, and says how it is used."""
    scripts = [str(ROOT / "benchmarks" / name) for name in BENCHMARKS]
    started = [sys.executable, "-c", STARTS, *scripts]
    done = subprocess.run(started, check=False, cwd=tmp_path, capture_output=True, text=True)
    told = re.findall(r"usage: (\S+)(?s:.)*?ended (\S+) (\S+)", done.stdout)
    assert told == [(name, script, "0") for name, script in zip(BENCHMARKS, scripts, strict=True)], done.stderr


def test_python_of_the_readme_uses_public_names():
    """The Python in the README compiles, and each name that it takes from raft is public."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {node.attr for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)}
    known = {*raft.__all__, *dir(raft.Built), *raft.Answer.__dataclass_fields__, "search"}
    assert names <= known
    assert all(getattr(raft, name) is not None for name in raft.__all__)


def test_python_of_the_examples_runs(tmp_path, monkeypatch, tiny_student):
    """Each block of the page on Python runs, one after the other, on a small corpus with models that cost nothing."""
    monkeypatch.chdir(tmp_path)
    fakes = Fakes()
    fakes.install_around_student(monkeypatch.setattr)
    fakes.reply = lambda request: reply_by_rule(request) if request.check else "Answer: 30 days"
    write_corpus(tmp_path / "handbook")
    own = {"question": "How long may a pump be returned?", "answers": ["30 days"], "document": "refunds/home.md"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(own) + "\n", encoding="utf-8")
    build, quick = (
        raft.build,
        {"chunking.tokens": 60, "questions.per_chunk": 2, "split.valid": 0.3, "training.batch": 4},
    )
    quick |= {"training.rehearsal": 0, "answering.max_tokens": 8, "benchmark.latency_questions": 1, "index.k": 2}
    quick |= {"benchmark.tuning_questions": 2, "benchmark.exemplars": [0], "benchmark.contenders": "verdict"}
    small = {"student": str(tiny_student), "settings": quick, "price": (0.0, 0.0)}
    monkeypatch.setattr(raft, "build", lambda *given, **more: build(*given, **small, **more), raising=False)
    (tmp_path / "team.jsonl").touch()

    def judged(session, *_):  # in place of a person at the page
        name = session.lists["sample"][0]
        session.decide(name, "rejected", reason="trivial", edit=None, shown="sample")

    monkeypatch.setattr("raft.api.review_page.serve", judged)
    page = (ROOT / "examples" / "python.md").read_text(encoding="utf-8")
    names = {"print": lambda *said: None}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "examples/python.md", "exec"), names)
    assert repr(names["run"]).startswith("<run runs/handbook: 6 documents, ")
    assert repr(names["verdict"]).startswith("<verdict: ")
    assert names["answer"].text == "30 days"
    assert (names["found"]["seen"], names["found"]["sample"]["wrong"]) == (1, 1)
    assert raft.load("runs/faq").cleaned["model"].to_list().count("human") == 1
    assert "rejected by a person" in raft.load("runs/handbook").cleaned["reason"]


def test_what_python_returns_shows_itself_in_short():
    """Names come with tab completion; answers, verdicts, benchmarks and states are a line, and a harmless table."""
    assert set(dir(raft)) == set(raft.__all__)
    gain = {"value": 0.1, "low": 0.05, "high": 0.15, "questions": 40, "groups": 30}
    verdict = {"decision": "ship", "gain": gain, "measure": "f1", "question_set": "user", "reasons": ["<b>clear</b>"]}
    arms = [{"title": "tuned + RAG", "sets": {"user": {"f1": gain}}}]
    benchmark = {"run": "runs/x", "date": "2026-01-02", "verdict": verdict, "arms": arms}
    lost = {"abstained": False, "followed": True, "supported": False, "quotes_verbatim": None, "citations": ()}
    answer = raft.Answer(question="<i>?", text="30 days" * 30, quotes_given=0, raw="", passages=(), model="m", **lost)
    for one, line in (
        (shown.Verdict(verdict), "<verdict: ship, +10.0 (+5.0 to +15.0) F1 points>"),
        (shown.Benchmark(benchmark), "<benchmark of runs/x, 2026-01-02: ship>"),
        (answer, "<answer: '30 days30 days"),
    ):
        assert repr(one).startswith(line)
        assert len(repr(one)) < 140
        table = one._repr_html_()
        assert table.startswith("<table>") and not {"<b>", "<i>"} & set(re.findall(r"<\w+>", table))
    assert json.loads(json.dumps(shown.Verdict(verdict))) == verdict


@pytest.mark.parametrize(("flag", "old"), [("pipeline", "pipeline_file"), ("eval", "evaluation")])
def test_arguments_are_called_as_the_flags(tmp_path, flag, old):
    """An argument may be named as its flag or as before, and is refused under both names at once."""
    corpus, value = write_corpus(tmp_path / "handbook"), "hosted"
    if flag == "eval":
        value = tmp_path / "own.jsonl"
        value.write_text('{"question": "Who?", "answers": []}\n')
    found = [building._described(corpus, None, {name: value}).settings for name in (flag, old)]
    assert found[0] == found[1] != building._described(corpus, None, {}).settings
    with pytest.raises(raft.RaftError, match=f"{flag} and {old}"):
        raft.build(corpus, out=tmp_path / "run", **{flag: value, old: value})
    with pytest.raises(raft.RaftError, match="blind and blind_pairs"):
        raft.bench(tmp_path, blind=3, blind_pairs=3)


def test_reasons_of_the_documents_are_those_of_the_rules():
    """Each reason why a question is dropped by a rule is documented, in the order in which rules apply."""
    places = [TOLD.find(f"`{reason}`") for reason, _ in clean.RULES]
    assert -1 not in places
    assert places == sorted(places)


def test_settings_of_the_documents_exist():
    """Each `--set key=value` in README and docs names a setting."""
    keys = re.findall(r"--set ([\w.]+)=", TOLD)
    assert keys
    assert set(keys) <= set(settings.known_keys())


def test_the_first_screen_shows_what_it_is_the_commands_and_output():
    """The README's first screen says what this is, has the two commands, and shows real output."""
    first = "\n".join(README.splitlines()[:45])
    assert "make demo" in first
    assert "make test" in first
    assert re.search(r"kept +\d+ \(train \d+", first)


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "benchmarks/README.md", *PAGES])
def test_files_that_documents_name_exist(document):
    """Each module, folder and result that a document points to is there."""
    text = (ROOT / document).read_text(encoding="utf-8")
    modules = re.findall(r"^ {4}((?:[a-z]+\.py ?)+)", text, re.MULTILINE)
    named = [f"src/raft/{name}" for line in modules for name in line.split()]
    named += [f"benchmarks/{path}" for path in re.findall(r"\]\((results/[^)]+)\)", text)]
    named += re.findall(r"`((?:benchmarks|examples|tests|prompts|pipelines)/[\w./-]*\w)`", text)
    assert all((ROOT / path).exists() for path in named), [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("document", ["CHANGELOG.md", "CONTRIBUTING.md", "LOG.md", "benchmarks/README.md", *PAGES])
def test_links_of_documents_lead_somewhere(document):
    """Each link to a file of the project finds it, and each one to a heading finds that."""
    page = ROOT / document
    links = re.findall(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8"))
    targets = {(page.parent / path if path else page, heading) for path, heading in links}
    assert all(path.exists() and (not heading or heading in _headings(path)) for path, heading in targets), targets


def _headings(page: Path) -> set[str]:
    """Return the names by which the headings of a page are linked."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_the_project_names_no_registry():
    """No file of the project names the host of a package registry."""
    hosts = ["pypi" + ".org", "python" + "hosted", "npm" + "js.com"]
    files = [path for path in ROOT.rglob("*") if path.suffix in {".md", ".py", ".toml", ".yaml", ".lock", ""}]
    for path in files:
        if path.is_file() and not {".venv", ".git", "runs", ".hypothesis", ".unsloth"} & set(
            path.relative_to(ROOT).parts
        ):
            text = path.read_bytes()
            assert not any(host.encode() in text for host in hosts), path
