"""ConcertRL: train a team of recommender agents by reinforcement learning.

The public face. Names are loaded on first use, so that `import concertrl` stays fast and needs neither Ray nor MLflow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load_experiment": ".platform.experiment",
    "Experiment": ".platform.settings",
    "batched_env": ".envs",
    "parallel_env": ".envs",
    "load_team": ".agents.team_files",
    "train": ".experiments.train",
}

if TYPE_CHECKING:
    from .agents.team_files import load_team
    from .envs import batched_env, parallel_env
    from .experiments.train import train
    from .platform.experiment import load_experiment
    from .platform.settings import Experiment

__all__ = ["Experiment", "batched_env", "load_experiment", "load_team", "parallel_env", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
