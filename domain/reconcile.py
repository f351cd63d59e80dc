"""Reconcile: review one model, and do the first thing that it needs.

In order: locks for those who wait while a warm replica has room; replicas that must leave and are idle; the first
waiting request, tried again; a new revision; the floor; a copy too many. One thing per decision; the engine reviews
again until there is nothing left.
"""

from __future__ import annotations

from . import causes, loads, requests, routing
from . import events as ev
from .commands import ChangeKind, Review
from .entities import Lack, Model, Parked, Replica, Wait, WaitKind
from .fairness import fairly_placed
from .leaving import leaving_now, why_leaving
from .parking import CURES, park
from .refusals import RefusalCode
from .roll_outs import roll_out
from .routing import BEGINS_LOAD, Hold, Plan, Refuse
from .shrinking import below_floor, surplus
from .state import State
from .units import FOREVER


def review(state: State, command: Review, now: int) -> tuple[list[ev.Event], tuple[str, ...]]:
    """The events of the first model that needs something, and the models that are still to be reviewed.

    Locks on warm replicas come first, whoever is reviewed first: a warm model never waits behind a cold one. Who is
    first for room is asked anew: more may have left a queue in the decision that the review follows.
    """
    for name in command.models:
        model = state.models.get(name) if name in state.queues else None
        if model is not None:
            granted = _grant(state, model, command.cause, now)
            if granted:
                return granted, command.models
    models = fairly_placed(state, command.models)
    for place, name in enumerate(models):
        events = review_model(state, name, command, now)
        if events:
            return events, tuple(models[place:])
    return [], ()


def review_model(state: State, name: str, command: Review, now: int) -> list[ev.Event]:
    """The first thing that this model needs now; no events when it needs none."""
    model = state.models.get(name)
    reconciling = "reconciler" not in state.frozen
    if reconciling:
        leaving = leaving_now(state, name)
        if leaving is not None:
            reason = why_leaving(state, leaving)
            return [loads.unload(state, leaving, reason, now)]
    if model is None:
        return []
    waiting = state.waiting(name)
    if waiting:
        first, taken_over = state.requests[waiting[0][2]], command.change is ChangeKind.EPOCH
        events = requests.advance(state, model, first, now, command.cause, taken_over=taken_over)
        if events:
            return events
    if not reconciling:
        return []
    return roll_out(state, model, now) or keep_floor(state, model, command, now) or shrink(state, model, now)


def shrink(state: State, model: Model, now: int) -> list[ev.Event]:
    """Remove the copy that is one too many, if there is one."""
    found = surplus(state, model, now)
    return [loads.unload(state, found[0], found[1], now)] if found is not None else []


def idle_reached(state: State, replica: Replica, now: int) -> list[ev.Event]:
    """A replica has been idle for its time: the model's surplus copy goes, or this one is kept and said to be."""
    model = state.models.get(replica.model)
    removed = shrink(state, model, now) if model is not None else []
    kept = ev.ReplicaFoundIdle(at=now, replica=replica.id, model=replica.model, node=replica.node)
    return removed or [kept]


def _grant(state: State, model: Model, cause: str, now: int) -> list[ev.Event]:
    picked = routing.pick_warm(state, model)
    if picked is None:
        return []
    replica = state.replicas[picked]
    parallel = model.scheduling.parallel
    # One replica's worth at most, so that the next review spreads the rest over the others.
    room = 1 if parallel else len(state.waiting(model.name))
    return loads.grants(state, model, replica, room, now, cause)


# --- floors ---------------------------------------------------------------------------------------------------------


def keep_floor(state: State, model: Model, command: Review, now: int) -> list[ev.Event]:
    """Below the floor: begin one load, or park the wish with what it lacks."""
    below = below_floor(state, model)
    if model.parked is not None:
        return _unpark(state, model, command, now, below=below)
    if not below:
        return []
    plan = floor_plan(state, model, now)
    if isinstance(plan, BEGINS_LOAD):
        return loads.begin(state, model, plan, now, causes.of_floor(model.name))
    return [park(model, _lacking_for_floor(state, model, plan, now), now, plan.explanation)]


