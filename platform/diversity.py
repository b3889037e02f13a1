"""The last step of a slate: from more fused items than it has places, those that are good and unlike each other.

    fused items and points (B, M), item vectors (N, d)  ->  relevance in [0, 1], cosines (B, M, M)  ->  slate (B, K)

Both ways are greedy, one place at a time, over all users at once; ties go to the item that was fused higher. The weight
is in [0, 1]: 0 leaves the fused order as it is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .fusion_rules import Fused

LAST = 1e9
"""DPP: what puts a place without an item behind all others, and twice over one that is taken."""

FLAT = 1e-6
"""DPP: what is left of a volume that is none: identical items."""


def diversify(fused: Fused, vectors: Tensor, slate: int, method: Literal["mmr", "dpp"], weight: float) -> Tensor:
    """`(B, K)` of the fused items, -1 where there are not so many.

    Args:
        fused: items and points `(B, M)`, best first.
        vectors: `(N, d)` of all items; what they are alike in.
        slate: K <= M.
        method: `mmr` or `dpp`.
        weight: in [0, 1], what being unlike the rest counts.
    """
    rows = normalize(vectors[fused.slate.clamp_min(0)], dim=2)
    alike = rows @ rows.transpose(1, 2)
    select = mmr if method == "mmr" else dpp
    places = select(relevance(fused.points), alike, slate, weight)
    return fused.slate.gather(1, places)


def relevance(points: Tensor) -> Tensor:
    """`(B, M)` in [0, 1]: the points over each user's range; -inf where there is no item."""
    there = points != -torch.inf
    low = points.masked_fill(~there, torch.inf).amin(1, keepdim=True)
    high = points.amax(1, keepdim=True)
    scaled = (points - low) / (high - low).clamp_min(1e-9)
    return scaled.masked_fill(~there, -torch.inf)


def mmr(relevance: Tensor, alike: Tensor, slate: int, weight: float) -> Tensor:
    """`(B, K)` places by maximal marginal relevance (Carbonell and Goldstein 1998).

    Next comes the item with the most (1 - weight) * relevance - weight * (its likeness to the likest one taken).
    """
    likest = torch.zeros_like(relevance)
    out, chosen = relevance == -torch.inf, []
    worth = (1.0 - weight) * relevance.masked_fill(out, 0.0)
    taken = 2.0 * out  # what is no item comes after all that is, and what is taken after that
    for _ in range(slate):
        best = _first_best(worth - weight * likest - 4.0 * taken)
        chosen.append(best)
        taken = taken.scatter(1, best, 4.0)
        likest = torch.maximum(likest, _row(alike, best))
    return torch.cat(chosen, dim=1)


def dpp(relevance: Tensor, alike: Tensor, slate: int, weight: float) -> Tensor:
    """`(B, K)` places by greedy maximum a posteriori inference of a determinantal point process.

    The kernel is q_i S_ij q_j with S the likeness and q = exp(relevance * (1 - weight) / weight). Each item that is
    taken leaves the others the part of their volume that is at right angles to it (Chen, Zhang, Zhou 2018, alg. 1).
    """
    if weight == 0.0:
        return torch.arange(slate, device=relevance.device).expand(len(relevance), -1)
    out = relevance == -torch.inf
    log_quality = relevance.masked_fill(out, 0.0) * ((1.0 - weight) / weight)
    volume = alike.diagonal(dim1=1, dim2=2).clamp_min(FLAT).clone()
    parts: list[Tensor] = []
    taken, chosen = LAST * out, []
    for _ in range(slate):
        best = _first_best(2.0 * log_quality + volume.clamp_min(FLAT).log() - taken)
        chosen.append(best)
        taken = taken.scatter(1, best, 2.0 * LAST)
        row = _row(alike, best)
        for part in parts:
            row = row - part.gather(1, best) * part
        row = row / volume.gather(1, best).clamp_min(FLAT).sqrt()
        parts.append(row)
        volume = volume - row.square()
    return torch.cat(chosen, dim=1)


def _row(alike: Tensor, place: Tensor) -> Tensor:
    """`(B, M)`: the likeness of all items to the one at `place` `(B, 1)`."""
    return alike.gather(1, place[:, :, None].expand(-1, -1, alike.shape[2]))[:, 0]


def _first_best(values: Tensor) -> Tensor:
    """`(B, 1)`: the first place of the greatest value."""
    return (values == values.amax(1, keepdim=True)).int().argmax(1, keepdim=True)
