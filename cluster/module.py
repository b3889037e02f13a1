"""An agent's policy and critic as RLlib takes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from ..agents.policy import Policy, PolicySpec, Value
from .critics import SEEN


class AgentModule(TorchRLModule, ValueFunctionAPI, InferenceOnlyAPI):
    """`agents.policy` behind RLlib's interface; env runners hold the policy alone, learners the critic too.

    `model_config` is the `PolicySpec` as a dictionary, the `critic_dim`, and the `seed` of the initial weights.
    """

    def setup(self) -> None:
        shape: dict[str, Any] = {name: self.model_config[name] for name in PolicySpec.__dataclass_fields__}
        # A config that went through JSON has lists where the spec has tuples.
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in shape.items()}
        spec = PolicySpec(**plain)
        # Seeded by the agent: RLlib builds the agents' modules in an order that differs from process to process.
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.model_config["seed"])
            self.policy = Policy(spec)
            self.value = Value(replace(spec, observation_dim=self.model_config["critic_dim"]))

    def get_non_inference_attributes(self) -> list[str]:
        return ["value"]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.policy(batch[Columns.OBS])}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        return self.value(batch[SEEN] if SEEN in batch else batch[Columns.OBS])
