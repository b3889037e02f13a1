from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from concertrl.envs.logs import LONGEST_HISTORY, world_from_logs
from concertrl.envs.response import labelled_pairs, seen_keys
from concertrl.envs.world import World
from concertrl.platform.errors import InputError
from concertrl.platform.logs import Logs
from concertrl.platform.settings import WorldSettings
from concertrl.platform.split import Split, split_by_time
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import roc_auc_score

USERS, ITEMS = 400, 200
SETTINGS = WorldSettings(kind="logs", topics=6, factors=4, base_rate=0.2)


def logs_of(users: np.ndarray, items: np.ndarray, clicks: np.ndarray, num_users: int, num_items: int) -> Logs:
    n = len(users)
    return Logs(
        user_ids=tuple(f"u{i}" for i in range(num_users)),
        item_ids=tuple(f"i{i}" for i in range(num_items)),
        item_titles=tuple(f"Item {i}" for i in range(num_items)),
        item_texts=("",) * num_items,
        item_attributes=((),) * num_items,
        users=users.astype(np.int64),
        items=items.astype(np.int64),
        timestamps=1_600_000_000 + np.random.default_rng(9).permutation(n).astype(np.int64),
        ratings=np.full(n, np.nan, np.float32),
        clicks=clicks.astype(np.float32),
        reviews=("",) * n,
    )


@cache
def known_truth() -> tuple[Logs, np.ndarray]:
    """The clicks of users who saw every item once, and the `(U, N)` logits they were drawn with."""
    draws = np.random.default_rng(1)
    tastes, qualities = draws.normal(size=(USERS, 3)), draws.normal(size=(ITEMS, 3))
    logits = 1.2 * tastes @ qualities.T + draws.normal(size=ITEMS) - 2.5
    users, items = np.nonzero(draws.random((USERS, ITEMS)) < expit(logits))
    return logs_of(users, items, np.ones(len(users)), USERS, ITEMS), logits


@cache
def fitted(seed: int = 0) -> World:
    logs, _ = known_truth()
    return world_from_logs(logs, split_by_time(logs), SETTINGS, item_features=None, name="known", seed=seed)


def small_logs() -> Logs:
    draws = np.random.default_rng(2)
    users, items = np.repeat(np.arange(30), 10), np.concatenate([draws.permutation(40)[:10] for _ in range(30)])
    return logs_of(users, items, draws.random(300) < 0.5, 30, 40)


def small_world(logs: Logs, split: Split | None = None, **settings: float) -> World:
    chosen = WorldSettings.model_validate({"kind": "logs", "topics": 3, "factors": 4, **settings})
    return world_from_logs(logs, split or split_by_time(logs), chosen, item_features=None, name="small", seed=0)


def click_logits(world: World) -> np.ndarray:
    return (world.user_vectors @ world.item_vectors.T + world.user_bias[:, None] + world.item_bias).numpy()


def test_held_out_clicks_are_predicted_almost_as_well_as_by_the_truth() -> None:
    logs, logits = known_truth()
    pairs = labelled_pairs(logs.rows(split_by_time(logs).test), seen_keys(logs), seed=5)
    best = roc_auc_score(pairs.labels, logits[pairs.users, pairs.items])
    report = fitted().report
    assert best - 0.06 < report["auc"] < best + 0.01
    assert report["log_loss"] < 0.8 * report["log_loss_constant"]
    assert report["brier"] < 0.8 * report["brier_constant"]
    assert report["ece"] < 0.04


def test_the_world_ranks_items_as_the_truth_does() -> None:
    _, logits = known_truth()
    learned = click_logits(fitted())
    agreement = [np.corrcoef(rankdata(learned[u]), rankdata(logits[u]))[0, 1] for u in range(0, USERS, 10)]
    assert np.mean(agreement) > 0.9


def test_a_random_item_is_clicked_at_the_base_rate() -> None:
    world = fitted()
    assert expit(click_logits(world)).mean() == pytest.approx(0.2, abs=1e-4)
    assert world.report["base_rate"] == pytest.approx(0.2, abs=1e-4)
    assert 0.2 < world.report["top10_low"] < world.report["top10_mean"] < world.report["top10_high"] < 1


