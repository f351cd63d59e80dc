"""Requests: acquire, release, cancel, re-route; and the ends that time and lost holders bring."""

from __future__ import annotations

import msgspec

from . import affinity, causes, churn, loads, routing, tenants
from . import events as ev
from .commands import AcquireLock, CancelRequest, LoseHolder, ReleaseLock, ReportBackendGone
from .entities import ANSWERED, Model, NodeStatus, Phase, Replica, Request, RequestStatus, Wait, WaitKind
from .errors import Conflict, InvalidField
from .explanation import Explanation
from .fairness import fair_order
from .leaving import why_leaving
from .prefixes import DEPTHS
from .refusals import RefusalCode
from .routing import BEGINS_LOAD, KEEPS_WAITING, Evict, Hold, Join, Lock, Place, Plan, Refuse
from .settings import HIGHEST_PRIORITY
from .shrinking import floor_of
from .state import State
from .survey import survey_warm
from .units import FOREVER, MINUTE, SECOND
from .variant import passes_left

LONGEST_NAME = 200
UNTIMED_RETRY, LONGEST_RETRY = 5 * SECOND, 5 * MINUTE
"""What a refused client is told when nothing that could help it has an instant, and the most that it is told."""
_BUSY = Wait(WaitKind.BUSY)


class Asking(msgspec.Struct, frozen=True, gc=False):
    """A request on its way through routing: known to the state already, or arriving now."""

    id: str
    model: str
    holder: str
    tenant: str
    priority: int
    arrival: int
    deadline: int
    passes: int
    prefix: tuple[int, ...] = ()


def asking(request: Request) -> Asking:
    """The asking form of a request that the state knows."""
    return Asking(
        request.id, request.model, request.holder, request.tenant, request.priority, request.arrival,
        request.deadline, request.passes, request.prefix,
    )  # fmt: skip


# --- arriving -------------------------------------------------------------------------------------------------------


def acquire(state: State, command: AcquireLock, now: int) -> list[ev.Event]:
    """One atomic decision for a request that arrives: a lock, a wait (with or without a load begun), or a refusal."""
    for field, value in (("request", command.request), ("model", command.model), ("holder", command.holder)):
        if not 0 < len(value) <= LONGEST_NAME:
            raise InvalidField(field, "is empty or too long", cure=f"Give 1 to {LONGEST_NAME} characters.")
    if command.request in state.requests:
        raise Conflict(f"request {command.request} is in the cluster already.", cure="Give each request its own id.")
    if len(command.prefix) > len(DEPTHS):
        raise InvalidField("prefix", f"has {len(command.prefix)} marks", cure=f"Give {len(DEPTHS)} at most.")
    priority = command.priority
    deadline = command.deadline or now + max(0, command.patience or state.settings.request_deadline)
    if priority and not -HIGHEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        cure = f"Give one from -{HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}."
        raise InvalidField("priority", f"{priority} is out of bounds", cure=cure)
    refused: Refuse | None = None
    if command.tenant:
        if len(command.tenant) > LONGEST_NAME:
            raise InvalidField("tenant", "is too long", cure=f"Give up to {LONGEST_NAME} characters.")
        limits = tenants.limits_of(state, command.tenant)
        priority, refused = min(priority, limits.priority), tenants.over_limit(state, command.tenant, limits, now)
    model = state.find_model(command.model)
    prefix = command.prefix
    if prefix and (model is None or not affinity.worth(state, model)):
        prefix = ()
    name = model.name if model else command.model
    request = Asking(command.request, name, command.holder, command.tenant, priority, now, deadline, 0, prefix)
    if model is None:
        return [_refused(request, routing.no_such_model(command.model), now)]
    if refused is not None:
        return [_refused(request, refused, now)]
    return settle(state, model, request, _plan(state, model, request, now), now)


def _plan(state: State, model: Model, request: Asking, now: int) -> Plan:
    """Route, but behind those of the same model that wait already: first in, first out."""
    plan = _route(state, model, request, now)
    if isinstance(plan, Lock):
        if model.name not in state.queues:
            return plan
        why = plan.explanation
        return Hold(_BUSY, explain=lambda: why)
    if isinstance(plan, Refuse):
        return plan
    if request.deadline <= now:
        return deadline_passed(state, model, plan_wait(plan), plan, now)
    if queue_length(state) >= state.settings.queue_limit:
        return _queue_full(plan, "", state.settings.queue_limit, "queue_limit")
    if len(state.waiting(model.name)) >= state.settings.model_queue_limit:
        return _queue_full(plan, f" for {model.name}", state.settings.model_queue_limit, "model_queue_limit")
    return plan


