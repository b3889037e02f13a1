"""What is held out, what may be known of a user, and that tuning never sees what is tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from concertrl.platform.dataset import Dataset, load_dataset
from concertrl.platform.errors import InputError
from concertrl.platform.ingest import ingest
from concertrl.platform.logs import Logs
from concertrl.platform.ranking_protocol import RankingSplit, among, cold_items, cold_users, nested, ranking_split
from hypothesis import given
from hypothesis import strategies as st

Row = tuple[int, int, int, float]


def make(rows: list[Row]) -> Logs:
    """Rows of (user, item, time, stars); NaN stars are a click."""
    users, items, times, stars = (np.array(column) for column in zip(*rows, strict=True))
    return Logs(
        user_ids=tuple(map(str, range(users.max() + 1))),
        item_ids=tuple(map(str, range(items.max() + 1))),
        item_titles=("",) * (items.max() + 1),
        item_texts=("",) * (items.max() + 1),
        item_attributes=((),) * (items.max() + 1),
        users=users.astype(np.int64),
        items=items.astype(np.int64),
        timestamps=times.astype(np.int64),
        ratings=stars.astype(np.float32),
        clicks=np.ones(len(rows), np.float32),
        reviews=("",) * len(rows),
    )


def test_the_last_fifth_of_the_likes_is_held_out_and_nothing_after_the_last_like_left_is_known() -> None:
    likes: list[Row] = [(0, item, item, 5.0) for item in range(10)]
    low: list[Row] = [(0, 10, 7, 1.0), (0, 11, 8, 2.0), (0, 12, 9, 1.0)]
    split = ranking_split(make(likes + low))
    assert np.flatnonzero(split.held_out).tolist() == [8, 9]
    assert np.flatnonzero(split.fit).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10]
    assert split.cuts.tolist() == [7] and np.array_equal(split.fit, split.read)
    assert np.flatnonzero(split.candidates).tolist() == list(range(10))


def test_likes_of_one_time_are_in_the_order_of_the_rows() -> None:
    split = ranking_split(make([(0, 3, 5, 4.0), (0, 1, 5, 4.0), (0, 2, 5, 4.0), (0, 0, 5, 4.0)]))
    assert np.flatnonzero(split.held_out).tolist() == [3]


def test_a_click_without_a_rating_is_a_like_and_two_likes_are_too_few() -> None:
    nan = float("nan")
    split = ranking_split(make([*((0, item, item, nan) for item in range(3)), (1, 3, 0, 5.0), (1, 4, 1, 5.0)]))
    assert np.flatnonzero(split.held_out).tolist() == [2] and split.users.tolist() == [0]
    assert np.flatnonzero(split.candidates).tolist() == [0, 1, 2] and split.fit.tolist() == [True, True] + [False] * 3
    with pytest.raises(InputError, match="no user has 3 likes"):
        ranking_split(make([(0, 0, 0, 5.0), (0, 1, 1, 5.0)]))


def test_what_was_liked_before_is_not_to_be_found_again() -> None:
    split = ranking_split(make([(0, 0, 0, 5.0), (0, 1, 1, 5.0), (0, 0, 2, 5.0), (1, 0, 0, 5.0), *[(1, 1, 1, 5.0)] * 2]))
    assert split.held_out.sum() == 2 and split.relevant.nnz == 0 and not len(split.users)


logs = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 8), st.integers(0, 6), st.sampled_from([1.0, 3.0, 4.0, 5.0])),
    min_size=15,
    max_size=80,
)


def parts(split: RankingSplit) -> list[np.ndarray]:
    return [split.fit, split.held_out, split.candidates, split.cuts]


@given(rows=logs)
def test_tuning_sees_nothing_that_is_tested(rows: list[Row]) -> None:
    everything = make([*rows, *((5, item, item, 5.0) for item in range(5)), (5, 8, 0, 1.0)])
    split = ranking_split(everything)
    inner = nested(split)
    assert not (split.fit & split.held_out).any()
    assert (split.fit >= (inner.fit | inner.held_out)).all() and not (inner.fit & inner.held_out).any()
    known = np.where(split.held_out, -1, 1)
    changed = make([(user, 8 - item if sign < 0 else item, time, stars)
                    for (user, item, time, stars), sign in zip(
                        zip(everything.users, everything.items, everything.timestamps, everything.ratings, strict=True),
                        known, strict=True)])  # fmt: skip
    for one, other in zip(parts(inner), parts(nested(ranking_split(changed))), strict=True):
        assert np.array_equal(one, other)


@given(rows=logs)
def test_every_user_keeps_a_like_and_gives_one(rows: list[Row]) -> None:
    split = ranking_split(make([*rows, *((5, item, item, 5.0) for item in range(5))]))
    likes = split.logs.positive
    held = np.bincount(split.logs.users[split.held_out], minlength=6)
    kept = np.bincount(split.logs.users[split.fit & likes], minlength=6)
    everyone = np.bincount(split.logs.users[likes], minlength=6)
    part = everyone >= 3
    assert (held[part] == np.maximum(1, everyone[part] // 5)).all() and (held + kept)[part].tolist() == everyone[
        part
    ].tolist()
    assert not held[~part].any() and not kept[~part].any()


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """20 users and 12 movies; user 1 tags movie 0 before their cut, movie 1 after it, and user 2 movie 2 before."""
    folder = tmp_path_factory.mktemp("tagged")
    ratings = [(user, (user + step) % 12, 5, 100 * user + step) for user in range(1, 21) for step in range(6)]
    (folder / "raw").mkdir()
    files = {
        "ratings.csv": ["userId,movieId,rating,timestamp", *(",".join(map(str, row)) for row in ratings)],
        "movies.csv": ["movieId,title,genres", *(f"{movie},Movie {movie},Drama" for movie in range(12))],
        "tags.csv": ["userId,movieId,tag,timestamp", "1,0,early,101", "1,1,late,105", "2,2,early too,201"],
    }
    for name, lines in files.items():
        (folder / "raw" / name).write_text("\n".join(lines) + "\n")
    ingest("movielens", folder / "raw", folder / "d")
    return load_dataset(folder / "d")


def texts(split: RankingSplit, dataset: Dataset) -> dict[str, str]:
    found = split.train_logs(dataset)
    return {item: text for item, text in zip(found.item_ids, found.item_texts, strict=True) if text}


def test_towers_read_the_tags_of_before_the_cut_alone(tagged: Dataset) -> None:
    split = ranking_split(tagged.logs())
    assert texts(split, tagged) == {"0": "early", "2": "early too"}
    assert len(split.train_logs(tagged)) == split.fit.sum() == 20 * 5


def test_cold_items_leave_neither_interactions_nor_tags(tagged: Dataset) -> None:
    split = ranking_split(tagged.logs())
    found = {seed: cold_items(split, seed, share=0.3) for seed in range(20)}
    for cold in found.values():
        names = {cold.logs.item_ids[item] for item in np.flatnonzero(cold.cold)}
        assert len(names) == 3 and not cold.cold[cold.logs.items[cold.fit]].any()
        assert not cold.cold[cold.logs.items[cold.read]].any()
        assert cold.cold[cold.logs.items[cold.held_out]].all() and np.array_equal(cold.candidates, split.candidates)
        assert texts(cold, tagged).keys() == {"0", "2"} - names
        assert among(cold, cold.cold).relevant.nnz == cold.relevant.nnz
    assert len({tuple(np.flatnonzero(cold.cold)) for cold in found.values()}) > 1
    assert np.array_equal(cold_items(split, 3, 0.3).fit, found[3].fit)


def test_cold_users_came_last_and_are_read_but_not_fitted(tagged: Dataset) -> None:
    split = ranking_split(tagged.logs())
    cold = cold_users(split, share=0.1)
    last = {cold.logs.user_ids[user] for user in cold.users}
    assert last == {"19", "20"}
    of_last = np.isin(cold.logs.users, cold.users)
    assert not cold.fit[of_last].any() and np.array_equal(cold.read, split.read)
    assert np.array_equal(cold.fit[~of_last], split.fit[~of_last]) and cold.held_out.sum() == 2
    assert (
        np.diff(cold.liked.indptr)[cold.users].tolist() == [5, 5]
        and not np.diff(cold.fit_likes.indptr)[cold.users].any()
    )
    late = cold_users(split, share=0.95)
    assert texts(late, tagged) == {"0": "early"}  # user 2 is among them


def test_the_figures_of_the_real_data(data_folder: Path, tmp_path: Path) -> None:
    ingest("amazon", data_folder / "amazon-musical-instruments-5core", tmp_path / "d")
    split = ranking_split(load_dataset(tmp_path / "d").logs())
    assert (len(split.users), int(split.candidates.sum())) == (1402, 900)
