"""The ledger: what the writer keeps beside the state — positions, stream versions, the epoch, recent replies.

It is a fold of the log as well, but no decision depends on it, and the explorer leaves it out of its picture of a state.
"""

from __future__ import annotations

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

    __slots__ = ("epoch", "position", "replies", "time", "versions")

    def __init__(self) -> None:
        self.position = 0
        self.epoch = 0
        self.time = 0
        self.versions: dict[str, int] = {}
        self.replies: dict[str, dict[str, AnyReply]] = {}

    def fork(self) -> Ledger:
        """An independent copy."""
        copy = Ledger()
        copy.position, copy.epoch, copy.time = self.position, self.epoch, self.time
        copy.versions = self.versions.copy()
        copy.replies = {command: dict(replies) for command, replies in self.replies.items()}
        return copy

    def record(self, event: ev.Event, envelope: Envelope, ordinal: int, cause: str) -> Recorded:
        """The stored form of a decided event: the next position, and the next version of its stream."""
        stream = event.stream
        request = getattr(event, "request", "") or envelope.request_id
        return Recorded(
            self.position + 1,
            stream,
            self.versions.get(stream, 0) + 1,
            TOPICS[type(event)],
            encode_state(event),
            f"{envelope.command_id}/{ordinal}",
            event.at,
            self.epoch,
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
        replies = self.replies.get(recorded.command_id)
        if replies is None:
            replies = self.replies[recorded.command_id] = {}
            if len(self.replies) > KEPT_REPLIES:
                del self.replies[next(iter(self.replies))]
        reply = reply_of(event, state)
        if reply is not None:
            replies[event.request] = reply  # type: ignore[attr-defined]  # events with a reply have a request
        return reply

    def recall(self, envelope: Envelope) -> AnyReply | None:
        """The recorded reply to a command that was decided before; None when it was not, or too long ago."""
        replies = self.replies.get(envelope.command_id)
        if replies is None:
            return None
        return replies.get(asked_for(envelope.command), Done())


def asked_for(command: Command) -> str:
    """The request whose fate is the command's reply; empty for commands that are just done."""
    return command.request if isinstance(command, AcquireLock | ReportBackendGone) else ""


def reply_of(event: ev.Event, state: State) -> AnyReply | None:
    """What an event answers to its request; None when it answers nothing."""
    if isinstance(event, ev.ReplicaLocked):
        replica = state.replicas.get(event.replica)
        address = replica.address if replica is not None else ""
        return Locked(
            request=event.request, replica=event.replica, node=event.node, model=event.model, address=address
        )
    if isinstance(event, ev.RequestQueued):
        return Waiting(request=event.request, kind=event.wait.kind, on=event.wait.on)
    if isinstance(event, ev.RequestRefused):
        cure = event.explanation.cure if event.explanation is not None else ""
        return Rejected(code=event.code, message=event.message, cure=cure, retry_after=event.retry_after)
    if isinstance(event, ev.RequestCancelled):
        return Rejected(code="cancelled", message=event.reason)
    return None



class LedgerImage(msgspec.Struct, frozen=True):
    """The ledger as a snapshot keeps it."""

    position: int
    epoch: int
    time: int
    versions: dict[str, int]
    replies: dict[str, dict[str, Done | Locked | Waiting | Rejected]]


def image_of(ledger: Ledger) -> LedgerImage:
    """What a snapshot keeps of the ledger."""
    return LedgerImage(ledger.position, ledger.epoch, ledger.time, ledger.versions, ledger.replies)


def ledger_from(image: LedgerImage) -> Ledger:
    """The ledger that a snapshot kept."""
    ledger = Ledger()
    ledger.position, ledger.epoch, ledger.time = image.position, image.epoch, image.time
    ledger.versions, ledger.replies = image.versions, image.replies
    return ledger
