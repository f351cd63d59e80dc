"""Timers: instants at which something must be looked at, and which of them still mean anything.

The heap may hold timers whose owner has moved on; :func:`prune` keeps its front live, so that every tick has something
to do and decides something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop
from typing import TypeVar

from .entities import NodeStatus, Phase, Replica, RequestStatus
from .errors import InvariantBroken
from .shrinking import idle_since, idle_unload_of
from .state import State
from .units import FOREVER

_Rule = TypeVar("_Rule")


def prune(state: State) -> None:
    """Drop timers from the front whose owner no longer means them."""
    timers = state.timers
    while timers:
        instant, kind, owner = timers[0]
        if rule_of(LIVE, kind, owner)(state, instant, owner):
            return
        heappop(timers)
        if kind == "idle":
            _renew_idle(state, owner, instant)


def rule_of(table: Mapping[str, _Rule], kind: str, owner: str) -> _Rule:
    """What a table of kinds says of one; raises InvariantBroken for a kind that there is not."""
    rule = table.get(kind)
    if rule is None:
        raise InvariantBroken(f"A timer of {owner!r} is of the kind {kind!r}, and there is none.")
    return rule


def _silent_is_live(state: State, instant: int, owner: str) -> bool:
    replica = state.replicas.get(owner)
    return replica is not None and replica.silent_at == instant


def _unpark_is_live(state: State, instant: int, owner: str) -> bool:
    model = state.models.get(owner)
    return model is not None and model.parked is not None and model.parked.until == instant


def _offline_is_live(state: State, instant: int, owner: str) -> bool:
    node = state.nodes.get(owner)
    return node is not None and node.status is NodeStatus.UNREACHABLE and node.offline_at == instant


def _mass_loss_is_live(state: State, instant: int, owner: str) -> bool:
    return state.mass_loss_until == instant


def _drain_is_live(state: State, instant: int, owner: str) -> bool:
    node = state.nodes.get(owner)
    return node is not None and node.drained and node.drain_by == instant


def _deadline_is_live(state: State, instant: int, owner: str) -> bool:
    request = state.requests.get(owner)
    return request is not None and request.status is RequestStatus.QUEUED and request.deadline == instant


def _wake_is_live(state: State, instant: int, owner: str) -> bool:
    request = state.requests.get(owner)
    if request is None or request.status is not RequestStatus.QUEUED or request.wait is None:
        return False
    return request.wait.until == instant


# --- idle replicas --------------------------------------------------------------------------------------------------


def arm_idle(state: State, replica: Replica) -> None:
    """See to it that an idle replica is looked at once when it may be surplus; at most one timer for each."""
    if replica.phase is not Phase.LOADED or replica.id in state.locks:
        return
    instant = _next_look(state, replica)
    if instant >= FOREVER or state.idle_timers.get(replica.id, FOREVER) <= instant:
        return
    state.idle_timers[replica.id] = instant
    state.set_timer(instant, "idle", replica.id)


def arm_idle_of(state: State, model: str) -> None:
    """The same for every replica of a model whose number of copies has changed: it matters where one may be alone."""
    if len(state.by_model.get(model, ())) > 2:
        return
    for replica_id in state.by_model.get(model, ()):
        arm_idle(state, state.replicas[replica_id])


def idle_delays(state: State, replica: Replica) -> tuple[int, ...]:
    """How long a replica must be idle before it may be surplus: a lone copy only goes by ``idle_unload``."""
    model = state.models.get(replica.model)
    ttl = idle_unload_of(state, model) if model is not None else FOREVER
    alone = len(state.by_model.get(replica.model, ())) <= 1
    return (ttl,) if alone else (ttl, state.settings.scale_down_delay)


def _next_look(state: State, replica: Replica) -> int:
    """The first instant after it was last found idle and kept at which it may be surplus; FOREVER when never."""
    since, seen = idle_since(replica), replica.idle_seen_at
    first = FOREVER
    for delay in idle_delays(state, replica):
        if delay < FOREVER and seen < since + delay < first:
            first = since + delay
    return first


def _idle_is_live(state: State, instant: int, owner: str) -> bool:
    replica = state.replicas.get(owner)
    if replica is None or replica.phase is not Phase.LOADED or owner in state.locks:
        return False
    return _next_look(state, replica) == instant == state.idle_timers.get(owner)


def _renew_idle(state: State, owner: str, instant: int) -> None:
    """The timer is gone; a replica that was used meanwhile, or has longer now, gets a later one."""
    if state.idle_timers.get(owner) == instant:
        del state.idle_timers[owner]
        replica = state.replicas.get(owner)
        if replica is not None:
            arm_idle(state, replica)


LIVE: dict[str, Callable[[State, int, str], bool]] = {
    "silent": _silent_is_live,
    "offline": _offline_is_live,
    "mass-loss": _mass_loss_is_live,
    "drain": _drain_is_live,
    "idle": _idle_is_live,
    "unpark": _unpark_is_live,
    "deadline": _deadline_is_live,
    "wake": _wake_is_live,
}
"""Every kind of timer, and how it is told whether its owner still means it; what is done then: ``decide.DUE``."""
