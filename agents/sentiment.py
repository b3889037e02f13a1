"""The sentiment tower: how good people say an item is, and how much a user cares.

    reviews -> embeddings -> head (review -> liked or not) -> polarity of each review
    polarity of an item = (sum of its polarities + prior_reviews * catalog mean) / (count + prior_reviews)
    query = the user's sensitivity on the polarity axis, read from the history (`profiles.sensitivity`)

Without reviews that a head can learn from, the polarities are the ratings, or else the clicks; the facts say which.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ..platform.encoder import EncodeProgress, Encoder
from ..platform.errors import InputError
from ..platform.logs import LIKED_STARS, Logs
from ..platform.settings import SentimentSettings
from .content import principal_components
from .profiles import LONGEST, calibrated, centred_ratings
from .reviews import item_means, rows_to_read
from .tower import PAD, History, Tower

DISLIKED_STARS = 2.0
"""A review with a rating up to here teaches the head what blame is; above it and below `LIKED_STARS` it does not."""

LEAST_REVIEWS = 20
"""Reviews of praise, and of blame, below which no head is trained."""

HELD_OUT = 0.1
"""Share of the reviews that the head's ROC AUC is measured on, before it is fitted on all."""

INVERSE_PENALTY = 1.0
"""`C` of the logistic regression on unit vectors."""


@dataclass(frozen=True)
class _Evidence:
    """What is known of the items: n polarities in [-1, 1] of `items` `(n,)`, and their mean in the catalog.

    `embeddings` `(n, m)` are of the reviews, where there are any.
    """

    items: NDArray[np.int64]
    polarity: NDArray[np.float64]
    mean: float
    facts: dict[str, str]
    embeddings: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def fit(
    logs: Logs, settings: SentimentSettings, encoder: Encoder, seed: int, progress: EncodeProgress | None = None
) -> Tower:
    """Item vectors `(N, 2 + e)`: polarity, standardised; certainty = count / (count + prior_reviews), in [0, 1]; and
    e <= components principal components of the item's mean review, of root mean square length 1 together.

    Raises:
        InputError: there is no interaction to learn from.
    """
    if not len(logs):
        raise InputError('there is no interaction: the "sentiment" agent has nothing to learn from')
    evidence = _from_reviews(logs, settings, encoder, seed, progress) or _from_ratings(logs) or _from_clicks(logs)
    counts = np.bincount(evidence.items, minlength=logs.num_items)
    sums = np.bincount(evidence.items, evidence.polarity, minlength=logs.num_items)
    prior = max(settings.prior_reviews, 1e-6)
    polarity = (sums + prior * evidence.mean) / (counts + prior)
    spread = polarity[counts > 0].std()
    standard = (polarity - polarity[counts > 0].mean()) / spread if spread > 1e-6 else np.zeros(logs.num_items)
    columns = [standard[:, None], (counts / (counts + prior))[:, None], _aspects(evidence, counts, settings)]
    vectors = torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))
    extras = {"response": _response(logs, vectors[:, 0])}
    return calibrated(Tower("sentiment", vectors, "sensitivity", extras, evidence.facts), logs)


def _from_reviews(
    logs: Logs, settings: SentimentSettings, encoder: Encoder, seed: int, progress: EncodeProgress | None
) -> _Evidence | None:
    rows = rows_to_read(logs, settings.max_reviews)
    stars = logs.ratings[rows]
    clear = np.flatnonzero((stars >= LIKED_STARS) | (stars <= DISLIKED_STARS))
    praise = stars[clear] >= LIKED_STARS
    if min(praise.sum(), (~praise).sum()) < LEAST_REVIEWS:
        return None
    embeddings = encoder.encode([logs.reviews[row] for row in rows], progress)
    held_out = np.zeros(len(clear), bool)
    held_out[np.random.default_rng([seed, *b"sentiment"]).permutation(len(clear))[: round(HELD_OUT * len(clear))]] = (
        True
    )
    facts = {
        "learned_from": f"{len(rows):,} reviews, the head from {len(clear):,} with up to {DISLIKED_STARS:g} or from "
        f"{LIKED_STARS:g} stars",
        "head_auc": _held_out_auc(embeddings[clear], praise, held_out),
    }
    polarity = 2 * _head(embeddings[clear], praise).predict_proba(embeddings)[:, 1] - 1
    return _Evidence(logs.items[rows], polarity, float(polarity.mean()), facts, embeddings)


