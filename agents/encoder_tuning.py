"""The content tower's encoder, taught by what users like together.

    likes of one user  ->  two of them, again and again  ->  a text of each item  ->  finetune_pairs  ->  Encoder

A text of an item is its own, or a review of it that someone other than that user wrote: else the encoder would learn
who writes how. `logs` must be the train part.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..platform.draws import derive
from ..platform.encoder import EncodeProgress, Encoder
from ..platform.errors import InputError
from ..platform.finetune_pairs import PairRecipe, Pairs, finetune_pairs
from ..platform.logs import Logs
from ..platform.settings import ContentSettings
from .features import item_text
from .reviews import rows_to_read

_STREAM = 0x7E47


def tuned_encoder(
    logs: Logs,
    settings: ContentSettings,
    encoder: Encoder,
    max_reviews: int,
    seed: int,
    progress: EncodeProgress | None = None,
) -> Encoder:
    """A copy of the encoder whose last `settings.layers` layers have learned what is liked together.

    Raises:
        InputError: no user likes two items that have a text; the model or the cache cannot be used.
    """
    pairs = liked_pairs(logs, settings.pairs, settings.epochs, max_reviews, derive(seed, _STREAM))
    if not pairs.rows.shape[1]:
        raise InputError(
            "agents.content.layers: no user of the train part likes two items that have a text or another's review, so "
            "there is nothing to teach the encoder by; set agents.content.layers=0"
        )
    recipe = PairRecipe(settings.layers, max_tokens=encoder.settings.max_tokens)
    return finetune_pairs(encoder, pairs, recipe, seed, progress)


def liked_pairs(logs: Logs, number: int, epochs: int, max_reviews: int, seed: int) -> Pairs:
    """At most `number` pairs an epoch, equally many in each; fewer where a drawn item has nothing to read."""
    described = [item for item in range(logs.num_items) if item_text(logs, item)]
    reviews = rows_to_read(logs, max_reviews)
    texts = [item_text(logs, item) for item in described] + [logs.reviews[row] for row in reviews]
    things = np.concatenate([np.array(described, np.int64), logs.items[reviews]])
    writers = np.concatenate([np.full(len(described), -1), logs.users[reviews]])
    draw = np.random.default_rng(seed)
    found = [_epoch(logs, number, things, writers, draw) for _ in range(epochs)]
    least = min(map(len, found))
    return Pairs(texts, things, np.stack([rows[:least] for rows in found]))


def _epoch(
    logs: Logs, number: int, things: NDArray[np.int64], writers: NDArray[np.int64], draw: np.random.Generator
) -> NDArray[np.int64]:
    """`(P, 2)` places of texts: of two items that a user likes, drawn as often as the user likes any."""
    order = np.flatnonzero(logs.positive)
    order = order[np.argsort(logs.users[order], kind="stable")]
    users, items = logs.users[order], logs.items[order]
    starts, counts = np.searchsorted(users, users), np.bincount(users, minlength=logs.num_users)[users]
    able = np.flatnonzero(counts > 1)
    if not len(able) or not len(things):
        return np.zeros((0, 2), np.int64)
    one = able[draw.integers(len(able), size=number)]
    step = 1 + (draw.random(number) * (counts[one] - 1)).astype(np.int64)
    other = starts[one] + (one - starts[one] + step) % counts[one]
    sides = [_text_of(items[side], users[one], things, writers, draw) for side in (one, other)]
    rows = np.stack(sides, axis=1)
    return rows[(rows >= 0).all(1) & (items[one] != items[other])]


def _text_of(
    items: NDArray[np.int64],
    users: NDArray[np.int64],
    things: NDArray[np.int64],
    writers: NDArray[np.int64],
    draw: np.random.Generator,
) -> NDArray[np.int64]:
    """`(P,)` the place of a text of each item that its user did not write, -1 where there is none."""
    order = np.argsort(things, kind="stable")
    starts = np.searchsorted(things[order], items)
    counts = np.searchsorted(things[order], items, side="right") - starts
    chance = (draw.random(len(items)) * counts).astype(np.int64)
    found = np.full(len(items), -1)
    for turn in range(2):  # a user may have written the one that is drawn, not the next one too
        place = order[np.minimum(starts + (chance + turn) % np.maximum(counts, 1), len(order) - 1)]
        found = np.where((found < 0) & (counts > 0) & (writers[place] != users), place, found)
    return found
