"""An MLflow server, to which a run's registry is mirrored over REST (mlflow.org/docs/latest/rest-api).

A version becomes a run of an experiment, with its figures as metrics, and a version of a registered model; production,
candidate and previous become aliases. Nine calls are all that takes, so they are made here: MLflow's own client, also
without its extras, brings thirty packages. It reads the same variables for who is asking (`_who`).
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raft.errors import RaftError, UsageError, typed
from raft.text import from_json
from raft.text.secrets import shown_address, tell_in_the_clear

_SECONDS = 30.0  # for one call
_LARGEST = 16 << 20  # of a reply, in bytes
_PAGES = 1_000  # of a list that goes on and on
_LONGEST = 5_000
"""Characters of a description and of a tag that every MLflow takes."""
_OWNER, _VERSION, _DIGEST, _REPORT = "raft.run", "raft.version", "raft.digest", "raft.report"
_ABSENT = "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True)
class Mirrored:
    """A version as it is mirrored.

    `digest` is its content's and `report` that of its benchmark ("" for none); `card` is Markdown; `metrics` have names
    that MLflow takes; `tags` tell the rest.
    """

    id: str
    digest: str
    report: str
    card: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def push(
    url: str, name: str, owner: str, versions: Sequence[Mirrored], aliases: Mapping[str, str | None]
) -> dict[str, Any]:
    """Mirror versions and aliases to an MLflow server; return the model's `name`, and what is `new`, `changed`, `same`.

    It may be called again: what is there and unchanged is left alone, and what was cut short is completed.

    Args:
        url: the server's address.
        name: of the registered model, and of the experiment.
        owner: the run's own name, by which a model of another run is told from its own.
        versions: all versions.
        aliases: ids of versions by alias; None takes an alias away.

    Raises:
        UsageError: the registered model belongs to something else, or the address is none.
        RaftError: no MLflow server answers there, or it refuses.
    """
    with _Server(url) as server:
        try:
            return _pushed(server, name, owner, versions, aliases)
        except (KeyError, TypeError, AttributeError):  # an object, but none that MLflow answers with
            raise server.failed("What answers is no MLflow server: its replies lack what MLflow says") from None


def _pushed(
    server: "_Server", name: str, owner: str, versions: Sequence[Mirrored], aliases: Mapping[str, str | None]
) -> dict[str, Any]:
    _claim(server, name, owner)
    experiment = _experiment(server, name)
    runs = {_tags(run["data"]).get(_VERSION): run for run in _runs(server, experiment)}
    known = {_tags(one).get(_VERSION): one for one in _model_versions(server, name)}
    done: dict[str, list[str]] = {"new": [], "changed": [], "same": []}
    numbers: dict[str, str] = {}
    for version in versions:
        former: Mapping[str, Any] | None = known.get(version.id)
        if former and all(_tags(former).get(key) == value for key, value in _told(version).items()):
            done["same"].append(version.id)
        else:
            run_id = _figures(server, experiment, version, runs.get(version.id))
            former = _model_version(server, name, version, run_id, former)
            done["changed" if version.id in known else "new"].append(version.id)
        numbers[version.id] = str(former["version"])
    for alias, version_id in aliases.items():
        body = {"name": name, "alias": alias}
        if version_id is not None:
            server.post("registered-models/alias", {**body, "version": numbers[version_id]})
        else:
            server.call("DELETE", "registered-models/alias", body, absent=True)
    return {"name": name, "url": server.shown, **done}


def _figures(server: "_Server", experiment: str, version: Mirrored, run: Mapping[str, Any] | None) -> str:
    """Write a version's figures into its `run`, made where there is none; return the run's id."""
    now, tags = int(time.time() * 1000), _tagged(version)
    if run is None:
        body = {"experiment_id": experiment, "run_name": version.id, "start_time": now, "tags": tags}
        run = server.post("runs/create", body)["run"]
    run_id = str(run["info"]["run_id"])
    metrics = [{"key": key, "value": value, "timestamp": now, "step": 0} for key, value in version.metrics.items()]
    note = {"key": "mlflow.note.content", "value": _cut(version.card)}
    server.post("runs/log-batch", {"run_id": run_id, "metrics": metrics, "tags": [*tags, note]})
    server.post("runs/update", {"run_id": run_id, "status": "FINISHED", "end_time": now})
    return run_id


def _model_version(
    server: "_Server", name: str, version: Mirrored, run_id: str, former: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """Change the version of a model that mirrors a version, or make it; return it."""
    tags, described = _tagged(version), {"name": name, "description": _cut(version.card)}
    if former is None:
        body = {**described, "source": f"runs:/{run_id}/{version.id}", "run_id": run_id, "tags": tags}
        made: Mapping[str, Any] = server.post("model-versions/create", body)["model_version"]
        return made
    place = {"name": name, "version": str(former["version"])}
    server.call("PATCH", "model-versions/update", {**described, **place})
    for tag in tags:
        server.post("model-versions/set-tag", {**place, **tag})
    return former


def _told(version: Mirrored) -> dict[str, str]:
    every = {**version.tags, _VERSION: version.id, _DIGEST: version.digest, _REPORT: version.report}
    return {key: _cut(value) for key, value in every.items()}


def _tagged(version: Mirrored) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in _told(version).items()]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _tags(found: Mapping[str, Any]) -> dict[str, str]:
    return {one["key"]: one.get("value", "") for one in found.get("tags", ())}


def _claim(server: "_Server", name: str, owner: str) -> None:
    found = server.get("registered-models/get", {"name": name}, absent=True)
    if not found:
        tags = [{"key": _OWNER, "value": owner}]
        server.post("registered-models/create", {"name": name, "tags": tags})
    elif _tags(found["registered_model"]).get(_OWNER) != owner:
        raise UsageError(
            f"The registered model {name} on this server is not of this run.",
            where=server.shown,
            hint=f"the same command with --name {typed(f'{name}-2')}   (or any other name)",
        )


def _experiment(server: "_Server", name: str) -> str:
    found = server.get("experiments/get-by-name", {"experiment_name": name}, absent=True)
    made = found["experiment"] if found else server.post("experiments/create", {"name": name})
    return str(made["experiment_id"])


def _runs(server: "_Server", experiment: str) -> Iterator[dict[str, Any]]:
    token, seen = "", set[str]()
    while token not in seen and len(seen) < _PAGES:
        seen.add(token)
        body = {"experiment_ids": [experiment], "max_results": 500, **({"page_token": token} if token else {})}
        found = server.post("runs/search", body)
        yield from found.get("runs", ())
        if not (token := found.get("next_page_token", "")):
            return


def _model_versions(server: "_Server", name: str) -> Iterator[dict[str, Any]]:
    token, seen = "", set[str]()
    while token not in seen and len(seen) < _PAGES:
        seen.add(token)
        asked = {"filter": f"name='{name}'", "max_results": 500, **({"page_token": token} if token else {})}
        found = server.get("model-versions/search", asked)
        yield from found.get("model_versions", ())
        if not (token := found.get("next_page_token", "")):
            return


def _who() -> dict[str, Any]:
    """Return how calls say who is asking: by the variables that MLflow's own client reads."""
    for variable in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        if not os.environ.get(variable, "").strip().isprintable():  # it is not shown
            raise UsageError(
                "It holds more than one line of text.",
                where=variable,
                hint=f"unset {variable}   (or set it to one line)",
            )
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN", "").strip():
        return {"headers": {"Authorization": f"Bearer {token}"}}
    if name := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return {"auth": (name, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))}
    return {}


