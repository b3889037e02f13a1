"""What the fusion benchmark found, as people look at it: rows, gains, speed of learning, faults, an MLflow run.

cells  ->  rows by world    normalised score, 95 % interval over seeds
       ->  gains            of the trained team over the best that is not trained, seed by seed
       ->  speed            sessions until a credit reaches what the team reward reaches in the end
       ->  faults           an agent that votes at random: its weight through the session, what the team keeps
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .. import __version__
from ..platform import plots
from ..platform.settings import TrackingSettings
from ..platform.statistics import Interval, interval, normalised
from ..platform.tracking import start_run
from .benchmark_fusion import Cell
from .fusion_cells import FIXED, TRAINED

Found = Mapping[Cell, dict[str, Any]]
Row = dict[str, Any]

UNTRAINED_FUSION = ("equal_weights", "best_static")
"""Static fusions beside the rules."""

ORACLES = ("greedy_oracle", "horizon_oracle")

PAIRED = ("team", "team_difference", "team_shapley")
"""The full team under each credit."""

REFERENCES = ("team_plain", "team")
"""Runs whose final score the credits are timed against."""


def summary(found: Found) -> dict[str, Any]:
    """All of it as plain values: `worlds`, and for each world `gains`, `speed` and `faults`."""
    names = dict.fromkeys(cell.world for cell in found)
    return {
        "worlds": {name: rows(found, name) for name in names},
        "worlds_trained_in": {name: rows(found, name, "trained_in") for name in names},
        "gains": {name: gains(found, name) for name in names},
        "speed": {name: speed(found, name) for name in names},
        "faults": {name: faults(found, name) for name in names},
    }


def returns(found: Found, world: str, place: str = "judged_in") -> dict[str, dict[int, float]]:
    """Mean return by policy and seed, for the seeds whose fixed policies are done."""
    table: dict[str, dict[int, float]] = defaultdict(dict)
    for cell, figures in found.items():
        if cell.world != world:
            continue
        for policy, value in figures[place].items():
            table[policy if cell.contestant == FIXED else cell.contestant][cell.seed] = value
    return table


def rows(found: Found, world: str, place: str = "judged_in") -> list[Row]:
    """`{"policy", "credit", "return", "normalised", "low", "high", "seeds"}`, the highest first."""
    table = returns(found, world, place)
    listed = []
    for policy, by_seed in table.items():
        scale = [seed for seed in by_seed if seed in table["random"]]
        scores = [normalised(by_seed[s], table["random"][s], table["horizon_oracle"][s]) for s in scale]
        if not scores:
            continue
        mean = interval(scores) if len(scores) > 1 else Interval(scores[0], float("nan"), float("nan"))
        listed.append(
            {
                "policy": policy,
                "credit": TRAINED[policy][0] if policy in TRAINED else None,
                "return": round(float(np.mean([by_seed[s] for s in scale])), 3),
                "normalised": round(mean.mean, 4),
                "low": round(mean.low, 4),
                "high": round(mean.high, 4),
                "seeds": len(scores),
            }
        )
    return sorted(listed, key=lambda row: -row["normalised"])


def gains(found: Found, world: str) -> dict[str, Any]:
    """What each full team has over the best static fusion and the best single agent, paired by seed.

    The best static fusion is that of highest mean among the rules and the static weights, picked on these very
    sessions: a harder opponent than one picked beforehand.
    """
    table = returns(found, world)
    if "random" not in table:
        return {}
    static = [name for name in table if name in UNTRAINED_FUSION or name.startswith("rule ")]
    single = [name for name in table if name not in (*static, *TRAINED, *ORACLES) and name in _agents(found, world)]
    opponents = {"best static fusion": static, "best_static": ["best_static"], "best single agent": single}
    opponents["searched gains"] = [name for name in ("searched_gains",) if name in table]
    told: dict[str, Any] = {}
    for label, names in opponents.items():
        if not names:
            continue
        best = max(names, key=lambda name: float(np.mean(list(table[name].values()))))
        for team in PAIRED:
            seeds = [seed for seed in table.get(team, {}) if seed in table[best]]
            pairs = [(table[team][seed], table[best][seed], table["random"][seed]) for seed in seeds]
            if len(pairs) < 2:
                continue
            clear = interval([(ours - chance) / (theirs - chance) - 1 for ours, theirs, chance in pairs])
            plain = interval([ours / theirs - 1 for ours, theirs, _ in pairs])
            told[f"{team} over {label}"] = {"opponent": best, "normalised": clear._asdict(), "return": plain._asdict()}
    return told


def _agents(found: Found, world: str) -> set[str]:
    """The names of the recommenders, which every trained team has faults for."""
    return {fault["agent"] for cell, each in found.items() if cell.world == world for fault in each.get("faults", [])}


def curve(found: Found, world: str, contestant: str) -> tuple[list[int], list[float]]:
    """Env steps, and the mean return of the looks at them over the seeds."""
    looks = [each["looks"] for cell, each in found.items() if (cell.world, cell.contestant) == (world, contestant)]
    looks = [each for each in looks if each]
    if not looks:
        return [], []
    return [step for step, _ in looks[0]], np.mean([[value for _, value in each] for each in looks], axis=0).tolist()


def speed(found: Found, world: str) -> dict[str, Any]:
    """For each credit the share of a reference's sessions after which it has, for good, what that ends with.

    The mean curve over the seeds is read between its looks; the reference's end is the mean of its last three looks.
    """
    told: dict[str, Any] = {}
    for reference in REFERENCES:
        steps, values = curve(found, world, reference)
        if len(values) < 3:
            continue
        end = float(np.mean(values[-3:]))
        for name in PAIRED:
            mine_steps, mine = curve(found, world, name)
            if name == reference or not mine:
                continue
            share = _reached(mine_steps, mine, end, steps[-1])
            told[f"{name} to the end of {reference}"] = {"score": round(end, 3), "share": share}
    return told


def _reached(steps: Sequence[int], values: Sequence[float], wanted: float, whole: int) -> float | None:
    """The share of `whole` steps at which the line through the looks first has `wanted`; None if it never has."""
    for place, value in enumerate(values):
        if value >= wanted:
            if place == 0:
                return round(steps[0] / whole, 3)
            part = (wanted - values[place - 1]) / (value - values[place - 1])
            return round((steps[place - 1] + part * (steps[place] - steps[place - 1])) / whole, 3)
    return None


def faults(found: Found, world: str) -> list[Row]:
    """What an agent's failing does to each team: its weight by the end of a session, and what the team keeps."""
    listed = []
    for contestant in TRAINED:
        cells = [each for cell, each in found.items() if (cell.world, cell.contestant) == (world, contestant)]
        cells = [each for each in cells if "faults" in each]
        for place in range(len(cells[0]["faults"]) if cells else 0):
            mine = [each["faults"][place] for each in cells]
            whole = float(np.mean([each["judged_in"]["team"] for each in cells]))
            mean = {kind: float(np.mean([each[kind] for each in mine])) for kind in _KINDS}
            length = min(len(each["adversarial_weights"]) for each in mine)
            weights = np.mean([each["adversarial_weights"][:length] for each in mine], axis=0)
            listed.append(
                {
                    "team": contestant,
                    "agent": mine[0]["agent"],
                    "equal_share": round(1 / len(cells[0]["faults"]), 4),
                    "first_weight": round(float(weights[0]), 4),
                    "least_weight": round(float(weights.min()), 4),
                    "whole": round(whole, 3),
                    **{kind: round(value, 3) for kind, value in mean.items()},
                    "kept": round(mean["adversarial"] / mean["silent"], 4),
                    "weights": [round(float(each), 4) for each in weights],
                }
            )
    return listed


