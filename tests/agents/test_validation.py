from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from concertrl.agents import validation as module
from concertrl.agents.tower import PAD, History, Tower
from concertrl.agents.validation import latest_likes, ndcg, validated, validation, without_history
from concertrl.platform.logs import Logs
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score


def make(rows: list[tuple[int, int, float]], num_users: int = 3, num_items: int = 12) -> Logs:
    """Rows of user, item and rating, a second apart."""
    users, items, ratings = (np.array(column) for column in zip(*rows, strict=True))
    return Logs(
        user_ids=tuple(map(str, range(num_users))),
        item_ids=tuple(map(str, range(num_items))),
        item_titles=("",) * num_items,
        item_texts=("",) * num_items,
        item_attributes=((),) * num_items,
        users=users.astype(np.int64),
        items=items.astype(np.int64),
        timestamps=np.arange(len(rows), dtype=np.int64),
        ratings=ratings.astype(np.float32),
        clicks=np.ones(len(rows), np.float32),
        reviews=("",) * len(rows),
    )


def test_the_latest_likes_and_all_that_follows_the_last_one_left_are_cut() -> None:
    many = [(0, item, 5.0) for item in range(10)]  # ten likes: two are held out
    rows = [*many[:8], (0, 10, 1.0), many[8], (0, 11, 2.0), many[9], (1, 0, 5.0), (1, 1, 4.0), (1, 2, 1.0)]
    held, kept = latest_likes(make(rows))
    assert np.flatnonzero(held).tolist() == [9, 11]
    # What user 0 disliked came after the last like that is left; user 1 has too few likes to spare one.
    assert np.flatnonzero(~held & ~kept).tolist() == [8, 10]


def test_three_likes_spare_one() -> None:
    rows = [(2, 0, 5.0), (2, 1, 3.0), (2, 2, 4.0), (2, 3, 5.0)]
    held, kept = latest_likes(make(rows))
    assert held.tolist() == [False, False, False, True] and kept.tolist() == [True, True, True, False]
    problem = validation(make(rows))
    assert problem is not None and problem.history.items.tolist() == [[0, 1, 2]]
    assert problem.liked.nonzero().tolist() == [[0, 3]] and len(problem.earlier) == 3
    assert validation(make(rows[:2])) is None


def test_at_most_so_many_users_are_ranked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(user, item, 5.0) for item in range(4) for user in range(9)]
    monkeypatch.setattr(module, "MOST_USERS", 3)
    problem = validation(make(rows, num_users=9))
    assert problem is not None and problem.liked.shape == (3, 12)
    assert problem.liked.any(1).all() and (problem.history.items != PAD).sum() == 9


@given(st.integers(0, 10_000), st.integers(3, 30))
def test_ndcg_is_that_of_scikit_learn(seed: int, items: int) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.permutation(items)[None].astype(np.float64)
    liked = draw.random((1, items)) < 0.4
    liked[0, draw.integers(items)] = True
    ours = ndcg(torch.from_numpy(scores), torch.from_numpy(liked)).item()
    assert ours == pytest.approx(ndcg_score(liked, scores, k=10))


def test_what_was_met_is_not_ranked() -> None:
    history = History(torch.tensor([[2, PAD]]), torch.zeros(1, 2), torch.ones(1, 2))
    assert without_history(torch.ones(1, 4), history).tolist() == [[1, 1, -torch.inf, 1]]


def test_a_tower_that_knows_gets_one() -> None:
    rows = [(user, (item + user) % 12, 5.0) for item in range(5) for user in range(3)]
    problem = validation(make(rows))
    assert problem is not None
    next_item = torch.eye(12).roll(1, 0)  # an item speaks for the one after it
    extras = {"inputs": next_item, "low": torch.tensor(0.0), "fade": torch.tensor(0.1), "gain": torch.tensor(1.0)}
    tower = Tower("cf", torch.eye(12), "linear", {**extras, "prior": torch.zeros(12)})
    backwards = replace(tower, extras={**tower.extras, "inputs": next_item.T})
    assert validated(backwards, problem).tolist() == [1, 1, 1]
    assert validated(tower, problem).max() < 0.7
