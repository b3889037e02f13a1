"""The verb `sweep`. Nothing heavy is imported until it runs."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import click

from ..platform.destination import redact
from ..platform.errors import InputError
from .verbs import JSON, reported

if TYPE_CHECKING:
    from ..platform.sweep_ledger import Ledger

FOLDER, URI = "tracking.folder=", "tracking.uri="


@click.command()
@click.option(
    "--by", metavar="SWEEP", help="What varies and how: a packaged sweep or the path of a YAML file. [default: asha]"
)
@click.option("--resume", metavar="NAME", help="Go on with a sweep that was stopped or killed.")
@click.option("--list", "listing", is_flag=True, help="List the packaged sweeps.")
@JSON
@click.argument("words", nargs=-1, metavar="[EXPERIMENT] [KEY=VALUE]...")
@reported
def sweep(by: str | None, resume: str | None, listing: bool, as_json: bool, words: tuple[str, ...]) -> None:
    """Search the settings of an experiment, and register the best trial's team.

    EXPERIMENT is a packaged name or the path of a YAML file. KEY=VALUE sets a key of it, sweep.KEY=VALUE one of the
    sweep, such as sweep.trials=20. Trials are scored on validation sessions; the winner is then judged as by `train`.

    \b
    concertrl sweep builtin --by pbt
    concertrl sweep movielens --by mine.yaml dataset=data/ml sweep.trials=24 sweep.concurrent=4
    concertrl sweep --resume builtin-pbt
    """
    if listing:
        from ..platform.sweep_file import packaged_sweeps

        click.echo("\n".join(packaged_sweeps()))
        return
    ledger = _resumed(resume, by, words) if resume else _begun(by or "asha", words)
    from .progress import Narrator
    from .sweep import run

    narrator = Narrator.on_terminal(results=not as_json)
    result = run(ledger, narrator)
    if as_json:
        click.echo(json.dumps(result.as_dict()))
    else:
        from .sweep_publish import ending

        click.echo(ending(ledger, result.as_dict()))


def _begun(by: str, words: tuple[str, ...]) -> Ledger:
    from ..platform.sweep_file import begin, load_sweep

    source, overrides = (words[0], words[1:]) if words and "=" not in words[0] else ("builtin", words)
    experiment, settings = load_sweep(source, by, overrides)
    shown = [word for word in words if not word.startswith(URI)]
    return begin(experiment, settings, redact(shlex.join(["concertrl", "sweep", "--by", by, *shown])))


def _resumed(name: str, by: str | None, words: tuple[str, ...]) -> Ledger:
    """The sweep as it was begun; where its runs are may be said again.

    Raises:
        InputError: something else is said again, or there is no such sweep.
    """
    folder, uri = "runs", None
    for word in words:
        if word.startswith(FOLDER):
            folder = word.removeprefix(FOLDER)
        elif word.startswith(URI):
            uri = word.removeprefix(URI)
        else:
            raise InputError(f"sweep --resume {name}: {word}: only {FOLDER}... and {URI}... may be given again")
    if by:
        raise InputError(f"sweep --resume {name} --by {by}: a sweep goes on as it was begun; leave out --by")
    from ..platform.sweep_file import reopen

    return reopen(name, folder, uri)
