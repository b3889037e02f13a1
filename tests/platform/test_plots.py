"""Pictures hold what they are given, and their labels do not lie on each other."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from concertrl.platform.plots import contributions, forest, learning_curve, session_weights, spaced
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

CLOSE = {"random": 3.0, "cf": 13.3, "content": 13.2, "sentiment": 13.1, "equal_weights": 13.25, "best_static": 13.4}


def drawn(figure: Figure) -> Axes:
    figure.savefig(io.BytesIO(), format="png")
    return figure.axes[0]


def test_the_labels_of_close_yardsticks_do_not_overlap_and_stay_on_the_picture() -> None:
    figure = learning_curve(np.arange(60) * 1000, np.linspace(13, 14, 60), CLOSE)
    axes = drawn(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = sorted((Text.get_window_extent(text, renderer) for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == len(CLOSE) + 1
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairwise(boxes))
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    assert {text.get_text() for text in axes.texts} >= {"team  14.00", "equal weights  13.25"}


@pytest.mark.parametrize("points", [0, 1, 2])
def test_a_curve_of_few_points_is_drawn(points: int) -> None:
    axes = drawn(learning_curve(np.arange(points), np.arange(points), {"random": 1.0}))
    assert len(axes.lines[-1].get_xdata()) == points  # type: ignore[arg-type]


def test_each_agent_has_its_weights_and_its_band() -> None:
    weights = np.array([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]])
    axes = drawn(session_weights(weights, ["cf", "content", "sentiment"], weights - 0.1, weights + 0.1))
    curves = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 2 and line.get_linewidth() > 2]  # type: ignore[arg-type]
    assert np.allclose(np.array(curves).T, weights)
    assert len(axes.collections) == 3


def test_bars_are_ordered_and_named_with_their_values() -> None:
    axes = drawn(contributions(["cf", "content", "conductor"], [1.0, -0.5, 3.0], [0.5, -1.0, 2.0], [1.5, 0.0, 4.0]))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["content", "cf", "conductor"]
    assert [bar.get_width() for bar in axes.patches] == [-0.5, 1.0, 3.0]  # type: ignore[attr-defined]
    assert {text.get_text() for text in axes.texts} == {"-0.50", "1.00", "3.00"}


def test_the_best_policy_is_on_top_and_the_team_stands_out() -> None:
    rows = [{"policy": name, "return": value, "low": value - 1, "high": value + 1} for name, value in CLOSE.items()]
    rows.append({"policy": "team", "return": 13.35, "low": 13.0, "high": 14.0})
    axes = drawn(forest(rows))
    labels = axes.get_yticklabels()
    assert [label.get_text() for label in labels][-2:] == ["team", "best static"]
    assert [label.get_text() for label in labels if label.get_fontweight() == "bold"] == ["team"]


@given(st.lists(st.floats(-2, 2), max_size=12), st.floats(0.01, 0.5))
def test_spaced_heights_keep_their_distance_order_and_mean(heights: list[float], gap: float) -> None:
    before = np.array(heights, dtype=float)
    after = spaced(before, gap)
    order = np.argsort(before, kind="stable")
    assert (np.diff(after[order]) >= gap - 1e-9).all()
    if len(heights):
        assert after.mean() == pytest.approx(before.mean(), abs=1e-9)
    if (np.diff(before[order]) >= gap).all():
        assert np.allclose(after, before)
