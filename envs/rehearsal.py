"""The users that policies are trained with: the world's own, and others that the same logs could have come from.

    logs  --drawn again with replacement, F - 1 times-->  F fits of the world's class  -->  one world of F x U users

Logs tell a user's taste only roughly, and how users tire not at all. What a policy makes of one fit's accidents is
worth nothing among other users, so it trains among the users of several fits, who tire at several paces (Rajeswaran et
al. 2017, "EPOpt": policies trained on an ensemble of models carry over; bootstrap: Efron 1979).

A fit has a block of the latent dimensions to itself, so that all are one `World` and a session costs nothing more.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..agents.ensemble import Reading
from ..agents.tower import History
from ..platform import draws
from ..platform.draws import derive
from ..platform.logs import Logs
from ..platform.settings import Experiment
from .batched import Stage
from .calibration import base_rate_shift
from .features import item_inputs
from .logs import random_pairs
from .response import ResponseModel, fit_response
from .stage import Say, kept_world, logs_and_features
from .world import World

REHEARSAL, PACE = 56_000, 57_000
"""Part the seeds of the fits and of the users' paces from all others of a run."""


def rehearsal_stage(stage: Stage, say: Say = lambda line: None) -> Stage:
    """The same team among the users to train with. The same arguments give the same stage."""
    train = stage.experiment.train
    if train.worlds == 1 and train.pace == 0.0:
        return stage
    world = kept_world(stage.experiment, f"rehearsal-{train.worlds}-{train.pace:g}", lambda: _world(stage, say), say)
    return replace(stage, world=world, reading=_repeated(stage.reading, train.worlds))


def _world(stage: Stage, say: Say) -> World:
    world, experiment = stage.world, stage.experiment
    models = [ResponseModel(world.item_vectors, world.item_bias, world.user_vectors, world.user_bias)]
    if experiment.world.kind == "builtin":
        models *= experiment.train.worlds  # its truth is known: copies, who may tire at other paces
    else:
        models += _fits(stage, say)
    mixed = joined(world, models)
    if experiment.train.pace == 0.0:
        return mixed
    numbers = torch.arange(len(mixed.user_bias))
    zero = torch.zeros_like(numbers)
    spread = 2.0 * draws.uniform(derive(experiment.world.seed, PACE), numbers, zero, 0, 1)[:, 0] - 1.0
    return replace(mixed, user_tiring=1.0 + experiment.train.pace * spread)


def _fits(stage: Stage, say: Say) -> list[ResponseModel]:
    experiment, report = stage.experiment, stage.world.report
    logs, _, features = logs_and_features(experiment, stage.ensemble.towers)
    inputs, fits = item_inputs(logs, features), []
    for number in range(1, experiment.train.worlds):
        say(f"fitting the users to train with, {number + 1} of {experiment.train.worlds}")
        seed = derive(experiment.world.seed, REHEARSAL, number)
        fits.append(_fit(logs, inputs, experiment, report, seed))
    return fits


def _fit(logs: Logs, inputs: Tensor, experiment: Experiment, report: dict[str, float], seed: int) -> ResponseModel:
    """The model of a bootstrap sample, with the prior, the epochs and the scale of the world's own."""
    drawn = np.sort(np.random.default_rng(seed).integers(len(logs), size=len(logs)))
    epochs, prior = max(1, int(report["epochs"])), report["factor_std"]
    fitted = fit_response(logs.at(drawn), inputs, experiment.world.factors, seed, prior, epochs=epochs).model
    users, items = random_pairs(logs.num_users, logs.num_items, seed)
    logits = report["platt_scale"] * fitted.logits(users, items).numpy()
    return fitted.rescaled(report["platt_scale"], base_rate_shift(logits, experiment.world.base_rate))


def joined(world: World, models: list[ResponseModel]) -> World:
    """The world with its users once for each of F models `(U, d)`, `(N, d)`: user u of model f is number f * U + u."""
    users, width = models[0].user_vectors.shape
    block = width + 1  # the last column carries the items' bias of the model
    taste, own = (
        torch.zeros(len(models) * users, len(models) * block),
        torch.zeros(len(models) * users, len(models) * block),
    )
    for place, model in enumerate(models):
        rows, columns = slice(place * users, (place + 1) * users), slice(place * block, (place + 1) * block)
        taste[rows, columns] = torch.cat([model.user_vectors, torch.ones(users, 1)], dim=1)
        own[rows, columns] = torch.cat([torch.ones(users, width), torch.zeros(users, 1)], dim=1)
    items = [torch.cat([model.item_vectors, model.item_bias[:, None]], dim=1) for model in models]
    copies = torch.arange(len(models))[:, None] * users

    def everyone(part: Tensor) -> Tensor:
        return (copies + part).flatten()

    return replace(
        world,
        item_vectors=torch.cat(items, dim=1),
        item_bias=torch.zeros_like(world.item_bias),
        user_vectors=taste,
        user_bias=torch.cat([model.user_bias for model in models]),
        user_own=own,
        history=History(**{name: value.repeat(len(models), 1) for name, value in vars(world.history).items()}),
        train_users=everyone(world.train_users),
        judge_users=everyone(world.judge_users),
    )


def _repeated(reading: Reading, times: int) -> Reading:
    """What the towers read in the histories, once for each fit."""
    return reading.rows(torch.arange(len(reading.known)).repeat(times))
