"""What a run would place where, before anything starts: a dry run against the nodes that are there.

    experiment  --parts-->  driver, learners, env runners, fits   --plan-->  a node for each, or what is short
    dashboard, or this machine  -->  nodes and their resources

Nodes are taken as empty: a plan tells whether a run can ever be placed, not whether it has to wait for another one. Ray
may choose other nodes of the same kind.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..platform.settings import Experiment
from .dashboard import Node
from .placement import Part, described, parts

FIT = "fit of a tower"

LEFT_OUT = ("memory", "object_store_memory")
"""Resources that nothing of a run asks for."""


@dataclass(frozen=True)
class Placed:
    """A process of a run, what it takes, and the node it goes to; None where there is no room."""

    what: str
    needs: dict[str, float]
    node: Node | None


@dataclass(frozen=True)
class Plan:
    """Where everything of a run goes.

    Attributes:
        fits: whether there is room for all of it.
        short: what is missing, in a line; empty where nothing is.
    """

    nodes: tuple[Node, ...]
    placed: tuple[Placed, ...]
    fits: bool
    short: str

    def as_dict(self) -> dict[str, Any]:
        nodes = [
            {"node": node.node_id, "host": node.host, "ip": node.ip, "head": node.head, "resources": node.total}
            for node in self.nodes
        ]
        placed = [{"what": one.what, "needs": one.needs, "node": one.node and one.node.node_id} for one in self.placed]
        return {"fits": self.fits, "short": self.short, "nodes": nodes, "placed": placed}


def make_plan(experiment: Experiment, nodes: Sequence[Node]) -> Plan:
    """Places a run on nodes, as `cluster.placement` says; the largest processes first.

    The driver is on the head where it takes nothing. Fits come and go before training, each on its own, so that one
    needs no more than a node with room for it.
    """
    cluster = experiment.cluster
    free = {node.node_id: dict(node.total) for node in nodes}
    needs = {"CPU": cluster.num_cpus_driver, "GPU": cluster.num_gpus_driver}
    driver = Part("driver", {name: amount for name, amount in needs.items() if amount})
    placed = [Placed(driver.what, driver.needs, _take(driver.needs, nodes[:1] if not driver.needs else nodes, free))]
    strategy = cluster.placement if cluster.address is not None else "PACK"
    placed += _bundles(parts(cluster), nodes, free, strategy)
    fit = {"CPU": cluster.num_cpus_per_fit, "GPU": cluster.num_gpus_per_fit}
    fit = {name: amount for name, amount in fit.items() if amount}
    if cluster.address is not None:
        place = next((node for node in nodes if _room(fit, node.total)), None)
        placed.append(Placed(FIT, fit, place))
    return Plan(tuple(nodes), tuple(placed), all(one.node for one in placed), _short(placed, nodes, strategy))


def this_machine(experiment: Experiment) -> list[Node]:
    """The cluster of its own that a run without an address starts: as many CPUs as the run's processes ask for."""
    cpus = 1 + sum(part.needs.get("CPU", 0.0) for part in parts(experiment.cluster))
    total = {"CPU": float(max(os.cpu_count() or 1, int(cpus)))} | ({"GPU": float(found)} if (found := _gpus()) else {})
    return [Node("this machine", socket.gethostname(), "127.0.0.1", True, total)]


def plan_text(plan: Plan) -> str:
    """The plan for a person: the nodes, and what goes where."""
    lines = ["what            takes                     node"]
    for one in plan.placed:
        where = f"{one.node.node_id[:12]} ({one.node.ip})" if one.node else "no room"
        lines.append(f"{one.what:15} {described(one.needs):25} {where}")
    lines += ["", "node            has"]
    for node in plan.nodes:
        lines.append(f"{node.node_id[:12]:15} {described(_shown(node.total))}{' (head)' if node.head else ''}")
    return "\n".join(lines)


def _bundles(
    wanted: Sequence[Part], nodes: Sequence[Node], free: dict[str, dict[str, float]], how: str
) -> list[Placed]:
    order = sorted(wanted, key=lambda part: (-part.needs.get("GPU", 0.0), -part.needs.get("CPU", 0.0)))
    if how == "STRICT_PACK" and wanted:
        names = {name for part in wanted for name in part.needs}
        together = {name: sum(part.needs.get(name, 0.0) for part in wanted) for name in names}
        node = _take(together, nodes, free)
        return [Placed(part.what, part.needs, node) for part in wanted]
    used: dict[str, int] = {node.node_id: 0 for node in nodes}
    found = {}
    for part in order:
        spread = how in ("SPREAD", "STRICT_SPREAD")
        ranked = sorted(nodes, key=lambda node: used[node.node_id] * (1 if spread else -1))
        if how == "STRICT_SPREAD":
            ranked = [node for node in ranked if not used[node.node_id]]
        found[part.what] = node = _take(part.needs, ranked, free)
        if node is not None:
            used[node.node_id] += 1
    return [Placed(part.what, part.needs, found[part.what]) for part in wanted]


def _take(needs: Mapping[str, float], nodes: Sequence[Node], free: dict[str, dict[str, float]]) -> Node | None:
    """The first node with room, whose room is then taken."""
    for node in nodes:
        room = free[node.node_id]
        if _room(needs, room):
            for name, amount in needs.items():
                room[name] -= amount
            return node
    return None


def _room(needs: Mapping[str, float], room: Mapping[str, float]) -> bool:
    return all(room.get(name, 0.0) >= amount - 1e-9 for name, amount in needs.items())


def _short(placed: Sequence[Placed], nodes: Sequence[Node], strategy: str) -> str:
    missing = [one for one in placed if one.node is None]
    if not missing:
        return ""
    wanted: dict[str, float] = {}
    for one in placed:
        for name, amount in one.needs.items():
            wanted[name] = max(wanted.get(name, 0.0), amount) if one.what == FIT else wanted.get(name, 0.0) + amount
    lacks = []
    for name, amount in wanted.items():
        has = sum(node.total.get(name, 0.0) for node in nodes)
        if has < amount:
            lacks.append(f"{amount:g} {name} wanted, {has:g} there")
    counted = f"no room for {len(missing)} of {len(placed)} processes, such as {missing[0].what}"
    why = "; ".join(lacks) or f"enough in all, but not on single nodes (cluster.placement={strategy})"
    return f"{counted} ({described(missing[0].needs)}): {why}"


def _shown(resources: Mapping[str, float]) -> dict[str, float]:
    kept = {name: amount for name, amount in resources.items() if ":" not in name and name not in LEFT_OUT}
    memory = resources.get("memory")
    return kept | ({"GiB memory": round(memory / 2**30, 1)} if memory else {})


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
