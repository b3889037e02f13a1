"""Credit: what each player of a team has contributed, from the worth of its coalitions.

    plan(kind, P)  ->  members (M, P): the coalitions to be valued,  shares (M, P)
    worth of each coalition (B, M)  --@ shares-->  credit (B, P)

Difference reward and Shapley value are both linear in the worth of coalitions, so a plan is a matrix and nothing is
looped over. The empty coalition is worth 0, and no plan asks for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Credit = Literal["team", "difference", "shapley"]

EXACT = 5
"""Players up to whom every coalition is valued for the Shapley value."""

ROUNDS = 2
"""Shuffles above that; each gives 2 P orders."""


@dataclass(frozen=True)
class Plan:
    """Which coalitions to value, and what each player's credit takes of each.

    Attributes:
        members: `(M, P)` bool, row by row who is in; the first row is everybody.
        shares: `(M, P)` float32, `credit = worth (B, M) @ shares`.
    """

    members: Tensor
    shares: Tensor


@lru_cache(maxsize=64)
def plan(kind: Credit, players: int, seed: int = 0) -> Plan:
    """How the credit of `players` >= 1 players is found.

    team: everybody has the worth of the whole team.
    difference: the worth of the team less its worth without the player (Wolpert and Tumer 2002).
    shapley: the mean, over all orders in which the team can assemble, of what the player adds when it joins (Shapley
        1953). Up to `EXACT` players over all orders; above over 2 P `ROUNDS` of them, drawn by `seed`: every rotation
        of a shuffle and its reverse, so that each player comes in each place equally often. The credits sum up to the
        worth of the team either way (efficiency), and one who adds nothing to anybody has none (dummy).
    """
    everybody = frozenset(range(players))
    shares: dict[frozenset[int], list[float]] = {everybody: [0.0] * players}
    for coalition, player, share in _terms(kind, players, seed):
        if coalition:
            shares.setdefault(coalition, [0.0] * players)[player] += share
    members = [[player in coalition for player in range(players)] for coalition in shares]
    return Plan(torch.tensor(members), torch.tensor(list(shares.values())))


Terms = list[tuple[frozenset[int], int, float]]
"""A coalition, a player, and what the player's credit takes of the coalition's worth."""


def _terms(kind: Credit, players: int, seed: int) -> Terms:
    everybody = frozenset(range(players))
    whole = [(everybody, player, 1.0) for player in range(players)]
    if kind == "team":
        return whole
    if kind == "difference":
        return whole + [(everybody - {player}, player, -1.0) for player in range(players)]
    return _all_orders(players) if players <= EXACT else _some_orders(players, seed)


def _all_orders(players: int) -> Terms:
    """A coalition of s comes before a player in s! (P - s - 1)! of the P! orders."""
    terms: Terms = []
    for bits in range(2**players):
        coalition = frozenset(player for player in range(players) if bits >> player & 1)
        for player in set(range(players)) - coalition:
            size = len(coalition)
            share = math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
            terms += [(coalition | {player}, player, share), (coalition, player, -share)]
    return terms


def _some_orders(players: int, seed: int) -> Terms:
    noise = torch.Generator().manual_seed(seed)
    shuffles = [torch.randperm(players, generator=noise).tolist() for _ in range(ROUNDS)]
    rotations = [order[place:] + order[:place] for order in shuffles for place in range(players)]
    orders = rotations + [order[::-1] for order in rotations]
    terms: Terms = []
    for order in orders:
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            terms += [(before | {player}, player, 1 / len(orders)), (before, player, -1 / len(orders))]
    return terms


def credit(worth: Tensor, found: Plan) -> Tensor:
    """`(B, P)`: the players' credit, from the worth `(B, M)` of the plan's coalitions."""
    return worth @ found.shares.to(worth)
