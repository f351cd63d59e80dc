"""The five properties and the invariants, as judgements of events, of states, and of what one step did to a request.

They are written against the design and read entities, not the core's indexes: a rule that is broken in the core is not
broken here in the same way. W alone asks the core's own routing, because its question is whether what the core would
decide now has been decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from interlock.domain import causes, loads, reconcile, requests, roll_outs, routing
from interlock.domain import events as ev
from interlock.domain.entities import (
    LOADING_PHASES,
    Lack,
    Model,
    Node,
    NodeStatus,
    Phase,
    Replica,
    Request,
    RequestStatus,
    WaitKind,
)
from interlock.domain.nodes import WORKER_LEFT
from interlock.domain.refusals import RefusalCode
from interlock.domain.routing import BEGINS_LOAD, Lock
from interlock.domain.state import State, Timer
from interlock.domain.tenants import limits_of
from interlock.domain.units import FOREVER, GIB, SECOND
from interlock.domain.variant import passes_left
from interlock.simulation.judging.judge import is_spent, room_elsewhere
from interlock.simulation.judging.pools import there, would_hold, wrong_claim
from interlock.simulation.judging.queueing import CURED_BY_ROOM
from interlock.simulation.world import boot_of

from . import revisions, silences
from .predicates import (
    below_floor,
    comes_or_goes,
    could_ever_fit,
    is_candidate,
    is_or_may_be_copy,
    is_usable,
    limit_of,
    locks_on,
    room_that_comes,
    usable_with_room,
    used_in_pools,
)
from .situation import Finding, Situation

PROPERTIES = ("T", "U", "S", "Q", "W")


# --- events: S, and U for refusals ----------------------------------------------------------------------------------


def judge(state: State, event: ev.Event, now: int) -> Finding | None:
    """Judge an event on the state before it."""
    rule = _EVENTS.get(type(event))
    return rule(state, event, now) if rule is not None else None


def _locked(state: State, event: ev.ReplicaLocked, now: int) -> Finding | None:
    replica, model = state.replicas.get(event.replica), state.models.get(event.model)
    if over := _over_limit(state, event):
        return over
    if replica is None or model is None or replica.phase is not Phase.LOADED:
        return Finding("S", f"{event.model} is locked on {event.node}, where it is not loaded")
    node = state.nodes[replica.node]
    if not is_candidate(model, node):
        return Finding("S", f"{model.name} is locked on {node.name}, which its selector does not match")
    if node.status is not NodeStatus.HEALTHY:
        return Finding("S", f"{model.name} is locked on {node.name}, which is {node.status.value}")
    if replica.revision != model.serving:
        return Finding("S", f"{model.name} is locked in a revision that does not serve")
    if model.scheduling.parallel and locks_on(state, replica.id) >= model.scheduling.parallel:
        return Finding("S", f"{model.name} on {node.name} takes more locks than parallel allows")
    if event.prefix and not event.cause and _drowns(state, model, replica):
        return Finding("S", f"{model.name} on {node.name} gets one more for its prompt than it may be busier by")
    mine = _rank(state, state.requests.get(event.request), event.arrival, event.priority)
    if any(_rank(state, other) < mine for other in _queued(state) if other.model == model.name):
        return Finding("W", f"a request for {model.name} is served while another has waited longer for it")
    return None


def _drowns(state: State, model: Model, chosen: Replica) -> bool:
    """Whether the replica is busier than what a whole prompt is worth allows, with another one that has room."""
    worth = model.scheduling.prefix_affinity
    worth = state.settings.prefix_affinity if worth is None else worth
    mine = (one for one in state.replicas.values() if one.model == model.name and is_usable(state, one, model))
    return locks_on(state, chosen.id) > worth + min(locks_on(state, one.id) for one in mine)


def _live_of(state: State, tenant: str) -> int:
    return sum(1 for request in state.requests.values() if request.tenant == tenant)


def _over_limit(state: State, event: ev.ReplicaLocked | ev.RequestQueued, now: int = 0) -> Finding | None:
    """S: a tenant has more requests than it may."""
    if not event.tenant or event.request in state.requests:
        return None
    if _live_of(state, event.tenant) >= limits_of(state, event.tenant).at_once:
        return Finding("S", f"a request of {event.tenant} is let in, which has as many as it may")
    return None


def _rank(state: State, request: Request | None, arrival: int = 0, priority: int = 0) -> tuple[int, int]:
    """Where a request stands, or one that has just come with these: those of lower rank go first."""
    ageing = state.settings.priority_ageing
    if request is not None:
        arrival, priority = request.arrival, request.priority
    serial = request.serial if request is not None else state.arrivals
    return (-priority if ageing >= FOREVER else arrival - priority * ageing, serial)


def _queued(state: State) -> list[Request]:
    return [request for request in state.requests.values() if request.status is RequestStatus.QUEUED]


def _first_in_line(state: State) -> list[Request]:
    """For each model that has waiting requests, the one that goes first."""
    first: dict[str, Request] = {}
    for request in sorted(_queued(state), key=lambda one: _rank(state, one)):
        first.setdefault(request.model, request)
    return list(first.values())


def _passed_over(state: State, event: ev.ReplicaReserved, model: Model, node: Node, now: int) -> str:
    """The model of a request that waits for nothing but this room, and has waited longer than who gets it.

    Only the first in line for each model says what that model lacks now; those behind it keep the wait that they came
    with, and when the first waits for its model's next try, they do so too.
    """
    asking = causes.requester(event.cause)
    if asking is None or below_floor(state, model):
        return ""
    request = state.requests.get(asking)
    mine = _rank(state, request, now) if request is not None else (FOREVER, 0)
    for other in _first_in_line(state):
        its, wait = state.models[other.model], other.wait
        if its is model or wait is None or wait.kind not in CURED_BY_ROOM or wait.until <= now:
            continue
        if _rank(state, other) >= mine:
            continue
        ranks = its.scheduling.priority >= model.scheduling.priority and wait.until >= FOREVER
        may_evict = ranks and not is_spent(state, its, event.node)
        if _fits_there(state, its, event, node) and (may_evict or not event.victims):
            return its.name
    return ""


def _reserved(state: State, event: ev.ReplicaReserved, now: int) -> Finding | None:
    model, node = state.models[event.model], state.nodes[event.node]
    where = f"a load of {model.name} on {node.name}"
    if not is_candidate(model, node):
        return Finding("S", f"{where}, which its selector does not match")
    if node.status is not NodeStatus.HEALTHY:
        return Finding("S", f"{where}, which is {node.status.value}")
    here = [replica for replica in state.replicas.values() if replica.node == node.name]
    mine = [replica for replica in here if replica.model == model.name]
    if any(replica.index == event.index for replica in mine):
        return Finding("S", f"{where} takes a slot that is taken")
    if len(mine) - sum(replica.id in event.victims for replica in mine) >= node.max_replicas_per_model:
        return Finding("S", f"{where} exceeds the node's {node.max_replicas_per_model} slots for a model")
    beside = next((r for r in here if r.id not in event.victims and _insist(state, model, r)), None)
    if beside is not None:
        return Finding("S", f"{where} shares the node with {beside.model}, of the same anti-affinity group")
    in_use = next((name for name, _, _ in event.drops if any(replica.model == name for replica in here)), "")
    if in_use:
        return Finding("S", f"{where} drops the files of {in_use}, of which there is a replica")
    taken = _disk_taken(state, node) - sum(size for _, _, size in event.drops)
    if node.disk is not None and event.disk > node.disk - state.settings.disk_margin - taken:
        return Finding("S", f"{where} needs more disk than there is")
    if haste := silences.moved(state, event, model):
        return haste
    if coming := _needless(state, event, model, now):
        return Finding("S", f"{where} evicts, and {coming} makes room in any case")
    if _in_vain(state, event, model):
        return Finding("S", f"{where} evicts, though its tries are spent")
    if passed := _floor_passed_over(state, event, model, node):
        return Finding("W", f"{where} takes room that the floor of {passed} lacks")
    if passed := _passed_over(state, event, model, node, now):
        return Finding("W", f"{where} takes room that a request for {passed} has waited longer for")
    spare = _needless_victim(state, node, model, event)
    if spare:
        return Finding("S", f"{where} evicts {spare} too, which it needs not")
    wrong = wrong_claim(there(model.declared_spec, unified=node.unified), event.claim)
    if wrong:
        return Finding("S", f"{where} {wrong}")
    used, owed = used_in_pools(state, node), dict(event.owed_in)
    for pool, size in event.claim:
        if used[pool] + size - owed.get(pool, 0) > limit_of(node, pool):
            return Finding("S", f"{where} exceeds its memory budget")
    copies = [r for r in state.replicas.values() if r.model == model.name and _is_copy(state, model, r)]
    ceiling = model.scheduling.max_replicas
    lives = any(is_usable(state, one, model) for one in copies)  # what serves nobody any more keeps no first copy away
    if ceiling and lives and len(copies) >= ceiling and causes.is_of_request(event.cause):
        return Finding("S", f"{where} exceeds the model's ceiling of {ceiling}")
    return None


def _needless(state: State, event: ev.ReplicaReserved, model: Model, now: int) -> str:
    """Who leaves in any case and would have made the room in time, where no other model waits for just that."""
    asking = causes.requester(event.cause)
    if not event.victims or asking is None:
        return ""
    request = state.requests.get(asking)
    if request is not None and request.wait is not None and request.wait.kind is WaitKind.LEAVING:
        return ""  # it has waited for such room
    waits = [other.wait for other in _first_in_line(state) if other.model != model.name]
    waited_for = {wait.on for wait in waits if wait is not None and wait.kind is WaitKind.LEAVING}
    deadline = request.deadline if request is not None else now + state.settings.request_deadline
    return room_that_comes(state, model, now, deadline, waited_for)


def _in_vain(state: State, event: ev.ReplicaReserved, model: Model) -> bool:
    """Whether somebody leaves for a model whose loads have failed as often as they may, here or on as many nodes."""
    evicts = bool(event.victims) and causes.is_of_request_or_floor(event.cause)
    return evicts and is_spent(state, model, event.node)


def _floor_passed_over(state: State, event: ev.ReplicaReserved, model: Model, node: Node) -> str:
    """A model whose parked floor lacks just this free room: it goes before requests, and floors of less priority."""
    floor = causes.is_of_floor(event.cause) or below_floor(state, model)
    if event.victims or not (floor or causes.is_of_request(event.cause)) or "reconciler" in state.frozen:
        return ""
    for other in state.models.values():
        parked = other.parked is not None and other.parked.reason is RefusalCode.CAPACITY_EXHAUSTED
        if not parked or other is model or (floor and other.scheduling.priority <= model.scheduling.priority):
            continue
        if below_floor(state, other) and _fits_there(state, other, event, node):
            return other.name
    return ""


def _fits_there(state: State, other: Model, event: ev.ReplicaReserved, node: Node) -> bool:
    """Whether what is reserved would do for the other model, as far as that can be said."""
    if other.declared_spec.pools != 1 or other.scheduling.anti_affinity_hard or not is_candidate(other, node):
        return False
    if any(replica.model == other.name and replica.node == node.name for replica in state.replicas.values()):
        return False
    spec = there(other.declared_spec, unified=node.unified)
    return would_hold(event.claim, spec) and spec.disk <= event.disk


def _insist(state: State, model: Model, replica: Replica) -> bool:
    """Whether the replica is of the model's anti-affinity group, and one of the two will not share a node."""
    owner = state.models.get(replica.model)
    if owner is None or not model.scheduling.anti_affinity:
        return False
    alike = owner.scheduling.anti_affinity == model.scheduling.anti_affinity
    return alike and (owner.scheduling.anti_affinity_hard or model.scheduling.anti_affinity_hard)


