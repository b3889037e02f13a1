"""What critics see, and which agents learn one network: what RLlib's modules, runners and learners agree on.

    own        the agent's observation
    joint      all agents' observations side by side (MAPPO, Yu et al. 2022): the actors still see their own alone
    informed   the agent's observation and the users' hidden state (asymmetric actor-critic, Pinto et al. 2018)

Agents that learn one network (`train.sharing`) are told apart by a one-hot number behind their observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..agents.ensemble import CONDUCTOR, Ensemble
from ..agents.policy import Policy, PolicySpec
from ..envs import BatchedEnv
from ..envs.batched import HIDDEN
from ..platform.settings import TrainSettings

SEEN, SEEN_NEXT = "critic_obs", "critic_next_obs"
"""Columns of what the critic sees, where that is not the agent's observation."""

CREDITS = "credits"
"""Column of the agents' own part of the reward, where they are not paid the team's."""


@dataclass(frozen=True)
class Group:
    """Agents that learn one network.

    Attributes:
        name: of the network.
        agents: one, or several whose spaces match.
    """

    name: str
    agents: tuple[str, ...]

    def marked(self, agent: str, observation: Tensor) -> Tensor:
        """The observation `(..., d)`, with the agent's number behind it where the network is shared."""
        if len(self.agents) == 1:
            return observation
        mark = torch.zeros(*observation.shape[:-1], len(self.agents), device=observation.device)
        mark[..., self.agents.index(agent)] = 1.0
        return torch.cat([observation, mark], dim=-1)


def groups(ensemble: Ensemble, train: TrainSettings) -> tuple[Group, ...]:
    """Who learns, and with whom: frozen agents are in no group."""
    learning = [agent for agent in ensemble.agents if agent not in train.frozen]
    if not train.sharing:
        return tuple(Group(agent, (agent,)) for agent in learning)
    by_space: dict[tuple[int, int, bool], list[str]] = {}
    for agent in learning:
        space = (ensemble.observation_dim(agent), ensemble.action_dim(agent), agent == CONDUCTOR)
        by_space.setdefault(space, []).append(agent)
    return tuple(Group("+".join(agents), tuple(agents)) for agents in by_space.values())


def spec_of(group: Group, ensemble: Ensemble, train: TrainSettings) -> PolicySpec:
    """The shape of a group's policy."""
    spec = ensemble.policy_spec(group.agents[0], train)
    marks = len(group.agents) if len(group.agents) > 1 else 0
    return replace(spec, observation_dim=spec.observation_dim + marks)


def critic_dim(group: Group, ensemble: Ensemble, train: TrainSettings) -> int:
    """Numbers that a group's critic sees."""
    own = spec_of(group, ensemble, train).observation_dim
    if train.critic == "joint":
        marks = own - ensemble.observation_dim(group.agents[0])
        return marks + sum(ensemble.observation_dim(agent) for agent in ensemble.agents)
    return own + HIDDEN if train.critic == "informed" else own


def seen_by_critics(
    env: BatchedEnv, observations: Mapping[str, Tensor], members: tuple[Group, ...], critic: str
) -> dict[str, Tensor]:
    """What each learning agent's critic sees `(B, critic_dim)`; empty where it is the agent's observation."""
    if critic == "own":
        return {}
    joint = torch.cat(list(observations.values()), dim=1) if critic == "joint" else None
    hidden = env.hidden() if critic == "informed" else None
    seen = {}
    for group in members:
        for agent in group.agents:
            if joint is not None:
                seen[agent] = group.marked(agent, joint)
            elif hidden is not None:
                seen[agent] = torch.cat([group.marked(agent, observations[agent]), hidden], dim=1)
    return seen


def unshared(policy: Policy, group: Group, agent: str, spec: PolicySpec) -> Policy:
    """One agent's own policy out of a group's, to the last bit what the shared one says: its number becomes a bias."""
    if len(group.agents) == 1:
        return policy
    alone = Policy(spec)
    weights = {name: value.clone() for name, value in policy.state_dict().items()}
    first, bias = "trunk.0.weight", "trunk.0.bias"
    mark = spec.observation_dim + group.agents.index(agent)
    weights[bias] = weights[bias] + weights[first][:, mark]
    weights[first] = weights[first][:, : spec.observation_dim]
    alone.load_state_dict(weights)
    return alone.eval()
