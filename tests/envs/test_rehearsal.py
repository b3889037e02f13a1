"""The users to train with: of several fits of the same logs, at several paces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from concertrl.envs import BatchedEnv, Stage
from concertrl.envs.appeal import of_catalog
from concertrl.envs.batched import spread_of
from concertrl.envs.rehearsal import joined, rehearsal_stage
from concertrl.envs.response import ResponseModel
from concertrl.envs.world import World


def models_of(world: World, count: int) -> list[ResponseModel]:
    """Fits that differ."""
    noise = torch.Generator().manual_seed(3)

    def near(values: torch.Tensor) -> torch.Tensor:
        return values + 0.3 * torch.randn(values.shape, generator=noise)

    return [
        ResponseModel(near(world.item_vectors), near(world.item_bias), near(world.user_vectors), near(world.user_bias))
        for _ in range(count)
    ]


def test_each_copy_of_a_user_is_of_its_own_fit(small_stage: Stage) -> None:
    models = models_of(small_stage.world, 3)
    world = joined(small_stage.world, models)
    users = len(small_stage.world.user_bias)
    appeal = of_catalog(world.user_vectors, world.item_vectors, "any", 1.0) + world.item_bias
    appeal = appeal + world.user_bias[:, None]
    for place, model in enumerate(models):
        rows = slice(place * users, (place + 1) * users)
        torch.testing.assert_close(appeal[rows], model.catalog_logits(torch.arange(users)), atol=1e-4, rtol=1e-4)
        assert torch.equal(world.history.items[rows], small_stage.world.history.items)
    assert len(world.train_users) == 3 * len(small_stage.world.train_users)
    assert {*(world.train_users % users).tolist()} == {*small_stage.world.train_users.tolist()}
    assert not {*world.train_users.tolist()} & {*world.judge_users.tolist()}


def test_the_spread_of_tastes_is_that_of_each_fit(small_stage: Stage) -> None:
    models = models_of(small_stage.world, 2)
    spread = spread_of(joined(small_stage.world, models)).view(2, -1)
    for found, model in zip(spread, models, strict=True):
        torch.testing.assert_close(found[:-1], model.user_vectors.std(0))


def test_one_fit_at_one_pace_is_the_stage_itself(stage_under: Callable[..., Stage]) -> None:
    stage = stage_under(train={"worlds": 1, "pace": 0.0})
    assert rehearsal_stage(stage) is stage


def test_copies_of_a_known_truth_tire_at_their_own_paces(stage_under: Callable[..., Stage]) -> None:
    stage = stage_under(train={"worlds": 2, "pace": 0.5})
    varied = rehearsal_stage(stage)
    users, env = len(stage.world.user_bias), BatchedEnv(varied, sessions=32, seed=1)
    taste = varied.world.user_vectors.view(2, users, 2, -1)
    assert torch.equal(taste[0, :, 0], taste[1, :, 1]) and not taste[0, :, 1].any() and not taste[1, :, 0].any()
    step = env.step({})
    paces = varied.world.user_tiring
    assert paces is not None
    worn = env.state.satiation.sum(1) / paces[env.state.user]
    torch.testing.assert_close(worn, worn[:1].expand(32))  # a slate of one length wears by its pace alone
    assert step.slate.shape == (32, 5)


@pytest.fixture(scope="module")
def rehearsal(instruments_stage: Stage) -> tuple[Stage, Stage]:
    values: dict[str, Any] = instruments_stage.experiment.model_dump()
    values["train"] |= {"worlds": 2, "pace": 0.5}
    stage = replace(instruments_stage, experiment=type(instruments_stage.experiment).model_validate(values))
    return stage, rehearsal_stage(stage)


def test_logs_are_fitted_again_and_the_users_differ_but_not_by_much(rehearsal: tuple[Stage, Stage]) -> None:
    stage, varied = rehearsal
    users = len(stage.world.user_bias)
    appeal = of_catalog(varied.world.user_vectors, varied.world.item_vectors, "any", 1.0)
    chance = (appeal + varied.world.user_bias[:, None]).sigmoid()
    first, second = chance[:users], chance[users:]
    own = of_catalog(stage.world.user_vectors, stage.world.item_vectors, "any", 1.0)
    own = (own + stage.world.item_bias + stage.world.user_bias[:, None]).sigmoid()
    torch.testing.assert_close(first, own, atol=1e-4, rtol=1e-3)
    assert float(second.mean()) == pytest.approx(float(own.mean()), rel=0.05)
    alike = float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])
    assert 0.5 < alike < 0.98
    paces = varied.world.user_tiring
    assert paces is not None and 0.5 <= float(paces.min()) < 0.6 and 1.4 < float(paces.max()) <= 1.5


def test_it_is_made_once(rehearsal: tuple[Stage, Stage]) -> None:
    stage, varied = rehearsal
    told: list[str] = []
    again = rehearsal_stage(stage, told.append)
    assert not told and torch.equal(again.world.user_vectors, varied.world.user_vectors)


def test_the_towers_read_each_copy_alike(rehearsal: tuple[Stage, Stage]) -> None:
    stage, varied = rehearsal
    users = len(stage.world.user_bias)
    env = BatchedEnv(varied, sessions=64, seed=1)
    assert (env.state.user >= users).any() and (env.state.user < users).any()
    plain = stage.reading.rows(env.state.user % users)
    for mine, other in zip(env.reading.queries, plain.queries, strict=True):
        assert torch.equal(mine, other)
