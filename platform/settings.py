"""A run is a value: one typed `Experiment` says all of it.

    packaged name or YAML file  ->  key=value overrides  ->  Experiment (validated)  ->  the resolved YAML in the run

The defaults are here and nowhere else; a packaged experiment's YAML holds only what differs. The same file trains on a
laptop, as a Ray job, and as a sweep's base.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import InputError, suggestion

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]

RECOMMENDERS = ("cf", "content", "sentiment")
"""The recommender agents, in the order of the fusion weights."""

MAX_BYTES = 1_000_000
"""A longer experiment file is refused before it is parsed."""


class Settings(BaseModel):
    """Base of every settings group: unknown keys are errors, values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Mechanics(Settings):
    """How the users of a world behave over a session. Logits unless said otherwise; a step is one slate."""

    satiation_gain: NonNegative = Field(default=0.1, description="logits lost in a topic for each item of it that is shown")
    satiation_fade: Fraction = Field(default=0.8, description="share of the satiation that is left after a step")
    position_bias: NonNegative = Field(default=0.15, description="an item in place k (from 1) is looked at with probability k ** -this")
    patience: NonNegative = Field(default=3.0, description="what a user brings to a session; the user leaves when it is spent")
    patience_target: NonNegative = Field(default=3.0, description="clicks on a slate that cost no patience")
    patience_recovery: NonNegative = Field(default=0.25, description="patience won back by a slate on target, up to the start")
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
    users: Positive = Field(default=800, description="builtin: users")
    items: Positive = Field(default=800, description="builtin: items")
    topics: Positive = Field(default=20, description="topics that users tire of")
    seed: int = Field(default=0, description="of the world itself, apart from the run's seed")
    judge_share: Fraction = Field(default=0.3, description="share of the users kept for judging, never trained on")
    base_rate: Fraction = Field(default=0.12, description="logs: mean click probability of a random item")
    factors: Positive = Field(default=24, description="logs: dimensions of the response model")
    mechanics: Mechanics = Mechanics()


class CollaborativeSettings(Settings):
    factors: Positive = 32
    iterations: Positive = 15
    regularization: NonNegative = 20.0
    alpha: NonNegative = Field(default=10.0, description="confidence a unit of weight adds")


class ContentSettings(Settings):
    factors: Positive = Field(default=32, description="principal components kept of the text embedding")


class SentimentSettings(Settings):
    prior_reviews: NonNegative = Field(default=5.0, description="reviews' worth of the catalog mean in each item's polarity")
    components: int = Field(default=7, ge=0, description="principal components of the mean review beside the polarity")
    max_reviews: Positive = Field(default=20000, description="reviews read to train the head and score the items")


class EncoderSettings(Settings):
    model: str = Field(default="all-MiniLM-L6-v2", description="a transformers model: the packaged default, a folder, or a name")
    batch_size: Positive = 64
    max_tokens: Positive = Field(default=128, description="longer texts are cut")
    cache: str | None = Field(default=None, description="folder of the embedding cache; default: the user's cache folder")


class AgentsSettings(Settings):
    """The recommender agents of the team and their towers."""

    names: tuple[str, ...] = RECOMMENDERS
    cf: CollaborativeSettings = CollaborativeSettings()
    content: ContentSettings = ContentSettings()
    sentiment: SentimentSettings = SentimentSettings()
    encoder: EncoderSettings = EncoderSettings()

    @model_validator(mode="after")
    def _known(self) -> AgentsSettings:
        for name in self.names:
            if name not in RECOMMENDERS:
                raise ValueError(f'no agent "{name}"{suggestion(name, RECOMMENDERS)} (agents: {", ".join(RECOMMENDERS)})')
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError("names at least one agent, each once")
        return self


class FusionSettings(Settings):
    method: Literal["weighted", "reciprocal_rank", "borda", "plurality"] = "weighted"
    weights: Literal["best", "equal"] | tuple[float, ...] = Field(
        "best", description="static weights: `best` is searched on training users, or one number an agent"
    )
    conductor: bool = Field(default=True, description="a policy sets the weights from the session's state (weighted only)")
    ballot: Positive = Field(default=50, description="items on an agent's ballot")


