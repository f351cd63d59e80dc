"""The ledger: what the writer keeps beside the state — positions, stream versions, the epoch, recent replies.

It is a fold of the log as well, but no decision depends on it, and the explorer leaves it out of its picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from . import events as ev
from .codec import TOPICS, encode_state
from .commands import AcquireLock, AnyReply, Command, Done, Envelope, Locked, Rejected, ReportBackendGone, Waiting
from .recording import Recorded
from .state import State

KEPT_REPLIES = 8192
"""So many commands' replies are kept in memory; older ones are looked up in the store by command id."""


class Ledger:
    """Where the log stands. ``time`` is the last event's instant, below which the writer's clock may not fall."""

    __slots__ = ("decided", "epoch", "position", "replies", "time", "versions")

    def __init__(self) -> None:
        self.position = 0
        self.epoch = 0
        self.time = 0
        self.versions: dict[str, int] = {}
        self.replies: dict[str, dict[str, AnyReply] | None] = {}
        """For each recent command: the fate of the requests in it; None when it was about none."""
        self.decided: deque[str] = deque()
        """The same commands, oldest first."""

    def fork(self) -> Ledger:
        """An independent copy."""
        copy = Ledger()
        copy.position, copy.epoch, copy.time = self.position, self.epoch, self.time
        copy.versions = self.versions.copy()
        copy.replies = self.replies.copy()
        copy.decided = self.decided.copy()
        newest = copy.decided[-1] if copy.decided else ""
        fates = copy.replies.get(newest)
        if fates is not None:
            # A command's events follow each other in the log: only the newest can have more to come.
            copy.replies[newest] = fates.copy()
        return copy

    def record(self, event: ev.Event, envelope: Envelope, ordinal: int, cause: str) -> Recorded:
        """The stored form of a decided event: the next position, and the next version of its stream."""
        stream = event.stream
        # The event that begins an epoch belongs to it already: the store takes nothing stamped with the one before.
        epoch = event.epoch if isinstance(event, ev.EpochStarted) else self.epoch
        request = getattr(event, "request", "") or envelope.request_id
        return Recorded(
            self.position + 1,
            stream,
            self.versions.get(stream, 0) + 1,
            TOPICS[type(event)],
            encode_state(event),
            f"{envelope.command_id}/{ordinal}",
            event.at,
            epoch,
            envelope.actor,
            envelope.command_id,
            envelope.correlation_id or request or envelope.command_id,
            cause,
            request,
        )

    def enter(self, recorded: Recorded, event: ev.Event, state: State) -> AnyReply | None:
        """Take a recorded event into account, after ``state`` has; returns the reply that it gives to its request."""
        self.position = recorded.position
        self.time = max(self.time, recorded.time)
        if isinstance(event, ev.EpochStarted):
            self.epoch = event.epoch
        if isinstance(event, ev.ReplicaEvent) and event.replica not in state.replicas:
            self.versions.pop(recorded.stream, None)
        else:
            self.versions[recorded.stream] = recorded.version
        command_id = recorded.command_id
        if command_id not in self.replies:
            self.replies[command_id] = None
            self.decided.append(command_id)
            if len(self.decided) > KEPT_REPLIES:
                del self.replies[self.decided.popleft()]
        answer = _REPLIES.get(type(event))
        if answer is None:
            return None
        reply = answer(event, state)
        fates = self.replies[command_id]
        if fates is None:
            fates = self.replies[command_id] = {}
        fates[event.request] = reply  # type: ignore[attr-defined]  # events with a reply have a request
        return reply

    def recall(self, envelope: Envelope) -> AnyReply | None:
        """The recorded reply to a command that was decided before; None when it was not, or too long ago."""
        if envelope.command_id not in self.replies:
            return None
        fates = self.replies[envelope.command_id]
        return fates.get(asked_for(envelope.command), Done()) if fates else Done()


def asked_for(command: Command) -> str:
    """The request whose fate is the command's reply; empty for commands that are just done."""
    return command.request if isinstance(command, _ASKING) else ""


_ASKING = (AcquireLock, ReportBackendGone)


def _locked(event: ev.ReplicaLocked, state: State) -> AnyReply:
    replica = state.replicas.get(event.replica)
    return Locked(
        request=event.request,
        replica=event.replica,
        node=event.node,
        model=event.model,
        address=replica.address if replica is not None else "",
    )


def _queued(event: ev.RequestQueued, state: State) -> AnyReply:
    return Waiting(request=event.request, kind=event.wait.kind, on=event.wait.on)


def _refused(event: ev.RequestRefused, state: State) -> AnyReply:
    cure = event.explanation.cure if event.explanation is not None else ""
    return Rejected(
        code=event.code,
        message=event.message,
        cure=cure,
        retry_after=event.retry_after,
        whole_tenant=event.whole_tenant,
    )


def _cancelled(event: ev.RequestCancelled, state: State) -> AnyReply:
    return Rejected(code="cancelled", message=event.reason)


_REPLIES: dict[type[ev.Event], Callable[[Any, State], AnyReply]] = {
    ev.ReplicaLocked: _locked,
    ev.RequestQueued: _queued,
    ev.RequestRefused: _refused,
    ev.RequestCancelled: _cancelled,
}
"""What an event answers to its request."""


def reply_of(event: ev.Event, state: State) -> AnyReply | None:
    """What an event answers to its request, read on the state right after it; None when it answers nothing."""
    answer = _REPLIES.get(type(event))
    return answer(event, state) if answer is not None else None


class LedgerImage(msgspec.Struct, frozen=True):
    """The ledger as a snapshot keeps it."""

    position: int
    epoch: int
    time: int
    versions: dict[str, int]
    decided: list[tuple[str, dict[str, Done | Locked | Waiting | Rejected] | None]]


def image_of(ledger: Ledger) -> LedgerImage:
    """What a snapshot keeps of the ledger."""
    decided = [(command, ledger.replies[command]) for command in ledger.decided]
    return LedgerImage(ledger.position, ledger.epoch, ledger.time, ledger.versions, decided)


def ledger_from(image: LedgerImage) -> Ledger:
    """The ledger that a snapshot kept."""
    ledger = Ledger()
    ledger.position, ledger.epoch, ledger.time = image.position, image.epoch, image.time
    ledger.versions, ledger.replies = image.versions, {**dict(image.decided)}
    ledger.decided = deque(ledger.replies)
    return ledger
