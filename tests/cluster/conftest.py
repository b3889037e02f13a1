"""Small stages under changed settings, and one Ray cluster for all tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from concertrl.cluster.ray_session import ray_session
from concertrl.cluster.runner import BatchedEnvRunner
from concertrl.envs import Stage
from concertrl.platform.settings import ClusterSettings, Experiment

SESSIONS = 16


@pytest.fixture(scope="session")
def stage_under(small_stage: Stage) -> Callable[..., Stage]:
    """The small stage under changed groups of settings: `stage_under(env={"sessions": 6}, seed=3)`."""

    def build(**groups: Any) -> Stage:
        values = small_stage.experiment.model_dump()
        values["env"]["sessions"] = SESSIONS
        for name, value in groups.items():
            values[name] = {**values[name], **value} if isinstance(value, dict) else value
        return replace(small_stage, experiment=Experiment.model_validate(values))

    return build


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    with ray_session(ClusterSettings(num_env_runners=4, num_learners=2)):
        yield


@pytest.fixture
def runner_of(stage_under: Callable[..., Stage]) -> Callable[..., BatchedEnvRunner]:
    """An env runner in this process whose policies are no longer those of an untrained team."""
    from concertrl.cluster.algorithms import configure_ppo

    def build(worker_index: int = 0, **groups: Any) -> BatchedEnvRunner:
        runner = BatchedEnvRunner(config=configure_ppo(stage_under(**groups)), worker_index=worker_index)
        noise = torch.Generator().manual_seed(7)
        for agent in sorted(runner.module.keys()):
            head = runner.module[agent].policy.head
            torch.nn.init.normal_(head.weight, std=0.1, generator=noise)
            torch.nn.init.normal_(head.bias, std=0.1, generator=noise)
        return runner

    return build
