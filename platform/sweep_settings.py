"""What a sweep is: which keys of an experiment vary and how, who picks and who stops trials, and what counts as better.

space: {key.of.the.experiment: {loguniform: [low, high], when: {other.key: value}}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .settings_base import NonNegative, Positive, Settings

KINDS = ("choice", "uniform", "loguniform", "randint")

Metric = Literal["return", "clicks", "length", "diversity", "coverage"]

Range = tuple[float, float]


class Dimension(Settings):
    """The values that a key may take: exactly one of the four kinds, and when it counts at all."""

    choice: tuple[Any, ...] | None = Field(default=None, min_length=1, description="one of these")
    uniform: Range | None = Field(default=None, description="[low, high]")
    loguniform: Range | None = Field(default=None, description="[low, high], both above 0")
    randint: tuple[int, int] | None = Field(default=None, description="[low, high], both included")
    when: dict[str, Any] = Field(
        default={}, description="only where other keys have this value, or one of these; else it stays as it is"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS)}")
        if given == ["choice"]:
            return self
        low, high = self.bounds
        if low >= high:
            raise ValueError(f"{given[0]}: {low} is not below {high}")
        if self.loguniform and low <= 0:
            raise ValueError(f"loguniform: {low} is not above 0")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high of a range; of a choice (0, 0)."""
        return self.uniform or self.loguniform or self.randint or (0, 0)

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether the key counts beside these values of all keys that its conditions name."""
        return all(
            values[key] in (wanted if isinstance(wanted, list) else [wanted]) for key, wanted in self.when.items()
        )


class Objective(Settings):
    """What a trial is scored by, on the sessions kept for validation."""

    metric: Metric = "return"
    mode: Literal["max", "min"] = "max"

    @property
    def sign(self) -> int:
        return 1 if self.mode == "max" else -1


class PlateauSettings(Settings):
    """Ends a trial that gets no better."""

    looks: Positive = Field(default=4, description="looks without a gain")
    gain: NonNegative = Field(default=0.0, description="of the first objective, that counts as one")


class StopSettings(Settings):
    """When to end beside `iterations`; what is left out does not count."""

    plateau: PlateauSettings | None = None
    seconds: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="of training, all trials of the sweep together; the sweep ends"
    )
    target: float | None = Field(default=None, description="of the first objective; the sweep ends")


class SweepSettings(Settings):
    """All that a sweep is, beside the experiment it varies."""

    name: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="default: EXPERIMENT-SWEEP"
    )
    space: dict[str, Dimension] = Field(min_length=1)
    searcher: Literal["random", "optuna", "bayesian"] = Field(
        default="random", description="who picks: chance, Optuna's tree-structured Parzen estimator, a Gaussian process"
    )
    scheduler: Literal["fifo", "asha", "hyperband", "pbt", "pb2"] = Field(
        default="asha", description="who stops trials early (asha, hyperband) or changes them under way (pbt, pb2)"
    )
    trials: Positive = 12
    concurrent: Positive = Field(default=2, description="trials at once")
    iterations: Positive = Field(
        default=40, description="of training a trial, at most; train.iterations does not count"
    )
    every: Positive = Field(default=5, description="iterations between looks at a trial")
    seed: int = Field(default=0, ge=0, lt=2**31, description="of the candidates, apart from the experiment's")
    base_first: bool = Field(default=True, description="the first trial is the experiment as it stands")
    grace: Positive = Field(default=1, description="asha: looks before a trial may be stopped")
    reduction: float = Field(default=3.0, gt=1, description="asha, hyperband: one in so many goes on")
    perturb: Positive = Field(default=2, description="pbt, pb2: looks between exchanges")
    quantile: float = Field(default=0.25, gt=0, le=0.5, description="pbt, pb2: share that takes over from the best")
    sessions: Positive = Field(
        default=1024, description="validation sessions, by training users, of a seed of their own"
    )
    objectives: tuple[Objective, ...] = Field(default=(Objective(),), min_length=1)
    stop: StopSettings = StopSettings()
    retries: int = Field(default=3, ge=0, description="times that a trial whose process died is taken up again")

    @model_validator(mode="after")
    def _consistent(self) -> SweepSettings:
        if self.iterations % self.every:
            raise ValueError(f"iterations={self.iterations} is no multiple of every={self.every}")
        if self.scheduler in ("pbt", "pb2"):
            if self.searcher != "random":
                raise ValueError(f"scheduler={self.scheduler} picks for itself; leave searcher at random")
            if self.trials < 2:
                raise ValueError(f"trials={self.trials}: {self.scheduler} needs 2 or more")
        names = [objective.metric for objective in self.objectives]
        if len(set(names)) != len(names):
            raise ValueError("objectives: each metric once")
        return self

    @property
    def first(self) -> Objective:
        """The objective that schedulers, stopping rules and the choice of the best go by."""
        return self.objectives[0]

    @property
    def looks(self) -> int:
        """Looks at a trial that runs to its end."""
        return self.iterations // self.every
