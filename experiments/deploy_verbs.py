"""The verb `manifests`: what a cluster is made of, with values of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from .verbs import reported


@click.command()
@click.argument("name", required=False)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a value; repeatable.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Write them, and what they mount, there."
)
@click.option("--values", "listing", is_flag=True, help="List the values.")
@reported
def manifests(name: str | None, changes: tuple[str, ...], out: Path | None, listing: bool) -> None:
    """Print or write the manifests of a cluster: raycluster and rayjob (KubeRay), autoscaler (AWS), compose.

    \b
    concertrl manifests rayjob --set experiment=builtin --set gpu_workers_max=4 | kubectl apply -f -
    concertrl manifests compose --out deploy
    """
    from ..cluster import deployment

    known = deployment.values(changes)
    if listing:
        click.echo("\n".join(f"{key}={value}" for key, value in known.items()))
    elif out:
        written = deployment.write(out, [name] if name else deployment.MANIFESTS, known)
        click.echo("\n".join(map(str, written)))
    elif name:
        click.echo(deployment.render(name, known), nl=False)
    else:
        click.echo("\n".join(deployment.MANIFESTS))
