from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from concertrl.agents import attention, sequence, transformer, transitions
from concertrl.agents.profiles import profile
from concertrl.agents.tower import PAD, History, Tower
from concertrl.agents.towers import load_towers, save_towers
from concertrl.platform.errors import InputError
from concertrl.platform.logs import Logs
from concertrl.platform.settings import SequenceSettings
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

ROUND = 24
"""Items that everyone goes through one after another, from a place drawn for each user."""

SMALL = SequenceSettings(factors=16, width=16, heads=2, length=6, epochs=6, dropout=0.2)
METHODS = ("transitions", "transformer")


def make(
    users: np.ndarray, items: np.ndarray, ratings: np.ndarray, times: np.ndarray, clicks: np.ndarray, num_items: int
) -> Logs:
    return Logs(
        user_ids=tuple(f"u{row}" for row in range(int(users.max()) + 1)),
        item_ids=tuple(f"i{row}" for row in range(num_items)),
        item_titles=("",) * num_items,
        item_texts=("",) * num_items,
        item_attributes=((),) * num_items,
        users=users.astype(np.int64),
        items=items.astype(np.int64),
        timestamps=times.astype(np.int64),
        ratings=ratings.astype(np.float32),
        clicks=clicks.astype(np.float32),
        reviews=("",) * len(users),
    )


def walkers(count: int = 150, steps: int = 9) -> Logs:
    """Everyone likes `steps` items of the round in turn; one dislikes item 24 in between, and nobody meets 25."""
    draw = np.random.default_rng(0)
    users = np.repeat(np.arange(count), steps)
    items = (np.repeat(draw.integers(0, ROUND, count), steps) + np.tile(np.arange(steps), count)) % ROUND
    times = np.tile(2 * np.arange(steps), count)
    ratings = draw.choice([4.0, 5.0, np.nan], len(users))
    users, items, times, ratings = (
        np.append(users, 0),
        np.append(items, 24),
        np.append(times, 5),
        np.append(ratings, 1),
    )
    shuffled = draw.permutation(len(users))
    rows = (users[shuffled], items[shuffled], ratings[shuffled], times[shuffled])
    return make(*rows, np.ones(len(users)), ROUND + 2)


def random_logs(seed: int, rows: int = 40, users: int = 4, items: int = 7) -> Logs:
    """Few times, so that many rows tie; ratings, clicks and what was only shown."""
    draw = np.random.default_rng(seed)
    ratings = draw.choice([2.0, 4.0, 5.0, np.nan], rows)
    columns = (draw.integers(0, users, rows), draw.integers(0, items, rows), ratings, draw.integers(0, 9, rows))
    return make(*columns, draw.integers(0, 2, rows), items)


def walked(places: list[list[int]]) -> History:
    length = max(len(each) for each in places)
    items = torch.tensor([each + [PAD] * (length - len(each)) for each in places])
    return History(items, 5.0 * (items != PAD), 1.0 * (items != PAD))


def forwards(tower: Tower) -> torch.Tensor:
    """How much higher the next four items of the round score than the last four before, from each place of it."""
    history = walked([[(place - 1) % ROUND, place] for place in range(ROUND)])
    scores = profile(tower, history) @ tower.item_vectors.T
    steps = torch.arange(1, 5)
    place = torch.arange(ROUND)[:, None]
    return (scores.gather(1, (place + steps) % ROUND) - scores.gather(1, (place - 1 - steps) % ROUND)).mean(1)


@pytest.fixture(scope="module", params=METHODS)
def tower(request: pytest.FixtureRequest) -> Tower:
    return sequence.fit(walkers(), SMALL.model_copy(update={"method": request.param}), seed=0)


def test_knows_which_way_the_round_is_walked(tower: Tower) -> None:
    assert tower.name == "sequence" and tower.item_vectors.dtype == torch.float32
    assert (forwards(tower) > 0).all()


def test_vectors_are_of_unit_size_and_zero_where_nothing_was_liked(tower: Tower) -> None:
    assert float(tower.item_vectors.square().sum(1).mean().sqrt()) == pytest.approx(1, abs=1e-5)
    assert (tower.item_vectors[ROUND:] == 0).all() and (tower.item_vectors[:ROUND] != 0).any(1).all()
    assert tower.facts["items_without_vector"] == "2 of 26"


