from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from concertrl.agents.tower import PAD, History
from concertrl.envs import session
from concertrl.envs.world import World
from concertrl.platform.settings import Mechanics
from torch import Tensor

SEED = 11
TOPICS, ITEMS, USERS, DIM = 3, 12, 5, 4
CERTAIN, NEVER = 50.0, -50.0
STILL = Mechanics(intent=0, drift=0, drift_noise=0)
"""Users whose taste does not move."""


def world_of(mechanics: Mechanics = STILL, bias: float = -1.0) -> World:
    noise = torch.Generator().manual_seed(0)
    empty = torch.full((USERS, 1), PAD)
    return World(
        name="toy",
        item_vectors=torch.randn(ITEMS, DIM, generator=noise),
        item_bias=torch.full((ITEMS,), bias),
        item_topic=torch.arange(ITEMS) % TOPICS,
        item_quality=torch.randn(ITEMS, generator=noise),
        user_vectors=torch.randn(USERS, DIM, generator=noise),
        user_bias=torch.linspace(-1, 1, USERS),
        history=History(empty, torch.zeros(USERS, 1), torch.zeros(USERS, 1)),
        train_users=torch.tensor([0, 1, 2]),
        judge_users=torch.tensor([3, 4]),
        item_popularity=torch.ones(ITEMS),
        mechanics=mechanics,
    )


def begun(world: World, sessions: int = 4, seed: int = SEED) -> session.State:
    return session.begin(world, world.train_users, seed, torch.arange(sessions))


def slates(*items: int, sessions: int = 4) -> Tensor:
    return torch.tensor(items).expand(sessions, -1)


def same(first: session.State | session.Response, second: session.State | session.Response) -> bool:
    return all(torch.equal(mine, getattr(second, name)) for name, mine in vars(first).items())


def test_a_session_started_twice_is_the_same_and_another_seed_is_another() -> None:
    world = world_of(Mechanics())
    played = [session.respond(world, begun(world, 64), slates(0, 1, 2, sessions=64), SEED) for _ in range(2)]
    assert same(played[0][0], played[1][0]) and same(played[0][1], played[1][1])
    other = begun(world, 64, SEED + 1)
    assert not torch.equal(other.user, begun(world, 64).user) and not torch.equal(other.taste, begun(world, 64).taste)
    assert not torch.equal(session.respond(world, other, slates(0, 1, 2, sessions=64), 0)[1].click, played[0][1].click)


def test_the_users_who_come_are_those_asked_for_each_as_often() -> None:
    world = world_of()
    users = begun(world, 30_000).user
    counts = torch.bincount(users, minlength=USERS).tolist()
    assert counts[3:] == [0, 0] and all(abs(count - 10_000) < 5 * 82 for count in counts[:3])


def test_intent_spreads_the_taste_of_the_day() -> None:
    world = world_of(Mechanics(intent=2.0))
    state = begun(world, 20_000)
    moved = state.taste - world.user_vectors[state.user]
    torch.testing.assert_close(moved.std(0), 2.0 * world.user_vectors.std(0), rtol=0.05, atol=0)
    assert torch.equal(begun(world_of()).taste, world.user_vectors[begun(world_of()).user])


def test_appeal_is_the_formula_of_the_world() -> None:
    """logit = u . v + user bias + item bias - satiation of the item's topic."""
    world = world_of()
    state = replace(begun(world), satiation=torch.rand(4, TOPICS, generator=torch.Generator().manual_seed(1)))
    found = session.appeal(world, state, slates(5, 0, 7))
    for row in range(4):
        user = int(state.user[row])
        for place, item in enumerate((5, 0, 7)):
            liking = float(world.user_vectors[user].double() @ world.item_vectors[item].double())
            tired = float(state.satiation[row, item % TOPICS])
            expected = liking + float(world.user_bias[user]) + float(world.item_bias[item]) - tired
            assert float(found[row, place]) == pytest.approx(expected, abs=1e-5)