def _disk_taken(state: State, node: Node) -> int:
    reserved = 0
    for replica in state.replicas.values():
        if replica.node == node.name and replica.phase is Phase.STAGING:
            reserved += replica.disk
        elif replica.node == node.name and replica.phase in (Phase.RESERVED, Phase.INSTALLING):
            # What gives way to its files is there until they come.
            reserved += max(replica.disk, sum(size for _, _, size in replica.drops))
    return reserved + sum(state.staged.get(node.name, {}).values())


def _needless_victim(state: State, node: Node, model: Model, event: ev.ReplicaReserved) -> str:
    """A victim without which there would be room as well, by slot and by memory; empty when all are needed."""
    if len(event.victims) < 2:
        return ""
    used = used_in_pools(state, node)
    freed = {name: dict(state.replicas[name].claim) for name in event.victims}
    for spared in event.victims:
        if state.replicas[spared].model == model.name or _insist(state, model, state.replicas[spared]):
            continue
        room = all(
            size <= limit_of(node, pool) - used[pool] + sum(freed[v].get(pool, 0) for v in event.victims if v != spared)
            for pool, size in event.claim
        )
        if room:
            return state.replicas[spared].model
    return ""


def _is_copy(state: State, model: Model, replica: Replica) -> bool:
    node = state.nodes[replica.node]
    return replica.phase is not Phase.UNLOADING and node.status is NodeStatus.HEALTHY and is_candidate(model, node)


