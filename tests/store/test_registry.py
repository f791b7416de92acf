"""The registry of a run: what is in production, and a history that only grows."""

import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from multiprocessing import get_context

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_adapters import write_adapter

from raft.errors import DamagedArtifact, RaftError, UsageError
from raft.store import adapters, artifacts, fitness, history, registry, reports
from raft.store.fitness import PLAIN
from raft.store.history import FILE


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
    artifacts.atomically(run / "benchmark.json", json.dumps(facts))


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
    assert registry.standing(run).production == fitness.Version(PLAIN, "rag", "org/tiny", None, "", None)


def free(run, *names):
    """Approve adapters, and write that each was found fit to ship."""
    for name in names:
        measured(run, name)
        reports.keep(run, name)
        adapters.approve(run / "adapters" / name, "Ann")


def test_a_rollback_goes_one_further_each_time_and_at_last_to_plain_rag(run):
    """What was gone back from is not gone back to: B, A, plain RAG, and then there is nothing before."""
    free(run, "aaa1", "aab2", "ccc3")
    for name in ("aaa1", "aab2", "ccc3"):
        registry.promote(run, name, by="Bo")
    assert ids(run) == ("ccc3", None, "aab2")
    seen = [registry.rollback(run, by="Bo", because="worse")["version"] for _ in range(3)]
    assert seen == ["aab2", "aaa1", PLAIN]
    with pytest.raises(UsageError, match="Nothing was in production before"):
        registry.rollback(run, by="Bo")
    assert [line["former"] for line in registry.history(run)[3:]] == ["ccc3", "aab2", "aaa1"]


def test_a_rollback_may_name_where_to(run):
    """With `to` what lies between is passed over; what was never in production needs what a promotion needs."""
    free(run, "aaa1", "aab2")
    registry.promote(run, "aaa1", by="Bo")
    registry.promote(run, "aab2", by="Bo")
    with pytest.raises(UsageError, match="--to ccc3"):
        registry.rollback(run, by="Bo", to="ccc3")
    measured(run, "aaa1", "keep plain RAG")
    (run / "benchmarks" / "aaa1" / "benchmark.json").unlink()
    registry.rollback(run, by="Bo", to="aaa")  # it was there before, whatever is thought of it now
    assert ids(run) == ("aaa1", None, PLAIN)
    registry.rollback(run, by="Bo", to=PLAIN)
    assert ids(run) == (PLAIN, None, None)


def test_what_is_in_production_already_stays_and_makes_no_line(run):
    """A second promotion of the same version returns the line of the first."""
    first = registry.promote(run, "aaa1", by="Ann")
    assert registry.promote(run, "aaa1", by="Bo", because="again") == first
    assert len(registry.history(run)) == 1


def test_a_candidate_has_its_shares_until_it_is_withdrawn_or_promoted(run):
    """A candidate stands with its shares; a withdrawal, or its own promotion, ends that."""
    registry.promote(run, PLAIN, by="Ann")
    registry.nominate(run, "aab2", share=0.1, shadow=0.05, by="Bo", because="a look")
    now = registry.standing(run)
    assert (now.candidate.id, now.share, now.shadow) == ("aab2", 0.1, 0.05)
    assert registry.withdraw(run, by="guard", because="errors", version_id="ccc3") is None
    assert registry.withdraw(run, by="guard", because="errors", version_id="aab2")["who"] == "guard"
    assert registry.withdraw(run, by="guard", because="errors") is None
    registry.nominate(run, "aaa1", share=1, shadow=0, by="Bo")
    registry.promote(run, "aaa1", by="Bo")
    now = registry.standing(run)
    assert (now.candidate, now.share, now.shadow) == (None, 0.0, 0.0)
    assert ids(run) == ("aaa1", None, PLAIN)


@pytest.mark.parametrize("shares", [{"share": 1.5, "shadow": 0}, {"share": 0, "shadow": -0.1}])
def test_a_share_lies_between_0_and_1(run, shares):
    """Other shares are refused, and nothing is written."""
    with pytest.raises(UsageError, match="between 0 and 1"):
        registry.nominate(run, "aaa1", by="Bo", **shares)
    assert not (run / FILE).exists()


