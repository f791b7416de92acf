"""The registry of a run for scripts and the command line: its versions with their figures, and who put them where."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raft.api import models
from raft.api.run import Built, adapter_for
from raft.backends import hub, mlflow
from raft.errors import DamagedArtifact, RaftError, UsageError, me, typed
from raft.store import adapters, registry, reports
from raft.store.again import again
from raft.store.fitness import Kind, Version, approved_by, whole
from raft.store.registry import ALIASES, Standing

_MEASURES = ("f1", "accuracy", "exact_match", "false_refusals", "false_answers")


def listed(folder: str | Path) -> list[dict[str, Any]]:
    """Return all versions of a run, plain RAG first, then adapters and what was made of them, as JSON values.

    Each has what `store.fitness.Version` has; `aliases`: what it is now; `verdict`, `gain` (in shares from 0 to 1) and
    `measured` (a day) of its last benchmark, None without one; `approved_by`; `lacks`: why it cannot answer, "" where
    nothing is known against it. What is in production also has `since`, `by` and `because`, the candidate `share` and
    `shadow`.

    Raises:
        UsageError: there is no run directory.
        RaftError: the registry cannot be read.
    """
    run = Built(folder).folder
    now = registry.standing(run)
    return [_line(run, one, now) for one in registry.versions(run)]


def shown(folder: str | Path, version: str) -> dict[str, Any]:
    """Return all that is known of a version: what `listed` has, its `figures` by set and measure, its `history`.

    Each figure has `value`, `low`, `high` and `questions`; `compared` are the same of the other systems of its
    benchmark, by title. The files of the version are read as a whole.

    Args:
        folder: the run directory.
        version: an id, a beginning of it, or "production", "candidate" or "previous".

    Raises:
        UsageError: there is no such version.
        RaftError: the registry cannot be read.
    """
    run = Built(folder).folder
    found = registry.find(run, version)
    line = _line(run, found, registry.standing(run))
    try:
        whole(run, registry.as_known(run, found))
    except DamagedArtifact as error:
        line["lacks"] = error.what
    own, compared = _figures(run, found)
    lines = [one for one in registry.history(run) if one["version"] == found.id]
    return {**line, "figures": own, "compared": compared, "history": lines}


def promote(folder: str | Path, version: str, *, by: str, because: str = "") -> dict[str, Any]:
    """Put a version into production, as `store.registry.promote` does; return the line of the history.

    Raises:
        UsageError: as there, or the adapter was trained on another base model than the run's student.
        RaftError: as there.
    """
    return registry.promote(*_fit(folder, version), by=by, because=because)


def candidate(
    folder: str | Path, version: str, *, by: str, share: float = 0.0, shadow: float = 0.0, because: str = ""
) -> dict[str, Any]:
    """Make a version the candidate, as `store.registry.nominate` does; return the line of the history.

    Raises:
        UsageError: as there, or the adapter was trained on another base model than the run's student, or there is to
            be a shadow, and the run keeps no traffic.
        RaftError: as there.
    """
    if shadow and not Built(folder).settings.serving.traffic:
        raise UsageError(
            "What a shadow says is kept with the traffic, and the run keeps none.",
            where="serving.traffic=false",
            hint=f"raft registry candidate {typed(folder)} {typed(version)} --share 0.1 --by {me(by)}"
            "   (without --shadow), or build with --set serving.traffic=true",
        )
    return registry.nominate(*_fit(folder, version), share=share, shadow=shadow, by=by, because=because)


def withdraw(folder: str | Path, *, by: str, because: str = "") -> dict[str, Any] | None:
    """Have no candidate any more; return the line of the history, None where there was none.

    Raises:
        UsageError: there is no run directory, or no name is given.
        RaftError: the registry cannot be written.
    """
    return registry.withdraw(Built(folder).folder, by=by, because=because)


def rollback(folder: str | Path, *, by: str, because: str = "", to: str | None = None) -> dict[str, Any]:
    """Go back to what was in production before, or to `to`, as `store.registry.rollback` does; return the line.

    Raises:
        UsageError: as there.
        RaftError: as there.
    """
    return registry.rollback(Built(folder).folder, by=by, because=because, to=to)


def retire(folder: str | Path, version: str, *, by: str, because: str = "") -> dict[str, Any]:
    """Take a version out of use, as `store.registry.retire` does; return the line of the history.

    Raises:
        UsageError: as there.
        RaftError: as there.
    """
    return registry.retire(Built(folder).folder, version, by=by, because=because)


def log(folder: str | Path) -> list[dict[str, Any]]:
    """Return the history of a run's registry, oldest line first (`store.registry.history`).

    Raises:
        UsageError: there is no run directory.
        RaftError: the registry cannot be read.
    """
    return registry.history(Built(folder).folder)


def version_at(folder: str | Path, path: Path) -> str | None:
    """Return the id of the version whose files lie at a place; None where there is none, or no registry to be read."""
    run = Built(folder).folder
    try:
        found = registry.versions(run)
    except RaftError:
        return None
    return next((one.id for one in reversed(found) if one.path and (run / one.path).resolve() == path.resolve()), None)


def note(run: Path, adapter: str, kind: Kind, path: Path) -> None:
    """Note what was made of an adapter as a version, where the registry can be written: a run may be read-only."""
    with suppress(RaftError):
        registry.register(run, adapter=adapter, kind=kind, path=path, by=me())


def push(folder: str | Path, url: str, *, name: str | None = None) -> dict[str, Any]:
    """Mirror versions, aliases, cards and figures to an MLflow server; return what was new, changed or the same.

    No question, answer or document is sent, and no weights.

    Args:
        folder: the run directory.
        url: the server's address; `MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and `_PASSWORD`, say who asks.
        name: of the registered model there; None: the run directory's.

    Raises:
        UsageError: `local_only` is set and the server is not on this machine, or the model there is of another run.
        RaftError: no MLflow server answers, or it refuses.
    """
    built = Built(folder)
    off = [*models.why_off_loopback(url)] if built.settings.local_only else []
    if off:
        hint = again(folder, {"local_only": False}, remark="or mirror it to a server at 127.0.0.1, ::1 or localhost")
        raise UsageError(f"local_only is set, and {off[0]}.", where="--mlflow", hint=hint)
    now, run = registry.standing(built.folder), built.folder
    chosen = re.sub(r"[^\w.-]+", "-", name or run.resolve().name).strip("-") or "raft"
    aliases = {alias: one.id if (one := getattr(now, alias)) else None for alias in ALIASES}
    mirrored = [_mirrored(run, one, now) for one in registry.versions(run)]
    return {**mlflow.push(url, chosen, str(built.manifest["collection"]), mirrored, aliases), "aliases": aliases}


def _fit(folder: str | Path, version: str) -> tuple[Path, str]:
    """Return the run and the id of a version that its student can answer with."""
    built = Built(folder)
    found = registry.find(built.folder, version)
    _check_base(built, found)
    return built.folder, found.id


def _check_base(built: Built, version: Version) -> None:
    """Check that an adapter is of the run's student, by its files where they are at hand, else by its name.

    Raises:
        UsageError: it is of another one.
        DamagedArtifact: its card cannot be read.
    """
    if version.kind != "adapter":
        return
    student = built.settings.student
    try:
        hub.identity(student)
    except UsageError:  # a machine that only serves by another one need not have it
        if version.model == student:
            return
    adapter_for(built.folder, version.id, student)


def _line(run: Path, version: Version, now: Standing) -> dict[str, Any]:
    report = reports.of(run, version.id)
    aliases = [alias for alias in ALIASES if (one := getattr(now, alias)) and one.id == version.id]
    gain = report.facts["verdict"].get("gain") if report else None
    line = {
        **asdict(version),
        "aliases": aliases,
        "verdict": report and report.verdict,
        "gain": gain,
        "measured": report and report.facts.get("date"),
        "approved_by": approved_by(run, version),
        "lacks": _lacks(run, version),
    }
    if "production" in aliases:
        line |= {"since": now.since, "by": now.by, "because": now.because}
    if "candidate" in aliases:
        line |= {"share": now.share, "shadow": now.shadow}
    return line


def _lacks(run: Path, version: Version) -> str:
    """Return why a version cannot answer, as far as that is seen without reading its files; "" where nothing is."""
    if version.path is None:
        return ""
    if not (run / version.path).exists():
        return "its files are missing"
    if version.kind != "adapter":
        return ""
    if not version.digest:
        return "its files are damaged"
    return "" if registry.as_known(run, version).digest == version.digest else "its files have changed"


def _figures(run: Path, version: Version) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a version's figures by set and measure, and those of what it was compared with, by title."""
    report = reports.of(run, version.id)
    facts = report.facts if report else {}
    own = facts["verdict"]["contender"] if report else None
    scored = {one["name"]: (one["title"], _scores(one)) for one in facts.get("arms", ())}
    mine = scored.pop(own, ("", {}))[1]
    return mine, {title: scores for title, scores in scored.values() if scores}


