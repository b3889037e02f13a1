from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from concertrl.agents.tower import PAD
from concertrl.envs import BatchedEnv, Stage, batched_env
from concertrl.envs.batched import reward
from concertrl.envs.session import Response
from concertrl.platform.draws import uniform
from concertrl.platform.errors import InputError
from concertrl.platform.settings import RewardSettings
from torch import Tensor

SESSIONS = 64
Actions = dict[str, Tensor]


def random_actions(env: BatchedEnv, numbers: Tensor, step: int, seed: int = 5) -> Actions:
    """Strong actions for every agent, a function of the session's number and step."""
    steps = torch.full_like(numbers, step)
    limits = {agent: env.ensemble.action_limit(agent) for agent in env.agents}
    sizes = {agent: env.ensemble.action_dim(agent) for agent in env.agents}
    drawn = {agent: uniform(seed, numbers, steps, place, sizes[agent]) for place, agent in enumerate(env.agents)}
    return {agent: (2 * drawn[agent] - 1) * limits[agent] for agent in env.agents}


def zeros(env: BatchedEnv) -> Actions:
    return {agent: torch.zeros(env.sessions, env.ensemble.action_dim(agent)) for agent in env.agents}


def equal(first: Actions, second: Actions) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_untrained_team_plays_the_static_hybrid_exactly(stage: Stage) -> None:
    env, hybrid = (BatchedEnv(stage, sessions=SESSIONS, seed=3) for _ in range(2))
    assert equal(env.observe(), hybrid.observe())
    for _ in range(env.horizon):
        mine, static = env.step(zeros(env)), hybrid.step({})
        assert torch.equal(mine.slate, static.slate) and torch.equal(mine.weights, static.weights)
        assert torch.equal(mine.response.click, static.response.click) and torch.equal(mine.reward, static.reward)
        assert equal(mine.observations, static.observations)
    torch.testing.assert_close(hybrid.ensemble.weigh(hybrid.traces, {})[0], stage.ensemble.weights)


@pytest.mark.parametrize("method", ["reciprocal_rank", "borda", "plurality"])
def test_it_does_so_under_every_rule(stage_with: Callable[..., Stage], method: str) -> None:
    env, hybrid = (BatchedEnv(stage_with(method=method, conductor=False), sessions=8, seed=3) for _ in range(2))
    assert "conductor" not in env.agents
    for _ in range(env.horizon):
        assert torch.equal(env.step(zeros(env)).slate, hybrid.step({}).slate)


def test_every_agents_action_moves_the_slate(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=SESSIONS, seed=3)
    still = env.step({}).slate
    for agent in env.agents:
        env.reset()
        moved = env.step({agent: random_actions(env, env.state.session, 0)[agent]}).slate
        assert not torch.equal(moved, still), agent


def test_sessions_end_by_leaving_or_at_the_horizon_and_never_by_both(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=256, seed=0)
    ended = torch.zeros(2, dtype=torch.int64)
    alive = torch.ones(256, dtype=torch.bool)
    for number in range(env.horizon):
        step = env.step(random_actions(env, env.state.session, number))
        assert not (step.terminated & step.truncated).any()
        assert torch.equal(step.terminated, step.response.left)
        assert bool(step.done[~step.terminated].all()) == (number == env.horizon - 1)
        ended += torch.stack([(step.terminated & alive).sum(), (step.truncated & alive).sum()])
        alive &= ~step.done
    assert ended.min() > 0 and ended.sum() == 256


def test_nothing_is_shown_that_the_user_has_had_while_anything_else_is_left(stage: Stage) -> None:
    env = BatchedEnv(stage, sessions=16, seed=1)
    seen = [set(row.tolist()) - {PAD} for row in env.world.history.items[env.state.user]]
    for number in range(env.horizon):
        shown = env.step(random_actions(env, env.state.session, number)).slate.tolist()
        for had, slate in zip(seen, shown, strict=True):
            assert len(set(slate)) == env.slate
            left = env.world.num_items - len(had)
            assert len(had & set(slate)) == max(0, env.slate - left)
            had |= set(slate)


def test_a_small_catalog_comes_round_again(small_stage: Stage) -> None:
    """All but seven items are in the histories; slates have five places."""
    items = small_stage.world.num_items
    history = replace(
        small_stage.world.history,
        items=torch.arange(7, items).expand(120, -1),
        ratings=torch.zeros(120, items - 7),
        weights=torch.ones(120, items - 7),
    )
    env = BatchedEnv(replace(small_stage, world=replace(small_stage.world, history=history)), sessions=8, seed=0)
    first, second, third = (env.step({}).slate for _ in range(3))
    assert bool((first < 7).all())
    assert torch.equal((second < 7).sum(1), torch.full((8,), 2))
    for slate in (first, second, third):
        assert all(len(set(row)) == 5 for row in slate.tolist())


