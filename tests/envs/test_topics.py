from __future__ import annotations

import numpy as np
import pytest
from concertrl.envs.features import item_inputs
from concertrl.envs.topics import cluster_topics, name_topics
from concertrl.platform.errors import InputError
from concertrl.platform.logs import Logs

GENRES = ("Comedy", "Drama", "Horror")


def catalog(count: int, attributes: list[tuple[str, ...]] | None = None, texts: list[str] | None = None) -> Logs:
    none = np.empty(0, np.int64)
    return Logs(
        user_ids=("u0",),
        item_ids=tuple(f"i{i}" for i in range(count)),
        item_titles=tuple(f"Title  {i}" for i in range(count)),
        item_texts=tuple(texts or [""] * count),
        item_attributes=tuple(attributes or [()] * count),
        users=none,
        items=none,
        timestamps=none,
        ratings=np.empty(0, np.float32),
        clicks=np.empty(0, np.float32),
        reviews=(),
    )


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def test_items_of_a_genre_share_a_topic_and_give_it_its_name() -> None:
    genre = np.array([0] * 30 + [1] * 20 + [2] * 10)
    logs = catalog(60, [(GENRES[g],) for g in genre])
    topic = cluster_topics(item_inputs(logs, None).numpy(), vectors(60), 3, seed=0)
    assert np.array_equal(topic, genre)  # the largest is 0
    assert name_topics(topic, logs, np.arange(60.0)) == GENRES


def test_topics_of_one_name_are_told_apart_by_their_most_popular_title() -> None:
    logs = catalog(4, [("Drama",)] * 4)
    names = name_topics(np.array([0, 0, 1, 1]), logs, np.array([1.0, 2.0, 3.0, 0.0]))
    assert names == ("Drama: Title 1", "Drama: Title 2")


def test_without_attributes_topics_are_named_by_the_words_that_tell_them_apart() -> None:
    texts = ["a good guitar string", "the guitar string", "a good drum stick", "drum stick"]
    assert name_topics(np.array([0, 0, 1, 1]), catalog(4, texts=texts), np.zeros(4)) == (
        "guitar, string",
        "drum, stick",
    )


def test_without_words_topics_are_named_by_number_and_title() -> None:
    names = name_topics(np.array([0, 0, 1]), catalog(3), np.array([0.0, 5.0, 1.0]))
    assert names == ("cluster 0: Title 1", "cluster 1: Title 2")


def test_every_topic_has_an_item_even_where_all_features_are_alike() -> None:
    alike = np.ones((12, 3), np.float32)
    topic = cluster_topics(alike, vectors(12), 12, seed=0)
    assert sorted(topic.tolist()) == list(range(12))


def test_without_features_the_learned_vectors_decide() -> None:
    learned = np.repeat(np.eye(3, dtype=np.float32), [6, 4, 2], axis=0) + 0.01 * vectors(12)[:, :3]
    topic = cluster_topics(np.empty((12, 0), np.float32), learned, 3, seed=0)
    assert topic.tolist() == [0] * 6 + [1] * 4 + [2] * 2


def test_a_seed_gives_one_clustering() -> None:
    inputs, learned = vectors(200, 1), vectors(200, 2)
    first = cluster_topics(inputs, learned, 8, seed=2**62)
    assert np.array_equal(first, cluster_topics(inputs, learned, 8, seed=2**62))
    assert not np.array_equal(first, cluster_topics(inputs, learned, 8, seed=3))


def test_more_topics_than_items_is_a_mistake() -> None:
    with pytest.raises(InputError, match="only 5 items"):
        cluster_topics(vectors(5), vectors(5), 6, seed=0)
