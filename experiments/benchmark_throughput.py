"""Throughput against our peers, side by side in one process and one thread.

    synthetic stage  ->  stock RLlib, ours, plain torch, the environment alone
                     ->  rounds: each samples once and trains once  ->  medians of env steps a second  ->  ratios

Every contender plays the same users with the same networks and hyper-parameters. Rounds are interleaved, so that a busy
neighbour slows all of them, and the first one, a warm-up, is not counted.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import torch

from ..cluster.peers import batched_peer, stock_peer
from ..cluster.ray_session import ray_session
from ..envs import BatchedEnv, ConcertEnv, Stage
from ..envs.stage import keep
from ..envs.synthetic import synthetic_stage
from ..platform.settings import (
    AgentsSettings,
    ClusterSettings,
    EncoderSettings,
    EnvSettings,
    Experiment,
    FusionSettings,
    RewardSettings,
    TrainSettings,
    WorldSettings,
)
from ..platform.threads import torch_threads
from .plain_torch import PlainTorch

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """What is measured; the defaults are those that results are quoted for.

    Attributes:
        users, items, dim: of the synthetic world and its towers.
        horizon: steps of a session.
        sessions: batch widths of our path and of plain torch; the last one gives the ratios.
        stock_envs: environments of the stock runner.
        stock_batch: env steps of a stock iteration.
        minibatch: of every contender.
    """

    users: int = 2000
    items: int = 2000
    dim: int = 16
    horizon: int = 20
    sessions: tuple[int, ...] = (256, 1024)
    stock_envs: int = 64
    stock_batch: int = 5120
    minibatch: int = 1280


@dataclass(frozen=True)
class Found:
    """What a benchmark ends with.

    Attributes:
        machine: processor, cores, threads used, versions.
        rounds: counted ones.
        ratios: `sampling_vs_stock`, `training_vs_stock`, `training_vs_torch`, ours over theirs.
        medians: env steps a second by contender, of `sampling` and of `training` (a whole iteration).
        env_steps: that each contender took in the counted rounds.
    """

    machine: dict[str, Any]
    rounds: int
    ratios: dict[str, float]
    medians: dict[str, dict[str, float]]
    env_steps: dict[str, dict[str, int]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Contender(Protocol):
    """Someone who plays the environment, and learns from it; each call returns the env steps it took."""

    def sample(self) -> int: ...
    def train(self) -> int: ...
    def stop(self) -> None: ...


@dataclass
class Times:
    """Seconds and env steps of a contender's calls, one entry a round."""

    seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def time(self, call: Callable[[], int]) -> None:
        gc.collect()
        started = time.perf_counter()
        self.steps.append(call())
        self.seconds.append(time.perf_counter() - started)

    def rate(self) -> float:
        """Median env steps a second, without the warm-up."""
        pairs = zip(self.steps[1:], self.seconds[1:], strict=True)
        return median(steps / max(seconds, 1e-9) for steps, seconds in pairs)


class EnvironmentAlone:
    """The environment without policies: what no trainer can be faster than."""

    def __init__(self, stage: Stage, sessions: int, steps: int) -> None:
        self.steps = steps
        self.env = BatchedEnv(stage, sessions=sessions, seed=0)
        sizes = {agent: self.env.ensemble.action_dim(agent) for agent in self.env.agents}
        self.actions = {agent: torch.zeros(sessions, size) for agent, size in sizes.items()}

    def sample(self) -> int:
        for _ in range(self.steps):
            self.env.renew(self.env.step(self.actions).done)
        return self.steps * self.env.sessions


class PettingZooAlone:
    """One PettingZoo environment without policies: the part of the stock peer's time that is our own."""

    def __init__(self, stage: Stage, steps: int) -> None:
        self.steps, self.env = steps, ConcertEnv(stage)
        self.actions = {
            agent: np.zeros(self.env.action_space(agent).shape, np.float32) for agent in self.env.possible_agents
        }

    def sample(self) -> int:
        for _ in range(self.steps):
            if not self.env.agents:
                self.env.reset()
            self.env.step(self.actions)
        return self.steps


def measure(rounds: int = 5, say: Say = lambda line: None, sizes: Sizes | None = None) -> Found:
    """Measures every contender in `rounds` interleaved rounds after a warm-up.

    Args:
        rounds: at least 1.
        say: told, in a line, what is being done.
        sizes: smaller ones make a quick check, not a result.
    """
    sizes = sizes or Sizes()
    with torch_threads(1), tempfile.TemporaryDirectory(prefix="concertrl-") as cache, ray_session(ClusterSettings()):
        say("building stock RLlib, our own path, and plain torch")
        learners, players = _contenders(sizes, cache)
        times: dict[str, dict[str, Times]] = {name: {"sampling": Times(), "training": Times()} for name in learners}
        times |= {name: {"sampling": Times()} for name in players}
        for turn in range(rounds + 1):
            for name, player in (learners | players).items():
                times[name]["sampling"].time(player.sample)
            for name, learner in learners.items():
                times[name]["training"].time(learner.train)
            say("warm-up done" if turn == 0 else f"round {turn} of {rounds}: {_line(times)}")
        for learner in learners.values():
            learner.stop()
    return _found(rounds, times, sizes.sessions[-1])


