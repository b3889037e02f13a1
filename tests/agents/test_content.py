from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from concertrl.agents import content
from concertrl.agents.features import Modality, combined, item_text
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
    tower = content.fit(make(SPACE + LOVE), ContentSettings(factors=6, projection="principal"), encoder, 100)
    history = History(torch.tensor([[0], [4]]), torch.full((2, 1), 5.0), torch.ones(2, 1))
    space, love = profile(tower, history) @ tower.item_vectors.T
    assert space[1:4].mean() > space[4:].mean() + 0.3 and love[5:].mean() > love[:4].mean() + 0.3
    assert tower.name == "content" and tower.item_vectors.shape == (8, 6)
    assert tower.item_vectors.square().sum(1).mean().item() == pytest.approx(1, abs=1e-4)
    assert tower.facts["fitted_on"] == "the text of 8 items"


def test_a_stranger_gets_the_mean_user(encoder: Encoder) -> None:
    tower = content.fit(make(SPACE + LOVE), ContentSettings(factors=6, projection="principal"), encoder, 100)
    stranger = profile(tower, History(torch.tensor([[PAD]]), torch.zeros(1, 1), torch.zeros(1, 1)))
    known = profile(tower, History(torch.tensor([[0], [4]]), torch.full((2, 1), 5.0), torch.ones(2, 1)))
    torch.testing.assert_close(stranger[0], known.mean(0), rtol=1e-4, atol=1e-4)


def test_title_attributes_and_text_are_read_in_this_order() -> None:
    logs = replace(
        make(("Heat", "", " ")),
        item_texts=("A heist.", "Only text", ""),
        item_attributes=(("Crime", "1995"), (), ()),
    )
    texts = [item_text(logs, item) for item in range(3)]
    assert texts == ["Heat. Crime, 1995. A heist.", "Only text", ""]


def test_reviews_stand_in_for_missing_item_text(encoder: Encoder) -> None:
    reviews = (*SPACE, *LOVE)
    told = content.fit(make(("",) * 9, reviews), ContentSettings(factors=6, projection="principal"), encoder, 100)
    described = content.fit(make((*reviews, "")), ContentSettings(factors=6, projection="principal"), encoder, 100)
    torch.testing.assert_close(told.item_vectors, described.item_vectors, rtol=1e-3, atol=1e-4)
    assert told.facts == {
        "fitted_on": "8 reviews",
        "items_without_vector": "1 of 9",
        "projection": "principal axes",
    }
    assert (told.item_vectors[8] == 0).all()


def test_nothing_to_read(encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r'neither item text nor reviews.*agents\.names=\["cf", "sentiment"\]'):
        content.fit(make(("",) * 5), ContentSettings(), encoder, 100)


@pytest.mark.parametrize("projection", ["learned", "principal"])
@pytest.mark.parametrize("titles", [("same",) * 6, ("a", "b", "", "", "")])
def test_little_text_gives_finite_vectors(
    encoder: Encoder, titles: tuple[str, ...], projection: Literal["learned", "principal"]
) -> None:
    logs = make(titles)
    try:
        tower = content.fit(logs, ContentSettings(factors=64, projection=projection), encoder, 100)
    except InputError as error:
        assert len(set(titles)) == 1 and "no user has a history" in str(error)
    else:
        assert tower.item_vectors.isfinite().all() and profile(tower, History(*logs.padded(5))).isfinite().all()


def fans(number: int = 60) -> Logs:
    """Even users like every second item of both kinds, odd users the others: no matter of the kinds in the text."""
    logs = make(SPACE + LOVE)
    users = np.repeat(np.arange(number), 3)
    draw = np.random.default_rng(0)
    items = np.concatenate([draw.choice(np.arange(user % 2, 8, 2), 3, replace=False) for user in range(number)])
    return replace(
        logs,
        user_ids=tuple(map(str, range(number))),
        users=users,
        items=items,
        timestamps=np.arange(len(users), dtype=np.int64),
        ratings=np.full(len(users), 5, np.float32),
        clicks=np.ones(len(users), np.float32),
        reviews=("",) * len(users),
    )


def test_a_learned_projection_puts_together_what_the_same_users_like(encoder: Encoder) -> None:
    logs, settings = fans(), ContentSettings(factors=6)
    tower = content.fit(logs, settings, encoder, 100)
    likeness = tower.item_vectors @ tower.item_vectors.T
    apart = ~torch.eye(8, dtype=torch.bool)
    same = (torch.arange(8)[:, None] - torch.arange(8)) % 2 == 0
    assert likeness[same & apart].mean() > likeness[~same].mean() + 0.5
    plain = content.fit(logs, settings.model_copy(update={"projection": "principal"}), encoder, 100)
    likeness = plain.item_vectors @ plain.item_vectors.T
    assert likeness[same & apart].mean() < likeness[~same].mean() + 0.1
    assert torch.equal(content.fit(logs, settings, encoder, 100).item_vectors, tower.item_vectors)
    assert not torch.equal(content.fit(logs, settings, encoder, 100, seed=1).item_vectors, tower.item_vectors)