def test_ballots_are_never_too_short_for_the_slate(stage_with: Callable[..., Stage]) -> None:
    env = BatchedEnv(stage_with(ballot=1, method="plurality"), sessions=32, seed=0)
    assert all(len(set(row)) == env.slate for row in env.step({}).slate.tolist())


def test_renewed_rows_play_the_next_session_and_the_others_go_on(small_stage: Stage) -> None:
    env, kept, fresh = (BatchedEnv(small_stage, sessions=8, seed=4) for _ in range(3))
    for number in range(3):
        actions = random_actions(env, env.state.session, number)
        env.step(actions)
        kept.step(actions)
    done = torch.tensor([True, False] * 4)
    renewed, fresh_start = env.renew(done), fresh.start(torch.arange(8, 16))
    for agent, rows in renewed.items():
        assert torch.equal(rows[done], fresh_start[agent][done])
        assert torch.equal(rows[~done], kept.observe()[agent][~done])
    for number in range(3):
        actions = random_actions(env, env.state.session, number)
        step, on, new = env.step(actions), kept.step(actions), fresh.step(actions)
        expected = torch.where(done[:, None], new.slate, on.slate)
        assert torch.equal(step.slate, expected)
        assert torch.equal(step.reward, torch.where(done, new.reward, on.reward))
    assert equal(env.renew(torch.zeros(8, dtype=torch.bool)), env.observe())


def test_show_plays_a_slate_from_outside(small_stage: Stage) -> None:
    env, shown = (BatchedEnv(small_stage, sessions=8, seed=4) for _ in range(2))
    step = env.step({})
    again = shown.show(step.slate)
    assert torch.equal(again.response.click, step.response.click) and again.ballots is None
    assert equal(again.observations, step.observations)


def test_given_weights_replace_the_teams(small_stage: Stage) -> None:
    """All the weight to one agent: the slate is the top of that agent's ballot."""
    env = BatchedEnv(small_stage, sessions=8, seed=4)
    for place in range(3):
        step = env.step({}, torch.eye(3)[place].expand(8, -1))
        assert step.ballots is not None
        assert torch.equal(step.slate, step.ballots.items[:, place, : env.slate])


def test_train_and_judge_users_are_apart(small_stage: Stage) -> None:
    world = small_stage.world
    train, judge = (BatchedEnv(small_stage, sessions=500, seed=0, users=users) for users in ("train", "judge"))
    assert set(train.state.user.tolist()) <= set(world.train_users.tolist())
    assert set(judge.state.user.tolist()) <= set(world.judge_users.tolist())
    assert not set(world.train_users.tolist()) & set(world.judge_users.tolist())
    with pytest.raises(InputError, match='users="jugde"'):
        BatchedEnv(small_stage, sessions=1, seed=0, users="jugde")


def test_reward_is_the_configured_sum() -> None:
    response = Response(
        click=torch.tensor([[1.0, 1.0], [0.0, 0.0]]),
        conversion=torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        dwell_s=torch.tensor([[90.0, 30.0], [0.0, 0.0]]),
        satisfaction=torch.tensor([[0.5, -0.25], [0.0, 0.0]]),
        left=torch.tensor([False, True]),
    )
    assert reward(RewardSettings(), response).tolist() == [2.0, 0.0]
    parts = {"click": 1, "conversion": 10, "dwell": 100, "satisfaction": 1000, "staying": 10_000}
    assert reward(RewardSettings.model_validate(parts), response).tolist() == [2 + 10 + 200 + 250 + 10_000, 0.0]
    for name, worth in parts.items():
        alone = RewardSettings.model_validate(dict.fromkeys(parts, 0) | {name: worth})
        assert reward(alone, response).tolist() == [
            {"click": 2, "conversion": 10, "dwell": 200, "satisfaction": 250, "staying": 10_000}[name],
            0.0,
        ]


def test_the_public_function_gives_the_same_env(small_stage: Stage) -> None:
    env = batched_env(small_stage.experiment, sessions=4, seed=9, users="judge")
    expected = BatchedEnv(small_stage, sessions=4, seed=9, users="judge")
    assert equal(env.reset(), expected.reset())
    assert torch.equal(env.step({}).slate, expected.step({}).slate)
