"""Means over seeds, with intervals, and scores on a common scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent values, one a seed.

    Args:
        values: at least 2.
        level: confidence, in (0, 1).
    """
    array = np.asarray(values, float)
    mean, error = float(array.mean()), float(stats.sem(array))
    reach = error * float(stats.t.ppf((1 + level) / 2, len(array) - 1))
    return Interval(mean, mean - reach, mean + reach)


def normalised(value: float, random: float, oracle: float) -> float:
    """(value - random) / (oracle - random): 0 plays at random, 1 plays as the horizon-aware oracle.

    NaN where the oracle is not above random, since there is then no scale.
    """
    return (value - random) / (oracle - random) if oracle > random else float("nan")
