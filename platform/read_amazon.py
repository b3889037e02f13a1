"""Amazon reviews: the JSON-lines layouts of 2014 and 2018 and their CSV edition, with or without metadata.

    review files -> interactions (review = summary, line end, text)      meta_* files -> items and edges

Each file may be gzipped. Texts are the publisher's with HTML entities decoded. Metadata of 2014 are Python literals,
read as plain values and never run. Formats: the data sets' page of the publisher (McAuley lab, UCSD).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from .errors import InputError
from .read_text import as_text, csv_chunks, csv_header, json_chunks, line_chunks, parse_object
from .source import Catalog, RawRows, Rejected, Rules, Source, plain, require_columns

TERMS = (
    "Amazon reviews (McAuley lab, UCSD): no licence is stated; treat as research use and cite the publisher; "
    "the reviews are real customers' words"
)
COLUMNS = {"user_id": "reviewerID", "item_id": "asin", "rating": "overall", "timestamp": "unixReviewTime"}
REVIEW = ("summary", "reviewText")
ALSO = (
    ("related", "also_bought"),
    ("related", "bought_together"),
    ("also_buy", "also_bought"),
)
KINDS = re.compile(r"\.(json|jsonl|csv)(\.gz)?$")


def read_amazon(path: Path, mapping: Mapping[str, str] | None = None) -> Source:
    """Makes a file of reviews, or a folder of reviews and metadata (`meta_*`), ready to be streamed.

    Raises:
        InputError: no file of reviews, a CSV file without a needed column, a mapping was given.
    """
    if mapping:
        raise InputError("amazon: needs no mapping of columns; leave it out, or ingest the file as csv or jsonl")
    found = sorted(entry for entry in path.iterdir() if KINDS.search(entry.name)) if path.is_dir() else [path]
    metadata = [entry for entry in found if entry.name.startswith("meta_")]
    reviews = [entry for entry in found if entry not in metadata]
    if not reviews:
        hint = "metadata alone have none" if metadata else "they end in .json, .jsonl or .csv, plain or .gz"
        raise InputError(f"{path}: no file of reviews; {hint}")
    return Source(
        layout="csv" if any(".csv" in entry.name for entry in reviews) else "json-lines",
        files=tuple(reviews),
        rules=Rules({**COLUMNS, "review": "reviewText"}, rating_range=(1, 5)),
        interactions=lambda: chain.from_iterable(map(_reviews, reviews)),
        catalog=partial(_catalog, metadata),
        terms=TERMS,
        notes=_notes(metadata),
        deduplicate=True,
    )


def _notes(metadata: Sequence[Path]) -> tuple[str, ...]:
    if not metadata:
        return ("no metadata: items have no title and no text but their reviews",)
    return (
        "items with metadata and no review are left out",
        "also_bought edges were counted by the publisher after the last review: they know of the time after any cut",
    )


def _reviews(path: Path) -> Iterator[RawRows]:
    if ".csv" in path.name:
        header, delimiter = csv_header(path)
        require_columns(path, COLUMNS.values(), header)
        chunks = csv_chunks(path, header, delimiter)
    else:
        chunks = json_chunks(path, (*COLUMNS.values(), *REVIEW))
    for raw in chunks:
        columns = {ours: raw.columns[theirs] for ours, theirs in COLUMNS.items()}
        nothing = [None] * len(raw.lines)
        summaries, texts = (raw.columns.get(name, nothing) for name in REVIEW)
        joined = ("\n".join(filter(None, parts)) for parts in zip(summaries, texts, strict=True))
        yield replace(raw, columns={**columns, "review": [_decoded(text) for text in joined]})


def _catalog(metadata: Sequence[Path], seen: AbstractSet[str]) -> Iterator[Catalog]:
    listed: set[str] = set()
    for path in metadata:
        for first, lines, _ in line_chunks(path):
            found = Catalog()
            for number, line in enumerate(lines, first):
                product = parse_object(line) if line.strip() else {}
                if product is None:
                    found.rejected.append(Rejected(path.name, number, "not a JSON object", line))
                    continue
                item = (as_text(product.get("asin")) or "").strip()
                if item in seen and item not in listed:
                    listed.add(item)
                    _product(item, product, found)
            yield found


def _product(item: str, product: dict[str, Any], found: Catalog) -> None:
    """Adds one product to the batch: its item row, and edges to brand, categories and what was bought with it."""
    brand = _words(product.get("brand"))[:1]
    categories = _words([product.get("category"), product.get("categories")])
    text = "\n".join(_words([product.get("description"), product.get("feature")]))
    title = " ".join(_words(product.get("title")))
    found.items.append({"item_id": item, "title": title, "text": text, "attributes": [*brand, *categories]})
    found.edges.extend((item, "brand", name) for name in brand)
    found.edges.extend((item, "category", name) for name in categories)
    for group, relation in ALSO:
        held = product.get(group)
        others = held.get(relation) if isinstance(held, dict) else held if group != "related" else None
        found.edges.extend((item, relation, other) for other in _words(others))


def _words(value: object, depth: int = 4) -> list[str]:
    """The distinct texts in a value, in order: a text alone, or those in lists within lists, `depth` deep at most."""
    if isinstance(value, list | tuple):
        return list(dict.fromkeys(word for part in value for word in _words(part, depth - 1))) if depth else []
    text = _decoded(value).strip() if isinstance(value, str) else ""
    return [text] if text else []


def _decoded(text: str) -> str:
    return plain(html.unescape(text)) if "&" in text or not text.isascii() else text
