"""The command line: `concertrl VERB ...`, or `python -m concertrl VERB ...`.

Exit status 0: done; 1: failed, with the reason in one line; 2: input that cannot be used, with what and where.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from . import __version__
from .cluster.inside_job import COMMAND, job_metadata
from .experiments.benchmark_verbs import fusing, fusion
from .experiments.deploy_verbs import manifests
from .experiments.guard import guarded, note
from .experiments.job_verbs import JOB_VERBS
from .experiments.registry_verbs import compare, promote
from .experiments.sweep_verbs import sweep
from .experiments.verbs import JSON, evaluate, reported
from .platform.destination import local_uri, redact
from .platform.errors import ConcertError, InputError
from .platform.experiment import load_experiment, packaged_experiments, settings_help
from .platform.settings import Experiment


class Verbs(click.Group):
    """Says a mistake in the command itself as every other one: in one line, with exit status 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.UsageError as error:
            if "\n" in error.message:  # the whole help, where a verb is missing
                error.show()
            else:
                where = error.ctx.command_path if error.ctx else "concertrl"
                click.echo(f"concertrl: {error.format_message().rstrip('.')}; see `{where} --help`", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("concertrl: stopped", err=True)
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="concertrl")
def main() -> None:
    """Train a team of recommender agents by reinforcement learning.

    \b
    concertrl train                                  the default team on the built-in world
    concertrl ingest movielens PATH --out data/ml    logs into a dataset
    concertrl train movielens dataset=data/ml        a team from that dataset
    concertrl sweep movielens dataset=data/ml        the best of twelve
    concertrl ui                                     look at the runs
    """


@main.command()
@click.argument("source")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the dataset.")
@click.option("--map", "mapping", multiple=True, metavar="FIELD=COLUMN", help="Which column holds a field; repeatable.")
@click.option(
    "--graph", type=click.Path(path_type=Path), help="A knowledge graph of the items: a folder or an edges table."
)
@JSON
@reported
def ingest(source: str, path: Path, out: Path, mapping: tuple[str, ...], graph: Path | None, as_json: bool) -> None:
    """Read raw logs into a dataset folder.

    SOURCE is movielens, amazon, csv, parquet or jsonl. Rows that cannot be used are kept in rejected.parquet.

    \b
    concertrl ingest movielens ml-latest-small --out data/ml --graph kg-mkr/movie
    concertrl ingest csv clicks.csv --out data/mine --map user_id=customer --map item_id=sku --map timestamp=time
    """
    from .platform.ingest import ingest as read

    def pair(text: str) -> tuple[str, str]:
        field, equals, column = text.partition("=")
        if not (field and equals and column):
            raise InputError(f"--map {text}: write FIELD=COLUMN, such as user_id=customer")
        return field, column

    terminal, shown = sys.stderr.isatty(), False

    def progress(rows: int, done: int, total: int) -> None:
        nonlocal shown
        shown = True
        share = f"{100 * done / total:3.0f} %  " if total else ""
        click.echo(f"\r{share}{rows:,} rows" if terminal else f"{share}{rows:,} rows", err=True, nl=not terminal)

    try:
        found = read(
            source,
            path,
            out,
            mapping=dict(map(pair, mapping)) or None,
            progress=progress,
            on_reject=lambda line: click.echo(line, err=True),
            graph=graph,
        )
    finally:
        if terminal and shown:
            click.echo("", err=True)  # an error starts on a line of its own
    if as_json:
        click.echo(json.dumps(found))
        return
    span = f", {found['first'][:10]} to {found['last'][:10]}" if found["first"] else ""
    click.echo(
        f"{found['interactions']:,} interactions of {found['users']:,} users, {found['items']:,} items, "
        f"{found['edges']:,} edges{span}; {found['rejected']:,} rows rejected\n{found['path']}"
    )


def _experiment(source: str, overrides: tuple[str, ...]) -> tuple[Experiment, str]:
    if "=" in source:  # no experiment named: the first word is an override
        source, overrides = "builtin", (source, *overrides)
    words = [part for part in (source, *overrides) if "tracking.uri" not in part]
    typed = redact(shlex.join(["concertrl", "train", *words]))
    return load_experiment(source, overrides), job_metadata().get(COMMAND, typed)


