"""Pictures of a sweep: arrays in, matplotlib figures out, in the style of `plots.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import ArrayLike, NDArray

from .plots import INK, OTHERS, PALE, TEAM


def pareto(
    points: ArrayLike, front: Sequence[int], names: Sequence[str], axes_names: tuple[str, str], best: int
) -> Figure:
    """Trials by two objectives, those that none is better than in both joined.

    Args:
        points: `(n, 2)`.
        front: rows of the points on the front.
        names: of the n trials.
        axes_names: of the objectives.
        best: row of the trial that was chosen.
    """
    values = np.asarray(points, float)
    figure, axes = _figure("Trials by two objectives", *axes_names)
    others = [row for row in range(len(values)) if row not in front]
    axes.scatter(values[others, 0], values[others, 1], color=PALE, s=26, label="another is better in both")
    line = sorted(front, key=lambda row: values[row, 0])
    axes.plot(values[line, 0], values[line, 1], color=OTHERS, marker="o", markersize=6, lw=1.6, label="the front")
    axes.scatter(*values[best], color=TEAM, s=80, zorder=3, label="registered")
    for row in line:
        axes.annotate(names[row], values[row], (6, 5), textcoords="offset points", fontsize=9, color=INK)
    axes.margins(0.1)
    axes.legend(frameon=False)
    return figure


def courses(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], best: str, metric: str) -> Figure:
    """Each trial's score against its iterations, the best in colour.

    Args:
        curves: by trial, iterations `(T,)` and scores `(T,)`.
    """
    figure, axes = _figure("Every trial", "iterations", f"{metric}, validation sessions")
    for name, (steps, scores) in curves.items():
        chosen = name == best
        axes.plot(
            np.asarray(steps), np.asarray(scores), color=TEAM if chosen else PALE, lw=2.4 if chosen else 1.1,
            marker="o", markersize=4 if chosen else 2.5, zorder=3 if chosen else 2,
        )  # fmt: skip
    axes.margins(x=0.03)
    return figure


def parallel(
    columns: Mapping[str, Sequence[Any]], scores: ArrayLike, metric: str, logarithmic: Sequence[str] = ()
) -> Figure:
    """What the trials had and what they came to: an axis a key, a line a trial, the better the darker.

    Args:
        columns: by key, n values; None where a key did not count.
        scores: `(n,)`.
        metric: of the scores, the last axis.
        logarithmic: keys drawn by their logarithm.
    """
    wanted = {**columns, metric: list(np.asarray(scores, float))}
    figure = Figure(
        figsize=(max(6.0, 1.7 * len(wanted)), 4.6), dpi=130, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    )
    axes = figure.add_subplot()
    axes.set_title(
        "What the trials had, and what they came to", loc="left", fontsize=12.5, fontweight="bold", color=INK
    )
    heights, ranks = [], np.argsort(np.argsort(np.asarray(scores, float)))
    for place, (key, column) in enumerate(wanted.items()):
        height, labels = _heights(column, key in logarithmic)
        heights.append(height)
        axes.axvline(place, color=INK, lw=1)
        for at, text in labels:
            axes.annotate(text, (place, at), (4, 0), textcoords="offset points", fontsize=8, color=INK, va="center")
    table = np.stack(heights, axis=1)
    for row in np.argsort(ranks):
        share = ranks[row] / max(1, len(ranks) - 1)
        color = TEAM if share == 1 else OTHERS
        axes.plot(range(len(wanted)), table[row], color=color, alpha=0.15 + 0.75 * share, lw=1 + 1.2 * share)
    axes.set_xticks(range(len(wanted)), [key.replace(".", "\n") for key in wanted], fontsize=8)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_ylim(-0.06, 1.06)
    return figure


def front_of(points: ArrayLike, signs: Sequence[int]) -> list[int]:
    """Rows of `(n, k)` points that no other is at least as good as in everything and better in something.

    Args:
        signs: 1 where more is better, -1 where less is.
    """
    values: NDArray[np.float64] = np.asarray(points, float) * np.asarray(signs, float)
    return [row for row, mine in enumerate(values) if not ((values >= mine).all(1) & (values > mine).any(1)).any()]


def _heights(column: Sequence[Any], logarithmic: bool) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    """Where values lie on their axis, in [0, 1], and what is written beside it; NaN where there is no value."""
    given = [value for value in column if value is not None]
    if given and all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        numbers = np.array([np.nan if value is None else float(value) for value in column])
        scaled = np.log(numbers) if logarithmic else numbers
        low, high = np.nanmin(scaled), np.nanmax(scaled)
        height = (scaled - low) / (high - low) if high > low else np.where(np.isnan(scaled), np.nan, 0.5)
        ends = [(0.0, np.nanmin(numbers)), (1.0, np.nanmax(numbers))] if high > low else [(0.5, numbers[0])]
        return height, [(at, f"{value:.3g}") for at, value in ends]
    words = sorted({_word(value) for value in given})
    places = {word: place / max(1, len(words) - 1) if len(words) > 1 else 0.5 for place, word in enumerate(words)}
    height = np.array([np.nan if value is None else places[_word(value)] for value in column])
    return height, [(place, word) for word, place in places.items()]


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _figure(title: str, across: str, up: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 4.4), dpi=130, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12.5, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.grid(visible=True, color="#E6E6E6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
