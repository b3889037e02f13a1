"""What ends trials and sweeps, and exchanges whose draws do not depend on the process."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concertrl.cluster.sweep_schedulers import SweepStopper, scheduler_of
from concertrl.platform.sweep_file import begin, load_sweep
from concertrl.platform.sweep_ledger import Ledger
from ray.tune.schedulers.trial_scheduler import TrialScheduler

PB2_SPACE = "{train.learning_rate: {loguniform: [0.0003, 0.005]}, train.minibatch: {randint: [64, 512]}}"


def ledger_in(folder: Path, by: str, *words: str) -> Ledger:
    return begin(*load_sweep("builtin", by, [f"tracking.folder={folder}", *words]))


def stopper(**rules: Any) -> SweepStopper:
    _, sweep = load_sweep("builtin", "asha", ["sweep.objectives=[{metric: length, mode: min}]"])
    return SweepStopper(sweep.model_validate({**sweep.model_dump(), "stop": rules}))


def told(rule: SweepStopper, *lengths: float, trial: str = "a", seconds: float = 1.0) -> list[bool]:
    results = [{"length": length, "look": look, "seconds": seconds} for look, length in enumerate(lengths, start=1)]
    return [rule(trial, result) for result in results]


def test_a_plateau_ends_the_trial_and_not_the_sweep() -> None:
    rule = stopper(plateau={"looks": 2, "gain": 0.5})
    assert told(rule, 9.0, 8.0, 7.8, 7.2, 7.1, 7.0) == [False, False, False, False, False, True]
    assert told(rule, 9.0, 9.0, trial="b") == [False, False]
    assert rule.plateaus == {"a"} and not rule.stop_all()


def test_a_target_that_is_met_ends_the_sweep() -> None:
    rule = stopper(target=5.0)
    told(rule, 9.0, 5.1)
    assert not rule.stop_all()
    told(rule, 4.9)
    assert rule.stop_all() and rule.reason == "a trial reached length 5"


def test_time_that_is_up_ends_the_sweep_all_trials_together() -> None:
    rule = stopper(seconds=5)
    told(rule, 1.0, 1.0)
    told(rule, 1.0, 1.0, trial="b")
    assert not rule.stop_all()
    told(rule, 1.0, trial="b")
    assert rule.stop_all() and rule.reason == "5 seconds of training are used up"


def test_without_rules_nothing_ends() -> None:
    rule = stopper()
    assert told(rule, *[1.0] * 50, seconds=1e6) == [False] * 50 and not rule.stop_all()


def test_asha_stops_the_poorer_but_not_what_went_on_before(tmp_path: Path) -> None:
    """As many trials are told again first as would stop any newcomer that is worse."""

    def decisions(folder: Path, *, replayed: bool) -> list[str]:
        asha = scheduler_of(ledger_in(folder, "asha"))
        made = []
        for number, score in enumerate([5.0, 6.0, 7.0, 1.0]):
            trial = SimpleNamespace(trial_id=str(number))
            asha.on_trial_add(None, trial)
            result = {"return": score, "look": 1, "replayed": replayed}
            made.append(asha.on_trial_result(None, trial, result))
        return made

    assert decisions(tmp_path / "new", replayed=False)[-1] == TrialScheduler.STOP
    assert decisions(tmp_path / "again", replayed=True) == [TrialScheduler.CONTINUE] * 4


def population(ledger: Ledger) -> tuple[Any, list[Any]]:
    """A scheduler that has seen two looks at four trials."""
    scheduler, trials = scheduler_of(ledger), []
    for number in range(4):
        values = {"train.learning_rate": 0.001 * (number + 1), "train.minibatch": 100 + number}
        config = {"folder": "f", "candidate": {"number": number, "values": values}}
        trial: Any = _Trial(number, config)
        scheduler._trial_state[trial] = SimpleNamespace(last_train_time=2)
        trials.append(trial)
    if hasattr(scheduler, "_save_trial_state"):
        for time in (1, 2):
            for trial in trials:
                state, result = SimpleNamespace(), {"return": time * trial.number, "look": time}
                scheduler._save_trial_state(state, time, result, trial)
    return scheduler, trials


class _Trial(SimpleNamespace):
    def __init__(self, number: int, config: dict[str, Any]) -> None:
        super().__init__(number=number, config=config)

    def __hash__(self) -> int:
        return self.number

    def __str__(self) -> str:
        return f"trial_{self.number}"


@pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
def test_who_takes_over_keeps_its_number_and_stays_in_the_space(tmp_path: Path, scheduler: str) -> None:
    words = (f"sweep.space={PB2_SPACE}", f"sweep.scheduler={scheduler}")
    found = []
    for attempt in range(2):
        random.seed(attempt)
        np.random.seed(attempt)
        ledger = ledger_in(tmp_path / str(attempt), "pbt", *words)
        exchange, trials = population(ledger)
        before = random.getstate()
        exchange._exploit = lambda _, trial, donor, exchange=exchange: found.append(
            exchange._get_new_config(trial, donor)[0]
        )
        exchange._trial_state[trials[3]].last_checkpoint = "there"
        exchange._trial_state[trials[0]].last_checkpoint = None
        exchange._checkpoint_or_exploit(trials[0], None, [trials[3]], [trials[0]])
        assert random.getstate() == before
    assert found[0] == {**found[1], "folder": "f"}
    candidate = found[0]["candidate"]
    assert candidate["number"] == 0
    assert 0.0003 <= candidate["values"]["train.learning_rate"] <= 0.005
    assert 64 <= candidate["values"]["train.minibatch"] <= 512 and isinstance(
        candidate["values"]["train.minibatch"], int
    )
    assert candidate["values"] != trials[3].config["candidate"]["values"]
