"""Which reviews a tower reads, what they say of each item on average, and the sentences that they are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..platform.logs import Logs

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[a-z][.!?])(?=[A-Z])|\s*\n\s*")


@dataclass(frozen=True)
class Sentences:
    """s sentences of reviews.

    Attributes:
        texts: s, without white space at the ends.
        rows: `(s,)` int64, where each one's review is in what was taken apart; ascending.
    """

    texts: tuple[str, ...]
    rows: NDArray[np.int64]


def sentences(reviews: Sequence[str]) -> Sentences:
    """The sentences of the reviews: they end with a line, or with a full stop, exclamation or question mark that white
    space follows, or a capital letter for want of it.
    """
    parts = [[part.strip() for part in _SENTENCE_END.split(review) if part.strip()] for review in reviews]
    rows = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Sentences(tuple(text for part in parts for text in part), rows.astype(np.int64))


def rows_to_read(logs: Logs, at_most: int) -> NDArray[np.int64]:
    """Rows of `logs` with a review, in order. Where there are too many, every item keeps its latest ones, in
    equal shares: all items' latest before any item's second latest.
    """
    rows = np.flatnonzero(np.fromiter((bool(text.strip()) for text in logs.reviews), bool, len(logs)))
    if len(rows) <= at_most:
        return rows
    order = rows[np.lexsort((-rows, -logs.timestamps[rows], logs.items[rows]))]
    counts = np.bincount(logs.items[order], minlength=logs.num_items)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[np.argsort(place, kind="stable")[:at_most]])


def item_means(items: NDArray[np.int64], vectors: NDArray[np.float32], num_items: int) -> NDArray[np.float32]:
    """`(N, d)` mean of the `vectors` `(n, d)` of each item in `items` `(n,)`; zeros for an item without any."""
    sums = np.zeros((num_items, vectors.shape[1]))
    np.add.at(sums, items, vectors)
    counts = np.bincount(items, minlength=num_items)
    return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
