"""Where the processes of a run go: one placement group, so that all of them find room together or none does.

    ClusterSettings  --parts-->  learners and runners, each with what it needs
                     --reserve-->  a placement group of Ray's, a bundle a part, on the cluster that was joined

Without it Ray starts a run's processes one by one: two runs may each hold half of what they need, for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from ..platform.errors import ConcertError
from ..platform.settings import ClusterSettings

SOON_S = 5.0
"""A run that waits longer for its place says so."""

SHOWN = 12
"""Digits of a node's id that are told."""


@dataclass(frozen=True)
class Part:
    """A process of a run, and the resources it takes by Ray's names."""

    what: str
    needs: dict[str, float]


def parts(cluster: ClusterSettings) -> list[Part]:
    """The runners and the learners of a run, in the order of their bundles. What learns or samples in the driver is
    none."""
    runner = _needs(cluster.num_cpus_per_env_runner, cluster.num_gpus_per_env_runner, cluster.resources_per_env_runner)
    learner = _needs(cluster.num_cpus_per_learner, cluster.num_gpus_per_learner, cluster.resources_per_learner)
    runners = [Part(f"env runner {index + 1}", runner) for index in range(cluster.num_env_runners)]
    return runners + [Part(f"learner {index + 1}", learner) for index in range(cluster.num_learners)]


def described(needs: Mapping[str, float]) -> str:
    """Such as `1 CPU, 0.5 GPU`."""
    return ", ".join(f"{amount:g} {name}" for name, amount in needs.items()) or "nothing"


def reserve(cluster: ClusterSettings, tell: Callable[[str], None] = lambda line: None) -> Any:
    """A placement group for the parts, once all of them have room; None where the run has none of its own to make.

    That is so on a cluster of our own, which is as large as it must be, inside a trial of a sweep, which has a group
    already, with `cluster.placement=none`, and where a part takes nothing.

    Raises:
        ConcertError: there was no room for all of them in `cluster.placement_timeout_s`.
    """
    wanted = parts(cluster)
    if cluster.address is None or cluster.placement == "none" or not wanted or not all(part.needs for part in wanted):
        return None
    import ray
    from ray.util import get_current_placement_group, placement_group, remove_placement_group

    if get_current_placement_group() is not None:
        return None
    group = placement_group([part.needs for part in wanted], strategy=cluster.placement)
    soon = min(SOON_S, cluster.placement_timeout_s)
    if group.wait(soon):
        return group
    tell(f"waiting for room for {_counted(wanted)}")
    if group.wait(cluster.placement_timeout_s - soon):
        return group
    remove_placement_group(group)
    raise ConcertError(
        f"the cluster had no room for {_counted(wanted)} in {cluster.placement_timeout_s:g} s (free: "
        f"{described(_plain(ray.available_resources()))}); `concertrl plan` tells what is short"
    )


def release(group: Any) -> None:
    """Gives back what was reserved."""
    if group is not None:
        from ray.util import remove_placement_group

        remove_placement_group(group)


@contextmanager
def runners_placed(group: Any) -> Iterator[None]:
    """Env runners that RLlib makes meanwhile go into the first bundles of the group, one each.

    RLlib looks only at the group that its own process runs in, and a driver runs in none.
    """
    if group is None:
        yield
        return
    from ray.rllib.algorithms import algorithm
    from ray.rllib.env.env_runner_group import EnvRunnerGroup
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    class PlacedRunners(EnvRunnerGroup):
        def _make_worker(self, *, worker_index: int, **more: Any) -> Any:
            place = PlacementGroupSchedulingStrategy(group, max(worker_index, 1) - 1)
            self._remote_args["scheduling_strategy"] = place
            return super()._make_worker(worker_index=worker_index, **more)

    with mock.patch.object(algorithm, "EnvRunnerGroup", PlacedRunners):
        yield


def placed_text(algorithm: Any) -> str:
    """Where an algorithm's env runners and learners are, such as `env runners: 2 on 3f2a90c1 (10.0.0.7)`."""
    runners = algorithm.env_runner_group.foreach_env_runner(_node, local_env_runner=False)
    learners = algorithm.learner_group
    there = [] if learners.is_local else [answer.get() for answer in learners.foreach_learner(_node)]
    told = [f"{what}: {_by_node(nodes)}" for what, nodes in (("env runners", runners), ("learners", there)) if nodes]
    return "; ".join(told) or "env runner and learner: in the driver"


def _node(part: Any) -> str:
    import ray

    return f"{ray.get_runtime_context().get_node_id()[:SHOWN]} ({ray.util.get_node_ip_address()})"


def _by_node(nodes: list[str]) -> str:
    return ", ".join(f"{nodes.count(node)} on {node}" for node in sorted(set(nodes)))


def _needs(cpus: float, gpus: float, more: dict[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in {"CPU": cpus, "GPU": gpus, **more}.items() if amount}


def _counted(wanted: list[Part]) -> str:
    kinds: dict[str, list[Part]] = {}
    for part in wanted:
        kinds.setdefault(part.what.rpartition(" ")[0], []).append(part)
    return " and ".join(
        f"{len(some)} {kind}{'s' if len(some) > 1 else ''} ({described(some[0].needs)} each)"
        for kind, some in kinds.items()
    )


def _plain(resources: Mapping[str, float]) -> dict[str, float]:
    """Without what Ray names after nodes and groups, and without its object store."""
    return {
        name: amount
        for name, amount in resources.items()
        if ":" not in name and "_group_" not in name and name not in ("memory", "object_store_memory")
    }
