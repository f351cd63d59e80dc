"""Folding events into the state: ``apply(state, event)`` never decides, and never fails on an event that was decided.

One function per event; what an event does to entities comes first, index upkeep after it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import Any, TypeVar

from msgspec.structs import replace

from . import events as ev
from .entities import (
    Model,
    Node,
    NodeStatus,
    Parked,
    Phase,
    Replica,
    Request,
    RequestStatus,
    Stray,
    Wait,
    merged_labels,
)
from .state import State
from .timers import arm_idle, arm_idle_of, prune
from .units import FOREVER

_E = TypeVar("_E", bound=ev.Event)
_HANDLERS: dict[type[ev.Event], Callable[[State, Any], None]] = {}


def _applies(cls: type[_E]) -> Callable[[Callable[[State, _E], None]], Callable[[State, _E], None]]:
    def register(handler: Callable[[State, _E], None]) -> Callable[[State, _E], None]:
        _HANDLERS[cls] = handler
        return handler

    return register


def apply(state: State, event: ev.Event) -> None:
    """Change ``state`` in place by one event."""
    _HANDLERS[type(event)](state, event)
    if state.timers:
        prune(state)


# --- shared changes -------------------------------------------------------------------------------------------------


def _put_node(state: State, node: Node) -> None:
    node = replace(node, labels=merged_labels(node))
    state.nodes[node.name] = node
    state.index_node(node)


def _put_replica(state: State, replica: Replica) -> None:
    """Replace a replica whose phase, address or operation changed."""
    state.replicas[replica.id] = replica
    state.index_phase(replica)
    state.index_warm(replica)
    if replica.silent_at < FOREVER:
        state.set_timer(replica.silent_at, "silent", replica.id)


def _drop_replica(state: State, replica: Replica) -> None:
    """Nothing is left of the replica: free its memory, slot and disk reservation, and pay its beneficiary."""
    del state.replicas[replica.id]
    for index, key in ((state.by_node, replica.node), (state.by_model, replica.model)):
        members = index[key]
        del members[replica.id]
        if not members:
            del index[key]
    slots = state.by_slot[replica.node, replica.model]
    del slots[replica.index]
    if not slots:
        del state.by_slot[replica.node, replica.model]
    loads = state.loading.get(replica.model)
    if loads is not None and loads.pop(replica.id, 0) is None and not loads:
        del state.loading[replica.model]
    state.transit.pop(replica.id, None)
    state.idle_timers.pop(replica.id, None)
    state.unindex_warm(replica)
    state.commit(replica.node, replica.claim, -1, replica.owed)
    _unstage(state, replica)
    state.awaited.pop(replica.id, None)
    _pay_beneficiary(state, replica)
    state.index_free(replica.node)
    arm_idle_of(state, replica.model)


def _pay_beneficiary(state: State, victim: Replica) -> None:
    """The victim's memory goes to the load that it made room for, as far as that load is still owed any."""
    waiting = state.awaited.get(victim.beneficiary)
    if waiting is None:
        return
    del waiting[victim.id]
    beneficiary = state.replicas[victim.beneficiary]
    pools = {pool for pool, _ in beneficiary.claim}
    freed = sum(size for pool, size in victim.claim if pool in pools)
    paid = beneficiary.owed if not waiting else min(beneficiary.owed, freed)
    state.commit(beneficiary.node, beneficiary.claim, -1, beneficiary.owed)
    state.replicas[beneficiary.id] = replace(beneficiary, owed=beneficiary.owed - paid)
    state.commit(beneficiary.node, beneficiary.claim, +1, beneficiary.owed - paid)
    if not waiting:
        del state.awaited[victim.beneficiary]


def _unstage(state: State, replica: Replica) -> None:
    """Give back the disk of a staging that did not finish; what was staged stays for the next load."""
    if replica.phase in (Phase.RESERVED, Phase.INSTALLING, Phase.STAGING) and replica.disk:
        state.disk_used[replica.node] = state.disk_used.get(replica.node, 0) - replica.disk
        if not state.disk_used[replica.node]:
            del state.disk_used[replica.node]


