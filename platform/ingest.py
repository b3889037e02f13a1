"""Turns a raw source into a dataset folder, in one pass over its interactions.

    reader (SOURCES) -> RawRows, 25,000 at a time -> clean -> duplicates out -> interactions.parquet
                                                         \\-> rejected.parquet: file, line, reason, row
    then the catalog, and a graph if one is given -> items, edges, users -> manifest.json -> one rename

Memory holds a chunk, the distinct ids, and 16 bytes for each review where duplicates are looked for; never the file.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .clean import clean
from .dataset_writer import DatasetWriter
from .errors import InputError, suggestion
from .manifest import Manifest
from .read_amazon import read_amazon
from .read_graph import GraphSource, open_graph
from .read_movielens import read_movielens
from .read_table import ITEM_COLUMNS, read_csv, read_jsonl, read_parquet
from .schema import INTERACTIONS, pc
from .source import Catalog, RawRows, Rejected, Source

SOURCES: dict[str, Callable[[Path, Mapping[str, str] | None], Source]] = {
    "movielens": read_movielens,
    "amazon": read_amazon,
    "csv": read_csv,
    "parquet": read_parquet,
    "jsonl": read_jsonl,
}
"""The sources by name; a new one is a function `(path, mapping) -> Source` and a line here."""

TOLD = 5
"""Rejected rows that are told one by one; the others are only counted."""

PROGRESS_ROWS = 50_000

Progress = Callable[[int, int, int], None]
"""Called with rows so far, bytes read, bytes in all."""


def ingest(
    source: str,
    path: str | Path,
    out: str | Path,
    mapping: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    on_reject: Callable[[str], None] | None = None,
    graph: str | Path | None = None,
) -> dict[str, Any]:
    """Reads `path` as a `source` (one of `SOURCES`) and writes the dataset folder `out`.

    Args:
        source: the name of a source.
        path: a file or a folder, as the source has it.
        out: a new or empty folder, or a dataset to be replaced.
        mapping: schema name -> column, for the table sources.
        progress: called about every 50,000 rows and at the end.
        on_reject: called with one line for each of the first 5 rejected rows.
        graph: a knowledge graph (`read_graph.py`) whose edges of the items are added to the source's own.

    Returns:
        `interactions`, `users` (distinct in the interactions), `items` (the whole catalog), `edges`, `rejected`,
        `first` and `last` (ISO 8601, UTC, or None), `path` (the dataset folder).

    Raises:
        InputError: nothing of the input can be used; one line says what and why. Nothing is written then.
        ConcertError: the disk does not take the dataset.
    """
    if source not in SOURCES:
        raise InputError(f'no source "{source}"{suggestion(source, SOURCES)} (sources: {", ".join(SOURCES)})')
    origin, target = Path(path), Path(out)
    if not origin.exists():
        raise InputError(f"{origin}: no such file or folder")
    known = open_graph(Path(graph)) if graph is not None else None
    try:
        opened = SOURCES[source](origin, mapping)
    except OSError as error:
        raise InputError(f"{origin}: cannot be read ({error.strerror or error})") from None
    with DatasetWriter(target) as writer:
        run = _Run(opened, writer, progress, on_reject)
        run.read_interactions()
        run.require_enough(origin)
        run.read_catalog(known)
        manifest = writer.commit(run.facts(source, origin))
    return summary(manifest, target)


def summary(manifest: Manifest, path: Path) -> dict[str, Any]:
    """What `ingest` returns, from a dataset's manifest."""
    names = ("interactions", "users", "items", "edges", "rejected", "first", "last")
    return {**{name: getattr(manifest, name) for name in names}, "path": str(path)}


