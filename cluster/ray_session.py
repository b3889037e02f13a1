"""A Ray cluster for the length of a run: one that is there, or one of our own on loopback."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ..platform.errors import ConcertError
from ..platform.settings import ClusterSettings


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
    wanted = 1 + settings.num_env_runners * settings.num_cpus_per_env_runner
    wanted += settings.num_learners * settings.num_cpus_per_learner
    try:
        if settings.address:
            ray.init(address=settings.address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                # Processes that wait for each other may be more than the cores.
                num_cpus=max(os.cpu_count() or 1, int(wanted)),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = settings.address or "this machine"
        raise ConcertError(f"no Ray cluster on {where}: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _quieten() -> None:
    """Keeps Ray's and RLlib's notices about themselves off the terminal; warnings of our own code stay."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    for name in ("ray", "ray.rllib", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"ray\..*")
    warnings.filterwarnings("ignore", module=r"gymnasium\..*")
