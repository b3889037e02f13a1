"""How much an item appeals to a user: the classes of response model.

    interests of a user (M, d), an item's vector (d,)  ->  M matches  ->  one number

    M = 1      u . v                                  one taste, an inner product: what policies are trained with
    any        t log mean_m exp(u_m . v / t)          several tastes at once: an item need suit only one of them
    all       -t log mean_m exp(-u_m . v / t)         several demands at once: an item must meet each of them

No inner product of one user vector and one item vector can express the other two (Weston, Weiss, Yee 2013, "Nonlinear
latent factorization by embedding multiple user interests"), so a policy judged by them meets users of another kind.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Combine = Literal["any", "all"]


def matched(matches: Tensor, combine: Combine, temperature: float) -> Tensor:
    """`(...)`: one number from the matches `(..., M)`, in their units; the match itself where M is 1.

    `temperature` > 0: near 0 the best match counts alone (`any`), or the worst (`all`); far above, their mean.
    """
    count = matches.shape[-1]
    if count == 1:
        return matches[..., 0]
    sign = 1.0 if combine == "any" else -1.0
    soft = torch.logsumexp(matches * (sign / temperature), dim=-1) - math.log(count)
    return soft * (sign * temperature)


def shares(matches: Tensor, combine: Combine, temperature: float) -> Tensor:
    """`(..., M)`: the part each interest has in `matched`, summing to 1: its derivative."""
    sign = 1.0 if combine == "any" else -1.0
    return (matches * (sign / temperature)).softmax(dim=-1)


def of_items(interests: Tensor, vectors: Tensor, combine: Combine, temperature: float) -> Tensor:
    """`(B, K)`: appeal of items with `vectors` `(B, K, d)` to users with `interests` `(B, M * d)`."""
    width = vectors.shape[2]
    if interests.shape[1] == width:
        return (vectors * interests[:, None, :]).sum(2)
    split = interests.view(len(interests), 1, -1, width)
    return matched((vectors[:, :, None, :] * split).sum(3), combine, temperature)


def of_catalog(interests: Tensor, vectors: Tensor, combine: Combine, temperature: float) -> Tensor:
    """`(B, N)`: appeal of the whole catalog `(N, d)` to users with `interests` `(B, M * d)`."""
    width = vectors.shape[1]
    if interests.shape[1] == width:
        return interests @ vectors.t()
    matches = [part @ vectors.t() for part in interests.split(width, dim=1)]
    return matched(torch.stack(matches, dim=2), combine, temperature)
