"""The verbs that look back on runs: `promote` and `compare`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..platform.errors import InputError
from ..platform.promotion_settings import PromotionSettings
from .verbs import JSON, reported

FOLDER = click.option(
    "--folder", default="runs", show_default=True, type=click.Path(path_type=Path), help="Tracking folder of the runs."
)
URI = click.option(
    "--uri", default=None, envvar="MLFLOW_TRACKING_URI", help="Tracking URI, where the runs were given one."
)
DEFAULT = PromotionSettings()


@click.command()
@click.argument("name")
@click.option(
    "--rule",
    type=click.Choice(["apart", "margin"]),
    default=DEFAULT.rule,
    show_default=True,
    help="apart: better, and the 95 % intervals do not touch. margin: better by at least --margin.",
)
@click.option(
    "--margin", type=click.FloatRange(min=0), default=DEFAULT.margin, show_default=True, help="Least gain in return."
)
@click.option("--dry-run", is_flag=True, help="Say what would be decided, and change nothing.")
@FOLDER
@URI
@JSON
@reported
def promote(name: str, rule: str, margin: float, dry_run: bool, folder: Path, uri: str | None, as_json: bool) -> None:
    """Make the challenger of a registered team the champion, if the rule says so.

    Every new version is the challenger. It must be judged on the same data, world and sessions as the champion, and
    beat it; the champion before it becomes `previous`. Without a champion it must beat the best static fusion.

    \b
    concertrl promote concertrl-builtin --dry-run
    concertrl promote concertrl-builtin --rule margin --margin 0.5 --uri http://127.0.0.1:5000
    """
    settings = PromotionSettings(rule=rule, margin=margin)  # type: ignore[arg-type]
    from .compare import destination_of
    from .promote import promote as decide

    found = decide(destination_of(folder, uri), name, settings, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(found.as_dict()))
        return
    would = "would be " if dry_run else ""
    click.echo(f"version {found.version}: {would}{'promoted' if found.promoted else 'not promoted'}: {found.reason}")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN ...")
@click.option("--picture", type=click.Path(path_type=Path), metavar="FILE.png", help="Save a picture of them too.")
@FOLDER
@URI
@JSON
@reported
def compare(runs: tuple[str, ...], picture: Path | None, folder: Path, uri: str | None, as_json: bool) -> None:
    """Runs side by side: the settings that differ, and how every policy did, with intervals.

    RUN is a run's id in MLflow, or the beginning of it.

    \b
    concertrl compare 3f2a 90bc --picture compared.png
    """
    if picture and (picture.suffix != ".png" or not picture.resolve().parent.is_dir()):
        raise InputError(f"--picture {picture}: name a .png file in a folder that is there")
    from .compare import compare as read
    from .compare import destination_of, text
    from .compare import picture as draw

    found = read(destination_of(folder, uri), runs)
    if picture:
        draw(found).savefig(picture)
    click.echo(json.dumps(found.as_dict()) if as_json else text(found))
