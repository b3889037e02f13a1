"""Runs side by side, in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .plots import INK, PALETTE


def comparison(rows: Sequence[Mapping[str, Any]], curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Left, each run's team with its 95 % interval; right, its judged return while it learned.

    Args:
        rows: `{"name", "return", "low", "high"}` each.
        curves: by name, `(steps, return)` in order.
    """
    figure = Figure(figsize=(11, 1.8 + 0.5 * max(4, len(rows))), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    colors = {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(curves)}
    ordered = sorted(rows, key=lambda row: row["return"])
    for place, row in enumerate(ordered):
        spread = np.maximum(0, [[row["return"] - row["low"]], [row["high"] - row["return"]]])
        color = colors.get(row["name"], INK)
        left.errorbar([row["return"]], [place], xerr=spread, fmt="o", color=color, markersize=6, capsize=4, lw=1.8)
    left.set_yticks(range(len(ordered)), [row["name"] for row in ordered])
    left.set_ylim(-0.6, max(0.6, len(ordered) - 0.4))
    left.set_xlabel("return of a session, 95 % interval")
    for name, points in curves.items():
        if points:
            steps, values = zip(*points, strict=True)
            right.plot(steps, values, color=colors[name], linewidth=2, marker="o", markersize=3.5, label=name)
    right.set_xlabel("environment steps")
    right.set_ylabel("judged return while it learned")
    if any(curves.values()):
        right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.grid(visible=True, axis="x" if axes is left else "y", color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
