"""Where records go: one MLflow store, by its tracking URI.

    record (kind, data, payload) --send--> MlflowClient --> database or server, artifact store, model registry

Only `MlflowClient` is used: no global active run, nothing to leak between threads. Every kind can be sent twice with
the effect of once when the second is sent with `again=True`. Anything that goes wrong is an `UndeliveredError`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import ConcertError

KEY = "concertrl.key"
"""Tag with an id that we chose, so that what was created before its answer was lost is found again."""

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
}
"""Set where the user has not: the spool is the retry, and it knows what was sent; nothing else is printed or sent."""

PROBE_S = 3.0
"""A server that has not answered by then is down."""

STORE_PROBE_S = 15.0
"""The same for the database behind a server that has answered, which may be asked for the first time."""

FAILING = 500
"""From this status on a server says that the fault is its own, such as a database that is gone."""

PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_CREDENTIALS = re.compile(r"//[^/\s]*@")


CHALLENGER = "challenger"
"""Alias of the version that came last and has not been decided about."""


class UndeliveredError(ConcertError):
    """MLflow did not take a record. The message is one line without credentials."""


def redact(text: str) -> str:
    """The text with the user and password of every URI in it replaced by `***`."""
    return _CREDENTIALS.sub("//***@", text)


def local_uri(folder: Path) -> str:
    """The SQLite database of a tracking folder."""
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"


@contextmanager
def quiet() -> Iterator[None]:
    """Hides what MLflow and its dependencies say about themselves, and undoes what they do to the root logger."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:], root.level = handlers, level
        logging.disable(disabled)