def _drop_locks(state: State, replica: Replica) -> None:
    """The replica no longer serves: its requests are adrift until their holder reports."""
    for request_id in state.locks.pop(replica.id, ()):
        request = state.requests[request_id]
        state.requests[request_id] = replace(request, status=RequestStatus.ADRIFT, replica="")


def _leave_queue(state: State, request: Request) -> None:
    queue = state.queues[request.model]
    queue.remove((-request.priority, request.serial, request.id))
    if not queue:
        del state.queues[request.model]


def _end_request(state: State, request: Request) -> None:
    del state.requests[request.id]
    held = state.by_holder[request.holder]
    del held[request.id]
    if not held:
        del state.by_holder[request.holder]


def _put_request(state: State, request: Request) -> None:
    state.requests[request.id] = request
    held = state.by_holder.get(request.holder)
    if held is None:
        held = state.by_holder[request.holder] = {}
    held[request.id] = None


def _put_model(state: State, model: Model) -> None:
    state.models[model.name] = model
    if model.scheduling.everywhere:
        state.everywhere[model.name] = None
    else:
        state.everywhere.pop(model.name, None)


# --- nodes ----------------------------------------------------------------------------------------------------------


@_applies(ev.NodeRegistered)
def _node_registered(state: State, event: ev.NodeRegistered) -> None:
    old = state.nodes.get(event.node)
    approved = old.approved if old else False
    drained = old.drained if old else False
    node = Node(
        name=event.node,
        address=event.address,
        boot=event.boot,
        status=_status(approved, drained),
        approved=approved,
        drained=drained,
        worker_labels=event.labels,
        operator_labels=old.operator_labels if old else {},
        pools=event.pools,
        foreign=event.foreign or (0,) * len(event.pools),
        budget=event.budget,
        ram=event.ram,
        disk=event.disk,
        max_replicas_per_model=event.max_replicas_per_model,
        gpu_vendor=event.gpu_vendor,
        offline_at=FOREVER,
    )
    if old is None or len(old.pools) != len(event.pools):
        _recount_committed(state, event.node, len(event.pools))
    _put_node(state, node)


def _recount_committed(state: State, node: str, pools: int) -> None:
    """The node has another number of pools than before: count its claims anew."""
    state.committed[node] = (0,) * pools
    for replica_id in state.by_node.get(node, ()):
        replica = state.replicas[replica_id]
        state.commit(node, replica.claim, +1, replica.owed)


def _status(approved: bool, drained: bool) -> NodeStatus:
    if not approved:
        return NodeStatus.PENDING
    return NodeStatus.DRAINING if drained else NodeStatus.HEALTHY


@_applies(ev.NodeApproved)
def _node_approved(state: State, event: ev.NodeApproved) -> None:
    node = state.nodes[event.node]
    status = _status(True, node.drained) if node.status is NodeStatus.PENDING else node.status
    insort(state.approved, node.name)
    _put_node(state, replace(node, approved=True, status=status))


@_applies(ev.NodeLabelsChanged)
def _node_labels_changed(state: State, event: ev.NodeLabelsChanged) -> None:
    _put_node(state, replace(state.nodes[event.node], operator_labels=event.labels))


@_applies(ev.NodeCapacityChanged)
def _node_capacity_changed(state: State, event: ev.NodeCapacityChanged) -> None:
    node = state.nodes[event.node]
    if len(node.pools) != len(event.pools):
        _recount_committed(state, event.node, len(event.pools))
    _put_node(state, replace(node, pools=event.pools, foreign=event.foreign, disk=event.disk, ram=event.ram))


@_applies(ev.NodeBudgetSet)
def _node_budget_set(state: State, event: ev.NodeBudgetSet) -> None:
    _put_node(state, replace(state.nodes[event.node], budget=event.budget))


