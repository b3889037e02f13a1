"""Offline ranking: which likes are held out, who may know what, and which items are ranked.

    logs  ->  each user's likes in order of time, the last fifth held out  ->  RankingSplit
    RankingSplit  ->  nested       the same cut of what is left: all tuning is done there
                  ->  cold_items   a tenth of the items kept from the fit
                  ->  cold_users   the users who came last kept from the fit, their histories read afterwards

A like is a rating of at least four stars, or a click where there is no rating (`Logs.positive`). A tower may read all
that a user did, disliked items too, up to the time of the last like that is not held out, and never a held-out row.
Likes of the same time are in the order of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .dataset import Dataset
from .errors import InputError
from .logs import Logs
from .split import Split

SHARE = 0.2
"""Part of a user's likes that is held out, the latest, rounded down; at least one."""

LEAST_LIKES = 3
"""A user with fewer takes no part."""

COLD_SHARE = 0.1
"""Part of the items, and of the users, that the cold evaluations keep from the fit."""

NOTHING = np.iinfo(np.int64).min
"""The cut of a user of whom nothing may be known."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class RankingSplit:
    """Which of the n rows of `logs`, of U users and N items, belong where.

    Attributes:
        fit: `(n,)` rows that towers and baselines are fitted on.
        read: `(n,)` rows that the users' histories are read from; but for cold users the same.
        held_out: `(n,)` likes to be found.
        candidates: `(N,)` items that are ranked.
        cuts: `(U,)` int64 seconds UTC, the time of a user's last like in `fit`, `NOTHING` without one.
        cold: `(N,)` items whose interactions and tags are kept from the fit and from the histories.
    """

    logs: Logs
    fit: Mask
    read: Mask
    held_out: Mask
    candidates: Mask
    cuts: NDArray[np.int64]
    cold: Mask

    @cached_property
    def liked(self) -> csr_matrix:
        """`(U, N)` float32, 1 where a user's history has a like."""
        return self.matrix(self.read & self.logs.positive)

    @cached_property
    def seen(self) -> csr_matrix:
        """`(U, N)` float32, 1 where a user's history has the item, liked or not."""
        return self.matrix(self.read)

    @cached_property
    def fit_likes(self) -> csr_matrix:
        """`(U, N)` float32, 1 where a like is in `fit`: all that a baseline learns from."""
        return self.matrix(self.fit & self.logs.positive)

    @cached_property
    def relevant(self) -> csr_matrix:
        """`(U, N)` float32, 1 where an item is to be found: held out, a candidate, and not liked before as well."""
        found = self.matrix(self.held_out & self.candidates[self.logs.items])
        found = found - found.multiply(self.liked)
        found = csr_matrix(found)
        found.eliminate_zeros()
        return found

    @cached_property
    def users(self) -> NDArray[np.int64]:
        """The users with something to be found, ascending."""
        return np.flatnonzero(np.diff(self.relevant.indptr) > 0)

    def matrix(self, rows: Mask) -> csr_matrix:
        """`(U, N)` float32, 1 where one of `rows` `(n,)` has that user and item."""
        cells = (np.ones(int(rows.sum()), np.float32), (self.logs.users[rows], self.logs.items[rows]))
        matrix = csr_matrix(cells, shape=(self.logs.num_users, self.logs.num_items))
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        return matrix

    def train_logs(self, dataset: Dataset) -> Logs:
        """What towers are fitted on: the rows of `fit`, and texts with the tags that may be known."""
        users, items = self.logs.users[self.fit], self.logs.items[self.fit]
        without_rows = np.bincount(users, minlength=self.logs.num_users) == 0
        split = Split(
            train=self.fit,
            validation=np.zeros_like(self.fit),
            test=~self.fit,
            cuts=np.where(without_rows, NOTHING, self.cuts),
            cold_users=without_rows,
            cold_items=np.bincount(items, minlength=self.logs.num_items) == 0,
        )
        logs = dataset.train_logs(split)
        texts = zip(self.cold, self.logs.item_texts, logs.item_texts, strict=True)
        return replace(logs, item_texts=tuple(plain if cold else tagged for cold, plain, tagged in texts))


def ranking_split(logs: Logs, rows: Mask | None = None, least: int = LEAST_LIKES) -> RankingSplit:
    """Holds out the last fifth of each user's likes.

    Args:
        logs: everything there is.
        rows: `(n,)` those of `logs` that count; all by default.
        least: likes below which a user takes no part, at least 2.

    Raises:
        InputError: no user has so many likes.
    """
    rows = np.ones(len(logs), bool) if rows is None else rows
    likes = logs.positive & rows
    likes &= (np.bincount(logs.users[likes], minlength=logs.num_users) >= least)[logs.users]
    if not likes.any():
        raise InputError(f"no user has {least} likes, so none can be held out; ranking needs a larger dataset")
    counts = np.bincount(logs.users[likes], minlength=logs.num_users)
    order = np.flatnonzero(likes)
    order = order[np.lexsort((order, logs.timestamps[order], logs.users[order]))]
    users = logs.users[order]
    place = np.arange(len(order)) - (np.cumsum(counts) - counts)[users]
    latest = place >= (counts - np.maximum(1, (SHARE * counts).astype(np.int64)))[users]
    held_out = np.zeros(len(logs), bool)
    held_out[order[latest]] = True
    cuts = np.full(logs.num_users, NOTHING)
    np.maximum.at(cuts, users[~latest], logs.timestamps[order[~latest]])
    train = rows & ~held_out & (logs.timestamps <= cuts[logs.users]) & (cuts > NOTHING)[logs.users]
    catalog = np.bincount(logs.items[likes], minlength=logs.num_items) > 0
    return RankingSplit(logs, train, train, held_out, catalog, cuts, np.zeros(logs.num_items, bool))


def nested(split: RankingSplit) -> RankingSplit:
    """The same cut of the rows that may be known, to tune on: nothing that `split` holds out is in it."""
    return ranking_split(split.logs, split.fit, least=2)


def cold_items(split: RankingSplit, seed: int, share: float = COLD_SHARE) -> RankingSplit:
    """A random `share` of the candidates, at least one, gone from the fit and the histories, and alone to be found.

    All candidates are still ranked; `among` makes them fewer.
    """
    catalog = np.flatnonzero(split.candidates)
    count = max(1, int(share * len(catalog)))
    cold = np.zeros(split.logs.num_items, bool)
    cold[np.random.default_rng([seed, *b"cold items"]).permutation(catalog)[:count]] = True
    gone = cold[split.logs.items]
    return replace(split, fit=split.fit & ~gone, read=split.read & ~gone, held_out=split.held_out & gone, cold=cold)


def cold_users(split: RankingSplit, share: float = COLD_SHARE) -> RankingSplit:
    """The `share` of the users, at least one, whose first interaction came last: gone from the fit, alone to be served.

    Their histories are read as those of other users are, by towers that never saw them.
    """
    first = np.full(split.logs.num_users, np.iinfo(np.int64).max)
    np.minimum.at(first, split.logs.users, split.logs.timestamps)
    users = split.users[np.lexsort((split.users, first[split.users]))]
    new = np.zeros(split.logs.num_users, bool)
    new[users[len(users) - max(1, int(share * len(users))) :]] = True
    gone = new[split.logs.users]
    return replace(split, fit=split.fit & ~gone, held_out=split.held_out & gone)


def among(split: RankingSplit, candidates: Mask) -> RankingSplit:
    """The same with only these items `(N,)` ranked."""
    return replace(split, candidates=candidates)
