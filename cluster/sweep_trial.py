"""One trial of a sweep, as Ray Tune runs it: a team in training that is looked at every so many iterations.

    step:  the ledger has this look, of the same values?   tell it again, without training
           otherwise   restore if need be  ->  iterate  ->  validate  ->  checkpoint  ->  write the look down

Tune's own checkpoints of a trial are two numbers, the trial and the look it goes on from; the rest is in the ledger
(`platform/sweep_ledger.py`). So a sweep goes on from the ledger alone, whatever of Tune's own state was lost.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import torch
from ray import tune

from ..envs import Stage, prepare
from ..platform.errors import ConcertError, InputError
from ..platform.settings import Experiment
from ..platform.sweep_ledger import Ending, Ledger, Look
from ..platform.sweep_space import apply
from .sweep_validate import validate
from .trainer import Trainer

POINTER = "pointer.json"

WAIT_S = 90.0
"""How long a trial waits for a process of a killed sweep to let go of it."""

WORST = 1e9
"""The score of a trial that failed, on the bad side; numbers that are not finite upset Tune's schedulers."""


class SweepTrial(tune.Trainable):
    """A trial. Its configuration: `folder` of the ledger, and the `candidate`, its `number` and `values`."""

    def setup(self, config: dict[str, Any]) -> None:
        self._trainer: Trainer | None = None
        self._iteration_of_trainer = 0
        self._lock: IO[str] | None = None
        self._open(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes up another trial, or other values of this one, in the same process."""
        self._close()
        self._open(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next look at the trial."""
        number = self._source[1] + 1 if self._source else 1
        look = self._ledger.look(self._number, number)
        if look is None and (ending := self._ledger.ending(self._number)):
            return self._ended(number - 1, ending)
        replayed = look is not None and look.values == self._values and look.source == self._source
        if look is None or not replayed:
            look = self._train(number)
        self._source = (self._number, number)
        return self._told(look, replayed=replayed)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / POINTER).write_text(json.dumps(self._source), "utf-8")

    def load_checkpoint(self, checkpoint: Any) -> None:
        source = json.loads((Path(checkpoint) / POINTER).read_text("utf-8"))
        self._source = tuple(source) if source else None

    def cleanup(self) -> None:
        self._close()

    def _open(self, config: dict[str, Any]) -> None:
        self._ledger = Ledger(Path(config["folder"]))
        self._number = int(config["candidate"]["number"])
        self._values = dict(config["candidate"]["values"])
        self._source: tuple[int, int] | None = None

    def _train(self, number: int) -> Look:
        sweep, started = self._ledger.sweep, time.monotonic()
        try:
            trainer, steps = self._at_source()
            before, left = trainer.env_steps, number * sweep.every - self._iteration_of_trainer
            told = [trainer.iterate() for _ in range(left)]
            scores, spread = validate(trainer.team(), trainer.stage, self._base(), sweep.sessions)
        except ConcertError as error:
            return self._write_down(self._failed(number, str(error)))
        settings = trainer.stage.experiment
        played = left * settings.env.sessions * max(1, settings.cluster.num_env_runners)
        look = Look(
            number=self._number,
            look=number,
            values=self._values,
            source=self._source,
            iteration=number * sweep.every,
            env_steps=steps["env_steps"] + trainer.env_steps - before,
            sessions=steps["sessions"] + played,
            seconds=time.monotonic() - started,
            at=time.time(),
            scores=scores,
            spread=spread,
            metrics=_means(told),
        )
        self._ledger.save_checkpoint(self._number, number, trainer.save)
        self._iteration_of_trainer = look.iteration
        return self._write_down(look)

    def _at_source(self) -> tuple[Trainer, Mapping[str, int]]:
        """A trainer that stands where this trial goes on from, and what the trial has trained and played so far."""
        self._hold()
        mine = self._ledger.looks(self._number)[: self._source[1]] if self._source else []
        so_far = {"env_steps": mine[-1].env_steps, "sessions": mine[-1].sessions} if mine else {}
        if self._trainer is None:
            experiment = apply(self._ledger.experiment, self._values, self._ledger.sweep)
            torch.set_num_threads(experiment.cluster.torch_threads)
            self._trainer = Trainer(_stage(experiment.model_dump_json()))
            self._iteration_of_trainer = self._go_back(self._trainer)
        return self._trainer, {"env_steps": 0, "sessions": 0, **so_far}

    def _go_back(self, trainer: Trainer) -> int:
        """Restores the look that the trial goes on from, or the last sound one before it; returns its iteration."""
        place = self._source
        while place:
            try:
                trainer.restore(self._ledger.checkpoint(*place))
                return place[1] * self._ledger.sweep.every
            except InputError:  # torn or gone: what lies between is trained once more
                look = self._ledger.look(*place)
                place = look.source if look else None
        return 0

    def _base(self) -> Stage:
        return _stage(self._ledger.experiment.model_dump_json())

    def _write_down(self, look: Look) -> Look:
        self._ledger.forget_after(look.number, look.look)
        self._ledger.write_look(look)
        self._ledger.prune(look.number)
        return look

    def _failed(self, number: int, reason: str) -> Look:
        sweep = self._ledger.sweep
        scores = {objective.metric: -objective.sign * WORST for objective in sweep.objectives}
        at = number * sweep.every
        return Look(
            self._number, number, self._values, self._source, at, 0, 0, 0.0, time.time(), dict(scores), failed=reason
        )

    def _ended(self, last: int, ending: Ending) -> dict[str, Any]:
        """What is told where a trial is asked to go on that ended in an earlier process of the sweep."""
        look = self._ledger.look(self._number, last) or self._failed(last, ending.reason)
        return {**self._told(look, replayed=True), "done": True}

    def _told(self, look: Look, *, replayed: bool) -> dict[str, Any]:
        sweep = self._ledger.sweep
        return {
            **{objective.metric: look.scores[objective.metric] for objective in sweep.objectives},
            "look": look.look,
            "seconds": look.seconds,
            "failed": look.failed,
            "replayed": replayed,
            "done": look.look >= sweep.looks or bool(look.failed),
        }

    def _hold(self) -> None:
        """Waits until no process of a killed sweep trains this trial any more."""
        if self._lock is not None:
            return
        place = self._ledger.place(self._number)
        place.mkdir(parents=True, exist_ok=True)
        self._lock = (place / "lock").open("w")
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"trial {self._number} is still trained by another process") from None
                time.sleep(0.2)

    def _close(self) -> None:
        if self._trainer is not None:
            self._trainer.stop()
            self._trainer = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


@lru_cache(maxsize=2)
def _stage(experiment: str) -> Stage:
    """The stage of an experiment given as JSON; the base's and the last trial's are kept in memory."""
    return prepare(Experiment.model_validate_json(experiment))


def _means(told: list[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for metrics in told for name in metrics})
    given = {name: [metrics[name] for metrics in told if name in metrics] for name in names}
    return {name: sum(values) / len(values) for name, values in given.items()}
