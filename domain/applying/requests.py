"""Folding what happens to waiting requests."""

from __future__ import annotations

from bisect import insort

from msgspec.structs import replace

from interlock.domain import events as ev
from interlock.domain.entities import Request, RequestStatus, Wait, WaitKind
from interlock.domain.fairness import queue_key
from interlock.domain.state import State
from interlock.domain.units import FOREVER

from .changes import end_request, leave_queue, put_request
from .handlers import applies
from .tenants import take_in

_WOKEN = Wait(WaitKind.WOKEN)


@applies(ev.RequestQueued)
def _request_queued(state: State, event: ev.RequestQueued) -> None:
    old = state.requests.get(event.request)
    serial = old.serial if old else state.arrivals
    if old is None:
        state.arrivals += 1
        if event.tenant:
            take_in(state, event.tenant, event.at)
    request = Request(
        event.request, event.model, event.holder, event.tenant, event.priority, event.arrival, event.deadline,
        serial, RequestStatus.QUEUED, "", event.wait, event.passes, event.prefix,
    )  # fmt: skip
    put_request(state, request)
    if old is None or old.status is not RequestStatus.QUEUED:
        insort(state.queues.setdefault(event.model, []), queue_key(state, request))
        state.set_timer(event.deadline, "deadline", event.request)
    if event.wait.until < FOREVER:
        state.set_timer(event.wait.until, "wake", event.request)


@applies(ev.RequestWoken)
def _request_woken(state: State, event: ev.RequestWoken) -> None:
    request = state.requests[event.request]
    state.requests[event.request] = replace(request, wait=_WOKEN)


@applies(ev.RequestCancelled)
def _request_cancelled(state: State, event: ev.RequestCancelled) -> None:
    _forget_request(state, event.request)


@applies(ev.RequestRefused)
def _request_refused(state: State, event: ev.RequestRefused) -> None:
    _forget_request(state, event.request)


def _forget_request(state: State, request_id: str) -> None:
    request = state.requests.get(request_id)
    if request is not None:
        if request.status is RequestStatus.QUEUED:
            leave_queue(state, request)
        end_request(state, request)
