from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from concertrl.agents import pretrained as module
from concertrl.agents.pretrained import Pretrained, pretrain, pretrained_tower
from concertrl.agents.profiles import profile
from concertrl.agents.tower import History
from concertrl.agents.validation import validated, validation
from concertrl.platform.encoder import Encoder
from concertrl.platform.errors import InputError
from concertrl.platform.logs import Logs
from concertrl.platform.settings import EncoderSettings, PretrainSettings

SETTINGS = PretrainSettings(
    factors=8,
    epochs=6,
    steps=20,
    batch=128,
    learning_rate=0.02,
    dropout=0.1,
    forget=0.1,
    tasks=("rating", "ranking", "polarity", "masked"),
)


def crowds() -> Logs:
    """Even users like items 0 to 14, odd ones 15 to 29, and each dislikes one item of the other half."""
    draw = np.random.default_rng(0)
    users = np.repeat(np.arange(60), 7)
    items = np.concatenate([_some(draw, user % 2) for user in range(60)])
    liked = items // 15 == users % 2
    return Logs(
        user_ids=tuple(map(str, range(60))),
        item_ids=tuple(map(str, range(30))),
        item_titles=("",) * 30,
        item_texts=("",) * 30,
        item_attributes=((),) * 30,
        users=users,
        items=items,
        timestamps=np.arange(len(users), dtype=np.int64),
        ratings=np.where(liked, 5.0, 1.0).astype(np.float32),
        clicks=np.ones(len(users), np.float32),
        reviews=tuple("superb sound" if good else "broke at once" for good in liked),
    )


def _some(draw: np.random.Generator, half: int) -> np.ndarray:
    own = draw.permutation(15)[:6] + 15 * half
    return draw.permutation(np.append(own, draw.integers(15) + 15 * (1 - half)))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(EncoderSettings(cache=str(tmp_path_factory.mktemp("cache"))))


@pytest.fixture(scope="module")
def found(encoder: Encoder) -> Pretrained:
    return pretrain(crowds(), SETTINGS, encoder, 0)


def test_the_tower_ranks_what_the_users_own_crowd_likes(found: Pretrained) -> None:
    tower = pretrained_tower("pretrained", found, crowds())
    history = History(torch.tensor([[0, 1], [15, 16]]), torch.full((2, 2), 5.0), torch.ones(2, 2))
    best = (profile(tower, history) @ tower.item_vectors.T).topk(10, dim=1).indices
    assert bool((best[0] < 15).all())
    assert bool((best[1] >= 15).all())
    problem = validation(crowds())
    assert problem is not None
    assert float(validated(tower, problem).mean()) > 0.3  # a random order gives about 0.1


def test_what_was_learned_is_found_again_and_shaped_as_promised(
    found: Pretrained, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found.item_vectors.shape == found.inputs.shape == (30, 8)
    assert found.offsets.shape == (30,)
    assert 0 < float(found.low) < 1
    assert found.facts["pretrained_on"] == "rating, ranking, polarity, masked"
    with monkeypatch.context() as patch:
        patch.delattr(module, "learn")
        again = pretrain(crowds(), SETTINGS.model_copy(update={"use": True}), encoder, 0)
    assert torch.equal(found.item_vectors, again.item_vectors)
    assert torch.equal(found.offsets, again.offsets)
    assert found.facts == again.facts
    folders = list((Path(str(encoder.settings.cache)) / "pretrained").iterdir())
    assert [path.name for folder in folders for path in folder.iterdir()] == ["pretrained.safetensors"]


@pytest.mark.parametrize("killed_at", [3, 8])
def test_a_killed_run_ends_in_the_same_bits(
    found: Pretrained, encoder: Encoder, tmp_path: Path, killed_at: int
) -> None:
    other, calls = Encoder(encoder.settings.model_copy(update={"cache": str(tmp_path)})), []

    def killed(epochs: int, figures: dict[str, float]) -> None:
        calls.append(epochs)
        if len(calls) == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(crowds(), SETTINGS, other, 0, progress=killed)
    resumed = pretrain(crowds(), SETTINGS, other, 0, progress=killed)
    assert len(calls) == SETTINGS.epochs + int(found.facts["pretrained_for"].split()[0])
    assert torch.equal(found.item_vectors, resumed.item_vectors)
    assert torch.equal(found.inputs, resumed.inputs)


def test_a_torn_file_is_made_again(found: Pretrained, encoder: Encoder) -> None:
    (file,) = (Path(str(encoder.settings.cache)) / "pretrained").glob("*/pretrained.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(pretrain(crowds(), SETTINGS, encoder, 0).item_vectors, found.item_vectors)


def test_logs_without_anything_to_learn_from_are_reported(encoder: Encoder) -> None:
    logs = crowds().rows(np.zeros(420, bool))
    with pytest.raises(InputError, match=r"agents.pretrain.tasks=rating,ranking,polarity,masked: .*use=false"):
        pretrain(logs, SETTINGS, encoder, 0)


def test_clicks_without_ratings_or_words_are_enough(encoder: Encoder) -> None:
    logs = crowds()
    bare = replace(logs, ratings=np.full(420, np.nan, np.float32), reviews=("",) * 420)
    found = pretrain(bare, SETTINGS.model_copy(update={"epochs": 1}), encoder, 0)
    assert found.facts["pretrained_on"] == "ranking, masked"
    assert bool(found.item_vectors.isfinite().all())
