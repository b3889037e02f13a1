"""A run is a value: one typed `Experiment` says all of it.

The defaults are here and nowhere else; a packaged experiment's YAML holds only what differs. The same file trains on a
laptop, as a Ray job, and as a sweep's base.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from .agent_settings import (
    RECOMMENDERS,
    TEAM,
    AgentsSettings,
    CollaborativeSettings,
    ContentSettings,
    EncoderSettings,
    KnowledgeSettings,
    PretrainSettings,
    SentimentSettings,
    SequenceSettings,
    TaskWeights,
)
from .checkpoint_settings import CheckpointSettings
from .errors import suggestion
from .settings_base import Fraction, NonNegative, Positive, Settings

__all__ = [
    "RECOMMENDERS",
    "TEAM",
    "AgentsSettings",
    "CheckpointSettings",
    "ClusterSettings",
    "CollaborativeSettings",
    "ContentSettings",
    "EncoderSettings",
    "EnvSettings",
    "EvaluateSettings",
    "Experiment",
    "FusionSettings",
    "KnowledgeSettings",
    "Mechanics",
    "PretrainSettings",
    "RewardSettings",
    "SentimentSettings",
    "SequenceSettings",
    "Settings",
    "TaskWeights",
    "TrackingSettings",
    "TrainSettings",
    "WorldSettings",
]


METHODS = (
    "weighted", "comb_sum", "comb_mnz", "comb_anz", "log_opinion_pool", "product_of_experts",
    "reciprocal_rank", "isr", "log_isr", "borda", "approval", "copeland", "plurality", "instant_runoff",
)  # fmt: skip
"""The fusion rules of this package; other packages add theirs as entry points (`fusion_rules.py`)."""


class Mechanics(Settings):
    """How the users of a world behave over a session. Logits unless said otherwise; a step is one slate."""

    satiation_gain: NonNegative = Field(
        default=0.13, description="logits lost in a topic for each item of it that is shown"
    )
    satiation_fade: Fraction = Field(default=0.7, description="share of the satiation that is left after a step")
    position_bias: NonNegative = Field(
        default=0.15, description="an item in place k (from 1) is looked at with probability k ** -this"
    )
    patience: NonNegative = Field(
        default=3.0, description="what a user brings to a session; the user leaves when it is spent"
    )
    patience_target: NonNegative = Field(default=3.0, description="clicks on a slate that cost no patience")
    patience_recovery: NonNegative = Field(
        default=0.25, description="patience won back by a slate on target, up to the start"
    )
    intent: NonNegative = Field(
        default=1.0, description="what a user is after today, apart from the lasting taste: in deviations of tastes"
    )
    drift: Fraction = Field(default=0.02, description="share of the taste that moves towards the clicked items a step")
    drift_noise: NonNegative = Field(default=0.02, description="standard deviation of the taste's random walk a step")
    conversion_bias: float = Field(default=-2.5, description="logit of a conversion after a click, at average quality")
    dwell_s: NonNegative = Field(default=60.0, description="median seconds on a clicked item of average appeal")


class WorldSettings(Settings):
    """The users to train with: `builtin` is generated, `logs` is fitted to a dataset."""

    kind: Literal["builtin", "logs"] = "builtin"
    users: Positive = Field(default=600, description="builtin: users")
    items: Positive = Field(default=800, description="builtin: items")
    topics: Positive = Field(default=20, description="topics that users tire of")
    seed: int = Field(default=0, description="of the world itself, apart from the run's seed")
    judge_share: Fraction = Field(default=0.3, description="share of the users kept for judging, never trained on")
    base_rate: Fraction = Field(default=0.12, description="logs: mean click probability of a random item")
    factors: Positive = Field(default=24, description="logs: dimensions of the response model")
    mechanics: Mechanics = Mechanics()


class FusionSettings(Settings):
    method: str = Field(default="comb_sum", description=f"{', '.join(METHODS)}, or an entry point of concertrl.fusion")
    normalise: Literal["none", "z_score", "min_max", "rank", "sigmoid"] = Field(
        default="none", description="what brings the scores of a ballot to one scale before they are fused"
    )
    weights: Literal["best", "equal"] | tuple[float, ...] = Field(
        default="best", description="static weights: `best` is searched on training users, or one number an agent"
    )
    conductor: bool = Field(default=True, description="a policy sets the weights from the session's state")
    ballot: Positive = Field(default=50, description="items on an agent's ballot")
    diversity: Literal["none", "mmr", "dpp"] = Field(default="none", description="the last step: a slate less alike")
    diversity_weight: Fraction = Field(default=0.2, description="what being unlike the rest counts beside the points")

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method not in METHODS:
            from .fusion import known_rules  # entry points are looked up, and torch is loaded, only where it matters

            if method not in (known := known_rules()):
                raise ValueError(f'no fusion "{method}"{suggestion(method, known)} (known: {", ".join(known)})')
        return method


class EnvSettings(Settings):
    sessions: Positive = Field(default=256, description="sessions stepped at once by each env runner")
    slate: Positive = 10
    horizon: Positive = Field(default=20, description="steps after which a session is truncated")


class RewardSettings(Settings):
    """Weights of the parts of the team's reward of a step, and who is paid what for it in learning."""

    click: float = 1.0
    conversion: float = 0.0
    dwell: float = Field(default=0.0, description="a minute")
    satisfaction: float = Field(default=0.0, description="a clicked item's satisfaction, in [-1, 1]")
    staying: float = Field(default=0.0, description="a step the user is still there after")
    credit: Literal["team", "difference", "shapley"] = Field(
        default="difference", description="what an agent is paid in learning: the team's reward, or its own part of it"
    )
    credit_over: Literal["step", "session"] = Field(
        default="step", description="an agent's own part counts in the step it acts in, or in all steps from there on"
    )
    expected: bool = Field(default=True, description="learn from what a slate is expected to bring, not from the dice")


