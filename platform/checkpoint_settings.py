"""When a run writes checkpoints, and which of them it keeps."""

from __future__ import annotations

from pydantic import Field

from .settings_base import Positive, Settings


class CheckpointSettings(Settings):
    """The newest that can be read is kept, whatever the numbers say."""

    every: Positive = Field(default=10, description="iterations between checkpoints; the last iteration has one too")
    keep_last: Positive = Field(default=2, description="the latest, this many")
    keep_best: int = Field(default=1, ge=0, description="those with the best judged return, this many")
    keep_every: int = Field(
        default=40, ge=0, description="those of every so many iterations are kept for good and sent to MLflow; 0: none"
    )
