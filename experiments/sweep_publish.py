"""What a sweep's parent run ends with: the table of trials, the pictures, the best trial's experiment."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..platform import plots_sweep
from ..platform.experiment import resolved_yaml
from ..platform.report import headline, text_table
from ..platform.sweep_ledger import Ledger, Look, best_look
from ..platform.sweep_space import apply
from ..platform.tracking import Run
from .publish import how_to_load, how_to_look

Looks = Mapping[int, list[Look]]


def outcome(
    run: Run, ledger: Ledger, looks: Looks, best: Look, rows: Sequence[Mapping[str, Any]], model_uri: str
) -> None:
    """Logs it all to the parent run."""
    sweep = ledger.sweep
    for name, figure in draw(ledger, looks, best).items():
        run.log_figure(figure, f"plots/{name}.png")
    run.log_text(trials_csv(ledger, looks), "trials.csv")
    run.log_text(trials_text(ledger, looks), "trials.txt")
    experiment = apply(ledger.experiment, best.values, sweep)
    hidden = experiment.tracking.model_copy(update={"uri": None})
    run.log_text(resolved_yaml(experiment.model_copy(update={"tracking": hidden})), "best.yaml")
    team = next(row for row in rows if row["policy"] == "team")
    final = {f"final/team/{key}": float(team[key]) for key in ("return", "low", "high", "normalised")}
    spent = sum(each[-1].sessions for each in looks.values() if each)
    run.log_metrics({**final, "sessions": float(spent), "trials": float(len(looks))}, spent)
    run.tag(**{"concertrl.best": str(best.number), "concertrl.model": model_uri})
    run.tag(**{"mlflow.note.content": _description(ledger, looks, best, rows, model_uri)})


def draw(ledger: Ledger, looks: Looks, best: Look) -> dict[str, Figure]:
    """The pictures by file name: each trial's course, values against scores, and the front of several objectives."""
    sweep, metric = ledger.sweep, ledger.sweep.first.metric
    points = [point for each in looks.values() if (point := best_look(each, sweep))]
    curves = {
        str(number): ([look.iteration for look in each], [look.scores[metric] for look in each])
        for number, looked in looks.items()
        if (each := [look for look in looked if not look.failed])
    }
    columns = {key: [point.values.get(key) for point in points] for key in sweep.space}
    logarithmic = [key for key, dimension in sweep.space.items() if dimension.loguniform]
    signed = np.array([point.scores[metric] for point in points])
    pictures = {
        "trials": plots_sweep.courses(curves, str(best.number), metric),
        "parallel": plots_sweep.parallel(columns, signed, metric, logarithmic),
    }
    for other in sweep.objectives[1:]:
        pair = (sweep.first, other)
        table = np.array([[point.scores[one.metric] for one in pair] for point in points])
        front = plots_sweep.front_of(table, [one.sign for one in pair])
        names, chosen = [str(point.number) for point in points], [point.number for point in points].index(best.number)
        figure = plots_sweep.pareto(table, front, names, (metric, other.metric), chosen)
        pictures[f"pareto_{metric}_{other.metric}"] = figure
    return pictures


def trials_csv(ledger: Ledger, looks: Looks) -> str:
    """A row a trial: how it ended, its values, and its best look's scores."""
    sweep, text = ledger.sweep, io.StringIO()
    scored = [objective.metric for objective in sweep.objectives]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "status", "iterations", "sessions", *sweep.space, *scored, "at_iteration"])
    for number, each in looks.items():
        ending, best = ledger.ending(number), best_look(each, sweep)
        values = best.values if best else ledger.candidates()[number]
        found = [best.scores[name] for name in scored] + [best.iteration] if best else [""] * (len(scored) + 1)
        trained = [each[-1].iteration, each[-1].sessions] if each else [0, 0]
        status = ending.status if ending else ""
        writer.writerow([number, status, *trained, *(values.get(key, "") for key in sweep.space), *found])
    return text.getvalue()


def trials_text(ledger: Ledger, looks: Looks) -> str:
    """The same for a terminal, the best first."""
    rows = list(csv.reader(io.StringIO(trials_csv(ledger, looks))))
    head, body, metric = rows[0], rows[1:], ledger.sweep.first
    place = head.index(metric.metric, 4 + len(ledger.sweep.space))
    body.sort(key=lambda row: -metric.sign * float(row[place]) if row[place] else float("inf"))
    shown = [[name.rpartition(".")[2] for name in head], *([_short(cell) for cell in row] for row in body)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in shown)


def ending(ledger: Ledger, result: Mapping[str, Any]) -> str:
    """How a sweep ended, for a terminal."""
    looks = {number: ledger.looks(number) for number in sorted(ledger.candidates())}
    best, tracking = result["best"], ledger.experiment.tracking
    values = " ".join(f"{key}={value}" for key, value in best["values"].items())
    return "\n".join(
        [
            "",
            trials_text(ledger, looks),
            "",
            text_table(result["table"]),
            "",
            headline(result["table"]),
            f"best          trial {best['number']} at iteration {best['iteration']}: {values}",
            f"look at it    {how_to_look(tracking)}",
            f"ask the team  {how_to_load(result['model_uri'], tracking)}",
        ]
    )


def _short(cell: str) -> str:
    try:
        return cell if cell.lstrip("-").isdigit() else f"{float(cell):.4g}"
    except ValueError:
        return cell


def _description(ledger: Ledger, looks: Looks, best: Look, rows: Sequence[Mapping[str, Any]], model_uri: str) -> str:
    sweep = ledger.sweep
    return (
        f"Sweep **{sweep.name}**: {len(looks)} trials of {ledger.experiment.name}, {sweep.searcher} search, "
        f"{sweep.scheduler}. Trial {best.number} is the best on the validation sessions; its team is {model_uri}. "
        f"On the judge's sessions, which no trial was picked by:\n\n```\n{text_table(rows)}\n```\n\n"
        f"```\n{trials_text(ledger, looks)}\n```\n\nOpen **Artifacts** for the pictures, `trials.csv` and `best.yaml`, "
        f"the best trial's experiment: `concertrl train best.yaml`.\n"
    )
