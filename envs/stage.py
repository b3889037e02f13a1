"""From an experiment to a stage on which sessions can be played; kept in the cache, so that it is made once.

    dataset or built-in world  ->  logs, split by time  ->  towers (train part)  ->  world (response model)
                               ->  best static weights and horizon-aware oracle, searched on training users  ->  Stage

A stage is a function of the experiment alone, so a remote env runner makes or finds the same one for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from .. import __version__
from ..agents.ensemble import Ensemble
from ..agents.tower import History, Tower
from ..agents.towers import code_parts, fit_towers, load_towers, save_towers
from ..platform.cache import cache_folder
from ..platform.dataset import Dataset, load_dataset
from ..platform.draws import derive
from ..platform.errors import InputError
from ..platform.logs import Logs
from ..platform.settings import Experiment, Mechanics
from ..platform.split import split_by_time
from .batched import BatchedEnv, Stage
from .builtin import builtin_world
from .logs import world_from_logs
from .world import World
from .yardsticks import search_horizon, search_weights

Say = Callable[[str], None]
"""Told, in a line, what is being done."""

LEAST_WEIGHT = 0.05
"""What the team's static weights leave an agent that the search of the best static fusion gave less, before they are
scaled to sum to 1; the yardstick `best_static` keeps what was found."""

CHECK = "sha256"
"""The file that says what a stage's other files hold."""

SEARCH = 50_000
"""Parts the seeds of the searches from all others of a run."""


def prepare(experiment: Experiment, say: Say = lambda line: None) -> Stage:
    """The stage of an experiment, from the cache or made now.

    Raises:
        InputError: the dataset is missing, damaged, or too small for the slate.
    """
    dataset = _dataset(experiment)
    folder = _folder(experiment, dataset)
    if folder.exists():
        try:
            return _as_of_now(load_stage(folder, experiment), dataset)
        except (InputError, OSError, ValueError, KeyError, SafetensorError):
            say(f"the cached stage {folder.name} is damaged; it is made again")
            shutil.rmtree(folder, ignore_errors=True)
    stage = _make(experiment, dataset, say)
    save_stage(stage, folder)
    return stage


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
    parts |= {"slate": experiment.env.slate, "horizon": experiment.env.horizon, "version": __version__}
    parts["data"] = dataset.digest if dataset else None
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for code in (*code_parts(), *_sources()):
        digest.update(code)
    return digest.hexdigest()[:24]


def _sources() -> list[bytes]:
    """The code of a stage beside that of its towers."""
    room, platform = Path(__file__).parent, Path(__file__).parents[1] / "platform"
    used = [platform / f"{name}.py" for name in ("dataset", "draws", "fusion", "logs", "ranking", "split")]
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


def _facts(experiment: Experiment, world: World, dataset: Dataset | None) -> dict[str, Any]:
    """What the logs were, for the run."""
    if dataset is None:
        parts = json.dumps([experiment.world.model_dump(mode="json"), __version__], sort_keys=True)
        digest = hashlib.sha256(parts.encode()).hexdigest()
        return {
            "name": "builtin",
            "digest": digest,
            "source": "generated",
            "users": len(world.user_ids),
            "items": world.num_items,
        }
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
    features = towers["content"].item_vectors.numpy() if "content" in towers else None
    say("fitting the response model: the users who will respond")
    world = world_from_logs(
        logs, split, experiment.world, item_features=features, name=experiment.name, seed=experiment.world.seed
    )
    return world, towers


# --- kept on disk


def save_stage(stage: Stage, folder: Path) -> None:
    """Writes a stage as safetensors and JSON, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".stage-", dir=folder.parent))
    world = stage.world
    tensors = {name: value for name, value in vars(world).items() if isinstance(value, torch.Tensor)}
    tensors |= {f"history.{name}": value for name, value in vars(world.history).items()}
    tensors |= {"stage.weights": stage.ensemble.weights, "stage.best_static": stage.best_static}
    save_file({name: value.contiguous().cpu().clone() for name, value in tensors.items()}, draft / "world.safetensors")
    save_towers(stage.ensemble.towers, draft / "towers")
    words = {
        "name": world.name,
        "user_ids": world.user_ids,
        "item_ids": world.item_ids,
        "item_titles": world.item_titles,
        "topic_names": world.topic_names,
        "report": world.report,
        "mechanics": world.mechanics.model_dump(mode="json"),
        "horizon_rule": stage.horizon_rule,
        "data": stage.data,
    }
    (draft / "stage.json").write_text(json.dumps(words), "utf-8")
    (draft / CHECK).write_text(_files_digest(draft), "ascii")
    try:
        os.replace(draft, folder)
    except OSError:
        # Another process has put the same stage there meanwhile.
        shutil.rmtree(draft, ignore_errors=True)
        if not (folder / CHECK).is_file():
            raise


def _files_digest(folder: Path) -> str:
    """The SHA-256 of all the stage's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != CHECK:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def load_stage(folder: Path, experiment: Experiment) -> Stage:
    """Reads a stage that `save_stage` wrote.

    Raises:
        InputError: the files are not those that were written.
    """
    if (folder / CHECK).read_text("ascii") != _files_digest(folder):
        raise InputError(f"{folder}: damaged, not the bytes that were saved")
    words = json.loads((folder / "stage.json").read_text("utf-8"))
    tensors = load((folder / "world.safetensors").read_bytes())
    weights, best = tensors.pop("stage.weights"), tensors.pop("stage.best_static")
    history = History(**{name: tensors.pop(f"history.{name}") for name in ("items", "ratings", "weights")})
    rule, data = tuple(words.pop("horizon_rule")), words.pop("data")
    mechanics = Mechanics.model_validate(words.pop("mechanics"))
    texts = {name: tuple(value) if isinstance(value, list) else value for name, value in words.items()}
    fields: dict[str, Any] = {**tensors, **texts, "history": history, "mechanics": mechanics}
    world = World(**fields)
    ensemble = Ensemble(load_towers(folder / "towers"), experiment.fusion, weights)
    return Stage(experiment, world, ensemble, ensemble.read(history), best, rule, data)
