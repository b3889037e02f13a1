"""A sweep in MLflow and on the terminal while it runs: one parent run, a child a trial, a line an ended trial.

Every run has an id of our own from the ledger's key, so that a sweep that goes on finds its runs again, and a point of
a curve that MLflow has is not logged twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import __version__
from ..platform.sweep_ledger import Ending, Ledger, Look, best_look
from ..platform.sweep_space import apply
from ..platform.tracking import LOCAL, Run, flatten, start_run
from .progress import Narrator

PARENT = "mlflow.parentRunId"
"""MLflow's tag that puts a run under another one."""


class Record:
    """Listens to a sweep (`cluster.sweep.Listener`).

    Attributes:
        parent: the sweep's run.
    """

    def __init__(self, ledger: Ledger, narrator: Narrator, command: str) -> None:
        self._ledger, self._narrator = ledger, narrator
        self._tracking = ledger.experiment.tracking.model_copy(update={"system_metrics": False})
        sweep = ledger.sweep
        tags = {
            "concertrl.version": __version__,
            "concertrl.experiment": ledger.experiment.name,
            "concertrl.sweep": str(sweep.name),
            "concertrl.scheduler": sweep.scheduler,
            "concertrl.searcher": sweep.searcher,
            "concertrl.seed": str(ledger.experiment.seed),
            **({"concertrl.command": command} if command else {}),
        }
        self._parent_id = LOCAL + ledger.key
        self.parent: Run = start_run(self._tracking, name=str(sweep.name), tags=tags, run_id=self._parent_id)
        self.parent.log_params(_shown(ledger))
        self._runs: dict[int, Run] = {}
        self._done: set[int] = set()
        before = [look for number in ledger.candidates() for look in ledger.looks(number)]
        self._since, self._best = max((look.at for look in before), default=0.0), best_look(before, ledger.sweep)
        self._sessions = sum(_played(ledger, look) for look in before)

    def run_of(self, number: int) -> Run:
        """The child run of a trial, begun or gone on with. It is the caller's to close."""
        ledger = self._ledger
        tags = {
            PARENT: self.parent.run_id,
            "concertrl.sweep": str(ledger.sweep.name),
            "concertrl.experiment": ledger.experiment.name,
            "concertrl.trial": str(number),
        }
        name, run_id = f"{ledger.sweep.name} {number:02d}", f"{LOCAL}{ledger.key}-{number:04d}"
        return Run(self._tracking, Path(self._tracking.folder).resolve(), name=name, tags=tags, run_id=run_id)

    def started(self, number: int, values: dict[str, Any]) -> None:
        if number in self._runs or number in self._done:
            return
        run = self._runs[number] = self.run_of(number)
        experiment = apply(self._ledger.experiment, values, self._ledger.sweep)
        settings = experiment.model_dump(mode="json")
        settings["tracking"].pop("uri")
        run.log_params(settings)

    def looked(self, look: Look) -> None:
        sweep = self._ledger.sweep
        if (run := self._runs.get(look.number)) and not look.failed:
            scores = {f"validated/{name}": value for name, value in look.scores.items()}
            values = {f"space/{key}": value for key, value in look.values.items() if _number(value)}
            told = {"iteration": look.iteration, "sessions": look.sessions, "look": look.look}
            taken = {"taken_over_from": look.source[0]} if look.source and look.source[0] != look.number else {}
            run.log_metrics({**look.metrics, **scores, **values, **told, **taken}, look.env_steps)
        if look.at <= self._since:
            return  # told again, of an earlier process
        self._sessions += _played(self._ledger, look)
        self._best = best_look([one for one in (self._best, look) if one is not None], sweep)
        if self._best:
            metric = sweep.first.metric
            self.parent.log_metrics({f"best/{metric}": self._best.scores[metric]}, self._sessions)

    def ended(self, number: int, ending: Ending) -> None:
        if number in self._done:
            return
        self._done.add(number)
        if run := self._runs.pop(number, None):
            run.tag(**{"concertrl.ended": ending.status, "concertrl.reason": ending.reason, PARENT: self.parent.run_id})
            run.close("FAILED" if ending.status == "failed" else "FINISHED")
        self._narrator.say(self._line(number, ending))

    def close(self, status: str) -> None:
        """Ends the runs that are open."""
        for run in self._runs.values():
            run.close("KILLED" if status == "KILLED" else "FAILED")
        self._runs.clear()
        self.parent.close(status)

    def _line(self, number: int, ending: Ending) -> str:
        """One line an ended trial: how it ended, what it came to, and the best so far."""
        sweep, metric = self._ledger.sweep, self._ledger.sweep.first.metric
        best = best_look(self._ledger.looks(number), sweep)
        values = ", ".join(
            f"{key.rpartition('.')[2]}={_short(value)}" for key, value in (best.values if best else {}).items()
        )
        came = f"{metric} {best.scores[metric]:.3f} at iteration {best.iteration}" if best else ending.reason
        so_far = f"; best {self._best.scores[metric]:.3f} (trial {self._best.number})" if self._best else ""
        return f"{len(self._done)}/{sweep.trials} trial {number} {ending.status}: {came}{so_far}  [{values}]"


def _shown(ledger: Ledger) -> dict[str, Any]:
    settings = ledger.experiment.model_dump(mode="json")
    settings["tracking"].pop("uri")
    sweep = ledger.sweep.model_dump(mode="json", exclude_defaults=True)
    space = {key: flatten({kind: value for kind, value in one.items()}) for key, one in sweep.pop("space").items()}
    return {"sweep": {**sweep, "space": space}, **settings}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _played(ledger: Ledger, look: Look) -> int:
    """Sessions that were played for a look."""
    before = ledger.look(look.number, look.look - 1)
    return look.sessions - (before.sessions if before else 0)
