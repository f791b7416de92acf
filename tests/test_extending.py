"""A part is added in the way that CONTRIBUTING.md says: in a copy of the package, by a row and a function."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fake_openai import FakeOpenAI

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ADDING = dict(re.findall(r"^- \*\*an? ([a-z ]+)\*\*:(.*(?:\n  .*)*)", CONTRIBUTING, re.MULTILINE))
"""The paragraphs of CONTRIBUTING.md that say how a part is added, by its name."""


def behind(place, text):
    """Return the change that puts a text behind what a pattern finds in a file."""
    return place, lambda found: found[0] + text


def before(place, text):
    """Return the change that puts a text before what a pattern finds in a file."""
    return place, lambda found: text + found[0]


@pytest.fixture
def added(tmp_path):
    """Return what adds a part to a copy of the package, and returns the JSON that a program prints that runs in it."""

    def added(part, changes, program, *, new=None, **environment):
        shutil.copytree(ROOT / "src/raft", tmp_path / "src/raft", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "prompts", tmp_path / "prompts")
        for name, text in (new or {}).items():
            assert str(Path(name).parent) in ADDING[part]
            (tmp_path / "src/raft" / name).write_text(text, encoding="utf-8")
        for name, places in changes.items():
            assert f"`{name}`" in ADDING[part]
            path = tmp_path / "src/raft" / name
            text = path.read_text(encoding="utf-8")
            for place, change in places:
                text, count = re.subn(place, change, text, flags=re.MULTILINE)
                assert count == 1, place
            path.write_text(text, encoding="utf-8")
        assert len(changes) + len(new or {}) <= 2
        shared = [tmp_path / "src", *(ROOT / "tests" / room for room in ("", "evaluation", "training"))]
        done = subprocess.run(
            [sys.executable, "-c", program],
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, shared)), **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return added


def test_each_part_is_explained_in_five_lines():
    """CONTRIBUTING says in at most five lines how a part of each sort is added."""
    assert list(ADDING) == ["reader", "language", "rule", "kind of question", "provider", "measure", "trainer"]
    assert all(len(text.splitlines()) <= 5 for text in ADDING.values())


READER = """
from raft.corpus.readers import Reading, decode

def read(path, *, kind, **_others):
    lines = decode(path.read_bytes()).splitlines()
    said = [one for one in lines if one and not one[0].isdigit()]
    return [Reading(path.stem, "\\n".join(said), kind)]
"""


def test_a_reader_is_added_by_its_file_and_its_rows(added, tmp_path):
    """Files of a new format are found and read once its reader is there."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/talk.sbv").write_text("0:00:01.000,0:00:04.000\nPumps weigh 7.5 kg.\n")
    table = {
        "corpus/readers/__init__.py": [
            behind(r"^_FORMATS = {$", '\n    "sbv": _Format("captions", ".sbv"),'),
        ]
    }
    program = """
import json
from raft.corpus.documents import find_sources, read_documents
(frame,) = read_documents(find_sources(["corpus"])[0], text_field="text")
print(json.dumps(frame.select("title", "text", "format", "error").row(0)))
"""
    row = added("reader", table, program, new={"corpus/readers/captions.py": READER})
    assert row == ["talk", "Pumps weigh 7.5 kg.", "sbv", None]


