"""A transformer's last layers, taught that texts of things which the same users like belong together.

    texts, pairs (E, P, 2)  ->  tokens  ->  epochs of AdamW, each kept when it is done  ->  parameters  ->  Encoder

The loss is the cross-entropy of a text's partner among the partners of its batch, both ways (InfoNCE, van den Oord et
al. 2018, with in-batch negatives as in Reimers and Gurevych 2020, section 2), on unit vectors at a temperature. What
was learned is kept under a hash of all that it depends on; a run that is killed goes on after its last whole epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from .cache import cache_folder
from .draws import derive
from .encoder import Encoder
from .last_layers import Counter, FinetuneProgress, LastLayers, batches_by_length, keep, rate_at, resume
from .threads import all_cores, torch_threads

REPORT = 10
"""Batches between two reports of progress."""

_METHOD = "pairs 1"


@dataclass(frozen=True)
class PairRecipe:
    """How it is learned.

    Attributes:
        layers: how many of the last layers learn.
        learning_rate: the highest.
        batch: pairs a step, each one the others' negatives.
        max_tokens: longer texts are cut.
        warm_up: share of the steps in which the rate rises.
        temperature: of the cosines.
        weight_decay: of AdamW (Loshchilov and Hutter 2019).
        clip: longest gradient.
    """

    layers: int
    learning_rate: float = 1e-4
    batch: int = 32
    max_tokens: int = 64
    warm_up: float = 0.1
    temperature: float = 0.07
    weight_decay: float = 0.01
    clip: float = 1.0


@dataclass(frozen=True)
class Pairs:
    """Texts that belong together.

    Attributes:
        texts: n of them.
        things: `(n,)` which thing each text tells of; two texts of one thing are never told apart.
        rows: `(E, P, 2)` places of texts, for each of E epochs.
    """

    texts: Sequence[str]
    things: NDArray[np.int64]
    rows: NDArray[np.int64]


def finetune_pairs(
    encoder: Encoder, pairs: Pairs, recipe: PairRecipe, seed: int, progress: FinetuneProgress | None = None
) -> Encoder:
    """An encoder whose last layers have read the pairs; the one given is left as it is.

    Learned with every core of the CPU, or on the GPU: equal numbers on an equal machine. Kept in `finetuned` of the
    encoder's cache folder.

    Raises:
        InputError: the model or the cache cannot be used.
    """
    with torch.random.fork_rng():
        layers = LastLayers(encoder, recipe.layers, recipe.max_tokens)
    path = cache_folder(encoder.settings.cache) / "finetuned" / f"{_key(encoder, pairs, recipe, seed)}.st"
    path.parent.mkdir(exist_ok=True)
    optimizer = torch.optim.AdamW(
        list(layers.learned.values()), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    done, (epochs, number, _) = resume(path, layers.learned, optimizer), pairs.rows.shape
    if done < epochs:
        counter = Counter(2 * number * epochs, 2 * number * done, 2 * REPORT * recipe.batch, progress)
        tokens = layers.tokens(pairs.texts)
        for epoch in range(done, epochs):
            with torch_threads(all_cores()), torch.random.fork_rng():
                torch.manual_seed(derive(seed, epoch))  # the model's own dropout draws from the global generator
                _epoch(layers, optimizer, tokens, pairs, recipe, (seed, epoch), counter)
            keep(path, layers.learned, optimizer, epoch + 1, epoch + 1 == epochs)
    learned = {name: tensor.detach().cpu().clone() for name, tensor in layers.learned.items()}
    return Encoder(encoder.settings, encoder.learned | learned)


def pair_loss(first: Tensor, second: Tensor, same: Tensor, temperature: float) -> Tensor:
    """Scalar: how badly each of b vectors `(b, dim)` finds its partner among the others', both ways.

    `same` `(b, b)`: where the partner in the column tells of the very thing of another's partner, and is no negative.
    """
    logits = normalize(first, dim=1) @ normalize(second, dim=1).T / temperature
    target = torch.arange(len(first), device=first.device)
    others = same & ~torch.eye(len(first), dtype=torch.bool, device=first.device)
    logits = logits.masked_fill(others, float("-inf"))
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def _epoch(
    layers: LastLayers,
    optimizer: torch.optim.Optimizer,
    tokens: Sequence[list[int]],
    pairs: Pairs,
    recipe: PairRecipe,
    place: tuple[int, int],
    counter: Counter,
) -> None:
    """Reads every pair of the epoch once, in an order that depends on the seed and the epoch of `place` alone."""
    seed, epoch = place
    rows = pairs.rows[epoch]
    lengths = [max(len(tokens[one]), len(other)) for one, other in ((a, tokens[b]) for a, b in rows.tolist())]
    batches = list(batches_by_length(lengths, recipe.batch, derive(seed, epoch)))
    layers.model.train()
    for step, batch in enumerate(batches, epoch * len(batches)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate_at(step, len(batches) * len(pairs.rows), recipe.warm_up)
        first, second = (layers.pooled([tokens[row] for row in side.tolist()]) for side in rows[batch].T)
        things = torch.from_numpy(pairs.things[rows[batch]]).to(first.device)
        same = (things[:, None, 1] == things[None, :, 1]) | (things[:, None, 0] == things[None, :, 0])
        loss = pair_loss(first, second, same | same.T, recipe.temperature)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(layers.learned.values(), recipe.clip)
        optimizer.step()
        counter.add(2 * len(batch))
    layers.model.eval()


def _key(encoder: Encoder, pairs: Pairs, recipe: PairRecipe, seed: int) -> str:
    digest = hashlib.sha256(f"{_METHOD}\0{encoder.fingerprint}\0{astuple(recipe)}\0{seed}\0".encode())
    for text in pairs.texts:
        content = text.encode("utf-8", "replace")
        digest.update(len(content).to_bytes(8, "little") + content)
    digest.update(pairs.things.tobytes() + repr(pairs.rows.shape).encode() + pairs.rows.tobytes())
    return digest.hexdigest()[:32]
