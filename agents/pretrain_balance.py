"""How the losses of several tasks are added up to one: with fixed weights, or with weights that are learned.

    losses (A,) of K  --Balance.total-->  sum_k w_k L_k (+ what learning the weights adds)  --backward-->  new weights

`fixed`        w_k as set.
`uncertainty`  w_k times exp(-s_k), with s_k added to the loss: Kendall, Gal and Cipolla (2018), equation 10, with the
               factor 1/2 of regression left to the weights.
`gradient`     GradNorm: Chen et al. (2018), equations 1 and 2. The weights move so that a task's gradient at the
               trunk's last layer is of a size with the others', larger for a task that has learned less so far.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CATCH_UP = 0.5
"""GradNorm's alpha: how much more a task that lags is helped."""

PACE = 0.02
"""Learning rate of GradNorm's weights, in their logarithm, so that they stay above 0."""


class Balance(nn.Module):
    """Weights of K losses. Its state holds all that was learned."""

    def __init__(self, method: str, weights: Sequence[float]) -> None:
        super().__init__()
        self.method = method
        self.fixed: Tensor
        self.first: Tensor
        self.log_weights = nn.Parameter(torch.zeros(len(weights)), requires_grad=method == "uncertainty")
        self.register_buffer("fixed", torch.tensor(weights))
        self.register_buffer("first", torch.zeros(len(weights)))

    @property
    def weights(self) -> Tensor:
        """`(K,)`, all above 0 where the fixed ones are."""
        return self.fixed * self.log_weights.detach().exp()

    def total(self, losses: Tensor, places: Sequence[int], shared: Tensor) -> Tensor:
        """The one loss of `losses` `(A,)`, those in `places` of the K. `shared`: where gradients are compared."""
        chosen = list(places)
        if self.method == "uncertainty":
            logarithms = self.log_weights[chosen]
            return (self.fixed[chosen] * logarithms.exp() * losses - logarithms).sum()
        if self.method == "gradient":
            self._level(losses, chosen, shared)
        return (self.weights[chosen] * losses).sum()

    def _level(self, losses: Tensor, chosen: list[int], shared: Tensor) -> None:
        """One step of the weights on |G_k - mean G * r_k ^ alpha|, G_k = w_k |grad L_k|, then their sum restored."""
        first = self.first[chosen]
        self.first[chosen] = torch.where(first > 0, first, losses.detach().clamp_min(1e-6))
        norms = torch.stack([torch.autograd.grad(loss, shared, retain_graph=True)[0].norm() for loss in losses])
        left = losses.detach() / self.first[chosen]
        weights = self.weights[chosen]
        sizes = weights * norms
        wanted = sizes.mean() * (left / left.mean().clamp_min(1e-12)) ** CATCH_UP
        moved = weights * torch.exp(-PACE * torch.sign(sizes - wanted))
        with torch.no_grad():
            self.log_weights[chosen] = (moved * (weights.sum() / moved.sum()) / self.fixed[chosen]).log()
