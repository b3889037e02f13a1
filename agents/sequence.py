"""The sequence tower: what comes next, read from the order of a history.

    logs  ->  the latest likes held out  ->  transitions tuned, a transformer stopped in time  ->  NDCG@10 of each
          ->  the better  ->  fitted again on all the logs  ->  Tower

Transitions (`transitions.py`) count what was liked soon after what; the transformer (`transformer.py`) starts from
their item vectors and learns to read the whole order. Where nobody has a like to spare, transitions are taken
unless the settings name the transformer.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import torch

from ..platform.errors import InputError
from ..platform.logs import Logs
from ..platform.settings import SequenceSettings
from . import transformer, transitions
from .attention import Weights
from .profiles import calibrated
from .tower import Tower
from .transitions import Options
from .validation import Validation, validated, validation

RANK_PARTS = (4, 2, 1)
"""Of the factors in the settings, what is tried is this part."""

LOOK_EVERY = 2
"""Epochs between looks at the validation part."""

PATIENCE = 8
"""Looks without a better score after which training stops."""


UNJUDGED_EPOCHS = 8
"""Epochs of training where there is nothing to judge by."""


class _Picked(NamedTuple):
    """A method as it did best: NDCG@10 on the latest likes, and what it is fitted with."""

    score: float
    options: Options = Options()
    epochs: int = UNJUDGED_EPOCHS
    factors: int | None = None


def fit(logs: Logs, settings: SequenceSettings, seed: int) -> Tower:
    """Item vectors `(N, d)` of root mean square length 1, and what it takes to read a history into a query.

    d is `factors` for transitions (profile kind `linear`), `width` for the transformer (`attention`), at most N.
    An item that nobody liked has the zero vector, and so the score 0. `best` is the better of the two by NDCG@10 on the
    latest of each user's likes, cut from `logs`; the facts name both scores. Equal logs and seed give equal numbers.

    Raises:
        InputError: no user liked one item after another, or the transformer's heads do not divide its width.
    """
    if not transitions.counted(logs, 1).nnz:
        raise InputError(
            'no user liked one item after another: the "sequence" agent has nothing to learn from; leave it out of '
            "agents.names"
        )
    problem = validation(logs)
    if problem is not None and not transitions.counted(problem.earlier, 1).nnz:
        problem = None
    unjudged = {"transformer" if settings.method == "transformer" else "transitions": _Picked(0.0)}
    found = _judged(problem, settings, seed) if problem else unjudged
    name = max(found, key=lambda each: found[each].score)
    if name == "transitions":
        tower = _by_transitions(logs, found[name].options, found[name].factors or settings.factors, seed)
    else:
        *_, weights = transformer.trained(logs, _start(logs, settings, seed), settings, found[name].epochs, seed)
        tower = _by_attention(logs, weights, found[name].epochs)
    scores = ", ".join(f"{each} {picked.score:.4f}" for each, picked in found.items())
    tower.facts["settings"] = json.dumps({"method": name})
    tower.facts["picked"] = f"{name}, by NDCG@10 on the latest likes ({scores})" if problem else f"{name}, unjudged"
    return tower


def _judged(problem: Validation, settings: SequenceSettings, seed: int) -> dict[str, _Picked]:
    """Each method that `settings` allows, at its best on the validation part."""
    found = {}
    if settings.method != "transformer":
        found["transitions"] = _best_rank(problem, settings, seed)
    if settings.method != "transitions":
        found["transformer"] = _best_epoch(problem, settings, seed)
    return found


def _best_rank(problem: Validation, settings: SequenceSettings, seed: int) -> _Picked:
    """The best way of counting by the kernel itself, then the best rank: few data are told better by fewer factors."""
    scores = transitions.judged(problem)
    options = max(scores, key=scores.__getitem__)
    found = []
    for factors in sorted({max(1, settings.factors // part) for part in RANK_PARTS}):
        tower = _by_transitions(problem.earlier, options, factors, seed)
        found.append(_Picked(float(validated(tower, problem).mean()), options, factors=factors))
    return max(found)


def _best_epoch(problem: Validation, settings: SequenceSettings, seed: int) -> _Picked:
    """Training until `PATIENCE` looks in a row were no better."""
    best, start = _Picked(-1.0), _start(problem.earlier, settings, seed)
    for epoch, weights in enumerate(transformer.trained(problem.earlier, start, settings, settings.epochs, seed), 1):
        if epoch % LOOK_EVERY == 0 or epoch == settings.epochs:
            tower = _by_attention(problem.earlier, weights, epoch)
            score = float(validated(tower, problem).mean())
            best = max(best, _Picked(score, epochs=epoch))
            if epoch - best.epochs >= PATIENCE * LOOK_EVERY:
                break
    return best


def _start(logs: Logs, settings: SequenceSettings, seed: int) -> np.ndarray:
    """Item vectors of the transitions, which the transformer starts from."""
    options = Options()
    kernel = transitions.tamed(transitions.counted(logs, options.window), options.target_power)
    found = transitions.factorised(kernel, logs, settings.width, seed)
    vectors = np.zeros((logs.num_items, settings.width), np.float32)
    vectors[:, : found.outputs.shape[1]] = found.outputs
    return vectors


def _by_transitions(logs: Logs, options: Options, factors: int, seed: int) -> Tower:
    kernel = transitions.tamed(transitions.counted(logs, options.window), options.target_power)
    found = transitions.factorised(kernel, logs, factors, seed)
    extras = {
        "inputs": torch.from_numpy(found.inputs),
        "low": torch.tensor(options.low, dtype=torch.float32),
        "fade": torch.tensor(options.fade, dtype=torch.float32),
    }
    facts = {
        **_source(logs),
        "model": f"transitions, {found.outputs.shape[1]} factors, which keep {found.kept:.0%} of the counts",
        "window": f"{options.window:g} interactions",
        "half_life": f"{options.half_life:g} interactions",
        "not_liked_weighs": f"{options.low:g}",
    }
    return calibrated(Tower("sequence", torch.from_numpy(found.outputs), "linear", extras, facts), logs)


def _by_attention(logs: Logs, weights: Weights, epochs: int) -> Tower:
    known = torch.from_numpy(np.bincount(logs.items[logs.positive], minlength=logs.num_items) > 0)
    items = weights["items"] * known[:, None]
    size = items.square().sum(1).mean().sqrt().clamp_min(1e-12)
    extras = {name: tensor.clone() for name, tensor in weights.items() if name != "items"} | {"size": size}
    layers, _, heads, width, _ = weights["attend"].shape
    facts = {
        **_source(logs),
        "model": f"transformer, width {width}, layers {layers}, heads {heads}, {epochs} epochs",
        "length": f"{len(weights['places'])} interactions",
    }
    return calibrated(Tower("sequence", items / size, "attention", extras, facts), logs)


def _source(logs: Logs) -> dict[str, str]:
    unknown = logs.num_items - len(np.unique(logs.items[logs.positive]))
    return {
        "fitted_on": f"the order of {len(logs):,} interactions of {len(np.unique(logs.users)):,} users",
        "items_without_vector": f"{unknown:,} of {logs.num_items:,}",
    }
