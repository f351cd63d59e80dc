"""How a request stands now: the answer to a command that is sent again.

What it was told at first may be out of date: a lock that has ended since must not be used again.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import events as ev
from .commands import AnyReply, Command, Locked, Rejected, Waiting
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


def asked_again(state: State, command: Command, told: AnyReply) -> AnyReply:
    """What a command hears that was decided before, and told ``told`` then: how its request stands now.

    An id may have been used again: a lock or a wait of another holder's request is nothing to this one. Of a request
    that is not in the cluster any more only the log knows the end, and ``told`` is returned as it was.
    """
    request = state.requests.get(told.request) if isinstance(told, Locked | Waiting) else None
    if request is None:
        return told
    holder = getattr(command, "holder", "")
    if holder and holder != request.holder:
        return _ended("a request of another gateway has its id now")
    return standing(state, request.id) or told


def last_word(history: Iterable[ev.Event], state: State, holder: str = "") -> AnyReply | None:
    """The last that one request's events, in their order, answer to it; None when they answer nothing.

    With ``holder`` only those of that holder's request count, where an id was used again. A lock whose replica was lost
    under it is still given: its holder finds nobody there, reports it, and is routed.
    """
    word: AnyReply | None = None
    its = True
    for event in history:
        if isinstance(event, ev.RequestQueued | ev.ReplicaLocked):
            its = holder in ("", event.holder)
        if its:
            word = _ended(event.outcome) if isinstance(event, ev.ReplicaReleased) else reply_of(event, state) or word
    return word


def _ended(how: str) -> Rejected:
    cure = "Send the request again, under another id."
    return Rejected(code="cancelled", message=f"Its lock has ended: {how}.", cure=cure)
