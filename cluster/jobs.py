"""Runs as Ray jobs: send one, follow it, ask after it, stop it.

parcel (folder)  --submit-->  Ray's dashboard  -->  supervisor on the cluster  -->  `concertrl job`, the driver
log of the driver  --follow-->  lines, until the job has ended  -->  Ending: exit status and reason
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..platform.errors import ConcertError
from .dashboard import Dashboard, NotThereError

STOP_WAIT_S = 30
"""What a stopped driver is given to end its MLflow run, in place of Ray's 3 seconds."""

POLL_S, PATIENCE_S = 1.0, 120.0
"""How often a job that has not started is asked after, and how long a dashboard may be away while a job is followed."""

RUN = re.compile(r"MLflow run ([\w-]+)")
ERROR_LINE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Exit)\b.*")
"""The last line of a traceback."""

LONGEST_REASON = 400

TALKERS = ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")
"""Loggers that tell on the terminal what Ray's client does."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A job as it stands. Times are in seconds since 1970.

    `status` is PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; `exit_code` is the driver's, where it has ended.
    """

    job: str
    status: str
    message: str
    started: float | None
    ended: float | None
    exit_code: int | None
    metadata: dict[str, str]

    @property
    def over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def exit_status(self) -> int:
        """0: done; 2: the driver could not use its input; 1: it failed or was stopped."""
        return 0 if self.status == "SUCCEEDED" else 2 if self.exit_code == 2 else 1


class Jobs:
    """The jobs of the cluster whose dashboard is at an address.

    Raises:
        InputError, ConcertError: see `Dashboard`.
    """

    def __init__(self, address: str) -> None:
        self.dashboard = Dashboard(address)
        self.address = self.dashboard.address

    @cached_property
    def _client(self) -> Any:
        """Ray's own client, for what is more than one request; importing it takes seconds."""
        from ray.job_submission import JobSubmissionClient

        for name in TALKERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with _one_line(self.address):
            return JobSubmissionClient(self.address, headers=self.dashboard.headers)

    def submit(
        self,
        folder: Path,
        entrypoint: str,
        *,
        job: str,
        metadata: dict[str, str],
        runtime_env: dict[str, Any],
        **needs: Any,
    ) -> str:
        """Sends a packed folder and starts it. Gives the job's id.

        Args:
            needs: what Ray reserves for the driver: `entrypoint_num_cpus`, `entrypoint_num_gpus`, ...
        """
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
        sent = {"working_dir": str(folder), "env_vars": environment, **runtime_env}
        client = self._client
        with _one_line(self.address):
            return client.submit_job(
                entrypoint=entrypoint, submission_id=job, runtime_env=sent, metadata=metadata, **needs
            )

    def get(self, job: str) -> Job:
        """One job.

        Raises:
            ConcertError: there is none of this id.
        """
        return _job(self._ask(job))

    def all(self) -> list[Job]:
        """The submitted jobs, newest first."""
        found = [_job(facts) for facts in self.dashboard.get("/api/jobs/") if facts.get("submission_id")]
        return sorted(found, key=lambda job: job.started or 0.0, reverse=True)

    def log(self, job: str) -> str:
        """All that the driver has written."""
        return self._ask(job, "/logs")["logs"] or ""

    def stop(self, job: str) -> bool:
        """Asks a job to stop; False where it had ended."""
        return bool(self._ask(job, "/stop", method="POST")["stopped"])

    def _ask(self, job: str, page: str = "", method: str = "GET") -> Any:
        try:
            return self.dashboard.get(f"/api/jobs/{quote(job, safe='')}{page}", method)
        except NotThereError:
            raise ConcertError(f"no job {job} at {self.address}; `concertrl list` names them") from None

    def wait_for_start(self, job: str, say: Say) -> Job:
        """Waits until the job runs or is over, and says what it waits for."""
        told = ""
        while True:
            found = self.get(job)
            if found.status != "PENDING":
                return found
            if found.message != told:
                say(f"{found.status.lower()}: {found.message}")
                told = found.message
            time.sleep(POLL_S)

    def follow(self, job: str) -> Iterator[str]:
        """What the driver writes, in pieces from its beginning, until the job is over.

        A dashboard that goes away is asked again, and what it told before is not told twice.

        Raises:
            ConcertError: it stayed away.
        """
        seen, lost_at = 0, None
        loop = asyncio.new_event_loop()
        try:
            while True:
                place, pieces = 0, self._client.tail_job_logs(job)
                try:
                    while (piece := loop.run_until_complete(anext(pieces, None))) is not None:
                        place += len(piece)
                        if place > seen:
                            yield piece[len(piece) - (place - seen) :]
                            seen = place
                    lost_at = None
                    if self.get(job).over:
                        return
                except (OSError, RuntimeError, ConcertError, _client_error()) as error:
                    lost_at = lost_at or time.monotonic()
                    if time.monotonic() - lost_at > PATIENCE_S:
                        raise ConcertError(
                            f"{self.address}: stopped answering; job {job} may go on ({error})"
                        ) from None
                time.sleep(POLL_S)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


@contextmanager
def _one_line(address: str) -> Iterator[None]:
    """Turns what Ray's client raises into one line."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:  # the errors of requests are OSErrors
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConcertError(f"{address}: {line[:LONGEST_REASON]}") from None


def new_job_id(name: str) -> str:
    """An id that tells the experiment and when it was sent."""
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def run_of(log: str) -> str | None:
    """The MLflow run that a driver's log names."""
    found = RUN.search(log)
    return found.group(1) if found else None


def result_of(log: str) -> dict[str, Any]:
    """The JSON object that ends the log of a run which was asked for one; empty where there is none."""
    for line in reversed(log.splitlines()):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            return found if isinstance(found, dict) else {}
    return {}


def reason_of(job: Job, log: str) -> str:
    """Why a job is not done, in one line: our own error, the end of a traceback, or what Ray says."""
    if job.status == "STOPPED":
        return "it was stopped"
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("concertrl: "):
            return line.removeprefix("concertrl: ")[:LONGEST_REASON]
    for line in reversed(lines):
        if ERROR_LINE.match(line):
            missing = "; submit with --env pip or --env uv where the cluster lacks a package"
            return line[:LONGEST_REASON] + (missing if line.startswith("ModuleNotFoundError") else "")
    if job.exit_code is not None and job.exit_code < 0:
        return f"its driver was killed by signal {-job.exit_code}"
    return " ".join(job.message.split())[:LONGEST_REASON]


def _job(facts: Mapping[str, Any]) -> Job:
    started, ended = (facts[key] / 1000 if facts.get(key) else None for key in ("start_time", "end_time"))
    code, metadata = facts.get("driver_exit_code"), facts.get("metadata") or {}
    return Job(facts["submission_id"], facts["status"], facts.get("message") or "", started, ended, code, metadata)


def _client_error() -> type[Exception]:
    from aiohttp import ClientError

    return ClientError
