"""How much alike two queries are: correlations of their scores over the catalog, from tables, without any scores.

Queries q_j, q_k of centred towers V_j, V_k have scores with the covariance q_j' (V_j' V_k / N) q_k.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..platform.ranking import rows_matmul


class Likeness:
    """The covariances of a team's towers.

    Args:
        centred: item vectors `(N, d_k)` of each tower, their mean taken off.
    """

    def __init__(self, centred: Sequence[Tensor]) -> None:
        self._own = [vectors.t() @ vectors / len(vectors) for vectors in centred]
        self._between = {
            (j, k): centred[j].t() @ centred[k] / len(centred[j])
            for j, k in itertools.combinations(range(len(centred)), 2)
        }

    def scaled(self, k: int, query: Tensor) -> Tensor:
        """A query `(B, d_k)` of tower k, so that its scores of the catalog have variance 1."""
        variance = (rows_matmul(query, self._own[k]) * query).sum(1, keepdim=True)
        return query / variance.clamp_min(1e-12).sqrt()

    def steadiness(self, queries: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
        """`(B, A)`: the correlation of each agent's scores under two queries of variance 1; 0 without one."""
        pairs = zip(queries, before, self._own, strict=True)
        alike = [(rows_matmul(now, covariance) * then).sum(1, keepdim=True) for now, then, covariance in pairs]
        return torch.cat(alike, dim=1)

    def agreement(self, queries: Sequence[Tensor]) -> Tensor:
        """`(B, A)`: the mean correlation of each agent's scores with those of the others; 0 for one alone."""
        others = max(1, len(queries) - 1)
        total = [torch.zeros(len(queries[0]), 1, device=queries[0].device) for _ in queries]
        for (j, k), covariance in self._between.items():
            alike = (rows_matmul(queries[j], covariance) * queries[k]).sum(1, keepdim=True)
            total[j], total[k] = total[j] + alike, total[k] + alike
        return torch.cat(total, dim=1) / others
