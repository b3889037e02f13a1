from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from concertrl.agents.ensemble import Ensemble
from concertrl.agents.tower import Tower
from concertrl.envs import BatchedEnv, Stage, prepare
from concertrl.envs import stage as rooms
from concertrl.envs.stage import LEAST_WEIGHT, keep, load_stage, save_stage
from concertrl.platform.errors import InputError
from concertrl.platform.experiment import load_experiment
from concertrl.platform.ingest import ingest
from concertrl.platform.logs import Logs
from concertrl.platform.settings import Experiment
from torch import Tensor

TINY = (
    "world.users=40",
    "world.items=60",
    "world.topics=4",
    "env.slate=3",
    "env.horizon=3",
    "fusion.ballot=10",
    "agents.names=[cf]",
)
"""Without a tower that reads texts, so that a stage is made in a second."""


def tiny(cache: Path, *overrides: str) -> Experiment:
    return load_experiment("builtin", [*TINY, f"agents.encoder.cache={cache}", *overrides])


@pytest.fixture(scope="module")
def whole_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the tiny stage in it."""
    cache = tmp_path_factory.mktemp("cache")
    prepare(tiny(cache))
    return cache


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages made, and not found, while the test runs."""
    names: list[str] = []
    make = rooms._make

    def counted(experiment: Experiment, *rest: object) -> Stage:
        names.append(experiment.name)
        return make(experiment, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(rooms, "_make", counted)
    return names


def tensors_of(stage: Stage) -> dict[str, Tensor]:
    found = {f"world.{name}": value for name, value in vars(stage.world).items() if isinstance(value, Tensor)}
    found |= {f"history.{name}": value for name, value in vars(stage.world.history).items()}
    for name, tower in stage.ensemble.towers.items():
        found |= {f"{name}.item_vectors": tower.item_vectors, **{f"{name}.{k}": v for k, v in tower.extras.items()}}
    found |= {f"query.{place}": query for place, query in enumerate(stage.reading.queries)}
    found |= {"strengths": stage.reading.strengths, "known": stage.reading.known}
    return found | {"weights": stage.ensemble.weights, "best_static": stage.best_static}


def same(first: Stage, second: Stage) -> bool:
    mine, other = tensors_of(first), tensors_of(second)
    words = ("user_ids", "item_ids", "item_titles", "topic_names", "report", "mechanics", "name")
    return (
        mine.keys() == other.keys()
        and all(torch.equal(mine[name], other[name]) for name in mine)
        and all(getattr(first.world, word) == getattr(second.world, word) for word in words)
        and (first.horizon_rule, first.data) == (second.horizon_rule, second.data)
    )


def played(stage: Stage) -> list[Tensor]:
    env = BatchedEnv(stage, sessions=8, seed=0)
    return [env.step({}).slate for _ in range(env.horizon)]


def test_a_saved_and_loaded_stage_is_equal(stage: Stage, tmp_path: Path) -> None:
    save_stage(stage, tmp_path / "kept")
    loaded = load_stage(tmp_path / "kept", stage.experiment)
    assert same(loaded, stage)
    assert all(torch.equal(first, second) for first, second in zip(played(loaded), played(stage), strict=True))
    assert os.listdir(tmp_path) == ["kept"]


def test_a_stage_is_made_once(tmp_path: Path, made: list[str]) -> None:
    first = prepare(tiny(tmp_path))
    assert same(prepare(tiny(tmp_path)), first) and made == ["builtin"]


@pytest.mark.parametrize(
    ("override", "another"),
    [
        ("seed=1", True),
        ("world.mechanics.patience=2", True),
        ("agents.cf.factors=4", True),
        ("env.slate=4", True),
        ("env.horizon=4", True),
        ("fusion.method=borda", True),
        ("reward.staying=1", True),
        ("train.iterations=1", False),
        ("env.sessions=7", False),
        ("cluster.num_env_runners=2", False),
        ("evaluate.seeds=9", False),
    ],
)
def test_what_a_stage_depends_on_makes_another(
    whole_cache: Path, tmp_path: Path, made: list[str], override: str, another: bool
) -> None:
    shutil.copytree(whole_cache, tmp_path, dirs_exist_ok=True)
    found = prepare(tiny(tmp_path, override))
    assert bool(made) == another
    assert found.experiment == tiny(tmp_path, override)


def test_another_code_makes_another(tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tiny(tmp_path))
    sources = rooms._sources()
    assert any(b"def builtin_world" in source for source in sources)
    monkeypatch.setattr(rooms, "_sources", lambda: [*sources, b"changed"])
    prepare(tiny(tmp_path))
    assert len(made) == 2


def only_stage(cache: Path) -> Path:
    (folder,) = (cache / "stages").iterdir()
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"[]")


FILES = ("stage.json", "world.safetensors", "towers/cf.safetensors", "towers/towers.json", "sha256")
HARMS = [(file, harm) for file in FILES for harm in (flip, Path.unlink)]


@pytest.mark.parametrize(("file", "harm"), [*HARMS, ("world.safetensors", cut), ("stage.json", empty)])
def test_a_damaged_stage_is_made_again(
    whole_cache: Path, tmp_path: Path, made: list[str], file: str, harm: Callable[[Path], None]
) -> None:
    shutil.copytree(whole_cache, tmp_path, dirs_exist_ok=True)
    first, told = prepare(tiny(tmp_path)), []
    assert made == []
    harm(only_stage(tmp_path) / file)
    assert same(prepare(tiny(tmp_path), told.append), first) and len(made) == 1
    assert "damaged; it is made again" in told[0]
    assert same(prepare(tiny(tmp_path)), first) and len(made) == 1


