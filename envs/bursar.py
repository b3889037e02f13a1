"""Who is paid what for a slate: the credit of the recommenders and the conductor in the reward that is expected of it.

    ballots, weights  --plan's coalitions-->  M slates  --response model-->  worth (B, M)  -->  credit (B, agents)

A recommender outside a coalition has no say in its slate; a coalition without the conductor plays the static weights,
and one without any recommender shows nothing and is worth nothing. All worths are expectations given the session as it
stands, so that nothing is rolled twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..agents.ensemble import CONDUCTOR, Ensemble
from ..platform.credit import credit, plan
from ..platform.draws import derive
from ..platform.fusion import Ballots
from ..platform.settings import Experiment
from .expectation import expected_reward
from .session import State
from .world import World

ORDERS = 80_000
"""Parts the seed of the sampled orders from all others of a run."""


class Bursar:
    """Pays the agents of a team.

    Args:
        world: whose response model says what a slate brings.
        ensemble: fuses, and knows the static weights.
        experiment: says what the reward is and how it is credited.
    """

    def __init__(self, world: World, ensemble: Ensemble, experiment: Experiment) -> None:
        self.world, self.ensemble = world, ensemble
        self.reward, self.slate = experiment.reward, experiment.env.slate
        agents, self.recommenders = ensemble.agents, len(ensemble.recommenders)
        self.plan = plan(self.reward.credit, len(agents), derive(experiment.seed, ORDERS))
        members = self.plan.members.to(ensemble.device)
        said, led = members[:, : self.recommenders], torch.zeros(len(members), dtype=torch.bool, device=members.device)
        if CONDUCTOR in agents:
            led = members[:, agents.index(CONDUCTOR)]
        proposing = said.any(1)
        proposing[0] = False  # everybody's slate is there already
        # Without a conductor the weights are the static ones in every coalition.
        self._led, self._static = (led & proposing).nonzero()[:, 0], (~led & proposing).nonzero()[:, 0]
        self._said = said

    def pay(
        self, state: State, ballots: Ballots, weights: Tensor, static: Tensor, slate: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The agents' credit `(B, agents)` and the expected reward `(B,)` of the slate `(B, K)` that is shown.

        Args:
            state: before the slate.
            ballots, weights: that the slate was fused from, `(B, A, n)` and `(B, A)`.
            static: `(B, A)`, the weights without a conductor.
        """
        worth = torch.zeros(len(slate), len(self.plan.members), device=slate.device)
        worth[:, 0] = self._worth(state, slate)
        for chosen, say in ((self._led, weights), (self._static, static)):
            if len(chosen):
                slates = self.ensemble.coalitions(ballots, say, self.slate, self._said[chosen])
                for row, alternative in zip(chosen.tolist(), slates, strict=True):
                    worth[:, row] = self._worth(state, alternative)
        return credit(worth, self.plan), worth[:, 0]

    def _worth(self, state: State, slate: Tensor) -> Tensor:
        return expected_reward(self.world, state, slate, self.reward)
