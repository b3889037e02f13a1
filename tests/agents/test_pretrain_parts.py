from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from concertrl.agents.pretrain_balance import Balance
from concertrl.agents.pretrain_data import Known, Material
from concertrl.agents.pretrain_model import Model
from concertrl.agents.pretrain_tasks import TASKS, Question, auc
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score


def some(seed: int, rows: int = 60, users: int = 7, items: int = 12) -> Material:
    """Random interactions, pairs among them more than once, a user without any, and items with and without reviews."""
    draw = np.random.default_rng(seed)
    who, what = draw.integers(0, users - 1, rows), draw.integers(0, items, rows)
    stars = draw.integers(1, 6, rows).astype(np.float32)
    read = np.where(draw.random(rows) < 0.7, np.arange(rows), -1)
    fit = draw.random(rows) < 0.8
    reviews = draw.normal(size=(rows, 5)).astype(np.float32)
    used = fit & (read >= 0)
    parts = np.bincount(what[used], minlength=items).astype(np.float32)
    text = np.zeros((items, 5), np.float32)
    np.add.at(text, what[used], reviews[used])
    return Material(
        num_users=users,
        text=torch.from_numpy(text / np.maximum(parts, 1)[:, None]),
        parts=torch.from_numpy(parts),
        reviews=torch.from_numpy(reviews),
        users=torch.from_numpy(who),
        items=torch.from_numpy(what),
        stars=torch.from_numpy(stars),
        liked=torch.from_numpy(stars >= 4),
        acted=torch.from_numpy(draw.random(rows) < 0.9),
        read=torch.from_numpy(read),
        fit=torch.from_numpy(fit),
        mean_stars=3.0,
    )


@given(st.integers(0, 10_000))
def test_a_rows_own_words_are_not_in_its_items_text(seed: int) -> None:
    material = some(seed)
    rows = torch.arange(len(material.users))
    found = material.text_without(rows)
    for row in rows.tolist():
        others = material.fit & (material.read >= 0) & (material.items == material.items[row]) & (rows != row)
        wanted = material.reviews[others].mean(0) if others.any() else torch.zeros(5)
        torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=1e-4)


@given(st.integers(0, 10_000))
def test_a_user_without_a_slot_is_the_user_who_never_met_that_item(seed: int) -> None:
    material = some(seed)
    torch.manual_seed(seed)
    model = Model(material.num_items, 5, 4, 0.0, 0.0).eval()
    known = Known(material, material.fit)
    rows = torch.nonzero(known.slot >= 0)[:, 0]
    if not len(rows):
        return
    row = rows[:1]
    user, item = material.users[row], material.items[row]
    pair = (material.users == user) & (material.items == item)
    less = Known(material, material.fit & ~pair)
    with torch.no_grad():
        without = model.see(material, known).users(user, known.slot[row])
        never = model.see(material, less).users(user)
    torch.testing.assert_close(without, never, atol=1e-5, rtol=1e-4)
    none = torch.tensor([-1])
    without = known.deviations(user, known.slot[row], 5.0)
    torch.testing.assert_close(without, less.deviations(user, none, 5.0), atol=1e-5, rtol=1e-4)


@given(st.integers(0, 10_000))
def test_what_is_known_of_whom(seed: int) -> None:
    material = some(seed)
    known = Known(material, material.fit)
    met = torch.zeros(material.num_users, material.num_items, dtype=torch.bool)
    rows = material.fit & material.acted
    met[material.users[rows], material.items[rows]] = True
    users, items = torch.tensor([6, 0, 3, 0]), torch.tensor([11, 2, 5])
    assert torch.equal(known.holds(users, items), met[users][:, items])
    assert torch.equal(known.seen(users), met[users])
    assert torch.equal(known.slot >= 0, met[material.users, material.items])
    slots = known.slot[rows]
    assert torch.equal(known.users[slots], material.users[rows])
    assert torch.equal(known.items[slots], material.items[rows])
    last = {}
    for row in torch.nonzero(rows)[:, 0].tolist():
        last[int(known.slot[row])] = bool(material.liked[row])
    assert known.liked.tolist() == [last[slot] for slot in range(len(known.liked))]


def test_nobody_known_is_no_error() -> None:
    material = some(0)
    nobody = Known(material, torch.zeros_like(material.fit))
    with torch.no_grad():
        seen = Model(material.num_items, 5, 4, 0.0, 0.0).eval().see(material, nobody)
    users = torch.tensor([0, 3])
    assert not seen.users(users, torch.tensor([-1, -1])).any()
    assert not nobody.deviations(users, torch.tensor([-1, -1]), 5.0).any()
    assert not nobody.seen(users).any()


