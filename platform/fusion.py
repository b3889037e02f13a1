"""Fusion: ballots in, one slate out.

    ballots: items (B, A, n), scores (B, A, n)  --rule-->  points of each item, summed over agents  -->  slate (B, K)

The rules are in `fusion_points.py` and `fusion_votes.py`; here they are put to work. Work and memory grow with the
ballots, never with the catalog. An agent with weight 0 has no say under any rule, as if it were silent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import fusion_votes
from .fusion_points import NORMALISE, RRF_K, Normalise
from .fusion_rules import RULES, Ballots, Fused, Rule, Table, additive_rules, known_rules, points_rule, rule_of
from .ranking import descending_keys, key_index, smallest

__all__ = [
    "NORMALISE",
    "RRF_K",
    "RULES",
    "Ballots",
    "Fused",
    "Normalise",
    "additive_rules",
    "fuse",
    "fuse_coalitions",
    "known_rules",
    "points_rule",
    "shares",
]

assert fusion_votes  # importing it registers its rules


def fuse(ballots: Ballots, weights: Tensor, method: str, slate: int, normalise: Normalise = "none") -> Fused:
    """One slate for every user.

    Args:
        ballots: `(B, A, n)`.
        weights: `(B, A)` float32 >= 0, each agent's say.
        method: one of `known_rules()`.
        slate: K, places on the slate.
        normalise: what brings the scores of a ballot to one scale first; ranks are not touched by it.

    Raises:
        InputError: there is no such method.
    """
    rule = rule_of(method)
    ballots = _heard(ballots, weights)
    if rule.kind == "election":
        return rule.function(ballots, weights, slate)
    if rule.kind == "table":
        return _by_table(rule, ballots, weights, slate)
    keys = _sorted_entries(ballots.items)
    return _add_up(keys, _points(rule, ballots, weights, normalise), slate, rule)


def fuse_coalitions(
    ballots: Ballots, weights: Tensor, method: str, slate: int, members: Tensor, normalise: Normalise = "none"
) -> Tensor:
    """`(M, B, K)`: the slates of M coalitions; -1 where a coalition names fewer than K items.

    Args:
        members: `(M, A)` bool, who is in; those outside have no say. The rest as of `fuse`.
    """
    rule = rule_of(method)
    if rule.kind != "points":
        return torch.stack([fuse(ballots, weights * row, method, slate, normalise).slate for row in members])
    # Where an item stands among a user's entries does not depend on the coalition, so it is sorted once.
    ballots = _heard(ballots, weights)
    entries, points = _sorted_entries(ballots.items), _points(rule, ballots, weights, normalise)
    slates = []
    for row in members:
        inside = row[None, :, None] & ballots.present
        slates.append(_add_up(entries, points, slate, rule, inside).slate)
    return torch.stack(slates)


def shares(ballots: Ballots, weights: Tensor, method: str, slate: Tensor, normalise: Normalise = "none") -> Tensor:
    """Who stands behind each item of a slate `(B, K)`: each agent's part of its points, `(B, K, A)`, summing to 1.

    Where points are not a sum over the agents, as in an election, the parts are those of the reciprocal rank; negative
    points count as none.
    """
    rule = rule_of(method)
    rule = rule if rule.kind == "points" else RULES["reciprocal_rank"]
    ballots = _heard(ballots, weights)
    points = _points(rule, ballots, weights, normalise).masked_fill(~ballots.present, 0.0).clamp_min(0.0)
    agents = range(ballots.items.shape[1])
    found = [(slate[:, :, None] == ballots.items[:, None, agent]) * points[:, None, agent] for agent in agents]
    parts = torch.stack([part.sum(2) for part in found], dim=2)
    return parts / parts.sum(2, keepdim=True).clamp_min(torch.finfo(parts.dtype).tiny)


def _heard(ballots: Ballots, weights: Tensor) -> Ballots:
    """The ballots, those without weight empty."""
    unheard = weights <= 0
    if not bool(unheard.any()):
        return ballots
    return Ballots(ballots.items.masked_fill(unheard[:, :, None], -1), ballots.scores)


def _points(rule: Rule, ballots: Ballots, weights: Tensor, normalise: Normalise) -> Tensor:
    """`(B, A, n)`; anything in empty places."""
    if rule.scored and normalise != "none":
        ballots = Ballots(ballots.items, NORMALISE[normalise](ballots))
    points = rule.function(ballots)
    return points * weights[:, :, None] if rule.weighted else points


def _sorted_entries(items: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of all ballots `(B, A * n)` by item: the items, and the place each had before."""
    flat = items.flatten(1)
    places = torch.arange(flat.shape[1], device=items.device)
    keys = smallest(((flat + 1) << 32) | places, flat.shape[1])
    return (keys >> 32) - 1, key_index(keys)


