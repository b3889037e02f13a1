"""Who picks the values of the next trial: chance, or Optuna after what earlier trials came to.

    looks of trials that ended  --tell-->  study  --ask-->  values that make an Experiment

A candidate depends on the sweep's seed, the trial's number and what was told before, not on what the process has done.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from .draws import derive
from .errors import InputError
from .settings import Experiment
from .sweep_settings import Dimension, SweepSettings
from .sweep_space import apply, base_values, counting, ordered

TRIES = 200
"""Draws in a row that may make no valid experiment."""

PROPOSALS = 90_000
"""Parts the seeds of candidates from all others."""


class Proposals:
    """Picks the values of trials. Each is told once it has ended.

    Args:
        sweep: who picks, from what space.
        base: the experiment that is varied.
    """

    def __init__(self, sweep: SweepSettings, base: Experiment) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna: Any = optuna
        self.sweep, self.base = sweep, base
        self._base_values = base_values(base, sweep.space)
        directions: Any = ["maximize" if objective.mode == "max" else "minimize" for objective in sweep.objectives]
        self._study: Any = optuna.create_study(directions=directions, sampler=self._sampler(0, 0))
        self._asked: dict[int, Any] = {}

    def propose(self, number: int) -> dict[str, Any]:
        """The values of trial `number`, of those keys of the space that count.

        Raises:
            InputError: no draw makes a valid experiment.
        """
        if number == 0 and self.sweep.base_first:
            known = {key: self._base_values[key] for key in self.sweep.space}
            return counting(self.sweep.space, known, self.base)
        reason = ""
        for attempt in range(TRIES):
            values, trial = self._draw(number, attempt)
            try:
                apply(self.base, values, self.sweep)
            except InputError as error:
                reason = str(error)
                self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
                continue
            self._asked[number] = trial
            return values
        raise InputError(
            f"{self.sweep.name}: {TRIES} draws from the space made no valid experiment; the last: {reason}"
        )

    def tell(self, number: int, values: Mapping[str, Any], scores: Sequence[float] | None) -> None:
        """What a trial came to, one number an objective; None where it failed."""
        states = self._optuna.trial.TrialState
        asked = self._asked.pop(number, None)
        if asked is not None:
            self._study.tell(asked, scores, state=None if scores else states.FAIL)
        elif scores and (known := self._as_drawn(values)):
            # Of an earlier process of this sweep, or the base: the study did not draw it, but learns from it.
            params, distributions = known
            self._study.add_trial(
                self._optuna.trial.create_trial(params=params, distributions=distributions, values=list(scores))
            )

    def _draw(self, number: int, attempt: int) -> tuple[dict[str, Any], Any]:
        self._study.sampler = self._sampler(number, attempt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the Gaussian process's remarks on its own fit
            trial = self._study.ask()
            known, values = dict(self._base_values), {}
            for key in ordered(self.sweep.space):
                dimension = self.sweep.space[key]
                if dimension.applies(known):
                    values[key] = known[key] = _suggested(trial, key, dimension)
        return {key: values[key] for key in self.sweep.space if key in values}, trial

    def _sampler(self, number: int, attempt: int) -> Any:
        samplers, seed = self._optuna.samplers, derive(self.sweep.seed, PROPOSALS, number, attempt) % 2**31
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some options are called experimental
            if self.sweep.searcher == "random":
                return samplers.RandomSampler(seed=seed)
            start = max(2, self.sweep.trials // 4)
            if self.sweep.searcher == "optuna":
                return samplers.TPESampler(seed=seed, n_startup_trials=start, constant_liar=True)
            return samplers.GPSampler(seed=seed, n_startup_trials=start)

    def _as_drawn(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Values as the study keeps them; None where one lies outside the space."""
        params, distributions = {}, {}
        for key, value in values.items():
            distribution = _distribution(self._optuna, self.sweep.space[key])
            choices = self.sweep.space[key].choice
            drawn = _place(choices, value) if choices is not None else value
            if drawn is None or not distribution._contains(distribution.to_internal_repr(drawn)):
                return None
            params[key], distributions[key] = drawn, distribution
        return params, distributions


def _suggested(trial: Any, key: str, dimension: Dimension) -> Any:
    if dimension.choice is not None:
        # By its place, since a choice may be a list.
        return dimension.choice[trial.suggest_categorical(key, range(len(dimension.choice)))]
    low, high = dimension.bounds
    if dimension.randint is not None:
        return trial.suggest_int(key, int(low), int(high))
    return trial.suggest_float(key, low, high, log=dimension.loguniform is not None)


def _distribution(optuna: Any, dimension: Dimension) -> Any:
    low, high = dimension.bounds
    if dimension.choice is not None:
        return optuna.distributions.CategoricalDistribution(range(len(dimension.choice)))
    if dimension.randint is not None:
        return optuna.distributions.IntDistribution(int(low), int(high))
    return optuna.distributions.FloatDistribution(low, high, log=dimension.loguniform is not None)


def _place(choices: Sequence[Any], value: Any) -> int | None:
    return next((place for place, choice in enumerate(choices) if _plain(choice) == _plain(value)), None)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
