"""A stage from random tensors: the size and the work of a real one, without texts to read or towers to fit.

For measuring. Its users like what its towers half see, so that sessions run, end and start again as they do elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..agents.ensemble import Ensemble
from ..agents.tower import History, Tower
from ..platform.settings import Experiment
from .batched import Stage
from .world import World

HISTORY = 20
"""Interactions of each user before the session."""

NOISE = 0.5
"""Standard deviation of what a tower adds to the items' true vectors, whose own is 1."""

BASE_LOGIT = -2.0
"""Of a click on an average item."""


def synthetic_stage(experiment: Experiment, dim: int = 16) -> Stage:
    """A stage of `world.users` users, `world.items` items and `world.topics` topics, equal fusion weights.

    Args:
        experiment: what the world's size, its mechanics, the agents' names and the seed are read from.
        dim: dimensions of the world and of every tower.
    """
    settings = experiment.world
    noise = torch.Generator().manual_seed(settings.seed)
    vectors = torch.randn(settings.items, dim, generator=noise)
    history = History(
        items=torch.randint(settings.items, (settings.users, HISTORY), generator=noise),
        ratings=torch.zeros(settings.users, HISTORY),
        weights=torch.rand(settings.users, HISTORY, generator=noise),
    )
    world = _world(experiment, vectors, history, noise)
    towers = {name: _tower(name, vectors, noise) for name in experiment.agents.names}
    equal = torch.full((len(towers),), 1.0 / len(towers))
    ensemble = Ensemble(towers, experiment.fusion, equal)
    data = {"name": "synthetic", "digest": "", "source": "random", "users": settings.users, "items": settings.items}
    return Stage(experiment, world, ensemble, ensemble.read(history), equal, (0.0, 0.0), data)


def _world(experiment: Experiment, vectors: Tensor, history: History, noise: torch.Generator) -> World:
    settings = experiment.world
    items, dim = vectors.shape
    liked = vectors[history.items].mean(1)
    order = torch.randperm(settings.users, generator=noise)
    judged = max(1, round(settings.judge_share * settings.users))
    return World(
        name="synthetic",
        item_vectors=vectors / dim**0.5,
        item_bias=torch.full((items,), BASE_LOGIT),
        item_topic=torch.randint(settings.topics, (items,), generator=noise),
        item_quality=torch.randn(items, generator=noise),
        user_vectors=liked * (HISTORY**0.5),
        user_bias=torch.zeros(settings.users),
        history=history,
        train_users=order[judged:],
        judge_users=order[:judged],
        item_popularity=torch.bincount(history.items.flatten(), minlength=items).float(),
        mechanics=settings.mechanics,
        user_ids=tuple(f"u{user}" for user in range(settings.users)),
        item_ids=tuple(f"i{item}" for item in range(items)),
        item_titles=tuple(f"item {item}" for item in range(items)),
        topic_names=tuple(f"topic {topic}" for topic in range(settings.topics)),
    )


def _tower(name: str, vectors: Tensor, noise: torch.Generator) -> Tower:
    dim = vectors.shape[1]
    turned = vectors @ torch.linalg.qr(torch.randn(dim, dim, generator=noise)).Q
    seen = turned + NOISE * torch.randn(vectors.shape, generator=noise)
    extras = {"prior": torch.zeros(dim), "gain": torch.tensor(float(HISTORY) ** 0.5)}
    return Tower(name, seen, "mean", extras, {"fitted_on": "nothing: random vectors"})
