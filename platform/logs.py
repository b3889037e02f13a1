"""Interaction logs as arrays: users and items by index, ready for a tower or a response model to be fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

LIKED_STARS = 4.0
"""A rating from here on counts as positive."""


@dataclass(frozen=True)
class Logs:
    """n interactions between U users and N items.

    Attributes:
        user_ids: U ids; an index in `users` points here.
        item_ids, item_titles, item_texts: N each; the texts are empty where a dataset has none.
        item_attributes: N tuples of plain words or phrases (genres, brand ...).
        users, items: `(n,)` int64 indices.
        timestamps: `(n,)` int64, seconds UTC.
        ratings: `(n,)` float32 stars, NaN where none was given.
        clicks: `(n,)` float32, 1 clicked (or rated), 0 shown and not clicked.
        reviews: n texts, empty where none was written.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    item_titles: tuple[str, ...]
    item_texts: tuple[str, ...]
    item_attributes: tuple[tuple[str, ...], ...]
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    ratings: NDArray[np.float32]
    clicks: NDArray[np.float32]
    reviews: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.users)

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def positive(self) -> NDArray[np.bool_]:
        """`(n,)` whether the user liked it: at least `LIKED_STARS`, or a click where there is no rating."""
        return np.where(np.isnan(self.ratings), self.clicks > 0, self.ratings >= LIKED_STARS)

    @property
    def weights(self) -> NDArray[np.float32]:
        """`(n,)` in [0, 1], how much each interaction says that the user liked the item.

        A rating of 5 stars counts 1, of 2.5 or less 0, linear between; a click without a rating counts 0.6.
        """
        from_stars = np.clip((np.nan_to_num(self.ratings) - 2.5) / 2.5, 0, 1)
        return np.where(np.isnan(self.ratings), 0.6 * self.clicks, from_stars).astype(np.float32)

    def rows(self, keep: NDArray[np.bool_]) -> Logs:
        """The interactions where `keep` `(n,)` holds; users and items keep their indices."""
        index = np.flatnonzero(keep)
        arrays = {name: getattr(self, name)[index] for name in ("users", "items", "timestamps", "ratings", "clicks")}
        return replace(self, **arrays, reviews=tuple(self.reviews[row] for row in index))

    def padded(self, longest: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each user's last `longest` interactions, oldest first: items, ratings, weights `(U, L)`, padded -1, 0, 0."""
        order = np.lexsort((np.arange(len(self)), self.timestamps, self.users))
        users = self.users[order]
        counts = np.bincount(users, minlength=self.num_users)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        kept = np.minimum(counts, longest)
        place = np.arange(len(users)) - starts[users] - (counts - kept)[users]
        recent = place >= 0
        width = max(1, int(kept.max(initial=0)))
        cell = (users[recent], place[recent])
        items = torch.full((self.num_users, width), -1, dtype=torch.int64)
        ratings, weights = torch.zeros(self.num_users, width), torch.zeros(self.num_users, width)
        chosen = order[recent]
        items[cell] = torch.from_numpy(self.items[chosen])
        ratings[cell] = torch.from_numpy(np.nan_to_num(self.ratings[chosen]))
        weights[cell] = torch.from_numpy(self.weights[chosen])
        return items, ratings, weights
