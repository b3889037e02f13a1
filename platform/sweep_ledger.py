"""What is known of a sweep, on disk: whatever dies, it goes on from here. Plain JSON, each file whole or not there.

    NAME/sweep.json                          the experiment and the sweep
    NAME/trials/0007/candidate.json          its values, written before the trial starts
    NAME/trials/0007/looks/0003.json         what a look found, written after its checkpoint
    NAME/trials/0007/checkpoints/0003/       the team in training as it was then
    NAME/trials/0007/ended.json              how it ended; such a trial is never run again

A killed sweep is run again from its start: what lies here is told again without training, up to where it ended.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .cache import write_whole
from .destination import redact
from .errors import ConcertError, InputError
from .settings import Experiment
from .sweep_settings import SweepSettings


@dataclass(frozen=True)
class Look:
    """A trial as it was found after some iterations.

    Attributes:
        number: of the trial.
        look: of the trial, from 1.
        values: of the keys of the space, since the look before.
        source: the trial and look that it went on from, None at its start; of another trial where it took over.
        iteration, env_steps, sessions: trained so far, by this trial, and played in training.
        seconds: of training since the look before.
        at: seconds since 1970.
        scores: by metric, on the validation sessions.
        spread: standard errors of `scores`, where known.
        metrics: of the training, means over the iterations since the look before.
        failed: why it cannot go on, empty otherwise.
    """

    number: int
    look: int
    values: dict[str, Any]
    source: tuple[int, int] | None
    iteration: int
    env_steps: int
    sessions: int
    seconds: float
    at: float
    scores: dict[str, float]
    spread: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    failed: str = ""


@dataclass(frozen=True)
class Ending:
    """How a trial ended: `finished` (all its iterations), `stopped` (early, by a rule) or `failed`, and why."""

    status: str
    reason: str = ""


class Ledger:
    """A sweep's folder.

    Attributes:
        folder: of the sweep.
        key: an id of the sweep that no other has.
        experiment: the base; without the tracking URI where that holds credentials.
        sweep: its settings.
        command: what was typed to begin it.
        hidden: the tracking URI holds credentials, so that it is not written down here.
    """

    def __init__(self, folder: Path) -> None:
        """Opens a sweep.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        self.folder = folder.resolve()
        try:
            data = json.loads((folder / "sweep.json").read_text("utf-8"))
            self.key, self.command = str(data["key"]), str(data["command"])
            self.hidden = bool(data["hidden"])
            self.experiment = Experiment.model_validate(data["experiment"])
            self.sweep = SweepSettings.model_validate(data["sweep"])
        except FileNotFoundError:
            raise InputError(_no_sweep(folder)) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{folder / 'sweep.json'}: cannot be read as a sweep ({reason})") from None

    @classmethod
    def create(cls, folder: Path, experiment: Experiment, sweep: SweepSettings, command: str = "") -> Ledger:
        """Begins a sweep.

        Raises:
            InputError: there is one of this name, or the folder cannot be written.
        """
        if (folder / "sweep.json").exists():
            raise InputError(
                f'sweep "{sweep.name}" is there already: `concertrl sweep --resume {sweep.name}` goes on with it, '
                "sweep.name=OTHER begins another"
            )
        uri = experiment.tracking.uri
        hidden = uri is not None and redact(uri) != uri
        kept = experiment.model_dump(mode="json")
        if hidden:
            kept["tracking"]["uri"] = None
        values = {"experiment": kept, "sweep": sweep.model_dump(mode="json"), "hidden": hidden}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / "sweep.json", {"key": uuid.uuid4().hex, "command": command, **values})
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); set tracking.folder") from None
        ledger = cls(folder)
        ledger.experiment = experiment
        return ledger

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps any other process from running this sweep.

        Raises:
            InputError: another one does.
        """
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f'sweep "{self.sweep.name}" is run by another process; stop it first') from None
            yield

    def place(self, number: int) -> Path:
        """The folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    def candidates(self) -> dict[int, dict[str, Any]]:
        """The values of every trial there is, by number."""
        found = {}
        for path in sorted((self.folder / "trials").glob("[0-9]*/candidate.json")):
            found[int(path.parent.name)] = _read(path)["values"]
        return found

    def propose(self, number: int, values: Mapping[str, Any]) -> None:
        """Writes down a trial before it starts."""
        self.place(number).mkdir(parents=True, exist_ok=True)
        _write(self.place(number) / "candidate.json", {"number": number, "values": dict(values)})

    def write_look(self, look: Look) -> None:
        """Writes down a look, once its checkpoint is there."""
        folder = self.place(look.number) / "looks"
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / f"{look.look:04d}.json", asdict(look))

    def look(self, number: int, look: int) -> Look | None:
        """A look, or None where it was not come to."""
        path = self.place(number) / "looks" / f"{look:04d}.json"
        return _look(path) if path.exists() else None

    def looks(self, number: int) -> list[Look]:
        """All looks at a trial, in order."""
        return [_look(path) for path in sorted((self.place(number) / "looks").glob("[0-9]*.json"))]

    def forget_after(self, number: int, look: int) -> None:
        """Removes the looks that came later, which are of a way that the trial did not take this time."""
        for path in (self.place(number) / "looks").glob("[0-9]*.json"):
            if int(path.stem) > look:
                path.unlink()

    def end(self, number: int, ending: Ending) -> None:
        """Writes down how a trial ended, the first time it does."""
        path = self.place(number) / "ended.json"
        if not path.exists():
            _write(path, asdict(ending))

    def ending(self, number: int) -> Ending | None:
        """How a trial ended, None while it has not."""
        path = self.place(number) / "ended.json"
        return Ending(**_read(path)) if path.exists() else None

    def checkpoint(self, number: int, look: int) -> Path:
        """Where the checkpoint of a look is."""
        return self.place(number) / "checkpoints" / f"{look:04d}"

    def save_checkpoint(self, number: int, look: int, save: Callable[[Path], None]) -> None:
        """Has a checkpoint written under another name first."""
        place = self.checkpoint(number, look)
        unfinished = place.with_name(f".{place.name}")
        for rest in (place, unfinished):
            shutil.rmtree(rest, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        save(unfinished)
        unfinished.rename(place)

    def prune(self, number: int) -> None:
        """Removes checkpoints that neither the trial, nor one that takes over from it, nor the ending can need."""
        newest = 2 * self.sweep.perturb + 1 if self.sweep.scheduler in ("pbt", "pb2") else 2
        looks = self.looks(number)
        kept = {look.look for look in looks[-newest:]}
        if best := best_look(looks, self.sweep):
            kept.add(best.look)
        for path in (self.place(number) / "checkpoints").glob("[0-9]*"):
            if int(path.name) not in kept:
                shutil.rmtree(path, ignore_errors=True)


def best_look(looks: list[Look], sweep: SweepSettings) -> Look | None:
    """The look with the best first objective, the earliest of equals; None where there is none."""
    sound = [look for look in looks if not look.failed]
    return max(sound, key=lambda look: sweep.first.sign * look.scores[sweep.first.metric], default=None)


def sweep_folder(tracking_folder: str | Path, name: str) -> Path:
    """The folder of a sweep by its name."""
    return Path(tracking_folder) / "sweeps" / name


def _no_sweep(folder: Path) -> str:
    from .errors import suggestion

    known = sorted(path.parent.name for path in folder.parent.glob("*/sweep.json"))
    told = f" (there are: {', '.join(known)})" if known else ""
    return f'no sweep "{folder.name}" in {folder.parent}{suggestion(folder.name, known)}{told}'


def _look(path: Path) -> Look:
    data = _read(path)
    source = data["source"]
    return Look(**{**data, "source": tuple(source) if source else None})


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConcertError(f"{path}: damaged ({str(error).splitlines()[0]}); remove it, and it is made again") from None


def _write(path: Path, data: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(data, indent=1).encode())
