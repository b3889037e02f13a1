"""Tune's schedulers as a sweep uses them, and its stopping rules.

A sweep that was killed is told what it knew again, from its ledger. Tune's decisions must then come out as before:
what draws lots here draws them from the sweep's seed, the trial and the look.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from ray.tune import Stopper
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, HyperBandScheduler, PopulationBasedTraining
from ray.tune.schedulers.pb2 import PB2
from ray.tune.schedulers.trial_scheduler import TrialScheduler

from ..platform.draws import derive
from ..platform.errors import InputError
from ..platform.settings import Experiment
from ..platform.sweep_ledger import Ledger
from ..platform.sweep_settings import SweepSettings
from ..platform.sweep_space import apply, is_live, moved

EXCHANGES = 95_000
"""Parts the seeds of exchanges between trials from all others."""

TRIES = 20
"""Moves in a row that may make no valid experiment; then the values stay those of the donor."""


def scheduler_of(ledger: Ledger) -> Any:
    """The scheduler that the sweep names."""
    sweep = ledger.sweep
    common: dict[str, Any] = {"time_attr": "look", "metric": sweep.first.metric, "mode": sweep.first.mode}
    if sweep.scheduler == "asha":
        grace = min(sweep.grace, sweep.looks)
        return _Asha(**common, max_t=sweep.looks, grace_period=grace, reduction_factor=sweep.reduction)
    if sweep.scheduler == "hyperband":
        return HyperBandScheduler(**common, max_t=sweep.looks, reduction_factor=sweep.reduction)
    if sweep.scheduler in ("pbt", "pb2"):
        exchange = {"perturbation_interval": sweep.perturb, "quantile_fraction": sweep.quantile, "synch": True}
        kind = _Pbt if sweep.scheduler == "pbt" else _Pb2
        return kind(ledger, **common, **exchange, log_config=False)
    return FIFOScheduler()


class SweepStopper(Stopper):
    """The rules of `stop`: a plateau ends a trial, time that is up or a target that is met ends the sweep.

    Attributes:
        reason: why the sweep was ended, None while it was not.
        plateaus: trials that were ended.
    """

    def __init__(self, sweep: SweepSettings) -> None:
        self._sweep = sweep
        self.reason: str | None = None
        self.plateaus: set[str] = set()
        self._best: dict[str, tuple[float, int]] = {}
        self._seconds = 0.0

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        rules, first = self._sweep.stop, self._sweep.first
        score, look = first.sign * result[first.metric], result["look"]
        self._seconds += result["seconds"]
        if rules.seconds is not None and self._seconds >= rules.seconds:
            self.reason = self.reason or f"{rules.seconds:g} seconds of training are used up"
        if rules.target is not None and score >= first.sign * rules.target:
            self.reason = self.reason or f"a trial reached {first.metric} {rules.target:g}"
        if rules.plateau is None:
            return False
        best, at = self._best.get(trial_id, (-float("inf"), look))
        if score > best + rules.plateau.gain:
            best, at = score, look
        self._best[trial_id] = best, at
        if look - at < rules.plateau.looks:
            return False
        self.plateaus.add(trial_id)
        return True

    def stop_all(self) -> bool:
        return self.reason is not None


class _Asha(AsyncHyperBandScheduler):
    """Successive halving without waiting (Li et al. 2020).

    What it decides depends on the order in which trials come by, which is another when a sweep is told again: a trial
    that went on then goes on now.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        told_again = result["replayed"] and result["look"] < self._max_t
        return TrialScheduler.CONTINUE if told_again else decision


class _Exchange:
    """What PBT and PB2 share here: every draw has a seed of its own, and a trial keeps its number."""

    _trial_state: Any

    def _checkpoint_or_exploit(
        self, trial: Any, tune_controller: Any, upper_quantile: Any, lower_quantile: Any
    ) -> None:
        parent: Any = super()
        with _dice(self._seed(trial)):
            parent._checkpoint_or_exploit(trial, tune_controller, upper_quantile, lower_quantile)

    def _seed(self, trial: Any) -> int:
        number = trial.config["candidate"]["number"]
        return derive(self._ledger.sweep.seed, EXCHANGES, number, int(self._trial_state[trial].last_train_time))

    _ledger: Ledger


class _Pbt(_Exchange, PopulationBasedTraining):
    """Population based training (Jaderberg et al. 2017): all wait for each other, the worst take over from the best."""

    def __init__(self, ledger: Ledger, **options: Any) -> None:
        self._ledger = ledger
        super().__init__(hyperparam_mutations=_named(ledger.sweep), resample_probability=0.0, **options)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        ledger, donor = self._ledger, trial_to_clone.config["candidate"]["values"]
        for attempt in range(TRIES):
            seed = derive(self._seed(trial), attempt)
            values = moved(ledger.sweep.space, donor, ledger.experiment, seed)
            if _valid(ledger.experiment, values, ledger.sweep):
                return _for(trial, values), {}
        return _for(trial, donor), {}


class _Pb2(_Exchange, PB2):
    """Population based bandits (Parker-Holder et al. 2020): as PBT, moved by a Gaussian process of the gains."""

    def __init__(self, ledger: Ledger, **options: Any) -> None:
        self._ledger = ledger
        super().__init__(hyperparam_bounds=_named(ledger.sweep), **options)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        donor = trial_to_clone.config["candidate"]["values"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the Gaussian process's remarks on its own fit
            picked = super()._get_new_config(trial, trial_to_clone)[0]["candidate"]["values"]
        values = dict(donor)
        for key in filter(is_live, donor):
            dimension = self._ledger.sweep.space[key]
            low, high = dimension.bounds
            value = min(max(float(picked[key]), low), high)
            values[key] = round(value) if dimension.randint else value
        return _for(trial, values if _valid(self._ledger.experiment, values, self._ledger.sweep) else donor), {}


def _named(sweep: SweepSettings) -> dict[str, Any]:
    """The keys that may be moved, where Tune finds them."""
    bounds = {key: list(dimension.choice or dimension.bounds) for key, dimension in sweep.space.items() if is_live(key)}
    return {"candidate": {"values": bounds}}


def _for(trial: Any, values: dict[str, Any]) -> dict[str, Any]:
    return {**trial.config, "candidate": {"number": trial.config["candidate"]["number"], "values": values}}


def _valid(base: Experiment, values: dict[str, Any], sweep: SweepSettings) -> bool:
    try:
        apply(base, values, sweep)
    except InputError:
        return False
    return True


@contextmanager
def _dice(seed: int) -> Iterator[None]:
    """Python's and numpy's global generators, which Tune draws from, begun at a seed and left as they were."""
    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)