def floor_plan(state: State, model: Model, now: int) -> Plan:
    """How the floor could be kept: like a first copy, but evicting only what has lower priority."""
    if model.load_info_known and not state.candidates(model).nodes:
        return routing.no_node_matches(state, model)
    return routing.first_copy(state, model, now, strictly=True)


def _unpark(state: State, model: Model, command: Review, now: int, *, below: bool) -> list[ev.Event]:
    parked = model.parked
    assert parked is not None
    if not below and model.declared != model.serving:
        return []  # it is the roll-out that is parked
    if not below and command.change is ChangeKind.EPOCH:
        return []  # a load may be on its way to keep it: that it has loaded says so, and not a new writer
    if not below and command.change is not ChangeKind.UNPARK:
        return [ev.ModelUnparked(at=now, model=model.name, cause="its floor is kept")]
    # A copy that has loaded since, a higher load_attempts, or room where no load has failed says as much as an edit.
    may_try = parked.lacks is Lack.EDIT and not routing.is_spent(state, model)
    # The instant of a pause is over with the pause, when a copy has loaded or served since.
    may_try |= parked.lacks is Lack.TIME and parked.reason is RefusalCode.LOAD_FAILED and model.retry_at <= now
    # What waits for the instant at which it may evict is helped by room that comes free before.
    lacks = Lack.CAPACITY if parked.reason is RefusalCode.CAPACITY_EXHAUSTED else parked.lacks
    cured = command.change in CURES.get(lacks, ()) or command.change is ChangeKind.UNPARK
    # Any change may bring what only a newer program knows; if it brings nothing, the wish is parked in words of ours.
    if lacks in CURES and not cured and not may_try:
        return []
    plan = floor_plan(state, model, now)
    if not isinstance(plan, BEGINS_LOAD):
        # What it lacks may be another thing by now: without this, a load that failed would wait for room for ever.
        lacking = _lacking_for_floor(state, model, plan, now, cured=cured)
        renamed = command.change is ChangeKind.EPOCH and lacks in CURES  # by a new writer: that is no change
        if renamed or (lacking.lacks, lacking.until) == (parked.lacks, parked.until):
            return []  # and nobody has to be told why
        return [park(model, lacking, now, plan.explanation)]
    unparked = ev.ModelUnparked(at=now, model=model.name, cause=command.cause)
    return [unparked, *loads.begin(state, model, plan, now, causes.of_floor(model.name, command.cause))]


def _lacking_for_floor(state: State, model: Model, plan: Plan, now: int, *, cured: bool = False) -> Parked:
    """Why the wish cannot be met, and the very thing that it lacks.

    ``cured``: what it lacked has just come. A model whose tries are spent then lacks no more than the end of its pause.
    """
    reason, lacks, until = RefusalCode.CAPACITY_EXHAUSTED, Lack.CAPACITY, FOREVER
    if isinstance(plan, Refuse):
        reason = plan.code
        lacks = _LACKS_OF_REFUSALS.get(reason, Lack.NODE)
        paused = lacks is Lack.EDIT and model.retry_at > now
        if paused and (cured or not routing.is_spent(state, model)):
            lacks, until = Lack.TIME, model.retry_at
    elif isinstance(plan, Hold):
        wait: Wait = plan.wait
        until = wait.until
        reason = _REASONS_OF_WAITS.get(wait.kind, reason)
        lacks = Lack.TIME if until < FOREVER else lacks
    return Parked(reason, lacks, until)


_LACKS_OF_REFUSALS = {
    RefusalCode.LOAD_INFO_MISSING: Lack.LOAD_INFO,
    RefusalCode.LOAD_FAILED: Lack.EDIT,
}
"""What a floor lacks that is refused; for any other refusal, a node."""
_REASONS_OF_WAITS = {
    WaitKind.BACKOFF: RefusalCode.LOAD_FAILED,
    WaitKind.FROZEN: RefusalCode.FROZEN,
}
"""Why a floor is parked for a wait; for any other, room is all that it lacks."""
