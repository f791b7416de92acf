"""A run directory: each step happens once per distinct input; artifacts appear whole; the manifest is written last.

A step is named by everything that can change its result: its name and version, the digests of what it reads, its
settings, the digests of its prompts and the identities of its models. When that name and the artifacts' digests
still match the manifest, the step is skipped. Otherwise it writes drafts, which are renamed when they are complete,
and then its line in the manifest.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout

from raft import artifacts
from raft.errors import DamagedArtifact, RaftError, RunLocked, UsageError
from raft.version import __version__

FORMAT = 1

Meter = Callable[[], dict[str, float]]
"""Returns running totals (calls, tokens, cost); a step's share is the difference over the step."""

Digest = Callable[[], str | None]
"""Returns the digest of a folder's contents or of a file, or None when it holds nothing or is damaged."""


@dataclass
class Step:
    """What a step's work is given.

    Attributes:
        folder: the run directory.
        scratch: a folder of the step's own, kept until the step succeeds, the same when it is started again.
        notes: facts about the result for the manifest and the summary (counts per reason, ...); filled by the work.
        reusable: true when the earlier artifacts of this step differ from these in the inputs alone.
    """

    folder: Path
    scratch: Path
    reusable: bool
    notes: dict[str, Any] = field(default_factory=dict)

    def previous(
        self, artifact: str, key: Callable[[pl.DataFrame], pl.Series]
    ) -> Callable[[Any], pl.DataFrame | None] | None:
        """Return a look-up into the artifact of the last time, or None when its rows cannot be used again."""
        return artifacts.lookup(self.folder / artifact, key) if self.reusable else None


Work = Callable[[Step], Mapping[str, artifacts.Output]]


