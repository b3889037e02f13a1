"""The built-in world: generated users, items, descriptions and reviews whose truth is known.

    tastes, styles, quality  ->  who saw, clicked, rated and reviewed what (the logs the towers are fitted on)
                             ->  the world the team then plays in (the same truth)

An item's appeal to a user has three parts, and each recommender can read mainly one of them:

    topic and mood   written in the description           -> content
    style            only in who clicks together          -> collaborative filtering
    quality          in what reviewers praise and blame   -> sentiment
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..agents.tower import History
from ..platform.errors import InputError
from ..platform.graph import Graph
from ..platform.logs import Logs
from ..platform.settings import WorldSettings
from . import builtin_text as text
from .world import World

TOPIC_GAIN, MOOD_GAIN, STYLE_GAIN, QUALITY_GAIN = 1.1, 0.8, 0.4, 0.5
"""Logits that a standard deviation of each part is worth."""

BASE_LOGIT = -2.0
FAME = 1.5
"""Spread of how widely an item was shown, whatever it is worth: what the logs are biased by."""

STYLES = 4
HISTORY = 40
SHOWN = 30
"""Items a user was shown before the sessions."""

REVIEWS_PER_ITEM = 2
DAY_S = 86_400
START_S = 1_600_000_000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Truth:
    """The parts of appeal: users' sides and items' sides, `(U, d)` and `(N, d)`, and what the text tells."""

    users: Array
    items: Array
    topic: NDArray[np.int64]
    mood: Array
    quality: Array


def check_users(settings: WorldSettings) -> None:
    """Refuses a world without users enough for both training and judging, as an `InputError`."""
    if settings.users < 2:
        raise InputError(f"world.users={settings.users}: give at least 2, one to train with and one to judge by")


def builtin_world(settings: WorldSettings) -> tuple[Logs, World]:
    """Generates the logs and the world they came from. A function of the settings alone.

    Raises:
        InputError: there are not users enough for both training and judging.
    """
    check_users(settings)
    truth = _truth(settings)
    logs = _logs(truth, settings)
    users, items = truth.users.astype(np.float32), truth.items.astype(np.float32)
    order = np.random.default_rng([settings.seed, 3]).permutation(settings.users)
    judged = min(max(round(settings.users * settings.judge_share), 1), settings.users - 1)
    popularity = np.bincount(logs.items[logs.positive], minlength=settings.items)
    world = World(
        name="builtin",
        item_vectors=torch.from_numpy(items),
        item_bias=torch.full((settings.items,), BASE_LOGIT),
        item_topic=torch.from_numpy(truth.topic),
        item_quality=torch.from_numpy(truth.quality.astype(np.float32)),
        user_vectors=torch.from_numpy(users),
        user_bias=torch.zeros(settings.users),
        history=History(*logs.padded(HISTORY)),
        train_users=torch.from_numpy(np.sort(order[judged:])),
        judge_users=torch.from_numpy(np.sort(order[:judged])),
        item_popularity=torch.from_numpy(popularity.astype(np.float32)),
        mechanics=settings.mechanics,
        user_ids=logs.user_ids,
        item_ids=logs.item_ids,
        item_titles=logs.item_titles,
        topic_names=tuple(text.topic_name(topic) for topic in range(settings.topics)),
    )
    return logs, world


def _truth(settings: WorldSettings) -> _Truth:
    """Users like a few topics, have moods, styles and a sensitivity to quality; items have one of each."""
    rng = np.random.default_rng([settings.seed, 1])
    users, items, topics = settings.users, settings.items, settings.topics
    sizes = rng.dirichlet(np.full(topics, 8.0))
    topic = np.concatenate([np.arange(topics), rng.choice(topics, size=max(0, items - topics), p=sizes)])[:items]
    mood = rng.normal(size=(items, len(text.MOODS)))
    style = rng.normal(size=(items, STYLES))
    quality = rng.normal(size=items)
    liking = rng.gamma(0.5, 1.0, size=(users, topics))
    liking = (liking - liking.mean(1, keepdims=True)) / liking.std(1, keepdims=True)
    one_hot = np.eye(topics)[topic]
    user_side = np.concatenate(
        [
            TOPIC_GAIN * liking,
            MOOD_GAIN / np.sqrt(len(text.MOODS)) * rng.normal(size=(users, len(text.MOODS))),
            STYLE_GAIN / np.sqrt(STYLES) * rng.normal(size=(users, STYLES)),
            QUALITY_GAIN * rng.gamma(4.0, 0.25, size=(users, 1)),
        ],
        axis=1,
    )
    return _Truth(user_side, np.concatenate([one_hot, mood, style, quality[:, None]], axis=1), topic, mood, quality)


def _logs(truth: _Truth, settings: WorldSettings) -> Logs:
    """What users saw before: partly what is popular, partly what suits them, partly chance; then clicks and ratings."""
    rng = np.random.default_rng([settings.seed, 2])
    users, items = settings.users, settings.items
    logit = truth.users @ truth.items.T + BASE_LOGIT
    fame = FAME * rng.gumbel(size=items)
    exposure = 0.5 * logit + fame + 1.5 * rng.gumbel(size=(users, items))
    count = min(SHOWN, items)
    shown = np.argpartition(-exposure, count - 1, axis=1)[:, :count]
    row = np.repeat(np.arange(users), count)
    item = shown.ravel()
    clicked = rng.random(len(row)) < 1 / (1 + np.exp(-logit[row, item]))
    pleased = 0.4 * (logit[row, item] - BASE_LOGIT) + 0.6 * truth.quality[item] + rng.normal(scale=0.7, size=len(row))
    stars = np.clip(np.round(2.9 + pleased), 1, 5)
    ratings = np.where(clicked, stars, np.nan).astype(np.float32)
    when = START_S + rng.integers(0, 365 * DAY_S, size=len(row))
    return Logs(
        user_ids=tuple(f"u{number:05d}" for number in range(users)),
        item_ids=tuple(map(_item_id, range(items))),
        item_titles=tuple(text.title(number) for number in range(items)),
        item_texts=tuple(_descriptions(truth, rng)),
        item_attributes=tuple((text.topic_name(int(topic)),) for topic in truth.topic),
        users=row.astype(np.int64),
        items=item.astype(np.int64),
        timestamps=when.astype(np.int64),
        ratings=ratings,
        clicks=clicked.astype(np.float32),
        reviews=tuple(_reviews(truth, item, stars, clicked, rng)),
        graph=_graph(truth.topic),
    )


def _graph(topic: NDArray[np.int64]) -> Graph:
    """Each item's topic, `(N,)`, as an edge."""
    items, topics = len(topic), int(topic.max()) + 1
    names = (*map(_item_id, range(items)), *(f"topic:{text.topic_name(each)}" for each in range(topics)))
    return Graph(np.arange(items), np.zeros(items, np.int64), items + topic, names, ("topic",))


