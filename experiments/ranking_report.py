"""How `evaluate --ranking` tells what it found: tables in plain text, and an MLflow run with a picture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from .. import __version__
from ..platform import plots
from ..platform.dataset import load_dataset
from ..platform.experiment import resolved_yaml
from ..platform.settings import Experiment
from ..platform.tracking import start_run
from .ranking_contest import TEAM

if TYPE_CHECKING:
    from .evaluate_ranking import RankingResult

NOTES = {
    "liked": "Left out of a user's list: by baselines, what the user liked before, and they may list what the user "
    "disliked;\nby agents, all that the user rated before, since a team never proposes what is in a history. Part of a "
    "gain may come\nfrom that alone: the gains on even terms are above, and with --unseen rated all is on even terms.",
    "rated": "Left out of a user's list, by everyone: all that the user rated before.",
}

ACCURACY = ("ndcg", "recall", "precision", "mrr", "hit_rate")
CHARACTER = ("coverage", "gini", "popularity", "novelty", "diversity")
"""Columns of the tables, in this order."""


def text(result: RankingResult) -> str:
    """Everything for a terminal."""
    first, last = _depths(result.table)
    deep = {"recall": last}
    columns = [f"{name}@{deep.get(name, first)}" for name in ACCURACY]
    blocks = [
        f"{result.users:,} users, {result.items:,} items; held out: the last fifth of each user's likes\n\n"
        + table(result.table, columns),
        "What the lists are like\n" + table(result.table, [f"{name}@{first}" for name in CHARACTER], intervals=False),
        _gain_lines(result.gain_over_best_baseline),
        "static fusion: " + ", ".join(f"{name} {weight:.2f}" for name, weight in result.weights.items()),
    ]
    colds = {
        "Cold items, kept from the fit and ranked among themselves": result.cold_items,
        "Cold items, ranked among all items": result.cold_items_in_catalog,
        "Cold users, kept from the fit": result.cold_users,
    }
    if result.unseen == "liked":
        blocks.insert(
            3, "On even terms, baselines leaving out all that was rated too:\n" + _gain_lines(result.gain_when_even)
        )
    few = [f"ndcg@{first}", f"recall@{last}", f"hit_rate@{first}"]
    blocks += [f"{title}\n{table(rows, few)}" for title, rows in colds.items() if rows]
    blocks += [_group_table(attribute, found, f"ndcg@{first}") for attribute, found in result.groups.items()]
    return "\n\n".join([*blocks, NOTES[result.unseen]])


def table(rows: list[dict[str, Any]], columns: list[str], intervals: bool = True) -> str:
    """Rows by name, the first column with its interval; the team is marked with an arrow."""
    cells = {column: [f"{row[column]:.4f}" for row in rows] for column in columns}
    if intervals:
        first, *rest = cells.items()
        low, high = (columns[0] + end for end in ("_low", "_high"))
        cells = dict([first, ("95 % interval", [f"[{row[low]:.4f}, {row[high]:.4f}]" for row in rows]), *rest])
    names = [f"{'→' if row['name'] == TEAM else ' '} {row['name']}" for row in rows]
    width = max(map(len, names))
    padded = [[text.rjust(max(map(len, (head, *texts)))) for text in (head, *texts)] for head, texts in cells.items()]
    lines = zip(["", *names], *padded, strict=True)
    return "\n".join("  ".join([name.ljust(width), *texts]) for name, *texts in lines)


def publish(result: RankingResult, experiment: Experiment, name: str, command: str) -> str:
    """Logs the result as a run of its own; returns the run's id."""
    manifest = load_dataset(result.dataset).manifest
    tags = {
        "concertrl.version": __version__,
        "concertrl.evaluation": "ranking",
        "concertrl.data": manifest.sha256[:16],
        "concertrl.seed": str(experiment.seed),
        "concertrl.command": command,
    }
    first, _ = _depths(result.table)
    with start_run(experiment.tracking, name=f"ranking-{name}", tags=tags) as run:
        settings = experiment.model_dump(mode="json", include={"seed", "dataset", "agents", "fusion"})
        run.log_params({**settings, "unseen": result.unseen, "baselines": result.parameters})
        counts = {"num_users": result.users, "num_items": result.items, "num_rows": manifest.interactions}
        run.log_dataset(name, manifest.sha256, result.dataset, counts, context="evaluation")
        run.log_metrics(_metrics(result), 0)
        run.log_figure(picture(result.table, f"ndcg@{first}"), "plots/ranking.png")
        run.log_text(json.dumps(result.as_dict(), indent=2), "ranking.json")
        run.log_text(text(result), "ranking.txt")
        run.log_text(json.dumps(result.agents, indent=2), "agents.json")
        shown = experiment.model_copy(update={"tracking": experiment.tracking.model_copy(update={"uri": None})})
        run.log_text(resolved_yaml(shown), "config.yaml")
        run.tag(**{"mlflow.note.content": f"```\n{text(result)}\n```\n"})
    return run.run_id


