"""RLlib's PPO learner fed with whole tensors: values, advantages and targets of B sessions of T steps at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import Tensor

from ..platform.advantage import generalised_advantages
from ..platform.draws import derive
from .critics import CREDITS, SEEN, SEEN_NEXT

KEPT = (Columns.OBS, SEEN, Columns.ACTIONS, Columns.ACTION_LOGP, Columns.ACTION_DIST_INPUTS)
"""Columns that the loss reads as they were sampled."""

REWARD_SCALE = "reward_scale"
"""Key of the learner's settings: what rewards are multiplied by, so that returns are of order 1 for the critic."""

CREDIT_OVER = "credit_over"
"""Another: whether an agent's own part counts in the step it acts in or in all from there on (`reward.credit_over`)."""

SHUFFLE = 90_000
"""Parts the seeds of the orders of minibatches from all others of a run."""


class BatchedPPOLearner(PPOTorchLearner):
    """`PPOTorchLearner` on columns `(B, T, ...)`; the loss, the optimisers and the minibatches are RLlib's.

    An agent that is credited with its own part c_t of the team's reward r_t has, over a `step`, the advantage
    A_t = GAE(r)_t + (c_t - r_t): its own part of the slate it helped to make, and all that comes after for everybody.
    With the difference reward, c_t - r_t is minus what the team would have earned without the agent, which its action
    has no part in: the team's gradient with less noise (Foerster et al. 2018, counterfactual baselines). Over a
    `session` the rewards are c_t themselves (Wolpert and Tumer 2002).
    """

    config: Any

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        # RLlib shuffles by numpy's global generator, which would go on differently in a process that was started anew.
        step = int(timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))
        np.random.seed(derive(self.config.seed or 0, SHUFFLE, step) % 2**32)

    def kept(self) -> tuple[dict[str, Tensor], int]:
        """All that the next update depends on: weights and optimisers as tensors by name, and the updates so far."""
        kept: dict[str, Tensor] = {}
        modules: Any = self.module
        for network in modules.keys():  # noqa: SIM118 - RLlib's module of modules does not iterate over its keys
            weights = modules[network].unwrapped().state_dict()
            kept |= {f"weights/{network}/{name}": value for name, value in weights.items()}
        for optimiser, torchs in self._named_optimizers.items():
            for number, slots in torchs.state_dict()["state"].items():
                kept |= {f"optimiser/{optimiser}/{number}/{slot}": value for slot, value in slots.items()}
        return {name: value.detach().cpu().clone() for name, value in kept.items()}, self._weights_seq_no

    def take(self, kept: Mapping[str, Tensor], updates: int) -> None:
        """Goes on from what `kept` gave; learning rates and the like stay those of this learner's own settings.

        Raises:
            KeyError, RuntimeError: it is of other networks.
        """
        modules: Any = self.module
        for network in modules.keys():  # noqa: SIM118
            modules[network].unwrapped().load_state_dict(part(kept, f"weights/{network}/"))
        for optimiser, torchs in self._named_optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in part(kept, f"optimiser/{optimiser}/").items():
                number, _, slot = name.partition("/")
                state.setdefault(int(number), {})[slot] = value.clone()
            torchs.load_state_dict({"state": state, "param_groups": torchs.state_dict()["param_groups"]})
        self._weights_seq_no = updates

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


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, under the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