def _route(state: State, model: Model, request: Asking | Request, now: int, former: Wait | None = None) -> Plan:
    """Route; but who has not the time for room on its way, or has waited for other such room, waits for no more of it.

    ``former`` is what the request has waited for so far. So its wait is bounded, whoever else begins to leave.
    """
    plan = routing.route(state, model, now, request.prefix)
    if not isinstance(plan, Hold) or plan.wait.kind is not WaitKind.LEAVING:
        return plan
    has_waited = former is not None and former.kind is WaitKind.LEAVING and former.on != plan.wait.on
    if has_waited or request.deadline <= plan.wait.until:
        return routing.first_copy(state, model, now, waits=False)
    return plan


def _queue_full(plan: Plan, where: str, limit: int, setting: str) -> Refuse:
    why = msgspec.structs.replace(plan.explanation, cure=f"Fewer requests at once, or a higher {setting}.")
    message = f"{limit} requests wait{where} already."
    return Refuse(RefusalCode.QUEUE_FULL, message, UNTIMED_RETRY, explain=lambda: why)


def plan_wait(plan: Join | Place | Evict | Hold) -> Wait:
    """What a request with this plan would wait for."""
    if isinstance(plan, Hold):
        return plan.wait
    return Wait(WaitKind.LOAD, plan.replica if isinstance(plan, Join) else "")


def queue_length(state: State) -> int:
    """Requests that wait, in the whole cluster."""
    return sum(map(len, state.queues.values()))


def settle(state: State, model: Model, request: Asking, plan: Plan, now: int, cause: str = "") -> list[ev.Event]:
    """The events of a plan for one request. Beginning a load is an own step of the request, and uses up one pass."""
    if isinstance(plan, Lock):
        return [loads.lock(model, state.replicas[plan.replica], request, plan.explanation, now, cause)]
    if isinstance(plan, Refuse):
        return [_refused(request, plan, now)]
    if isinstance(plan, Join):
        return [_queued(request, Wait(WaitKind.LOAD, plan.replica), plan.explanation, now)]
    if isinstance(plan, Hold):
        return [_queued(request, plan.wait, plan.explanation, now)]
    if passes_left(state.settings.load_attempts, request.passes) == 0:
        return [_refused(request, budget_spent(model, request, plan, now), now)]
    begun = loads.begin(state, model, plan, now, causes.of_request(request.id))
    replica = next(event.replica for event in begun if isinstance(event, ev.ReplicaReserved))
    stepped = msgspec.structs.replace(request, passes=request.passes + 1)
    return [*begun, _queued(stepped, Wait(WaitKind.LOAD, replica), None, now)]


def budget_spent(model: Model, request: Asking, plan: Plan, now: int) -> Refuse:
    """The request has used up its own steps: the bound that makes every request end."""
    cure = "Look at what failed before: `interlock audit why` on this request; `load_attempts` sets the bound."
    message = f"Request {request.id} has used up its {request.passes} own steps (from load_attempts)."
    why = msgspec.structs.replace(plan.explanation, cure=cure)
    return Refuse(RefusalCode.CAPACITY_EXHAUSTED, message, retry_after(model, plan, now), explain=lambda: why)


def _queued(request: Asking, wait: Wait, explanation: Explanation | None, now: int) -> ev.RequestQueued:
    return ev.RequestQueued(
        at=now, model=request.model, request=request.id, wait=wait, holder=request.holder, arrival=request.arrival,
        deadline=request.deadline, tenant=request.tenant, priority=request.priority, passes=request.passes,
        prefix=request.prefix, explanation=explanation,
    )  # fmt: skip


def _refused(request: Asking, plan: Refuse, now: int) -> ev.RequestRefused:
    return ev.RequestRefused(
        at=now, model=request.model, request=request.id, code=plan.code.value, message=plan.message,
        retry_after=plan.retry_after, tenant=request.tenant, whole_tenant=plan.whole_tenant,
        explanation=plan.explanation,
    )  # fmt: skip


# --- leaving --------------------------------------------------------------------------------------------------------


def release(state: State, command: ReleaseLock, now: int) -> list[ev.Event]:
    """The request is over: its lock goes to the next in line; a replica that must leave and is idle now, leaves.

    Releasing what is not held (any more) changes nothing, so that a release may be sent again.
    """
    request = state.requests.get(command.request)
    if request is None:
        return []
    how = f"{command.outcome} ({command.detail})" if command.detail else command.outcome
    if request.status is RequestStatus.QUEUED:
        return [_cancelled(request, how, now)]
    if request.status is RequestStatus.ADRIFT:
        return [_cancelled(request, f"{how}, after its replica was lost", now)]
    return let_go(state, request, command.outcome, command.detail, now)


