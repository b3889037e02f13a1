"""One set of gains for all agents, users and steps, searched: the rung below agents that learn.

    grid of gains (G, 4)  --successive halving on training users-->  the best (4,)

It follows what a session has clicked and shown as a trained team can, but alike for everybody. With
`train.start: gains` agents begin to learn from there.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..agents.ensemble import LED, Ensemble
from ..platform.cache import write_whole
from ..platform.draws import derive
from .batched import BatchedEnv, Stage, Step
from .yardsticks import Act, play, search_sessions

CLICKED, SHOWN, THEMES = (0.0, 0.1, 0.2, 0.4, 0.8), (0.0, -0.2, -0.4, -0.8), (0.0, -0.2, -0.5, -1.0, -2.0)
"""Gains on the click trace, on the shown trace and on the themes that were shown; the query's own stays as it is."""

ROUNDS = 4

SEARCH = 58_000
"""Parts the seed of the search from all others of a run."""


def with_gains(gains: Tensor) -> Act:
    """The team under gains `(4,)` of every agent, or `(B, 4)` for different ones in each row; static weights."""

    def act(env: BatchedEnv, _: Mapping[str, Tensor]) -> Step:
        rows = gains.expand(env.sessions, -1)
        free = {name: env.ensemble.dims[name] for name in env.recommenders}
        return env.step({name: torch.cat([rows, rows.new_zeros(len(rows), dim)], dim=1) for name, dim in free.items()})

    return act


def search_gains(make_env: Callable[[int], BatchedEnv]) -> Tensor:
    """The best gains `(4,)` of the grid, by successive halving (Jamieson and Talwalkar 2016).

    Args:
        make_env: gives an environment of that many sessions, on training users.
    """
    env = make_env(1)
    field = torch.tensor([(0.0, *gains) for gains in itertools.product(CLICKED, SHOWN, THEMES)], device=env.device)
    sessions = search_sessions(env.world.num_items)
    for turn in range(ROUNDS):
        each = max(1, sessions // len(field))
        numbers = torch.arange(each, device=env.device).repeat(len(field)) + turn * sessions
        played = play(make_env(len(numbers)), with_gains(field.repeat_interleave(each, dim=0)), numbers)
        scores = played.returns.view(len(field), each).mean(1)
        field = field[scores.topk(max(1, len(field) // 3)).indices]
    return field[0]


def starting_from_gains(stage: Stage, kept: Path, say: Callable[[str], None]) -> Stage:
    """The stage whose agents begin to learn from the gains searched on its training users; `kept` is where they lie."""
    try:
        found = tuple(float(gain) for gain in json.loads(kept.read_text("utf-8")))
        if len(found) != LED or not all(map(math.isfinite, found)):
            raise ValueError("not gains")
    except (OSError, ValueError, TypeError):  # not there yet, or damaged: it is made again
        say("searching the gains that agents start from, on training users")
        seed = derive(stage.experiment.seed, SEARCH)
        gains = search_gains(lambda sessions: BatchedEnv(stage, sessions=sessions, seed=seed))
        found = tuple(gains.tolist())
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps(found).encode())
    team = stage.ensemble
    return replace(stage, ensemble=Ensemble(team.towers, team.fusion, team.weights, found))
