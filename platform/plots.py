"""Pictures of a run: arrays in, matplotlib figures out. No global state: safe in a thread and without a display.

Colours are those of Okabe and Ito (Color Universal Design, 2008), told apart by colour-blind readers. Lines carry their
names at the right edge, so that no legend covers data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
OTHERS, TEAM = PALETTE[0], PALETTE[1]
INK, PALE = "#333333", "#8A8A8A"
_LABEL_GAP = 0.052
"""Least distance of two labels, as a share of the axis' height."""


def learning_curve(
    steps: ArrayLike,
    returns: ArrayLike,
    yardsticks: Mapping[str, float],
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
) -> Figure:
    """The team's return while it learns, against fixed policies.

    Args:
        steps: `(T,)` environment steps sampled so far.
        returns: `(T,)` mean return of a session.
        yardsticks: return of each fixed policy, drawn as a level line with its name.
        low, high: `(T,)` interval around `returns`, drawn as a band.
    """
    steps, returns = np.asarray(steps, float), np.asarray(returns, float)
    figure, axes = _figure("The team's return while it learns", "environment steps", "return of a session")
    for value in yardsticks.values():
        axes.axhline(value, color=PALE, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(steps, returns, color=TEAM, linewidth=2.2, marker="o" if len(steps) < 30 else None, markersize=4)
    if low is not None and high is not None:
        axes.fill_between(steps, np.asarray(low, float), np.asarray(high, float), color=TEAM, alpha=0.18, lw=0)
    axes.xaxis.set_major_formatter(_thousands)
    axes.margins(x=0.02)
    labels = [(name, value, INK) for name, value in yardsticks.items()]
    if len(returns):
        labels.append(("team", float(returns[-1]), TEAM))
    _label_right(axes, labels)
    return figure


def session_weights(
    weights: ArrayLike, names: Sequence[str], low: ArrayLike | None = None, high: ArrayLike | None = None
) -> Figure:
    """The fusion weights through a session.

    Args:
        weights: `(T, A)` mean weight of each agent at each step, each row summing to 1.
        names: A agents.
        low, high: `(T, A)` band over sessions.
    """
    weights = np.asarray(weights, float)
    places = np.arange(1, len(weights) + 1)
    figure, axes = _figure("Whom the conductor listens to, through a session", "step of the session", "fusion weight")
    equal = 1 / len(names)
    axes.axhline(equal, color=PALE, linewidth=1, linestyle=(0, (4, 3)))
    for column, color in zip(range(len(names)), _colors(len(names)), strict=True):
        axes.plot(places, weights[:, column], color=color, linewidth=2.2)
        if low is not None and high is not None:
            band = np.asarray(low, float)[:, column], np.asarray(high, float)[:, column]
            axes.fill_between(places, *band, color=color, alpha=0.15, lw=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    labels = [
        (name, float(weights[-1, column]), color)
        for column, (name, color) in enumerate(zip(names, _colors(len(names)), strict=True))
    ]
    _label_right(axes, [*labels, ("equal", equal, PALE)])
    return figure


def contributions(
    names: Sequence[str],
    values: ArrayLike,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    *,
    title: str = "What each agent adds to the team",
    unit: str = "return lost without the agent",
) -> Figure:
    """One bar an agent.

    Args:
        names: A agents.
        values: `(A,)` contribution of each.
        low, high: `(A,)` interval around `values`.
        title, unit: what is shown, and what the axis measures.
    """
    values = np.asarray(values, float)
    order = np.argsort(values)
    figure, axes = _figure(title, unit, "", height=1.5 + 0.5 * len(names))
    bars = axes.barh(np.arange(len(names)), values[order], color=OTHERS, height=0.62)
    ends = values[order]
    if low is not None and high is not None:
        spread = _spread(values, low, high)[:, order]
        axes.errorbar(values[order], np.arange(len(names)), xerr=spread, fmt="none", ecolor=INK, capsize=3, lw=1.3)
        ends = np.where(ends >= 0, ends + spread[1], ends - spread[0])
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(np.arange(len(names)), [_spoken(str(names[row])) for row in order.tolist()])
    for bar, value, end in zip(bars, values[order], ends, strict=True):
        side = 1 if value >= 0 else -1
        _write(axes, f"{value:.2f}", (end, bar.get_y() + bar.get_height() / 2), 6 * side)
    axes.margins(x=0.14)
    _plain(axes, grid="x")
    return figure


def forest(
    rows: Sequence[Mapping[str, Any]],
    highlight: str = "team",
    title: str = "Every policy, with 95 % intervals",
    unit: str = "return of a session",
) -> Figure:
    """Policies side by side, each with its 95 % interval, the best on top.

    Args:
        rows: `{"policy", "return", "low", "high"}` each.
        highlight: the policy drawn in colour; its interval is carried down the picture for comparison.
        title, unit: what is shown, and what the axis measures.
    """
    ordered = sorted(rows, key=lambda row: row["return"])
    height = 1.4 + 0.36 * len(rows)
    figure, axes = _figure(title, unit, "", height=height)
    for place, row in enumerate(ordered):
        chosen = row["policy"] == highlight
        color = TEAM if chosen else OTHERS
        if chosen:
            axes.axvspan(row["low"], row["high"], color=color, alpha=0.15, lw=0)
        spread = _spread(np.array([row["return"]]), [row["low"]], [row["high"]])
        axes.errorbar([row["return"]], [place], xerr=spread, fmt="o", color=color, markersize=6, capsize=4, lw=1.8)
        _write(axes, f"{row['return']:.2f}", (row["high"], place), 9, color)
    axes.set_yticks(range(len(ordered)), [_spoken(row["policy"]) for row in ordered])
    _plain(axes, grid="x")
    for tick, row in zip(axes.get_yticklabels(), ordered, strict=True):
        if row["policy"] == highlight:
            tick.set_color(TEAM)
            tick.set_fontweight("bold")
    axes.margins(x=0.1, y=0.06)
    return figure


def _figure(title: str, across: str, up: str, height: float = 4.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), dpi=130, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12.5, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    _plain(axes, grid="y")
    return figure, axes


def _plain(axes: Axes, grid: str) -> None:
    axes.grid(visible=False)
    axes.grid(visible=True, axis="x" if grid == "x" else "y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, length=3)


def _label_right(axes: Axes, labels: Sequence[tuple[str, float, str]]) -> None:
    """Writes each name with its value beside its height at the right edge, moved apart where they would overlap."""
    bottom, top = axes.get_ylim()
    values = np.array([value for _, value, _ in labels])
    places = spaced((values - bottom) / (top - bottom), _LABEL_GAP)
    for (name, value, color), height, place in zip(labels, (values - bottom) / (top - bottom), places, strict=True):
        axes.annotate(
            f"{_spoken(name)}  {value:.2f}",
            xy=(1.0, height),
            xytext=(1.045, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=color,
            fontweight="bold" if name == "team" else "normal",
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.7, "shrinkA": 1, "shrinkB": 0},
            annotation_clip=False,
        )


def spaced(heights: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """`(n,)` heights moved as little as need be to lie at least `gap` apart, in the same order.

    The least squares answer: isotonic regression, by pooling adjacent violators, of the heights less rank times gap.
    """
    order = np.argsort(heights, kind="stable")
    ranks = np.arange(len(heights)) * gap
    pools: list[list[float]] = []
    for value in heights[order] - ranks:
        pools.append([value, 1])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            mean, count = pools.pop()
            before, many = pools[-1]
            pools[-1] = [(before * many + mean * count) / (many + count), many + count]
    fitted = np.concatenate([np.full(int(count), mean) for mean, count in pools]) if pools else np.zeros(0)
    result = np.empty(len(heights))
    result[order] = fitted + ranks
    return result


def _spread(values: NDArray[np.float64], low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """`(2, n)` distances down to `low` and up to `high`, never below 0."""
    return np.maximum(0, np.stack([values - np.asarray(low, float), np.asarray(high, float) - values]))


def _write(axes: Axes, text: str, at: tuple[float, float], offset: float, color: str = INK) -> None:
    """Writes beside a point, `offset` points to its right (or left, where negative)."""
    side = "left" if offset > 0 else "right"
    axes.annotate(text, at, (offset, 0), textcoords="offset points", va="center", ha=side, fontsize=9, color=color)


def _colors(count: int) -> list[str]:
    return [PALETTE[place % len(PALETTE)] for place in range(count)]


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _thousands(value: float, _: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"
