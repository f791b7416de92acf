"""A stand-in for an MLflow server: the REST calls that raft makes, and those with which MLflow's client reads.

It refuses what MLflow 3 refuses: an unknown path, a version without a name, a source that is of no run, an alias of a
version that there is not, a tag or description that is too long, a second model or experiment of one name.
"""

# ruff: noqa: D102  each method is the call that its name says

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qsl, urlsplit

HOME = "/api/2.0/mlflow/"


class Refused(Exception):
    """A call that is answered with an error."""

    def __init__(self, code, message, status=400):
        super().__init__(message)
        self.body, self.status = {"error_code": code, "message": message}, status


def absent(what):
    """Return the error for what there is not."""
    return Refused("RESOURCE_DOES_NOT_EXIST", f"{what} not found", 404)


class MLflow:
    """What such a server holds.

    Attributes:
        calls: method and path of each call.
        token: what must be sent as the bearer's; None: nobody is asked.
        breaks: what each call is given to, which may raise.
    """

    def __init__(self):
        self.calls, self.token, self.breaks = [], None, lambda call: None
        self.experiments, self.runs, self.models = {}, {}, {}

    def answer(self, method, path, given):
        """Return the reply to a call."""
        self.calls.append(f"{method} {path}")
        self.breaks(self.calls[-1])
        does = getattr(self, f"{method.lower()}_{path.replace('/', '_').replace('-', '_')}", None)
        if does is None:
            raise Refused("ENDPOINT_NOT_FOUND", f"no {method} {path}", 404)
        return does(**given)

    def get_experiments_get_by_name(self, experiment_name):
        for number, name in self.experiments.items():
            if name == experiment_name:
                return {"experiment": {"experiment_id": number, "name": name, "lifecycle_stage": "active"}}
        raise absent(experiment_name)

    def post_experiments_create(self, name):
        assert name not in self.experiments.values()
        number = str(len(self.experiments) + 1)
        self.experiments[number] = name
        return {"experiment_id": number}

    def post_runs_create(self, experiment_id, run_name, start_time, tags):
        assert experiment_id in self.experiments
        assert isinstance(start_time, int)
        name = f"{len(self.runs):032x}"
        info = {"run_id": name, "experiment_id": experiment_id, "run_name": run_name, "status": "RUNNING"}
        info |= {"start_time": start_time, "lifecycle_stage": "active", "artifact_uri": f"mlflow-artifacts:/{name}"}
        self.runs[name] = {"info": info, "data": {"tags": [], "metrics": []}}
        self._tag(self.runs[name]["data"], tags)
        return {"run": self.runs[name]}

    def post_runs_search(self, experiment_ids, max_results, page_token=None):
        assert max_results <= 50_000
        found = [run for run in self.runs.values() if run["info"]["experiment_id"] in experiment_ids]
        return self._page(found, "runs", page_token)

    def get_runs_get(self, run_id, **_):
        return {"run": self.runs[run_id]}

    def post_runs_log_batch(self, run_id, metrics, tags):
        data = self.runs[run_id]["data"]
        for metric in metrics:
            assert isinstance(metric["value"], float)
            assert {*metric} == {"key", "value", "timestamp", "step"}
            assert all(letter.isalnum() or letter in "_-. :/" for letter in metric["key"]), metric["key"]
            data["metrics"] = [one for one in data["metrics"] if one["key"] != metric["key"]] + [metric]
        self._tag(data, tags)
        return {}

    def post_runs_update(self, run_id, status, end_time):
        self.runs[run_id]["info"] |= {"status": status, "end_time": end_time}
        return {"run_info": self.runs[run_id]["info"]}

    def get_registered_models_get(self, name):
        return {"registered_model": self._model(name)["facts"]}

    def post_registered_models_create(self, name, tags):
        if name in self.models:
            raise Refused("RESOURCE_ALREADY_EXISTS", f"{name} exists")
        if not name or "/" in name or ":" in name:
            raise Refused("INVALID_PARAMETER_VALUE", f"{name!r} is no name")
        self.models[name] = {"facts": {"name": name, "tags": tags}, "versions": [], "aliases": {}}
        return {"registered_model": self.models[name]["facts"]}

    def get_model_versions_search(self, filter, max_results, page_token=None):
        name = filter.removeprefix("name='").removesuffix("'")
        assert "'" not in name
        assert int(max_results) <= 200_000
        found = self.models[name]["versions"] if name in self.models else []
        return self._page(found, "model_versions", page_token)

    def post_model_versions_create(self, name, source, run_id, tags, description):
        if not source.startswith(f"runs:/{run_id}/") or run_id not in self.runs:
            raise Refused("INVALID_PARAMETER_VALUE", f"Invalid model version source: '{source}'.")
        versions = self._model(name)["versions"]
        made = {"name": name, "version": str(len(versions) + 1), "source": source, "run_id": run_id, "tags": []}
        made |= {"description": description, "status": "READY"}
        self._tag(made, tags)
        versions.append(made)
        return {"model_version": made}

    def patch_model_versions_update(self, name, version, description):
        self._version(name, version)["description"] = description
        return {"model_version": self._version(name, version)}

    def post_model_versions_set_tag(self, name, version, key, value):
        self._tag(self._version(name, version), [{"key": key, "value": value}])
        return {}

    def post_registered_models_alias(self, name, alias, version):
        self._model(name)["aliases"][alias] = self._version(name, version)["version"]
        return {}

    def get_registered_models_alias(self, name, alias):
        if alias not in self._model(name)["aliases"]:
            raise Refused("INVALID_PARAMETER_VALUE", f"no alias {alias}")
        return {"model_version": self._version(name, self._model(name)["aliases"][alias])}

    def delete_registered_models_alias(self, name, alias):
        self._model(name)["aliases"].pop(alias, None)
        return {}

    def _model(self, name):
        if name not in self.models:
            raise absent(f"Registered Model with name={name}")
        return self.models[name]

    def _version(self, name, version):
        found = [one for one in self._model(name)["versions"] if one["version"] == version]
        if not found:
            raise absent(f"Model Version {version}")
        return found[0]

    def _tag(self, holder, tags):
        for tag in tags:
            if len(tag["value"]) > 5000 or {*tag} != {"key", "value"}:
                raise Refused("INVALID_PARAMETER_VALUE", f"tag {tag['key']}")
            holder["tags"] = [one for one in holder["tags"] if one["key"] != tag["key"]] + [tag]

    def _page(self, found, name, token):
        """Return two of them at a time: whoever reads one page alone misses the others."""
        begin = int(token or 0)
        page = {name: found[begin : begin + 2]}
        return page | ({"next_page_token": str(begin + 2)} if begin + 2 < len(found) else {})


@contextmanager
def serving():
    """Yield such a server's address, and what it holds."""
    holds = MLflow()

    class Handler(BaseHTTPRequestHandler):
        def _do(self):
            length, parts = int(self.headers.get("Content-Length") or 0), urlsplit(self.path)
            body = self.rfile.read(length)
            given = json.loads(body) if body else dict(parse_qsl(parts.query, keep_blank_values=True))
            try:
                if holds.token and self.headers.get("Authorization") != f"Bearer {holds.token}":
                    raise Refused("UNAUTHENTICATED", "who?", 401)
                if not parts.path.startswith(HOME):
                    raise Refused("ENDPOINT_NOT_FOUND", parts.path, 404)
                status, reply = 200, holds.answer(self.command, parts.path.removeprefix(HOME), given)
            except Refused as error:
                status, reply = error.status, error.body
            text = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = _do  # noqa: N815

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", holds
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
