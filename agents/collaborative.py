"""The collaborative tower: who liked what, factorised, and how many liked it. Reads nothing of the items themselves."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from ..platform.errors import InputError
from ..platform.logs import Logs
from ..platform.settings import CollaborativeSettings
from .profiles import calibrated
from .tower import Tower

LEAST_REGULARIZATION = 1e-3
"""Less would leave a user's equations singular where there are fewer items than factors."""

MOST_REGULARIZATION = 1 / 3
"""Of the confidences' largest singular value: above it the factors shrink to nothing (seen on two datasets)."""


def fit(logs: Logs, settings: CollaborativeSettings, seed: int) -> Tower:
    """Implicit alternating least squares (Hu, Koren and Volinsky 2008) by `implicit`, on `Logs.weights`.

    The confidence of a liked interaction is `1 + alpha * weight`; an item nobody liked has the zero vector, and so the
    score 0. The vectors `(N, factors)` are scaled to a root mean square length of 1. A small dataset lowers the
    regularisation that it is given, and says so in the facts.

    Raises:
        InputError: nobody liked anything.
    """
    liked = logs.weights > 0
    if not liked.any():
        raise InputError('no interaction says that a user liked an item: the "cf" agent has nothing to learn from')
    confidence = _confidence(logs, settings.alpha)
    most = MOST_REGULARIZATION * _largest_singular_value(confidence)
    regularization = min(max(settings.regularization, LEAST_REGULARIZATION), most)
    factors = _item_factors(confidence, settings, regularization, seed)
    scale = np.sqrt((factors**2).sum(1).mean())
    vectors = torch.from_numpy(factors / scale)
    extras = {
        "gram": vectors.T @ vectors + regularization / float(scale) ** 2 * torch.eye(settings.factors),
        "alpha": torch.tensor(settings.alpha, dtype=torch.float32),
    }
    unknown = logs.num_items - len(np.unique(logs.items[liked]))
    facts = {
        "fitted_on": f"{int(liked.sum()):,} liked interactions of {len(np.unique(logs.users[liked])):,} users",
        "items_without_vector": f"{unknown:,} of {logs.num_items:,}",
        "regularization": f"{regularization:.4g}",
    }
    if settings.popularity == 0:
        return calibrated(Tower("cf", vectors, "ridge", extras, facts), logs)
    # Of the factors' size, so that traces and residuals speak of tastes as loudly as of popularity.
    unit = settings.factors**-0.5
    extras["pull"] = torch.tensor(settings.popularity / unit, dtype=torch.float32)
    facts["popularity"] = f"its logarithm weighs {settings.popularity:g} a standard deviation beside the factors"
    vectors = torch.cat([vectors, unit * _popularity(logs)], dim=1)
    return calibrated(Tower("cf", vectors, "popular_ridge", extras, facts, common=1), logs)


def _popularity(logs: Logs) -> torch.Tensor:
    """`(N, 1)`: logarithm of how many liked the item, standardised over the catalog."""
    counts = np.log1p(np.bincount(logs.items[logs.weights > 0], minlength=logs.num_items))
    standard = (counts - counts.mean()) / max(float(counts.std()), 1e-6)
    return torch.from_numpy(standard.astype(np.float32))[:, None]


def _confidence(logs: Logs, alpha: float) -> csr_matrix:
    """`(U, N)`: 1 + alpha * weight where a user liked an item, the weights of a repeated pair added up."""
    liked = logs.weights > 0
    cells = (logs.weights[liked], (logs.users[liked], logs.items[liked]))
    matrix = csr_matrix(cells, shape=(logs.num_users, logs.num_items), dtype=np.float32)
    matrix.data = 1 + np.float32(alpha) * matrix.data
    return matrix


def _largest_singular_value(matrix: csr_matrix) -> float:
    """By 20 steps of power iteration; a matrix without negative numbers needs no more from a positive start."""
    vector = np.ones(matrix.get_shape()[1])
    for _ in range(20):
        vector = matrix.T @ (matrix @ vector)
        vector /= np.linalg.norm(vector)
    return float(np.linalg.norm(matrix @ vector))


def _item_factors(
    confidence: csr_matrix, settings: CollaborativeSettings, regularization: float, seed: int
) -> NDArray[np.float32]:
    """`(N, factors)`. A row is solved on its own, so that the number of threads changes nothing."""
    from implicit.cpu.als import AlternatingLeastSquares

    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=settings.factors,
            regularization=regularization,
            alpha=1.0,
            iterations=settings.iterations,
            random_state=np.random.default_rng([seed, *b"cf"]),
        )
        model.fit(confidence, show_progress=False)
    return np.asarray(model.item_factors, np.float32)
