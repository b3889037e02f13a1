"""Users of another kind: the world that policies are judged in, of another class than the one they were trained in.

    trained in    one taste a user, an inner product;        each place looked at by itself, satiation in the logit
    judged in     several interests, or several demands;     a user who reads down and stops, satiation in the chance

The users, their histories and the items are the same, and so are the judge users, who are in no training session. A
world fitted to logs is fitted to the same logs again with `INTERESTS` interests a user. The built-in world keeps its
truth, but its parts no longer add up: an item must be to the taste and good enough as well.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..platform.draws import derive
from ..platform.settings import Experiment
from .appeal import of_catalog
from .batched import BatchedEnv, Stage
from .calibration import base_rate_shift
from .logs import world_from_logs
from .stage import Say, kept_world, logs_and_features
from .world import World
from .yardsticks import search_horizon

INTERESTS = 4
"""Interests of a user in a world fitted to logs."""

DEMAND_TEMPERATURE = 0.5
"""Built-in: of the two demands, taste and quality, in logits."""

QUALITY_DEMAND, QUALITY_START = 2.0, 2.0
"""Built-in: how much more quality counts as a demand than as a part of a sum, and its logit on an average item."""

RATE_USERS = 600
"""Users over whom the base rate is set."""

CAUTION, SPREAD = "horizon_caution", "horizon_spread"
"""In the world's report: what the horizon-aware oracle was found to do best with."""

SEARCH = 55_000
"""Parts the seed of the search from all others of a run."""


def judge_stage(stage: Stage, say: Say = lambda line: None) -> Stage:
    """The same team among users of another kind. The same arguments give the same stage.

    Its horizon-aware oracle is searched there, on training users. The world is kept in the cache.
    """
    world = kept_world(stage.experiment, "judge", lambda: _world(stage, say), say)
    named = replace(world, name=f"{stage.world.name}, judged")
    return replace(stage, world=named, horizon_rule=(world.report[CAUTION], world.report[SPREAD]))


def _world(stage: Stage, say: Say) -> World:
    """The world, with the horizon-aware oracle that was searched there in its report."""
    say("making the world to judge in: users of another kind")
    builtin = stage.experiment.world.kind == "builtin"
    world = demanding(stage.world) if builtin else _interested(stage.experiment, stage)
    rehearsal = BatchedEnv(replace(stage, world=world), sessions=256, seed=derive(stage.experiment.seed, SEARCH))
    caution, spread = search_horizon(rehearsal)
    return replace(world, report=world.report | {CAUTION: caution, SPREAD: spread})


def _interested(experiment: Experiment, stage: Stage) -> World:
    logs, split, features = logs_and_features(experiment, stage.ensemble.towers)
    world = world_from_logs(
        logs,
        split,
        experiment.world,
        item_features=features,
        name=experiment.name,
        seed=derive(experiment.world.seed, SEARCH),
        interests=INTERESTS,
    )
    # Who judges, what tires together and what is good stay as they are: only how users decide is of another class.
    same = ("train_users", "judge_users", "item_topic", "item_quality", "topic_names", "history", "item_popularity")
    return replace(world, reading="cascade", **{name: getattr(stage.world, name) for name in same})


def demanding(world: World) -> World:
    """The built-in world's truth as two demands, taste and quality; the base rate stays.

    The last column of its vectors is quality, against the users' sensitivity to it.
    """
    users, items = world.user_vectors, world.item_vectors
    taste, quality = users.clone(), torch.zeros_like(users)
    taste[:, -1] = 0.0
    quality[:, -1] = QUALITY_DEMAND * users[:, -1]
    start = torch.zeros(len(users), 1), torch.full((len(users), 1), QUALITY_START)
    # A constant column of the items carries the logit that quality starts from.
    changed = replace(
        world,
        user_vectors=torch.cat([taste, start[0], quality, start[1]], dim=1),
        item_vectors=torch.cat([items, torch.ones(len(items), 1)], dim=1),
        combine="all",
        temperature=DEMAND_TEMPERATURE,
        reading="cascade",
    )
    wanted = float(_logits(world).sigmoid().mean())
    shift = base_rate_shift(np.asarray(_logits(changed)), wanted)
    return replace(changed, item_bias=changed.item_bias + shift)


def _logits(world: World) -> torch.Tensor:
    """`(U, N)` logits of the first `RATE_USERS` users before any session."""
    users = world.user_vectors[:RATE_USERS]
    liking = of_catalog(users, world.item_vectors, world.combine, world.temperature)
    return liking + world.item_bias + world.user_bias[:RATE_USERS, None]
