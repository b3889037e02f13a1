"""A Ray cluster for the length of a run: one that is there, or one of our own on loopback."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..platform.errors import ConcertError
from ..platform.settings import ClusterSettings
from . import watch

PROBE_S = 5.0
"""A cluster that has not answered by then is not there. Ray itself would go on asking for minutes."""

NOTE = "CONCERTRL_NOTE"
"""Environment: there where a guard stays beside this driver (experiments/guard.py)."""

LOOK_S = 0.5
"""Between looks at whether the servers of our own cluster are still there."""

STARTS = 3
"""Times that a cluster of our own is started before it is given up."""

CLUSTERED = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch for clusters of more than one machine; on by default but on Windows and macOS."""


@contextmanager
def ray_session(settings: ClusterSettings) -> Iterator[None]:
    """Connects to `settings.address`, or starts a local cluster and stops it at the end.

    Raises:
        ConcertError: nothing answers at the address.
    """
    _quieten()
    import ray

    if ray.is_initialized():
        yield
        return
    with _joined(settings.address) if settings.address else _own(settings):
        yield


@contextmanager
def _joined(address: str) -> Iterator[None]:
    import ray

    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():
            socket.create_connection((host.strip("[]"), int(port)), PROBE_S).close()
        _start(address=address)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConcertError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}; see cluster.address") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own(settings: ClusterSettings) -> Iterator[None]:
    wanted = 1 + settings.num_env_runners * settings.num_cpus_per_env_runner
    wanted += settings.num_learners * settings.num_cpus_per_learner
    with _loopback():
        # Processes that wait for each other may be more than the cores.
        cores = max(os.cpu_count() or 1, int(wanted))
        _start_own(num_cpus=cores, include_dashboard=False, _node_ip_address="127.0.0.1")
        with _watched():
            yield


@contextmanager
def _watched() -> Iterator[None]:
    """Ends with the driver what it started, however it ends; and a guarded driver with the cluster under it."""
    import ray
    from ray._private.worker import global_worker

    node: Any = global_worker.node
    command = [sys.executable, "-I", "-S", watch.__file__, str(os.getpid()), node.get_session_dir_path()]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    done = threading.Event()
    if os.environ.get(NOTE):
        threading.Thread(target=_leave_when_lost, args=(node, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        ray.shutdown()
        watcher.communicate()


def _leave_when_lost(node: Any, done: threading.Event) -> None:
    """Ray would end this process too, but a minute later; the guard beside it starts another."""
    servers = [info.process for kind in ("gcs_server", "raylet") for info in node.all_processes[kind]]
    while not done.wait(LOOK_S):
        if any(server.poll() is not None for server in servers) and not done.is_set():
            os._exit(1)


@contextmanager
def _loopback() -> Iterator[None]:
    """Keeps other machines out: Ray listens on 127.0.0.1 alone only where clusters of machines are switched off."""
    from ray._private import ray_constants

    # Ray's processes read the switch from the environment, and this one has read it when it imported Ray.
    before, told = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(CLUSTERED)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[CLUSTERED] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[CLUSTERED]
        if told is not None:
            os.environ[CLUSTERED] = told


def _start(**options: Any) -> None:
    import ray

    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)


def _start_own(**options: Any) -> None:
    """Starts a cluster, and again where the machine is so busy that Ray gives its own processes up."""
    import psutil
    import ray

    here = psutil.Process()
    for attempt in range(STARTS):
        before = set(here.children())
        try:
            _start(address="local", **options)
            return
        except Exception as error:  # of Ray's own processes that are late it tells by a plain Exception
            ray.shutdown()
            for process in set(here.children()) - before:
                process.kill()
            if attempt == STARTS - 1:
                reason = str(error).strip().partition("\n")[0]
                raise ConcertError(f"Ray does not start on this machine: {reason}") from None


def _quieten() -> None:
    """Keeps Ray's and RLlib's notices about themselves off the terminal; warnings of our own code stay."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    for name in ("ray", "ray.rllib", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Of runners and learners that die the trainer tells in a line; RLlib adds a page to it.
    for name in ("ray.rllib.utils.actor_manager", "ray.rllib.env.env_runner_group"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"ray\..*")
    warnings.filterwarnings("ignore", module=r"gymnasium\..*")
