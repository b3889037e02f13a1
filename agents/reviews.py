"""Which reviews a tower reads, and what they say of each item on average."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..platform.logs import Logs


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
