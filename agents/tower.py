"""A tower: one agent's learned view of the catalog. Item vectors, and a user's profile read from a history.

    history (B, L) item indices, weights (B, L)  --profile-->  query (B, d)  --@ item_vectors.T-->  scores (B, N)

Everything a tower needs to serve is tensors, so that it can be moved to any device, saved without pickle, and asked
about users its fit never saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

PAD = -1
"""Marks the empty places of a padded history."""

PER_ITEM = ("inputs",)
"""Extras with a row for each item."""


@dataclass(frozen=True)
class History:
    """What B users did before their session, padded to the longest.

    Attributes:
        items: `(B, L)` int64, item indices, `PAD` where there is none, oldest first.
        ratings: `(B, L)` float32, the rating in stars (0.5 to 5), or 0 where only a click is known.
        weights: `(B, L)` float32 >= 0, how much each interaction says that the user liked the item; 0 at `PAD`.
    """

    items: Tensor
    ratings: Tensor
    weights: Tensor

    def to(self, device: torch.device | str) -> History:
        return History(self.items.to(device), self.ratings.to(device), self.weights.to(device))

    def rows(self, index: Tensor) -> History:
        return History(self.items[index], self.ratings[index], self.weights[index])

    def __len__(self) -> int:
        return self.items.shape[0]


class ProfileFunction(Protocol):
    """How a tower reads a history: `(tensors, History) -> (B, d)`. A module-level function, found again by its name."""

    def __call__(self, tower: Tower, history: History) -> Tensor: ...


@dataclass(frozen=True)
class Tower:
    """One agent's representation of the catalog.

    Attributes:
        name: the agent's name, such as `cf`.
        item_vectors: `(N, d)` float32.
        profile_kind: which registered function reads a history (`agents/profiles.py`).
        extras: other tensors that the profile function needs, by name (a regularised Gram matrix, a prior ...).
        facts: what the tower was fitted on, in words, for the run and the report.
        notes: words for each item or node, by what they are (`praise`, `nodes` ...), for explanations.
        common: how many of the last columns are no matter of taste (popularity): the traces of what a session has
            clicked and shown leave them out.
    """

    name: str
    item_vectors: Tensor
    profile_kind: str
    extras: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    common: int = 0
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        return self.item_vectors.shape[1]

    def to(self, device: torch.device | str) -> Tower:
        moved = {name: tensor.to(device) for name, tensor in self.extras.items()}
        return replace(self, item_vectors=self.item_vectors.to(device), extras=moved)

    def with_items(self, vectors: Tensor, extras: Mapping[str, Tensor]) -> Tower:
        """The tower with n more items: their `vectors` `(n, d)`, and rows for those of `extras` that are per item."""
        longer = {name: torch.cat([self.extras[name], rows]) for name, rows in extras.items()}
        return replace(self, item_vectors=torch.cat([self.item_vectors, vectors]), extras={**self.extras, **longer})
