"""Interaction logs as arrays: users and items by index, ready for a tower or a response model to be fitted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from .graph import Graph

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
        item_images: N paths of pictures, empty where an item has none; or nothing at all.
        graph: what is known of the items, empty where a dataset has no edges.
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
    item_images: tuple[str, ...] = ()
    graph: Graph = field(default_factory=Graph)

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
        return self.at(np.flatnonzero(keep))

    def at(self, index: NDArray[np.int64]) -> Logs:
        """The interactions in places `index` `(m,)`, each as often as it is named; the indices keep their sense."""
        arrays = {name: getattr(self, name)[index] for name in ("users", "items", "timestamps", "ratings", "clicks")}
        return replace(self, **arrays, reviews=tuple(self.reviews[row] for row in index))

    def in_order(self) -> NDArray[np.int64]:
        """`(n,)` rows by user, then time. Rows of one time come in an order that says nothing: by a fixed hash.

        Sources with dates but no hours tie often, and the order of their rows or ids would tell of the items.
        """
        return np.lexsort((np.arange(len(self)), mixed(self.users, self.items), self.timestamps, self.users))

    def padded(self, longest: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each user's last `longest` interactions, oldest first: items, ratings, weights `(U, L)`, padded -1, 0, 0."""
        order = self.in_order()
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


def mixed(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.uint64]:
    """`(n,)` a fixed hash of each pair: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    mixed = first.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + second.astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
