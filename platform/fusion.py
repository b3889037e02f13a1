"""Fusion: ballots in, one slate out.

    ballots: items (B, A, n), scores (B, A, n)  --rule-->  points of each item, summed over agents  -->  slate (B, K)

A rule gives every place of every ballot its points; the points of one item are added up over the agents and the K best
items make the slate. Work and memory grow with the ballots, never with the catalog. Plurality, an election for each
place of the slate, has its own loop. A new rule is one function in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import InputError, suggestion
from .ranking import descending_keys, key_index, smallest

RRF_K = 60.0
"""The constant of reciprocal rank fusion (Cormack, Clarke, Buettcher 2009)."""


@dataclass(frozen=True)
class Ballots:
    """What A agents propose to B users.

    Attributes:
        items: `(B, A, n)` int64, best first, no item twice on a ballot; -1 where a ballot is shorter.
        scores: `(B, A, n)` float32, not ascending along n; ignored where `items` is -1.
    """

    items: Tensor
    scores: Tensor


class Fused(NamedTuple):
    """The slate.

    Attributes:
        slate: `(B, K)` int64, best first, ties to the lower item index.
        points: `(B, K)` float32, the fused score of each item.
    """

    slate: Tensor
    points: Tensor


def _weighted(ballots: Ballots) -> Tensor:
    """Weighted sum of scores (CombSUM, Fox and Shaw 1994) above the ballot's last score.

    An item that an agent left off its ballot gets that agent's lowest score, the most it can have had.
    """
    present = ballots.items >= 0
    floor = ballots.scores.masked_fill(~present, torch.inf).amin(2, keepdim=True)
    return ballots.scores - floor


def _reciprocal_rank(ballots: Ballots) -> Tensor:
    """1 / (60 + rank), ranks from 1 (Cormack, Clarke, Buettcher 2009)."""
    n = ballots.items.shape[2]
    points = 1.0 / (RRF_K + torch.arange(1, n + 1, device=ballots.items.device))
    return points.expand(ballots.items.shape)


def _borda(ballots: Ballots) -> Tensor:
    """n points for the first place down to 1 for the last; items off the ballot get none (Borda 1781)."""
    n = ballots.items.shape[2]
    return torch.arange(n, 0, -1, device=ballots.items.device, dtype=torch.float32).expand(ballots.items.shape)


RULES: dict[str, Callable[[Ballots], Tensor]] = {
    "weighted": _weighted,
    "reciprocal_rank": _reciprocal_rank,
    "borda": _borda,
}
"""Rules that add up points: ballots -> points `(B, A, n)`, at least 0."""


def fuse(ballots: Ballots, weights: Tensor, method: str, slate: int) -> Fused:
    """One slate for every user.

    Args:
        ballots: `(B, A, n)`, with at least `slate` distinct items between them.
        weights: `(B, A)` float32 >= 0, each agent's say.
        method: a rule of `RULES`, or `plurality`.
        slate: K, places on the slate.

    Raises:
        InputError: there is no such method.
    """
    if method == "plurality":
        return _elect(ballots, weights, slate)
    return _add_up(ballots.items, _points(ballots, weights, method), slate)


def shares(ballots: Ballots, weights: Tensor, method: str, slate: Tensor) -> Tensor:
    """Who stands behind each item of a slate `(B, K)`: each agent's part of its points, `(B, K, A)`, summing to 1.

    Under plurality only one agent's vote need have counted; there the parts are those of the reciprocal rank.
    """
    points = _points(ballots, weights, "reciprocal_rank" if method == "plurality" else method)
    agents = range(ballots.items.shape[1])
    found = [(slate[:, :, None] == ballots.items[:, None, agent]) * points[:, None, agent] for agent in agents]
    parts = torch.stack([part.sum(2) for part in found], dim=2)
    return parts / parts.sum(2, keepdim=True).clamp_min(torch.finfo(parts.dtype).tiny)


def _points(ballots: Ballots, weights: Tensor, method: str) -> Tensor:
    if method not in RULES:
        known = [*RULES, "plurality"]
        raise InputError(f'no fusion "{method}"{suggestion(method, known)} (known: {", ".join(known)})')
    return (RULES[method](ballots) * weights[:, :, None]).masked_fill(ballots.items < 0, 0.0)


def _add_up(items: Tensor, points: Tensor, slate: int) -> Fused:
    """Sums points over agents without a table of the catalog: an item's entries are neighbours once sorted."""
    _, agents, length = items.shape
    # One integer holds the item and the bits of its points, which order as the points do since none is negative. So
    # an item's points are added from the least up, whoever gave them, and items that tie tie to the last bit.
    bits = points.flatten(1).contiguous().view(torch.int32)
    keys = smallest(((items.flatten(1) + 1) << 32) | bits.to(torch.int64), agents * length)
    ranked = (keys >> 32) - 1
    value = key_index(keys).to(torch.int32).view(torch.float32)
    total = value.clone()
    for apart in range(1, agents):
        same = ranked[:, apart:] == ranked[:, :-apart]
        total[:, :-apart] += value[:, apart:] * same
    repeated = torch.zeros_like(ranked, dtype=torch.bool)
    repeated[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    total.masked_fill_(repeated | (ranked < 0), -torch.inf)
    # Within a row the item index rises with the column, so the column breaks ties as the item would.
    places = torch.arange(agents * length, device=items.device)
    top = key_index(smallest(descending_keys(total, places), slate))
    return Fused(ranked.gather(1, top), total.gather(1, top))


def _elect(ballots: Ballots, weights: Tensor, slate: int) -> Fused:
    """Plurality, one election a place: every agent votes for the best item of its ballot that is not yet elected.

    The item with the greatest weight of votes wins; on a tie, the lower item index.
    """
    items = ballots.items
    taken = items < 0
    chosen, points = [], []
    for _ in range(slate):
        silent = taken.all(2)
        first = (~taken).int().argmax(2, keepdim=True)
        votes = items.gather(2, first).squeeze(2).masked_fill(silent, -1)
        say = weights.masked_fill(silent, 0.0)
        backing = ((votes[:, :, None] == votes[:, None, :]) * say[:, None, :]).sum(2).masked_fill(silent, -torch.inf)
        winner = key_index(smallest(descending_keys(backing, votes.clamp_min(0)), 1))
        chosen.append(winner)
        points.append(backing.amax(1, keepdim=True))
        taken = taken | (items == winner[:, :, None])
    return Fused(torch.cat(chosen, 1), torch.cat(points, 1))