def _scores(system: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {measure: scores[measure] for measure in _MEASURES if scores.get(measure)}
        for name, scores in system.get("sets", {}).items()
        if scores
    }


def _mirrored(run: Path, version: Version, now: Standing) -> mlflow.Mirrored:
    report, (own, _) = reports.of(run, version.id), _figures(run, version)
    metrics = {f"{name}/{measure}": float(one["value"]) for name, of in own.items() for measure, one in of.items()}
    if report and (gain := report.facts["verdict"].get("gain")):
        metrics["gain"] = float(gain["value"])
    line = _line(run, version, now)
    told = {"raft.kind": version.kind, "raft.model": Path(version.model).name, "raft.verdict": line["verdict"] or ""}
    told |= {"raft.approved_by": line["approved_by"], "raft.retired": "yes" if version.retired else ""}
    told |= {"raft.production_since": line.get("since", ""), "raft.production_by": line.get("by", "")}
    card = f"Plain RAG: {Path(version.model).name}, untuned, with the run's index."
    if version.adapter is not None:
        try:
            facts = {**adapters.read_card(run / "adapters" / version.adapter), "adapter": version.id}
            card = adapters.readme(facts, report.facts if report else None, merged=version.kind != "adapter")
        except DamagedArtifact:
            card = f"An adapter of {Path(version.model).name}, whose card cannot be read."
    return mlflow.Mirrored(version.id, version.digest, report.digest if report else "", card, metrics, told)
