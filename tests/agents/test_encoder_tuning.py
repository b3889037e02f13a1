from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from concertrl.agents import content
from concertrl.agents.encoder_tuning import liked_pairs, tuned_encoder
from concertrl.agents.newcomers import extended, read_new_items
from concertrl.agents.towers import load_towers, save_towers
from concertrl.platform import finetune_pairs as module
from concertrl.platform.encoder import Encoder
from concertrl.platform.errors import InputError
from concertrl.platform.finetune_pairs import pair_loss
from concertrl.platform.logs import Logs
from concertrl.platform.settings import ContentSettings, EncoderSettings

NAMES = ("brass kettle", "night train", "red violin", "deep sea", "old bridge", "salt mine", "paper kite", "iron gate")
SETTINGS = ContentSettings(factors=8, layers=1, epochs=4, pairs=96, projection="principal")


def make(reviews: bool = False) -> Logs:
    """24 users; the even ones like the even items, the odd ones the odd: nothing in the words says so."""
    users, items = (grid.ravel() for grid in np.meshgrid(np.arange(24), np.arange(8), indexing="ij"))
    liked = users % 2 == items % 2
    return Logs(
        user_ids=tuple(f"u{user}" for user in range(24)),
        item_ids=tuple(map(str, range(8))),
        item_titles=("",) * 8 if reviews else NAMES,
        item_texts=("",) * 8,
        item_attributes=((),) * 8,
        users=users,
        items=items,
        timestamps=np.arange(len(users), dtype=np.int64),
        ratings=np.where(liked, 5, 1).astype(np.float32),
        clicks=np.ones(len(users), np.float32),
        reviews=tuple(f"{NAMES[item]} {user}" if reviews else "" for user, item in zip(users, items, strict=True)),
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(EncoderSettings(cache=str(tmp_path_factory.mktemp("cache"))))


@pytest.fixture(scope="module")
def tuned(encoder: Encoder) -> Encoder:
    return tuned_encoder(make(), SETTINGS, encoder, 1000, 0)


def test_what_is_liked_together_comes_together(encoder: Encoder, tuned: Encoder) -> None:
    def apart(one: Encoder) -> float:
        rows = one.encode(NAMES)
        likeness, kin = rows @ rows.T, (np.arange(8)[:, None] - np.arange(8)) % 2 == 0
        return float(likeness[kin & ~np.eye(8, dtype=bool)].mean() - likeness[~kin].mean())

    assert apart(tuned) > apart(encoder) + 0.05
    assert tuned.fingerprint != encoder.fingerprint and not encoder.learned
    assert all(name.startswith("encoder.layer.5.") for name in tuned.learned)


def test_the_same_likes_teach_the_same_once(encoder: Encoder, tuned: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module, "_epoch")
    again = tuned_encoder(make(), SETTINGS, encoder, 1000, 0)
    assert again.fingerprint == tuned.fingerprint
    with pytest.raises(NameError):
        tuned_encoder(make(), SETTINGS, encoder, 1000, 1)


def test_a_killed_run_goes_on_to_the_same_end(tuned: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, epochs = module._epoch, []

    def killed(*arguments: object) -> None:
        if len(epochs) == 2:
            raise KeyboardInterrupt
        epochs.append(arguments[5])
        whole(*arguments)  # type: ignore[arg-type]

    mine = Encoder(EncoderSettings(cache=str(tmp_path)))
    monkeypatch.setattr(module, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        tuned_encoder(make(), SETTINGS, mine, 1000, 0)
    epochs.clear()
    said: list[tuple[int, int, float]] = []
    again = tuned_encoder(make(), SETTINGS, mine, 1000, 0, lambda *told: said.append(told))
    assert [epoch for _, epoch in epochs] == [2, 3] and said[-1][0] == said[-1][1]
    assert again.fingerprint == tuned.fingerprint


def test_a_saved_tower_places_new_items_with_the_taught_encoder(encoder: Encoder, tmp_path: Path) -> None:
    save_towers({"content": content.fit(make(), SETTINGS, encoder, 1000)}, tmp_path)
    towers = load_towers(tmp_path)
    assert towers["content"].facts["encoder"] == "its last 1 layers taught on what is liked together"
    new = read_new_items([{"item_id": "new", "title": NAMES[3]}], set("01234567"))
    vectors = extended(towers, new, encoder.settings)["content"].item_vectors
    torch.testing.assert_close(vectors[8], vectors[3], rtol=1e-4, atol=1e-5)


def test_pairs_are_of_two_items_that_one_user_likes() -> None:
    logs = make()
    rows = liked_pairs(logs, 200, 3, 1000, 0).rows
    assert rows.shape == (3, 200, 2) and (rows[..., 0] % 2 == rows[..., 1] % 2).all()
    assert (rows[..., 0] != rows[..., 1]).all() and (rows[0] != rows[1]).any()
    assert len(np.unique(rows.reshape(-1, 2), axis=0)) == 24  # every pair there is


def test_nobody_is_taught_by_their_own_reviews() -> None:
    logs = make(reviews=True)
    pairs = liked_pairs(logs, 300, 1, 1000, 0)
    writers = np.array([int(text.split()[-1]) for text in pairs.texts])
    # Reviews stand for items; were a user's own let in, both sides of a pair would share a writer far more often.
    shared = (writers[pairs.rows[0, :, 0]] == writers[pairs.rows[0, :, 1]]).mean()
    assert pairs.rows.shape[1] == 300 and shared < 0.15
    assert {NAMES[thing] for thing in pairs.things} == set(NAMES)


def test_likes_without_a_text_teach_nothing(encoder: Encoder) -> None:
    logs = make()
    mute = Logs(**{**vars(logs), "item_titles": ("",) * 8})
    with pytest.raises(InputError, match=r"agents\.content\.layers=0"):
        tuned_encoder(mute, SETTINGS, encoder, 1000, 0)


def test_another_model_cannot_take_what_was_learned(tuned: Encoder) -> None:
    wrong = Encoder(tuned.settings, {"encoder.layer.99.weight": torch.zeros(2)})
    with pytest.raises(InputError, match="the model it was taught on"):
        wrong.encode(["a text that nobody has read"])


def test_the_loss_is_least_where_partners_are_nearest() -> None:
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(6, 4, generator=draw)
    same = torch.eye(6, dtype=torch.bool)
    good, bad = pair_loss(first, first, same, 0.1), pair_loss(first, first.roll(1, 0), same, 0.1)
    assert good < bad
    # A rival that tells of the same thing costs nothing.
    twins = first[[0, 0, 2, 3, 4, 5]]
    known = same.clone()
    known[0, 1] = known[1, 0] = True
    assert pair_loss(twins, twins, known, 0.1) < pair_loss(twins, twins, same, 0.1)
