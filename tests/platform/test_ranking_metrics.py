"""Each metric against its definition, and against another library where it is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from concertrl.platform.ranking_metrics import (
    ACCURACY,
    Catalog,
    accuracy,
    character,
    describe,
    gain,
    gini,
    hits,
    intervals,
    spread,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.metrics import ndcg_score

ITEMS = 30


def lists_and_relevant(seed: int, users: int = 25, length: int = 12) -> tuple[np.ndarray, csr_matrix]:
    draw = np.random.default_rng(seed)
    lists = np.stack([draw.permutation(ITEMS)[:length] for _ in range(users)])
    relevant = draw.random((users, ITEMS)) < draw.uniform(0.03, 0.6, (users, 1))
    relevant[np.arange(users), draw.integers(0, ITEMS, users)] = True
    return lists, csr_matrix(relevant.astype(np.float32))


def by_hand(items: list[int], liked: set[int], k: int) -> dict[str, float]:
    found = [place for place, item in enumerate(items[:k]) if item in liked]
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(liked))))
    return {
        "ndcg": sum(1 / math.log2(place + 2) for place in found) / ideal,
        "recall": len(found) / len(liked),
        "precision": len(found) / k,
        "mrr": 1 / (found[0] + 1) if found else 0.0,
        "hit_rate": float(bool(found)),
    }


@given(seed=st.integers(0, 10_000))
def test_accuracy_is_by_its_definition(seed: int) -> None:
    lists, relevant = lists_and_relevant(seed, users=6)
    found = accuracy(lists, relevant, (3, 10))
    assert list(found) == [f"{name}@{k}" for k in (3, 10) for name in ACCURACY]
    for user, items in enumerate(lists.tolist()):
        liked = set(relevant[user].indices.tolist())
        for k in (3, 10):
            for name, value in by_hand(items, liked, k).items():
                assert found[f"{name}@{k}"][user] == pytest.approx(value, abs=1e-6), (name, k)


def test_the_end_of_a_short_list_is_no_hit() -> None:
    lists = np.array([[0, -1, -1], [-1, -1, -1]])
    relevant = csr_matrix(np.array([[1.0, 1.0], [1.0, 0.0]]))
    assert hits(lists, relevant).tolist() == [[True, False, False], [False, False, False]]
    assert accuracy(lists, relevant, (3,))["recall@3"].tolist() == [0.5, 0.0]


def test_ndcg_is_that_of_scikit_learn() -> None:
    lists, relevant = lists_and_relevant(1)
    scores = np.zeros((len(lists), ITEMS))
    np.put_along_axis(scores, lists, np.arange(lists.shape[1], 0, -1.0)[None].repeat(len(lists), 0), axis=1)
    ours = accuracy(lists, relevant, (5,))["ndcg@5"].mean()
    assert ours == pytest.approx(ndcg_score(relevant.toarray(), scores, k=5), abs=1e-6)


@pytest.mark.filterwarnings("ignore")  # the peer's own, on import
def test_accuracy_is_that_of_ranx() -> None:
    ranx = pytest.importorskip("ranx", reason="ranx, the peer, is not installed")
    lists, relevant = lists_and_relevant(2, users=100)
    qrels = {f"u{user}": {f"i{item}": 1 for item in relevant[user].indices} for user in range(len(lists))}
    run = {
        f"u{user}": {f"i{item}": float(len(items) - place) for place, item in enumerate(items)}
        for user, items in enumerate(lists.tolist())
    }
    names = {f"{name}@{k}": f"{name}@{k}" for name in ACCURACY for k in (5, 10)}
    theirs = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), list(names.values()))
    ours = accuracy(lists, relevant, (5, 10))
    for name, peer in names.items():
        assert ours[name].mean() == pytest.approx(theirs[peer], abs=1e-6), name


@pytest.mark.parametrize("sparse", [False, True])
def test_diversity_is_one_less_the_mean_cosine_of_all_pairs(sparse: bool) -> None:
    draw = np.random.default_rng(3)
    likes = csr_matrix((draw.random((20, ITEMS)) < 0.4).astype(np.float32))
    features = None if sparse else draw.normal(size=(ITEMS, 4))
    catalog = describe(likes, np.ones(ITEMS, bool), features)
    lists, _ = lists_and_relevant(3, users=4)
    rows = np.asarray(likes.T.todense(), float) if features is None else features
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for user, found in enumerate(character(lists, catalog, (5,))["diversity@5"]):
        listed = unit[lists[user, :5]]
        pairs = [listed[a] @ listed[b] for a in range(5) for b in range(a)]
        assert found == pytest.approx(1 - np.mean(pairs))


def test_novelty_is_in_bits_and_popularity_in_percentiles_of_the_candidates() -> None:
    likes = csr_matrix(np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1]], np.float32))
    catalog = describe(likes, np.array([True, True, True, False]))
    assert catalog.information.tolist() == pytest.approx([0.0, -math.log2(3 / 4), 2.0, 0.0])
    assert catalog.percentile.tolist() == pytest.approx([5 / 6, 3 / 6, 1 / 6, 0.0])
    found = character(np.array([[0, 2, -1]]), catalog, (3,))
    assert found["novelty@3"].tolist() == [1.0] and found["popularity@3"].tolist() == [0.5]


@given(counts=st.lists(st.integers(0, 50), min_size=2, max_size=30))
def test_gini_is_the_mean_difference_over_twice_the_mean(counts: list[int]) -> None:
    values = np.array(counts)
    expected = np.abs(values[:, None] - values).mean() / (2 * values.mean()) if values.any() else 0.0
    assert gini(values) == pytest.approx(expected, abs=1e-12)


def test_coverage_and_gini_count_the_candidates_alone() -> None:
    candidates = np.array([True, True, True, True, False])
    catalog = Catalog(candidates, np.zeros(5), np.zeros(5), np.eye(5))
    found = spread(np.array([[0, 1], [0, 2]]), catalog, (1, 2))
    assert (found["coverage@1"], found["coverage@2"]) == (0.25, 0.75)
    assert found["gini@1"] == 0.75 and found["gini@2"] == pytest.approx(gini(np.array([2, 1, 1, 0])))


def test_intervals_hold_the_truth_nineteen_times_of_twenty() -> None:
    draw = np.random.default_rng(4)
    samples = draw.exponential(size=(200, 150))
    bounds = intervals(samples, seed=0)
    inside = (bounds[:, 0] <= 1.0) & (bounds[:, 1] >= 1.0)
    assert 0.89 <= inside.mean() <= 0.99
    assert np.array_equal(bounds, intervals(samples, seed=0)) and not np.array_equal(bounds, intervals(samples, seed=1))


def test_one_user_or_equal_values_have_an_interval_of_no_width() -> None:
    assert intervals(np.array([[0.3]]), 0).tolist() == [[0.3, 0.3]]
    assert intervals(np.zeros((1, 5)), 0).tolist() == [[0.0, 0.0]]


def test_a_gain_is_paired() -> None:
    """The users differ far more among themselves than the two rankings do: only a paired interval is narrow."""
    draw = np.random.default_rng(5)
    base = draw.random(300)
    better = base + 0.02 + 0.01 * draw.normal(size=300)
    found = {name: float(value or 0) for name, value in gain(better, base, 0).items()}
    assert found["low"] < 0.02 < found["high"] and found["high"] - found["low"] < 0.004
    assert found["relative"] == pytest.approx(better.mean() / base.mean() - 1)
    assert found["relative_low"] < found["relative"] < found["relative_high"]
    assert gain(base, np.zeros(300), 0)["relative"] is None
