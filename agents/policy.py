"""What is learned: how an agent departs from its tower, and how the conductor departs from the static weights.

    observation (B, d_obs)  --trunk-->  head, zero at the start  -->  mean of a Gaussian action (B, d_action)

With the last layer at zero the mean is exactly zero: an untrained recommender plays its tower, and an untrained
conductor the static weights; unless a recommender is to start from gains that were searched (`PolicySpec.start`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PACE = 5.0
"""What is right for everybody is found before what is right for somebody."""


@dataclass(frozen=True)
class PolicySpec:
    """The shape of a policy.

    Attributes:
        observation_dim: size of an observation.
        initial_std: of the untrained exploration, one number for each entry of an action.
        hidden: widths of the trunk's layers.
        constant: how many of the last entries of an action have one learned mean, whatever is observed.
        shared: how many of the first entries have, beside what depends on the observation, a part of their mean that
            does not, learned `PACE` times as fast.
        start: what those are in an untrained policy; all 0 if empty.
    """

    observation_dim: int
    initial_std: tuple[float, ...]
    hidden: tuple[int, ...] = (64, 64)
    constant: int = 0
    shared: int = 0
    start: tuple[float, ...] = ()

    @property
    def action_dim(self) -> int:
        return len(self.initial_std)


def trunk(inputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """Linear layers with tanh between, orthogonal at the start (Andrychowicz et al. 2021, "What matters ...")."""
    layers: list[nn.Module] = []
    for width in hidden:
        linear = nn.Linear(inputs, width)
        nn.init.orthogonal_(linear.weight, math.sqrt(2.0))
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
        inputs = width
    return nn.Sequential(*layers)


class Policy(nn.Module):
    """A Gaussian policy with a state-independent spread.

    `forward(observation (B, d_obs)) -> (B, 2 * d_action)`: mean and logarithm of the standard deviation, side by side.
    """

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = trunk(spec.observation_dim, spec.hidden)
        self.head = nn.Linear(spec.hidden[-1], spec.action_dim - spec.constant)
        self.constant = nn.Parameter(torch.zeros(spec.constant)) if spec.constant else None
        begun = torch.tensor(spec.start or (0.0,) * spec.shared) / PACE
        self.shared = nn.Parameter(begun) if spec.shared else None
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.log_std = nn.Parameter(torch.tensor(spec.initial_std).log())

    def mean(self, observation: Tensor) -> Tensor:
        """`(B, d_action)`: what the agent does when it does not explore."""
        led = self.head(self.trunk(observation))
        if self.shared is not None:
            led = led + nn.functional.pad(PACE * self.shared, (0, led.shape[-1] - len(self.shared)))
        if self.constant is None:
            return led
        return torch.cat([led, self.constant.expand(*led.shape[:-1], -1)], dim=-1)

    def forward(self, observation: Tensor) -> Tensor:
        mean = self.mean(observation)
        return torch.cat([mean, self.log_std.expand_as(mean)], dim=1)


class Value(nn.Module):
    """A critic: `forward(observation (B, d_obs)) -> (B,)`, the return expected from here on."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.trunk = trunk(spec.observation_dim, spec.hidden)
        self.head = nn.Linear(spec.hidden[-1], 1)
        nn.init.zeros_(self.head.bias)

    def forward(self, observation: Tensor) -> Tensor:
        return self.head(self.trunk(observation)).squeeze(1)
