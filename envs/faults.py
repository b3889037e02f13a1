"""Agents that fail within a session: what a team must bear, and what its conductor must notice.

    drawn      a share of the sessions has one agent that fails, from some step on    (training)
    arranged   one agent fails in every session, from a given step on                 (judging)

A `silent` agent has no ballot. An `adversarial` one asks with a new random query at every step and votes for what is
nearest to it in angle: a vote at random, no item likelier than another, as sure of itself as any. (By inner product it
would be a vote for what is well known, whose vectors are the longest.) A `frozen` one plays its tower, whatever its
policy says. All is a function of (seed, session, step), so a session fails alike in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..platform import draws
from ..platform.fusion import Ballots

KINDS = ("silent", "adversarial", "frozen")
SILENT, ADVERSARIAL, FROZEN = range(3)

DRAWN = (SILENT, ADVERSARIAL, ADVERSARIAL, ADVERSARIAL)
"""The kinds that a training session may meet, each as likely as it is here often: of one that is silent there is less
to be learned, since it has no ballot, and a frozen agent is not one that fails."""

LATEST = 0.5
"""A drawn fault begins in this first part of the horizon."""

FAULT, NOISE = 200, 210
"""Streams of draws; from `NOISE` on one an agent."""


@dataclass(frozen=True)
class Faults:
    """Who fails, how and from when on, in B sessions.

    Attributes:
        agent: `(B,)` int64, the recommender's place; -1 for nobody.
        kind: `(B,)` int64, index into `KINDS`.
        since: `(B,)` int64, the first step of it.
    """

    agent: Tensor
    kind: Tensor
    since: Tensor

    def now(self, kind: int, agent: int, step: Tensor) -> Tensor:
        """`(B,)` bool: where an agent fails in this way at `step` `(B,)`."""
        return (self.agent == agent) & (self.kind == kind) & (step >= self.since)


Fate = Callable[[int, Tensor], Faults]
"""From a seed and sessions `(B,)` to their faults."""


def drawn(share: float, agents: int, horizon: int) -> Fate:
    """One of several agents fails in a `share` of the sessions, in [0, 1]: which, how, and when it begins are drawn."""
    share = share if agents > 1 else 0.0  # an agent alone is all that there is

    def fate(seed: int, session: Tensor) -> Faults:
        chance = draws.uniform(seed, session, torch.zeros_like(session), FAULT, 4)
        who = (chance[:, 1] * agents).long().clamp_max(agents - 1)
        how = (chance[:, 2] * len(DRAWN)).long().clamp_max(len(DRAWN) - 1)
        kinds = torch.tensor(DRAWN, device=session.device)
        return Faults(
            agent=who.masked_fill(chance[:, 0] >= share, -1),
            kind=kinds[how],
            since=(chance[:, 3] * LATEST * horizon).long(),
        )

    return fate


def arranged(agent: int, kind: str, since: int = 0) -> Fate:
    """The recommender in place `agent` fails in every session from step `since` on."""

    def fate(seed: int, session: Tensor) -> Faults:
        same = torch.full_like(session, agent)
        return Faults(same, torch.full_like(session, KINDS.index(kind)), torch.full_like(session, since))

    return fate


def held_back(
    faults: Faults, actions: Mapping[str, Tensor], recommenders: tuple[str, ...], step: Tensor
) -> dict[str, Tensor]:
    """The actions, those of frozen agents set to zero: to play the tower as it is."""
    kept = dict(actions)
    for place, name in enumerate(recommenders):
        if name in kept:
            kept[name] = kept[name] * (~faults.now(FROZEN, place, step))[:, None]
    return kept


def distorted(
    faults: Faults,
    queries: list[Tensor],
    seed: int,
    session: Tensor,
    step: Tensor,
    scaled: Callable[[int, Tensor], Tensor],
) -> list[Tensor]:
    """The queries `(B, d_k)`, an adversarial agent's random; `scaled(k, query)` gives a query's scores variance 1."""
    asked = list(queries)
    for place, query in enumerate(queries):
        wild = faults.now(ADVERSARIAL, place, step)
        if bool(wild.any()):
            noise = draws.normal(seed, session, step, NOISE + place, query.shape[1])
            asked[place] = torch.where(wild[:, None], scaled(place, noise), query)
    return asked


def strayed(
    faults: Faults,
    ballots: Ballots,
    queries: list[Tensor],
    step: Tensor,
    met: Callable[[int, Tensor, Tensor, int], Tensor],
) -> Ballots:
    """The ballots, those of adversarial agents for other items; `met(k, rows, queries, n)` gives them `(b, n)`.

    The scores stay, so that such an agent is as sure of what it names as of what its query scores highest.
    """
    items = ballots.items
    for place, query in enumerate(queries):
        wild = faults.now(ADVERSARIAL, place, step)
        if bool(wild.any()):
            rows = wild.nonzero().squeeze(1)
            items = items.clone() if items is ballots.items else items
            items[rows, place] = met(place, rows, query[rows], items.shape[2])
    return Ballots(items, ballots.scores)


def silenced(faults: Faults, ballots: Ballots, step: Tensor) -> Ballots:
    """The ballots, those of silent agents empty."""
    agents = range(ballots.items.shape[1])
    silent = torch.stack([faults.now(SILENT, place, step) for place in agents], dim=1)
    if not bool(silent.any()):
        return ballots
    return Ballots(ballots.items.masked_fill(silent[:, :, None], -1), ballots.scores)
