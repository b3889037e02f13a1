from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from concertrl.platform import finetune as module
from concertrl.platform.encoder import Encoder
from concertrl.platform.finetune import Classifier, Recipe, finetune
from concertrl.platform.last_layers import batches_by_length, rate_at
from concertrl.platform.settings import EncoderSettings

WORDS = (("good", "lovely", "superb", "a joy"), ("bad", "dreadful", "awful", "a pain"))
TEXTS = [f"{WORDS[row % 2][row % 4]} thing {row}" for row in range(48)]
LABELS = np.arange(48) % 2 == 0
RECIPE = Recipe(layers=1, epochs=2, batch=8, max_tokens=16)


def encoder(folder: Path) -> Encoder:
    return Encoder(EncoderSettings(cache=str(folder)))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("cache")
    return folder, finetune(encoder(folder), TEXTS, LABELS, RECIPE, 0).logits(TEXTS)


def test_it_learns(learned: tuple[Path, np.ndarray]) -> None:
    assert ((learned[1] > 0) == LABELS).all()


def test_only_the_last_layers_learn(tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in Classifier(encoder(tmp_path), RECIPE).model.named_parameters()}
    model = finetune(encoder(tmp_path), TEXTS[:8], LABELS[:8], RECIPE, 0).model
    moved = {name for name, now in model.named_parameters() if not torch.equal(now, before[name])}
    assert moved and all(name.startswith("encoder.layer.5.") for name in moved)


def test_what_was_learned_is_not_learned_again(
    learned: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module, "_epoch")
    again = finetune(encoder(learned[0]), TEXTS, LABELS, RECIPE, 0).logits(TEXTS)
    np.testing.assert_array_equal(again, learned[1])


@pytest.mark.parametrize("change", ["texts", "labels", "recipe", "seed"])
def test_another_question_is_learned_anew(
    learned: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    texts = [*TEXTS[:-1], "other"] if change == "texts" else TEXTS
    labels = ~LABELS if change == "labels" else LABELS
    recipe = Recipe(layers=1, epochs=3, batch=8, max_tokens=16) if change == "recipe" else RECIPE
    monkeypatch.delattr(module, "_epoch")
    with pytest.raises(NameError):
        finetune(encoder(learned[0]), texts, labels, recipe, int(change == "seed"))


def test_a_killed_run_goes_on_to_the_same_end(
    learned: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its second epoch: the first is not read again, and the global generator is left alone."""
    whole, epochs = module._epoch, []

    def killed(*arguments: object) -> None:
        if epochs:
            raise KeyboardInterrupt
        epochs.append(arguments[4])
        whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(encoder(tmp_path), TEXTS, LABELS, RECIPE, 0)
    monkeypatch.setattr(module, "_epoch", whole)
    reported: list[tuple[int, int, float]] = []
    torch.manual_seed(7)
    classifier = finetune(encoder(tmp_path), TEXTS, LABELS, RECIPE, 0, lambda *said: reported.append(said))
    drawn = torch.rand(1)
    assert epochs == [(0, 0)] and reported[-1][:2] == (96, 96) and reported[-1][2] > 0
    np.testing.assert_array_equal(classifier.logits(TEXTS), learned[1])
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1))


def test_a_damaged_file_is_made_again(learned: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    name = next((learned[0] / "finetuned").iterdir()).name
    (tmp_path / "finetuned").mkdir()
    (tmp_path / "finetuned" / name).write_bytes(b"torn")
    np.testing.assert_array_equal(finetune(encoder(tmp_path), TEXTS, LABELS, RECIPE, 0).logits(TEXTS), learned[1])


def test_the_moments_are_not_kept_at_the_end(learned: tuple[Path, np.ndarray]) -> None:
    from safetensors.torch import load_file

    (path,) = (learned[0] / "finetuned").iterdir()
    names = set(load_file(path))
    assert "epochs" in names and "learned.head.weight" in names and not any(name.startswith("moment") for name in names)


def test_every_text_is_in_one_batch_with_others_of_its_length() -> None:
    lengths = np.random.default_rng(0).integers(2, 60, 1000).tolist()
    batches = list(batches_by_length(lengths, 16, 3))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000)) and max(map(len, batches)) == 16
    assert np.mean([np.ptp([lengths[row] for row in batch]) for batch in batches]) < 8
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in batches_by_length(lengths, 16, 3)]
    assert [batch.tolist() for batch in batches] != [batch.tolist() for batch in batches_by_length(lengths, 16, 4)]


def test_the_rate_rises_and_falls() -> None:
    rates = [rate_at(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1 and 0 < rates[-1] < 0.02
    assert (np.diff(rates[:10]) > 0).all() and (np.diff(rates[10:]) < 0).all()
    assert rate_at(0, 1, 0.1) == 1


def test_no_texts_have_no_logits(learned: tuple[Path, np.ndarray]) -> None:
    assert Classifier(encoder(learned[0]), RECIPE).logits([]).shape == (0,)