def test_a_user_alone_gets_the_query_of_a_batch(tower: Tower) -> None:
    draw = np.random.default_rng(1)
    history = walked([draw.integers(0, ROUND, draw.integers(1, 12)).tolist() for _ in range(37)])
    together = profile(tower, history)
    for row in (0, 17, 36):
        one = history.rows(torch.tensor([row]))
        seen = one.items[0] != PAD
        bare = History(*(part[:, seen] for part in vars(one).values()))
        wide = History(*(torch.cat([part, fill], 1) for part, fill in zip(vars(one).values(), _empty(60), strict=True)))
        for alone in (one, bare, wide):
            torch.testing.assert_close(profile(tower, alone)[0], together[row], rtol=0, atol=1e-6)
        assert tower.profile_kind == "linear" or torch.equal(profile(tower, wide)[0], together[row])


def _empty(length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.full((1, length), PAD), torch.zeros(1, length), torch.zeros(1, length)


def test_a_stranger_gets_the_prior(tower: Tower) -> None:
    query = profile(tower, History(*_empty(3)))
    assert torch.equal(query[0], tower.extras["gain"] * tower.extras["prior"]) and query.isfinite().all()


def test_equal_logs_and_seed_give_equal_numbers(tower: Tower) -> None:
    method = "transitions" if tower.profile_kind == "linear" else "transformer"
    torch.manual_seed(5)
    again = sequence.fit(walkers(), SMALL.model_copy(update={"method": method}), seed=0)
    assert torch.equal(again.item_vectors, tower.item_vectors) and again.facts == tower.facts
    assert all(torch.equal(again.extras[name], tensor) for name, tensor in tower.extras.items())


def test_is_saved_and_read_back(tower: Tower, tmp_path: Path) -> None:
    save_towers({"sequence": tower}, tmp_path)
    assert torch.equal(forwards(load_towers(tmp_path)["sequence"]), forwards(tower))


def test_best_takes_the_better_and_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sequence.fit(walkers(60), SMALL.model_copy(update={"epochs": 2}), seed=0)
    assert "transitions 0." in found.facts["picked"] and "transformer 0." in found.facts["picked"]
    monkeypatch.setattr(sequence, "_best_epoch", lambda *_: sequence._Picked(2.0, epochs=1))
    found = sequence.fit(walkers(60), SMALL, seed=0)
    assert found.profile_kind == "attention" and found.facts["picked"].startswith("transformer")
    assert "1 epochs" in found.facts["model"]


@pytest.mark.parametrize("method", METHODS)
def test_two_likes_a_user_are_enough_to_fit_but_not_to_judge(method: str) -> None:
    found = sequence.fit(walkers(80, steps=2), SMALL.model_copy(update={"method": method}), seed=0)
    assert found.facts["picked"] == f"{method}, unjudged"


def test_refuses_logs_without_an_order_and_heads_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="no user liked one item after another"):
        sequence.fit(walkers(50, steps=1).rows(np.arange(51) < 40), SMALL, seed=0)
    odd = SMALL.model_copy(update={"method": "transformer", "heads": 3})
    with pytest.raises(InputError, match=r"agents\.sequence\.heads=3"):
        sequence.fit(walkers(20), odd, seed=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 5]))
def test_counts_are_those_of_a_plain_loop(seed: int, window: int) -> None:
    logs = random_logs(seed)
    expected = np.zeros((logs.num_items, logs.num_items))
    met = ~np.isnan(logs.ratings) | (logs.clicks > 0)
    for user in range(logs.num_users):
        rows = sorted(np.flatnonzero(met & (logs.users == user)), key=lambda row: (logs.timestamps[row], row))
        for early, first in enumerate(rows):
            for late, second in enumerate(rows[early + 1 :], early + 1):
                if late - early > transitions.REACH * window:
                    continue
                say = np.exp(-(late - early - 1) / window)
                tied = logs.timestamps[first] == logs.timestamps[second]
                i, j = logs.items[first], logs.items[second]
                expected[i, j] += say * logs.positive[second] * (0.5 if tied else 1)
                expected[j, i] += say * logs.positive[first] * (0.5 if tied else 0)
    np.testing.assert_allclose(transitions.counted(logs, window).toarray(), expected, atol=1e-9)