def test_a_rule_is_added_by_a_function_and_a_row(added):
    """Questions to which a new rule applies are dropped for its reason; the step that asks it is made anew."""
    function = "def _shouts(candidate: Candidate) -> bool:\n    return candidate.question.isupper()\n\n\n"
    changes = {
        "curation/clean.py": [
            before(r"^RULES\b", function),
            behind(r"^RULES\b.* = \($", '\n    ("shouts", _shouts),'),
        ],
        "pipeline/build.py": [(r"^(_CLEANED = )(\d+)", lambda found: f"{found[1]}{found[2]}0")],
    }
    program = """
import json
from raft import pipeline
from raft.curation.clean import clean
from raft.store import tables
from raft.testing import HashEmbedder, OverlapRetriever, make_chunks, make_question
chunks = make_chunks({"d": ["The pump weighs 14 kg.", "The desk is open."]})
row = chunks.row(0, named=True)
asked = [make_question(row, text, "14 kg") for text in ("HOW MUCH DOES THE PUMP WEIGH?", "How heavy is the old pump?")]
limits = dict(min_words=3, max_words=40, max_answer_words=60, similarity=1.0, round_trip_k=2)
judge = dict(judge=None, judge_prompt=None, judge_minimum=0.5)
cleaned = clean(tables.frame(tables.QUESTIONS, asked), chunks, retriever=OverlapRetriever(chunks),
                embedder=HashEmbedder(), held_out=frozenset(), **limits, **judge)
print(json.dumps(cleaned["reason"].to_list()))
"""
    assert added("rule", changes, program) == ["shouts", None]


def test_a_language_is_added_by_a_row(added):
    """Documents in a new language are found by its row and asked in its name; what it lacks is left out with a word."""
    row = """
    _row(
        "el", "Greek", "ο η το οι τα του της των τον την και ή είναι ήταν σε στο στη με από για που πώς πόσο ποιος τι",
        marks=("?", ";"),
    ),"""
    table = {"text/languages.py": [behind(r"^_ROWS = \($", row)]}
    program = """
import json
from raft.curation.clean import RULES, Candidate
from raft.generation import plan
from raft.text.languages import known, of_documents, of_text
text = "Η αντλία είναι από το παλιό κτίριο και ζυγίζει 14 κιλά."
found = of_documents([("a", text)])
survey = plan.Survey(sizes={"a": 9}, languages=found)
one = Candidate("number", "Πόσο ζυγίζει η παλιά αντλία;", "14", True, text, 4, 40, 60, language=known("el"))
why = [reason for reason, applies in RULES if applies(one)]
print(json.dumps([found, of_text(text).name, why, plan.left_out("items", ["number", "decision"], survey)]))
"""
    found, name, why, left_out = added("language", table, program)
    assert (found, name, why) == ({"a": "el"}, "Greek", [])
    assert re.match("1 document is in Greek: no decision is asked of it", left_out[0])


def test_a_kind_of_question_is_added_by_a_row(added):
    """A new kind can be set, a capable model is asked for it with its meaning, and its replies are read."""
    table = {
        "kinds.py": [
            behind(r"^Kind = Literal\[", '"reason", '),
            behind(r"^KINDS\b.* = {$", '\n    "reason": Traits("the answer is why something is so"),'),
        ]
    }
    program = """
import json
from raft import settings
from raft.generation import generate, plan
from raft.testing import ScriptedGenerator, make_chunks
kinds = settings.load(overrides={"questions.kinds": ["reason"]}).questions.kinds
item = {"question": "Why is it wet?", "answer": "Rain.", "quote": "Rain fell.", "kind": "reason"}
generator, failures = ScriptedGenerator(lambda one: json.dumps({"items": [item]})), []
chunks = make_chunks({"d": ["Rain fell."]})
(made,) = generate.ask(iter([chunks]), plan.survey([chunks], [], plan.needed("items", kinds)), generator,
                       generate.read_prompts(None), strategy="items", kinds=kinds, per_chunk=1, limit=None, model="m",
                       failures=failures)
print(json.dumps([made["kind"].to_list(), failures, generator.requests[0].messages[-1]["content"]]))
"""
    made, failures, asked = added("kind of question", table, program)
    assert (made, failures) == (["reason"], [])
    assert "reason: the answer is why something is so" in asked


