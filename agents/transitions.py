"""What people go on to: a directed item-to-item model of the order of the logs, factorised.

    rows in order of time  ->  how often j was liked soon after i (N, N), sparse  ->  tamed  ->  inputs, outputs (N, d)

A user's scores are the sum of the rows of what is in the history, faded by how long ago it was, times `outputs`: the
profile kind `linear`. Rows of one user and one time have no order, whatever order the source writes them in, so that
each of them counts as half before and half after the other.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from ..platform.logs import Logs
from .profiles import CHUNK_NUMBERS, LIKED_WEIGHT
from .tower import PAD, History
from .validation import Validation, ndcg, without_history

REACH = 3
"""In windows: pairs of rows further apart say too little to be counted."""

MOST_PAIRS = 30_000_000
"""Pairs of rows that are counted; in larger logs the reach is shorter."""

PRIOR = 5.0
"""Added to an item's total before the others are divided by a power of it, so that what is rare stays small."""

SOURCE_POWER = 0.6
"""Of the total of the item that was met. Between a sum (0) and a frequency (1)."""


class Options(NamedTuple):
    """How transitions are counted and read.

    Attributes:
        window: rows over which what came before loses a factor e of its say.
        target_power: of an item's total as what was gone on to: 0 favours the popular, 1 the rare.
        half_life: rows of a user's history after which an interaction has half its say.
        low: what an interaction without a like says beside one with.
    """

    window: float = 10
    target_power: float = 0.2
    half_life: float = 10
    low: float = 0.7

    @property
    def fade(self) -> float:
        """The share of its say that an interaction keeps a row."""
        return 0.5 ** (1 / self.half_life)


GRID = tuple(Options(*each) for each in product((10, 30), (0.1, 0.2), (5, 10), (0.0, 0.7)))
"""What is tried on the validation part."""


class Transitions(NamedTuple):
    """An item-to-item model: `inputs` and `outputs` `(N, d)` float32, and the share of the kernel's size it keeps."""

    inputs: NDArray[np.float32]
    outputs: NDArray[np.float32]
    kept: float


def counted(logs: Logs, window: float) -> csr_matrix:
    """`(N, N)`: how often j was liked after i, by all users, a pair counting `exp(-(rows between) / window)`.

    What was shown and neither clicked nor rated is no step. Sparse, of at most `MOST_PAIRS` pairs of rows.
    """
    met = np.flatnonzero(~np.isnan(logs.ratings) | (logs.clicks > 0))
    order = met[np.lexsort((met, logs.timestamps[met], logs.users[met]))]
    users, items, times = logs.users[order], logs.items[order], logs.timestamps[order]
    liked = logs.positive[order]
    total = csr_matrix((logs.num_items, logs.num_items))
    for gap in range(1, min(int(REACH * window), MOST_PAIRS // max(1, len(order))) + 1):
        first = np.flatnonzero(users[:-gap] == users[gap:])
        if not len(first):
            break
        second, tied = first + gap, times[first] == times[first + gap]
        weight = np.exp(-(gap - 1) / window) * np.where(tied, 0.5, 1.0)
        total += _cells(items[first], items[second], weight * liked[second], logs.num_items)
        total += _cells(items[second], items[first], weight * (tied & liked[first]), logs.num_items)
    return total


def _cells(rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float64], size: int) -> csr_matrix:
    kept = values > 0
    return csr_matrix((values[kept], (rows[kept], columns[kept])), shape=(size, size))


def tamed(counts: csr_matrix, target_power: float) -> csr_matrix:
    """`(N, N)`: `C_ij / ((sum_k C_ik + 5)^0.6 (sum_k C_kj + 5)^target_power)`, so that no item shouts the rest down."""
    sources, targets = np.asarray(counts.sum(1)).ravel(), np.asarray(counts.sum(0)).ravel()
    return csr_matrix(diags((sources + PRIOR) ** -SOURCE_POWER) @ counts @ diags((targets + PRIOR) ** -target_power))


def factorised(kernel: csr_matrix, logs: Logs, factors: int, seed: int) -> Transitions:
    """The best product of rank `factors`, an item's row counting by how often it is in a history.

    A truncated singular value decomposition of the rows times the square root of that number (Eckart and Young 1936;
    randomised: Halko, Martinsson and Tropp 2011). The outputs have a root mean square length of 1.
    """
    often = np.sqrt(np.bincount(logs.items, minlength=logs.num_items) + 1.0)
    rows = csr_matrix(diags(often) @ kernel)
    rank = min(factors, logs.num_items)
    with threadpool_limits(1):
        state = np.random.RandomState(np.random.default_rng([seed, *b"transitions"]).integers(2**32))
        left, values, right = randomized_svd(rows, rank, random_state=state)
    kept = float((values**2).sum() / max(float(rows.multiply(rows).sum()), 1e-12))
    scale = max(float(np.sqrt((right**2).sum() / logs.num_items)), 1e-12)
    inputs = left * values / often[:, None] * scale
    return Transitions(inputs.astype(np.float32), (right.T / scale).astype(np.float32), kept)


def judged(problem: Validation) -> dict[Options, float]:
    """NDCG@10 of each of `GRID`, by the kernel itself, counted in what came earlier."""
    found = {}
    for window in dict.fromkeys(options.window for options in GRID):
        counts = counted(problem.earlier, window)
        for power in dict.fromkeys(options.target_power for options in GRID):
            kernel = tamed(counts, power)
            for options in GRID:
                if (options.window, options.target_power) == (window, power):
                    found[options] = _ndcg(kernel, problem, options)
    return found


def _ndcg(kernel: csr_matrix, problem: Validation, options: Options) -> float:
    """Of sums of the kernel's rows, a block of users at a time."""
    weights = _say(problem.history, options, kernel.get_shape()[0])
    size, found = max(1, CHUNK_NUMBERS // kernel.get_shape()[0]), []
    for start in range(0, len(problem.history), size):
        block = slice(start, start + size)
        scores = torch.from_numpy((weights[block] @ kernel).toarray().astype(np.float32))
        history = History(*(part[block] for part in vars(problem.history).values()))
        found.append(ndcg(without_history(scores, history), problem.liked[block]))
    return float(torch.cat(found).mean())


def _say(history: History, options: Options, items: int) -> csr_matrix:
    """`(V, N)`: what each item of a history has to say, as in `profiles.linear`."""
    present = history.items != PAD
    since = present.sum(1, keepdim=True) - present.cumsum(1)
    weights = torch.where(history.weights >= LIKED_WEIGHT, 1.0, options.low) * options.fade**since
    users, places = present.nonzero(as_tuple=True)
    cells = (weights[users, places].numpy(), (users.numpy(), history.items[users, places].numpy()))
    return csr_matrix(cells, shape=(len(history), items))
