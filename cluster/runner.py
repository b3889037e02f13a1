"""An env runner that steps B sessions as tensors: no Python object for a user, a step or an episode.

    observe (B, d) -> policy -> explore -> BatchedEnv.step -> columns (B, T, ...) -> one MultiAgentBatch

RLlib's own runner keeps an episode object for every env and walks them at each step, which costs three quarters of its
sampling time with three agents. Columns have the session first, so that learners share a batch out between sessions.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import gymnasium as gym
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.core.columns import Columns
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.policy.sample_batch import MultiAgentBatch
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    NUM_AGENT_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    SAMPLE_TIMER,
    WEIGHTS_SEQ_NO,
)
from torch import Tensor

from ..envs import BatchedEnv, Step, prepare
from ..envs.faults import drawn
from ..envs.rehearsal import rehearsal_stage
from ..platform.draws import derive
from ..platform.settings import Experiment
from .columns import Store, as_batch, spaces_of
from .critics import CREDITS, SEEN, SEEN_NEXT, groups, seen_by_critics
from .learner import part

SESSIONS, EXPLORATION = 1, 2
"""Streams of a runner's seeds."""

SESSION_SUMS = ("session_return_sum", "session_length_sum", "session_clicks_sum")
"""Names of the metrics that add up the sessions that ended in a sample; `num_episodes` counts them."""

FUSION_WEIGHT = "fusion_weight"  # another sum, over sessions and steps

LOG_TAU = math.log(2.0 * math.pi)


