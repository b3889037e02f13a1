"""The team's environment over B sessions at once; everything else that plays sessions is a face of it.

    observe -> act -> ask, propose, weigh, fuse (agents/ensemble.py) -> respond (session.py) -> reward, remember

B sessions, A recommender agents, n items on a ballot, K places on a slate, N items, d_k dimensions of tower k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..agents.ensemble import Ensemble, Reading
from ..agents.team import MASK, mask_items
from ..platform.errors import InputError
from ..platform.fusion import Ballots
from ..platform.settings import Experiment, RewardSettings
from . import session
from .appeal import of_catalog
from .bursar import Bursar
from .faults import Fate, distorted, held_back, silenced, strayed
from .world import World

HIDDEN = 5
"""Numbers in which `BatchedEnv.hidden` tells a user's state."""

SAMPLE = 256
"""Items of the catalog that it looks at."""


@dataclass(frozen=True)
class Stage:
    """What sessions need.

    Attributes:
        experiment: fusion, slate, horizon and reward.
        world: the users who respond.
        ensemble: the team's towers and fusion.
        reading: what the towers read in the histories of all the world's users.
        best_static: `(A,)` the best static fusion weights found on training users.
        horizon_rule: caution and spread of the horizon-aware oracle, found on training users.
        data: what the logs were: `name`, `digest`, `source`, and counts.
    """

    experiment: Experiment
    world: World
    ensemble: Ensemble
    reading: Reading
    best_static: Tensor
    horizon_rule: tuple[float, float]
    data: dict[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Stage:
        world, ensemble = self.world.to(device), self.ensemble.to(device)
        best = self.best_static.to(device)
        return replace(self, world=world, ensemble=ensemble, reading=ensemble.read(world.history), best_static=best)


@dataclass(frozen=True)
class Step:
    """What a step of B sessions gave.

    Attributes:
        observations: `{agent: (B, d_obs)}`, after the response and before any reset.
        reward: `(B,)` float32, the team's.
        terminated: `(B,)` bool, the user left.
        truncated: `(B,)` bool, the horizon is reached and the user is still there; never both.
        slate: `(B, K)` int64.
        weights: `(B, A)` float32, the fusion weights used, summing to 1.
        response: what the users did.
        ballots: what the agents proposed; None where a slate was given from outside.
        credits: `(B, agents)` float32, each agent's own part of the reward, in the order of `agents`; None where the
            env was not asked for it.
        expected: `(B,)` float32, the mean of the reward over the dice; None likewise.
    """

    observations: dict[str, Tensor]
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    slate: Tensor
    weights: Tensor
    response: session.Response
    ballots: Ballots | None
    credits: Tensor | None = None
    expected: Tensor | None = None

    @property
    def done(self) -> Tensor:
        return self.terminated | self.truncated


class BatchedEnv:
    """B sessions of a world, served by a team.

    A recommender's observation is `[query (d_k), click trace (d_k), shown trace (d_k), common (5)]`: its tower's query
    for the user; what was clicked (fading by 0.95 a step) and shown (by 0.8) so far; and step / horizon, log of the
    history's length, click rate of the last slate, fading click rate, how much the tower knows of the user. The
    conductor's is `[support, hits, trust, agreement, steadiness, breadth (A each), common (5)]`: how high each agent's
    query put what was shown, how much higher what was clicked, the fading mean of that, how much the agent's scores are
    like the others' and like its own a step before, and how much alike what was shown lately is. All are of order 1.

    A recommender's action `(B, 4 + d_k)` in [-3, 3] moves its tower's query, which has norm sqrt(d_k): gains on the
    query itself, on the click trace and on the shown trace, a gain on the items of the themes that were shown
    (`Ensemble.lean`), and a free residual (`Ensemble.ask`); zero plays the tower as it is. The conductor's action
    `(B, A + 4)` in [-5, 5] moves the static weights: a residual on their logarithms, and gains on what the session has
    shown of the agents (`Ensemble.weigh`). The reward is the team's, the sum that `reward.*` configures; with the
    defaults it is the clicks on the slate, 0 to K.

    Args:
        stage: the users and the team (`stage.prepare`).
        sessions: B.
        seed: of the sessions; session j of a seed is the same whatever B is.
        users: `train` or `judge`, the part of the world's users that come.
        device: where the tensors live.
        credited: work out each step's expected reward and the agents' credit (`reward.credit`).
        fate: which sessions meet an agent that fails (`faults.py`); by default none.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        sessions: int,
        seed: int,
        users: str = "train",
        device: torch.device | str = "cpu",
        credited: bool = False,
        fate: Fate | None = None,
    ) -> None:
        if users not in ("train", "judge"):
            raise InputError(f'users="{users}": known are "train" and "judge"')
        self.device = torch.device(device)
        self.stage = stage if self.device == stage.ensemble.device else stage.to(self.device)
        self.world, self.ensemble, self.experiment = self.stage.world, self.stage.ensemble, self.stage.experiment
        self.sessions, self.seed = sessions, seed
        self.recommenders, self.agents = self.ensemble.recommenders, self.ensemble.agents
        self.users = self.world.train_users if users == "train" else self.world.judge_users
        self.slate, self.horizon = self.experiment.env.slate, self.experiment.env.horizon
        self._spread = spread_of(self.world)
        self._bursar = Bursar(self.world, self.ensemble, self.experiment) if credited else None
        self._fate = fate
        # Evenly over the catalog, whose order says nothing.
        self._sample = torch.linspace(0, self.world.num_items - 1, min(SAMPLE, self.world.num_items)).long()
        self._sample = self._sample.to(self.device)
        self.reset()

    # --- sessions

    def reset(self, first: int = 0) -> dict[str, Tensor]:
        """Starts sessions `first` to `first + B - 1` of the seed."""
        return self.start(torch.arange(first, first + self.sessions, device=self.device))

    def start(self, numbers: Tensor) -> dict[str, Tensor]:
        """Starts the sessions of these numbers `(B,)` int64; the same number twice is the same session twice."""
        self.state = self._begun(numbers)
        self.traces = self.ensemble.blank(self.sessions)
        self._penalty = self._unasked(self.state.user)
        self.reading = self.stage.reading.rows(self.state.user)
        return self.observe()

    def renew(self, done: Tensor) -> dict[str, Tensor]:
        """Starts the next session in every row where `done` `(B,)` holds: number j is followed by j + B."""
        if bool(done.any()):
            rows = done.nonzero().squeeze(1)
            fresh = self._begun(self.state.session[rows] + self.sessions)
            self.state = self.state.put(rows, fresh)
            self.traces = self.traces.reset(done)
            self._penalty[rows] = self._unasked(fresh.user)
            self.reading = self.stage.reading.rows(self.state.user)
        return self.observe()

    def kept(self) -> dict[str, Tensor]:
        """Where the sessions stand, as tensors by name: what `resume` goes on from, to the last bit."""
        state = {f"state.{name}": value.clone() for name, value in vars(self.state).items()}
        traces = {f"traces.{name}": value.clone() for name, value in vars(self.traces).items()}
        return {**state, **traces, "shown": self._penalty != 0}

    def resume(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Goes on with the sessions as `kept` has them. Returns their observations."""
        here = {name: value.to(self.device) for name, value in kept.items()}
        self.state = session.State(**{name: here[f"state.{name}"] for name in vars(self.state)})
        self.traces = type(self.traces)(**{name: here[f"traces.{name}"] for name in vars(self.traces)})
        self._penalty = torch.zeros_like(self._penalty).masked_fill_(here["shown"], MASK)
        self.reading = self.stage.reading.rows(self.state.user)
        return self.observe()

    def _begun(self, numbers: Tensor) -> session.State:
        return session.begin(self.world, self.users, self.seed, numbers, self._spread)

    def _unasked(self, users: Tensor) -> Tensor:
        """What may not be shown at the start of a session `(B, N)`: the items of the user's history."""
        penalty = torch.zeros(len(users), self.world.num_items, device=self.device)
        mask_items(penalty, self.world.history.items[users])
        return penalty

    def observe(self) -> dict[str, Tensor]:
        """`{agent: (B, d_obs)}` of the sessions as they stand."""
        return self.ensemble.observe(self.reading, self.traces, self.state.step / self.horizon)

    def unseen(self, scores: Tensor) -> Tensor:
        """`scores` `(B, N)` with the items of the history and those already shown far below the rest."""
        return scores + self._penalty

    def hidden(self) -> Tensor:
        """`(B, HIDDEN)`: the users' state in short, which a critic may know in training and no agent ever sees.

        Patience; mean and highest satiation; mean logit of a sample of the catalog, and of the ten best of it.
        """
        state, world = self.state, self.world
        liking = of_catalog(state.taste, world.item_vectors[self._sample], world.combine, world.temperature)
        tired = state.satiation[:, world.item_topic[self._sample]]
        logit = liking + world.item_bias[self._sample] + world.user_bias[state.user][:, None] - tired
        best = logit.topk(min(10, logit.shape[1]), dim=1).values.mean(1)
        worn = state.satiation
        return torch.stack([state.patience / 3.0, worn.mean(1), worn.amax(1), logit.mean(1), best], dim=1)

    # --- act

    def step(self, actions: Mapping[str, Tensor], weights: Tensor | None = None) -> Step:
        """One slate to every user.

        Args:
            actions: `{agent: (B, action_dim)}`; an agent that is left out plays its tower, or the static weights.
            weights: `(B, A)` fusion weights in place of the team's own.
        """
        faults = self._fate(self.seed, self.state.session) if self._fate else None
        if faults is not None:
            actions = held_back(faults, actions, self.recommenders, self.state.step)
        queries = self.ensemble.ask(self.reading, self.traces, actions)
        if faults is not None:
            where = (self.seed, self.state.session, self.state.step)
            queries = distorted(faults, queries, *where, self.ensemble.scaled)
        leans = self.ensemble.lean(self.traces, actions)
        ballots = self.ensemble.propose(queries, leans, self._penalty, at_least=self.slate)
        if faults is not None:
            ballots = strayed(faults, ballots, queries, self.state.step, self._met)
            ballots = silenced(faults, ballots, self.state.step)
        weights = self.ensemble.weigh(self.traces, actions) if weights is None else weights
        slate = self.ensemble.fuse(ballots, weights, self.slate)
        paid = self._bursar.pay(self.state, ballots, weights, self._static(), slate) if self._bursar else (None, None)
        step = self._show(slate, queries, weights, ballots)
        return step if paid[0] is None else replace(step, credits=paid[0], expected=paid[1])

    def _met(self, place: int, rows: Tensor, queries: Tensor, number: int) -> Tensor:
        """`(b, number)` items that an agent's random queries `(b, d_k)` come upon, in these rows `(b,)`."""
        return self.ensemble.nearest(place, queries, self._penalty[rows], number)

    def _static(self) -> Tensor:
        """The team's static weights, `(B, A)`."""
        return self.ensemble.weigh(self.traces, {})

    def show(self, slate: Tensor) -> Step:
        """One step with a slate `(B, K)` from outside the team: how a yardstick plays."""
        return self._show(
            slate, self.ensemble.ask(self.reading, self.traces, {}), self.ensemble.weigh(self.traces, {}), None
        )

    def _show(self, slate: Tensor, queries: list[Tensor], weights: Tensor, ballots: Ballots | None) -> Step:
        self.state, response = session.respond(self.world, self.state, slate, self.seed)
        self._penalty.scatter_(1, slate, MASK)
        self.traces = self.ensemble.remember(self.traces, queries, slate, response.click)
        return Step(
            observations=self.observe(),
            reward=reward(self.experiment.reward, response),
            terminated=response.left,
            truncated=(self.state.step >= self.horizon) & ~response.left,
            slate=slate,
            weights=weights,
            response=response,
            ballots=ballots,
        )


def spread_of(world: World) -> Tensor:
    """`(M * d,)`: the standard deviation of the users' tastes, of those who have a dimension as their own."""
    if world.user_own is None:
        return world.user_vectors.std(0)
    count = world.user_own.sum(0).clamp_min(2.0)
    mean = (world.user_vectors * world.user_own).sum(0) / count
    off = (world.user_vectors - mean) * world.user_own
    return (off.square().sum(0) / (count - 1)).sqrt()


def reward(settings: RewardSettings, response: session.Response) -> Tensor:
    """`(B,)`: the configured sum of clicks, conversions, minutes, satisfaction, and staying."""
    return (
        settings.click * response.click.sum(1)
        + settings.conversion * response.conversion.sum(1)
        + settings.dwell * response.dwell_s.sum(1) / 60.0
        + settings.satisfaction * response.satisfaction.sum(1)
        + settings.staying * (~response.left).float()
    )
