"""Probabilities that mean what they say: fit a scale and a shift, measure the error that is left, set a base rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, root_scalar
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

Floats = NDArray[np.floating]

BINS = 15
"""Bins of the calibration error, each with as many pairs as the others."""


def platt(logits: Floats, labels: Floats) -> tuple[float, float]:
    """`(scale, shift)` with which `sigmoid(scale * logit + shift)` fits `labels` `(n,)` best; the scale is positive.

    Platt 1999, "Probabilistic outputs for support vector machines". Standard normal priors on log(scale) and shift keep
    both finite where n is small.
    """

    def objective(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scale, shift = np.exp(parameters[0]), parameters[1]
        predicted = scale * logits + shift
        loss = np.logaddexp(0, predicted) - labels * predicted
        slope = expit(predicted) - labels
        gradient = np.array([scale * (slope * logits).sum(), slope.sum()]) + parameters
        return float(loss.sum() + 0.5 * parameters @ parameters), gradient

    found = minimize(objective, np.zeros(2), jac=True, method="L-BFGS-B")
    return float(np.exp(found.x[0])), float(found.x[1])


def calibration_error(probabilities: Floats, labels: Floats) -> float:
    """Expected calibration error in [0, 1]: |mean probability - share of ones|, averaged over bins of equal mass.

    Equal probabilities share a bin. Naeini, Cooper, Hauskrecht 2015, "Obtaining well calibrated probabilities using
    Bayesian binning".
    """
    place = (rankdata(probabilities, method="average") - 0.5) / len(labels)
    gaps = np.asarray(probabilities, np.float64) - labels
    return float(np.abs(np.bincount((place * BINS).astype(np.int64), gaps)).sum() / len(gaps))


def judge(probabilities: Floats, labels: Floats, constant: float) -> dict[str, float]:
    """How good `probabilities` `(n,)` are for `labels` `(n,)`, against a constant probability.

    Keys: `log_loss`, `brier`, `ece` and the same with `_constant`, and `auc` (0.5 for any constant).
    """
    facts = {"auc": float(roc_auc_score(labels, probabilities))}
    for name, values in (("", np.asarray(probabilities, np.float64)), ("_constant", np.full(len(labels), constant))):
        facts["log_loss" + name] = float(log_loss(labels, values))
        facts["brier" + name] = float(brier_score_loss(labels, values))
        facts["ece" + name] = calibration_error(values, labels)
    return facts


def base_rate_shift(logits: Floats, rate: float) -> float:
    """What to add to all `logits` so that their mean probability is `rate`, in (0, 1)."""
    values = np.asarray(logits, np.float64)
    logit = np.log(rate / (1 - rate))
    bracket = (logit - values.max() - 1e-6, logit - values.min() + 1e-6)
    return float(root_scalar(lambda shift: float(expit(values + shift).mean()) - rate, bracket=bracket).root)
