"""Raw rows to typed columns: what each field must be, and the reason a row is rejected for.

RawRows (n texts a column)  ->  one check a field, over whole columns  ->  table of usable rows, Rejected rows
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from .schema import INTERACTIONS, TIME, pc
from .source import DAY, RawRows, Rejected, Rules, plain, shown

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Range(NamedTuple):
    """What a number of the schema may be: bounds, whether it is whole, and how a message says so."""

    low: float
    high: float
    whole: bool
    words: str


RANGES = {
    "click": Range(0, 1, True, "0 or 1"),
    "conversion": Range(0, 1, True, "0 or 1"),
    "dwell_s": Range(0, float(np.finfo(np.float32).max), False, "seconds, 0 or more"),
    "propensity": Range(math.ulp(0.0), 1, False, "a probability above 0"),
    "position": Range(0, np.iinfo(np.int32).max, True, "a whole number, 0 or more"),
}
ANY_RATING = (float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))


def clean(raw: RawRows, rules: Rules, now: float) -> tuple[pa.Table, list[Rejected]]:
    """Checks every field of a chunk's n rows.

    Args:
        raw: the chunk, its columns by schema name.
        rules: which columns there are and what a rating may be.
        now: seconds since 1970; a time more than a day later is rejected.

    Returns:
        The usable rows with the columns of INTERACTIONS, then the item columns of `rules` as text; and the rejected
        rows, each with its first reason, in the order of their lines.
    """
    rows = _Rows(raw, rules)
    columns: dict[str, pa.Array] = {name: rows.required_text(name) for name in ("user_id", "item_id")}
    columns["timestamp"] = rows.times(now)
    columns["rating"], columns["click"] = rows.feedback()
    for name in ("conversion", "dwell_s", "propensity", "position"):
        columns[name] = _typed(rows.numbers(name), name)
    columns["review"] = rows.optional_text("review")
    extra = [name for name in ("title", "text", "attributes", "image_path") if name in rules.columns]
    columns |= {name: rows.optional_text(name) for name in extra}
    schema = pa.schema([*INTERACTIONS, *(pa.field(name, pa.string()) for name in extra)])
    table = pa.table([columns[name].filter(rows.usable) for name in schema.names], schema=schema)
    return table, sorted([*raw.rejected, *rows.rejected()], key=lambda rejected: rejected.line)


class _Rows:
    """The n rows of a chunk while they are checked; `usable` and the first reasons against the others build up."""

    def __init__(self, raw: RawRows, rules: Rules) -> None:
        self._raw = raw
        self._rules = rules
        self._good = np.ones(len(raw.lines), bool)
        self._reasons: dict[int, str] = {}

    @property
    def usable(self) -> pa.Array:
        return pa.array(self._good)

    def rejected(self) -> list[Rejected]:
        file, lines, row = self._raw.file, self._raw.lines, self._raw.row
        return [Rejected(file, lines[index], reason, row(index)) for index, reason in sorted(self._reasons.items())]

    def required_text(self, name: str) -> pa.Array:
        texts = self._text(name)
        self._reject(_is_empty(texts), lambda index: f"{self._called(name)} is empty")
        return texts

    def optional_text(self, name: str) -> pa.Array:
        return _nulled(self._text(name)) if name in self._rules.columns else pa.nulls(len(self._good), pa.string())

    def times(self, now: float) -> pa.Array:
        """`(n,)` times; null throughout where the source has none."""
        name = "timestamp"
        if name not in self._rules.columns:
            return pa.nulls(len(self._good), TIME)
        texts = self._text(name)
        seconds = _numbers(texts) / (1000 if self._rules.milliseconds else 1)
        written = np.isnan(seconds) & ~_is_empty(texts)
        if written.any():
            seconds[written] = _iso_seconds(texts.filter(pa.array(written)))
        self._reject(_is_empty(texts), lambda index: f"{self._called(name)} is empty")
        unreadable = "is not a time (a number since 1970, or ISO 8601 such as 2026-01-31)"
        self._reject(np.isnan(seconds), self._says(name, texts, unreadable))
        self._reject(seconds < 0, self._says(name, texts, "is before 1970"))
        late = seconds > now + DAY
        self._reject(late & (seconds / 1000 <= now + DAY), self._says(name, texts, "is in the future (milliseconds?)"))
        self._reject(late, self._says(name, texts, "is in the future"))
        micros = np.where(self._good, np.nan_to_num(seconds), 0) * 1e6
        return pa.array(np.rint(micros).astype(np.int64)).cast(TIME)

    def feedback(self) -> tuple[pa.Array, pa.Array]:
        """`(n,)` ratings and clicks; a row says at least one, but where the source has neither each row is a click."""
        low, high = self._rules.rating_range or ANY_RATING
        ratings = self.numbers("rating", Range(low, high, False, f"from {low:g} to {high:g}"))
        clicks = self.numbers("click")
        said = [name for name in ("rating", "click") if name in self._rules.columns]
        if said:
            silent = np.isnan(ratings) & np.isnan(clicks)
            self._reject(silent, lambda index: f"{' and '.join(map(self._called, said))} {_be(said)} empty")
        implied = np.where(np.isnan(clicks), 1.0, clicks)
        return _typed(ratings, "rating"), _typed(implied, "click")

    def numbers(self, name: str, allowed: Range | None = None) -> Floats:
        """`(n,)` values, NaN where a row has none."""
        if name not in self._rules.columns:
            return np.full(len(self._good), np.nan)
        allowed = allowed or RANGES[name]
        texts = self._text(name)
        values = _truths(texts, _numbers(texts)) if name in ("click", "conversion") else _numbers(texts)
        values[np.isinf(values)] = np.nan
        unreadable = np.isnan(values) & ~_is_empty(texts)
        self._reject(unreadable, self._says(name, texts, "is not a number"))
        wrong = (values < allowed.low) | (values > allowed.high) | (allowed.whole & (values % 1 > 0))
        self._reject(wrong, self._says(name, texts, f"is not {allowed.words}"))
        return np.where(self._good, values, np.nan)

    def _text(self, name: str) -> pa.Array:
        values = self._raw.columns[name]
        try:
            texts = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
        except UnicodeEncodeError:
            texts = self._without_strange_bytes(name, values)
        return pc.utf8_trim_whitespace(texts)

    def _without_strange_bytes(self, name: str, values: Sequence[str | None]) -> pa.Array:
        cleaned = [None if value is None else plain(value) for value in values]
        strange = np.array([value != text for value, text in zip(values, cleaned, strict=True)])
        texts = pa.array(cleaned, pa.string())
        self._reject(strange, self._says(name, texts, "has bytes that are not UTF-8 text"))
        return texts

    def _reject(self, wrong: Mask, reason: Callable[[int], str]) -> None:
        for index in np.flatnonzero(wrong & self._good).tolist():
            self._reasons[index] = reason(index)
        self._good &= ~wrong

    def _says(self, name: str, texts: pa.Array, words: str) -> Callable[[int], str]:
        return lambda index: f"{self._called(name)} {shown(texts[index].as_py())} {words}"

    def _called(self, name: str) -> str:
        return self._rules.columns[name]


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _is_empty(texts: pa.Array) -> Mask:
    return pc.fill_null(pc.equal(pc.utf8_length(texts), 0), True).to_numpy(zero_copy_only=False)


def _nulled(texts: pa.Array) -> pa.Array:
    return pc.if_else(pa.array(_is_empty(texts)), pa.scalar(None, pa.string()), texts)


def _numbers(texts: pa.Array) -> Floats:
    """`(n,)` the numbers that texts hold, NaN for every other text."""
    series = pd.Series(texts.to_numpy(zero_copy_only=False), dtype=object)
    return np.array(pd.to_numeric(series, errors="coerce"), np.float64)


def _truths(texts: pa.Array, values: Floats) -> Floats:
    """`values` with 0 and 1 where the text is `false` or `true`."""
    places = pc.index_in(pc.utf8_lower(texts), value_set=pa.array(["false", "true"]))
    return np.where(np.isnan(values), pc.fill_null(places.cast(pa.float64()), np.nan).to_numpy(), values)


def _iso_seconds(texts: pa.Array) -> Floats:
    """`(n,)` seconds since 1970 of ISO 8601 times, without a zone in UTC; NaN for every other text."""
    times = pd.to_datetime(pd.Series(texts.to_pylist(), dtype=object), errors="coerce", utc=True, format="ISO8601")
    seconds = times.dt.as_unit("us").astype("int64").to_numpy() / 1e6
    return np.where(times.isna().to_numpy(), np.nan, seconds)


def _typed(values: Floats, name: str) -> pa.Array:
    empty = np.isnan(values)
    return pa.array(np.where(empty, 0, values), mask=empty).cast(INTERACTIONS.field(name).type)
