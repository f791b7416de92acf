"""The wheel, installed alone: what a user gets has all that it needs, and nothing of the checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from conftest import write_corpus
from fake_openai import FakeOpenAI
from raft import prompts

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the wheel alone, built and installed without a network; what it depends on is installed beside."""
    home = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", home, ROOT], check=True, timeout=300)
    (wheel,) = home.glob("raft_pipeline-*.whl")
    subprocess.run([*pip, "install", *offline, "--target", home / "site", wheel], check=True, timeout=300)
    return home / "site"


@pytest.fixture
def call(site, tmp_path):
    """Run a command of the wheel in an empty folder: what it needs is found, the checkout is not."""

    def called(*command):
        environment = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_TOKEN"))}
        environment.update(PYTHONPATH=str(site), PYTHONSAFEPATH="1", HF_HUB_OFFLINE="1")
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            check=False,
            capture_output=True,
            text=True,
            timeout=600,
            env=environment,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return called


def test_the_wheel_brings_prompts_pipelines_and_pages(site, call):
    """Prompts and pipelines are those of the repository, and come from the wheel itself, as pages do."""
    program = "import raft, json; from raft import prompts; print(raft.__file__); "
    program += "print(json.dumps([prompts.packaged(kind) for kind in ('prompts', 'pipelines')]))"
    where, packaged = call("-c", program).splitlines()
    assert Path(where).is_relative_to(site)
    assert (site / "raft" / "prompts").is_dir() and (site / "raft" / "pipelines").is_dir()
    assert json.loads(packaged) == [prompts.packaged(kind) for kind in ("prompts", "pipelines")]
    missing = {path.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("*") if path.is_file()} - {
        path.relative_to(site) for path in site.rglob("*")
    }
    assert {path for path in missing if "__pycache__" not in path.parts} == set()


def test_the_wheel_has_its_command(site, call, tmp_path):
    """`raft --help` names the commands, and `raft init` writes a pipeline with its prompts."""
    assert "build" in call(site / "bin" / "raft", "--help")
    call(site / "bin" / "raft", "init", "my-pipeline")
    written = {path.name for path in (tmp_path / "my-pipeline").rglob("*.md")}
    assert {name for name in prompts.packaged("prompts") if name.endswith(".md")} <= written


def test_the_wheel_builds(site, call, tmp_path):
    """A pipeline of the wheel makes training rows of a small corpus, with a model that is asked on this machine."""
    corpus = write_corpus(tmp_path / "corpus")
    with FakeOpenAI() as server:
        model = ["--generator", "hosted_vllm/test-model", "--set", f"generator.api_base={server.url}"]
        call(site / "bin" / "raft", "build", corpus, "--pipeline", "hosted", "--out", "run", "--quiet", *model)
        assert server.came > 0
    assert pl.read_parquet(tmp_path / "run" / "examples.parquet").height > 0
