"""The registry of a run: what is in production, and a history that only grows."""

import json

import pytest
from test_adapters import write_adapter

from raft.errors import UsageError
from raft.store import adapters, artifacts, registry
from raft.store.registry import PLAIN


def write_run(folder, *names):
    """Write a run directory with these adapters, as far as a registry reads it; return it."""
    folder.mkdir(parents=True)
    manifest = {"format": 1, "raft": "0", "steps": {}, "settings": {"student": "org/tiny"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name in names:
        write_adapter(folder, name)
    return folder


def measured(run, name, decision="ship"):
    """Write a benchmark of an adapter with a decision."""
    arms = [{"name": one, "title": one, "adapter": of, "sets": {}} for one, of in (("rag", None), ("raft", name))]
    verdict = {"decision": decision, "contender": "raft", "reasons": ["so"]}
    facts = {"date": "2026-11-30", "verdict": verdict, "arms": arms}
    (run / "benchmark.json").write_text(json.dumps(facts))


@pytest.fixture
def run(tmp_path):
    """Return a run with three adapters, of which the first was measured and approved."""
    made = write_run(tmp_path / "run", "aaa1", "aab2", "ccc3")
    measured(made, "aaa1")
    adapters.approve(made / "adapters" / "aaa1", "Ann")
    return made


def ids(run):
    """Return the ids of what stands: production, candidate, previous."""
    now = registry.standing(run)
    return tuple(one and one.id for one in (now.production, now.candidate, now.previous))


def test_without_a_registry_nothing_stands_and_nothing_is_written(run):
    """To ask what is in production makes no file, and says that nothing is."""
    before = sorted(run.iterdir())
    assert registry.standing(run) == registry.Standing()
    assert registry.history(run) == []
    assert [one.id for one in registry.versions(run)] == ["0", "aaa1", "aab2", "ccc3"]
    assert sorted(run.iterdir()) == before


def test_a_promotion_says_who_when_why_and_on_which_report(run):
    """The line of a promotion has the name, the time, the version's digest, the report's digest and its verdict."""
    line = registry.promote(run, "aaa1", by="Marta  Quill", because="better in\nthe field")
    assert line["who"], line["why"] == ("Marta Quill", "better in the field")
    assert line["digest"] == adapters.digest(run / "adapters" / "aaa1")
    assert (line["report"], line["verdict"]) == (artifacts.digest(run / "benchmark.json"), "ship")
    assert line["approved_by"] == "Ann"
    now = registry.standing(run)
    assert (now.revision, now.since, now.by) == (1, line["at"], "Marta Quill")
    assert ids(run) == ("aaa1", None, PLAIN)


@pytest.mark.parametrize(
    ("decision", "approver", "said"),
    [("investigate", "Ann", "investigate"), ("ship", "", "approved"), (None, "Ann", "measured")],
)
def test_what_was_not_found_fit_goes_into_production_with_a_reason_alone(run, decision, approver, said):
    """Without verdict, approval or measurement a version is promoted with a reason alone, and the reason is kept."""
    if decision:
        measured(run, "aab2", decision)
    if approver:
        adapters.approve(run / "adapters" / "aab2", approver)
    with pytest.raises(UsageError, match=said) as refused:
        registry.promote(run, "aab2", by="Bo", because=" ")
    assert "--because" in str(refused.value)
    assert registry.history(run) == []
    registry.promote(run, "aab2", by="Bo", because="the old one is broken")
    assert registry.standing(run).because == "the old one is broken"


def test_plain_rag_may_always_go_into_production(run):
    """Version 0 needs no verdict, no approval and no reason."""
    registry.promote(run, PLAIN, by="Bo")
    assert ids(run) == (PLAIN, None, None)
    assert registry.standing(run).production == registry.Version(PLAIN, "rag", "org/tiny", None, "", None)