def test_what_answers_is_not_retired_and_what_is_retired_needs_a_reason(run):
    """Production, candidate and plain RAG are not retired; what is retired is passed over, or comes with a reason."""
    free(run, "aaa1", "aab2", "ccc3")
    registry.promote(run, "aaa1", by="Bo")
    registry.nominate(run, "aab2", share=0.1, shadow=0, by="Bo")
    for name in (PLAIN, "aaa1", "aab2"):
        with pytest.raises(UsageError, match="not retired"):
            registry.retire(run, name, by="Bo")
    registry.promote(run, "aab2", by="Bo")
    registry.retire(run, "aaa1", by="Bo", because="old")
    assert ids(run) == ("aab2", None, PLAIN)
    assert registry.find(run, "aaa1").retired
    with pytest.raises(UsageError, match=r"aaa1 was retired on 20\d\d-\d\d-\d\d by Bo \(old\)"):
        registry.promote(run, "aaa1", by="Bo")
    with pytest.raises(UsageError, match="was retired"):
        registry.nominate(run, "aaa1", share=0, shadow=1, by="Bo")
    line = registry.promote(run, "aaa1", by="Ann", because="the others are worse")
    assert [line["was_retired"][name] for name in ("who", "why", "action")] == ["Bo", "old", "retire"]
    assert not registry.find(run, "aaa1").retired
    assert "was_retired" not in registry.history(run)[-1]


@pytest.mark.parametrize("by", ["", "  "])
def test_without_a_name_nothing_is_written(run, by):
    """Each change needs a name."""
    for change in (
        lambda: registry.promote(run, PLAIN, by=by),
        lambda: registry.nominate(run, "aaa1", share=0, shadow=0, by=by),
        lambda: registry.withdraw(run, by=by, because="x"),
        lambda: registry.retire(run, "aaa1", by=by),
        lambda: registry.rollback(run, by=by),
    ):
        with pytest.raises(UsageError, match="no name is given"):
            change()
    assert registry.history(run) == []


def test_a_name_that_is_no_text_is_kept_as_what_is_of_it(run):
    """Bytes that are no UTF-8, as a shell may give them, are left out of a name and of a reason; the rest is kept."""
    line = registry.promote(run, PLAIN, by="Ann\udcff", because="\udcfeso")
    assert (line["who"], line["why"]) == ("Ann", "so")
    with pytest.raises(UsageError, match="no name"):
        registry.promote(run, "aaa1", by="\udcff")


def test_what_is_gone_back_from_may_be_named(run):
    """With `instead_of` a rollback is refused where another version has come into production meanwhile."""
    free(run, "aab2")
    registry.promote(run, "aab2", by="Ann")
    with pytest.raises(UsageError, match="aab2 is in production now"):
        registry.rollback(run, by="monitor", to=PLAIN, instead_of="aaa1")
    assert ids(run)[0] == "aab2"
    registry.rollback(run, by="monitor", to=PLAIN, instead_of="aab2")
    assert ids(run)[0] == PLAIN


def test_a_version_is_found_by_its_id_its_beginning_or_its_alias(run):
    """A beginning that several have is refused with their names, an unknown one with those that there are."""
    assert registry.find(run, "c").id == "ccc3"
    with pytest.raises(UsageError, match="aaa1, aab2"):
        registry.find(run, "aa")
    for unknown in ("zz", "", " "):
        with pytest.raises(UsageError, match="there are 0, aaa1"):
            registry.find(run, unknown)
    with pytest.raises(UsageError, match="Nothing is in production"):
        registry.find(run, "production")
    registry.promote(run, "aaa1", by="Bo")
    assert registry.find(run, "production") == registry.find(run, "aaa1")
    assert registry.find(run, "previous").id == PLAIN


