"""The ports: what the use cases need from the outside, as protocols that adapters satisfy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from .commands import AnyReply, Command, Envelope, Locked, Rejected, Running
from .effects import Effect
from .recording import Head, Recorded, Snapshot


class EventStore(Protocol):
    """A log of events that one fenced writer appends to and anybody reads. Blocking; called from a thread of its own.

    Every call is bounded by the adapter's timeouts and raises
    :class:`~interlock.domain.errors.StoreUnavailable` when the store does not answer.
    """

    def take_epoch(self, owner: str, lease_us: int) -> int:
        """Become the writer: fence every earlier epoch, and return the new one.

        Raises :class:`~interlock.domain.errors.LeaseHeld` while another owner's lease (on the store's own clock) runs.
        """

    def renew_epoch(self, epoch: int, lease_us: int) -> None:
        """Extend the lease. Raises :class:`~interlock.domain.errors.Fenced` when a newer epoch exists."""

    def release_epoch(self, epoch: int) -> None:
        """End the lease early, so that a standby need not wait. Does nothing when the epoch has passed."""

    def append(self, batch: Sequence[Recorded], epoch: int) -> Head:
        """Store the batch whole or not at all, and return the log's new end.

        Idempotent by event id: a batch that is stored already, with the same content, is not an error and adds nothing.
        Raises ``Fenced`` (a newer epoch exists; nothing was stored), ``EventConflict`` (nothing was stored),
        ``CommitUnknown`` (COMMIT was sent, its answer lost) or ``StoreUnavailable`` (nothing was stored).
        """

    def head(self) -> Head:
        """The end of the log, as a reader may rely on it."""

    def read(self, after: int = 0, *, upto: int | None = None, limit: int | None = None) -> Iterator[Recorded]:
        """Events with ``after < position <= upto``, in order of position."""

    def find_command(self, command_id: str) -> list[Recorded]:
        """The events of one command, in order; empty when it stored none."""

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot; older ones may be dropped, the two newest never."""

    def load_snapshots(self) -> list[Snapshot]:
        """The kept snapshots, newest first."""

    def close(self) -> None:
        """Give back connections, files and locks."""


class Renewal(msgspec.Struct, frozen=True):
    """What a holder hears when it renews its lease: its length in microseconds, and which requests are its no more.

    ``ended`` are those whose claims an operator has ended lately: their calls are to be broken off.
    """

    lease: int
    ended: tuple[str, ...] = ()


class CommandPort(Protocol):
    """How gateways and operators reach the writer, in process or over NATS. Asynchronous; bounded by the adapter.

    Every call raises :class:`~interlock.domain.errors.NoWriter` when no writer answers in time: the command may have
    been decided then, and sending the same envelope again is safe.
    """

    async def send(self, envelope: Envelope) -> AnyReply:
        """Have the command decided; returns when its events are durable."""
        ...

    async def acquire(self, envelope: Envelope) -> Locked | Rejected:
        """Send an AcquireLock and wait for its end: a lock, or a refusal. Cancelling the wait cancels nothing there."""
        ...

    async def renew_lease(self, holder: str) -> Renewal:
        """Keep every lock of this holder for another ``holder_lease``; makes no event.

        Tells how long that is now, since an operator may have changed it: 0 when the writer is an older one, which does
        not say.
        """
        ...


class WorkerPort(Protocol):
    """How the control plane speaks to the workers: over NATS and gRPC, or to the twin in memory.

    ``perform`` carries out one effect and returns the commands that report how it went (progress may come earlier,
    through the ``report`` callback given at construction). It raises
    :class:`~interlock.domain.errors.WorkerUnavailable` when the worker does not answer, in which case nothing is
    known: the core's own deadlines decide, and the same effect may be sent again.
    """

    async def perform(self, effect: Effect, epoch: int) -> Sequence[Command]:
        """Carry out one effect. Idempotent by ``effect.op``; an epoch older than one seen before is refused."""
        ...

    async def running(self, node: str) -> RunningReport:
        """What the worker runs now. A read-only question."""
        ...


class RunningReport(msgspec.Struct, frozen=True):
    """A worker's answer to what it runs: its boot and its processes."""

    node: str
    boot: str
    running: tuple[Running, ...]
