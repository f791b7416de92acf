"""Studies: one command line of settings serves building, training and measuring."""

import sys
from pathlib import Path

import pytest

from raft import settings
from raft.api import benchmarking, training


@pytest.fixture
def studies(monkeypatch):
    """The module that the studies share."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import studies

    yield studies
    for name in ("studies", "data"):
        sys.modules.pop(name, None)


def test_each_step_is_given_the_settings_that_it_reads(studies, tmp_path):
    """Whatever setting is given, training and measuring are handed none that they refuse, and some."""
    given = dict.fromkeys(settings.known_keys(), 1)
    trained, measured = studies.of_training(given), studies.of_measuring(given)
    training._check_changeable(trained, tmp_path)
    benchmarking._check_changeable(measured, tmp_path)
    assert {"training.rank", "seed"} <= set(trained)
    assert {"benchmark.withheld", "answering.batch", "index.k"} <= set(measured)


def test_settings_are_json_or_else_text(studies):
    """A value is read as JSON where it is JSON, and is a text where it is not."""
    assert studies.settings_of(['a.b=[1, "x"]', "c.d=verdict", "e.f=0.5"]) == {
        "a.b": [1, "x"],
        "c.d": "verdict",
        "e.f": 0.5,
    }
