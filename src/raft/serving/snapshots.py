"""What a server answers from: a copy of the run as a finished build left it, which the next build does not change.

Chroma's client sees nothing of what another process writes, and a build changes `index/` in its place. So the server
has the run to itself: files that builds replace by a rename are linked, the index is copied, while no build writes.
When a build has finished, a new copy is made beside the old one, opened, and takes its place between two answers. A
build that was stopped, or whose parts do not belong together, is not taken over.
"""

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

from filelock import FileLock, Timeout

from raft import settings
from raft.api import models
from raft.api.asking import BASE, Answerer, LoadedRun
from raft.api.run import Built
from raft.backends import hub
from raft.errors import RaftError, RunLocked, of_system, typed
from raft.pipeline.build import searched
from raft.protocols import OnEvent
from raft.store import adapters, artifacts
from raft.store.again import again
from raft.store.run import existing, unchanged

_LINKED = ("documents.parquet", "chunks.parquet", "lexical", "refusal", "retriever")
"""What builds and trainings replace by a rename; the index they change in its place."""
_MAKERS = ("documents", "chunks", "index", "lexical", "refusal", "retriever")
"""Steps that answers depend on."""
_PREFIX = "serving-"
_SECONDS = 1.0  # between two looks at the manifest
_TRIES = 3  # of opening a copy: another process that opened the run's index meanwhile may have written to it


class Snapshot:
    """A run as a build left it, opened for answers.

    Attributes:
        answerer: answers from it, with the server's model and adapter.
        index: the digest of the index; each answer names it.
        system: what answers, as benchmarks name it: "raft" with an adapter, else "rag".
        adapter_digest: of the adapter's weights; None without one.
        longest: most tokens of an answer.
        batch: how many questions are answered together.
    """

    def __init__(self, folder: Path, answerer: Answerer, loaded: LoadedRun, adapter_digest: str | None) -> None:
        manifest = loaded.run.manifest
        self.answerer, self.loaded, self._folder = answerer, loaded, folder
        self.index = str(manifest["steps"]["index"]["artifacts"]["index"]["digest"])
        self.documents = int(manifest["steps"]["documents"]["artifacts"]["documents.parquet"]["rows"])
        self.adapter_digest, self.system = adapter_digest, "raft" if answerer.adapter else "rag"
        self.longest = loaded.settings.answering.max_tokens
        hosted = hub.is_hosted(answerer.model)
        self.batch = loaded.settings.generator.concurrency if hosted else loaded.settings.answering.batch

    def warm(self) -> None:
        """Load the models now."""
        self.answerer.warm()

    def close(self) -> None:
        """Let go of the files and delete them."""
        self.loaded.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Snapshots:
    """The copies of one run that one server makes, in `RUN/scratch`; a context manager, which deletes what is left.

    Args:
        run: the run directory.
        model: a model's name; None: the run's student.
        adapter: an adapter's id or the beginning of it, or "none"; None: the current one, unless `model` is given. It
            stays the same whatever is trained later.
        on_event: as for `Answerer`; and told "kept" where a build is not taken over, with the reason `why`.

    Attributes:
        remarks: what a person should know before the first answer.
        name: the run's.

    Raises:
        RaftError: as `raft.load(run).ask` has it.
    """

    def __init__(self, run: Path | str, model: str | None, adapter: str | None, on_event: OnEvent) -> None:
        built = Built(run)
        answerer = built.answerer(model=model, adapter=adapter)
        self.name, self.remarks = built.folder.resolve().name or "raft", answerer.remarks
        self._run, self._model, self._on_event = built.folder, model, on_event
        found = (
            adapters.find(built.folder, answerer.adapter if adapter is None else adapter) if answerer.adapter else None
        )
        self._adapter = found.resolve() if found else None
        self._digest = adapters.digest(found) if found else None
        self._count, self._content = 0, ""
        self._latest: Snapshot | None = None
        self._stamp: tuple[int, int, int] | None = None
        try:
            self._open_home()
        except OSError as error:
            told = of_system(error, where=built.folder)
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                copy = typed(f"{built.folder}-served")
                told.hint = (
                    f"cp -r {typed(built.folder)} {copy} && raft serve {copy}   (a server writes to RUN/scratch)"
                )
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
        """Return the run as it is now, opened.

        Raises:
            RunLocked: a build is writing.
            RaftError: it was not finished, or cannot be used.
        """
        for left in reversed(range(_TRIES)):
            self._count += 1
            folder = self._home / str(self._count)
            try:
                self._latest = self._taken(folder)
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

    def _taken(self, folder: Path) -> Snapshot:
        before = self._latest.loaded if self._latest else None
        with unchanged(self._run):
            self._stamp = self._stamped()
            run = existing(self._run)
            chosen = settings.of_manifest(run.manifest["settings"], self._run)
            run.require(*searched(chosen))
            self._copy(folder, remote=bool(chosen.index.url))
            self._content = _content(run.manifest)
        # what is paid for stays in the run's own ledger
        chosen = chosen.model_copy(update={"ledger": chosen.ledger or self._run / "ledger.sqlite"})
        asked = self._model or chosen.student
        models.check(chosen, asked={asked: models.address_of(asked, chosen)})
        loaded = LoadedRun(existing(folder), chosen, before)
        try:
            adapter = str(self._adapter) if self._adapter else BASE
            loaded.open()
            answerer = Answerer(loaded, self._model, adapter, self._on_event)
            if before is not None and not hub.is_hosted(chosen.index.embedder):
                loaded.search(["What is it about?"], 1)  # the embedder is loaded before it is needed
            return Snapshot(folder, answerer, loaded, self._digest)
        except BaseException:
            loaded.close()
            raise

    def _copy(self, folder: Path, *, remote: bool) -> None:
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
            shutil.copytree(self._run / "index", folder / "index")

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
            return self.take()
        except RunLocked:  # it will be looked at when it is done
            return None
        except Exception as error:  # whatever it is, what was there before can still be asked
            self._stamp = stamp
            self._on_event("kept", {"why": str(error.what if isinstance(error, RaftError) else error)})
            return None

    def watch(self, ended: Event, found: Any) -> None:
        """Look every second, until `ended` is set; `found` is told each new snapshot."""
        while not ended.wait(_SECONDS):
            snapshot = self.look()
            if snapshot is not None:
                found(snapshot)

    def _stamped(self) -> tuple[int, int, int] | None:
        try:
            state = (self._run / "manifest.json").stat()
        except OSError:  # the run was moved away, and may come back
            return None
        return state.st_mtime_ns, state.st_size, state.st_ino


def _content(manifest: Mapping[str, Any]) -> str:
    """Return a digest of what answers depend on: a benchmark changes the manifest too."""
    steps = manifest["steps"]
    made = {name: steps[name]["artifacts"] for name in _MAKERS if name in steps}
    unfinished = sorted(name for name in made if "unfinished" in steps[name])
    whole = json.dumps([made, unfinished, manifest.get("settings")], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()