class TrainSettings(Settings):
    algorithm: Literal["ppo"] = "ppo"
    seed: int | None = Field(
        default=None, ge=0, lt=2**31, description="of the training and its judging; default: the run's own"
    )
    iterations: int = Field(default=80, ge=0)
    epochs: Positive = 4
    minibatch: Positive = 1280
    learning_rate: NonNegative = 1e-3
    gamma: Fraction = 0.98
    lambda_: Fraction = 0.8
    clip: NonNegative = 0.2
    entropy: NonNegative = 0.0
    reward_scale: float = Field(default=0.1, gt=0, description="rewards are multiplied by it before learning")
    value_clip: NonNegative = 1000.0
    gradient_clip: NonNegative = 1.0
    hidden: tuple[Positive, ...] = (64, 64)
    initial_std: float = Field(default=0.5, gt=0, description="standard deviation of the actions at the start")
    critic: Literal["own", "joint", "informed"] = Field(
        default="informed",
        description="what a critic sees: its agent's observation, all agents' (MAPPO), or its own and the users' state",
    )
    sharing: bool = Field(default=False, description="agents whose spaces match learn one network")
    frozen: tuple[str, ...] = Field(default=(), description="agents that play their tower and do not learn")
    faults: Fraction = Field(
        default=0.3, description="share of the training sessions in which one agent falls silent or votes at random"
    )
    start: Literal["towers", "gains"] = Field(
        default="towers", description="what untrained agents play: their towers, or the best gains of a search"
    )
    worlds: Positive = Field(default=1, description="fits of the logs whose users the team trains with")
    pace: Fraction = Field(default=0.0, description="training users tire 1 - pace to 1 + pace times as fast")
    checkpoint: CheckpointSettings = CheckpointSettings()


class EvaluateSettings(Settings):
    seeds: int = Field(default=5, ge=2, description="seeds a policy is judged over, none of them trained on")
    sessions: Positive = Field(default=512, description="sessions a seed")
    every: Positive = Field(default=10, description="iterations between looks at the team while it learns")


