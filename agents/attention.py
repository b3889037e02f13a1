"""Reading a history by self-attention: the forward pass of a SASRec, and the profile kind made of it.

    items, weights (B, L)  ->  aligned to the end  ->  vectors (B, L, d)  ->  causal blocks  ->  (B, L, d)  ->  the last

Kang and McAuley 2018, "Self-attentive sequential recommendation". Here positions are counted from the end, how much an
interaction was liked enters beside the item, and the blocks normalise first (Xiong et al. 2020). A model is a dict of
tensors and nothing else: training and serving call the same function.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import embedding, gelu, layer_norm, pad

from ..platform.ranking import rows_matmul
from .tower import PAD, History, Tower

Weights = dict[str, Tensor]
"""By name: `items` `(N, d)`, `liked` `(d,)`, `places` `(L, d)`, `attend` `(layers, 3, heads, d, d / heads)`, `mix`
`(layers, d, d)`, `widen` `(layers, d, 2 d)`, `narrow` `(layers, 2 d, d)`, `norms` `(layers, 2, d)`, `last` `(d,)`."""

WIDER = 2
"""Width of a block's hidden layer, in widths of the model."""


def unchanged(tensor: Tensor) -> Tensor:
    """What stands in place of dropout when serving."""
    return tensor


def attention(tower: Tower, history: History) -> Tensor:
    """The encoding of the history's last interaction, which has read those before it; zeros for an empty history.

    Extras: what `Weights` names but `items`; those are the tower's item vectors times the extra `size`, a scalar.
    """
    weights = {**tower.extras, "items": tower.item_vectors * tower.extras["size"]}
    items, liked = aligned(history, len(weights["places"]))
    return encoded(weights, items, liked)[:, -1]


def aligned(history: History, length: int) -> tuple[Tensor, Tensor]:
    """`(B, length)` twice: the latest items and how much they were liked, the newest in the last place, PAD before."""
    order = (history.items != PAD).int().argsort(dim=1, stable=True)
    items = pad(history.items.gather(1, order), (length, 0), value=PAD)
    liked = pad(history.weights.gather(1, order), (length, 0))
    return items[:, -length:], liked[:, -length:]


def encoded(weights: Weights, items: Tensor, liked: Tensor, drop: Callable[[Tensor], Tensor] = unchanged) -> Tensor:
    """What each place has read up to itself, `(B, L, d)`: `encoded @ items.T` scores what comes next.

    Args:
        weights: the model.
        items: `(B, L)`, PAD where there is none.
        liked: `(B, L)` in [0, 1].
        drop: dropout, applied where SASRec does.
    """
    rows, length = items.shape
    width = weights["items"].shape[1]
    present = items != PAD
    inputs = embedding(items.clamp_min(0), weights["items"]) + liked[:, :, None] * weights["liked"]
    state = drop(math.sqrt(width) * (inputs + weights["places"][-length:]) * present[:, :, None])
    # A place reads itself whatever is there, so that no place reads nothing. Nothing is zeros, and stays so: no biases.
    causal = torch.ones(length, length, dtype=torch.bool, device=items.device).tril()
    readable = (causal & present[:, None, :]) | torch.eye(length, dtype=torch.bool, device=items.device)
    for layer in range(len(weights["mix"])):
        seen = layer_norm(state, (width,)) * weights["norms"][layer, 0]
        query, key, value = (seen[:, None] @ weights["attend"][layer, part] for part in range(3))
        logits = query @ key.mT / math.sqrt(query.shape[-1])
        shares = logits.masked_fill(~readable[:, None], -torch.inf).softmax(-1)
        heads = (drop(shares) @ value).transpose(1, 2).reshape(rows * length, width)
        state = state + drop(rows_matmul(heads, weights["mix"][layer]).view_as(state))
        seen = layer_norm(state, (width,)) * weights["norms"][layer, 1]
        hidden = gelu(rows_matmul(seen.flatten(0, 1), weights["widen"][layer]))
        state = state + drop(rows_matmul(hidden, weights["narrow"][layer]).view_as(state))
    return layer_norm(state, (width,)) * weights["last"]


def untrained(items: Tensor, length: int, layers: int, heads: int, generator: torch.Generator) -> Weights:
    """A model to train from, around item vectors `(N, d)`; a block starts as little more than nothing."""
    width = items.shape[1]

    def normal(*shape: int, size: float) -> Tensor:
        return size * torch.randn(*shape, generator=generator)

    weights = {
        "items": items.clone(),
        "liked": normal(width, size=0.02),
        "places": normal(length, width, size=0.02),
        "attend": normal(layers, 3, heads, width, width // heads, size=width**-0.5),
        "mix": normal(layers, width, width, size=0.5 * width**-0.5),
        "widen": normal(layers, width, WIDER * width, size=width**-0.5),
        "narrow": normal(layers, WIDER * width, width, size=0.5 * (WIDER * width) ** -0.5),
        "norms": torch.ones(layers, 2, width),
        "last": torch.ones(width),
    }
    return {name: tensor.requires_grad_() for name, tensor in weights.items()}
