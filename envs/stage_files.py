"""Stages and worlds on disk: safetensors and JSON, whole or not at all, and checked when they are read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file

from ..agents.ensemble import Ensemble
from ..agents.tower import History
from ..agents.towers import load_towers, save_towers
from ..platform.errors import InputError
from ..platform.settings import Experiment, Mechanics
from .batched import Stage
from .world import World

CHECK = "sha256"
"""The file that says what the other files hold."""

TENSORS, WORDS = "world.safetensors", "stage.json"

NAMED = ("name", "user_ids", "item_ids", "item_titles", "topic_names", "report", "combine", "temperature", "reading")
"""The fields of a world that are not tensors, mechanics or a history."""


def save_stage(stage: Stage, folder: Path) -> None:
    """Writes a stage, whole or not at all."""

    def write(draft: Path) -> None:
        more = {"stage.weights": stage.ensemble.weights, "stage.best_static": stage.best_static}
        _write_world(stage.world, draft, more, {"horizon_rule": stage.horizon_rule, "data": stage.data})
        save_towers(stage.ensemble.towers, draft / "towers")

    _put(folder, write)


def save_world(world: World, folder: Path) -> None:
    """Writes a world, whole or not at all."""
    _put(folder, lambda draft: _write_world(world, draft, {}, {}))


def load_stage(folder: Path, experiment: Experiment) -> Stage:
    """Reads a stage that `save_stage` wrote.

    Raises:
        InputError: the files are not those that were written.
    """
    world, tensors, words = _read_world(folder)
    rule = tuple(words.pop("horizon_rule"))
    ensemble = Ensemble(load_towers(folder / "towers"), experiment.fusion, tensors["stage.weights"])
    best = tensors["stage.best_static"]
    return Stage(experiment, world, ensemble, ensemble.read(world.history), best, rule, words["data"])


def load_world(folder: Path) -> World:
    """Reads a world that `save_world` wrote; raises what `load_stage` does."""
    return _read_world(folder)[0]


def _write_world(world: World, draft: Path, more: dict[str, torch.Tensor], words: dict[str, Any]) -> None:
    tensors = {name: value for name, value in vars(world).items() if isinstance(value, torch.Tensor)}
    tensors |= {f"history.{name}": value for name, value in vars(world.history).items()} | more
    save_file({name: value.contiguous().cpu().clone() for name, value in tensors.items()}, draft / TENSORS)
    facts = {name: getattr(world, name) for name in NAMED}
    facts |= {"mechanics": world.mechanics.model_dump(mode="json"), **words}
    (draft / WORDS).write_text(json.dumps(facts), "utf-8")


def _read_world(folder: Path) -> tuple[World, dict[str, torch.Tensor], dict[str, Any]]:
    """The world, and the tensors and words that are not its own."""
    if (folder / CHECK).read_text("ascii") != _files_digest(folder):
        raise InputError(f"{folder}: damaged, not the bytes that were saved")
    words = json.loads((folder / WORDS).read_text("utf-8"))
    tensors = load((folder / TENSORS).read_bytes())
    history = History(**{name: tensors.pop(f"history.{name}") for name in ("items", "ratings", "weights")})
    mechanics = Mechanics.model_validate(words.pop("mechanics"))
    texts = {name: words.pop(name) for name in NAMED}
    texts = {name: tuple(value) if isinstance(value, list) else value for name, value in texts.items()}
    own = {name: tensors.pop(name) for name in list(tensors) if not name.startswith("stage.")}
    fields: dict[str, Any] = {**own, **texts, "history": history, "mechanics": mechanics}
    return World(**fields), tensors, words


def _put(folder: Path, write: Callable[[Path], None]) -> None:
    """Fills a folder under a temporary name, then renames it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".stage-", dir=folder.parent))
    write(draft)
    (draft / CHECK).write_text(_files_digest(draft), "ascii")
    try:
        os.replace(draft, folder)
    except OSError:
        # Another process has put the same there meanwhile.
        shutil.rmtree(draft, ignore_errors=True)
        if not (folder / CHECK).is_file():
            raise


def _files_digest(folder: Path) -> str:
    """The SHA-256 of all the files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != CHECK:
            digest.update(path.read_bytes())
    return digest.hexdigest()
