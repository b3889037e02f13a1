"""The baselines of the field, which agents are held against: popularity, item kNN, BPR, ALS and EASE.

    likes (U, N)  --tune: a grid, on a nested cut-->  parameters  --fit-->  Scores: rows (B, N), users (B,)  ->  (B, N)

Each learns from likes alone, as in its paper, by the library of its field where one has it (`implicit`), on one
thread and from a seed, so that equal input gives equal numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, inv
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from ..platform.errors import ConcertError

Parameters = dict[str, float | int]

EASE_NUMBERS = 1 << 28
"""Numbers of the largest dense matrix that EASE may make: 2 GiB."""


class Scores(Protocol):
    """A fitted baseline: `rows` `(B, N)` of likes and the indices `users` `(B,)` of whose they are -> `(B, N)`."""

    def __call__(self, rows: csr_matrix, users: NDArray[np.int64]) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Baseline:
    """How a baseline is fitted to likes `(U, N)`, and the values of its parameters that are tried."""

    fit: Callable[[csr_matrix, Parameters, int], Scores]
    grid: Mapping[str, tuple[float | int, ...]] = field(default_factory=dict)

    def candidates(self) -> list[Parameters]:
        """Every combination of the grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]


def popular(likes: csr_matrix, parameters: Parameters, seed: int) -> Scores:
    """How many liked the item: the same for everyone."""
    counts = np.asarray(likes.sum(0)).ravel()
    return lambda rows, users: np.broadcast_to(counts, rows.get_shape())


def item_knn(likes: csr_matrix, parameters: Parameters, seed: int) -> Scores:
    """Cosine similarity to the items a user liked, of each item the `neighbours` nearest kept (Sarwar et al. 2001)."""
    from implicit.nearest_neighbours import ItemItemRecommender

    model = ItemItemRecommender(K=int(parameters["neighbours"]), num_threads=1)
    model.fit(csr_matrix(normalize(likes.astype(np.float64), axis=0)), show_progress=False)
    similarity: Any = model.similarity
    return lambda rows, users: (rows @ similarity).toarray()


def bpr(likes: csr_matrix, parameters: Parameters, seed: int) -> Scores:
    """Bayesian personalised ranking (Rendle et al. 2009).

    It has no word for a user it was not fitted on; such a user gets the mean of the liked items' factors, which ranked
    better in validation than the mean user did.
    """
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    settings: dict[str, Any] = dict(parameters)
    with threadpool_limits(1):
        model = BayesianPersonalizedRanking(num_threads=1, random_state=seed, **settings)
        model.fit(likes, show_progress=False)
    known = np.diff(likes.indptr) > 0
    factors, items = np.array(model.user_factors), np.array(model.item_factors)

    def scores(rows: csr_matrix, users: NDArray[np.int64]) -> NDArray[Any]:
        folded = (rows @ items) / np.maximum(np.diff(rows.indptr), 1)[:, None]
        folded[:, -1] = 1.0  # what the items' biases are weighed with
        return np.where(known[users][:, None], factors[users], folded) @ items.T

    return scores


def als(likes: csr_matrix, parameters: Parameters, seed: int) -> Scores:
    """Implicit alternating least squares (Hu, Koren and Volinsky 2008); a user's factor is solved from their likes."""
    from implicit.cpu.als import AlternatingLeastSquares

    settings: dict[str, Any] = dict(parameters)
    with threadpool_limits(1):
        model = AlternatingLeastSquares(num_threads=1, random_state=seed, **settings)
        model.fit(likes, show_progress=False)
    items = np.array(model.item_factors)
    return lambda rows, users: model.recalculate_user(users, rows) @ items.T


def ease(likes: csr_matrix, parameters: Parameters, seed: int) -> Scores:
    """EASE: B_ij = -P_ij / P_jj, B_jj = 0, with P = (Xt X + penalty I)^-1 (Steck 2019).

    With K = I - penalty P the scores are (x K - x diag(K)) / (1 - diag(K)), and K = Xt (X Xt + penalty I)^-1 X asks for
    an inverse as large as the users or the items, whichever are fewer.

    Raises:
        ConcertError: the matrices would not fit into memory.
    """
    known = likes[np.flatnonzero(np.diff(likes.indptr))].astype(np.float64)
    users, items = known.get_shape()
    if min(users, items) * items > EASE_NUMBERS:
        raise ConcertError(f"{users:,} users and {items:,} items are more than EASE can hold in memory")
    penalty = float(parameters["penalty"])
    with threadpool_limits(1):
        if users <= items:
            gram = (known @ known.T).toarray() + penalty * np.eye(users)
            half = cho_solve(cho_factor(gram, overwrite_a=True), known.toarray())
            diagonal = np.asarray(known.multiply(half).sum(0)).ravel()
            first: Any = known.T.tocsr()
        else:
            half = np.eye(items) - penalty * inv((known.T @ known).toarray() + penalty * np.eye(items))
            diagonal, first = np.diag(half).copy(), None

    def scores(rows: csr_matrix, users: NDArray[np.int64]) -> NDArray[Any]:
        through = rows @ half if first is None else (rows @ first).toarray() @ half
        return (np.asarray(through) - rows.multiply(diagonal).toarray()) / (1 - diagonal)

    return scores


BASELINES: dict[str, Baseline] = {
    "popular": Baseline(popular),
    "item_knn": Baseline(item_knn, {"neighbours": (20, 50, 100, 200, 500)}),
    "bpr": Baseline(
        bpr,
        {"factors": (32, 64), "learning_rate": (0.005, 0.02, 0.1), "regularization": (0.01, 0.1)}
        | {"iterations": (100, 200)},
    ),
    "als": Baseline(als, {"factors": (32, 64, 128), "regularization": (10.0, 50.0, 100.0), "alpha": (1.0, 20.0, 50.0)}),
    "ease": Baseline(ease, {"penalty": (10.0, 30.0, 100.0, 200.0, 300.0, 500.0, 1000.0)}),
}
"""By name, in the order of a table."""


def tune(name: str, likes: csr_matrix, judge: Callable[[Scores], float], seed: int) -> tuple[Parameters, float]:
    """The parameters of a baseline that `judge` likes best, fitted on `likes` `(U, N)`, and what it said.

    Of equals the first is taken. `judge` must not have seen what the baseline will be tested on.
    """
    baseline = BASELINES[name]
    found = [(judge(baseline.fit(likes, parameters, seed)), parameters) for parameters in baseline.candidates()]
    best, parameters = max(found, key=lambda pair: pair[0])
    return parameters, best
