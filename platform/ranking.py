"""The best n of many scores, the same on every device and in every batch: ties go to the lower index."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROWS_ALIKE = 8
"""From this many rows on, a CPU matrix product gives a row the same bits in any batch; smaller ones are padded."""

CHUNK = 64
"""Rows scored at a time, so that a block of scores stays in the processor's cache."""

PEAKS, LEAST_GROUP = 8, 4
"""Groups of items for each item wanted, whose best ones tell what cannot be among the best of all; and the items in a
group from which on that is quicker than to sort out all."""


def descending_keys(values: Tensor, index: Tensor) -> Tensor:
    """int64 keys whose ascending order is: higher value first, then lower index.

    Args:
        values: `(..., n)` float32, no NaN.
        index: `(..., n)` int64 in [0, 2**31), broadcast against `values`.
    """
    bits = (values + 0.0).contiguous().view(torch.int32)  # + 0.0 turns -0.0 into 0.0, which must tie with it
    order = torch.where(bits >= 0, ~bits, bits ^ -(2**31))
    return (order.to(torch.int64) << 32) | index


def key_index(keys: Tensor) -> Tensor:
    """The index packed into a key."""
    return keys & 0xFFFFFFFF


def smallest(keys: Tensor, n: int) -> Tensor:
    """`(B, n)`: each row's n smallest int64 keys, ascending."""
    if keys.device.type != "cpu":
        return torch.topk(keys, n, dim=1, largest=False, sorted=True).values
    array = keys.numpy()
    if n < array.shape[1]:
        array = np.partition(array, n - 1, axis=1)[:, :n]
    return torch.from_numpy(np.sort(array, axis=1))


def at_least_rows(rows: Tensor) -> Tensor:
    """The same rows, repeated below until there are `ROWS_ALIKE` of them."""
    missing = ROWS_ALIKE - rows.shape[0]
    return rows if missing <= 0 else torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])])


def best_items(queries: Tensor, item_vectors: Tensor, penalty: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n items with the highest `query . item + penalty`.

    Args:
        queries: `(B, d)` float32.
        item_vectors: `(d, N)` float32, transposed and contiguous.
        penalty: `(B, N)` float32, 0 for an item that may be shown, far below any score otherwise.
        n: items wanted, at most N.

    Returns:
        items `(B, n)` int64, best first; scores `(B, n)` float32.
    """
    rows, count = queries.shape[0], item_vectors.shape[1]
    if queries.device.type != "cpu":
        scores = torch.addmm(penalty, queries, item_vectors)
        items = key_index(smallest(descending_keys(scores, torch.arange(count, device=scores.device)), n))
        return items, scores.gather(1, items)
    if rows < ROWS_ALIKE:
        items, scores = best_items(at_least_rows(queries), item_vectors, at_least_rows(penalty), n)
        return items[:rows], scores[:rows]
    items, best = torch.empty(rows, n, dtype=torch.int64), torch.empty(rows, n)
    chunk = min(CHUNK, rows)
    select = _Selector(chunk, count)
    for first in range(0, rows, chunk):
        # A short last block starts earlier instead, so that no product has fewer rows than its bits allow.
        start = min(first, rows - chunk)
        part = slice(start, start + chunk)
        torch.addmm(penalty[part], queries[part], item_vectors, out=select.scores)
        items[part] = select.best(n)
        torch.gather(select.scores, 1, items[part], out=best[part])
    return items, best


class _Selector:
    """The best n of a block of scores `(rows, count)`, in buffers that are made once.

    numpy selects int64 in vector registers but not the indices of floats, so a score and its index are packed into one
    number, as in `descending_keys` but ascending: the upper half orders as the float does, the lower half breaks ties.
    """

    def __init__(self, rows: int, count: int) -> None:
        self.scores = torch.empty(rows, count)
        self._bits = self.scores.numpy().view(np.int32)
        self._order = np.empty((rows, count), np.int32)
        self._keys = np.empty((rows, count), np.int64)
        self._high = np.empty((rows, count), np.bool_)
        self._last = count - 1
        self._places = np.arange(self._last, -1, -1, dtype=np.int64)

    def best(self, n: int) -> Tensor:
        """`(rows, n)` int64, best first. No score is -0.0, as a product with a penalty of +0.0 never is."""
        chosen = self._of_high(n)
        return torch.from_numpy(self._last - ((self._of_all(n) if chosen is None else chosen) & 0xFFFFFFFF))

    def _of_high(self, n: int) -> NDArray[np.int64] | None:
        """Keys `(rows, n)`, best first, of items that score no less than the n-th best of the groups' best ones.

        None where the groups are small, or most items tie: then it saves nothing.
        """
        rows, count = self._keys.shape
        size = count // (PEAKS * n)
        if size < LEAST_GROUP:
            return None
        groups = count // size  # group g is items g, g + groups, ...; fewer than a group are left over
        peaks = self.scores[:, : size * groups].unflatten(1, (size, groups)).amax(1).numpy()
        peaks.partition(groups - n, axis=1)
        np.greater_equal(self.scores.numpy(), peaks[:, groups - n, None], out=self._high)
        found = np.flatnonzero(self._high)
        row = found // count
        each = np.bincount(row, minlength=rows)
        if each.max() > PEAKS * n or each.min() < n:  # fewer where scores are not numbers
            return None
        bits = self._bits.reshape(-1)[found]
        order = bits >> 31 & 0x7FFFFFFF ^ bits
        keys = np.full((rows, each.max()), np.iinfo(np.int64).min)
        place = np.arange(len(found)) - (np.cumsum(each) - each)[row]
        keys[row, place] = np.left_shift(order, 32, dtype=np.int64) | self._places[found - row * count]
        keys.sort(axis=1)
        return keys[:, : -n - 1 : -1]

    def _of_all(self, n: int) -> NDArray[np.int64]:
        """Keys `(rows, n)`, best first."""
        np.right_shift(self._bits, 31, out=self._order)
        np.bitwise_and(self._order, 0x7FFFFFFF, out=self._order)
        np.bitwise_xor(self._order, self._bits, out=self._order)
        np.left_shift(self._order, 32, out=self._keys, dtype=np.int64)
        np.bitwise_or(self._keys, self._places, out=self._keys)
        if n <= self._last:
            self._keys.partition(self._last + 1 - n, axis=1)
        return np.sort(self._keys[:, self._last + 1 - n :], axis=1)[:, ::-1]


def rows_matmul(rows: Tensor, matrix: Tensor) -> Tensor:
    """`rows @ matrix`, `(B, d) @ (d, e)`, with the same bits for a row whatever B is."""
    return (at_least_rows(rows) @ matrix)[: rows.shape[0]]
