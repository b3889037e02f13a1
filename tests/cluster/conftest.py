"""Small stages under changed settings, and one Ray cluster for all tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from concertrl.cluster.ray_session import ray_session
from concertrl.cluster.runner import BatchedEnvRunner
from concertrl.envs import Stage
from concertrl.platform.settings import ClusterSettings

SESSIONS = 16


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
