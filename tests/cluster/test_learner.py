"""The learner's advantages and targets, against a loop over every row and step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from concertrl.cluster.algorithms import configure_ppo
from concertrl.cluster.learner import BatchedPPOLearner
from concertrl.cluster.runner import BatchedEnvRunner
from concertrl.envs import Stage
from numpy.typing import NDArray
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

TRAIN = {"gamma": 0.9, "lambda_": 0.8, "reward_scale": 0.25}


@pytest.fixture
def played(runner_of: Callable[..., BatchedEnvRunner]) -> MultiAgentBatch:
    """A fragment that begins and ends in the middle of sessions, some of which end within it in either way."""
    runner = runner_of()
    runner.sample(num_timesteps=runner.num_envs * 3)
    [batch] = runner.sample(num_timesteps=runner.num_envs * 21)
    for columns in batch.policy_batches.values():
        for name in ("terminateds", "truncateds"):
            ended = columns[name]
            assert ended[:, :-1].any() and not ended[:, -1].all()
    return batch


@pytest.fixture
def learner(stage_under: Callable[..., Stage], runner_of: Callable[..., BatchedEnvRunner]) -> BatchedPPOLearner:
    learner = configure_ppo(stage_under(train=TRAIN)).build_learner(spaces=runner_of().get_spaces())
    learner.build()
    return learner


def values_of(learner: BatchedPPOLearner, agent: str, observations: NDArray[np.float32]) -> NDArray[np.float64]:
    with torch.no_grad():
        return learner.module[agent].unwrapped().value(torch.from_numpy(observations)).double().numpy()


def reference(learner: BatchedPPOLearner, agent: str, columns: SampleBatch) -> tuple[NDArray[np.float64], ...]:
    """Advantages and targets of one agent, one step of one session at a time (Schulman et al. 2016)."""
    rewards, left, cut = (columns[name] for name in ("rewards", "terminateds", "truncateds"))
    rows, steps = rewards.shape
    advantages, targets = np.zeros((rows, steps)), np.zeros((rows, steps))
    for row in range(rows):
        here = values_of(learner, agent, columns["critic_obs"][row])
        after = values_of(learner, agent, columns["critic_next_obs"][row])
        following = 0.0
        for t in reversed(range(steps)):
            worth = 0.0 if left[row, t] else after[t]
            error = TRAIN["reward_scale"] * rewards[row, t] + TRAIN["gamma"] * worth - here[t]
            goes_on = not (left[row, t] or cut[row, t])
            following = error + (TRAIN["gamma"] * TRAIN["lambda_"] * following if goes_on else 0.0)
            advantages[row, t] = following
            targets[row, t] = following + here[t]
    own = columns.get("credits", rewards)
    return advantages + TRAIN["reward_scale"] * (own - rewards), targets


def test_advantages_equal_a_loop_over_rows_and_steps(learner: BatchedPPOLearner, played: MultiAgentBatch) -> None:
    made = learner._make_batch_if_necessary(TrainingData(batch=played))
    assert made.env_steps() == played.env_steps()
    assert set(made.policy_batches) == set(played.policy_batches) == {"cf", "content", "sentiment", "conductor"}
    for agent, columns in played.policy_batches.items():
        advantages, targets = reference(learner, agent, columns)
        found = made.policy_batches[agent]
        np.testing.assert_allclose(found["value_targets"].numpy(), targets.ravel(), rtol=1e-4, atol=1e-4)
        standard = (advantages - advantages.mean()) / advantages.std(ddof=1)
        np.testing.assert_allclose(found["advantages"].numpy(), standard.ravel(), rtol=1e-3, atol=1e-3)


def test_over_a_session_the_rewards_are_the_credits(
    stage_under: Callable[..., Stage], runner_of: Callable[..., BatchedEnvRunner], played: MultiAgentBatch
) -> None:
    config = configure_ppo(stage_under(train=TRAIN, reward={"credit_over": "session"}))
    learner = config.build_learner(spaces=runner_of().get_spaces())
    learner.build()
    made = learner._make_batch_if_necessary(TrainingData(batch=played))
    for agent, columns in played.policy_batches.items():
        paid = SampleBatch({**columns, "rewards": columns["credits"]})
        advantages, targets = reference(learner, agent, paid)
        found = made.policy_batches[agent]
        np.testing.assert_allclose(found["value_targets"].numpy(), targets.ravel(), rtol=1e-4, atol=1e-4)
        standard = (advantages - advantages.mean()) / advantages.std(ddof=1)
        np.testing.assert_allclose(found["advantages"].numpy(), standard.ravel(), rtol=1e-3, atol=1e-3)


def test_the_other_columns_are_flattened_in_the_same_order(learner: BatchedPPOLearner, played: MultiAgentBatch) -> None:
    made = learner._make_batch_if_necessary(TrainingData(batch=played))
    for agent, columns in played.policy_batches.items():
        for name in ("obs", "actions", "action_logp", "action_dist_inputs"):
            wide = columns[name]
            flat = wide.reshape(-1, *wide.shape[2:])
            np.testing.assert_array_equal(made.policy_batches[agent][name].numpy(), flat)


def test_a_batch_of_equal_rewards_has_finite_advantages(learner: BatchedPPOLearner, played: MultiAgentBatch) -> None:
    """The spread that advantages are divided by may be zero."""
    for agent, columns in played.policy_batches.items():
        columns["rewards"][:] = 0.0
        columns["credits"][:] = 0.0
        for name, parameter in learner.module[agent].unwrapped().value.named_parameters():
            if name.startswith("head"):
                torch.nn.init.zeros_(parameter)
    made = learner._make_batch_if_necessary(TrainingData(batch=played))
    assert all((columns["advantages"] == 0).all() for columns in made.policy_batches.values())
