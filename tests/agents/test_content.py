from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from concertrl.agents import content
from concertrl.agents.profiles import profile
from concertrl.agents.reviews import item_means, rows_to_read
from concertrl.agents.tower import PAD, History
from concertrl.platform.encoder import Encoder
from concertrl.platform.errors import InputError
from concertrl.platform.logs import Logs
from concertrl.platform.settings import ContentSettings, EncoderSettings
from hypothesis import given
from hypothesis import strategies as st

SPACE = ("Rockets to Mars", "Alien starship fleet", "Robots in orbit", "Lost in deep space")
LOVE = ("A summer romance", "Wedding of two lovers", "Love letters", "The heart and the kiss")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(EncoderSettings(cache=str(tmp_path_factory.mktemp("cache"))))


def make(titles: tuple[str, ...], reviews: tuple[str, ...] = ()) -> Logs:
    """User 0 liked the first item, user 1 the fifth; `reviews` are of user 0 on items 0, 1, 2 ..."""
    users, items = [0, 1, *[0] * len(reviews)], [0, 4, *range(len(reviews))]
    return Logs(
        user_ids=("u", "v", "w"),
        item_ids=tuple(map(str, range(len(titles)))),
        item_titles=titles,
        item_texts=("",) * len(titles),
        item_attributes=((),) * len(titles),
        users=np.array(users, np.int64),
        items=np.array(items, np.int64),
        timestamps=np.arange(len(users), dtype=np.int64),
        ratings=np.full(len(users), 5, np.float32),
        clicks=np.ones(len(users), np.float32),
        reviews=("", "", *reviews),
    )


def test_like_goes_to_like(encoder: Encoder) -> None:
    tower = content.fit(make(SPACE + LOVE), ContentSettings(factors=6), encoder, 100)
    history = History(torch.tensor([[0], [4]]), torch.full((2, 1), 5.0), torch.ones(2, 1))
    space, love = profile(tower, history) @ tower.item_vectors.T
    assert space[1:4].mean() > space[4:].mean() + 0.3 and love[5:].mean() > love[:4].mean() + 0.3
    assert tower.name == "content" and tower.item_vectors.shape == (8, 6)
    assert tower.item_vectors.square().sum(1).mean().item() == pytest.approx(1, abs=1e-4)
    assert tower.facts["fitted_on"] == "the text of 8 items"


def test_a_stranger_gets_the_mean_user(encoder: Encoder) -> None:
    tower = content.fit(make(SPACE + LOVE), ContentSettings(factors=6), encoder, 100)
    stranger = profile(tower, History(torch.tensor([[PAD]]), torch.zeros(1, 1), torch.zeros(1, 1)))
    known = profile(tower, History(torch.tensor([[0], [4]]), torch.full((2, 1), 5.0), torch.ones(2, 1)))
    torch.testing.assert_close(stranger[0], known.mean(0), rtol=1e-4, atol=1e-4)


def test_title_attributes_and_text_are_read_in_this_order() -> None:
    logs = replace(
        make(("Heat", "", " ")),
        item_texts=("A heist.", "Only text", ""),
        item_attributes=(("Crime", "1995"), (), ()),
    )
    texts = [content.item_text(logs, item) for item in range(3)]
    assert texts == ["Heat. Crime, 1995. A heist.", "Only text", ""]


def test_reviews_stand_in_for_missing_item_text(encoder: Encoder) -> None:
    reviews = (*SPACE, *LOVE)
    told = content.fit(make(("",) * 9, reviews), ContentSettings(factors=6), encoder, 100)
    described = content.fit(make((*reviews, "")), ContentSettings(factors=6), encoder, 100)
    torch.testing.assert_close(told.item_vectors, described.item_vectors, rtol=1e-3, atol=1e-4)
    assert told.facts == {
        "fitted_on": "8 reviews, for want of item text",
        "items_without_vector": "1 of 9",
        "variance_kept": described.facts["variance_kept"],
    }
    assert (told.item_vectors[8] == 0).all()


def test_nothing_to_read(encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r'neither item text nor reviews.*agents\.names=\["cf", "sentiment"\]'):
        content.fit(make(("",) * 5), ContentSettings(), encoder, 100)


@pytest.mark.parametrize("titles", [("same",) * 6, ("a", "b", "", "", "")])
def test_little_text_gives_finite_vectors(encoder: Encoder, titles: tuple[str, ...]) -> None:
    logs = make(titles)
    try:
        tower = content.fit(logs, ContentSettings(factors=64), encoder, 100)
    except InputError as error:
        assert len(set(titles)) == 1 and "no user has a history" in str(error)
    else:
        assert tower.item_vectors.isfinite().all() and profile(tower, History(*logs.padded(5))).isfinite().all()


def test_components_keep_distances() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    components, kept = content.principal_components(rows, 5)
    distances = [np.linalg.norm(each[:, None] - each[None], axis=2) for each in (rows, components)]
    np.testing.assert_allclose(*distances, atol=1e-5)
    assert kept == pytest.approx(1) and np.abs(components.mean(0)).max() < 1e-6
    assert (np.diff(components.std(0)) <= 0).all()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.booleans()), max_size=40), st.integers(1, 45))
def test_reviews_are_shared_out_over_items_latest_first(rows: list[tuple[int, int, bool]], at_most: int) -> None:
    items = np.array([item for item, _, _ in rows], np.int64)
    logs = replace(
        make(("",) * 5),
        users=np.zeros(len(rows), np.int64),
        items=items,
        timestamps=np.array([time for _, time, _ in rows], np.int64),
        reviews=tuple("text" if written else " " for _, _, written in rows),
    )
    written = {row for row, (_, _, is_written) in enumerate(rows) if is_written}
    read = rows_to_read(logs, at_most)
    assert set(read) <= written and len(read) == min(at_most, len(written)) and (np.diff(read) > 0).all()
    for row in written - set(read):
        mine = [each for each in read if items[each] == items[row]]
        assert all((logs.timestamps[each], each) > (logs.timestamps[row], row) for each in mine)
        assert np.bincount(items[read], minlength=1).max() <= len(mine) + 1


def test_item_means() -> None:
    means = item_means(np.array([2, 0, 2]), np.array([[1.0, 0], [5, 5], [3, 4]], np.float32), 4)
    np.testing.assert_array_equal(means, [[5, 5], [0, 0], [2, 2], [0, 0]])


def test_fitted_twice_is_the_same(encoder: Encoder, tmp_path: Path) -> None:
    logs, settings = make(SPACE + LOVE), ContentSettings(factors=6)
    fresh = Encoder(EncoderSettings(cache=str(tmp_path), batch_size=3))
    first, again = content.fit(logs, settings, encoder, 100), content.fit(logs, settings, fresh, 100)
    assert torch.equal(first.item_vectors, again.item_vectors)
