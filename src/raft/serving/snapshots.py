"""What a server answers from: a copy of the run as a finished build left it, which the next build does not change.

Chroma's client sees nothing of what another process writes, and a build changes `index/` in its place. So the server
has the run to itself: files that builds replace by a rename are linked, the index is copied, while no build writes.
When a build has finished, a new copy is made beside the old one, opened, and takes its place between two answers. A
build that was stopped, or whose parts do not belong together, is not taken over.

A server that starts while something writes to the run does not wait for its end, which may be hours away: what answers
rest on is changed in the first minutes of a build, and never by a training. The manifest is written before such a
change and after it, so a copy during which it stayed the same file is whole.
"""

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock, Timeout

from raft import settings
from raft.api import models
from raft.api.asking import LoadedRun
from raft.backends import hub
from raft.errors import DamagedArtifact, RaftError, RunLocked, of_system, typed
from raft.pipeline.build import searched
from raft.protocols import OnEvent
from raft.settings import Settings
from raft.store import artifacts
from raft.store.again import again
from raft.store.run import existing, unchanged

_LINKED = ("documents.parquet", "chunks.parquet", "lexical", "refusal", "retriever")
"""What builds and trainings replace by a rename; the index they change in its place."""
_MAKERS = ("documents", "chunks", "index", "lexical", "refusal", "retriever")
"""Steps that answers depend on."""
_PREFIX = "serving-"
_TRIES = 3  # of opening a copy: another process that opened the run's index meanwhile may have written to it


