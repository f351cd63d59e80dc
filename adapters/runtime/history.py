"""A finished request, read back from its events."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from interlock.domain import events as ev
from interlock.domain.codec import decode_event
from interlock.domain.recording import Recorded
from interlock.domain.views import RequestView


def request_from_log(request: str, recorded: Sequence[Recorded]) -> RequestView | None:
    """What the log says of a request; None when it says nothing."""
    view: RequestView | None = None
    for one in recorded:
        event = decode_event(one.topic, one.state)
        if getattr(event, "request", None) == request:
            view = _after(view or RequestView(id=request, model="", status="ended"), event)
    return view


def _after(view: RequestView, event: ev.Event) -> RequestView:
    match event:
        case ev.ReplicaLocked() | ev.RequestQueued():
            view = replace(
                view, model=event.model, holder=event.holder, tenant=event.tenant, priority=event.priority,
                arrival=event.arrival, deadline=event.deadline, passes=event.passes,
            )  # fmt: skip
            if isinstance(event, ev.ReplicaLocked):
                view = replace(view, replica=event.replica, node=event.node)
        case ev.ReplicaReleased():
            view = replace(view, outcome=event.outcome, message=event.detail, ended_at=event.at)
        case ev.RequestCancelled():
            view = replace(view, model=event.model, outcome="cancelled", message=event.reason, ended_at=event.at)
        case ev.RequestRefused():
            view = replace(
                view, model=event.model, outcome="refused", code=event.code, message=event.message, ended_at=event.at
            )
    return view