def let_go(state: State, request: Request, outcome: str, detail: str, now: int) -> list[ev.Event]:
    """Release a lock, and hand it on."""
    replica = state.replicas[request.replica]
    events: list[ev.Event] = [
        ev.ReplicaReleased(
            at=now, replica=replica.id, model=replica.model, node=replica.node, request=request.id, outcome=outcome,
            detail=detail,
        )
    ]  # fmt: skip
    model = state.models.get(replica.model)
    if model is not None and model.early_deaths and outcome in ANSWERED and replica.revision == model.declared:
        events += _proved(model, replica, now)
    locks = state.lock_count(replica.id) - 1
    if model is not None and state.takes_locks(replica):
        room = model.scheduling.parallel - locks if model.scheduling.parallel else len(state.waiting(model.name))
        if room > 0 and state.waiting(model.name):
            events += loads.grants(state, model, replica, room, now, f"request {request.id} released it")
    elif locks == 0 and replica.phase is Phase.LOADED and "reconciler" not in state.frozen:
        reason = why_leaving(state, replica)
        if reason:
            events.append(loads.unload(state, replica, reason, now))
    return events


def _proved(model: Model, replica: Replica, now: int) -> list[ev.Event]:
    """The first call that a copy has answered makes up for those that died before they had answered any.

    One that was there before they died does not: it may be the others' nodes where they die.
    """
    if not replica.trial_until:
        return []
    return [
        ev.ReplicaProved(at=now, replica=replica.id, model=replica.model, node=replica.node, deaths=model.early_deaths)
    ]


def cancel(state: State, command: CancelRequest, now: int) -> list[ev.Event]:
    """The client left; a load that was begun for it goes on."""
    request = state.requests.get(command.request)
    if request is None:
        return []
    if request.status is RequestStatus.LOCKED:
        return let_go(state, request, "cancelled", command.reason, now)
    return [_cancelled(request, command.reason, now)]


def _cancelled(request: Request, reason: str, now: int) -> ev.RequestCancelled:
    return ev.RequestCancelled(at=now, model=request.model, request=request.id, reason=reason)


def lose_holder(state: State, command: LoseHolder, now: int) -> list[ev.Event]:
    """A gateway fell silent: one event says so, then each of its requests ends; the next in line follow by review.

    Locks go first, so that the room that they leave is offered in fair order to all, and not to whoever moves up by an
    end of the waiting ones.
    """
    held = [state.requests[request] for request in state.by_holder.get(command.holder, ())]
    held.sort(key=lambda request: request.status is not RequestStatus.LOCKED)
    if not held:
        return []
    events: list[ev.Event] = [ev.HolderLost(at=now, holder=command.holder, requests=len(held))]
    for request in held:
        if request.status is RequestStatus.LOCKED:
            replica = state.replicas[request.replica]
            events.append(
                ev.ReplicaReleased(
                    at=now, replica=replica.id, model=replica.model, node=replica.node, request=request.id,
                    outcome="holder lost", detail=command.holder,
                )
            )  # fmt: skip
        else:
            events.append(_cancelled(request, f"holder {command.holder} was lost", now))
    return [*events, *_left_idle(state, held, now)]


def _left_idle(state: State, released: list[Request], now: int) -> list[ev.Event]:
    """The unloads of replicas that must leave, and of which these requests held all the locks."""
    if "reconciler" in state.frozen:
        return []
    counts: dict[str, int] = {}
    for request in released:
        if request.status is RequestStatus.LOCKED:
            counts[request.replica] = counts.get(request.replica, 0) + 1
    idle = [state.replicas[replica] for replica, count in counts.items() if count == state.lock_count(replica)]
    return [loads.unload(state, replica, reason, now) for replica in idle if (reason := why_leaving(state, replica))]


# --- re-routing -----------------------------------------------------------------------------------------------------


def backend_gone(state: State, command: ReportBackendGone, now: int) -> list[ev.Event]:
    """The replica did not answer before its first byte: it is lost, and the request routes again within its budget.

    On a node that is silent it may run on, and its call says no more than that silence: the replica is kept.
    """
    request = state.requests.get(command.request)
    if request is None:
        return []
    replica = state.replicas.get(command.replica)
    if replica is not None and not command.answered and _says_no_more_than_silence(state, replica):
        if request.replica == replica.id:
            return [_unanswered(request, replica, command.detail, now)]
    elif replica is not None and replica.phase is Phase.LOADED:
        detail = f"its backend is gone: {command.detail}"
        return loads.lose(state, replica, detail, now, gone=False, died=True)
    if request.status is RequestStatus.ADRIFT:
        return reroute(state, request, command.detail, now)
    return []