def _evicted(state: State, event: ev.ReplicaEvicted, now: int) -> Finding | None:
    victim = state.replicas[event.replica]
    beneficiary, owner = state.models[event.beneficiary_model], state.models.get(victim.model)
    what = f"{victim.model} on {victim.node} is evicted for {beneficiary.name}"
    if victim.phase is not Phase.LOADED:
        return Finding("S", f"{what} while it is {victim.phase.value}")
    if locks_on(state, victim.id):
        return Finding("S", f"{what} while it is locked")
    if not is_candidate(beneficiary, state.nodes[victim.node]):
        return Finding("S", f"{what}, which does not match that model's selector")
    if any(
        is_usable(state, other, beneficiary) for other in state.replicas.values() if other.model == beneficiary.name
    ):
        return Finding("S", f"{what}, which is warm: growth evicts")
    if owner is None:
        return None
    if any(request.model == owner.name for request in _queued(state)) and is_usable(state, victim, owner):
        return Finding("U", f"{what} while requests wait for it, and it is free")
    if owner.scheduling.pinned:
        return Finding("S", f"{what} though it is pinned")
    mine, its = beneficiary.scheduling.priority, owner.scheduling.priority
    if its > mine:
        return Finding("S", f"{what}, which has lower priority")
    if victim.evictable_at > now and its == mine:
        return Finding("S", f"{what} before its residency is over")
    if _over_bound(state, event, now):
        return Finding("S", f"{what}, one more than its node is to see in a while")
    return _floor_kept(state, victim, owner, what)


