from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import pytest
import torch
from concertrl.envs import BatchedEnv, ConcertEnv, Stage, parallel_env
from concertrl.platform.draws import uniform
from concertrl.platform.errors import InputError
from numpy.typing import NDArray
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test
from pettingzoo.utils import parallel_to_aec

SESSIONS = 64
Array = NDArray[np.float32]


def test_pettingzoo_finds_nothing_wrong_with_the_parallel_env(stage: Stage) -> None:
    parallel_api_test(ConcertEnv(stage), num_cycles=60)


def test_pettingzoo_finds_nothing_wrong_with_its_seeds(stage: Stage) -> None:
    parallel_seed_test(lambda: ConcertEnv(stage), num_cycles=20)


ADVICE = (
    "We recommend agents to be named",
    "Agents have different observation space sizes",
    "Agents have different action space sizes",
    "Observations are different shapes",
)
"""What its test says of any env whose agents differ and are named for what they are."""


def test_pettingzoo_finds_nothing_wrong_with_the_turn_taking_env(stage: Stage) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        api_test(parallel_to_aec(cast(Any, ConcertEnv(stage))), num_cycles=60)
    assert {str(each.message) for each in told if not str(each.message).startswith(ADVICE)} == set()


def actions_of(env: BatchedEnv, step: int) -> dict[str, torch.Tensor]:
    """Strong actions for every agent, a function of the session's number and step."""
    drawn = {}
    for place, agent in enumerate(env.agents):
        rows = uniform(7, torch.arange(SESSIONS), torch.full((SESSIONS,), step), place, env.ensemble.action_dim(agent))
        drawn[agent] = (2 * rows - 1) * env.ensemble.action_limit(agent)
    return drawn


def test_row_b_of_a_batch_is_session_b_number_by_number(stage: Stage) -> None:
    batch = BatchedEnv(stage, sessions=SESSIONS, seed=21)
    singles = [ConcertEnv(stage, seed=21) for _ in range(SESSIONS)]
    seen = batch.observe()
    for row, env in enumerate(singles):
        compare(env.reset(seed=21, options={"session": row})[0], seen, row)
    for number in range(batch.horizon):
        actions = actions_of(batch, number)
        step = batch.step(actions)
        for row, env in enumerate(singles):
            if not env.agents:
                continue
            mine = {agent: rows[row].numpy() for agent, rows in actions.items()}
            observations, rewards, terminated, truncated, infos = env.step(mine)
            compare(observations, step.observations, row)
            assert set(rewards.values()) == {float(step.reward[row])}
            assert set(terminated.values()) == {bool(step.terminated[row])}
            assert set(truncated.values()) == {bool(step.truncated[row])}
            info = infos["cf"]
            assert info["slate"] == [stage.world.item_ids[item] for item in step.slate[row].tolist()]
            assert info["clicks"] == step.response.click[row].tolist()
    assert not any(env.agents for env in singles)


def compare(mine: dict[str, Array], rows: dict[str, torch.Tensor], row: int) -> None:
    assert mine.keys() == rows.keys()
    for agent, observation in mine.items():
        np.testing.assert_allclose(observation, rows[agent][row].numpy(), rtol=0, atol=1e-6)


def idle(env: ConcertEnv) -> dict[str, Array]:
    return {agent: np.zeros(env.action_space(agent).shape, np.float32) for agent in env.agents}


def whole_session(env: ConcertEnv) -> list[list[str]]:
    slates = []
    while env.agents:
        slates.append(env.step(idle(env))[4]["cf"]["slate"])
    return slates


def test_a_seed_gives_one_session_and_resets_without_one_give_others(small_stage: Stage) -> None:
    env = ConcertEnv(small_stage, seed=3)
    env.reset()
    first = whole_session(env)
    env.reset()
    second = whole_session(env)
    env.reset()
    third = whole_session(env)
    assert first != second and second != third and first != third
    env.reset(seed=3)
    assert whole_session(env) == first
    env.reset()
    assert whole_session(env) == second
    env.reset(seed=4)
    assert whole_session(env) != first


def test_spaces_fit_what_is_seen_and_done(small_stage: Stage) -> None:
    env = ConcertEnv(small_stage)
    observations, _ = env.reset(seed=0)
    assert env.possible_agents == ["cf", "content", "sentiment", "conductor"] and env.agents == env.possible_agents
    for agent in env.possible_agents:
        assert env.observation_space(agent).contains(observations[agent])
        assert env.observation_space(agent) is env.observation_space(agent)
        limit = 5.0 if agent == "conductor" else 3.0
        assert env.action_space(agent).high.tolist() == [limit] * env.action_space(agent).shape[0]
    dims = small_stage.ensemble.dims
    assert env.action_space("cf").shape == (4 + dims["cf"],)
    assert env.observation_space("cf").shape == (5 + 3 * dims["cf"],)
    assert env.action_space("conductor").shape == (7,) and env.observation_space("conductor").shape == (23,)


def test_all_agents_end_together_with_one_reward(small_stage: Stage) -> None:
    for session in range(20):
        env = ConcertEnv(small_stage)
        env.reset(seed=1, options={"session": session})
        ended = False
        while env.agents:
            agents = env.agents
            _, rewards, terminated, truncated, infos = env.step(idle(env))
            for part in (rewards, terminated, truncated):
                assert list(part) == agents and len(set(part.values())) == 1
            assert not (terminated["cf"] and truncated["cf"])
            assert rewards["cf"] == sum(infos["cf"]["clicks"])
            ended = terminated["cf"] or truncated["cf"]
        assert ended


def test_the_public_function_gives_the_same_env(small_stage: Stage) -> None:
    env = parallel_env(small_stage.experiment, seed=6, users="judge")
    expected = ConcertEnv(small_stage, seed=6, users="judge")
    env.reset()
    expected.reset()
    assert whole_session(env) == whole_session(expected)
    with pytest.raises(InputError, match='render_mode="human": known is "ansi"'):
        parallel_env(small_stage.experiment, render_mode="human")