@_applies(ev.NodeReplicaSlotsSet)
def _node_replica_slots_set(state: State, event: ev.NodeReplicaSlotsSet) -> None:
    _put_node(state, replace(state.nodes[event.node], max_replicas_per_model=event.max_replicas_per_model))


@_applies(ev.NodeBecameUnreachable)
def _node_became_unreachable(state: State, event: ev.NodeBecameUnreachable) -> None:
    node = state.nodes[event.node]
    _put_node(state, replace(node, status=NodeStatus.UNREACHABLE, offline_at=event.offline_at))
    state.set_timer(event.offline_at, "offline", node.name)


@_applies(ev.NodeRecovered)
def _node_recovered(state: State, event: ev.NodeRecovered) -> None:
    node = state.nodes[event.node]
    _put_node(state, replace(node, status=_status(node.approved, node.drained), offline_at=FOREVER))


@_applies(ev.NodeDrainStarted)
def _node_drain_started(state: State, event: ev.NodeDrainStarted) -> None:
    node = state.nodes[event.node]
    status = NodeStatus.DRAINING if node.status is NodeStatus.HEALTHY else node.status
    _put_node(state, replace(node, drained=True, status=status))


@_applies(ev.NodeResumed)
def _node_resumed(state: State, event: ev.NodeResumed) -> None:
    node = state.nodes[event.node]
    status = NodeStatus.HEALTHY if node.status is NodeStatus.DRAINING else node.status
    _put_node(state, replace(node, drained=False, status=status))


@_applies(ev.NodeWentOffline)
def _node_went_offline(state: State, event: ev.NodeWentOffline) -> None:
    _put_node(state, replace(state.nodes[event.node], status=NodeStatus.OFFLINE, offline_at=FOREVER))


@_applies(ev.NodeRemoved)
def _node_removed(state: State, event: ev.NodeRemoved) -> None:
    node = state.nodes.pop(event.node)
    if node.approved:
        state.approved.remove(node.name)
    for candidates in state.candidate_sets.values():
        candidates.nodes.pop(node.name, None)
        candidates.place(node.name, None)
    for index in (state.committed, state.staged, state.disk_used):
        index.pop(node.name, None)
    for key in [key for key in state.strays if key[0] == node.name]:
        del state.strays[key]


@_applies(ev.StrayFound)
def _stray_found(state: State, event: ev.StrayFound) -> None:
    state.strays[event.node, event.process] = Stray(event.node, event.process, event.model)


@_applies(ev.StrayStopped)
def _stray_stopped(state: State, event: ev.StrayStopped) -> None:
    state.strays.pop((event.node, event.process), None)


# --- models ---------------------------------------------------------------------------------------------------------


@_applies(ev.ModelDeclared)
def _model_declared(state: State, event: ev.ModelDeclared) -> None:
    state.index_selector(event.scheduling.selector)
    _put_model(
        state,
        Model(event.model, event.aliases, event.scheduling, event.revision, event.spec, event.revision, event.spec),
    )
    for alias in event.aliases:
        state.aliases[alias] = event.model
    _reindex_replicas_of(state, event.model)


def _reindex_replicas_of(state: State, model: str) -> None:
    for replica in state.by_model.get(model, ()):
        state.index_warm(state.replicas[replica])


@_applies(ev.ModelSchedulingChanged)
def _model_scheduling_changed(state: State, event: ev.ModelSchedulingChanged) -> None:
    model = state.models[event.model]
    state.index_selector(event.scheduling.selector)
    _put_model(state, replace(model, scheduling=event.scheduling, aliases=event.aliases))
    for alias in model.aliases:
        del state.aliases[alias]
    for alias in event.aliases:
        state.aliases[alias] = event.model
    state.drop_unused_selectors()
    _reindex_replicas_of(state, event.model)


@_applies(ev.RevisionDeclared)
def _revision_declared(state: State, event: ev.RevisionDeclared) -> None:
    model = state.models[event.model]
    edited = replace(model, declared=event.revision, declared_spec=event.spec, failures=0, failed_nodes=(), retry_at=0)
    _put_model(state, edited)


