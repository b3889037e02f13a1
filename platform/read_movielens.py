"""MovieLens: the ml-100k (`u.data`), ml-1m and ml-10m (`*.dat`) and ml-latest, 20m, 25m, 32m (`*.csv`) layouts.

    ratings file -> interactions        movies file -> items, genre and year edges
    tags file    -> the items' dated tags        users file -> users

Each file may be gzipped. Only the ratings file must be there. Formats: the README files of the data sets (GroupLens).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import time as now
from typing import Any

from .errors import InputError
from .read_text import csv_chunks, csv_header, split_chunks, text_encoding
from .source import DAY, Catalog, RawRows, Rejected, Rules, Source, plain, require_columns, shown

TERMS = (
    "GroupLens: cite Harper and Konstan 2015 (doi 10.1145/2827872); no commercial use without permission; "
    "the README of the data set has the whole terms"
)
# fmt: off
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)
# fmt: on
NO_GENRE = {"", "unknown", "(no genres listed)"}
OURS: tuple[str, ...] = ("user_id", "item_id", "rating", "timestamp")
YEAR = re.compile(r"\((\d{4})\)\s*$")
FACTS = ("age", "gender", "occupation")


@dataclass(frozen=True)
class Layout:
    """How one edition names its files and orders their columns; without a `separator` they are CSV with a header."""

    name: str
    ratings: str
    movies: str
    tags: str | None
    users: str | None
    separator: str | None
    lowest: float = 0.5
    columns: tuple[str, str, str, str] = ("user", "movie", "rating", "timestamp")
    movie_columns: tuple[str, ...] = ("movie", "title", "genres")
    catalog_separator: str = "::"
    tag_columns: tuple[str, str, str, str] = ("user", "movie", "tag", "timestamp")
    user_columns: tuple[str, ...] = ("user", "gender", "age", "occupation", "zip")


LAYOUTS = (
    Layout(
        "ml-latest",
        "ratings.csv",
        "movies.csv",
        "tags.csv",
        None,
        None,
        columns=("userId", "movieId", "rating", "timestamp"),
        movie_columns=("movieId", "title", "genres"),
        tag_columns=("userId", "movieId", "tag", "timestamp"),
    ),
    Layout("ml-1m", "ratings.dat", "movies.dat", "tags.dat", "users.dat", "::"),
    Layout(
        "ml-100k",
        "u.data",
        "u.item",
        None,
        "u.user",
        "\t",
        lowest=1,
        movie_columns=("movie", "title", "released", "video", "url", *GENRES_100K),
        catalog_separator="|",
        user_columns=("user", "age", "gender", "occupation", "zip"),
    ),
)


def read_movielens(path: Path, mapping: Mapping[str, str] | None = None) -> Source:
    """Recognises the layout of a MovieLens folder (or of its ratings file) and makes it ready to be streamed.

    Raises:
        InputError: no ratings file of a known layout, a column is missing, a mapping was given.
    """
    if mapping:
        raise InputError("movielens: needs no mapping of columns; leave it out, or ingest the file as csv")
    folder = path if path.is_dir() else path.parent
    for layout in LAYOUTS:
        ratings = _find(folder, layout.ratings)
        if ratings is not None and (path.is_dir() or path == ratings):
            break
    else:
        there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) if path.is_dir() else path.name
        raise InputError(f"{path}: no u.data, ratings.dat or ratings.csv, plain or .gz; there is: {there or 'nothing'}")
    columns: dict[str, str] = dict(zip(OURS, layout.columns, strict=True))
    if layout.separator is None:
        require_columns(ratings, layout.columns, csv_header(ratings)[0])
    movies = _find(folder, layout.movies)
    return Source(
        layout=layout.name,
        files=(ratings,),
        rules=Rules(columns, rating_range=(layout.lowest, 5)),
        interactions=partial(_ratings, ratings, layout, columns),
        catalog=partial(_catalog, folder, layout),
        terms=TERMS,
        notes=() if movies else (f"no {layout.movies}: items have neither title nor genre",),
    )


def _find(folder: Path, name: str | None) -> Path | None:
    places = (folder / name, folder / f"{name}.gz") if name else ()
    return next((path for path in places if path.is_file()), None)


def _ratings(path: Path, layout: Layout, columns: Mapping[str, str]) -> Iterator[RawRows]:
    for raw in _rows(path, layout, layout.columns, layout.separator):
        yield replace(raw, columns={ours: raw.columns[theirs] for ours, theirs in columns.items()})


def _rows(path: Path, layout: Layout, names: tuple[str, ...], separator: str | None) -> Iterator[RawRows]:
    if layout.separator is None or separator is None:
        header, delimiter = csv_header(path)
        require_columns(path, names, header)
        return csv_chunks(path, header, delimiter)
    return split_chunks(path, names, separator, text_encoding(path))


def _catalog(folder: Path, layout: Layout, seen: AbstractSet[str]) -> Iterator[Catalog]:
    tags: dict[str, list[dict[str, Any]]] = {}
    if path := _find(folder, layout.tags):
        for raw in _rows(path, layout, layout.tag_columns, layout.separator):
            yield Catalog(rejected=[*raw.rejected, *_gather_tags(raw, layout, tags)])
    if path := _find(folder, layout.users):
        for raw in _rows(path, layout, layout.user_columns, layout.catalog_separator):
            yield _users(raw)
    if path := _find(folder, layout.movies):
        listed: set[str] = set()
        for raw in _rows(path, layout, layout.movie_columns, layout.catalog_separator):
            yield _movies(raw, layout, tags, listed)


def _gather_tags(raw: RawRows, layout: Layout, tags: dict[str, list[dict[str, Any]]]) -> list[Rejected]:
    """Adds a chunk's tags to those of their items; returns the rows that are no tags."""
    rejected, latest = [], now() + DAY
    columns = [_stripped(raw, name) for name in layout.tag_columns]
    for index, (user, movie, tag, time) in enumerate(zip(*columns, strict=True)):
        if not (user and movie and tag):
            reason = "a tag needs a user, a movie and a text"
        elif not time.isdecimal():
            reason = f"timestamp {shown(time)} is not a time (seconds since 1970)"
        elif len(time) > 15 or int(time) > latest:
            reason = f"timestamp {shown(time)} is in the future"
        else:
            dated = {"user_id": user, "timestamp": int(time) * 1_000_000, "tag": tag}
            tags.setdefault(movie, []).append(dated)
            continue
        rejected.append(Rejected(raw.file, raw.lines[index], reason, raw.row(index)))
    return rejected


