from __future__ import annotations

import numpy as np
import pytest
from concertrl.envs.calibration import base_rate_shift, calibration_error, judge, platt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit

LOGITS = arrays(np.float64, st.integers(2, 40), elements=st.floats(-20, 20))


@given(LOGITS, st.floats(0.01, 0.99))
def test_the_shift_brings_the_mean_to_the_rate(logits: np.ndarray, rate: float) -> None:
    assert expit(logits + base_rate_shift(logits, rate)).mean() == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(0.5, -1.0), (1.0, 0.0), (2.0, 0.7)])
def test_platt_undoes_a_distortion(scale: float, shift: float) -> None:
    draws = np.random.default_rng(0)
    logits = draws.normal(size=100_000)
    labels = draws.random(len(logits)) < expit(scale * logits + shift)
    assert platt(logits, labels.astype(float)) == pytest.approx((scale, shift), abs=0.05)


def test_platt_stays_finite_and_upright_on_a_handful() -> None:
    for labels in (np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.array([1.0, 1.0])):
        scale, shift = platt(np.array([-1.0, 1.0]), labels)
        assert 0 < scale < 10 and abs(shift) < 5


@given(LOGITS, st.integers(0, 2**32 - 1))
def test_calibration_error_lies_in_the_unit_interval_whatever_the_order(logits: np.ndarray, seed: int) -> None:
    draws = np.random.default_rng(seed)
    probabilities, labels = expit(logits), (draws.random(len(logits)) < 0.5).astype(float)
    order = draws.permutation(len(logits))
    error = calibration_error(probabilities, labels)
    assert 0 <= error <= 1
    assert calibration_error(probabilities[order], labels[order]) == pytest.approx(error)


def test_calibration_error_of_honest_and_of_boastful_probabilities() -> None:
    draws = np.random.default_rng(0)
    probabilities = draws.random(60_000)
    labels = (draws.random(60_000) < probabilities).astype(float)
    assert calibration_error(probabilities, labels) < 0.02
    assert calibration_error(probabilities, 1 - labels) == pytest.approx(0.5, abs=0.02)  # E|2p - 1|
    assert calibration_error(np.full(4, 0.5), np.array([1.0, 1.0, 0.0, 0.0])) == 0


def test_judge_scores_the_probabilities_and_the_constant() -> None:
    labels = np.array([1.0, 1.0, 0.0, 0.0])
    facts = judge(np.array([0.9, 0.6, 0.7, 0.1]), labels, constant=0.5)
    assert facts["auc"] == 0.75
    assert facts["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.3, 0.9]).mean())
    assert facts["brier"] == pytest.approx((0.01 + 0.16 + 0.49 + 0.01) / 4)
    assert facts["log_loss_constant"] == pytest.approx(np.log(2))
    assert facts["brier_constant"] == 0.25
    assert facts["ece_constant"] == 0