@_applies(ev.RevisionServing)
def _revision_serving(state: State, event: ev.RevisionServing) -> None:
    model = state.models[event.model]
    _put_model(state, replace(model, serving=event.revision, serving_spec=model.declared_spec))
    _reindex_replicas_of(state, event.model)


@_applies(ev.LoadInfoStored)
def _load_info_stored(state: State, event: ev.LoadInfoStored) -> None:
    model = state.models[event.model]
    _put_model(state, replace(model, declared_spec=event.spec, serving_spec=event.spec))


@_applies(ev.ModelParked)
def _model_parked(state: State, event: ev.ModelParked) -> None:
    _put_model(state, replace(state.models[event.model], parked=Parked(event.reason, event.lacks, event.until)))
    state.parked[event.model] = None
    if event.until < FOREVER:
        state.set_timer(event.until, "unpark", event.model)


@_applies(ev.ModelUnparked)
def _model_unparked(state: State, event: ev.ModelUnparked) -> None:
    _put_model(state, replace(state.models[event.model], parked=None))
    del state.parked[event.model]


@_applies(ev.ModelRemoved)
def _model_removed(state: State, event: ev.ModelRemoved) -> None:
    model = state.models.pop(event.model)
    state.parked.pop(event.model, None)
    state.everywhere.pop(event.model, None)
    for alias in model.aliases:
        state.aliases.pop(alias, None)
    _reindex_replicas_of(state, event.model)
    state.drop_unused_selectors()


# --- requests -------------------------------------------------------------------------------------------------------


@_applies(ev.RequestQueued)
def _request_queued(state: State, event: ev.RequestQueued) -> None:
    old = state.requests.get(event.request)
    serial = old.serial if old else state.arrivals
    if old is None:
        state.arrivals += 1
    request = Request(
        event.request, event.model, event.holder, event.tenant, event.priority, event.arrival, event.deadline,
        serial, RequestStatus.QUEUED, "", event.wait, event.passes,
    )  # fmt: skip
    _put_request(state, request)
    if old is None or old.status is not RequestStatus.QUEUED:
        insort(state.queues.setdefault(event.model, []), (-event.priority, serial, event.request))
        state.set_timer(event.deadline, "deadline", event.request)
    if event.wait.until < FOREVER:
        state.set_timer(event.wait.until, "wake", event.request)


@_applies(ev.RequestWoken)
def _request_woken(state: State, event: ev.RequestWoken) -> None:
    request = state.requests[event.request]
    state.requests[event.request] = replace(request, wait=Wait("woken"))


@_applies(ev.RequestCancelled)
def _request_cancelled(state: State, event: ev.RequestCancelled) -> None:
    _forget_request(state, event.request)


@_applies(ev.RequestRefused)
def _request_refused(state: State, event: ev.RequestRefused) -> None:
    _forget_request(state, event.request)


def _forget_request(state: State, request_id: str) -> None:
    request = state.requests.get(request_id)
    if request is not None:
        if request.status is RequestStatus.QUEUED:
            _leave_queue(state, request)
        _end_request(state, request)


# --- replicas -------------------------------------------------------------------------------------------------------


@_applies(ev.ReplicaReserved)
def _replica_reserved(state: State, event: ev.ReplicaReserved) -> None:
    state.reservations += 1
    replica = Replica(
        event.replica, state.reservations, event.model, event.node, event.index, event.revision, Phase.RESERVED,
        event.claim, event.owed, event.disk, silent_at=event.silent_at, held=bool(event.victims),
    )  # fmt: skip
    state.by_node.setdefault(event.node, {})[replica.id] = None
    state.by_model.setdefault(event.model, {})[replica.id] = None
    state.by_slot.setdefault((event.node, event.model), {})[event.index] = replica.id
    if event.victims:
        state.awaited[replica.id] = dict.fromkeys(event.victims)
    if event.disk:
        state.disk_used[event.node] = state.disk_used.get(event.node, 0) + event.disk
    state.commit(event.node, event.claim, +1, event.owed)
    _put_replica(state, replica)
    state.index_free(event.node)
    arm_idle_of(state, event.model)


