"""Text files in chunks: plain or gzip, CSV, separated fields or JSON lines, with the line where every row starts.

    file -> open_text (gzip, encoding, is it text?) -> rows with line numbers -> RawRows of at most CHUNK_ROWS

Memory does not grow with the file. A row that cannot be taken apart is rejected and the next one is read; a file that
is no text, or ends early, is an InputError.
"""

from __future__ import annotations

import ast
import codecs
import csv
import gzip
import io
import json
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from .errors import InputError
from .source import RawRows, Rejected

CHUNK_ROWS = 25_000
HEAD_BYTES = 1 << 16
LONGEST_LITERAL = 1 << 20
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True)
class OpenText:
    """An open text file: its lines, and how many of the file's bytes were read so far."""

    text: TextIO
    bytes_done: Callable[[], int]


@contextmanager
def open_text(path: Path, encoding: str = "utf-8", newline: str = "\n") -> Iterator[OpenText]:
    """Opens plain or gzip text, told apart by content. Bytes that are no UTF-8 become lone surrogates: their row fails.

    Raises:
        InputError: missing, a folder, unreadable, empty, no text, a gzip that is damaged or cut short.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
            head = stream.read(HEAD_BYTES)
            stream.seek(0)
            _require_text(path, head, encoding)
            codec = "utf-8-sig" if encoding == "utf-8" else encoding
            text = io.TextIOWrapper(stream, codec, errors="surrogateescape", newline=newline)
            yield OpenText(text, raw.tell)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; give a file") from None
    except EOFError:
        raise InputError(f"{path}: the gzip file is cut short; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error):
        raise InputError(f"{path}: the gzip file is damaged; fetch it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _require_text(path: Path, head: bytes, encoding: str) -> None:
    if not head:
        raise InputError(f"{path}: is empty")
    strange = len(CONTROL.findall(head)) + 9 * head.count(
        0
    )  # a stray zero is the row's trouble, UTF-16 is full of them
    if encoding == "utf-8":
        strange += head.decode("utf-8", "replace").count("\ufffd")
    if strange > len(head) // 10:
        raise InputError(
            f"{path}: is not text (text in UTF-8, plain or gzip, can be read; unpack other archives first)"
        )


def text_encoding(path: Path) -> str:
    """`utf-8`, or `latin-1` where the file is none: editions of one source differ."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_text(path, "latin-1") as opened:
        binary = opened.text.buffer
        try:
            for block in iter(lambda: binary.read(1 << 20), b""):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8"


def csv_header(path: Path) -> tuple[list[str], str]:
    """The column names of a CSV file's first row, and the delimiter: whichever of `,` tab `;` `|` it has most of.

    Raises:
        InputError: no first row, or the same name twice.
    """
    with open_text(path, newline="") as opened:
        first = opened.text.readline(HEAD_BYTES)
        delimiter = max(",\t;|", key=first.count)
        try:
            names = next(csv.reader([first], delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            raise InputError(f"{path}:1: the line of column names is not CSV: {error}") from None
    twice = [name for name in names if names.count(name) > 1 and name]
    if not names:
        raise InputError(f"{path}:1: no column names; the first line of a CSV file names its columns")
    if twice:
        raise InputError(f'{path}:1: two columns are named "{twice[0]}"; rename one')
    return names, delimiter


def csv_chunks(path: Path, names: Sequence[str], delimiter: str = ",") -> Iterator[RawRows]:
    """The rows after the first of a CSV file, by column name; quoted fields may hold delimiters and line ends."""
    with open_text(path, newline="") as opened:
        reader = csv.reader(opened.text, delimiter=delimiter, strict=True)
        next(reader)
        more = True
        while more:
            rows, lines, rejected, more = _csv_rows(reader, path.name, len(names), delimiter)
            yield RawRows(
                path.name,
                lines,
                dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {name: () for name in names},
                lambda index, rows=rows: _csv_text(rows[index], delimiter),
                rejected,
                opened.bytes_done(),
            )


def _csv_rows(
    reader: Any, file: str, width: int, delimiter: str
) -> tuple[list[list[str]], list[int], list[Rejected], bool]:
    rows: list[list[str]] = []
    lines: list[int] = []
    rejected: list[Rejected] = []
    while len(rows) + len(rejected) < CHUNK_ROWS:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return rows, lines, rejected, False
        except csv.Error as error:
            span = f" (to line {reader.line_num})" if reader.line_num > line else ""
            rejected.append(Rejected(file, line, f"not a CSV row{span}: {error}", ""))
            continue
        if len(row) == width:
            rows.append(row)
            lines.append(line)
        elif row:
            rejected.append(Rejected(file, line, f"{len(row)} fields where {width} are due", delimiter.join(row)))
    return rows, lines, rejected, True


def _csv_text(row: Sequence[str], delimiter: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="").writerow(row)
    return text.getvalue()


def line_chunks(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, list[str], int]]:
    """Lines without their ends: the number of the first line of the chunk, the lines, bytes read so far."""
    with open_text(path, encoding) as opened:
        first = 1
        while lines := list(islice(opened.text, CHUNK_ROWS)):
            yield first, [line.rstrip("\r\n") for line in lines], opened.bytes_done()
            first += len(lines)


def split_chunks(path: Path, names: Sequence[str], separator: str, encoding: str = "utf-8") -> Iterator[RawRows]:
    """Files of one row a line, fields split by `separator`, without a header and without quotes."""
    for first, texts, bytes_done in line_chunks(path, encoding):
        parts = [text.split(separator) for text in texts]
        good = [index for index, fields in enumerate(parts) if len(fields) == len(names)]
        lines = [first + index for index in good]
        rejected = [
            Rejected(path.name, first + index, f"{len(fields)} fields where {len(names)} are due", texts[index])
            for index, fields in enumerate(parts)
            if len(fields) != len(names) and texts[index].strip()
        ]
        columns = zip(*(parts[index] for index in good), strict=True) if good else ([] for _ in names)
        yield RawRows(
            path.name,
            lines,
            dict(zip(names, columns, strict=True)),
            partial(_line_text, texts, first, lines),
            rejected,
            bytes_done,
        )


def json_chunks(path: Path, names: Sequence[str]) -> Iterator[RawRows]:
    """The named fields of JSON lines, as text; a field that is missing or is no plain value is None."""
    for first, texts, bytes_done in line_chunks(path):
        columns: dict[str, list[str | None]] = {name: [] for name in names}
        lines: list[int] = []
        rejected: list[Rejected] = []
        for line, text in enumerate(texts, first):
            found = parse_object(text) if text.strip() else {}
            if found is None:
                rejected.append(Rejected(path.name, line, "not a JSON object", text))
            elif text.strip():
                lines.append(line)
                for name, column in columns.items():
                    column.append(as_text(found.get(name)))
        yield RawRows(path.name, lines, columns, partial(_line_text, texts, first, lines), rejected, bytes_done)


def _line_text(texts: Sequence[str], first: int, lines: Sequence[int], index: int) -> str:
    return texts[lines[index] - first]


def parse_object(line: str) -> dict[str, Any] | None:
    """The object that a line holds, in JSON or as a Python literal (metadata of 2014); None where it holds none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = _literal(line)
    return found if isinstance(found, dict) else None


def _literal(line: str) -> object:
    if not line.startswith("{") or len(line) > LONGEST_LITERAL:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a backslash in a product's text is no concern of ours
        try:
            return ast.literal_eval(line)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None


def as_text(value: object) -> str | None:
    """A plain value as text: numbers and truths as JSON writes them; None for lists, objects and nothing."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else None
