"""How the losses of several tasks are added up to one: with fixed weights, or with weights that are learned.

    losses (K,)  --Balance.total-->  sum_k w_k L_k (+ what learning the weights adds)  --backward, step-->  new weights

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

    def total(self, losses: Tensor, shared: Tensor) -> Tensor:
        """The one loss of `losses` `(K,)`; `shared` is the parameter where gradients are compared."""
        if self.method == "uncertainty":
            return (self.fixed * self.log_weights.exp() * losses - self.log_weights).sum()
        if self.method == "gradient":
            self._level(losses, shared)
        return (self.weights * losses).sum()

    def _level(self, losses: Tensor, shared: Tensor) -> None:
        """One step of the weights on |G_k - mean G * r_k ^ alpha|, G_k = w_k |grad L_k|, then their sum restored."""
        if not self.first.any():
            self.first.copy_(losses.detach().clamp_min(1e-6))
        norms = torch.stack([torch.autograd.grad(loss, shared, retain_graph=True)[0].norm() for loss in losses])
        left = losses.detach() / self.first
        sizes = self.weights * norms
        wanted = sizes.mean() * (left / left.mean().clamp_min(1e-12)) ** CATCH_UP
        with torch.no_grad():
            self.log_weights -= PACE * torch.sign(sizes - wanted)
            self.log_weights -= (self.weights.sum() / self.fixed.sum()).log()
