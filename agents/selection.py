"""Static fusion weights for ranking: greedy ensemble selection, bagged.

    points (A, V, N) of each agent for V users  ->  add the agent that helps most, again and again  ->  weights (A,)
                                                ->  the mean over parts of the users

Caruana, Niculescu-Mizil, Crew and Ksikes 2004, "Ensemble selection from libraries of models": with replacement, so that
an agent taken three times weighs three times as much, stopped where the measure was best, and bagged, so that the
weights hang less on who is among the users.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..platform.fusion_rules import Ballots, rule_of
from .validation import ndcg

STEPS = 15
"""Agents added, in a bag."""

BAGS = 6
"""Random parts of the users that weights are found on."""

SHARE = 0.8
"""Of the users in such a part; in cross-validation better than a half (MovieLens, Amazon reviews)."""


def points_of(ballots: Ballots, method: str, num_items: int) -> Tensor:
    """What a rule that adds up points gives each item, `(A, V, N)` float32; 0 off a ballot. Fusing adds them up."""
    given = rule_of(method).function(ballots).masked_fill(~ballots.present, 0.0)
    users, agents, _ = given.shape
    points = given.new_zeros(users, agents, num_items + 1)
    places = torch.where(ballots.items < 0, num_items, ballots.items)
    return points.scatter_(2, places, given)[:, :, :num_items].transpose(0, 1).contiguous()


def bagged_weights(points: Tensor, liked: Tensor, seed: int) -> tuple[Tensor, float]:
    """The mean of the `greedy_weights` of `BAGS` random parts of the users, and the NDCG@10 it reaches on them all.

    Args:
        points: `(A, V, N)` float32 >= 0, see `points_of`.
        liked: `(V, N)` bool, at least one item a row; of users that the agents' fit did not know these likes of.
        seed: of the parts.
    """
    users, found = len(liked), []
    for bag in range(BAGS):
        draw = np.random.default_rng([seed, bag, *b"bag"]).permutation(users)
        part = torch.from_numpy(np.sort(draw[: max(1, round(SHARE * users))]))
        found.append(greedy_weights(points[:, part], liked[part]))
    weights = torch.stack(found).mean(0)
    return weights, float(ndcg(torch.einsum("a,avn->vn", weights, points), liked).mean())


def greedy_weights(points: Tensor, liked: Tensor, steps: int = STEPS) -> Tensor:
    """The weights `(A,)`, summing to 1, that rank best what the users like; `points` and `liked` as above."""
    counts = torch.zeros(len(points))
    best, best_counts = -1.0, counts
    total = torch.zeros_like(points[0])
    for _ in range(steps):
        reached = [float(ndcg(total + each, liked).mean()) for each in points]
        chosen = max(range(len(points)), key=reached.__getitem__)
        total = total + points[chosen]
        counts = counts + one_hot(torch.tensor(chosen), len(points))
        if reached[chosen] > best + 1e-12:
            best, best_counts = reached[chosen], counts
    return best_counts / best_counts.sum()
