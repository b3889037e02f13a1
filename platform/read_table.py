"""Any table of interactions: CSV, JSON lines or Parquet, with a mapping from the schema's names to its columns.

A column that has a schema name already needs no mapping. Beside the columns of interactions a table may hold its items'
`title`, `text`, `attributes` (separated by `|`) and `image_path`: an item's first row counts. Times are seconds since
1970 or ISO 8601; `timestamp_ms` maps a column of milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import InputError, suggestion
from .read_text import CHUNK_ROWS, csv_chunks, csv_header, json_chunks, line_chunks, parse_object
from .schema import INTERACTIONS, pc
from .source import RawRows, Rules, Source, require_columns

ITEM_COLUMNS = ("title", "text", "attributes", "image_path")
KEYS = (*INTERACTIONS.names, "timestamp_ms", *ITEM_COLUMNS)
TERMS = "as stated by whoever gave the table"
PROBED_LINES = 1000


def read_csv(path: Path, mapping: Mapping[str, str] | None = None) -> Source:
    """A CSV file with a first row of column names, delimited by `,` tab `;` or `|`."""
    names, delimiter = csv_header(path)
    columns = _columns(path, mapping or {}, names)
    return _source("csv", path, columns, lambda: csv_chunks(path, names, delimiter))


def read_jsonl(path: Path, mapping: Mapping[str, str] | None = None) -> Source:
    """A file of one JSON object a line; its fields are known from the first lines."""
    first = next(line_chunks(path), (1, [], 0))[1][:PROBED_LINES]
    names = list(dict.fromkeys(name for line in first for name in parse_object(line) or {}))
    if not names:
        raise InputError(f"{path}: no JSON object in its first {len(first)} lines; jsonl has one object a line")
    columns = _columns(path, mapping or {}, names)
    return _source("jsonl", path, columns, lambda: json_chunks(path, list(columns.values())))


def read_parquet(path: Path, mapping: Mapping[str, str] | None = None) -> Source:
    """A Parquet file; numbers and times of any width are read."""
    schema = _parquet_schema(path)
    columns = _columns(path, mapping or {}, schema.names)
    _require_readable(path, schema, columns.values())
    return _source("parquet", path, columns, lambda: _parquet_chunks(path, list(dict.fromkeys(columns.values()))))


def parquet_texts(path: Path, names: Sequence[str]) -> Callable[[], Iterator[RawRows]]:
    """What streams the columns `names` of a Parquet file as text.

    Raises:
        InputError: it is no Parquet file, or lacks one of the columns, or cannot be read as text.
    """
    schema = _parquet_schema(path)
    require_columns(path, names, schema.names)
    _require_readable(path, schema, names)
    return lambda: _parquet_chunks(path, names)


def _parquet_schema(path: Path) -> pa.Schema:
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path}: is empty")
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: is not a Parquet file ({_first_line(error)})") from None


def _require_readable(path: Path, schema: pa.Schema, names: Iterable[str]) -> None:
    for name in names:
        kind = schema.field(name).type
        if not _readable(kind):
            raise InputError(f'{path}: column "{name}" is of type {kind}, which cannot be read; map another')


def _columns(path: Path, mapping: Mapping[str, str], there: Sequence[str]) -> dict[str, str]:
    for key in mapping:
        if key not in KEYS:
            raise InputError(f'mapping: unknown key "{key}"{suggestion(key, KEYS)} (keys: {", ".join(KEYS)})')
    if "timestamp" in mapping and "timestamp_ms" in mapping:
        raise InputError("mapping: give timestamp or timestamp_ms, not both")
    require_columns(path, mapping.values(), there)
    columns = {key: mapping.get(key, key) for key in KEYS if key in mapping or key in there}
    if "timestamp_ms" in mapping:
        columns.pop("timestamp", None)
    for key in ("user_id", "item_id"):
        if key not in columns:
            listed = ", ".join(there)[:200]
            raise InputError(f'{path}: no column "{key}"; map one with {key}=COLUMN (columns: {listed})')
    return columns


def _source(layout: str, path: Path, columns: Mapping[str, str], chunks: Callable[[], Iterator[RawRows]]) -> Source:
    milliseconds = "timestamp" not in columns and "timestamp_ms" in columns
    ours = {("timestamp" if key == "timestamp_ms" and milliseconds else key): name for key, name in columns.items()}
    return Source(
        layout=layout,
        files=(path,),
        rules=Rules(ours, milliseconds=milliseconds),
        interactions=lambda: (
            replace(raw, columns={key: raw.columns[name] for key, name in ours.items()}) for raw in chunks()
        ),
        catalog=lambda seen: iter(()),
        terms=TERMS,
        notes=() if "timestamp" in ours else ("no times: the split is a fixed random one, not one by time",),
    )


def _parquet_chunks(path: Path, names: Sequence[str]) -> Iterator[RawRows]:
    try:
        with pq.ParquetFile(path) as file:
            first, total = 1, max(1, file.metadata.num_rows)
            for batch in file.iter_batches(batch_size=CHUNK_ROWS, columns=names):
                columns = {name: _texts(batch.column(name)) for name in names}
                done = path.stat().st_size * (first + batch.num_rows - 1) // total
                lines = range(first, first + batch.num_rows)
                yield RawRows(path.name, lines, columns, lambda row, batch=batch: _row(batch, row), (), done)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: the Parquet file is damaged ({_first_line(error)})") from None


def _row(batch: pa.RecordBatch, row: int) -> str:
    return json.dumps(batch.slice(row, 1).to_pylist()[0], default=str, ensure_ascii=False)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text_list(kind: pa.DataType) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_string(kind.value_type)


def _readable(kind: pa.DataType) -> bool:
    kind = _plain_type(kind)
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_decimal,
        pa.types.is_boolean,
        pa.types.is_timestamp,
        pa.types.is_date,
        pa.types.is_null,
        _is_text_list,
    )
    return any(test(kind) for test in tests)


def _texts(values: pa.Array) -> pa.Array:
    """`(n,)` any readable column as strings; a whole float is written without a fraction, and NaN is null."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_floating(kind):
        values = values.cast(pa.float64()) if pa.types.is_float16(kind) else values
        values = pc.if_else(pc.is_nan(values), None, values)
        whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**53))
        integers = pc.if_else(whole, values, 0).cast(pa.int64())
        return pc.if_else(whole, integers.cast(pa.string()), values.cast(pa.string()))
    if _is_text_list(kind):
        return pc.binary_join(values, "|").cast(pa.string())
    if pa.types.is_timestamp(kind):
        values = values.cast(pa.timestamp("us", tz="UTC"), safe=False)
    return values.cast(pa.string())