class ClusterSettings(Settings):
    num_env_runners: int = Field(default=0, ge=0, description="0: sample in the driver")
    num_learners: int = Field(default=0, ge=0, description="0: learn in the driver")
    num_cpus_per_env_runner: NonNegative = 1.0
    num_gpus_per_env_runner: NonNegative = 0.0
    num_cpus_per_learner: NonNegative = 1.0
    num_gpus_per_learner: NonNegative = 0.0
    num_cpus_per_fit: NonNegative = Field(default=1.0, description="of a tower fitted on the cluster at `address`")
    num_gpus_per_fit: NonNegative = 0.0
    torch_threads: Positive = Field(default=1, description="of the driver; a busy neighbour makes more than one slower")
    resources_per_env_runner: dict[str, NonNegative] = Field(
        default={}, description="further resources of the nodes that runners go to, such as {runner: 1}"
    )
    resources_per_learner: dict[str, NonNegative] = Field(default={}, description="the same for learners")
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD", "none"] = Field(
        default="none", description="on the cluster at `address`: few nodes, many, one, one each, or as Ray sees fit"
    )
    placement_timeout_s: NonNegative = Field(
        default=600.0, description="how long a run waits until all its runners and learners have room"
    )
    num_cpus_driver: NonNegative = Field(
        default=0.0, description="of a submitted job's driver; 0 and no GPU: it runs on the head node, nothing reserved"
    )
    num_gpus_driver: NonNegative = Field(default=0.0, description="where it learns itself (num_learners=0) on a GPU")
    address: str | None = Field(default=None, description="of a running Ray cluster; default: one of our own")
    retries: int = Field(
        default=3, ge=0, description="times in a row that the run goes on by itself after a part of the cluster died"
    )


class TrackingSettings(Settings):
    uri: str | None = Field(default=None, description="MLflow tracking URI; default: SQLite in `folder`")
    folder: str = Field(
        default="runs", description="local database, artifacts, checkpoints, and metrics not yet delivered"
    )
    experiment: str = "concertrl"
    model: str | None = Field(default=None, description="registered model's name; default: concertrl-<name>")
    alias: str = "current"
    system_metrics: bool = True


class Experiment(Settings):
    """All that a run is. See the packaged `experiments/configs/*.yaml` for examples."""

    name: str = Field(default="experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    seed: int = Field(default=0, ge=0, lt=2**31)
    dataset: str | None = Field(default=None, description="a dataset folder made by `concertrl ingest`")
    world: WorldSettings = WorldSettings()
    agents: AgentsSettings = AgentsSettings()
    fusion: FusionSettings = FusionSettings()
    env: EnvSettings = EnvSettings()
    reward: RewardSettings = RewardSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    cluster: ClusterSettings = ClusterSettings()
    tracking: TrackingSettings = TrackingSettings()

    @property
    def train_seed(self) -> int:
        """Of the training and its judging."""
        return self.seed if self.train.seed is None else self.train.seed

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        weights = self.fusion.weights
        if not isinstance(weights, str) and len(weights) != len(self.agents.names):
            raise ValueError(f"fusion.weights has {len(weights)} numbers for {len(self.agents.names)} agents")
        if not isinstance(weights, str) and (min(weights) < 0 or sum(weights) <= 0):
            raise ValueError("fusion.weights must be at least 0, and not all 0")
        known = (*self.agents.names, "conductor")
        if unknown := [name for name in self.train.frozen if name not in known]:
            raise ValueError(f'train.frozen: no agent "{unknown[0]}" in this team (agents: {", ".join(known)})')
        learners = self.cluster.num_learners
        if learners and self.env.sessions % learners:
            # Learners step together; one with more sessions than another would wait for it without end.
            raise ValueError(
                f"env.sessions={self.env.sessions} cannot be shared out evenly among {learners} learners; "
                f"make it a multiple of cluster.num_learners"
            )
        return self