def _over_bound(state: State, event: ev.ReplicaEvicted, now: int) -> bool:
    """Whether the node has seen as many evictions as it may, for others than this load."""
    bound = state.settings.evictions_per_node
    counted = sum(1 for until in state.evictions.get(event.node, ()) if until > now)
    for_it = sum(1 for replica in state.replicas.values() if replica.beneficiary == event.beneficiary)
    return bool(bound) and counted >= bound and counted > for_it


def _loaded(state: State, event: ev.ReplicaLoaded, now: int) -> Finding | None:
    """What was evicted and loaded again and again stays longer than ``min_residency``."""
    model, settings = state.models.get(event.model), state.settings
    churn = model.churn if model is not None else None
    if churn is None or not churn.evicted or churn.until <= now or not settings.thrash_cycles:
        return None
    size = sum(size for _, size in state.replicas[event.replica].claim)
    rate = state.nodes[event.node].load_rate or GIB
    worth_it = min(8 * SECOND * size // rate, settings.longest_residency) > settings.min_residency
    if churn.cycles + 1 >= settings.thrash_cycles and worth_it and event.evictable_at <= now + settings.min_residency:
        return Finding("S", f"{event.model} was evicted and loaded again {churn.cycles + 1} times, and stays no longer")
    return None


def _floor_kept(state: State, victim: Replica, owner: Model, what: str) -> Finding | None:
    # A drained node's copies are leaving, and keep no floor.
    keeping = [
        node.name for node in state.nodes.values()
        if is_candidate(owner, node) and node.status in (NodeStatus.HEALTHY, NodeStatus.UNREACHABLE)
    ]  # fmt: skip
    floor = len(keeping) if owner.scheduling.everywhere else owner.scheduling.min_replicas
    if not is_candidate(owner, state.nodes[victim.node]) or not floor:
        return None
    kept = [one for one in state.replicas.values() if one.model == owner.name and is_usable(state, one, owner)]
    if victim.revision != owner.serving and len(kept) < floor:
        return Finding("S", f"{what}, of an old revision whose room its own floor is to have")
    if owner.scheduling.everywhere:
        twins = [r for r in state.replicas.values() if (r.node, r.model) == (victim.node, victim.model)]
        alone = sum(1 for replica in twins if is_usable(state, replica, owner)) < 2
        serves = is_usable(state, victim, owner)
        return Finding("S", f"{what}, where it is to have a copy") if alone and serves else None
    if victim in kept and len(kept) - 1 < floor:
        return Finding("S", f"{what}, below its floor of {floor}")
    return None


def _unload_requested(state: State, event: ev.UnloadRequested, now: int) -> Finding | None:
    replica = state.replicas[event.replica]
    if replica.phase is Phase.LOADED and locks_on(state, replica.id):
        return Finding("S", f"{replica.model} on {replica.node} is unloaded while it is locked")
    idle_until = max(replica.used_at, replica.loaded_at) + state.settings.scale_down_delay
    if event.reason == "scale-down" and idle_until > now:
        return Finding("S", f"{replica.model} on {replica.node} is scaled down before it has been idle for its time")
    model = state.models.get(replica.model)
    if model is not None and event.tries == 1 and _none_too_many(state, event, model):
        return Finding("S", f"{replica.model} on {replica.node} leaves as one too many ({event.reason}), and is not")
    if event.reason == "idle" and model is not None:
        own = model.scheduling.idle_unload
        ttl = state.settings.idle_unload if own is None else own
        if max(replica.used_at, replica.loaded_at) + ttl > now:
            return Finding("S", f"{replica.model} on {replica.node} is unloaded before its idle_unload is over")
    return None


def _none_too_many(state: State, event: ev.UnloadRequested, model: Model) -> bool:
    """Whether a copy goes as surplus though no more of them can serve than must stay."""
    scheduling = model.scheduling
    if event.reason not in ("ceiling", "scale-down") or scheduling.everywhere:
        return False
    usable = sum(1 for one in state.replicas.values() if one.model == model.name and is_usable(state, one, model))
    most = scheduling.max_replicas if event.reason == "ceiling" else max(scheduling.min_replicas, 1)
    return usable <= most


def _refused(state: State, event: ev.RequestRefused, now: int) -> Finding | None:
    model = state.models.get(event.model)
    if model is None:
        return None
    if event.code == "rate_limited":
        known, limits = state.tenants.get(event.tenant), limits_of(state, event.tenant)
        in_time = not limits.rate or known is None or known.due - (limits.burst - 1) * limits.rate <= now
        if _live_of(state, event.tenant) < limits.at_once and in_time:
            return Finding("U", f"a request of {event.tenant} is refused, which is within its limits")
        return None
    request = state.requests.get(event.request)
    # Whose backends were gone until its own steps were used up is refused whatever there is: T asks for that.
    spent = request is not None and passes_left(state.settings.load_attempts, request.passes) == 0
    if event.code == "backend_failed" and spent:
        return None
    adrift = request is not None and request.status is RequestStatus.ADRIFT and now < request.deadline
    if event.code == "capacity_exhausted" and adrift:
        return Finding("T", f"a request for {model.name} is refused for want of room, and its backends were gone")
    replica = usable_with_room(state, model)
    ahead = [entry for entry in state.waiting(model.name) if entry[2] != event.request]
    if replica is not None and not ahead:
        return Finding("U", f"a request for {model.name} is refused ({event.code}) while {replica.node} could serve it")
    return None


_EVENTS: dict[type[ev.Event], Callable[[State, Any, int], Finding | None]] = {
    ev.ReplicaLocked: _locked,
    ev.RequestQueued: _over_limit,
    ev.ReplicaReserved: _reserved,
    ev.ReplicaEvicted: _evicted,
    ev.ReplicaLoaded: _loaded,
    ev.UnloadRequested: _unload_requested,
    ev.RequestRefused: _refused,
    ev.ModelDeclared: revisions.declared,
    ev.RevisionDeclared: revisions.edited,
    ev.RevisionServing: revisions.takes_over,
    ev.ReplicaRetired: revisions.retired,
    ev.NodeWentOffline: silences.gone,
    ev.NodeOfflinePostponed: silences.postponed,
    ev.MassLossOver: silences.over,
    ev.ReplicaLost: silences.given_up,
}


# --- states: invariants, U for waits, W, and Q's parked or satisfied ------------------------------------------------


def _above_budget(state: State) -> Iterator[Finding]:
    """W: what is above its node's budget is busy, or on its way out, or not loaded yet."""
    for node in state.nodes.values():
        here = [replica for replica in state.replicas.values() if replica.node == node.name]
        for pool, budget in node.limits.items() if here else ():
            mine = [replica for replica in here if pool in dict(replica.claim)]
            staying = sum(dict(r.claim)[pool] for r in mine if r.phase is not Phase.UNLOADING)
            if staying > budget and any(r.phase is Phase.LOADED and not locks_on(state, r.id) for r in mine):
                yield Finding("W", f"{node.name} is above its memory budget, and an idle replica stays there")


def _above_slots(state: State) -> Iterator[Finding]:
    """W: of the replicas that serve above their node's slots none is idle."""
    for model in state.models.values():
        serving = [one for one in state.replicas.values() if one.model == model.name and is_usable(state, one, model)]
        for node in dict.fromkeys(replica.node for replica in serving):
            here = [replica for replica in serving if replica.node == node]
            idle = any(not locks_on(state, replica.id) for replica in here)
            if idle and len(here) > state.nodes[node].max_replicas_per_model:
                yield Finding("W", f"{node} is above its slots for {model.name}, and an idle one stays")


def judge_state(situation: Situation) -> Iterator[Finding]:
    """Everything that must hold whenever a command has been decided."""
    state = situation.state
    yield from _invariants(state)
    timers = set(state.timers)
    if state.mass_loss_until and (state.mass_loss_until, "mass-loss", "") not in timers:
        yield Finding("W", "contact with many nodes counts as lost, and no timer ends that")
    for request in state.requests.values():
        if request.tenant and request.arrival == situation.now and limits_of(state, request.tenant).rate:
            known = state.tenants.get(request.tenant)
            if known is None or known.due <= situation.now:
                yield Finding("S", f"a request of {request.tenant} is let in, and its rate takes no note of it")
        if request.status is RequestStatus.QUEUED:
            yield from _waits_for_something(state, request, timers, situation.now)
    for name, queue in state.queues.items():
        model = state.models[name]
        if usable_with_room(state, model) is not None:
            yield Finding("U", f"a request for {name} waits while a warm replica has room")
        yield from _nobody_woke(state, model, state.requests[queue[0][2]], situation.now)
    for replica in state.replicas.values():
        if replica.phase is not Phase.LOADED:
            yield from _moves_on(state, replica, timers, situation.now)
    if "reconciler" not in state.frozen:
        yield from _above_budget(state)
        yield from _above_slots(state)
        yield from revisions.left_over(state)
        for model in state.models.values():
            yield from _satisfied_or_parked(state, model, situation.now)
            yield from _rolled_out(state, model, timers, situation.now)
    yield from _files_are_there(situation)
    yield from _left_behind(state)


def _left_behind(state: State) -> Iterator[Finding]:
    """S: no load goes on where its model may not run, or above what models may use."""
    for replica in state.replicas.values():
        model, node = state.models.get(replica.model), state.nodes[replica.node]
        if replica.phase not in LOADING_PHASES or model is None:
            continue
        if not is_candidate(model, node):
            yield Finding("S", f"a load of {model.name} goes on on {node.name}, which its selector does not match")
        staying = [r for r in state.replicas.values() if r.node == node.name and r.phase is not Phase.UNLOADING]
        for pool, _ in replica.claim:
            if sum(dict(other.claim).get(pool, 0) for other in staying) > node.limits.get(pool, FOREVER):
                yield Finding("S", f"a load of {model.name} goes on on {node.name}, above its memory budget")


def _files_are_there(situation: Situation) -> Iterator[Finding]:
    """What the core believes to be on a disk is there, as far as its worker is reached."""
    for name, staged in situation.state.staged.items():
        node, worker = situation.state.nodes.get(name), situation.workers.get(name)
        if node is None or worker is None or not worker.hears or node.boot != boot_of(worker):
            continue
        there = {files.model for files in worker.staged}
        for model, _ in staged:
            if model not in there:
                yield Finding("S", f"the files of {model} are believed to be on {name}, and are not there")


def _invariants(state: State) -> Iterator[Finding]:
    slots: dict[tuple[str, str, int], str] = {}
    locked = [request.replica for request in state.requests.values()]
    if state.prefixes.held.keys() - state.replicas.keys():
        yield Finding("S", "a replica that is gone counts as holding prompts")
    for replica in state.replicas.values():
        other = slots.setdefault((replica.node, replica.model, replica.index), replica.id)
        if other != replica.id:
            yield Finding("invariant", f"two replicas of {replica.model} share a slot on {replica.node}")
        if replica.owed:
            victims = [r for r in state.replicas.values() if r.beneficiary == replica.id]
            at_victims: dict[int, int] = {}
            for victim in victims:
                for pool, size in victim.claim:
                    at_victims[pool] = at_victims.get(pool, 0) + size
            if any(size > at_victims.get(pool, 0) for pool, size in replica.owed_in):
                yield Finding("S", f"what was freed on {replica.node} for {replica.model} is not held for it")
        held = len(state.locks.get(replica.id, ()))
        if held != locked.count(replica.id):
            yield Finding("invariant", f"{replica.model} on {replica.node}: in flight is not the number of live locks")
        if replica.id in state.prefixes.held and replica.phase is not Phase.LOADED:
            yield Finding("S", f"{replica.model} on {replica.node} is {replica.phase.value}, and holds prompts")
        if held and replica.phase is not Phase.LOADED:
            yield Finding("invariant", f"{replica.model} on {replica.node} is locked and {replica.phase.value}")
    for node in state.nodes.values():
        if _without_zeros(state.committed[node.name]) != _without_zeros(used_in_pools(state, node)):
            yield Finding("invariant", f"the memory counted on {node.name} is not what its replicas claim")
    for tenant in {*state.live_of_tenant, *[request.tenant for request in state.requests.values()]} - {""}:
        if state.live_of_tenant.get(tenant, 0) != _live_of(state, tenant):
            yield Finding("invariant", f"what is counted of tenant {tenant} is not what it has")
    for request in state.requests.values():
        if request.status is RequestStatus.LOCKED and request.replica not in state.replicas:
            yield Finding("invariant", f"a request for {request.model} holds a lock on a replica that is gone")


def _without_zeros(sizes: dict[int, int]) -> dict[int, int]:
    return {pool: size for pool, size in sizes.items() if size}


def _waits_for_something(state: State, request: Request, timers: set[Timer], now: int) -> Iterator[Finding]:
    """W: a wait has a timer that ends it, and a change or a timer that may fulfil it.

    Only the first in line says what its model lacks now; who stands behind it waits for its turn.
    """
    wait = request.wait
    if (request.deadline, "deadline", request.id) not in timers or request.deadline <= now:
        yield Finding("W", f"a request for {request.model} waits without a timer for its deadline")
    if wait is None:
        yield Finding("W", f"a request for {request.model} waits for nothing")
    elif wait.until < FOREVER and (wait.until, "wake", request.id) not in timers:
        yield Finding("W", f"a request for {request.model} waits for an instant that no timer keeps")
    elif not (queue := state.waiting(request.model)):
        yield Finding("W", f"a request for {request.model} waits, and no queue has it")
    elif queue[0][2] != request.id:
        return
    elif wait.kind is WaitKind.LOAD:
        replica = state.replicas.get(wait.on)
        if replica is None or replica.phase not in LOADING_PHASES:
            yield Finding("W", f"a request for {request.model} waits for a load that is not in progress")
    elif wait.kind is WaitKind.BACKOFF and wait.until >= FOREVER:
        yield Finding("W", f"a request for {request.model} waits for a next try that has no instant")
    elif wait.kind is WaitKind.CAPACITY and not could_ever_fit(state, state.models[request.model]):
        yield Finding("W", f"a request for {request.model} waits for room that no node can ever have")
    elif wait.kind is WaitKind.FROZEN and "evictions" not in state.frozen:
        yield Finding("W", f"a request for {request.model} waits for a thaw though nothing is frozen")


def _nobody_woke(state: State, model: Model, request: Request, now: int) -> Iterator[Finding]:
    """W: what could be decided for the first in line has been decided."""
    plan = routing.route(state, model, now)
    enough = isinstance(plan, BEGINS_LOAD) and requests.has_grown_enough(state, model, request.passes)
    if isinstance(plan, (Lock, *BEGINS_LOAD)) and not enough:
        word = type(plan).__name__.lower()
        kind = request.wait.kind if request.wait is not None else "nothing"
        yield Finding("W", f"a request for {model.name} waits for {kind} though it could {word} now: nobody woke it")


def _moves_on(state: State, replica: Replica, timers: set[Timer], now: int) -> Iterator[Finding]:
    """W: a job in progress has a timer, an effect that will be answered, or victims that it waits for."""
    what = f"the {replica.phase.value} replica of {replica.model} on {replica.node}"
    if replica.silent_at < FOREVER:
        if (replica.silent_at, "silent", replica.id) not in timers or replica.silent_at <= now:
            yield Finding("W", f"{what} has no timer for its silence")
    elif replica.phase is not Phase.UNLOADING:
        yield Finding("W", f"{what} has no limit to its silence")
    if replica.phase is Phase.RESERVED and not state.awaited.get(replica.id):
        yield Finding("W", f"{what} waits for victims that are gone")
    if replica.phase is not Phase.RESERVED and loads.pending_effect(state, replica) is None:
        yield Finding("W", f"{what} asks nothing of its worker")


def _satisfied_or_parked(state: State, model: Model, now: int) -> Iterator[Finding]:
    """Q: once nothing moves, a floor is kept or parked; W: what is parked without an instant lacks something still."""
    if any(r.phase is not Phase.LOADED for r in state.replicas.values()):
        return
    copies = sum(1 for r in state.replicas.values() if r.model == model.name and is_or_may_be_copy(state, model, r))
    healthy = [n for n in state.nodes.values() if n.status is NodeStatus.HEALTHY and is_candidate(model, n)]
    floor = len(healthy) if model.scheduling.everywhere else model.scheduling.min_replicas
    if copies >= floor:
        return
    if model.parked is None:
        yield Finding("Q", f"{model.name} is below its floor of {floor}, and neither loading nor parked")
    elif model.parked.until >= FOREVER and not _waits_for_a_person(state, model):
        plan = reconcile.floor_plan(state, model, now)
        if isinstance(plan, BEGINS_LOAD):
            lacks = model.parked.lacks
            yield Finding("W", f"{model.name} is parked for want of {lacks} though its floor could be kept now")


def _waits_for_a_person(state: State, model: Model) -> bool:
    """Whether its loads have failed as often as they may: then somebody has to look.

    Unless they failed on fewer nodes than that, and another has room.
    """
    return model.tries_failed >= state.settings.load_attempts and not room_elsewhere(state, model)


def _rolled_out(state: State, model: Model, timers: set[Timer], now: int) -> Iterator[Finding]:
    """W: a new revision comes up, takes over, or waits for an instant or for what it lacks."""
    parked = model.parked
    if parked is not None and parked.lacks is Lack.EDIT and model.tries_failed < state.settings.load_attempts:
        yield Finding("W", f"{model.name} is parked until somebody edits it, and may be tried again")
    if parked is not None and (parked.until, "unpark", model.name) in timers:
        return
    mine = [replica for replica in state.replicas.values() if replica.model == model.name]
    moving = any(comes_or_goes(state, replica, model) for replica in mine)
    if model.declared != model.serving and not moving and roll_outs.roll_out(state, model, now):
        yield Finding("W", f"the new revision of {model.name} could come up now, and nothing is under way")


# --- steps: T -------------------------------------------------------------------------------------------------------


def own_steps(events: Iterable[ev.Event], routed_again: str) -> dict[str, int]:
    """Own steps by request: loads begun for it, and its route after a backend that was gone (``routed_again``)."""
    steps: dict[str, int] = {}
    for event in events:
        request = causes.requester(event.cause) if isinstance(event, ev.ReplicaReserved) else None
        if request is not None:
            steps[request] = steps.get(request, 0) + 1
        elif (
            routed_again and getattr(event, "request", "") == routed_again and not isinstance(event, ev.RequestRefused)
        ):
            steps[routed_again] = steps.get(routed_again, 0) + 1
            routed_again = ""
    return steps


TELLING = frozenset({"tell", "heal", "start"})
"""Kinds of action by which a worker says what it runs."""
FATES: frozenset[type[ev.Event]] = frozenset(
    {
        ev.ReplicaLost, ev.ReplicaLoadFailed, ev.NodeWentOffline, ev.NodeBecameUnreachable, ev.NodeDrainEnforced,
        ev.NodeDrained,
    }
)  # fmt: skip
"""What the judgements of worlds, silences, contact and drains look at: after a step without any they have no say."""


def judge_world(situation: Situation, events: Iterable[ev.Event], kind: str) -> Iterator[Finding]:
    """What the log says of processes against what runs, after a step of this kind."""
    state = situation.state
    for event in events:
        if not isinstance(event, (ev.ReplicaLost, ev.ReplicaLoadFailed)) or not event.gone:
            continue
        worker = situation.workers.get(event.node)
        if worker is None or not worker.hears or worker.process_of(event.replica) is None:
            continue
        what = f"{event.model} on {event.node}"
        if isinstance(event, ev.ReplicaLost):
            yield Finding("S", f"{what} counts as lost though its worker says that it runs: busy is not dead")
        else:
            yield Finding("Q", f"the load of {what} is given up, and left running")
    if kind in TELLING:
        for worker in situation.workers.values():
            for process in worker.processes if worker.hears else ():
                known = process.replica in state.replicas or (worker.name, process.id) in state.strays
                if not known and kind == "tell":
                    yield Finding(
                        "Q", f"{worker.name} runs a process that the log does not know, and goes on running it"
                    )


def judge_releases(before: State, events: Iterable[ev.Event], key: str, about: str) -> Iterator[Finding]:
    """S: a lock ends by the word of its own request, or of its holder's loss; W: and all of a lost holder's do."""
    for event in events:
        if not isinstance(event, ev.ReplicaReleased):
            continue
        request = before.requests.get(event.request)
        own = event.request == about if key != "lose-holder" else request is not None and request.holder == about
        if not own:
            yield Finding("S", f"a lock on {event.model} is released by somebody else's word")


def judge_departure(after: State, request: str) -> Iterator[Finding]:
    """W: a client that has left keeps no place in line, and no lock: nobody would ever give it back."""
    if request in after.requests:
        yield Finding("W", "a client has left, and its request stays: nothing will ever end it")


def judge_loss(after: State, holder: str) -> Iterator[Finding]:
    """W: nothing of a lost holder waits or is held any more."""
    if any(request.holder == holder for request in after.requests.values()):
        yield Finding("W", "a gateway that is lost keeps its requests, and nothing will ever end them")


def judge_silence(before: State, situation: Situation, events: Iterable[ev.Event]) -> Iterator[Finding]:
    """S: a brief loss of contact moves nothing: a node is unreachable for a while before it counts as offline.

    Or its worker has said goodbye: the one that is the node now, and no former one.
    """
    for event in events:
        if not isinstance(event, ev.NodeWentOffline):
            continue
        node, worker = before.nodes[event.node], situation.workers.get(event.node)
        if event.reason == WORKER_LEFT:
            if worker is not None and worker.up and boot_of(worker) == node.boot:
                yield Finding("S", f"{event.node} counts as gone for a goodbye that its worker has not said")
        elif node.status is not NodeStatus.UNREACHABLE:
            yield Finding("S", f"{event.node} counts as offline without having been unreachable for a while")


def judge_drain(after: State, events: Iterable[ev.Event]) -> Iterator[Finding]:
    """S: at a drain's deadline all that is left goes, and a node that counts as empty is."""
    for event in events:
        if not isinstance(event, ev.NodeDrainEnforced | ev.NodeDrained) or event.node not in after.nodes:
            continue
        here = [replica for replica in after.replicas.values() if replica.node == event.node]
        if isinstance(event, ev.NodeDrained) and here:
            yield Finding("S", f"{event.node} counts as empty, and {here[0].model} is there")
        for replica in here:
            if replica.phase is not Phase.UNLOADING:
                yield Finding("S", f"{replica.model} stays on {event.node} after the deadline of its drain")


def judge_breath(events: Iterable[ev.Event]) -> Iterator[Finding]:
    """S: what belongs to one decision is decided together: a victim goes for a load reserved in the same step."""
    victims: dict[str, ev.ReplicaEvicted] = {}
    claimed: set[str] = set()
    for event in events:
        if isinstance(event, ev.ReplicaEvicted):
            victims[event.replica] = event
        elif isinstance(event, ev.ReplicaReserved):
            claimed.update(event.victims)
    for replica, event in victims.items():
        if replica not in claimed:
            yield Finding("S", f"{event.model} on {event.node} is evicted, and what it frees is reserved for nobody")


def judge_steps(before: State, after: State, steps: dict[str, int]) -> Iterator[Finding]:
    """T: every own step lowers the variant, which production takes its budget from."""
    attempts = after.settings.load_attempts
    for request_id, count in steps.items():
        request = after.requests.get(request_id)
        if request is None:
            continue
        old = before.requests.get(request_id)
        left = passes_left(attempts, old.passes if old is not None else 0)
        if passes_left(attempts, request.passes) > left - count:
            yield Finding("T", f"a request for {request.model} took an own step that lowered nothing")
