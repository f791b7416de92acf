"""Trainings, benchmarks and approvals that are killed at the calls that change files: the next goes on."""

import json
import os
import shutil

import polars as pl
import pytest
from test_damage import DAMAGE, explained, replace
from test_kills import ORDERED, places
from test_train import build_for

from raft.store import adapters

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("trl")

pytestmark = pytest.mark.slow

IMPORTED = ("torch",)
"""What the process has imported of which forks train."""


@pytest.fixture(scope="module")
def built(tiny_student, tmp_path_factory):
    """A folder with a run that was built for the tiny student."""
    home = tmp_path_factory.mktemp("built")
    build_for(tiny_student, home)
    return home


@pytest.fixture(scope="module")
def trained(dying, built, tmp_path_factory):
    """The folder with the run tuned, and how many calls that took."""
    home = shutil.copytree(built, tmp_path_factory.mktemp("trained") / "home")
    told = dying.do("train", home, kinds=ORDERED)
    assert told["ended"] == 0, told["error"]
    return home, told["seen"]


def killed(dying, what, home, at, tmp_path):
    """Kill something on a copy of a folder at a call, then do it again; return the copy."""
    copy = tmp_path / f"{what}{at}"
    shutil.copytree(home, copy)
    assert dying.do(what, copy, at=at, kinds=ORDERED)["ended"] == -9, at
    told = dying.do(what, copy, kinds=ORDERED)
    assert told["ended"] == 0, (at, told["error"])
    return copy / "run"


def test_a_training_that_is_killed_at_a_call_goes_on(dying, built, trained, tmp_path):
    """The next training leaves the adapter that a quiet one does, whole and current, and nothing half done."""
    home, count = trained
    name = adapters.current(home / "run")
    for at in places(count, 5):
        run = killed(dying, "train", built, at, tmp_path)
        assert adapters.current(run) == name
        assert adapters.digest(run / "adapters" / name) == adapters.digest(home / "run" / "adapters" / name)
        assert not any((run / "scratch").iterdir())


def test_an_approval_that_is_killed_at_a_call_leaves_a_whole_card(dying, trained, tmp_path):
    """The adapter stays usable whatever of its approval was written, and the next approval is all there."""
    home, _ = trained
    shutil.copytree(home, tmp_path / "counted")
    count = dying.do("approve", tmp_path / "counted", kinds=ORDERED)["seen"]
    for at in range(1, count + 1):
        run = killed(dying, "approve", home, at, tmp_path)
        assert adapters.read_card(adapters.find(run))["approved_by"] == "Marta"
        assert adapters.digest(adapters.find(run)) is not None


def test_a_benchmark_that_is_killed_at_a_call_goes_on(dying, built, tmp_path):
    """The next benchmark has the answers of a quiet one, and its report is whole."""
    shutil.copytree(built, tmp_path / "quiet")
    told = dying.do("bench", tmp_path / "quiet", kinds=ORDERED)
    assert told["ended"] == 0, told["error"]
    columns = ["arm", "question_id", "condition", "raw"]
    answers = pl.read_parquet(tmp_path / "quiet" / "run" / "answers.parquet").select(columns).sort(columns)
    for at in places(told["seen"], 3):
        run = killed(dying, "bench", built, at, tmp_path)
        assert pl.read_parquet(run / "answers.parquet").select(columns).sort(columns).equals(answers)
        assert json.loads((run / "benchmark.json").read_text())["verdict"]
        assert (run / "report.html").read_text().rstrip().endswith("</html>")


ADAPTER = ["current", "*/card.json", "*/adapter_model.safetensors"]
COMMANDS = [
    ["ask", "run", "How long may a pump be returned?"],
    ["approve", "run", "--by", "Marta"],
    ["status", "run"],
    ["bench", "run", "--quiet", "--set", "benchmark.latency_questions=1", "--set", "benchmark.tuning_questions=1"],
    ["export", "run", "--merged", "--out", "model"],
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("artifact", ADAPTER)
def test_a_damaged_adapter_is_explained_and_trained_anew(dying, trained, tmp_path, artifact, damage):
    """A command on an adapter with a damaged file ends well or says what to do; a training makes it whole again."""
    home = shutil.copytree(trained[0], tmp_path / "home")
    path = next((home / "run" / "adapters").glob(artifact))
    damage(path)
    number = ADAPTER.index(artifact) + DAMAGE.index(damage)
    for arguments in COMMANDS if os.environ.get("RAFT_EVERY_CALL") else [COMMANDS[number % len(COMMANDS)]]:
        explained(dying.do("command", home, *arguments), arguments)
    told = dying.do("train", home)
    if told["ended"] == 0:
        assert adapters.digest(adapters.find(home / "run")) is not None
    else:
        assert damage is replace, told["error"]
        assert (path / "mine.txt").read_text() == "mine"
