"""Fusion weights learned without reinforcement: one vector for all, one a segment of users, a contextual bandit.

    training users, random weights  ->  slates and clicks  ->  logistic regression of a click on the agents' scores
                                                                  ->  global (A,), or a segment's (S, A)
    training users, sampled weights ->  context, arm, reward  ->  Bayesian linear models  ->  the arm to play (B,)

All of them play the towers as they are; what they learn is whom to listen to. They are the rungs between the best
static weights and the conductor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ..agents.ensemble import CONDUCTOR
from ..platform import draws
from ..platform.fusion_points import weighted as above_floor
from .batched import BatchedEnv, Step
from .yardsticks import Act, simplex

SEGMENTS = 4
"""Groups of users, by what is known of them before the session."""

SEGMENT_PRIOR = 2_000.0
"""Clicks' worth of the global weights in a segment's."""

EXPLORE, ARM = 300, 301
"""Streams of draws."""

GRID = 4
"""A bandit's arms are the weights that are multiples of 1 / GRID."""

NOISE_STD, PRIOR_STD = 1.5, 1.0
"""Bandit: of a step's reward about its mean, and of a coefficient."""


@dataclass(frozen=True)
class Seen:
    """What a rehearsal showed: n places of slates.

    Attributes:
        scores: `(n, A)` the agents' scores of the item above the lowest on their ballots; 0 off a ballot.
        click: `(n,)` 0 or 1.
        user: `(n,)` the users.
    """

    scores: NDArray[np.float32]
    click: NDArray[np.float32]
    user: NDArray[np.int64]


def rehearse(env: BatchedEnv, steps: int = 6) -> Seen:
    """Plays the towers under weights drawn anew for each user and step, so that no two agents' says go together.

    Args:
        env: of training users; its first `steps` slates are kept.
    """
    env.reset()
    scores, clicks, users = [], [], []
    for _ in range(steps):
        state = env.state
        drawn = draws.uniform(env.seed, state.session, state.step, EXPLORE, len(env.recommenders)).clamp_min(1e-6)
        weights = -drawn.log()
        step = env.step({}, weights / weights.sum(1, keepdim=True))
        scores.append(_scores(step).flatten(0, 1))
        clicks.append(step.response.click.flatten())
        users.append(state.user.repeat_interleave(env.slate))
        env.renew(step.done)
    return Seen(torch.cat(scores).numpy(), torch.cat(clicks).numpy(), torch.cat(users).numpy())


def _scores(step: Step) -> Tensor:
    """`(B, K, A)`: what each agent gave each item on the slate."""
    assert step.ballots is not None
    given = above_floor(step.ballots).masked_fill(~step.ballots.present, 0.0)
    agents = range(given.shape[1])
    found = [
        ((step.slate[:, :, None] == step.ballots.items[:, None, agent]) * given[:, None, agent]).sum(2)
        for agent in agents
    ]
    return torch.stack(found, dim=2)


def global_weights(seen: Seen) -> Tensor:
    """`(A,)`: the coefficients of a click on the agents' scores, at least 0, summing to 1."""
    model = LogisticRegression(C=1.0).fit(seen.scores, seen.click)
    return _as_weights(model.coef_[0])


def _as_weights(coefficients: NDArray[np.floating]) -> Tensor:
    positive = torch.from_numpy(np.asarray(coefficients, np.float32)).clamp_min(1e-3)
    return positive / positive.sum()


def segments_of(env: BatchedEnv, seed: int) -> Tensor:
    """`(U,)` int64: each user's segment, from how much the towers know of the user (k-means)."""
    reading = env.stage.reading
    facts = torch.cat([reading.known[:, None], reading.strengths], dim=1).double()
    facts = (facts - facts.mean(0)) / facts.std(0).clamp_min(1e-9)
    label = KMeans(SEGMENTS, n_init="auto", random_state=seed % 2**32).fit_predict(facts.cpu().numpy())
    return torch.from_numpy(label.astype(np.int64))


