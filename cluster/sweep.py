"""A sweep on Ray Tune, told to a listener.

ledger  ->  candidates: all at once (random), or each after what earlier ones came to (Optuna, Gaussian process)
        ->  Tune: scheduler (sweep_schedulers.py), trials in processes of their own (sweep_trial.py)
        ->  listener: each trial's start, looks and ending
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig
from ray.tune.search import Searcher

from ..platform.errors import ConcertError
from ..platform.settings import ClusterSettings
from ..platform.sweep_ledger import Ending, Ledger, Look, best_look
from ..platform.sweep_proposals import Proposals
from .sweep_schedulers import SweepStopper, scheduler_of
from .sweep_trial import SweepTrial

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger has what Tune would write
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nothing is restored from Tune's own state
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Tune's switches that are no options of it."""


class StoppedError(ConcertError):
    """A sweep that a person interrupted."""


class Listener(Protocol):
    """Is told how a sweep goes; of a sweep that goes on, first what went before."""

    def started(self, number: int, values: dict[str, Any]) -> None: ...

    def looked(self, look: Look) -> None: ...

    def ended(self, number: int, ending: Ending) -> None: ...


def run_sweep(ledger: Ledger, listener: Listener) -> None:
    """Runs a sweep to its end, or goes on with it. Needs a Ray session.

    Raises:
        StoppedError: it was interrupted; what is done is in the ledger.
        InputError: the space makes no valid experiment.
    """
    sweep = ledger.sweep
    proposals, stopper = Proposals(sweep, ledger.experiment), SweepStopper(sweep)
    place = ledger.folder / "tune"
    shutil.rmtree(place, ignore_errors=True)
    fixed: dict[str, Any] = {"folder": str(ledger.folder)}
    picked = sweep.searcher != "random"
    if not picked:
        known = ledger.candidates()
        for number in range(sweep.trials):
            if number not in known:
                known[number] = proposals.propose(number)
                ledger.propose(number, known[number])
        fixed["candidate"] = tune.grid_search([{"number": number, "values": known[number]} for number in sorted(known)])
    waits = sweep.scheduler in ("pbt", "pb2", "hyperband")  # for trials that are paused and would count as running
    config: Any = TuneConfig(
        scheduler=scheduler_of(ledger),
        search_alg=_Picker(ledger, proposals, fixed) if picked else None,
        num_samples=sweep.trials if picked else 1,
        max_concurrent_trials=None if waits else sweep.concurrent,
        reuse_actors=True,
        trial_name_creator=_name,
        trial_dirname_creator=_name,
    )
    with _quiet():
        tuner = tune.Tuner(
            tune.with_resources(SweepTrial, _resources(ledger.experiment.cluster, sweep.concurrent)),
            param_space=None if picked else fixed,
            tune_config=config,
            run_config=RunConfig(
                name="tune",
                storage_path=str(ledger.folder),
                stop=stopper,
                failure_config=FailureConfig(max_failures=sweep.retries),
                callbacks=[_Teller(ledger, listener, stopper)],
                verbose=0,
            ),
        )
        tuner.fit()
    _close(ledger, listener, stopper)
    shutil.rmtree(place, ignore_errors=True)


def _close(ledger: Ledger, listener: Listener, stopper: SweepStopper) -> None:
    """What is left after Tune: trials that the whole sweep's end cut short, or an interrupt."""
    open_ones = [number for number in ledger.candidates() if ledger.ending(number) is None]
    if stopper.reason is None:
        if open_ones or len(ledger.candidates()) < ledger.sweep.trials:
            name = ledger.sweep.name
            raise StoppedError(f"stopped with trials left; `concertrl sweep --resume {name}` goes on")
        return
    for number in open_ones:
        ending = Ending("stopped", stopper.reason)
        ledger.end(number, ending)
        listener.ended(number, ending)


def _resources(cluster: ClusterSettings, concurrent: int) -> Any:
    """What a trial takes: its own process, where it samples and learns, or remote runners and learners beside it."""
    gpu = 0.0 if cluster.num_learners else cluster.num_gpus_per_learner
    cores = float(ray.cluster_resources().get("CPU", 1.0))
    remote = cluster.num_env_runners or cluster.num_learners
    alone = 1.0 if remote or cluster.address else cores / concurrent
    head = {"CPU": alone, **({"GPU": gpu} if gpu else {})}
    runner = {"CPU": cluster.num_cpus_per_env_runner, "GPU": cluster.num_gpus_per_env_runner}
    learner = {"CPU": cluster.num_cpus_per_learner, "GPU": cluster.num_gpus_per_learner}
    return tune.PlacementGroupFactory(
        [head, *[runner] * cluster.num_env_runners, *[learner] * cluster.num_learners], strategy="PACK"
    )


def _name(trial: Any) -> str:
    return f"trial_{trial.config['candidate']['number']:04d}"


def _number(trial: Any) -> int:
    return int(trial.config["candidate"]["number"])


class _Unkept:
    """Tune pickles what it is given, to restore it; here it never does, and what speaks to MLflow has no pickle."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Picker(_Unkept, Searcher):
    """Tune's face of `Proposals`: the next trial's values once Tune has room for one."""

    def __init__(self, ledger: Ledger, proposals: Proposals, fixed: dict[str, Any]) -> None:
        super().__init__(metric=ledger.sweep.first.metric, mode=ledger.sweep.first.mode)
        self._ledger, self._proposals, self._fixed = ledger, proposals, fixed
        self._known, self._numbers = ledger.candidates(), {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        number = len(self._numbers)
        if number >= self._ledger.sweep.trials:
            return Searcher.FINISHED
        if number not in self._known:
            self._known[number] = self._proposals.propose(number)
            self._ledger.propose(number, self._known[number])
        self._numbers[trial_id] = number
        return {**self._fixed, "candidate": {"number": number, "values": self._known[number]}}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        number, sweep = self._numbers[trial_id], self._ledger.sweep
        best = best_look(self._ledger.looks(number), sweep)
        scores = [best.scores[objective.metric] for objective in sweep.objectives] if best else None
        self._proposals.tell(number, self._known[number], scores)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger has it."""


class _Teller(_Unkept, Callback):
    """Writes down how trials end, and tells the listener."""

    def __init__(self, ledger: Ledger, listener: Listener, stopper: SweepStopper) -> None:
        self._ledger, self._listener, self._stopper = ledger, listener, stopper

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._listener.started(_number(trial), trial.config["candidate"]["values"])

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if look := self._ledger.look(_number(trial), result["look"]):
            self._listener.looked(look)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        last = trial.last_result or {}
        if last.get("failed"):
            self._end(trial, Ending("failed", last["failed"]))
        elif last.get("look", 0) >= self._ledger.sweep.looks:
            self._end(trial, Ending("finished"))
        else:
            plateau = trial.trial_id in self._stopper.plateaus
            self._end(trial, Ending("stopped", "plateau" if plateau else self._ledger.sweep.scheduler))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        error = trial.get_error()
        lines = str(error).strip().splitlines() if error else []
        self._end(trial, Ending("failed", lines[-1][:300] if lines else "its process died"))

    def _end(self, trial: Any, ending: Ending) -> None:
        number = _number(trial)
        self._ledger.end(number, ending)
        self._listener.ended(number, self._ledger.ending(number) or ending)


@contextmanager
def _quiet() -> Iterator[None]:
    """Tune says nothing of its own; a trial's error is told once, by the listener."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