def _unanswered(request: Request, replica: Replica, detail: str, now: int) -> ev.CallWentUnanswered:
    return ev.CallWentUnanswered(
        at=now, replica=replica.id, model=replica.model, node=replica.node, request=request.id, detail=detail
    )


def _says_no_more_than_silence(state: State, replica: Replica) -> bool:
    return replica.phase is Phase.LOADED and state.nodes[replica.node].status is NodeStatus.UNREACHABLE


def reroute(state: State, request: Request, detail: str, now: int) -> list[ev.Event]:
    """Route a request again whose replica was lost under it: an own step, from the same budget as its loads."""
    model = state.models.get(request.model)
    again = asking(request)
    if model is None:
        return [_refused(again, routing.no_such_model(request.model), now)]
    if passes_left(state.settings.load_attempts, request.passes) == 0:
        return [_refused(again, _backends_gone(detail), now)]
    again = msgspec.structs.replace(again, passes=again.passes + 1)
    plan = _within_budget(state, model, again, _plan(state, model, again, now))
    if isinstance(plan, Refuse) and plan.code is RefusalCode.LOAD_FAILED:
        return [_refused(again, msgspec.structs.replace(_backends_gone(detail), retry_after=plan.retry_after), now)]
    if passes_left(state.settings.load_attempts, again.passes) == 0 and needs_own_load(state, model, plan):
        return [_refused(again, _backends_gone(detail), now)]
    return settle(state, model, again, plan, now, "its backend was gone")


def _backends_gone(detail: str) -> Refuse:
    """The backends that it was sent to have used up the request's own steps: what it is told are their own words."""
    why = Explanation("backend gone", cure="See what the backend reports: its own words are in this refusal.")
    message = f"Every backend tried was gone; the last said: {detail}"
    return Refuse(RefusalCode.BACKEND_FAILED, message, explain=lambda: why)


def needs_own_load(state: State, model: Model, plan: Plan) -> bool:
    """Whether a request with this plan is served by a load of its own, or not at all: nothing else is there or comes.

    Copies that are loaded somewhere, busy or on a node that is silent or drained, may serve it yet.
    """
    if not isinstance(plan, Hold):
        return isinstance(plan, BEGINS_LOAD)
    mine = (state.replicas[replica] for replica in state.by_model.get(model.name, ()))
    return all(replica.phase is Phase.UNLOADING for replica in mine)


# --- time -----------------------------------------------------------------------------------------------------------


def deadline_reached(state: State, request: Request, now: int) -> list[ev.Event]:
    """The wait has lasted as long as it may."""
    model = state.models[request.model]
    plan = routing.route(state, model, now)
    own = request.wait or _BUSY
    if own.on in state.loading.get(model.name, ()):
        return [_refused(asking(request), deadline_passed(state, model, own, plan, now), now)]
    if isinstance(plan, Refuse):
        # What keeps it from being served now, and not what it was told when it came: behind others that may be over.
        return [_refused(asking(request), plan, now)]
    wait = _BUSY if isinstance(plan, Lock) else plan_wait(plan)
    return [_refused(asking(request), deadline_passed(state, model, wait, plan, now), now)]


_WAITED_FOR = {
    WaitKind.LOAD: "its load",
    WaitKind.BUSY: "a free replica",
    WaitKind.CAPACITY: "room",
    WaitKind.LEAVING: "the room of a replica that leaves",
    WaitKind.NODES_DOWN: "a node to come back",
    WaitKind.DRAINING: "a node that is not being drained",
    WaitKind.FROZEN: "frozen evictions to be thawed",
    WaitKind.CONTACT: "contact with nodes that are silent",
    WaitKind.BACKOFF: "the next try of its load",
}
"""What each kind of wait is for, as the end of a sentence; whoever was woken, or stood behind others, had no turn."""


CODES_OF_WAITS = {
    WaitKind.LOAD: RefusalCode.LOADING,
    WaitKind.FROZEN: RefusalCode.FROZEN,
    WaitKind.DRAINING: RefusalCode.DRAINING,
}
"""The refusals that are named by what was waited for; any other wait ends with capacity_exhausted."""


