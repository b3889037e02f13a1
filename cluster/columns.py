"""What a runner samples, as columns of whole tensors, and the spaces of what is in them."""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from torch import Tensor

from ..envs import BatchedEnv
from .critics import Group, spec_of


def spaces_of(env: BatchedEnv, learning: tuple[Group, ...]) -> dict[str, tuple[gym.Space, gym.Space]]:
    """`{network: (observation space, action space)}` of the agents that learn."""
    spaces = {}
    for group in learning:
        agent = group.agents[0]
        size, limit = env.ensemble.action_dim(agent), env.ensemble.action_limit(agent)
        seen = spec_of(group, env.ensemble, env.experiment.train).observation_dim
        observation = gym.spaces.Box(-np.inf, np.inf, (seen,), np.float32)
        spaces[group.name] = (observation, gym.spaces.Box(-limit, limit, (size,), np.float32))
    return spaces


class Store:
    """Columns `(B, T, ...)` of each agent, made when the first step is put in."""

    def __init__(self, sessions: int, steps: int, device: str) -> None:
        self.columns: dict[str, dict[str, Tensor]] = {}
        self._shape, self._device = (sessions, steps), device

    def put(self, agent: str, t: int, row: Mapping[str, Tensor]) -> None:
        """Values `(B, ...)` of step t, by the name of their column."""
        mine = self.columns.setdefault(agent, {})
        for name, value in row.items():
            if name not in mine:
                mine[name] = torch.empty(*self._shape, *value.shape[1:], dtype=value.dtype, device=self._device)
            mine[name][:, t] = value

    def put_each(self, name: str, t: int, values: Mapping[str, Tensor]) -> None:
        """One column's values of step t, by agent."""
        for agent, value in values.items():
            self.put(agent, t, {name: value})

    def by_network(self, learning: tuple[Group, ...]) -> dict[str, dict[str, Tensor]]:
        """`{network: columns}`, those of agents that share one below each other."""
        merged = {}
        for group in learning:
            first, *others = (self.columns[agent] for agent in group.agents)
            merged[group.name] = {
                name: torch.cat([value, *(other[name] for other in others)]) if others else value
                for name, value in first.items()
            }
        return merged


def as_batch(columns: Mapping[str, Mapping[str, Tensor]], env_steps: int) -> MultiAgentBatch:
    """What RLlib hands from runners to learners, from `{network: columns (B, T, ...)}`."""
    # numpy, so that Ray's object store hands the columns on without a copy
    batches = {
        network: SampleBatch({name: column.cpu().numpy() for name, column in store.items()})
        for network, store in columns.items()
    }
    return MultiAgentBatch(batches, env_steps=env_steps)
