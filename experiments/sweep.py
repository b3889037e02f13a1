"""A sweep from its file to the best trial's team, judged and registered.

base experiment  ->  stage      made once, in the cache; trials find it there        envs/stage.py
                 ->  MLflow     a parent run, a child a trial                        sweep_record.py
                 ->  trials     Ray Tune, from the ledger and into it                cluster/sweep.py
                 ->  winner     restored, judged as any team, registered             publish.py
                 ->  MLflow     table and pictures in the parent                     sweep_publish.py
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..agents.team import Team
from ..cluster.fits import fit_on_cluster
from ..cluster.ray_session import ray_session
from ..cluster.sweep import StoppedError, run_sweep
from ..cluster.sweep_validate import as_base
from ..cluster.trainer import Trainer
from ..envs import Stage, prepare
from ..envs.yardsticks import yardsticks
from ..platform.errors import ConcertError
from ..platform.sweep_ledger import Ledger, Look, best_look
from ..platform.sweep_space import apply
from . import publish, sweep_publish
from .ablation import ablate
from .judge import Judge, table, team_act
from .learning import History
from .progress import Narrator
from .sweep_record import Record
from .train import lost_without


@dataclass(frozen=True)
class SweepResult:
    """What a sweep ends with.

    Attributes:
        name: of the sweep.
        run_id: of the parent run.
        best: the best trial: `number`, `look`, `iteration`, `values`, `scores` on the validation sessions, `run_id`.
        trials: one each: `number`, `status`, `reason`, `values`, `scores`, `iteration`, `env_steps`, `sessions`.
        table: the best trial's team beside every yardstick, on the judge's sessions.
        model_uri: of the registered team.
        seconds: since this process began.
    """

    name: str
    run_id: str
    best: dict[str, Any]
    trials: list[dict[str, Any]]
    table: list[dict[str, float | str]]
    model_uri: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(ledger: Ledger, narrator: Narrator | None = None) -> SweepResult:
    """Runs a sweep, or goes on with one, to its end.

    Args:
        ledger: from `begin` or `reopen` of `platform/sweep_file.py`.
        narrator: who tells how it goes; by default nobody.

    Raises:
        InputError: the dataset cannot be used, or another process runs the sweep.
        ConcertError: it was stopped, or no trial came to anything.
    """
    narrator, started = narrator or Narrator.silent(), time.monotonic()
    base = ledger.experiment
    torch.set_num_threads(base.cluster.torch_threads)
    with ledger.held():
        if base.cluster.address:
            with ray_session(base.cluster):
                fit_on_cluster(base, narrator.say)
        prepare(base, narrator.say)
        record = Record(ledger, narrator, ledger.command)
        narrator.say(f"MLflow run {record.parent.run_id}, sweep {ledger.sweep.name} in {ledger.folder}")
        status = "FAILED"
        try:
            with ray_session(base.cluster):
                run_sweep(ledger, record)
                result = _finish(ledger, record, narrator, started)
            status = "FINISHED"
        except (KeyboardInterrupt, StoppedError):
            status = "KILLED"
            raise
        finally:
            record.close(status)
    return result


def _finish(ledger: Ledger, record: Record, narrator: Narrator, started: float) -> SweepResult:
    """The winner's team, judged and registered in its own run; the sweep's story in the parent."""
    sweep = ledger.sweep
    looks = {number: ledger.looks(number) for number in sorted(ledger.candidates())}
    best = best_look([look for each in looks.values() for look in each], sweep)
    if best is None:
        reasons = {ending.reason for number in looks if (ending := ledger.ending(number))}
        raise ConcertError(f"sweep {sweep.name}: no trial came to anything: {'; '.join(sorted(reasons))}")
    narrator.say(f"judging the team of trial {best.number}, as it was at iteration {best.iteration}")
    stage, team = _winner(ledger, best)
    run = record.run_of(best.number)
    try:
        rows = _judged(ledger, stage, team, best, looks[best.number], run, time.monotonic() - started)
    finally:
        run.close()
    trials = [_trial(ledger, number, each) for number, each in looks.items()]
    told = {"number": best.number, "look": best.look, "iteration": best.iteration, "values": best.values}
    told |= {"scores": best.scores, "run_id": run.run_id}
    model_uri = str(run.model_uri)
    sweep_publish.outcome(record.parent, ledger, looks, best, rows, model_uri)
    seconds = round(time.monotonic() - started, 1)
    return SweepResult(str(sweep.name), record.parent.run_id, told, trials, rows, model_uri, seconds)


def _winner(ledger: Ledger, best: Look) -> tuple[Stage, Team]:
    """The best look's team, on a stage with the base's users and reward."""
    stage = prepare(apply(ledger.experiment, best.values, ledger.sweep))
    with Trainer(stage) as trainer:
        trainer.restore(ledger.checkpoint(best.number, best.look))
        team = trainer.team()
    return as_base(stage, prepare(ledger.experiment)), team


def _judged(
    ledger: Ledger, stage: Stage, team: Team, best: Look, looks: list[Look], run: Any, seconds: float
) -> list[dict[str, Any]]:
    judge = Judge(stage)
    scores = {name: judge.score(act) for name, act in yardsticks(stage).items()}
    scores["team"] = judge.score(team_act(team))
    rows, history, metric = table(scores), History(), ledger.sweep.first.metric
    for look in looks[: best.look]:
        reach = 1.96 * look.spread.get(metric, 0.0)
        history.add(look.env_steps, (look.scores[metric], look.scores[metric] - reach, look.scores[metric] + reach))
    lost = lost_without(team, judge, scores["team"])
    story = publish.Story(
        stage, team, judge, scores, rows, history, lost, ablate(stage, team), seconds, best.env_steps, ledger.command
    )
    publish.outcome(run, story)
    return rows


def _trial(ledger: Ledger, number: int, looks: list[Look]) -> dict[str, Any]:
    ending, best = ledger.ending(number), best_look(looks, ledger.sweep)
    last = looks[-1] if looks else None
    return {
        "number": number,
        "status": ending.status if ending else "stopped",
        "reason": ending.reason if ending else "",
        "values": best.values if best else ledger.candidates()[number],
        "scores": best.scores if best else {},
        "iteration": last.iteration if last else 0,
        "env_steps": last.env_steps if last else 0,
        "sessions": last.sessions if last else 0,
    }
