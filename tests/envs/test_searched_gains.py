"""Gains searched without learning: an adaptive yardstick."""

from __future__ import annotations

import torch
from concertrl.envs import BatchedEnv, Stage
from concertrl.envs.searched_gains import search_gains, with_gains
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
