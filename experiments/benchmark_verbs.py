"""The verbs `benchmark fusion` and `benchmark fusing`. Nothing heavy is imported until a verb runs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from ..platform.destination import redact
from .verbs import JSON, reported


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--world", "worlds", multiple=True, metavar="EXPERIMENT=DATASET",
    help="A world fitted to a dataset, beside the built-in one; repeatable.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="The built-in world, 2 seeds, short training: a first look.")
@click.option(
    "--folder", default="runs/benchmarks/fusion", show_default=True, type=click.Path(path_type=Path),
    help="What is done is kept here, and not done again.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(1), help="Cells at once; by default one a core.")
@click.option("--track/--no-track", default=True, show_default=True, help="Log an MLflow run, a child for each cell.")
@JSON
@reported
def fusion(
    overrides: tuple[str, ...], worlds: tuple[str, ...], quick: bool, folder: Path, workers: int | None, track: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Every way to fuse and every credit, judged on users of another kind, over several seeds.

    It goes on where it was stopped. KEY=VALUE sets a key of every world's experiment.

    \b
    concertrl benchmark fusion --quick
    concertrl benchmark fusion --world movielens=data/ml --world instruments=data/instruments --json
    """
    from .benchmark_fusion import contest_of, run
    from .fusion_report import publish, summary, text

    contest = contest_of(worlds, overrides, quick, folder)
    found = run(contest, workers, lambda line: click.echo(line, err=True))
    told = summary(found)
    if track:
        words = ["concertrl", "benchmark", "fusion", *(["--quick"] if quick else []), *overrides]
        tracking = next(iter(contest.experiments.values())).tracking
        click.echo(f"MLflow run {publish(told, found, tracking, redact(shlex.join(words)))}", err=True)
    click.echo(json.dumps(told) if as_json else text(told))


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Interleaved; medians count.")
@JSON
@reported
def fusing(rounds: int, as_json: bool) -> None:
    """Users a second that are fused, against plain numpy and the library ranx, one thread.

    \b
    concertrl benchmark fusing --rounds 7
    """
    from .benchmark_fusing import measure, report

    found = measure(rounds, lambda line: click.echo(line, err=True))
    click.echo(json.dumps(found) if as_json else report(found))
