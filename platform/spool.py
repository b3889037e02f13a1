"""Records that a tracking server has not taken yet, kept on disk.

A spool is a folder `<tracking folder>/spool/<run>/` that one process holds by a file lock, which the kernel drops when
the process dies.

    records.jsonl   one record a line, synced when it is appended
    files/<id>/     the record's file or folder
    delivered       the ids the server has
    run.json        the server's address, and its id of the run

A record may have been sent without being marked (the process was killed between the two, or the answer was lost), so
every record read from disk has `again` set: whoever sends it looks first.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One thing to write to a run. `again`: it may have reached the server before."""

    id: int
    kind: str
    data: dict[str, Any]
    payload: str | None = None
    again: bool = False


class Spool:
    """The records of one run that wait for their server, oldest first. Made by `claim`; released by `close`."""

    def __init__(self, folder: Path, lock: IO[str]) -> None:
        self.folder = folder
        self._lock = lock
        delivered = set(_whole_lines(folder / "delivered"))
        records = _whole_lines(folder / "records.jsonl")
        self.pending = {
            entry["id"]: Record(**{**entry, "again": True}) for entry in records if entry["id"] not in delivered
        }
        self._next = 1 + max([*delivered, *(entry["id"] for entry in records)], default=0)

    @classmethod
    def claim(cls, folder: Path) -> Spool | None:
        """Opens the spool in `folder`, made if need be; None while another process holds it."""
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return cls(folder, lock)

    def append(self, kind: str, data: dict[str, Any], payload: Path | None, *, again: bool) -> Record:
        """Keeps one record; the file or folder `payload` is copied. On disk when this returns."""
        record = Record(self._next, kind, data, payload.name if payload else None, again)
        self._next += 1
        if payload:
            self._keep(record, payload)
        line = json.dumps({name: value for name, value in vars(record).items() if name != "again"})
        with (self.folder / "records.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.pending[record.id] = record
        return record

    def payload(self, record: Record) -> Path | None:
        """Where the record's file or folder is kept."""
        return self.folder / "files" / str(record.id) / record.payload if record.payload else None

    def mark(self, record: Record) -> None:
        """Notes that the record was delivered."""
        with (self.folder / "delivered").open("a", encoding="utf-8") as file:
            file.write(f"{record.id}\n")
        self.pending.pop(record.id, None)
        shutil.rmtree(self.folder / "files" / str(record.id), ignore_errors=True)

    def note(self, **known: str | None) -> None:
        """Adds to what is known of the run: `target`, the server's address without credentials, and its `run_id`."""
        told = {**facts(self.folder), **{name: value for name, value in known.items() if value}}
        temporary = self.folder / "run.json.new"
        temporary.write_text(json.dumps(told), "utf-8")
        temporary.replace(self.folder / "run.json")

    def close(self) -> None:
        """Lets go of the folder, and removes it when nothing is left in it to deliver."""
        if not self.pending:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Lets go of the folder as it is, as the death of the process would."""
        self._lock.close()

    def _keep(self, record: Record, payload: Path) -> None:
        home = self.folder / "files" / str(record.id)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        if payload.is_dir():
            shutil.copytree(payload, home / payload.name)
        else:
            shutil.copy2(payload, home / payload.name)


def spools(folder: Path) -> list[Path]:
    """The spool folders under a tracking folder."""
    return sorted(path.parent for path in (folder / "spool").glob("*/records.jsonl"))


def facts(folder: Path) -> dict[str, str]:
    """What is known of the run that a spool folder belongs to, see `Spool.note`."""
    path = folder / "run.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _whole_lines(path: Path) -> list[Any]:
    """The JSON values of a file, one a line. A torn last line is cut off, so that the next append starts clean."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    values = []
    for line in whole.splitlines():
        try:
            values.append(json.loads(line))
        except ValueError:
            _log.warning("%s has a line that cannot be read; it is skipped", path)
    return values
