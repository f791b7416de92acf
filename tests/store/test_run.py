"""A run directory: each step once per distinct input, and the same bytes whatever happened in between."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.errors import DamagedArtifact, RaftError, RunLocked, UsageError
from raft.store import artifacts, folders, lineage, run, tables
from raft.store.run import Run
from raft.testing import WordTokenizer

CORPUS = {"a.md": "Heaters weigh 14 kg.", "b.md": "Refunds take 30 days.", "c.md": "unreadable"}
FILES = ("documents.parquet", "questions.parquet", "failures.parquet", "cleaned.parquet", "eval.jsonl")
STEPS = ("documents", "questions", "cleaned")


class Killed(BaseException):
    """Stands for a kill: nothing in the source may catch it."""


def build(folder, corpus=CORPUS, *, encoding="utf-8", tone="plain", keep=9, fail=None):
    """Build a small run of three steps; return which were made, in order.

    `encoding` never changes what the documents step makes, `tone` changes the questions, `keep` how many are kept;
    `fail` names the step whose work raises when it is half done.
    """
    made = []
    runs = Run(folder, report=lambda name, state: made.append(name) if state == "made" else None)

    def stop(name):
        if fail == name:
            raise RaftError(f"{name} failed")

    def documents(step):
        for name, text in sorted(corpus.items()):
            yield tables.frame(tables.DOCUMENTS, [{"doc_id": name, "path": name, "text": text, "pages": []}])
        stop("documents")

    def questions(step):
        failures = []

        def asked():
            for row in runs.read("documents.parquet").iter_rows(named=True):
                if row["text"] == "unreadable":
                    failures.append({"stage": "questions", "item_id": row["doc_id"], "kind": "malformed"})
                    continue
                text = f"What is {tone} about {row['text']}?"
                yield tables.frame(tables.QUESTIONS, [{"question_id": row["doc_id"], "question": text, "quotes": []}])
            stop("questions")

        def refused():
            yield tables.frame(tables.FAILURES, failures)

        step.stats["tone"] = tone
        return {"questions.parquet": asked(), "failures.parquet": refused()}

    def cleaned(step):
        rows = runs.read("questions.parquet").head(keep).to_dicts()
        held = [{"question_id": row["question_id"], "question": row["question"], "answers": ["14 kg"]} for row in rows]
        stop("cleaned")
        return {
            "cleaned.parquet": tables.frame(tables.CLEANED, rows),
            "eval.jsonl": tables.frame(tables.EVALUATION, held),
        }

    with runs.writing():
        lineage.trust(runs.manifest["steps"], STEPS)
        runs.step(
            "documents",
            lambda step: {"documents.parquet": documents(step)},
            version=1,
            outputs=["documents.parquet"],
            using={"encoding": encoding},
            given=sorted(corpus.items()),
        )
        runs.step(
            "questions",
            questions,
            version=1,
            outputs=["questions.parquet", "failures.parquet"],
            inputs=["documents.parquet"],
            using={"tone": tone},
        )
        runs.step(
            "cleaned",
            cleaned,
            version=1,
            outputs=["cleaned.parquet", "eval.jsonl"],
            inputs=["questions.parquet"],
            using={"keep": keep},
        )
    return made


def contents(folder):
    """Return the bytes of every artifact."""
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Return a run that was built without trouble; tests copy it."""
    folder = tmp_path_factory.mktemp("pristine") / "run"
    build(folder)
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    """Return a copy of the run."""
    return Path(shutil.copytree(pristine, tmp_path / "run"))


def flipped(data, place):
    """Return the data with one bit changed."""
    place %= len(data) * 8
    changed = bytearray(data)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


DAMAGE = st.one_of(
    st.just(lambda data: None),
    st.integers(0, 10**6).map(lambda n: lambda data: data[: n % len(data)]),
    st.integers(0, 10**9).map(lambda n: lambda data: flipped(data, n)),
    st.binary(max_size=40).map(lambda junk: lambda data: junk),
)
MANIFEST_DAMAGE = st.one_of(
    st.just(lambda data: None),
    st.integers(0, 10**6).map(lambda n: lambda data: data[: n % (len(data) - 2)]),
    st.sampled_from(
        [b"", b"{}", b"[]", b"null", b"7", b"\xff\xfe", b'{"format": 1}', b'{"format": 1, "steps": []}']
    ).map(lambda junk: lambda data: junk),
)


