"""The registry of a run: which version answers, since when, who said so and why.

A version is what answers: plain RAG (`PLAIN`), an adapter, or a model that was made of one (`kind`). The index is no
part of it: a build renews it for all of them. What is in production follows from the lines of one append-only history
(`store.history`), and is kept nowhere else. Paths in it are relative to the run directory, which may be moved.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from os.path import relpath
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from raft.errors import DamagedArtifact, RaftError, UsageError, me, pasted, typed
from raft.store import adapters, reports
from raft.store.fitness import PLAIN, Kind, Version, approved_by, content_digest, objections, whole
from raft.store.history import FILE, add, lines, reading, writing
from raft.store.run import existing

ALIASES = ("production", "candidate", "previous")


@dataclass(frozen=True)
class Standing:
    """What stands at a line of the history.

    `revision` is the number of the last line, 0 without a registry. `previous` is where a rollback goes. `share` (0 to
    1) of the conversations meet the candidate; `shadow` (0 to 1) of the requests are answered by both. `since`
    (ISO 8601, UTC), `by` and `because` are of the line that put `production` there.
    """

    revision: int = 0
    production: Version | None = None
    candidate: Version | None = None
    previous: Version | None = None
    share: float = 0.0
    shadow: float = 0.0
    since: str = ""
    by: str = ""
    because: str = ""


class _Fold:
    """What follows from the lines of a history, one after the other."""

    def __init__(self, history: Iterable[Mapping[str, Any]] = ()) -> None:
        self.known: dict[str, Version] = {}
        self.retired: dict[str, Mapping[str, Any]] = {}  # each with its line of the history
        self.before: list[str] = []  # the productions that a rollback goes back to, the nearest last
        self.production = self.candidate = ""
        self.revision, self.share, self.shadow = 0, 0.0, 0.0
        self.line: dict[str, Any] = {}
        for line in history:
            self.add(line)

    def add(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Take in a line; return it with `former`, the version that was in production before it, "" for none."""
        former, version = self.production, str(line["version"])
        line = {**line, "former": former}
        self.revision = line["line"]
        names = ("kind", "model", "adapter", "path")
        self.known[version] = Version(version, digest=line["digest"], **{name: line[name] for name in names})
        if line["action"] == "retire":
            self.retired[version] = line
        elif line["action"] in ("promote", "rollback", "candidate"):
            self.retired.pop(version, None)
        if line["action"] == "candidate":
            self.candidate, self.share, self.shadow = version, line["share"], line["shadow"]
        elif line["action"] == "promote":
            self.before += [former or PLAIN] * (version != PLAIN or bool(former))
        elif line["action"] == "rollback" and version in self.before:
            while self.before.pop() != version:
                pass
        if line["action"] in ("promote", "rollback"):
            self.production, self.line = version, line
        if line["action"] == "withdraw" or self.candidate == self.production:
            self.candidate, self.share, self.shadow = "", 0.0, 0.0
        return line

    def previous(self) -> str:
        """Return the id of the version that a rollback goes to, "" where nothing stood before."""
        fit = (one for one in reversed(self.before) if one not in self.retired and one != self.production)
        return next(fit, PLAIN if self.production not in ("", PLAIN) else "")

    def version(self, name: str, plain: Callable[[], Version]) -> Version | None:
        """Return a version as the history last saw it; where it never saw plain RAG, `plain` tells of it."""
        if not name:
            return None
        return replace(self.known.get(name) or plain(), retired=name in self.retired)

    def standing(self, plain: Callable[[], Version]) -> Standing:
        """Return what stands after the last line."""
        return Standing(
            self.revision,
            production=self.version(self.production, plain),
            candidate=self.version(self.candidate, plain),
            previous=self.version(self.previous(), plain),
            share=self.share,
            shadow=self.shadow,
            since=self.line.get("at", ""),
            by=self.line.get("who", ""),
            because=self.line.get("why", ""),
        )


def standing(run: Path) -> Standing:
    """Return what stands now; without a registry nothing does, and the current adapter answers as ever.

    It only reads, and is cheap enough to be called several times a second.

    Raises:
        RaftError: the registry is of a newer raft, or no registry.
        DamagedArtifact: it cannot be read.
    """
    found = history(run)
    return _Fold(found).standing(partial(_plain, run)) if found else Standing()


