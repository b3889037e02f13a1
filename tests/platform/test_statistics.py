from __future__ import annotations

import math

import numpy as np
import pytest
from concertrl.platform.statistics import interval, normalised


def test_interval_is_students() -> None:
    """Mean 2, standard error 1 / sqrt(3), and 4.3027 from any table of t at 2 degrees of freedom."""
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert (mean, high - mean, mean - low) == pytest.approx((2.0, 4.302653 / 3**0.5, 4.302653 / 3**0.5))
    assert interval([1.0, 2.0, 3.0], level=0.9).high == pytest.approx(2.0 + 2.919986 / 3**0.5)


def test_interval_holds_the_mean_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 5))
    held = sum(found.low <= 3.0 <= found.high for found in map(interval, samples.tolist()))
    assert abs(held / 4000 - 0.95) < 4 * (0.95 * 0.05 / 4000) ** 0.5


def test_equal_values_have_no_spread() -> None:
    assert interval([4.0, 4.0]) == (4.0, 4.0, 4.0)


def test_normalised_runs_from_random_to_the_oracle() -> None:
    assert [normalised(value, 2.0, 6.0) for value in (2.0, 3.0, 6.0, 1.0, 8.0)] == [0.0, 0.25, 1.0, -0.25, 1.5]
    assert math.isnan(normalised(1.0, 2.0, 2.0)) and math.isnan(normalised(1.0, 3.0, 2.0))
