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
from .critics import CREDITS, SEEN, SEEN_NEXT

KEPT = (Columns.OBS, SEEN, Columns.ACTIONS, Columns.ACTION_LOGP, Columns.ACTION_DIST_INPUTS)
"""Columns that the loss reads as they were sampled."""

REWARD_SCALE = "reward_scale"
"""Key of the learner's settings: what rewards are multiplied by, so that returns are of order 1 for the critic."""

CREDIT_OVER = "credit_over"
"""Another: whether an agent's own part counts in the step it acts in or in all from there on (`reward.credit_over`)."""


class BatchedPPOLearner(PPOTorchLearner):
    """`PPOTorchLearner` on columns `(B, T, ...)`; the loss, the optimisers and the minibatches are RLlib's.

    An agent that is credited with its own part c_t of the team's reward r_t has, over a `step`, the advantage
    A_t = GAE(r)_t + (c_t - r_t): its own part of the slate it helped to make, and all that comes after for everybody.
    With the difference reward, c_t - r_t is minus what the team would have earned without the agent, which its action
    has no part in: the team's gradient with less noise (Foerster et al. 2018, counterfactual baselines). Over a
    `session` the rewards are c_t themselves (Wolpert and Tumer 2002).
    """

    config: Any

    @torch.no_grad()
    def _make_batch_if_necessary(self, training_data: Any) -> MultiAgentBatch:
        batch = self._convert_batch_type(training_data.batch)
        flat = {agent: self._with_advantages(agent, columns) for agent, columns in batch.policy_batches.items()}
        logp: Any = next(iter(flat.values()))[Columns.ACTION_LOGP]
        return MultiAgentBatch(flat, env_steps=len(logp))

    def _with_advantages(self, agent: str, columns: Any) -> SampleBatch:
        """An agent's columns, flattened to `(B * T, ...)`, with standardised advantages and value targets."""
        settings = self.config.learner_config_dict
        ends = columns[Columns.TERMINATEDS] | columns[Columns.TRUNCATEDS]
        values, following = self._values(agent, columns, ends)
        following = following.masked_fill(columns[Columns.TERMINATEDS], 0.0)
        paid = columns[Columns.REWARDS] * settings[REWARD_SCALE]
        own = columns[CREDITS] * settings[REWARD_SCALE] if CREDITS in columns else paid
        rewards = own if settings[CREDIT_OVER] == "session" else paid
        advantages, targets = generalised_advantages(
            rewards, values, following, ends, self.config.gamma, self.config.lambda_
        )
        # Of the step it acts in an agent answers for its own part; rewards is that already over a session.
        advantages = advantages + (own - rewards)
        advantages = (advantages - advantages.mean()) / advantages.std().clamp_min(1e-4)
        kept = {name: columns[name].flatten(0, 1) for name in KEPT if name in columns}
        return SampleBatch(
            {**kept, Postprocessing.ADVANTAGES: advantages.flatten(), Postprocessing.VALUE_TARGETS: targets.flatten()}
        )

    def _values(self, agent: str, columns: Any, ends: Tensor) -> tuple[Tensor, Tensor]:
        """V(s) and V(s') `(B, T)`; V(s') is the next column's V(s), except where the session or the fragment ends."""
        modules: Any = self.module
        module = modules[agent].unwrapped()
        now, after = (SEEN, SEEN_NEXT) if SEEN in columns else (Columns.OBS, Columns.NEXT_OBS)
        observations = columns[now]
        values = module.compute_values({now: observations.flatten(0, 1)}).view(observations.shape[:2])
        following = torch.empty_like(values)
        following[:, :-1] = values[:, 1:]
        apart = ends.clone()
        apart[:, -1] = True
        following[apart] = module.compute_values({now: columns[after][apart]})
        return values, following