@given(harm=st.dictionaries(st.sampled_from(FILES), DAMAGE), manifest=st.none() | MANIFEST_DAMAGE)
@settings(max_examples=40, deadline=None)
def test_whatever_is_damaged_is_built_anew_to_the_same_bytes(pristine, harm, manifest):
    """Any artifacts deleted, cut off, changed or replaced, and the manifest too: the same bytes come out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(pristine, Path(name) / "run"))
        for file, damage in {**harm, **({"manifest.json": manifest} if manifest else {})}.items():
            path = folder / file
            data = damage(path.read_bytes())
            path.unlink() if data is None else path.write_bytes(data)
        build(folder)
        assert contents(folder) == contents(pristine)
        assert build(folder) == []


@pytest.mark.parametrize(
    "steps",
    [
        {"documents": None},
        {"documents": {}},
        {"documents": {"key": "k", "basis": "b"}},
        {"questions": {"artifacts": {}}},
        {"other": 5},
    ],
)
def test_a_manifest_with_odd_lines_is_no_traceback(folder, pristine, steps):
    """Lines of the manifest that lack what they should hold count as steps that were not done."""
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "steps": steps}))
    build(folder)
    assert contents(folder) == contents(pristine)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *(("settings", [7]), ("settings.generator", [7]), ("models", "text"), ("models.embedder", 5), ("corpus", [5])),
        *(("corpus", 5), ("pipeline", [7]), ("home", {}), ("collection", None), ("begun", "x"), ("decided", 5)),
        *(
            ("languages.found", 5),
            ("copies.groups", "text"),
            ("copies", None),
            ("records", [7]),
            ("skipped", 5),
            ("weights", "x"),
        ),
        *(("steps", 5), ("steps.questions", 5), ("steps.questions.inputs", [7]), ("steps.questions.seconds", "text")),
        *(("steps.questions.cost", [7]), ("steps.questions.notes", 5), ("steps.questions.artifacts", {"x": 5})),
        *(("steps.cleaned.notes", {"splits": [5]}), ("steps.cleaned.notes", {"splits": {"train": "x"}, "reasons": {}})),
    ],
)
def test_a_manifest_whose_fields_are_of_other_types_is_told_and_mended(folder, pristine, place, value):
    """Who reads such a run is told the file, the field and the command; a build makes the same bytes and mends it."""
    path = folder / "manifest.json"
    facts = {"settings": {"generator": {}}, "models": {}, "corpus": ["docs"], "languages": {}, "copies": {}}
    tree = {**json.loads(path.read_text()), **facts}
    path.write_text(json.dumps(tree))
    run.existing(folder)
    *above, name = place.split(".")
    owner = tree
    for part in above:
        owner = owner[part]
    owner[name] = value
    path.write_text(json.dumps(tree))
    with pytest.raises(DamagedArtifact, match=f"in the place of {place}") as caught:
        run.existing(folder)
    assert str(caught.value.where) == str(path) and caught.value.hint.startswith("raft build ")
    build(folder)
    run.existing(folder)
    assert contents(folder) == contents(pristine)


def test_an_unchanged_run_does_no_work(folder):
    """A second run makes nothing and does not touch the manifest."""
    before = {name: (folder / name).stat().st_mtime_ns for name in (*FILES, "manifest.json")}
    assert build(folder) == []
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"encoding": "latin-1"}, []),
        ({"tone": "rude"}, ["questions", "cleaned"]),
        ({"keep": 1}, ["cleaned"]),
        ({"keep": 5}, []),
        ({"corpus": {**CORPUS, "d.md": "Leave is 25 days."}}, ["documents", "questions", "cleaned"]),
        ({"corpus": {**CORPUS, "c.md": "unreadable", "d.md": "unreadable"}}, ["documents", "questions"]),
    ],
)
def test_a_change_redoes_its_step_and_what_reads_other_bytes(folder, change, expected):
    """What other settings or other bytes to read change is made again; what comes out the same counts as reused."""
    assert build(folder, **change) == expected
    assert build(folder, **change) == []


def test_a_change_taken_back_gives_the_first_bytes_again(folder, pristine):
    """Settings that return to what they were return the artifacts too."""
    build(folder, tone="rude", keep=1)
    assert contents(folder) != contents(pristine)
    build(folder)
    assert contents(folder) == contents(pristine)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_changes_nothing(folder, step):
    """When the work raises, artifacts and manifest of that step stay as they were."""
    changed = {"corpus": {**CORPUS, "d.md": "New."}} if step == "documents" else {"tone": "new", "keep": 1}
    if step == "cleaned":
        build(folder, **changed | {"keep": 9})
    before, manifest = contents(folder), (folder / "manifest.json").read_bytes()
    with pytest.raises(RaftError, match="failed"):
        build(folder, **changed, fail=step)
    assert contents(folder) == before
    assert (folder / "manifest.json").read_bytes() == manifest


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("first", [True, False], ids=["first build", "rebuild"])
def test_a_kill_between_draft_and_manifest_costs_at_most_one_step(tmp_path, pristine, count, done, first):
    """Killed before or after any rename, the next run ends in the same bytes and keeps the steps that were done."""
    folder = tmp_path / "run"
    if not first:
        build(folder, {"z.md": "Another corpus."}, tone="other")
    replace, calls = Path.replace, []

    def killing(self, target):
        calls.append(Path(target).name)
        if len(calls) == count:
            if done:
                replace(self, target)
            raise Killed
        return replace(self, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "replace", killing)
        build(folder)
    renamed = calls[: count if done else count - 1]  # a step's files, then its line; before files that differ, a mark
    finished = sum(line == "manifest.json" != file for file, line in pairwise(renamed))
    assert build(folder) == list(STEPS[finished:])
    assert contents(folder) == contents(pristine)


def test_a_kill_while_rows_are_written_leaves_no_half_artifact(folder, pristine, monkeypatch):
    """Killed in the middle of a draft, the artifact is the old one; what is left of the draft is swept later."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(artifacts, "write", killed_write)
        build(folder, tone="new")
    assert contents(folder) == contents(pristine)
    build(folder)
    assert not (folder / ".drafts").exists()


