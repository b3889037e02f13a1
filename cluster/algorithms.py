"""The algorithms that train a team, by name, and how an experiment configures them.

Experiment  --configure-->  BatchedPPOConfig  --build_algo-->  BatchedPPO.train():

    sample   env runners step B sessions each       (runner.py)
    update   learners take the whole batch          (learner.py)
    sync     runners get the new weights
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core import ALL_MODULES
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.policy.sample_batch import concat_samples
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from ..envs import BatchedEnv, Stage
from ..platform.draws import derive
from ..platform.errors import ConcertError, InputError
from ..platform.settings import TrainSettings
from .critics import Group, critic_dim, groups, spec_of
from .learner import CREDIT_OVER, REWARD_SCALE, BatchedPPOLearner
from .module import AgentModule
from .placement import runners_placed
from .runner import BatchedEnvRunner, spaces_of

SILENT_S = 600.0
"""A runner that has not answered by then is given up; Ray tells of one that died at once."""

NETWORKS = 80_000
"""Parts the seeds of the agents' initial weights from all others of a run."""


class BatchedPPO(PPO):
    """PPO (Schulman et al. 2017) whose runners and learners exchange whole tensors instead of episodes."""

    @classmethod
    def get_default_config(cls) -> BatchedPPOConfig:
        return BatchedPPOConfig()

    def setup(self, config: Any) -> None:
        """RLlib's own, with the env runners where there is room for them."""
        with runners_placed(config.placed):
            super().setup(config)

    env_steps: int = 0
    """Steps sampled over the run's whole life. RLlib's own counter starts at 0 in an algorithm that is built again."""

    samples: int = 0
    """How often each runner has sampled. A runner of another number died, and Ray started it anew behind our back."""

    def training_step(self) -> None:
        """One iteration: sample, update, hand out the weights. RLlib wants None back.

        Raises:
            LostError, RayError: a runner or a learner died; the iteration may have happened in part.
        """
        # Any, since RLlib annotates these as possibly None, which they are not once the algorithm is built.
        config: Any = self.config
        runners: Any = self.env_runner_group
        learners: Any = self.learner_group
        metrics: Any = self.metrics
        with metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            sampled = self.ask_runners(_sampled, self.samples + 1)
        batches = [batch for whole, _ in sampled for batch in whole]
        steps = self.env_steps + sum(batch.env_steps() for batch in batches)
        with metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            results = learners.update(
                batch=batches[0] if len(batches) == 1 else concat_samples(batches),
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: steps},
                num_epochs=config.num_epochs,
                minibatch_size=config.minibatch_size,
                shuffle_batch_per_epoch=config.shuffle_batch_per_epoch,
            )
        with metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            runners.sync_weights(
                from_worker_or_learner_group=learners,
                policies=set(results[0].keys()) - {ALL_MODULES},
                inference_only=True,
                # With the default of 0 a runner that has not yet acknowledged its last weights is passed over.
                timeout_seconds=config.sample_timeout_s,
            )
        # Last, so that an iteration that is done again is counted once.
        metrics.aggregate([told for _, told in sampled], key=ENV_RUNNER_RESULTS)
        metrics.aggregate(results, key=LEARNER_RESULTS)
        self.env_steps, self.samples = steps, self.samples + 1

    def ask_runners(self, ask: Callable[[BatchedEnvRunner], Any], samples: int) -> list[Any]:
        """What every runner answers, in their order; each must have sampled `samples` times by then.

        Raises:
            LostError: one is gone, was started anew, or failed.
        """
        group, wanted = cast(Any, self.env_runner_group), max(1, cast(Any, self.config).num_env_runners)
        answers = group.foreach_env_runner(
            partial(_answer, ask), local_env_runner=group.num_remote_workers() == 0, timeout_seconds=SILENT_S
        )
        if len(answers) < wanted:
            raise LostError(f"{wanted - len(answers)} of {wanted} env runners died")
        answers.sort(key=lambda each: each[0])
        for number, count, answer in answers:
            if isinstance(answer, ConcertError):
                raise answer
            if isinstance(answer, Exception):
                raise LostError(f"env runner {number} failed: {type(answer).__name__}: {str(answer)[:200]}")
            if count != samples:
                raise LostError(f"env runner {number} died and was started anew")
        return [answer for _, _, answer in answers]


class LostError(Exception):
    """A part of the algorithm died or failed; what it knew is lost."""


def _answer(ask: Callable[[BatchedEnvRunner], Any], runner: BatchedEnvRunner) -> tuple[int, int, Any]:
    """A runner's number, how often it has sampled, and its answer, which may be an error."""
    try:
        answer = ask(runner)
    except Exception as error:  # RLlib would keep it to itself
        if runner.config.num_env_runners == 0:
            raise
        answer = error if isinstance(error, ConcertError) else LostError(f"{type(error).__name__}: {error}")
    return runner.worker_index, runner.samples, answer


def _sampled(runner: BatchedEnvRunner) -> tuple[Any, Any]:
    """A runner's batches and metrics."""
    return runner.sample(), runner.get_metrics()


class BatchedPPOConfig(PPOConfig):
    """`PPOConfig` with the batched runner and learner in place."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or BatchedPPO)
        self.placed: Any = None  # the run's placement group, where it has one (placement.py)
        self.env_runners(
            env_runner_cls=BatchedEnvRunner,
            # With the default of 1, of two set_state calls in a row (build, then restore) the second may be dropped.
            max_requests_in_flight_per_env_runner=4,
        )
        # Ray starts a runner that died anew; the trainer puts it where it was (survival.py).
        self.fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=0.0)
        self.env_runners(sample_timeout_s=SILENT_S)
        self.learners(add_default_connectors_to_learner_pipeline=False)

    def build_learner_group(self, **options: Any) -> Any:
        """RLlib's own, with the learners in the bundles that the env runners leave of the run's placement group."""
        group = super().build_learner_group(**({"placement_group": self.placed} | options))
        if group.is_remote and self.placed is not None:
            # It would give back the whole group when it ends, and with it the place of the env runners.
            group._backend_executor._placement_group = None
        return group

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
    # Without the tracking settings: they are nothing to runners, and the tracking URI may hold a password.
    played = experiment.model_dump(mode="json", exclude={"tracking"})
    config.environment(env_config={"experiment": played, "spaces": spaces_of(probe, learning)})
    config.env_runners(
        num_env_runners=cluster.num_env_runners,
        num_envs_per_env_runner=env.sessions,
        rollout_fragment_length=env.horizon,
        num_cpus_per_env_runner=cluster.num_cpus_per_env_runner,
        num_gpus_per_env_runner=cluster.num_gpus_per_env_runner,
        custom_resources_per_env_runner=dict(cluster.resources_per_env_runner),
    )
    config.learners(
        num_learners=cluster.num_learners,
        num_cpus_per_learner=cluster.num_cpus_per_learner if cluster.num_learners else "auto",
        num_gpus_per_learner=cluster.num_gpus_per_learner,
        custom_resources_per_learner=dict(cluster.resources_per_learner),
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
