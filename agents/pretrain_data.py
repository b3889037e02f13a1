"""What pretraining reads: the interactions as tensors, what is written of the items, and what is known of the users.

Logs, fit rows  ->  Material: rows, item text (N, m), review texts (k, m)  ->  Known: the users' histories, flat
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..platform.encoder import EncodeProgress, Encoder
from ..platform.logs import Logs
from .features import item_text
from .reviews import item_means, rows_to_read

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Material:
    """n interactions between U users and N items, ready for the tasks.

    Attributes:
        num_users: U.
        text: `(N, m)` float32, what is written of an item, of about unit variance; zeros where nothing is.
        parts: `(N,)` float32, how many reviews that is the mean of; 0 where it is the item's own text.
        reviews: `(k, m)` float32, k >= 1, one row a review that was read, on the scale of `text`; unread: one of zeros.
        users, items: `(n,)` int64.
        stars: `(n,)` float32, 0 where no rating was given.
        liked: `(n,)` bool, see `Logs.positive`.
        acted: `(n,)` bool, clicked or rated: no row that was only shown.
        read: `(n,)` int64, the interaction's row in `reviews`, -1 without one.
        fit: `(n,)` bool, the rows to learn from.
        mean_stars: the mean rating of the fit rows.
    """

    num_users: int
    text: Tensor
    parts: Tensor
    reviews: Tensor
    users: Tensor
    items: Tensor
    stars: Tensor
    liked: Tensor
    acted: Tensor
    read: Tensor
    fit: Tensor
    mean_stars: float

    @property
    def num_items(self) -> int:
        return len(self.text)

    def text_without(self, rows: Tensor) -> Tensor:
        """`(B, m)`: the text of the rows' items, without what these rows' own users wrote in these rows.

        A model that saw a user's own words in the item would learn to recognise them, and there are none in an item
        that the user has yet to meet.
        """
        items, read = self.items[rows], self.read[rows]
        own = self.fit[rows] & (read >= 0) & (self.parts[items] > 0)
        parts = self.parts[items, None]
        without = (self.text[items] * parts - self.reviews[read.clamp_min(0)]) / (parts - 1).clamp_min(1)
        return torch.where(own[:, None], without * (parts > 1), self.text[items])


def material(
    logs: Logs, fit: Mask, encoder: Encoder, max_reviews: int, progress: EncodeProgress | None = None
) -> Material:
    """Reads the logs. `fit` `(n,)` marks the rows to learn from: of the other rows only the labels, and the reviews
    that the polarity task is asked about, are kept.

    An item's text is its own where the dataset has any, and else the mean of its reviews among the fit rows.
    """
    texts = [item_text(logs, item) for item in range(logs.num_items)]
    rows = np.concatenate([np.flatnonzero(part)[rows_to_read(logs.rows(part), max_reviews)] for part in (fit, ~fit)])
    reviews = encoder.encode([logs.reviews[row] for row in rows], progress)
    described, parts = np.array([bool(text) for text in texts]), np.zeros(logs.num_items, np.float32)
    if described.any():
        text = np.zeros((logs.num_items, reviews.shape[1]), np.float32)
        text[described] = encoder.encode([text for text in texts if text], progress)
    else:
        known = fit[rows]
        text = item_means(logs.items[rows[known]], reviews[known], logs.num_items)
        parts = np.bincount(logs.items[rows[known]], minlength=logs.num_items).astype(np.float32)
        described = parts > 0
    centre = text[described].mean(0) if described.any() else np.zeros(text.shape[1], np.float32)
    scale = np.float32(text.shape[1] ** 0.5)
    read = np.full(len(logs), -1)
    read[rows] = np.arange(len(rows))
    rated = fit & ~np.isnan(logs.ratings)
    return Material(
        num_users=logs.num_users,
        text=torch.from_numpy((text - centre) * described[:, None] * scale),
        parts=torch.from_numpy(parts),
        reviews=torch.from_numpy((reviews - centre) * scale) if len(reviews) else torch.zeros(1, text.shape[1]),
        users=torch.from_numpy(logs.users),
        items=torch.from_numpy(logs.items),
        stars=torch.from_numpy(np.nan_to_num(logs.ratings)),
        liked=torch.from_numpy(logs.positive),
        acted=torch.from_numpy(~np.isnan(logs.ratings) | (logs.clicks > 0)),
        read=torch.from_numpy(read),
        fit=torch.from_numpy(fit),
        mean_stars=float(logs.ratings[rated].mean()) if rated.any() else 0.0,
    )


class Known:
    """What is known of every user: the latest row of each (user, item) pair, flat, by user.

    Attributes:
        users, items, liked: `(s,)`, one slot a pair, in order of the user.
        starts: `(U,)` int64, a user's first slot.
        slot: `(n,)` int64, the slot of an interaction's pair, -1 where nothing is known of the pair.
        rows: `(n,)` bool, the interactions that are known.
    """

    def __init__(self, material: Material, rows: Tensor) -> None:
        """Knows `rows` `(n,)` bool of the material, those of them that the user acted on."""
        self.rows, size = rows, material.num_items
        pairs = (material.users * size + material.items).numpy()
        known = (rows & material.acted).numpy()
        keys, inverse = np.unique(pairs[known], return_inverse=True)
        latest = np.zeros(len(keys), np.int64)
        np.maximum.at(latest, inverse, np.flatnonzero(known))
        self.users, self.items = torch.from_numpy(keys // size), torch.from_numpy(keys % size)
        self.liked, self._size = material.liked[torch.from_numpy(latest)], size
        self.starts = torch.searchsorted(self.users, torch.arange(material.num_users))
        place = np.minimum(np.searchsorted(keys, pairs), max(len(keys) - 1, 0))
        found = keys[place] == pairs if len(keys) else np.zeros(len(pairs), bool)
        self.slot = torch.from_numpy(np.where(found, place, -1))
        stars = material.stars[torch.from_numpy(latest)]
        self._deviation = torch.where(stars > 0, stars - material.mean_stars, torch.zeros(()))
        self._rated = (stars > 0).float()

    def holds(self, users: Tensor, items: Tensor) -> Tensor:
        """`(B, M)` bool: whether a user of `users` `(B,)` is known to have met an item of `items` `(M,)`, each once."""
        column = torch.full((self._size,), -1)
        column[items] = torch.arange(len(items))
        ends = torch.cat([self.starts[1:], torch.tensor([len(self.users)])])
        counts = (ends - self.starts)[users]
        row = torch.repeat_interleave(counts)
        slots = torch.arange(len(row)) + (self.starts[users] - (counts.cumsum(0) - counts))[row]
        at = column[self.items[slots]]
        met = torch.zeros(len(users), len(items), dtype=torch.bool)
        met[row[at >= 0], at[at >= 0]] = True
        return met

    def seen(self, users: Tensor) -> Tensor:
        """`(B, N)` bool: what each of `users` `(B,)` is known to have met."""
        return self.holds(users, torch.arange(self._size))

    def deviations(self, users: Tensor, slot: Tensor, prior: float) -> Tensor:
        """`(B,)`: how far a user's ratings are from the mean, on average, each without its `slot` `(B,)` or -1.

        Drawn towards 0 as if by `prior` average ratings more.
        """
        if not len(self.users):
            return torch.zeros(len(users))
        sums = torch.zeros(len(self.starts)).index_add(0, self.users, self._deviation)[users]
        counts = torch.zeros(len(self.starts)).index_add(0, self.users, self._rated)[users]
        without = (slot >= 0).float()
        sums = sums - without * self._deviation[slot.clamp_min(0)]
        counts = counts - without * self._rated[slot.clamp_min(0)]
        return sums / (counts + prior)
