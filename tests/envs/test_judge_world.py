"""The world that policies are judged in: of another class, with the same users, items and base rate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from concertrl.envs import BatchedEnv, Stage, session
from concertrl.envs.appeal import Combine, matched, of_catalog, of_items, shares
from concertrl.envs.judge_world import demanding, judge_stage
from concertrl.envs.yardsticks import play, yardsticks
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def judge(small_stage: Stage) -> Iterator[Stage]:
    yield judge_stage(small_stage)


def test_users_items_and_base_rate_are_the_same(small_stage: Stage, judge: Stage) -> None:
    mine, other = small_stage.world, judge.world
    for name in ("judge_users", "train_users", "item_topic", "item_quality", "item_popularity"):
        assert torch.equal(getattr(mine, name), getattr(other, name)), name
    rates = []
    for world in (mine, other):
        appeal = of_catalog(world.user_vectors, world.item_vectors, world.combine, world.temperature)
        rates.append(float((appeal + world.item_bias + world.user_bias[:, None]).sigmoid().mean()))
    assert rates[0] == pytest.approx(rates[1], abs=1e-3)
    assert (other.reading, other.combine) == ("cascade", "all") and mine.reading == "places"
    assert torch.equal(judge.best_static, small_stage.best_static)


def test_the_oracles_lead_there_and_chance_is_last(judge: Stage) -> None:
    env = BatchedEnv(judge, sessions=256, seed=1, users="judge")
    means = {name: float(play(env, act).returns.mean()) for name, act in yardsticks(judge).items()}
    best = max(value for name, value in means.items() if "oracle" not in name)
    assert min(means, key=lambda name: means[name]) == "random"
    assert means["horizon_oracle"] >= means["greedy_oracle"] > best


def test_it_is_made_once_and_read_after_that(small_stage: Stage, judge: Stage) -> None:
    told: list[str] = []
    again = judge_stage(small_stage, told.append)
    assert not told and again.horizon_rule == judge.horizon_rule
    for name in ("user_vectors", "item_vectors", "item_bias"):
        assert torch.equal(getattr(again.world, name), getattr(judge.world, name))


def test_an_item_must_meet_both_demands(small_stage: Stage) -> None:
    """Worse quality takes more from an item that is to the taste than from one that is not."""
    world = demanding(small_stage.world)
    state = session.begin(world, world.judge_users, 0, torch.arange(4))
    width = world.item_vectors.shape[1]
    vectors = torch.zeros(4, 2, width)
    vectors[..., -1] = 1.0
    liked = small_stage.world.user_vectors[state.user]
    vectors[:, :, :-1] = 3.0 * (liked / liked.norm(dim=1, keepdim=True))[:, None, :]
    vectors[:, 0, -2], vectors[:, 1, -2] = 2.0, -2.0
    good, poor = of_items(state.taste, vectors, world.combine, world.temperature).unbind(1)
    assert bool((good > poor).all())


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(0.05, 5), st.sampled_from(["any", "all"]))
def test_a_match_lies_between_the_mean_and_the_extreme(
    values: list[float], temperature: float, combine: Combine
) -> None:
    rows = torch.tensor([values])
    found = float(matched(rows, combine, temperature))
    extreme, mean = (max(values) if combine == "any" else min(values)), sum(values) / len(values)
    assert min(mean, extreme) - 1e-3 <= found <= max(mean, extreme) + 1e-3
    torch.testing.assert_close(shares(rows, combine, temperature).sum(1), torch.ones(1))


def test_the_catalog_is_valued_as_its_items_are() -> None:
    noise = torch.Generator().manual_seed(0)
    interests, vectors = torch.randn(3, 8, generator=noise), torch.randn(5, 4, generator=noise)
    for combine in ("any", "all"):
        whole = of_catalog(interests, vectors, combine, 0.7)
        torch.testing.assert_close(whole, of_items(interests, vectors.expand(3, -1, -1), combine, 0.7))


def test_a_user_who_cascades_looks_at_a_head_of_the_slate() -> None:
    chance = torch.rand(50_000, 10, generator=torch.Generator().manual_seed(0))
    attracted = torch.rand(50_000, 10, generator=torch.Generator().manual_seed(1)) < 0.25
    looked = session.read_down(chance, attracted)
    assert bool(looked[:, 0].all()) and bool((looked[:, :-1] >= looked[:, 1:]).all())
    assert float(looked.sum(1).float().mean()) == pytest.approx(7.9, abs=0.1)


def test_a_session_there_is_the_same_in_any_batch(judge: Stage) -> None:
    whole, one = (BatchedEnv(judge, sessions=n, seed=3, users="judge") for n in (16, 1))
    one.start(torch.tensor([5]))
    for _ in range(4):
        mine, theirs = one.step({}), whole.step({})
        assert torch.equal(mine.slate[0], theirs.slate[5]) and torch.equal(mine.reward[0], theirs.reward[5])
