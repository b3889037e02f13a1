"""The team's PPO without RLlib and Ray: what the batched environment and the networks cost by themselves.

    BatchedEnv, policies  ->  columns (B, T, ...)  ->  advantages  ->  epochs of minibatches  ->  policies, critics

The same environment, networks, hyper-parameters and losses as `cluster/`; no metrics, no workers, no checkpoints.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..agents.policy import Policy, Value
from ..envs import BatchedEnv, Stage
from ..platform.advantage import generalised_advantages

VALUE_WEIGHT = 0.5
"""Of the critic's loss beside the policy's."""

Columns = dict[str, Tensor]


class PlainTorch:
    """One PPO learner per agent over B sessions of the horizon's T steps, all in this thread."""

    def __init__(self, stage: Stage) -> None:
        self.settings = stage.experiment.train
        self.env = BatchedEnv(stage, sessions=stage.experiment.env.sessions, seed=stage.experiment.seed)
        specs = {agent: stage.ensemble.policy_spec(agent, self.settings) for agent in self.env.agents}
        self.policies = {agent: Policy(spec) for agent, spec in specs.items()}
        self.critics = {agent: Value(spec) for agent, spec in specs.items()}
        self._optimisers = {
            agent: torch.optim.Adam(self._parameters(agent), lr=self.settings.learning_rate) for agent in specs
        }
        self._noise = torch.Generator().manual_seed(stage.experiment.seed)
        self._observations = self.env.observe()
        self._columns: dict[str, Columns] = {}

    def sample(self) -> int:
        """Steps every session T times; the environment steps it took."""
        self._columns = self._collect()
        return self.env.sessions * self.env.horizon

    def train(self) -> int:
        """Samples, then updates every agent's policy and critic; the environment steps it took."""
        steps = self.sample()
        batches = {agent: self._with_advantages(agent, columns) for agent, columns in self._columns.items()}
        for _ in range(self.settings.epochs):
            order = torch.randperm(steps, generator=self._noise)
            for rows in order.split(self.settings.minibatch):
                for agent, batch in batches.items():
                    self._descend(agent, {name: column[rows] for name, column in batch.items()})
        return steps

    def stop(self) -> None:
        """Nothing to end."""

    def _parameters(self, agent: str) -> list[Tensor]:
        return [*self.policies[agent].parameters(), *self.critics[agent].parameters()]

    @torch.no_grad()
    def _collect(self) -> dict[str, Columns]:
        steps: list[dict[str, Columns]] = []
        for _ in range(self.env.horizon):
            drawn = {agent: self._explore(agent, seen) for agent, seen in self._observations.items()}
            step = self.env.step({agent: row["action"] for agent, row in drawn.items()})
            shared = {"reward": step.reward, "terminated": step.terminated, "ended": step.done}
            steps.append({agent: {**row, **shared, "next": step.observations[agent]} for agent, row in drawn.items()})
            self._observations = self.env.renew(step.done) if bool(step.done.any()) else step.observations
        return {
            agent: {name: torch.stack([step[agent][name] for step in steps], dim=1) for name in steps[0][agent]}
            for agent in self.env.agents
        }

    def _explore(self, agent: str, observation: Tensor) -> Columns:
        mean, log_std = self.policies[agent](observation).chunk(2, dim=1)
        action = mean + log_std.exp() * torch.randn(mean.shape, generator=self._noise)
        return {"observation": observation, "action": action, "logp": _log_density(action, mean, log_std)}

    @torch.no_grad()
    def _with_advantages(self, agent: str, columns: Columns) -> Columns:
        """The columns that the loss reads, flattened to `(B * T, ...)`."""
        critic, seen, ended = self.critics[agent], columns["observation"], columns["ended"]
        values = critic(seen.flatten(0, 1)).view(seen.shape[:2])
        apart = ended.clone()
        apart[:, -1] = True
        following = torch.empty_like(values)
        following[:, :-1] = values[:, 1:]
        following[apart] = critic(columns["next"][apart])
        following = following.masked_fill(columns["terminated"], 0.0)
        rewards = columns["reward"] * self.settings.reward_scale
        gamma, lambda_ = self.settings.gamma, self.settings.lambda_
        advantages, targets = generalised_advantages(rewards, values, following, ended, gamma, lambda_)
        advantages = (advantages - advantages.mean()) / advantages.std().clamp_min(1e-4)
        kept = {name: columns[name].flatten(0, 1) for name in ("observation", "action", "logp")}
        return {**kept, "advantage": advantages.flatten(), "target": targets.flatten()}

    def _descend(self, agent: str, batch: Columns) -> None:
        """One gradient step on the clipped surrogate (Schulman et al. 2017, eq. 7) and the critic's squared error."""
        clip = self.settings.clip
        mean, log_std = self.policies[agent](batch["observation"]).chunk(2, dim=1)
        ratio = (_log_density(batch["action"], mean, log_std) - batch["logp"]).exp()
        gain = torch.min(batch["advantage"] * ratio, batch["advantage"] * ratio.clamp(1 - clip, 1 + clip))
        error = (self.critics[agent](batch["observation"]) - batch["target"]).square()
        entropy = (log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(1)
        loss = VALUE_WEIGHT * error.clamp_max(self.settings.value_clip) - gain - self.settings.entropy * entropy
        self._optimisers[agent].zero_grad()
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(self._parameters(agent), self.settings.gradient_clip)
        self._optimisers[agent].step()


def _log_density(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """`(B,)`: log of the Gaussian density of `action` `(B, d)`."""
    scaled = (action - mean) / log_std.exp()
    return -(0.5 * (scaled.square() + math.log(2.0 * math.pi)) + log_std).sum(1)
