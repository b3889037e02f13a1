"""The pretrained model: one trunk for the words of items and of reviews, and a small adapter for each task.

    text (N, m), id (N, d)  --Trunk-->  states (N, d)  -->  vectors (N, d), inputs (N, d)
    user (d,) = sum over the history of w_i * inputs_i / sqrt(1 + sum of w_i),    w_i = 1 if liked, else `low`
    logit of a task = (user @ its adapter) . vectors + its offset of the item

A user is nothing but a history, so users that the fit never saw are read like any other. The tasks of ratings and of
polarity read each other's answers and pass no gradient back: an item's stars are a blunt teacher of what its words say.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, gelu

from .pretrain_data import Known, Material

RANKERS = ("click", "ranking", "masked")
"""The tasks that score items for a user, by a dot product."""

PRIOR_STARS = 5.0
"""Average ratings that a user's own mean starts from."""


class Trunk(nn.Module):
    """All that the tasks share of an item: what is written of it, its own vector, one residual layer."""

    def __init__(self, num_items: int, text_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Linear(text_dim, dim)
        self.ids = nn.Parameter(0.1 * torch.randn(num_items, dim))
        self.hidden, self.last = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.last.weight)

    def forward(self, text: Tensor, items: Tensor | None = None) -> Tensor:
        """`(B, d)` of `text` `(B, m)`, with the vectors of `items` `(B,)` where the words are an item's."""
        state = self.dropout(self.words(text))
        if items is not None:
            # An item's own vector is left out as a whole now and then: its words have to do for it too.
            kept = self.dropout(torch.ones_like(text[:, :1]))
            state = state + kept * self.ids[items]
        return state + self.last(gelu(self.hidden(state)))


@dataclass(frozen=True)
class Seen:
    """The catalog and the users as the model sees them in one step.

    Attributes:
        known: the histories.
        vectors: `(N, d)`, what a user is multiplied by.
        inputs: `(N, d)`, what an item in a history says of its user.
        offsets: `(N, 3)`, each item's own part of the logits of `RANKERS`.
        values: `(s,)`, w_i of each slot of the histories.
        sums: `(U, d)` sum of values * inputs, and `weights` `(U,)` sum of values.
    """

    known: Known
    vectors: Tensor
    inputs: Tensor
    offsets: Tensor
    values: Tensor
    sums: Tensor
    weights: Tensor

    def users(self, users: Tensor, slot: Tensor | None = None) -> Tensor:
        """`(B, d)`: the `users` `(B,)`, each without the one slot of its history in `slot` `(B,)`, -1 for none."""
        sums, weights = self.sums[users], self.weights[users]
        if slot is not None and len(self.values):
            without = self.values[slot.clamp_min(0)] * (slot >= 0)
            sums = sums - without[:, None] * self.inputs[self.known.items[slot.clamp_min(0)]]
            weights = weights - without
        return sums / (1 + weights.clamp_min(0)).sqrt()[:, None]


class Model(nn.Module):
    """The trunk and the adapters of all tasks; a task that is not trained leaves its own alone."""

    def __init__(self, num_items: int, text_dim: int, dim: int, dropout: float, forget: float) -> None:
        super().__init__()
        self.forget = forget
        self.trunk = Trunk(num_items, text_dim, dim, dropout)
        self.vectors, self.inputs = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.low = nn.Parameter(torch.zeros(()))
        self.adapters = nn.Parameter(torch.eye(dim).repeat(len(RANKERS), 1, 1))
        self.offsets = nn.Linear(dim, len(RANKERS))
        self.own_offsets = nn.Parameter(torch.zeros(num_items, len(RANKERS)))
        self.praise, self.shared_praise = nn.Linear(text_dim, 1), nn.Linear(dim, 1, bias=False)
        self.item_stars, self.own_stars = nn.Linear(dim, 1), nn.Parameter(torch.zeros(num_items))
        self.taste_stars = nn.Parameter(torch.zeros(dim))
        self.praise_stars, self.stars_praise = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.ones(()))
        self.user_stars = nn.Parameter(torch.ones(()))
        for module in (self.offsets, self.praise, self.shared_praise, self.item_stars):
            nn.init.zeros_(module.weight)

    def see(self, material: Material, known: Known) -> Seen:
        """The catalog and the users, in one pass. In training some of each history is forgotten."""
        states = self.trunk(material.text, torch.arange(material.num_items))
        inputs = self.inputs(states)
        values = torch.where(known.liked, torch.ones(()), self.low.sigmoid())
        if self.training and self.forget:
            values = values * (torch.rand(len(values)) >= self.forget)
        sums = embedding_bag(known.items, inputs, known.starts, mode="sum", per_sample_weights=values)
        weights = torch.zeros(material.num_users).index_add(0, known.users, values)
        offsets = self.offsets(states) + self.own_offsets
        return Seen(known, self.vectors(states), inputs, offsets, values, sums, weights)

    def logits(self, seen: Seen, task: str, users: Tensor, items: Tensor | None = None) -> Tensor:
        """`(B, M)` of a task in `RANKERS`: users `(B, d)` and `items` `(M,)`, or the whole catalog."""
        place, chosen = RANKERS.index(task), slice(None) if items is None else items
        return (users @ self.adapters[place]) @ seen.vectors[chosen].T + seen.offsets[chosen, place]

    def target_logits(self, material: Material, task: str, users: Tensor, rows: Tensor) -> Tensor:
        """`(B,)` of a task in `RANKERS`: users `(B, d)` and the items of `rows` `(B,)`, see `text_without`."""
        place, items = RANKERS.index(task), material.items[rows]
        states = self.trunk(material.text_without(rows), items)
        offsets = self.offsets(states)[:, place] + self.own_offsets[items, place]
        return ((users @ self.adapters[place]) * self.vectors(states)).sum(1) + offsets

    def polarity(self, text: Tensor) -> Tensor:
        """`(B,)` logits that `text` `(B, m)` is praise and not blame."""
        return (self.praise(self.trunk.dropout(text)) + self.shared_praise(self.trunk(text)))[:, 0]

    def review(self, material: Material, seen: Seen, rows: Tensor) -> Tensor:
        """`(B,)` logits that the reviews of `rows` are praise: by their words, and by the stars to be expected."""
        expected = self.rating(material, seen, rows).detach() - material.mean_stars
        return self.polarity(material.reviews[material.read[rows]]) + self.stars_praise * expected

    def rating(self, material: Material, seen: Seen, rows: Tensor) -> Tensor:
        """`(B,)` stars: the mean, the user's own mean, the item's own, its texts' polarity, and the user's taste."""
        users, items, slot = material.users[rows], material.items[rows], seen.known.slot[rows]
        text = material.text_without(rows)
        states = self.trunk(text, items)
        item = self.item_stars(states)[:, 0] + self.own_stars[items] + self.praise_stars * self.polarity(text).detach()
        taste = (seen.users(users, slot) * self.taste_stars * self.vectors(states)).sum(1)
        own = seen.known.deviations(users, slot, PRIOR_STARS)
        return material.mean_stars + self.user_stars * own + item + taste
