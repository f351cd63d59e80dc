"""The event store in virtual time: a log, its fence, its running hash; and the shadow that replays it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from interlock.domain import events as ev
from interlock.domain.codec import decode_event
from interlock.domain.engine import Engine
from interlock.domain.errors import Fenced
from interlock.domain.recording import Recorded
from interlock.domain.snapshots import encode_cluster


class Log:
    """What is durable. Without ``keep`` only its length and hash are: for runs that nobody replays or takes over."""

    def __init__(self, *, keep: bool = True) -> None:
        self.keep = keep
        self.rows: list[Recorded] = []
        self.tail: list[Recorded] = []
        self.length = 0
        self.epoch = 0
        self._hash = hashlib.sha256()
        self._versions: dict[str, int] = {}
        self._ids: set[str] = set()
        self._of_request: dict[str, list[Recorded]] = {}
        self._indexed = 0
        self.shadow = Engine()

    def take_epoch(self) -> int:
        """A new writer's epoch, which fences every earlier one."""
        self.epoch += 1
        return self.epoch

    def _conflict(self, batch: Sequence[Recorded]) -> str:
        ahead: dict[str, int] = {}
        for row in batch:
            expected = ahead.get(row.stream, self._versions.get(row.stream, 0)) + 1
            if row.version != expected:
                return f"position {row.position} is version {row.version} of {row.stream}, after version {expected - 1}"
            ahead[row.stream] = row.version
            if row.event_id in self._ids:
                return f"position {row.position} has the id of another event, {row.event_id}"
        return ""

    def append(self, batch: Sequence[Recorded], epoch: int) -> str:
        """Store the batch; raises Fenced when a newer epoch exists, and then nothing is stored.

        Returns why a real store would not have taken it, in which each stream's versions follow each other and no two
        events have one id; else empty.
        """
        if epoch != self.epoch:
            raise Fenced(f"epoch {epoch} has passed: {self.epoch} was taken.")
        conflict = self._conflict(batch)
        self._versions.update((row.stream, row.version) for row in batch)
        for row in batch:
            header = (
                f"{row.position}|{row.stream}|{row.version}|{row.topic}|{row.event_id}|{row.time}|{row.epoch}|"
                f"{row.actor}|{row.correlation_id}|{row.causation_id}|{row.request_id}|"
            )
            self._hash.update(header.encode() + row.state)
        self.length += len(batch)
        if self.keep:
            self._ids.update(row.event_id for row in batch)
            self.tail.extend(batch)
            self.rows.extend(batch)
        return conflict

    @property
    def digest(self) -> str:
        """The hash of all that was stored."""
        return self._hash.hexdigest()

    def catch_up(self) -> Engine:
        """Replay what was stored since the last time, from its bytes, into the shadow; returns it."""
        self.shadow.replay(self.tail)
        self.tail.clear()
        return self.shadow

    def rebuild(self) -> Engine:
        """The engine of a new writer: the fold of everything that is stored, and nothing else."""
        return self.catch_up().fork()

    def differs_from(self, live: Engine) -> str:
        """How the live state differs from the replayed log; empty when they are the same, byte for byte."""
        if not self.keep:
            return ""
        shadow = self.catch_up()
        if shadow.ledger.position != live.ledger.position:
            return f"the log ends at {shadow.ledger.position}, the live state at {live.ledger.position}"
        if encode_cluster(shadow.state) != encode_cluster(live.state):
            return f"replaying the log up to {shadow.ledger.position} gives another state than the live one"
        return ""

    def events_of(self, request: str) -> list[ev.Event]:
        """The events that are about the request, in their order."""
        for row in self.rows[self._indexed :]:
            if row.request_id:
                self._of_request.setdefault(row.request_id, []).append(row)
        self._indexed = len(self.rows)
        decoded = (decode_event(row.topic, row.state) for row in self._of_request.get(request, ()))
        return [event for event in decoded if getattr(event, "request", "") == request]


def state_hash(engine: Engine) -> str:
    """The digest of the cluster's canonical image."""
    return hashlib.sha256(encode_cluster(engine.state)).hexdigest()
