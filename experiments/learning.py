"""The training loop, and what it leaves behind for a process that has to go on in its place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..cluster.trainer import Trainer
from ..platform.checkpoint import Checkpoint
from ..platform.errors import InputError
from ..platform.statistics import normalised
from ..platform.tracking import Run
from .judge import Judge, Score, team_act
from .progress import Narrator
from .run_folder import RunFolder


@dataclass
class History:
    """How the team did while it learned: one entry a look."""

    steps: list[int] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def add(self, step: int, look: tuple[float, float, float]) -> None:
        self.steps.append(step)
        for kept, value in zip((self.mean, self.low, self.high), look, strict=True):
            kept.append(value)


@dataclass
class Learning:
    """A team learns, in one process or in several, one after the other.

    Attributes:
        history: the looks so far.
        recoveries: how often something died and was brought back, in all processes.
        seconds: spent by the processes before this one.
    """

    trainer: Trainer
    judge: Judge
    scores: Mapping[str, Score]
    run: Run
    folder: RunFolder
    narrator: Narrator
    history: History = field(default_factory=History)
    recoveries: int = 0
    seconds: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    def resume(self) -> None:
        """Goes back to the run's latest good checkpoint, if it has one."""
        past = self.folder.latest(self.narrator.say)
        if past is None:
            if self.folder.facts["resumed"]:
                self.narrator.say("there is no checkpoint that can be read; the run starts from its beginning")
            self.history.add(0, self.judge.glance(team_act(self.trainer.team())))
            return
        self._take(past)
        if self.trainer.iteration > (total := self.trainer.stage.experiment.train.iterations):
            raise InputError(
                f"train.iterations={total}: the run has reached iteration {self.trainer.iteration} already"
            )
        self.narrator.say(f"going on from iteration {self.trainer.iteration}, at {self.trainer.env_steps:,} env steps")

    def _take(self, past: Checkpoint) -> None:
        self.trainer.resume(past)
        try:
            more = past.words["more"]
            self.history = History(**more["history"])
            self.recoveries, self.seconds = int(more["recoveries"]), float(more["seconds"])
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{self.folder.home}: its checkpoint is not one of a run; remove it") from None

    def learn(self) -> None:
        """Every iteration is logged; every few the team is looked at without exploration, and kept."""
        settings = self.trainer.stage.experiment
        first, total = self.trainer.iteration + 1, settings.train.iterations
        before = self.recoveries
        for iteration in self.narrator.track(range(first, total + 1), total - first + 1, "training"):
            metrics, score = self.trainer.iterate(), None
            if self.trainer.recoveries + before != self.recoveries:
                self.recoveries = self.trainer.recoveries + before
                self.run.tag(**{"concertrl.recoveries": str(self.recoveries)})
            if "team/return" in metrics:
                metrics["team/normalised"] = self._normalised(metrics["team/return"])
            if iteration % settings.evaluate.every == 0 or iteration == total:
                metrics |= (looked := self._look(iteration, metrics["throughput/env_steps_per_s"]))
                score = looked["judged/return"]
            self.run.log_metrics({**metrics, "iteration": iteration}, self.trainer.env_steps)
            if self.folder.due(self.trainer):
                self._keep(score)

    def _look(self, iteration: int, rate: float) -> dict[str, float]:
        look, total = self.judge.glance(team_act(self.trainer.team())), self.trainer.stage.experiment.train.iterations
        self.history.add(self.trainer.env_steps, look)
        best = self.scores["best_static"].returns.mean
        self.narrator.say(
            f"iteration {iteration}/{total}: return {look[0]:.2f} (best static {best:.2f}), {rate:,.0f} env steps/s"
        )
        return {"judged/return": look[0], "judged/normalised": self._normalised(look[0])}

    def _normalised(self, value: float) -> float:
        return normalised(value, self.scores["random"].returns.mean, self.scores["horizon_oracle"].returns.mean)

    def _keep(self, score: float | None) -> None:
        """A checkpoint, on disk before the next iteration; those kept for good, and the last, go to MLflow too."""
        train, iteration = self.trainer.stage.experiment.train, self.trainer.iteration
        spent = self.seconds + time.monotonic() - self._since
        more: dict[str, Any] = {"history": asdict(self.history), "recoveries": self.recoveries, "seconds": spent}
        kept = self.folder.save(self.trainer, more, score, self.narrator.say)
        every = train.checkpoint.keep_every
        if kept and (iteration == train.iterations or (every and iteration % every == 0)):
            self.run.log_folder(kept, f"checkpoints/{kept.name}")
