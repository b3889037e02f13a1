"""How fast ballots are fused, against the same in plain numpy and in the library ranx, in one process and thread.

    1,024 users, 3 ballots of 50, a slate of 10  ->  interleaved rounds of each contender  ->  medians, users a second

Both the seconds on the wall and the processor's own are taken: on a busy machine the second say what the work costs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..platform.fusion import Ballots, fuse, known_rules
from ..platform.threads import torch_threads

USERS, AGENTS, LENGTH, SLATE = 1024, 3, 50, 10

CATALOG = 2_000
"""Items that the ballots are drawn from."""

WIDE = 2**31 - 2
"""The highest item id of the ballots whose memory is looked at: what a table of the catalog would have no room for."""

PEERED = {"reciprocal_rank": "rrf", "comb_sum": "sum"}
"""The rules that the ratios are given for, and their names in ranx."""

NO_NORM: Any = None
"""ranx takes None, although its annotation does not say so."""

Say = Callable[[str], None]
Call = Callable[[], Any]


def draw(seed: int = 0, catalog: int = CATALOG) -> tuple[Ballots, torch.Tensor]:
    """Random ballots and weights `(B, A)`."""
    noise = np.random.default_rng(seed)
    items = np.stack([noise.choice(catalog, LENGTH, replace=False) for _ in range(USERS * AGENTS)])
    scores = -np.sort(-noise.normal(size=(USERS, AGENTS, LENGTH)), axis=2)
    weights = noise.dirichlet(np.full(AGENTS, 5.0), USERS)
    ballots = Ballots(torch.from_numpy(items.reshape(USERS, AGENTS, LENGTH)), torch.from_numpy(scores).float())
    return ballots, torch.from_numpy(weights).float()


def plain_numpy(items: NDArray[np.int64], points: NDArray[np.float32]) -> NDArray[np.int64]:
    """`(B, K)`: as the definition reads: user by user, points added up by item, the best K taken."""
    slates = np.empty((len(items), SLATE), np.int64)
    for user in range(len(items)):
        named, place = np.unique(items[user], return_inverse=True)
        total = np.bincount(place.ravel(), points[user].ravel())
        slates[user] = named[np.argsort(-total, kind="stable")[:SLATE]]
    return slates


def measure(rounds: int = 5, say: Say = lambda line: None) -> dict[str, Any]:
    """Users a second of every rule, and the ratios to numpy and ranx for the rules in `PEERED`.

    Args:
        rounds: interleaved, after one that is not counted.
        say: told, in a line, what is done.
    """
    ballots, weights = draw()
    with torch_threads(1):
        say("drawing the ballots, and compiling ranx")
        calls = _contenders(ballots, weights)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for turn in range(rounds + 1):
            for name, call in calls.items():
                wall, own = time.perf_counter(), time.process_time()
                call()
                times[name].append((time.perf_counter() - wall, time.process_time() - own))
            say("warm-up done" if turn == 0 else f"round {turn} of {rounds} done")
        grown = _memory(ballots, weights)
    rates = {
        name: {key: round(USERS / max(1e-9, median(found[place] for found in each[1:]))) for place, key in _CLOCKS}
        for name, each in times.items()
    }
    ratios = {
        f"{rule} over {peer}": round(rates[rule]["processor"] / rates[f"{rule} in {peer}"]["processor"], 1)
        for rule in PEERED
        for peer in ("numpy", "ranx")
        if f"{rule} in {peer}" in rates
    }
    return {
        "users": USERS, "ballots": AGENTS, "length": LENGTH, "slate": SLATE, "rounds": rounds,
        "users_per_s": rates, "ratios": ratios, "allocated_bytes": grown, "cores": os.cpu_count(),
    }  # fmt: skip


_CLOCKS = ((0, "wall"), (1, "processor"))


def _contenders(ballots: Ballots, weights: torch.Tensor) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    for rule in known_rules():
        calls[rule] = lambda rule=rule: fuse(ballots, weights, rule, SLATE)
    items, say = ballots.items.numpy(), weights.numpy()[:, :, None]
    ranks = np.broadcast_to(1.0 / (60.0 + np.arange(1, LENGTH + 1)), items.shape)
    calls["reciprocal_rank in numpy"] = lambda: plain_numpy(items, (ranks * say).astype(np.float32))
    calls["comb_sum in numpy"] = lambda: plain_numpy(items, ballots.scores.numpy() * say)
    try:
        from ranx import Run
        from ranx import fuse as ranx_fuse
    except ImportError:
        return calls  # the peer is a development dependency
    runs = [_as_run(Run, ballots, agent) for agent in range(AGENTS)]
    for rule, name in PEERED.items():
        calls[f"{rule} in ranx"] = lambda name=name: ranx_fuse(runs, norm=NO_NORM, method=name)
    return calls


def _as_run(run: Any, ballots: Ballots, agent: int) -> Any:
    """An agent's ballots as a ranx run."""
    pairs = zip(ballots.items[:, agent].tolist(), ballots.scores[:, agent].tolist(), strict=True)
    table = {f"u{user}": {f"i{i}": s for i, s in zip(*each, strict=True)} for user, each in enumerate(pairs)}
    return run(table, name=f"agent {agent}")


def _memory(ballots: Ballots, weights: torch.Tensor) -> dict[str, int]:
    """Bytes that torch allocates for a small catalog and for one of two thousand million items."""
    wide = Ballots(ballots.items * (WIDE // CATALOG), ballots.scores)
    return {
        name: _allocated(lambda each=each: fuse(each, weights, "comb_sum", SLATE))
        for name, each in (("small_catalog", ballots), ("wide_catalog", wide))
    }


def _allocated(call: Call) -> int:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    return sum(max(0, event.self_cpu_memory_usage) for event in seen.events() or ())


def report(found: dict[str, Any]) -> str:
    """The result as a person reads it."""
    lines = [
        f"{found['users']:,} users, {found['ballots']} ballots of {found['length']}, a slate of {found['slate']}, "
        f"one thread; medians of {found['rounds']} rounds",
        f"{'users a second':28}{'processor':>12}{'wall':>12}",
    ]
    for name, rates in sorted(found["users_per_s"].items(), key=lambda pair: -pair[1]["processor"]):
        lines.append(f"{name:28}{rates['processor']:12,}{rates['wall']:12,}")
    lines += ["", *(f"{name:36}{ratio:8.1f} x" for name, ratio in found["ratios"].items())]
    small, wide = found["allocated_bytes"].values()
    lines.append(f"memory allocated for a fusion: {small:,} bytes; with item ids up to 2^31: {wide:,} bytes")
    return "\n".join(lines)
