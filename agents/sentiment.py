"""The sentiment tower: how good people say an item is, and how much a user cares.

    reviews -> head (`sentiment_head`) -> what each says, less its writer's tone      |  mean of what there is
    stars   -> less the rater's own mean                                              |  = an opinion in [-1, 1]
    opinions, the latest first -> polarity of an item: posterior mean and deviation
    query = the user's sensitivity to polarity, read from the history, and trust in what many speak of
            (`profiles.sensitivity`)

Without reviews that a head can learn from, the opinions are the ratings, or else the clicks; the facts say which.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..platform.encoder import EncodeProgress, Encoder
from ..platform.errors import InputError
from ..platform.logs import LIKED_STARS, Logs
from ..platform.settings import SentimentSettings
from .aspects import aspects, snippets, spoken
from .content import principal_components
from .profiles import LONGEST, PRIOR_RATINGS, calibrated, centred_ratings
from .reviews import item_means, rows_to_read
from .sentiment_head import DISLIKED_STARS, judge
from .tower import PAD, History, Tower
from .validation import latest_likes, validated, validation

DAY = 86_400
"""Seconds."""

LEAST_PRIOR = 0.1
"""Reviews' worth of the catalog mean that an item has at least: a posterior deviation needs some."""

TRUSTS = (0.0, 0.25, 0.5, 1.0)
"""What a deviation of volume may weigh beside one of polarity; the fit picks one on the latest likes. Logs speak for
more, since people rate what they were shown; in the built-in world, where all can be shown, more than 1 did harm.
"""

HALF_LIVES = (0.0, 1460.0, 730.0, 365.0)
"""Days in which an opinion may lose half its weight, 0 for never; picked like the trust."""


@dataclass(frozen=True)
class Opinions:
    """What each of n interactions says of its item.

    Attributes:
        polarity: `(n,)` in [-1, 1], NaN where it says nothing.
        mean: what an item starts from.
        facts: what they were learned from, in words.
        rows, embeddings: `(r,)` and `(r, m)`, the rows whose review was read, and what it is about.
        tone: `(U,)` how much warmer a user writes than others who give the same stars, in units of polarity.
    """

    polarity: NDArray[np.float64]
    mean: float
    facts: dict[str, str]
    rows: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    tone: NDArray[np.float64]


@dataclass(frozen=True)
class Opinion:
    """What is known of an item: the posterior of its polarity in [-1, 1], and of how many opinions, faded."""

    polarity: float
    deviation: float
    count: float


def fit(
    logs: Logs, settings: SentimentSettings, encoder: Encoder, seed: int, progress: EncodeProgress | None = None
) -> Tower:
    """Item vectors `(N, 3 + e)`: polarity, standardised; certainty = count / (count + prior_reviews), in [0, 1];
    e <= components principal components of the item's mean review, of root mean square length 1 together; and volume,
    log(1 + count), standardised. A count is of opinions, each by 0.5^(its age at the end of the logs / half-life). The
    half-life and the weight of volume are the simplest within a standard error of the best on the latest likes.
    The notes are, for each item, a sentence of `praise`, one of `blame`, and what is said of its `aspects`.

    Raises:
        InputError: there is no interaction to learn from.
    """
    if not len(logs):
        raise InputError('there is no interaction: the "sentiment" agent has nothing to learn from')
    opinions = opinions_of(logs, settings, encoder, seed, progress)
    reading = _reading(logs, opinions, settings)
    tower = _tower(logs, opinions.polarity, opinions, settings.components, reading)
    picked = {"half_life": reading.half_life, "volume": reading.trust}
    facts = {**opinions.facts, **tower.facts, "settings": json.dumps(picked)}
    return replace(tower, facts=facts, notes=_notes(logs, settings, encoder))


def opinion(tower: Tower, item: int) -> Opinion:
    """The posterior of an item's polarity, from a sentiment tower's columns."""
    standard, certainty = tower.item_vectors[item, :2].tolist()
    mean, spread, deviation, prior = tower.extras["scale"].tolist()
    unknown = max(1 - certainty, 1e-6)
    return Opinion(mean + spread * standard, deviation * unknown**0.5, prior * certainty / unknown)


