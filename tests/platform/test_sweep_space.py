"""The space of a sweep: what is refused and how, which keys count, what is drawn, moved and made of it."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import yaml
from concertrl.platform.errors import InputError
from concertrl.platform.experiment import load_experiment, packaged_experiments
from concertrl.platform.sweep_file import load_sweep, packaged_sweeps
from concertrl.platform.sweep_proposals import Proposals
from concertrl.platform.sweep_settings import Dimension, SweepSettings
from concertrl.platform.sweep_space import apply, base_values, counting, is_live, moved, ordered
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

BASE = load_experiment("builtin")

SPACE: dict[str, Any] = {
    "train.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "train.epochs": {"choice": [1, 2, 4]},
    "train.minibatch": {"randint": [64, 512]},
    "fusion.diversity_weight": {"uniform": [0.1, 0.5], "when": {"fusion.diversity": ["mmr", "dpp"]}},
    "fusion.diversity": {"choice": ["none", "mmr", "dpp"]},
    "agents.names": {"choice": [["cf", "content"], ["cf", "content", "sentiment"]]},
    "reward.credit": {"choice": ["team", "difference", "shapley"]},
    "reward.staying": {"uniform": [0.0, 0.5]},
}


def sweep(**settings: Any) -> SweepSettings:
    return SweepSettings.model_validate({"space": SPACE, "name": "test", **settings})


def refused(tmp_path: Path, data: Any, *words: str) -> str:
    file = tmp_path / "mine.yaml"
    file.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    with pytest.raises(InputError) as caught:
        load_sweep("builtin", str(file), words)
    message = str(caught.value)
    assert "\n" not in message and "mine.yaml" in message
    return message


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"train.learning_rat": {"uniform": [0, 1]}}, 'did you mean "train.learning_rate"'),
        ({"train": {"choice": [1]}}, '"train" is a group of keys'),
        ({"nothing.like.it": {"choice": [1]}}, "`concertrl train --help` lists the keys"),
        ({"train.epochs": {"choice": [2, 0]}}, "space.train.epochs: train.epochs=0"),
        ({"train.epochs": {"choice": [2, "many"]}}, "train.epochs='many'"),
        ({"fusion.method": {"choice": ["borda", "bordeaux"]}}, 'no fusion "bordeaux"'),
        ({"train.gamma": {"uniform": [0.5, 1.5]}}, "train.gamma=1.5"),
        ({"train.gamma": {"uniform": [0.9, 0.5]}}, "0.9 is not below 0.5"),
        ({"train.gamma": {"loguniform": [0, 0.5]}}, "0.0 is not above 0"),
        ({"train.gamma": {"uniform": [0.5, 0.9], "choice": [0.5]}}, "exactly one of"),
        ({"train.gamma": {"when": {}}}, "exactly one of"),
        ({"train.gamma": {"normal": [0, 1]}}, "unknown key"),
        ({"train.gamma": {"choice": []}}, "space.train.gamma.choice"),
        ({}, "space"),
        ({"tracking.folder": {"choice": ["a", "b"]}}, "a sweep does not vary"),
        ({"world.users": {"randint": [5, 9]}}, "a sweep does not vary"),
        ({"train.iterations": {"randint": [5, 9]}}, "a sweep does not vary"),
        ({"train.gamma": {"choice": [0.9], "when": {"train.lamda": 1}}}, '"train.lamda" is no key'),
        (
            {
                "train.gamma": {"choice": [0.9], "when": {"train.lambda_": 1}},
                "train.lambda_": {"choice": [1], "when": {"train.gamma": 0.9}},
            },
            "train.gamma, train.lambda_ wait for each other",
        ),
    ],
)
def test_a_space_that_cannot_be_is_refused_in_one_line(tmp_path: Path, space: Any, told: str) -> None:
    assert told in refused(tmp_path, {"space": space})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"trails": 3}, 'unknown key "trails"; did you mean "trials"'),
        ({"trials": 0}, "trials"),
        ({"iterations": 7, "every": 2}, "no multiple of every=2"),
        ({"scheduler": "pbt", "searcher": "optuna"}, "leave searcher at random"),
        ({"scheduler": "ahsa"}, "scheduler"),
        ({"objectives": [{"metric": "return"}, {"metric": "return"}]}, "each metric once"),
        ({"objectives": [{"metric": "clickz"}]}, "objectives.0.metric"),
        ({"scheduler": "pbt", "space": {"train.initial_std": {"uniform": [0.1, 0.5]}}}, "none of the space can"),
        ({"scheduler": "pb2", "space": {"train.epochs": {"choice": [1, 2]}}}, "pb2 changes ranges"),
        ({"name": "../up"}, "name"),
        ({"stop": {"seconds": 0}}, "stop.seconds"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(tmp_path: Path, settings: Any, told: str) -> None:
    space = {"train.gamma": {"uniform": [0.5, 0.9]}}
    assert told in refused(tmp_path, {"space": space, **settings})


@pytest.mark.parametrize("text", ["space: !!python/object/apply:os.system ['true']", "[1, 2]", "a: [", "x" * 1_000_001])
def test_a_file_that_is_no_sweep_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    refused(tmp_path, text)


def test_a_sweep_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(InputError, match=r'no sweep "ahsa"; did you mean "asha"\?'):
        load_sweep("builtin", "ahsa")


@pytest.mark.parametrize("name", packaged_sweeps())
@pytest.mark.parametrize("experiment", packaged_experiments())
def test_packaged_sweeps_fit_packaged_experiments(name: str, experiment: str) -> None:
    base, settings = load_sweep(experiment, name)
    assert settings.name == f"{experiment}-{name}"
    proposals = Proposals(settings, base)
    for number in range(3):
        apply(base, proposals.propose(number), settings)


def test_words_change_the_experiment_and_the_sweep() -> None:
    words = ["seed=7", "sweep.trials=5", "sweep.name=mine", "sweep.space.train.clip={uniform: [0.1, 0.3]}"]
    base, settings = load_sweep("builtin", "asha", words)
    assert (base.seed, settings.trials, settings.name) == (7, 5, "mine")
    assert settings.space["train.clip"].uniform == (0.1, 0.3) and "train.gamma" in settings.space


def test_a_key_counts_where_its_condition_holds_even_that_of_a_later_key() -> None:
    space = sweep().space
    assert ordered(space).index("fusion.diversity") < ordered(space).index("fusion.diversity_weight")
    values = {"fusion.diversity_weight": 0.3, "train.epochs": 2}
    assert counting(space, {**values, "fusion.diversity": "mmr"}, BASE) == {**values, "fusion.diversity": "mmr"}
    assert counting(space, {**values, "fusion.diversity": "none"}, BASE) == {
        "train.epochs": 2,
        "fusion.diversity": "none",
    }
    # With the key that it waits for left out, the base's own value decides.
    assert counting(space, values, BASE) == {"train.epochs": 2}


@pytest.mark.parametrize("searcher", ["random", "optuna", "bayesian"])
def test_every_candidate_is_an_experiment_and_lies_in_the_space(searcher: str) -> None:
    settings = sweep(searcher=searcher, trials=12)
    proposals = Proposals(settings, BASE)
    seen = []
    for number in range(12):
        values = proposals.propose(number)
        experiment = apply(BASE, values, settings)
        assert experiment.train.iterations == settings.iterations
        assert ("fusion.diversity_weight" in values) == (values["fusion.diversity"] != "none")
        if number:
            assert 1e-4 <= values["train.learning_rate"] <= 1e-2 and 64 <= values["train.minibatch"] <= 512
            assert values["agents.names"] in SPACE["agents.names"]["choice"]
        seen.append(values)
        proposals.tell(number, values, [float(number)])
    assert seen[0] == counting(settings.space, base_values(BASE, settings.space), BASE)
    assert len({str(values) for values in seen}) == 12


def test_a_candidate_depends_on_the_seed_and_its_number_alone() -> None:
    first, later = Proposals(sweep(), BASE), Proposals(sweep(), BASE)
    drawn = [first.propose(number) for number in range(6)]
    assert [later.propose(number) for number in (4, 5)] == drawn[4:]
    assert Proposals(sweep(seed=1), BASE).propose(4) != drawn[4]
    assert Proposals(sweep(scheduler="fifo", trials=40), BASE).propose(4) == drawn[4]


@pytest.mark.parametrize("searcher", ["optuna", "bayesian"])
def test_what_was_told_moves_what_is_picked(searcher: str) -> None:
    """Later candidates lie nearer to the best value, and so do those of a later process that is told the same."""
    space = {"train.gamma": {"uniform": [0.0, 1.0]}}
    first, later = [], []
    for seed in range(3):
        settings = sweep(searcher=searcher, trials=24, base_first=False, space=space, seed=seed)
        proposals, found = Proposals(settings, BASE), []
        for number in range(20):
            found.append(proposals.propose(number))
            proposals.tell(number, found[-1], [-off(found[-1])])
        first += [off(values) for values in found[10:]]
        again = Proposals(settings, BASE)
        for number, values in enumerate(found):
            again.tell(number, values, [-off(values)])
        later += [off(again.propose(number)) for number in range(20, 24)]
    assert mean(first) < BY_CHANCE and mean(later) < BY_CHANCE


BY_CHANCE = 0.29 * 0.7
"""Well below the mean distance of a uniform draw from 0.7."""


def off(values: dict[str, Any]) -> float:
    return abs(values["train.gamma"] - 0.7)


def test_a_space_without_a_valid_experiment_is_told_in_one_line() -> None:
    space = {"fusion.weights": {"choice": [[0.5, 0.5]]}}
    proposals = Proposals(sweep(space=space, base_first=False), BASE)
    with pytest.raises(InputError, match=r"no valid experiment; the last: .*2 numbers for 3 agents"):
        proposals.propose(0)


@given(st.integers(0, 2**31), st.integers(0, 5))
def test_what_is_moved_stays_in_the_space_and_what_cannot_change_stays(seed: int, number: int) -> None:
    settings = sweep(base_first=False)
    values = CANDIDATES[number]
    new = moved(settings.space, values, BASE, seed)
    assert new == moved(settings.space, values, BASE, seed)
    assert {key: new[key] for key in new if not is_live(key)} == {key: values[key] for key in new if not is_live(key)}
    assert 1e-4 <= new["train.learning_rate"] <= 1e-2 and new["train.epochs"] in (1, 2, 4)
    assert isinstance(new["train.minibatch"], int) and 64 <= new["train.minibatch"] <= 512
    apply(BASE, new, settings)


CANDIDATES = [Proposals(sweep(base_first=False), BASE).propose(number) for number in range(6)]


@given(st.dictionaries(st.sampled_from(["uniform", "loguniform", "randint"]), st.tuples(st.floats(), st.floats())))
def test_a_dimension_is_a_range_or_an_error(data: Any) -> None:
    try:
        dimension = Dimension.model_validate(data)
    except ValidationError:
        return
    low, high = dimension.bounds
    assert low < high and len(data) == 1