def picture(rows: list[dict[str, Any]], measure: str) -> Figure:
    """A bar for each who ranks, with its interval."""
    values, low, high = (100 * np.array([row[measure + end] for row in rows]) for end in ("", "_low", "_high"))
    unit = f"{measure.replace('ndcg', 'NDCG')} in hundredths, with 95 % intervals over users"
    names = [row["name"] for row in rows]
    return plots.contributions(names, values, low, high, title="Ranking of held-out likes", unit=unit)


def _metrics(result: RankingResult) -> dict[str, float]:
    """Metric names of MLflow have no @."""
    tables = {
        "ranking": result.table,
        "cold_items": result.cold_items,
        "cold_items_in_catalog": result.cold_items_in_catalog,
        "cold_users": result.cold_users,
    }
    found = {
        f"{place}/{row['name']}/{key.replace('@', '_at_')}": float(value)
        for place, rows in tables.items()
        for row in rows
        for key, value in row.items()
        if key != "name"
    }
    for place, told in (("gain", result.gain_over_best_baseline), ("gain_when_even", result.gain_when_even)):
        for name, gain in told.get("of", {}).items():
            found |= {f"{place}/{name}/{key}": value for key, value in gain.items() if value is not None}
    return found | {f"weights/{name}": weight for name, weight in result.weights.items()} | {"seconds": result.seconds}


def _gain_lines(told: dict[str, Any]) -> str:
    if not told:
        return "no baseline to hold the agents against"
    best = told["baseline"]
    head = f"{told['measure']} over the best baseline, {best} with {told[best]:.4f}; 95 % intervals, users paired"
    lines = [head]
    width = max(len(name) for name in told["of"])
    for name, gain in told["of"].items():
        line = f"  {name:<{width}}  {gain['difference']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
        if gain["relative"] is not None:
            line += f"  {gain['relative']:+.1%} [{gain['relative_low']:+.1%}, {gain['relative_high']:+.1%}]"
        lines.append(line)
    return "\n".join(lines)


def _group_table(attribute: str, found: dict[str, Any], measure: str) -> str:
    """A line for each who ranks, a column for each group, and the gap."""
    groups = found["groups"]
    heads = [f"{group['group']} ({group['users']:,})" for group in groups]
    names = list(found["gap"])
    width = max(map(len, names))
    lines = [f"{measure} by {attribute} (users)", "  ".join([" " * (width + 2), *heads, "    gap"])]
    for name in names:
        cells = [f"{group[measure][name]:>{len(head)}.4f}" for group, head in zip(groups, heads, strict=True)]
        lines.append("  ".join([f"  {name:<{width}}", *cells, f"{found['gap'][name]:>7.4f}"]))
    return "\n".join(lines)


def _depths(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """The first and the last depth of a table."""
    depths = [int(key.partition("@")[2]) for key in rows[0] if key.startswith("ndcg@") and key[5:].isdigit()]
    return depths[0], depths[-1]
