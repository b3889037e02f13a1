"""A run in MLflow, whatever its server does in the meantime.

    start_run(settings) -> Run --records--> Outbox --server up--> MLflow
                                                   --down------> spool on disk --later--> MLflow

`Run` turns what a training loop knows into records; `outbox.py` delivers them; `spool.py` keeps those that wait;
`destination.py` speaks to MLflow. Times are taken when something is logged, so that it is the same point of the same
curve when it arrives late.
"""

from __future__ import annotations

import getpass
import json
import logging
import math
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .destination import KEY, Destination, local_uri, redact
from .errors import InputError
from .limits import MAX_KEY, MAX_PARAM, MAX_TAG, cut, flatten
from .machine import Sampler
from .outbox import Outbox, deliver
from .pyfunc import save_team
from .settings import TrackingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.models import ModelSignature

LOCAL = "local-"
"""Begins the id of a run that the server does not know yet."""

MAX_DIGEST, METRICS_A_CALL = 16, 1000

_log = logging.getLogger(__name__)


def tracking_uri(settings: TrackingSettings) -> str:
    """The settings' URI, or that of the SQLite database in their folder."""
    return settings.uri or local_uri(Path(settings.folder))


def start_run(
    settings: TrackingSettings,
    *,
    name: str,
    tags: Mapping[str, str],
    run_id: str | None = None,
    since: float | None = None,
) -> Run:
    """Starts a run, or goes on with `run_id`; first delivers what earlier runs in the folder could not.

    While the server is down the run has a local id and waits on disk; `run_id` may be such an id. `since` is when a run
    that goes on began, in seconds of `time.time`: what the machine does is logged at the seconds since then.

    Raises:
        InputError: MLflow reserves the alias or does not know the URI, the folder cannot be written, or the server
            answers and refuses.
    """
    if settings.alias.lower() == "latest" or re.fullmatch(r"v\d+", settings.alias, re.IGNORECASE):
        raise InputError(f"tracking.alias={settings.alias}: MLflow reserves this alias; take another, such as current")
    folder = Path(settings.folder).resolve()
    try:
        (folder / "spool").mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); set tracking.folder") from None
    earlier = deliver(folder, settings.uri)
    if earlier.delivered:
        _log.warning("%d records of earlier runs were delivered to MLflow", earlier.delivered)
    if earlier.left:
        _log.warning("%d records of earlier runs wait in %s: %s", earlier.left, earlier.where, earlier.reason)
    return Run(settings, folder, name=name, tags=tags, run_id=run_id, since=since)


