"""The cache folder: what is costly to make and the same every time, kept between runs.

Everything in it may be deleted while no run is using it; it is made again.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

WAIT_S = 60.0
"""How long a process waits for another one that is writing."""

_KEYS_A_QUERY = 500


def cache_folder(setting: str | None = None) -> Path:
    """The folder named by the setting, or `$XDG_CACHE_HOME/concertrl`, or `~/.cache/concertrl`. Made if missing.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(setting).expanduser() if setting else Path(home) / "concertrl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{folder}: cannot be used as a cache ({reason}); set agents.encoder.cache=FOLDER") from None


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is seen whole or not at all: under a temporary name beside it, then renamed."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


class EmbeddingStore:
    """Vectors by key in one SQLite file. Any number of processes may read and write it at once.

    A write is one transaction: a process killed at any moment leaves whole vectors or none. The journal is SQLite's
    default one and not the write-ahead log, which does not work on a network file system.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it.

        Raises:
            InputError: the file is damaged, or cannot be opened.
        """
        self.path = path
        with self._reported():
            self._database = sqlite3.connect(path, timeout=WAIT_S)
        try:
            with self._reported(), self._database:
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
                )
        except InputError:
            self._database.close()
            raise

    def __enter__(self) -> EmbeddingStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._database.close()

    def read(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """The vectors `(d,)` of those keys that are there."""
        found: dict[bytes, NDArray[np.float32]] = {}
        with self._reported():
            for start in range(0, len(keys), _KEYS_A_QUERY):
                some = keys[start : start + _KEYS_A_QUERY]
                marks = ",".join("?" * len(some))
                rows = self._database.execute(f"SELECT key, vector FROM embeddings WHERE key IN ({marks})", some)
                found.update((key, np.frombuffer(vector, np.float32)) for key, vector in rows)
        return found

    def write(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Keeps `vectors` `(n, d)` under n keys, all or none. A key that is there already stays as it is."""
        rows = [(key, vector.tobytes()) for key, vector in zip(keys, vectors, strict=True)]
        with self._reported(), self._database:
            self._database.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", rows)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise InputError(
                f"{self.path}: the cache cannot be used ({error}); set agents.encoder.cache=FOLDER"
            ) from None
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{self.path}: the cache is damaged ({error}); delete this file, it is made again"
            ) from None
