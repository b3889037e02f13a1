"""The content tower: what the items are about, read by a transformer.

    text, reviews, images  --encoder, as it is or taught on likes-->  features (N, m)
                           --a projection learned on likes, or principal axes-->  (N, d)

A query is the mean over a history. An item that comes later is placed by `place`, without refitting.
"""

from __future__ import annotations

import textwrap

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import normalize

from ..platform.encoder import EncodeProgress, Encoder
from ..platform.errors import InputError
from ..platform.image_encoder import ImageEncoder
from ..platform.logs import Logs
from ..platform.settings import ContentSettings, EncoderSettings
from .contrastive import learn_projection, principal_axes
from .encoder_tuning import tuned_encoder
from .features import Modality, combined, item_text, read_images, read_reviews, read_text, side_by_side
from .profiles import LONGEST, calibrated
from .tower import History, Tower

CENTRE = "centre."
"""Begins the names of the extras that hold a modality's centre."""

QUOTED = 200
"""Characters of an item's text that are kept to be quoted."""

TAUGHT = "encoder."
"""Begins the names of the extras that hold what the encoder was taught."""


def fit(
    logs: Logs,
    settings: ContentSettings,
    encoder: Encoder,
    max_reviews: int,
    seed: int = 0,
    progress: EncodeProgress | None = None,
) -> Tower:
    """Item vectors `(N, d)`, d <= factors; zeros, and so the score 0, for an item that nothing is said of.

    `principal`: principal axes, each divided by the square root of its standard deviation: half of whitening, which
    ranked better than none or all of it on MovieLens and on Amazon reviews; the rows have a root mean square length of
    1 together. `learned`: from there on a projection is learned that puts together what the same users like
    (`contrastive.py`); the rows have length 1.

    Raises:
        InputError: the dataset has neither item text nor reviews.
    """
    if settings.layers:
        encoder = tuned_encoder(logs, settings, encoder, max_reviews, seed, progress)
    found = _modalities(logs, settings, encoder, max_reviews, progress)
    features = combined(found, logs.num_items)
    learned = settings.projection == "learned"
    if learned:
        met = torch.from_numpy(np.bincount(logs.items, minlength=logs.num_items) > 0)
        history = History(*logs.padded(LONGEST))
        axes = learn_projection(features.rows, features.present & met, history, settings.factors, seed).map
    else:
        axes = principal_axes(features.rows[features.present], settings.factors).map
        vectors = (features.rows @ axes) * features.present[:, None]
        axes = axes / vectors.square().sum(1).mean().sqrt().clamp_min(1e-6)
    extras = {f"{CENTRE}{name}": centre for name, centre in features.centres.items()}
    extras |= {"axes": axes, "unit": torch.tensor(float(learned))}
    extras |= {f"{TAUGHT}{name}": tensor for name, tensor in encoder.learned.items()}
    draft = Tower("content", torch.zeros(logs.num_items, axes.shape[1]), "mean", extras)
    vectors = _vectors(draft, features.rows) * features.present[:, None]
    facts = {
        "fitted_on": " and ".join(modality.source for modality in found),
        "items_without_vector": f"{logs.num_items - int(features.present.sum()):,} of {logs.num_items:,}",
        "projection": "learned on what users like" if learned else "principal axes",
    }
    if settings.layers:
        facts["encoder"] = f"its last {settings.layers} layers taught on what is liked together"
    texts = tuple(quoted(item_text(logs, item)) for item in range(logs.num_items))
    notes = {"text": texts} if any(texts) else {}
    return calibrated(Tower("content", vectors, "mean", extras, facts, notes=notes), logs)


def quoted(text: str) -> str:
    """The beginning of an item's text, whole words of it."""
    return textwrap.shorten(text, QUOTED, placeholder=" ...")


def encoder_of(tower: Tower, settings: EncoderSettings) -> Encoder:
    """The encoder that the tower's texts were read with, taught as it was."""
    return Encoder(
        settings, {name[len(TAUGHT) :]: each for name, each in tower.extras.items() if name.startswith(TAUGHT)}
    )


def place(tower: Tower, modalities: dict[str, Tensor]) -> Tensor:
    """`(n, d)` vectors of n items that the fit did not know, from their embeddings `(n, m_k)` by modality."""
    centres = {name[len(CENTRE) :]: value for name, value in tower.extras.items() if name.startswith(CENTRE)}
    return _vectors(tower, side_by_side(centres, modalities))


def _vectors(tower: Tower, features: Tensor) -> Tensor:
    placed = features @ tower.extras["axes"]
    return normalize(placed, dim=1) if bool(tower.extras["unit"]) else placed


def _modalities(
    logs: Logs, settings: ContentSettings, encoder: Encoder, max_reviews: int, progress: EncodeProgress | None
) -> list[Modality]:
    found = [read_text(logs, encoder, progress), read_reviews(logs, encoder, max_reviews, progress)]
    if settings.images:
        found.append(read_images(logs, ImageEncoder(settings.images, encoder.settings), progress))
    kept = [modality for modality in found if modality is not None]
    if not kept:
        raise InputError(
            'the dataset has neither item text nor reviews: the "content" agent has nothing to read; leave it out with '
            'agents.names=["cf", "sentiment"]'
        )
    return kept


def principal_components(rows: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], float]:
    """`(n, count)` coordinates of the centred `rows` `(n, m)`, and the share of their variance that is kept.

    The signs are fixed by the data, so equal rows give equal components.
    """
    if count == 0 or np.ptp(rows, axis=0).max(initial=0) == 0:
        return np.zeros((len(rows), count), np.float32), 1.0
    model = PCA(count, svd_solver="full").fit(rows.astype(np.float64))
    return model.transform(rows).astype(np.float32), float(model.explained_variance_ratio_.sum())