_KINDS = ("adversarial", "silent", "frozen", "silent_halfway")


def text(told: Mapping[str, Any]) -> str:
    """The summary as a person reads it."""
    lines: list[str] = []
    for world, table in told["worlds"].items():
        head = f"  {'policy':28}{'credit':12}{'return':>8}{'normalised':>12}   95 % interval    seeds"
        lines += ["", f"{world}, judged on users of another kind", head, *map(_line, table), ""]
        lines += [_gain(name, gain) for name, gain in told["gains"][world].items()]
        for name, found in told["speed"][world].items():
            share = "never" if found["share"] is None else f"in {100 * found['share']:.0f} % of its sessions"
            lines.append(f"  {name} ({found['score']:.2f}): {share}")
        lines += [_fault(row) for row in told["faults"][world]]
    return "\n".join(lines).strip("\n")


def _line(row: Row) -> str:
    mark = "→" if row["policy"] in PAIRED else " "
    figures = f"{row['return']:8.2f}{row['normalised']:12.3f}   [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{mark} {row['policy']:28}{row['credit'] or '':12}{figures}{row['seeds']:7}"


def _fault(row: Row) -> str:
    return (
        f"  {row['team']}, {row['agent']} votes at random: its weight falls from {row['first_weight']:.3f} to "
        f"{row['least_weight']:.3f} (equal share {row['equal_share']:.3f}); "
        f"{100 * row['kept']:.0f} % of the return without it is kept"
    )


