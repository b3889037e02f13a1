"""How good ranked lists are: for each user, for the whole catalog, and how sure that is.

    lists (V, K), relevant (V, N)  ->  hits (V, K)  ->  accuracy   NDCG, recall, precision, MRR, hit rate of each user
    lists, facts of the items                       ->  character  novelty, diversity, popularity of each list
                                                    ->  spread     coverage and Gini over the catalog
    values (M, V)  ->  intervals (M, 2), by resampling the users

The accuracy metrics are torchmetrics'. A list is item indices, best first, -1 at the end where it is shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.stats import bootstrap, rankdata
from sklearn.preprocessing import normalize
from torch import Tensor
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_precision,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

Floats = NDArray[np.float64]
Lists = NDArray[np.int64]

ACCURACY: dict[str, Callable[..., Tensor]] = {
    "ndcg": retrieval_normalized_dcg,
    "recall": retrieval_recall,
    "precision": retrieval_precision,
    "mrr": retrieval_reciprocal_rank,
    "hit_rate": retrieval_hit_rate,
}

RESAMPLES = 2_000
"""Draws of the users behind an interval."""

BATCH = 100
"""Draws held in memory at once."""


@dataclass(frozen=True)
class Catalog:
    """What the metrics know of N items, from the train part alone.

    Attributes:
        candidates: `(N,)` bool, the items that are ranked.
        information: `(N,)` bits, -log2 of the share of users who like an item, one user being added to both.
        percentile: `(N,)` in [0, 1], the share of the candidates that are less popular, ties in the middle.
        features: `(N, d)` rows of length 1, or 0 where nothing is known: what similarity is measured on.
    """

    candidates: NDArray[np.bool_]
    information: Floats
    percentile: Floats
    features: csr_matrix | NDArray[np.float64]


def describe(likes: csr_matrix, candidates: NDArray[np.bool_], features: Any = None) -> Catalog:
    """The catalog as seen from `likes` `(U, N)`; without `features` `(N, d)` an item is who liked it."""
    counts = np.asarray(likes.sum(0), np.float64).ravel()
    users = int((np.diff(likes.indptr) > 0).sum())
    percentile = np.zeros(len(counts))
    percentile[candidates] = (rankdata(counts[candidates]) - 0.5) / max(1, int(candidates.sum()))
    found = csr_matrix(likes.T, dtype=np.float64) if features is None else np.asarray(features, np.float64)
    return Catalog(candidates, -np.log2((counts + 1) / (users + 1)), percentile, cast(Any, normalize(found)))


def hits(lists: Lists, relevant: csr_matrix) -> NDArray[np.bool_]:
    """`(V, K)` which places of the lists hold an item that is relevant `(V, N)` to that user."""
    rows = np.repeat(np.arange(len(lists)), lists.shape[1])
    found = np.asarray(relevant[rows, np.maximum(lists, 0).ravel()]).reshape(lists.shape)
    return (found > 0) & (lists >= 0)


def accuracy(lists: Lists, relevant: csr_matrix, places: Sequence[int]) -> dict[str, Floats]:
    """`{"ndcg@10": (V,), ...}` in [0, 1], for each depth of `places`; every user has something relevant.

    The library judges one user at a time, but what it says depends on the hits and on how many items are relevant
    alone, so it is asked once for each such outcome.
    """
    outcomes = np.column_stack([hits(lists, relevant), np.diff(relevant.indptr)]).astype(np.int64)
    distinct, who = np.unique(outcomes, axis=0, return_inverse=True)
    values = {f"{name}@{k}": np.zeros(len(distinct)) for k in places for name in ACCURACY}
    for row, outcome in enumerate(distinct):
        target = torch.from_numpy(np.append(outcome[:-1], np.ones(outcome[-1] - outcome[:-1].sum(), np.int64)))
        ranked = torch.arange(len(target), 0, -1, dtype=torch.float32)
        ranked[lists.shape[1] :] = 0.0  # relevant, and nowhere on the list
        for k in places:
            for name, metric in ACCURACY.items():
                values[f"{name}@{k}"][row] = float(metric(ranked, target, top_k=k))
    return {name: value[who.ravel()] for name, value in values.items()}


def character(lists: Lists, catalog: Catalog, places: Sequence[int]) -> dict[str, Floats]:
    """`{"novelty@10": (V,), ...}`: what the lists are like, whether or not they are liked.

    novelty: mean self-information of the items, in bits (Vargas and Castells 2011). diversity: 1 - mean cosine of two
    items of the list (Ziegler et al. 2005). popularity: mean percentile of the items' popularity, in [0, 1].
    """
    values: dict[str, Floats] = {}
    for k in places:
        listed = lists[:, :k]
        present = listed >= 0
        count = np.maximum(present.sum(1), 1)
        for name, facts in (("novelty", catalog.information), ("popularity", catalog.percentile)):
            values[f"{name}@{k}"] = (facts[listed] * present).sum(1) / count
        values[f"diversity@{k}"] = _diversity(listed, catalog.features)
    return values


def spread(lists: Lists, catalog: Catalog, places: Sequence[int]) -> dict[str, float]:
    """`{"coverage@10": ..., "gini@10": ...}` in [0, 1].

    coverage: share of the candidates on anyone's list. gini: of how often the candidates are listed, 0 where all are
    listed alike, near 1 where a few have every place.
    """
    values = {}
    for k in places:
        listed = lists[:, :k]
        exposure = np.bincount(listed[listed >= 0], minlength=len(catalog.candidates))[catalog.candidates]
        values[f"coverage@{k}"] = float((exposure > 0).mean())
        values[f"gini@{k}"] = gini(exposure)
    return values


def gini(counts: NDArray[np.int64]) -> float:
    """The Gini coefficient of n counts, all at least 0: 2 sum_i i x_(i) / (n sum x) - (n + 1) / n, x ascending."""
    ordered = np.sort(counts).astype(np.float64)
    total, n = ordered.sum(), len(ordered)
    return float(2 * (np.arange(1, n + 1) @ ordered) / (n * total) - (n + 1) / n) if total > 0 else 0.0


def intervals(values: Floats, seed: int) -> Floats:
    """`(M, 2)`: bounds of the 95 % bootstrap interval of the means of `values` `(M, V)`, the V users drawn anew.

    Percentile bootstrap (Efron 1979), by scipy. One user alone has an interval of no width.
    """
    if values.shape[1] < 2:
        return np.repeat(values.mean(1, keepdims=True), 2, axis=1)
    return _bounds((values,), np.mean, seed)


def gain(values: Floats, base: Floats, seed: int) -> dict[str, float | None]:
    """How far the mean of `values` `(V,)` is above that of `base` `(V,)`, the same users, with paired 95 % intervals.

    `relative` is the difference in parts of the mean of `base`; None where that is 0.
    """
    difference = values - base
    low, high = intervals(difference[None], seed)[0]
    found: dict[str, float | None] = {"difference": float(difference.mean()), "low": float(low), "high": float(high)}
    if base.mean() <= 0 or len(base) < 2:
        return {**found, "relative": None, "relative_low": None, "relative_high": None}

    def ratio(ours: Floats, theirs: Floats, axis: int) -> Floats:
        under = np.maximum(theirs.mean(axis), np.finfo(float).tiny)
        return ours.mean(axis) / under - 1

    low, high = _bounds((values, base), ratio, seed, paired=True)
    relative = float(values.mean() / base.mean() - 1)
    return {**found, "relative": relative, "relative_low": float(low), "relative_high": float(high)}


def _bounds(data: tuple[Floats, ...], statistic: Callable[..., Any], seed: int, paired: bool = False) -> Floats:
    found = bootstrap(
        data,
        statistic,
        axis=-1,
        n_resamples=RESAMPLES,
        batch=BATCH,
        vectorized=True,
        paired=paired,
        method="percentile",
        rng=np.random.default_rng([seed, *b"bootstrap"]),
    ).confidence_interval
    return np.stack([found.low, found.high], axis=-1)


def _diversity(listed: Lists, features: Any) -> Floats:
    """`(V,)`; the cosines of all pairs of a list add up to (|sum of its vectors|^2 - sum of their lengths^2) / 2."""
    present = listed >= 0
    count = present.sum(1)
    cells = (np.ones(int(count.sum())), listed[present], np.concatenate([[0], np.cumsum(count)]))
    chosen = csr_matrix(cells, shape=(len(listed), features.shape[0]))
    total = chosen @ features
    lengths = features.multiply(features).sum(1) if hasattr(features, "multiply") else (features**2).sum(1)
    squared = total.multiply(total).sum(1) if hasattr(total, "multiply") else (total**2).sum(1)
    cosines = np.asarray(squared).ravel() - chosen @ np.asarray(lengths).ravel()
    return 1 - cosines / np.maximum(count * (count - 1), 1)
