"""How an experiment configures PPO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from concertrl.cluster.algorithms import ALGORITHMS, configure_ppo
from concertrl.cluster.learner import BatchedPPOLearner
from concertrl.cluster.runner import BatchedEnvRunner
from concertrl.envs import Stage
from concertrl.platform.settings import TrainSettings
from torch import Tensor

StageUnder = Callable[..., Stage]


@pytest.mark.parametrize(
    ("ours", "value", "theirs"),
    [
        ("epochs", 7, "num_epochs"),
        ("learning_rate", 0.02, "lr"),
        ("gamma", 0.7, "gamma"),
        ("lambda_", 0.6, "lambda_"),
        ("clip", 0.3, "clip_param"),
        ("entropy", 0.01, "entropy_coeff"),
        ("value_clip", 5.0, "vf_clip_param"),
        ("gradient_clip", 0.4, "grad_clip"),
        ("minibatch", 32, "minibatch_size"),
    ],
)
def test_hyper_parameters_reach_the_algorithm(stage_under: StageUnder, ours: str, value: float, theirs: str) -> None:
    assert getattr(configure_ppo(stage_under(train={ours: value})), theirs) == value


def test_rllib_gets_our_runner_and_our_learner(stage_under: StageUnder) -> None:
    config: Any = configure_ppo(stage_under(cluster={"num_env_runners": 3, "num_gpus_per_learner": 0.5}))
    assert config.env_runner_cls is BatchedEnvRunner and config.learner_class is BatchedPPOLearner
    assert (config.num_env_runners, config.num_gpus_per_learner) == (3, 0.5)
    assert set(ALGORITHMS) == set(TrainSettings.model_fields["algorithm"].annotation.__args__)  # type: ignore[union-attr]


@pytest.mark.parametrize(("runners", "learners", "share"), [(0, 0, 128), (3, 0, 384), (0, 2, 64), (3, 2, 192)])
def test_learners_share_what_the_runners_sample(
    stage_under: StageUnder, runners: int, learners: int, share: int
) -> None:
    """16 sessions of 8 steps a runner; the default minibatch is larger than that and is cut to the share."""
    config: Any = configure_ppo(stage_under(cluster={"num_env_runners": runners, "num_learners": learners}))
    assert config.train_batch_size_per_learner == config.minibatch_size == share
    config.validate()


def networks(stage: Stage) -> dict[str, dict[str, Tensor]]:
    config: Any = configure_ppo(stage)
    specs = config.rl_module_spec.rl_module_specs
    spaces = config.env_config["spaces"]
    built = {}
    for agent, spec in specs.items():
        spec.observation_space, spec.action_space = spaces[agent]
        built[agent] = spec.build().state_dict()
    return built


def test_initial_weights_are_a_function_of_seed_and_agent(stage_under: StageUnder) -> None:
    torch.manual_seed(1)
    one = networks(stage_under())
    torch.manual_seed(2)  # as where RLlib builds the agents in another order
    same, other = networks(stage_under()), networks(stage_under(seed=9))
    for agent, weights in one.items():
        assert all(torch.equal(value, same[agent][name]) for name, value in weights.items())
        assert not torch.equal(weights["policy.trunk.0.weight"], other[agent]["policy.trunk.0.weight"])
    assert not torch.equal(one["cf"]["policy.trunk.2.weight"], one["content"]["policy.trunk.2.weight"])
    assert all((weights["policy.head.weight"] == 0).all() for weights in one.values())
