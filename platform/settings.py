"""A run is a value: one typed `Experiment` says all of it.

The defaults are here and nowhere else; a packaged experiment's YAML holds only what differs. The same file trains on a
laptop, as a Ray job, and as a sweep's base.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .errors import suggestion

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]

RECOMMENDERS = ("cf", "content", "sentiment", "knowledge", "sequence")
"""The recommender agents there are, in the order of the fusion weights."""

TEAM = ("cf", "content", "sentiment")
"""The recommender agents of a team that names none."""


class Settings(BaseModel):
    """Base of every settings group: unknown keys are errors, values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


class CollaborativeSettings(Settings):
    method: Literal["best", "als", "bpr", "item_knn", "ease"] = Field(
        default="best", description="`best` is picked on the latest of each user's likes; only `als` reads the rest"
    )
    candidate: int | None = Field(
        default=None, ge=0, description="which model of the method to take, as a run's facts name it; default: picked"
    )
    factors: Positive = Field(default=256, description="dimensions of the item vectors, at most")
    iterations: Positive = 15
    regularization: NonNegative = 60.0
    alpha: NonNegative = Field(default=10.0, description="confidence a unit of weight adds")
    popularity: NonNegative = Field(
        default=0.15, description="what a standard deviation of log popularity adds to a score"
    )


class ContentSettings(Settings):
    factors: Positive = Field(default=64, description="dimensions of the item vectors, at most")
    projection: Literal["learned", "principal"] = Field(
        default="learned", description="of the embeddings: learned on what users like, or their principal axes"
    )
    images: str | None = Field(
        default=None, description="a transformers vision model (folder or name) that reads the items' image_path"
    )


class SentimentSettings(Settings):
    head: Literal["logistic", "finetuned"] = Field(default="logistic", description="on the encoder, as it is or tuned")
    layers: Positive = Field(default=3, description="finetuned: last layers of the encoder that learn")
    epochs: Positive = Field(default=2, description="finetuned: times that every review is read")
    prior_reviews: NonNegative = Field(default=5.0, description="reviews' worth of the catalog mean in each polarity")
    half_life: Literal["best"] | NonNegative = Field(default="best", description="of an opinion, in days; 0: none")
    volume: Literal["best"] | NonNegative = Field(default="best", description="weight of how much is said, by polarity")
    aspects: int = Field(default=8, ge=0, description="aspects looked for in the reviews")
    components: int = Field(default=7, ge=0, description="principal components of the mean review beside the polarity")
    max_reviews: Positive = Field(default=20000, description="reviews read to train the head and score the items")


class KnowledgeSettings(Settings):
    factors: Positive = Field(default=64, description="dimensions of the item vectors")


class SequenceSettings(Settings):
    method: Literal["best", "transformer", "transitions"] = Field(
        default="best", description="`best` is picked on the latest of each user's likes"
    )
    factors: Positive = Field(default=128, description="transitions: dimensions of the item vectors")
    width: Positive = Field(default=64, description="transformer: dimensions of the item vectors")
    layers: Positive = 1
    heads: Positive = 1
    dropout: float = Field(default=0.4, ge=0, lt=1)
    length: Positive = Field(default=100, description="transformer: the latest interactions, which are read")
    epochs: Positive = Field(default=32, description="transformer: at most; the best on the latest likes is kept")


class TaskWeights(Settings):
    """What each loss of pretraining counts."""

    click: float = Field(default=1.0, gt=0)
    rating: float = Field(default=1.0, gt=0)
    ranking: float = Field(default=1.0, gt=0)
    polarity: float = Field(default=1.0, gt=0)
    masked: float = Field(default=1.0, gt=0)


class PretrainSettings(Settings):
    """One trunk for the words and the interactions, learned on several tasks at once."""

    use: bool = Field(default=False, description="the content tower takes its item vectors from it")
    tasks: tuple[Literal["click", "rating", "ranking", "polarity", "masked"], ...] = Field(
        default=("click", "rating", "ranking", "polarity", "masked"), min_length=1
    )
    balance: Literal["fixed", "uncertainty", "gradient"] = Field(
        default="fixed", description="the weights as they are, or learned from there on"
    )
    weights: TaskWeights = TaskWeights()
    factors: Positive = Field(default=64, description="dimensions of the item vectors")
    epochs: Positive = Field(default=60, description="at most")
    patience: Positive = Field(default=8, description="epochs without a gain on any task before it stops")
    steps: Positive = Field(default=20, description="steps an epoch")
    batch: Positive = Field(default=512, description="rows of each task in a step")
    negatives: Positive = Field(default=1024, description="items of the catalog that a step contrasts with, at most")
    learning_rate: NonNegative = 3e-3
    l2: NonNegative = Field(default=0.1, description="decay of all parameters, a unit of the learning rate")
    dropout: float = Field(default=0.3, ge=0, lt=1, description="of the words, and of an item's own vector as a whole")
    forget: float = Field(default=0.3, ge=0, lt=1, description="part of the histories left out of a step")


