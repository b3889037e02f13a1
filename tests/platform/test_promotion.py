"""A challenger becomes champion by the rule, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from concertrl.platform.experiment import load_experiment
from concertrl.platform.promotion import Contender, decide, judged_by
from concertrl.platform.promotion_settings import PromotionSettings
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

OLD = Contender("version 1", 20.0, 19.0, 21.0, "data", "judged")
NEW = Contender("version 2", 24.0, 23.0, 25.0, "data", "judged")
APART = PromotionSettings()


@pytest.mark.parametrize(
    ("challenger", "settings", "promoted", "said"),
    [
        ({}, {}, True, "version 2 at 24.00 [23.00, 25.00], version 1 at 20.00 [19.00, 21.00]: better by 4.00, 95 %"),
        ({"low": 20.9}, {}, False, "better by 4.00, but the 95 % intervals overlap"),
        ({"low": 21.0}, {}, False, "overlap"),
        ({"low": 20.9}, {"rule": "margin", "margin": 4.0}, True, "margin 4"),
        ({"low": 20.9}, {"rule": "margin", "margin": 4.1}, False, "less than the margin 4.1"),
        ({}, {"margin": 5.0}, False, "less than the margin 5"),
        ({"mean": 20.0}, {"rule": "margin"}, False, "not better"),
        ({"mean": 19.0, "low": 30.0}, {}, False, "not better"),
        ({"data": "other"}, {}, False, "judged on other data (other, data)"),
        ({"judged": "other"}, {}, False, "judged on other world or judging (other, judged)"),
        ({"judged": None}, {}, False, "(unknown, judged)"),
        ({"low": None}, {}, False, "version 2 has no judged score; its run did not reach its end"),
    ],
)
def test_the_rule(challenger: dict[str, object], settings: dict[str, object], promoted: bool, said: str) -> None:
    verdict = decide(replace(NEW, **challenger), OLD, PromotionSettings(**settings))  # type: ignore[arg-type]
    assert verdict.promoted is promoted and said in verdict.reason and "\n" not in verdict.reason


def test_a_version_that_says_nothing_of_its_judging_never_wins() -> None:
    assert not decide(replace(NEW, judged=None), replace(OLD, judged=None), APART).promoted


score = st.floats(-50, 50)


@given(score, score, st.floats(0, 5), st.floats(0, 5), st.floats(0, 3))
def test_no_two_teams_can_each_take_the_others_place(
    one: float, other: float, ones: float, others: float, margin: float
) -> None:
    first = Contender("version 1", one, one - ones, one + ones, "d", "j")
    second = Contender("version 2", other, other - others, other + others, "d", "j")
    for rule in (PromotionSettings(margin=margin), PromotionSettings(rule="margin", margin=margin)):
        assert not (decide(first, second, rule).promoted and decide(second, first, rule).promoted)
        assert not decide(first, first, rule).promoted


def test_what_a_judged_score_depends_on() -> None:
    base = load_experiment("builtin")
    same = (
        "seed=3",
        "train.iterations=1",
        "env.sessions=8",
        "evaluate.every=2",
        "fusion.method=borda",
        "reward.credit=team",
    )
    assert all(judged_by(load_experiment("builtin", [change])) == judged_by(base) for change in same)
    other = ("env.horizon=5", "world.seed=1", "reward.staying=0.2", "evaluate.sessions=8", "world.mechanics.drift=0.5")
    digests = {judged_by(load_experiment("builtin", [change])) for change in other}
    assert len(digests | {judged_by(base)}) == 1 + len(other)


def test_a_rule_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValidationError):
        PromotionSettings(margin=-1.0)