def test_rows_of_one_time_have_no_order() -> None:
    logs = make(np.zeros(2), np.arange(2), np.full(2, 5.0), np.zeros(2), np.ones(2), 2)
    np.testing.assert_array_equal(transitions.counted(logs, 10).toarray(), [[0, 0.5], [0.5, 0]])


def test_larger_logs_have_a_shorter_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = walkers(10)
    logs = logs.rows(logs.positive)
    monkeypatch.setattr(transitions, "MOST_PAIRS", 2 * len(logs))
    assert transitions.counted(logs, 10).sum() == pytest.approx(10 * (8 + 7 * np.exp(-0.1)))


def test_all_factors_give_the_kernel_back_and_fewer_most_of_it() -> None:
    logs = walkers()
    kernel = transitions.tamed(transitions.counted(logs, 3), 0.2)
    whole, part = (transitions.factorised(kernel, logs, count, seed=0) for count in (100, 12))
    np.testing.assert_allclose(whole.inputs @ whole.outputs.T, kernel.toarray(), atol=1e-5)
    assert part.inputs.shape == (26, 12) and 0.7 < part.kept < whole.kept == pytest.approx(1, abs=1e-6)


def test_judges_the_kernel_as_the_profile_reads_it() -> None:
    problem = sequence.validation(walkers())
    assert problem is not None
    options = transitions.Options(window=3, half_life=2, low=0.3)
    kernel = transitions.tamed(transitions.counted(problem.earlier, 3), options.target_power)
    tower = sequence._by_transitions(problem.earlier, options, 100, seed=0)
    score = float(sequence.validated(tower, problem).mean())
    assert transitions._ndcg(csr_matrix(kernel), problem, options) == pytest.approx(score, abs=1e-3)


def test_a_place_reads_only_what_came_before() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = attention.untrained(torch.randn(9, 8, generator=generator), 5, 2, 2, generator)
    items = torch.tensor([[PAD, 3, 4, 5, 6]])
    liked = torch.tensor([[0.0, 1.0, 0.2, 0.6, 1.0]])
    before = attention.encoded(weights, items, liked)
    other, less = items.clone(), liked.clone()
    other[0, 4], less[0, 4] = 7, 0.0
    after = attention.encoded(weights, other, less)
    assert torch.equal(after[:, :4], before[:, :4]) and not torch.equal(after[:, 4], before[:, 4])
    earlier = attention.encoded(weights, torch.tensor([[PAD, 2, 4, 5, 6]]), liked)
    assert not torch.equal(earlier[:, 4], before[:, 4])


def test_windows_hold_every_row_once_and_predict_a_later_like_of_its_user() -> None:
    logs = random_logs(3, rows=90)
    found = transformer.windows(logs, 4, np.random.default_rng(0))
    present = found.items != PAD
    assert int(present.sum()) == len(logs) and found.items.shape[1] == 4
    assert sorted(found.items[present].tolist()) == sorted(logs.items.tolist())
    assert not present[:, :-1].logical_and(~present[:, 1:]).any()
    assert (found.targets[~present] == PAD).all()
    walk = walkers(1)
    one = transformer.windows(walk.rows(walk.positive), 9, np.random.default_rng(0))
    first = int(one.items[0, 0])
    told = one.targets[0] != PAD
    ahead, place = (one.targets[0] - first) % ROUND, (one.items[0] - first) % ROUND
    assert told[:-1].any() and not told[-1] and (ahead > place)[told].all()


def test_a_sample_of_the_items_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = attention.untrained(0.3 * torch.randn(400, 8, generator=generator), 6, 1, 1, generator)
    logs = replace(walkers(60), item_ids=("",) * 400)
    batch = transformer.windows(logs, 6, np.random.default_rng(0))
    candidates = torch.arange(400)

    def loss() -> float:
        with torch.no_grad():
            return float(transformer._loss(weights, batch, candidates, attention.unchanged, generator))

    whole = loss()
    monkeypatch.setattr(transformer, "NEGATIVES", 100)
    assert np.mean([loss() for _ in range(30)]) == pytest.approx(whole, abs=0.03)
