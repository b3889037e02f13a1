from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from concertrl.agents.tower import PAD
from concertrl.envs import BatchedEnv, Stage, session
from concertrl.envs.yardsticks import (
    CAUTIONS,
    Act,
    greedy_oracle,
    horizon_oracle,
    play,
    popular,
    search_horizon,
    search_weights,
    simplex,
    top,
    weighted,
    yardsticks,
)
from concertrl.envs.yardsticks import random as at_random
from concertrl.platform.statistics import Interval, interval
from torch import Tensor

JUDGED, SEEDS = 512, range(900, 904)


@pytest.fixture(scope="module")
def judged(builtin_stage: Stage) -> dict[str, Tensor]:
    """`(seeds, sessions)` returns of every yardstick of the builtin world, by judge users, on the same sessions."""
    envs = [BatchedEnv(builtin_stage, sessions=JUDGED, seed=seed, users="judge") for seed in SEEDS]
    acts = yardsticks(builtin_stage)
    return {name: torch.stack([play(env, act).returns for env in envs]) for name, act in acts.items()}


def difference(better: Tensor, worse: Tensor) -> Interval:
    """Of the mean returns, over the seeds."""
    return interval((better - worse).mean(1).tolist())


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        *((name, "random") for name in ("popular", "cf", "content", "sentiment")),
        *(("equal_weights", name) for name in ("popular", "cf", "content", "sentiment")),
        ("greedy_oracle", "equal_weights"),
        ("greedy_oracle", "best_static"),
        ("horizon_oracle", "greedy_oracle"),
    ],
)
def test_each_yardstick_of_the_builtin_world_is_clear_of_the_one_below(
    judged: dict[str, Tensor], better: str, worse: str
) -> None:
    assert difference(judged[better], judged[worse]).low > 0


def test_the_best_static_weights_are_no_worse_than_equal_ones(judged: dict[str, Tensor]) -> None:
    """By users they were not searched on they need not win, but may not lose."""
    assert difference(judged["best_static"], judged["equal_weights"]).high >= 0


def test_the_table_of_yardsticks_is_complete_and_in_order(small_stage: Stage) -> None:
    agents = ["cf", "content", "sentiment"]
    static, oracles = ["equal_weights", "best_static"], ["greedy_oracle", "horizon_oracle"]
    assert list(yardsticks(small_stage)) == ["random", "popular", *agents, *static, *oracles]


def test_play_counts_a_session_until_it_ends(small_stage: Stage) -> None:
    """The same sums as a loop over steps and sessions gives."""
    env = BatchedEnv(small_stage, sessions=32, seed=2)
    steps = []
    outcome = play(env, weighted(torch.tensor([0.2, 0.3, 0.5])), watch=steps.append)
    for row in range(32):
        rewards, clicks = [], 0.0
        for step in steps:
            rewards.append(float(step.reward[row]))
            clicks += float(step.response.click[row].sum())
            if bool(step.done[row]):
                break
        assert (float(outcome.returns[row]), int(outcome.lengths[row])) == (pytest.approx(sum(rewards)), len(rewards))
        assert float(outcome.clicks[row]) == clicks
    assert len({*outcome.lengths.tolist()}) > 1


def test_play_starts_the_sessions_asked_for(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=6, seed=2)
    whole = play(env, greedy_oracle)
    twice = play(env, greedy_oracle, torch.tensor([4, 4, 0, 1, 5, 2]))
    assert torch.equal(twice.returns, whole.returns[[4, 4, 0, 1, 5, 2]])


def test_top_is_the_highest_first_ties_to_the_lower_index() -> None:
    assert top(torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]]), 4).tolist() == [[1, 2, 4, 3]]


def unseen_items(env: BatchedEnv, row: int) -> list[int]:
    had = set(env.world.history.items[env.state.user[row]].tolist()) - {PAD}
    return [item for item in range(env.world.num_items) if item not in had]


def test_popular_shows_what_was_liked_most_and_is_new(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=8, seed=0)
    fame = env.world.item_popularity
    expected = [
        sorted(unseen_items(env, row), key=lambda item: (-float(fame[item]), item))[: env.slate] for row in range(8)
    ]
    assert popular(env, {}).slate.tolist() == expected


