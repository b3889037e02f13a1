"""A team in training: the algorithm, one iteration at a time, and the team as it stands.

Stage  ->  Trainer  --iterate-->  metrics, plain numbers by name
                    --team----->  the team, for judging and serving
                    --save----->  a checkpoint folder
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS

from ..agents.policy import Policy
from ..agents.team import Catalog, Team, hash_user
from ..envs import Stage
from ..platform.errors import ConcertError
from .algorithms import ALGORITHMS
from .critics import groups, spec_of, unshared
from .runner import FUSION_WEIGHT, SESSION_SUMS

POLICY = "policy."

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

    Args:
        stage: what `envs.prepare` gives.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.env_steps = 0
        self._algorithm = ALGORITHMS[stage.experiment.train.algorithm](stage).build_algo()

    def iterate(self) -> dict[str, float]:
        """One iteration: sample, learn, hand out the weights.

        Returns:
            Metrics by name: `team/...`, `agent/<name>/...`, `throughput/...`.

        Raises:
            ConcertError: no session was sampled, or a loss is not finite.
        """
        result = self._algorithm.train()
        before, self.env_steps = self.env_steps, int(result["num_env_steps_sampled_lifetime"])
        if self.env_steps == before:
            raise ConcertError("no env runner sampled anything in this iteration; see the Ray logs of the runners")
        metrics = {
            **_team_metrics(result[ENV_RUNNER_RESULTS]),
            **_agent_metrics(result),
            **_throughput(result, self.env_steps - before),
        }
        if "team/return" in metrics:
            # The reward is the team's, so every agent is paid the same.
            metrics |= {f"agent/{agent}/reward": metrics["team/return"] for agent in self.stage.ensemble.agents}
        broken = [name for name, value in metrics.items() if name.endswith("/loss") and not math.isfinite(value)]
        if broken:
            raise ConcertError(f"{broken[0]} is not finite; lower train.learning_rate, or raise train.minibatch")
        return metrics

    def team(self) -> Team:
        """The team with the weights it has now."""
        learners: Any = self._algorithm.learner_group
        weights, policies = learners.get_weights(), {}
        ensemble, train = self.stage.ensemble, self.stage.experiment.train
        for group in groups(ensemble, train):
            learned = Policy(spec_of(group, ensemble, train))
            mine = {name: torch.tensor(value) for name, value in weights[group.name].items() if name.startswith(POLICY)}
            learned.load_state_dict({name.removeprefix(POLICY): value for name, value in mine.items()})
            for agent in group.agents:
                policies[agent] = unshared(learned.eval(), group, agent, ensemble.policy_spec(agent, train))
        return untrained_team(self.stage, policies)

    def save(self, folder: Path) -> None:
        """Writes a checkpoint of the whole algorithm: weights, optimisers, counters."""
        self._algorithm.save_to_path(str(folder.resolve()))

    def stop(self) -> None:
        """Ends the env runners and learners."""
        self._algorithm.stop()

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


def _agent_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    metrics = {}
    for agent, values in result[LEARNER_RESULTS].items():
        for theirs, ours in OF_AGENT.items():
            if theirs in values:
                metrics[f"agent/{agent}/{ours}"] = float(values[theirs])
    for agent, weight in result[ENV_RUNNER_RESULTS].get(FUSION_WEIGHT, {}).items():
        metrics[f"agent/{agent}/fusion_weight"] = float(weight)
    return metrics


def _throughput(result: Mapping[str, Any], steps: int) -> dict[str, float]:
    seconds = float(result["time_this_iter_s"])
    timers = result["timers"]
    named = {"env_runner_sampling_timer": "sample_s", "learner_update_timer": "learn_s"}
    parts = {f"throughput/{ours}": float(timers[theirs]) for theirs, ours in named.items() if theirs in timers}
    return {"throughput/env_steps_per_s": steps / max(seconds, 1e-9), **parts}