@main.command(epilog=settings_help())
@click.argument("experiment", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--resume", metavar="RUN", help="Go on with a run that ended early: its MLflow id, or latest.")
@click.option(
    "--overrides",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with more KEY=VALUE, one a line, such as a tracking.uri with a password, which nobody reads in the "
    "list of processes then.",
)
@JSON
@reported
@guarded
def train(
    experiment: str | None, overrides: tuple[str, ...], resume: str | None, file: Path | None, as_json: bool
) -> None:
    """Train a team, judge it against every yardstick, and register it.

    EXPERIMENT is a packaged name or the path of a YAML file. Any key can be set by its dotted path. A run that is
    resumed keeps its experiment; train.iterations, train.checkpoint, cluster and tracking can be set.

    \b
    concertrl train
    concertrl train movielens dataset=data/ml seed=1 train.iterations=100
    concertrl train --resume latest
    """
    more = file.read_text("utf-8").splitlines() if file else []
    note(more=more)
    words = [*([experiment] if experiment else []), *overrides, *more]
    if resume is not None and (named := next((word for word in words if "=" not in word), None)):
        raise InputError(f"{named}: a resumed run has its experiment; leave it out")
    settings, command = ("builtin", "") if resume else _experiment(experiment or "builtin", (*overrides, *more))
    from .experiments.progress import Narrator
    from .experiments.train import train as run

    narrator = Narrator.on_terminal(results=not as_json)
    result = run(settings, narrator=narrator, command=command, resume=resume, overrides=words if resume else ())
    if as_json:
        click.echo(json.dumps(result.as_dict()))


main.add_command(evaluate)
for verb in JOB_VERBS:
    main.add_command(verb)
main.add_command(sweep)
main.add_command(promote)
main.add_command(manifests)
main.add_command(compare)


@main.group()
def benchmark() -> None:
    """Measure ConcertRL against its peers, side by side in one run."""


@benchmark.command()
@click.option(
    "--rounds", default=5, show_default=True, type=click.IntRange(1), help="Interleaved rounds; medians are reported."
)
@JSON
@reported
def throughput(rounds: int, as_json: bool) -> None:
    """Sampling and training against stock RLlib and plain PyTorch, one process, one thread.

    \b
    concertrl benchmark throughput --rounds 7
    """
    from .experiments.benchmark_throughput import measure, report

    found = measure(rounds, lambda line: click.echo(line, err=True))
    click.echo(json.dumps(found.as_dict()) if as_json else report(found))


@benchmark.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--dataset", required=True, type=click.Path(path_type=Path), help="A dataset folder.")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(2), help="Seeds, paired between the arms.")
@JSON
@reported
def pretrain(overrides: tuple[str, ...], dataset: Path, seeds: int, as_json: bool) -> None:
    """Joint pretraining against each task alone, on held-out interactions of a dataset.

    Keys under agents can be set, such as agents.pretrain.tasks or agents.pretrain.balance.

    \b
    concertrl benchmark pretrain --dataset data/instruments
    concertrl benchmark pretrain --dataset data/ml agents.pretrain.balance=uncertainty
    """
    settings = load_experiment("builtin", overrides).agents
    from .experiments.benchmark_pretrain import measure, report

    found = measure(dataset, settings, seeds, lambda line: click.echo(line, err=True))
    click.echo(json.dumps(found.as_dict()) if as_json else report(found))


benchmark.add_command(fusion)
benchmark.add_command(fusing)


@main.command()
@click.option(
    "--folder", default="runs", show_default=True, type=click.Path(path_type=Path), help="Tracking folder of the runs."
)
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@reported
def ui(folder: Path, port: int) -> None:
    """Open the MLflow UI on the runs of this folder, on loopback only.

    \b
    concertrl ui --port 5001
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or local_uri(folder)
    if uri == local_uri(folder) and not (folder / "mlflow.db").is_file():
        raise InputError(f"{folder}: no runs here yet; `concertrl train` makes one, or give --folder")
    if uri.startswith("http"):
        click.echo(f"the runs are on a server that has its own UI: {redact(uri)}", err=True)
        return
    # MLflow opens on its page for language models, where runs like ours are hidden.
    page = f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning"
    click.echo(f"{page}\nruns of {redact(uri)}; stop with Ctrl-C", err=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    # The address goes by the environment, where a password in it is not seen in the list of processes.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    try:
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)
    except KeyboardInterrupt:
        sys.exit(0)


@main.command()
@click.option(
    "--folder", default="runs", show_default=True, type=click.Path(path_type=Path), help="Tracking folder of the runs."
)
@click.option("--uri", default=None, help="Tracking URI, where the runs were given one.")
@reported
def deliver(folder: Path, uri: str | None) -> None:
    """Send MLflow what earlier runs could not deliver while it was down.

    \b
    concertrl deliver --uri http://127.0.0.1:5000
    """
    from .platform.outbox import deliver as send

    found = send(folder.resolve(), uri)
    click.echo(f"{found.delivered:,} records delivered, {found.left:,} left")
    if found.left:
        raise ConcertError(f"{found.left:,} records wait in {found.where}: {found.reason}")


@main.command()
def experiments() -> None:
    """List the packaged experiments.

    \b
    concertrl experiments
    """
    click.echo("\n".join(packaged_experiments()))


if __name__ == "__main__":
    main()
