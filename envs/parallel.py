"""The PettingZoo face of the environment: one user, the agents of the team, one shared reward.

It is the batched environment with B = 1, so that a policy trained on the one can be asked in the other, and row b of a
batch plays as `reset(options={"session": b})` does here.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from ..platform.errors import InputError
from .batched import BatchedEnv, Stage, Step
from .render import session_start, step_text

Array = NDArray[np.float32]

OBSERVATION_LIMIT = 100.0
"""Bound of an observation's entries; they are of order 1, and the bound is far outside what a session reaches."""

UNSEEDED = 1 << 40
"""Sessions of an env reset without a seed are numbered from here on, apart from those of any batch."""


class ConcertEnv(ParallelEnv[str, Array, Array]):
    """One session of one user, served by a team of recommender agents.

    Agents: the recommenders (`cf`, `content`, `sentiment`), and `conductor` where a policy sets the fusion weights.

    Observation: `Box(-100, 100, (5 + 3 d,), float32)`, d the tower's dimensions, or A for the conductor; `BatchedEnv`
    tells each entry.
    Action: a recommender's is `Box(-3, 3, (3 + d,), float32)`, three gains and a residual on its tower's query; the
    conductor's is `Box(-5, 5, (A,), float32)`, a residual on the logarithm of the static weights. All zeros plays the
    static hybrid.
    Reward: the same for all agents, the sum that `reward.*` configures; by default the clicks on the slate, 0 to K.
    End: all agents terminate together when the user leaves, or are truncated together at the horizon; never both.
    Infos: `slate` (item ids) and `clicks` of the step, the same for all agents.

    Args:
        stage: what `envs.prepare(experiment)` gives.
        seed: of the first session; `reset(seed=...)` sets another.
        users: `train` or `judge`.
        render_mode: `ansi` makes `render()` tell the last step in words.
    """

    metadata: dict[str, Any] = {"name": "concertrl_v0", "render_modes": ["ansi"], "is_parallelizable": True}  # noqa: RUF012

    def __init__(self, stage: Stage, *, seed: int = 0, users: str = "train", render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f'render_mode="{render_mode}": known is "ansi"')
        self.render_mode = render_mode
        self._env = BatchedEnv(stage, sessions=1, seed=seed, users=users)
        self._seed, self._resets = seed, 0
        self._last: Step | None = None
        self.possible_agents = list(self._env.agents)
        self.agents: list[str] = []
        ensemble, reach = self._env.ensemble, OBSERVATION_LIMIT
        self._observation_spaces = {
            agent: gym.spaces.Box(-reach, reach, (ensemble.observation_dim(agent),), np.float32)
            for agent in self.possible_agents
        }
        self._action_spaces = {
            agent: gym.spaces.Box(-limit, limit, (ensemble.action_dim(agent),), np.float32)
            for agent, limit in ((agent, ensemble.action_limit(agent)) for agent in self.possible_agents)
        }

    def observation_space(self, agent: str) -> gym.spaces.Box:
        """The same space object at every call, as PettingZoo asks."""
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> gym.spaces.Box:
        """The same space object at every call."""
        return self._action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
        """Starts a session: number 0 of the seed, or `options["session"]`; without a seed, one not played before."""
        if seed is not None:
            self._seed, self._resets = seed, 0
        number = (options or {}).get("session")
        if number is None:
            number = 0 if self._resets == 0 else UNSEEDED + self._resets
        self._resets += 1
        self._env.seed = self._seed
        observations = self._env.reset(first=int(number))
        self.agents = list(self.possible_agents)
        self._last = None
        return self._rows(observations), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, Array]
    ) -> tuple[dict[str, Array], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """One slate. See PettingZoo's `ParallelEnv.step`."""
        tensors = {agent: torch.from_numpy(np.asarray(action, np.float32))[None] for agent, action in actions.items()}
        step = self._last = self._env.step(tensors)
        agents = self.agents
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        world = self._env.world
        slate = [world.item_ids[item] for item in step.slate[0].tolist()]
        info = {"slate": slate, "clicks": step.response.click[0].int().tolist()}
        if terminated or truncated:
            self.agents = []
        return (
            self._rows(step.observations),
            dict.fromkeys(agents, float(step.reward[0])),
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            {agent: dict(info) for agent in agents},
        )

    def render(self) -> str | None:
        """With `render_mode="ansi"`: who proposed what, the weights, the slate, and what the user did."""
        if self.render_mode != "ansi":
            return None
        return session_start(self._env) if self._last is None else step_text(self._env, self._last)

    def close(self) -> None:
        """Nothing to close."""

    def _rows(self, observations: dict[str, torch.Tensor]) -> dict[str, Array]:
        return {
            agent: rows[0].clamp(-OBSERVATION_LIMIT, OBSERVATION_LIMIT).numpy() for agent, rows in observations.items()
        }
