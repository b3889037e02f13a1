from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from concertrl.agents import sentiment
from concertrl.agents.profiles import profile
from concertrl.agents.tower import PAD, History
from concertrl.platform.encoder import Encoder
from concertrl.platform.errors import InputError
from concertrl.platform.logs import Logs
from concertrl.platform.settings import EncoderSettings, SentimentSettings

PRAISE = ("wonderful sound", "works perfectly", "I love it", "superb build", "best I ever had")
BLAME = ("terrible sound", "broke at once", "I hate it", "shoddy build", "worst I ever had")
ITEMS = 12


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(EncoderSettings(cache=str(tmp_path_factory.mktemp("cache"))))


def make(ratings: np.ndarray, users: np.ndarray, items: np.ndarray, reviews: tuple[str, ...]) -> Logs:
    return Logs(
        user_ids=tuple(map(str, range(40))),
        item_ids=tuple(map(str, range(ITEMS))),
        item_titles=("",) * ITEMS,
        item_texts=("",) * ITEMS,
        item_attributes=((),) * ITEMS,
        users=users,
        items=items,
        timestamps=np.arange(len(users), dtype=np.int64),
        ratings=ratings.astype(np.float32),
        clicks=np.ones(len(users), np.float32),
        reviews=reviews,
    )


def reviewed() -> Logs:
    """Items 0 to 9 are the better the higher their number; half the users do not care; 10 and 11 are not met."""
    draw = np.random.default_rng(0)
    users, items = np.repeat(np.arange(40), 8), draw.integers(0, 10, 320)
    good = draw.random(320) < np.where(users < 20, items / 9, 0.5)
    words = draw.integers(0, 5, (320, 2))
    reviews = [
        ", ".join((PRAISE if liked else BLAME)[word] for word in row) for liked, row in zip(good, words, strict=True)
    ]
    return make(np.where(good, 5.0, 1.0), users, items, tuple(reviews))


def agreement(polarity: torch.Tensor) -> float:
    """The correlation of the ten items' polarities with how much they were praised in `reviewed`."""
    logs = reviewed()
    praised = np.bincount(logs.items, logs.ratings > 3) / np.bincount(logs.items)
    return float(np.corrcoef(polarity[:10], praised)[0, 1])


def test_polarity_follows_quality_and_sensitivity_follows_care(encoder: Encoder) -> None:
    logs = reviewed()
    tower = sentiment.fit(logs, SentimentSettings(), encoder, seed=0)
    polarity, certainty = tower.item_vectors[:10, 0], tower.item_vectors[:, 1]
    assert agreement(polarity) > 0.95
    assert (certainty[10:] == 0).all() and (certainty[:10] > 0.5).all() and (certainty < 1).all()
    query = profile(tower, History(*logs.padded(50)))
    assert query[:20, 0].mean() > query[20:, 0].mean() + 0.5 and (query[:, 0] > 0).all()
    assert (query[:, 1:-1] == 0).all() and query[:, -1].unique().numel() == 1
    assert tower.facts["learned_from"].startswith("320 reviews") and float(tower.facts["head_auc"][:5]) > 0.95


def test_standardised_and_scaled(encoder: Encoder) -> None:
    tower = sentiment.fit(reviewed(), SentimentSettings(components=4), encoder, seed=0)
    polarity, about = tower.item_vectors[:10, 0], tower.item_vectors[:10, 2:-1]
    assert tower.item_vectors.shape == (ITEMS, 7) and tower.common == 1
    assert polarity.mean().abs() < 1e-5 and polarity.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert about.square().sum(1).mean().item() == pytest.approx(1, abs=1e-4)
    assert (tower.item_vectors[10:, 1:-1] == 0).all()
    volume = tower.item_vectors[:, -1]
    assert volume.mean().abs() < 1e-5 and volume.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert volume[10:].max() < volume[:10].min()


def test_few_reviews_are_drawn_to_the_catalog_mean(encoder: Encoder) -> None:
    logs = reviewed()
    once = replace(logs, items=np.append(logs.items[:-1], 10), ratings=logs.ratings.copy())
    weak, strong = (
        sentiment.fit(once, SentimentSettings(prior_reviews=prior), encoder, seed=0).item_vectors[10, 0].abs()
        for prior in (20.0, 0.0)
    )
    assert weak < 0.5 * strong


def test_the_catalog_mean_is_what_an_item_starts_from(encoder: Encoder) -> None:
    """Nearly all is praised: one word of praise does not put an item below the others."""
    users, items = np.repeat(np.arange(40), 8), np.append(np.arange(319) % 10, 10)
    good = np.arange(320) % 11 != 1
    reviews = tuple((PRAISE if liked else BLAME)[row % 5] for row, liked in enumerate(good))
    logs = make(np.where(good, 5.0, 1.0), users, items, reviews)
    assert good[-1] and good.mean() > 0.9
    polarity = sentiment.fit(logs, SentimentSettings(), encoder, seed=0).item_vectors[:, 0]
    assert polarity[10] > polarity[:10].mean()


