"""Credit: the axioms, and agreement with the definition over every order."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from concertrl.platform.credit import EXACT, Plan, credit, plan
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

Game = dict[frozenset[int], Tensor]


def random_game(players: int, seed: int) -> Game:
    """A worth `(2,)` for every coalition; nothing for the empty one."""
    noise = torch.Generator().manual_seed(seed)
    sets = [frozenset(p for p in range(players) if bits >> p & 1) for bits in range(2**players)]
    return {each: torch.randn(2, generator=noise) * bool(each) for each in sets}


def worth(game: Game, found: Plan) -> Tensor:
    coalitions = [frozenset(i for i, inside in enumerate(row) if inside) for row in found.members.tolist()]
    return torch.stack([game[each] for each in coalitions], dim=1)


def credits_of(game: Game, kind: str, players: int, seed: int = 0) -> Tensor:
    found = plan(kind, players, seed)
    return credit(worth(game, found), found)


def by_orders(game: Game, players: int) -> Tensor:
    total = torch.zeros(2, players)
    orders = list(permutations(range(players)))
    for order in orders:
        for place, player in enumerate(order):
            total[:, player] += game[frozenset(order[: place + 1])] - game[frozenset(order[:place])]
    return total / len(orders)


@pytest.mark.parametrize("players", [1, 2, 3, 4, 5])
def test_shapley_is_the_mean_over_every_order(players: int) -> None:
    game = random_game(players, 3)
    torch.testing.assert_close(credits_of(game, "shapley", players), by_orders(game, players), atol=1e-5, rtol=1e-5)
    assert len(plan("shapley", players).members) == 2**players - 1


@given(st.integers(1, 8), st.integers(0, 1000))
def test_shapley_shares_out_what_the_team_is_worth(players: int, seed: int) -> None:
    game = random_game(players, seed)
    found = credits_of(game, "shapley", players, seed)
    torch.testing.assert_close(found.sum(1), game[frozenset(range(players))], atol=1e-4, rtol=1e-4)


@given(st.integers(2, 8), st.integers(0, 1000), st.sampled_from(["shapley", "difference"]))
def test_who_adds_nothing_to_anybody_has_no_credit(players: int, seed: int, kind: str) -> None:
    dummy = seed % players
    game = random_game(players, seed)
    game = {each: game[each - {dummy}] for each in game}
    assert credits_of(game, kind, players, seed)[:, dummy].abs().max() < 1e-5


@given(st.integers(2, EXACT), st.integers(0, 1000), st.sampled_from(["shapley", "difference", "team"]))
def test_players_who_add_the_same_have_the_same_credit(players: int, seed: int, kind: str) -> None:
    first, second = 0, players - 1
    swap = {first: second, second: first}
    game = random_game(players, seed)
    twin = {frozenset(swap.get(p, p) for p in each): value for each, value in game.items()}
    alike = {each: (game[each] + twin[each]) / 2 for each in game}
    found = credits_of(alike, kind, players)
    torch.testing.assert_close(found[:, first], found[:, second], atol=1e-5, rtol=1e-5)


def test_difference_is_what_is_lost_without_a_player() -> None:
    game = random_game(3, 1)
    everybody = frozenset(range(3))
    lost = torch.stack([game[everybody] - game[everybody - {p}] for p in range(3)], dim=1)
    torch.testing.assert_close(credits_of(game, "difference", 3), lost)


def test_under_team_credit_everybody_has_the_team_s_worth() -> None:
    game = random_game(4, 2)
    assert plan("team", 4).members.tolist() == [[True] * 4]
    assert torch.equal(credits_of(game, "team", 4), game[frozenset(range(4))][:, None].expand(-1, 4))


def test_sampled_orders_come_near_the_value_and_follow_the_seed() -> None:
    game = random_game(7, 5)
    exact = by_orders(game, 7)
    found = [credits_of(game, "shapley", 7, seed) for seed in range(40)]
    torch.testing.assert_close(torch.stack(found).mean(0), exact, atol=0.25, rtol=0.0)
    assert torch.equal(found[3], credits_of(game, "shapley", 7, 3))
    assert not torch.equal(found[3], found[4])


@pytest.mark.parametrize("players", [1, 3, 7])
def test_everybody_comes_first_and_nobody_never(players: int) -> None:
    for kind in ("team", "difference", "shapley"):
        members = plan(kind, players).members
        assert bool(members[0].all()) and bool(members.any(1).all())
