"""One set of gains for all agents, users and steps, searched: the rung below agents that learn.

    grid of gains (G, 4)  --successive halving on training users-->  the best (4,)

It follows what a session has clicked and shown as a trained team can, but alike for everybody.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .batched import BatchedEnv, Step
from .yardsticks import Act, play, search_sessions

CLICKED, SHOWN, THEMES = (0.0, 0.1, 0.2, 0.4, 0.8), (0.0, -0.2, -0.4, -0.8), (0.0, -0.2, -0.5, -1.0, -2.0)
"""Gains on the click trace, on the shown trace and on the themes that were shown; the query's own stays as it is."""

ROUNDS = 4


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
