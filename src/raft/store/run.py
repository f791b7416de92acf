"""A run directory: each step happens once per distinct input; artifacts appear whole; the manifest is written last.

A step is named by everything that can change its result: its name and version, the digests of what it reads, its
settings, the digests of its prompts and the identities of its models. When that name and the artifacts' digests
still match the manifest, the step is skipped. Otherwise it writes drafts, which are renamed when they are complete,
and then its line in the manifest, with the digests of what it read: a reader can tell what belongs together.
"""

import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout

from raft.errors import DamagedArtifact, RaftError, RunLocked, UsageError, of_system, typed, unwritable
from raft.store import artifacts, folders, lineage
from raft.store.again import again
from raft.version import __version__

if sys.platform != "win32":
    import fcntl

_TRIES = 30_000
"""How often the lock is tried, a millisecond apart, while nobody is in the way but readers: most share it for an
instant, a server while it copies the index."""


_MINE: list[Path] = []
"""The run directories that this process holds."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run directory, made if missing, for writing; it raises as `Run.writing`."""
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folders.claim(folder)
        _acquire(lock, folder)
    except OSError as error:
        raise unwritable("The run directory", error, folder) from None
    own = folder.resolve()
    _MINE.append(own)
    try:
        yield
    finally:
        _MINE.remove(own)
        lock.release()


def is_written_by_others(folder: Path) -> bool:
    """Tell whether another process is writing to the run directory now."""
    return folder.resolve() not in _MINE and is_locked(folder)


def is_locked(folder: Path) -> bool:
    """Tell whether a process is writing to the run directory now."""
    try:
        with (folder / ".lock").open("rb") as file:
            if sys.platform != "win32":  # there nobody can share a lock, and nobody reads a file that is locked
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            else:
                file.read(1)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return False
    return False


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Keep others from writing to a run directory for a moment: a build that begins meanwhile waits.

    Raises:
        RunLocked: another process is writing.
    """
    try:
        file = (folder / ".lock").open("rb")
    except OSError:  # nobody has ever written there, or it cannot be read, as on Windows while it is locked
        if is_locked(folder):
            raise _in_use(folder) from None
        yield
        return
    with file:
        try:
            if sys.platform != "win32":  # there nobody can share a lock
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            else:
                file.read(1)
        except (BlockingIOError, PermissionError):
            raise _in_use(folder) from None
        yield


_LATER = "when it has finished, the same command again"


def _in_use(folder: Path) -> RunLocked:
    return RunLocked(
        "Another raft is writing to this run directory.",
        where=folder,
        hint=f"wait for it (raft status {typed(folder)}); {_LATER}",
    )


def _acquire(lock: FileLock, folder: Path) -> None:
    for _ in range(_TRIES):
        try:
            lock.acquire()
        except Timeout:
            if is_locked(folder):
                break
            time.sleep(0.001)
        else:
            return
    raise _in_use(folder)


FORMAT = 1
_DRAFTS = "|".join(re.escape(name) for name in folders.TABLES)

Meter = Callable[[], dict[str, float]]
"""Returns running totals (calls, tokens, cost); a step's share is the difference over the step."""

Digest = Callable[[], str | None]
"""Returns the digest of a folder's contents or of a file, or None when it holds nothing or is damaged."""


@dataclass
class Step:
    """What a step's work is given beside its arguments.

    Attributes:
        run: the run, to read what earlier steps made.
        folder: its directory.
        scratch: a folder of the step's own, kept until the step succeeds, the same when it is started again.
        stats: facts about the result for the manifest and the summary (counts per reason, ...); filled by the work.
        reusable: true when the earlier artifacts of this step differ from these in the inputs alone.
    """

    run: "Run"
    folder: Path
    scratch: Path
    reusable: bool
    stats: dict[str, Any] = field(default_factory=dict)

    def previous(
        self, artifact: str, key: Callable[[pl.DataFrame], pl.Series]
    ) -> Callable[[Any], pl.DataFrame | None] | None:
        """Return a look-up into the artifact of the last time, or None when its rows cannot be used again."""
        return artifacts.lookup(self.folder / artifact, key) if self.reusable else None


Work = Callable[[Step], Mapping[str, artifacts.Output]]