@dataclass
class _Run:
    """One ingestion while it goes on."""

    source: Source
    writer: DatasetWriter
    progress: Progress | None
    on_reject: Callable[[str], None] | None
    users: set[str] = field(default_factory=set)
    items: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)
    reviews: set[bytes] = field(default_factory=set)
    duplicates: int = 0
    first: int | None = None
    last: int | None = None
    first_rejected: Rejected | None = None
    highest: float = 0.0

    def read_interactions(self) -> None:
        now = time.time()
        sizes = {file.name: file.stat().st_size for file in self.source.files}
        total, earlier, current, reported = sum(sizes.values()), 0, "", 0
        for raw in self.source.interactions():
            if raw.file != current:
                earlier += sizes.get(current, 0)
                current = raw.file
            self._take(raw, now)
            if self.progress and self._rows - reported >= PROGRESS_ROWS:
                reported = self._rows
                self.progress(self._rows, earlier + raw.bytes_done, total)
        if self.progress:
            self.progress(self._rows, total, total)

    @property
    def _rows(self) -> int:
        return self.writer.rows("interactions") + self.writer.rows("rejected") + self.duplicates

    def _take(self, raw: RawRows, now: float) -> None:
        table, rejected = clean(raw, self.source.rules, now)
        self._reject(rejected)
        if self.source.deduplicate:
            table = self._without_duplicates(table)
        if not table.num_rows:
            return
        self.users.update(pc.unique(table["user_id"]).to_pylist())
        self._list_items(table)
        self._note_extremes(table)
        self.writer.write("interactions", table.select(INTERACTIONS.names))

    def _without_duplicates(self, table: pa.Table) -> pa.Table:
        times = table["timestamp"].cast(pa.int64())
        columns = (table["user_id"], table["item_id"], times, table["review"])
        fresh = np.ones(table.num_rows, bool)
        for index, row in enumerate(zip(*(column.to_pylist() for column in columns), strict=True)):
            digest = hashlib.blake2b(repr(row).encode(), digest_size=16).digest()
            fresh[index] = digest not in self.reviews
            self.reviews.add(digest)
        self.duplicates += int((~fresh).sum())
        return table.filter(pa.array(fresh))

    def _list_items(self, table: pa.Table) -> None:
        """Notes the items of a chunk; where the table describes them itself, those not met before become items."""
        ids = pc.unique(table["item_id"])
        new = [item for item in ids.to_pylist() if item not in self.items]
        self.items.update(new)
        described = [name for name in ITEM_COLUMNS if name in table.column_names]
        if described and new:
            rows = table.select(["item_id", *described]).take(pc.index_in(pa.array(new), value_set=table["item_id"]))
            self.listed.update(new)
            self.writer.write("items", [_item(row) for row in rows.to_pylist()])

    def _note_extremes(self, table: pa.Table) -> None:
        times = pc.min_max(table["timestamp"].cast(pa.int64())).as_py()
        if times["min"] is not None:
            self.first = times["min"] if self.first is None else min(self.first, times["min"])
            self.last = times["max"] if self.last is None else max(self.last, times["max"])
        self.highest = max(self.highest, pc.max(table["rating"]).as_py() or 0.0)

    def _reject(self, rejected: list[Rejected]) -> None:
        untold = max(0, TOLD - self.writer.rows("rejected"))
        if self.on_reject:
            for row in rejected[:untold]:
                self.on_reject(f"{row} (row kept in rejected.parquet)")
        if rejected and self.first_rejected is None:
            self.first_rejected = rejected[0]
        self.writer.write("rejected", (row.as_row() for row in rejected))

    def require_enough(self, origin: Path) -> None:
        """Raises InputError where there is nothing to learn from."""
        rejected = self.writer.rows("rejected")
        if not self.users:
            if self.first_rejected is None:
                raise InputError(f"{self.source.files[0]}: has no rows")
            raise InputError(f"{origin}: none of its {rejected:,} rows can be used; the first: {self.first_rejected}")
        for name, ids in (("user", self.users), ("item", self.items)):
            if len(ids) == 1:
                raise InputError(f"{origin}: all rows are of one {name}, {min(ids)!r}; to recommend takes two or more")

    def read_catalog(self, graph: GraphSource | None) -> None:
        for batch in self.source.catalog(self.items):
            self._describe(batch)
        for batch in graph.catalog(self.items | self.listed) if graph else ():
            self._describe(batch)
        self.writer.write("items", [_item({"item_id": item}) for item in sorted(self.items - self.listed)])

    def _describe(self, batch: Catalog) -> None:
        self.listed.update(item["item_id"] for item in batch.items)
        self.writer.write("items", batch.items)
        self.writer.write("edges", (dict(zip(("head", "relation", "tail"), edge, strict=True)) for edge in batch.edges))
        self.writer.write("users", batch.users)
        self._reject(batch.rejected)

    def facts(self, source: str, origin: Path) -> dict[str, Any]:
        """The manifest but for its files and hashes."""
        notes = self.source.notes
        if self.highest > 5:
            notes = (*notes, f"ratings go up to {self.highest:g}, while towers take 4 stars of 5 and more as liked")
        counts = {name: self.writer.rows(name) for name in ("interactions", "items", "edges", "rejected")}
        return {
            **counts,
            "source": source,
            "layout": self.source.layout,
            "input": origin.name or origin.absolute().name,
            "users": len(self.users),
            "duplicates": self.duplicates,
            "first": _iso(self.first),
            "last": _iso(self.last),
            "terms": self.source.terms,
            "notes": notes,
        }


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    words = [word.strip() for word in (row.get("attributes") or "").split("|")]
    return {**row, "attributes": [word for word in words if word], "tags": []}


def _iso(micros: int | None) -> str | None:
    return None if micros is None else datetime.fromtimestamp(micros // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
