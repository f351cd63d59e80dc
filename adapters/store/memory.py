"""The event store in memory: for tests and simulations, with faults to order."""

from __future__ import annotations

import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from threading import Lock

from interlock.domain.errors import CommitUnknown, EventConflict, Fenced, LeaseHeld, StoreUnavailable
from interlock.domain.recording import Head, Recorded, Snapshot

from . import batch as batches
from . import chain
from .sql_store import KEPT_SNAPSHOTS


class Fault(Enum):
    """What the next append does instead of working."""

    UNAVAILABLE = "unavailable"
    """Nothing is stored, and the caller is told so: ``StoreUnavailable``."""
    LOST_REQUEST = "lost-request"
    """Nothing is stored, and the caller cannot know: ``CommitUnknown``."""
    LOST_ANSWER = "lost-answer"
    """The batch is stored, and the caller cannot know: ``CommitUnknown``."""


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1_000


@dataclass
class MemoryLog:
    """What a server would hold: several stores on one log are several processes on one server.

    ``clock`` is the log's own, in microseconds, and decides about leases.
    """

    clock: Callable[[], int] = _monotonic_us
    rows: list[chain.Row] = field(default_factory=list)
    epoch: int = 0
    owner: str = ""
    lease_until: int = 0
    snapshots: list[Snapshot] = field(default_factory=list)
    versions: set[tuple[str, int]] = field(default_factory=set)
    event_ids: set[str] = field(default_factory=set)
    commands: dict[str, list[int]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def end(self) -> batches.End:
        """Where the log ends."""
        return batches.End(self.rows[-1][0], self.rows[-1][-1]) if self.rows else batches.End()


class MemoryStore:
    """The ``EventStore`` port on a ``MemoryLog``.

    ``before_append`` is called with each batch before anything is looked at, outside the log's lock: a test stalls a
    writer there.
    """

    def __init__(self, log: MemoryLog | None = None) -> None:
        self.log = log or MemoryLog()
        self.before_append: Callable[[Sequence[Recorded]], None] = lambda batch: None
        self._faults: deque[Fault | None] = deque()
        self._closed = False

    def fail_next(self, *faults: Fault | None) -> None:
        """Order faults for the next appends, one each; None lets one work."""
        self._faults.extend(faults)

    # --- The port -----------------------------------------------------------------------------------------------------

    def take_epoch(self, owner: str, lease_us: int) -> int:
        """See the port."""
        self._check_open()
        log = self.log
        with log.lock:
            now = log.clock()
            if owner != log.owner and now < log.lease_until:
                raise LeaseHeld(f"{log.owner} is the writer.", cure="Wait for its lease to lapse, or stop it.")
            log.epoch += 1
            log.owner = owner
            log.lease_until = now + lease_us
            return log.epoch

    def renew_epoch(self, epoch: int, lease_us: int) -> None:
        """See the port."""
        self._check_open()
        with self.log.lock:
            self._check_epoch(epoch)
            self.log.lease_until = self.log.clock() + lease_us

    def release_epoch(self, epoch: int) -> None:
        """See the port."""
        with self.log.lock:
            if self.log.epoch == epoch:
                self.log.lease_until = self.log.clock()

    def append(self, batch: Sequence[Recorded], epoch: int) -> Head:
        """See the port, and ``Fault``."""
        self._check_open()
        self.before_append(batch)
        fault = self._faults.popleft() if self._faults else None
        if fault is Fault.UNAVAILABLE:
            raise StoreUnavailable("the event store does not answer (a fault made to order).")
        if fault is Fault.LOST_REQUEST:
            raise CommitUnknown("the commit was sent and its answer was lost (a fault made to order).")
        with self.log.lock:
            self._check_epoch(epoch)
            if batch:
                rest = batches.remainder(batch, self.log.end(), lambda first, last: self.log.rows[first - 1 : last])
                self._store(batches.seal(rest, epoch, self.log.end()))
            head = self.log.end().head()
        if fault is Fault.LOST_ANSWER:
            raise CommitUnknown("the commit was sent and its answer was lost (a fault made to order).")
        return head

    def _store(self, rows: Sequence[chain.Row]) -> None:
        log = self.log
        versions = {(row[1], row[2]) for row in rows}
        event_ids = {row[5] for row in rows}
        if min(len(versions), len(event_ids)) < len(rows) or versions & log.versions or event_ids & log.event_ids:
            raise EventConflict(
                "an event with this stream and version, or event id, is stored already with other content.",
                cure="Read the log's tail and decide again.",
            )
        log.versions |= versions
        log.event_ids |= event_ids
        log.rows.extend(rows)
        for row in rows:
            log.commands.setdefault(row[9], []).append(row[0])

    def head(self) -> Head:
        """See the port."""
        self._check_open()
        with self.log.lock:
            return self.log.end().head()

    def read(self, after: int = 0, *, upto: int | None = None, limit: int | None = None) -> Iterator[Recorded]:
        """See the port."""
        for row in self.sealed_rows(after, upto=upto, limit=limit):
            yield batches.to_recorded(row)

    def find_command(self, command_id: str) -> list[Recorded]:
        """See the port."""
        self._check_open()
        if not command_id:
            return []
        with self.log.lock:
            return [
                batches.to_recorded(self.log.rows[position - 1]) for position in self.log.commands.get(command_id, [])
            ]

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """See the port."""
        self._check_open()
        with self.log.lock:
            kept = [other for other in self.log.snapshots if other.position != snapshot.position]
            insort(kept, snapshot, key=lambda one: -one.position)
            self.log.snapshots = kept[:KEPT_SNAPSHOTS]

    def load_snapshots(self) -> list[Snapshot]:
        """See the port."""
        self._check_open()
        with self.log.lock:
            return list(self.log.snapshots)

    def close(self) -> None:
        """See the port; the log lives on, and so does the lease until it lapses, as after a crash."""
        self._closed = True

    # --- Beyond the port ----------------------------------------------------------------------------------------------

    def sealed_rows(self, after: int = 0, *, upto: int | None = None, limit: int | None = None) -> Iterator[chain.Row]:
        """Raw rows with their digests, as ``LogReader.sealed_rows`` gives them."""
        self._check_open()
        last = len(self.log.rows) if upto is None else min(upto, len(self.log.rows))
        if limit is not None:
            last = min(last, max(after, 0) + limit)
        for index in range(max(after, 0), last):
            yield self.log.rows[index]

    def verify(self) -> chain.Finding:
        """Check the hash chain of the whole log."""
        return chain.check(self.sealed_rows())

    def _check_epoch(self, epoch: int) -> None:
        if self.log.epoch != epoch:
            raise Fenced(f"epoch {epoch} has passed: {self.log.owner or 'another writer'} took epoch {self.log.epoch}.")

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the event store is closed.")
