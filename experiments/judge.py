"""Judging: every policy through the same sessions, by users and seeds that nothing was trained on.

{policy: how it acts}  ->  seeds x sessions by judge users  ->  mean return and 95 % interval over the seeds  ->  table
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
from ..envs.yardsticks import Act, play
from ..platform.draws import derive
from ..platform.statistics import Interval, interval, normalised

JUDGE, WATCH = 60_000, 70_000
"""Parts the seeds of the judged sessions, and of the looks at a team while it learns, from all others of a run."""

SEARCHED = "searched_gains"
"""The team as it begins to learn, where `train.start` is `gains`."""

ORDER = ("random", "popular", "*", "equal_weights", "best_static", SEARCHED, "team", "greedy_oracle", "horizon_oracle")
"""How a table is sorted; `*` stands for the single agents."""


@dataclass(frozen=True)
class Score:
    """How a policy did.

    Attributes:
        returns: mean return of a session, over seeds.
        length: mean slates a session.
        clicks: mean clicks a session.
    """

    returns: Interval
    length: float
    clicks: float


def team_act(team: Team) -> Act:
    """The trained team as a policy, without exploration."""
    return lambda env, observations: env.step(team.act(observations))


def without(team: Team, agent: int) -> Act:
    """The team with one agent silenced: its weight goes to the others in proportion."""

    def act(env: BatchedEnv, observations: Mapping[str, Tensor]) -> Step:
        actions = team.act(observations)
        weights = env.ensemble.weigh(env.traces, actions).clone()
        weights[:, agent] = 0.0
        return env.step(actions, weights / weights.sum(1, keepdim=True).clamp_min(1e-6))

    return act


class Judge:
    """Plays policies on the sessions kept for judging."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.settings = stage, stage.experiment.evaluate
        self._env = BatchedEnv(stage, sessions=self.settings.sessions, seed=0, users="judge")

    def score(self, act: Act) -> Score:
        """A policy over all seeds."""
        outcomes = []
        for number in range(self.settings.seeds):
            self._env.seed = derive(self.stage.experiment.train_seed, JUDGE, number)
            outcomes.append(play(self._env, act))
        means = [outcome.returns.mean().item() for outcome in outcomes]
        lengths = torch.cat([outcome.lengths for outcome in outcomes]).float().mean().item()
        clicks = torch.cat([outcome.clicks for outcome in outcomes]).mean().item()
        return Score(interval(means), lengths, clicks)

    def glance(self, act: Act) -> tuple[float, float, float]:
        """Mean return and 95 % interval over the sessions of one seed, for a look at the team while it learns."""
        self._env.seed = derive(self.stage.experiment.train_seed, WATCH)
        returns = play(self._env, act).returns
        reach = 1.96 * returns.std().item() / len(returns) ** 0.5
        mean = returns.mean().item()
        return mean, mean - reach, mean + reach

    def weights_through_session(self, act: Act) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Fusion weights `(T, A)` at each step of a session: their mean, and where the middle 80 % of sessions lie."""
        self._env.seed = derive(self.stage.experiment.train_seed, WATCH)
        seen: list[Tensor] = []
        play(self._env, act, watch=lambda step: seen.append(step.weights.cpu()))
        weights = torch.stack(seen)
        low, high = weights.quantile(torch.tensor([0.1, 0.9]), dim=1)
        return weights.mean(1).double().numpy(), low.double().numpy(), high.double().numpy()


def table(scores: Mapping[str, Score]) -> list[dict[str, float | str]]:
    """Rows `{"policy", "return", "low", "high", "normalised"}`, sorted as in `ORDER`."""
    random, oracle = scores["random"].returns.mean, scores["horizon_oracle"].returns.mean
    return [
        {
            "policy": name,
            "return": round(scores[name].returns.mean, 4),
            "low": round(scores[name].returns.low, 4),
            "high": round(scores[name].returns.high, 4),
            "normalised": round(normalised(scores[name].returns.mean, random, oracle), 4),
        }
        for name in _sorted(list(scores))
    ]


def _sorted(names: list[str]) -> list[str]:
    alone = [name for name in names if name not in ORDER]
    order = [each for name in ORDER for each in (alone if name == "*" else [name])]
    return [name for name in order if name in names]
