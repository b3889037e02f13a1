"""The verbs of jobs: `submit`, `status`, `logs`, `stop`, `list`, and `job`, which the cluster runs."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..platform.destination import redact
from ..platform.errors import ConcertError, InputError
from ..platform.experiment import load_experiment
from .verbs import JSON, reported

if TYPE_CHECKING:
    from ..cluster.jobs import Job, Jobs

DETACHED = 130
"""Exit status of a `submit` or `logs` that was left with Ctrl-C while its job goes on."""

ADDRESS = click.option(
    "--address",
    default="http://127.0.0.1:8265",
    show_default=True,
    envvar="RAY_API_SERVER_ADDRESS",
    help="The cluster's dashboard.",
)


def _tell(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.argument("experiment", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@ADDRESS
@click.option("--resume", metavar="RUN", help="Go on with a run that ended early: its MLflow id, or latest.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Follow the job until it has ended.")
@click.option(
    "--env",
    type=click.Choice(["installed", "pip", "uv"]),
    default="installed",
    show_default=True,
    help="What the job's packages come from: what is installed on the cluster, or an environment made for the job by "
    "pip or uv, kept by the nodes for the next job.",
)
@click.option("--ship-data", is_flag=True, help="Send the dataset folder too, up to 100 MiB.")
@click.option(
    "--write",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Only write what would be sent, and how to send it.",
)
@JSON
@reported
def submit(
    experiment: str | None, overrides: tuple[str, ...], as_json: bool, address: str, wait: bool, **options: Any
) -> None:
    """Train on a Ray cluster: send the code and the experiment, follow the job, end as it ends.

    EXPERIMENT is a packaged name or the path of a YAML file in this folder. The cluster needs Python and Ray; --env
    installs the rest. Ctrl-C leaves the job running. A run that ended with its job or its cluster goes on in a new job.

    \b
    concertrl submit builtin --address http://127.0.0.1:8265 tracking.uri=http://mlflow:5000
    concertrl submit instruments dataset=data/instruments --ship-data cluster.num_env_runners=4
    concertrl submit --resume 0b6c4f2e9a4d4e0f8d0f9a1c2b3d4e5f
    """
    from . import submit as sending

    folder = options.pop("write")
    order = sending.read_order(experiment, overrides, as_json=as_json, **options)
    if folder is not None:
        click.echo(sending.write(order, folder, address))
        return
    jobs = _jobs(address)
    job = sending.send(order, jobs, _tell)
    if not wait:
        _tell(f"follow it with `{_command('logs', job, jobs)} --follow`")
        click.echo(json.dumps({"job": job, "status": "PENDING"}) if as_json else job)
        return
    _follow(jobs, job)
    _end(jobs, job, as_json)


@click.command()
@click.argument("job")
@ADDRESS
@JSON
@reported
def status(job: str, address: str, as_json: bool) -> None:
    """How a job stands, and the last line it wrote. The exit status is the job's, 0 while it goes on.

    \b
    concertrl status builtin-20261125-101500-1f0c
    """
    jobs = _jobs(address)
    _end(jobs, job, as_json)


@click.command()
@click.argument("job")
@ADDRESS
@click.option("--follow", is_flag=True, help="Go on until the job has ended, and end as it ends.")
@reported
def logs(job: str, address: str, follow: bool) -> None:
    """What a job's driver has written.

    \b
    concertrl logs builtin-20261125-101500-1f0c --follow
    """
    jobs = _jobs(address)
    if not follow:
        click.echo(jobs.log(job), nl=False)
        return
    _follow(jobs, job, sys.stdout)
    found = jobs.get(job)
    if found.exit_status:
        raise _failure(found, jobs.log(job))


@click.command()
@click.argument("job")
@ADDRESS
@JSON
@reported
def stop(job: str, address: str, as_json: bool) -> None:
    """Stop a job. Its MLflow run ends as killed, with all that it has logged.

    \b
    concertrl stop builtin-20261125-101500-1f0c
    """
    from ..cluster.jobs import POLL_S, STOP_WAIT_S

    jobs = _jobs(address)
    stopped = jobs.stop(job)
    until = time.monotonic() + STOP_WAIT_S + 10
    while not (found := jobs.get(job)).over and time.monotonic() < until:
        time.sleep(POLL_S)
    if not found.over:
        raise ConcertError(f"{job}: was asked to stop and has not yet; see `{_command('status', job, jobs)}`")
    if as_json:
        click.echo(json.dumps({"job": job, "status": found.status}))
    else:
        click.echo(f"{job}: {'stopped' if stopped else f'had ended already, {found.status.lower()}'}")


@click.command(name="list")
@ADDRESS
@JSON
@reported
def list_jobs(address: str, as_json: bool) -> None:
    """The jobs of a cluster, newest first.

    \b
    concertrl list --address http://127.0.0.1:8265
    """
    from ..cluster.inside_job import NAME

    found = _jobs(address).all()
    if as_json:
        rows = [{"job": job.job, "status": job.status, "experiment": job.metadata.get(NAME)} for job in found]
        click.echo(json.dumps({"jobs": rows}))
        return
    for job in found:
        click.echo(f"{job.job:40} {job.status.lower():10} {_lasted(job):>10}  {job.metadata.get(NAME, '')}")


@click.command(hidden=True)
@JSON
@reported
def job(as_json: bool) -> None:
    """Train what was sent with a job: what a cluster runs, in the folder that was sent.

    \b
    concertrl job
    """
    from .run_job import run_job

    run_job(Path.cwd(), as_json)


@click.command()
@click.argument("experiment", default="builtin")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--address", default=None, help="The cluster's dashboard; default: this machine.")
@JSON
@reported
def plan(experiment: str, overrides: tuple[str, ...], address: str | None, as_json: bool) -> None:
    """Tell what a run would place where, and whether it fits, before anything starts.

    \b
    concertrl plan builtin cluster.num_env_runners=8 cluster.num_learners=2 cluster.num_gpus_per_learner=1 \\
        --address http://127.0.0.1:8265
    """
    if "=" in experiment:
        experiment, overrides = "builtin", (experiment, *overrides)
    settings = load_experiment(experiment, overrides)
    from ..cluster.dashboard import Dashboard
    from ..cluster.plan import make_plan, plan_text, this_machine

    if address is None:
        nodes = this_machine(settings)
    else:
        settings = settings.model_copy(update={"cluster": settings.cluster.model_copy(update={"address": "auto"})})
        nodes = Dashboard(address).nodes
    found = make_plan(settings, nodes)
    click.echo(json.dumps(found.as_dict()) if as_json else plan_text(found))
    if not found.fits:
        raise ConcertError(f"{settings.name} cannot be placed: {found.short}")


JOB_VERBS: tuple[click.Command, ...] = (plan, submit, status, logs, stop, list_jobs, job)


def _jobs(address: str) -> Jobs:
    from ..cluster.jobs import Jobs

    return Jobs(address)


def _command(verb: str, job: str, jobs: Jobs) -> str:
    return shlex.join(["concertrl", verb, job, "--address", jobs.address])


def _follow(jobs: Jobs, job: str, out: Any = None) -> None:
    out = out or sys.stderr
    try:
        jobs.wait_for_start(job, _tell)
        for piece in jobs.follow(job):
            out.write(redact(piece))
            out.flush()
    except KeyboardInterrupt:
        _tell(
            f"\n{job} goes on; follow it with `{_command('logs', job, jobs)} --follow`, or end it with `concertrl stop`"
        )
        sys.exit(DETACHED)


def _end(jobs: Jobs, job: str, as_json: bool) -> None:
    """Tells how a job stands, and raises where it has failed."""
    from ..cluster.jobs import result_of, run_of

    found, log = jobs.get(job), jobs.log(job)
    run = run_of(log)
    facts = {"job": job, "status": found.status, "run_id": run}
    if as_json:
        click.echo(json.dumps({**result_of(log), **facts}))
    else:
        click.echo(f"{job}: {found.status.lower()} after {_lasted(found)}" + (f", MLflow run {run}" if run else ""))
    if found.over and found.exit_status:
        raise _failure(found, log)


def _failure(job: Job, log: str) -> ConcertError:
    from ..cluster.jobs import reason_of

    kind = InputError if job.exit_status == InputError.exit_status else ConcertError
    return kind(f"{job.job}: {reason_of(job, log)}")


def _lasted(job: Job) -> str:
    if job.started is None:
        return "-"
    return f"{(job.ended or time.time()) - job.started:,.0f} s"
