"""`concertrl compare`: runs side by side, what was set otherwise and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..platform.destination import Destination, quiet, reason, redact
from ..platform.errors import ConcertError, InputError
from ..platform.promotion import JUDGED
from ..platform.report import STATIC, TEAM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHORT = 8
"""Digits of a run's id that are shown; as many may be given."""

LEFT_OUT = ("tracking.folder",)
"""Parameters that say where a run was kept, not what it was."""

CURVE = "judged/return"
WIDEST = 34


@dataclass(frozen=True)
class Side:
    """One run of a comparison.

    Attributes:
        params: only those that differ between the runs; None where the run does not have it.
        returns: return of a judged session by policy: mean, low, high of a 95 % interval (None: not recorded).
        curve: environment steps and the team's judged return while it learned.
    """

    run_id: str
    name: str
    status: str
    data: str | None
    judged: str | None
    params: dict[str, str | None]
    returns: dict[str, tuple[float, float | None, float | None]]
    seconds: float | None
    curve: list[tuple[int, float]] = field(default_factory=list)

    @property
    def label(self) -> str:
        return f"{self.name} {self.run_id[:SHORT]}"


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; `comparable`: judged on the same data, world and sessions."""

    runs: list[Side]
    comparable: bool
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(destination: Destination, wanted: Sequence[str]) -> Comparison:
    """Reads the runs, by their ids or the beginnings of them.

    Raises:
        InputError: fewer than two, or no such run, or an id that several begin with.
        ConcertError: the server does not answer.
    """
    from mlflow.exceptions import MlflowException

    if len(set(wanted)) < 2:
        raise InputError("compare: name at least two runs, by their ids or the beginnings of them")
    if not destination.reachable():
        raise ConcertError(f"{redact(destination.uri)} does not answer")
    try:
        with quiet():
            runs = [_run(destination.client, each) for each in wanted]
            curves = [destination.client.get_metric_history(run.info.run_id, CURVE) for run in runs]
    except MlflowException as error:
        raise ConcertError(f"MLflow at {redact(destination.uri)}: {reason(error)}") from None
    keys = sorted({key for run in runs for key in run.data.params} - set(LEFT_OUT))
    differing = [key for key in keys if len({run.data.params.get(key) for run in runs}) > 1]
    sides = [_side(run, differing, curve) for run, curve in zip(runs, curves, strict=True)]
    judged = {(side.data, side.judged) for side in sides}
    comparable = len(judged) == 1 and sides[0].judged is not None
    return Comparison(sides, comparable, _verdict(sides, comparable))


def text(found: Comparison) -> str:
    """The comparison as a table for a terminal, a column a run."""
    sides = found.runs
    rows: list[list[str]] = [["", *(side.label for side in sides)], ["status", *(side.status for side in sides)]]
    rows += [["data", *(side.data or "-" for side in sides)]]
    for key in sides[0].params:
        rows.append([key, *(_cut(side.params[key]) for side in sides)])
    for policy in dict.fromkeys(name for side in sides for name in side.returns):
        mark = "→ " if policy == TEAM else "  "
        rows.append([f"{mark}{policy}", *(_interval(side.returns.get(policy)) for side in sides)])
    rows.append(["seconds", *("-" if side.seconds is None else f"{side.seconds:,.0f}" for side in sides)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", found.verdict])


def picture(found: Comparison) -> Figure:
    """Every run's team with its interval, and how each came there."""
    from ..platform.plots_compare import comparison

    rows = [
        {
            "name": side.label,
            "return": mean,
            "low": mean if low is None else low,
            "high": mean if high is None else high,
        }
        for side in found.runs
        for mean, low, high in [side.returns.get(TEAM, (float("nan"), None, None))]
        if TEAM in side.returns
    ]
    return comparison(rows, {side.label: side.curve for side in found.runs})


def _run(client: Any, wanted: str) -> Any:
    experiments = [one.experiment_id for one in client.search_experiments()]
    if not wanted.isalnum():
        raise InputError(f'no run "{wanted}": an id has letters and digits only')
    found = client.search_runs(experiments, f"attributes.run_id LIKE '{wanted}%'", max_results=2)
    if not found:
        raise InputError(f'no run "{wanted}" there; `concertrl ui` shows the runs, --folder or --uri names the place')
    if len(found) > 1:
        raise InputError(f'several runs begin with "{wanted}"; give more of the id')
    return found[0]


def _side(run: Any, differing: Sequence[str], curve: Sequence[Any]) -> Side:
    metrics, tags = run.data.metrics, run.data.tags
    policies = [key.split("/")[1] for key in metrics if key.startswith("final/") and key.endswith("/return")]
    policies.sort(key=lambda name: (name != TEAM, name != STATIC, -metrics[f"final/{name}/return"]))
    return Side(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        data=tags.get("concertrl.data"),
        judged=tags.get(JUDGED),
        params={key: run.data.params.get(key) for key in differing},
        returns={
            name: (
                metrics[f"final/{name}/return"],
                metrics.get(f"final/{name}/low"),
                metrics.get(f"final/{name}/high"),
            )
            for name in policies
        },
        seconds=metrics.get("seconds"),
        curve=sorted((point.step, point.value) for point in curve),
    )


def _verdict(sides: Sequence[Side], comparable: bool) -> str:
    if not comparable:
        return "These runs were judged on other data, worlds or sessions: their returns do not compare."
    judged = [(side, side.returns[TEAM]) for side in sides if TEAM in side.returns]
    if len(judged) < 2:
        return "Fewer than two of these runs have a judged team."
    judged.sort(key=lambda pair: -pair[1][0])
    (best, (mean, low, _)), rest = judged[0], judged[1:]
    highest = max((side_returns[2] for _, side_returns in rest if side_returns[2] is not None), default=None)
    if low is None or highest is None:
        return f"{best.label} is best at {mean:.2f}; its interval or another's was not recorded."
    how = "95 % intervals apart" if low > highest else "but 95 % intervals overlap"
    return f"{best.label} is best at {mean:.2f}, {how}."


def _interval(values: tuple[float, float | None, float | None] | None) -> str:
    if values is None:
        return "-"
    mean, low, high = values
    return f"{mean:.2f}" if low is None or high is None else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _cut(value: str | None) -> str:
    value = "-" if value is None else value
    return value if len(value) <= WIDEST else value[: WIDEST - 1] + "…"


def destination_of(folder: Path, uri: str | None) -> Destination:
    """The tracking folder's own database, or the store at `uri`.

    Raises:
        InputError: neither is there.
    """
    from ..platform.destination import local_uri

    if uri is None and not (folder / "mlflow.db").is_file():
        raise InputError(f"{folder}: no runs here yet; `concertrl train` makes one, or give --folder or --uri")
    return Destination(uri or local_uri(folder), folder.resolve())
