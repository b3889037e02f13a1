"""The manifest of a dataset folder: what it holds, where it comes from, and the hash of every file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import InputError

MANIFEST = "manifest.json"
FORMAT = "concertrl-dataset"
VERSION = 1


class FileFacts(BaseModel):
    """One Parquet file of a dataset: its rows, its size, and the SHA-256 of its bytes."""

    model_config = ConfigDict(frozen=True)

    rows: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a dataset is: `manifest.json`. `users` counts those who interacted, `items` the whole catalog."""

    model_config = ConfigDict(frozen=True)

    format: str = FORMAT
    version: int = VERSION
    source: str
    layout: str
    input: str
    interactions: int
    users: int
    items: int
    edges: int
    rejected: int
    duplicates: int
    first: str | None
    last: str | None
    terms: str
    notes: tuple[str, ...]
    files: dict[str, FileFacts]
    sha256: str


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset folder.

    Raises:
        InputError: it is missing, broken, or of a format this version does not know.
    """
    file = folder / MANIFEST
    try:
        data = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{file}: is missing, so this is no dataset; make one with `concertrl ingest`") from None
    except (ValueError, RecursionError, OSError):
        raise InputError(f"{file}: cannot be read as JSON; ingest the dataset again") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(f"{file}: is not the manifest of a dataset; make one with `concertrl ingest`")
    if data.get("version") != VERSION:
        version = data.get("version")
        raise InputError(f"{file}: has format version {version!r}, this is {VERSION}; ingest the dataset again")
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(f"{file}: {key} is missing or wrong; ingest the dataset again") from None


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
