from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from concertrl.agents import pretrain as pretraining
from concertrl.agents.pretrain import Figures, Learned, learn, usable
from concertrl.agents.pretrain_data import Known, Material
from concertrl.agents.pretrain_tasks import TASKS, Question
from concertrl.platform.errors import InputError
from concertrl.platform.settings import PretrainSettings

QUICK = PretrainSettings(factors=8, epochs=12, steps=10, batch=128, negatives=32, learning_rate=0.01, dropout=0.1)


def two_crowds(users: int = 80, each: int = 8, seed: int = 0) -> Material:
    """Even users act on items 0 to 19, odd ones on 20 to 39; of these the first half are praised, the rest blamed."""
    draw = np.random.default_rng(seed)
    who = np.repeat(np.arange(users), each)
    what = np.concatenate([draw.permutation(20)[:each] + 20 * (user % 2) for user in range(users)])
    good = what % 20 < 10
    words = draw.normal(size=(len(who), 6)).astype(np.float32)
    words[:, 0] = 2 * good - 1 + 0.3 * words[:, 0]
    held = np.tile(np.arange(each) >= each - 2, users)
    return Material(
        num_users=users,
        text=torch.zeros(40, 6),
        parts=torch.zeros(40),
        reviews=torch.from_numpy(words),
        users=torch.from_numpy(who),
        items=torch.from_numpy(what),
        stars=torch.from_numpy(np.where(good, 5.0, 2.0).astype(np.float32)),
        liked=torch.from_numpy(good),
        acted=torch.ones(len(who), dtype=torch.bool),
        read=torch.arange(len(who)),
        fit=torch.from_numpy(~held),
        mean_stars=3.5,
    )


@pytest.fixture(scope="module")
def crowds() -> Material:
    return two_crowds()


@pytest.fixture(scope="module")
def question(crowds: Material) -> Question:
    return Question(crowds, Known(crowds, crowds.fit), ~crowds.fit)


def states(learned: Learned) -> dict[str, torch.Tensor]:
    return learned.model.state_dict()


def same(first: Learned, second: Learned) -> bool:
    one, other = states(first), states(second)
    return first.figures == second.figures and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("balance", ["fixed", "uncertainty", "gradient"])
def test_every_task_is_learned_together_with_the_others(crowds: Material, question: Question, balance: str) -> None:
    settings = QUICK.model_copy(update={"balance": balance})
    learned = learn(crowds, settings, tuple(TASKS), 0, question)
    found = {task: learned.measured(task, question) for task in TASKS}
    assert found["click"] > 0.8  # a random order gives 0.5, knowing the crowds and nothing else 0.83
    assert found["rating"] < 0.5  # the mean rating gives 1.5
    assert found["ranking"] > 0.5  # a random order gives about 0.1
    assert found["polarity"] > 0.97
    assert found["masked"] > 0.9  # a random order gives 20 of the 33 items that are left


def test_the_same_call_twice_gives_equal_numbers_and_another_seed_others(crowds: Material, question: Question) -> None:
    settings = QUICK.model_copy(update={"epochs": 2})
    first, second, third = (learn(crowds, settings, ("click", "rating"), seed, question) for seed in (3, 3, 4))
    assert same(first, second)
    assert not same(first, third)