@pytest.mark.parametrize("projection", ["learned", "principal"])
def test_an_item_is_placed_as_the_fit_places_it(encoder: Encoder, projection: Literal["learned", "principal"]) -> None:
    tower = content.fit(fans(), ContentSettings(factors=6, projection=projection), encoder, 100)
    rows = torch.from_numpy(encoder.encode(list(SPACE + LOVE)))
    torch.testing.assert_close(content.place(tower, {"text": rows}), tower.item_vectors, rtol=1e-4, atol=1e-4)


def test_a_missing_modality_says_nothing() -> None:
    draw = np.random.default_rng(0)
    text = Modality(
        "text", draw.normal(size=(3, 2)).astype(np.float32), np.array([True, True, False, True, False]), "t"
    )
    said = Modality(
        "reviews", draw.normal(size=(2, 4)).astype(np.float32), np.array([True, False, True, False, False]), "r"
    )
    both = combined([text, said], 5)
    assert both.rows.shape == (5, 6) and both.present.tolist() == [True, True, True, True, False]
    assert (both.rows[2, :2] == 0).all() and (both.rows[1, 2:] == 0).all() and (both.rows[4] == 0).all()
    torch.testing.assert_close(both.rows.sum(0), torch.zeros(6), rtol=0, atol=1e-5)
    again = both.of({"reviews": torch.from_numpy(said.rows)})
    torch.testing.assert_close(again[:, 2:], both.rows[[0, 2], 2:])
    assert (again[:, :2] == 0).all()


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
    logs, settings = make(SPACE + LOVE), ContentSettings(factors=6, projection="principal")
    fresh = Encoder(EncoderSettings(cache=str(tmp_path), batch_size=3))
    first, again = content.fit(logs, settings, encoder, 100), content.fit(logs, settings, fresh, 100)
    # Read in batches of another size, which on some processors changes an embedding's last bits.
    torch.testing.assert_close(first.item_vectors, again.item_vectors, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer with random weights, as a folder."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("vision")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        config.image_size, config.patch_size = 32, 8
        ViTModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def pictures(folder: Path) -> tuple[str, ...]:
    """Red for the even items, blue for the odd ones, none for the last."""
    from PIL import Image

    for item in range(7):
        shade = 200 + 5 * item
        Image.new("RGB", (40, 30), (shade, 0, 0) if item % 2 == 0 else (0, 0, shade)).save(folder / f"{item}.png")
    return (*(str(folder / f"{item}.png") for item in range(7)), "")


def test_pictures_are_a_modality_beside_the_text(encoder: Encoder, vision: Path, tmp_path: Path) -> None:
    logs = replace(make(SPACE + LOVE), item_images=pictures(tmp_path))
    settings = ContentSettings(factors=6, projection="principal", images=str(vision))
    tower = content.fit(logs, settings, encoder, 100)
    assert tower.facts["fitted_on"] == "the text of 8 items and the pictures of 7 items"
    from concertrl.platform.image_encoder import ImageEncoder

    rows = torch.from_numpy(ImageEncoder(str(vision), encoder.settings).encode(logs.item_images[:7]))
    assert (rows[0] @ rows[2]) > (rows[0] @ rows[1]) + 1e-3  # red is like red
    text = torch.from_numpy(encoder.encode(list(SPACE + LOVE)))
    placed = content.place(tower, {"text": text[:7], "images": rows})
    torch.testing.assert_close(placed, tower.item_vectors[:7], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(content.place(tower, {"text": text[:7]}), tower.item_vectors[:7], atol=1e-2)


def test_a_picture_that_is_none(encoder: Encoder, vision: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    logs = replace(make(SPACE), item_images=("", str(tmp_path / "bad.png"), "", ""))
    logs = replace(logs, items=np.array([0, 1]))
    with pytest.raises(InputError, match=r"bad\.png: the item's image cannot be read .* correct image_path"):
        content.fit(logs, ContentSettings(images=str(vision)), encoder, 100)
    gone = replace(logs, item_images=("", str(tmp_path / "gone.png"), "", ""))
    with pytest.raises(InputError, match=r"gone\.png: the item's image cannot be read \(No such file"):
        content.fit(gone, ContentSettings(images=str(vision)), encoder, 100)
    with pytest.raises(InputError, match=r"agents\.content\.images"):
        content.fit(logs, ContentSettings(images=str(tmp_path)), encoder, 100)
