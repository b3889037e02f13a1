from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from concertrl.platform.logs import Logs, mixed
from hypothesis import given
from hypothesis import strategies as st

NAN = float("nan")
USERS, ITEMS = 4, 6
ROW = st.tuples(
    st.integers(0, USERS - 1),
    st.integers(0, ITEMS - 1),
    st.integers(0, 5),
    st.sampled_from([NAN, 1.0, 3.0, 4.0, 5.0]),
    st.booleans(),
)


def logs_of(rows: list[tuple[int, int, int, float, bool]]) -> Logs:
    """Rows of user, item, time, rating, click."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    return Logs(
        user_ids=tuple(f"u{user}" for user in range(USERS)),
        item_ids=tuple(f"i{item}" for item in range(ITEMS)),
        item_titles=("",) * ITEMS,
        item_texts=("",) * ITEMS,
        item_attributes=((),) * ITEMS,
        users=np.array(columns[0], np.int64),
        items=np.array(columns[1], np.int64),
        timestamps=np.array(columns[2], np.int64),
        ratings=np.array(columns[3], np.float32),
        clicks=np.array(columns[4], np.float32),
        reviews=tuple(f"review {row}" for row in range(len(rows))),
    )


def test_a_rating_outweighs_the_click_that_it_came_with() -> None:
    """Stars say how much; a click alone says something; a look without a click says nothing."""
    rows = [
        (0, 0, 0, *said) for said in ((5.0, True), (4.0, True), (3.0, True), (1.0, True), (NAN, True), (NAN, False))
    ]
    logs = logs_of(rows)
    assert logs.positive.tolist() == [True, True, False, False, True, False]
    assert logs.weights.tolist() == pytest.approx([1.0, 0.6, 0.2, 0.0, 0.6, 0.0])


def test_rows_keeps_the_indices_of_users_and_items() -> None:
    logs = logs_of([(0, 1, 0, 5.0, True), (2, 3, 1, NAN, True), (1, 4, 2, 2.0, True)])
    kept = logs.rows(np.array([False, True, True]))
    assert (kept.users.tolist(), kept.items.tolist(), kept.timestamps.tolist()) == ([2, 1], [3, 4], [1, 2])
    assert kept.reviews == ("review 1", "review 2")
    assert (kept.num_users, kept.num_items, len(kept)) == (USERS, ITEMS, 2)


@given(st.lists(ROW, max_size=30), st.integers(1, 5))
def test_padded_holds_each_users_last_interactions_oldest_first(
    rows: list[tuple[int, int, int, float, bool]], longest: int
) -> None:
    logs = logs_of(rows)
    items, ratings, weights = logs.padded(longest)
    assert items.shape == ratings.shape == weights.shape
    for user in range(USERS):
        mine = [row for row in range(len(rows)) if rows[row][0] == user]
        hashes = mixed(logs.users, logs.items)
        mine = sorted(mine, key=lambda row: (rows[row][2], hashes[row]))[-longest:]
        empty = items.shape[1] - len(mine)
        assert items[user].tolist() == [rows[row][1] for row in mine] + [-1] * empty
        assert ratings[user].tolist() == [float(np.nan_to_num(rows[row][3])) for row in mine] + [0.0] * empty
        assert torch.equal(weights[user], torch.tensor([*logs.weights[mine].tolist(), *[0.0] * empty]))


@given(st.lists(ROW, max_size=30, unique_by=lambda row: row[:2]), st.randoms())
def test_rows_of_one_time_come_in_an_order_that_the_source_has_no_say_in(
    rows: list[tuple[int, int, int, float, bool]], random: Random
) -> None:
    shuffled = random.sample(rows, len(rows))
    for first, again in zip(logs_of(rows).padded(5), logs_of(shuffled).padded(5), strict=True):
        assert torch.equal(first, again)


def test_rows_of_one_time_are_not_in_the_order_of_their_items() -> None:
    logs = logs_of([(0, item, 0, 5.0, True) for item in range(ITEMS)])
    assert logs.items[logs.in_order()].tolist() != list(range(ITEMS))