def killed_write(path, output):
    """Write half a file, then be killed."""
    path.write_bytes(b"half")
    raise Killed


HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_writers_are_one_too_many(folder):
    """While one process writes, another is told so and what to do; afterwards it may."""
    command = [sys.executable, "-c", HOLDER, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert run.is_locked(folder)
        with pytest.raises(RunLocked) as caught:
            build(folder)
        other.stdin.close()
    assert "raft status" in caught.value.hint
    assert not run.is_locked(folder)
    assert build(folder) == []


def test_what_a_running_build_has_not_made_yet_is_said_to_be_under_way(folder):
    """While another process builds, what does not belong to the rest is waited for; nobody is told to build again."""
    with pytest.raises(RaftError, match="failed"):
        build(folder, {**CORPUS, "d.md": "New."}, fail="questions")
    command = [sys.executable, "-c", HOLDER, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DamagedArtifact, match="A build is running here, and questions does not belong") as caught:
            run.existing(folder).require("questions")
        other.stdin.close()
    assert caught.value.hint.startswith(f"raft status {folder}") and "raft build" not in caught.value.hint
    with Run(folder).writing(), pytest.raises(DamagedArtifact, match="was not finished"):
        run.existing(folder).require("questions")


def test_a_run_in_the_same_process_is_locked_too(folder):
    """Two runs of one process do not write to one folder at once either."""
    with Run(folder).writing(), pytest.raises(RunLocked), Run(folder).writing():
        pass


def test_the_lock_is_free_after_a_failure(folder):
    """A build that failed can be started again at once."""
    with pytest.raises(RaftError):
        build(folder, tone="new", fail="questions")
    assert build(folder, tone="new") == ["questions", "cleaned"]


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path):
    """A run directory below a regular file says that it cannot be written to."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written") as caught:
        build(tmp_path / "file" / "run")
    assert "--out" in caught.value.hint


@pytest.mark.parametrize("opens", [folders.claim, run.existing])
def test_a_path_that_is_not_utf8_is_refused(tmp_path, opens):
    """Where a folder on the way has a name of no letters, building and opening say so, and make nothing there."""
    odd = tmp_path / os.fsdecode(b"caf\xe9") / "run"
    with pytest.raises(UsageError, match="UTF-8") as caught:
        opens(odd)
    assert f"ls -d {tmp_path}/caf?/run" in caught.value.hint
    assert not odd.parent.exists()


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_manifest_of_another_format_is_a_usage_error(folder, version):
    """A run directory of another raft is left alone."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": version}))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="format") as caught:
        build(folder)
    assert caught.value.hint
    assert path.read_bytes() == before


