"""What the machine is doing, sampled beside a run: processor, memory, disk, network, GPU."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from .destination import quiet

INTERVAL_S = 5.0
SHORTEST_S = 0.5
"""A last sample over less than this says nothing."""

SYSTEM = "system/"
"""Begins the names that MLflow's UI shows as system metrics."""

_log = logging.getLogger(__name__)


class Sampler:
    """Calls `log` with the means since the last call, every `INTERVAL_S` and once at `stop`.

    MLflow's monitors measure, under the names that its UI shows as system metrics. Its own thread around them would
    give up at the first call that the server does not answer, so the values go through `log`.
    """

    def __init__(self, log: Callable[[Mapping[str, float]], None], interval: float = INTERVAL_S) -> None:
        self._monitors = _monitors()
        self._log, self._interval = log, interval
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="machine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Takes a last sample and ends the thread."""
        self._stopping.set()
        self._thread.join()

    def _sample(self) -> None:
        self._collect()  # psutil compares with the thread's last reading; the first means nothing
        self._clear()
        stopping = False
        while not stopping:
            since = time.monotonic()
            stopping = self._stopping.wait(self._interval)
            if stopping and time.monotonic() - since < min(SHORTEST_S, self._interval):
                return
            self._collect()
            means = [monitor.aggregate_metrics() for monitor in self._monitors]
            self._log({f"{SYSTEM}{name}": value for part in means for name, value in part.items()})
            self._clear()

    def _collect(self) -> None:
        for monitor in self._monitors:
            monitor.collect_metrics()

    def _clear(self) -> None:
        for monitor in self._monitors:
            monitor.clear_metrics()


def _monitors() -> list[Any]:
    with quiet():
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        try:
            monitors.append(GPUMonitor())
        except Exception as error:  # no driver, no library, no device: each says so in its own way
            _log.debug("no GPU is sampled: %s", error)
    return monitors
