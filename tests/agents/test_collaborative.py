from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from concertrl.agents import collaborative
from concertrl.agents.profiles import PROFILES, profile
from concertrl.agents.tower import PAD, History, Tower
from concertrl.agents.validation import latest_likes, validated, validation
from concertrl.platform.errors import InputError
from concertrl.platform.logs import Logs
from concertrl.platform.settings import CollaborativeSettings
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

SETTINGS = CollaborativeSettings(method="als", factors=8, iterations=10, regularization=2.0, popularity=0)


def make(users: np.ndarray, items: np.ndarray, ratings: np.ndarray, num_users: int, num_items: int) -> Logs:
    return Logs(
        user_ids=tuple(f"u{row}" for row in range(num_users)),
        item_ids=tuple(f"i{row}" for row in range(num_items)),
        item_titles=("",) * num_items,
        item_texts=("",) * num_items,
        item_attributes=((),) * num_items,
        users=users.astype(np.int64),
        items=items.astype(np.int64),
        timestamps=np.arange(len(users), dtype=np.int64),
        ratings=ratings.astype(np.float32),
        clicks=np.ones(len(users), np.float32),
        reviews=("",) * len(users),
    )


def two_crowds() -> Logs:
    """120 users: the even ones like items 0 to 19, the odd ones 20 to 39; item 40 is met by nobody; 41 is disliked."""
    draw = np.random.default_rng(0)
    users = np.repeat(np.arange(120), 8)
    items = draw.integers(0, 20, len(users)) + 20 * (users % 2)
    ratings = draw.choice([4.0, 5.0, np.nan], len(users))
    users, items = np.append(users, 0), np.append(items, 41)
    return make(users, items, np.append(ratings, 1.0), 120, 42)


def queries(tower: Tower, logs: Logs) -> torch.Tensor:
    return profile(tower, History(*logs.padded(50)))


