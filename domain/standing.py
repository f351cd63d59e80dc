"""How a request stands now: the answer to a command that is sent again.

What it was told at first may be out of date: a lock that has ended since must not be used again.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import events as ev
from .commands import AnyReply, Locked, Rejected, Waiting
from .entities import RequestStatus
from .ledger import reply_of
from .state import State


def standing(state: State, request_id: str) -> Locked | Waiting | None:
    """The request's lock or wait; None when it has ended, or its replica was lost under it."""
    request = state.requests.get(request_id)
    if request is None or request.status is RequestStatus.ADRIFT:
        return None
    if request.status is RequestStatus.QUEUED:
        wait = request.wait
        return Waiting(request=request_id, kind=wait.kind if wait else "", on=wait.on if wait else "")
    replica = state.replicas[request.replica]
    return Locked(
        request=request_id, replica=replica.id, node=replica.node, model=replica.model, address=replica.address
    )


def last_word(history: Iterable[ev.Event], state: State) -> AnyReply | None:
    """The last that one request's events, in their order, answer to it; None when they answer nothing.

    A lock whose replica was lost under it is still given: its holder finds nobody there, reports it, and is routed.
    """
    word: AnyReply | None = None
    for event in history:
        if isinstance(event, ev.ReplicaReleased):
            ended = f"Its lock has ended: {event.outcome}."
            word = Rejected(code="cancelled", message=ended, cure="Send the request again, under another id.")
        else:
            word = reply_of(event, state) or word
    return word
