"""The validation sessions: what they measure, that they are the same for all, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from concertrl.cluster.sweep_validate import VALIDATE, as_base, validate
from concertrl.cluster.trainer import untrained_team
from concertrl.envs import BatchedEnv, Stage
from concertrl.envs.yardsticks import play
from concertrl.platform.draws import derive

StageUnder = Callable[..., Stage]


def test_scores_are_those_of_the_sessions_played_by_hand(small_stage: Stage) -> None:
    team = untrained_team(small_stage)
    scores, spread = validate(team, small_stage, small_stage, 24)
    env = BatchedEnv(small_stage, sessions=24, seed=derive(small_stage.experiment.train_seed, VALIDATE))
    slates, alive = [], torch.ones(24, dtype=torch.bool)
    outcome = play(env, lambda env, observations: env.step(team.act(observations)))
    assert scores["return"] == pytest.approx(outcome.returns.mean().item())
    assert scores["length"] == pytest.approx(outcome.lengths.float().mean().item())
    assert spread["return"] == pytest.approx(outcome.returns.std().item() / 24**0.5)
    observations = env.reset()
    for _ in range(small_stage.experiment.env.horizon):
        step = env.step(team.act(observations))
        slates += step.slate[alive].tolist()
        alive, observations = alive & ~step.done, step.observations
    vectors = torch.nn.functional.normalize(small_stage.world.item_vectors, dim=1)
    alike = [float(vectors[one] @ vectors[other]) for slate in slates for one, other in combinations(slate, 2)]
    assert scores["diversity"] == pytest.approx(1 - sum(alike) / len(alike), abs=1e-5)
    shown = {item for slate in slates for item in slate}
    assert scores["coverage"] == pytest.approx(len(shown) / small_stage.world.num_items)


def test_nobody_of_the_judges_comes(small_stage: Stage) -> None:
    without = replace(small_stage, world=replace(small_stage.world, judge_users=small_stage.world.judge_users[:0]))
    team = untrained_team(small_stage)
    assert validate(team, without, without, 24) == validate(team, small_stage, small_stage, 24)
    assert not set(small_stage.world.train_users.tolist()) & set(small_stage.world.judge_users.tolist())


def test_all_trials_are_held_by_the_bases_reward_and_seed(stage_under: StageUnder) -> None:
    base = stage_under()
    other = stage_under(reward={"click": 100.0}, train={"seed": 9})
    team = untrained_team(base)
    assert validate(team, other, base, 24) == validate(team, base, base, 24)
    held = as_base(other, base)
    assert held.experiment.reward == base.experiment.reward and held.experiment.train_seed == base.experiment.train_seed
    assert validate(team, base, stage_under(train={"seed": 9}), 24) != validate(team, base, base, 24)