class _Server:
    def __init__(self, url: str) -> None:
        import httpx

        self.shown = shown_address(url)
        if not url.startswith(("http://", "https://")):
            what = f"{self.shown} is no address of an MLflow server."
            raise UsageError(what, where="--mlflow", hint="--mlflow http://127.0.0.1:5000")
        who = _who()
        if who:
            tell_in_the_clear(url)
        self._client = httpx.Client(base_url=f"{url.rstrip('/')}/api/2.0/mlflow/", timeout=_SECONDS, **who)

    def __enter__(self) -> "_Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, asked: Mapping[str, Any], *, absent: bool = False) -> dict[str, Any]:
        return self.call("GET", path, asked, absent=absent)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self.call("POST", path, body)

    def call(self, method: str, path: str, body: Mapping[str, Any], *, absent: bool = False) -> dict[str, Any]:
        """Return what the server answers; an empty dictionary where what is asked for is `absent` and may be."""
        import httpx

        try:
            given: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
            reply, text = self._read(method, path, given)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self.failed(f"No MLflow server answers: {str(error) or type(error).__name__}") from None
        try:
            found = from_json(text)
        except ValueError:
            found = None
        if reply.status_code in (401, 403):
            hint = "read -rs MLFLOW_TRACKING_TOKEN; export MLFLOW_TRACKING_TOKEN   (or ..._USERNAME and ..._PASSWORD)"
            raise RaftError("The MLflow server does not let you in.", where=self.shown, hint=hint)
        if not isinstance(found, dict):
            raise self.failed(f"What answers is no MLflow server: status {reply.status_code} for {path}")
        if absent and found.get("error_code") == _ABSENT:
            return {}
        if reply.is_error:
            said = str(found.get("message") or found.get("error_code") or reply.status_code).splitlines()[0]
            raise self.failed(f"The MLflow server refuses {path}: {said}")
        return found

    def _read(self, method: str, path: str, given: Mapping[str, Any]) -> tuple[Any, bytes]:
        """Return a reply and what is in it, which has a size and a time like everything that strangers send."""
        until, text = time.monotonic() + _SECONDS, bytearray()
        with self._client.stream(method, path, **given) as reply:
            for piece in reply.iter_bytes():
                text += piece
                if len(text) > _LARGEST or time.monotonic() > until:
                    raise self.failed(f"What answers is no MLflow server: {path} takes too long, or brings too much")
        return reply, bytes(text)

    def failed(self, what: str) -> RaftError:
        hint = f"curl {typed(self.shown.rstrip('/') + '/health')}   (says OK where one answers; then the same command)"
        return RaftError(f"{what}.", where=self.shown, hint=hint)