class Snapshot:
    """A run as a build left it, opened for answers, which several systems give.

    It is there as long as it is the latest, or somebody answers from it.

    Attributes:
        loaded: what the answerers share.
        index: the digest of the index; each answer names it.
        documents: how many there are.
        made: digests of what answers depend on, by the step that made it.
    """

    def __init__(self, folder: Path, loaded: LoadedRun) -> None:
        manifest = loaded.run.manifest
        self.loaded, self._folder = loaded, folder
        self.index = str(manifest["steps"]["index"]["artifacts"]["index"]["digest"])
        self.documents = int(manifest["steps"]["documents"]["artifacts"]["documents.parquet"]["rows"])
        self.made = {name: str(manifest["steps"].get(name, {}).get("artifacts")) for name in _MAKERS}
        self._users, self._latest, self._changing = set[int](), True, Lock()

    def used_by(self, user: object) -> None:
        """Note who answers from it."""
        with self._changing:
            self._users.add(id(user))

    def left_by(self, user: object) -> None:
        """Note that somebody does not any more."""
        with self._changing:
            self._users.discard(id(user))
            unused = not self._users and not self._latest
        if unused:
            self.close()

    def superseded(self) -> None:
        """Note that there is a later one."""
        with self._changing:
            self._latest, unused = False, not self._users
        if unused:
            self.close()

    def close(self) -> None:
        """Let go of the files and delete them."""
        self.loaded.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Snapshots:
    """The copies of one run that one server makes, in `RUN/scratch`; a context manager, which deletes what is left.

    Args:
        run: the run directory.
        model: a model's name that answers; None: the run's student.
        on_event: told "kept" where a build is not taken over, with the reason `why`.
    """

    def __init__(self, run: Path, model: str | None, on_event: OnEvent) -> None:
        self._run, self._model, self._on_event = run, model, on_event
        self._count, self._content = 0, ""
        self._latest: Snapshot | None = None
        self._stamp: tuple[int, int, int] | None = None
        try:
            self._open_home()
        except OSError as error:
            told = of_system(error, where=run)
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                copy = typed(f"{run}-served")
                told.hint = f"cp -r {typed(run)} {copy} && raft serve {copy}   (a server writes to RUN/scratch)"
            raise told from None

    def _open_home(self) -> None:
        scratch = self._run / "scratch"
        scratch.mkdir(exist_ok=True)
        with FileLock(scratch / f"{_PREFIX[:-1]}.lock"):  # one server at a time makes a home, or looks for empty ones
            for left in scratch.glob(f"{_PREFIX}????????"):
                lock = FileLock(left / ".lock", timeout=0)
                try:
                    lock.acquire()
                except (Timeout, OSError):  # its server lives
                    continue
                lock.release()
                shutil.rmtree(left, ignore_errors=True)
            self._home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=scratch))
            self._lock = FileLock(self._home / ".lock", timeout=0)
            self._lock.acquire()

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        shutil.rmtree(self._home, ignore_errors=True)

    def take(self) -> Snapshot:
        """Return the run as it is now, opened, also while a build or a training writes to other parts of it.

        Raises:
            RunLocked: a build is writing what answers rest on.
            RaftError: it was not finished, or cannot be used.
        """
        return self._take(beside=True)

    def _take(self, *, beside: bool) -> Snapshot:
        for left in reversed(range(_TRIES)):
            self._count += 1
            folder = self._home / str(self._count)
            try:
                self._latest = self._taken(folder, beside=beside)
                return self._latest
            except BaseException as error:
                shutil.rmtree(folder, ignore_errors=True)
                if not isinstance(error, RaftError):
                    raise
                if left and str(folder) in str(error.where):
                    continue
                for name in ("what", "where", "hint"):  # nobody shall look for what was deleted again
                    told = getattr(error, name)
                    setattr(error, name, told and str(told).replace(str(folder), str(self._run)))
                raise
        raise AssertionError

    def _taken(self, folder: Path, *, beside: bool) -> Snapshot:
        before = self._latest.loaded if self._latest else None
        chosen, moving = self._copied(folder, beside=beside)
        # what is paid for stays in the run's own ledger
        chosen = chosen.model_copy(update={"ledger": chosen.ledger or self._run / "ledger.sqlite"})
        asked = self._model or chosen.student
        models.check(chosen, asked={asked: models.address_of(asked, chosen)})
        loaded = LoadedRun(existing(folder), chosen, before)
        try:
            loaded.open()
            if moving and not chosen.index.url:
                self._compare(folder, loaded)
            if before is not None and not hub.is_hosted(chosen.index.embedder):
                loaded.search(["What is it about?"], 1)  # the embedder is loaded before it is needed
            return Snapshot(folder, loaded)
        except BaseException:
            loaded.close()
            raise

    def _copied(self, folder: Path, *, beside: bool) -> tuple[Settings, bool]:
        """Copy the run; return its settings, and whether another process was writing, which is refused but `beside`."""
        try:
            with unchanged(self._run):
                return self._copy(folder), False
        except RunLocked as error:
            if not beside:
                raise
            locked = error
        for _ in range(_TRIES):
            stamp = self._stamped()
            try:
                chosen = self._copy(folder)
            except FileNotFoundError:  # it was replaced
                pass
            except (RaftError, OSError) as error:
                if not isinstance(error, RaftError) and stamp == self._stamped():
                    raise
            else:
                if stamp == self._stamped():
                    return chosen, True
            shutil.rmtree(folder, ignore_errors=True)
        raise locked

    def _compare(self, folder: Path, loaded: LoadedRun) -> None:
        """Compare a copied index with what the manifest says: whoever opens the original may write to its files."""
        known = loaded.run.manifest["steps"]["index"]["artifacts"]["index"]["digest"]
        if loaded.index_digest() != known:
            hint = f"wait for the other raft (raft status {typed(self._run)}), then the same command again"
            raise DamagedArtifact("The index changed while it was copied.", where=folder / "index", hint=hint)

    def _copy(self, folder: Path) -> Settings:
        self._stamp = self._stamped()
        run = existing(self._run)
        chosen = settings.of_manifest(run.manifest["settings"], self._run)
        run.require(*searched(chosen))
        self._content, remote = _content(run.manifest), bool(chosen.index.url)
        if not remote and not (self._run / "index" / "chroma.sqlite3").is_file():
            hint = again(self._run, remark="makes it anew")
            raise RaftError("The run has no index.", where=self._run / "index", hint=hint)
        folder.mkdir()
        shutil.copyfile(self._run / "manifest.json", folder / "manifest.json")  # a person may edit it in its place
        for name in _LINKED:
            source = self._run / name
            for path in [source] if source.is_file() else sorted(source.rglob("*")):
                if path.is_file():
                    artifacts.link(path, folder / path.relative_to(self._run))
        if not remote:
            for path in filter(Path.is_file, sorted((self._run / "index").rglob("*"))):
                target = folder / path.relative_to(self._run)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        return chosen

    def look(self) -> Snapshot | None:
        """Return the run as a build has left it that finished since the last look; None where there is nothing new.

        What cannot be taken over is told once, as "kept".
        """
        stamp = self._stamped()
        if stamp == self._stamp:
            return None
        try:
            with unchanged(self._run):
                if _content(existing(self._run).manifest) == self._content:
                    self._stamp = stamp
                    return None
            return self._take(beside=False)
        except RunLocked:  # it will be looked at when it is done
            return None
        except Exception as error:  # whatever it is, what was there before can still be asked
            self._stamp = stamp
            self._on_event("kept", {"why": str(error.what if isinstance(error, RaftError) else error)})
            return None

    def _stamped(self) -> tuple[int, int, int] | None:
        try:
            state = (self._run / "manifest.json").stat()
        except OSError:  # the run was moved away, and may come back
            return None
        return state.st_mtime_ns, state.st_size, state.st_ino


@contextmanager
def told_of_builds(run: Path) -> Iterator[None]:
    """Where a run is found unfinished, say that a build is making it, if one is.

    Raises:
        RunLocked: it is.
    """
    try:
        yield
    except DamagedArtifact as error:
        if str(error.where) != str(run):  # an adapter, say
            raise
        with unchanged(run):
            raise


def _content(manifest: Mapping[str, Any]) -> str:
    """Return a digest of what answers depend on: a benchmark changes the manifest too."""
    steps = manifest["steps"]
    made = {name: steps[name]["artifacts"] for name in _MAKERS if name in steps}
    unfinished = sorted(name for name in made if "unfinished" in steps[name])
    whole = json.dumps([made, unfinished, manifest.get("settings")], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()
