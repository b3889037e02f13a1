"""What a trial's team is worth: played on sessions that nothing is trained on, and that no result is told of.

    training users, sessions of a seed of their own, the base experiment's world and reward  ->  scores by metric

The judge's users and seeds stay untouched, so that what they say of a sweep's winner is not what it was picked by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..agents.team import Team
from ..envs import BatchedEnv, Stage, Step
from ..envs.yardsticks import play
from ..platform.draws import derive

VALIDATE = 65_000
"""Parts the seed of the validation sessions from all others of a run."""


def as_base(stage: Stage, base: Stage) -> Stage:
    """The stage of a trial with the users and the reward of the base, by which all trials are held.

    The worlds are of one dataset; one fitted to logs differs a little with the agents whose item vectors it takes in.
    """
    experiment = stage.experiment
    fixed = {"reward": base.experiment.reward, "evaluate": base.experiment.evaluate, "seed": base.experiment.seed}
    train = experiment.train.model_copy(update={"seed": base.experiment.train.seed})
    held = experiment.model_copy(update={**fixed, "train": train})
    return replace(stage, world=base.world, experiment=held)


def validate(team: Team, stage: Stage, base: Stage, sessions: int) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of a team without exploration, and their standard errors where sessions give one.

    `return`, `clicks` and `length` are means of a session. `diversity` is the mean over slates of 1 - the mean cosine
    of two items' latent vectors in the world; `coverage` the share of the catalog that was shown.
    """
    played = as_base(stage, base)
    env = BatchedEnv(played, sessions=sessions, seed=derive(base.experiment.train_seed, VALIDATE))
    shown = _Shown(played)

    def act(env: BatchedEnv, observations: Mapping[str, Tensor]) -> Step:
        return env.step(team.act(observations))

    outcome = play(env, act, watch=shown.see)
    columns = {"return": outcome.returns, "clicks": outcome.clicks, "length": outcome.lengths.float()}
    scores = {name: column.mean().item() for name, column in columns.items()}
    spread = {name: column.std().item() / sessions**0.5 for name, column in columns.items()}
    return {**scores, "diversity": shown.diversity, "coverage": shown.coverage}, spread


class _Shown:
    """What slates are like while sessions last."""

    def __init__(self, stage: Stage) -> None:
        self._vectors = torch.nn.functional.normalize(stage.world.item_vectors, dim=1)
        self._seen = torch.zeros(stage.world.num_items, dtype=torch.bool)
        self._alive: Tensor | None = None
        self._sum, self._slates = 0.0, 0

    def see(self, step: Step) -> None:
        alive = torch.ones_like(step.done) if self._alive is None else self._alive
        slates = step.slate[alive]
        rows = self._vectors[slates]
        places = slates.shape[1]
        # The cosines of all pairs at once: the square of the sum, less the squares.
        pairs = (rows.sum(1).square().sum(1) - rows.square().sum((1, 2))) / max(1, places * (places - 1))
        self._sum += (1.0 - pairs).sum().item()
        self._slates += len(slates)
        self._seen[slates.flatten()] = True
        self._alive = alive & ~step.done

    @property
    def diversity(self) -> float:
        return self._sum / max(1, self._slates)

    @property
    def coverage(self) -> float:
        return self._seen.float().mean().item()
