"""A team in training: the algorithm, one iteration at a time, and the team as it stands.

Stage  ->  Trainer  --iterate-->  metrics, plain numbers by name
                    --team----->  the team, for judging and serving
                    --save----->  a checkpoint folder  --restore-->  the same, to the last bit
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from ray.exceptions import RayActorError
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS

from ..agents.policy import Policy
from ..agents.team import Catalog, Team, hash_user
from ..envs import Stage
from ..platform.checkpoint import Checkpoint, Tell, read_checkpoint, write_checkpoint
from ..platform.errors import ConcertError, InputError
from .algorithms import ALGORITHMS, BatchedPPO
from .critics import groups, spec_of, unshared
from .gauges import show
from .learner import part
from .placement import placed_text, release, reserve
from .runner import FUSION_WEIGHT, SESSION_SUMS
from .survival import capture, dismantle, lost, recover, reinstate

POLICY = "policy."

AGAIN, GIVEN_UP = "it is done again", "given up, see cluster.retries"

Result = TypeVar("Result")

OF_AGENT = {
    "entropy": "entropy",
    "mean_kl_loss": "kl",
    "policy_loss": "policy_loss",
    "vf_loss": "value_loss",
    "total_loss": "loss",
    "vf_explained_var": "value_explained",
}
"""RLlib's names of an agent's learner metrics, and ours."""


class Trainer:
    """Trains one team. Needs a Ray session (`ray_session`).

    A runner or learner that dies takes nothing with it: another takes its place, all go back to the end of the last
    iteration, which is kept in memory, and do the iteration again, to the same numbers.

    Args:
        stage: what `envs.prepare` gives.
        tell: told, in a line, of each part that died.

    Attributes:
        iteration, env_steps: done so far, over the run's whole life.
        recoveries: how often something died and was brought back.
    """

    def __init__(self, stage: Stage, tell: Tell = lambda line: None) -> None:
        self.stage, self._tell = stage, tell
        self.iteration, self.env_steps, self.recoveries = 0, 0, 0
        self._kept: Checkpoint | None = None
        self._placed = reserve(stage.experiment.cluster, tell)
        try:
            self._algorithm = self._built()
            if stage.experiment.cluster.address:
                tell(placed_text(self._algorithm))
        except BaseException:
            release(self._placed)
            raise

    def iterate(self) -> dict[str, float]:
        """One iteration: sample, learn, hand out the weights.

        Returns:
            Metrics by name: `team/...`, `agent/<name>/...`, `throughput/...`. All but the last are a function of the
            experiment and the count of runners and learners.

        Raises:
            ConcertError: a loss is not finite, or parts died again and again (`cluster.retries`).
        """
        return self._surviving(f"iteration {self.iteration + 1}", self._iterated)

    def _surviving(self, what: str, act: Callable[[], Result]) -> Result:
        """What an act comes to. Where a part dies meanwhile it is brought back, and the act done again.

        Raises:
            ConcertError: parts died again and again.
        """
        retries, reason = self.stage.experiment.cluster.retries, None
        for retry in range(retries + 1):
            try:
                if retry:
                    self._recover(anew=retry > 1)
                return act()
            except Exception as error:
                reason = lost(error, self._algorithm)
                if reason is None:
                    raise
                self._tell(f"{what}: {reason}; {AGAIN if retry < retries else GIVEN_UP}")
        raise ConcertError(f"{what}: {reason}; resume the run, or see the Ray logs")

    def _iterated(self) -> dict[str, float]:
        metrics, cluster = self._stepped(), self.stage.experiment.cluster
        show(self.stage.experiment.name, metrics, self.env_steps)
        self._kept = self._now() if cluster.num_env_runners or cluster.num_learners else None
        return metrics

    def _stepped(self) -> dict[str, float]:
        result = self._algorithm.train()
        before, now = self.env_steps, self._algorithm.env_steps
        metrics = {
            **_team_metrics(result[ENV_RUNNER_RESULTS]),
            **_agent_metrics(result, now - before),
            **_throughput(result, now - before),
        }
        if "team/return" in metrics:
            # The reward is the team's, so every agent is paid the same.
            metrics |= {f"agent/{agent}/reward": metrics["team/return"] for agent in self.stage.ensemble.agents}
        broken = [name for name, value in metrics.items() if name.endswith("/loss") and not math.isfinite(value)]
        if broken:
            raise ConcertError(f"{broken[0]} is not finite; lower train.learning_rate, or raise train.minibatch")
        self.env_steps, self.iteration = now, self.iteration + 1
        return metrics

    def _built(self) -> BatchedPPO:
        """A new algorithm; where a part of it dies before it stands, another one."""
        retries = self.stage.experiment.cluster.retries
        for retry in range(retries + 1):
            config = ALGORITHMS[self.stage.experiment.train.algorithm](self.stage)
            config.placed = self._placed
            try:
                return cast(BatchedPPO, config.build_algo())
            except RayActorError:
                self._tell(f"starting: an env runner or a learner died; {AGAIN if retry < retries else GIVEN_UP}")
        raise ConcertError("starting: an env runner or a learner died again and again; see the Ray logs")

    def _recover(self, *, anew: bool) -> None:
        """Brings what died back, or builds all of it anew, and goes back to the end of the last iteration."""
        self.recoveries += 1
        if anew or self._kept is None:
            dismantle(self._algorithm)
            self._algorithm, self.iteration, self.env_steps = self._built(), 0, 0
        else:
            recover(self._algorithm)
        if self._kept is not None:
            self._go_back(self._kept)

    def _state(self) -> Checkpoint:
        """The end of the last iteration, from memory where runners or learners could die while they are asked."""
        return self._kept or self._surviving("between two iterations", self._now)

    def _now(self) -> Checkpoint:
        tensors, counts = capture(self._algorithm)
        return Checkpoint(tensors, {**counts, "iteration": self.iteration})

    def _go_back(self, kept: Checkpoint) -> None:
        reinstate(self._algorithm, kept.tensors, kept.words)
        self.iteration, self.env_steps = kept.words["iteration"], kept.words["env_steps"]

    def save(self, folder: Path, more: Mapping[str, Any] | None = None, **about: float) -> None:
        """Writes all that the next iterations depend on, as `platform.checkpoint` does.

        Args:
            folder: of the checkpoint; what is there is replaced.
            more: what else to keep, as JSON.
            about: `score`, where there is one, by which the best are kept.

        Raises:
            OSError: the disk is full, or cannot be written; nothing is left of the attempt.
        """
        kept = self._state()
        words = {**kept.words, "more": dict(more or {})}
        write_checkpoint(folder, Checkpoint(kept.tensors, words, {"iteration": self.iteration, **about}))

    def restore(self, folder: Path) -> None:
        """Goes on from a checkpoint, to the last bit where the experiment has as many runners and sessions as its.

        Learning rates and all other settings are those of this trainer's experiment. With another count of runners or
        sessions, users come who were in no session yet.

        Raises:
            InputError: it cannot be read, or is of other networks.
        """
        self.resume(read_checkpoint(folder), str(folder))

    def resume(self, kept: Checkpoint, name: str = "checkpoint") -> None:
        """Goes on from a checkpoint that was read; see `restore`."""

        def take() -> None:
            try:
                self._go_back(kept)
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                reason = str(error).strip().partition("\n")[0]
                raise InputError(f"{name}: of a team with other networks ({reason}); give its own experiment") from None

        self._surviving("going on", take)
        self._kept = kept

    def team(self) -> Team:
        """The team with the weights it has now."""
        kept, policies = self._state().tensors, {}
        ensemble, train = self.stage.ensemble, self.stage.experiment.train
        for group in groups(ensemble, train):
            learned = Policy(spec_of(group, ensemble, train))
            learned.load_state_dict(part(kept, f"learner/weights/{group.name}/{POLICY}"))
            for agent in group.agents:
                policies[agent] = unshared(learned.eval(), group, agent, ensemble.policy_spec(agent, train))
        return untrained_team(self.stage, policies)

    def stop(self) -> None:
        """Ends the env runners and learners, and gives back their places."""
        dismantle(self._algorithm)
        release(self._placed)
        self._placed = None

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def untrained_team(stage: Stage, policies: Mapping[str, Policy] | None = None) -> Team:
    """A team of the stage's towers with these policies; without any it is the static hybrid."""
    world, experiment = stage.world, stage.experiment
    salt = f"concertrl {experiment.name} {experiment.seed}"
    hashes = torch.tensor([hash_user(user, salt) for user in world.user_ids], dtype=torch.int64)
    catalog = Catalog(world.item_ids, world.item_titles, hashes, world.history.to("cpu"), salt)
    ensemble = stage.ensemble.to("cpu")
    env = experiment.env
    return Team(
        ensemble,
        policies or {},
        catalog,
        slate=env.slate,
        horizon=env.horizon,
        name=experiment.name,
        encoder=experiment.agents.encoder,
    )


