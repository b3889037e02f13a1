"""From what was typed to a job on its way.

words  ->  experiment, validated here  ->  tracking that outlives the job  ->  parcel  ->  Ray's dashboard
"""

from __future__ import annotations

import json
import shlex
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..cluster.inside_job import CODE, COMMAND, NAME
from ..cluster.jobs import Jobs, new_job_id
from ..cluster.parcel import ENTRYPOINT, check_source, pack, pack_resume, requirements, within
from ..platform.code_version import code_version
from ..platform.destination import redact
from ..platform.errors import InputError
from ..platform.experiment import load_experiment, override
from ..platform.settings import Experiment
from .run_folder import check_harmless, check_name


@dataclass(frozen=True)
class Order:
    """A run that is to become a job. `workspace` is the folder that it is sent from.

    `resume` is the run that goes on, with the overrides `words`; of `experiment` only these count then.
    """

    experiment: Experiment
    command: str
    workspace: Path
    env: str
    ship_data: bool
    as_json: bool
    resume: str | None = None
    words: tuple[str, ...] = ()

    @property
    def entrypoint(self) -> str:
        return f"{ENTRYPOINT} --json" if self.as_json else ENTRYPOINT


def read_order(
    source: str | None,
    overrides: tuple[str, ...],
    *,
    resume: str | None = None,
    env: str,
    ship_data: bool,
    as_json: bool,
) -> Order:
    """What was typed, as a run.

    Raises:
        InputError: the experiment cannot be used, or its file lies outside the workspace; a run that goes on was given
            what would make it another one.
    """
    if resume is not None:
        return _read_resumed(resume, (*([source] if source else []), *overrides), env=env, as_json=as_json)
    source = source or "builtin"
    if "=" in source:  # no experiment named: the first word is an override
        source, overrides = "builtin", (source, *overrides)
    workspace = Path.cwd()
    check_source(source, workspace)
    words = [word for word in (source, *overrides) if "tracking.uri" not in word]
    command = redact(shlex.join(["concertrl", "submit", *words]))
    experiment = load_experiment(source, overrides)
    return Order(experiment, command, workspace, env, ship_data, as_json)


def _read_resumed(resume: str, words: tuple[str, ...], *, env: str, as_json: bool) -> Order:
    if named := next((word for word in words if "=" not in word), None):
        raise InputError(f"{named}: a resumed run has its experiment; leave it out")
    check_name(resume)
    check_harmless(words)
    experiment = override(Experiment(name="resumed"), words)
    shown = [word for word in words if "tracking.uri" not in word]
    command = redact(shlex.join(["concertrl", "submit", "--resume", resume, *shown]))
    return Order(experiment, command, Path.cwd(), env, False, as_json, resume, words)


def write(order: Order, folder: Path, address: str) -> str:
    """Packs what would be sent, and gives the command that sends it."""
    _pack(order, folder)
    environment = _environment(order, metadata.version("ray"))
    more = ["--runtime-env-json", json.dumps(environment)] if environment else []
    more += ["--metadata-json", json.dumps(_metadata(order))]
    words = ["ray", "job", "submit", "--address", address, "--working-dir", str(folder), *more, "--"]
    return f"{shlex.join(words)} {order.entrypoint}"


def send(order: Order, jobs: Jobs, say: Callable[[str], None]) -> str:
    """Packs and submits the run; gives the job's id.

    Raises:
        InputError: a path of the experiment cannot be sent, or the run would be lost with the job.
        ConcertError: the cluster did not take it.
    """
    order = _tracked(order, jobs)
    job, cluster = new_job_id(order.experiment.name), order.experiment.cluster
    needs = {"entrypoint_num_cpus": cluster.num_cpus_driver, "entrypoint_num_gpus": cluster.num_gpus_driver}
    with tempfile.TemporaryDirectory(prefix="concertrl-job-") as place:
        folder = Path(place) / "job"
        _pack(order, folder)
        jobs.submit(
            folder,
            order.entrypoint,
            job=job,
            metadata=_metadata(order),
            runtime_env=_environment(order, jobs.dashboard.ray_version),
            **{name: value for name, value in needs.items() if value},
        )
    say(f"job {job} at {jobs.address}")
    return job


def _pack(order: Order, folder: Path) -> None:
    if order.resume is None:
        pack(order.experiment, folder, order.workspace, ship_data=order.ship_data)
        return
    tracking = f"tracking.folder={order.experiment.tracking.folder}"
    pack_resume(order.resume, [*order.words, tracking], folder)


def _metadata(order: Order) -> dict[str, str]:
    return {NAME: order.experiment.name, COMMAND: order.command, CODE: code_version()}


def _environment(order: Order, ray_version: str) -> dict[str, Any]:
    return {} if order.env == "installed" else {order.env: requirements(ray_version)}


def _tracked(order: Order, jobs: Jobs) -> Order:
    """The run with a tracking folder that is here, where the cluster is this machine.

    Elsewhere a folder of its own is no place for a run: the job's folder is deleted, and its machine may be.
    """
    tracking = order.experiment.tracking
    if Path(tracking.folder).is_absolute():
        return order
    here = within(tracking.folder, order.workspace, "tracking.folder")
    if jobs.dashboard.nodes[0].host == socket.gethostname():
        tracking = tracking.model_copy(update={"folder": str(here)})
        experiment = order.experiment.model_copy(update={"tracking": tracking})
        return replace(order, experiment=experiment)
    if tracking.uri is None and order.resume is None:  # the run that goes on has its own
        raise InputError(
            "tracking.uri: name the MLflow server, such as tracking.uri=http://HOST:5000, or give an absolute "
            "tracking.folder that outlives the cluster's machines"
        )
    return order
