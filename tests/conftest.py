"""What every test shares: one thread, no network for models, a clean tracking environment, the folder of real data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from servers import Postgres

if TYPE_CHECKING:
    from concertrl.envs import Stage

# Before torch is imported: equal results whatever the machine, and no quarrel over its cores.
for _library in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_library, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for _variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
    os.environ.pop(_variable, None)

settings.register_profile("house", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("house")


IN_PROCESS = ("platform", "agents", "envs")
"""Rooms whose tests start no Ray: under pytest-xdist they are one group, and the others another."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two groups for `-n 2 --dist loadgroup`: each stage is made by one process, and Ray has one to itself."""
    for item in items:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        item.add_marker(pytest.mark.xdist_group("numbers" if room in IN_PROCESS else "processes"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets, from CONCERTRL_DATA; the test is skipped where it is not set."""
    folder = os.environ.get("CONCERTRL_DATA")
    if not folder:
        pytest.skip("CONCERTRL_DATA names no folder of real data")
    return Path(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that whoever asks for it may kill and start again; MLflow's tables are made once."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


# Stages are kept in the user's cache, under a key that holds the code too: the first session of tests makes them.

CHEAP_TOWERS = ("agents.content.factors=8", "agents.sentiment.max_reviews=500", "agents.encoder.max_tokens=16")


@pytest.fixture(scope="session")
def builtin_stage() -> Stage:
    """The packaged `builtin` experiment as it is."""
    return stage_of("builtin")


@pytest.fixture(scope="session")
def small_stage() -> Stage:
    """A builtin world of 120 users and 150 items, short sessions."""
    sizes = ("world.users=120", "world.items=150", "world.topics=6", "env.slate=5", "env.horizon=8", "fusion.ballot=20")
    return stage_of("builtin", *sizes, *CHEAP_TOWERS)


@pytest.fixture(scope="session")
def instruments_stage(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The real Amazon world, whole, with towers that are quick to fit."""
    return _real_stage("instruments", "amazon", data_folder / "amazon-musical-instruments-5core", tmp_path_factory)


@pytest.fixture(scope="session")
def movielens_stage(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The real MovieLens world, whole, with towers that are quick to fit; minutes the first time."""
    return _real_stage("movielens", "movielens", data_folder / "ml-latest-small", tmp_path_factory)


def _real_stage(name: str, source: str, raw: Path, folders: pytest.TempPathFactory) -> Stage:
    from concertrl.platform.ingest import ingest

    dataset = folders.mktemp("datasets") / name
    ingest(source, raw, dataset)
    return stage_of(name, f"dataset={dataset}", *CHEAP_TOWERS)


def stage_of(name: str, *overrides: str) -> Stage:
    from concertrl.envs import prepare
    from concertrl.platform.experiment import load_experiment

    return prepare(load_experiment(name, overrides))


WORLDS = (
    "builtin",
    "small",
    "instruments",
    pytest.param("movielens", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
)


@pytest.fixture(scope="session", params=WORLDS)
def stage(request: pytest.FixtureRequest) -> Stage:
    """Every world in turn."""
    return request.getfixturevalue(f"{request.param}_stage")


@pytest.fixture
def stage_with(small_stage: Stage) -> Callable[..., Stage]:
    """The small stage under changed fusion settings, or with another world: `stage_with(world=..., method="borda")`."""
    from dataclasses import replace

    from concertrl.agents.ensemble import Ensemble

    def build(world: object = None, **fusion: object) -> Stage:
        settings = small_stage.experiment.fusion.model_copy(update=fusion)
        ensemble = Ensemble(small_stage.ensemble.towers, settings, small_stage.ensemble.weights)
        experiment = small_stage.experiment.model_copy(update={"fusion": settings})
        return replace(small_stage, experiment=experiment, ensemble=ensemble, world=world or small_stage.world)

    return build


@pytest.fixture(scope="session")
def stage_under(small_stage: Stage) -> Callable[..., Stage]:
    """The small stage under changed groups of settings: `stage_under(env={"sessions": 6}, seed=3)`."""

    from dataclasses import replace

    from concertrl.agents.ensemble import Ensemble
    from concertrl.platform.settings import Experiment

    def build(**groups: Any) -> Stage:
        values = small_stage.experiment.model_dump()
        values["env"]["sessions"] = 16
        for name, value in groups.items():
            values[name] = {**values[name], **value} if isinstance(value, dict) else value
        experiment = Experiment.model_validate(values)
        ensemble = Ensemble(small_stage.ensemble.towers, experiment.fusion, small_stage.ensemble.weights)
        return replace(small_stage, experiment=experiment, ensemble=ensemble)

    return build