def _item_id(number: int) -> str:
    return f"i{number:05d}"


def _descriptions(truth: _Truth, rng: np.random.Generator) -> list[str]:
    subjects = np.argsort(rng.random((len(truth.topic), 5)), axis=1)[:, :2]
    return [
        text.description(int(topic), chosen.tolist(), mood.tolist())
        for topic, chosen, mood in zip(truth.topic, subjects, truth.mood, strict=True)
    ]


def _reviews(
    truth: _Truth, item: NDArray[np.int64], stars: Array, clicked: NDArray[np.bool_], rng: np.random.Generator
) -> list[str]:
    """A review by a few who clicked an item: the better the item and the rating, the likelier an aspect is praised."""
    written = np.full(len(item), "", dtype=object)
    chosen = np.flatnonzero(clicked)
    chosen = chosen[np.argsort(rng.random(len(chosen)))]
    chosen = chosen[np.argsort(item[chosen], kind="stable")]
    starts = np.searchsorted(item[chosen], item[chosen])
    chosen = chosen[np.arange(len(chosen)) - starts < REVIEWS_PER_ITEM]
    aspects = np.argsort(rng.random((len(chosen), len(text.ASPECTS))), axis=1)[:, :2]
    leaning = 1.5 * truth.quality[item[chosen]] + 1.0 * (stars[chosen] - 3)
    praised = rng.random((len(chosen), 2)) < 1 / (1 + np.exp(-leaning[:, None]))
    phrases = rng.integers(0, 3, size=(len(chosen), 2))
    openings = rng.integers(0, len(text.OPENINGS), size=len(chosen))
    for place, row in enumerate(chosen):
        written[row] = text.review(
            int(openings[place]), aspects[place].tolist(), praised[place].tolist(), phrases[place].tolist()
        )
    return written.tolist()