def test_random_shows_every_new_item_as_often(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=20_000, seed=0)
    same_user = replace(env.state, user=torch.zeros_like(env.state.user))
    env.state, env._penalty = same_user, env._unasked(same_user.user)
    counts = torch.bincount(at_random(env, {}).slate.flatten(), minlength=env.world.num_items)
    new = torch.tensor(unseen_items(env, 0))
    share = env.slate / len(new)
    assert counts.sum() == counts[new].sum()
    assert float((counts[new] / 20_000 - share).abs().max()) < 5 * (share / 20_000) ** 0.5


def test_the_greedy_oracle_shows_the_likeliest_clicks(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=8, seed=0)
    for _ in range(3):
        state = env.state
        every = torch.arange(env.world.num_items).expand(8, -1)
        logits = env.unseen(session.appeal(env.world, state, every) - env.world.user_bias[state.user][:, None])
        slate = greedy_oracle(env, {}).slate
        torch.testing.assert_close(logits.gather(1, slate), logits.topk(env.slate, dim=1).values)


def test_the_horizon_oracle_without_foresight_is_the_greedy_one(small_stage: Stage) -> None:
    first, second = (BatchedEnv(small_stage, sessions=16, seed=0) for _ in range(2))
    for _ in range(first.horizon):
        assert torch.equal(horizon_oracle(0.0, 0.0)(first, {}).slate, greedy_oracle(second, {}).slate)


def test_foresight_spares_worn_topics_and_spreads_a_slate(small_stage: Stage) -> None:
    topic = small_stage.world.item_topic

    def spread_of(act: Act) -> float:
        env = BatchedEnv(small_stage, sessions=64, seed=0)
        return sum(len(set(topic[row].tolist())) for row in act(env, {}).slate) / 64

    def wear_of(act: Act) -> float:
        env = BatchedEnv(small_stage, sessions=64, seed=0)
        act(env, {})
        worn = env.state.satiation
        return float(worn.gather(1, topic[act(env, {}).slate]).mean())

    assert spread_of(horizon_oracle(0.0, 2.0)) > spread_of(greedy_oracle) + 0.5
    assert wear_of(horizon_oracle(8.0, 0.0)) < 0.5 * wear_of(greedy_oracle)


def test_the_searched_horizon_rule_is_the_best_of_those_tried(small_stage: Stage) -> None:
    env = BatchedEnv(small_stage, sessions=64, seed=5)
    rule = search_horizon(env)
    assert rule[0] in CAUTIONS
    best = play(env, horizon_oracle(*rule)).returns.mean()
    assert best >= play(env, greedy_oracle).returns.mean()
    assert best >= max(float(play(env, horizon_oracle(caution, 0.2)).returns.mean()) for caution in CAUTIONS)


def test_simplex_is_every_split_of_the_whole_once() -> None:
    found = simplex(3, 4)
    rows = {tuple(row) for row in (found * 4).tolist()}
    assert rows == {(a, b, 4 - a - b) for a in range(5) for b in range(5 - a)} and len(found) == len(rows)
    assert simplex(1, 6).tolist() == [[1.0]]


def test_searched_weights_favour_the_only_agent_that_knows(
    small_stage: Stage, stage_with: Callable[..., Stage]
) -> None:
    """A world in which users like what the content agent's tower says, and nothing else."""
    tower = small_stage.ensemble.towers["content"]
    items = tower.item_vectors - tower.item_vectors.mean(0)
    users = small_stage.reading.queries[1]
    world = replace(
        small_stage.world,
        item_vectors=3 * items / items.norm(dim=1).mean(),
        user_vectors=users,
        user_bias=torch.zeros(len(users)),
        item_bias=torch.full((len(items),), -2.0),
        mechanics=small_stage.world.mechanics.model_copy(update={"intent": 0.0}),
    )
    stage = stage_with(world=world)
    found = search_weights(lambda sessions: BatchedEnv(stage, sessions=sessions, seed=0))
    assert float(found.sum()) == pytest.approx(1.0) and float(found[1]) > 0.5
    again = search_weights(lambda sessions: BatchedEnv(stage, sessions=sessions, seed=0))
    assert torch.equal(found, again)
