"""Checkpoints: plain files, whole or not at all, checked by hash when they are read. Nothing in them is executable.

    tensors.safetensors   tensors by name
    state.json            everything else
    manifest.json         the format, what the checkpoint is of, size and SHA-256 of the two files and of itself

A checkpoint is written under another name, flushed to the disk and renamed, so that a process or a machine that dies
leaves the one before. The hashes tell damage, not malice: whoever writes the folder can write the hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from .checkpoint_settings import CheckpointSettings
from .errors import InputError

FORMAT = 1
TENSORS, WORDS, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
NAME = "iteration_"
MAX_MANIFEST = 100_000
"""Bytes of a manifest that are read."""

Tell = Callable[[str], None]
"""Told, in a line, what went wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """What a run is at the end of an iteration.

    Attributes:
        tensors: by name.
        words: what JSON can say.
        about: `iteration`, and `score` (higher is better) where it was judged: what the policy of keeping reads.
    """

    tensors: dict[str, Tensor]
    words: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)


def checkpoint_name(iteration: int) -> str:
    """The folder's name."""
    return f"{NAME}{iteration:06d}"


def write_checkpoint(folder: Path, kept: Checkpoint) -> None:
    """Writes a checkpoint folder, in place of what is there. On disk when this returns.

    Raises:
        OSError: the disk is full, or cannot be written; nothing is left of the attempt.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in kept.tensors.items()}
    files = {TENSORS: save(tensors), WORDS: json.dumps(kept.words, allow_nan=False).encode()}
    manifest = {
        "format": FORMAT,
        "about": kept.about,
        "files": {name: {"bytes": len(content), "sha256": _hash(content)} for name, content in files.items()},
    }
    files[MANIFEST] = json.dumps({**manifest, "check": _hash(_plain(manifest))}).encode()
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        draft.mkdir()
        for name, content in files.items():
            with (draft / name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _sync(draft)
        _put(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _put(draft: Path, folder: Path) -> None:
    """Renames the draft; what was there under the name goes after it, so that it is never there in part."""
    aside = draft.with_name(f"{draft.name}.old")
    if folder.exists():
        folder.rename(aside)
    draft.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Reads a checkpoint folder.

    Raises:
        InputError: it is torn, not the bytes that were written, or holds what no checkpoint holds, such as a pickle.
    """
    folder = Path(folder)
    try:
        manifest = read_manifest(folder)
        content = {name: _verified(folder / name, manifest["files"][name]) for name in (TENSORS, WORDS)}
        words = json.loads(content[WORDS])
        tensors = load(content[TENSORS])
        if not isinstance(words, dict):
            raise TypeError(f"{WORDS} is no mapping")
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; the checkpoint is torn, or is none") from None
    except SafetensorError as error:
        raise InputError(f"{folder / TENSORS}: no safetensors ({error}); nothing else is read") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{folder}: no checkpoint that can be read ({reason}); take an earlier one") from None
    return Checkpoint(tensors, words, manifest["about"])


def read_manifest(folder: Path) -> dict[str, Any]:
    """A checkpoint's manifest, after a look at what lies in the folder; the files themselves are not read.

    Raises:
        InputError: it is not that of a checkpoint.
        OSError: there is none.
    """
    strange = [entry.name for entry in os.scandir(folder) if entry.name not in (TENSORS, WORDS, MANIFEST)]
    if strange:
        raise InputError(f"{folder / min(strange)}: a checkpoint holds no such file, and it is not read; remove it")
    content = _regular(folder / MANIFEST, MAX_MANIFEST)
    manifest = json.loads(content)
    if not isinstance(manifest, dict) or _hash(_plain(manifest)) != manifest.get("check"):
        raise InputError(f"{folder / MANIFEST}: damaged, not the bytes that were written; take an earlier checkpoint")
    if not all(isinstance(manifest.get(name), dict) for name in ("files", "about")):
        raise InputError(f"{folder / MANIFEST}: not the manifest of a checkpoint; take an earlier checkpoint")
    if (number := manifest.get("format")) != FORMAT:
        raise InputError(f"{folder / MANIFEST}: format {number} is not {FORMAT}; read it with its version")
    if outside := sorted(set(manifest["files"]) - {TENSORS, WORDS}):
        raise InputError(f"{folder / MANIFEST}: names {outside[0]!r}, which is no file of a checkpoint")
    return manifest


def checkpoints(home: Path) -> list[Path]:
    """The checkpoints in a run's folder, latest first; whether they can be read is not looked at."""
    found = home.glob(f"{NAME}*") if home.is_dir() else ()
    return sorted((path for path in found if path.name.removeprefix(NAME).isdigit()), reverse=True)


def latest_good(home: Path, tell: Tell = lambda line: None) -> tuple[Path, Checkpoint] | None:
    """The latest checkpoint in a run's folder that can be read; each one that is stepped over is told."""
    for path in checkpoints(home):
        try:
            return path, read_checkpoint(path)
        except InputError as error:
            tell(f"stepped over a checkpoint: {error}")
    return None


def prune(home: Path, settings: CheckpointSettings) -> list[Path]:
    """Removes the checkpoints that the settings do not keep, and what killed processes left half written.

    The newest that can be read always stays. Returns the folders that went.
    """
    found = checkpoints(home)
    kept = _wanted(found, settings)
    if not any(_good(path) for path in found if path in kept):
        kept |= set(next(([path] for path in found if path not in kept and _good(path)), []))
    gone = [path for path in found if path not in kept]
    for path in [*gone, *home.glob(f".{NAME}*")]:
        shutil.rmtree(path, ignore_errors=True)
    return gone


def _wanted(found: list[Path], settings: CheckpointSettings) -> set[Path]:
    about = {path: _about(path) for path in found}
    judged = [path for path in found if isinstance(about[path].get("score"), float)]
    best = sorted(judged, key=lambda path: about[path]["score"], reverse=True)[: settings.keep_best]
    numbers = {path: int(path.name.removeprefix(NAME)) for path in found}
    every = settings.keep_every
    forever = [path for path, number in numbers.items() if every and number and number % every == 0]
    return {*found[: settings.keep_last], *best, *forever}


def _about(folder: Path) -> dict[str, Any]:
    """What the checkpoint is of; empty where that cannot be read."""
    try:
        return read_manifest(folder)["about"]
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return {}


def _good(folder: Path) -> bool:
    try:
        read_checkpoint(folder)
    except InputError:
        return False
    return True


def _verified(path: Path, entry: dict[str, Any]) -> bytes:
    content = _regular(path, int(entry["bytes"]))
    if len(content) != entry["bytes"] or _hash(content) != entry["sha256"]:
        raise InputError(f"{path}: damaged, not the bytes that were written; take an earlier checkpoint")
    return content


def _regular(path: Path, most: int) -> bytes:
    """A file's bytes, one more than `most` where it is longer. Links are not followed: they may lead outside."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise InputError(f"{path}: not a plain file; a checkpoint holds no links, and none is followed")
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return file.read(most + 1)


def _sync(folder: Path) -> None:
    """Puts a folder's names on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _plain(manifest: dict[str, Any]) -> bytes:
    """The manifest without its own hash, as bytes to hash."""
    return json.dumps({name: value for name, value in manifest.items() if name != "check"}, sort_keys=True).encode()
