"""How a fit picks among candidates: on the latest of each user's likes, cut from the logs that it was given.

logs  ->  earlier rows, and each user's latest likes  ->  towers fitted on the earlier rows  ->  NDCG@10 of each
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..platform.logs import Logs
from .profiles import CHUNK_NUMBERS, profile
from .tower import PAD, History, Tower

SHARE = 0.2
"""Part of a user's likes that is held out, the latest; at least one."""

LEAST_LIKES = 3
"""A user with fewer likes has none to spare."""

PLACES = 10
"""Depth of the ranking that is judged."""

MOST_USERS = 2_000
"""At most so many users, spread over all of them, are ranked for."""

READ = 1_000
"""Interactions of a user that are read, the latest."""


@dataclass(frozen=True)
class Validation:
    """A problem of ranking, cut from logs.

    Attributes:
        earlier: the logs without what is held out, and without what its user did after the last like that is left.
        history: of the V users who are ranked for.
        liked: `(V, N)` bool, what is held out of them.
    """

    earlier: Logs
    history: History
    liked: torch.Tensor


def validation(logs: Logs) -> Validation | None:
    """The problem cut from `logs`, or None where no user has a like to spare."""
    held, kept = latest_likes(logs)
    if not held.any():
        return None
    earlier = logs.rows(kept)
    users = np.unique(logs.users[held])
    users = users[np.linspace(0, len(users) - 1, min(len(users), MOST_USERS)).astype(np.int64)]
    place = np.full(logs.num_users, -1)
    place[users] = np.arange(len(users))
    rows = held & (place[logs.users] >= 0)
    liked = torch.zeros(len(users), logs.num_items, dtype=torch.bool)
    liked[place[logs.users[rows]], logs.items[rows]] = True
    return Validation(earlier, History(*earlier.padded(READ)).rows(torch.from_numpy(users)), liked)


def latest_likes(logs: Logs) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """`(n,)` each: the rows held out, and the rows that may be known: those up to the user's last like that is left.

    A user with fewer than `LEAST_LIKES` likes has none held out, and all rows may be known.
    """
    order = logs.in_order()
    order = order[logs.positive[order]]
    users = logs.users[order]
    counts = np.bincount(users, minlength=logs.num_users)
    place = np.arange(len(order)) - (np.cumsum(counts) - counts)[users]
    spared = np.where(counts >= LEAST_LIKES, np.maximum(1, (SHARE * counts).astype(np.int64)), 0)
    held = np.zeros(len(logs), bool)
    held[order[place >= (counts - spared)[users]]] = True
    last = np.full(logs.num_users, np.iinfo(np.int64).max)
    last[np.unique(logs.users[held])] = np.iinfo(np.int64).min
    left = logs.positive & ~held & np.isin(logs.users, np.unique(logs.users[held]))
    np.maximum.at(last, logs.users[left], logs.timestamps[left])
    return held, ~held & (logs.timestamps <= last[logs.users])


def validated(tower: Tower, problem: Validation) -> torch.Tensor:
    """`(V,)` NDCG@10 of the tower for each user, what they have met before left out (Jarvelin and Kekalainen 2002)."""
    size = max(1, CHUNK_NUMBERS // len(tower.item_vectors))
    found = []
    for start in range(0, len(problem.history), size):
        rows = slice(start, start + size)
        history = History(*(part[rows] for part in vars(problem.history).values()))
        scores = profile(tower, history) @ tower.item_vectors.T
        found.append(ndcg(without_history(scores, history), problem.liked[rows]))
    return torch.cat(found)


def without_history(scores: torch.Tensor, history: History) -> torch.Tensor:
    """The scores `(V, N)` with what is in the histories put last."""
    lost = torch.where(history.items == PAD, 0.0, -torch.inf)
    return scores + torch.zeros_like(scores).scatter_reduce_(1, history.items.clamp_min(0), lost, reduce="amin")


def ndcg(scores: torch.Tensor, liked: torch.Tensor, places: int = PLACES) -> torch.Tensor:
    """`(V,)` in [0, 1], of `scores` `(V, N)` where `liked` `(V, N)` holds at least one item a row."""
    places = min(places, scores.shape[1])
    gains = 1 / torch.log2(torch.arange(2, places + 2, dtype=torch.float64))
    hits = liked.gather(1, scores.topk(places, dim=1).indices)
    best = gains.cumsum(0)[liked.sum(1).clamp_max(places) - 1]
    return (hits * gains).sum(1) / best
