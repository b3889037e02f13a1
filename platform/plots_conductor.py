"""Pictures of the conductor: whom it listens to, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from .plots import INK, PALE, PALETTE


def reading(panels: Mapping[str, tuple[ArrayLike, ArrayLike]], names: Sequence[str]) -> Figure:
    """The fusion weights against what a session shows, one panel a thing.

    Args:
        panels: by what is read, its levels `(L,)` and the mean weights there `(L, A)`.
        names: A agents.
    """
    figure = Figure(figsize=(9.5, 3.6), dpi=130, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    figure.suptitle("What the conductor listens to, and when", x=0.02, ha="left", fontsize=12.5, fontweight="bold")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, (levels, weights)) in zip(row, panels.items(), strict=True):
        for column in range(len(names)):
            color = PALETTE[column % len(PALETTE)]
            axes.plot(np.asarray(levels), np.asarray(weights)[:, column], color=color, marker="o", markersize=4)
        axes.axhline(1 / len(names), color=PALE, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlabel(name, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
    row[0].set_ylabel("fusion weight", color=INK)
    figure.legend(row[0].get_lines()[: len(names)], list(names), loc="outside right center", frameon=False)
    return figure


def failing(weights: Mapping[str, ArrayLike], usual: Mapping[str, ArrayLike]) -> Figure:
    """Each agent's weight through sessions in which it votes at random, beside its usual weight (dashed).

    Args:
        weights, usual: by agent, `(T,)` mean weights at each step.
    """
    figure = Figure(figsize=(8, 4.2), dpi=130, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    axes = figure.add_subplot()
    axes.set_title("An agent that votes at random loses its say", loc="left", fontsize=12.5, fontweight="bold")
    for place, (name, series) in enumerate(weights.items()):
        color = PALETTE[place % len(PALETTE)]
        axes.plot(np.arange(1, len(np.asarray(series)) + 1), np.asarray(series), color=color, label=name, linewidth=2.2)
        before = np.asarray(usual[name])
        axes.plot(np.arange(1, len(before) + 1), before, color=color, linewidth=1, linestyle=(0, (4, 3)))
    half = 0.5 / max(1, len(weights))
    axes.axhline(half, color=PALE, linewidth=1)
    axes.annotate("half an equal share", (1, half), (0, 3), textcoords="offset points", fontsize=8, color=PALE)
    axes.set_xlabel("step of the session", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("fusion weight of the failing agent", color=INK)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