def _add_up(
    entries: tuple[Tensor, Tensor], points: Tensor, slate: int, rule: Rule, inside: Tensor | None = None
) -> Fused:
    """Sums points over agents without a table of the catalog: an item's entries are neighbours once sorted.

    `inside` `(B, A, n)` bool says which entries count; by default all that are filled.
    """
    items, order = entries
    value = points.flatten(1).gather(1, order)
    alike = [items[:, apart:] == items[:, :-apart] for apart in range(1, points.shape[1])]
    there = items >= 0
    if alike:
        there[:, 1:] &= ~alike[0]  # an item stands at its first entry
    count = None
    if inside is not None or rule.finish is not None:
        counted = (items >= 0) if inside is None else inside.flatten(1).gather(1, order)
        value = value.masked_fill(~counted, 0.0)
        count = _count(counted.float(), alike)
        there &= count > 0
    total = _summed(value, alike)
    if rule.finish is not None and count is not None:
        total = rule.finish(total, count.clamp_min(1.0))
    total.masked_fill_(~there, -torch.inf)
    # Within a row the item index rises with the column, so the column breaks ties as the item would.
    columns = torch.arange(items.shape[1], device=items.device)
    top = key_index(smallest(descending_keys(total, columns), min(slate, items.shape[1])))
    best = total.gather(1, top)
    chosen = items.gather(1, top).masked_fill(best == -torch.inf, -1)
    return _filled(Fused(chosen, best), slate)


def _count(counted: Tensor, alike: list[Tensor]) -> Tensor:
    """`(B, A * n)`: at an item's first entry, how many of its entries count."""
    total = counted.clone()
    for apart, same in enumerate(alike, start=1):
        total[:, :-apart] += counted[:, apart:] * same
    return total


def _summed(value: Tensor, alike: list[Tensor]) -> Tensor:
    """`(B, A * n)`: at an item's first entry, what its entries add up to.

    They are added from the least up, whoever gave them, so that items that tie tie to the last bit.
    """
    parts = [value]
    for apart, same in enumerate(alike, start=1):
        later = torch.zeros_like(value)
        torch.mul(value[:, apart:], same, out=later[:, :-apart])
        parts.append(later)
    for last in range(len(parts) - 1, 0, -1):  # a sorting network: a few agents' values, for every entry at once
        for place in range(last):
            low, high = torch.minimum(parts[place], parts[place + 1]), torch.maximum(parts[place], parts[place + 1])
            parts[place], parts[place + 1] = low, high
    total = parts[0].clone() if len(parts) == 1 else parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _filled(fused: Fused, slate: int) -> Fused:
    """With empty places up to the slate's length."""
    missing = slate - fused.slate.shape[1]
    if missing <= 0:
        return fused
    rows = len(fused.slate)
    empty, none = fused.slate.new_full((rows, missing), -1), fused.points.new_full((rows, missing), -torch.inf)
    return Fused(torch.cat([fused.slate, empty], 1), torch.cat([fused.points, none], 1))


def _by_table(rule: Rule, ballots: Ballots, weights: Tensor, slate: int) -> Fused:
    """The candidates side by side, valued together."""
    items, order = _sorted_entries(ballots.items)
    batch, agents, length = ballots.items.shape
    first = items >= 0
    first[:, 1:] &= items[:, 1:] != items[:, :-1]
    number = first.long().cumsum(1) - 1  # which candidate an entry is, from 0
    # The widest row says how many there are at most.
    count = max(1, int(first.sum(1).max())) if batch else 1
    number = number.masked_fill(items < 0, count)
    candidates = items.new_full((batch, count + 1), -1).scatter_(1, number, items)[:, :count]
    ranks = ballots.scores.new_full((batch, agents * (count + 1)), torch.inf)
    ranks.scatter_(1, (order // length) * (count + 1) + number, (order % length + 1).float())
    ranks = ranks.view(batch, agents, count + 1)[:, :, :count]
    points = rule.function(Table(candidates, ranks, weights)).masked_fill(candidates < 0, -torch.inf)
    columns = torch.arange(count, device=items.device)
    top = key_index(smallest(descending_keys(points, columns), min(slate, count)))
    best = points.gather(1, top)
    return _filled(Fused(candidates.gather(1, top).masked_fill(best == -torch.inf, -1), best), slate)