def _gain(name: str, gain: Mapping[str, Any]) -> str:
    score, plain = gain["normalised"], gain["return"]
    return (
        f"  {name} ({gain['opponent']}): normalised {score['mean']:+.1%} [{score['low']:+.1%}, {score['high']:+.1%}], "
        f"return {plain['mean']:+.1%} [{plain['low']:+.1%}, {plain['high']:+.1%}]"
    )


def pictures(told: Mapping[str, Any]) -> dict[str, Figure]:
    """A forest plot for each world, by its name."""
    drawn = {}
    for world, table in told["worlds"].items():
        shown = [row for row in table if row["policy"] not in ORACLES and row["seeds"] > 1]
        if shown:
            scaled = [{**row, "return": row["normalised"]} for row in shown]
            title = f"{world}: every way to fuse, with 95 % intervals over seeds"
            drawn[world] = plots.forest(scaled, highlight="team_difference", title=title, unit="normalised score")
    return drawn


def publish(told: Mapping[str, Any], found: Found, tracking: TrackingSettings, command: str) -> str:
    """Logs a parent run with the tables and pictures, and a child for each cell; the parent's id."""
    tags = {"concertrl.version": __version__, "concertrl.evaluation": "fusion", "concertrl.command": command}
    with start_run(tracking, name="fusion", tags=tags) as run:
        run.log_text(json.dumps(told, indent=2), "fusion.json")
        run.log_text(text(told), "fusion.txt")
        for world, figure in pictures(told).items():
            run.log_figure(figure, f"plots/{world}.png")
        for world, table in told["worlds"].items():
            run.log_metrics({f"{world}/{_plain(row['policy'])}": row["normalised"] for row in table}, 0)
        run.tag(**{"mlflow.note.content": f"```\n{text(told)}\n```\n"})
        parent = run.run_id
    quiet = tracking.model_copy(update={"system_metrics": False})
    for cell, figures in found.items():
        if cell.contestant != FIXED:
            _child(cell, figures, quiet, {**tags, "mlflow.parentRunId": parent})
    return parent


def _child(cell: Cell, figures: dict[str, Any], tracking: TrackingSettings, tags: Mapping[str, str]) -> None:
    facts = {"concertrl.world": cell.world, "concertrl.contestant": cell.contestant, "concertrl.seed": str(cell.seed)}
    with start_run(tracking, name=f"{cell.world} {cell.contestant} {cell.seed}", tags={**tags, **facts}) as run:
        for step, value in figures["looks"]:
            run.log_metrics({"judged/return": value}, step)
        run.log_metrics({f"final/{place}": figures[place]["team"] for place in ("trained_in", "judged_in")}, 0)


def _plain(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")
