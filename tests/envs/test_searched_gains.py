"""Gains searched without learning: an adaptive yardstick."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from concertrl.agents.policy import Policy
from concertrl.envs import BatchedEnv, Stage, prepare
from concertrl.envs.searched_gains import search_gains, starting_from_gains, with_gains
from concertrl.envs.yardsticks import play, weighted


def test_no_gains_are_the_towers_as_they_are(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=64, seed=1)
    plain = play(env, weighted(small_stage.ensemble.weights)).returns
    assert torch.equal(play(env, with_gains(torch.zeros(4))).returns, plain)


def test_each_row_may_have_its_own(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=64, seed=1)
    rows = torch.zeros(64, 4)
    rows[32:, 1] = 0.4
    mixed = play(env, with_gains(rows)).returns
    for gains, part in ((rows[0], slice(0, 32)), (rows[-1], slice(32, 64))):
        assert torch.equal(mixed[part], play(env, with_gains(gains)).returns[part])


def test_what_is_found_beats_the_static_weights_on_other_users(builtin_stage: Stage) -> None:
    found = search_gains(lambda sessions: BatchedEnv(builtin_stage, sessions=sessions, seed=3))
    assert float(found[0]) == 0.0 and float(found[1]) > 0  # more of what was clicked
    env = BatchedEnv(builtin_stage, sessions=512, seed=4, users="judge")
    static = float(play(env, weighted(builtin_stage.best_static)).returns.mean())
    assert float(play(env, with_gains(found)).returns.mean()) > 1.05 * static


def test_agents_may_start_from_there(small_stage: Stage) -> None:
    experiment = small_stage.experiment
    asked = experiment.model_copy(update={"train": experiment.train.model_copy(update={"start": "gains"})})
    told: list[str] = []
    stage = prepare(asked, told.append)
    assert len(stage.ensemble.start) == 4 and any(stage.ensemble.start) and small_stage.ensemble.start == ()
    again = prepare(asked, told.append)
    assert again.ensemble.start == stage.ensemble.start and len(told) <= 1
    env = BatchedEnv(stage, sessions=16, seed=1)
    policies = {name: Policy(stage.ensemble.policy_spec(name, asked.train)) for name in env.agents}
    with torch.no_grad():
        actions = {name: policy.mean(env.observe()[name]) for name, policy in policies.items()}
    assert not actions.pop("conductor").any()
    for action in actions.values():
        torch.testing.assert_close(action[:, :4], torch.tensor(stage.ensemble.start).expand(16, -1))
        assert not action[:, 4:].any()
    assert stage.ensemble.to("cpu").start == stage.ensemble.start


@pytest.mark.parametrize("content", ["", "[0, 1]", "[0, 0, 0, NaN]", '{"a": 1}', "3"])
def test_gains_that_cannot_be_read_are_searched_again(small_stage: Stage, tmp_path: Path, content: str) -> None:
    kept, told = tmp_path / "gains.json", []
    kept.write_text(content, "utf-8")
    stage = starting_from_gains(small_stage, kept, told.append)
    assert len(told) == 1 and tuple(json.loads(kept.read_text("utf-8"))) == stage.ensemble.start
