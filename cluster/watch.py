"""Ends what a driver's own Ray cluster leaves behind. A program of its own, with Python's standard library only.

    python watch.py DRIVER SESSION     with a pipe from the driver as standard input

Ray's servers and workers notice that their driver died; its agents do so half a minute later or not at all. When the
driver closes the pipe, or dies, whoever still writes into the session's folder is ended: servers, agents and workers
have their logs open there, and nobody else does.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

PATIENCE_S = 3.0
"""How long they may take to end by themselves."""


def writers(session: str, driver: int) -> list[int]:
    """Processes but this one and the driver that have a file under the session's folder open for writing."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) not in (driver, os.getpid()) and _writes(process, session):
            found.append(int(process.name))
    return found


def _writes(process: Path, session: str) -> bool:
    try:
        handles = list((process / "fd").iterdir())
    except OSError:  # ended meanwhile, or another user's
        return False
    for handle in handles:
        try:
            # A link under /proc/PID/fd has its owner's write bit where the file is open for writing.
            if handle.lstat().st_mode & 0o200 and os.readlink(handle).startswith(f"{session}/"):
                return True
        except OSError:  # closed meanwhile
            continue
    return False


def main(driver: int, session: str) -> None:
    """Waits for the driver's end, and ends what is left of the session a little later."""
    while sys.stdin.buffer.read(1):
        pass
    until = time.monotonic() + PATIENCE_S
    while (left := writers(session, driver)) and time.monotonic() < until:
        time.sleep(0.2)
    for _ in range(3):  # one that is ended may have started another
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not (left := writers(session, driver)):
            return
        time.sleep(0.2)


if __name__ == "__main__":
    main(int(sys.argv[1]), os.path.realpath(sys.argv[2]))