def told(run: Path) -> dict[str, Any] | None:
    """Return what stands now as JSON values, None without a registry; `lacks` says why, where it cannot be read."""
    try:
        now = standing(run)
    except RaftError as error:
        return {"lacks": str(error)}
    return asdict(now) if now.revision else None


def history(run: Path) -> list[dict[str, Any]]:
    """Return the lines of the history, oldest first.

    Each has `line`, `at` (ISO 8601, UTC), `who`, `why`, `action`, `version`, its `digest`, `kind`, `model`, `adapter`
    and `path`, the `report` (digest of its benchmark.json) and `verdict` that it rests on ("" without one),
    `approved_by`, `share` and `shadow`, and `former`: what was in production before it, "" for nothing.

    Raises:
        RaftError: the registry is of a newer raft, or no registry.
        DamagedArtifact: it cannot be read.
    """
    with reading(run) as database:
        found = lines(database) if database else []
    fold = _Fold()
    return [fold.add(line) for line in found]


def versions(run: Path) -> list[Version]:
    """Return all versions: plain RAG, the adapters, oldest first, and what was made of them.

    An adapter's digest is that of its files of now, "" where it is not whole.

    Raises:
        UsageError: there is no run directory.
        RaftError: as for `history`.
    """
    return [_of_now(run, one) for one in _listed(run).values()]


def find(run: Path, wanted: str) -> Version:
    """Return a version by its id, by a beginning of it, or by its alias (`ALIASES`).

    Raises:
        UsageError: there is no such version, or several are meant.
        RaftError: as for `history`.
    """
    wanted, every = wanted.strip(), _listed(run)
    if wanted in ALIASES:
        alias: Version | None = getattr(standing(run), wanted)
        if alias is None:
            what = "There is no candidate" if wanted == "candidate" else "Nothing is in production"
            what = "Nothing was in production before" if wanted == "previous" else what
            raise UsageError(f"{what}.", where=run / FILE, hint=f"raft registry list {typed(run)}")
        wanted = alias.id
    fitting = [wanted] if wanted in every else sorted(one for one in every if wanted and one.startswith(wanted))
    first = fitting[0] if fitting else ""
    if first and all(one == first or one.startswith(f"{first}-") for one in fitting):  # what was made of it has its id
        return _of_now(run, every[first])
    if fitting:
        what = f"Several versions begin with {wanted}: {', '.join(fitting)}"
    else:
        what = f"There is no version {wanted or 'without a name'}; there are {', '.join(every)}"
    raise UsageError(f"{what}.", where=run, hint=f"raft registry list {typed(run)}")


def _listed(run: Path) -> dict[str, Version]:
    """Return all versions by id; the digest of an adapter is left open."""
    fold = _Fold(history(run))
    found = {PLAIN: _plain(run)}
    for card in adapters.listed(run):
        name = card["adapter"]
        found[name] = Version(name, "adapter", card["base"], name, "", f"adapters/{name}", name in fold.retired)
    return found | {
        name: replace(one, retired=name in fold.retired) for name, one in fold.known.items() if name not in found
    }


def _plain(run: Path) -> Version:
    settings = existing(run).manifest.get("settings") or {}
    return Version(PLAIN, "rag", str(settings.get("student", "")), None, "", None)


def _of_now(run: Path, version: Version) -> Version:
    """Return a version, an adapter with the digest of its files of now, "" where it is not whole."""
    if version.kind != "adapter" or version.path is None:
        return version
    return replace(version, digest=adapters.digest(run / version.path) or "")


def promote(run: Path, version_id: str, *, by: str, because: str = "") -> dict[str, Any]:
    """Put a version into production; return its line of the history.

    Whatever stands against it (no verdict `ship`, nobody approved it, it was retired) is outweighed by `because`, which
    is kept; plain RAG may always go into production. What is there already stays, and its line is returned. Of one that
    was retired the line has `was_retired`, the line of the history that says when, by whom and why.

    Raises:
        UsageError: there is no such version, no name is given, or something stands against it and no reason is given.
        DamagedArtifact: its files are missing, or changed since the history first saw them.
        RaftError: as for `history`, or the registry cannot be written.
    """
    return _put(run, "promote", find(run, version_id), by, because)


