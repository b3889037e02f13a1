"""The faults, each done to a training run at a moment of chance, by process id or on its disk."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from concertrl.platform.checkpoint import TENSORS, checkpoints

from .supervisor import RESUMED, Server, Training

KINDS = {
    "env runner": "the only env runner is killed",
    "learner": "the learner is killed",
    "driver": "the driver is killed (kill -9)",
    "command": "the command is killed with its guard (kill -9), and the supervisor resumes the run",
    "head": "Ray's GCS server is killed",
    "raylet": "Ray's raylet is killed",
    "mlflow": "the MLflow server is killed, and started 5 to 20 s later",
    "disk": "the disk under the checkpoints is full for 10 to 20 s",
    "torn": "the latest checkpoint is torn, and then the driver killed",
}

SIGNS = {
    "env runner": "env runner",
    "learner": "a learner",
    "driver": "the driver died",
    "command": "going on from",
    "head": "the driver died",
    "raylet": "the driver died",
    "mlflow": "does not answer",
    "disk": "no checkpoint",
    "torn": "stepped over",
}
"""What a run says of each, in a line."""

DECK = (*KINDS, "env runner", "mlflow", "mlflow", "disk", "disk")
"""One of each, and more of those that cost a run little."""


@dataclass
class Fault:
    """One fault. `lost_s`: seconds from it to the first iteration that was not done before; `how`: what was told."""

    kind: str
    run: int
    at_s: float
    iteration: int
    lost_s: float | None = None
    how: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Chaos:
    """Does faults to a run.

    Args:
        server: the MLflow server.
        disk: the folder of the run's checkpoints, a small file system of its own; None where none could be mounted.
        chance: what decides.
    """

    def __init__(self, server: Server, disk: Path | None, chance: random.Random) -> None:
        self.server, self.disk, self.chance = server, disk, chance
        self.torn_read = 0
        self._timers: list[threading.Timer] = []

    def do(self, kind: str, training: Training) -> bool:
        """Does it; False where there is nothing at the moment that it could be done to."""
        victims: dict[str, Callable[[], list[psutil.Process]]] = {
            "env runner": lambda: training.find("ray::BatchedEnvRunner"),
            "learner": lambda: training.find("_WrappedExecutable"),
            "driver": training.driver,
            "command": lambda: training.tree()[:1],
            "head": lambda: training.find("gcs_server"),
            "raylet": lambda: training.find("raylet/raylet "),
        }
        if kind in victims:
            return self._kill(victims[kind]())
        return {"mlflow": self._mlflow, "disk": self._fill, "torn": self._tear}[kind](training)

    def _kill(self, found: list[psutil.Process]) -> bool:
        try:
            for process in found[:1]:
                os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return bool(found)

    def _mlflow(self, training: Training) -> bool:
        if self.server.process is None:
            return False
        self.server.kill()
        self._later(self.chance.uniform(5, 20), self.server.start)
        return True

    def _fill(self, training: Training) -> bool:
        if self.disk is None or (filler := self.disk / "filler").exists():
            return False
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        self._later(self.chance.uniform(10, 20), lambda: filler.unlink(missing_ok=True))
        return True

    def _tear(self, training: Training) -> bool:
        driver = training.driver()
        found = checkpoints(training.folder / "checkpoints" / str(training.run_id))
        if len(found) < 2 or not driver:
            return False
        os.kill(driver[0].pid, signal.SIGSTOP)  # so that it is the latest that the next driver finds
        found = checkpoints(training.folder / "checkpoints" / str(training.run_id))
        path, heard = found[0] / TENSORS, len(training.lines)
        os.truncate(path, self.chance.randrange(path.stat().st_size))
        os.kill(driver[0].pid, signal.SIGKILL)
        torn = int(found[0].name.rpartition("_")[2])
        threading.Thread(target=self._read, args=(training, heard, torn), daemon=True).start()
        return True

    def _read(self, training: Training, heard: int, torn: int) -> None:
        """Watches whether the next driver takes the torn checkpoint for a good one."""
        for _ in range(1200):
            told = [found for _, line in training.lines[heard:] if (found := RESUMED.search(line))]
            if told:
                self.torn_read += int(told[0][1]) == torn
                return
            time.sleep(0.25)

    def _later(self, seconds: float, act: Callable[[], Any]) -> None:
        timer = threading.Timer(seconds, act)
        self._timers.append(timer)
        timer.start()

    def settle(self) -> None:
        """Waits until what was broken for a while is whole again."""
        for timer in self._timers:
            timer.join()


def mounted(folder: Path, megabytes: int) -> str:
    """Mounts a small file system of memory on the folder. Returns why not, or nothing."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip()


def unmounted(folder: Path) -> None:
    """Undoes `mounted`."""
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
