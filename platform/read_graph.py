"""Reads a knowledge graph from a file beside a source, and joins it to the source's items.

    kg.txt (head, relation, tail: entities), item_index2entity_id.txt (item id, entity)  \\
    or a table with the columns head, relation, tail by item id (CSV or Parquet)          -> edges of our items

Text may be gzipped. The first layout is that of the data of MKR (Wang et al., WWW 2019) and KGCN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from .errors import InputError
from .read_table import parquet_texts
from .read_text import csv_chunks, csv_header, split_chunks
from .schema import EDGES
from .source import Catalog, RawRows, Rejected, plain, require_columns

TRIPLES, MAPPING = "kg.txt", "item_index2entity_id.txt"
TABLES = ("edges.parquet", "edges.csv", "edges.csv.gz")

COLUMNS = tuple(EDGES.names)


@dataclass(frozen=True)
class GraphSource:
    """A graph, recognised and ready to be streamed.

    Attributes:
        path: as the user gave it, for messages.
        edges: streams rows of `COLUMNS`.
        mapping: streams rows of `item`, `entity`; None where the edges name the items by their ids.
    """

    path: Path
    edges: Callable[[], Iterator[RawRows]]
    mapping: Callable[[], Iterator[RawRows]] | None = None

    def catalog(self, items: AbstractSet[str]) -> Iterator[Catalog]:
        """Batches of the edges whose head is one of `items`, and of the rows that are no edges.

        An entity that is an item has that item's id; any other is `#` and its number, so that no item's id is like it.

        Raises:
            InputError: at the end, where no edge is of an item.
        """
        entities: dict[str, list[str]] = {}
        for raw in self.mapping() if self.mapping else ():
            yield Catalog(rejected=_map_entities(raw, items, entities))
        rows, used = 0, 0
        for raw in self.edges():
            batch = _edges(raw, items, entities if self.mapping else None)
            rows, used = rows + len(raw.lines), used + len(batch.edges)
            yield batch
        if not used:
            raise InputError(
                f"{self.path}: none of its {rows:,} edges is of an item of the dataset; are its item ids the same ones?"
            )


def open_graph(path: Path) -> GraphSource:
    """Recognises the layout of a graph: a folder as above, one with an `edges` table, or such a table itself.

    Raises:
        InputError: nothing of a known layout, or a column is missing.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; --graph names a knowledge graph")
    triples, mapping = _find(path, TRIPLES), _find(path, MAPPING)
    if triples and mapping:
        return GraphSource(path, lambda: split_chunks(triples, COLUMNS, "\t"), lambda: _pairs(mapping))
    if triples:
        raise InputError(f"{path}: has {triples.name} and no {MAPPING}, which says which entity each item is")
    tables = (path,) if path.is_file() else tuple(path / name for name in TABLES)
    table = next((each for each in tables if each.is_file()), None)
    if table is None:
        raise InputError(f"{path}: no graph; a folder with {TRIPLES} and {MAPPING}, or with {' or '.join(TABLES[:2])}")
    if table.suffix == ".parquet":
        return GraphSource(path, parquet_texts(table, COLUMNS))
    header, delimiter = csv_header(table)
    require_columns(table, COLUMNS, header)
    return GraphSource(path, lambda: csv_chunks(table, header, delimiter))


def _find(path: Path, name: str) -> Path | None:
    places = (path / name, path / f"{name}.gz") if path.is_dir() else ()
    return next((place for place in places if place.is_file()), None)


def _pairs(path: Path) -> Iterator[RawRows]:
    return split_chunks(path, ("item", "entity"), "\t")


def _map_entities(raw: RawRows, items: AbstractSet[str], entities: dict[str, list[str]]) -> list[Rejected]:
    """Adds a chunk's items to those of their entity; returns the rows that cannot be used."""
    rejected = list(raw.rejected)
    for index, (item, entity) in enumerate(zip(_texts(raw, "item"), _texts(raw, "entity"), strict=True)):
        if not (item and entity):
            reason = "a mapping needs an item id and an entity"
            rejected.append(Rejected(raw.file, raw.lines[index], reason, raw.row(index)))
        elif item in items:
            entities.setdefault(entity, []).append(item)
    return rejected


def _edges(raw: RawRows, items: AbstractSet[str], entities: dict[str, list[str]] | None) -> Catalog:
    """A chunk's edges; the entities are items by their ids where no mapping is given."""
    found = Catalog(rejected=list(raw.rejected))
    for index, edge in enumerate(zip(*(_texts(raw, name) for name in COLUMNS), strict=True)):
        if not all(edge):
            missing = COLUMNS[edge.index("")]
            found.rejected.append(Rejected(raw.file, raw.lines[index], f"{missing} is empty", raw.row(index)))
            continue
        head, relation, tail = edge
        if entities is not None:
            tails = entities.get(tail, [f"#{tail}"])
            found.edges.extend((item, relation, end) for item in entities.get(head, ()) for end in tails)
        elif head in items:
            found.edges.append((head, relation, tail))
    return found


def _texts(raw: RawRows, name: str) -> list[str]:
    values: Any = raw.columns[name]
    texts = values.to_pylist() if isinstance(values, pa.Array) else values
    return [plain(text or "").strip() for text in texts]
