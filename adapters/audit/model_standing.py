"""How a model stands: where it serves, what loads, whether its floor is kept, and who waits.

The last event of a healthy model is often old and says little; this is what somebody who asks about it wants to know.
"""

from __future__ import annotations

from interlock.domain.entities import LOADING_PHASES, Model, Replica
from interlock.domain.shrinking import copies, floor_of
from interlock.domain.state import State
from interlock.domain.units import FOREVER, tell_duration

from .sentences import waits_for

NAMED = 4
"""So many replicas are named; of more, the number is told."""


def how_it_stands(state: State, name: str, now: int) -> str:
    """A few plain sentences; empty for a model that is parked or gone, of which its last events tell more."""
    model = state.models.get(name)
    if model is None or model.parked is not None:
        return ""
    mine = [state.replicas[replica] for replica in state.by_model.get(name, ())]
    serving = [replica for replica in mine if state.takes_locks(replica)]
    loading = [replica for replica in mine if replica.phase in LOADING_PHASES]
    told = [_where(state, model, serving, loading), _floor(state, model), _failed(model, now), _queue(state, name)]
    return " ".join(sentence for sentence in told if sentence)


def _where(state: State, model: Model, serving: list[Replica], loading: list[Replica]) -> str:
    coming = _named([f"{replica.id} on {replica.node} ({replica.phase.value})" for replica in loading])
    if not serving:
        return f"{model.name} serves nowhere yet; on its way: {coming}." if loading else f"{model.name} has no copy."
    there = _named([f"{one.id} on {one.node} ({_in_flight(state.lock_count(one.id))})" for one in serving])
    return f"{model.name} serves from {there}{f'; on its way: {coming}' if loading else ''}."


def _in_flight(count: int) -> str:
    return f"{count} in flight" if count else "idle"


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _floor(state: State, model: Model) -> str:
    floor = floor_of(state, model)
    there = copies(state, model)
    if floor:
        return f"Its floor of {floor} is kept." if there >= floor else f"It has {there} of the {floor} of its floor."
    return "" if there or state.waiting(model.name) else "No floor asks for one; the first request loads it."


def _failed(model: Model, now: int) -> str:
    if not model.failures:
        return ""
    pause = model.retry_at - now if now < model.retry_at < FOREVER else 0
    return (
        f"Its last load failed: {model.failure}{f'; the next try is due in {tell_duration(pause)}' if pause else ''}."
    )


def _queue(state: State, name: str) -> str:
    queue = state.waiting(name)
    wait = state.requests[queue[0][2]].wait if queue else None
    if wait is None:
        return ""
    return f"{len(queue)} wait{'s' if len(queue) == 1 else ''} {waits_for(wait)}."
