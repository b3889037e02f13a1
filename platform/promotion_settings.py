"""The rule by which a challenger becomes the champion. The defaults are here and nowhere else."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .settings_base import NonNegative, Settings


class PromotionSettings(Settings):
    """Both scores are returns of a judged session, of the same data, the same world and the same way to judge."""

    rule: Literal["apart", "margin"] = Field(
        default="apart",
        description="apart: better, and the 95 % intervals do not touch; margin: better by at least `margin`",
    )
    margin: NonNegative = Field(default=0.0, description="least gain in return, under either rule")
