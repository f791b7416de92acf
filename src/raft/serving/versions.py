"""Which versions a server answers with: what the registry says, opened over the latest snapshot of the run.

Production, candidate, what was in production before and plain RAG are kept loaded, so that to go from one to another
takes no loading; the adapters of a run share its base model. A version that cannot be opened (its files changed, it was
made for another base) changes nothing: what answered before goes on. A model of its own (`merged`, `4bit`), and an
adapter at a vLLM, is loaded beside, while others answer.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event, RLock, Thread
from time import monotonic

from raft.api.asking import BASE, Answerer
from raft.api.run import Built
from raft.backends import hub
from raft.backends.hosted import lora
from raft.errors import RaftError, UsageError, me, pasted, typed
from raft.protocols import OnEvent
from raft.serving.engine import Source, Sources
from raft.serving.snapshots import Snapshot, Snapshots, told_of_builds
from raft.store import adapters, registry
from raft.store.fitness import PLAIN, Version, whole
from raft.store.registry import Standing

LOOK = 0.25
"""Seconds between two looks at the registry."""
_LOOK_FOR_BUILDS = 1.0
_ENGINE_AGAIN = 5.0
"""Seconds after which an engine that could not be reached, or did not load an adapter, is asked to again."""
_ALONE = ("merged", "4bit")
Offer = Callable[[Sources], None]


class Voice:
    """A version that answers from a snapshot, as the engine asks it (`engine.Source`).

    Attributes:
        answerer: answers from the snapshot.
        version: what the registry calls it; "" where it knows nothing of it.
        index: the digest of the index; each answer names it.
        system: what answers, as benchmarks name it: "rag" for plain RAG, else "raft".
        adapter_digest: of the adapter's weights, or of the model that was made with it; None for plain RAG.
        longest: most tokens of an answer.
        batch: how many questions are answered together.
        aside: whether each of them is asked in a thread of its own: a vLLM makes batches itself, and paces nobody.
        snapshot: what it answers from.
    """

    def __init__(self, snapshot: Snapshot, answerer: Answerer, version: Version, users: Counter[str]) -> None:
        settings = snapshot.loaded.settings
        self.snapshot, self.answerer, self.version, self._users = snapshot, answerer, version.id, users
        self.index, self.adapter_digest = snapshot.index, version.digest or None
        self.system, self.longest = "raft" if version.kind != "rag" else "rag", settings.answering.max_tokens
        self.batch = settings.generator.concurrency if hub.is_hosted(answerer.model) else settings.answering.batch
        paced = settings.generator.requests_per_minute or settings.generator.tokens_per_minute
        self.aside = lora.takes_adapters(answerer.model) and hub.is_hosted(answerer.model) and not paced
        self.alone = version.kind in _ALONE
        self._warm = False

    @property
    def ready(self) -> bool:
        """Whether it can answer without a loading that others would have to wait for."""
        return self.snapshot.loaded.holds(self.answerer.model) if self.alone else self.answerer.ready

    def warm(self) -> None:
        """Load the models now; nothing where they are."""
        if not self._warm:
            self._warm = True
            self.snapshot.used_by(self)
            self._users[self.answerer.model] += 1
            self.answerer.warm()

    def close(self) -> None:
        """Let go of what nobody else uses."""
        if self._warm:
            self._warm = False
            self._users[self.answerer.model] -= 1
            if self.alone and not self._users[self.answerer.model]:
                self.snapshot.loaded.forget(self.answerer.model)
            self.snapshot.left_by(self)


class Versions:
    """The versions of one run that one server answers with; a context manager.

    Args:
        run: the run directory.
        model: a model's name; None: the run's student. A vLLM answers in its place with all versions that are
            adapters; where it is any other, the registry is not looked at.
        adapter: an adapter's id or the beginning of it, or "none". Where it is given, the registry is not looked at;
            where nothing is in production there, the adapter is that which is current now.
        on_event: as for `Answerer`; and told "kept" with the reason `why` where a build is not taken over, or, with a
            `version`, where that cannot answer; "changed" with the new `standing` of the registry.

    Attributes:
        name: the run's.
        remarks: what a person should know before the first answer.
        snapshot: the run as the latest build left it, once `take` has been called.
        standing: what the registry said last; none of it where it is not looked at.
        pinned: whether it is not looked at.

    Raises:
        RaftError: as `raft.load(run).ask` and `registry.standing` have it; or what is in production cannot answer.
    """

    def __init__(self, run: Path | str, model: str | None, adapter: str | None, on_event: OnEvent) -> None:
        built = Built(run)
        self._run, self._model, self._on_event = built.folder, model, on_event
        self.name = built.folder.resolve().name or "raft"
        self._at_engine = model is not None and hub.is_hosted(model) and lora.takes_adapters(model)
        self.pinned = adapter is not None or (model is not None and not self._at_engine)
        self.standing = Standing() if self.pinned else registry.standing(self._run)
        try:
            with told_of_builds(self._run):
                answerer = self._first(built, adapter)
        except RaftError as error:
            if self._at_engine and not self.pinned:
                alone = (
                    f"raft serve {typed(run)} --model {typed(model)} --adapter none   (the base model, come what may)"
                )
                error.hint = f"{pasted(error.hint or '')}\n  or:    {pasted(alone)}"
            raise
        self.remarks = (*answerer.remarks, *self._said())
        self._snapshots = Snapshots(self._run, model, on_event)
        self.snapshot: Snapshot
        self._voices: dict[tuple[str, str], Voice] = {}
        self._unfit, self._told = set[tuple[str, str]](), dict[tuple[str, str], str]()
        self._users, self._loading = Counter[str](), set[tuple[str, str]]()
        self._due: dict[tuple[str, str], float] = {}
        self._now = self._former = self._usual
        self._lock, self._stale, self.wake = RLock(), False, Event()

    def _first(self, built: Built, adapter: str | None) -> Answerer:
        """Note what answers at first, and return it as it was opened to see whether it can."""
        if self.standing.production is not None:
            self._usual = self.standing.production
            chosen, adapter = self._parts(self._usual)
            return built.answerer(model=chosen, adapter=adapter)
        any_yet = adapters.current(self._run) or adapters.listed(self._run)
        if self._at_engine and adapter is None and any_yet:
            adapter = adapters.find(self._run).name
        answerer = built.answerer(model=self._model, adapter=adapter)
        self._usual = self._given(answerer, adapter)
        return answerer

    def _given(self, answerer: Answerer, adapter: str | None) -> Version:
        """Return what answers where nothing is in production; it stays the same whatever is trained later."""
        if answerer.adapter is None:
            known = self._model is None or not self.pinned
            return Version(PLAIN if known else "", "rag", answerer.model, None, "", None)
        found = adapters.find(self._run, answerer.adapter if adapter is None else adapter).resolve()
        return Version(found.name, "adapter", answerer.model, found.name, adapters.digest(found) or "", str(found))

    def _said(self) -> list[str]:
        if self.pinned and registry.standing(self._run).revision:
            given = "--adapter" if self._model is None or self._at_engine else "--model"
            return [f"{given} is given: the registry is not looked at, and no candidate answers"]
        return []

    def __enter__(self) -> "Versions":
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "snapshot"):
            self.snapshot.close()
        self._snapshots.__exit__()

    def take(self) -> Sources:
        """Return what answers first.

        Raises:
            RunLocked: a build is writing what answers rest on.
            RaftError: the run was not finished, or cannot be used.
        """
        self.snapshot = self._snapshots.take()
        production = self._voice(self._usual)
        others = self._others(self.standing, production, patient=True)
        return Sources(production, *others, follows=not self.pinned)

    def refresh(self, offer: Offer) -> Snapshot | None:
        """Where a build has finished since the last look, offer to answer from it, and return it."""
        found = self._snapshots.look()
        if found is None:
            return None
        with self._lock:
            former, self.snapshot = self.snapshot, found
            kept, self._voices = self._voices, {}
            self._forgive()
            if not self._offer(self.standing, offer):
                self.snapshot, self._voices = former, kept
                found.superseded()
                return None
        former.superseded()
        return found

    def look(self, offer: Offer) -> bool:
        """Where the registry has changed since the last look, offer what it says, and tell whether it has."""
        if self.pinned:
            return False
        with self._lock:  # reading too: of two looks at once the later one knows more
            try:
                found = registry.standing(self._run)
            except Exception as error:  # whatever it is, what was there before goes on
                self._tell_once(("", ""), error)
                return False
            self._told.pop(("", ""), None)
            changed = found.revision != self.standing.revision
            due = [key for key, at in list(self._due.items()) if at <= monotonic()]
            if not changed and not self._stale and not due:
                return False
            if changed:
                self._forgive()
            for key in due:
                self._due.pop(key, None)
                self._unfit.discard(key)
            self._stale, self.standing = False, found
            try:
                self._offer(found, offer)
            except BaseException:
                self._stale = True  # the shares and the guard may not know of it yet
                raise
        if changed:
            self._on_event("changed", {"standing": found})
        return True

    def watch(self, ended: Event, offer: Offer, built: Callable[[Snapshot, list[str]], None]) -> list[Thread]:
        """Look at the registry, and for builds, until `ended` is set, in two threads: to copy an index takes its time.

        `built` is told each build that was taken over, and which steps made something else; `wake`, when set, makes for
        a look at once.
        """

        def registry() -> None:
            self.wake.wait(LOOK)
            self.wake.clear()
            self.look(offer)

        def builds() -> None:
            if ended.wait(_LOOK_FOR_BUILDS):
                return
            before, found = self.snapshot.made, self.refresh(offer)
            if found is not None:
                built(found, [name for name, made in found.made.items() if made != before[name]])

        def going(look: Callable[[], None]) -> None:
            while not ended.is_set():
                try:
                    look()
                except Exception as error:  # whatever it is, the next look may do
                    self._on_event("stumbled", {"error": error})
                    ended.wait(LOOK)

        threads = [
            Thread(target=going, args=(one,), name=f"raft-{one.__name__}", daemon=True) for one in (registry, builds)
        ]
        for thread in threads:
            thread.start()
        return threads

    def unfit(self, source: Source, error: Exception) -> None:
        """Note that a version could not be loaded, so that it is not offered again as it is."""
        with self._lock:
            if source.version == self._now.id:
                self._now = self._former
            self._tell_once((source.version, source.adapter_digest or ""), error)
        self._again()

    def _again(self) -> None:
        self._stale = True
        self.wake.set()

    def _offer(self, standing: Standing, offer: Offer) -> bool:
        """Offer what a standing says; where its production cannot answer, the one of before goes on."""
        production = self._fit(standing.production or self._usual) or self._fit(self._now)
        if production is None:
            return False
        wanted_now = standing.production or self._usual
        if wanted_now != self._now and wanted_now.id == production.version:
            self._former, self._now = self._now, wanted_now
        sources = Sources(production, *self._others(standing, production), follows=not self.pinned)
        wanted = {one.answerer.model for one in sources.each() if isinstance(one, Voice)}
        loading = {one.answerer.model for key, one in self._voices.items() if key in self._loading}
        for model in [one.answerer.model for one in self._voices.values() if one.alone]:
            if model not in wanted | loading and not self._users[model]:
                production.snapshot.loaded.forget(model)
        offer(sources)
        return True

    def _others(
        self, standing: Standing, production: Voice, *, patient: bool = False
    ) -> tuple[Voice | None, tuple[Voice, ...]]:
        """Return the candidate, and what is kept loaded beside."""
        candidate = self._fit(standing.candidate, patient=patient) if standing.candidate else None
        if candidate is production:
            candidate = None
        plain = Version(PLAIN, "rag", production.answerer.model, None, "", None)
        wanted = [one for one in (standing.previous, plain) if one and standing.revision]
        kept = [self._fit(one, patient=patient, quiet=True) for one in wanted]
        return candidate, tuple(one for one in kept if one is not None)

    def _fit(self, version: Version, *, patient: bool = False, quiet: bool = False) -> Voice | None:
        """Return a version that can answer now, else None; why it cannot is told once, unless nobody is to meet it."""
        key = version.id, version.digest
        if key in self._unfit:
            return None
        try:
            voice = self._voice(version)
            if patient and not voice.alone and not voice.ready:
                voice.answerer.load()
        except Exception as error:
            if not quiet:
                self._failed(key, error)
            return None
        if voice.ready or (patient and voice.alone):
            return voice
        if key not in self._loading:
            self._loading.add(key)
            Thread(target=self._load, args=(voice, key), name="raft-load", daemon=True).start()
        return None

    def _load(self, voice: Voice, key: tuple[str, str]) -> None:
        try:
            voice.answerer.load()
        except Exception as error:
            self._failed(key, error)
        finally:
            self._loading.discard(key)
            self._again()

    def _failed(self, key: tuple[str, str], error: Exception) -> None:
        self._tell_once(key, error)
        if self._at_engine and type(error) is RaftError:  # the engine is away, say: that passes
            self._due[key] = monotonic() + _ENGINE_AGAIN

    def _forgive(self) -> None:
        """Have each version tried again that could not answer."""
        self._unfit, self._told, self._due = set(), {}, {}

    def _voice(self, version: Version) -> Voice:
        key = version.id, version.digest
        if key not in self._voices:
            answerer = Answerer(self.snapshot.loaded, *self._parts(version), self._on_event, later=True)
            self._voices[key] = Voice(self.snapshot, answerer, version, self._users)
        return self._voices[key]

    def _parts(self, version: Version) -> tuple[str | None, str]:
        place = self._place(version)
        if version.kind in _ALONE:
            return str(place), BASE
        return self._model, str(place) if place else BASE

    def _place(self, version: Version) -> Path | None:
        """Return where the files of a version lie, None for plain RAG.

        Raises:
            DamagedArtifact: they are missing, or changed.
            UsageError: this server cannot answer with it.
        """
        hint = f"raft registry promote {typed(self._run)} {version.adapter} --by {me()}   (the adapter itself; "
        if version.kind == "gguf":
            raise UsageError(
                f"Version {version.id} is a GGUF file, which this server does not run.",
                where=self._run / (version.path or ""),
                hint=f"{hint}llama-server -m FILE runs it)",
            )
        if version.kind in _ALONE and self._at_engine:
            raise UsageError(
                f"Version {version.id} is a model of its own, and a vLLM loads adapters.",
                where=self._run / (version.path or ""),
                hint=f"{hint}raft serve without --model runs it)",
            )
        return whole(self._run, version)

    def _tell_once(self, key: tuple[str, str], error: Exception) -> None:
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, RaftError):
            why = f"{error.what} next: {' '.join(pasted(error.hint).split())}" if error.hint else error.what
        self._unfit.add(key)
        if self._told.get(key) != why:
            self._told[key] = why
            self._on_event("kept", {"why": why, **({"version": key[0]} if key[0] else {})})