class EnvSettings(Settings):
    sessions: Positive = Field(default=512, description="sessions stepped at once by each env runner")
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
    iterations: int = Field(default=60, ge=0)
    epochs: Positive = 4
    minibatch: Positive = 2560
    learning_rate: NonNegative = 1e-3
    gamma: Fraction = 0.98
    lambda_: Fraction = 0.95
    clip: NonNegative = 0.2
    entropy: NonNegative = 0.0
    reward_scale: float = Field(default=0.1, gt=0, description="rewards are multiplied by it before learning")
    value_clip: NonNegative = 1000.0
    gradient_clip: NonNegative = 1.0
    hidden: tuple[Positive, ...] = (64, 64)
    initial_std: float = Field(default=0.3, gt=0, description="exploration of gains and fusion weights at the start")
    residual_std: float = Field(default=0.1, gt=0, description="exploration of the free residual at the start")
    checkpoint_every: Positive = 20


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
    folder: str = Field(default="runs", description="local database, artifacts, checkpoints, and metrics not yet delivered")
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
        return self


def packaged_experiments() -> list[str]:
    """Names of the experiments that come with the package."""
    folder = resources.files(__name__.partition(".")[0]) / "experiments" / "configs"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_experiment(source: str | Path = "builtin", overrides: Iterable[str] = ()) -> Experiment:
    """Reads a packaged experiment's name or a YAML path, and applies `key=value` overrides by dotted path.

    Raises:
        InputError: the file, a key or a value cannot be used; the message names it and the way out.
    """
    text, origin = _read(str(source))
    data = _parse(text, origin)
    for override in overrides:
        _apply(data, override)
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error, origin)) from None


def resolved_yaml(experiment: Experiment) -> str:
    """The whole experiment, defaults included, as YAML that `load_experiment` reads back to an equal value."""
    return yaml.safe_dump(json.loads(experiment.model_dump_json()), sort_keys=False)


def _read(source: str) -> tuple[str, str]:
    if source in packaged_experiments():
        entry = resources.files(__name__.partition(".")[0]) / "experiments" / "configs" / f"{source}.yaml"
        return entry.read_text("utf-8"), source
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        known = packaged_experiments()
        hint = suggestion(source, known)
        raise InputError(f'no experiment "{source}"{hint} (packaged: {", ".join(known)}; or give a path that ends in .yaml)')
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: {path.stat().st_size:,} bytes is no experiment; at most {MAX_BYTES:,} are read")
        return path.read_text("utf-8"), str(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; packaged experiments: {', '.join(packaged_experiments())}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text; an experiment is YAML in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _parse(text: str, origin: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise InputError(f"{origin}{where}: not an experiment's YAML: {problem}; only plain values are read") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise InputError(f"{origin}: an experiment is a YAML mapping of keys to values, not a {type(data).__name__}")
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f'override "{override}": write key=value, such as train.iterations=20')
    *groups, last = key.split(".")
    for group in groups:
        data = data.setdefault(group, {})
        if not isinstance(data, dict):
            raise InputError(f'override "{override}": {group} is a value, not a group of keys')
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f'override "{override}": the value is not plain YAML; quote it') from None


def _explain(error: ValidationError, origin: str) -> str:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    key = ".".join(where) or "experiment"
    if first["type"] == "extra_forbidden":
        known = _known_keys()
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or [
            path for path in known if path.rpartition(".")[2] == where[-1]
        ]
        hint = f'; did you mean "{near[0]}"?' if near else "; `concertrl train --help` lists the keys"
        return f'{origin}: unknown key "{key}"{hint}'
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{origin}: {key}: {message}" if where else f"{origin}: {message}"
    return f"{origin}: {key}={first['input']!r}: {message}"


def _known_keys(model: type[BaseModel] = Experiment, prefix: str = "") -> list[str]:
    keys = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += _known_keys(info.annotation, f"{prefix}{name}.")
    return keys
