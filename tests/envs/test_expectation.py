"""What a slate is expected to bring, against what it brings when it is shown many times over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from concertrl.envs import Stage, session
from concertrl.envs.batched import reward
from concertrl.envs.expectation import cascade_distribution, click_distribution, expected_reward
from concertrl.envs.judge_world import demanding
from concertrl.envs.world import World
from concertrl.platform.settings import RewardSettings

TIMES, PLACES = 40_000, 6
PARTS = ("click", "conversion", "dwell", "satisfaction", "staying")


@pytest.fixture(params=["places", "cascade"])
def world(small_stage: Stage, request: pytest.FixtureRequest) -> World:
    world = small_stage.world if request.param == "places" else demanding(small_stage.world)
    # So that a slate may well be the last, and the chance of staying is neither 0 nor 1.
    return replace(world, mechanics=world.mechanics.model_copy(update={"patience": 0.5}))


@pytest.mark.parametrize("part", PARTS)
def test_the_mean_over_the_dice(world: World, part: str) -> None:
    settings = RewardSettings.model_validate({"click": 0.0, part: 1.0})
    state = session.begin(world, world.judge_users[:1], 3, torch.arange(TIMES))
    state = replace(state, taste=state.taste[:1].expand(TIMES, -1), satiation=state.satiation + 0.3)
    slate = torch.arange(PLACES).expand(TIMES, -1)
    _, response = session.respond(world, state, slate, seed=5)
    found = reward(settings, response)
    expected = expected_reward(world, state, slate, settings)
    assert float(expected.std()) < 1e-6
    assert float((found.mean() - expected[0]).abs()) < 5 * float(found.std()) / TIMES**0.5 + 1e-6


def test_rewards_add_up(world: World) -> None:
    state = session.begin(world, world.judge_users, 3, torch.arange(8))
    slate = torch.arange(8 * PLACES).view(8, PLACES) % world.num_items
    parts = [
        expected_reward(world, state, slate, RewardSettings.model_validate({"click": 0.0, part: 2.0})) for part in PARTS
    ]
    whole = expected_reward(world, state, slate, RewardSettings(**dict.fromkeys(PARTS, 2.0)))
    torch.testing.assert_close(whole, torch.stack(parts).sum(0))


def test_a_place_without_an_item_brings_nothing(world: World) -> None:
    state, settings = session.begin(world, world.judge_users, 3, torch.arange(8)), RewardSettings()
    slate = torch.arange(PLACES).repeat(8, 1)
    short = slate.clone()
    short[:, 3:] = -1
    found = expected_reward(world, state, short, settings)
    assert bool((found < expected_reward(world, state, slate, settings)).all())
    torch.testing.assert_close(found, expected_reward(world, state, slate[:, :3], settings))
    assert not expected_reward(world, state, torch.full((8, PLACES), -1), settings).any()


def test_a_row_is_the_same_in_any_batch(world: World) -> None:
    settings = RewardSettings(staying=1.0)
    state = session.begin(world, world.judge_users, 3, torch.arange(8))
    slate = torch.arange(8 * PLACES).view(8, PLACES) % world.num_items
    whole = expected_reward(world, state, slate, settings)
    one = session.State(**{name: value[3:4] for name, value in vars(state).items()})
    torch.testing.assert_close(expected_reward(world, one, slate[3:4], settings), whole[3:4], rtol=1e-6, atol=1e-6)


def by_enumeration(chance: list[float], on: Callable[[bool], float]) -> list[float]:
    """The distribution of the clicks over all that may be clicked and all places a user may stop at."""
    counts = [0.0] * (len(chance) + 1)
    for clicked in product([False, True], repeat=len(chance)):
        reach, seen = 1.0, 0
        weight = 1.0
        for place, each in enumerate(clicked):
            weight *= chance[place] if each else 1 - chance[place]
        for each in clicked:
            seen += each
            counts[seen] += weight * reach * (1 - on(each))
            reach *= on(each)
        counts[seen] += weight * reach
    return counts


def test_the_number_of_clicks_is_distributed_as_enumerated() -> None:
    chance = [0.3, 0.8, 0.05, 0.5]
    rows = torch.tensor([chance])
    expected = by_enumeration(chance, lambda clicked: 1.0)
    torch.testing.assert_close(click_distribution(rows)[0], torch.tensor(expected))
    cascade = by_enumeration(chance, lambda clicked: session.GO_ON_AFTER_CLICK if clicked else session.GO_ON)
    torch.testing.assert_close(cascade_distribution(rows, torch.ones(1, 4, dtype=torch.bool))[0], torch.tensor(cascade))
