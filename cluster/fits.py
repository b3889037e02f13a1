"""Towers fitted as tasks of a Ray cluster, all at once, and kept where `prepare` looks for them.

experiment  ->  logs, put into the object store once  ->  a task for each tower that is not in the cache
            ->  towers, as they are done  ->  the driver's cache
"""

from __future__ import annotations

from collections.abc import Callable

from ..agents.tower import Tower
from ..agents.towers import fit_towers, keep_towers, missing_towers
from ..envs.stage import tower_logs
from ..platform.agent_settings import AgentsSettings
from ..platform.errors import ConcertError, InputError
from ..platform.logs import Logs
from ..platform.settings import Experiment


def fit_on_cluster(experiment: Experiment, say: Callable[[str], None] = lambda line: None) -> tuple[str, ...]:
    """Fits the towers that the cache lacks on the Ray cluster that this process has joined; gives their names.

    A task uses the cache of the machine it runs on, so that its embeddings are made there once. A GPU is used where
    `cluster.num_gpus_per_fit` gives the task one.

    Raises:
        InputError: the dataset or the logs cannot be used.
        ConcertError: a task failed, or its machine was lost.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    logs, settings, seed = tower_logs(experiment), experiment.agents, experiment.seed
    names = missing_towers(logs, settings, seed)
    if not names:
        return ()
    cluster = experiment.cluster
    task = ray.remote(num_cpus=cluster.num_cpus_per_fit, num_gpus=cluster.num_gpus_per_fit)(_fit)
    shared = ray.put(logs)
    waiting = {task.remote(name, shared, settings, seed): name for name in names}
    say(f"fitting {', '.join(names)} on the Ray cluster")
    while waiting:
        (done,), _ = ray.wait(list(waiting))
        name = waiting.pop(done)
        try:
            tower: Tower = ray.get(done)
        except RayTaskError as error:
            if isinstance(error.cause, InputError | ConcertError):
                raise error.cause from None
            raise ConcertError(f"the fit of {name} failed on the cluster: {error.cause}") from None
        except RayError as error:
            raise ConcertError(f"the fit of {name} was lost: {str(error).splitlines()[0]}") from None
        keep_towers({name: tower}, logs, settings, seed)
        say(f"{name}: fitted on the cluster, {len(waiting)} to go")
    return names


def _fit(name: str, logs: Logs, settings: AgentsSettings, seed: int) -> Tower:
    return fit_towers(logs, settings.model_copy(update={"names": (name,)}), seed)[name]
