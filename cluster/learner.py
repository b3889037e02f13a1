"""RLlib's PPO learner fed with whole tensors: values, advantages and targets of B sessions of T steps at once."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from torch import Tensor

from ..platform.advantage import generalised_advantages

KEPT = (Columns.OBS, Columns.ACTIONS, Columns.ACTION_LOGP, Columns.ACTION_DIST_INPUTS)
"""Columns that the loss reads as they were sampled."""

REWARD_SCALE = "reward_scale"
"""Key of the learner's settings: what rewards are multiplied by, so that returns are of order 1 for the critic."""


class BatchedPPOLearner(PPOTorchLearner):
    """`PPOTorchLearner` on columns `(B, T, ...)`; the loss, the optimisers and the minibatches are RLlib's."""

    @torch.no_grad()
    def _make_batch_if_necessary(self, training_data: Any) -> MultiAgentBatch:
        batch = self._convert_batch_type(training_data.batch)
        flat = {agent: self._with_advantages(agent, columns) for agent, columns in batch.policy_batches.items()}
        logp: Any = next(iter(flat.values()))[Columns.ACTION_LOGP]
        return MultiAgentBatch(flat, env_steps=len(logp))

    def _with_advantages(self, agent: str, columns: Any) -> SampleBatch:
        """An agent's columns, flattened to `(B * T, ...)`, with standardised advantages and value targets."""
        config: Any = self.config
        ends = columns[Columns.TERMINATEDS] | columns[Columns.TRUNCATEDS]
        values, following = self._values(agent, columns, ends)
        following = following.masked_fill(columns[Columns.TERMINATEDS], 0.0)
        advantages, targets = generalised_advantages(
            columns[Columns.REWARDS] * config.learner_config_dict[REWARD_SCALE],
            values,
            following,
            ends,
            config.gamma,
            config.lambda_,
        )
        advantages = (advantages - advantages.mean()) / advantages.std().clamp_min(1e-4)
        kept = {name: columns[name].flatten(0, 1) for name in KEPT}
        return SampleBatch(
            {**kept, Postprocessing.ADVANTAGES: advantages.flatten(), Postprocessing.VALUE_TARGETS: targets.flatten()}
        )

    def _values(self, agent: str, columns: Any, ends: Tensor) -> tuple[Tensor, Tensor]:
        """V(s) and V(s') `(B, T)`; V(s') is the next column's V(s), except where the session or the fragment ends."""
        modules: Any = self.module
        module = modules[agent].unwrapped()
        observations = columns[Columns.OBS]
        values = module.compute_values({Columns.OBS: observations.flatten(0, 1)}).view(observations.shape[:2])
        following = torch.empty_like(values)
        following[:, :-1] = values[:, 1:]
        apart = ends.clone()
        apart[:, -1] = True
        following[apart] = module.compute_values({Columns.OBS: columns[Columns.NEXT_OBS][apart]})
        return values, following