def segment_weights(seen: Seen, segment: Tensor) -> Tensor:
    """`(S, A)`: each segment's own coefficients, drawn towards the global ones where it has few clicks."""
    common = global_weights(seen)
    rows = []
    for number in range(SEGMENTS):
        mine = (segment[torch.from_numpy(seen.user)] == number).numpy()
        clicks = float(seen.click[mine].sum())
        if not 0 < clicks < mine.sum():
            rows.append(common)
            continue
        own = global_weights(Seen(seen.scores[mine], seen.click[mine], seen.user[mine]))
        share = clicks / (clicks + SEGMENT_PRIOR)
        rows.append(share * own + (1 - share) * common)
    return torch.stack(rows)


def by_segment(weights: Tensor, segment: Tensor) -> Act:
    """Plays the weights `(S, A)` of each user's segment `(U,)`."""

    def act(env: BatchedEnv, _: Mapping[str, Tensor]) -> Step:
        return env.step({}, weights[segment[env.state.user]])

    return act


class Bandit:
    """A contextual bandit over fusion weights: linear Thompson sampling (Agrawal and Goyal 2013).

    Each arm, a vector of weights, has a Bayesian linear regression of the step's reward on the conductor's observation.
    While it learns it plays the best arm of a draw from the posterior, and afterwards the best of its mean.
    """

    def __init__(self, env: BatchedEnv) -> None:
        self.arms = simplex(len(env.recommenders), GRID)
        size = env.ensemble.observation_dim(CONDUCTOR) + 1
        self._precision = torch.eye(size).double().repeat(len(self.arms), 1, 1) / PRIOR_STD**2
        self._moment = torch.zeros(len(self.arms), size, dtype=torch.float64)
        self._mean = torch.zeros(len(self.arms), size)

    def learn(self, env: BatchedEnv, rounds: int) -> None:
        """Plays `rounds` steps of all sessions of training users."""
        observations = env.reset()
        for _ in range(rounds):
            context = self._context(observations)
            sampled = self._drawn(_noise(env, len(self.arms) * context.shape[1]))
            arm = (context @ sampled.t()).argmax(1)
            step = env.step({}, self.arms[arm])
            self._update(context.double(), arm, step.reward.double())
            observations = env.renew(step.done)

    def act(self, env: BatchedEnv, observations: Mapping[str, Tensor]) -> Step:
        """Plays the arm of the highest mean."""
        arm = (self._context(observations) @ self._mean.t()).argmax(1)
        return env.step({}, self.arms[arm])

    @staticmethod
    def _context(observations: Mapping[str, Tensor]) -> Tensor:
        seen = observations[CONDUCTOR].clamp(-5, 5)
        return torch.cat([seen, torch.ones(len(seen), 1)], dim=1)

    def _drawn(self, noise: Tensor) -> Tensor:
        """`(arms, d)`: coefficients from the posterior."""
        factor = torch.linalg.cholesky(self._precision)
        spread = torch.linalg.solve_triangular(factor.transpose(1, 2), noise.view(*self._moment.shape, 1), upper=True)
        return self._mean + spread[:, :, 0].float()

    def _update(self, context: Tensor, arm: Tensor, reward: Tensor) -> None:
        chosen = torch.nn.functional.one_hot(arm, len(self.arms)).double()
        self._precision += torch.einsum("ba,bi,bj->aij", chosen, context, context) / NOISE_STD**2
        self._moment += torch.einsum("ba,bi,b->ai", chosen, context, reward) / NOISE_STD**2
        self._mean = torch.linalg.solve(self._precision, self._moment[:, :, None])[:, :, 0].float()


def _noise(env: BatchedEnv, count: int) -> Tensor:
    """`(count,)` standard normal, by the first session and its step."""
    first = env.state.session[:1]
    return draws.normal(env.seed, first, env.state.step.sum()[None] + first, ARM, count)[0].double()


def learned_policies(rehearsal: BatchedEnv, training: BatchedEnv, rounds: int, seed: int) -> dict[str, Act]:
    """`learned_weights`, `segment_weights` and `bandit`, each learned on training users.

    Args:
        rehearsal: for the regressions.
        training: for the bandit, `rounds` steps of it.
        seed: of the segments.
    """
    seen = rehearse(rehearsal)
    segment = segments_of(rehearsal, seed)
    everyone = global_weights(seen)
    bandit = Bandit(training)
    bandit.learn(training, rounds)
    return {
        "learned_weights": lambda env, _: env.step({}, everyone.expand(env.sessions, -1)),
        "segment_weights": by_segment(segment_weights(seen, segment), segment),
        "bandit": bandit.act,
    }