def test_a_moved_run_is_still_done(folder, tmp_path):
    """A run directory can be moved to another place and nothing is made again."""
    moved = tmp_path / "elsewhere" / "deep" / "renamed"
    moved.parent.mkdir(parents=True)
    folder.rename(moved)
    assert build(moved) == []


def test_only_a_folder_with_a_manifest_is_a_run(folder, tmp_path):
    """Opening a run that does not exist is a usage error and makes nothing."""
    assert run.existing(folder).manifest["steps"].keys() == set(STEPS)
    with pytest.raises(UsageError, match="no run directory"):
        run.existing(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_the_manifest_says_what_was_done(folder):
    """A step's line holds its notes, its rows and its digests, and the meter's share of it."""
    line = json.loads((folder / "manifest.json").read_text())["steps"]["questions"]
    assert line["notes"] == {"tone": "plain"}
    assert {name: entry["rows"] for name, entry in line["artifacts"].items()} == {
        "questions.parquet": 2,
        "failures.parquet": 1,
    }
    assert line["artifacts"]["questions.parquet"]["digest"] == artifacts.digest(folder / "questions.parquet")


def one_step(folder, work, *, given=1, using=None, meter=None):
    """Do a single step that makes failures.parquet; return its line of the manifest."""
    runs = Run(folder, meter=meter)
    with runs.writing():
        return runs.step("only", work, version=1, outputs=["failures.parquet"], given=given, using=using)


def rows(*ids):
    """Return what a work makes: one failure an id."""
    return {"failures.parquet": tables.frame(tables.FAILURES, [{"item_id": i, "message": f"about {i}"} for i in ids])}


def test_the_meter_counts_what_a_step_asked(tmp_path):
    """A step's line holds the difference of the totals over the step, not the totals."""
    totals = {"calls": 5.0}

    def work(step):
        totals["calls"] += 3
        return rows("x")

    assert one_step(tmp_path, work, meter=lambda: dict(totals))["calls"] == 3
    assert one_step(tmp_path, work, meter=lambda: dict(totals))["calls"] == 3


def test_scratch_is_kept_until_the_step_succeeds(tmp_path):
    """What a failed step left in its scratch folder is there when it is started again, and gone when it is done."""
    seen = []

    def work(step):
        step.scratch.mkdir(parents=True, exist_ok=True)
        seen.append(sorted(path.name for path in step.scratch.iterdir()))
        (step.scratch / f"checkpoint-{len(seen)}").write_text("")
        if len(seen) < 3:
            raise RaftError("the machine went away")
        return rows("x")

    for _ in range(2):
        with pytest.raises(RaftError, match="went away"):
            one_step(tmp_path, work)
    one_step(tmp_path, work)
    assert seen == [[], ["checkpoint-1"], ["checkpoint-1", "checkpoint-2"]]
    assert not any((tmp_path / "scratch").iterdir())


def test_another_computation_has_another_scratch(tmp_path):
    """Checkpoints of other settings are not taken over."""
    places = []

    def work(step):
        places.append(step.scratch)
        return rows("x")

    one_step(tmp_path, work)
    one_step(tmp_path, work, using={"rate": 1})
    assert places[0] != places[1]


@pytest.mark.parametrize(
    ("change", "usable"),
    [({"given": 2}, True), ({"given": 2, "using": {"tone": "new"}}, False), ({"using": {"tone": "new"}}, False)],
)
def test_earlier_rows_are_offered_only_to_the_same_computation(tmp_path, change, usable):
    """Rows of the last time may be used again when the inputs alone have changed."""
    one_step(tmp_path, lambda step: rows("x", "y"))
    offered = []

    def work(step):
        find = step.previous("failures.parquet", lambda table: table["item_id"])
        offered.append((step.reusable, find and find("y")["message"].to_list(), find and find("z")))
        return rows("x")

    one_step(tmp_path, work, **change)
    assert offered == [(True, ["about y"], None) if usable else (False, None, None)]


def test_damaged_rows_are_never_offered_again(tmp_path):
    """An artifact that is not what the manifest says is not reused, not even in part."""
    one_step(tmp_path, lambda step: rows("x"))
    artifacts.write(tmp_path / "failures.parquet", tables.frame(tables.FAILURES, [{"item_id": "forged"}]))
    offered = []

    def work(step):
        offered.append(step.reusable)
        return rows("x")

    one_step(tmp_path, work)
    assert offered == [False]


def test_a_folder_is_known_by_the_digest_that_it_is_given(tmp_path):
    """A step that fills a folder is done again when the folder's digest says so, and fails when it stays empty."""
    state, made = {"digest": None}, []
    runs = Run(tmp_path)

    def fill(step):
        made.append(1)
        state["digest"] = "full"
        return {}

    def step(work):
        with runs.writing():
            runs.step("index", work, version=1, outputs={"index": lambda: state["digest"]})

    step(fill)
    step(fill)
    assert len(made) == 1
    state["digest"] = "damaged"
    step(fill)
    assert len(made) == 2
    state["digest"] = None
    with pytest.raises(DamagedArtifact):
        step(lambda _: {})


def test_a_step_that_reads_what_nobody_made_is_an_error(tmp_path):
    """An input without a step that makes it is named."""
    runs = Run(tmp_path)
    with runs.writing(), pytest.raises(RaftError, match=r"documents\.parquet"):
        runs.step("x", lambda step: rows("x"), version=1, outputs=["failures.parquet"], inputs=["documents.parquet"])


def test_facts_about_the_run_are_kept(folder):
    """What is described is in the manifest, and describing it again writes nothing."""
    runs = run.existing(folder)
    with runs.writing():
        runs.describe(corpus=["handbook"])
        stamp = (folder / "manifest.json").stat().st_mtime_ns
        runs.describe(corpus=["handbook"])
    assert run.existing(folder).manifest["corpus"] == ["handbook"]
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp
    assert build(folder) == []


def test_tables_of_a_run_can_be_read_and_streamed(folder):
    """A run hands out its tables whole or in pieces."""
    runs = run.existing(folder)
    assert runs.read("questions.parquet").height == 2
    assert pl.concat(list(runs.stream("questions.parquet", ["question_id"]))).columns == ["question_id"]


def lines(folder):
    """Return the lines of a run's manifest."""
    return run.existing(folder).manifest["steps"]


def test_a_line_says_what_it_was_made_from(folder):
    """Each line of the manifest holds the digest of every artifact that the step read."""
    found = lines(folder)
    digest = found["documents"]["artifacts"]["documents.parquet"]["digest"]
    assert found["questions"]["inputs"] == {"documents.parquet": digest}
    assert found["documents"]["inputs"] == {}


@pytest.mark.parametrize("before", [False, True], ids=["today's", "yesterday's"])
def test_what_does_not_belong_together_is_refused(folder, before):
    """After a build that stopped, what was made of other documents is refused with the command that goes on."""
    if before:  # a run of before says not what its steps were made from
        manifest = json.loads((folder / "manifest.json").read_text())
        for line in manifest["steps"].values():
            del line["inputs"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    run.existing(folder).require(*STEPS)
    with pytest.raises(RaftError, match="failed"):
        build(folder, {**CORPUS, "d.md": "New."}, fail="questions")
    stopped = run.existing(folder)
    stopped.require("documents")
    with pytest.raises(DamagedArtifact, match="questions, cleaned do not belong"):
        stopped.require("documents", "questions", "cleaned")
    for name in ("questions", "cleaned"):
        with pytest.raises(DamagedArtifact, match=f"{name} does not belong(.|\n)*raft build CORPUS --out {folder}"):
            stopped.require(name)
    build(folder, {**CORPUS, "d.md": "New."})
    run.existing(folder).require(*STEPS)
    with pytest.raises(DamagedArtifact, match="index"):
        run.existing(folder).require("index")


def test_a_table_that_is_there_before_its_line_is_refused(folder, monkeypatch):
    """After a death between a step's files and its line in the manifest, what was made of the old files is refused."""

    def dies(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_record", dies)
        with pytest.raises(Killed):
            build(folder, {**CORPUS, "d.md": "New."})
    with pytest.raises(DamagedArtifact):
        run.existing(folder).require(*STEPS)
    build(folder, {**CORPUS, "d.md": "New."})
    run.existing(folder).require(*STEPS)


def test_a_trial_leaves_the_lines_of_its_run_alone(tmp_path):
    """A trial that changes a step's file in its place does not mark the run's own step as unfinished."""
    runs, digests = Run(tmp_path), {"index": lambda: "whole"}
    with runs.writing():
        runs.step("index", lambda step: {}, version=1, outputs=digests)
        trial = runs.trial()
        trial.folder.mkdir(parents=True, exist_ok=True)
        trial.step("index", lambda step: {}, version=2, outputs={"index": lambda: "other"})
        assert "unfinished" not in runs.manifest["steps"]["index"]
    run.existing(tmp_path).require("index")


def test_a_folder_that_was_half_changed_is_refused(tmp_path):
    """What a step changes in its place is neither old nor new when the step was cut off, and is done again."""
    runs, digests = Run(tmp_path), {"index": lambda: "whole"}
    with runs.writing():
        runs.step("index", lambda step: {}, version=1, outputs=digests)
        with pytest.raises(Killed):
            runs.step("index", killed_work, version=2, outputs=digests)
    with pytest.raises(DamagedArtifact):
        run.existing(tmp_path).require("index")
    made = []
    with runs.writing():
        runs.step("index", lambda step: made.append(1) or {}, version=1, outputs=digests)
    run.existing(tmp_path).require("index")
    assert made


def killed_work(step):
    """Be killed at once."""
    raise Killed


def test_the_same_bytes_count_as_reused(tmp_path):
    """A step that is done again for another key and makes the same is told as reused; what it asked is added up."""
    told, totals = [], {"calls": 0.0}

    def work(step):
        totals["calls"] += 2
        step.stats["version"] = version
        return rows("x")

    keys = []
    for version in (1, 2, 2):
        runs = Run(tmp_path, meter=lambda: dict(totals), report=lambda _, state: told.append(state))
        with runs.writing():
            line = runs.step("only", work, version=version, outputs=["failures.parquet"])
        keys.append(line["key"])
    assert told == ["begins", "made", "begins", "reused", "reused"]
    assert keys[0] != keys[1] == keys[2]
    assert (line["calls"], line["notes"]) == (4, {"version": 2})


def test_a_key_of_before_is_as_good(tmp_path):
    """Where the key was made of something else before, its result is kept, under today's key."""
    with Run(tmp_path).writing():
        pass
    one_step(tmp_path, lambda step: rows("x"), using={"way": "auto"})
    runs, new = Run(tmp_path), {"way": "items"}
    with runs.writing():
        line = runs.step(
            "only",
            killed_work,
            version=1,
            outputs=["failures.parquet"],
            given=1,
            using=new,
            formerly=[(1, {"way": "auto"})],
        )
    assert one_step(tmp_path, killed_work, using=new) == line


def test_work_is_given_what_the_key_is_made_of(tmp_path):
    """What a work is given by name is in the key, as its identity, digest or value; what stands beside it is not."""
    made = []

    def work(step, *, tokenizer, tokens, told):
        made.append((tokenizer.identity, tokens, told))
        return rows("x")

    def make(tokens, told):
        runs, tokenizer = Run(tmp_path), WordTokenizer()
        with runs.writing():
            return runs.make(
                "only",
                work,
                version=1,
                outputs=["failures.parquet"],
                using={"tokenizer": tokenizer, "tokens": tokens},
                beside={"told": told},
            )

    first = make(80, "a")
    assert make(80, "b") == first
    assert make(90, "c")["key"] != first["key"]
    assert made == [("words", 80, "a"), ("words", 90, "c")]
    assert first["key"] == one_key({"tokenizer": "words", "tokens": 80})


def one_key(using):
    """Return the key that a step has whose parts are named by hand."""
    return lineage.key("only", 1, using, None, {})[1]


def test_a_trial_changes_nothing_and_is_taken_over(folder):
    """What a step made in a trial it takes over in the run, byte for byte, and the run is unchanged until then."""
    before, made = contents(folder), []
    runs = run.existing(folder)

    def step(where):
        return where.step(
            "documents",
            lambda step: made.append(1) or {"documents.parquet": documents("new")},
            version=1,
            outputs=["documents.parquet"],
            given="new",
        )

    with runs.writing():
        trial = runs.trial()
        step(trial)
        assert contents(folder) == before
        assert trial.read("documents.parquet")["text"].to_list() == ["new"]
        assert trial.read("questions.parquet").equals(runs.read("questions.parquet"))
        step(runs)
        assert runs.read("documents.parquet")["text"].to_list() == ["new"]
        runs.end_trial()
    assert made == [1]


def documents(text):
    """Return a table of one document."""
    return tables.frame(tables.DOCUMENTS, [{"doc_id": "n", "path": "n.md", "text": text, "pages": []}])


POLLING = """
import sys
from pathlib import Path
from raft.store import run
print("polling", flush=True)
while not Path(sys.argv[2]).exists():
    run.is_locked(Path(sys.argv[1]))
"""


def test_looking_at_a_run_never_refuses_a_build(folder, tmp_path):
    """However often a status asks whether a run is written to, a build that starts beside it is not refused."""
    command = [sys.executable, "-c", POLLING, str(folder), str(tmp_path / "stop")]
    others = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert [other.stdout.readline() for other in others] == ["polling\n"] * 2
        for _ in range(100):
            with Run(folder).writing():
                assert run.is_locked(folder)
        assert [other.poll() for other in others] == [None, None]
    finally:
        (tmp_path / "stop").write_text("")
        for other in others:
            other.communicate()


def test_a_ledger_alone_makes_a_folder_rafts(tmp_path):
    """A folder is known by a ledger in it; another program's database is none, whatever one of its tables is called."""
    for name, tables_of in (("other", ["completions", "users"]), ("mine", ["completions", "embeddings"])):
        (tmp_path / name).mkdir()
        with closing(sqlite3.connect(tmp_path / name / "ledger.sqlite")) as database:
            for table in tables_of:
                database.execute(f"CREATE TABLE {table} (key TEXT)")
    assert not folders.is_ours(tmp_path / "other")
    assert folders.is_foreign(tmp_path / "other" / "ledger.sqlite")
    assert folders.is_ours(tmp_path / "mine")
    assert not folders.is_foreign(tmp_path / "mine" / "ledger.sqlite")


def test_only_drafts_of_rafts_own_are_swept(folder):
    """What a kill left half written goes, and what merely looks like it stays."""
    for name in (".manifest.json.00000017.draft", ".notes.20261101.draft"):
        (folder / name).write_text("x")
    for name in (".plan.chapter1.draft/a.txt", ".lexical-abcd1234/lexical/about.json", ".lexical-chapter1/mine.txt"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("x")
    with Run(folder).writing():
        pass
    left = {path.name for path in folder.glob(".*") if "draft" in path.name or "lexical" in path.name}
    assert left == {".notes.20261101.draft", ".plan.chapter1.draft", ".lexical-chapter1"}


def test_a_pipe_that_is_closed_is_no_fault_of_the_run(tmp_path):
    """Where nobody listens any more, that is passed on as what it is."""
    with pytest.raises(BrokenPipeError), Run(tmp_path / "run").writing():
        raise BrokenPipeError


def test_a_corpus_in_the_place_of_its_run_is_understood(tmp_path, monkeypatch, pristine):
    """Where the corpus is named instead of its run, the error names the run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    with pytest.raises(UsageError) as caught:
        run.existing(Path("docs"))
    assert caught.value.hint == "raft build CORPUS --out docs"
    shutil.copytree(pristine, tmp_path / "runs" / "docs")
    with pytest.raises(UsageError) as caught:
        run.existing(Path("docs"))
    assert caught.value.hint == "the same command with runs/docs, which is one"
