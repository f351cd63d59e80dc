"""The event store in virtual time: a log, its fence, its running hash; and the shadow that replays it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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
        self.shadow = Engine()

    def take_epoch(self) -> int:
        """A new writer's epoch, which fences every earlier one."""
        self.epoch += 1
        return self.epoch

    def append(self, batch: Sequence[Recorded], epoch: int) -> None:
        """Store the batch; raises Fenced when a newer epoch exists, and then nothing is stored."""
        if epoch != self.epoch:
            raise Fenced(f"epoch {epoch} has passed: {self.epoch} was taken.")
        for row in batch:
            header = (
                f"{row.position}|{row.stream}|{row.version}|{row.topic}|{row.event_id}|{row.time}|{row.epoch}|"
                f"{row.actor}|{row.correlation_id}|{row.causation_id}|{row.request_id}|"
            )
            self._hash.update(header.encode() + row.state)
        self.length += len(batch)
        if self.keep:
            self.tail.extend(batch)
            self.rows.extend(batch)

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

    def last_of(self, request: str) -> Recorded | None:
        """The last event that names the request."""
        return next((row for row in reversed(self.rows) if row.request_id == request), None)


def state_hash(engine: Engine) -> str:
    """The digest of the cluster's canonical image."""
    return hashlib.sha256(encode_cluster(engine.state)).hexdigest()