def test_a_provider_is_added_by_a_row(added, on_this_machine):
    """Models of a new provider are asked at its address with its key, and known by their names alone."""
    program = """
import json
from pathlib import Path
from raft.backends.hosted.flowing import FlowingGenerator
from raft.backends.hosted.model import HostedModel
from raft.protocols import Request
from raft.store.budget import Budget
from raft.store.ledger import Ledger
model = HostedModel("acme/test-model", api_base=None, concurrency=1, timeout=20)
ledger = Ledger(Path("ledger.sqlite"))
budget = Budget(ledger, run="r", model=model.name, price=None, cap=None)
asked = [Request(({"role": "user", "content": "hello"},), max_tokens=9)]
(reply,) = FlowingGenerator(model, ledger, budget, attempts=1).complete(asked)
print(json.dumps([reply.text, model.identity]))
"""
    with FakeOpenAI() as server:
        row = f'\n    "acme": Provider("{server.url}", direct=True),'
        table = {"backends/hosted/providers.py": [behind(r"^PROVIDERS\b.* = {$", row)]}
        said = added("provider", table, program, ACME_API_KEY="a key of acme")
    assert said == ["echo: hello", "acme/test-model"]
    assert "a key of acme" in str(server.heads)


def test_a_measure_is_added_by_a_function_and_a_row(added):
    """A new measure is in the figures of a benchmark, with an interval, and in the report."""
    function = """def brevity(prediction: str, references: Sequence[str]) -> float | None:
    return float(len(prediction) <= max(map(len, references))) if references else None


"""
    row = '\n    "brevity": Measure("brief", "share of answers that are no longer than a reference", brevity),'
    table = {"report/measures.py": [before(r"^@dataclass", function), behind(r"^MEASURES\b.* = {$", row)]}
    program = """
import json
from raft.report import report
from test_summary import answer, question, summarised
facts = summarised([answer("30 days", "q"), answer("30 whole days", "p")], [question("q"), question("p")])
print(json.dumps([facts["arms"][0]["sets"]["user"]["brevity"]["value"], report.html(facts)]))
"""
    value, page = added("measure", table, program)
    assert value == 0.5
    assert "no longer than a reference" in page


TRAINER = """
import json
import numpy as np
from safetensors.numpy import save_file
from raft.protocols import TrainingReport

class ZeroTrainer:
    identity = "zero:1"

    def train(self, rows, valid, plan, *, out, checkpoints, on_event):
        (out / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
        save_file({"w": np.zeros((2, 2), np.float32)}, out / "adapter_model.safetensors")
        return TrainingReport((), 1, 1, 10, 0.1, {}, "none", "zero")
"""


def test_a_trainer_is_added_by_its_file_and_a_row(added):
    """A new trainer can be set, the command line takes its name, and what it trains is an adapter with a card."""
    program = """
import json
from pathlib import Path
from raft import settings
from raft.api.training import open_trainer
from raft.cli import main
from raft.training.tune import tune
from test_tune import FACTS, PLAN, table
main.commands["train"].make_context("train", ["run", "--backend", "zero"])
trainer = open_trainer(settings.load(overrides={"training.backend": "zero"}).training.backend)
Path("adapter").mkdir()
card = tune(table("train", "valid"), trainer, PLAN, general=[], share=0.0, seed=1, out=Path("adapter"),
            checkpoints=Path("checkpoints"), facts=FACTS, on_event=lambda facts: None)
print(json.dumps([card["backend"], card["rows"]]))
"""
    table = {"settings/sections.py": [behind(r"^TRAINERS\b.*{", '"zero": "zero:ZeroTrainer", ')]}
    assert added("trainer", table, program, new={"backends/trainers/zero.py": TRAINER}) == ["zero", 1]


def test_every_trainer_of_the_table_is_there():
    """Each name that the setting takes stands for a class that trains, and another name is refused with those."""
    from raft import settings
    from raft.api.training import open_trainer
    from raft.errors import UsageError
    from raft.settings.sections import TRAINERS

    assert [open_trainer(name).identity.partition(":")[0] for name in TRAINERS] == [*TRAINERS]
    with pytest.raises(UsageError, match="auto, peft, unsloth"):
        settings.load(overrides={"training.backend": "magic"})
