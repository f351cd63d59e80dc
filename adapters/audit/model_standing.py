"""How a model stands: where it serves, what else there is of it, whether its floor is kept, and who waits.

The last event of a healthy model is often old and says little; this is what somebody who asks about it wants to know.
"""

from __future__ import annotations

import msgspec

from interlock.domain.entities import Model, NodeStatus, Phase, Replica
from interlock.domain.explanation import Explanation
from interlock.domain.own_rules import INSTALL, not_installed
from interlock.domain.routing import BEGINS_LOAD, Hold, Refuse, route, tries_in_words
from interlock.domain.scoring import profile_of
from interlock.domain.shrinking import copies, floor_of, serving_copies
from interlock.domain.state import State
from interlock.domain.units import FOREVER
from interlock.domain.unmet import unmet_wish

from .sentences import clock, tell_parked, tell_wait

NAMED = 4
"""So many replicas of a kind are named; of more, the number is told."""


class Standing(msgspec.Struct, frozen=True):
    """How a model stands, in a few plain sentences; of a wish that is parked, why it still is."""

    sentence: str
    parked: Explanation | None = None


def standing_of(state: State, name: str, now: int) -> Standing | None:
    """How the model stands; None for one that is gone, of which its last events tell more."""
    model = state.models.get(name)
    if model is None:
        return None
    why = _why_parked(state, model, now)
    told = how_it_stands(state, name, now)
    if model.parked is None:
        return Standing(told)
    if rules := _missing_rules(state, model):
        told = f"{told} What is in its way cannot be told here: {rules}"
    return Standing(f"{tell_parked(name, model.parked, why)} {told}", why)


def _missing_rules(state: State, model: Model) -> str:
    """Why this program cannot judge nodes for the model; empty when it can."""
    profile = profile_of(state, model)
    lacking = " and ".join(not_installed(profile))
    return f"its placement profile {profile.name} asks {lacking}, not installed here. {INSTALL}" if lacking else ""


def _why_parked(state: State, model: Model, now: int) -> Explanation | None:
    """Why the wish could not be met now, and not when it was parked; None where that is not so, or cannot be told."""
    if model.parked is None or _missing_rules(state, model):
        return None
    wish = unmet_wish(state, model, model.parked, now)
    return None if isinstance(wish.plan, BEGINS_LOAD) else wish.explanation


def how_it_stands(state: State, name: str, now: int) -> str:
    """Where it serves, and what else there is of it, in a few plain sentences; empty for a model that is gone."""
    model = state.models.get(name)
    if model is None:
        return ""
    mine = [state.replicas[replica] for replica in state.by_model.get(name, ())]
    told = [
        _serves(state, model, mine),
        _others(state, mine),
        _floor(state, model),
        _failed(state, model, now),
        _queue(state, name) or ("" if mine or model.parked is not None else _if_asked(state, model, now)),
    ]
    return " ".join(sentence for sentence in told if sentence)


def _serves(state: State, model: Model, mine: list[Replica]) -> str:
    there = [f"{one.id} on {one.node} ({_in_flight(state, one) or 'idle'})" for one in mine if state.takes_locks(one)]
    if there:
        return f"{model.name} serves from {_named(there)}."
    return f"{model.name} serves from no copy now." if mine else f"{model.name} has no copy."


def _others(state: State, mine: list[Replica]) -> str:
    there = [f"{one.id} on {one.node} ({_how(state, one)})" for one in mine if not state.takes_locks(one)]
    return f"Not serving: {_named(there)}." if there else ""


def _how(state: State, replica: Replica) -> str:
    """The replica's phase; of one that is loaded and takes no locks, what may be why."""
    node = state.nodes[replica.node]
    model = state.models[replica.model]
    parts: list[str] = [replica.phase]
    if node.status is not NodeStatus.HEALTHY:
        parts.append(f"the node is {node.status}")
    if node.drained and node.status is not NodeStatus.DRAINING:
        parts.append("the node is being drained")
    if replica.phase is Phase.LOADED and replica.node not in state.candidates(model).nodes:
        parts.append("its selector does not match the node")
    if replica.revision != model.serving:
        parts.append(f"revision {replica.revision}, where {model.serving} serves")
    parts.append(_in_flight(state, replica))
    return ", ".join(part for part in parts if part)


def _in_flight(state: State, replica: Replica) -> str:
    count = state.lock_count(replica.id)
    return f"{count} in flight" if count else ""


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _floor(state: State, model: Model) -> str:
    floor = floor_of(state, model)
    if not floor:
        return "It is to run on every candidate, and none takes work." if model.scheduling.everywhere else ""
    if serving_copies(state, model) >= floor:
        return f"Its floor of {floor} is kept."
    there = copies(state, model)
    if there >= floor:
        return f"Its floor of {floor} counts on what loads or is out of sight."
    return f"It has {there} of the {floor} copies of its floor."


def _failed(state: State, model: Model, now: int) -> str:
    if not model.tries_failed or (model.name in state.warm and not model.failures and model.parked is None):
        return ""  # copies that died early are over when one has lasted, and nothing is wanted beside it
    wanted = model.name in state.queues or copies(state, model) < floor_of(state, model)
    again = f"; the next try is due at {clock(model.retry_at)}" if wanted and now < model.retry_at < FOREVER else ""
    tries = tries_in_words(model) if model.early_deaths > 1 else "Its last load failed"
    return f"{tries}: {model.failure.rstrip('.')}{again}."


def _queue(state: State, name: str) -> str:
    queue = state.waiting(name)
    wait = state.requests[queue[0][2]].wait if queue else None
    if wait is None:
        return ""
    return f"{len(queue)} wait{'s' if len(queue) == 1 else ''} {tell_wait(wait)}."


def _if_asked(state: State, model: Model, now: int) -> str:
    """What would become of a request, where nobody asks and there is no copy."""
    if rules := _missing_rules(state, model):
        return f"What a request would get cannot be told here: {rules}"
    plan = route(state, model, now)
    if isinstance(plan, Refuse):
        cure = plan.explanation.cure
        return f"A request would be refused: {plan.message}{f' What would help: {cure}' if cure else ''}"
    if isinstance(plan, Hold):
        return f"A request would wait {tell_wait(plan.wait)}."
    return "The first request loads it." if isinstance(plan, BEGINS_LOAD) else ""
