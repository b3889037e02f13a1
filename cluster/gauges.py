"""How a training run does, as gauges on Ray's metrics page, for Prometheus and the dashboard in `manifests/`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

GAUGES = {
    "team/return": ("concertrl_team_return", "return of a session while the team learns"),
    "throughput/env_steps_per_s": ("concertrl_env_steps_per_s", "environment steps a second"),
    "throughput/sample_s": ("concertrl_sample_s", "seconds an iteration samples"),
    "throughput/learn_s": ("concertrl_learn_s", "seconds an iteration learns"),
    "env_steps": ("concertrl_env_steps", "environment steps sampled so far"),
}
"""Metric of an iteration to the gauge's name, to which Ray puts `ray_`, and what it says."""


def show(experiment: str, metrics: Mapping[str, float], env_steps: int) -> None:
    """Sets the gauges to an iteration's metrics."""
    for name, value in {**metrics, "env_steps": float(env_steps)}.items():
        if name in GAUGES:
            _gauge(name).set(value, {"experiment": experiment})


@cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    called, meaning = GAUGES[name]
    return Gauge(called, meaning, tag_keys=("experiment",))
