"""Folding a replica's life, its locks among it."""

from __future__ import annotations

from msgspec.structs import replace

from interlock.domain import events as ev
from interlock.domain.claims import Claim
from interlock.domain.entities import ANSWERED, Model, Phase, Replica, Request, RequestStatus
from interlock.domain.recent_use import count_eviction, count_use, remember_uses
from interlock.domain.state import State
from interlock.domain.timers import arm_idle, arm_idle_of
from interlock.domain.trials import early_deaths, has_lasted
from interlock.domain.units import FOREVER

from .changes import (
    count_disk,
    drop_locks,
    drop_replica,
    end_request,
    free_victims,
    leave_queue,
    put_model,
    put_replica,
    put_request,
    stay_after_all,
    unstage,
)
from .handlers import applies
from .tenants import take_in


@applies(ev.ReplicaReserved)
def _replica_reserved(state: State, event: ev.ReplicaReserved) -> None:
    state.reservations += 1
    node, model = state.one_string_each(event.node, event.model)
    replica = Replica(
        event.replica, state.reservations, model, node, event.index, event.revision, Phase.RESERVED,
        event.claim, event.owed, event.disk, silent_at=event.silent_at, held=bool(event.victims),
        owed_in=event.owed_in or _owed_in(event), drops=event.drops,
    )  # fmt: skip
    state.by_node.setdefault(event.node, {})[replica.id] = None
    state.by_model.setdefault(event.model, {})[replica.id] = None
    state.by_slot.setdefault((event.node, event.model), {})[event.index] = replica.id
    if event.victims:
        state.awaited[replica.id] = dict.fromkeys(event.victims)
    for model, revision, size in event.drops:
        state.drop_staged(event.node, model, revision)
        count_disk(state, event.node, -size)
    count_disk(state, event.node, replica.disk_coming)
    state.commit(event.node, replica.present, +1)
    put_replica(state, replica)
    state.index_free(event.node)
    arm_idle_of(state, event.model)


def _owed_in(event: ev.ReplicaReserved) -> Claim:
    """Logs from before models could span pools tell only how much: it is owed in the one pool of the claim."""
    return ((event.claim[0][0], event.owed),) if event.owed else ()


@applies(ev.BackendInstallRequested)
def _backend_install_requested(state: State, event: ev.BackendInstallRequested) -> None:
    replica = state.replicas[event.replica]
    put_replica(
        state,
        replace(replica, phase=Phase.INSTALLING, op=event.op, silent_at=event.silent_at, give_up_at=FOREVER),
    )


@applies(ev.BackendInstalled)
def _backend_installed(state: State, event: ev.BackendInstalled) -> None:
    state.replicas[event.replica] = replace(state.replicas[event.replica], address=event.address)


@applies(ev.StagingStarted)
def _staging_started(state: State, event: ev.StagingStarted) -> None:
    replica = state.replicas[event.replica]
    _begins(state, replica, Phase.STAGING, event)
    count_disk(state, event.node, state.replicas[replica.id].disk_coming - replica.disk_coming)


@applies(ev.LoadStarted)
def _load_started(state: State, event: ev.LoadStarted) -> None:
    replica = state.replicas[event.replica]
    if replica.disk:
        if (replica.model, replica.revision) in state.staged.get(replica.node, {}):
            unstage(state, replica)  # a second copy beside one that staged the same files meanwhile
        for revision in state.other_revisions_staged(replica.node, replica.model, replica.revision):
            count_disk(state, replica.node, -state.staged[replica.node][replica.model, revision])
            state.drop_staged(replica.node, replica.model, revision)  # they have one place: these took it
        state.stage(replica.node, replica.model, replica.revision, replica.disk)
        stay_after_all(state, replica.node, replica.model)
    if event.stage_rate:
        state.nodes[replica.node] = replace(state.nodes[replica.node], stage_rate=event.stage_rate)
    _begins(state, replica, Phase.LOADING, event)


def _begins(state: State, replica: Replica, phase: Phase, event: ev.StagingStarted | ev.LoadStarted) -> None:
    put_replica(
        state,
        replace(
            replica, phase=phase, op=event.op, silent_at=event.silent_at, give_up_at=event.give_up_at, done=0, total=0
        ),
    )


@applies(ev.LoadProgressed)
def _load_progressed(state: State, event: ev.LoadProgressed) -> None:
    replica = state.replicas[event.replica]
    put_replica(
        state,
        replace(replica, silent_at=event.silent_at, done=event.done, total=event.total, give_up_at=event.give_up_at),
    )


