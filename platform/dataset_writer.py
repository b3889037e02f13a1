"""Writes a dataset folder: beside its place under a temporary name, table by table in row groups, then one rename."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import ConcertError, InputError
from .manifest import MANIFEST, FileFacts, Manifest, file_sha256, read_manifest
from .schema import TABLES, check

GROUP_ROWS = 25_000
"""Rows are kept in memory up to this many, then written as a row group."""


class DatasetWriter:
    """A dataset in the making; only `commit` puts it in its place, everything else leaves no trace.

    Raises (on entry):
        InputError: the place is taken by something that is no dataset of ours, or nothing can be written there.
    """

    def __init__(self, out: Path) -> None:
        self._out = out.resolve()
        self._shown = out
        self._temporary = self._out.with_name(f".{self._out.name}.{os.getpid()}.partial")
        self._made: list[Path] = []
        self._writers: dict[str, _TableWriter] = {}
        self._committed = False

    def __enter__(self) -> Self:
        _require_free(self._out, self._shown)
        missing = [parent for parent in self._out.parents if not parent.exists()]
        try:
            for parent in reversed(missing):
                parent.mkdir(exist_ok=True)
                self._made.append(parent)
            shutil.rmtree(self._temporary, ignore_errors=True)  # of a killed process with our number
            self._temporary.mkdir()
            for name, schema in TABLES.items():
                self._writers[name] = _TableWriter(self._temporary / f"{name}.parquet", schema)
        except OSError as error:
            self._clear()
            raise InputError(f"{self._shown}: cannot be written ({error.strerror}); choose another folder") from None
        return self

    def write(self, name: str, rows: Any) -> None:
        """Adds rows, a `pa.Table` or an iterable of mappings by column, to one of `TABLES`."""
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=TABLES[name])
        self._writers[name].write(table)

    def rows(self, name: str) -> int:
        """Rows written to a table so far."""
        return self._writers[name].rows

    def commit(self, facts: Mapping[str, Any]) -> Manifest:
        """Closes the tables, writes the manifest with `facts` and the hashes, and moves the folder into its place."""
        for writer in self._writers.values():
            writer.close()
        files = {
            name: FileFacts(rows=writer.rows, bytes=writer.path.stat().st_size, sha256=file_sha256(writer.path))
            for name, writer in self._writers.items()
        }
        whole = hashlib.sha256("".join(f"{name} {files[name].sha256}\n" for name in sorted(files)).encode())
        manifest = Manifest(files=files, sha256=whole.hexdigest(), **facts)
        (self._temporary / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
        self._move()
        self._committed = True
        return manifest

    def _move(self) -> None:
        old = self._temporary.with_suffix(".old")
        if self._out.exists():
            self._out.rename(old)
        try:
            self._temporary.rename(self._out)
        except OSError:
            if old.exists():
                old.rename(self._out)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.discard()
        if not self._committed:
            self._clear()
        if isinstance(error, OSError):
            raise ConcertError(f"{self._shown}: cannot be written ({error.strerror or error})") from None

    def _clear(self) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)
        for parent in reversed(self._made):
            if not any(parent.iterdir()):
                parent.rmdir()


class _TableWriter:
    """One Parquet file, written in row groups of about `GROUP_ROWS`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.rows = 0
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    def write(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        check(table, self._schema, self.path.name)
        self._waiting.append(table)
        self._waiting_rows += table.num_rows
        self.rows += table.num_rows
        if self._waiting_rows >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        if self._waiting:
            self._flush()
        self._writer.close()

    def discard(self) -> None:
        self._waiting.clear()
        if self._writer.is_open:
            self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting, self._waiting_rows = [], 0


def _require_free(out: Path, shown: Path) -> None:
    """Only a new place, an empty folder, or a dataset folder with nothing else in it may be written to."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{shown}: is there and is no folder; choose another --out")
    names = {entry.name for entry in out.iterdir()}
    if not names:
        return
    try:
        read_manifest(out)
    except InputError:
        raise InputError(f"{shown}: holds something else than a dataset; choose another --out") from None
    foreign = names - {MANIFEST, *(f"{name}.parquet" for name in TABLES)}
    if foreign:
        raise InputError(f"{shown}: also holds {min(foreign)}, no part of a dataset; move it, or choose another --out")
