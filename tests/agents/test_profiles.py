from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from concertrl.agents.attention import untrained
from concertrl.agents.profiles import PROFILES, calibrated, centred_ratings, profile
from concertrl.agents.tower import PAD, History, Tower
from concertrl.platform.errors import InputError
from concertrl.platform.logs import Logs
from hypothesis import given
from hypothesis import strategies as st


def tower(kind: str, dim: int, items: int = 60) -> Tower:
    if kind == "attention":
        dim = -(-dim // 8) * 8  # its width is set to a multiple of 8
    vectors = torch.randn(items, dim, generator=torch.Generator().manual_seed(dim)) / dim**0.5
    factors = vectors[:, :-1] if kind == "popular_ridge" else vectors
    extras = {
        "gram": factors.T @ factors + 0.5 * torch.eye(factors.shape[1]),
        "pull": torch.tensor(0.1),
        "alpha": torch.tensor(10.0),
        "response": torch.tensor([3.5, 0.3, 1.0, 0.2]),
        "prior": vectors.mean(0),
        "gain": torch.tensor(2.0),
        "inputs": vectors.flip(0),
        "low": torch.tensor(0.3),
        "fade": torch.tensor(0.9),
        "size": torch.tensor(1.5),
    }
    if kind == "attention":
        layers = untrained(vectors, length=30, layers=1, heads=1, generator=torch.Generator().manual_seed(dim))
        extras |= {name: tensor.detach() for name, tensor in layers.items() if name != "items"}
    return Tower("t", vectors, kind, extras)


def histories(users: int, length: int, items: int = 60, seed: int = 0) -> History:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(PAD, items, (users, length), generator=draw)
    ratings = torch.randint(0, 6, (users, length), generator=draw).float()
    return History(ids, ratings * (ids >= 0), torch.rand(users, length, generator=draw) * (ids >= 0))


@pytest.mark.parametrize("kind", PROFILES)
@given(st.integers(1, 70), st.integers(1, 40), st.sampled_from([2, 9, 24, 32]), st.integers(0, 99))
def test_a_row_has_the_same_bits_in_any_batch(kind: str, users: int, length: int, dim: int, seed: int) -> None:
    subject, history = tower(kind, dim), histories(70, length, seed=seed)
    together = profile(subject, history)
    rows = torch.arange(users)
    torch.testing.assert_close(profile(subject, history.rows(rows)), together[:users], rtol=0, atol=0)


@pytest.mark.parametrize("kind", PROFILES)
@pytest.mark.parametrize("dim", [9, 24, 32])
def test_a_row_has_the_same_bits_in_a_large_batch(kind: str, dim: int) -> None:
    subject, history = tower(kind, dim), histories(1200, 20)
    together = profile(subject, history)
    for users in (1, 2, 9):
        parts = [profile(subject, history.rows(torch.arange(at, at + users))) for at in range(0, 36, users)]
        torch.testing.assert_close(torch.cat(parts), together[:36], rtol=0, atol=0)


@pytest.mark.parametrize("kind", PROFILES)
def test_chunks_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, history = tower(kind, 32), histories(53, 20)
    whole = profile(subject, history)
    monkeypatch.setattr("concertrl.agents.profiles.CHUNK_NUMBERS", 20 * 32 * 9)
    torch.testing.assert_close(profile(subject, history), whole, rtol=0, atol=0)


@pytest.mark.parametrize("kind", PROFILES)
def test_empty_places_say_nothing(kind: str) -> None:
    subject, history = tower(kind, 16), histories(10, 12)
    wider = History(*(torch.nn.functional.pad(part, (0, 5), value=fill) for part, fill in
                      ((history.items, PAD), (history.ratings, 0), (history.weights, 0))))  # fmt: skip
    torch.testing.assert_close(profile(subject, wider), profile(subject, history), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["ridge", "mean"])
def test_no_history_gets_the_prior(kind: str) -> None:
    subject = tower(kind, 16)
    nothing = History(torch.full((2, 3), PAD), torch.zeros(2, 3), torch.zeros(2, 3))
    torch.testing.assert_close(profile(subject, nothing), 2 * subject.extras["prior"].expand(2, -1))


@pytest.mark.parametrize("kind", PROFILES)
def test_a_history_of_no_length(kind: str) -> None:
    query = profile(tower(kind, 16), histories(3, 0))
    assert query.shape == (3, 16) and query.isfinite().all() and (query != 0).any(1).all()


def test_no_users() -> None:
    assert profile(tower("mean", 16), histories(0, 3)).shape == (0, 16)


def test_ridge_solves_the_normal_equations() -> None:
    subject = tower("ridge", 5)
    items, weights = [3, 8, 3, 11], [0.2, 1.0, 0.3, 0.0]
    history = History(torch.tensor([items]), torch.zeros(1, 4), torch.tensor([weights]))
    vectors = subject.item_vectors.double().numpy()
    confidence = {3: 1 + 10 * 0.5, 8: 1 + 10 * 1.0}
    system = subject.extras["gram"].double().numpy()
    for item, value in confidence.items():
        system = system + (value - 1) * np.outer(vectors[item], vectors[item])
    target = sum(value * vectors[item] for item, value in confidence.items())
    np.testing.assert_allclose(profile(subject, history)[0] / 2, np.linalg.solve(system, target), rtol=1e-4, atol=1e-6)


def test_popular_ridge_is_ridge_and_the_same_pull_for_everyone() -> None:
    subject, history = tower("popular_ridge", 9), histories(20, 6)
    extras = {**subject.extras, "prior": torch.zeros(8)}
    plain = replace(subject, item_vectors=subject.item_vectors[:, :-1], profile_kind="ridge", extras=extras)
    query = profile(subject, history)
    torch.testing.assert_close(query[:, :-1], profile(plain, history))
    torch.testing.assert_close(query[:, -1], torch.full((20,), 2 * 0.1))


def test_mean_is_drawn_to_what_was_liked() -> None:
    subject = tower("mean", 4)
    history = History(torch.tensor([[1, 2]]), torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    expected = (1.1 * subject.item_vectors[1] + 0.1 * subject.item_vectors[2]) / 1.2
    torch.testing.assert_close(profile(subject, history)[0] / 2, expected)


def response_tower(polarity: list[float], response: list[float]) -> Tower:
    extras = {"response": torch.tensor(response), "prior": torch.zeros(1), "gain": torch.tensor(1.0)}
    return Tower("sentiment", torch.tensor(polarity)[:, None], "sensitivity", extras)


def test_sensitivity_grows_with_agreement_and_stays_positive() -> None:
    subject = response_tower([1.5, -1.5], [3.0, 0.5, 0.5, 0.0])
    items, known = torch.tensor([[0, 1] * 8]).repeat(4, 1), torch.ones(4, 16)
    follows, opposes, same, absent = [5.0, 1.0] * 8, [1.0, 5.0] * 8, [3.0, 3.0] * 8, [0.0, 0.0] * 8
    history = History(items, torch.tensor([follows, opposes, same, absent]), known)
    agrees, against, level, unrated = profile(subject, history)[:, 0].tolist()
    assert agrees > 1.5 and 0 < against < 0.1 and against < level < 1 and unrated == 1.0


def test_a_users_own_level_is_taken_out_of_the_ratings() -> None:
    history = History(torch.tensor([[0, 1, PAD]]), torch.tensor([[5.0, 4.0, 0.0]]), torch.ones(1, 3))
    stars, rated = centred_ratings(history, torch.tensor(3.0))
    own = (2.0 + 1.0) / (2 + 5)
    torch.testing.assert_close(stars, torch.tensor([[2 - own, 1 - own, 0.0]]))
    assert rated.tolist() == [[True, True, False]]


def test_sensitivity_is_the_posterior_mean() -> None:
    slope, noise = 0.4, 0.8
    subject = response_tower([1.0, -2.0, 0.5], [3.0, slope, noise, 0.0])
    history = History(torch.tensor([[0, 1, 2]]), torch.tensor([[4.0, 2.0, 3.0]]), torch.ones(1, 3))
    z, y = np.array([1.0, -2.0, 0.5]), np.array([1.0, -1.0, 0.0])  # stars less 3, the user's mean
    expected = (1 / 0.25 + slope * (z * y).sum() / noise) / (1 / 0.25 + slope**2 * (z**2).sum() / noise)
    assert profile(subject, history).item() == pytest.approx(expected, rel=1e-5)


def test_sensitivity_reads_clicks_where_there_are_no_ratings() -> None:
    subject = response_tower([2.0, -2.0], [0.0, 0.0, 1.0, 0.7])
    history = History(torch.tensor([[0] * 9, [1] * 9]), torch.zeros(2, 9), torch.full((2, 9), 0.6))
    picky, careless = profile(subject, history)[:, 0].tolist()
    assert picky > 1.5 and careless < 0.5


def logs(users: list[int], items: list[int], clicks: list[float], num_users: int = 3) -> Logs:
    count = len(users)
    return Logs(
        user_ids=tuple(f"u{row}" for row in range(num_users)),
        item_ids=("a", "b", "c"),
        item_titles=("", "", ""),
        item_texts=("", "", ""),
        item_attributes=((), (), ()),
        users=np.array(users, np.int64),
        items=np.array(items, np.int64),
        timestamps=np.arange(count, dtype=np.int64),
        ratings=np.full(count, np.nan, np.float32),
        clicks=np.array(clicks, np.float32),
        reviews=("",) * count,
    )


def test_calibration_makes_queries_one_size_and_remembers_the_mean_user() -> None:
    vectors = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    subject = calibrated(Tower("t", vectors, "mean"), logs([0, 0, 1], [0, 0, 1], [1, 1, 1]))
    torch.testing.assert_close(subject.extras["prior"], torch.tensor([1.5, 0.5]))
    known = profile(subject, History(torch.tensor([[0], [1]]), torch.zeros(2, 1), torch.ones(2, 1)))
    assert known.square().mean().sqrt().item() == pytest.approx(1)


def test_calibration_without_a_user_that_can_be_read() -> None:
    with pytest.raises(InputError, match='no user has a history that the "t" agent can read'):
        calibrated(Tower("t", torch.ones(3, 2), "mean"), logs([], [], []))