def test_recommends_what_the_users_crowd_likes() -> None:
    logs = two_crowds()
    tower = collaborative.fit(logs, SETTINGS, seed=0)
    best = (queries(tower, logs) @ tower.item_vectors.T).topk(3).indices
    crowd = torch.arange(120)[:, None] % 2
    assert tower.name == "cf" and tower.item_vectors.shape == (42, 8) and tower.item_vectors.dtype == torch.float32
    assert (best // 20 == crowd).float().mean() > 0.99


def test_profile_is_what_implicit_computes_for_a_user() -> None:
    from implicit.cpu.als import AlternatingLeastSquares

    logs = two_crowds()
    tower = collaborative.fit(logs, SETTINGS, seed=0)
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(factors=8, regularization=2.0, iterations=0)
        scale = 0.05  # implicit keeps its own scale; ours has vectors of length 1
        model.item_factors, model.user_factors = tower.item_vectors.numpy() * scale, np.zeros((120, 8), np.float32)
        weights = csr_matrix((logs.weights, (logs.users, logs.items)), shape=(120, 42), dtype=np.float32)
        weights.eliminate_zeros()
        weights.data = 1 + 10 * weights.data
        model.regularization = float(torch.linalg.eigvalsh(
            tower.extras["gram"] - tower.item_vectors.T @ tower.item_vectors
        ).mean()) * scale**2  # fmt: skip
        theirs = model.recalculate_user(np.arange(120), weights)
    ours = PROFILES["ridge"](tower, History(*logs.padded(50))) / scale
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    assert np.abs(theirs).mean() > 1


def test_profile_is_near_the_users_factor_of_a_converged_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    import implicit.cpu.als as als

    kept = []
    fit = als.AlternatingLeastSquares.fit

    def spy(self: als.AlternatingLeastSquares, confidence: csr_matrix, show_progress: bool) -> None:
        fit(self, confidence, show_progress)
        kept.append(self)

    monkeypatch.setattr(als.AlternatingLeastSquares, "fit", spy)
    logs = two_crowds()
    settings = CollaborativeSettings(method="als", factors=4, iterations=300, regularization=2.0, popularity=0)
    tower = collaborative.fit(logs, settings, seed=0)
    scores = PROFILES["ridge"](tower, History(*logs.padded(50))) @ tower.item_vectors.T
    np.testing.assert_allclose(scores, kept[0].user_factors @ kept[0].item_factors.T, atol=1e-3)


def test_scale_and_unknown_items() -> None:
    logs = two_crowds()
    tower = collaborative.fit(logs, SETTINGS, seed=0)
    assert tower.item_vectors.square().sum(1).mean().item() == pytest.approx(1, abs=1e-4)
    assert queries(tower, logs).square().mean().item() == pytest.approx(1, abs=1e-3)
    assert (tower.item_vectors[40:] == 0).all()
    assert tower.facts["items_without_vector"] == "2 of 42"


def test_a_stranger_gets_what_is_popular_and_a_crowd_its_own() -> None:
    logs = two_crowds()
    tower = collaborative.fit(logs, SETTINGS.model_copy(update={"popularity": 0.02}), seed=0)
    liked = np.bincount(logs.items[logs.weights > 0], minlength=42)
    stranger = profile(tower, History(torch.full((1, 1), PAD), torch.zeros(1, 1), torch.zeros(1, 1)))
    best = (stranger @ tower.item_vectors.T).topk(5).indices[0].numpy()
    assert tower.item_vectors.shape == (42, 9) and set(liked[best]) == set(np.sort(liked)[-5:])
    own = (queries(tower, logs) @ tower.item_vectors.T).topk(3).indices // 20 == torch.arange(120)[:, None] % 2
    assert own.float().mean() > 0.95


def test_a_function_of_the_seed_and_of_no_thread() -> None:
    logs = two_crowds()
    first = collaborative.fit(logs, SETTINGS, seed=3)
    with threadpool_limits(2):
        again = collaborative.fit(logs, SETTINGS, seed=3)
    other = collaborative.fit(logs, SETTINGS, seed=4)
    assert torch.equal(first.item_vectors, again.item_vectors)
    assert all(torch.equal(first.extras[name], again.extras[name]) for name in first.extras)
    assert not torch.equal(first.item_vectors, other.item_vectors)


@pytest.mark.parametrize("regularization", [0.0, 1e6])
def test_any_regularization_gives_a_usable_tower(regularization: float) -> None:
    logs = two_crowds()
    settings = CollaborativeSettings(method="als", factors=64, regularization=regularization, popularity=0)
    tower = collaborative.fit(logs, settings, seed=0)
    scores = queries(tower, logs) @ tower.item_vectors.T
    own = torch.arange(40)[None] // 20 == torch.arange(120)[:, None] % 2
    assert scores.isfinite().all()
    assert (scores[:, :40][own].mean() > scores[:, :40][~own].mean() + 0.5).item()
    assert tower.facts["regularization"] == "0.001" or float(tower.facts["regularization"]) < 1000


def test_one_interaction_is_enough_and_none_is_not() -> None:
    tiny = make(np.array([0]), np.array([1]), np.array([5.0]), 2, 2)
    scores = queries(collaborative.fit(tiny, CollaborativeSettings(), 0), tiny)
    assert scores.isfinite().all()
    disliked = make(np.array([0, 1]), np.array([1, 0]), np.array([1.0, 2.0]), 2, 2)
    with pytest.raises(InputError, match='"cf" agent has nothing to learn from'):
        collaborative.fit(disliked, SETTINGS, 0)


@pytest.mark.parametrize("method", ["best", "bpr", "item_knn", "ease"])
def test_every_method_recommends_what_the_users_crowd_likes(method: str) -> None:
    logs = two_crowds()
    settings = CollaborativeSettings.model_validate({"method": method, "factors": 8})
    tower, again = (collaborative.fit(logs, settings, seed=0) for _ in range(2))
    best = (queries(tower, logs) @ tower.item_vectors.T).topk(3).indices
    assert (best // 20 == torch.arange(120)[:, None] % 2).float().mean() > 0.97
    assert tower.item_vectors.square().sum(1).mean().item() == pytest.approx(1, rel=0.2)
    assert torch.equal(tower.item_vectors, again.item_vectors) and tower.facts == again.facts
    tried = tower.facts["picked"]
    assert all(name in tried for name in (collaborative.FAMILIES if method == "best" else (method,)))


def test_order_is_read_where_it_tells_more() -> None:
    """Everyone's next item follows the latest one, so older ones only mislead: the pick forgets them soon."""
    draw = np.random.default_rng(0)
    users = np.repeat(np.arange(150), 12)
    walk = draw.integers(0, 40, 150)[:, None] + np.cumsum(draw.choice([1, 2, 3], (150, 12)), axis=1)
    logs = make(users, walk.ravel() % 40, np.full(len(users), 5.0), 150, 40)
    tower = collaborative.fit(logs, CollaborativeSettings(method="ease", factors=40), seed=0)
    assert tower.facts["half_life"] == "3 interactions"


def test_the_simplest_of_equals_is_picked() -> None:
    """Here the order tells nothing, nobody dislikes a thing, and so nothing is to be won by the other readings."""
    logs = two_crowds()
    tower = collaborative.fit(logs.rows(logs.weights > 0), CollaborativeSettings(method="ease", factors=8), seed=0)
    assert tower.facts["half_life"] == "none" and tower.facts["not_liked_weighs"] == "0"


@pytest.mark.parametrize("name, ease", [("ml-latest-small", 0.0976), ("instruments", 0.0692)])
def test_not_below_ease_on_real_data(data_folder: Path, name: str, ease: float) -> None:
    """Each user's last fifth of likes, what was met before left out; EASE's figures, tuned on them, leave out likes."""
    logs = real(data_folder, name)
    held_out, kept = latest_likes(logs)
    tower = collaborative.fit(logs.rows(kept), CollaborativeSettings(), seed=0)
    problem = validation(logs)
    assert problem is not None and held_out.sum() == problem.liked.sum()
    assert validated(tower, problem).mean() > ease


def real(folder: Path, name: str) -> Logs:
    if name == "instruments":
        path = folder / "amazon-musical-instruments-5core" / "Musical_instruments_reviews.csv.gz"
        table = pd.read_csv(path).rename(
            columns={"reviewerID": "user", "asin": "item", "overall": "rating", "unixReviewTime": "timestamp"}
        )
    else:
        path = folder / name / "ratings.csv.gz"
        table = pd.read_csv(path).rename(columns={"userId": "user", "movieId": "item"})
    users, items = (np.unique(table[column], return_inverse=True)[1] for column in ("user", "item"))
    logs = make(users, items, table.rating.to_numpy(), users.max() + 1, items.max() + 1)
    return replace(logs, timestamps=table.timestamp.to_numpy(np.int64))
