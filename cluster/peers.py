"""Two ways for RLlib to play the same environment, to be measured side by side: the stock one and ours."""

from __future__ import annotations

import itertools
from typing import Any

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED
from ray.tune.registry import register_env

from ..envs import ConcertEnv, Stage
from .algorithms import BatchedPPO, configure_ppo

STOCK_ENV = "concertrl_stock"

HYPER_PARAMETERS = (
    "minibatch_size",
    "num_epochs",
    "lr",
    "gamma",
    "lambda_",
    "clip_param",
    "vf_clip_param",
    "vf_loss_coeff",
    "entropy_coeff",
    "grad_clip",
    "use_kl_loss",
    "kl_coeff",
)
"""What the stock peer takes over from our own configuration, besides the networks."""


class RLlibPeer:
    """An RLlib algorithm that samples and learns in this process. Needs a Ray session (`ray_session`)."""

    def __init__(self, config: PPOConfig) -> None:
        self._algorithm = config.build_algo()

    def sample(self) -> int:
        """One fragment from the local env runner; the environment steps it took."""
        runner: Any = self._algorithm.env_runner
        steps = sum(part.env_steps() for part in runner.sample())
        runner.get_metrics()  # emptied here, so that they are not counted again by the next iteration
        if isinstance(self._algorithm, BatchedPPO):
            self._algorithm.samples += 1  # it counts how often its runners have sampled
        return steps

    def train(self) -> int:
        """One iteration: sample, learn, hand out the weights; the environment steps it took."""
        return int(self._algorithm.train()[ENV_RUNNER_RESULTS][NUM_ENV_STEPS_SAMPLED])

    def stop(self) -> None:
        self._algorithm.stop()


def batched_peer(stage: Stage) -> RLlibPeer:
    """Our own path: `env.sessions` sessions as tensors. The stage must be the one that `prepare` gives."""
    return RLlibPeer(configure_ppo(stage))


def stock_peer(stage: Stage, envs: int, batch: int) -> RLlibPeer:
    """RLlib as it comes: `envs` copies of the PettingZoo environment in one runner, `batch` steps an iteration.

    Networks and hyper-parameters are ours. The peer is at its best: without `episodes_to_numpy=False` its runner
    converts every finished episode again at each step.
    """
    seeds = itertools.count(stage.experiment.seed)
    register_env(STOCK_ENV, lambda _: ParallelPettingZooEnv(ConcertEnv(stage, seed=next(seeds))))
    ours: Any = configure_ppo(stage)
    config = PPOConfig()
    config.environment(STOCK_ENV, disable_env_checking=True, normalize_actions=False, clip_actions=True)
    config.env_runners(
        num_env_runners=0,
        num_envs_per_env_runner=envs,
        rollout_fragment_length="auto",
        gym_env_vectorize_mode="sync",  # the only one for multi-agent environments
        episodes_to_numpy=False,
    )
    config.multi_agent(policies=ours.policies, policy_mapping_fn=ours.policy_mapping_fn)
    config.rl_module(rl_module_spec=ours.rl_module_spec)
    shared = {name: getattr(ours, name) for name in HYPER_PARAMETERS}
    config.training(train_batch_size_per_learner=batch, **shared)
    # Building an algorithm sets the level of all of RLlib's loggers.
    config.debugging(seed=stage.experiment.seed, log_level="ERROR")
    return RLlibPeer(config)
