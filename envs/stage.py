"""From an experiment to a stage on which sessions can be played; kept in the cache, so that it is made once.

    dataset or built-in world  ->  logs, split by time  ->  towers (train part)  ->  world (response model)
                               ->  best static weights and horizon-aware oracle, searched on training users  ->  Stage

A stage is a function of the experiment alone, so a remote env runner makes or finds the same one for itself.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from .. import __version__
from ..agents.ensemble import Ensemble
from ..agents.tower import Tower
from ..agents.towers import code_parts, fit_towers
from ..platform.cache import cache_folder
from ..platform.dataset import Dataset, load_dataset
from ..platform.draws import derive
from ..platform.errors import InputError
from ..platform.logs import Logs
from ..platform.settings import Experiment
from ..platform.split import Split, split_by_time
from .batched import BatchedEnv, Stage
from .builtin import builtin_world, check_users
from .logs import world_from_logs
from .searched_gains import starting_from_gains
from .stage_files import load_stage, load_world, save_stage, save_world
from .world import World
from .yardsticks import search_horizon, search_weights

Say = Callable[[str], None]
"""Told, in a line, what is being done."""

LEAST_WEIGHT = 0.05
"""What the team's static weights leave an agent that the search of the best static fusion gave less, before they are
scaled to sum to 1; the yardstick `best_static` keeps what was found."""

STAGE_CODE = (
    "dataset", "diversity", "draws", "fusion", "fusion_points", "fusion_rules", "fusion_votes", "logs", "ranking",
    "split",
)  # fmt: skip
"""The files of the ground floor that a stage is made with."""

REWARDS = ("click", "conversion", "dwell", "satisfaction", "staying")
"""The settings of the reward that a stage depends on: who is paid what for it is a matter of training."""

SEARCH = 50_000
"""Parts the seeds of the searches from all others of a run."""


def prepare(experiment: Experiment, say: Say = lambda line: None) -> Stage:
    """The stage of an experiment, from the cache or made now.

    Raises:
        InputError: the dataset is missing, damaged, or too small for the slate.
    """
    dataset = _dataset(experiment)
    folder = _folder(experiment, dataset)
    found = _kept(folder, lambda path: load_stage(path, experiment), say)
    if found is not None:
        stage = _as_of_now(found, dataset)
    else:
        stage = _make(experiment, dataset, say)
        save_stage(stage, folder)
    if experiment.train.start == "towers":
        return stage
    return starting_from_gains(stage, folder.with_name(f"{folder.name}-gains.json"), say)


def kept_world(experiment: Experiment, purpose: str, make: Callable[[], World], say: Say = lambda line: None) -> World:
    """A world that goes with the experiment's stage, for a `purpose`, from the cache or made now."""
    folder = _folder(experiment, _dataset(experiment))
    folder = folder.with_name(f"{folder.name}-{purpose}")
    found = _kept(folder, load_world, say)
    if found is None:
        found = make()
        save_world(found, folder)
    return found


def _kept(folder: Path, read: Callable[[Path], Any], say: Say) -> Any:
    """What lies in the cache, or None."""
    if not folder.exists():
        return None
    try:
        return read(folder)
    except (InputError, OSError, ValueError, KeyError, SafetensorError):
        say(f"the cached stage {folder.name} is damaged; it is made again")
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _as_of_now(stage: Stage, dataset: Dataset | None) -> Stage:
    """The stage under this experiment's name, with the dataset where it lies now: neither is part of the key."""
    if dataset is None:
        return stage
    world = replace(stage.world, name=stage.experiment.name)
    return replace(stage, world=world, data=_facts(stage.experiment, world, dataset))


def keep(stage: Stage) -> None:
    """Puts a stage into the cache as that of its experiment, so that `prepare` gives it, here or in an env runner."""
    save_stage(stage, _folder(stage.experiment, _dataset(stage.experiment)))


def _folder(experiment: Experiment, dataset: Dataset | None) -> Path:
    return cache_folder(experiment.agents.encoder.cache) / "stages" / _key(experiment, dataset)


def _dataset(experiment: Experiment) -> Dataset | None:
    if experiment.world.kind == "builtin":
        if experiment.dataset is not None:
            raise InputError(f"dataset={experiment.dataset}: the builtin world reads no dataset; set world.kind=logs")
        return None
    if experiment.dataset is None:
        raise InputError(
            f"{experiment.name}: no dataset; make one with `concertrl ingest SOURCE PATH --out FOLDER`, "
            "then give dataset=FOLDER"
        )
    return load_dataset(experiment.dataset)


def _key(experiment: Experiment, dataset: Dataset | None) -> str:
    """What the stage depends on, hashed: not the training, the cluster, or where the dataset lies.

    The code that makes a stage is part of it, so that a change of the code is not hidden by the cache.
    """
    parts = experiment.model_dump(mode="json", include={"seed", "world", "agents", "fusion", "reward"})
    parts["agents"]["encoder"].pop("cache")
    parts["fusion"].pop("conductor")
    parts["reward"] = {name: parts["reward"][name] for name in REWARDS}
    parts |= {"slate": experiment.env.slate, "horizon": experiment.env.horizon, "version": __version__}
    parts["data"] = dataset.digest if dataset else None
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for code in (*code_parts(), *_sources()):
        digest.update(code)
    return digest.hexdigest()[:24]


