"""The topics that users tire of: clusters of items that are alike, with names a person can read."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from ..agents.features import attribute_flags
from ..platform.errors import InputError
from ..platform.logs import Logs

VECTOR_WEIGHT = 0.3
"""Length of the learned vectors beside features of length 1: they only part items whose features are the same."""

COMMON = 0.5
"""An attribute names a topic if at least this share of its items has it."""

NAME_WORDS, NAME_REVIEWS = 3, 20_000
"""Attributes or words in a name at most, and reviews read for them."""


def cluster_topics(
    features: NDArray[np.floating], vectors: NDArray[np.floating], topics: int, seed: int
) -> NDArray[np.int64]:
    """`(N,)` the topic of each item, in [0, topics), each with at least one item; the largest is 0.

    k-means over the directions of the items' features, or of the learned vectors where there are none.

    Args:
        features: `(N, e)` content and attributes; e may be 0.
        vectors: `(N, d)` learned item vectors, no two alike.
        topics: how many.
        seed: of the first centres.

    Raises:
        InputError: there are more topics than items.
    """
    if topics > len(vectors):
        raise InputError(f"world.topics={topics}: the dataset has only {len(vectors)} items; set world.topics lower")
    inputs = _unit_rows(vectors)
    if features.shape[1]:
        inputs = np.concatenate([_unit_rows(features), VECTOR_WEIGHT * inputs], 1)
    with threadpool_limits(1):
        found = KMeans(topics, random_state=seed % 2**32).fit_predict(inputs)
    sizes = np.bincount(found, minlength=topics)
    rank = np.empty(topics, np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(topics)
    return rank[found]


def name_topics(topic: NDArray[np.int64], logs: Logs, popularity: NDArray[np.floating]) -> tuple[str, ...]:
    """A name for each topic, no two alike: what most of its items are, or else the words that tell it from the others.

    Without attributes and words a topic is named by its number. A title of its own tells topics of one name apart.

    Args:
        topic: `(N,)` from `cluster_topics`.
        logs: the catalog with titles, texts and attributes, and reviews.
        popularity: `(N,)`; the title is the most popular item's.
    """
    sizes = np.bincount(topic)
    by_topic = np.lexsort((-popularity, topic))
    titles = [_short(logs.item_titles[item]) for item in by_topic[np.cumsum(sizes) - sizes]]
    common, telling = _common_attributes(topic, logs), _telling_words(topic, logs)
    names = [first or second for first, second in zip(common, telling, strict=True)]
    return tuple(
        f"{name or f'cluster {number}'}: {title}" if not name or names.count(name) > 1 else name
        for number, (name, title) in enumerate(zip(names, titles, strict=True))
    )


def _common_attributes(topic: NDArray[np.int64], logs: Logs) -> list[str]:
    flags, names = attribute_flags(logs)
    sizes = np.bincount(topic)
    shares = np.zeros((len(sizes), len(names)))
    np.add.at(shares, topic, flags)
    shares /= sizes[:, None]
    most = np.argsort(-shares, axis=1, kind="stable")[:, :NAME_WORDS]
    return [", ".join(names[j] for j in row.tolist() if shares[number, j] >= COMMON) for number, row in enumerate(most)]


def _telling_words(topic: NDArray[np.int64], logs: Logs) -> list[str]:
    """The commonest words of each topic's item texts and reviews that at most half of the topics share."""
    rows = slice(None, NAME_REVIEWS)
    texts = zip([*topic, *topic[logs.items[rows]]], [*logs.item_texts, *logs.reviews[rows]], strict=True)
    grouped: list[list[str]] = [[] for _ in range(int(topic.max()) + 1)]
    for number, text in texts:
        grouped[number].append(text)
    documents = [" ".join(group) for group in grouped]
    vectorizer = TfidfVectorizer(stop_words="english", max_df=0.5, token_pattern=r"[^\W\d_]{3,}")
    try:
        weights = vectorizer.fit_transform(documents).toarray()
    except ValueError:  # no words, or none that tell topics apart
        return [""] * len(documents)
    words = vectorizer.get_feature_names_out().tolist()
    best = np.argsort(-weights, axis=1, kind="stable")[:, :NAME_WORDS]
    return [", ".join(words[j] for j in row if weights[number, j] > 0) for number, row in enumerate(best)]


def _unit_rows(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows of length 1, so that an item far out is no topic of its own; a row of zeros stays."""
    rows = vectors.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _short(title: str, longest: int = 40) -> str:
    plain = re.sub(r"\s+", " ", title).strip()
    return plain if len(plain) <= longest else plain[: longest - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