class BatchedEnvRunner(EnvRunner, Checkpointable):
    """Steps `config.num_envs_per_env_runner` sessions at once.

    `config.env_config["experiment"]` is the experiment as plain values; the runner prepares its own stage from it. What
    it samples is a function of the experiment's seed, its own index, how often it has sampled, and the weights.
    """

    # Any, since RLlib annotates its own as possibly None or too widely to be of use.
    config: Any
    module: Any
    env: Any
    worker_index: Any

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.spaces = kwargs.get("spaces") or {}
        self._weights_seq_no = 0
        self.samples = 0
        self.env = None  # a BatchedEnv, where this runner steps one
        # The local runner has no env of its own to step where there are remote ones.
        if self.worker_index != 0 or self.config.num_env_runners == 0:
            self.make_env()
        self.make_module()

    # --- construction

    def make_env(self) -> None:
        experiment = Experiment.model_validate(self.config.env_config["experiment"])
        self.device = "cuda" if self.config.num_gpus_per_env_runner > 0 and torch.cuda.is_available() else "cpu"
        self.seed = derive(experiment.train_seed, self.worker_index)
        self.num_envs = self.config.num_envs_per_env_runner
        train, team = experiment.train, experiment.agents.names
        self.env = BatchedEnv(
            rehearsal_stage(prepare(experiment)),
            sessions=self.num_envs,
            seed=derive(self.seed, SESSIONS),
            device=self.device,
            credited=experiment.reward.credit != "team" or experiment.reward.expected,
            fate=drawn(train.faults, len(team), experiment.env.horizon) if train.faults else None,
        )
        self.learning = groups(self.env.ensemble, train)
        self._group_of = {agent: group for group in self.learning for agent in group.agents}
        self._start_over()

    def _start_over(self) -> None:
        assert self.env is not None
        # Every fresh start plays sessions that were not played before.
        self._observations = self.env.reset(first=self.samples << 32)
        self._tally = torch.zeros(3, self.num_envs, device=self.device)

    def get_spaces(self) -> dict[str, Any]:
        spaces = spaces_of(self.env, self.learning) if self.env is not None else self.config.env_config["spaces"]
        both = tuple(gym.spaces.Dict({agent: pair[side] for agent, pair in spaces.items()}) for side in (0, 1))
        return {INPUT_ENV_SPACES: both, INPUT_ENV_SINGLE_SPACES: both, **spaces}

    def make_module(self) -> None:
        spec = self.config.get_multi_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        for each in spec.rl_module_specs.values():
            each.inference_only = True  # RLlib does not hand the flag down to specs given one by one
        self.module = spec.build()
        # forward_* switch to eval mode and back; staying there saves a walk over the modules at every step.
        self.module.foreach_module(lambda _, module: module.to(getattr(self, "device", "cpu")).eval())

    def assert_healthy(self) -> None:
        assert self.module is not None
        assert self.env is not None

    # --- sampling

    @torch.no_grad()
    def sample(  # pyright: ignore[reportIncompatibleMethodOverride] - RLlib's runners take these by name too
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[MultiAgentBatch]:
        """Steps every session T times; a session that ends is followed by the next one.

        Returns:
            One batch, columns `(B, T, ...)`, in a list, since RLlib adds up its runners' lists.
        """
        assert self.env is not None
        explore = self.config.explore if explore is None else explore
        steps = self._fragment(num_timesteps, num_episodes)
        if force_reset or num_episodes is not None:
            self._start_over()
        noise = torch.Generator(device=self.device).manual_seed(derive(self.seed, EXPLORATION, self.samples))
        self.samples += 1
        self._ended: list[Tensor] = []
        self._weighed = torch.zeros(len(self.env.recommenders), device=self.device)
        with self.metrics.log_time(SAMPLE_TIMER):
            columns = self._collect(steps, noise if explore else None, random_actions)
        self._log_sessions(steps)
        self._log_steps(steps * self.num_envs)
        return [as_batch(columns, self.num_envs * steps)]

    def _fragment(self, num_timesteps: int | None, num_episodes: int | None) -> int:
        if num_episodes is not None:
            return self.env.horizon * -(-num_episodes // self.num_envs)
        if num_timesteps is not None:
            return -(-num_timesteps // self.num_envs)
        return self.config.get_rollout_fragment_length(self.worker_index)

    def _collect(self, steps: int, noise: torch.Generator | None, random_actions: bool) -> dict[str, dict[str, Tensor]]:
        env, critic = self.env, self.env.experiment.train.critic
        store = Store(self.num_envs, steps, self.device)
        for t in range(steps):
            actions, seen = {}, self._observations
            store.put_each(SEEN, t, seen_by_critics(env, seen, self.learning, critic))
            for agent, group in self._group_of.items():
                observation = group.marked(agent, seen[agent])
                inputs = self.module[group.name].policy(observation)
                action, logp = self._act(agent, inputs, noise, random_actions)
                actions[agent] = action
                row = {Columns.OBS: observation, Columns.ACTIONS: action, Columns.ACTION_LOGP: logp}
                store.put(agent, t, {**row, Columns.ACTION_DIST_INPUTS: inputs})
            step = env.step(actions)
            after = {agent: group.marked(agent, step.observations[agent]) for agent, group in self._group_of.items()}
            store.put_each(Columns.NEXT_OBS, t, after)
            store.put_each(SEEN_NEXT, t, seen_by_critics(env, step.observations, self.learning, critic))
            self._pay(store, t, step)
            self._count(step)
            done = step.done
            self._observations = env.renew(done) if bool(done.any()) else step.observations
        return store.by_network(self.learning)

    def _pay(self, store: Store, t: int, step: Step) -> None:
        """What the team earned, what each agent is credited with where that is not the same, and what has ended."""
        settings, agents = self.env.experiment.reward, self.env.agents
        expected = step.expected if settings.expected or settings.credit != "team" else None
        ends = {Columns.TERMINATEDS: step.terminated, Columns.TRUNCATEDS: step.truncated}
        shared = {Columns.REWARDS: step.reward if expected is None else expected, **ends}
        for agent in self._group_of:
            store.put(agent, t, shared)
            if settings.credit != "team" and step.credits is not None:
                store.put(agent, t, {CREDITS: step.credits[:, agents.index(agent)]})

    def _act(
        self, agent: str, inputs: Tensor, noise: torch.Generator | None, random_actions: bool
    ) -> tuple[Tensor, Tensor]:
        """Actions `(B, d)` and their log densities `(B,)`; the env clips them, the batch keeps them as drawn."""
        mean, log_std = inputs.chunk(2, dim=1)
        if random_actions:
            limit = self.env.ensemble.action_limit(agent)
            return (torch.rand_like(mean) * 2.0 - 1.0) * limit, torch.zeros_like(mean[:, 0])
        if noise is None:
            return mean, torch.zeros_like(mean[:, 0])
        drawn = torch.randn(mean.shape, generator=noise, device=mean.device)
        logp = -(0.5 * (drawn.square() + LOG_TAU) + log_std).sum(1)
        return mean + log_std.exp() * drawn, logp

    # --- metrics

    def _count(self, step: Step) -> None:
        """Return, length and clicks of the sessions that go on; those of the sessions that ended are set aside."""
        self._tally += torch.stack([step.reward, torch.ones_like(step.reward), step.response.click.sum(1)])
        self._weighed += step.weights.mean(0)
        done = step.done
        if bool(done.any()):
            self._ended.append(self._tally[:, done])
            self._tally[:, done] = 0.0

    def _log_sessions(self, steps: int) -> None:
        """Once a sample, so that every session that ended in it counts alike, and a GPU is waited for once."""
        log = self.metrics.log_value
        # A sum, since a mean over a window would remember what a resumed run has not seen.
        for agent, weight in zip(self.env.recommenders, (self._weighed * self.num_envs).tolist(), strict=True):
            log((FUSION_WEIGHT, agent), weight, reduce="sum")
        ended = torch.cat([torch.empty(3, 0, device=self.device), *self._ended], dim=1)
        log(NUM_EPISODES, ended.shape[1], reduce="sum")
        log(NUM_EPISODES_LIFETIME, ended.shape[1], reduce="lifetime_sum")
        for name, total in zip(SESSION_SUMS, ended.sum(1).tolist(), strict=True):
            log(name, total, reduce="sum")

    def _log_steps(self, steps: int) -> None:
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED, steps, reduce="sum")
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, steps, reduce="lifetime_sum", with_throughput=True)
        for agent in self.env.agents:
            self.metrics.log_value((NUM_AGENT_STEPS_SAMPLED, agent), steps, reduce="sum")
        self.metrics.log_value(WEIGHTS_SEQ_NO, self._weights_seq_no, window=1)

    def get_metrics(self) -> Any:
        return self.metrics.reduce()

    # --- state

    def kept(self) -> dict[str, Tensor]:
        """Where the sessions stand: what, with the weights, the next sample is a function of."""
        return {"tally": self._tally.cpu().clone(), **{f"env.{name}": v.cpu() for name, v in self.env.kept().items()}}

    def take(
        self, weights: dict[str, Tensor], updates: int, sessions: dict[int, dict[str, Tensor]] | None, samples: int
    ) -> None:
        """Goes on after `samples`, with a learner's weights after `updates`, and with what `kept` gave of each runner.

        Without any sessions, such begin as no runner of this number played before.
        """
        for network in self.module.keys():  # noqa: SIM118 - RLlib's module of modules does not iterate over its keys
            self.module[network].policy.load_state_dict(part(weights, f"{network}/policy."))
        self._weights_seq_no, self.samples = updates, samples
        if sessions is None:
            self._start_over()
            return
        mine = sessions[self.worker_index]
        self._tally = mine["tally"].to(self.device, copy=True)
        self._observations = self.env.resume(part(mine, "env."))

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        state: dict[str, Any] = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_env_steps_sampled_lifetime}
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(
                components=self._get_subcomponents(COMPONENT_RL_MODULE, components),
                not_components=self._get_subcomponents(COMPONENT_RL_MODULE, not_components),
                **kwargs,
            )
            state[WEIGHTS_SEQ_NO] = self._weights_seq_no
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        if COMPONENT_RL_MODULE in state:
            number = state.get(WEIGHTS_SEQ_NO, 0)
            # Any other number is taken, an older one too: it comes from a restored checkpoint.
            if number == 0 or number != self._weights_seq_no:
                weights = state[COMPONENT_RL_MODULE]
                self.module.set_state(ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights)
            self._weights_seq_no = number or self._weights_seq_no
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        return [(COMPONENT_RL_MODULE, self.module)]

    def stop(self) -> None:
        self.env = None