@_applies(ev.BackendInstallRequested)
def _backend_install_requested(state: State, event: ev.BackendInstallRequested) -> None:
    replica = state.replicas[event.replica]
    _put_replica(state, replace(replica, phase=Phase.INSTALLING, op=event.op, silent_at=event.silent_at))


@_applies(ev.BackendInstalled)
def _backend_installed(state: State, event: ev.BackendInstalled) -> None:
    state.replicas[event.replica] = replace(state.replicas[event.replica], address=event.address)


@_applies(ev.StagingStarted)
def _staging_started(state: State, event: ev.StagingStarted) -> None:
    replica = state.replicas[event.replica]
    _put_replica(state, replace(replica, phase=Phase.STAGING, op=event.op, silent_at=event.silent_at, done=0, total=0))


@_applies(ev.LoadStarted)
def _load_started(state: State, event: ev.LoadStarted) -> None:
    replica = state.replicas[event.replica]
    if replica.disk:
        staged = state.staged.setdefault(replica.node, {})
        if (replica.model, replica.revision) in staged:
            _unstage(state, replica)  # a second copy beside one that staged the same files meanwhile
        staged[replica.model, replica.revision] = replica.disk
    _put_replica(state, replace(replica, phase=Phase.LOADING, op=event.op, silent_at=event.silent_at, done=0, total=0))


@_applies(ev.LoadProgressed)
def _load_progressed(state: State, event: ev.LoadProgressed) -> None:
    replica = state.replicas[event.replica]
    _put_replica(state, replace(replica, silent_at=event.silent_at, done=event.done, total=event.total))


@_applies(ev.ReplicaLoaded)
def _replica_loaded(state: State, event: ev.ReplicaLoaded) -> None:
    replica = replace(
        state.replicas[event.replica],
        phase=Phase.LOADED,
        silent_at=FOREVER,
        done=0,
        total=0,
        loaded_at=event.at,
        evictable_at=event.evictable_at,
    )
    model = state.models.get(event.model)
    if model is not None and (model.failures or model.failed_nodes):
        _put_model(state, replace(model, failures=0, failure="", failed_nodes=(), retry_at=0))
    _put_replica(state, replica)
    arm_idle(state, replica)
    arm_idle_of(state, event.model)


@_applies(ev.ReplicaLoadFailed)
def _replica_load_failed(state: State, event: ev.ReplicaLoadFailed) -> None:
    replica = state.replicas[event.replica]
    model = state.models.get(event.model)
    if model is not None and event.counts and replica.revision == model.declared:
        nodes = model.failed_nodes if event.node in model.failed_nodes else (*model.failed_nodes, event.node)
        _put_model(
            state,
            replace(
                model, failures=model.failures + 1, failure=event.reason, failed_nodes=nodes, retry_at=event.retry_at
            ),
        )
    _let_go(state, replica, event.gone, "load failed", event.op, event.silent_at)


def _let_go(state: State, replica: Replica, gone: bool, reason: str, op: int, silent_at: int) -> None:
    """The replica stops being one: at once when nothing is left of it, else after the worker has cleaned up."""
    _drop_locks(state, replica)
    if gone:
        _drop_replica(state, replica)
        return
    _unstage(state, replica)
    state.awaited.pop(replica.id, None)
    leaving = replace(replica, phase=Phase.UNLOADING, reason=reason, op=op, silent_at=silent_at, tries=1)
    _put_replica(state, leaving)