def test_satiation_builds_up_with_what_is_shown_and_fades() -> None:
    world = world_of(STILL.model_copy(update={"satiation_gain": 0.5, "satiation_fade": 0.8}), bias=NEVER)
    state = begun(world)
    expected = [[1.0, 0.5, 0.0], [0.8 * 1.0, 0.8 * 0.5, 1.5], [0.64, 0.32 + 0.5, 0.8 * 1.5]]
    for shown, satiation in zip(((0, 3, 1), (2, 5, 8), (4,)), expected, strict=True):
        state, _ = session.respond(world, state, slates(*shown), SEED)
        torch.testing.assert_close(state.satiation, torch.tensor(satiation).expand(4, -1))


def test_places_further_down_are_looked_at_less() -> None:
    world = world_of(STILL.model_copy(update={"position_bias": 0.7}), bias=CERTAIN)
    _, response = session.respond(world, begun(world, 20_000), slates(*range(6), sessions=20_000), SEED)
    expected = torch.arange(1, 7.0) ** -0.7
    torch.testing.assert_close(response.click.mean(0), expected, atol=5 * 0.5 / 20_000**0.5, rtol=0)
    assert bool((response.click[:, 0] == 1).all())


def test_clicks_come_as_often_as_the_logit_says() -> None:
    world = world_of(STILL.model_copy(update={"position_bias": 0.0}))
    state = begun(world, 30_000)
    logit = session.appeal(world, state, slates(0, 1, 2, sessions=30_000))
    _, response = session.respond(world, state, slates(0, 1, 2, sessions=30_000), SEED)
    for user in range(3):
        mine = state.user == user
        torch.testing.assert_close(response.click[mine].mean(0), logit[mine][0].sigmoid(), atol=0.025, rtol=0)


@pytest.mark.parametrize(("bias", "target", "lost"), [(NEVER, 3.0, 1.0), (CERTAIN, 4.0, 0.5), (NEVER, 0.0, 0.0)])
def test_patience_is_lost_by_the_share_of_the_clicks_that_were_missed(bias: float, target: float, lost: float) -> None:
    rules = {"patience": 2.5, "patience_target": target, "patience_recovery": 0.0, "position_bias": 0.0}
    world = world_of(STILL.model_copy(update=rules), bias=bias)
    state, response = session.respond(world, begun(world), slates(0, 1), SEED)
    torch.testing.assert_close(state.patience, torch.full((4,), 2.5 - lost))
    assert not response.left.any()


def test_a_user_leaves_when_patience_is_spent() -> None:
    """Three slates without a click spend three; so do thirds, which are not exact in float32."""
    for clicked, steps in ((NEVER, 3), (CERTAIN, 9)):
        rules = {"patience": 3.0, "patience_target": 3.0, "position_bias": 0.0}
        world = world_of(STILL.model_copy(update=rules), bias=clicked)
        state, left = begun(world), []
        for _ in range(steps):
            state, response = session.respond(world, state, slates(0, 1), SEED)
            left.append(bool(response.left.all()))
            assert bool(response.left.any()) == left[-1]
        assert left == [False] * (steps - 1) + [True]


def test_slates_on_target_win_patience_back_up_to_the_start() -> None:
    rules = {"patience": 2.0, "patience_target": 2.0, "patience_recovery": 0.25, "position_bias": 0.0}
    world = world_of(STILL.model_copy(update=rules), bias=CERTAIN)
    state = replace(begun(world), patience=torch.tensor([0.5, 1.5, 1.9, 2.0]))
    state, _ = session.respond(world, state, slates(0, 1), SEED)
    assert state.patience.tolist() == [0.75, 1.75, 2.0, 2.0]


def test_without_drift_the_taste_stays() -> None:
    world = world_of(bias=CERTAIN)
    state = begun(world)
    for _ in range(5):
        state, _ = session.respond(world, state, slates(0, 1), SEED)
    assert torch.equal(state.taste, begun(world).taste)


def test_taste_drifts_to_the_mean_of_what_was_clicked() -> None:
    rules = {"drift": 0.1, "position_bias": 0.0}
    for bias, share in ((CERTAIN, 0.1), (NEVER, 0.0)):
        world = world_of(STILL.model_copy(update=rules), bias=bias)
        before = begun(world)
        after, _ = session.respond(world, before, slates(0, 4), SEED)
        goal = world.item_vectors[[0, 4]].mean(0)
        torch.testing.assert_close(after.taste, before.taste + share * (goal - before.taste))


