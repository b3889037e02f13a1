"""The one Parquet schema of a dataset, the same for every source.

A dataset folder holds one file for each table of `TABLES`, and `manifest.json`.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute

from .errors import InputError

pc: Any = pyarrow.compute
"""Arrow's column functions; they are made at run time, unseen by a type checker, so their home is untyped here."""

TIME = pa.timestamp("us", tz="UTC")

INTERACTIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", TIME),
        pa.field("rating", pa.float32()),
        pa.field("click", pa.float32(), nullable=False),
        pa.field("conversion", pa.float32()),
        pa.field("dwell_s", pa.float32()),
        pa.field("propensity", pa.float64()),
        pa.field("position", pa.int32()),
        pa.field("review", pa.string()),
    ]
)
"""A row says what a user did with an item. `rating` in stars as the source gives it, `click` 1 (clicked, rated,
reviewed) or 0 (shown only), `dwell_s` in seconds, `propensity` in (0, 1]: the logging policy's probability of showing
the item at `position`. Null where the source does not say."""

TAGS = pa.list_(pa.struct([("user_id", pa.string()), ("timestamp", TIME), ("tag", pa.string())]))

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("text", pa.string()),
        pa.field("attributes", pa.list_(pa.string())),
        pa.field("image_path", pa.string()),
        pa.field("tags", TAGS),
    ]
)
"""The catalog, each item once. `text` is the publisher's; `tags` are words that users wrote about the item and when,
kept apart because a tower may read only those from before the cut of the split."""

EDGES = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("head", "relation", "tail")])
"""A knowledge graph; heads are item ids."""

USERS = pa.schema([pa.field("user_id", pa.string(), nullable=False), pa.field("attributes", pa.list_(pa.string()))])
"""What a source says of its users apart from what they did; empty for most sources."""

REJECTED = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("row", pa.string(), nullable=False),
    ]
)
"""Rows that could not be used: `line` from 1 (where the row starts; in a Parquet file the row), `row` cut to 500
characters."""

TABLES = {"interactions": INTERACTIONS, "items": ITEMS, "edges": EDGES, "users": USERS, "rejected": REJECTED}


def check(table: pa.Table, schema: pa.Schema, where: str = "table") -> None:
    """Holds `table` against `schema`: the same columns in the same order, the same types, no null where none may be.

    Raises:
        InputError: names `where`, the first column that differs, and how.
    """
    if table.column_names != schema.names:
        found, needed = ", ".join(table.column_names), ", ".join(schema.names)
        raise InputError(f"{where}: has the columns {found}; needed are {needed}")
    for field, column in zip(schema, table.columns, strict=True):
        if column.type != field.type:
            raise InputError(f"{where}: column {field.name} is of type {column.type}; needed is {field.type}")
        if not field.nullable and column.null_count:
            raise InputError(f"{where}: column {field.name} has {column.null_count} empty values; every row needs one")
