from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from concertrl.agents.sentiment_head import SENTENCES, Wording, clear_reviews, judge, polarity_of, rt_polarity
from concertrl.platform.dataset import load_dataset
from concertrl.platform.encoder import Encoder
from concertrl.platform.errors import InputError
from concertrl.platform.ingest import ingest
from concertrl.platform.settings import EncoderSettings, SentimentSettings

PRAISE = ("wonderful sound", "works perfectly", "I love it", "superb build", "best I ever had")
BLAME = ("terrible sound", "broke at once", "I hate it", "shoddy build", "worst I ever had")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(EncoderSettings(cache=str(tmp_path_factory.mktemp("cache")), max_tokens=16))


def reviews(count: int = 160) -> tuple[list[str], np.ndarray]:
    """Half praise, half blame, and at the end as many words that are neither."""
    draw = np.random.default_rng(0)
    good = np.arange(count) % 2 == 0
    texts = [
        ", ".join((PRAISE if liked else BLAME)[word] for word in draw.integers(0, 5, 2)) for liked in good.tolist()
    ]
    stars = np.where(good, 5.0, 1.0).astype(np.float32)
    return [*texts, "a guitar", "a cable"], np.append(stars, [3.0, np.nan]).astype(np.float32)


def test_praise_is_positive_blame_negative_and_the_rest_between(encoder: Encoder) -> None:
    texts, stars = reviews()
    found = judge(texts, stars, SentimentSettings(), encoder, seed=0)
    assert found is not None and found.auc > 0.99 and found.taught == 160
    assert (found.polarity[stars == 5] > 0.3).all() and (found.polarity[stars == 1] < -0.3).all()
    assert np.abs(found.polarity[160:]).max() < np.abs(found.polarity[:160]).min()
    assert found.embeddings.shape == (162, 384)


def test_a_review_is_judged_by_others_alone(encoder: Encoder) -> None:
    """Of texts without any sense a head that was taught with them would know the stars."""
    draw = np.random.default_rng(1)
    texts = ["".join(draw.choice(list("bcdfgklmnprst"), 8)) for _ in range(120)]
    stars = np.repeat([5, 1], 60).astype(np.float32)
    found = judge(texts, stars, SentimentSettings(), encoder, seed=0)
    assert found is not None and found.auc < 0.7


def test_undecided_is_zero_however_rare_blame_is(encoder: Encoder) -> None:
    texts, stars = reviews(600)
    rare = np.flatnonzero((stars == 5) | (np.arange(602) < 60) | (np.arange(602) >= 600))
    found = judge([texts[row] for row in rare], stars[rare], SentimentSettings(), encoder, seed=0)
    assert found is not None and (found.polarity[stars[rare] == 1] < -0.3).all()


def test_equal_seeds_give_equal_numbers(encoder: Encoder) -> None:
    first, again, other = (judge(*reviews(), SentimentSettings(), encoder, seed) for seed in (0, 0, 1))
    assert first is not None and again is not None and other is not None
    assert (first.polarity == again.polarity).all() and (first.polarity != other.polarity).any()


def test_too_few_of_a_kind_teach_nothing(encoder: Encoder) -> None:
    texts, stars = reviews(38)
    assert judge(texts, stars, SentimentSettings(), encoder, seed=0) is None
    clear, praise = clear_reviews(np.array([5, 4, 3.5, np.nan, 2, 1] * 10, np.float32))
    assert clear.tolist() == [row for row in range(60) if row % 6 not in (2, 3)]
    assert praise.tolist() == [row % 6 < 2 for row in clear]


def test_words_pairs_and_marks_are_read() -> None:
    texts = ["not good", "good", "too bad", "bad? no"] * 30
    wording = Wording(texts, np.array([False, True, False, True] * 30))
    not_good, good, bad, asked = wording.logits(["not good", "good", "too bad", "bad? no"])
    assert not_good < 0 < good and bad < 0 < asked
    assert len(wording.logits([])) == 0


def test_polarity_is_the_probability_of_praise_less_that_of_blame() -> None:
    np.testing.assert_allclose(polarity_of(np.array([0.0, np.log(3), -50.0])), [0, 0.5, -1], atol=1e-12)


def test_a_tuned_head_learns_too(encoder: Encoder) -> None:
    texts, stars = reviews(80)
    settings = SentimentSettings(head="finetuned", layers=1, epochs=1)
    reported: list[tuple[int, int, float]] = []
    found = judge(texts, stars, settings, encoder, 0, lambda *said: reported.append(said))
    assert found is not None and found.auc > 0.95
    assert reported[-1][:2] == (40, 40) and reported[-1][2] > 0


def test_rt_polarity_that_is_not_there(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rt-polarity\.pos\.gz: cannot be read"):
        rt_polarity(tmp_path, encoder, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_film_review_sentences_are_told_apart_after_fine_tuning(data_folder: Path) -> None:
    """The frozen encoder with a logistic regression reaches .757."""
    assert SENTENCES.epochs == 2
    assert rt_polarity(data_folder / "rt-polarity", Encoder(EncoderSettings()), seed=0) >= 0.82


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_instruments_reviews_are_told_apart(data_folder: Path, tmp_path: Path) -> None:
    ingest("amazon", data_folder / "amazon-musical-instruments-5core", tmp_path / "instruments")
    logs = load_dataset(tmp_path / "instruments").logs()
    found = judge(logs.reviews, logs.ratings, SentimentSettings(), Encoder(EncoderSettings()), seed=0)
    assert found is not None and found.auc >= 0.93
