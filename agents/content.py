"""The content tower: what the items are about, read by a frozen transformer.

title, attributes, text  (or, in a dataset without any, the items' reviews)  ->  embedding  ->  principal components
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ..platform.encoder import EncodeProgress, Encoder
from ..platform.errors import InputError
from ..platform.logs import Logs
from ..platform.settings import ContentSettings
from .profiles import calibrated
from .reviews import item_means, rows_to_read
from .tower import Tower


def fit(
    logs: Logs,
    settings: ContentSettings,
    encoder: Encoder,
    max_reviews: int,
    progress: EncodeProgress | None = None,
) -> Tower:
    """Item vectors `(N, d)`: d <= factors components of the centred embeddings.

    A component is divided by the square root of its standard deviation: half of whitening, which ranked better than
    none or all of it on MovieLens and on Amazon reviews. The rows have a root mean square length of 1 together. An item
    that nothing is said of has the zero vector, and so the score 0. A query is the mean over a history.
    Nothing here is random.

    Raises:
        InputError: the dataset has neither item text nor reviews.
    """
    described, embeddings, source = _read(logs, encoder, max_reviews, progress)
    vectors = np.zeros((logs.num_items, min(settings.factors, embeddings.shape[1], len(embeddings))), np.float32)
    components, kept = principal_components(embeddings, vectors.shape[1])
    components /= np.sqrt(np.maximum(components.std(0), 1e-6))
    vectors[described] = components / np.sqrt(max((components**2).sum() / logs.num_items, 1e-12))
    facts = {
        "fitted_on": source,
        "items_without_vector": f"{logs.num_items - int(described.sum()):,} of {logs.num_items:,}",
        "variance_kept": f"{kept:.0%}",
    }
    return calibrated(Tower("content", torch.from_numpy(vectors), "mean", facts=facts), logs)


def item_text(logs: Logs, item: int) -> str:
    """What is written of an item, the shortest part first, since the encoder cuts at the end."""
    parts = (logs.item_titles[item], ", ".join(logs.item_attributes[item]), logs.item_texts[item])
    return ". ".join(part.strip() for part in parts if part.strip())


def principal_components(rows: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], float]:
    """`(n, count)` coordinates of the centred `rows` `(n, m)`, and the share of their variance that is kept.

    The signs are fixed by the data, so equal rows give equal components.
    """
    if count == 0 or np.ptp(rows, axis=0).max(initial=0) == 0:
        return np.zeros((len(rows), count), np.float32), 1.0
    model = PCA(count, svd_solver="full").fit(rows.astype(np.float64))
    return model.transform(rows).astype(np.float32), float(model.explained_variance_ratio_.sum())


def _read(
    logs: Logs, encoder: Encoder, max_reviews: int, progress: EncodeProgress | None
) -> tuple[NDArray[np.bool_], NDArray[np.float32], str]:
    """Which items are described `(N,)`, their embeddings `(described, m)`, and what they were read from."""
    texts = [item_text(logs, item) for item in range(logs.num_items)]
    described = np.array([bool(text) for text in texts])
    if described.any():
        embeddings = encoder.encode([text for text in texts if text], progress)
        return described, embeddings, f"the text of {int(described.sum()):,} items"
    rows = rows_to_read(logs, max_reviews)
    if not len(rows):
        raise InputError(
            'the dataset has neither item text nor reviews: the "content" agent has nothing to read; leave it out with '
            'agents.names=["cf", "sentiment"]'
        )
    embeddings = encoder.encode([logs.reviews[row] for row in rows], progress)
    described = np.bincount(logs.items[rows], minlength=logs.num_items) > 0
    means = item_means(logs.items[rows], embeddings, logs.num_items)
    return described, means[described], f"{len(rows):,} reviews, for want of item text"
