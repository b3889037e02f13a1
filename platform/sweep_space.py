"""The space of a sweep, as pure functions: in which order keys are drawn, which count, what an experiment becomes.

space, base  --ordered, base_values-->  what is drawn (sweep_proposals.py)  --apply-->  Experiment, or why not
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from .errors import InputError, suggestion
from .experiment import changed, settings_keys
from .settings import Experiment
from .sweep_settings import Dimension, SweepSettings

FIXED = ("name", "dataset", "world", "evaluate", "cluster", "tracking", "env.slate", "env.horizon", "train.iterations")
"""Keys, and groups of them, that no sweep varies: trials would not be comparable, or it is not of the team."""

LIVE = (
    "train.epochs", "train.minibatch", "train.learning_rate", "train.gamma", "train.lambda_", "train.clip",
    "train.entropy", "train.reward_scale", "train.value_clip", "train.gradient_clip", "train.faults", "reward",
)  # fmt: skip
"""Keys, and groups of them, that may change while a team is trained; the others are fixed in its networks or towers."""

RESAMPLE = 0.25
"""PBT: the chance that a key is drawn anew and not moved."""

FACTORS = (0.8, 1.25)
"""PBT: what a number is moved by."""


def check_space(sweep: SweepSettings, base: Experiment, origin: str) -> None:
    """Refuses what can be refused before a trial: unknown keys, values of the wrong type, conditions in a circle.

    Raises:
        InputError: one line of what, where and what to do.
    """
    for key, dimension in sweep.space.items():
        _check_key(key, origin)
        for value in dimension.choice or dimension.bounds:
            _check_value(base, key, value, origin)
        for other in dimension.when:
            _known(other, origin)
    ordered(sweep.space, origin)
    if sweep.scheduler in ("pbt", "pb2"):
        moved = [key for key in sweep.space if is_live(key)]
        if not moved:
            raise InputError(
                f"{origin}: {sweep.scheduler} changes keys while a team is trained, and none of the space can: "
                f"give one of {', '.join(LIVE)}"
            )
        fixed = [key for key in moved if sweep.space[key].choice is not None or sweep.space[key].when]
        if sweep.scheduler == "pb2" and fixed:
            raise InputError(f"{origin}: space.{fixed[0]}: pb2 changes ranges without conditions only; pbt takes all")


def is_live(key: str) -> bool:
    """Whether a key may change while a team is trained."""
    return _within(key, LIVE)


def ordered(space: Mapping[str, Dimension], origin: str = "sweep") -> list[str]:
    """The keys, each after those that its conditions name.

    Raises:
        InputError: conditions go in a circle.
    """
    done: list[str] = []
    while len(done) < len(space):
        ready = [
            key
            for key, dimension in space.items()
            if key not in done and all(other in done or other not in space for other in dimension.when)
        ]
        if not ready:
            left = ", ".join(key for key in space if key not in done)
            raise InputError(f"{origin}: space: the conditions of {left} wait for each other")
        done += ready
    return done


def base_values(base: Experiment, space: Mapping[str, Dimension]) -> dict[str, Any]:
    """What the experiment itself has for the keys of the space, and for those that conditions name."""
    named = {other for dimension in space.values() for other in dimension.when}
    return {key: _look_up(base, key) for key in sorted({*space, *named})}


def counting(space: Mapping[str, Dimension], values: Mapping[str, Any], base: Experiment) -> dict[str, Any]:
    """Those of the values whose conditions hold, in the order of the space."""
    known = {**base_values(base, space)}
    kept: dict[str, Any] = {}
    for key in ordered(space):
        if key in values and space[key].applies(known):
            kept[key] = known[key] = values[key]
    return {key: kept[key] for key in space if key in kept}


def apply(base: Experiment, values: Mapping[str, Any], sweep: SweepSettings) -> Experiment:
    """The experiment of a trial.

    Raises:
        InputError: the values do not go together.
    """
    return changed(base, {**values, "train.iterations": sweep.iterations})


def moved(space: Mapping[str, Dimension], values: Mapping[str, Any], base: Experiment, seed: int) -> dict[str, Any]:
    """Values near these, for a trial that goes on from another one's team (Jaderberg et al. 2017, explore).

    Each key that may change is moved by a factor, or to a neighbouring choice, or drawn anew. The rest is as it was.
    """
    dice = random.Random(seed)
    new = dict(values)
    for key in ordered(space):
        if key in values and is_live(key):
            new[key] = _moved(space[key], values[key], dice)
    return counting(space, new, base)


def _moved(dimension: Dimension, value: Any, dice: random.Random) -> Any:
    if dimension.choice is not None:
        places = list(dimension.choice)
        if dice.random() < RESAMPLE or value not in places:
            return dice.choice(places)
        place = places.index(value) + dice.choice((-1, 1))
        return places[min(max(place, 0), len(places) - 1)]
    low, high = dimension.bounds
    if dice.random() < RESAMPLE:
        drawn = low * (high / low) ** dice.random() if dimension.loguniform else dice.uniform(low, high)
    else:
        drawn = value * dice.choice(FACTORS)
    drawn = min(max(drawn, low), high)
    return round(drawn) if dimension.randint else drawn


def _check_key(key: str, origin: str) -> None:
    _known(key, origin)
    if _within(key, FIXED):
        raise InputError(f"{origin}: space.{key}: a sweep does not vary {', '.join(FIXED)}; trials must be comparable")


def _known(key: str, origin: str) -> None:
    keys = [key for key, _, _ in settings_keys()]
    groups = {key.rpartition(".")[0] for key in keys}
    # A mapping such as agents.propagate has keys of the user's own.
    if (key in keys and key not in groups) or key.rpartition(".")[0] == "agents.propagate":
        return
    hint = suggestion(key, keys) or "; `concertrl train --help` lists the keys"
    what = "a group of keys, no key of" if key in groups else "no key of"
    raise InputError(f'{origin}: space: "{key}" is {what} an experiment{hint if key not in groups else ""}')


def _check_value(base: Experiment, key: str, value: Any, origin: str) -> None:
    try:
        changed(base, {key: value})
    except InputError as error:
        # What is wrong with several keys together is told when a trial has them.
        if f"{key}=" in str(error) or f" {key}:" in str(error):
            raise InputError(f"{origin}: space.{key}: {str(error).partition(': ')[2]}") from None


def _within(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _look_up(base: Experiment, key: str) -> Any:
    value: Any = base.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
