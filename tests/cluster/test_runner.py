"""An env runner's columns tell the sessions as they were played, as a function of seed, runner, time and weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from concertrl.agents.ensemble import CONDUCTOR
from concertrl.cluster.runner import SESSION_SUMS, BatchedEnvRunner
from concertrl.envs import BatchedEnv
from concertrl.envs.batched import HIDDEN
from concertrl.envs.faults import drawn
from torch.distributions import Normal

STEPS = 20
"""More than two horizons, so that sessions end in the middle of a fragment."""


def columns_of(runner: BatchedEnvRunner, steps: int = STEPS, **options: Any) -> dict[str, Any]:
    [batch] = runner.sample(num_timesteps=runner.num_envs * steps, **options)
    assert batch.env_steps() == runner.num_envs * steps
    return batch.policy_batches


def env_of(runner: BatchedEnvRunner) -> BatchedEnv:
    assert runner.env is not None
    return runner.env


def progress_at(runner: BatchedEnvRunner, agent: str) -> int:
    """Where step / horizon stands in an agent's observation."""
    return env_of(runner).ensemble.observation_dim(agent) - 5


def test_a_row_goes_on_where_it_stood_or_starts_anew(runner_of: Callable[..., BatchedEnvRunner]) -> None:
    runner = runner_of()
    first, second = columns_of(runner), columns_of(runner)
    for agent in env_of(runner).agents:
        here = np.concatenate([first[agent]["obs"], second[agent]["obs"]], 1)[:, 1:]
        before = np.concatenate([first[agent]["new_obs"], second[agent]["new_obs"]], 1)[:, :-1]
        ends = [part[agent]["terminateds"] | part[agent]["truncateds"] for part in (first, second)]
        ended = np.concatenate(ends, 1)[:, :-1]
        assert ended.sum() > 20 and (~ended).sum() > 100
        np.testing.assert_array_equal(here[~ended], before[~ended])
        place = progress_at(runner, agent)
        assert (here[ended][:, place] == 0).all() and (before[:, :, place] > 0).all()
        # A session that begins has clicked and shown nothing yet: the entries before the progress, but for the query.
        blank = here[ended][:, place // 3 if agent != CONDUCTOR else 0 : place]
        assert (blank == 0).all() and not (before[:, :, place // 3 : place] == 0).all()


def test_users_leave_or_reach_the_horizon_and_never_both(runner_of: Callable[..., BatchedEnvRunner]) -> None:
    runner = runner_of(env={"sessions": 128})  # enough that some of them reach the horizon
    columns = columns_of(runner)
    left, truncated = columns["cf"]["terminateds"], columns["cf"]["truncateds"]
    assert left.any() and truncated.any() and not (left & truncated).any()
    last = columns["cf"]["new_obs"][:, :, progress_at(runner, "cf")] == 1.0
    np.testing.assert_array_equal(truncated, last & ~left)
    for agent in env_of(runner).agents:
        for name in ("terminateds", "truncateds", "rewards"):
            np.testing.assert_array_equal(columns[agent][name], columns["cf"][name])


def test_actions_are_drawn_from_the_policy_with_their_density(runner_of: Callable[..., BatchedEnvRunner]) -> None:
    runner = runner_of()
    columns = columns_of(runner)
    for agent in env_of(runner).agents:
        part = {name: torch.from_numpy(column) for name, column in columns[agent].items()}
        with torch.no_grad():
            inputs = runner.module[agent].policy(part["obs"].flatten(0, 1)).view(*part["obs"].shape[:2], -1)
        torch.testing.assert_close(part["action_dist_inputs"], inputs, rtol=1e-4, atol=1e-5)
        mean, log_std = part["action_dist_inputs"].chunk(2, dim=-1)
        density = Normal(mean, log_std.exp()).log_prob(part["actions"]).sum(-1)
        torch.testing.assert_close(part["action_logp"], density, rtol=1e-4, atol=1e-3)
        drawn = (part["actions"] - mean) / log_std.exp()
        spread = drawn.numel() ** -0.5
        assert abs(drawn.mean()) < 5 * spread and abs(drawn.std() - 1) < 5 * spread


def test_rewards_are_those_of_the_environment(runner_of: Callable[..., BatchedEnvRunner]) -> None:
    """The sampled actions, played again, earn the sampled rewards."""
    runner = runner_of(reward={"expected": False, "credit": "team"}, train={"faults": 0.0})
    twin = BatchedEnv(env_of(runner).stage, sessions=runner.num_envs, seed=env_of(runner).seed)
    columns = columns_of(runner)
    for t in range(STEPS):
        step = twin.step({agent: torch.from_numpy(columns[agent]["actions"][:, t]) for agent in twin.agents})
        np.testing.assert_array_equal(step.reward.numpy(), columns["cf"]["rewards"][:, t])
        np.testing.assert_array_equal(step.terminated.numpy(), columns["cf"]["terminateds"][:, t])
        twin.renew(step.done)


@pytest.mark.parametrize("kind", ["team", "difference", "shapley"])
def test_expected_rewards_and_credits_are_those_of_the_environment(
    runner_of: Callable[..., BatchedEnvRunner], kind: str
) -> None:
    runner = runner_of(reward={"credit": kind}, train={"faults": 0.5})
    env = env_of(runner)
    fate = drawn(0.5, 3, env.horizon)
    twin = BatchedEnv(env.stage, sessions=runner.num_envs, seed=env.seed, credited=True, fate=fate)
    columns = columns_of(runner)
    for t in range(STEPS):
        hidden = twin.hidden()
        step = twin.step({agent: torch.from_numpy(columns[agent]["actions"][:, t]) for agent in twin.agents})
        assert step.expected is not None and step.credits is not None
        for place, agent in enumerate(twin.agents):
            part = columns[agent]
            np.testing.assert_array_equal(part["rewards"][:, t], step.expected.numpy())
            np.testing.assert_array_equal(part["critic_obs"][:, t, -HIDDEN:], hidden.numpy())
            if kind == "team":
                assert "credits" not in part
            else:
                np.testing.assert_array_equal(part["credits"][:, t], step.credits[:, place].numpy())
        twin.renew(step.done)


def test_a_joint_critic_sees_what_all_agents_see(runner_of: Callable[..., BatchedEnvRunner]) -> None:
    columns = columns_of(runner_of(train={"critic": "joint"}))
    everything = np.concatenate([part["obs"] for part in columns.values()], axis=2)
    after = np.concatenate([part["new_obs"] for part in columns.values()], axis=2)
    for part in columns.values():
        np.testing.assert_array_equal(part["critic_obs"], everything)
        np.testing.assert_array_equal(part["critic_next_obs"], after)


def test_who_is_frozen_learns_nothing_and_plays_its_tower(runner_of: Callable[..., BatchedEnvRunner]) -> None:
    columns = columns_of(runner_of(train={"frozen": ["cf", "conductor"]}))
    assert set(columns) == {"content", "sentiment"}


def test_a_sample_is_a_function_of_seed_runner_and_time(runner_of: Callable[..., BatchedEnvRunner]) -> None:
    def sampled(*others: dict[str, Any]) -> list[np.ndarray]:
        torch.manual_seed(len(others))  # the global generator has no part in it
        return [columns_of(runner_of(**other), 6)["conductor"]["actions"] for other in others]

    same, again, seed, worker = sampled({}, {}, {"seed": 5}, {"worker_index": 2, "cluster": {"num_env_runners": 2}})
    np.testing.assert_array_equal(same, again)
    assert not np.array_equal(same, seed) and not np.array_equal(same, worker)
    runner = runner_of()
    first, later = (columns_of(runner, 6)["conductor"]["actions"] for _ in range(2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, later)


def test_without_exploration_the_mean_is_played(runner_of: Callable[..., BatchedEnvRunner]) -> None:
    part = columns_of(runner_of(), 4, explore=False)["content"]
    np.testing.assert_array_equal(part["actions"], part["action_dist_inputs"][..., : part["actions"].shape[-1]])


def test_random_actions_fill_the_action_space(runner_of: Callable[..., BatchedEnvRunner]) -> None:
    runner = runner_of()
    for agent, part in columns_of(runner, random_actions=True).items():
        limit = env_of(runner).ensemble.action_limit(agent)
        assert -limit <= part["actions"].min() < -0.9 * limit
        assert 0.9 * limit < part["actions"].max() <= limit


def test_metrics_count_every_session_that_ended_alike(runner_of: Callable[..., BatchedEnvRunner]) -> None:
    runner = runner_of(reward={"expected": False, "credit": "team"})
    rewards, ends = [], []
    for _ in range(2):
        part = columns_of(runner)["cf"]
        rewards.append(part["rewards"])
        ends.append(part["terminateds"] | part["truncateds"])
    told = runner.get_metrics()
    reward, ended = np.concatenate(rewards, 1), np.concatenate(ends, 1)
    returns, lengths = [], []
    for row in range(len(reward)):
        closes = np.flatnonzero(ended[row])
        for start, close in zip([0, *(closes + 1)], closes, strict=False):
            returns.append(reward[row, start : close + 1].sum())
            lengths.append(close + 1 - start)
    assert told["num_episodes"].peek() == len(returns)
    sums = [told[name].peek() for name in SESSION_SUMS]
    assert sums == pytest.approx([sum(returns), sum(lengths), sum(returns)])  # the default reward is the clicks
    assert told["num_env_steps_sampled"].peek() == 2 * STEPS * runner.num_envs
    steps = 2 * STEPS * runner.num_envs
    weights = [told["fusion_weight"][agent].peek() / steps for agent in env_of(runner).recommenders]
    assert sum(weights) == pytest.approx(1.0) and min(weights) > 0


def test_whole_sessions_on_request(runner_of: Callable[..., BatchedEnvRunner]) -> None:
    runner = runner_of()
    columns_of(runner, 3)
    [batch] = runner.sample(num_episodes=runner.num_envs)
    part = batch.policy_batches["cf"]
    assert part["rewards"].shape == (runner.num_envs, env_of(runner).horizon)
    assert (part["obs"][:, 0, progress_at(runner, "cf")] == 0).all()
    assert (part["terminateds"] | part["truncateds"]).any(1).all()


def test_other_weights_are_taken_even_older_ones(runner_of: Callable[..., BatchedEnvRunner]) -> None:
    def bias(runner: BatchedEnvRunner) -> float:
        return float(runner.module["cf"].policy.head.bias.detach().sum())

    source, runner = runner_of(), runner_of()

    def weights(number: int, value: float) -> dict[str, Any]:
        torch.nn.init.constant_(source.module["cf"].policy.head.bias, value)
        return {"rl_module": source.module.get_state(), "weights_seq_no": number}

    size = runner.module["cf"].policy.head.bias.numel()
    runner.set_state(weights(5, 1.0))
    assert bias(runner) == size
    runner.set_state(weights(5, 2.0))  # those it has
    assert bias(runner) == size
    runner.set_state(weights(3, 3.0))  # of a restored checkpoint
    assert bias(runner) == 3 * size
    assert runner.get_state()["weights_seq_no"] == 3


def test_a_runner_holds_the_policies_and_no_critic(runner_of: Callable[..., BatchedEnvRunner]) -> None:
    runner = runner_of()
    for agent in env_of(runner).agents:
        assert not [name for name in runner.module[agent].state_dict() if name.startswith("value")]
    runner.assert_healthy()
    runner.stop()
    assert runner.env is None


def test_the_driver_has_no_sessions_of_its_own_beside_remote_runners(
    runner_of: Callable[..., BatchedEnvRunner],
) -> None:
    local = runner_of(cluster={"num_env_runners": 2})
    assert local.env is None and set(local.get_spaces()) >= {"cf", "content", "sentiment", "conductor"}
    assert local.get_spaces()["cf"] == runner_of().get_spaces()["cf"]
