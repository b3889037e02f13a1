from __future__ import annotations

import numpy as np
import pytest
import torch
from concertrl.envs.features import attribute_flags, item_inputs, shrunk_mean, user_inputs
from concertrl.envs.response import (
    EPOCHS,
    FACTOR_STDS,
    NEGATIVES,
    Pairs,
    ResponseModel,
    draw_unseen,
    fit_response,
    labelled_pairs,
    seen_keys,
    tune_response,
)
from concertrl.platform.logs import Logs
from torch.nn.functional import binary_cross_entropy_with_logits


def random_logs(num_users: int, num_items: int, each: int, seed: int = 0) -> Logs:
    draws = np.random.default_rng(seed)
    n = num_users * each
    return Logs(
        user_ids=tuple(map(str, range(num_users))),
        item_ids=tuple(map(str, range(num_items))),
        item_titles=("",) * num_items,
        item_texts=("",) * num_items,
        item_attributes=tuple(("even", "small") if i % 2 == 0 else ("odd",) for i in range(num_items)),
        users=np.repeat(np.arange(num_users), each),
        items=np.concatenate([draws.permutation(num_items)[:each] for _ in range(num_users)]),
        timestamps=np.arange(n),
        ratings=draws.integers(1, 6, n).astype(np.float32),
        clicks=np.ones(n, np.float32),
        reviews=("",) * n,
    )


def test_pairs_are_the_rows_and_then_unseen_items_for_each_liked_one() -> None:
    logs = random_logs(20, 30, each=10)
    pairs = labelled_pairs(logs, seen_keys(logs), seed=3)
    assert np.array_equal(pairs.labels[: len(logs)].numpy() > 0, logs.ratings >= 4)
    drawn = (pairs.users[len(logs) :] * 30 + pairs.items[len(logs) :]).numpy()
    assert len(drawn) == NEGATIVES * logs.positive.sum()
    assert not np.isin(drawn, logs.users * 30 + logs.items).any()
    assert not pairs.labels[len(logs) :].any()


def test_unseen_items_are_drawn_evenly() -> None:
    seen = np.array([0, 1, 2])  # of the one user's 6 items
    _, items = draw_unseen(np.zeros(6000, np.int64), 6, seen, seed=0)
    counts = np.bincount(items, minlength=6)
    assert not counts[:3].any()
    assert counts[3:] == pytest.approx(2000, rel=0.1)


def test_a_user_who_has_seen_everything_gets_no_unseen_item() -> None:
    users, items = draw_unseen(np.array([0, 0, 1, 1]), 3, np.array([0, 1, 2, 3]), seed=0)
    assert users.tolist() == [1, 1]
    assert set(items.tolist()) <= {1, 2}


def test_a_pair_is_left_out_of_its_own_users_features() -> None:
    logs = random_logs(5, 12, each=6)
    items = item_inputs(logs, np.random.default_rng(0).normal(size=(12, 3)))
    inputs = user_inputs(logs, items)
    often = np.bincount(logs.users[logs.positive], minlength=5)[logs.users] > 1
    row = int(np.flatnonzero(logs.positive & often)[0])
    user, item = int(logs.users[row]), int(logs.items[row])
    others = [i for u, i, y in zip(logs.users, logs.items, logs.positive, strict=True) if u == user and y and i != item]
    left = inputs.rows(torch.tensor([user]), without=items[[item]], labels=torch.ones(1))[0, 2:]
    assert torch.allclose(left, items[others].mean(0), atol=1e-5)
    whole = inputs.rows(torch.tensor([user]))[0, 2:]
    assert torch.allclose(whole, items[[*others, item]].mean(0), atol=1e-5)


def test_a_user_without_a_history_is_average() -> None:
    logs = random_logs(5, 12, each=6)
    lone = user_inputs(logs.rows(logs.users > 0), item_inputs(logs, None)).rows(torch.arange(5))
    assert not lone[0].any()
    assert lone[1:].any()


def test_shared_attributes_become_flags_the_commonest_first() -> None:
    flags, names = attribute_flags(random_logs(2, 5, each=2))
    assert names == ("even", "small", "odd")
    assert flags[:, 0].tolist() == [1, 0, 1, 0, 1]


def test_a_mean_of_few_ratings_is_shrunk_more() -> None:
    index = np.array([0] * 20 + [1] + [2] * 20)
    ratings = np.array([5] * 21 + [1] * 20, np.float32)
    mean = shrunk_mean(index, ratings, 4)
    assert mean[0] > 3 * mean[1] > 0 > mean[2]
    assert mean[3] == 0


def test_features_carry_taste_to_items_nobody_rated() -> None:
    logs = random_logs(60, 40, each=15)
    even_lovers = logs.users % 2 == 0
    logs.ratings[:] = np.where(even_lovers == (logs.items % 2 == 0), 5, 1)
    model = fit_response(logs.rows(logs.items < 36), item_inputs(logs, None), 4, 0, 0.1, epochs=40).model
    logits = model.user_vectors @ model.item_vectors[36:].T  # never rated
    assert (logits[::2, ::2].mean() - logits[::2, 1::2].mean()) > 0.5
    assert (logits[1::2, 1::2].mean() - logits[1::2, ::2].mean()) > 0.5


def test_threads_are_left_as_they_were_and_change_nothing() -> None:
    logs = random_logs(20, 30, each=10)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first = fit_response(logs, item_inputs(logs, None), 4, 0, 0.1, epochs=2).model
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        second = fit_response(logs, item_inputs(logs, None), 4, 0, 0.1, epochs=2).model
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(first.item_vectors, second.item_vectors)


def test_validation_chooses_the_prior_and_the_epoch() -> None:
    logs = random_logs(40, 30, each=12)
    noise = np.random.default_rng(0).random(len(logs)) < 0.3
    logs.ratings[:] = np.where(((logs.users + logs.items) % 2 == 0) ^ noise, 5, 1)
    train, held = logs.rows(logs.timestamps % 4 > 0), logs.rows(logs.timestamps % 4 == 0)
    items, validation = item_inputs(logs, None), labelled_pairs(held, seen_keys(logs), seed=1)
    tuned = tune_response(train, items, 4, 0, validation)
    assert 1 < tuned.epochs < EPOCHS
    grid = [(std, n) for std in FACTOR_STDS for n in range(1, tuned.epochs + 2)]
    fits = {(std, n): fit_response(train, items, 4, 0, std, epochs=n) for std, n in grid}
    losses = {key: _log_loss(fit.model, validation) for key, fit in fits.items()}
    assert (tuned.factor_std, tuned.epochs) == min(losses, key=lambda key: losses[key])
    assert tuned.loss == pytest.approx(min(losses.values()), abs=1e-6)
    assert torch.equal(tuned.model.item_vectors, fits[tuned.factor_std, tuned.epochs].model.item_vectors)


def _log_loss(model: ResponseModel, pairs: Pairs) -> float:
    return float(binary_cross_entropy_with_logits(model.logits(pairs.users, pairs.items), pairs.labels))
