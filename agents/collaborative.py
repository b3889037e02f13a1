"""The collaborative tower: who liked what, factorised. Reads nothing of the items themselves.

    logs  ->  the latest likes held out  ->  candidates: ALS, BPR, item kNN, EASE, each tuned  ->  NDCG@10  ->  the best
          ->  fitted again on all the logs  ->  Tower

ALS folds a user in by ridge regression; the others are item-to-item models (`item_models.py`).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from ..platform.errors import InputError
from ..platform.logs import Logs
from ..platform.settings import CollaborativeSettings
from .item_models import Factors, bpr, ease, item_knn, spectrum
from .profiles import calibrated
from .tower import Tower
from .validation import Validation, validated, validation

LEAST_REGULARIZATION = 1e-3
"""Less would leave a user's equations singular where there are fewer items than factors."""

FAMILIES = ("als", "bpr", "item_knn", "ease")
"""What `best` tries."""

PENALTIES = (30.0, 100.0, 300.0, 1000.0)
"""Of EASE."""

LOWS = (0.0, 1.0)
"""What an interaction that was not liked may count, where a like counts 1."""

HALF_LIVES = (math.inf, 10.0, 3.0)
"""Interactions after which one may count half, in a user's history."""

ALS_FACTORS = (32, 64)
BPR_FACTORS = 64

MOST_REGULARIZATION = 1 / 3
"""Of the confidences' largest singular value: above it the factors shrink to nothing (seen on two datasets)."""


def fit(logs: Logs, settings: CollaborativeSettings, seed: int) -> Tower:
    """The tower of `settings.method`, or the best of all on the latest likes.

    `als` is fitted as it is set. The others have their penalty, the weight of what was met and not liked, and the
    fading of older interactions picked on the latest likes of the users; `als` too where `best` tries it.

    Raises:
        InputError: nobody liked anything.
    """
    if not (logs.weights > 0).any():
        raise InputError('no interaction says that a user liked an item: the "cf" agent has nothing to learn from')
    if settings.method != "best" and settings.candidate is not None:
        return _candidate(settings.method, settings.candidate, logs, settings, seed)
    problem = None if settings.method == "als" else validation(logs)
    if problem is None:
        return _als(logs, settings, seed)
    names = FAMILIES if settings.method == "best" else (settings.method,)
    found = {name: _best(name, problem, settings, seed) for name in names}
    name = max(found, key=lambda each: found[each].score)
    tower = _candidate(name, found[name].place, logs, settings, seed)
    scores = ", ".join(f"{each} {found[each].score:.4f}" for each in names)
    picked = {
        "picked": f"{name}, by NDCG@10 on the latest likes ({scores})",
        "settings": json.dumps({"method": name, "candidate": found[name].place}),
    }
    return replace(tower, facts={**tower.facts, **picked})


def _candidate(name: str, place: int, logs: Logs, settings: CollaborativeSettings, seed: int) -> Tower:
    tower = next(itertools.islice(_candidates(name, logs, settings, seed), place, None), None)
    if tower is None:
        raise InputError(f"agents.cf.candidate={place}: {name} has fewer candidates than that")
    return tower


class _Found(NamedTuple):
    """The pick of a family: its place among the candidates, and the NDCG@10 of the family's best."""

    place: int
    score: float


def _best(name: str, problem: Validation, settings: CollaborativeSettings, seed: int) -> _Found:
    """The simplest kind of reading that is within a standard error of the best, as its best model (Breiman 1984).

    The best on the latest likes alone would often be so by luck: the candidates are many and the users few.
    """
    scores = torch.stack([validated(tower, problem) for tower in _candidates(name, problem.earlier, settings, seed)])
    means = scores.mean(1)
    best = int(means.argmax())
    spread = (scores[best] - scores).std(1) / math.sqrt(scores.shape[1])
    # Candidates come in kinds of equally many models, the simplest kind first.
    kinds = means.view(len(_readings(name)), -1)
    tops = kinds.argmax(1) + torch.arange(len(kinds)) * kinds.shape[1]
    near = means[tops] + spread[tops] >= means[best]
    return _Found(int(tops[near.int().argmax()]), float(means[best]))


def _readings(name: str) -> list[tuple[float, float]]:
    """How a family may read a history, the simplest first: what counts that was not liked, and the half-life."""
    if name == "als":
        return [(0.0, math.inf)]
    return list(itertools.product(LOWS if name == "ease" else LOWS[:1], HALF_LIVES))


def _candidates(name: str, logs: Logs, settings: CollaborativeSettings, seed: int) -> Iterator[Tower]:
    """The towers of a family: for each kind of reading, its models."""
    if name == "als":
        for factors, popularity in itertools.product(ALS_FACTORS, (0.0, settings.popularity)):
            changed = {"factors": min(factors, settings.factors), "popularity": popularity}
            yield _als(logs, settings.model_copy(update=changed), seed)
        return
    for low, readings in itertools.groupby(_readings(name), key=lambda reading: reading[0]):
        models = list(_models(name, _matrix(logs, low), settings.factors, seed))
        for (_, half_life), (label, factors) in itertools.product(readings, models):
            yield _linear(logs, factors, low, half_life, label)


def _models(name: str, matrix: csr_matrix, rank: int, seed: int) -> Iterator[tuple[str, Factors]]:
    """The item-to-item models of a family on a matrix, with what each is called."""
    if name == "ease":
        found = spectrum(matrix, rank, seed)
        for penalty in PENALTIES:
            yield f"EASE, penalty {penalty:g}", ease(found, penalty, rank)
    elif name == "item_knn":
        yield "item kNN", item_knn(matrix, rank, seed)
    else:
        yield "BPR", bpr(matrix, min(rank, BPR_FACTORS), seed)


def _matrix(logs: Logs, low: float) -> csr_matrix:
    """`(U, N)`: 1 where a user liked an item, `low` where the user met it and did not; a pair counts once."""
    said = np.where(logs.positive, 1.0, low).astype(np.float32)
    matrix = csr_matrix((said, (logs.users, logs.items)), shape=(logs.num_users, logs.num_items))
    matrix.data = np.minimum(matrix.data, 1.0)
    matrix.eliminate_zeros()
    return matrix


def _linear(logs: Logs, factors: Factors, low: float, half_life: float, label: str) -> Tower:
    extras = {
        "inputs": torch.from_numpy(factors.inputs),
        "low": torch.tensor(low, dtype=torch.float32),
        "fade": torch.tensor(0.5 ** (1 / half_life), dtype=torch.float32),
    }
    facts = {
        "fitted_on": f"{len(logs):,} interactions of {len(np.unique(logs.users)):,} users",
        "model": f"{label}, {factors.outputs.shape[1]} factors",
        "not_liked_weighs": f"{low:g}",
        "half_life": "none" if np.isinf(half_life) else f"{half_life:g} interactions",
    }
    return calibrated(Tower("cf", torch.from_numpy(factors.outputs), "linear", extras, facts), logs)


def _als(logs: Logs, settings: CollaborativeSettings, seed: int) -> Tower:
    """Implicit alternating least squares (Hu, Koren and Volinsky 2008) by `implicit`, on `Logs.weights`.

    The confidence of a liked interaction is `1 + alpha * weight`; an item nobody liked has the zero vector, and so the
    score 0. The vectors `(N, factors)` are scaled to a root mean square length of 1. A small dataset lowers the
    regularisation that it is given, and says so in the facts.
    """
    liked = logs.weights > 0
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