@applies(ev.ReplicaLoaded)
def _replica_loaded(state: State, event: ev.ReplicaLoaded) -> None:
    replica = replace(
        state.replicas[event.replica],
        phase=Phase.LOADED,
        silent_at=FOREVER,
        give_up_at=FOREVER,
        done=0,
        total=0,
        loaded_at=event.at,
        evictable_at=event.evictable_at,
        trial_until=event.trial_until,
    )
    model = state.models.get(event.model)
    if event.load_rate:
        state.nodes[event.node] = replace(state.nodes[event.node], load_rate=event.load_rate)
    if model is not None and (model.failures or model.failed_nodes or model.churn != event.churn):
        put_model(state, replace(_loads_again(model), churn=event.churn))
    put_replica(state, remember_uses(state, replica))
    arm_idle(state, replica)
    arm_idle_of(state, event.model)


@applies(ev.ReplicaLoadFailed)
def _replica_load_failed(state: State, event: ev.ReplicaLoadFailed) -> None:
    replica = state.replicas[event.replica]
    model = state.models.get(event.model)
    if model is not None and event.counts and replica.revision == model.declared:
        nodes = _with(model.failed_nodes, event.node)
        put_model(
            state,
            replace(
                model, failures=model.failures + 1, failure=event.reason, failed_nodes=nodes, retry_at=event.retry_at
            ),
        )
    _let_go(state, replica, "load failed", event)


def _loads_again(model: Model) -> Model:
    """The model as if no load of it had ever failed; copies that died early had loaded, too."""
    return _at_rest(replace(model, failures=0, failed_nodes=()))


def _lasts(model: Model) -> Model:
    """The model as if no copy of it had ever died early."""
    return _at_rest(replace(model, early_deaths=0, died_on=()))


def _at_rest(model: Model) -> Model:
    return model if model.tries_failed else replace(model, failure="", retry_at=0)


def _stops_serving(state: State, replica: Replica, now: int) -> None:
    """If it has lasted, that is remembered: it ends the row of those that died before it."""
    model = state.models.get(replica.model)
    if model is not None and model.early_deaths and has_lasted(replica, model, now):
        put_model(state, _lasts(model))


def _forgiven(model: Model) -> Model:
    """The model as if no try of it had ever failed."""
    return _lasts(_loads_again(model))


def _with(nodes: tuple[str, ...], node: str) -> tuple[str, ...]:
    return nodes if node in nodes else (*nodes, node)


def _let_go(state: State, replica: Replica, reason: str, event: ev.ReplicaLoadFailed | ev.ReplicaLost) -> None:
    """The replica stops being one: at once when nothing is left of it, else after the worker has cleaned up."""
    drop_locks(state, replica)
    free_victims(state, replica, event.room_by)
    if event.gone:
        drop_replica(state, replica)
        return
    unstage(state, replica)
    put_replica(
        state,
        replace(
            replica, phase=Phase.UNLOADING, reason=reason, op=event.op, silent_at=event.silent_at, tries=1,
            room_by=event.room_by,
        ),
    )  # fmt: skip


@applies(ev.ReplicaLocked)
def _replica_locked(state: State, event: ev.ReplicaLocked) -> None:
    request = state.requests.get(event.request)
    if request is not None and request.status is RequestStatus.QUEUED:
        leave_queue(state, request)
    serial = request.serial if request is not None else state.arrivals
    if request is None:
        state.arrivals += 1
        if event.tenant:
            take_in(state, event.tenant, event.at)
    put_request(
        state,
        Request(
            event.request, event.model, event.holder, event.tenant, event.priority, event.arrival, event.deadline,
            serial, RequestStatus.LOCKED, event.replica, None, event.passes, event.prefix,
        ),
    )  # fmt: skip
    held = state.locks.get(event.replica)
    if held is None:
        held = state.locks[event.replica] = {}
    held[event.request] = None
    _used(state, count_use(state, state.replicas[event.replica], event.at))
    if event.prefix:
        state.prefixes.note(event.model, event.replica, event.prefix)


def _used(state: State, replica: Replica) -> None:
    """The replica was used now, and its number of locks has changed."""
    state.replicas[replica.id] = replica
    warm = state.warm.get(replica.model)
    if warm is not None and replica.id in warm.where:
        warm.put(replica, len(state.locks.get(replica.id, ())))