def rollback(
    run: Path, *, by: str, because: str = "", to: str | None = None, instead_of: str | None = None
) -> dict[str, Any]:
    """Go back to what was in production before, or to the version `to`; return the line of the history.

    What was gone back from is not gone back to: a second rollback goes one further, at last to plain RAG.
    With `instead_of`, an id or "" for nothing, only that one is gone back from: another may be there meanwhile.

    Raises:
        UsageError: nothing stood before, another than `instead_of` is in production, there is no such version, or no
            name is given; or `to` was never in production, something stands against it as in `promote`, and no reason
            is given.
        DamagedArtifact: as for `promote`.
        RaftError: as for `promote`.
    """
    return _put(run, "rollback", None if to is None else find(run, to), by, because, instead_of=instead_of)


def nominate(run: Path, version_id: str, *, share: float, shadow: float, by: str, because: str = "") -> dict[str, Any]:
    """Make a version the candidate, in the place of any other; return the line of the history.

    `share` is that of the conversations that it answers, `shadow` that of the requests that it answers too while the
    user sees production's answer, each 0 to 1.

    Raises:
        UsageError: there is no such version, it is in production, it was retired and no reason is given, a share is
            not between 0 and 1, or no name is given.
        DamagedArtifact: as for `promote`.
        RaftError: as for `promote`.
    """
    for name, value in {"share": share, "shadow": shadow}.items():
        if not 0 <= value <= 1:
            hint = f"raft registry candidate {typed(run)} {version_id} --by {me(by)} --{name} 0.1"
            raise UsageError(f"A {name} lies between 0 and 1, and {value:g} does not.", where=f"--{name}", hint=hint)
    version = find(run, version_id)
    whole(run, as_known(run, version))
    with writing(run, by) as database:
        fold = _Fold(lines(database))
        if version.id == fold.production:
            what = f"{_name(version.id)} is in production: it cannot be the candidate too"
            raise UsageError(f"{what}.", where=run / FILE, hint=f"raft registry list {typed(run)}")
        if version.id in fold.retired and not because.strip():
            again = f"raft registry candidate {typed(run)} {version.id} --share {share:g} --by {typed(by)}"
            what = f"{_retired(fold.retired[version.id])}."
            raise UsageError(what, where=run / FILE, hint=f"{again} --because 'I know better'")
        return _append(
            database, run, fold, "candidate", _seen(fold, version), by=by, because=because, share=share, shadow=shadow
        )


def withdraw(run: Path, *, by: str, because: str, version_id: str | None = None) -> dict[str, Any] | None:
    """Have no candidate any more; return the line of the history, None where there was none to withdraw.

    With `version_id`, an id, only that one is withdrawn: another may have taken its place meanwhile.

    Raises:
        UsageError: no name is given.
        RaftError: as for `promote`.
    """
    with writing(run, by) as database:
        fold = _Fold(lines(database))
        version = fold.version(fold.candidate, partial(_plain, run))
        if version is None or version_id not in (None, version.id):
            return None
        return _append(database, run, fold, "withdraw", version, by=by, because=because)


def retire(run: Path, version_id: str, *, by: str, because: str = "") -> dict[str, Any]:
    """Take a version out of use; return the line of the history. Its files stay.

    From then on it is promoted or tried with a reason alone, and no rollback goes to it by itself.

    Raises:
        UsageError: there is no such version, it answers or is plain RAG, or no name is given.
        RaftError: as for `promote`.
    """
    version, place = find(run, version_id), typed(run)
    with writing(run, by) as database:
        fold = _Fold(lines(database))
        if version.id == PLAIN:
            what, hint = "Plain RAG is what can always be gone back to", f"raft registry list {place}"
        elif version.id == fold.production:
            what = f"{version.id} is in production"
            hint = f"raft registry rollback {place} --by {typed(by)}   (or promote another one first)"
        elif version.id == fold.candidate:
            what, hint = f"{version.id} is the candidate", f"raft registry candidate {place} none --by {typed(by)}"
        elif version.id in fold.retired:
            what, hint = f"{version.id} was retired before", f"raft registry log {place}"
        else:
            return _append(database, run, fold, "retire", _seen(fold, version), by=by, because=because)
    raise UsageError(f"{what}: it is not retired.", where=run / FILE, hint=hint)