def _head(embeddings: NDArray[np.float32], praise: NDArray[np.bool_]) -> LogisticRegression:
    """Praise and blame count the same, however rare one is, so that a polarity of 0 is undecided."""
    return LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=1000).fit(embeddings, praise)


def _held_out_auc(embeddings: NDArray[np.float32], praise: NDArray[np.bool_], held_out: NDArray[np.bool_]) -> str:
    if len(np.unique(praise[held_out])) < 2 or len(np.unique(praise[~held_out])) < 2:
        return "not measured: too few reviews"
    scores = _head(embeddings[~held_out], praise[~held_out]).decision_function(embeddings[held_out])
    return f"{roc_auc_score(praise[held_out], scores):.3f} on {int(held_out.sum()):,} held-out reviews"


def _from_ratings(logs: Logs) -> _Evidence | None:
    """How far a rating is above the user's own mean, two stars being all of it."""
    rated = ~np.isnan(logs.ratings)
    if not rated.any():
        return None
    users, stars = logs.users[rated], logs.ratings[rated].astype(np.float64)
    stars = stars - stars.mean()
    sums, counts = np.bincount(users, stars), np.bincount(users)
    polarity = np.clip((stars - (sums / (counts + 1))[users]) / 2, -1, 1)
    facts = {"learned_from": f"{int(rated.sum()):,} ratings, for want of reviews to learn from"}
    return _Evidence(logs.items[rated], polarity, float(polarity.mean()), facts)


def _from_clicks(logs: Logs) -> _Evidence:
    """Clicked or not. Where all were, nothing speaks against an item, and more clicks make it more positive."""
    polarity = 2.0 * logs.clicks.astype(np.float64) - 1
    mean = float(polarity.mean()) if polarity.min(initial=1) < 1 else 0.0
    facts = {"learned_from": f"{len(logs):,} clicks, for want of reviews and ratings"}
    return _Evidence(logs.items, polarity, mean, facts)


def _aspects(evidence: _Evidence, counts: NDArray[np.int64], settings: SentimentSettings) -> NDArray[np.float32]:
    """`(N, e)`: what an item's reviews talk about; no columns without reviews, zeros for an item without any."""
    if not len(evidence.embeddings):
        return np.zeros((len(counts), 0), np.float32)
    means = item_means(evidence.items, evidence.embeddings, len(counts))[counts > 0]
    aspects = np.zeros((len(counts), min(settings.components, *means.shape)), np.float32)
    components, _ = principal_components(means, aspects.shape[1])
    size = np.sqrt((components**2).sum(1).mean())
    aspects[counts > 0] = components / max(float(size), 1e-6)
    return aspects


def _response(logs: Logs, polarity: Tensor) -> Tensor:
    """`(4,)`, see `profiles.sensitivity`: mean rating, slope of ratings on polarity, variance left, lift of clicks."""
    history = History(*logs.padded(LONGEST))
    rated = ~np.isnan(logs.ratings)
    mean = float(logs.ratings[rated].mean()) if rated.any() else 0.0
    stars, is_rated = centred_ratings(history, torch.tensor(mean))
    seen = polarity[history.items.clamp_min(0)]
    x, y = seen[is_rated].double(), stars[is_rated].double()
    slope = float((x * y).sum() / (x * x).sum().clamp_min(1e-6))
    noise = float((y - slope * x).square().mean()) if len(y) else 1.0
    clicked = (history.weights > 0) & (history.items != PAD) & ~is_rated
    lift = float(seen[clicked].mean()) if bool(clicked.any()) else 0.0
    return torch.tensor([mean, max(slope, 0.0), max(noise, 1e-3), max(lift, 0.0)])