@_applies(ev.ReplicaLocked)
def _replica_locked(state: State, event: ev.ReplicaLocked) -> None:
    request = state.requests.get(event.request)
    if request is not None and request.status is RequestStatus.QUEUED:
        _leave_queue(state, request)
    serial = request.serial if request is not None else state.arrivals
    if request is None:
        state.arrivals += 1
    _put_request(
        state,
        Request(
            event.request, event.model, event.holder, event.tenant, event.priority, event.arrival, event.deadline,
            serial, RequestStatus.LOCKED, event.replica, None, event.passes,
        ),
    )  # fmt: skip
    held = state.locks.get(event.replica)
    if held is None:
        held = state.locks[event.replica] = {}
    held[event.request] = None
    _used(state, event.replica, event.at)


def _used(state: State, replica_id: str, at: int) -> None:
    """The replica was used now, and its number of locks has changed."""
    replica = state.replicas[replica_id] = replace(state.replicas[replica_id], used_at=at)
    warm = state.warm.get(replica.model)
    if warm is not None and replica_id in warm.where:
        warm.put(replica, len(state.locks.get(replica_id, ())))


@_applies(ev.ReplicaReleased)
def _replica_released(state: State, event: ev.ReplicaReleased) -> None:
    request = state.requests[event.request]
    _end_request(state, request)
    if request.status is not RequestStatus.LOCKED:
        return
    held = state.locks[request.replica]
    del held[event.request]
    if not held:
        del state.locks[request.replica]
    _used(state, request.replica, event.at)
    if not held:
        arm_idle(state, state.replicas[request.replica])


@_applies(ev.ReplicaFoundIdle)
def _replica_found_idle(state: State, event: ev.ReplicaFoundIdle) -> None:
    state.replicas[event.replica] = replace(state.replicas[event.replica], idle_seen_at=event.at)


@_applies(ev.ReplicaEvicted)
def _replica_evicted(state: State, event: ev.ReplicaEvicted) -> None:
    replica = replace(
        state.replicas[event.replica],
        phase=Phase.UNLOADING,
        reason="evicted",
        beneficiary=event.beneficiary,
        op=event.op,
        silent_at=event.silent_at,
        tries=1,
    )
    _put_replica(state, replica)


@_applies(ev.HoldReleased)
def _hold_released(state: State, event: ev.HoldReleased) -> None:
    """The held bytes are part of the beneficiary's claim; from here on they are its own, or free with it."""
    replica = state.replicas.get(event.replica)
    if replica is not None:
        state.replicas[replica.id] = replace(replica, held=False)


@_applies(ev.UnloadRequested)
def _unload_requested(state: State, event: ev.UnloadRequested) -> None:
    replica = state.replicas[event.replica]
    _unstage(state, replica)
    _put_replica(
        state,
        replace(
            replica,
            phase=Phase.UNLOADING,
            reason=event.reason,
            op=event.op,
            silent_at=event.silent_at,
            tries=event.tries,
        ),
    )


@_applies(ev.UnloadConfirmed)
def _unload_confirmed(state: State, event: ev.UnloadConfirmed) -> None:
    _drop_replica(state, state.replicas[event.replica])


@_applies(ev.ReplicaLost)
def _replica_lost(state: State, event: ev.ReplicaLost) -> None:
    _let_go(state, state.replicas[event.replica], event.gone, "lost", event.op, event.silent_at)


# --- scheduler ------------------------------------------------------------------------------------------------------


@_applies(ev.EpochStarted)
def _epoch_started(state: State, event: ev.EpochStarted) -> None:
    """The ledger keeps the epoch."""


@_applies(ev.HolderLost)
def _holder_lost(state: State, event: ev.HolderLost) -> None:
    """Its requests end by events of their own, which follow."""


@_applies(ev.SettingsChanged)
def _settings_changed(state: State, event: ev.SettingsChanged) -> None:
    state.settings = replace(state.settings, **event.values)
    if "scale_down_delay" in event.values or "idle_unload" in event.values:
        for replica in state.replicas.values():
            arm_idle(state, replica)


@_applies(ev.Frozen)
def _frozen(state: State, event: ev.Frozen) -> None:
    state.frozen[event.what] = None


@_applies(ev.Thawed)
def _thawed(state: State, event: ev.Thawed) -> None:
    state.frozen.pop(event.what, None)
