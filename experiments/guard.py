"""A small process that stays beside a training run, and goes on with it when the driver dies.

    concertrl train  --starts-->  concertrl train (the driver)  --dies-->  concertrl train --resume RUN

The driver may die of a signal, of a lack of memory, or because Ray ends the process whose cluster went down. An error
that the driver has told, a result, and a signal that asks it to stop are no such death. When this process dies, the
driver dies with it, and what Ray started dies with the driver (cluster/watch.py).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

import click

from ..cluster.ray_session import NOTE

ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask for an end."""

PR_SET_PDEATHSIG = 1

KEPT = ("train.iterations=", "train.checkpoint.", "cluster.", "tracking.")
"""Overrides that go on to the next driver; the others are in the run's folder."""

TOLD = ("tracking.folder=", "tracking.uri=")
"""Those that the driver tells, as it resolved them. They go on in a file, since an address may have a password."""


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Runs the verb `train` in a process of its own, and starts another where that dies."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        if os.environ.get(NOTE):
            _as_driver(lambda: command(*args, **kwargs))
        elif sys.platform == "linux" and sys.argv[1:2] == ["train"]:
            sys.exit(_guard(sys.argv[1:]))
        else:
            command(*args, **kwargs)

    return run


def note(**facts: Any) -> None:
    """Tells the guard, where there is one.

    Args:
        facts: `more`, the overrides that came in a file; `run`, its `home`, `retries`, and `overrides` to go on with;
            `ended`.
    """
    if place := os.environ.get(NOTE):
        known = _read(Path(place)) | facts
        draft = Path(f"{place}.new")
        draft.write_text(json.dumps(known), "utf-8")
        draft.replace(place)


def _as_driver(command: Callable[[], None]) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    note(ended=False)
    try:
        command()
    finally:
        note(ended=True)


def _guard(words: list[str]) -> int:
    """The exit status of the last driver."""
    tries, reached = 0, -1
    with tempfile.TemporaryDirectory(prefix="concertrl-") as place:  # its mode is 0700
        path = Path(place) / "note"
        while True:
            status = _drive(words, path)
            told = _read(path)
            if told.get("ended") or -status in ASKED or "run" not in told:
                return status if status >= 0 else 128 - status
            why = f"signal {-status}" if status < 0 else f"exit status {status}, as when its Ray cluster is gone"
            now = _iteration(Path(told["home"]))
            tries, reached = (1 if now > reached else tries + 1), now
            if tries > told["retries"]:
                way = f"`concertrl train --resume {told['run']}` goes on"
                click.echo(f"concertrl: the driver died again and again ({why}); {way}", err=True)
                return 1
            click.echo(f"concertrl: the driver died ({why}); another goes on with run {told['run']}", err=True)
            flags = [word for word in words if word == "--json"]
            given = [*words, *told["more"]]
            kept = dict.fromkeys(word for word in given if word.startswith(KEPT) and not word.startswith(TOLD))
            file = Path(place) / "overrides"
            file.write_text("\n".join(told["overrides"]), "utf-8")
            words = ["train", "--resume", told["run"], "--overrides", str(file), *flags, *kept]


def _drive(words: list[str], path: Path) -> int:
    """One driver, to its end. What asks this process to stop is handed on to it."""
    command = [*sys.orig_argv[: len(sys.orig_argv) - len(sys.argv[1:])], *words]
    driver = subprocess.Popen(command, env={**os.environ, NOTE: str(path)})

    def hand_on(number: int, frame: FrameType | None) -> None:
        driver.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    # The terminal sends this one to both.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return driver.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _iteration(home: Path) -> int:
    """The latest iteration that the run has a checkpoint of, 0 before the first."""
    numbers = [path.name.rpartition("_")[2] for path in home.glob("iteration_*")]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}