class Run:
    """A run directory, made if missing; `meter` returns totals of what models were asked.

    `report` is told a step's name with "begins" when it begins, and "reused" or "made" when it is done.

    Raises:
        UsageError: the folder cannot be made or written to, or was written by a newer raft.
    """

    def __init__(
        self, folder: Path, *, meter: Meter | None = None, report: Callable[[str, str], None] | None = None
    ) -> None:
        self.folder = folder
        self._meter = meter or dict
        self._report = report or (lambda name, state: None)
        self.damage: list[str] = []
        self.manifest: dict[str, Any] = self._open()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the run directory for writing.

        Raises:
            RunLocked: another process holds it.
            UsageError: the folder cannot be made or written to.
        """
        with held(self.folder):
            self.manifest = self._open()
            if self.damage:
                self._save()
            drafts = self.folder / ".drafts"
            folders.clear(drafts, _DRAFTS)
            for left in self.folder.glob(".*"):  # by a kill
                if folders.DRAFT.fullmatch(left.name) and left.is_file():
                    left.unlink()
                elif re.fullmatch(r"\.lexical-[a-z0-9_]{8}", left.name) and left.is_dir():
                    with suppress(UsageError):  # something else of such a name
                        folders.clear(left, r"lexical/[\w.]+")
            try:
                yield
            except BrokenPipeError:  # whoever was told has gone; that is no fault of the run's
                raise
            except OSError as error:
                raise of_system(error, where=self.folder) from error
            finally:
                shutil.rmtree(drafts, ignore_errors=True)

    def step(
        self,
        name: str,
        work: Work,
        *,
        version: int,
        outputs: Sequence[str] | Mapping[str, Digest],
        inputs: Sequence[str] = (),
        using: Mapping[str, Any] | None = None,
        given: Any = None,
        formerly: Sequence[tuple[int, Mapping[str, Any]]] = (),
        settings: Mapping[str, Any] | None = None,
        again: bool = False,
    ) -> dict[str, Any]:
        """Do a step unless it was done; return its line of the manifest.

        A step that is done again and makes the same bytes counts as reused.

        Args:
            name: the step's name.
            work: makes the outputs; it yields frames or lines, and may be lazy.
            version: a number that changes when the step's code changes what it makes.
            outputs: names of the tables it makes; or, for what the work puts in its place itself (a folder that is
                updated, a file that is no table), its name and digest.
            inputs: artifacts of earlier steps that it reads.
            using: settings, prompts and models that can change the result; `lineage.named` says what the key holds.
            given: input that is no artifact (the digests of the corpus' files), as a JSON value.
            formerly: what earlier rafts put into the key in the place of `version` and `using`.
            settings: settings, as they stand in the manifest, that hold for the run once the step is done.
            again: do the step though it was done: this time it may come out otherwise.

        Raises:
            RaftError: what the work raised; drafts are left behind and swept later, nothing else is changed.
        """
        using = dict(using or {})
        read = {artifact: self._digest_of(artifact) for artifact in inputs}
        keys = [lineage.key(name, *one, given, read) for one in ((version, using), *formerly)]
        basis, key = keys[0]
        names = {"key": key, "basis": basis, "inputs": read}
        former, scratch = self._intact(name, outputs), self.folder / "scratch" / f"{name}-{key[:16]}"
        if former is not None and former["key"] in [one for _, one in keys] and not again:
            line = self._record(name, {**former, **names}, settings)
            shutil.rmtree(scratch, ignore_errors=True)  # of a process that died when all was done
            self._report(name, "reused")
            return line
        self._report(name, "begins")
        begun, before = time.monotonic(), self._meter()
        tried = self._tried(name, key)
        if tried is None:
            reusable = former is not None and former["basis"] in [one for one, _ in keys]
            step = Step(self, self.folder, scratch, reusable)
            tried = {
                "artifacts": self._make(name, step, work, outputs),
                "notes": step.stats,
                "seconds": round(time.monotonic() - begun, 3),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        line = tried
        asked = {total: value - before.get(total, 0) for total, value in self._meter().items()}
        compared = ("artifacts",) if line["artifacts"] else ("artifacts", "notes")
        same = former is not None and all(former[one] == line[one] for one in compared)
        if former is not None and same:  # it cost what it did then, and what was asked in vain now
            line = {**former, "notes": line["notes"]}
            new = asked.get("calls", 0) != asked.get("replayed", 0)  # what the ledger has costs nothing again
            asked = {total: former.get(total, 0) + value * new for total, value in asked.items()}
        line = self._record(name, {**line, **names, **asked}, settings)
        for abandoned in (self.folder / "scratch").glob(f"{name}-{'[0-9a-f]' * 16}"):
            shutil.rmtree(abandoned, ignore_errors=True)
        self._report(name, "reused" if same else "made")
        return line

    def make(
        self,
        name: str,
        work: Callable[..., Mapping[str, artifacts.Output]],
        *,
        using: Mapping[str, Any],
        beside: Mapping[str, Any] | None = None,
        **how: Any,
    ) -> dict[str, Any]:
        """Do a step, as `step` does, whose work sees its arguments alone: the step, and `using` and `beside` by name.

        `beside` is what cannot change the result: who is told, the indexes that are among the inputs.
        """
        return self.step(name, lambda step: work(step, **using, **(beside or {})), using=using, **how)

    def trial(self, report: Callable[[str, str], None] | None = None) -> "Run":
        """Return a copy of the run to try steps in; what a step has made there, it takes over here."""
        trial = Run(self._trial, report=report)
        for name, line in self.manifest["steps"].items():
            tried = trial.manifest["steps"].get(name)
            if tried is None or tried.get("finished", "") < line.get("finished", ""):
                for artifact in line["artifacts"]:
                    if (self.folder / artifact).is_file():
                        artifacts.link(self.folder / artifact, trial.folder / artifact)
                trial.manifest["steps"][name] = line
        return trial

    def end_trial(self) -> None:
        """Forget what was tried; a folder of that name that is not raft's stays."""
        if folders.is_ours(self._trial):
            shutil.rmtree(self._trial, ignore_errors=True)

    def require(self, *steps: str) -> None:
        """Check that what these steps made is there, and belongs to all that it was made from.

        Raises:
            DamagedArtifact: it was not finished, or was made from something else than what is there now.
        """
        stale = lineage.stale(self.manifest["steps"])
        unfit = [name for name in steps if name in stale or name not in self.manifest["steps"]]
        if unfit:
            verb = "do" if len(unfit) > 1 else "does"
            if is_written_by_others(self.folder):
                raise DamagedArtifact(
                    f"A build is running here, and {', '.join(unfit)} {verb} not belong to what is there yet.",
                    where=self.folder,
                    hint=f"raft status {typed(self.folder)}   (says how far it is; {_LATER})",
                )
            raise DamagedArtifact(
                f"A build of this run was not finished: {', '.join(unfit)} {verb} not belong to what is there.",
                where=self.folder,
                hint=again(self.folder, remark=f"raft status {typed(self.folder)} tells more"),
            )

    def describe(self, **facts: Any) -> None:
        """Record facts about the whole run (settings, corpus) in the manifest."""
        if any(self.manifest.get(name) != value for name, value in facts.items()):
            self.manifest.update(facts)
            self._save()

    def read(self, artifact: str) -> pl.DataFrame:
        """Return a table of the run; it raises as `artifacts.read`."""
        return artifacts.read(self.folder / artifact)

    def stream(self, artifact: str, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield a parquet table of the run in pieces of some megabytes."""
        return artifacts.stream(self.folder / artifact, columns)

    def _record(self, name: str, line: dict[str, Any], settings: Mapping[str, Any] | None) -> dict[str, Any]:
        told = self.manifest.get("settings")
        if settings is not None:
            line["settings"] = dict(settings)
            if told is not None:
                told = {**told, **{part: _laid(told.get(part), value) for part, value in settings.items()}}
        if self.manifest["steps"].get(name) != line or self.manifest.get("settings") != told:
            self.manifest["steps"][name] = line
            self.manifest.update({} if told is None else {"settings": told})
            self._save()
        return dict(line)

    def _tried(self, name: str, key: str) -> dict[str, Any] | None:
        # what a trial has made under this key, if it is whole
        line = Run(self._trial).manifest["steps"].get(name)
        if line is None or line["key"] != key:
            return None
        for artifact, entry in line["artifacts"].items():
            path = self._trial / artifact
            if not path.is_file() or artifacts.digest(path) != entry["digest"]:
                return None
        self._mark(name, line["artifacts"])
        for artifact in line["artifacts"]:
            artifacts.link(self._trial / artifact, self.folder / artifact)
        return dict(line)

    def _make(
        self, name: str, step: Step, work: Work, outputs: Sequence[str] | Mapping[str, Digest]
    ) -> dict[str, dict[str, Any]]:
        if isinstance(outputs, Mapping):
            self._mark(name, {artifact: {"digest": None} for artifact in outputs})  # changed in its place
            work(step)
            made = {artifact: {"digest": digest()} for artifact, digest in outputs.items()}
            for artifact, entry in made.items():
                if entry["digest"] is None:
                    hint = "run the same command again: what is damaged is made anew"
                    raise DamagedArtifact("A step's result came out empty.", where=self.folder / artifact, hint=hint)
            return made
        drafts = self.folder / ".drafts"
        drafts.mkdir(parents=True, exist_ok=True)
        produced = work(step)
        rows = {one: artifacts.write(drafts / one, produced[one]) for one in outputs}
        tables = {one: {"digest": artifacts.digest(drafts / one), "rows": rows[one]} for one in outputs}
        self._mark(name, tables)
        for artifact in outputs:
            (drafts / artifact).replace(self.folder / artifact)
        return tables

    def _mark(self, name: str, made: Mapping[str, Mapping[str, Any]]) -> None:
        # cut off between its files and its line, the step would be neither old nor new, and nobody could tell
        line = self.manifest["steps"].get(name)
        if line is not None and any(
            line["artifacts"].get(one, {}).get("digest") != entry["digest"] for one, entry in made.items()
        ):
            self.manifest["steps"][name] = {**line, "unfinished": True}
            self._save()

    def _intact(self, step: str, outputs: Sequence[str] | Mapping[str, Digest]) -> dict[str, Any] | None:
        line = self.manifest["steps"].get(step)
        if line is None or "unfinished" in line:
            return None
        for name in outputs:
            expected = line["artifacts"].get(name, {}).get("digest")
            if isinstance(outputs, Mapping):
                found = outputs[name]()
            else:
                path = self.folder / name
                found = artifacts.digest(path) if path.is_file() else None
            if expected is None or found != expected:
                return None
        return dict(line)

    def _digest_of(self, artifact: str) -> str:
        for line in self.manifest["steps"].values():
            if artifact in line["artifacts"]:
                return str(line["artifacts"][artifact]["digest"])
        raise RaftError(f"No step has made {artifact} yet.", where=self.folder, hint=again(self.folder))

    @property
    def _trial(self) -> Path:
        return self.folder / "scratch" / "trial"

    def _open(self) -> dict[str, Any]:
        path = self.folder / "manifest.json"
        empty = {"format": FORMAT, "raft": __version__, "steps": {}}
        try:
            manifest = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
            manifest = None
        except OSError as error:
            hint = f"ls -ld {typed(path)}   (it must be a file that you may read)"
            raise UsageError(f"The manifest cannot be read: {error.strerror}.", where=path, hint=hint) from None
        if not isinstance(manifest, dict) or "format" not in manifest:
            return empty  # nothing is lost: the artifacts are compared with what is built anew from the ledger
        if manifest["format"] != FORMAT:  # before anything else in it, which may have any shape
            raise UsageError(
                f"This run directory has format {manifest['format']}; this raft reads format {FORMAT}.",
                where=path,
                hint="pip install --upgrade raft-pipeline, or choose another --out",
            )
        found = lineage.damaged(manifest)
        self.damage = [*dict.fromkeys(".".join(place[: 2 + (place[0] == "steps")]) for place in found)]
        for fact, *within in found:  # what goes counts as lost, as all else would without the file
            if fact == "steps" and within and isinstance(manifest["steps"], dict):
                manifest["steps"].pop(within[0], None)
            else:
                manifest.pop(fact, None)
        return {**empty, **manifest}

    def _save(self) -> None:
        self.manifest["raft"] = __version__
        artifacts.atomically(self.folder / "manifest.json", json.dumps(self.manifest, indent=1, sort_keys=True) + "\n")


def existing(folder: Path) -> Run:
    """Open a run directory that must exist.

    Raises:
        UsageError: there is no run directory at `folder`, or its path is not UTF-8.
        DamagedArtifact: its manifest holds something else than what belongs there.
    """
    folders.check_name(folder)
    if not (folder / "manifest.json").is_file() or not folders.is_ours(folder):
        hint, near = again(folder), Path("runs", folder.name)
        if near != folder and (near / "manifest.json").is_file():  # the corpus was named in its place
            hint = f"the same command with {typed(near)}, which is one"
        raise UsageError("There is no run directory here.", where=folder, hint=hint)
    run = Run(folder)
    if run.damage:
        what = f"The manifest is damaged: something else stands in the place of {', '.join(run.damage[:3])}."
        hint = again(folder, remark="makes anew what is not intact")
        raise DamagedArtifact(what, where=folder / "manifest.json", hint=hint)
    return run


def _laid(under: Any, over: Any) -> Any:
    return {**under, **over} if isinstance(under, dict) and isinstance(over, dict) else over
