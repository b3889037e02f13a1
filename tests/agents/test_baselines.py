"""The baselines against their formulas, what they recover, and the figures they are known for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from concertrl.agents import baselines
from concertrl.agents.baselines import BASELINES, tune
from concertrl.platform.dataset import load_dataset
from concertrl.platform.errors import ConcertError
from concertrl.platform.ingest import ingest
from concertrl.platform.ranking_metrics import accuracy
from concertrl.platform.ranking_protocol import RankingSplit, ranking_split
from scipy.sparse import csr_matrix

PARAMETERS = {
    "popular": {},
    "item_knn": {"neighbours": 30},
    "bpr": {"factors": 8, "learning_rate": 0.05, "regularization": 0.01, "iterations": 200},
    "als": {"factors": 8, "regularization": 1.0, "alpha": 5.0},
    "ease": {"penalty": 5.0},
}


def blocks(users: int, items: int) -> csr_matrix:
    """Users and items of three kinds; a user likes about a third of their kind's items, and a few others."""
    draw = np.random.default_rng(0)
    same = np.arange(users)[:, None] % 3 == np.arange(items) % 3
    return csr_matrix((draw.random((users, items)) < np.where(same, 0.35, 0.02)).astype(np.float32))


def scores(name: str, likes: csr_matrix, seed: int = 0) -> np.ndarray:
    users = np.arange(likes.get_shape()[0])
    return np.asarray(BASELINES[name].fit(likes, dict(PARAMETERS[name]), seed)(likes, users))


@pytest.mark.parametrize("size", [(40, 60), (60, 40)])
def test_ease_is_its_closed_form(size: tuple[int, int]) -> None:
    likes = blocks(*size)
    dense = likes.toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + 5.0 * np.eye(size[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    assert np.allclose(scores("ease", likes), dense @ weights)


def test_ease_leaves_out_users_without_likes_and_refuses_what_memory_cannot_hold(monkeypatch) -> None:
    likes = blocks(40, 60)
    longer = csr_matrix(np.vstack([likes.toarray(), np.zeros((5, 60), np.float32)]))
    assert np.allclose(scores("ease", longer)[:40], scores("ease", likes))
    monkeypatch.setattr(baselines, "EASE_NUMBERS", 100)
    with pytest.raises(ConcertError, match="40 users and 60 items are more than EASE can hold"):
        scores("ease", likes)


def test_item_knn_is_the_cosine_of_the_nearest() -> None:
    likes = blocks(300, 20)
    dense = likes.toarray().astype(np.float64)
    unit = dense / np.linalg.norm(dense, axis=0)
    assert np.allclose(scores("item_knn", likes), dense @ (unit.T @ unit))
    nearest = np.where((unit.T @ unit).argsort(1).argsort(1) >= 15, unit.T @ unit, 0.0)
    kept = np.asarray(BASELINES["item_knn"].fit(likes, {"neighbours": 5}, 0)(likes, np.arange(300)))
    assert np.allclose(kept, dense @ nearest)


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_the_same_seed_gives_the_same_numbers_and_popularity_is_for_everyone(name: str) -> None:
    likes = blocks(30, 40)
    assert np.array_equal(scores(name, likes), scores(name, likes))
    assert (name == "popular") == bool(np.ptp(scores(name, likes), axis=0).max() == 0)


@pytest.mark.parametrize("name", ["item_knn", "bpr", "als", "ease"])
def test_what_a_user_did_not_meet_of_their_kind_is_above_the_rest_for_strangers_too(name: str) -> None:
    likes = blocks(90, 60)
    known = csr_matrix(np.vstack([likes.toarray()[:81], np.zeros((9, 60), np.float32)]))
    found = np.asarray(BASELINES[name].fit(known, dict(PARAMETERS[name]), 0)(likes, np.arange(90)))
    found[likes.toarray() > 0] = np.nan
    same = np.arange(90)[:, None] % 3 == np.arange(60) % 3
    above = np.nanmean(np.where(same, found, np.nan), 1) > np.nanmean(np.where(same, np.nan, found), 1)
    assert above[:81].mean() > 0.95 and above[81:].mean() > 0.85


def test_tune_takes_what_is_judged_best_and_the_first_of_equals() -> None:
    likes = blocks(30, 40)
    wanted = np.asarray(BASELINES["ease"].fit(likes, {"penalty": 100.0}, 0)(likes, np.arange(30)))
    found, best = tune("ease", likes, lambda each: -np.abs(each(likes, np.arange(30)) - wanted).max(), 0)
    assert found == {"penalty": 100.0} and best == 0.0
    first, _ = tune("ease", likes, lambda each: 1.0, 0)
    assert first == BASELINES["ease"].candidates()[0]


def measured(name: str, parameters: dict[str, float | int], split: RankingSplit) -> tuple[float, float]:
    users = split.users
    values = np.array(BASELINES[name].fit(split.fit_likes, parameters, 0)(split.liked[users], users))
    values[split.liked[users].nonzero()] = -np.inf
    values[:, ~split.candidates] = -np.inf
    lists = np.argsort(-values, axis=1, kind="stable")[:, :20]
    found = accuracy(lists, split.relevant[users], (10, 20))
    return round(found["ndcg@10"].mean(), 4), round(found["recall@20"].mean(), 4)


@pytest.mark.parametrize(
    ("source", "folder", "penalty", "figures", "popularity"),
    [
        ("movielens", "ml-latest-small", 100.0, (0.0976, 0.1420), 0.0615),
        ("amazon", "amazon-musical-instruments-5core", 300.0, (0.0692, 0.1861), 0.0446),
    ],
)
def test_the_figures_of_the_field(
    data_folder: Path, tmp_path: Path, source: str, folder: str, penalty: float, figures: tuple, popularity: float
) -> None:
    ingest(source, data_folder / folder, tmp_path / "d")
    split = ranking_split(load_dataset(tmp_path / "d").logs())
    assert measured("ease", {"penalty": penalty}, split) == figures
    assert measured("popular", {}, split)[0] == pytest.approx(popularity, abs=2e-3)  # many items tie
