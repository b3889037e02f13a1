"""Generalised advantage estimation on whole tensors (Schulman et al. 2016, eq. 16)."""

from __future__ import annotations

import torch
from torch import Tensor


def generalised_advantages(
    rewards: Tensor, values: Tensor, next_values: Tensor, ends: Tensor, gamma: float, lambda_: float
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets of B rows of T steps.

    Args:
        rewards, values: `(B, T)` float32.
        next_values: `(B, T)` float32, the value of the state after each step, before any reset; 0 where it is terminal.
        ends: `(B, T)` bool, the session ended with this step: nothing flows back over it.
        gamma: discount a step, in [0, 1].
        lambda_: in [0, 1]; 0 is the one-step error, 1 the Monte Carlo return.

    Returns:
        advantages `(B, T)`, and targets `(B, T)` = advantages + values.
    """
    delta = rewards + gamma * next_values - values
    carry = gamma * lambda_ * (~ends).to(delta.dtype)
    advantages = torch.empty_like(delta)
    following = torch.zeros_like(delta[:, 0])
    for step in range(delta.shape[1] - 1, -1, -1):
        following = delta[:, step] + carry[:, step] * following
        advantages[:, step] = following
    return advantages, advantages + values