def _users(raw: RawRows) -> Catalog:
    facts = [name for name in FACTS if name in raw.columns]
    rows = zip(*(_stripped(raw, name) for name in ("user", *facts)), strict=True)
    users = [
        {"user_id": user, "attributes": [f"{fact}: {value}" for fact, value in zip(facts, values, strict=True)]}
        for user, *values in rows
    ]
    return Catalog(users=users, rejected=list(raw.rejected))


def _movies(raw: RawRows, layout: Layout, tags: dict[str, list[dict[str, Any]]], listed: set[str]) -> Catalog:
    found = Catalog(rejected=list(raw.rejected))
    titles = _stripped(raw, "title")
    for index, movie in enumerate(_stripped(raw, layout.movie_columns[0])):
        if not movie or movie in listed:
            reason = "the movie is listed twice" if movie else "the movie's id is empty"
            found.rejected.append(Rejected(raw.file, raw.lines[index], reason, raw.row(index)))
            continue
        listed.add(movie)
        genres, year = _genres(raw, index), YEAR.search(titles[index])
        found.items.append(
            {
                "item_id": movie,
                "title": titles[index],
                "attributes": [*genres, year.group(1)] if year else genres,
                "tags": tags.get(movie, []),
            }
        )
        found.edges.extend((movie, "genre", genre) for genre in genres)
        if year:
            found.edges.append((movie, "year", year.group(1)))
    return found


def _genres(raw: RawRows, index: int) -> list[str]:
    if "genres" in raw.columns:
        names = plain(str(raw.columns["genres"][index])).split("|")
    else:
        names = [name for name in GENRES_100K if raw.columns[name][index] == "1"]
    return [name for name in names if name.strip() not in NO_GENRE]


def _stripped(raw: RawRows, name: str) -> list[str]:
    return [plain(str(value or "")).strip() for value in raw.columns[name]]