def test_a_version_whose_files_changed_or_went_is_refused(run):
    """Other files than those that the history knows of a version are neither promoted, tried nor gone back to."""
    free(run, "aaa1", "aab2")
    registry.promote(run, "aaa1", by="Bo")
    registry.promote(run, "aab2", by="Bo")
    fitness.whole(run, registry.standing(run).production)
    weights = run / "adapters" / "aaa1" / adapters.WEIGHTS
    kept, others = weights.read_bytes(), (run / "adapters" / "ccc3" / adapters.WEIGHTS).read_bytes()
    for content, said in ((others, "have changed"), (None, "are missing or damaged")):
        weights.unlink() if content is None else weights.write_bytes(content)
        for change in (
            lambda: registry.rollback(run, by="Bo"),
            lambda: registry.promote(run, "aaa1", by="Bo", because="now"),
            lambda: registry.nominate(run, "aaa1", share=0.5, shadow=0, by="Bo"),
        ):
            with pytest.raises(DamagedArtifact, match=said):
                change()
    assert ids(run) == ("aab2", None, "aaa1")
    registry.rollback(run, by="Bo", to=PLAIN)
    weights.write_bytes(kept)
    registry.promote(run, "aaa1", by="Bo")


def test_the_history_only_grows(run):
    """SQLite itself refuses to change, delete, replace or insert between its lines."""
    registry.promote(run, "aaa1", by="Ann")
    before = registry.history(run)
    with closing(sqlite3.connect(run / FILE)) as database:
        for statement in (
            "UPDATE history SET who = 'Bo'",
            "DELETE FROM history",
            "INSERT OR REPLACE INTO history SELECT line, at, 'Bo', why, action, version, digest, report, verdict, facts"
            " FROM history",
            "INSERT INTO history SELECT 9, at, who, why, action, version, digest, report, verdict, facts FROM history",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="only grows"):
                database.execute(statement)
    assert registry.history(run) == before


def test_a_registry_of_a_newer_raft_is_neither_read_nor_written(run):
    """A newer format is refused with the command that brings a newer raft."""
    registry.promote(run, "aaa1", by="Ann")
    with closing(sqlite3.connect(run / FILE)) as database:
        database.execute("PRAGMA user_version = 2")
    for act in (lambda: registry.standing(run), lambda: registry.promote(run, PLAIN, by="Ann")):
        with pytest.raises(RaftError, match="has format 2") as refused:
            act()
        assert "--upgrade" in refused.value.hint
    assert "format 2" in registry.told(run)["lacks"]


def test_the_database_of_another_program_is_left_alone(run):
    """A file of that name which is no registry is not written to."""
    with closing(sqlite3.connect(run / FILE)) as database, database:
        database.execute("CREATE TABLE history (mine TEXT)")
    before = (run / FILE).read_bytes()
    for act in (lambda: registry.standing(run), lambda: registry.promote(run, PLAIN, by="Ann")):
        with pytest.raises(RaftError, match="another program"):
            act()
    assert (run / FILE).read_bytes() == before


