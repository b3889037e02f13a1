"""The main path: from an experiment to a trained, judged and registered team.

experiment  ->  stage      users who respond, towers, static weights          envs/stage.py
            ->  yardsticks judged on users and seeds kept apart               experiments/judge.py
            ->  iterations sample B sessions, learn, hand out weights         cluster/trainer.py
            ->  team       judged on the same sessions as the yardsticks
            ->  MLflow     metrics, pictures, report, model in the registry   experiments/publish.py
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..agents.team import Team
from ..cluster.fits import fit_on_cluster
from ..cluster.ray_session import ray_session
from ..cluster.trainer import Trainer
from ..envs import prepare
from ..envs.yardsticks import yardsticks
from ..platform.experiment import load_experiment
from ..platform.settings import Experiment
from ..platform.statistics import normalised
from ..platform.tracking import Run, start_run
from . import publish
from .ablation import ablate
from .judge import Judge, Score, table, team_act, without
from .progress import Narrator


@dataclass(frozen=True)
class Result:
    """What a training run ends with. Returns are of a session; `low` and `high` bound a 95 % interval over seeds."""

    run_id: str
    model_uri: str
    seconds: float
    env_steps: int
    table: list[dict[str, float | str]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


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


def train(
    experiment: Experiment | str = "builtin",
    *,
    narrator: Narrator | None = None,
    command: str = "",
    run_id: str | None = None,
) -> Result:
    """Trains the team of an experiment and judges it against every yardstick.

    Args:
        experiment: an `Experiment`, or what `load_experiment` takes.
        narrator: who tells how it goes; by default nobody.
        command: what was typed, for the report.
        run_id: an MLflow run to log to, in place of a new one.

    Raises:
        InputError: the experiment or its dataset cannot be used.
        ConcertError: the training failed for a reason it can name.
    """
    experiment = load_experiment(experiment) if isinstance(experiment, str) else experiment
    narrator = narrator or Narrator.silent()
    started = time.monotonic()
    torch.set_num_threads(experiment.cluster.torch_threads)
    if experiment.cluster.address:
        with ray_session(experiment.cluster):
            fit_on_cluster(experiment, narrator.say)
    stage = prepare(experiment, narrator.say)
    with start_run(experiment.tracking, name=experiment.name, tags=publish.tags(stage), run_id=run_id) as run:
        narrator.say(f"MLflow run {run.run_id}")
        publish.inputs(run, stage, command)
        judge = Judge(stage)
        scores = _judge_yardsticks(judge, narrator)
        with ray_session(experiment.cluster), Trainer(stage) as trainer:
            history = _learn(trainer, judge, scores, run, narrator)
            team, env_steps = trainer.team(), trainer.env_steps
        narrator.say("judging the trained team")
        scores["team"] = judge.score(team_act(team))
        rows = table(scores)
        lost = lost_without(team, judge, scores["team"])
        losses = ablate(stage, team)
        seconds = time.monotonic() - started
        story = publish.Story(stage, team, judge, scores, rows, history, lost, losses, seconds, env_steps, command)
        publish.outcome(run, story)
    # After the end, since a server that was down may have taken the run and the team by then.
    result = Result(run.run_id, str(run.model_uri), round(seconds, 1), env_steps, rows)
    narrator.ended(result, run, experiment)
    return result


def _judge_yardsticks(judge: Judge, narrator: Narrator) -> dict[str, Score]:
    fixed = yardsticks(judge.stage)
    scores = {}
    for name, act in narrator.track(fixed.items(), len(fixed), "judging the yardsticks"):
        scores[name] = judge.score(act)
    return scores


def _learn(trainer: Trainer, judge: Judge, scores: Mapping[str, Score], run: Run, narrator: Narrator) -> History:
    """The training loop: every iteration is logged, every few the team is looked at without exploration."""
    settings = trainer.stage.experiment
    random, oracle = scores["random"].returns.mean, scores["horizon_oracle"].returns.mean
    best = scores["best_static"].returns.mean
    history = History()
    history.add(0, judge.glance(team_act(trainer.team())))
    total = settings.train.iterations
    for iteration in narrator.track(range(1, total + 1), total, "training"):
        metrics = trainer.iterate()
        if "team/return" in metrics:
            metrics["team/normalised"] = normalised(metrics["team/return"], random, oracle)
        if iteration % settings.evaluate.every == 0 or iteration == total:
            look = judge.glance(team_act(trainer.team()))
            history.add(trainer.env_steps, look)
            metrics |= {"judged/return": look[0], "judged/normalised": normalised(look[0], random, oracle)}
            rate = metrics["throughput/env_steps_per_s"]
            narrator.say(
                f"iteration {iteration}/{total}: return {look[0]:.2f} (best static {best:.2f}), {rate:,.0f} env steps/s"
            )
        run.log_metrics({**metrics, "iteration": iteration}, trainer.env_steps)
        if iteration % settings.train.checkpoint.every == 0 or iteration == total:
            _checkpoint(trainer, run, iteration)
    return history


def _checkpoint(trainer: Trainer, run: Run, iteration: int) -> None:
    folder = Path(trainer.stage.experiment.tracking.folder) / "checkpoints" / run.run_id / f"iteration_{iteration:06d}"
    trainer.save(folder)
    run.log_folder(folder, f"checkpoints/{folder.name}")


def lost_without(team: Team, judge: Judge, whole: Score) -> dict[str, tuple[float, float, float]]:
    """Return lost without each agent: mean, low, high. Empty for a team of one."""
    names = judge.stage.ensemble.recommenders
    if len(names) < 2:
        return {}
    lost = {}
    for place, name in enumerate(names):
        rest = judge.score(without(team, place)).returns
        lost[name] = (whole.returns.mean - rest.mean, whole.returns.mean - rest.high, whole.returns.mean - rest.low)
    return lost
