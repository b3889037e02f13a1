"""Training the transformer of a sequence: from item vectors that know something already, to one that reads an order.

    logs  ->  sequences, cut into windows (W, L)  ->  at each place, a like that came soon after  ->  cross-entropy
          ->  epochs, judged on the latest likes  ->  the best number of them  ->  trained again on all the logs

What is predicted at a place is not only the next like but one of those soon after, drawn anew each epoch (as the dense
all-action loss of Pancha et al. 2022, "PinnerFormer"): with few users the very next one is mostly chance. Rows of one
user and one time are put in another order each epoch, so that nothing is learned from how a source sorts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..platform.errors import InputError
from ..platform.logs import Logs
from ..platform.settings import SequenceSettings
from ..platform.threads import torch_threads
from .attention import Weights, encoded, untrained
from .tower import PAD

SOON = 10.0
"""Mean number of likes between a place and the one that it predicts."""

BATCH = 32
"""Windows in a step."""

NEGATIVES = 512
"""Items that a like is held against in a step; all of them where they are fewer than twice as many."""

LEARNING_RATE = 3e-3
BETAS = (0.9, 0.98)

MEMORY = 1000
"""Steps that the averaged weights remember, or a tenth of those done where that is less: single steps are noisy."""

START = 0.7
"""Root mean square length of the item vectors at the start."""


class Windows(NamedTuple):
    """An epoch's examples: items, how much each was liked, and what to predict there, `(W, L)`; PAD where nothing."""

    items: Tensor
    liked: Tensor
    targets: Tensor


def trained(
    logs: Logs, start: NDArray[np.float32], settings: SequenceSettings, epochs: int, seed: int
) -> Iterator[Weights]:
    """The model after each of `epochs`; the same tensors, which go on changing. Copy what is to be kept.

    Its weights are an exponential average over the steps (Polyak and Juditsky 1992).

    Args:
        logs: what to learn from, at least one like.
        start: `(N, d)` item vectors of root mean square length 1, which the model begins with.
        settings: the model's size and dropout.
        epochs: times that the logs are read.
        seed: equal seeds give equal models.

    Raises:
        InputError: the width cannot be shared out among the heads.
    """
    width = start.shape[1]
    if width % settings.heads:
        raise InputError(f"agents.sequence.heads={settings.heads} does not divide the model's width {width}")
    generator = torch.Generator().manual_seed(int(np.random.default_rng([seed, *b"transformer"]).integers(2**62)))
    length = min(settings.length, max(1, int(np.bincount(logs.users).max())))
    weights = untrained(START * torch.from_numpy(start), length, settings.layers, settings.heads, generator)
    candidates = torch.from_numpy(np.unique(logs.items[logs.positive]))
    optimizer = torch.optim.Adam(weights.values(), lr=LEARNING_RATE, betas=BETAS)

    def drop(tensor: Tensor) -> Tensor:
        kept = torch.rand(tensor.shape, generator=generator) >= settings.dropout
        return tensor * kept / (1 - settings.dropout)

    averages = {name: tensor.detach().clone() for name, tensor in weights.items()}
    done = 0
    for epoch in range(epochs):
        with torch_threads(1):
            examples = windows(logs, length, np.random.default_rng([seed, *b"windows", epoch]))
            for step in range(0, len(examples.items), BATCH):
                batch = Windows(*(part[step : step + BATCH] for part in examples))
                if bool((batch.targets != PAD).any()):
                    optimizer.zero_grad()
                    _loss(weights, batch, candidates, drop, generator).backward()
                    optimizer.step()
                    done += 1
                    share = 1 / min(MEMORY, 1 + done / 10)
                    for name, average in averages.items():
                        average.lerp_(weights[name].detach(), share)
        yield averages


def windows(logs: Logs, length: int, random: np.random.Generator) -> Windows:
    """The users' sequences cut into pieces of `length` from a place drawn for each user, in a shuffled order."""
    order = np.lexsort((random.permutation(len(logs)), logs.timestamps, logs.users))
    users, items = logs.users[order], logs.items[order]
    counts = np.bincount(users, minlength=logs.num_users)
    place = np.arange(len(users)) - (np.cumsum(counts) - counts)[users]
    shift = random.integers(0, length, logs.num_users) * (counts > length)
    piece = (place + shift[users]) // length
    _, window, sizes = np.unique(users * (piece.max() + 1) + piece, return_inverse=True, return_counts=True)
    column = np.arange(len(users)) - (np.cumsum(sizes) - sizes)[window] + (length - sizes)[window]
    row = random.permutation(len(sizes))[window]
    shape = (len(sizes), length)
    found = Windows(torch.full(shape, PAD), torch.zeros(shape), torch.full(shape, PAD))
    found.items[row, column] = torch.from_numpy(items)
    found.liked[row, column] = torch.from_numpy(logs.weights[order])
    found.targets[row, column] = torch.from_numpy(_likes_soon_after(users, items, logs.positive[order], random))
    return found


def _likes_soon_after(
    users: NDArray[np.int64], items: NDArray[np.int64], positive: NDArray[np.bool_], random: np.random.Generator
) -> NDArray[np.int64]:
    """`(n,)`: for each of the rows in order, an item that its user liked later; PAD where the draw is past the end."""
    likes = np.flatnonzero(positive)
    steps = np.floor(random.exponential(SOON, len(users))).astype(np.int64)
    drawn = np.searchsorted(likes, np.arange(len(users)), side="right") + steps
    rows = likes[np.minimum(drawn, len(likes) - 1)]
    return np.where((drawn < len(likes)) & (users[rows] == users), items[rows], PAD)


def _loss(
    weights: Weights,
    batch: Windows,
    candidates: Tensor,
    drop: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Cross-entropy of the targets among all candidates, or among a sample of them that stands for all.

    A uniform sample's scores are raised by log(candidates / sample), so that its sum is that of all (Jean et al. 2015).
    """
    asked = batch.targets != PAD
    states, targets = encoded(weights, batch.items, batch.liked, drop)[asked], batch.targets[asked]
    if len(candidates) < 2 * NEGATIVES:
        return cross_entropy(states @ weights["items"][candidates].T, torch.searchsorted(candidates, targets))
    sample = candidates[torch.randint(len(candidates), (NEGATIVES,), generator=generator)]
    others = states @ weights["items"][sample].T + math.log(len(candidates) / NEGATIVES)
    others = others.masked_fill(sample == targets[:, None], -torch.inf)
    own = (states * weights["items"][targets]).sum(1, keepdim=True)
    return cross_entropy(torch.cat([own, others], dim=1), torch.zeros(len(targets), dtype=torch.int64))
