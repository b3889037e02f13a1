"""A dataset folder: what `concertrl ingest` makes and every run begins with.

    interactions, items, edges, users, rejected (.parquet), manifest.json  --load_dataset-->  Dataset
    Dataset.logs() -> Logs of everything  --split_by_time-->  Split  --Dataset.train_logs-->  Logs for the towers

The manifest holds the SHA-256 of each file's bytes; a folder that does not match its manifest is not loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import InputError
from .graph import build_graph
from .logs import Logs
from .manifest import MANIFEST, Manifest, file_sha256, read_manifest
from .schema import TABLES, check, pc
from .split import Split


@dataclass(frozen=True)
class Dataset:
    """A verified dataset folder. Tables are read when they are asked for."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The SHA-256 of the whole content, in hexadecimal: equal for equal input."""
        return self.manifest.sha256

    def table(self, name: str) -> pa.Table:
        """One of `interactions`, `items`, `edges`, `users`, `rejected`, checked against its schema.

        Raises:
            InputError: the file cannot be read or has another schema.
        """
        file = self.path / f"{name}.parquet"
        try:
            table = pq.read_table(file)
        except (pa.ArrowException, OSError):
            raise InputError(f"{file}: cannot be read as Parquet; ingest the dataset again") from None
        check(table, TABLES[name], str(file))
        return table

    def logs(self) -> Logs:
        """All interactions and the whole catalog, by index in the sorted order of the ids.

        The items' texts are the publisher's only: what users wrote about items has a time, see `train_logs`. A time
        that is not known counts as 0.
        """
        return self._logs

    def train_logs(self, split: Split) -> Logs:
        """What towers may be fitted on: the train rows of `logs()`, and texts with the tags from before the cut.

        A tag counts when its user is known and wrote it before that user's own cut (`Split.cuts`).
        """
        logs = self._logs
        known = self._tags.filter(self._before_cut(split))
        texts = list(logs.item_texts)
        said: dict[int, dict[str, None]] = {}
        for item, tag in zip(known["item"].to_pylist(), known["tag"].to_pylist(), strict=True):
            said.setdefault(item, {})[tag] = None
        for item, tags in said.items():
            texts[item] = "\n".join(filter(None, [texts[item], ", ".join(tags)]))
        return replace(logs.rows(split.train), item_texts=tuple(texts))

    def _before_cut(self, split: Split) -> pa.Array:
        users = pc.index_in(self._tags["user_id"], value_set=pa.array(self._logs.user_ids, pa.string()))
        known = pc.is_valid(users).to_numpy()
        index = pc.fill_null(users, 0).to_numpy()
        return pa.array(known & (_seconds(self._tags["timestamp"]) < split.cuts[index]))

    @cached_property
    def _logs(self) -> Logs:
        rows, items = self.table("interactions"), self._items
        user_ids, item_ids = pc.unique(rows["user_id"]).sort(), items["item_id"].combine_chunks()
        item_places = pc.index_in(rows["item_id"], value_set=item_ids)
        if item_places.null_count:
            file = self.path / "interactions.parquet"
            raise InputError(f"{file}: has items that items.parquet lacks; ingest the dataset again")
        return Logs(
            user_ids=tuple(user_ids.to_pylist()),
            item_ids=tuple(item_ids.to_pylist()),
            item_titles=_filled(items["title"]),
            item_texts=_filled(items["text"]),
            item_attributes=tuple(tuple(words or ()) for words in items["attributes"].to_pylist()),
            users=pc.index_in(rows["user_id"], value_set=user_ids).to_numpy().astype(np.int64),
            items=item_places.to_numpy().astype(np.int64),
            timestamps=_seconds(rows["timestamp"]),
            ratings=pc.fill_null(rows["rating"], np.float32(np.nan)).to_numpy(),
            clicks=rows["click"].to_numpy(),
            reviews=_filled(rows["review"]),
            item_images=self._images(items["image_path"]),
            graph=build_graph(item_ids.to_pylist(), self.table("edges")),
        )

    def _images(self, column: pa.ChunkedArray) -> tuple[str, ...]:
        """The paths of the items' pictures; one that is not absolute is below the dataset's folder."""
        return tuple(str(self.path / path) if path else "" for path in _filled(column))

    @cached_property
    def _items(self) -> pa.Table:
        return self.table("items").sort_by("item_id")

    @cached_property
    def _tags(self) -> pa.Table:
        """One row for each tag: item (index), user_id, timestamp, tag; by item, then time, user and tag."""
        tags = self._items["tags"].combine_chunks()
        flat = pa.table(
            {
                "item": pc.list_parent_indices(tags),
                **{name: pc.struct_field(pc.list_flatten(tags), name) for name in ("user_id", "timestamp", "tag")},
            }
        )
        return flat.sort_by([(name, "ascending") for name in ("item", "timestamp", "user_id", "tag")])


def load_dataset(path: str | Path) -> Dataset:
    """Opens a dataset folder and verifies every file against the manifest.

    Raises:
        InputError: no such folder, no or a broken manifest, a file that is missing or whose bytes have changed.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file, not a dataset folder" if folder.exists() else "no such dataset folder"
        raise InputError(f"{folder}: {what}; make one with `concertrl ingest`")
    manifest = read_manifest(folder)
    for name in TABLES:
        file = folder / f"{name}.parquet"
        if not file.is_file():
            raise InputError(f"{file}: is missing; ingest the dataset again")
        if name not in manifest.files or file_sha256(file) != manifest.files[name].sha256:
            raise InputError(f"{file}: its content does not match the hash in {MANIFEST}; ingest the dataset again")
    return Dataset(folder, manifest)


def _filled(column: pa.ChunkedArray) -> tuple[str, ...]:
    return tuple(pc.fill_null(column, "").to_pylist())


def _seconds(column: pa.ChunkedArray) -> np.ndarray:
    """`(n,)` int64 whole seconds since 1970, 0 where there is no time."""
    return pc.fill_null(column.cast(pa.int64()), 0).to_numpy() // 1_000_000
