"""The trained team: towers, policies and fusion, asked for slates without Ray.

    user ids or histories, and what this session has shown
        ->  read, observe, act, ask, propose, weigh, fuse  ->  slates

It takes in new items and gives its reasons; its folder is read and written by `team_files.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..platform.errors import InputError
from ..platform.settings import EncoderSettings
from .ensemble import Ensemble, Reading, Traces
from .explain import Explanation, Names, explained
from .newcomers import extended, read_new_items
from .policy import Policy
from .tower import PAD, History

MASK = -1e4
"""Added to the score of an item that is not to be recommended: it comes back only when nothing else is left."""

LIKED = 0.6
"""Weight of an item in a history given as ids alone; as of a click without a rating."""

SessionSoFar = Sequence[tuple[Sequence[str], Sequence[str]]]
"""The slates of a session with what was clicked of each, oldest first: `[(shown ids, clicked ids), ...]`."""


@dataclass(frozen=True)
class Catalog:
    """What a team can recommend, and to whom it can do so by id."""

    item_ids: tuple[str, ...]
    item_titles: tuple[str, ...]
    user_hashes: Tensor
    histories: History
    salt: str


class Team:
    """A trained team.

    Args:
        ensemble: towers, fusion rule and static weights.
        policies: of the agents that learned; without one an agent plays its tower.
        catalog: items, and known users' histories.
        slate: places of the slates it was trained on.
        horizon: steps of the sessions it was trained on.
        name: of the experiment.
        encoder: that read the texts, and reads those of new items.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        policies: Mapping[str, Policy],
        catalog: Catalog,
        *,
        slate: int,
        horizon: int,
        name: str,
        encoder: EncoderSettings | None = None,
    ) -> None:
        self.encoder = encoder or EncoderSettings()
        self.ensemble, self.policies, self.catalog = ensemble, dict(policies), catalog
        self.slate, self.horizon, self.name = slate, horizon, name
        self._items = {item: place for place, item in enumerate(catalog.item_ids)}
        self._users = {key: place for place, key in enumerate(catalog.user_hashes.tolist())}

    @torch.no_grad()
    def act(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The agents' actions without exploration, `{agent: (B, d_action)}`."""
        return {agent: policy.mean(observations[agent]) for agent, policy in self.policies.items()}

    @torch.no_grad()
    def recommend(
        self,
        users: Sequence[str] | Sequence[Sequence[str]],
        k: int | None = None,
        *,
        sessions: Sequence[SessionSoFar] | None = None,
        exclude_history: bool = True,
    ) -> list[list[str]]:
        """A slate for each user, best first.

        Args:
            users: user ids, or histories as lists of item ids, oldest first. A user who is not known, and items that
                are not in the catalog, count as no history.
            k: items on a slate; as in training by default.
            sessions: what each user has been shown and clicked so far in this session; such items are not shown again.
            exclude_history: leave out what is in the user's history.

        Raises:
            InputError: k is not between 1 and the number of items, or `sessions` is not one for each user.
        """
        places = self.slate if k is None else k
        if not 1 <= places <= len(self._items):
            raise InputError(f"k={places}: a slate has 1 to {len(self._items)} items here")
        if isinstance(users, str):
            raise InputError(f'users="{users}": give a list of user ids or of histories, such as ["{users}"]')
        if sessions is not None and len(sessions) != len(users):
            raise InputError(
                f"sessions: {len(sessions)} given for {len(users)} users; give one each, [] for a new session"
            )
        if not users:
            return []
        history = self._histories(users)
        reading = self.ensemble.read(history)
        penalty = torch.zeros(len(users), len(self._items))
        if exclude_history:
            mask_items(penalty, history.items)
        traces, progress = self._replay(reading, sessions, penalty)
        actions = self.act(self.ensemble.observe(reading, traces, progress))
        queries, leans = self.ensemble.ask(reading, traces, actions), self.ensemble.lean(traces, actions)
        ballots = self.ensemble.propose(queries, leans, penalty, at_least=places)
        slates = self.ensemble.fuse(ballots, self.ensemble.weigh(traces, actions), places)
        return [[self.catalog.item_ids[item] for item in slate] for slate in slates.tolist()]

    def _histories(self, users: Sequence[str] | Sequence[Sequence[str]]) -> History:
        """The histories of known users, or those given; a row of `PAD` for a stranger."""
        if all(isinstance(user, str) for user in users):
            rows = torch.tensor([self._users.get(hash_user(str(user), self.catalog.salt), -1) for user in users])
            known = self.catalog.histories.rows(rows.clamp_min(0))
            stranger = (rows < 0)[:, None]
            return History(
                known.items.masked_fill(stranger, PAD),
                known.ratings.masked_fill(stranger, 0.0),
                known.weights.masked_fill(stranger, 0.0),
            )
        found = [[self._items[item] for item in user if item in self._items] for user in users]
        items = torch.full((len(found), max(1, *map(len, found))), PAD)
        for row, seen in enumerate(found):
            items[row, : len(seen)] = torch.tensor(seen, dtype=torch.int64)
        return History(items, torch.zeros(items.shape), LIKED * (items != PAD))

    def _replay(
        self, reading: Reading, sessions: Sequence[SessionSoFar] | None, penalty: Tensor
    ) -> tuple[Traces, Tensor]:
        """Traces and progress of the sessions so far; marks what they have shown in `penalty`."""
        batch = len(penalty)
        traces, progress = self.ensemble.blank(batch), torch.zeros(batch)
        for row, steps in enumerate(sessions or ()):
            one, mine, slates = reading.rows(torch.tensor([row])), self.ensemble.blank(1), 0
            for shown, clicked in steps:
                slate = torch.tensor([[self._items[item] for item in shown if item in self._items]], dtype=torch.int64)
                if slate.numel() == 0:
                    continue
                chosen = {self._items.get(item, -1) for item in clicked}
                click = torch.tensor([[float(item in chosen) for item in slate[0].tolist()]])
                queries = self.ensemble.ask(
                    one, mine, self.act(self.ensemble.observe(one, mine, progress[row : row + 1]))
                )
                mine = self.ensemble.remember(mine, queries, slate, click)
                penalty[row, slate[0]] = MASK
                slates += 1
                progress[row] = min(1.0, slates / self.horizon)
            for name, trace in vars(traces).items():
                trace[row] = getattr(mine, name)[0]
        return traces, progress

    # --- new items, reasons, files

    def add_items(self, table: Iterable[Mapping[str, Any]] | Any) -> tuple[str, ...]:
        """Makes new items recommendable at once, without refitting; gives their ids.

        Args:
            table: rows, or a pandas DataFrame, with `item_id` and any of `title`, `text`, `attributes` (list of words)
                and `edges` (list of (relation, tail) pairs, such as `("genre", "Drama")`).

        A tower that reads text or edges places an item by its own; the others by the known items nearest to it.

        Raises:
            InputError: an id is missing, is there twice, or is in the catalog already; the encoder cannot be used.
        """
        new = read_new_items(table, self._items)
        towers = extended(self.ensemble.towers, new, self.encoder)
        self.ensemble = Ensemble(towers, self.ensemble.fusion, self.ensemble.weights)
        catalog = self.catalog
        self.catalog = replace(
            catalog, item_ids=catalog.item_ids + new.ids, item_titles=catalog.item_titles + new.titles
        )
        self._items |= {item: len(self._items) + place for place, item in enumerate(new.ids)}
        return new.ids

    @torch.no_grad()
    def explain(self, user: str | Sequence[str], item: str, *, session: SessionSoFar = ()) -> Explanation:
        """Which agents argue for an item, how strongly, and by what evidence.

        Args:
            user: a user id, or a history as a list of item ids, oldest first.
            item: an item id.
            session: what the user has been shown and clicked so far.

        Raises:
            InputError: the item is not in the catalog.
        """
        if item not in self._items:
            raise InputError(f'item "{item}": not in the catalog of {len(self._items):,} items')
        history = self._histories([user])  # pyright: ignore[reportArgumentType] - one of the two kinds, not a mixture
        reading = self.ensemble.read(history)
        penalty = torch.zeros(1, len(self._items))
        traces, progress = self._replay(reading, [session], penalty)
        actions = self.act(self.ensemble.observe(reading, traces, progress))
        queries = self.ensemble.ask(reading, traces, actions)
        leans = self.ensemble.lean(traces, actions)
        weights = self.ensemble.weigh(traces, actions)[0]
        names = Names(self.catalog.item_ids, self.catalog.item_titles)
        return explained(self.ensemble, history, queries, leans, weights, self._items[item], names)

    def save(self, folder: Path) -> None:
        """Writes the team's files into `folder` (`team_files.py`)."""
        from .team_files import save_team  # the files know the team, not the other way round

        save_team(self, folder)


def mask_items(penalty: Tensor, items: Tensor) -> None:
    """Adds `MASK` in place to `penalty` `(B, N)` at `items` `(B, L)`, those that are not `PAD`."""
    missing = items == PAD
    amounts = torch.full(items.shape, MASK, device=items.device).masked_fill(missing, 0.0)
    penalty.scatter_reduce_(1, items.clamp_min(0), amounts, reduce="amin")


def hash_user(user: str, salt: str) -> int:
    """A user's id under a keyed hash, 63 bits (BLAKE2b, RFC 7693)."""
    digest = hashlib.blake2b(user.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest, "big") >> 1
