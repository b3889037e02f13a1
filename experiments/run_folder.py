"""What a run leaves on disk so that another process can go on with it.

<tracking.folder>/checkpoints/<run>/
    run.json        the experiment, the command, the run's MLflow id, whether it is finished
    lock            held by the process that writes the run; the kernel drops it when that process dies
    iteration_*/    checkpoints (platform/checkpoint.py)
"""

from __future__ import annotations

import fcntl
import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..platform.cache import write_whole
from ..platform.checkpoint import Checkpoint, Tell, checkpoint_name, latest_good, prune
from ..platform.destination import redact
from ..platform.errors import InputError
from ..platform.experiment import override
from ..platform.settings import Experiment, TrackingSettings

if TYPE_CHECKING:
    from ..cluster.trainer import Trainer

FACTS = "run.json"
LATEST = "latest"
"""In place of a run's id: the run that was started last."""

HARMLESS = ("train.iterations", "train.checkpoint.", "cluster.", "tracking.")
"""Keys that a resumed run may change: how long, how often it is kept, where it runs, and where it is told."""


class RunFolder:
    """The folder of one run. Made by `begun` or `found`; `close` lets go of it."""

    def __init__(self, home: Path, facts: dict[str, Any]) -> None:
        self.home, self.facts = home, facts
        self._lock = (home / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise InputError(f'run "{home.name}" is still written by another process; stop it first') from None
        self._missed = False

    @classmethod
    def begun(cls, experiment: Experiment, run_id: str, command: str, data: str) -> RunFolder:
        """The folder of a new run, or of one that MLflow knew before; `data` is the hash of its data."""
        home = _runs(experiment.tracking) / run_id
        home.mkdir(parents=True, exist_ok=True)
        told = experiment.model_dump(mode="json")
        # With a password in it the address is not kept; who resumes the run gives it again.
        if (uri := told["tracking"]["uri"]) and redact(uri) != uri:
            told["tracking"]["uri"] = None
        facts = {"run_id": run_id, "command": command, "data": data, "started": time.time(), "experiment": told}
        facts |= {"finished": False, "resumed": 0, "uri_withheld": told["tracking"]["uri"] != uri}
        folder = cls(home, facts)
        write_whole(home / FACTS, json.dumps(facts).encode())
        return folder

    @classmethod
    def found(cls, run: str, overrides: Iterable[str] = ()) -> tuple[RunFolder, Experiment]:
        """The folder of a run that is to go on, and its experiment under the overrides.

        Args:
            run: its MLflow id, or `latest`.
            overrides: `key=value`; `tracking.folder` says where the runs are.

        Raises:
            InputError: there is no such run, it is finished or still going, or a key would make it another run.
        """
        words = list(overrides)
        check_harmless(words)
        tracking = override(Experiment(), words).tracking
        home, facts = _search(_runs(tracking), run)
        try:
            experiment = override(Experiment.model_validate(facts["experiment"]), words)
        except ValidationError as error:
            raise InputError(f"{home / FACTS}: of another version ({error.error_count()} keys differ)") from None
        if facts["uri_withheld"] and experiment.tracking.uri is None:
            raise InputError(f"run {run}: its tracking URI had a password and was not kept; give tracking.uri=URI")
        if facts["finished"] and (done := facts.get("iterations", 0)) >= experiment.train.iterations:
            raise InputError(f"run {run} is finished; give train.iterations=N beyond {done} to go on")
        return cls(home, facts), experiment

    def note(self, tell: Tell, **facts: Any) -> None:
        """Adds to what is known of the run. Where the disk does not take it that is told."""
        self.facts |= facts
        try:
            write_whole(self.home / FACTS, json.dumps(self.facts).encode())
        except OSError as error:
            tell(f"{self.home / FACTS}: not brought up to date ({error.strerror})")

    def latest(self, tell: Tell) -> Checkpoint | None:
        """The latest checkpoint that can be read, None where there is none."""
        found = latest_good(self.home, tell)
        return found[1] if found else None

    def due(self, trainer: Trainer) -> bool:
        """Whether an iteration ends with a checkpoint: as configured, at the end, and after one that failed."""
        train, number = trainer.stage.experiment.train, trainer.iteration
        rhythms = (train.checkpoint.every, train.checkpoint.keep_every)
        return self._missed or number >= train.iterations or any(every and number % every == 0 for every in rhythms)

    def save(self, trainer: Trainer, more: Mapping[str, Any], score: float | None, tell: Tell) -> Path | None:
        """Writes a checkpoint and removes those no longer kept. None where the disk does not take it: that is told."""
        settings = trainer.stage.experiment.train.checkpoint
        folder = self.home / checkpoint_name(trainer.iteration)
        try:
            trainer.save(folder, more, **({} if score is None else {"score": score}))
            prune(self.home, settings)
        except OSError as error:
            self._missed = True
            tell(f"iteration {trainer.iteration}: no checkpoint ({error.strerror}); the run goes on and tries again")
            return None
        self._missed = False
        return folder

    def close(self) -> None:
        """Lets go of the folder."""
        self._lock.close()


def check_harmless(words: Iterable[str]) -> None:
    """Sees that a run can go on under these overrides.

    Raises:
        InputError: one of them would make it another run.
    """
    for word in words:
        if not word.startswith(HARMLESS):
            raise InputError(
                f"{word.partition('=')[0]}: a resumed run keeps its experiment; only train.iterations, "
                "train.checkpoint, cluster and tracking may change"
            )


def check_name(run: str) -> None:
    """Sees that a text can be the id of a run, or `latest`.

    Raises:
        InputError: it cannot.
    """
    if run != LATEST and not re.fullmatch(r"[A-Za-z0-9-]{1,64}", run):
        raise InputError(f"--resume {run[:80]!r}: not the id of a run; give what MLflow calls it, or latest")


def _runs(tracking: TrackingSettings) -> Path:
    return Path(tracking.folder).resolve() / "checkpoints"


def _search(runs: Path, run: str) -> tuple[Path, dict[str, Any]]:
    check_name(run)
    known = {path.parent: _facts(path) for path in runs.glob(f"*/{FACTS}")}
    if run == LATEST and known:
        return max(known.items(), key=lambda item: item[1]["started"])
    for home, facts in known.items():
        if run in (home.name, facts["run_id"]):
            return home, facts
    raise InputError(f"{runs}: no run {run} to go on with; give its id, and tracking.folder=FOLDER where it is another")


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text("utf-8"))
        kinds = {"run_id": str, "command": str, "data": str, "started": float, "experiment": dict, "finished": bool}
        kinds |= {"resumed": int, "uri_withheld": bool}
        if any(not isinstance(facts[name], kind) for name, kind in kinds.items()):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged, not what a run writes; remove its folder") from None
    return facts
