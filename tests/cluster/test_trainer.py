"""Training with real Ray: in the driver, with remote env runners, and with remote learners."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from concertrl.cluster.trainer import Trainer, untrained_team
from concertrl.envs import Stage
from concertrl.platform.errors import ConcertError
from numpy.typing import NDArray

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")  # Ray's own, about Ray's own

StageUnder = Callable[..., Stage]
Weights = dict[str, dict[str, NDArray[np.float32]]]

AGENTS = ("cf", "content", "sentiment", "conductor")
TRAIN = {"minibatch": 64, "epochs": 2}
TIMES = ("throughput/env_steps_per_s", "throughput/sample_s", "throughput/learn_s")

NAMES = {
    *("team/return", "team/length", "team/clicks"),
    *TIMES,
    *(
        f"agent/{agent}/{name}"
        for agent in AGENTS
        for name in ("entropy", "kl", "loss", "policy_loss", "value_loss", "value_explained", "reward")
    ),
    *(f"agent/{agent}/fusion_weight" for agent in AGENTS[:3]),
}


@pytest.fixture(params=[(0, 0), (1, 1), pytest.param((2, 2), marks=pytest.mark.slow)], ids=str)
def trainer(request: pytest.FixtureRequest, stage_under: StageUnder, ray_cluster: None) -> Iterator[Trainer]:
    runners, learners = request.param
    cluster = {"num_env_runners": runners, "num_learners": learners, "num_cpus_per_learner": 1.0}
    with Trainer(stage_under(cluster=cluster, train=TRAIN)) as trainer:
        yield trainer


@pytest.fixture
def local(stage_under: StageUnder, ray_cluster: None) -> Iterator[Trainer]:
    with Trainer(stage_under(train=TRAIN)) as trainer:
        yield trainer


def weights_of(part: Any) -> Weights:
    """The policies in an env runner's or a learner's state, as arrays."""
    states = part.get_state(components="rl_module")["rl_module"]
    return {
        agent: {name: np.asarray(value) for name, value in state.items() if name.startswith("policy.")}
        for agent, state in states.items()
    }


def equal(first: Weights, second: Weights) -> bool:
    return all(
        np.array_equal(value, second[agent][name]) for agent, part in first.items() for name, value in part.items()
    )


def test_it_trains_wherever_its_parts_are(trainer: Trainer) -> None:
    algorithm: Any = trainer._algorithm
    settings = trainer.stage.experiment
    start = weights_of_team(trainer)
    first, second = trainer.iterate(), trainer.iterate()
    assert set(first) == set(second) == NAMES
    assert all(math.isfinite(value) for value in second.values())
    assert trainer.env_steps == 2 * max(1, settings.cluster.num_env_runners) * 16 * settings.env.horizon
    assert first["team/clicks"] == first["team/return"] == first["agent/cf/reward"] > 0
    assert 1 <= first["team/length"] <= settings.env.horizon
    assert sum(first[f"agent/{agent}/fusion_weight"] for agent in AGENTS[:3]) == pytest.approx(1.0)
    trained = weights_of_team(trainer)
    assert all(
        not np.array_equal(start[agent]["policy.head.bias"], trained[agent]["policy.head.bias"]) for agent in AGENTS
    )
    learners = [result.get() for result in algorithm.learner_group.foreach_learner(weights_of)]
    runners = algorithm.env_runner_group.foreach_env_runner(
        weights_of, local_env_runner=settings.cluster.num_env_runners == 0
    )
    assert len(learners) == max(1, settings.cluster.num_learners)
    assert len(runners) == max(1, settings.cluster.num_env_runners)
    assert all(equal(held, trained) for held in (*learners, *runners))


def weights_of_team(trainer: Trainer) -> Weights:
    return {
        agent: {f"policy.{name}": value.numpy() for name, value in policy.state_dict().items()}
        for agent, policy in trainer.team().policies.items()
    }


def test_one_seed_trains_alike_and_another_does_not(stage_under: StageUnder, ray_cluster: None) -> None:
    def trained(seed: int) -> tuple[list[dict[str, float]], Weights]:
        with Trainer(stage_under(train=TRAIN, seed=seed)) as trainer:
            told = [trainer.iterate() for _ in range(2)]
            return [{name: one[name] for name in NAMES - set(TIMES)} for one in told], weights_of_team(trainer)

    (told, weights), (again, weights_again), (_, other) = trained(1), trained(1), trained(2)
    assert told == again and equal(weights, weights_again)
    assert not equal(weights, other)


def test_an_untrained_team_recommends_as_the_towers_do(local: Trainer) -> None:
    stage = local.stage
    users = list(stage.world.user_ids[:20])
    assert local.team().recommend(users) == untrained_team(stage).recommend(users)
    local.iterate()
    assert local.team().recommend(users) != untrained_team(stage).recommend(users)


def test_a_loss_that_is_not_finite_ends_training_in_one_line(stage_under: StageUnder, ray_cluster: None) -> None:
    with (
        Trainer(stage_under(train={**TRAIN, "learning_rate": 1e30})) as trainer,
        pytest.raises(ConcertError, match=r"agent/\w+/loss is not finite; lower train.learning_rate"),
    ):
        for _ in range(3):
            trainer.iterate()