def test_quality_follows_the_ratings_and_is_zero_without_one() -> None:
    logs = small_logs()
    assert not small_world(logs).item_quality.any()
    stars = np.where(logs.items % 2 == 0, 5, 2).astype(np.float32)
    stars[logs.items == 7] = np.nan
    quality = small_world(replace(logs, ratings=stars)).item_quality
    assert quality[7] == 0
    assert quality[::2].min() > quality[1::2].max()


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    logs = small_logs()
    first, again = small_world(logs), small_world(logs)
    other = world_from_logs(
        logs, split_by_time(logs), WorldSettings(kind="logs", topics=3, factors=4), item_features=None, name="s", seed=1
    )
    for name in ("item_vectors", "item_bias", "user_vectors", "user_bias", "item_topic", "train_users"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert first.report == again.report
    assert not torch.equal(first.item_vectors, other.item_vectors)
    assert not torch.equal(first.train_users, other.train_users)


def test_an_agent_is_told_of_train_rows_only() -> None:
    logs, _ = known_truth()
    split = split_by_time(logs)
    world, train = fitted(), logs.rows(split.train)
    told = {(u, i) for u, row in enumerate(world.history.items.tolist()) for i in row if i >= 0}
    assert told == set(zip(train.users.tolist(), train.items.tolist(), strict=True))
    assert world.history.items.shape[1] <= LONGEST_HISTORY
    assert torch.equal(world.item_popularity, torch.from_numpy(np.bincount(train.items, train.clicks, ITEMS)).float())


def test_what_happens_in_the_test_part_moves_neither_the_judged_fit_nor_its_calibration() -> None:
    logs = small_logs()
    split = split_by_time(logs)
    turned = replace(logs, clicks=np.where(split.test, 1 - logs.clicks, logs.clicks).astype(np.float32))
    before, after = small_world(logs, split).report, small_world(turned, split).report
    for key in ("epochs", "platt_scale", "platt_shift"):
        assert before[key] == after[key]
    assert before["auc"] != after["auc"]


def test_judge_users_are_a_share_of_their_own() -> None:
    world = fitted()
    assert len(world.judge_users) == round(0.3 * USERS)
    assert sorted([*world.train_users.tolist(), *world.judge_users.tolist()]) == list(range(USERS))
    everyone = small_world(small_logs(), judge_share=1.0)
    assert len(everyone.train_users) == 1


def test_a_user_without_a_train_row_stays_with_an_empty_history() -> None:
    logs = small_logs()
    split = split_by_time(logs, newcomers=0.1)
    world = small_world(logs, split)
    assert split.cold_users.sum() == 3
    assert (world.history.items[torch.from_numpy(split.cold_users)] < 0).all()
    assert world.user_vectors.isfinite().all()


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (lambda logs: replace(logs, user_ids=("u0",), users=logs.users * 0), {}, r"1 user\(s\)"),
        (lambda logs: replace(logs, item_ids=("i0",), items=logs.items * 0), {}, r"1 item\(s\)"),
        (lambda logs: replace(logs, clicks=logs.clicks * 0), {}, "nobody likes"),
        (lambda logs: logs, {"topics": 41}, "world.topics=41"),
        (lambda logs: logs, {"base_rate": 0.0}, "world.base_rate=0"),
    ],
)
def test_what_cannot_be_fitted_is_said_in_one_line(
    change: Callable[[Logs], Logs], settings: dict[str, float], words: str
) -> None:
    logs = small_logs()
    with pytest.raises(InputError, match=words) as caught:
        small_world(change(logs), split_by_time(logs), **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_part_without_a_like_is_named(part: str) -> None:
    logs = small_logs()
    split = split_by_time(logs)
    empty = replace(split, **{part: np.zeros(len(logs), bool)})
    with pytest.raises(InputError, match=f"{part} part"):
        small_world(logs, empty)


def test_users_who_have_seen_everything_are_no_world() -> None:
    users, items = np.divmod(np.arange(10 * 8), 8)
    logs = logs_of(users, items, np.random.default_rng(0).random(80) < 0.5, 10, 8)
    with pytest.raises(InputError, match="nearly every item"):
        small_world(logs)


# --- real data


def _data(folder: str) -> Path:
    root = os.environ.get("CONCERTRL_DATA")
    if not root:
        pytest.skip("CONCERTRL_DATA is not set")
    return Path(root) / folder


def _rated(table: pd.DataFrame, catalog: list, **items: tuple) -> Logs:
    """`table` has the columns user, item, rating, time and review."""
    users, user_ids = pd.factorize(table["user"].to_numpy(), sort=True)
    place = pd.Series(np.arange(len(catalog)), index=catalog)
    plain = logs_of(users, place.loc[table["item"]].to_numpy(), np.ones(len(table)), len(user_ids), len(catalog))
    return replace(
        plain,
        timestamps=table["time"].to_numpy(np.int64),
        ratings=table["rating"].to_numpy(np.float32),
        reviews=tuple(table["review"]),
        **items,
    )


def test_instruments_beat_the_constant() -> None:
    table = pd.read_csv(_data("amazon-musical-instruments-5core") / "Musical_instruments_reviews.csv.gz")
    names = {"reviewerID": "user", "asin": "item", "overall": "rating", "unixReviewTime": "time"}
    table = table.rename(columns=names).assign(review=table["reviewText"].fillna(""))
    catalog = sorted(table["item"].unique())
    logs = _rated(table, catalog)
    split = split_by_time(logs)
    texts = table[split.train].groupby("item")["review"].agg(" ".join).reindex(catalog).fillna("")
    counts = TfidfVectorizer(stop_words="english", sublinear_tf=True, min_df=2).fit_transform(texts)
    features = TruncatedSVD(32, random_state=0).fit_transform(counts)
    settings = WorldSettings(kind="logs")
    world = world_from_logs(logs, split, settings, item_features=features, name="instruments", seed=0)
    assert world.report["auc"] > 0.67
    assert world.report["log_loss"] < 0.95 * world.report["log_loss_constant"]
    assert world.report["ece"] < 0.05
    assert 0.4 < world.report["top10_mean"] < 0.8


@pytest.mark.slow
def test_movielens_beats_the_constant() -> None:
    folder = _data("ml-latest-small")
    table = pd.read_csv(folder / "ratings.csv.gz").rename(
        columns={"userId": "user", "movieId": "item", "timestamp": "time"}
    )
    movies = pd.read_csv(folder / "movies.csv.gz")
    logs = _rated(
        table.assign(review=""),
        movies["movieId"].tolist(),
        item_titles=tuple(movies["title"]),
        item_attributes=tuple(tuple(genres.split("|")) for genres in movies["genres"]),
    )
    settings = WorldSettings(kind="logs")
    world = world_from_logs(logs, split_by_time(logs), settings, item_features=None, name="movielens", seed=0)
    assert world.report["auc"] > 0.77
    assert world.report["auc_rated"] > 0.67
    assert world.report["log_loss"] < 0.87 * world.report["log_loss_constant"]
    assert world.report["ece"] < 0.04
    assert 0.6 < world.report["top10_mean"] < 0.95
