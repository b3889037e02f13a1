"""Themes: clusters of items that are alike by what a catalog says of them, so that a team knows what it repeats.

    content vectors, attributes  --k-means over directions-->  theme of each item, one-hot (N, T)
    shown slates                 --fading share-->             worn (B, T)
    gain g of an agent, worn     -->                           what the agent adds to the scores of each theme (B, T)

The trace of item vectors that were shown points where the user's taste points, since that is why they were shown; that
one theme was shown ten times is another matter, and cannot be told from a sum of vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..platform.logs import Logs
from .features import attribute_flags
from .tower import Tower

THEMES = 32
"""Themes of a catalog; as many as it has kinds of items, where those are fewer."""

EXTRA = "themes"
"""The name among a tower's extras."""


def with_themes(towers: Mapping[str, Tower], logs: Logs, seed: int) -> dict[str, Tower]:
    """The towers, one of them with the catalog's themes in its extras, `(N, T)` float32, one-hot.

    It is `content`, which knows best, or the first by name.
    """
    name = "content" if "content" in towers else min(towers)
    tower = towers[name]
    themes = clustered(tower.item_vectors[:, : tower.dim - tower.common].cpu().numpy(), logs, seed)
    return {**towers, name: replace(tower, extras={**tower.extras, EXTRA: themes})}


def clustered(vectors: NDArray[np.float32], logs: Logs, seed: int) -> Tensor:
    """`(N, T)` one-hot, from `(N, d)` vectors and the attributes that items share; the same every time."""
    flags, _ = attribute_flags(logs)
    points = np.concatenate([_directions(part) for part in (vectors, flags)], axis=1)
    count = min(THEMES, len(np.unique(points.round(6), axis=0)))
    with threadpool_limits(1):
        found = KMeans(count, random_state=seed % 2**32).fit_predict(points)
    return torch.nn.functional.one_hot(torch.from_numpy(found).long(), count).float()


def _directions(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-9)


def themes_of(towers: Iterable[Tower]) -> Tensor:
    """`(N, T)` the themes that one of the towers carries; T is 0 where none does."""
    towers = list(towers)
    found = [tower.extras[EXTRA] for tower in towers if EXTRA in tower.extras]
    return found[0] if found else towers[0].item_vectors.new_zeros(len(towers[0].item_vectors), 0)