class Destination:
    """An MLflow store at `uri`; `folder` is the tracking folder, for the database and artifacts of our own."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.folder = uri, folder
        self._local = uri == local_uri(folder)
        self._history: dict[tuple[str, str], dict[int, set[tuple[int, float]]]] = {}
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)

    @cached_property
    def client(self) -> Any:
        """The MLflow client. The folder's own database is made before its first use, by one process at a time."""
        if not self._local:
            return self._connect()
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "mlflow.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return self._connect()

    def reachable(self) -> bool:
        """Whether the store answers at the address, within seconds. A local store always does.

        A server that answers while the database behind it does not is down too.
        """
        parts = urlsplit(self.uri)
        scheme = parts.scheme.partition("+")[0]
        if scheme in ("http", "https"):
            return self._answers()
        if not parts.hostname or scheme not in PORTS:
            return True
        try:
            socket.create_connection((parts.hostname, parts.port or PORTS[scheme]), PROBE_S).close()
        except OSError:
            return False
        return True

    def send(
        self, run_id: str | None, kind: str, data: Mapping[str, Any], payload: Path | None, *, again: bool
    ) -> str | None:
        """Writes one record to a run. Returns what a later record or the user needs: a run id, a model URI.

        Raises:
            UndeliveredError: whatever went wrong, in one line.
        """
        try:
            if kind == "start":
                return self._start(data, again=again)
            return getattr(self, f"_{kind}")(run_id, data, payload, again=again)
        except Exception as error:  # an artifact store may raise anything; a run must not die of it
            raise UndeliveredError(reason(error)) from error

    def _start(self, data: Mapping[str, Any], *, again: bool) -> str:
        experiment = self._experiment(data["experiment"])
        key = data["tags"][KEY]
        if again:
            found = self.client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
            if found:
                self.client.update_run(found[0].info.run_id, "RUNNING")
                return found[0].info.run_id
        run = self.client.create_run(experiment, data["time"], data["tags"], data["name"])
        return run.info.run_id

    def _reopen(self, run_id: str, data: Mapping[str, Any], payload: None, *, again: bool) -> None:
        self.client.update_run(run_id, "RUNNING")

    def _metrics(self, run_id: str, data: Mapping[str, Any], payload: None, *, again: bool) -> None:
        from mlflow.entities import Metric

        step, when = data["step"], data["time"]
        values = data["values"]
        if again or data["resumed"]:
            values = {
                key: value
                for key, value in values.items()
                if not self._has(run_id, key, step, None if data["resumed"] else (when, value))
            }
        if values:
            self.client.log_batch(run_id, metrics=[Metric(key, value, when, step) for key, value in values.items()])
        for key, value in values.items():
            if (run_id, key) in self._history:
                self._history[run_id, key].setdefault(step, set()).add((when, value))

    def _has(self, run_id: str, key: str, step: int, point: tuple[int, float] | None) -> bool:
        """Whether the server has this point of a metric; None: any point of the step."""
        if (run_id, key) not in self._history:
            known: dict[int, set[tuple[int, float]]] = {}
            for metric in self.client.get_metric_history(run_id, key):
                known.setdefault(metric.step, set()).add((metric.timestamp, metric.value))
            self._history[run_id, key] = known  # only now: a server that dies meanwhile has told nothing
        points = self._history[run_id, key].get(step, set())
        return bool(points) if point is None else point in points

    def _params(self, run_id: str, data: Mapping[str, Any], payload: None, *, again: bool) -> None:
        from mlflow.entities import Param, RunTag

        have = self.client.get_run(run_id).data.params
        values = data["values"]
        changed = [RunTag(f"resumed.{key}", value) for key, value in values.items() if have.get(key, value) != value]
        new = [Param(key, value) for key, value in values.items() if key not in have]
        for start in range(0, max(len(new), len(changed)), 100):
            self.client.log_batch(run_id, params=new[start : start + 100], tags=changed[start : start + 100])

    def _tags(self, run_id: str, data: Mapping[str, Any], payload: None, *, again: bool) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in data["values"].items()])

    def _artifact(self, run_id: str, data: Mapping[str, Any], payload: Path, *, again: bool) -> None:
        log = self.client.log_artifacts if payload.is_dir() else self.client.log_artifact
        log(run_id, str(payload), data["folder"])

    def _dataset(self, run_id: str, data: Mapping[str, Any], payload: None, *, again: bool) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        context = [InputTag("mlflow.data.context", data["context"])]
        self.client.log_inputs(run_id, datasets=[DatasetInput(Dataset(**data["dataset"]), context)])

    def _model(self, run_id: str, data: Mapping[str, Any], payload: Path, *, again: bool) -> str:
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        client, tag, name = self.client, {KEY: data["key"]}, data["name"]
        run = client.get_run(run_id)
        model = self._logged_model(run, data)
        described = Model.load(str(payload))
        described.run_id, described.model_id = run_id, model.model_id
        described.save(str(payload / "MLmodel"))
        client.log_model_artifacts(model.model_id, str(payload))
        client.finalize_logged_model(model.model_id, "READY")
        if model.model_id not in [output.model_id for output in run.outputs.model_outputs]:
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, data["step"])])
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        versions = client.search_model_versions(f"name = '{name}'") if again else []
        version = next((one for one in versions if one.tags.get(KEY) == data["key"]), None)
        version = version or client.create_model_version(
            name, model.artifact_location, run_id, tags=tag, model_id=model.model_id
        )
        for alias in {data["alias"], CHALLENGER}:  # a new version is a challenger until `promote` has decided
            client.set_registered_model_alias(name, alias, str(version.version))
        return f"models:/{name}/{version.version}"

    def _logged_model(self, run: Any, data: Mapping[str, Any]) -> Any:
        experiment, tag = run.info.experiment_id, {KEY: data["key"]}
        found = self.client.search_logged_models([experiment], f"tags.`{KEY}` = '{data['key']}'", max_results=1)
        return found[0] if found else self.client.create_logged_model(experiment, data["folder"], run.info.run_id, tag)

    def _end(self, run_id: str, data: Mapping[str, Any], payload: None, *, again: bool) -> None:
        self.client.set_terminated(run_id, data["status"], data["time"])

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            place = (self.folder / "artifacts").as_uri() if self._local else None
            try:
                return self.client.create_experiment(name, place, {"mlflow.experimentKind": "custom_model_development"})
            except MlflowException:  # another process made it in between
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise ConcertError(f'experiment "{name}" was deleted there; restore it or set tracking.experiment')
        return found.experiment_id

    def _connect(self) -> Any:
        with quiet():
            from mlflow import MlflowClient

            client = MlflowClient(self.uri)
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
        return client

    def _answers(self) -> bool:
        with quiet():
            from mlflow.exceptions import MlflowException
            from mlflow.utils.credentials import get_default_host_creds
            from mlflow.utils.rest_utils import http_request

        def ask(endpoint: str, seconds: float, **options: Any) -> Any:
            creds = get_default_host_creds(self.uri)
            return http_request(creds, endpoint, "GET", 0, timeout=seconds, raise_on_status=False, **options)

        try:
            ask("/health", PROBE_S)
            store = ask("/api/2.0/mlflow/experiments/search", STORE_PROBE_S, params={"max_results": 1})
        except MlflowException:
            return False
        return store.status_code < FAILING


def reason(error: Exception) -> str:
    """An error in one line, without credentials."""
    lines = str(error).strip().splitlines()
    return redact(lines[0])[:300] if lines else type(error).__name__
