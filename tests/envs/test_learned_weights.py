"""Weights learned without reinforcement find the agent that knows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from concertrl.envs import BatchedEnv, Stage
from concertrl.envs.learned_weights import (
    SEGMENTS,
    Bandit,
    Seen,
    global_weights,
    learned_policies,
    rehearse,
    segment_weights,
    segments_of,
)
from concertrl.envs.yardsticks import play


def seen_of(*knows: int, clicks: int = 4000, seed: int = 0) -> Seen:
    """Users 0, 1, ... whose clicks follow the scores of agent `knows[user]` alone."""
    noise = np.random.default_rng(seed)
    scores = noise.random((clicks, 3)).astype(np.float32) * 3
    user = noise.integers(0, len(knows), clicks)
    chance = 1 / (1 + np.exp(-(2 * scores[np.arange(clicks), np.array(knows)[user]] - 3)))
    return Seen(scores, (noise.random(clicks) < chance).astype(np.float32), user)


@pytest.mark.parametrize("knows", [0, 1, 2])
def test_the_agent_that_knows_has_the_weight(knows: int) -> None:
    weights = global_weights(seen_of(knows))
    assert float(weights.sum()) == pytest.approx(1.0) and bool((weights > 0).all())
    assert float(weights[knows]) > 0.85


def test_each_segment_has_its_own_where_there_are_clicks_enough() -> None:
    segment = torch.tensor([0, 1, 2, 3])
    found = segment_weights(seen_of(0, 1, 2, 2, clicks=60_000), segment)
    assert found.shape == (SEGMENTS, 3)
    assert found.argmax(1).tolist() == [0, 1, 2, 2]
    few = segment_weights(seen_of(0, 1, 2, 2, clicks=400), segment)
    assert float((few - few.mean(0)).abs().max()) < float((found - found.mean(0)).abs().max())


def test_a_rehearsal_scores_what_was_on_the_ballots(small_stage: Stage) -> None:
    seen = rehearse(BatchedEnv(small_stage, sessions=32, seed=3), steps=2)
    assert seen.scores.shape == (32 * 2 * small_stage.experiment.env.slate, 3)
    assert (seen.scores >= 0).all() and (seen.scores.max(1) > 0).mean() > 0.9
    assert set(np.unique(seen.click)) <= {0.0, 1.0}
    assert int(segments_of(BatchedEnv(small_stage, sessions=2, seed=3), 0).max()) < SEGMENTS


def test_a_bandit_plays_the_arm_that_pays(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=64, seed=3)
    bandit = Bandit(env)
    context = torch.ones(300, bandit._moment.shape[1], dtype=torch.float64)
    arms = torch.arange(300) % len(bandit.arms)
    bandit._update(context, arms, (arms == 4).double() * 3.0)
    chosen = (context[:1].float() @ bandit._mean.t()).argmax(1)
    assert chosen.tolist() == [4]


def test_all_of_them_play_and_the_same_way_again(small_stage: Stage) -> None:
    def policies() -> dict[str, float]:
        rehearsal, training = (BatchedEnv(small_stage, sessions=64, seed=seed) for seed in (1, 2))
        acts = learned_policies(rehearsal, training, rounds=20, seed=0)
        env = BatchedEnv(small_stage, sessions=64, seed=5, users="judge")
        return {name: float(play(env, act).returns.mean()) for name, act in acts.items()}

    first = policies()
    assert list(first) == ["learned_weights", "segment_weights", "bandit"]
    assert min(first.values()) > 0 and first == policies()
