"""Freezes: who froze what and when, and whether that is why nothing happens for a thing.

What a freeze holds up is not guessed: the thaw is decided on a fork of the state at the log's end, and what would come
of it at once for the thing is what it waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from interlock.domain import causes
from interlock.domain import events as ev
from interlock.domain.codec import TOPICS, decode_event
from interlock.domain.commands import Envelope, Thaw
from interlock.domain.engine import Engine
from interlock.domain.entities import Parked, WaitKind
from interlock.domain.errors import InterlockError
from interlock.domain.recording import Recorded
from interlock.domain.units import format_instant

from .rebuild import engine_at
from .rows import shown
from .sentences import FREEZABLE, LEAVES, parked_until, sentence

if TYPE_CHECKING:
    from .rows import Log

_MOST_SWITCHES = 1_000
"""So many freezes and thaws are looked through, the newest."""


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """One freeze: of what, since when and by whom. ``until`` and ``thawed_by`` are empty while it lasts.

    ``position`` and ``end`` are where the log says so; ``end`` is 0 while it lasts.
    """

    what: str
    since: str
    by: str
    until: str = ""
    thawed_by: str = ""
    position: int
    end: int = 0

    @property
    def cure(self) -> str:
        """What ends it."""
        return f"`interlock thaw {self.what}`."

    @property
    def told(self) -> str:
        """Who froze it and when, as the beginning of a sentence."""
        over = f"; {self.thawed_by} thawed it at {self.until}" if self.until else ""
        return f"{self.by} froze {FREEZABLE.get(self.what, self.what)} at {self.since}{over}"


class HeldUp(msgspec.Struct, frozen=True):
    """That the freezes are why nothing happens for a thing, in a sentence, and what would help."""

    freezes: tuple[Freeze, ...]
    sentence: str
    cure: str


def freezes(log: Log) -> list[Freeze]:
    """The freezes in the log, the newest first."""
    column = log.position_column
    condition = "originator_id = ? AND topic IN (?, ?)"
    params = ("scheduler", TOPICS[ev.Frozen], TOPICS[ev.Thawed])
    statement = f"SELECT {column} FROM stored_events WHERE {condition} ORDER BY {column} DESC LIMIT ?"
    positions = [int(row[0]) for row in log.fetch(statement, [*params, _MOST_SWITCHES])]
    if not positions:
        return []
    found: dict[str, Freeze] = {}
    over: list[Freeze] = []
    for recorded in map(shown, log.select(f"{condition} AND {column} >= ?", [*params, positions[-1]])):
        what, thawed = _switch(recorded)
        when, who, position = format_instant(recorded.time), recorded.actor or "Somebody", recorded.position
        if not thawed:
            found[what] = Freeze(what=what, since=when, by=who, position=position)
        elif what in found:
            over.append(msgspec.structs.replace(found.pop(what), until=when, thawed_by=who, end=position))
    return sorted([*over, *found.values()], key=lambda freeze: -freeze.position)


def _switch(recorded: Recorded) -> tuple[str, bool]:
    """What a switch is of, and whether it thaws; of one that cannot be read, nothing."""
    try:
        event = decode_event(recorded.topic, recorded.state)
    except (InterlockError, msgspec.MsgspecError):
        return "", False
    return getattr(event, "what", ""), isinstance(event, ev.Thawed)


def freeze_at(known: Sequence[Freeze], what: str, position: int) -> Freeze | None:
    """The freeze of that which was in force at a position."""
    frozen = (one for one in known if one.what == what and one.position <= position)
    return next((one for one in frozen if not one.end or position < one.end), None)


def held_up(log: Log, known: Sequence[Freeze], kind: str, name: str) -> HeldUp | None:
    """Whether what is frozen at the log's end is why nothing happens for the thing; None when it is not."""
    frozen = [one for one in known if not one.until and one.what in FREEZABLE]
    if not frozen:
        return None
    try:
        engine = engine_at(log, log.head().position)
        each = [(one,) for one in frozen]
        both = [tuple(frozen)] if len(frozen) > 1 else []
        brought = [(some, _brought(engine, some, kind, name)) for some in (*each, *both)]
    except InterlockError as error:
        told = f"{_told(frozen)}. Whether that is why nothing happens cannot be told: {error.message}"
        return HeldUp(tuple(frozen), told, _cure(frozen))
    for some, events in brought:
        done = next(filter(None, map(_withheld, events)), "")
        if done:
            return _held(some, f"that is why {done}.", "")
    for some, events in brought:
        for event in events:
            if isinstance(event, ev.ModelParked):
                cure = event.explanation.cure if event.explanation is not None else ""
                then = parked_until(Parked(event.reason, event.lacks, event.until), event.explanation)
                why = f"that is why nothing is tried for it. Thawed, its wish would be parked{then}."
                return _held(some, why, cure)
    return None


def _held(some: tuple[Freeze, ...], why: str, then: str) -> HeldUp:
    return HeldUp(some, f"{_told(some)}: {why}", f"{_cure(some)} Then: {then}" if then else _cure(some))


def _told(some: Sequence[Freeze]) -> str:
    return " and ".join(one.told for one in some)


def _cure(some: Sequence[Freeze]) -> str:
    return " ".join(one.cure for one in some)


def _brought(engine: Engine, some: Sequence[Freeze], kind: str, name: str) -> list[ev.Event]:
    """What would come of a thaw at once, for the thing."""
    fork, events = engine.fork(), list[ev.Event]()
    for one in some:
        envelope = Envelope(command_id=f"if-{one.what}-were-thawed", command=Thaw(what=one.what))
        events += fork.handle(envelope, fork.ledger.time).events
    return [event for event in events if getattr(event, kind, "") == name]


def _withheld(event: ev.Event) -> str:
    """What does not happen, as the end of a sentence; empty for what only says what is waited for."""
    match event:
        case ev.ReplicaReserved(victims=victims):
            room = f", where {' and '.join(victims)} would make room" if victims else ""
            wanted = causes.without_since(event.cause, event.model)
            return f"no copy of {event.model} is loaded on node {event.node}{room} ({wanted})"
        case ev.UnloadRequested():
            why = LEAVES.get(event.reason, event.reason)
            return f"{event.replica} of {event.model} stays on node {event.node}, though {why}"
        case ev.ReplicaEvicted():
            whom = event.beneficiary_model
            return f"{event.replica} of {event.model} does not make room on node {event.node} for {whom}"
        case ev.RequestQueued() if event.wait.kind is WaitKind.LOAD:
            return f"no copy of {event.model} is loaded for it"
        case ev.ModelParked() | ev.ModelUnparked() | ev.RequestQueued() | ev.RequestWoken():
            return ""
    return f"this has not happened: {sentence(event)[:-1]}"
