from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from concertrl.platform.errors import InputError
from concertrl.platform.experiment import (
    MAX_BYTES,
    load_experiment,
    packaged_experiments,
    resolved_yaml,
    settings_help,
    settings_keys,
)
from concertrl.platform.settings import Experiment


def message(source: str | Path = "builtin", *overrides: str) -> str:
    """What a person is told: one line."""
    with pytest.raises(InputError) as caught:
        load_experiment(source, overrides)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    return text


def file_of(folder: Path, content: str | bytes) -> Path:
    path = folder / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", packaged_experiments())
def test_every_packaged_experiment_loads_under_its_own_name(name: str) -> None:
    assert load_experiment(name).name == name


def test_the_promised_experiments_are_packaged() -> None:
    assert packaged_experiments() == ["builtin", "instruments", "movielens", "ranking"]


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("name", packaged_experiments())
def test_a_packaged_experiment_repeats_no_default(name: str) -> None:
    """All but `world.kind`, which it says even where it is the default."""
    text = (resources.files("concertrl") / "experiments" / "configs" / f"{name}.yaml").read_text("utf-8")
    defaults = dict(leaves(Experiment().model_dump(mode="json")))
    assert [key for key, value in leaves(yaml.safe_load(text)) if key != "world.kind" and defaults[key] == value] == []


def test_a_file_and_its_overrides_are_read(tmp_path: Path) -> None:
    path = file_of(tmp_path, "name: mine\ntrain: {iterations: 7, hidden: [8]}\nfusion: {weights: [1, 2, 3]}\n")
    found = load_experiment(path, ["train.epochs=2", "dataset=", "train.learning_rate=1e-2", "env.slate=3"])
    assert (found.name, found.train.iterations, found.train.epochs, found.env.slate) == ("mine", 7, 2, 3)
    assert (found.train.hidden, found.fusion.weights, found.dataset) == ((8,), (1, 2, 3), None)
    assert found.train.learning_rate == 0.01
    assert load_experiment(file_of(tmp_path, "")) == Experiment()


def test_what_is_resolved_reads_back_equal(tmp_path: Path) -> None:
    changed = load_experiment(
        "movielens", ["dataset=data/ml", "agents.names=[content, cf]", "fusion.weights=[0.3, 0.7]"]
    )
    for experiment in (changed, Experiment()):
        text = resolved_yaml(experiment)
        assert load_experiment(file_of(tmp_path, text)) == experiment
        assert set(dict(leaves(yaml.safe_load(text)))) >= {"seed", "train.gamma", "world.mechanics.patience"}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.iteratons=3", 'unknown key "train.iteratons"; did you mean "train.iterations"?'),
        ("iterations=3", 'unknown key "iterations"; did you mean "train.iterations"?'),
        ("world.mechanics.patence=1", 'did you mean "world.mechanics.patience"?'),
        ("zzzzqq=3", "`concertrl train --help` lists the keys"),
        ("train.iterations=many", "train.iterations='many': Input should be a valid integer"),
        ("train.iterations=-1", "train.iterations=-1: Input should be greater than or equal to 0"),
        ("train.learning_rate=.inf", "train.learning_rate=inf"),
        ("train=5", "train=5"),
        ("fusion.method=bordas", 'no fusion "bordas"; did you mean "borda"?'),
        ("fusion.weights=[1, 2]", "fusion.weights has 2 numbers for 3 agents"),
        ("fusion.weights=[0, 0, 0]", "not all 0"),
        ("fusion.weights=[1, -1, 1]", "at least 0"),
        ("agents.names=[cf, sentimant]", 'no agent "sentimant"; did you mean "sentiment"?'),
        ("agents.names=[cf, cf]", "each once"),
        ("name=../up", "name='../up'"),
        ("seed=2024-13-45", "not plain YAML"),
        (f"seed={'9' * 5000}", "not plain YAML"),
        (f"seed={'[' * 5000}", "not plain YAML"),
        ("seed=!!python/object/apply:os.getcwd []", "not plain YAML"),
        (f"seed={'x' * 5000}", "seed='xxx"),
        ("train.iterations", "write key=value"),
        ("=3", "write key=value"),
        ("seed.deep=3", "seed is a value, not a group of keys"),
    ],
)
def test_an_override_that_cannot_be_is_told_in_a_line(tmp_path: Path, override: str, told: str) -> None:
    assert told in message(file_of(tmp_path, "seed: 1\n"), override)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("seed: [1\n", "mine.yaml:2: not an experiment's YAML"),
        ("- seed\n", "a YAML mapping of keys to values, not a list"),
        ("just words\n", "not a str"),
        ("1: 2\n", "Keys should be strings"),
        ("seed: 2024-13-45\n", "not an experiment's YAML"),
        ("seed: " + "[" * 50_000, "not an experiment's YAML"),
        ("train: {iterations: 3, epoch: 2}\n", 'unknown key "train.epoch"; did you mean "train.epochs"?'),
        (b"name: \xff\xfe\n", "not text; an experiment is YAML in UTF-8"),
        (b"# " + b"x" * MAX_BYTES, "is no experiment"),
    ],
)
def test_a_file_that_cannot_be_is_told_in_a_line(tmp_path: Path, content: str | bytes, told: str) -> None:
    text = message(file_of(tmp_path, content))
    assert told in text and "mine.yaml" in text


def test_yaml_constructs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    text = message(file_of(tmp_path, f'name: !!python/object/apply:os.system ["touch {trace}"]\n'))
    assert "only plain values are read" in text and not trace.exists()


def test_what_is_no_file_is_told_in_a_line(tmp_path: Path) -> None:
    assert 'no experiment "bultin"; did you mean "builtin"?' in message("bultin")
    assert "packaged: builtin, instruments, movielens" in message("zzzz")
    assert "no such file" in message(tmp_path / "none.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "cannot be read" in message(tmp_path / "folder.yaml")


def test_help_names_every_key_with_its_default_and_meaning() -> None:
    text = settings_help()
    for key, _ in leaves(Experiment().model_dump(mode="json")):
        assert f"  {key}=" in text
    assert "  env.slate=10\n" in text and "  train.iterations=" in text
    assert {"env", "env.slate", "world.mechanics.patience"} <= {key for key, _, _ in settings_keys()}
