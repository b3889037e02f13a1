"""Splits interaction logs by time, each user by itself, and marks who and what is new.

The cut. A user's interactions are put in order of time; the last share is `test`, the share before it `validation`,
the rest `train`. A user's cut is the time of the first interaction held out. Nothing that was held out, and no tag from
the cut on, reaches a tower: towers are given `Dataset.train_logs(split)` and nothing else. The cut is each user's own,
so a tower may know what *other* users did on later days, as in the usual per-user protocol.

Ties. Sources with dates but no hours tie often, and row order or item id would favour some items, so interactions of
the same time are ordered by a fixed hash of (user, item). The split therefore does not depend on the order of the rows.

Newcomers. The users who came last (a share of all, by the time of their first interaction) are held out whole: they are
the cold users, whom the towers have never seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .logs import Logs, mixed

NEVER = np.iinfo(np.int64).max
"""The cut of a user with nothing held out."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """Which of n interactions, U users and N items belong where.

    Attributes:
        train, validation, test: `(n,)`; each row is in exactly one.
        cuts: `(U,)` int64 seconds UTC, the time of a user's first interaction held out, `NEVER` without one.
        cold_users: `(U,)` users without a train interaction.
        cold_items: `(N,)` items without a train interaction.
    """

    train: Mask
    validation: Mask
    test: Mask
    cuts: NDArray[np.int64]
    cold_users: Mask
    cold_items: Mask


def split_by_time(logs: Logs, validation: float = 0.1, test: float = 0.2, newcomers: float = 0.05) -> Split:
    """Holds out each user's last interactions, and every interaction of the users who came last.

    A user with n >= 3 interactions gives round(test * n), at least 1, to test and round(validation * n) to validation,
    and keeps at least 1 in train; a user with fewer keeps all in train. Newcomers are the last floor(newcomers * U).

    Raises:
        InputError: a share is negative, or validation and test together leave nothing, or newcomers is not below 1.
    """
    if min(validation, test, newcomers) < 0 or validation + test >= 1 or newcomers >= 1:
        raise InputError(
            f"split: validation={validation}, test={test}, newcomers={newcomers}: shares are not negative, "
            "validation + test is below 1, and so is newcomers"
        )
    counts = np.bincount(logs.users, minlength=logs.num_users)
    tested = np.where(counts >= 3, np.clip(np.floor(test * counts + 0.5), 1, counts - 1), 0)
    validated = np.where(counts >= 3, np.minimum(np.floor(validation * counts + 0.5), counts - tested - 1), 0)

    order = logs.in_order()
    starts = np.cumsum(counts) - counts
    from_end = np.empty(len(logs), np.int64)
    from_end[order] = (starts + counts)[logs.users[order]] - np.arange(len(logs))

    new = _newcomers(logs, order[starts[counts > 0]], newcomers)[logs.users]
    in_test = new | (from_end <= tested[logs.users])
    in_validation = ~in_test & (from_end <= (tested + validated)[logs.users])
    in_train = ~(in_test | in_validation)

    cuts = np.full(logs.num_users, NEVER)
    np.minimum.at(cuts, logs.users[~in_train], logs.timestamps[~in_train])
    cold_users = np.bincount(logs.users[in_train], minlength=logs.num_users) == 0
    cold_items = np.bincount(logs.items[in_train], minlength=logs.num_items) == 0
    return Split(in_train, in_validation, in_test, cuts, cold_users, cold_items)


def _newcomers(logs: Logs, first_rows: NDArray[np.int64], share: float) -> Mask:
    """`(U,)` the floor(share * U) users whose first interaction (`first_rows`, one a user) is latest."""
    users = logs.users[first_rows]
    late = np.lexsort((mixed(users, users), logs.timestamps[first_rows]))[::-1]
    new = np.zeros(logs.num_users, bool)
    new[users[late[: int(share * len(users) + 1e-9)]]] = True
    return new
