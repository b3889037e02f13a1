"""Rules that are votes: pairwise majorities, and elections held for one place of the slate after another."""

from __future__ import annotations

import torch
from torch import Tensor

from .fusion_rules import Ballots, Fused, Table, election_rule, table_rule
from .ranking import descending_keys

PAIRS = 8_000_000
"""Pairs of candidates compared at a time, so that memory does not grow with the batch."""


@table_rule("copeland")
def copeland(table: Table) -> Tensor:
    """Pairwise majorities won, and half of those tied (Copeland 1951); who wins all is the Condorcet winner.

    An agent's weight is its number of votes. It ranks every item it names above all that it does not, and is of no
    opinion between two of these.
    """
    batch, _, count = table.ranks.shape
    rows = max(1, PAIRS // max(1, count * count))
    won = [_majorities(*part) for part in zip(*(x.split(rows) for x in table), strict=True)]
    return torch.cat(won) if batch else table.items.float()


def _majorities(items: Tensor, ranks: Tensor, weights: Tensor) -> Tensor:
    margin = torch.zeros(*items.shape, items.shape[1], device=items.device)
    for agent in range(ranks.shape[1]):
        mine = ranks[:, agent]
        above = (mine[:, :, None] < mine[:, None, :]).float() - (mine[:, :, None] > mine[:, None, :]).float()
        margin += weights[:, agent, None, None] * above
    there = items >= 0
    points = (margin > 0).float() + 0.5 * (margin == 0)
    # A candidate ties with itself, which says nothing.
    return (points * there[:, None, :]).sum(2) - 0.5


def _elected(backing: Tensor, votes: Tensor) -> Tensor:
    """`(B, 1)`: the place of the greatest backing `(B, A)`; on a tie that of the lower item in `votes` `(B, A)`."""
    keys = descending_keys(backing, votes.clamp_min(0))
    return (keys == keys.amin(1, keepdim=True)).int().argmax(1, keepdim=True)


def _first_choices(items: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """Each ballot's best item that is not `taken`, `(B, A)`, -1 where none is left; and where that is so."""
    silent = taken.all(2)
    first = (~taken).int().argmax(2, keepdim=True)
    return items.gather(2, first).squeeze(2).masked_fill(silent, -1), silent


def _hold(ballots: Ballots, weights: Tensor, slate: int, runoff: bool) -> Fused:
    items, taken = ballots.items, ballots.items < 0
    chosen, points = [], []
    for _ in range(slate):
        votes, silent = _first_choices(items, taken)
        say = weights.masked_fill(silent, 0.0)
        backing = _count_runoff(items, taken, votes, say) if runoff else _backing(votes, votes, say)
        backing = backing.masked_fill(silent, -torch.inf)
        winner = votes.gather(1, _elected(backing, votes))
        chosen.append(winner)
        points.append(backing.amax(1, keepdim=True))
        taken = taken | (items == winner[:, :, None])
    return Fused(torch.cat(chosen, 1), torch.cat(points, 1))


def _backing(candidates: Tensor, votes: Tensor, say: Tensor) -> Tensor:
    """`(B, A)`: the weight of the votes `(B, A)` for each of the candidates `(B, A)`."""
    return ((candidates[:, :, None] == votes[:, None, :]) * say[:, None, :]).sum(2)


def _count_runoff(items: Tensor, taken: Tensor, candidates: Tensor, say: Tensor) -> Tensor:
    """The backing of the candidates `(B, A)` when the last of them stands: 0 for those who fell before.

    Who is nobody's first choice falls at once, and by that no vote changes hands; so the candidates are the agents' A
    first choices, and A - 1 rounds decide. In each the one with the least weight of votes falls, on a tie the higher
    item index, and its voters turn to the best of the others on their ballots.
    """
    agents = items.shape[1]
    # (B, A voters, A candidates): where a candidate stands on each ballot.
    there = ~taken[:, :, None, :] & (candidates >= 0)[:, None, :, None]
    named = there & (items[:, :, None, :] == candidates[:, None, :, None])
    rank = torch.where(named.any(3), named.int().argmax(3), items.shape[2]).float()
    rank = rank.masked_fill(~named.any(3), torch.inf)
    standing = candidates >= 0
    for _ in range(agents):
        backing = _round(rank, standing, candidates, say)
        # One candidate may be there under several agents; it is gone when all of them are.
        others = standing & (candidates != _leader(backing, standing, candidates))
        contested = others.any(1, keepdim=True)
        weakest = _weakest(backing, standing, candidates)
        standing = standing & ~(contested & (candidates == weakest))
    return _round(rank, standing, candidates, say)


def _round(rank: Tensor, standing: Tensor, candidates: Tensor, say: Tensor) -> Tensor:
    """`(B, A)`: the weight of the voters whose best standing candidate this is; 0 for those who have fallen."""
    ranked = rank.masked_fill(~standing[:, None, :], torch.inf)
    best = ranked.amin(2)
    choice = candidates.gather(1, ranked.argmin(2)).masked_fill(best.isinf(), -1)
    return _backing(candidates, choice, say).masked_fill(~standing, 0.0)


def _leader(backing: Tensor, standing: Tensor, candidates: Tensor) -> Tensor:
    return candidates.gather(1, _elected(backing.masked_fill(~standing, -torch.inf), candidates))


def _weakest(backing: Tensor, standing: Tensor, candidates: Tensor) -> Tensor:
    """`(B, 1)`: the standing candidate with the least backing, on a tie the higher item index."""
    keys = descending_keys(backing, candidates.clamp_min(0)).masked_fill(~standing, -(2**63))
    return candidates.gather(1, (keys == keys.amax(1, keepdim=True)).int().argmax(1, keepdim=True))


@election_rule("plurality")
def plurality(ballots: Ballots, weights: Tensor, slate: int) -> Fused:
    """One election a place: every agent votes for the best item of its ballot that is not yet elected.

    The item with the greatest weight of votes wins; on a tie, the lower item index.
    """
    return _hold(ballots, weights, slate, runoff=False)


@election_rule("instant_runoff")
def instant_runoff(ballots: Ballots, weights: Tensor, slate: int) -> Fused:
    """One election a place, in rounds (Ware 1871): the weakest falls, and its votes pass to the next choice."""
    return _hold(ballots, weights, slate, runoff=True)