def opinions_of(
    logs: Logs, settings: SentimentSettings, encoder: Encoder, seed: int, progress: EncodeProgress | None = None
) -> Opinions:
    """What the interactions say: reviews and stars together, or else clicks."""
    rated = ~np.isnan(logs.ratings)
    stars = _stars(logs)
    nothing = np.zeros(0, np.int64), np.zeros((0, 0), np.float32), np.zeros(logs.num_users)
    rows = rows_to_read(logs, settings.max_reviews)
    judged = judge([logs.reviews[row] for row in rows], logs.ratings[rows], settings, encoder, seed, progress)
    if judged is None and not rated.any():
        # Where all were clicked, nothing speaks against an item, and more clicks make it more positive.
        clicks = 2.0 * logs.clicks.astype(np.float64) - 1
        mean = float(clicks.mean()) if clicks.min(initial=1) < 1 else 0.0
        facts = {"learned_from": f"{len(logs):,} clicks, for want of reviews and ratings"}
        return Opinions(clicks, mean, facts, *nothing)
    if judged is None:
        facts = {"learned_from": f"{int(rated.sum()):,} ratings, for want of reviews to learn from"}
        return Opinions(stars, float(np.nanmean(stars)), facts, *nothing)
    tone = tones(logs.users[rows], judged.polarity, logs.ratings[rows], logs.num_users)
    said = np.clip(judged.polarity - tone[logs.users[rows]], -1, 1)
    polarity = stars.copy()
    polarity[rows] = np.where(rated[rows], (np.nan_to_num(stars[rows]) + said) / 2, said)
    facts = {
        "learned_from": f"{len(rows):,} reviews and {int(rated.sum()):,} ratings, the head from {judged.taught:,} "
        f"reviews with up to {DISLIKED_STARS:g} or from {LIKED_STARS:g} stars",
        "head": settings.head,
        "head_auc": f"{judged.auc:.3f} on reviews that it was not taught with",
    }
    return Opinions(polarity, float(np.nanmean(polarity)), facts, rows, judged.embeddings, tone)


def _notes(logs: Logs, settings: SentimentSettings, encoder: Encoder) -> dict[str, tuple[str, ...]]:
    said = spoken(logs, settings)
    if not said.texts:
        return {}
    found, chosen = aspects(said, settings, encoder), snippets(said)
    notes = {
        "praise": tuple(each.praise for each in chosen),
        "blame": tuple(each.blame for each in chosen),
        "aspects": tuple("; ".join(found.words(item)) for item in range(logs.num_items)),
    }
    return {name: words for name, words in notes.items() if any(words)}


def tones(
    users: NDArray[np.int64], polarity: NDArray[np.float64], stars: NDArray[np.float32], num_users: int
) -> NDArray[np.float64]:
    """`(U,)`: the mean of a user's reviews' polarity less that of all reviews with the same stars.

    Drawn to 0 as if by `PRIOR_RATINGS` more reviews. Args: of n reviews, `(n,)` each; stars NaN where none.
    """
    _, kind = np.unique(np.nan_to_num(stars), return_inverse=True)
    usual = np.bincount(kind, polarity) / np.bincount(kind)
    sums = np.bincount(users, polarity - usual[kind], minlength=num_users)
    return sums / (np.bincount(users, minlength=num_users) + PRIOR_RATINGS)


def fading(timestamps: NDArray[np.int64], half_life: float) -> NDArray[np.float64]:
    """`(n,)` in (0, 1]: 0.5^(age in days at the last of the times / half_life); 1 where half_life is 0."""
    if half_life == 0 or not len(timestamps):
        return np.ones(len(timestamps))
    return 0.5 ** ((timestamps.max() - timestamps) / (DAY * half_life))