def _contenders(sizes: Sizes, cache: str) -> tuple[dict[str, Contender], dict[str, Any]]:
    """Those who sample and train, and those who only play, by name."""
    stages = {sessions: synthetic_stage(_experiment(sizes, sessions, cache), sizes.dim) for sessions in sizes.sessions}
    widest = sizes.sessions[-1]
    keep(stages[widest])  # a stage does not depend on the number of sessions
    learners: dict[str, Contender] = {"stock": stock_peer(stages[widest], sizes.stock_envs, sizes.stock_batch)}
    learners |= {f"concertrl_{sessions}": batched_peer(stage) for sessions, stage in stages.items()}
    learners |= {f"torch_{sessions}": PlainTorch(stage) for sessions, stage in stages.items()}
    return learners, {
        "pettingzoo_alone": PettingZooAlone(stages[widest], steps=10 * sizes.horizon),
        f"environment_{widest}": EnvironmentAlone(stages[widest], widest, steps=sizes.horizon),
    }


def _experiment(sizes: Sizes, sessions: int, cache: str) -> Experiment:
    return Experiment(
        name="throughput",
        world=WorldSettings(users=sizes.users, items=sizes.items),
        agents=AgentsSettings(encoder=EncoderSettings(cache=cache)),
        fusion=FusionSettings(weights="equal", conductor=False),
        env=EnvSettings(sessions=sessions, slate=10, horizon=sizes.horizon),
        # What the peers do: rewards as they fall, critics that see what their agents see, agents that do not fail.
        reward=RewardSettings(credit="team", expected=False),
        train=TrainSettings(
            minibatch=sizes.minibatch, epochs=4, learning_rate=3e-4, hidden=(64, 64), critic="own", faults=0.0
        ),
    )


def _line(times: Mapping[str, Mapping[str, Times]]) -> str:
    parts = [
        f"{name} {parts['sampling'].steps[-1] / parts['sampling'].seconds[-1]:,.0f}" for name, parts in times.items()
    ]
    return "sampling " + ", ".join(parts) + " env steps/s"


def _found(rounds: int, times: Mapping[str, Mapping[str, Times]], widest: int) -> Found:
    exact = {name: {part: kept.rate() for part, kept in parts.items()} for name, parts in times.items()}
    ours, stock, plain = exact[f"concertrl_{widest}"], exact["stock"], exact[f"torch_{widest}"]
    ratios = {
        "sampling_vs_stock": ours["sampling"] / stock["sampling"],
        "training_vs_stock": ours["training"] / stock["training"],
        "training_vs_torch": ours["training"] / plain["training"],
    }
    return Found(
        machine=_machine(),
        rounds=rounds,
        ratios={name: round(ratio, 3) for name, ratio in ratios.items()},
        medians={name: {part: round(rate, 1) for part, rate in rates.items()} for name, rates in exact.items()},
        env_steps={name: {part: sum(kept.steps[1:]) for part, kept in parts.items()} for name, parts in times.items()},
    )


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": 1,
        "python": ".".join(map(str, sys.version_info[:3])),
        **{name: version(name) for name in ("torch", "ray", "numpy")},
    }


def _processor() -> str:
    """The processor's name where the system tells it, and the widest vectors torch uses on it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text("utf-8", "replace").splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown'}, {torch.backends.cpu.get_cpu_capability()}"


def report(found: Found) -> str:
    """The result as a person reads it."""
    machine, stock = found.machine, found.medians["stock"]
    lines = [
        f"{machine['processor']}, 1 thread, torch {machine['torch']}, ray {machine['ray']}",
        f"medians of {found.rounds} interleaved rounds, env steps/s",
        "",
        f"{'':24}{'sampling':>12}{'x stock':>9}{'training':>12}{'x stock':>9}",
    ]
    for name, rates in found.medians.items():
        cells = "".join(f"{rate:12,.0f}{rate / stock[part]:9.1f}" for part, rate in rates.items())
        lines.append(f"{name:24}{cells}")
    own = stock["sampling"] / found.medians["pettingzoo_alone"]["sampling"]
    lines += ["", *(f"{name:24}{ratio:12.2f}" for name, ratio in found.ratios.items())]
    lines += [f"of stock's sampling time, our own environment, one session at a time, takes {100 * own:.0f} %"]
    return "\n".join(lines)