def test_a_stranger_and_an_unseen_user_have_a_query(encoder: Encoder) -> None:
    tower = sentiment.fit(reviewed(), SentimentSettings(), encoder, seed=0)
    items = torch.tensor([[PAD] * 6, [0, 9] * 3, [0, 9] * 3])
    ratings = torch.tensor([[0.0] * 6, [1.0, 5.0] * 3, [5.0, 1.0] * 3])
    stranger, follows, opposes = profile(tower, History(items, ratings, torch.ones(3, 6) * (items >= 0)))[:, 0]
    assert follows > stranger > opposes > 0


def test_equal_seeds_give_equal_towers_and_others_nearly(encoder: Encoder) -> None:
    first, again, other = (sentiment.fit(reviewed(), SentimentSettings(), encoder, seed) for seed in (0, 0, 1))
    assert torch.equal(first.item_vectors, again.item_vectors) and first.facts == again.facts
    assert torch.allclose(first.item_vectors, other.item_vectors, atol=0.1)


def test_learns_from_ratings_without_reviews(encoder: Encoder) -> None:
    logs = replace(reviewed(), reviews=("",) * 320)
    tower = sentiment.fit(logs, SentimentSettings(), encoder, seed=0)
    assert tower.item_vectors.shape == (ITEMS, 3) and tower.notes == {}
    assert tower.facts["learned_from"] == "320 ratings, for want of reviews to learn from"
    assert agreement(tower.item_vectors[:, 0]) > 0.95


def test_a_raters_own_level_says_nothing_of_an_item(encoder: Encoder) -> None:
    """A mild rater met items 0 and 1, a strict one 2 and 3; within each pair the second is better."""
    users, items = np.repeat([0, 1], 20), np.tile([0, 1], 20) + np.repeat([0, 2], 20)
    ratings = np.where(items % 2 == 1, 5.0, 4.0) - 2 * (users == 1)
    tower = sentiment.fit(make(ratings, users, items, ("",) * 40), SentimentSettings(), encoder, seed=0)
    worse_mild, better_mild, _, better_strict = tower.item_vectors[:4, 0]
    assert better_strict > worse_mild + 0.5 and (better_mild - better_strict).abs() < 0.5


@pytest.mark.parametrize("stars", [5.0, 3.0])
def test_reviews_that_all_praise_teach_no_head(encoder: Encoder, stars: float) -> None:
    tower = sentiment.fit(replace(reviewed(), ratings=np.full(320, stars, np.float32)), SentimentSettings(), encoder, 0)
    assert tower.facts["learned_from"] == "320 ratings, for want of reviews to learn from" and "head" not in tower.facts
    assert tower.item_vectors.isfinite().all()


def test_learns_from_clicks_without_ratings(encoder: Encoder) -> None:
    logs = reviewed()
    shown = replace(logs, ratings=np.full(320, np.nan, np.float32), clicks=(logs.ratings > 3).astype(np.float32))
    tower = sentiment.fit(shown, SentimentSettings(), encoder, seed=0)
    assert tower.facts["learned_from"] == "320 clicks, for want of reviews and ratings"
    assert agreement(tower.item_vectors[:, 0]) > 0.95
    query = profile(tower, History(*shown.padded(50)))[:, 0]
    assert query[:20].mean() > query[20:].mean()


def test_clicks_alone_make_the_clicked_positive(encoder: Encoder) -> None:
    users, items = np.arange(30), np.repeat([0, 1, 2], [20, 8, 2])
    logs = make(np.full(30, np.nan), users, items, ("",) * 30)
    tower = sentiment.fit(logs, SentimentSettings(), encoder, seed=0)
    polarity = tower.item_vectors[:, 0]
    assert polarity[0] > polarity[1] > polarity[2] > polarity[3]


