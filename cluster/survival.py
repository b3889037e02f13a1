"""What an algorithm is between two iterations, as tensors; and what is done when a part of it died.

    learner/weights/NETWORK/...     policies and critics
    learner/optimiser/NAME/...      moments of the optimisers
    runner/I/...                    the sessions of runner I, and how often it has sampled

Everything else is a function of the experiment and the counts beside the tensors: draws come from (seed, session,
step), exploration from (seed, runner, sample), the order of minibatches from (seed, env steps). RLlib's own counters
and windows are not among it, since no metric of ours reads them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from torch import Tensor

from .algorithms import SILENT_S, BatchedPPO, LostError
from .learner import BatchedPPOLearner, part
from .runner import BatchedEnvRunner


def capture(algorithm: BatchedPPO) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The algorithm as it stands: tensors by name, and counts.

    Raises:
        LostError, RayError: a runner or a learner died.
    """
    # Learners step together, so the first one says all.
    learned, updates = _ask_learners(algorithm, BatchedPPOLearner.kept)[0]
    tensors = {f"learner/{name}": value for name, value in learned.items()}
    runners = dict(algorithm.ask_runners(_played, algorithm.samples))
    for number, played in runners.items():
        tensors |= {f"runner/{number}/{name}": value for name, value in played.items()}
    counts = {"env_steps": algorithm.env_steps, "samples": algorithm.samples, "updates": updates}
    return tensors, {**counts, "runners": list(runners)}


def reinstate(algorithm: BatchedPPO, tensors: Mapping[str, Tensor], words: Mapping[str, Any]) -> None:
    """Puts the algorithm where `capture` found one. Sessions begin anew where the runners or sessions are not as many.

    Raises:
        KeyError, RuntimeError: it is of other networks.
        LostError, RayError: a runner or a learner died.
    """
    learned, updates = part(tensors, "learner/"), int(words["updates"])
    _ask_learners(algorithm, partial(BatchedPPOLearner.take, kept=learned, updates=updates))
    config: Any = algorithm.config
    played = {number: part(tensors, f"runner/{number}/") for number in words["runners"]}
    same = list(played) == (list(range(1, config.num_env_runners + 1)) or [0])
    same = same and all(mine["tally"].shape[1] == config.num_envs_per_env_runner for mine in played.values())
    algorithm.env_steps, algorithm.samples = int(words["env_steps"]), int(words["samples"])
    take = partial(
        BatchedEnvRunner.take,
        weights=part(learned, "weights/"),
        updates=updates,
        sessions=played if same else None,
        samples=algorithm.samples,
    )
    algorithm.ask_runners(take, algorithm.samples)


def recover(algorithm: BatchedPPO) -> None:
    """Waits for the runners that Ray starts anew, and builds new learners where one died.

    Raises:
        LostError, RayError: it did not work.
    """
    runners: Any = algorithm.env_runner_group
    until = time.monotonic() + SILENT_S
    while runners.num_healthy_remote_workers() < runners.num_remote_workers():
        if time.monotonic() > until:
            raise LostError(f"env runners that died did not come back in {SILENT_S:.0f} s")
        runners.probe_unhealthy_env_runners()
        time.sleep(0.1)
    learners: Any = algorithm.learner_group
    if not learners.is_local and learners._worker_manager.num_healthy_actors() < len(learners):
        config: Any = algorithm.config
        learners.shutdown()
        spec: MultiRLModuleSpec = config.get_multi_rl_module_spec(spaces=config.env_config["spaces"])
        algorithm.learner_group = config.build_learner_group(rl_module_spec=spec)


def lost(error: Exception, algorithm: BatchedPPO) -> str | None:
    """What died, in words, where the error comes of that; None where it is an error of its own."""
    if isinstance(error, RayTaskError):
        return f"a learner failed: {_line(error.cause)}"
    if isinstance(error, RayActorError):
        return "a learner died"
    if isinstance(error, RayError | LostError):
        return _line(error)
    learners: Any = algorithm.learner_group
    # Of a learner that died between two calls RLlib tells by an index that is out of range.
    if isinstance(error, IndexError | AssertionError) and not learners.is_local:
        return "a learner died"
    return None


def dismantle(algorithm: BatchedPPO) -> None:
    """Ends the runners and learners; those that died already are no matter."""
    try:
        algorithm.stop()
    except (RayError, IndexError, AssertionError):
        for group in (algorithm.env_runner_group, algorithm.learner_group):
            if (manager := getattr(group, "_worker_manager", None)) is not None:
                manager.clear()


def _ask_learners(algorithm: BatchedPPO, ask: Callable[[BatchedPPOLearner], Any]) -> list[Any]:
    """What every learner answers. RLlib passes over those that died, and hands errors over as if they were answers."""
    group: Any = algorithm.learner_group
    answers = list(group.foreach_learner(ask))
    if len(answers) < len(group):
        raise LostError("a learner died")
    for answer in answers:
        if not answer.ok:
            raise answer.get()
    return [answer.get() for answer in answers]


def _played(runner: BatchedEnvRunner) -> tuple[int, dict[str, Tensor]]:
    return runner.worker_index, runner.kept()


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
