"""What a response model knows of items and users apart from their factors: content, attributes, history statistics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..agents.features import attribute_flags
from ..platform.logs import Logs

COMPONENTS = 64
"""Principal components kept of the items' content embeddings."""

PRIOR_RATINGS = 5.0
"""Ratings' worth of the average in each item's and each user's mean rating."""


@dataclass(frozen=True)
class UserInputs:
    """What U users did, in numbers.

    Attributes:
        statistics: `(U, 2)` log activity and mean rating, standardised; 0 for a user without a history.
        liked_sum: `(U, e)` sum of the features of the items a user liked.
        liked_count: `(U,)` how many those are.
    """

    statistics: Tensor
    liked_sum: Tensor
    liked_count: Tensor

    @property
    def size(self) -> int:
        """Numbers a user."""
        return self.statistics.shape[1] + self.liked_sum.shape[1]

    def rows(self, users: Tensor, without: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """`(n, 2 + e)` statistics and mean liked features of `users` `(n,)`.

        `without` `(n, e)` are features to leave out of the mean where `labels` `(n,)` is 1: were a pair that a model
        learns from part of the user's features, the model would only learn to find it there.
        """
        total, count = self.liked_sum[users], self.liked_count[users]
        if without is not None and labels is not None:
            total, count = total - labels[:, None] * without, count - labels
        return torch.cat([self.statistics[users], total / count.clamp(min=1)[:, None]], 1)


def user_inputs(logs: Logs, items: Tensor) -> UserInputs:
    """The users' inputs from `logs`, with `items` `(N, e)` from `item_inputs`."""
    counts = np.bincount(logs.users, minlength=logs.num_users).astype(np.float64)
    known = counts > 0
    mean = shrunk_mean(logs.users, logs.ratings, logs.num_users)
    statistics = np.zeros((logs.num_users, 2))
    statistics[known] = np.stack([standardised(np.log(counts[known])), standardised(mean[known])], 1)
    liked = logs.positive
    pairs = np.unique(np.stack([logs.users[liked], logs.items[liked]]), axis=1)
    matrix = sp.csr_matrix((np.ones(pairs.shape[1]), pairs), shape=(logs.num_users, logs.num_items))
    return UserInputs(
        torch.from_numpy(statistics).float(),
        torch.from_numpy(matrix @ items.numpy().astype(np.float64)).float(),
        torch.from_numpy(np.bincount(pairs[0], minlength=logs.num_users)).float(),
    )


def item_inputs(logs: Logs, embeddings: NDArray[np.floating] | None) -> Tensor:
    """`(N, e)` float32 item features: principal components of `embeddings` `(N, m)`, then the attributes as 0 and 1.

    Columns are centred; each of the two groups is scaled to rows of length 1 on average. With neither, e is 0.
    """
    groups = [] if embeddings is None else [_components(np.asarray(embeddings, np.float64))]
    flags, _ = attribute_flags(logs)
    groups.append(flags - flags.mean(0))
    lengths = [np.sqrt(np.square(group).sum(1).mean()) for group in groups]
    scaled = [group / length for group, length in zip(groups, lengths, strict=True) if length > 1e-9]
    return torch.from_numpy(np.concatenate([np.empty((logs.num_items, 0)), *scaled], 1)).float()


def shrunk_mean(index: NDArray[np.int64], ratings: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """`(size,)` mean rating of each user or item, in stars above the mean of all, with `PRIOR_RATINGS` at that mean."""
    given = ~np.isnan(ratings)
    if not given.any():
        return np.zeros(size)
    stars = ratings[given].astype(np.float64)
    sums = np.bincount(index[given], stars - stars.mean(), minlength=size)
    return sums / (np.bincount(index[given], minlength=size) + PRIOR_RATINGS)


def standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean 0 and standard deviation 1; all 0 where the values do not differ."""
    spread = values.std() if len(values) else 0.0
    return (values - values.mean()) / spread if spread > 1e-9 else np.zeros_like(values)


def _components(features: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = features - features.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return centred @ vectors[:, ::-1][:, :COMPONENTS]