@given(st.integers(0, 10_000))
def test_auc_is_that_of_scikit_learn_over_what_is_left(seed: int) -> None:
    draw = np.random.default_rng(seed)
    logits = draw.permutation(20).reshape(1, 20).astype(np.float32)
    gone = draw.random(20) < 0.3
    wanted = (draw.random(20) < 0.4) & ~gone
    left = torch.from_numpy(np.where(gone, -np.inf, logits))
    found = float(auc(left, torch.from_numpy(wanted[None])))
    both = 0 < wanted.sum() < (~gone).sum()
    assert found == pytest.approx(roc_auc_score(wanted[~gone], logits[0, ~gone]) if both else 0.5)


def test_measures_are_what_they_say_they_are() -> None:
    material = some(3, rows=150, items=40)
    torch.manual_seed(0)
    model = Model(material.num_items, 5, 4, 0.0, 0.0).eval()
    with torch.no_grad():
        model.own_offsets.normal_()
        question = Question(material, Known(material, material.fit), ~material.fit)
        recall = TASKS["masked"].measure(model, question)
        click = TASKS["click"].measure(model, question)
    rows = torch.nonzero(question.held & material.acted)[:, 0].tolist()
    found = []
    for row in rows:
        user, item = material.users[row], material.items[row]
        pair = (material.users == user) & (material.items == item)
        rest = Known(material, ~pair)
        with torch.no_grad():
            seen = model.see(material, rest)
            logits = model.logits(seen, "masked", seen.users(user[None]))[0]
        logits[rest.seen(user[None])[0]] = -torch.inf
        found.append(bool(item in logits.topk(20).indices))
    assert recall == pytest.approx(np.mean(found))
    users = sorted({int(material.users[row]) for row in rows})
    areas = []
    for user in users:
        with torch.no_grad():
            seen = model.see(material, question.known)
            logits = model.logits(seen, "click", seen.users(torch.tensor([user])))[0]
        left = ~question.known.seen(torch.tensor([user]))[0]
        wanted = torch.zeros_like(left)
        wanted[[int(material.items[row]) for row in rows if int(material.users[row]) == user]] = True
        if bool((wanted & left).any()):
            areas.append(roc_auc_score(wanted[left].numpy(), logits[left].numpy()))
    assert click == pytest.approx(np.mean(areas))


def test_uncertainty_comes_to_rest_where_a_weight_is_one_over_its_loss() -> None:
    balance, losses = Balance("uncertainty", [1.0, 1.0]), torch.tensor([0.25, 4.0])
    optimizer = torch.optim.Adam(balance.parameters(), 0.05)
    for _ in range(500):
        optimizer.zero_grad()
        balance.total(losses, [0, 1], torch.zeros(1)).backward()
        optimizer.step()
    torch.testing.assert_close(balance.weights, 1 / losses, rtol=1e-2, atol=0)


def test_gradient_balance_levels_the_gradients_and_keeps_the_sum() -> None:
    balance, shared = Balance("gradient", [1.0, 1.0]), torch.nn.Parameter(torch.tensor([1.0]))
    for _ in range(400):
        balance.total(torch.stack([10 * shared.sum(), 0.5 * shared.sum()]), [0, 1], shared)
    assert float(balance.weights.sum()) == pytest.approx(2, rel=1e-4)
    assert float(10 * balance.weights[0]) == pytest.approx(float(0.5 * balance.weights[1]), rel=0.1)


def test_gradient_balance_helps_the_task_that_lags() -> None:
    balance, shared = Balance("gradient", [1.0, 1.0]), torch.nn.Parameter(torch.tensor([1.0]))
    balance.total(torch.stack([shared.sum(), shared.sum()]), [0, 1], shared)
    for _ in range(400):  # the first loss is what it was, the second a quarter of it, both with one gradient
        balance.total(torch.stack([shared.sum(), shared.sum() - 0.75]), [0, 1], shared)
    assert 1.6 < float(balance.weights[0] / balance.weights[1]) < 2.2  # 4 ** CATCH_UP


def test_fixed_weights_are_what_was_set() -> None:
    balance = Balance("fixed", [1.0, 3.0])
    assert float(balance.total(torch.tensor([2.0, 5.0]), [0, 1], torch.zeros(1))) == 17
    assert not balance.log_weights.requires_grad


def test_the_words_of_items_and_of_reviews_go_through_one_trunk() -> None:
    material = replace(some(0), parts=torch.zeros(12))
    model = Model(material.num_items, 5, 4, 0.0, 0.0)
    for name in ("praise", "shared_praise"):
        torch.nn.init.normal_(getattr(model, name).weight)
    model.polarity(material.reviews).sum().backward()
    gradient = model.trunk.words.weight.grad
    assert gradient is not None
    assert bool(gradient.any())
    assert model.trunk.ids.grad is None