def _sources() -> list[bytes]:
    """The code of a stage beside that of its towers."""
    room, platform = Path(__file__).parent, Path(__file__).parents[1] / "platform"
    used = [platform / f"{name}.py" for name in STAGE_CODE]
    return [path.read_bytes() for path in (*sorted(room.glob("*.py")), *used)]


def _make(experiment: Experiment, dataset: Dataset | None, say: Say) -> Stage:
    world, towers = _built_in(experiment, say) if dataset is None else _fitted(experiment, dataset, say)
    if world.num_items < experiment.env.slate:
        raise InputError(
            f"{world.name}: {world.num_items} items cannot fill a slate of {experiment.env.slate}; set env.slate"
        )
    equal = torch.full((len(towers),), 1.0 / len(towers))
    ensemble = Ensemble(towers, experiment.fusion, equal)
    data = _facts(experiment, world, dataset)
    draft = Stage(experiment, world, ensemble, ensemble.read(world.history), equal, (0.0, 0.0), data)

    def rehearsal(sessions: int) -> BatchedEnv:
        return BatchedEnv(draft, sessions=sessions, seed=derive(experiment.seed, SEARCH))

    say("searching the best static weights and the horizon-aware oracle on training users")
    best = search_weights(rehearsal)
    rule = search_horizon(rehearsal(256))
    return _weighted(draft, best, rule)


def _weighted(draft: Stage, best: torch.Tensor, rule: tuple[float, float]) -> Stage:
    wanted = draft.experiment.fusion.weights
    equal = draft.ensemble.weights
    # The conductor multiplies the static weights, so an agent that it may come to need must have some.
    named = {"best": best.clamp_min(LEAST_WEIGHT), "equal": equal}
    weights = named[wanted] if isinstance(wanted, str) else torch.tensor(wanted, dtype=torch.float32)
    ensemble = Ensemble(draft.ensemble.towers, draft.ensemble.fusion, weights)
    return replace(draft, ensemble=ensemble, best_static=best, horizon_rule=rule)


def tower_logs(experiment: Experiment) -> Logs:
    """What the towers of an experiment are fitted on.

    Raises:
        InputError: the dataset is missing or damaged.
    """
    dataset = _dataset(experiment)
    if dataset is None:
        return builtin_world(experiment.world)[0]
    return dataset.train_logs(split_by_time(dataset.logs()))


def data_digest(experiment: Experiment) -> str:
    """Hash of the logs that the experiment names, or of the settings of the world that makes them.

    Raises:
        InputError: the dataset is missing or damaged, or the data too small to train on.
    """
    dataset = _dataset(experiment)
    items = dataset.manifest.items if dataset else experiment.world.items
    if items < experiment.env.slate:
        named = dataset.path.name if dataset else "builtin"
        raise InputError(f"{named}: {items} items cannot fill a slate of {experiment.env.slate}; set env.slate")
    if dataset is not None:
        return dataset.digest
    check_users(experiment.world)
    parts = json.dumps([experiment.world.model_dump(mode="json"), __version__], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()


def _facts(experiment: Experiment, world: World, dataset: Dataset | None) -> dict[str, Any]:
    """What the logs were, for the run."""
    if dataset is None:
        known = {"name": "builtin", "digest": data_digest(experiment), "source": "generated"}
        return {**known, "users": len(world.user_ids), "items": world.num_items}
    counts = dataset.manifest.model_dump(
        mode="json", include={"interactions", "users", "items", "edges", "rejected", "first", "last"}
    )
    return {"name": dataset.path.name, "digest": dataset.digest, "source": str(dataset.path), **counts}


def _telling(say: Say) -> Callable[[str, int, int, float], None]:
    return lambda tower, done, total, rate: say(f"{tower}: {done:,} of {total:,} texts read, {rate:.0f} a second")


def _built_in(experiment: Experiment, say: Say) -> tuple[World, dict[str, Tower]]:
    say("generating the built-in world: users, items, descriptions, reviews")
    logs, world = builtin_world(experiment.world)
    return world, fit_towers(logs, experiment.agents, experiment.seed, _telling(say))


def _fitted(experiment: Experiment, dataset: Dataset, say: Say) -> tuple[World, dict[str, Tower]]:
    logs = dataset.logs()
    split = split_by_time(logs)
    say(
        f"{len(logs):,} interactions: {split.train.sum():,} train, {split.validation.sum():,} validation, "
        f"{split.test.sum():,} test; {split.cold_users.sum():,} cold users, {split.cold_items.sum():,} cold items"
    )
    towers = fit_towers(dataset.train_logs(split), experiment.agents, experiment.seed, _telling(say))
    features = _features(towers)
    say("fitting the response model: the users who will respond")
    world = world_from_logs(
        logs, split, experiment.world, item_features=features, name=experiment.name, seed=experiment.world.seed
    )
    return world, towers


def logs_and_features(
    experiment: Experiment, towers: Mapping[str, Tower]
) -> tuple[Logs, Split, NDArray[np.floating] | None]:
    """What a world is fitted on: all the logs, how they are split, and the items' content vectors `(N, d)`.

    Raises:
        InputError: the experiment has no dataset.
    """
    dataset = _dataset(experiment)
    if dataset is None:
        raise InputError(f"{experiment.name}: the builtin world is not fitted to logs")
    logs = dataset.logs()
    return logs, split_by_time(logs), _features(towers)


def _features(towers: Mapping[str, Tower]) -> NDArray[np.floating] | None:
    return towers["content"].item_vectors.numpy() if "content" in towers else None
