"""What the other machines of a run are doing, logged beside the driver's own.

    a sampler on each node of the cluster but the driver's  --means, every few seconds-->  system/<node>/... in the run

MLflow's UI shows each as a node of its own. The driver's machine is sampled by the run itself (`platform/machine.py`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..platform.machine import INTERVAL_S, SYSTEM, Sampler

LAST_S = 2.0
"""How long the end of a run waits for the nodes' last means."""

DIGITS = 6
"""Of a node's id, beside its address: several nodes may share a machine."""

Log = Callable[[Mapping[str, float]], None]

_log = logging.getLogger(__name__)


@contextmanager
def nodes_sampled(log: Log, interval: float = INTERVAL_S) -> Iterator[None]:
    """Samples the other nodes of the cluster that this process has joined, those that come later too.

    Args:
        log: called from a thread with values by name, such as `system/10.0.0.7-3f2a90/cpu_utilization_percentage`.
        interval: seconds between two calls for a node.
    """
    import ray

    here, done = ray.get_runtime_context().get_node_id(), threading.Event()
    thread = threading.Thread(target=_watch, args=(log, interval, here, done), name="nodes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class NodeSampler:
    """Runs on a node, and holds its means until they are asked for."""

    def __init__(self, interval: float) -> None:
        self._means: dict[str, float] = {}
        self._sampler = Sampler(self._keep, interval)

    def means(self) -> dict[str, float]:
        """Of the last interval, each once; empty before the first has passed."""
        means, self._means = self._means, {}
        return means

    def _keep(self, values: Mapping[str, float]) -> None:
        self._means = dict(values)


def _watch(log: Log, interval: float, here: str, done: threading.Event) -> None:
    """Until `done`, with every node but `here`."""
    samplers: dict[str, Any] = {}
    asked: dict[Any, str] = {}
    ending = False
    while not ending:
        ending = done.wait(interval)
        for name, node in _others(here).items():
            if name not in samplers and not ending:
                samplers[name] = _sampler_on(node, interval)
        waiting = set(asked.values())
        asked |= {sampler.means.remote(): name for name, sampler in samplers.items() if name not in waiting}
        _take(asked, samplers, log, LAST_S if ending else interval)
    # The samplers end with the last that knows of them, which is this thread.


def _others(here: str) -> dict[str, str]:
    """The ids of the nodes that are there, by the name under which they are logged."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    return {f"{node['NodeManagerAddress']}-{node['NodeID'][:DIGITS]}": node["NodeID"] for node in nodes}


def _sampler_on(node: str, interval: float) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(NodeSampler).options(num_cpus=0, scheduling_strategy=place).remote(interval)


def _take(asked: dict[Any, str], samplers: dict[str, Any], log: Log, patience: float) -> None:
    """Logs what has been answered; a node that is lost is forgotten, and sampled again if it comes back."""
    import ray
    from ray.exceptions import RayError

    if not asked:
        return
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=patience)
    for answer in ready:
        name = asked.pop(answer)
        try:
            means: dict[str, float] = ray.get(answer)
        except RayError as error:
            _log.debug("node %s is not sampled: %s", name, error)
            samplers.pop(name, None)
            continue
        if means:
            log({f"{SYSTEM}{name}/{key.removeprefix(SYSTEM)}": value for key, value in means.items()})