@pytest.mark.parametrize("damage", [b"no database at all", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_damaged_registry_is_told_with_the_next_command(run, damage):
    """What is no database is said to be damaged, and not written over."""
    (run / FILE).write_bytes(damage)
    with pytest.raises(DamagedArtifact, match="is damaged") as told:
        registry.standing(run)
    assert told.value.hint.startswith("mv ")
    assert (run / FILE).read_bytes() == damage


def test_an_empty_registry_is_damaged_and_not_one_in_which_nothing_was_promoted(run):
    """A file of no bytes does not put plain RAG in production's place: it is refused, read or written, as it is."""
    registry.promote(run, "aaa1", by="Ann", because="a try")
    (run / FILE).write_bytes(b"")
    for act in (registry.standing, registry.versions, lambda run: registry.promote(run, PLAIN, by="Ann")):
        with pytest.raises(DamagedArtifact, match="empty") as told:
            act(run)
        assert told.value.hint.startswith(f"mv {run / FILE} {run / FILE}.damaged ")
        assert (run / FILE).read_bytes() == b""
    assert "empty" in registry.told(run)["lacks"]


def test_a_promotion_that_is_refused_leaves_a_registry_that_is_read(run):
    """The first line may be refused: what it leaves says that nothing was ever promoted, and takes the next one."""
    with pytest.raises(UsageError, match="Nothing is in production"):
        registry.rollback(run, by="Ann")
    assert registry.standing(run) == registry.Standing()
    registry.promote(run, "aaa1", by="Ann", because="a try")
    assert ids(run) == ("aaa1", None, PLAIN)


def test_what_a_kill_left_open_is_undone_also_where_nothing_can_be_written(run, tmp_path, monkeypatch):
    """With the journal of a transaction that never ended, the lines before it are read; a copy undoes it if need be."""
    for turn in range(40):  # several pages, so that some are written before the end
        registry.promote(run, PLAIN if turn % 2 else "aaa1", by="x" * 400, because="y")
    whole, cut = registry.history(run), tmp_path / "cut"
    shutil.copytree(run, cut)
    with closing(sqlite3.connect(run / FILE, isolation_level=None)) as database:
        database.execute("PRAGMA cache_size = 1")
        database.execute("BEGIN IMMEDIATE")
        for _ in range(60):
            database.execute(
                "INSERT INTO history SELECT (SELECT MAX(line) FROM history) + 1, at, who, why, action, version, digest,"
                " report, verdict, facts FROM history WHERE line = 1"
            )
        for name in (FILE, f"{FILE}-journal"):
            shutil.copyfile(run / name, cut / name)
    assert (cut / FILE).read_bytes() != (run / FILE).read_bytes()
    opened = history._opened

    def read_only(path):
        if path.parent != cut:
            return opened(path)
        return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)

    with monkeypatch.context() as patch:
        patch.setattr(history, "_opened", read_only)
        assert registry.history(cut) == whole
        assert (cut / f"{FILE}-journal").exists()
    assert registry.history(cut) == whole
    assert not (cut / f"{FILE}-journal").exists()


def test_reading_leaves_no_file_and_a_run_that_was_moved_is_read_as_before(run, tmp_path):
    """Readers leave nothing beside the registry; no path in it leads out of the run directory."""
    free(run, "aaa1")
    registry.promote(run, "aaa1", by="Ann")
    before, now = sorted(run.iterdir()), registry.standing(run)
    assert registry.standing(run) == now
    assert sorted(run.iterdir()) == before
    moved = run.rename(tmp_path / "elsewhere")
    assert registry.standing(moved) == now
    assert fitness.whole(moved, now.production) == moved / "adapters" / "aaa1"
    assert str(run).encode() not in (moved / FILE).read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_that_cannot_be_written_is_read(run):
    """What stands is told from a folder on which nothing may be written; a promotion says why it cannot be."""
    registry.promote(run, "aaa1", by="Ann")
    now = registry.standing(run)
    (run / FILE).chmod(stat.S_IRUSR)
    run.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert registry.standing(run) == now
        with pytest.raises(RaftError, match="cannot be used"):
            registry.promote(run, PLAIN, by="Ann")
    finally:
        run.chmod(stat.S_IRWXU)


def _promote(run, names, by):
    for name in names:
        registry.promote(run, name, by=by, because="a race")


def test_two_processes_that_promote_at_once_wait_for_each_other_and_lose_nothing(run):
    """Each line follows from the one before it: its `former` is what that one put into production."""
    names = {"Ann": ["aaa1", PLAIN] * 15, "Bo": ["aab2", "ccc3"] * 15}
    context = get_context("fork" if os.name == "posix" else "spawn")
    both = [context.Process(target=_promote, args=(run, own, by)) for by, own in names.items()]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    lines = registry.history(run)
    assert [line["line"] for line in lines] == list(range(1, len(lines) + 1))
    stands = ""
    for line in lines:
        assert line["former"] == stands != line["version"]
        stands = line["version"]
    # a promotion of what is there already makes no line: no other may be missing
    for by, own in names.items():
        assert [line["version"] for line in lines if line["who"] == by] == own


def test_what_was_made_of_an_adapter_is_a_version_of_its_own(run, tmp_path):
    """A model has an id, digest and place of its own; its adapter's id does not mean it, and no id means two things."""
    file = run / "aaa1.gguf"
    file.write_bytes(b"GGUF one")
    made = registry.register(run, adapter="aaa1", kind="gguf", path=file, by="Bo")
    assert (made.id, made.kind, made.adapter, made.path) == ("aaa1-gguf", "gguf", "aaa1", "aaa1.gguf")
    assert made.digest == artifacts.digest(file)
    assert registry.register(run, adapter="aaa1", kind="gguf", path=file, by="Bo") == made
    assert len(registry.history(run)) == 1
    assert registry.find(run, "aaa").id == "aaa1"
    elsewhere = tmp_path / "models" / "one.gguf"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"GGUF one")
    assert registry.register(run, adapter="aaa1", kind="gguf", path=elsewhere, by="Bo").path == "../models/one.gguf"
    elsewhere.write_bytes(b"GGUF two")
    assert registry.register(run, adapter="aaa1", kind="gguf", path=elsewhere, by="Bo").id == "aaa1-gguf-2"
    with pytest.raises(DamagedArtifact, match="have changed"):
        registry.promote(run, "aaa1-gguf", by="Bo", because="small")
    with pytest.raises(UsageError, match="no benchmark of this run measured it") as refused:
        registry.promote(run, "aaa1-gguf-2", by="Bo")  # the figures of the adapter are not its own
    assert "raft bench" in refused.value.hint and "--version aaa1-gguf-2" in refused.value.hint


