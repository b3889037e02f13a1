"""Rules that give every place of a ballot its points, and what brings the agents' scores to one scale before.

The points of an item are summed over the agents, each times the agent's weight; an item that an agent does not name
has none from it. r is the rank from 1, n the length of the ballot, s the score, N(i) how many agents name item i.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from .fusion_rules import Ballots, places, points_rule

RRF_K = 60.0
"""The constant of reciprocal rank fusion (Cormack, Clarke, Buettcher 2009)."""

OFF_BALLOT = 0.05
"""The part of an agent's belief that it leaves to items off its ballot, each of which has an n-th of it."""

# --- one scale


def _floor(ballots: Ballots) -> Tensor:
    """`(B, A, 1)`: a ballot's lowest score, that of its last filled place."""
    last = ballots.present.sum(2, keepdim=True).sub_(1).clamp_min_(0)
    return ballots.scores.gather(2, last)


def _mean(ballots: Ballots, values: Tensor) -> Tensor:
    count = ballots.present.sum(2, keepdim=True).clamp_min(1)
    return values.masked_fill(~ballots.present, 0.0).sum(2, keepdim=True) / count


def _z_score(ballots: Ballots) -> Tensor:
    """(s - mean) / standard deviation over the ballot; 0 where all scores are alike."""
    apart = ballots.scores - _mean(ballots, ballots.scores)
    spread = _mean(ballots, apart.square()).sqrt()
    return apart / spread.clamp_min(1e-9)


def _min_max(ballots: Ballots) -> Tensor:
    """(s - least) / (most - least) over the ballot, in [0, 1]; 1 where all scores are alike."""
    low = _floor(ballots)
    high = ballots.scores.masked_fill(~ballots.present, -torch.inf).amax(2, keepdim=True)
    reach = high - low
    return torch.where(reach > 1e-9, (ballots.scores - low) / reach.clamp_min(1e-9), torch.ones_like(ballots.scores))


def _rank(ballots: Ballots) -> Tensor:
    """1 - (r - 1) / n, n the items on the ballot (Renda and Straccia 2003); best 1."""
    count = ballots.present.sum(2, keepdim=True).clamp_min(1)
    return 1.0 - (places(ballots) - 1.0) / count


def _sigmoid(ballots: Ballots) -> Tensor:
    """1 / (1 + exp(-z)), z the z-score; in (0, 1), which dampens what stands out."""
    return torch.sigmoid(_z_score(ballots))


Normalise = Literal["none", "z_score", "min_max", "rank", "sigmoid"]

NORMALISE: dict[str, Callable[[Ballots], Tensor]] = {
    "none": lambda ballots: ballots.scores,
    "z_score": _z_score,
    "min_max": _min_max,
    "rank": _rank,
    "sigmoid": _sigmoid,
}
"""From ballots to scores `(B, A, n)` on one scale, by each ballot's filled places alone."""

# --- weighted by scores


@points_rule("weighted", scored=True)
def weighted(ballots: Ballots) -> Tensor:
    """s - (the ballot's lowest s): a weighted sum in which an item off a ballot has the most it can have had there."""
    return ballots.scores - _floor(ballots)


@points_rule("comb_sum", scored=True)
def comb_sum(ballots: Ballots) -> Tensor:
    """s; an item off the ballot has 0 (Fox and Shaw 1994, CombSUM)."""
    return ballots.scores


@points_rule("comb_mnz", scored=True, finish=lambda total, count: total * count)
def comb_mnz(ballots: Ballots) -> Tensor:
    """N(i) * sum of s (Fox and Shaw 1994, CombMNZ)."""
    return ballots.scores


@points_rule("comb_anz", scored=True, finish=lambda total, count: total / count)
def comb_anz(ballots: Ballots) -> Tensor:
    """The sum of s / N(i) (Fox and Shaw 1994, CombANZ)."""
    return ballots.scores


def _belief(ballots: Ballots) -> Tensor:
    """log p(i) - log p(an item off the ballot), at least 0; p the softmax of the scores less `OFF_BALLOT` for the rest.

    On this scale an item that an agent does not name has exactly 0.
    """
    known = ballots.scores.masked_fill(~ballots.present, -torch.inf)
    top = known.amax(2, keepdim=True).nan_to_num(neginf=0.0)
    mass = (known - top).exp().sum(2, keepdim=True).clamp_min(1e-30)
    count = ballots.present.sum(2, keepdim=True).clamp_min(1)
    ratio = (1.0 - OFF_BALLOT) / OFF_BALLOT * count / mass
    return (ballots.scores - top + ratio.log()).clamp_min(0.0)


@points_rule("log_opinion_pool", scored=True)
def log_opinion_pool(ballots: Ballots) -> Tensor:
    """sum of w log p(i): a geometric mean of the agents' beliefs with the weights as exponents (Genest, Zidek 1986)."""
    return _belief(ballots)


@points_rule("product_of_experts", scored=True, weighted=False)
def product_of_experts(ballots: Ballots) -> Tensor:
    """sum of log p(i): every agent with a weight above 0 is an expert, and all count alike (Hinton 2002)."""
    return _belief(ballots)


# --- by ranks


@points_rule("reciprocal_rank")
def reciprocal_rank(ballots: Ballots) -> Tensor:
    """1 / (60 + r) (Cormack, Clarke, Buettcher 2009)."""
    return (1.0 / (RRF_K + places(ballots))).expand(ballots.items.shape)


@points_rule("isr", finish=lambda total, count: total * count)
def isr(ballots: Ballots) -> Tensor:
    """N(i) * sum of 1 / r^2 (Mourao, Martins, Magalhaes 2014, inverse square rank)."""
    return places(ballots).square().reciprocal().expand(ballots.items.shape)


@points_rule("log_isr", finish=lambda total, count: total * count.log())
def log_isr(ballots: Ballots) -> Tensor:
    """log N(i) * sum of 1 / r^2 (ibid., logISR): an item that one agent alone names has nothing."""
    return places(ballots).square().reciprocal().expand(ballots.items.shape)


@points_rule("borda")
def borda(ballots: Ballots) -> Tensor:
    """n - r + 1; an item off the ballot has 0 (Borda 1781)."""
    return places(ballots).flip(0).expand(ballots.items.shape)


@points_rule("approval")
def approval(ballots: Ballots) -> Tensor:
    """1 for every item on the ballot (Brams and Fishburn 1978)."""
    return torch.ones_like(ballots.scores)
