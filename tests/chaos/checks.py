"""What must hold after the chaos, read back from the MLflow server, and the table of the faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from concertrl.platform.destination import KEY
from concertrl.platform.tracking import LOCAL

from .faults import KINDS, Fault

OF_TIME = ("throughput/", "system/", "seconds", "final/seconds")
"""Metrics that tell of the machine and not of the run."""

Points = dict[str, list[tuple[int, float]]]


def known_to(client: Any, run_id: str) -> str:
    """The server's id of a run, which has one of its own where it began while the server was down."""
    if not run_id.startswith(LOCAL):
        return run_id
    [run] = client.search_runs(["0", "1"], f"tags.`{KEY}` = '{run_id}'")
    return run.info.run_id


def points(client: Any, run_id: str) -> Points:
    """Every metric of a run, as (step, value) in order, but those of time."""
    keys = client.get_run(run_id).data.metrics
    return {
        key: sorted((point.step, point.value) for point in client.get_metric_history(run_id, key))
        for key in keys
        if not key.startswith(OF_TIME)
    }


def doubles(client: Any, run_id: str) -> list[str]:
    """Metrics of a run that have a step twice, those of time too."""
    found = []
    for key in client.get_run(run_id).data.metrics:
        steps = Counter(point.step for point in client.get_metric_history(run_id, key))
        found += [f"{key} at {step}" for step, times in steps.items() if times > 1]
    return found


def wrong(client: Any, run_id: str, wanted: Points) -> list[str]:
    """What is wrong with a run, in lines; `wanted` is what a run has that was never disturbed."""
    status, found = client.get_run(run_id).info.status, points(client, run_id)
    lines = [] if status == "FINISHED" else [f"its status is {status}"]
    lines += [f"twice: {each}" for each in doubles(client, run_id)]
    lines += [f"missing or beyond: {key}" for key in sorted(set(wanted) ^ set(found))]
    for key in sorted(set(wanted) & set(found)):
        if [step for step, _ in wanted[key]] != [step for step, _ in found[key]]:
            lines.append(f"{key}: other steps")
        elif wanted[key] != found[key]:
            lines.append(f"{key}: other values")
    return lines


def rows(faults: Sequence[Fault]) -> list[dict[str, Any]]:
    """A row for each kind of fault: how many, and the seconds until the run was beyond where it had been."""
    told = []
    for kind, what in KINDS.items():
        mine = [fault for fault in faults if fault.kind == kind]
        lost = [fault.lost_s for fault in mine if fault.lost_s is not None]
        told.append(
            {
                "kind": kind,
                "what": what,
                "count": len(mine),
                "median_s": round(median(lost), 1) if lost else None,
                "most_s": round(max(lost), 1) if lost else None,
                "told": next((fault.how for fault in mine if fault.how), ""),
            }
        )
    return told


def markdown(summary: dict[str, Any]) -> str:
    """The summary as a page."""
    lines = [
        f"{summary['faults']} faults in {summary['minutes']:.1f} minutes, {len(summary['runs'])} runs of "
        f"{summary['iterations']} iterations, seed {summary['seed']}.",
        "",
        "| fault | times | seconds to the next new iteration: median | most | told |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in summary["table"]:
        times = [("" if row[name] is None else str(row[name])) for name in ("median_s", "most_s")]
        told = row["told"].replace("|", "/")
        lines.append(f"| {row['what']} | {row['count']} | {times[0]} | {times[1]} | {told} |")
    lines += ["", "| run | faults | commands | ended | wrong |", "| --- | --- | --- | --- | --- |"]
    for run in summary["runs"]:
        wrong = "; ".join(run["wrong"][:3]) or "nothing"
        lines.append(f"| {run['number']} | {run['faults']} | {run['commands']} | {run['status']} | {wrong} |")
    lines += [
        "",
        f"Metric points compared with those of an undisturbed run: {summary['compared']:,}. Orphaned processes: "
        f"{summary['orphans']}. Torn checkpoints read as good: {summary['torn_read']}.",
    ]
    return "\n".join([*lines, *(f"Left out: {each}" for each in summary["left_out"])]) + "\n"