@pytest.mark.parametrize("balance", ["uncertainty", "gradient"])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    crowds: Material, question: Question, balance: str, tmp_path: Path
) -> None:
    settings = QUICK.model_copy(update={"epochs": 4, "balance": balance})
    done: list[int] = []

    def killed(epoch: int, figures: Figures) -> None:
        done.append(epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    file, tasks = tmp_path / "state" / "run.safetensors", ("ranking", "polarity", "rating")
    with pytest.raises(KeyboardInterrupt):
        learn(crowds, settings, tasks, 0, question, file, killed)
    resumed = learn(crowds, settings, tasks, 0, question, file, lambda epoch, figures: done.append(epoch))
    whole = learn(crowds, settings, tasks, 0, question)
    assert done == [1, 2, 3, 4]
    assert same(resumed, whole)
    assert {task: epoch for task, (epoch, _) in resumed.best.items()} == {
        task: epoch for task, (epoch, _) in whole.best.items()
    }
    assert all(resumed.measured(task, question) == whole.measured(task, question) for task in tasks)


def test_a_damaged_state_is_reported_in_one_line(crowds: Material, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    file.write_bytes(b"torn")
    with pytest.raises(InputError, match=r"run.safetensors: damaged .* delete this file") as caught:
        learn(crowds, QUICK, ("click",), 0, None, file)
    assert "\n" not in str(caught.value)


def test_a_tasks_batches_are_the_same_whatever_is_learned_beside_it(
    crowds: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[torch.Tensor] = []

    def spied(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def run(model, material, seen, rows, negatives):
            batches.append(torch.cat([rows, negatives]))
            return loss(model, material, seen, rows, negatives)

        return run

    masked = replace(TASKS["masked"], loss=spied(TASKS["masked"].loss))
    monkeypatch.setitem(pretraining.TASKS, "masked", masked)
    settings = QUICK.model_copy(update={"epochs": 2, "steps": 2})
    learn(crowds, settings, ("masked",), 5)
    learn(crowds, settings, ("rating", "masked", "click"), 5)
    assert len(batches) == 8
    assert all(torch.equal(alone, joint) for alone, joint in zip(batches[:4], batches[4:], strict=True))
    assert not torch.equal(batches[0], batches[1])


def test_nothing_held_out_is_learned_from(crowds: Material) -> None:
    other = replace(
        crowds,
        items=torch.where(crowds.fit, crowds.items, 39 - crowds.items),
        stars=torch.where(crowds.fit, crowds.stars, 7 - crowds.stars),
        liked=crowds.liked ^ ~crowds.fit,
    )
    settings = QUICK.model_copy(update={"epochs": 2})
    assert same(*(learn(material, settings, tuple(TASKS), 0) for material in (crowds, other)))


def test_training_stops_when_no_task_gets_better(crowds: Material, question: Question) -> None:
    settings = QUICK.model_copy(update={"patience": 2, "learning_rate": 0.0, "epochs": 50})
    learned = learn(crowds, settings, ("rating",), 0, question)
    assert len(learned.figures) == 3
    assert learned.best["rating"][0] == 0


def test_a_task_that_gains_no_more_is_learned_no_more(
    crowds: Material, question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = count()
    stale = replace(TASKS["rating"], measure=lambda model, question: 1.0)
    gaining = replace(TASKS["masked"], measure=lambda model, question: float(next(always)))
    monkeypatch.setitem(pretraining.TASKS, "rating", stale)
    monkeypatch.setitem(pretraining.TASKS, "masked", gaining)
    settings = QUICK.model_copy(update={"patience": 2, "epochs": 6, "steps": 4})
    learned = learn(crowds, settings, ("rating", "masked"), 0, question)
    assert [sorted(figures) for figures in learned.figures] == [["masked", "rating"]] * 3 + [["masked"]] * 3
    again = learn(crowds, settings, ("rating", "masked"), 0, until={"rating": 3})
    assert all(torch.equal(states(learned)[name], states(again)[name]) for name in states(again))


def test_a_task_without_rows_is_left_out(crowds: Material) -> None:
    held = ~crowds.fit
    assert usable(crowds, tuple(TASKS), held) == tuple(TASKS)
    speechless = replace(crowds, read=torch.full_like(crowds.read, -1), stars=torch.zeros_like(crowds.stars))
    assert usable(speechless, tuple(TASKS), held) == ("click", "ranking", "masked")
    happy = replace(crowds, stars=torch.full_like(crowds.stars, 5.0), liked=torch.ones_like(crowds.liked))
    assert "polarity" not in usable(happy, tuple(TASKS), held)
