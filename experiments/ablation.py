"""What the team is without, and against, each of its agents; and how its conductor reads a session.

    dropped       the agent's weight goes to the others, from the first step
    frozen        it plays its tower, whatever it has learned
    silenced      it falls silent in the middle of the session
    adversarial   it votes at random from the first step, as sure of itself as any

All on the same sessions of judge users, so that what is lost is a difference session by session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..agents.team import Team
from ..envs import BatchedEnv, Stage, Step
from ..envs.faults import Fate, arranged
from ..envs.yardsticks import Act, play
from ..platform.draws import derive
from .judge import team_act, without

FAILING = 75_000
"""Parts the seed of the sessions from all others of a run."""

KINDS = ("dropped", "frozen", "silenced", "adversarial")

BINS = 5
"""Levels that what the conductor sees is divided into, each with as many slates as the others."""


@dataclass(frozen=True)
class Loss:
    """What a change of one agent costs.

    Attributes:
        agent, kind: which agent, and one of `KINDS`.
        lost: mean return lost of a session, with `low` and `high` bounding a 95 % interval over sessions.
        weights: `(T,)` the agent's mean fusion weight at each step.
    """

    agent: str
    kind: str
    lost: float
    low: float
    high: float
    weights: tuple[float, ...]


def ablate(stage: Stage, team: Team) -> list[Loss]:
    """Every kind for every agent; nothing for a team of one."""
    names = stage.ensemble.recommenders
    if len(names) < 2:
        return []
    whole = _returns(stage, team_act(team))[0]
    losses = []
    for place, name in enumerate(names):
        halfway = stage.experiment.env.horizon // 2
        changed: dict[str, tuple[Act, Fate | None]] = {
            "dropped": (without(team, place), None),
            "frozen": (team_act(team), arranged(place, "frozen")),
            "silenced": (team_act(team), arranged(place, "silent", since=halfway)),
            "adversarial": (team_act(team), arranged(place, "adversarial")),
        }
        for kind in KINDS:
            act, fate = changed[kind]
            returns, weights = _returns(stage, act, fate, place)
            apart = whole - returns
            mean, reach = float(apart.mean()), 1.96 * float(apart.std()) / len(apart) ** 0.5
            losses.append(Loss(name, kind, mean, mean - reach, mean + reach, weights))
    return losses


def _returns(stage: Stage, act: Act, fate: Fate | None = None, agent: int = 0) -> tuple[Tensor, tuple[float, ...]]:
    """`(B,)` returns, and the agent's mean weight at each step."""
    experiment = stage.experiment
    seed = derive(experiment.train_seed, FAILING)
    env = BatchedEnv(stage, sessions=experiment.evaluate.sessions, seed=seed, users="judge", fate=fate)
    seen: list[float] = []
    outcome = play(env, act, watch=lambda step: seen.append(float(step.weights[:, agent].mean())))
    return outcome.returns, tuple(seen)


@dataclass(frozen=True)
class Reading:
    """The conductor's weights against one thing that it can see of a session.

    Attributes:
        name: of the thing.
        levels: `(L,)` its mean in each bin.
        weights: `(L, A)` mean fusion weights there.
    """

    name: str
    levels: NDArray[np.float64]
    weights: NDArray[np.float64]


def read_conductor(stage: Stage, team: Team) -> list[Reading]:
    """Its weights against the user's satiation, the length of the history, and the agents' agreement.

    The conductor sees satiation only through what was shown and clicked; the simulator knows it.
    """
    seen: dict[str, list[Tensor]] = {"satiation": [], "log of history length": [], "agreement of the agents": []}
    weights: list[Tensor] = []

    def act(env: BatchedEnv, observations: Mapping[str, Tensor]) -> Step:
        shown = env.state.step > 0  # before the first slate nothing is known of satiation and agreement
        facts = (env.state.satiation.mean(1), env.reading.known * 4.0, env.traces.agreement.mean(1))
        step = env.step(team.act(observations))
        for kept, fact in zip(seen.values(), facts, strict=True):
            kept.append(fact[shown])
        weights.append(step.weights[shown])
        return step

    _returns(stage, act)
    chosen = torch.cat(weights).double().numpy()
    return [_binned(name, torch.cat(facts).double().numpy(), chosen) for name, facts in seen.items()]


def _binned(name: str, facts: NDArray[np.float64], weights: NDArray[np.float64]) -> Reading:
    # Equal values are of one level: where everybody's history is as long, there is one point and no line.
    edges = np.unique(np.quantile(facts, np.arange(1, BINS) / BINS))
    level = np.searchsorted(edges, facts, side="right")
    filled = [rows for number in range(len(edges) + 1) if (rows := level == number).any()]
    levels = np.array([facts[rows].mean() for rows in filled])
    return Reading(name, levels, np.stack([weights[rows].mean(0) for rows in filled]))