class Run:
    """A run directory, made if missing.

    Args:
        folder: where it lies.
        meter: totals of what models were asked.
        report: told "step", name and "reused" or "made" when a step is done, "begins" when it begins.

    Raises:
        UsageError: the folder cannot be made or written to, or was written by a newer raft.
    """

    def __init__(
        self, folder: Path, *, meter: Meter | None = None, report: Callable[[str, str], None] | None = None
    ) -> None:
        self.folder = folder
        self._meter = meter or dict
        self._report = report or (lambda name, state: None)
        self.manifest: dict[str, Any] = self._open()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the run directory for writing.

        Raises:
            RunLocked: another process holds it.
            UsageError: the folder cannot be made or written to.
        """
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise RunLocked(
                "Another raft is writing to this run directory.",
                where=self.folder,
                hint=f"wait for it (raft status {self.folder}), or choose another --out",
            ) from None
        except OSError as error:
            raise UsageError(
                f"The run directory cannot be written to: {error.strerror or error}.",
                where=error.filename or self.folder,
                hint="choose another folder with --out",
            ) from None
        try:
            self.manifest = self._open()
            self._sweep()
            yield
        finally:
            self._sweep()
            lock.release()

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
    ) -> dict[str, Any]:
        """Do a step unless it was done; return its line of the manifest.

        Args:
            name: the step's name.
            work: makes the outputs; it yields frames or lines, and may be lazy.
            version: a number that changes when the step's code changes what it makes.
            outputs: names of the tables it makes; or, for what the work puts in its place itself (a folder that is
                updated, a file that is no table), its name and digest.
            inputs: artifacts of earlier steps that it reads.
            using: settings, prompts and models that can change the result, as JSON values.
            given: input that is no artifact (the digests of the corpus' files), as a JSON value.

        Raises:
            RaftError: what the work raised; drafts are left behind and swept later, nothing else is changed.
        """
        basis = _digest({"step": name, "version": version, "using": dict(using or {})})
        key = _digest(
            {"basis": basis, "given": given, "inputs": {artifact: self._digest_of(artifact) for artifact in inputs}}
        )
        done = self.manifest["steps"].get(name)
        intact = done is not None and self._intact(done, outputs)
        if done is not None and done["key"] == key and intact:
            self._report(name, "reused")
            return dict(done)
        self._report(name, "begins")
        begun, before = time.monotonic(), self._meter()
        step = Step(self.folder, self._scratch(name, key), intact and done is not None and done["basis"] == basis)
        made = self._make(step, work, outputs)
        line = {
            "key": key,
            "basis": basis,
            "artifacts": made,
            "notes": step.notes,
            "seconds": round(time.monotonic() - begun, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **{name: value - before.get(name, 0) for name, value in self._meter().items()},
        }
        self.manifest["steps"][name] = line
        self._save()
        for abandoned in (self.folder / "scratch").glob(f"{name}-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        self._report(name, "made")
        return line

    def describe(self, **facts: Any) -> None:
        """Record facts about the whole run (settings, corpus) in the manifest."""
        if any(self.manifest.get(name) != value for name, value in facts.items()):
            self.manifest.update(facts)
            self._save()

    def read(self, artifact: str) -> pl.DataFrame:
        """Return a table of the run.

        Raises:
            DamagedArtifact: it is missing or damaged.
        """
        return artifacts.read(self.folder / artifact)

    def stream(self, artifact: str, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield a parquet table of the run in pieces of some megabytes."""
        return artifacts.stream(self.folder / artifact, columns)

    def _make(self, step: Step, work: Work, outputs: Sequence[str] | Mapping[str, Digest]) -> dict[str, dict[str, Any]]:
        if isinstance(outputs, Mapping):
            work(step)
            made = {name: {"digest": digest()} for name, digest in outputs.items()}
            for name, entry in made.items():
                if entry["digest"] is None:
                    raise DamagedArtifact("A step's result came out empty or damaged.", where=self.folder / name)
            return made
        drafts = self.folder / ".drafts"
        drafts.mkdir(parents=True, exist_ok=True)
        produced = work(step)
        rows = {name: artifacts.write(drafts / name, produced[name]) for name in outputs}
        for name in outputs:
            (drafts / name).replace(self.folder / name)
        return {name: {"digest": artifacts.digest(self.folder / name), "rows": rows[name]} for name in outputs}

    def _intact(self, done: Mapping[str, Any], outputs: Sequence[str] | Mapping[str, Digest]) -> bool:
        for name in outputs:
            expected = done["artifacts"].get(name, {}).get("digest")
            if isinstance(outputs, Mapping):
                found = outputs[name]()
            else:
                path = self.folder / name
                found = artifacts.digest(path) if path.is_file() else None
            if expected is None or found != expected:
                return False
        return True

    def _digest_of(self, artifact: str) -> str:
        for line in self.manifest["steps"].values():
            if artifact in line["artifacts"]:
                return str(line["artifacts"][artifact]["digest"])
        raise RaftError(f"No step has made {artifact} yet.", where=self.folder, hint="raft build CORPUS")

    def _scratch(self, name: str, key: str) -> Path:
        return self.folder / "scratch" / f"{name}-{key[:16]}"

    def _sweep(self) -> None:
        shutil.rmtree(self.folder / ".drafts", ignore_errors=True)

    def _open(self) -> dict[str, Any]:
        path = self.folder / "manifest.json"
        empty = {"format": FORMAT, "raft": __version__, "steps": {}}
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            manifest["steps"] = {name: line for name, line in manifest["steps"].items() if _is_line(line)}
        except (FileNotFoundError, NotADirectoryError):
            return empty
        except (ValueError, KeyError, TypeError, AttributeError):
            # Nothing is lost: the artifacts are compared with what is built anew from the ledger.
            return empty
        except OSError as error:
            raise UsageError(f"The manifest cannot be read: {error.strerror}.", where=path) from None
        if manifest.get("format") != FORMAT:
            raise UsageError(
                f"This run directory has format {manifest.get('format')}; this raft reads format {FORMAT}.",
                where=path,
                hint="pip install --upgrade raft-pipeline, or choose another --out",
            )
        return dict(manifest)

    def _save(self) -> None:
        self.manifest["raft"] = __version__
        artifacts.atomically(self.folder / "manifest.json", json.dumps(self.manifest, indent=1, sort_keys=True) + "\n")


def existing(folder: Path) -> Run:
    """Open a run directory that must exist.

    Raises:
        UsageError: there is no run directory at `folder`.
    """
    if not (folder / "manifest.json").is_file():
        raise UsageError("There is no run directory here.", where=folder, hint=f"raft build CORPUS --out {folder}")
    return Run(folder)


def is_locked(folder: Path) -> bool:
    """Tell whether a process is writing to the run directory now."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def _is_line(line: Any) -> bool:
    entries = line.get("artifacts") if isinstance(line, dict) else None
    whole = isinstance(entries, dict) and all(isinstance(e, dict) and "digest" in e for e in entries.values())
    return whole and "key" in line and "basis" in line


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
