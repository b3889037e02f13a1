"""What the verbs of the command line share, and `evaluate`. Nothing heavy is imported until a verb runs."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from ..platform.destination import redact
from ..platform.errors import ConcertError, InputError
from ..platform.experiment import load_experiment
from ..platform.settings import Experiment

JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object as the last line of standard output."
)

RANKING = "ranking"
"""The experiment of `evaluate --ranking` that names none; only its agents, fusion, seed and tracking count."""


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """Turns our errors into one line on standard error and an exit status."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except ConcertError as error:
            click.echo(f"concertrl: {redact(str(error))}", err=True)
            sys.exit(error.exit_status)

    return run


@click.command()
@click.option("--ranking", "dataset", required=True, metavar="DATASET", help="Rank the held-out likes of this dataset.")
@click.option("--agents", metavar="NAME,NAME", help="The agents; by default all that the dataset supports.")
@click.option(
    "--unseen",
    type=click.Choice(["liked", "rated"]),
    default="liked",
    show_default=True,
    help="What baselines leave out of a user's list: what the user liked before, or all that the user rated. Agents "
    "leave out all that the user rated in either case.",
)
@click.option(
    "--at", "places", type=click.IntRange(1, 1000), multiple=True, default=(10, 20), show_default=True,
    help="Depth of the metrics; repeatable. Agents are held against the best baseline at the first.",
)  # fmt: skip
@click.option("--cold/--no-cold", default=True, show_default=True, help="Cold users and cold items too.")
@click.option("--track/--no-track", default=True, show_default=True, help="Log an MLflow run.")
@JSON
@click.argument("words", nargs=-1, metavar="[EXPERIMENT] [KEY=VALUE]...")
@reported
def evaluate(
    dataset: str, agents: str | None, words: tuple[str, ...], as_json: bool, track: bool, **options: Any
) -> None:
    """Measure agents and their static fusion on real interactions, beside the field's baselines.

    Each user's last likes are held out; everything is tuned on the rest. EXPERIMENT is a packaged name or the path of a
    YAML file, for the settings of the agents. Any key can be set by its dotted path.

    \b
    concertrl evaluate --ranking data/ml
    concertrl evaluate --ranking data/ml --agents cf,content agents.cf.factors=64 seed=1 --json
    """
    experiment = _experiment(dataset, agents, words)
    shown = [word for word in words if "tracking.uri" not in word]
    picked = ["--agents", agents] if agents else []
    command = ["concertrl", "evaluate", "--ranking", dataset, *picked, "--unseen", options["unseen"], *shown]
    from .evaluate_ranking import run
    from .progress import Narrator

    found = run(
        experiment,
        named=agents is not None or any(word.startswith("agents.names=") for word in words),
        track=track,
        command=redact(shlex.join(command)),
        say=Narrator.on_terminal().say,
        tell=(lambda text: None) if as_json else click.echo,
        **options,
    )
    if as_json:
        click.echo(json.dumps(found))
    elif found["run_id"]:
        click.echo(f"\nMLflow run {found['run_id']}; `concertrl ui` shows it")


def _experiment(dataset: str, agents: str | None, words: tuple[str, ...]) -> Experiment:
    """The experiment on that dataset.

    Raises:
        InputError: it cannot be read, or the dataset is not there.
    """
    source, overrides = (words[0], words[1:]) if words and "=" not in words[0] else (RANKING, words)
    if agents is not None:
        names = [name.strip() for name in agents.split(",") if name.strip()]
        if not names:
            raise InputError("--agents: name at least one, such as --agents cf,content")
        overrides = (*overrides, f"agents.names={json.dumps(names)}")
    return load_experiment(source, overrides).model_copy(update={"dataset": str(Path(dataset))})
