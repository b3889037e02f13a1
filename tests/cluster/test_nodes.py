"""What the machines of a cluster do is logged, node by node; one that is lost stops nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from concertrl.cluster import nodes
from concertrl.cluster.nodes import nodes_sampled

INTERVAL = 0.3


@pytest.fixture
def samplers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Those that are started."""
    started: list[Any] = []
    start = nodes._sampler_on
    monkeypatch.setattr(nodes, "_sampler_on", lambda *args: started.append(start(*args)) or started[-1])
    return started


@pytest.fixture
def watched(ray_cluster: None, samplers: list[Any]) -> Iterator[list[Mapping[str, float]]]:
    """What a driver logs to which this machine's node is another one."""
    logged: list[Mapping[str, float]] = []
    done = threading.Event()
    thread = threading.Thread(target=nodes._watch, args=(logged.append, INTERVAL, "elsewhere", done))
    thread.start()
    yield logged
    done.set()
    thread.join(20)
    assert not thread.is_alive()


def wait_until(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


def test_another_node_is_logged_under_its_name_again_and_again(watched: list[Mapping[str, float]]) -> None:
    import ray

    wait_until(lambda: len(watched) >= 3)
    [node] = ray.nodes()
    place = f"system/{node['NodeManagerAddress']}-{node['NodeID'][:6]}/"
    assert all(name.startswith(place) for values in watched for name in values)
    assert all(0 <= values[f"{place}cpu_utilization_percentage"] <= 100 for values in watched)
    assert len({tuple(values.values()) for values in watched}) == len(watched)


def test_a_sampler_that_dies_is_followed_by_another(watched: list[Mapping[str, float]], samplers: list[Any]) -> None:
    import ray

    wait_until(lambda: bool(watched))
    ray.kill(samplers[0])
    wait_until(lambda: len(samplers) == 2)
    count = len(watched)
    wait_until(lambda: len(watched) > count)


def test_the_drivers_own_node_is_left_to_the_run(ray_cluster: None) -> None:
    logged: list[Mapping[str, float]] = []
    with nodes_sampled(logged.append, INTERVAL):
        time.sleep(4 * INTERVAL)
    assert not logged