class Run:
    """One MLflow run. Use as a context manager: it ends as FINISHED, FAILED (an exception) or KILLED (an interrupt).

    Every method may be called from any thread, returns soon, and never raises because of the server.

    Attributes:
        dropped: metric values that were not finite and so were not logged.
        shortened: parameters and tags that were shortened to MLflow's limits.
    """

    def __init__(
        self,
        settings: TrackingSettings,
        folder: Path,
        *,
        name: str,
        tags: Mapping[str, str],
        run_id: str | None = None,
        since: float | None = None,
    ) -> None:
        self.dropped, self.shortened = 0, 0
        self._lock = threading.RLock()
        self._resumed = run_id is not None
        destination = Destination(tracking_uri(settings), folder)
        self._outbox = Outbox(destination, folder / "spool", run_id or LOCAL + uuid.uuid4().hex)
        self._model: Path | None = None
        self._start(settings, name, tags)
        self._started = since or time.time()
        self._sampler = Sampler(self.log_machine) if settings.system_metrics else None

    @property
    def run_id(self) -> str:
        """The server's id of the run, or a local one while the server has not taken it."""
        return self._outbox.run_id or self._outbox.name

    @property
    def undelivered(self) -> Path | None:
        """The folder of what the server does not have, None when it has everything."""
        return self._outbox.home / self._outbox.name if self._outbox.undelivered else None

    @property
    def undelivered_count(self) -> int:
        """Records that the server does not have."""
        return self._outbox.undelivered

    @property
    def model_uri(self) -> str | None:
        """The registered team, or the folder of the saved team while the server does not have it."""
        return self._outbox.results.get("model") or (str(self._model) if self._model else None)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Logs settings by dotted path. On a resumed run MLflow keeps the first value; a new one is tagged."""
        flat = flatten(values)
        self.shortened += sum(value.endswith("…") and len(value) == MAX_PARAM for value in flat.values())
        self._write("params", {"values": flat})

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Logs numbers at a step, in one call to the server. Those not finite are dropped and counted.

        On a resumed run a step that the server already has of a metric is not logged again.
        """
        finite = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        self.dropped += len(values) - len(finite)
        now, keys = _now(), list(finite)
        for start in range(0, len(keys), METRICS_A_CALL):
            part = {key: finite[key] for key in keys[start : start + METRICS_A_CALL]}
            self._write("metrics", {"values": part, "step": int(step), "time": now, "resumed": self._resumed})

    def log_machine(self, values: Mapping[str, float]) -> None:
        """Logs what a machine is doing, at the second of the run."""
        now = time.time()
        data = {"values": dict(values), "step": int(now - self._started), "time": int(now * 1000)}
        self._write("metrics", {**data, "resumed": self._resumed})

    def tag(self, **values: str) -> None:
        """Sets tags. Credentials in URIs are blotted out."""
        self._write("tags", {"values": self._tags(values)})

    def log_text(self, text: str, path: str) -> None:
        """Logs a text as the artifact `path`, such as `config.yaml` or `report/index.html`."""
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / Path(path).name
            file.write_text(text, "utf-8")
            self.log_file(file, str(Path(path).parent))

    def log_figure(self, figure: Figure, path: str) -> None:
        """Logs a matplotlib figure as the image `path`."""
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / Path(path).name
            figure.savefig(file)
            self.log_file(file, str(Path(path).parent))

    def log_file(self, local: str | Path, folder: str = "") -> None:
        """Logs a file into an artifact folder."""
        self._write("artifact", {"folder": None if folder in ("", ".") else folder}, Path(local))

    def log_folder(self, local: str | Path, folder: str = "") -> None:
        """Logs what is in a local folder into an artifact folder."""
        self.log_file(local, folder)

    def log_dataset(
        self, name: str, digest: str, source: str, profile: Mapping[str, Any], *, context: str = "training"
    ) -> None:
        """Logs a data set as an input of the run.

        The first 16 characters of `digest` are kept; `profile` is counts and ranges, such as `num_rows`.
        """
        dataset = {
            "name": cut(name, 500),
            "digest": digest[:MAX_DIGEST],
            "source_type": "local" if Path(source).exists() else "generated",
            "source": json.dumps({"uri": redact(source)}),
            "profile": json.dumps(dict(profile)),
        }
        self._write("dataset", {"dataset": dataset, "context": context})

    def log_team(
        self,
        folder: str | Path,
        *,
        code_path: str | Path,
        signature: ModelSignature,
        input_example: Any,
        registered_name: str,
        alias: str,
        pip_requirements: Sequence[str],
        step: int = 0,
    ) -> str:
        """Saves a team's folder as a pyfunc, registers it, and points the alias at the new version.

        `code_path` is a file that calls `mlflow.models.set_model` on a `PythonModel`, which finds the folder under
        `context.artifacts["team"]`. The example is run through the model here, so that a broken one is not registered.
        Returns the model's URI; while the server is down, the folder of the saved model, which loads just as well.

        Raises:
            ConcertError: the model does not save, load or serve its own example.
        """
        with tempfile.TemporaryDirectory() as place:
            saved = Path(place) / "team"
            save_team(saved, Path(folder), Path(code_path), signature, input_example, pip_requirements)
            data = {"key": uuid.uuid4().hex, "name": registered_name, "alias": alias, "folder": "team", "step": step}
            with self._lock:
                self._outbox.results.pop("model", None)
                self._model = self._write("model", data, saved)
        return str(self.model_uri)

    def close(self, status: str = "FINISHED") -> None:
        """Ends the run as FINISHED, FAILED or KILLED, after a last attempt to deliver what waits."""
        if self._sampler:
            self._sampler.stop()
        with self._lock:
            self._write("end", {"status": status, "time": _now()})
            if not self._outbox.spool:
                return
            if self._outbox.undelivered and self._outbox.destination.reachable():
                self._outbox.drain(refused=True)
            if self._outbox.undelivered:
                _log.warning(
                    "%d records of this run wait in %s (%s); the next run in this folder delivers them",
                    self._outbox.undelivered,
                    self.undelivered,
                    self._outbox.reason,
                )
            self._outbox.spool.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = kind is not None and not issubclass(kind, Exception)
        self.close("KILLED" if interrupted else "FAILED" if kind else "FINISHED")

    def _start(self, settings: TrackingSettings, name: str, tags: Mapping[str, str]) -> None:
        box = self._outbox
        if not box.adopt() and not box.name.startswith(LOCAL):
            box.run_id = box.name
        if not box.destination.reachable():
            box.down(f"{redact(box.destination.uri)} does not answer")
        if box.run_id or box.undelivered:
            self._write("reopen", {})
            self.tag(**tags)
        else:
            known = {"mlflow.user": _user(), "mlflow.source.name": "concertrl", "mlflow.source.type": "LOCAL"}
            tagged = {**known, **self._tags(tags), KEY: box.name}
            data = {"experiment": settings.experiment, "name": name, "tags": tagged, "time": _now()}
            self._write("start", data, again=self._resumed)
        if box.refuses("start", "reopen"):
            box.abandon()
            raise InputError(f"MLflow at {redact(box.destination.uri)}: {box.reason}")

    def _write(
        self, kind: str, data: dict[str, Any], payload: Path | None = None, *, again: bool = False
    ) -> Path | None:
        with self._lock:
            return self._outbox.write(kind, data, payload, again=again)

    def _tags(self, values: Mapping[str, str]) -> dict[str, str]:
        self.shortened += sum(len(value) > MAX_TAG for value in values.values())
        return {cut(key, MAX_KEY, "..."): cut(redact(str(value)), MAX_TAG) for key, value in values.items()}


def _now() -> int:
    return int(time.time() * 1000)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
