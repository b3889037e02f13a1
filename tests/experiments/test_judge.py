"""Policies are judged on the same sessions, by users and seeds that nothing was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from concertrl.cluster.trainer import untrained_team
from concertrl.envs import BatchedEnv, Stage, Step
from concertrl.envs.yardsticks import weighted, yardsticks
from concertrl.experiments.judge import ORDER, SEARCHED, Judge, Score, table, team_act, without
from concertrl.platform.statistics import Interval
from torch import Tensor


@pytest.fixture
def judged(small_stage: Stage) -> Stage:
    """The small stage, judged over 3 seeds of 64 sessions."""
    settings = small_stage.experiment.evaluate.model_copy(update={"seeds": 3, "sessions": 64})
    return replace(small_stage, experiment=small_stage.experiment.model_copy(update={"evaluate": settings}))


def score(mean: float) -> Score:
    return Score(Interval(mean, mean - 1.0, mean + 2.0), 3.0, mean)


def test_the_sessions_are_those_of_judge_users_and_equal_for_every_policy(judged: Stage) -> None:
    judge, fixed = Judge(judged), yardsticks(judged)
    seen: list[tuple[Tensor, int]] = []

    def watched(env: BatchedEnv, observations: Mapping[str, Tensor]) -> Step:
        if bool((env.state.step == 0).all()):
            seen.append((env.state.user.clone(), env.seed))
        return fixed["popular"](env, observations)

    first = judge.score(watched)
    judge.score(fixed["random"])
    assert judge.score(watched) == first and len(seen) == 6
    for (user, seed), (user_again, seed_again) in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(user, user_again) and seed == seed_again
        assert torch.isin(user, judged.world.judge_users).all() and not torch.isin(user, judged.world.train_users).any()
    assert len({seed for _, seed in seen}) == 3


def test_a_score_is_the_mean_of_the_sessions_and_seeds_make_its_interval(judged: Stage) -> None:
    played: list[list[Step]] = []
    greedy = yardsticks(judged)["greedy_oracle"]

    def watched(env: BatchedEnv, observations: Mapping[str, Tensor]) -> Step:
        if bool((env.state.step == 0).all()):
            played.append([])
        played[-1].append(greedy(env, observations))
        return played[-1][-1]

    found = Judge(judged).score(watched)
    means, lengths = [], []
    for steps in played:
        done = np.stack([step.done.numpy() for step in steps])
        reward = np.stack([step.reward.numpy() for step in steps])
        ends = done.argmax(0)  # of the first time, since a session that ended is stepped on with the rest
        means.append(np.mean([reward[: end + 1, row].sum() for row, end in enumerate(ends)]))
        lengths += [*(ends + 1)]
    assert found.returns.mean == pytest.approx(np.mean(means), rel=1e-5)
    reach = 4.3027 * np.std(means, ddof=1) / 3**0.5  # Student's t for 3 seeds
    assert found.returns.high - found.returns.mean == pytest.approx(reach, rel=1e-3)
    assert found.length == pytest.approx(np.mean(lengths)) and found.clicks == pytest.approx(found.returns.mean)


def test_a_look_is_at_sessions_that_are_not_judged(judged: Stage) -> None:
    judge, alone, seeds = Judge(judged), yardsticks(judged)["cf"], set()

    def watched(env: BatchedEnv, observations: Mapping[str, Tensor]) -> Step:
        seeds.add(env.seed)
        return alone(env, observations)

    mean, low, high = judge.glance(watched)
    assert judge.glance(alone) == (mean, low, high) and low < mean < high and len(seeds) == 1
    judge.score(watched)
    assert len(seeds) == 1 + judged.experiment.evaluate.seeds


def test_an_untrained_team_scores_as_its_static_weights(judged: Stage) -> None:
    judge = Judge(judged)
    static = judge.score(weighted(judged.ensemble.weights))
    assert judge.score(team_act(untrained_team(judged))) == static


def test_weights_through_a_session_start_at_the_static_ones(judged: Stage) -> None:
    mean, low, high = Judge(judged).weights_through_session(team_act(untrained_team(judged)))
    assert mean.shape == low.shape == high.shape == (judged.experiment.env.horizon, 3)
    np.testing.assert_allclose(mean, np.tile(judged.ensemble.weights, (len(mean), 1)), rtol=1e-5)
    assert (low <= mean + 1e-6).all() and (mean <= high + 1e-6).all()


@pytest.mark.parametrize("agent", range(3))
def test_a_silenced_agent_leaves_its_weight_to_the_others(judged: Stage, agent: int) -> None:
    act = without(untrained_team(judged), agent)
    env = BatchedEnv(judged, sessions=4, seed=1)
    weights = act(env, env.observe()).weights
    assert (weights[:, agent] == 0).all()
    rest = judged.ensemble.weights.clone()
    rest[agent] = 0.0
    torch.testing.assert_close(weights, (rest / rest.sum()).expand(4, -1))


def test_the_table_is_in_order_and_normalised() -> None:
    names = ["team", "horizon_oracle", "cf", "random", "best_static", "content", "popular"]
    means = {"random": 2.0, "horizon_oracle": 12.0, "team": 7.0}
    rows = table({name: score(means.get(name, 4.0)) for name in names})
    assert [row["policy"] for row in rows] == [
        *("random", "popular", "cf", "content", "best_static", "team", "horizon_oracle")
    ]
    by_name = {row["policy"]: row for row in rows}
    assert by_name["team"] == {"policy": "team", "return": 7.0, "low": 6.0, "high": 9.0, "normalised": 0.5}
    assert (by_name["random"]["normalised"], by_name["horizon_oracle"]["normalised"]) == (0.0, 1.0)


def test_every_yardstick_has_its_place_in_the_table(judged: Stage) -> None:
    named = {*yardsticks(judged), SEARCHED, "team"}
    assert named == {*ORDER, "cf", "content", "sentiment"} - {"*"}
