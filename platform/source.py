"""What a reader hands to `ingest`: raw rows as text in chunks, the rules to judge them by, and then the catalog.

Adding a source is one function `(path, mapping) -> Source` and a line in `SOURCES` of `ingest.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from .errors import InputError, suggestion

LONGEST_ROW = 500
"""Characters kept of a rejected row."""

DAY = 86_400
"""Seconds that a time may be ahead of now: clocks and zones differ."""


@dataclass(frozen=True)
class Rejected:
    """A row that cannot be used: where it stands (line from 1), why, and the row itself."""

    file: str
    line: int
    reason: str
    row: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"

    def as_row(self) -> dict[str, Any]:
        """The row of `rejected.parquet`."""
        return {**vars(self), "row": plain(self.row)[:LONGEST_ROW]}


@dataclass(frozen=True)
class RawRows:
    """A chunk of n rows as text.

    Attributes:
        file: name for messages.
        lines: n line numbers, from 1, where each row starts.
        columns: n texts for each column, None where a row has none. A reader yields them by schema name.
        row: the i-th row as text, asked for only when it is rejected.
        rejected: rows that could not be taken apart; they are not among the n.
        bytes_done: bytes of the file read so far.
    """

    file: str
    lines: Sequence[int]
    columns: Mapping[str, Sequence[str | None] | pa.Array]
    row: Callable[[int], str]
    rejected: Sequence[Rejected] = ()
    bytes_done: int = 0


@dataclass(frozen=True)
class Catalog:
    """A batch of items, edges and users, as rows of their schemas."""

    items: list[dict[str, Any]] = field(default_factory=list)
    edges: list[tuple[str, str, str]] = field(default_factory=list)
    users: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


@dataclass(frozen=True)
class Rules:
    """What makes a source's row usable.

    Attributes:
        columns: schema name -> the source's own name, which messages use. A column that is not here is not read.
        rating_range: lowest and highest rating the source can hold; None when any number may be one.
        milliseconds: the source's numbers for times are milliseconds, not seconds.
    """

    columns: Mapping[str, str]
    rating_range: tuple[float, float] | None = None
    milliseconds: bool = False


@dataclass(frozen=True)
class Source:
    """One input, recognised and ready to be streamed.

    Attributes:
        layout: which edition of the source it is.
        files: the files with the interactions.
        rules: how their rows are judged.
        interactions: streams them.
        catalog: streams items, edges and users, given the ids of the items that were interacted with.
        terms: on which terms the publisher gives the data.
        notes: what a user of the dataset should know.
        deduplicate: rows equal in user, item, time and review are one.
    """

    layout: str
    files: tuple[Path, ...]
    rules: Rules
    interactions: Callable[[], Iterator[RawRows]]
    catalog: Callable[[AbstractSet[str]], Iterator[Catalog]]
    terms: str
    notes: tuple[str, ...] = ()
    deduplicate: bool = False


def require_columns(path: Path, wanted: Iterable[str], there: Sequence[str]) -> None:
    """Raises InputError with a suggestion for the first of the `wanted` columns that is not there."""
    for name in wanted:
        if name not in there:
            raise InputError(f'{path}: no column "{name}"{suggestion(name, there)} (columns: {", ".join(there)[:200]})')


def shown(value: object) -> str:
    """A value as a one-line quoted text for a message, at most 40 characters of it."""
    text = plain(str(value))
    return json.dumps(text if len(text) <= 40 else text[:40] + "...", ensure_ascii=False)


def plain(text: str) -> str:
    """The text with every character that UTF-8 cannot hold written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