def test_taste_walks_by_the_drift_noise() -> None:
    world = world_of(STILL.model_copy(update={"drift_noise": 0.3}), bias=NEVER)
    before = begun(world, 10_000)
    moved = session.respond(world, before, slates(0, sessions=10_000), SEED)[0].taste - before.taste
    assert float(moved.std()) == pytest.approx(0.3, rel=0.03) and abs(float(moved.mean())) < 0.01


def test_what_follows_a_click_needs_one_and_rises_with_quality() -> None:
    count = 20_000
    world = world_of(
        STILL.model_copy(update={"position_bias": 0.0, "conversion_bias": -1.0, "dwell_s": 40.0}), bias=0.0
    )
    world = replace(world, item_quality=torch.linspace(-2, 2, ITEMS), item_vectors=torch.zeros(ITEMS, DIM))
    world = replace(world, user_bias=torch.zeros(USERS))
    _, response = session.respond(world, begun(world, count), slates(0, ITEMS - 1, sessions=count), SEED)
    for part in (response.conversion, response.dwell_s, response.satisfaction):
        assert not (part * (1 - response.click)).any()
    clicked = response.click == 1
    for place, quality in enumerate((-2.0, 2.0)):
        mine = clicked[:, place]
        converted, dwelt = response.conversion[mine, place], response.dwell_s[mine, place]
        assert float(converted.mean()) == pytest.approx(float(torch.tensor(quality - 1.0).sigmoid()), abs=0.025)
        assert float(dwelt.median()) == pytest.approx(40.0 * float(torch.tensor(0.3 * quality).exp()), rel=0.03)
        assert float(dwelt.log().std()) == pytest.approx(session.DWELL_SPREAD, rel=0.03)
        satisfied = response.satisfaction[mine, place]
        torch.testing.assert_close(satisfied, torch.full_like(satisfied, 0.5 * quality).tanh())


def test_a_row_responds_the_same_in_any_batch() -> None:
    world = world_of(Mechanics())
    state, slate = begun(world, 32), torch.arange(96).view(32, 3) % ITEMS
    whole = session.respond(world, state, slate, SEED)
    for row in (0, 13, 31):
        part = torch.tensor([row])
        alone = session.begin(world, world.train_users, SEED, part)
        found = session.respond(world, alone, slate[part], SEED)
        for mine, all_rows in zip(found, whole, strict=True):
            for name, value in vars(mine).items():
                assert torch.equal(value, getattr(all_rows, name)[part]), name


def test_put_takes_those_rows_from_the_other_state_in_their_order() -> None:
    world = world_of(Mechanics())
    mine, other = begun(world), begun(world, sessions=2, seed=5)
    merged = mine.put(torch.tensor([3, 0]), other)
    for name, value in vars(merged).items():
        assert torch.equal(value[[3, 0]], getattr(other, name))
        assert torch.equal(value[[1, 2]], getattr(mine, name)[[1, 2]])


def test_a_known_spread_changes_nothing() -> None:
    world = world_of(Mechanics())
    given = session.begin(world, world.train_users, SEED, torch.arange(4), world.user_vectors.std(0))
    assert same(given, begun(world))


def test_a_taste_lives_and_moves_in_its_own_dimensions_alone() -> None:
    own = torch.zeros(USERS, DIM)
    own[:, :2] = 1.0
    world = world_of(Mechanics(intent=1.0, drift=0.5, drift_noise=0.5), bias=CERTAIN)
    free, held = begun(world), begun(replace(world, user_own=own))
    assert torch.equal(held.taste[:, 2:], world.user_vectors[held.user][:, 2:])
    assert torch.equal(held.taste[:, :2], free.taste[:, :2])
    moved, _ = session.respond(replace(world, user_own=own), held, slates(0, 1, 2), SEED)
    assert torch.equal(moved.taste[:, 2:], held.taste[:, 2:]) and (moved.taste[:, :2] != held.taste[:, :2]).all()


def test_users_may_tire_at_their_own_pace() -> None:
    pace = torch.linspace(0.5, 2.0, USERS)
    world = world_of()
    state = begun(world)
    plain, _ = session.respond(world, state, slates(0, 1, 2), SEED)
    paced, _ = session.respond(replace(world, user_tiring=pace), state, slates(0, 1, 2), SEED)
    assert plain.satiation.any()
    torch.testing.assert_close(paced.satiation, plain.satiation * pace[state.user][:, None])