def test_two_processes_may_put_the_same_stage_there(tmp_path: Path, made: list[str]) -> None:
    first = prepare(tiny(tmp_path))
    save_stage(first, only_stage(tmp_path))
    assert same(prepare(tiny(tmp_path)), first) and len(made) == 1 and len(os.listdir(tmp_path / "stages")) == 1


def test_a_kept_stage_is_the_one_prepared(tmp_path: Path, made: list[str]) -> None:
    first = prepare(tiny(tmp_path))
    other = replace(first, experiment=tiny(tmp_path, "seed=5"), best_static=torch.tensor([0.5]))
    keep(other)
    assert same(prepare(tiny(tmp_path, "seed=5")), other) and len(made) == 1


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("[1, 3, 0]", [1.0, 3.0, 0.0]), ("equal", [1.0, 1.0, 1.0]), ("best", [0.6, LEAST_WEIGHT, 0.4])],
)
def test_static_weights_are_those_asked_for(small_stage: Stage, wanted: str, expected: list[float]) -> None:
    """The best ones leave no agent without a say, since the conductor multiplies them."""
    fusion = load_experiment("builtin", [f"fusion.weights={wanted}"]).fusion
    best, equal = torch.tensor([0.6, 0.0, 0.4]), torch.ones(3)
    draft = replace(
        small_stage,
        experiment=small_stage.experiment.model_copy(update={"fusion": fusion}),
        ensemble=Ensemble(small_stage.ensemble.towers, fusion, equal),
    )
    found = rooms._weighted(draft, best, (1.0, 0.2))
    assert found.ensemble.weights.tolist() == pytest.approx([each / sum(expected) for each in expected])
    assert torch.equal(found.best_static, best) and found.horizon_rule == (1.0, 0.2)


def message(experiment: Experiment) -> str:
    with pytest.raises(InputError) as caught:
        prepare(experiment)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_staged_is_told_in_a_line(tmp_path: Path) -> None:
    assert "12 items cannot fill a slate of 20; set env.slate" in message(
        tiny(tmp_path, "world.items=12", "env.slate=20")
    )
    assert "the builtin world reads no dataset; set world.kind=logs" in message(tiny(tmp_path, "dataset=somewhere"))
    assert "no dataset; make one with `concertrl ingest" in message(load_experiment("movielens"))
    assert "nowhere" in message(load_experiment("movielens", ["dataset=nowhere"]))
    assert not (tmp_path / "stages").exists()


def ratings(folder: Path) -> Path:
    """Sixty users of two kinds, and forty items that one kind or the other likes."""
    noise = torch.Generator().manual_seed(0)
    rows = ["user,item,stars,time"]
    for user in range(60):
        for turn, item in enumerate(torch.randperm(40, generator=noise)[:20].tolist()):
            rows.append(f"u{user},i{item},{5 if item % 2 == user % 2 else 2},{1_500_000_000 + 1000 * user + turn}")
    path = folder / "ratings.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def dataset_of(folder: Path, name: str) -> Path:
    mapping = {"user_id": "user", "item_id": "item", "rating": "stars", "timestamp": "time"}
    ingest("csv", ratings(folder), folder / name, mapping)
    return folder / name


def fitted(cache: Path, dataset: Path, *overrides: str) -> Experiment:
    base = [*TINY[3:], "world.topics=4", "world.factors=4", f"agents.encoder.cache={cache}", f"dataset={dataset}"]
    return load_experiment("movielens", [*base, *overrides])


def test_a_dataset_that_is_not_what_its_manifest_says_is_refused(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, "data")
    manifest = json.loads((dataset / "manifest.json").read_text())
    flip(dataset / "interactions.parquet")
    assert "interactions.parquet" in message(fitted(tmp_path, dataset))
    assert manifest["interactions"] == 1200


def test_a_stage_tells_of_the_dataset_where_it_lies_now(tmp_path: Path, made: list[str]) -> None:
    dataset = dataset_of(tmp_path, "data")
    first = prepare(fitted(tmp_path, dataset))
    assert (first.world.name, first.data["name"], first.data["source"]) == ("movielens", "data", str(dataset))
    assert (first.data["users"], first.data["items"], first.data["interactions"]) == (60, 40, 1200)
    moved = dataset.rename(tmp_path / "moved")
    found = prepare(fitted(tmp_path, moved, "name=mine"))
    assert (found.world.name, found.data["name"], found.data["source"]) == ("mine", "moved", str(moved))
    assert len(made) == 1 and found.data["digest"] == first.data["digest"]


def test_towers_know_nothing_from_after_the_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tower is fitted on the train part only: as many rows as the split leaves, none of a later time."""
    seen = []
    fit = rooms.fit_towers

    def watched(logs: Logs, *rest: Any) -> dict[str, Tower]:
        seen.append(logs)
        return fit(logs, *rest)

    monkeypatch.setattr(rooms, "fit_towers", watched)
    stage = prepare(fitted(tmp_path, dataset_of(tmp_path, "data")))
    (logs,) = seen
    assert 0 < len(logs) < 0.8 * 1200
    assert len(logs) == sum(int((row >= 0).sum()) for row in stage.world.history.items)
