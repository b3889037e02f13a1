"""Users who respond: worlds, batched sessions, the PettingZoo face, and the yardsticks."""

from __future__ import annotations

import torch

from ..platform.experiment import load_experiment
from ..platform.settings import Experiment
from .batched import BatchedEnv, Stage, Step
from .parallel import ConcertEnv
from .stage import data_digest, prepare

__all__ = ["BatchedEnv", "ConcertEnv", "Stage", "Step", "batched_env", "data_digest", "parallel_env", "prepare"]


def parallel_env(
    experiment: Experiment | str, *, seed: int = 0, users: str = "train", render_mode: str | None = None
) -> ConcertEnv:
    """A `pettingzoo.ParallelEnv` of an experiment: one user, the agents of the team. See `ConcertEnv`.

    Args:
        experiment: an `Experiment`, or what `load_experiment` takes.
        seed: of the first session.
        users: `train`, or `judge` for users that training never sees.
        render_mode: None or `ansi`.
    """
    return ConcertEnv(prepare(_loaded(experiment)), seed=seed, users=users, render_mode=render_mode)


def batched_env(
    experiment: Experiment | str,
    *,
    sessions: int,
    seed: int = 0,
    users: str = "train",
    device: torch.device | str = "cpu",
) -> BatchedEnv:
    """The same environment over `sessions` users at once, as tensors on any device. See `BatchedEnv`."""
    return BatchedEnv(prepare(_loaded(experiment)), sessions=sessions, seed=seed, users=users, device=device)


def _loaded(experiment: Experiment | str) -> Experiment:
    return load_experiment(experiment) if isinstance(experiment, str) else experiment