def register(run: Path, *, adapter: str, kind: Kind, path: Path, by: str) -> Version:
    """Note a model that was made of an adapter as a version of its own; return it.

    Its id is `<adapter>-<kind>`; where another content has that name already, `<adapter>-<kind>-2`, and so on: an id
    never comes to mean something else. The same content in another place keeps its id.

    Raises:
        DamagedArtifact: there is nothing at `path`.
        UsageError: no name is given.
        RaftError: as for `promote`.
    """
    digest = content_digest(path)
    if digest is None:
        raise DamagedArtifact("There is no model here.", where=path, hint=f"raft export {typed(run)} --merged")
    place = Path(relpath(path.resolve(), run.resolve())).as_posix()
    base = str(adapters.read_card(run / "adapters" / adapter)["base"])
    with writing(run, by) as database:
        fold = _Fold(lines(database))
        name, count = f"{adapter}-{kind}", 1
        while name in fold.known and fold.known[name].digest != digest:
            count += 1
            name = f"{adapter}-{kind}-{count}"
        version = Version(name, kind, base, adapter, digest, place, name in fold.retired)
        if fold.known.get(name) != replace(version, retired=False):
            _append(database, run, fold, "register", version, by=by, because="")
        return version


def _put(
    run: Path, action: str, version: Version | None, by: str, because: str, *, instead_of: str | None = None
) -> dict[str, Any]:
    """Put a version into production; None: the one that a rollback goes to."""
    if version is not None:
        whole(run, as_known(run, version))
    with writing(run, by) as database:
        fold = _Fold(lines(database))
        if instead_of not in (None, fold.production):
            what = f"{_name(fold.production)} is in production now"
            raise UsageError(f"{what}.", where=run / FILE, hint=f"raft registry log {typed(run)}")
        if version is None:
            if not (name := fold.previous()):
                what = "Nothing was in production before what is now" if fold.production else "Nothing is in production"
                raise UsageError(f"{what}.", where=run / FILE, hint=f"raft registry list {typed(run)}")
            version = find(run, name)
            whole(run, as_known(run, version))
        if version.id == fold.production:
            return fold.line
        known_before = action == "rollback" and version.id in fold.before and version.id not in fold.retired
        against = {} if known_before else objections(run, version)
        retired = fold.retired.get(version.id)
        against |= {_retired(retired): ""} if retired else {}
        if against and not because.strip():
            flag = version.id if action == "promote" else f"--to {version.id}"
            again = f"raft registry {action} {typed(run)} {flag} --by {typed(by)} --because 'I know better'"
            steps = [command for command in against.values() if command][:1]
            raise UsageError(
                f"Version {version.id} is not put into production: {', and '.join(against)}.",
                where=run / (version.path or FILE),
                hint="\n         ".join([*steps, pasted(again)]),
            )
        line = _append(database, run, fold, action, _seen(fold, version), by=by, because=because)
        return {**line, "was_retired": retired} if retired else line


def _retired(line: Mapping[str, Any]) -> str:
    """Return in words that a version was retired, when, by whom and why; `line` is that of the history."""
    why = f" ({line['why']})" if line["why"] else ""
    return f"{line['version']} was retired on {line['at'][:10]} by {line['who']}{why}"


def _name(version_id: str) -> str:
    return "Plain RAG" if version_id == PLAIN else version_id


def as_known(run: Path, version: Version) -> Version:
    """Return a version with the digest that the history knows, where it does: its files have to be those."""
    return _Fold(history(run)).known.get(version.id, version)


def _seen(fold: _Fold, version: Version) -> Version:
    """Return a version as its line of the history has it: with the digest that it first had."""
    known = fold.known.get(version.id)
    return replace(version, digest=known.digest if known else version.digest)


def _append(
    database: Connection,
    run: Path,
    fold: _Fold,
    action: str,
    version: Version,
    *,
    by: str,
    because: str,
    **facts: float,
) -> dict[str, Any]:
    """Write a line; it is there for good once the transaction around it ends."""
    report = reports.of(run, version.id)
    kept = {"kind": version.kind, "model": version.model, "adapter": version.adapter, "path": version.path}
    line = add(
        database,
        who=by,
        why=because,
        action=action,
        version=version.id,
        digest=version.digest,
        report=report.digest if report else "",
        verdict=report.verdict if report else "",
        facts={**kept, "approved_by": approved_by(run, version), **facts},
    )
    return fold.add(line)
