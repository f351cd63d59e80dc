"""A request's waits, one after the other: what it waited for, how long, and the very change that ended it."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from interlock.domain import events as ev
from interlock.domain.entities import Wait, WaitKind
from interlock.domain.units import format_instant, tell_duration

from .sentences import sentence, waits_for


class Waited(msgspec.Struct, frozen=True, kw_only=True):
    """One wait. ``lasted`` in microseconds; for one that goes on, up to the last that is known, and no ``ended_by``."""

    began: str
    kind: str
    on: str
    lasted: int
    ended_by: str
    sentence: str


_TURN = Wait(WaitKind.TURN)


def ends_load(event: ev.Event) -> bool:
    """Whether the wait for a load may be over with this event, which is not the request's own."""
    return isinstance(event, ev.ReplicaLoaded | ev.ReplicaLoadFailed | ev.ReplicaLost)


def waits_of(events: Iterable[tuple[ev.Event, ev.Event | None]]) -> list[Waited]:
    """The waits in a request's own events, each with its cause, in order; looking again in vain makes no new one.

    The ends of loads that are among ``events`` tell what nobody wrote down: behind the first of its queue a request
    is not looked at, and when the load that it came for is over, it waits for its turn.
    """
    found: list[_Span] = []
    wait: Wait | None = None
    began, at, woken_by = 0, 0, ""
    over: ev.ReplicaEvent | None = None
    for event, cause in events:
        if isinstance(event, ev.ReplicaEvent) and ends_load(event):
            over = event if wait is not None and wait.kind is WaitKind.LOAD and event.replica == wait.on else over
            continue
        if wait is not None and over is not None and over.at < event.at:
            found.append(_Span(wait, began, over.at, _how(over)))
            wait, began, over = _TURN, over.at, None
        at = event.at
        if isinstance(event, ev.RequestWoken):
            woken_by = event.cause
        elif isinstance(event, ev.RequestQueued):
            if wait is not None and (wait.kind, wait.on) != (event.wait.kind, event.wait.on):
                why = woken_by or (_how(over) if over is not None else _by_then(wait, event.wait, cause))
                found.append(_Span(wait, began, at, why))
                wait = None
            if wait is None:
                began = at
            wait, woken_by, over = event.wait, "", None
        elif wait is not None and (ended_by := _end(event, woken_by)):
            found.append(_Span(wait, began, at, ended_by))
            wait = None
    if wait is not None and over is not None:
        found.append(_Span(wait, began, over.at, _how(over)))
        wait, began, at = _TURN, over.at, over.at
    if wait is not None:
        found.append(_Span(wait, began, at, ""))
    return list(map(_waited, _without_instants(found)))


class _Span(msgspec.Struct, frozen=True):
    """A wait from one instant to another, and what ended it; empty for one that goes on."""

    wait: Wait
    began: int
    ended: int
    ended_by: str


def _without_instants(found: list[_Span]) -> list[_Span]:
    """Leave out what was waited for no time at all, between one wait and its end: what ended it ended that one."""
    kept: list[_Span] = []
    for span in found:
        if kept and span.ended_by and span.began == span.ended == kept[-1].ended:
            kept[-1] = msgspec.structs.replace(kept[-1], ended_by=span.ended_by)
        else:
            kept.append(span)
    return kept


def _by_then(old: Wait, new: Wait, cause: ev.Event | None) -> str:
    """What has changed between two looks, when no wake says it: the event that the second look followed."""
    if old.kind == _TURN.kind:
        return "its turn came"
    if cause is not None:
        told = _FURTHER.split(sentence(cause).rstrip("."), maxsplit=1)[0]
        return told[0].lower() + told[1:] if told.startswith(_COMMON_WORDS) else told
    if new.kind in ("busy", "load"):
        return "a copy of its model is there or on its way"
    because, found, reason = waits_for(new).partition("because ")
    return reason if found and not because else "something else stands in its way"


_FURTHER = re.compile(r": |; |, and ")
"""Where a sentence goes on with what is not the change itself."""
_COMMON_WORDS = ("Node ", "The ", "An ", "Model ", "Request ", "Revision ", "Settings ")
"""How sentences begin that do not begin with a name."""
_LOAD_ENDS: dict[type[ev.Event], str] = {
    ev.ReplicaLoaded: "{event.replica} of {event.model} loaded",
    ev.ReplicaLoadFailed: "the load of {event.model} as {event.replica} failed",
    ev.ReplicaLost: "{event.replica} of {event.model} was lost",
}


def _how(over: ev.ReplicaEvent) -> str:
    return _LOAD_ENDS[type(over)].format(event=over)


def _end(event: ev.Event, woken_by: str) -> str:
    match event:
        case ev.ReplicaLocked():
            return event.cause or woken_by or "a replica was free"
        case ev.RequestRefused():
            return f"refused, {event.code}"
        case ev.RequestCancelled():
            return event.reason
    return ""


def _waited(span: _Span) -> Waited:
    lasted = span.ended - span.began
    end = f"; ended by: {span.ended_by}" if span.ended_by else "; it goes on"
    return Waited(
        began=format_instant(span.began),
        kind=span.wait.kind,
        on=span.wait.on,
        lasted=lasted,
        ended_by=span.ended_by,
        sentence=f"Waited {tell_duration(lasted)} {waits_for(span.wait)}{end}.",
    )
