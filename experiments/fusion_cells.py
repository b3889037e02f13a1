"""One cell of the fusion benchmark: a world, a policy, a seed; a function of these, so it may run anywhere, any time.

    fixed     everything that is not trained, on one seed's sessions: yardsticks, every rule, learned weights
    trained   a team trained by one seed  ->  looks at it while it learns, its score, an agent turned against it

Every policy is judged in the world it was trained in (other users) and in the one of another class (`judge_world.py`),
each on the same sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..agents.ensemble import Ensemble
from ..agents.team import Team
from ..cluster.ray_session import ray_session
from ..cluster.trainer import Trainer
from ..envs import BatchedEnv, Stage, Step, prepare
from ..envs.faults import arranged
from ..envs.judge_world import judge_stage
from ..envs.learned_weights import learned_policies
from ..envs.searched_gains import search_gains, with_gains
from ..envs.yardsticks import Act, play, weighted, yardsticks
from ..platform.draws import derive
from ..platform.experiment import override
from ..platform.settings import METHODS, Experiment
from .judge import team_act

JUDGED, LOOKED, REHEARSED, BANDIT = 90_000, 91_000, 92_000, 93_000
"""Part the seeds of the sessions from all others of a run."""

RECOMMENDERS = "recommenders"
"""In an override, stands for the names of the team's recommenders."""

FIXED = "fixed"

TRAINED: dict[str, tuple[str, tuple[str, ...]]] = {
    "conductor_alone": ("difference", (f"train.frozen={RECOMMENDERS}",)),
    "fixed_weights": ("difference", ("fusion.conductor=false",)),
    "team_plain": ("team", ("reward.expected=false", "train.critic=own")),
    "team": ("team", ()),
    "team_difference": ("difference", ()),
    "team_shapley": ("shapley", ()),
}
"""Trained contestants: their credit, and what else differs from the experiment. `team_plain` learns from the dice, with
critics that see what their agents see: what a team has without the work on credit."""

SCORED = ("comb_sum", "comb_mnz", "comb_anz")
"""Rules that are played under each normalisation too."""


@dataclass(frozen=True)
class Sizes:
    """How much is played.

    Attributes:
        sessions: judged, a seed.
        looks: iterations between two looks at a team while it learns; 0 for none.
        bandit: steps of all sessions that the bandit learns in.
    """

    sessions: int = 1024
    looks: int = 10
    bandit: int = 800


def run_cell(experiment: Experiment, contestant: str, seed: int, sizes: Sizes) -> dict[str, Any]:
    """The cell's figures, plain numbers: `returns` by policy, by `trained_in` and `judged_in`; and of a team more.

    Args:
        experiment: of the world; its training seed is replaced by `seed`.
        contestant: `FIXED`, or one of `TRAINED`.
        seed: of training and judging.
        sizes: how much is played.
    """
    torch.set_num_threads(1)
    credit, changes = TRAINED.get(contestant, ("team", ()))
    names = "[" + ",".join(experiment.agents.names) + "]"
    words = [word.replace(RECOMMENDERS, names) for word in changes]
    experiment = override(experiment, [*words, f"reward.credit={credit}", f"train.seed={seed}"])
    stage = prepare(experiment)
    judge = judge_stage(stage)
    if contestant == FIXED:
        return _fixed(stage, judge, seed, sizes)
    return _trained(stage, judge, seed, sizes)


