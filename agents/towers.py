"""The towers of a team: fitted on the train part of the logs, kept between runs, saved with the team.

    logs, settings, seed  ->  key  ->  found in the cache, or FITTERS[name]  ->  {name: Tower}  <->  folder of files

A folder of towers is one safetensors file for each and `towers.json`, which names them and their hashes: no pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
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
from . import collaborative, content, knowledge, sentiment, sequence
from .pretrained import pretrain, pretrained_tower
from .profiles import PROFILES, profile
from .propagation import propagated
from .themes import with_themes
from .tower import PAD, History, Tower

Progress = Callable[[str, int, int, float], None]
"""Called with a tower's name, texts done, texts in all, texts encoded a second."""

INDEX = "towers.json"

_LIBRARIES = ("implicit", "numpy", "scikit-learn", "scipy", "torch", "transformers")
"""What else a fit depends on: another version may give other numbers."""


@dataclass(frozen=True)
class Fitter:
    """How one recommender's tower is made. `encodes` says whether it reads text with the encoder."""

    fit: Callable[[Logs, AgentsSettings, Encoder, int, EncodeProgress | None], Tower]
    encodes: bool = True


def _fit_content(
    logs: Logs, settings: AgentsSettings, encoder: Encoder, seed: int, progress: EncodeProgress | None
) -> Tower:
    reviews = settings.sentiment.max_reviews
    if settings.pretrain.use:
        learned = pretrain(logs, settings.pretrain, encoder, seed, reviews, progress)
        return pretrained_tower("content", learned, logs)
    return content.fit(logs, settings.content, encoder, reviews, seed, progress)


FITTERS: dict[str, Fitter] = {
    "cf": Fitter(lambda logs, settings, _encoder, seed, _progress: collaborative.fit(logs, settings.cf, seed), False),
    "content": Fitter(_fit_content),
    "sentiment": Fitter(
        lambda logs, settings, encoder, seed, progress: sentiment.fit(logs, settings.sentiment, encoder, seed, progress)
    ),
    "knowledge": Fitter(
        lambda logs, settings, _encoder, seed, _progress: knowledge.fit(logs, settings.knowledge, seed), False
    ),
    "sequence": Fitter(
        lambda logs, settings, _encoder, seed, _progress: sequence.fit(logs, settings.sequence, seed), False
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
    base, towers = _base(logs, seed), {}
    for name in settings.names:
        folder = _folder(name, base, settings, encoder)
        try:
            towers[name] = load_towers(folder)[name]
        except (InputError, KeyError):  # not there yet, or torn: it is made again
            fitter = FITTERS[name]
            tower = fitter.fit(logs, settings, encoder, seed, partial(progress, name) if progress else None)
            towers[name] = propagated(tower, logs, settings.propagate.get(name, 0.0))
            save_towers({name: towers[name]}, folder)
    return with_themes(towers, logs, seed)


def missing_towers(logs: Logs, settings: AgentsSettings, seed: int) -> tuple[str, ...]:
    """The agents whose fit is not in the cache."""
    encoder, base = Encoder(settings.encoder), _base(logs, seed)
    return tuple(name for name in settings.names if not (_folder(name, base, settings, encoder) / INDEX).is_file())


def keep_towers(towers: Mapping[str, Tower], logs: Logs, settings: AgentsSettings, seed: int) -> None:
    """Puts towers that were fitted elsewhere into the cache, where `fit_towers` finds them."""
    encoder, base = Encoder(settings.encoder), _base(logs, seed)
    for name, tower in towers.items():
        save_towers({name: tower}, _folder(name, base, settings, encoder))


def _base(logs: Logs, seed: int) -> str:
    return _digest([*_logs_parts(logs), str(seed).encode(), *code_parts()])


def _folder(name: str, base: str, settings: AgentsSettings, encoder: Encoder) -> Path:
    read = encoder.fingerprint if FITTERS[name].encodes else ""
    key = _digest([part.encode() for part in (base, name, _settings_part(settings, name), read)])
    return cache_folder(settings.encoder.cache) / "towers" / key[:32]


class _Entry(BaseModel):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    profile_kind: str
    facts: dict[str, str]
    shapes: dict[str, list[int]]
    sha256: str
    common: int = 0
    notes: str | None = None


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
                notes=_save_notes(tower, folder),
            )
        )
    write_whole(folder / INDEX, _Index(format=1, towers=entries).model_dump_json(indent=1).encode())


def _save_notes(tower: Tower, folder: Path) -> str | None:
    """Writes the tower's notes, if it has any, and gives their hash."""
    if not tower.notes:
        return None
    data = json.dumps(tower.notes, ensure_ascii=False).encode()
    write_whole(folder / f"{tower.name}.notes.json", data)
    return hashlib.sha256(data).hexdigest()


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


def _verified(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); save the team again") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{path}: damaged, not the bytes that were saved; save the team again")
    return data


def _load_notes(path: Path, entry: _Entry) -> dict[str, tuple[str, ...]]:
    if entry.notes is None:
        return {}
    notes = json.loads(_verified(path.with_suffix(".notes.json"), entry.notes))
    return {name: tuple(map(str, words)) for name, words in notes.items()}


def _load(path: Path, entry: _Entry) -> Tower:
    data, notes = _verified(path, entry.sha256), _load_notes(path, entry)
    try:
        tensors = load(data)
        shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
        if shapes != entry.shapes:
            raise ValueError("the shapes are not those of the index")
        vectors = tensors.pop("item_vectors")
        extras = {key.removeprefix("extras."): tensor for key, tensor in tensors.items()}
        tower = Tower(entry.name, vectors, entry.profile_kind, extras, entry.facts, entry.common, notes)
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
    values = {**vars(logs), **vars(logs.graph)}
    del values["graph"]  # its own fields are there
    for value in values.values():
        yield json.dumps(value).encode() if isinstance(value, tuple) else value.tobytes()


def _settings_part(settings: AgentsSettings, name: str) -> str:
    """What an agent's fit depends on: not its teammates, nor where things are kept, nor how the encoder batches."""
    parts = settings.model_dump(mode="json", include={name, *({"sentiment", "pretrain"} if name == "content" else ())})
    return json.dumps(parts | {"propagate": settings.propagate.get(name, 0.0)}, sort_keys=True)


def pinned(settings: AgentsSettings, towers: Mapping[str, Tower]) -> AgentsSettings:
    """The settings with what the towers' fits picked held fast, so that another fit picks nothing else."""
    changed = {
        name: getattr(settings, name).model_copy(update=json.loads(tower.facts["settings"]))
        for name, tower in towers.items()
        if "settings" in tower.facts
    }
    return settings.model_copy(update=changed)


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
