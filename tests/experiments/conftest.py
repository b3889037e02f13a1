"""The command line in processes of its own, and one small training run that many tests look at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from concertrl.platform.destination import local_uri
from concertrl.platform.settings import Experiment

CHANGES = {
    "env": {"sessions": 32},
    "train": {"iterations": 3, "minibatch": 64, "epochs": 2, "checkpoint": {"every": 2, "keep_every": 2}},
    "evaluate": {"seeds": 3, "sessions": 32, "every": 1},
}

Ran = subprocess.CompletedProcess[str]
Cli = Callable[..., Ran]


@dataclass(frozen=True)
class Trained:
    """A run of `concertrl train ... --json`: its tracking folder, the process, and the JSON object it printed."""

    folder: Path
    ran: Ran
    answer: dict[str, Any]

    @property
    def run_id(self) -> str:
        return self.answer["run_id"]

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(local_uri(self.folder))


@pytest.fixture(scope="session")
def tiny(small_stage: Any) -> list[str]:
    """Overrides of `builtin` for a run of seconds, on the small stage, which is in the cache by now."""
    values = small_stage.experiment.model_dump(mode="json")
    for group, changes in CHANGES.items():
        values[group] |= changes
    return list(_overrides(values, Experiment(name="builtin").model_dump(mode="json")))


def _overrides(values: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> Any:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _overrides(value, defaults[key], f"{prefix}{key}.")
        elif value != defaults[key]:
            yield f"{prefix}{key}={json.dumps(value)}"


@pytest.fixture(scope="session")
def cli() -> Cli:
    """`cli("train", "builtin", cwd=folder, NAME="value")`: a real process, and its exit status, stdout and stderr."""

    def run(*words: str | Path, cwd: Path, timeout: float = 240.0, **environment: str) -> Ran:
        return subprocess.run(
            [sys.executable, "-m", "concertrl", *map(str, words)],
            cwd=cwd,
            env={**os.environ, **environment},
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture(scope="session")
def trained(cli: Cli, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    home = tmp_path_factory.mktemp("trained")
    ran = cli("train", "builtin", *tiny, "tracking.folder=kept", "--json", cwd=home, PYTHONHASHSEED="1")
    assert ran.returncode == 0, ran.stderr
    return Trained(home / "kept", ran, json.loads(ran.stdout.splitlines()[-1]))
