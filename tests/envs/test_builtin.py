from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from concertrl.agents.tower import PAD
from concertrl.envs import builtin
from concertrl.envs.builtin import builtin_world
from concertrl.envs.builtin_text import MOODS
from concertrl.envs.world import World
from concertrl.platform.errors import InputError
from concertrl.platform.logs import Logs
from concertrl.platform.settings import WorldSettings
from scipy.stats import rankdata
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_predict, cross_val_score

SIZES = WorldSettings(users=300, items=240, topics=8, judge_share=0.25)


@pytest.fixture(scope="module")
def made() -> tuple[Logs, World]:
    return builtin_world(SIZES)


def correlation(first: object, second: object) -> float:
    return float(np.corrcoef(np.asarray(first), np.asarray(second))[0, 1])


def test_the_same_settings_make_the_same_world_and_another_seed_another(made: tuple[Logs, World]) -> None:
    logs, world = builtin_world(SIZES)
    for name, value in vars(made[0]).items():
        assert np.array_equal(value, getattr(logs, name), equal_nan=name == "ratings"), name
    for name, value in vars(made[1]).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(world, name)), name
    other_logs, other = builtin_world(SIZES.model_copy(update={"seed": 1}))
    assert not torch.equal(other.user_vectors, world.user_vectors) and other_logs.item_texts != logs.item_texts
    assert not np.array_equal(other_logs.items, logs.items)


def test_sizes_are_as_asked(made: tuple[Logs, World]) -> None:
    logs, world = made
    assert (logs.num_users, logs.num_items, world.num_items) == (300, 240, 240)
    assert world.num_topics == 8 == len(world.topic_names) == len(set(world.topic_names))
    assert (len(world.judge_users), len(world.train_users)) == (75, 225)
    assert sorted([*world.judge_users.tolist(), *world.train_users.tolist()]) == list(range(300))
    assert len(set(logs.user_ids)) == 300 and len(set(logs.item_ids)) == 240 and len(set(logs.item_titles)) == 240


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_there_are_always_users_to_train_with_and_to_judge_by(share: float) -> None:
    _, world = builtin_world(WorldSettings(users=2, items=10, topics=2, judge_share=share))
    assert len(world.train_users) == len(world.judge_users) == 1
    with pytest.raises(InputError, match=r"world\.users=1: give at least 2"):
        builtin_world(WorldSettings(users=1))


def test_the_histories_are_the_logs_and_nobody_saw_an_item_twice(made: tuple[Logs, World]) -> None:
    logs, world = made
    pairs = set(zip(logs.users.tolist(), logs.items.tolist(), strict=True))
    assert len(pairs) == len(logs) == 300 * builtin.SHOWN
    for user, row in enumerate(world.history.items.tolist()):
        assert {(user, item) for item in row if item != PAD} == {pair for pair in pairs if pair[0] == user}
    liked = np.bincount(logs.items[logs.positive], minlength=240)
    assert world.item_popularity.tolist() == liked.tolist()


def click_logits(logs: Logs, world: World) -> np.ndarray:
    appeal = (world.user_vectors[logs.users] * world.item_vectors[logs.items]).sum(1) + world.item_bias[logs.items]
    return (appeal + world.user_bias[logs.users]).numpy()


def test_clicks_in_the_logs_follow_the_truth_that_sessions_are_played_with(made: tuple[Logs, World]) -> None:
    logs, world = made
    expected = 1 / (1 + np.exp(-click_logits(logs, world)))
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0)):
        mine = (expected >= low) & (expected < high)
        noise = 4 * (expected[mine].mean() * (1 - expected[mine].mean()) / mine.sum()) ** 0.5
        assert abs(logs.clicks[mine].mean() - expected[mine].mean()) < noise


def test_what_was_clicked_is_rated_and_better_items_get_more_stars(made: tuple[Logs, World]) -> None:
    logs, world = made
    assert np.array_equal(np.isnan(logs.ratings), logs.clicks == 0)
    stars = logs.ratings[logs.clicks == 1]
    assert set(stars.tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    quality = world.item_quality.numpy()[logs.items[logs.clicks == 1]]
    assert correlation(rankdata(stars), rankdata(quality)) > 0.3


def test_fame_is_shown_whatever_it_is_worth(made: tuple[Logs, World]) -> None:
    """Some items were shown to most users and some to few, and not for their quality."""
    logs, world = made
    shown = np.bincount(logs.items, minlength=240) / 300
    assert np.quantile(shown, 0.95) > 4 * np.median(shown)
    assert abs(correlation(rankdata(shown), rankdata(world.item_quality))) < 0.3


def test_descriptions_tell_topic_and_mood_but_not_quality(made: tuple[Logs, World]) -> None:
    logs, world = made
    words = CountVectorizer(ngram_range=(1, 2)).fit_transform(logs.item_texts)
    topics = cross_val_score(LogisticRegression(max_iter=500), words, world.item_topic.numpy(), cv=3).mean()
    assert topics > 0.9
    mood = world.item_vectors[:, world.num_topics : world.num_topics + len(MOODS)].numpy()
    read = np.asarray(cross_val_predict(Ridge(), words, mood, cv=3))
    assert all(correlation(read[:, axis], mood[:, axis]) > 0.5 for axis in range(len(MOODS)))
    quality = world.item_quality.numpy()
    assert correlation(cross_val_predict(Ridge(), words, quality, cv=3), quality) < 0.2


def test_reviews_tell_quality_and_are_by_people_who_clicked(made: tuple[Logs, World]) -> None:
    logs, world = made
    written = np.array([bool(review) for review in logs.reviews])
    assert (logs.clicks[written] == 1).all()
    assert np.bincount(logs.items[written], minlength=240).max() == builtin.REVIEWS_PER_ITEM
    texts = [review for review in logs.reviews if review]
    quality = world.item_quality.numpy()[logs.items[written]]
    words = CountVectorizer(ngram_range=(1, 2)).fit_transform(texts)
    assert correlation(cross_val_predict(Ridge(), words, quality, cv=5), quality) > 0.4


def test_the_parts_of_appeal_have_the_weights_they_are_said_to_have(made: tuple[Logs, World]) -> None:
    """Logits a standard deviation, for the mean user; the topic part is liking, which is standardised a user."""
    _, world = made
    topics, moods = world.num_topics, len(MOODS)
    users, items = world.user_vectors, world.item_vectors
    for start, stop, gain in (
        (topics, topics + moods, builtin.MOOD_GAIN),
        (topics + moods, topics + moods + builtin.STYLES, builtin.STYLE_GAIN),
        (topics + moods + builtin.STYLES, items.shape[1], builtin.QUALITY_GAIN),
    ):
        part = users[:, start:stop] @ items[:, start:stop].t()
        assert float(part.std()) == pytest.approx(gain, rel=0.25)
    assert torch.allclose(users[:, :topics].std(1, correction=0), torch.tensor(builtin.TOPIC_GAIN), atol=1e-4)
    assert torch.equal(items[:, :topics].argmax(1), world.item_topic)


def test_a_world_moves_to_a_device_whole(made: tuple[Logs, World]) -> None:
    moved = made[1].to("meta")
    assert all(value.device.type == "meta" for value in vars(moved).values() if isinstance(value, torch.Tensor))
    assert moved.history.items.device.type == "meta" and replace(moved).user_ids == made[1].user_ids