def _fixed(stage: Stage, judge: Stage, seed: int, sizes: Sizes) -> dict[str, Any]:
    """Everything that is not trained by reinforcement."""
    rehearsal = BatchedEnv(stage, sessions=2 * sizes.sessions, seed=derive(seed, REHEARSED))
    training = BatchedEnv(stage, sessions=256, seed=derive(seed, BANDIT))
    learned = learned_policies(rehearsal, training, sizes.bandit, seed)
    learned["searched_gains"] = with_gains(
        search_gains(lambda sessions: BatchedEnv(stage, sessions=sessions, seed=derive(seed, REHEARSED)))
    )
    found: dict[str, dict[str, float]] = {}
    for place, world in (("trained_in", stage), ("judged_in", judge)):
        env = _judging(world, seed, sizes)
        acts = {**yardsticks(world), **learned}
        found[place] = {name: _mean(env, act) for name, act in acts.items()}
        found[place] |= {f"rule {name}": _mean(*played) for name, played in _rules(world, seed, sizes).items()}
    return found


def _rules(stage: Stage, seed: int, sizes: Sizes) -> dict[str, tuple[BatchedEnv, Act]]:
    """Every rule with equal weights, by name."""
    played = {}
    for method in METHODS:
        scales = ("none", "z_score", "min_max", "rank", "sigmoid") if method in SCORED else ("none",)
        for scale in scales:
            name = method if scale == "none" else f"{method}, {scale}"
            fusion = stage.experiment.fusion.model_copy(update={"method": method, "normalise": scale})
            equal = torch.full_like(stage.best_static, 1.0 / len(stage.best_static))
            ensemble = Ensemble(stage.ensemble.towers, fusion, equal)
            env = _judging(replace(stage, ensemble=ensemble), seed, sizes)
            played[name] = (env, weighted(equal))
    return played


def _trained(stage: Stage, judge: Stage, seed: int, sizes: Sizes) -> dict[str, Any]:
    looks: list[tuple[int, float]] = []
    watching = BatchedEnv(stage, sessions=sizes.sessions, seed=derive(seed, LOOKED), users="judge")
    total = stage.experiment.train.iterations
    with ray_session(stage.experiment.cluster), Trainer(stage) as trainer:
        for iteration in range(1, total + 1):
            trainer.iterate()
            if sizes.looks and (iteration % sizes.looks == 0 or iteration == total):
                looks.append((trainer.env_steps, _mean(watching, team_act(trainer.team()))))
        team, steps = trainer.team(), trainer.env_steps
    found: dict[str, Any] = {"env_steps": steps, "looks": looks}
    for place, world in (("trained_in", stage), ("judged_in", judge)):
        found[place] = {"team": _mean(_judging(world, seed, sizes), team_act(team))}
    if team.policies.keys() >= {*stage.ensemble.agents}:
        found["faults"] = [_turned(judge, team, place, seed, sizes) for place in range(len(stage.ensemble.towers))]
    return found


def _turned(stage: Stage, team: Team, agent: int, seed: int, sizes: Sizes) -> dict[str, Any]:
    """What happens when one agent votes at random from the first step on, beside a team that is without it."""
    name = stage.ensemble.recommenders[agent]
    found: dict[str, Any] = {"agent": name}
    for kind in ("adversarial", "silent", "frozen"):
        seen: list[Tensor] = []
        env = _judging(stage, seed, sizes, kind=kind, agent=agent)
        found[kind] = _mean(env, team_act(team), watch=lambda step, seen=seen: seen.append(step.weights[:, agent]))
        found[f"{kind}_weights"] = [round(float(each.mean()), 4) for each in seen]
    halfway = stage.experiment.env.horizon // 2
    env = _judging(stage, seed, sizes, kind="silent", agent=agent, since=halfway)
    found["silent_halfway"] = _mean(env, team_act(team))
    return found


def _judging(
    stage: Stage, seed: int, sizes: Sizes, kind: str | None = None, agent: int = 0, since: int = 0
) -> BatchedEnv:
    fate = arranged(agent, kind, since) if kind else None
    return BatchedEnv(stage, sessions=sizes.sessions, seed=derive(seed, JUDGED), users="judge", fate=fate)


def _mean(env: BatchedEnv, act: Act, watch: Callable[[Step], None] | None = None) -> float:
    return float(play(env, act, watch=watch).returns.mean())
