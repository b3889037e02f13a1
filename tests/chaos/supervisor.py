"""Processes under chaos: an MLflow server that can be killed, and a run that is started again until it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ITERATION = re.compile(r"iteration (\d+)/\d+:")
RUN = re.compile(r"MLflow run (\S+)")
RESUMED = re.compile(r"going on from iteration (\d+)")


class Server:
    """A real MLflow server on loopback, on the same port and database each time it starts."""

    def __init__(self, home: Path) -> None:
        self.home, self.process = home, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it; it answers some seconds later, see `wait`."""
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        stores = ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", f"{self.home}/store"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options, *stores],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=self.home,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )

    def wait(self) -> None:
        """Until it answers."""
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.3)
        raise TimeoutError("the MLflow server did not start")

    def kill(self) -> None:
        """Kills it with all its workers."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@dataclass
class Training:
    """One training run, through as many commands as it takes.

    Attributes:
        words: `key=value` of the experiment.
        folder: for tracking.
        environment: of the commands.
    """

    words: list[str]
    folder: Path
    environment: dict[str, str]
    run_id: str | None = None
    iteration: int = 0
    commands: int = 0
    lines: list[tuple[float, str]] = field(default_factory=list)
    seen: dict[int, float] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """The command, or after a first one the command that goes on with the run."""
        words = self.words
        if self.run_id:
            kept = [word for word in self.words if word.startswith("tracking.")]
            words = ["--resume", self.run_id, *kept]
        self.commands += 1
        self.process = subprocess.Popen(
            [sys.executable, "-m", "concertrl", "train", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=self.environment,
        )
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr
        for line in process.stderr:
            self.lines.append((time.monotonic(), line.rstrip()))
            if found := RUN.search(line):
                self.run_id = self.run_id or found[1]
            if found := ITERATION.search(line):
                self.iteration = max(self.iteration, int(found[1]))

    @property
    def status(self) -> int | None:
        """Of the command at hand; None while it runs."""
        return self.process.poll() if self.process else None

    def tree(self) -> list[psutil.Process]:
        """The command's processes, itself first; each one is remembered."""
        try:
            root = psutil.Process(self.process.pid) if self.process else None
            found = [root, *root.children(recursive=True)] if root else []
        except psutil.NoSuchProcess:
            found = []
        for process in found:
            try:
                self.seen.setdefault(process.pid, process.create_time())
            except psutil.NoSuchProcess:
                continue
        return found

    def find(self, *words: str) -> list[psutil.Process]:
        """Those of its processes with one of the words in their command line."""
        found = []
        for process in self.tree():
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if any(word in line for word in words):
                found.append(process)
        return found

    def driver(self) -> list[psutil.Process]:
        """The process that trains, below the one that guards it."""
        return [process for process in self.find(" train ") if process.pid != (self.process and self.process.pid)][:1]

    def orphans(self) -> list[int]:
        """Processes of the run that are still there."""
        left = []
        for pid, born in self.seen.items():
            try:
                process = psutil.Process(pid)
                if process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(pid)
            except psutil.NoSuchProcess:
                continue
        return left
