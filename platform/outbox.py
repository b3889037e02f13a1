"""How records get to a tracking server that may be down.

    write --server up, nothing waiting--> server
          --otherwise------------------> spool --drain, in order--> server

The spool is the only retry there is: a call that fails is kept on disk, the server is left alone for `BACK_OFF_S`, and
what waits goes first, in order, once it answers again.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .destination import Destination, UndeliveredError, local_uri, redact
from .errors import InputError
from .spool import Record, Spool, facts, spools

BACK_OFF_S = 30.0
"""A server that does not answer is left alone for this long."""

DRAIN_S = 5.0
"""At most this long is spent on what has piled up before training goes on."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """What `deliver` did, in records; `where` holds what is left, and `reason` says why."""

    delivered: int = 0
    left: int = 0
    where: Path | None = None
    reason: str = ""


@dataclass
class Outbox:
    """How one live run writes: straight to the server while it answers, into a spool while it does not.

    Attributes:
        destination: the server.
        home: the folder of the spools.
        name: the run's id, or its local id until the server knows it.
        run_id: the server's id, None until it has one.
        spool: what waits, None while nothing ever had to.
        results: what the server answered, by kind (the run's id, the model's URI).
    """

    destination: Destination
    home: Path
    name: str
    run_id: str | None = None
    spool: Spool | None = None
    reason: str = ""
    results: dict[str, str] = field(default_factory=dict)
    _retry_at: float = 0.0
    _refused: set[int] = field(default_factory=set)

    def write(
        self, kind: str, data: dict[str, Any], payload: Path | None = None, *, again: bool = False
    ) -> Path | None:
        """Delivers one record, or keeps it. Returns where its payload is kept, None once delivered.

        Costs no more than a call while the server is up, and a disk write while it is down, but for one look at the
        server every `BACK_OFF_S`.
        """
        tried = not self._waiting and self._up()
        if tried:
            try:
                self._send(Record(0, kind, data, again=again), payload)
                return None
            except UndeliveredError as error:
                self._failed(str(error))
        spool = self._open()
        record = spool.append(kind, data, payload, again=again or tried)
        if tried and not self._retry_at:
            self._refused.add(record.id)
        elif not tried and self._up():
            self.drain(DRAIN_S)
        return spool.payload(record) if record.id in spool.pending else None

    def drain(self, seconds: float = float("inf"), *, refused: bool = False) -> int:
        """Sends what waits, in order, for at most `seconds`; `refused`: also what the server would not take before.

        Returns the number of records sent. A record that a reachable server refuses is stepped over and kept.
        """
        spool, sent, deadline = self._open(), 0, time.monotonic() + seconds
        for record in list(spool.pending.values()):
            if time.monotonic() > deadline:
                break
            if record.id in self._refused and not refused:
                continue
            try:
                self._send(record, spool.payload(record))
            except UndeliveredError as error:
                spool.pending[record.id] = replace(record, again=True)
                self._failed(str(error))
                if record.kind == "start":  # nothing can follow it
                    self._retry_at = time.monotonic() + BACK_OFF_S
                if self._retry_at:
                    break
                self._refused.add(record.id)
                continue
            spool.mark(record)
            sent += 1
        return sent

    def adopt(self) -> bool:
        """Takes over what an earlier process of this run left on disk, if it left anything.

        Raises:
            InputError: that process is still there.
        """
        for path in spools(self.home.parent):
            known = facts(path)
            if self.name not in (path.name, known.get("run_id")):
                continue
            self.name, self.spool = path.name, Spool.claim(path)
            if self.spool is None:
                raise InputError(f'run "{self.name}" is still written by another process; stop it first')
            self.run_id = known.get("run_id")
            return True
        return False

    def refuses(self, *kinds: str) -> bool:
        """Whether a reachable server refused a record of one of the kinds."""
        pending = self.spool.pending.values() if self.spool else ()
        return any(record.id in self._refused and record.kind in kinds for record in pending)

    def abandon(self) -> None:
        """Forgets the records the server refused, and lets go of the spool."""
        if self.spool:
            for id in self._refused & set(self.spool.pending):
                self.spool.mark(self.spool.pending[id])
            self.spool.close()

    @property
    def undelivered(self) -> int:
        """Records that the server does not have."""
        return len(self.spool.pending) if self.spool else 0

    @property
    def _waiting(self) -> bool:
        return self.spool is not None and any(id not in self._refused for id in self.spool.pending)

    def _up(self) -> bool:
        """Whether a call is worth it: False during a back-off, and after it for as long as the server is silent."""
        if self._retry_at:
            if time.monotonic() < self._retry_at:
                return False
            if not self.destination.reachable():
                self._retry_at = time.monotonic() + BACK_OFF_S
                return False
            _log.warning("the tracking server %s answers again", redact(self.destination.uri))
            self._retry_at = 0.0
        return True

    def _failed(self, reason: str) -> None:
        self.reason = reason
        if self.destination.reachable():
            _log.warning("MLflow did not take a record (%s); it is kept in %s", reason, self.home / self.name)
            return
        self.down(reason)

    def down(self, reason: str) -> None:
        """Leaves the server alone for a while."""
        self.reason = reason
        self._retry_at = time.monotonic() + BACK_OFF_S
        where = self.home / self.name
        _log.warning(
            "the tracking server %s does not answer; the run goes on and is kept in %s",
            redact(self.destination.uri),
            where,
        )

    def _send(self, record: Record, payload: Path | None) -> None:
        answer = self.destination.send(self.run_id, record.kind, record.data, payload, again=record.again)
        if answer:
            self.results[record.kind] = answer
        if record.kind == "start":
            self.run_id = answer
            if self.spool:
                self.spool.note(run_id=answer)

    def _open(self) -> Spool:
        if self.spool is None:
            self.spool = Spool.claim(self.home / self.name)
            if self.spool is None:
                raise UndeliveredError(f"{self.home / self.name} is held by another process")
            self.spool.note(target=redact(self.destination.uri), run_id=self.run_id)
        return self.spool


def deliver(folder: str | Path, uri: str | None = None) -> Delivery:
    """Delivers what earlier runs under `folder` could not, to the server at `uri` (None: the folder's own database).

    Only records meant for this server are sent, in order, each metric once; a run still in progress keeps its own.
    """
    folder = Path(folder).resolve()
    destination = Destination(uri or local_uri(folder), folder)
    sent, left, where, reason = 0, 0, None, ""
    reachable: bool | None = None
    for path in spools(folder):
        spool = Spool.claim(path)
        if spool is None:
            continue
        known = facts(path)
        outbox = Outbox(destination, path.parent, path.name, known.get("run_id"), spool)
        if known.get("target") != redact(destination.uri):
            outbox.reason = f"meant for {known.get('target')}"
        elif reachable := destination.reachable() if reachable is None else reachable:
            sent += outbox.drain(refused=True)
        else:
            outbox.reason = f"{redact(destination.uri)} does not answer"
        if outbox.undelivered:
            left, where, reason = left + outbox.undelivered, path.parent, outbox.reason
        spool.close()
    return Delivery(sent, left, where, reason)