class EncoderSettings(Settings):
    model: str = Field(
        default="all-MiniLM-L6-v2", description="a transformers model: the packaged default, a folder, or a name"
    )
    batch_size: Positive = 64
    max_tokens: Positive = Field(default=128, description="longer texts are cut")
    cache: str | None = Field(
        default=None, description="folder of the embedding cache; default: the user's cache folder"
    )


class AgentsSettings(Settings):
    """The recommender agents of the team and their towers."""

    names: tuple[str, ...] = TEAM
    cf: CollaborativeSettings = CollaborativeSettings()
    content: ContentSettings = ContentSettings()
    sentiment: SentimentSettings = SentimentSettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()
    sequence: SequenceSettings = SequenceSettings()
    propagate: dict[str, NonNegative] = Field(
        default={}, description="by agent, the share of its neighbours in the graph that an item takes in: {cf: 0.3}"
    )
    pretrain: PretrainSettings = PretrainSettings()
    encoder: EncoderSettings = EncoderSettings()

    @model_validator(mode="after")
    def _known(self) -> AgentsSettings:
        for name in (*self.names, *self.propagate):
            if name not in RECOMMENDERS:
                raise ValueError(
                    f'no agent "{name}"{suggestion(name, RECOMMENDERS)} (agents: {", ".join(RECOMMENDERS)})'
                )
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError("names at least one agent, each once")
        return self


class FusionSettings(Settings):
    method: Literal["weighted", "reciprocal_rank", "borda", "plurality"] = "weighted"
    weights: Literal["best", "equal"] | tuple[float, ...] = Field(
        default="best", description="static weights: `best` is searched on training users, or one number an agent"
    )
    conductor: bool = Field(
        default=True, description="a policy sets the weights from the session's state (weighted only)"
    )
    ballot: Positive = Field(default=50, description="items on an agent's ballot")


class EnvSettings(Settings):
    sessions: Positive = Field(default=256, description="sessions stepped at once by each env runner")
    slate: Positive = 10
    horizon: Positive = Field(default=20, description="steps after which a session is truncated")


class RewardSettings(Settings):
    """Weights of the parts of the team's reward of a step."""

    click: float = 1.0
    conversion: float = 0.0
    dwell: float = Field(default=0.0, description="a minute")
    satisfaction: float = Field(default=0.0, description="a clicked item's satisfaction, in [-1, 1]")
    staying: float = Field(default=0.0, description="a step the user is still there after")


class TrainSettings(Settings):
    algorithm: Literal["ppo"] = "ppo"
    iterations: int = Field(default=140, ge=0)
    epochs: Positive = 4
    minibatch: Positive = 1280
    learning_rate: NonNegative = 1e-3
    gamma: Fraction = 0.98
    lambda_: Fraction = 0.95
    clip: NonNegative = 0.2
    entropy: NonNegative = 0.0
    reward_scale: float = Field(default=0.1, gt=0, description="rewards are multiplied by it before learning")
    value_clip: NonNegative = 1000.0
    gradient_clip: NonNegative = 1.0
    hidden: tuple[Positive, ...] = (64, 64)
    initial_std: float = Field(default=0.5, gt=0, description="exploration of gains and fusion weights at the start")
    residual_std: float = Field(default=0.1, gt=0, description="exploration of the free residual at the start")
    checkpoint_every: Positive = 40


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
    torch_threads: Positive = Field(default=1, description="of the driver; a busy neighbour makes more than one slower")
    address: str | None = Field(default=None, description="of a running Ray cluster; default: one of our own")


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

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        weights = self.fusion.weights
        if not isinstance(weights, str) and len(weights) != len(self.agents.names):
            raise ValueError(f"fusion.weights has {len(weights)} numbers for {len(self.agents.names)} agents")
        if not isinstance(weights, str) and (min(weights) < 0 or sum(weights) <= 0):
            raise ValueError("fusion.weights must be at least 0, and not all 0")
        learners = self.cluster.num_learners
        if learners and self.env.sessions % learners:
            # Learners step together; one with more sessions than another would wait for it without end.
            raise ValueError(
                f"env.sessions={self.env.sessions} cannot be shared out evenly among {learners} learners; "
                f"make it a multiple of cluster.num_learners"
            )
        return self