def test_stars_and_text_speak_together(encoder: Encoder) -> None:
    """Item 10 is praised in words by those who gave it three stars, and item 11 says the same with five."""
    logs = reviewed()
    count = 60
    words = tuple(PRAISE[row % 5] for row in range(count))
    more = {
        "users": np.append(logs.users, np.arange(count) % 40),
        "items": np.append(logs.items, np.repeat([10, 11], count // 2)),
        "ratings": np.append(logs.ratings, np.repeat([3.0, 5.0], count // 2).astype(np.float32)),
        "reviews": logs.reviews + words,
        "timestamps": np.arange(320 + count),
        "clicks": np.ones(320 + count, np.float32),
    }
    polarity = sentiment.fit(replace(logs, **more), SentimentSettings(half_life=0), encoder, seed=0).item_vectors[:, 0]
    assert polarity[11] > polarity[10] > polarity[:3].max()


def test_the_posterior_of_an_item(encoder: Encoder) -> None:
    """Ten like item 0 and nobody dislikes it, one likes item 1, and nobody met item 3."""
    users, items = np.arange(21), np.repeat([0, 1, 2], [10, 1, 10])
    logs = make(np.where(items < 2, 5.0, 1.0), users, items, ("",) * 21)
    tower = sentiment.fit(logs, SentimentSettings(half_life=0, prior_reviews=2), encoder, seed=0)
    many, one, blamed, unknown = (sentiment.opinion(tower, item) for item in (0, 1, 2, 3))
    assert [round(each.count, 3) for each in (many, one, blamed, unknown)] == [10, 1, 10, 0]
    assert many.polarity > one.polarity > unknown.polarity > blamed.polarity >= -1
    assert many.deviation < one.deviation < unknown.deviation
    assert unknown.deviation / many.deviation == pytest.approx(((10 + 2) / 2) ** 0.5, rel=1e-3)
    said = (5 - logs.ratings.mean()) / 2 * 0.5  # each user's own mean is half drawn to the mean of all
    assert many.polarity == pytest.approx((10 * said + 2 * unknown.polarity) / 12, rel=1e-3)


def test_recent_opinions_count_more(encoder: Encoder) -> None:
    """Item 0 was bad and is good, item 1 was good and is bad."""
    users, items, late = np.arange(40), np.arange(40) % 2, np.arange(40) >= 20
    logs = replace(
        make(np.where((items == 0) == late, 5.0, 1.0), users, items, ("",) * 40),
        timestamps=np.where(late, 1000, 0) * sentiment.DAY,
    )
    kept, faded = (
        sentiment.fit(logs, SentimentSettings(half_life=half_life), encoder, seed=0) for half_life in (0, 250)
    )
    assert abs(sentiment.opinion(kept, 0).polarity - sentiment.opinion(kept, 1).polarity) < 1e-6
    assert sentiment.opinion(faded, 0).polarity > sentiment.opinion(faded, 1).polarity + 0.2
    assert sentiment.opinion(faded, 0).count == pytest.approx(10 + 10 / 16, rel=1e-3)
    assert faded.facts["half_life"] == "250 days" and kept.facts["half_life"] == "none"
    np.testing.assert_allclose(sentiment.fading(np.array([0, 10 * sentiment.DAY]), 10), [0.5, 1])


def test_a_grumblers_words_are_read_by_their_own_measure() -> None:
    """Both give four stars; the second writes colder. One who wrote once has hardly a tone."""
    users, stars = np.repeat([0, 1, 2], [20, 20, 1]), np.full(41, 4, np.float32)
    warm, cold, brief, silent = sentiment.tones(users, np.repeat([0.8, 0.0, 0.0], [20, 20, 1]), stars, 4)
    assert warm == pytest.approx(0.33, abs=0.03) and cold == pytest.approx(-warm, abs=0.05)
    assert cold < 3 * brief < 0 and silent == 0
    by_stars = np.where(users == 1, 2, 5).astype(np.float32)
    assert np.abs(sentiment.tones(users, np.where(users == 1, -0.5, 0.9), by_stars, 4)).max() < 1e-9


def test_volume_is_trusted_where_it_tells_what_will_be_liked(encoder: Encoder) -> None:
    """Half of the likes go to two items; where all items are liked alike, volume says nothing."""
    draw = np.random.default_rng(0)
    trusts = []
    for share in (0.6, 0.0):
        users = np.repeat(np.arange(40), 6)
        items = np.where(draw.random(240) < share, 10 + draw.integers(0, 2, 240), draw.integers(0, 10, 240))
        logs = make(draw.choice([1.0, 5.0], 240, p=[0.2, 0.8]), users, items, ("",) * 240)
        tower = sentiment.fit(logs, SentimentSettings(), encoder, seed=0)
        trusts.append(float(tower.extras["trust"]))
        fixed = SentimentSettings.model_validate(json.loads(tower.facts["settings"]))
        assert torch.equal(sentiment.fit(logs, fixed, encoder, seed=0).item_vectors, tower.item_vectors)
    assert trusts[0] > 0 == trusts[1]


def test_the_notes_praise_and_blame(encoder: Encoder) -> None:
    notes = sentiment.fit(reviewed(), SentimentSettings(), encoder, seed=0).notes
    assert {len(words) for words in notes.values()} == {ITEMS} and set(notes) >= {"praise", "blame"}
    assert any(word in notes["praise"][9] for word in PRAISE) and any(word in notes["blame"][0] for word in BLAME)
    assert notes["praise"][10] == notes["blame"][10] == ""


def test_no_interaction_at_all(encoder: Encoder) -> None:
    nothing = reviewed().rows(np.zeros(320, bool))
    with pytest.raises(InputError, match="no interaction"):
        sentiment.fit(nothing, SentimentSettings(), encoder, seed=0)


def test_head_reads_real_opinions(encoder: Encoder, data_folder: Path) -> None:
    """400 sentences of film reviews (Pang and Lee 2005), half of them praise, as if each were a rated review."""
    texts = []
    for name in ("pos", "neg"):
        with gzip.open(data_folder / "rt-polarity" / f"rt-polarity.{name}.gz", "rt", encoding="latin-1") as file:
            texts += file.readlines()[:200]
    users, items = np.arange(400) % 40, np.arange(400) % ITEMS
    logs = make(np.repeat([5.0, 1.0], 200), users, items, tuple(texts))
    tower = sentiment.fit(logs, SentimentSettings(), encoder, seed=0)
    assert float(tower.facts["head_auc"][:5]) > 0.75
