"""The towers of a team: fitted on the train part of the logs, kept between runs, saved with the team.

    logs, settings, seed  ->  key  ->  found in the cache, or FITTERS[name]  ->  {name: Tower}  <->  folder of files

A folder of towers is one safetensors file for each and `towers.json`, which names them and their hashes: no pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..platform.cache import cache_folder, write_whole
from ..platform.encoder import EncodeProgress, Encoder
from ..platform.errors import InputError
from ..platform.logs import Logs
from ..platform.settings import AgentsSettings
from . import collaborative, content, sentiment
from .profiles import PROFILES, profile
from .tower import PAD, History, Tower

Progress = Callable[[str, int, int, float], None]
"""Called with a tower's name, texts done, texts in all, texts encoded a second."""

INDEX = "towers.json"

_LIBRARIES = ("implicit", "numpy", "scikit-learn", "torch", "transformers")
"""What else a fit depends on: another version may give other numbers."""


@dataclass(frozen=True)
class Fitter:
    """How one recommender's tower is made. `encodes` says whether it reads text with the encoder."""

    fit: Callable[[Logs, AgentsSettings, Encoder, int, EncodeProgress | None], Tower]
    encodes: bool = True


FITTERS: dict[str, Fitter] = {
    "cf": Fitter(lambda logs, settings, _encoder, seed, _progress: collaborative.fit(logs, settings.cf, seed), False),
    "content": Fitter(
        lambda logs, settings, encoder, _seed, progress: content.fit(
            logs, settings.content, encoder, settings.sentiment.max_reviews, progress
        )
    ),
    "sentiment": Fitter(
        lambda logs, settings, encoder, seed, progress: sentiment.fit(logs, settings.sentiment, encoder, seed, progress)
    ),
}
"""The recommenders by name; a new one is a function and a line here, and a name in `settings.RECOMMENDERS`."""


def fit_towers(logs: Logs, settings: AgentsSettings, seed: int, progress: Progress | None = None) -> dict[str, Tower]:
    """The towers of `settings.names`, in that order, fitted on `logs`: pass the train part only.

    A fit is kept in the cache folder and found again for the same logs, settings, seed, model, code and libraries.

    Raises:
        InputError: the logs hold nothing for a tower to learn from, or the encoder or the cache cannot be used.
    """
    encoder = Encoder(settings.encoder)
    base = _digest([*_logs_parts(logs), _settings_part(settings), str(seed).encode(), *code_parts()])
    towers = {}
    for name in settings.names:
        fitter = FITTERS[name]
        key = _digest([base.encode(), name.encode(), (encoder.fingerprint if fitter.encodes else "").encode()])
        folder = cache_folder(settings.encoder.cache) / "towers" / key[:32]
        try:
            towers[name] = load_towers(folder)[name]
        except (InputError, KeyError):  # not there yet, or torn: it is made again
            towers[name] = fitter.fit(logs, settings, encoder, seed, partial(progress, name) if progress else None)
            save_towers({name: towers[name]}, folder)
    return towers


class _Entry(BaseModel):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    profile_kind: str
    facts: dict[str, str]
    shapes: dict[str, list[int]]
    sha256: str
    common: int = 0


class _Index(BaseModel):
    format: Literal[1]
    towers: list[_Entry]


def save_towers(towers: dict[str, Tower], folder: Path) -> None:
    """Writes the towers to `folder`, made if missing; the index comes last, so that a torn folder is known as one."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for name, tower in towers.items():
        tensors = {"item_vectors": tower.item_vectors, **{f"extras.{key}": each for key, each in tower.extras.items()}}
        data = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
        write_whole(folder / f"{name}.safetensors", data)
        shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
        sha256 = hashlib.sha256(data).hexdigest()
        entries.append(
            _Entry(
                name=name,
                profile_kind=tower.profile_kind,
                facts=tower.facts,
                shapes=shapes,
                sha256=sha256,
                common=tower.common,
            )
        )
    write_whole(folder / INDEX, _Index(format=1, towers=entries).model_dump_json(indent=1).encode())


def load_towers(folder: Path) -> dict[str, Tower]:
    """The towers that `save_towers` wrote, in the same order, on the CPU.

    Raises:
        InputError: a file is missing or is not what was written, or the towers do not fit together.
    """
    path = folder / INDEX
    try:
        index = _Index.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); is this the folder of a team?") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path}: not an index of towers ({where}: {first['msg']}); save the team again") from None
    towers = {entry.name: _load(folder / f"{entry.name}.safetensors", entry) for entry in index.towers}
    if not towers or len({tower.item_vectors.shape[0] for tower in towers.values()}) != 1:
        raise InputError(f"{path}: towers over one catalog belong here, at least one; save the team again")
    return towers


def _load(path: Path, entry: _Entry) -> Tower:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); save the team again") from None
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise InputError(f"{path}: damaged, not the bytes that were saved; save the team again")
    try:
        tensors = load(data)
        shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
        if shapes != entry.shapes:
            raise ValueError("the shapes are not those of the index")
        vectors = tensors.pop("item_vectors")
        extras = {key.removeprefix("extras."): tensor for key, tensor in tensors.items()}
        tower = Tower(entry.name, vectors, entry.profile_kind, extras, entry.facts, entry.common)
        _ask(tower)
    except (SafetensorError, ValueError, KeyError, RuntimeError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{path}: not a tower that can serve ({reason}); save the team again") from None
    return tower


def _ask(tower: Tower) -> None:
    """Asks the tower about a stranger and about someone who liked the first item."""
    if tower.item_vectors.dim() != 2 or not len(tower.item_vectors):
        raise ValueError("item vectors must be (items, dimensions)")
    if tower.profile_kind not in PROFILES:
        raise ValueError(f'unknown profile kind "{tower.profile_kind}"')
    history = History(torch.tensor([[PAD], [0]]), torch.tensor([[0.0], [5.0]]), torch.tensor([[0.0], [1.0]]))
    query = profile(tower, history)
    if query.shape != (2, tower.dim) or not bool(query.isfinite().all() and tower.item_vectors.isfinite().all()):
        raise ValueError("its queries are not finite numbers of the right shape")


def _logs_parts(logs: Logs) -> Iterable[bytes]:
    for value in vars(logs).values():
        yield json.dumps(value).encode() if isinstance(value, tuple) else value.tobytes()


def _settings_part(settings: AgentsSettings) -> bytes:
    """What a fit depends on: not where things are kept, nor how many texts are encoded at once, nor its teammates."""
    return settings.model_dump_json(exclude={"names": True, "encoder": True}).encode()


def code_parts() -> Iterable[bytes]:
    """The sources of the fits and the versions of their libraries, so that a change of them is a change of the key."""
    yield from (path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    yield from (metadata.version(library).encode() for library in _LIBRARIES)


def _digest(parts: Iterable[bytes]) -> str:
    """A hash of the parts and of where one ends and the next begins."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
