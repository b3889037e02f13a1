"""What items are like, as one row of numbers each: every modality a dataset has, side by side.

    text (title, attributes, description)   --encoder-->  embedding
    reviews of the train part               --encoder-->  mean embedding of an item's reviews
    images (the column image_path)          --encoder-->  embedding

A modality is centred over the items that have it, and an item without it has zeros there, so that it says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..platform.encoder import EncodeProgress, Encoder
from ..platform.image_encoder import ImageEncoder
from ..platform.logs import Logs
from .reviews import item_means, rows_to_read

ATTRIBUTES = 64
"""Attributes kept, the commonest first."""


@dataclass(frozen=True)
class Modality:
    """One kind of evidence about items.

    Attributes:
        name: `text`, `reviews` or `images`.
        rows: `(n, m)` embeddings of the items that have it.
        present: `(N,)` which items those are, n of them.
        source: in words, for the facts.
    """

    name: str
    rows: NDArray[np.float32]
    present: NDArray[np.bool_]
    source: str


@dataclass(frozen=True)
class Features:
    """Items' modalities side by side.

    Attributes:
        rows: `(N, m)` float32, zeros where a modality is missing.
        present: `(N,)` bool, which items have any.
        centres: by modality, `(m_k,)`, what was taken off; their order is that of the columns.
    """

    rows: Tensor
    present: Tensor
    centres: dict[str, Tensor]

    def of(self, modalities: dict[str, Tensor]) -> Tensor:
        """`(n, m)` features of n other items from their embeddings `(n, m_k)`, zeros for a modality not given."""
        return side_by_side(self.centres, modalities)


def side_by_side(centres: dict[str, Tensor], modalities: dict[str, Tensor]) -> Tensor:
    """`(n, m)`: each modality less its centre, in the order of `centres`; zeros for one that is not given."""
    number = len(next(iter(modalities.values())))
    parts = [
        modalities[name] - centre if name in modalities else torch.zeros(number, len(centre))
        for name, centre in centres.items()
    ]
    return torch.cat(parts, dim=1)


def item_text(logs: Logs, item: int) -> str:
    """What is written of an item, the shortest part first, since the encoder cuts at the end."""
    return joined_text(logs.item_titles[item], logs.item_attributes[item], logs.item_texts[item])


def joined_text(title: str, attributes: Sequence[str], text: str) -> str:
    """Title, attributes and description as the encoder reads them."""
    return ". ".join(part.strip() for part in (title, ", ".join(attributes), text) if part.strip())


def combined(modalities: Sequence[Modality], num_items: int) -> Features:
    """The modalities side by side; at least one."""
    present = torch.zeros(num_items, dtype=torch.bool)
    parts, centres = [], {}
    for modality in modalities:
        rows, where = torch.from_numpy(modality.rows), torch.from_numpy(modality.present)
        centres[modality.name] = rows.mean(0)
        part = torch.zeros(num_items, rows.shape[1])
        part[where] = rows - centres[modality.name]
        parts.append(part)
        present |= where
    return Features(torch.cat(parts, dim=1), present, centres)


def read_text(logs: Logs, encoder: Encoder, progress: EncodeProgress | None) -> Modality | None:
    """Embeddings of the items' text, or None where no item has any."""
    texts = [item_text(logs, item) for item in range(logs.num_items)]
    described = np.array([bool(text) for text in texts])
    if not described.any():
        return None
    rows = encoder.encode([text for text in texts if text], progress)
    return Modality("text", rows, described, f"the text of {int(described.sum()):,} items")


def read_reviews(logs: Logs, encoder: Encoder, at_most: int, progress: EncodeProgress | None) -> Modality | None:
    """The items' mean review, or None where nobody wrote one. `logs` must be the train part."""
    rows = rows_to_read(logs, at_most)
    if not len(rows):
        return None
    embeddings = encoder.encode([logs.reviews[row] for row in rows], progress)
    present = np.bincount(logs.items[rows], minlength=logs.num_items) > 0
    means = item_means(logs.items[rows], embeddings, logs.num_items)
    return Modality("reviews", means[present], present, f"{len(rows):,} reviews")


def read_images(logs: Logs, encoder: ImageEncoder, progress: EncodeProgress | None) -> Modality | None:
    """Embeddings of the items' pictures, or None where no item has one."""
    pictured = np.array([bool(path) for path in logs.item_images])
    if not pictured.any():
        return None
    rows = encoder.encode([path for path in logs.item_images if path], progress)
    return Modality("images", rows, pictured, f"the pictures of {int(pictured.sum()):,} items")


def attribute_flags(logs: Logs) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """`(N, a)` 0 and 1, which items have which of the commonest attributes that two items share, and the a names."""
    owners = np.repeat(np.arange(logs.num_items), [len(words) for words in logs.item_attributes])
    words = np.array([word for words in logs.item_attributes for word in words], dtype=np.str_)
    names, index = np.unique(words, return_inverse=True)
    pairs = np.unique(np.stack([owners, index]), axis=1)
    counts = np.bincount(pairs[1], minlength=len(names))
    kept = [int(name) for name in np.argsort(-counts, kind="stable")[:ATTRIBUTES] if counts[name] > 1]
    matrix = sp.csc_matrix((np.ones(pairs.shape[1]), pairs), shape=(logs.num_items, len(names)))
    return matrix[:, kept].toarray(), tuple(str(names[name]) for name in kept)
