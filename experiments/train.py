"""The main path: from an experiment to a trained, judged and registered team.

experiment  ->  a run      in MLflow, its id told first, its folder to go on from
            ->  stage      users who respond, towers, static weights          envs/stage.py
            ->  yardsticks judged on users and seeds kept apart               experiments/judge.py
            ->  iterations sample B sessions, learn, hand out weights         cluster/trainer.py
            ->  team       judged on the same sessions as the yardsticks
            ->  MLflow     metrics, pictures, report, model in the registry   experiments/publish.py
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..agents.team import Team
from ..cluster.fits import fit_on_cluster
from ..cluster.nodes import nodes_sampled
from ..cluster.ray_session import ray_session
from ..cluster.trainer import Trainer
from ..envs import Stage, data_digest, prepare
from ..envs.rehearsal import rehearsal_stage
from ..envs.searched_gains import with_gains
from ..envs.yardsticks import yardsticks
from ..platform.errors import InputError
from ..platform.experiment import load_experiment
from ..platform.settings import Experiment
from ..platform.statistics import Interval
from ..platform.tracking import Run, start_run
from . import publish
from .ablation import ablate
from .guard import note
from .judge import SEARCHED, Judge, Score, table, team_act, without
from .learning import Learning
from .progress import Narrator
from .run_folder import RunFolder


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


def train(
    experiment: Experiment | str = "builtin",
    *,
    narrator: Narrator | None = None,
    command: str = "",
    run_id: str | None = None,
    resume: str | None = None,
    overrides: Iterable[str] = (),
) -> Result:
    """Trains the team of an experiment and judges it against every yardstick.

    Args:
        experiment: an `Experiment`, or what `load_experiment` takes.
        narrator: who tells how it goes; by default nobody.
        command: what was typed, for the report.
        run_id: an MLflow run to log to, in place of a new one.
        resume: the id of a run that ended early, or `latest`: it goes on where it was, and `experiment` is not read.
        overrides: `key=value`, of a run that is resumed; only what does not make it another run.

    Raises:
        InputError: the experiment or its dataset cannot be used, or the run cannot go on.
        ConcertError: the training failed for a reason it can name.
    """
    folder = None
    if resume is not None:
        folder, experiment = RunFolder.found(resume, overrides)
        run_id, command = folder.facts["run_id"], folder.facts["command"]
    experiment = load_experiment(experiment) if isinstance(experiment, str) else experiment
    # A cluster is joined once: what Ray keeps for a job goes when its driver leaves.
    joined = ray_session(experiment.cluster) if experiment.cluster.address else nullcontext()
    try:
        with joined:
            return _trained(experiment, narrator or Narrator.silent(), command, run_id, folder)
    finally:
        if folder is not None:
            folder.close()


def _trained(
    experiment: Experiment, narrator: Narrator, command: str, run_id: str | None, folder: RunFolder | None
) -> Result:
    started = time.monotonic()
    torch.set_num_threads(experiment.cluster.torch_threads)
    digest = data_digest(experiment)
    tags = publish.tags(experiment, digest)
    going = {"run_id": run_id, "since": folder.facts["started"] if folder else None}
    with (
        start_run(experiment.tracking, name=experiment.name, tags=tags, **going) as run,
        closing(_folder(folder, experiment, digest, run, command, narrator)) as kept,
    ):
        narrator.say(f"MLflow run {run.run_id}")
        stage = _prepared(experiment, narrator)
        publish.inputs(run, stage, command)
        judge = Judge(stage)
        scores = _judge_yardsticks(judge, narrator, kept)
        with ray_session(experiment.cluster), _sampled(experiment, run), Trainer(stage, narrator.say) as trainer:
            learning = Learning(trainer, judge, scores, run, kept, narrator)
            learning.resume()
            learning.learn()
            team, env_steps = trainer.team(), trainer.env_steps
        narrator.say("judging the trained team")
        scores["team"] = judge.score(team_act(team))
        rows = table(scores)
        lost = lost_without(team, judge, scores["team"])
        losses = ablate(stage, team)
        seconds = learning.seconds + time.monotonic() - started
        history = learning.history
        story = publish.Story(stage, team, judge, scores, rows, history, lost, losses, seconds, env_steps, command)
        publish.outcome(run, story)
    kept.note(narrator.say, finished=True, iterations=experiment.train.iterations)
    # After the end, since a server that was down may have taken the run and the team by then.
    result = Result(run.run_id, str(run.model_uri), round(seconds, 1), env_steps, rows)
    narrator.ended(result, run, experiment)
    return result


def _sampled(experiment: Experiment, run: Run) -> AbstractContextManager[None]:
    """The other machines of a cluster that was joined, in the run."""
    if experiment.cluster.address is None or not experiment.tracking.system_metrics:
        return nullcontext()
    return nodes_sampled(run.log_machine)


def _prepared(experiment: Experiment, narrator: Narrator) -> Stage:
    """All that the training needs, made where it can be told of, and found by the env runners."""
    if experiment.cluster.address:
        fit_on_cluster(experiment, narrator.say)
    stage = prepare(experiment, narrator.say)
    rehearsal_stage(stage, narrator.say)
    return stage


def _folder(
    folder: RunFolder | None, experiment: Experiment, digest: str, run: Run, command: str, narrator: Narrator
) -> RunFolder:
    """The run's folder: a new one, or that of a run that goes on, on the data that it had."""
    tracking = experiment.tracking
    if folder is None:
        folder = RunFolder.begun(experiment, run.run_id, command, digest)
    elif folder.facts["data"] != digest:
        named = experiment.dataset or experiment.name
        raise InputError(f"{named}: no longer the data that run {run.run_id} began with; bring it back")
    else:
        folder.note(narrator.say, run_id=run.run_id, resumed=folder.facts["resumed"] + 1, finished=False)
        run.tag(**{"concertrl.resumed": str(folder.facts["resumed"])})
    again = [f"tracking.folder={tracking.folder}", *([f"tracking.uri={tracking.uri}"] if tracking.uri else [])]
    note(run=run.run_id, home=str(folder.home), retries=experiment.cluster.retries, overrides=again)
    return folder


def _judge_yardsticks(judge: Judge, narrator: Narrator, folder: RunFolder) -> dict[str, Score]:
    """Every yardstick's score, from the run's folder where an earlier process left it."""
    fixed, told = yardsticks(judge.stage), folder.facts.get("scores", {})
    if start := judge.stage.ensemble.start:
        fixed[SEARCHED] = with_gains(torch.tensor(start))
    if set(told) == set(fixed):
        return {name: Score(Interval(*each["returns"]), each["length"], each["clicks"]) for name, each in told.items()}
    scores = {}
    for name, act in narrator.track(fixed.items(), len(fixed), "judging the yardsticks"):
        scores[name] = judge.score(act)
    told = {name: {**vars(score), "returns": list(score.returns)} for name, score in scores.items()}
    folder.note(narrator.say, scores=told)
    return scores


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