def deadline_passed(state: State, model: Model, wait: Wait, plan: Plan, now: int) -> Refuse:
    """The refusal for a wait that was too long, by what it waited for."""
    code = CODES_OF_WAITS.get(wait.kind, RefusalCode.CAPACITY_EXHAUSTED)
    if code is RefusalCode.LOADING and not state.loading.get(model.name):
        code = RefusalCode.CAPACITY_EXHAUSTED
    what = _WAITED_FOR.get(wait.kind, "its turn")
    why = plan.explanation
    if not why.cure:
        why = msgspec.structs.replace(why, cure=_cure_of_deadline(state, model))
    message = f"{model.name}: the deadline passed while waiting for {what}."
    return Refuse(code, message, retry_after(model, plan, now), explain=lambda: why)


def _cure_of_deadline(state: State, model: Model) -> str:
    """What would have been enough: more copies beside those that serve; for a cold model, one that is there before."""
    if model.name in state.warm:
        return "A longer deadline, or another copy: raise max_replicas."
    if floor_of(state, model):
        return "A longer deadline: loading takes as long."
    return "A longer deadline, or a floor (`min_replicas`), so that a copy is there before anybody asks."


def retry_after(model: Model, plan: Plan, now: int) -> int:
    """When trying again may help, in microseconds from now: the instant that routing itself waits for, if it knows one.

    That is when a replica may be evicted, or when a load that failed is tried again. A release, a load or a node that
    comes back have no instant, and none is guessed: the answer is then a pause that suits any of them.
    """
    instants = [model.retry_at] if model.retry_at > now else []
    if isinstance(plan, Hold) and plan.wait.until < FOREVER:
        instants.append(plan.wait.until)
    return max(SECOND, min(min(instants) - now, LONGEST_RETRY)) if instants else UNTIMED_RETRY


def wake(state: State, request: Request, now: int) -> list[ev.Event]:
    """The instant that a waiting request named has come: look again; if there is still no way, wait for a change.

    When it has come for several, they are looked at in fair order, and not in that of their timers.
    """
    if request.id != state.waiting(request.model)[0][2]:
        return [_queued(asking(request), _BUSY, None, now)]
    heads = (state.requests[state.queues[name][0][2]] for name in fair_order(state, state.queues))
    request = next(head for head in heads if head.wait is not None and head.wait.until <= now)
    model = state.models[request.model]
    return advance(state, model, request, now, _instant_in_words(state, model, request.wait or _BUSY)) or [
        _queued(asking(request), msgspec.structs.replace(request.wait or _BUSY, until=FOREVER), None, now)
    ]


def _instant_in_words(state: State, model: Model, wait: Wait) -> str:
    """What has ended at the instant of this wait."""
    if wait.kind is WaitKind.CAPACITY:
        return churn.what_ends(state, model, wait.until)
    return _INSTANTS.get(wait.kind, "the instant it waited for has come")


_INSTANTS = {
    WaitKind.LEAVING: "the room of a replica that leaves is waited for no longer",
    WaitKind.CONTACT: "the node where its model may be is silent alone",
    WaitKind.BACKOFF: "the pause after its model failed to come up is over",
    WaitKind.BUSY: "the pause after one more copy of its model failed to come up is over",
}
"""The instants that a wait may have, in words; of one for room :mod:`interlock.domain.churn` tells."""


def _within_budget(state: State, model: Model, request: Request | Asking, plan: Plan) -> Plan:
    """The plan; or, for a request that has used up its own steps while copies of its model serve, to wait for those.

    One more copy is a wish: that it could not be had is no reason to refuse.
    """
    if isinstance(plan, BEGINS_LOAD) and has_grown_enough(state, model, request.passes):
        return Hold(_BUSY, explain=lambda: survey_warm(state, model, "queue"))
    return plan


def has_grown_enough(state: State, model: Model, passes: int) -> bool:
    """Whether a request that has taken so many own steps begins no more copies beside those that serve."""
    return model.name in state.warm and passes_left(state.settings.load_attempts, passes) == 0


def advance(
    state: State, model: Model, request: Request, now: int, cause: str, *, taken_over: bool = False
) -> list[ev.Event]:
    """Try the first waiting request of a model again; no events when nothing has changed for it.

    ``taken_over``: only a new writer looks; that it would call the same wait by another name is no change.
    """
    plan = _within_budget(state, model, request, _route(state, model, request, now, request.wait))
    if isinstance(plan, KEEPS_WAITING):
        wait = plan_wait(plan)
        if wait == _BUSY and request.wait is not None and request.wait.on in state.loading.get(model.name, ()):
            return []  # it began the load of one more copy, and waits for that one or for any that is free before
        return [] if wait == request.wait or taken_over else [_queued(asking(request), wait, plan.explanation, now)]
    woken = ev.RequestWoken(at=now, model=model.name, request=request.id, cause=cause)
    return [woken, *settle(state, model, asking(request), plan, now, cause)]
