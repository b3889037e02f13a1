"""Item-to-item models of who liked what, as factors: an item in a history speaks for others by `inputs @ outputs.T`.

    matrix (U, N), what each user did  ->  inputs (N, d), outputs (N, d)

A user's scores are (matrix @ inputs) @ outputs.T, for users the fit never saw as well. What a model says of an item by
itself is left in: nobody is offered what is in the history.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import csr_matrix
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

EXACT = 3_000
"""Up to so many users or items, whichever are fewer, all singular values are found; above, only the largest."""

POWER: Any = 5
"""Power iterations of the drawn spectrum; scikit-learn's own annotation knows only its default, a word."""

FOLD_IN = 1.0
"""Ridge penalty of the map from a history to the user factor that a model has learned."""


class Factors(NamedTuple):
    """An item-to-item model: `inputs` and `outputs`, `(N, d)` float32 each."""

    inputs: NDArray[np.float32]
    outputs: NDArray[np.float32]


class Spectrum(NamedTuple):
    """Singular values `(r,)`, descending, and right singular vectors `(N, r)` of a matrix `(U, N)`."""

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]


def spectrum(matrix: csr_matrix, rank: int, seed: int) -> Spectrum:
    """All singular values of a small matrix, the `rank` largest of a large one (Halko, Martinsson and Tropp 2011)."""
    users, items = matrix.get_shape()
    with threadpool_limits(1):
        if min(users, items) > EXACT:
            state = np.random.RandomState(seed)
            _, values, right = randomized_svd(matrix, min(rank, users, items), n_iter=POWER, random_state=state)
            return Spectrum(values.astype(np.float64), right.T.astype(np.float64))
        gram = (matrix @ matrix.T if users <= items else matrix.T @ matrix).toarray().astype(np.float64)
        squares, sides = eigh(gram)
        squares, sides = squares[::-1], sides[:, ::-1]
        kept = squares > 1e-9 * max(float(squares[0]), 1e-12)
        values, sides = np.sqrt(squares[kept]), sides[:, kept]
        return Spectrum(values, matrix.T @ sides / values if users <= items else sides)


def ease(found: Spectrum, penalty: float, rank: int) -> Factors:
    """EASE, B_ij = -P_ij / P_jj with P = (Xt X + penalty I)^-1 (Steck 2019, "Embarrassingly Shallow Autoencoders").

    With X = U S Vt,  P = (I - V G Vt) / penalty  where  G = S^2 / (S^2 + penalty),  so beside the diagonal
    B = V G Vt / (penalty P_jj): the model has the rank of X, and the `rank` largest singular values make its factors.
    """
    gains = found.values**2 / (found.values**2 + penalty)
    left_over = np.maximum(1 - (gains * found.vectors**2).sum(1), 1e-6)
    half = found.vectors[:, :rank] * np.sqrt(gains[:rank])
    return _factors(half, half / left_over[:, None])


def item_knn(matrix: csr_matrix, rank: int, seed: int) -> Factors:
    """Cosine similarity of the items' columns, from its `rank` largest singular values."""
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(0)).ravel())
    unit = csr_matrix(matrix.multiply(1 / np.maximum(norms, 1e-9)))
    found = spectrum(unit, rank, seed)
    half = found.vectors[:, :rank] * found.values[:rank]
    return _factors(half, half)


def bpr(matrix: csr_matrix, rank: int, seed: int, epochs: int = 100) -> Factors:
    """Bayesian personalised ranking (Rendle et al. 2009) by `implicit`, with a map from a history to a user factor.

    The map is the ridge regression of the learned user factors on the histories.
    """
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    with threadpool_limits(1):
        settings: dict[str, Any] = {"learning_rate": 0.05, "regularization": 0.02, "iterations": epochs}
        model = BayesianPersonalizedRanking(factors=rank, num_threads=1, random_state=seed, **settings)
        model.fit(matrix, show_progress=False)
        users, items = np.asarray(model.user_factors, np.float64), np.asarray(model.item_factors, np.float64)
        found = spectrum(matrix, EXACT, seed)
        projected = (matrix @ found.vectors).T @ users
        inputs = found.vectors @ (projected / (found.values**2 + FOLD_IN)[:, None])
    return _factors(inputs, items)


def _factors(inputs: NDArray[np.float64], outputs: NDArray[np.float64]) -> Factors:
    """The outputs at a root mean square length of 1, as towers have them."""
    scale = max(float(np.sqrt((outputs**2).sum(1).mean())), 1e-12)
    return Factors((inputs * scale).astype(np.float32), (outputs / scale).astype(np.float32))
