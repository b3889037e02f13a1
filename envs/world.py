"""The truth of a simulated population: who the users are, what the items are worth to them, how they tire and leave.

A world is only tensors and mechanics; `session.py` plays it. Both the built-in world and the worlds fitted to logs
come down to this one form, so that a policy meets the same users whichever way they were made.

    logit(click | user u, item i, satiation s) = u . v_i + user_bias_u + item_bias_i - s[topic_i]

That is the class that policies are trained in. In others a user has several interests (`appeal.py`), or reads down the
slate and stops (`session.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..agents.tower import History
from ..platform.settings import Mechanics
from .appeal import Combine

Reading = Literal["places", "cascade"]


@dataclass(frozen=True)
class World:
    """A population of U users over a catalog of N items in Z topics.

    Attributes:
        name: what it is called in tables.
        item_vectors: `(N, d)` float32, latent appeal (quality included, against a sensitivity column of the users).
        item_bias: `(N,)` float32, logits.
        item_topic: `(N,)` int64 in [0, Z): what a user tires of.
        item_quality: `(N,)` float32, standardised; raises conversion, dwell and satisfaction after a click.
        user_vectors: `(U, M * d)` float32, M interests a user, one in the class that policies are trained in.
        user_bias: `(U,)` float32, logits.
        history: of all U users, before their sessions: the only thing an agent knows of them at the start.
        train_users, judge_users: int64 indices; policies learn on the first and are judged on the second.
        item_popularity: `(N,)` float32, interactions in the train part of the logs (the `popular` yardstick).
        mechanics: satiation, position bias, patience, drift.
        combine: how several interests make one appeal.
        temperature: of that, in logits.
        reading: `places`: each place of a slate is looked at by itself, and satiation is taken from the logit;
            `cascade`: the user reads down the slate and stops, and satiation divides the click probability by exp(s).
        user_own: `(U, M * d)` float32, 1 in the dimensions in which a user's taste lives and moves, 0 elsewhere; None
            for all of them.
        user_tiring: `(U,)` float32 > 0, how many times as fast as `mechanics` says a user tires; None for once.
        report: facts about the fit (log loss, AUC, calibration), for the run.
    """

    name: str
    item_vectors: Tensor
    item_bias: Tensor
    item_topic: Tensor
    item_quality: Tensor
    user_vectors: Tensor
    user_bias: Tensor
    history: History
    train_users: Tensor
    judge_users: Tensor
    item_popularity: Tensor
    mechanics: Mechanics
    user_ids: tuple[str, ...] = ()
    item_ids: tuple[str, ...] = ()
    item_titles: tuple[str, ...] = ()
    topic_names: tuple[str, ...] = ()
    combine: Combine = "any"
    temperature: float = 1.0
    reading: Reading = "places"
    report: dict[str, float] = field(default_factory=dict)
    user_own: Tensor | None = None
    user_tiring: Tensor | None = None

    @property
    def num_items(self) -> int:
        return self.item_vectors.shape[0]

    @property
    def num_topics(self) -> int:
        return int(self.item_topic.max()) + 1

    def to(self, device: torch.device | str) -> World:
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor | History)}
        return replace(self, **moved)
