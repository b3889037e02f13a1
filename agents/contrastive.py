"""A projection of item features that puts together what the same users like.

    features (N, m)  --principal axes, part whitened-->  C  --C @ W, unit rows-->  vectors V (N, d)
    a user's likes without one of them  -->  query, the mean of their vectors  -->  softmax over V  -->  the one left

The loss is the cross-entropy of the item left out among the catalog (InfoNCE, van den Oord et al. 2018, with all items
as negatives), so the vectors also learn which kinds of items are liked much. Only W is learned, from the principal axes
on; features are dropped at random and W is drawn to its start, so that an item nobody has met is placed by what its
features say.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from ..platform.threads import torch_threads
from .profiles import SEEN_WEIGHT
from .tower import PAD, History

STEPS = 200
BATCH = 256
LEARNING_RATE = 3e-3
TEMPERATURE = 0.1
PULL = 1e-3
"""Penalty on the squared distance of W from its start."""

FEATURE_DROPOUT = 0.3
HISTORY_DROPOUT = 0.3

MOST_ITEMS = 16_384
"""At most so many items are told apart in a step: those of the batch, and others drawn."""


class Projection(NamedTuple):
    """From features to a vector: `normalize((x - centre) @ map)`. `centre` `(m,)`, `map` `(m, d)`."""

    centre: Tensor
    map: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """`(n, d)` unit vectors of `features` `(n, m)`."""
        return normalize((features - self.centre) @ self.map, dim=1)


def principal_axes(features: Tensor, factors: int) -> Projection:
    """The first principal axes of `features` `(n, m)`, each divided by the square root of its standard deviation."""
    centre = features.mean(0)
    _, sizes, axes = torch.linalg.svd((features - centre).double(), full_matrices=False)
    deviations = (sizes / len(features) ** 0.5).clamp_min(1e-3)
    # The largest entry of an axis is positive, so that the same features always give the same axes.
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    rotated = (signs * axes).T / deviations.sqrt()
    return Projection(centre, rotated[:, :factors].float().contiguous())


def learn_projection(features: Tensor, present: Tensor, history: History, factors: int, seed: int) -> Projection:
    """Learns W on what users like. The same arguments give the same projection.

    Args:
        features: `(N, m)` of the items, `m >= 1`.
        present: `(N,)` which items have features and are met by a user; the others are neither told apart nor read.
        history: of the users, `(U, L)`; a weight of a half or more is a like.
        factors: d, at most m.
        seed: of the users drawn, and of what is dropped.
    """
    with torch_threads(1):
        everything = principal_axes(features[present], features.shape[1])
        rotated = ((features - everything.centre) @ everything.map) * present[:, None]
        weights = _learn(rotated, present, history, min(factors, everything.map.shape[1]), seed)
        return Projection(everything.centre, everything.map @ weights)


def _learn(rotated: Tensor, present: Tensor, history: History, factors: int, seed: int) -> Tensor:
    """W `(m, d)`."""
    draw = torch.Generator().manual_seed(seed)
    start = torch.eye(rotated.shape[1], factors)
    weights, sharpness = start.clone().requires_grad_(), torch.zeros((), requires_grad=True)
    known = (history.items != PAD) & present[history.items.clamp_min(0)]
    liked = (history.weights >= 0.5) & known
    users = torch.nonzero(liked.sum(1) >= 2).flatten()
    if not len(users):
        return start
    optimiser = torch.optim.Adam([weights, sharpness], lr=LEARNING_RATE)
    for _ in range(STEPS):
        batch = users[torch.randint(len(users), (BATCH,), generator=draw)]
        left_out = torch.multinomial(liked[batch].float(), 1, generator=draw)
        kept = torch.rand(known[batch].shape, generator=draw) >= HISTORY_DROPOUT
        read = ((history.weights[batch] + SEEN_WEIGHT) * known[batch] * kept).scatter(1, left_out, 0.0)
        items = history.items[batch].clamp_min(0)
        features = (torch.rand(rotated.shape[1], generator=draw) >= FEATURE_DROPOUT) / (1 - FEATURE_DROPOUT)
        rivals = _rivals(present, items.gather(1, left_out).flatten(), draw)
        vectors = normalize((rotated * features) @ weights, dim=1)
        query = normalize((read[:, :, None] * vectors[items]).sum(1), dim=1)
        logits = query @ vectors[rivals].T * sharpness.exp() / TEMPERATURE
        target = torch.searchsorted(rivals, items.gather(1, left_out).flatten())
        loss = cross_entropy(logits, target) + PULL * (weights - start).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return weights.detach()


def _rivals(present: Tensor, wanted: Tensor, draw: torch.Generator) -> Tensor:
    """Ascending item indices: all that are present, or where those are too many the wanted ones and some drawn."""
    candidates = torch.nonzero(present).flatten()
    if len(candidates) > MOST_ITEMS:
        drawn = candidates[torch.randint(len(candidates), (MOST_ITEMS,), generator=draw)]
        candidates = torch.cat([drawn, wanted]).unique()
    return candidates