@applies(ev.ReplicaReleased)
def _replica_released(state: State, event: ev.ReplicaReleased) -> None:
    request = state.requests[event.request]
    end_request(state, request)
    if request.status is RequestStatus.LOCKED:
        if event.outcome in ANSWERED:
            _off_trial(state, event.replica)
        _unlock(state, request, event.at)


def _others_say_nothing_new(state: State, model: Model) -> None:
    """In a row are only the deaths of copies that come after this one: those that are there may die of the same."""
    for replica in state.by_model[model.name]:
        _off_trial(state, replica)


def _off_trial(state: State, replica: str) -> None:
    if state.replicas[replica].trial_until:
        state.replicas[replica] = replace(state.replicas[replica], trial_until=0)


@applies(ev.ReplicaProved)
def _replica_proved(state: State, event: ev.ReplicaProved) -> None:
    put_model(state, _forgiven(state.models[event.model]))


@applies(ev.CallWentUnanswered)
def _call_went_unanswered(state: State, event: ev.CallWentUnanswered) -> None:
    request = state.requests[event.request]
    put_request(state, replace(request, status=RequestStatus.ADRIFT, replica=""))
    _unlock(state, request, event.at)


def _unlock(state: State, request: Request, now: int) -> None:
    """Take the request's lock from its replica."""
    held = state.locks[request.replica]
    del held[request.id]
    if not held:
        del state.locks[request.replica]
    _used(state, replace(state.replicas[request.replica], used_at=now))
    if not held:
        arm_idle(state, state.replicas[request.replica])


@applies(ev.ReplicaFoundIdle)
def _replica_found_idle(state: State, event: ev.ReplicaFoundIdle) -> None:
    state.replicas[event.replica] = replace(state.replicas[event.replica], idle_seen_at=event.at)


@applies(ev.ReplicaRetired)
def _replica_retired(state: State, event: ev.ReplicaRetired) -> None:
    state.prefixes.forget(event.replica)
    model = state.models[event.model]
    put_model(state, replace(model, made_way=model.declared))
    put_replica(state, replace(state.replicas[event.replica], retired=True))


@applies(ev.ReplicaEvicted)
def _replica_evicted(state: State, event: ev.ReplicaEvicted) -> None:
    count_eviction(state, state.replicas[event.replica])
    _stops_serving(state, state.replicas[event.replica], event.at)
    replica = replace(
        state.replicas[event.replica],
        phase=Phase.UNLOADING,
        reason="evicted",
        beneficiary=event.beneficiary,
        op=event.op,
        silent_at=event.silent_at,
        tries=1,
    )
    put_replica(state, replica)
    if event.counts_until:
        counted = [until for until in state.evictions.get(event.node, ()) if until > event.at]
        state.evictions[event.node] = (*counted, event.counts_until)
    model = state.models.get(event.model)
    if model is not None and model.churn != event.churn:
        put_model(state, replace(model, churn=event.churn))


@applies(ev.HoldReleased)
def _hold_released(state: State, event: ev.HoldReleased) -> None:
    """The held bytes are part of the beneficiary's claim; from here on they are its own, or free with it."""
    replica = state.replicas.get(event.replica)
    if replica is not None:
        state.replicas[replica.id] = replace(replica, held=False)


@applies(ev.UnloadRequested)
def _unload_requested(state: State, event: ev.UnloadRequested) -> None:
    replica = state.replicas[event.replica]
    _stops_serving(state, replica, event.at)
    unstage(state, replica)
    put_replica(
        state,
        replace(
            replica,
            phase=Phase.UNLOADING,
            reason=event.reason,
            op=event.op,
            silent_at=event.silent_at,
            tries=event.tries,
            room_by=event.room_by,
        ),
    )


@applies(ev.UnloadConfirmed)
def _unload_confirmed(state: State, event: ev.UnloadConfirmed) -> None:
    drop_replica(state, state.replicas[event.replica])


@applies(ev.ReplicaLost)
def _replica_lost(state: State, event: ev.ReplicaLost) -> None:
    model = state.models.get(event.model)
    if model is not None and event.early:
        if not early_deaths(state, model, event.at):
            model = _lasts(model)
        if event.retry_at:
            died_on = _with(model.died_on, event.node)
            model = replace(model, failure=event.reason, died_on=died_on, retry_at=event.retry_at)
        put_model(state, replace(model, early_deaths=model.early_deaths + 1))
        _others_say_nothing_new(state, model)
    else:
        _stops_serving(state, state.replicas[event.replica], event.at)
    _let_go(state, state.replicas[event.replica], "lost", event)