def _stars(logs: Logs) -> NDArray[np.float64]:
    """`(n,)` how far a rating is above the user's own mean, two stars being all of it; NaN where there is none."""
    rated = ~np.isnan(logs.ratings)
    found = np.full(len(logs), np.nan)
    if rated.any():
        users, stars = logs.users[rated], logs.ratings[rated].astype(np.float64)
        stars = stars - stars.mean()
        sums, counts = np.bincount(users, stars), np.bincount(users)
        found[rated] = np.clip((stars - (sums / (counts + 1))[users]) / 2, -1, 1)
    return found


class _Reading(NamedTuple):
    """How opinions are read: the weight of volume, the half-life in days, the prior's weight in opinions."""

    trust: float
    half_life: float
    prior: float


def _reading(logs: Logs, opinions: Opinions, settings: SentimentSettings) -> _Reading:
    """The first within a standard error of the best on the latest likes (Breiman and others 1984)."""
    prior = max(settings.prior_reviews, LEAST_PRIOR)
    half_lives = HALF_LIVES if settings.half_life == "best" else (settings.half_life,)
    trusts = TRUSTS if settings.volume == "best" else (settings.volume,)
    candidates = [_Reading(trust, half_life, prior) for trust, half_life in itertools.product(trusts, half_lives)]
    problem = validation(logs) if len(candidates) > 1 else None
    if problem is None:
        return candidates[0]
    polarity = opinions.polarity[latest_likes(logs)[1]]
    built = (_tower(problem.earlier, polarity, opinions, 0, reading) for reading in candidates)
    scores = torch.stack([validated(tower, problem) for tower in built])
    best = int(scores.mean(1).argmax())
    error = (scores[best] - scores).std(1, correction=0) / scores.shape[1] ** 0.5
    return candidates[int((scores.mean(1) + error >= scores[best].mean()).int().argmax())]


def _tower(logs: Logs, polarity: NDArray[np.float64], opinions: Opinions, components: int, reading: _Reading) -> Tower:
    """The tower of what `logs` say, `polarity` `(n,)` in them."""
    known = ~np.isnan(polarity)
    items, said, weights = logs.items[known], polarity[known], fading(logs.timestamps, reading.half_life)[known]
    counts = np.bincount(items, weights, minlength=logs.num_items)
    prior = reading.prior
    means = (np.bincount(items, weights * said, minlength=logs.num_items) + prior * opinions.mean) / (counts + prior)
    heard = counts > 0
    middle, spread = means[heard].mean(), means[heard].std()
    standard = (means - middle) / spread if spread > 1e-6 else np.zeros(logs.num_items)
    # Of an opinion about its item; so the posterior variance is noise / (count + prior).
    noise = float(np.average((said - means[items]) ** 2, weights=weights))
    volume = np.log1p(counts)
    volume = (volume - volume.mean()) / max(float(volume.std()), 1e-6)
    about = _about(logs, opinions, components)
    columns = [standard[:, None], (counts / (counts + prior))[:, None], about, volume[:, None]]
    vectors = torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))
    extras = {
        "response": _response(logs, vectors[:, 0]),
        "trust": torch.tensor(reading.trust),
        "scale": torch.tensor([middle, spread, (noise / prior) ** 0.5, prior], dtype=torch.float32),
    }
    facts = {
        "volume": f"weighs {reading.trust:g} beside polarity",
        "half_life": f"{reading.half_life:g} days" if reading.half_life else "none",
    }
    return calibrated(Tower("sentiment", vectors, "sensitivity", extras, facts, common=1), logs)


def _about(logs: Logs, opinions: Opinions, components: int) -> NDArray[np.float32]:
    """`(N, e)`: what an item's reviews talk about; no columns without reviews, zeros for an item without any."""
    if not components or not len(opinions.rows):
        return np.zeros((logs.num_items, 0), np.float32)
    items = logs.items[opinions.rows]
    read = np.bincount(items, minlength=logs.num_items) > 0
    means = item_means(items, opinions.embeddings, logs.num_items)[read]
    found = np.zeros((logs.num_items, min(components, *means.shape)), np.float32)
    coordinates, _ = principal_components(means, found.shape[1])
    size = np.sqrt((coordinates**2).sum(1).mean())
    found[read] = coordinates / max(float(size), 1e-6)
    return found


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
