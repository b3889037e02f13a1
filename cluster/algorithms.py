"""The algorithms that train a team, by name, and how an experiment configures them.

Experiment  --configure-->  BatchedPPOConfig  --build_algo-->  BatchedPPO.train():

    sample   env runners step B sessions each       (runner.py)
    update   learners take the whole batch          (learner.py)
    sync     runners get the new weights
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core import ALL_MODULES
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.policy.sample_batch import concat_samples
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from ..envs import BatchedEnv, Stage
from ..platform.draws import derive
from ..platform.errors import InputError
from ..platform.settings import TrainSettings
from .critics import Group, critic_dim, groups, spec_of
from .learner import CREDIT_OVER, REWARD_SCALE, BatchedPPOLearner
from .module import AgentModule
from .runner import BatchedEnvRunner, spaces_of

NETWORKS = 80_000
"""Parts the seeds of the agents' initial weights from all others of a run."""


class BatchedPPO(PPO):
    """PPO (Schulman et al. 2017) whose runners and learners exchange whole tensors instead of episodes."""

    @classmethod
    def get_default_config(cls) -> BatchedPPOConfig:
        return BatchedPPOConfig()

    def training_step(self) -> None:
        """One iteration: sample, update, hand out the weights. RLlib wants None back."""
        # Any, since RLlib annotates these as possibly None, which they are not once the algorithm is built.
        config: Any = self.config
        runners: Any = self.env_runner_group
        learners: Any = self.learner_group
        metrics: Any = self.metrics
        with metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            sampled: Any = synchronous_parallel_sample(
                worker_set=runners,
                max_env_steps=config.total_train_batch_size,
                sample_timeout_s=config.sample_timeout_s,
                _uses_new_env_runners=True,
                _return_metrics=True,
            )
        batches, runner_results = sampled
        if not batches:
            return  # every runner failed; RLlib restores them before the next step
        metrics.aggregate(runner_results, key=ENV_RUNNER_RESULTS)
        with metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            results = learners.update(
                batch=batches[0] if len(batches) == 1 else concat_samples(batches),
                timesteps=self._lifetime_counts(),
                num_epochs=config.num_epochs,
                minibatch_size=config.minibatch_size,
                shuffle_batch_per_epoch=config.shuffle_batch_per_epoch,
            )
            metrics.aggregate(results, key=LEARNER_RESULTS)
        with metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            runners.sync_weights(
                from_worker_or_learner_group=learners,
                policies=set(results[0].keys()) - {ALL_MODULES},
                inference_only=True,
                # With the default of 0 a runner that has not yet acknowledged its last weights is passed over.
                timeout_seconds=config.sample_timeout_s,
            )

    def _lifetime_counts(self) -> dict[str, Any]:
        trained = (LEARNER_RESULTS, ALL_MODULES, NUM_MODULE_STEPS_TRAINED_LIFETIME)
        return {
            NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)),
            NUM_MODULE_STEPS_TRAINED_LIFETIME: self.metrics.peek(trained, default=0),
        }


class BatchedPPOConfig(PPOConfig):
    """`PPOConfig` with the batched runner and learner in place."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or BatchedPPO)
        self.env_runners(
            env_runner_cls=BatchedEnvRunner,
            # With the default of 1, of two set_state calls in a row (build, then restore) the second may be dropped.
            max_requests_in_flight_per_env_runner=4,
        )
        # An exception in sample() otherwise holds up the whole algorithm for a minute.
        self.fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=0.0)
        self.learners(add_default_connectors_to_learner_pipeline=False)

    def get_default_learner_class(self) -> type[BatchedPPOLearner]:
        return BatchedPPOLearner


def configure_ppo(stage: Stage) -> BatchedPPOConfig:
    """The algorithm's configuration for a stage's experiment: one policy per agent, the team's reward for all."""
    experiment = stage.experiment
    train, cluster, env = experiment.train, experiment.cluster, experiment.env
    runners, learners = max(1, cluster.num_env_runners), max(1, cluster.num_learners)
    probe = BatchedEnv(stage, sessions=1, seed=0)
    learning = groups(stage.ensemble, train)
    if not learning:
        raise InputError("train.frozen: every agent of the team is frozen, so nobody learns; leave one out")
    specs = {group.name: _network(stage, group) for group in learning}
    config: Any = BatchedPPOConfig()
    # Without the tracking settings: checkpoints keep this config, and the tracking URI may hold a password.
    played = experiment.model_dump(mode="json", exclude={"tracking"})
    config.environment(env_config={"experiment": played, "spaces": spaces_of(probe, learning)})
    config.env_runners(
        num_env_runners=cluster.num_env_runners,
        num_envs_per_env_runner=env.sessions,
        rollout_fragment_length=env.horizon,
        num_cpus_per_env_runner=cluster.num_cpus_per_env_runner,
        num_gpus_per_env_runner=cluster.num_gpus_per_env_runner,
    )
    config.learners(
        num_learners=cluster.num_learners,
        num_cpus_per_learner=cluster.num_cpus_per_learner if cluster.num_learners else "auto",
        num_gpus_per_learner=cluster.num_gpus_per_learner,
    )
    config.learner_config_dict = {REWARD_SCALE: train.reward_scale, CREDIT_OVER: experiment.reward.credit_over}
    config.multi_agent(policies=set(specs), policy_mapping_fn=lambda agent, *_, **__: agent)
    config.rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs))
    share = env.sessions * env.horizon * runners // learners
    config.training(train_batch_size_per_learner=share, **_hyper_parameters(train, share))
    # RLlib's own switch skips the good gradients and keeps the bad ones in 2.60.
    config.torch_skip_nan_gradients = False
    config.debugging(seed=experiment.train_seed)
    return config


def _network(stage: Stage, group: Group) -> RLModuleSpec:
    experiment, ensemble = stage.experiment, stage.ensemble
    shape = vars(spec_of(group, ensemble, experiment.train))
    more = {
        "critic_dim": critic_dim(group, ensemble, experiment.train),
        "seed": derive(experiment.train_seed, NETWORKS, ensemble.agents.index(group.agents[0])),
    }
    return RLModuleSpec(module_class=AgentModule, model_config={**shape, **more})


def _hyper_parameters(train: TrainSettings, share: int) -> dict[str, Any]:
    return {
        "minibatch_size": min(train.minibatch, share),
        "num_epochs": train.epochs,
        "lr": train.learning_rate,
        "gamma": train.gamma,
        "lambda_": train.lambda_,
        "clip_param": train.clip,
        "vf_clip_param": train.value_clip,
        "vf_loss_coeff": 0.5,
        "entropy_coeff": train.entropy,
        "grad_clip": train.gradient_clip,
        # The divergence is measured for the run's metrics; at coefficient 0 it does not enter the loss.
        "use_kl_loss": True,
        "kl_coeff": 0.0,
    }


ALGORITHMS: dict[str, Callable[[Stage], BatchedPPOConfig]] = {"ppo": configure_ppo}
"""How to configure each algorithm, by the name that `train.algorithm` gives."""
