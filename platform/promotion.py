"""Promotion by rule: which version of a registered team is the champion.

    a new version       -> alias challenger, at once
    `promote`           -> champion, if the rule says so; the champion before it becomes previous

A pure function from two judged scores to a verdict; `experiments/promote.py` reads and writes the registry.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from .promotion_settings import PromotionSettings
from .settings import Experiment

CHAMPION, PREVIOUS = "champion", "previous"
"""The registry's aliases, beside `CHALLENGER`."""

JUDGED = "concertrl.judged"
"""Tag of a run with `judged_by`: scores may be compared where it is the same."""


def judged_by(experiment: Experiment) -> str:
    """What a judged score depends on beside the team and the data, as 16 hexadecimal digits.

    The world, the session, the reward and the number of sessions. Seeds of the training are left out: the sessions
    they lead to are of the same users in the same world.
    """
    values = experiment.model_dump(mode="json", include={"world", "env", "reward", "evaluate"})
    values["env"].pop("sessions")  # stepped at once in training
    values["evaluate"].pop("every")
    for learning in ("credit", "credit_over", "expected"):
        values["reward"].pop(learning)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Contender:
    """A judged policy.

    Attributes:
        name: such as `version 3`.
        mean, low, high: return of a session with its 95 % interval; None where the run was not judged to its end.
        data: the data's hash.
        judged: see `judged_by`; None for a run of a version that did not say.
    """

    name: str
    mean: float | None
    low: float | None
    high: float | None
    data: str | None
    judged: str | None

    def __str__(self) -> str:
        return f"{self.name} at {self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger is promoted, and why, in one line."""

    promoted: bool
    reason: str


def decide(challenger: Contender, champion: Contender, settings: PromotionSettings) -> Verdict:
    """Whether the rule puts the challenger in the champion's place."""
    for one in (challenger, champion):
        if one.mean is None or one.low is None or one.high is None:
            return Verdict(False, f"{one.name} has no judged score; its run did not reach its end")
    if challenger.data != champion.data:
        return Verdict(False, _unlike("data", challenger, champion, challenger.data, champion.data))
    if challenger.judged is None or challenger.judged != champion.judged:
        return Verdict(False, _unlike("world or judging", challenger, champion, challenger.judged, champion.judged))
    return _compare(challenger, champion, settings)


def _compare(challenger: Contender, champion: Contender, settings: PromotionSettings) -> Verdict:
    assert challenger.mean is not None and champion.mean is not None
    assert challenger.low is not None and champion.high is not None
    gain, pair = challenger.mean - champion.mean, f"{challenger}, {champion}"
    if gain <= 0:
        return Verdict(False, f"{pair}: not better")
    if gain < settings.margin:
        return Verdict(False, f"{pair}: better by {gain:.2f}, less than the margin {settings.margin:g}")
    if settings.rule == "apart" and challenger.low <= champion.high:
        return Verdict(False, f"{pair}: better by {gain:.2f}, but the 95 % intervals overlap")
    how = "95 % intervals apart" if settings.rule == "apart" else f"margin {settings.margin:g}"
    return Verdict(True, f"{pair}: better by {gain:.2f}, {how}")


def _unlike(what: str, one: Contender, other: Contender, ones: str | None, others: str | None) -> str:
    return f"{one.name} and {other.name} were judged on other {what} ({ones or 'unknown'}, {others or 'unknown'})"