def _team_metrics(runner: Mapping[str, Any]) -> dict[str, float]:
    """Means over the sessions that ended in this iteration, whichever runner played them."""
    # With a horizon longer than the fragment no session may have ended yet.
    if not (ended := float(runner["num_episodes"])):
        return {}
    names = ("team/return", "team/length", "team/clicks")
    return {ours: float(runner[theirs]) / ended for ours, theirs in zip(names, SESSION_SUMS, strict=True)}


def _agent_metrics(result: Mapping[str, Any], steps: int) -> dict[str, float]:
    metrics = {}
    for agent, values in result[LEARNER_RESULTS].items():
        for theirs, ours in OF_AGENT.items():
            if theirs in values:
                metrics[f"agent/{agent}/{ours}"] = float(values[theirs])
    for agent, weight in result[ENV_RUNNER_RESULTS].get(FUSION_WEIGHT, {}).items():
        metrics[f"agent/{agent}/fusion_weight"] = float(weight) / steps
    return metrics


def _throughput(result: Mapping[str, Any], steps: int) -> dict[str, float]:
    seconds = float(result["time_this_iter_s"])
    timers = result["timers"]
    named = {"env_runner_sampling_timer": "sample_s", "learner_update_timer": "learn_s"}
    parts = {f"throughput/{ours}": float(timers[theirs]) for theirs, ours in named.items() if theirs in timers}
    return {"throughput/env_steps_per_s": steps / max(seconds, 1e-9), **parts}