def test_a_merged_model_is_known_by_its_files_but_not_by_what_tells_of_it(run):
    """The digest of a folder holds its names and contents; README and card may change."""
    folder = run / "export-merged-aaa1"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"one")
    made = registry.register(run, adapter="aaa1", kind="merged", path=folder, by="Bo")
    (folder / "README.md").write_text("about it")
    (folder / "card.json").write_text("{}")
    assert fitness.whole(run, made) == folder
    (folder / "model.safetensors").write_bytes(b"two")
    with pytest.raises(DamagedArtifact):
        fitness.whole(run, made)
    (folder / "config.json").unlink()
    with pytest.raises(DamagedArtifact, match="no model here"):
        registry.register(run, adapter="aaa1", kind="merged", path=folder, by="Bo")


def test_an_adapter_keeps_its_report_when_another_one_is_measured(run):
    """A version is judged by the last benchmark whose verdict is about it, be it the run's last one or not."""
    measured(run, "aaa1", "ship")
    reports.keep(run, "aaa1")
    first = artifacts.digest(run / "benchmark.json")
    measured(run, "aab2", "keep plain RAG")
    assert reports.of(run, "aaa1").digest == first
    assert (reports.of(run, "aaa1").verdict, reports.of(run, "aab2").verdict) == ("ship", "keep plain RAG")
    assert reports.of(run, "ccc3") is None
    assert registry.promote(run, "aaa1", by="Bo")["report"] == first


MOVES = st.lists(
    st.tuples(st.sampled_from(["promote", "rollback", "to", "nominate", "withdraw", "retire"]), st.integers(0, 3)),
    max_size=14,
)


@settings(max_examples=20, deadline=None)
@given(moves=MOVES)
def test_whatever_is_done_what_stands_follows_from_the_history(moves, tmp_path_factory):
    """After any moves production is what was put there last, and a rollback goes to what `previous` says."""
    run = write_run(tmp_path_factory.mktemp("moves") / "run", "aaa1", "aab2", "ccc3")
    names, done = [PLAIN, "aaa1", "aab2", "ccc3"], 0
    for move, number in moves:
        before, name = registry.standing(run), names[number]
        try:
            line = {
                "promote": lambda name=name: registry.promote(run, name, by="x", because="y"),
                "rollback": lambda: registry.rollback(run, by="x"),
                "to": lambda name=name: registry.rollback(run, by="x", because="y", to=name),
                "nominate": lambda name=name: registry.nominate(run, name, share=0.5, shadow=0, by="x", because="y"),
                "withdraw": lambda: registry.withdraw(run, by="x", because="y"),
                "retire": lambda name=name: registry.retire(run, name, by="x"),
            }[move]()
        except UsageError:
            assert registry.standing(run) == before
            continue
        now = registry.standing(run)
        done = now.revision
        if move == "rollback":
            assert now.production == before.previous and now.production != before.production
        if line and line["action"] in ("promote", "rollback"):
            assert now.production.id == line["version"]
        answering = [one for one in (now.production, now.candidate) if one]
        assert len({one.id for one in answering}) == len(answering)
        assert not any(one.retired for one in answering)
        assert now.previous is None or (not now.previous.retired and now.previous != now.production)
    assert [line["line"] for line in registry.history(run)] == list(range(1, done + 1))
