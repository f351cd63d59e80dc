"""The load workflow: reserve, install, stage, load, loaded or failed, unload; one durable job per replica.

Every step is an event, every question to the worker an effect that follows from the replica's phase. ``silent_at`` is
the instant at which an operation that shows no progress counts as failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from . import events as ev
from . import patience, trials
from .causes import LoadCause
from .churn import churn_after_eviction, churn_after_load, stay
from .claims import in_pools, total
from .commands import (
    EvictReplica,
    ReportInstalled,
    ReportLoaded,
    ReportLoadFailed,
    ReportProgress,
    ReportReplicaDied,
    ReportStaged,
    ReportUnloaded,
)
from .disk import files_to_drop
from .effects import Effect, InstallBackend, LoadModel, StageModel, StopStray, UnloadModel
from .entities import LOADING_PHASES, Model, Phase, Replica, Request
from .errors import Conflict, NotFound
from .eviction import Eviction
from .explanation import Explanation
from .placement import Room
from .refusals import RefusalCode
from .routing import Evict, Place, is_spent, tries_in_words
from .settings import Settings
from .state import State
from .survey import survey_warm
from .units import FOREVER, MINUTE, SECOND, format_size

if TYPE_CHECKING:
    from .requests import Asking  # which itself needs this module to run

LONGEST_BACKOFF = 5 * MINUTE
SHORTEST_PAUSE = SECOND
"""How long a model is left alone at least when its tries are spent."""
UNLOAD_TRIES = 3
"""An unload is asked for so often; after that only the worker's own word about what it runs settles it."""


def operation(replica: Replica, op: int | None = None) -> str:
    """The operation id that effects and answers quote."""
    return f"{replica.id}.{replica.op if op is None else op}"


# --- beginning ------------------------------------------------------------------------------------------------------


def begin(state: State, model: Model, plan: Place | Evict, now: int, cause: LoadCause) -> list[ev.Event]:
    """Reserve what the plan found, evicting its victims in the same step, and start installing when nobody must leave.

    Victims have one more silent window than a load to be gone: that is the deadline of the hold.
    """
    room: Room | Eviction = plan.room if isinstance(plan, Place) else plan.eviction
    replica = f"r-{state.reservations + 1:06d}"
    silent_at = now + state.settings.load_silence
    victims = plan.eviction.victims if isinstance(plan, Evict) else ()
    owed_in = plan.eviction.owed_in if isinstance(plan, Evict) else ()
    evicted: list[ev.Event] = [
        evict_for(state, state.replicas[victim], replica, model.name, plan.explanation, now) for victim in victims
    ]
    reserved = ev.ReplicaReserved(
        at=now, replica=replica, model=model.name, node=room.node, index=room.index, revision=model.declared,
        claim=room.claim, disk=room.disk, victims=victims,
        owed=total(owed_in), owed_in=owed_in, drops=files_to_drop(state, model, state.nodes[room.node]),
        cause=cause, silent_at=silent_at + (state.settings.load_silence if victims else 0),
        explanation=plan.explanation,
    )  # fmt: skip
    if victims:
        return [*evicted, reserved]
    install = ev.BackendInstallRequested(
        at=now, replica=replica, model=model.name, node=room.node, op=1, silent_at=silent_at
    )
    return [reserved, install]


def evict_for(
    state: State, victim: Replica, beneficiary: str, model: str, explanation: Explanation, now: int
) -> ev.ReplicaEvicted:
    """The event that makes a replica a victim."""
    settings = state.settings
    return ev.ReplicaEvicted(
        at=now, replica=victim.id, model=victim.model, node=victim.node, beneficiary=beneficiary,
        beneficiary_model=model, op=victim.op + 1, silent_at=now + state.settings.load_silence,
        counts_until=now + settings.eviction_window if settings.evictions_per_node else 0,
        churn=churn_after_eviction(state, victim, model, now), explanation=explanation,
    )  # fmt: skip


def _room_by(state: State, now: int) -> int:
    """Until when the room of a replica that begins to leave now is waited for; 0 when it is not."""
    patience = state.settings.unload_patience
    return now + patience if patience else 0


def unload(state: State, replica: Replica, reason: str, now: int, tries: int = 1) -> ev.UnloadRequested:
    """The event that makes a replica leave; the last try waits for the worker's word without a limit."""
    silent_at = now + state.settings.load_silence if tries < UNLOAD_TRIES else FOREVER
    return ev.UnloadRequested(
        at=now, replica=replica.id, model=replica.model, node=replica.node, reason=reason, op=replica.op + 1,
        silent_at=silent_at, tries=tries, room_by=_room_by(state, now) if tries == 1 else replica.room_by,
    )  # fmt: skip


# --- the worker's answers -------------------------------------------------------------------------------------------


def _awaiting(state: State, replica_id: str, op: str, phase: Phase) -> Replica | None:
    """The replica, if this answer is the one that it waits for; late and repeated answers change nothing."""
    replica = state.replicas.get(replica_id)
    if replica is None or replica.phase is not phase or operation(replica) != op:
        return None
    return replica


def installed(state: State, command: ReportInstalled, now: int) -> list[ev.Event]:
    """The process runs: stage the model's files, or load at once when they are there."""
    replica = _awaiting(state, command.replica, command.op, Phase.INSTALLING)
    if replica is None:
        return []
    following = ev.StagingStarted if replica.disk else ev.LoadStarted
    silent_at, give_up_at = _patience(state, replica, Phase.STAGING if replica.disk else Phase.LOADING, now)
    return [
        ev.BackendInstalled(
            at=now, replica=replica.id, model=replica.model, node=replica.node, address=command.address
        ),
        following(
            at=now, replica=replica.id, model=replica.model, node=replica.node, op=replica.op + 1, silent_at=silent_at,
            give_up_at=give_up_at,
        ),
    ]  # fmt: skip


def _patience(state: State, replica: Replica, phase: Phase, now: int) -> tuple[int, int]:
    """When an operation of this phase that begins now counts as silent, and when it ends whatever it shows."""
    size = patience.bytes_of(replica, phase)
    return now + patience.window(state.settings, size), now + patience.limit(state.settings, size)


def staged(state: State, command: ReportStaged, now: int) -> list[ev.Event]:
    """The files are there: load."""
    replica = _awaiting(state, command.replica, command.op, Phase.STAGING)
    if replica is None:
        return []
    silent_at, give_up_at = _patience(state, replica, Phase.LOADING, now)
    return [
        ev.LoadStarted(
            at=now, replica=replica.id, model=replica.model, node=replica.node, op=replica.op + 1,
            silent_at=silent_at, give_up_at=give_up_at,
            stage_rate=measured(state.nodes[replica.node].stage_rate, replica.disk, command.took),
        )
    ]  # fmt: skip


def measured(old: int, size: int, took: int) -> int:
    """The rate that a node counts with after moving ``size`` bytes in ``took`` microseconds; 0 when it stays as it was.

    One measurement is a quarter of it, and it is rounded to an eighth of its size, so that it rests.
    """
    if took <= 0 or size <= 0:
        return 0
    rate = size * SECOND // took
    if old:
        rate = (3 * old + rate) // 4
    coarse = max(0, rate.bit_length() - 4)
    rate = max(1, rate >> coarse << coarse)
    return 0 if rate == old else rate


def progressed(state: State, command: ReportProgress, now: int) -> list[ev.Event]:
    """Bytes moved: extend the silent window, up to the end of the operation's patience.

    So that the log stays small, only once a quarter of the window has passed, or another tenth of all bytes has moved.
    A word that names the same bytes as the last one is no progress.
    """
    replica = state.replicas.get(command.replica)
    if replica is None or replica.phase not in LOADING_PHASES or operation(replica) != command.op:
        return []
    if command.total and command.done == replica.done:
        return []
    silence, give_up_at = state.settings.load_silence, replica.give_up_at
    if give_up_at >= FOREVER:  # an install, or a load that began before there was a limit: known by its first word
        size = max(command.total, replica.disk, patience.bytes_of(replica, Phase.LOADING))
        give_up_at = now + patience.limit(state.settings, size)
    silent_at = min(now + silence, give_up_at)
    fresh = replica.silent_at >= min(now + silence - silence // 4, give_up_at)
    if fresh and _tenths(command.done, command.total) <= _tenths(replica.done, replica.total):
        return []
    return [
        ev.LoadProgressed(
            at=now, replica=replica.id, model=replica.model, node=replica.node, silent_at=silent_at,
            done=command.done, total=command.total, give_up_at=give_up_at,
        )
    ]  # fmt: skip


def _tenths(done: int, total: int) -> int:
    return min(10, 10 * done // total) if total > 0 else 0


def loaded(state: State, command: ReportLoaded, now: int) -> list[ev.Event]:
    """It can serve: in one step it becomes loaded, its revision serves, and its waiters get their locks."""
    replica = _awaiting(state, command.replica, command.op, Phase.LOADING)
    if replica is None:
        return []
    events = _now_loaded(state, replica, command.took, now)
    events += _hold_over(replica, "loaded", now)
    model = state.models.get(replica.model)
    if model is None:
        return [*events, unload(state, replica, "removed", now)]
    serving = model.serving
    usable = state.on_healthy_candidate(replica, model)
    if usable and replica.revision == model.declared != model.serving:
        events.append(ev.RevisionServing(at=now, model=model.name, revision=model.declared))
        serving = model.declared
    if usable and replica.revision == serving:
        room = model.scheduling.parallel or len(state.waiting(model.name))
        events += grants(state, model, replica, room, now, "the load it waited for is done")
    return events


def _now_loaded(state: State, replica: Replica, took: int, now: int) -> list[ev.Event]:
    """It is loaded, and stays for a while; longer when its model has been evicted and loaded again and again."""
    churn = churn_after_load(state, replica, now)
    staying = stay(state, replica, churn.cycles if churn is not None else 0)
    fresh = ev.ReplicaLoaded(
        at=now, replica=replica.id, model=replica.model, node=replica.node, address=replica.address,
        evictable_at=now + staying, churn=churn, trial_until=now + trials.TRIAL,
        load_rate=measured(state.nodes[replica.node].load_rate, _loaded_bytes(state, replica), took),
    )  # fmt: skip
    if churn is None or staying <= state.settings.min_residency:
        return [fresh]
    thrashing = ev.ThrashingDetected(
        at=now, model=replica.model, replica=replica.id, node=replica.node, others=churn.others, cycles=churn.cycles,
        since=churn.since, evictable_at=now + staying,
    )  # fmt: skip
    return [fresh, thrashing]


def _loaded_bytes(state: State, replica: Replica) -> int:
    """What a rate is measured by: a model's ``vram``, also where its ``ram`` lies in the same memory."""
    model = state.models.get(replica.model)
    beside = model.declared_spec.ram if model is not None and state.nodes[replica.node].unified else 0
    return max(0, total(in_pools(replica.claim)) - beside)


def _hold_over(replica: Replica, reason: str, now: int) -> list[ev.Event]:
    """What victims free is held for it no longer. Told before the replica ends: its stream ends with it."""
    if not replica.held:
        return []
    return [ev.HoldReleased(at=now, replica=replica.id, model=replica.model, node=replica.node, reason=reason)]


def grants(state: State, model: Model, replica: Replica, room: int, now: int, cause: str) -> list[ev.Event]:
    """Locks on this replica for the first ``room`` requests that wait for the model."""
    waiting = state.waiting(model.name)[:room]
    if not waiting:
        return []
    why = survey_warm(state, model, "granted", chosen=replica.id, node=replica.node)
    return [lock(model, replica, state.requests[request], why, now, cause) for _, _, request in waiting]


def lock(
    model: Model, replica: Replica, request: Request | Asking, why: Explanation, now: int, cause: str
) -> ev.ReplicaLocked:
    """The event that gives a request its replica, whether it has waited or comes now."""
    return ev.ReplicaLocked(
        at=now, replica=replica.id, model=model.name, node=replica.node, request=request.id,
        holder=request.holder, arrival=request.arrival, deadline=request.deadline, tenant=request.tenant,
        priority=request.priority, passes=request.passes, prefix=request.prefix, cause=cause,
        explanation=why,
    )  # fmt: skip


def load_failed(state: State, command: ReportLoadFailed, now: int) -> list[ev.Event]:
    """The worker says no, in its own words."""
    replica = state.replicas.get(command.replica)
    if replica is None or replica.phase not in LOADING_PHASES or operation(replica) != command.op:
        return []
    return fail(state, replica, command.reason, now)


def give_up(
    state: State, replica: Replica, reason: str, now: int, retry_at: int = 0, *, gone: bool = False
) -> list[ev.Event]:
    """End a load that is in progress: clean up on the worker, and free what was held for it.

    ``gone``: nothing is left of it on the node.
    """
    failed = ev.ReplicaLoadFailed(
        at=now, replica=replica.id, model=replica.model, node=replica.node, reason=reason, retry_at=retry_at,
        gone=gone or replica.phase is Phase.RESERVED, op=replica.op + 1, silent_at=now + state.settings.load_silence,
        counts=retry_at > 0, room_by=_room_by(state, now),
    )  # fmt: skip
    return [*_hold_over(replica, "failed", now), failed]


def pause_after(settings: Settings, failures: int) -> int:
    """For how long a model is not loaded after so many failed loads in a row.

    ``load_backoff``, doubled with each further one, up to five minutes. When its tries are spent there is a pause
    whatever the setting: else nobody would notice that they are, and a floor would be loaded on and on.
    """
    pause = settings.load_backoff << (failures - 1)
    if failures >= settings.load_attempts:
        pause = max(pause, SHORTEST_PAUSE << (failures - settings.load_attempts))
    return min(pause, LONGEST_BACKOFF)


def retry_after_death(state: State, model: Model, now: int) -> int:
    """When a model is loaded again of which a copy has died early; 0 when at once.

    One such death may be an accident. A second in a row is as good as a load that failed: else one copy would be loaded
    after the other for ever.
    """
    deaths = trials.early_deaths(state, model, now)
    return now + pause_after(state.settings, max(model.failures, deaths)) if deaths else 0


def fail(state: State, replica: Replica, reason: str, now: int, *, gone: bool = False) -> list[ev.Event]:
    """A load went wrong: give it up, back off, and refuse its waiters when the model's tries are spent."""
    model = state.models.get(replica.model)
    failures = (model.failures if model else 0) + 1
    deaths = model.early_deaths - 1 if model else 0
    retry_at = now + pause_after(state.settings, max(failures, deaths))
    events = give_up(state, replica, reason, now, retry_at, gone=gone)
    alone = len(state.loading.get(replica.model, ())) <= 1
    if model is not None and alone and model.name not in state.warm and _hopeless(state, model, replica, failures):
        hung = replica.phase is Phase.RESERVED
        tries = tries_in_words(msgspec.structs.replace(model, failures=failures))
        message = f"{tries}; {'at last' if hung else 'the backend said'}: {reason}"
        cure = (
            f"See why {replica.node} unloads nothing." if hung else "Mend what the backend reports, or edit the model."
        )
        explanation = Explanation("load failed", cure=cure)
        events += [
            ev.RequestRefused(
                at=now, model=model.name, request=request, code=RefusalCode.LOAD_FAILED, message=message,
                retry_after=retry_at - now, tenant=state.requests[request].tenant, explanation=explanation,
            )
            for _, _, request in state.waiting(model.name)
        ]  # fmt: skip
    return events


def _hopeless(state: State, model: Model, failed: Replica, failures: int) -> bool:
    """Whether the model's tries are spent with this load."""
    nodes = tuple(dict.fromkeys((*model.failed_nodes, failed.node)))
    return is_spent(state, msgspec.structs.replace(model, failures=failures, failed_nodes=nodes))


def unloaded(state: State, command: ReportUnloaded, now: int) -> list[ev.Event]:
    """The worker has let go: free what it held; once all its victims are gone, the load they made room for goes on."""
    replica = _awaiting(state, command.replica, command.op, Phase.UNLOADING)
    return confirm_unload(state, replica, now) if replica is not None else []


def confirm_unload(state: State, replica: Replica, now: int) -> list[ev.Event]:
    """UnloadConfirmed, and the beneficiary's install when this was the last of its victims."""
    confirmed = ev.UnloadConfirmed(at=now, replica=replica.id, model=replica.model, node=replica.node)
    return [confirmed, *_install_beneficiary(state, replica, now)]


def _install_beneficiary(state: State, victim: Replica, now: int) -> list[ev.Event]:
    if list(state.awaited.get(victim.beneficiary, ())) != [victim.id]:
        return []
    waiting = state.replicas[victim.beneficiary]
    return [
        ev.BackendInstallRequested(
            at=now, replica=waiting.id, model=waiting.model, node=waiting.node, op=waiting.op + 1,
            silent_at=now + state.settings.load_silence,
        )
    ]  # fmt: skip


# --- ending otherwise -----------------------------------------------------------------------------------------------


def silent(state: State, replica: Replica, now: int) -> list[ev.Event]:
    """The operation in progress showed nothing for its whole window."""
    if replica.phase is Phase.UNLOADING:
        return [unload(state, replica, replica.reason, now, replica.tries + 1)]
    if replica.done and replica.give_up_at <= now:
        moved = f"{format_size(replica.done)} of {format_size(replica.total)}"
        rate = format_size(state.settings.slowest_load_rate)
        text = f"moved only {moved} while {replica.phase.value}: slower than slowest_load_rate ({rate}/s) allows"
        return fail(state, replica, text, now)
    if replica.phase is Phase.RESERVED:
        victims = ", ".join(state.awaited.get(replica.id, ()))
        return fail(state, replica, f"what was to make room for it on {replica.node} has not left: {victims}", now)
    size = 0 if replica.done else patience.bytes_of(replica, replica.phase)
    seconds = patience.window(state.settings, size) // SECOND
    return fail(state, replica, f"no progress for {seconds} s while {replica.phase.value}", now)


def died(state: State, command: ReportReplicaDied, now: int) -> list[ev.Event]:
    """The replica's process ended by itself; during its load, as when it ran out of memory, that load failed."""
    replica = state.replicas.get(command.replica)
    if replica is None or replica.phase is Phase.RESERVED:
        return []
    if replica.phase in LOADING_PHASES:
        return fail(state, replica, command.reason, now, gone=True)
    return lose(state, replica, command.reason, now, gone=True, died=True)


def lose(state: State, replica: Replica, reason: str, now: int, *, gone: bool, died: bool = False) -> list[ev.Event]:
    """The replica no longer serves. ``gone``: nothing is left of it on the node; else the worker is asked to clean up.

    ``died``: its own process has ended, or does not answer, while its node is well. A victim that is lost frees its
    memory like one that was unloaded; a load that is lost failed.
    """
    if replica.phase is Phase.UNLOADING and gone:
        return confirm_unload(state, replica, now)
    if replica.phase is Phase.UNLOADING:
        return []
    if replica.phase in LOADING_PHASES and not gone:
        return fail(state, replica, reason, now)
    early = died and trials.dies_early(state, replica, now)
    lost = ev.ReplicaLost(
        at=now, replica=replica.id, model=replica.model, node=replica.node, reason=reason, gone=gone,
        op=replica.op + 1, silent_at=now + state.settings.load_silence, room_by=_room_by(state, now),
        early=early, retry_at=retry_after_death(state, state.models[replica.model], now) if early else 0,
    )  # fmt: skip
    return [*(_hold_over(replica, "lost", now) if replica.phase in LOADING_PHASES else ()), lost]


def evict_by_hand(state: State, command: EvictReplica, now: int) -> list[ev.Event]:
    """An operator wants this replica gone."""
    replica = state.replicas.get(command.replica)
    if replica is None:
        raise NotFound("replica", command.replica, cure="`interlock replicas` lists them.")
    if replica.phase is Phase.UNLOADING:
        return []
    if locks := state.lock_count(replica.id):
        cure = "Wait until they end, or drain its node: it leaves when idle."
        raise Conflict(f"replica {replica.id} has {locks} requests in flight.", cure=cure)
    if replica.phase in LOADING_PHASES:
        return give_up(state, replica, "an operator gave it up", now)
    return [unload(state, replica, "operator", now)]


# --- effects --------------------------------------------------------------------------------------------------------


def pending_effect(state: State, replica: Replica) -> Effect | None:
    """What the worker is being asked for this replica now; None when nothing."""
    common = {
        "op": operation(replica), "node": replica.node, "boot": boot_at(state, replica.node), "replica": replica.id,
        "model": replica.model, "index": replica.index, "address": replica.address,
        "pools": tuple(pool for pool, _ in in_pools(replica.claim)),
    }  # fmt: skip
    if replica.phase is Phase.UNLOADING:
        return UnloadModel(**common)  # type: ignore[arg-type]  # the values' types differ, each is right
    model = state.models.get(replica.model)
    if model is None:
        return None
    spec = model.declared_spec if replica.revision == model.declared else model.serving_spec
    kinds = {Phase.INSTALLING: InstallBackend, Phase.STAGING: StageModel, Phase.LOADING: LoadModel}
    kind = kinds.get(replica.phase)
    if kind is None:
        return None
    effect: Effect = kind(spec=spec, **common)
    if isinstance(effect, StageModel) and replica.drops:
        unused = (name for name, _, _ in replica.drops if (replica.node, name) not in state.by_slot)
        return msgspec.structs.replace(effect, drops=tuple(dict.fromkeys(unused)))
    return effect


def pending_effects(state: State) -> list[Effect]:
    """Every effect whose answer is still to come, oldest replica first: what a new writer sends again."""
    moving = sorted((state.replicas[replica] for replica in state.transit), key=lambda replica: replica.serial)
    effects = [effect for replica in moving if (effect := pending_effect(state, replica)) is not None]
    return [*effects, *(stop_stray(state, node, process) for node, process in sorted(state.strays))]


def stop_stray(state: State, node: str, process: str) -> StopStray:
    """The effect that a found stray calls for."""
    return StopStray(op=f"{node}.{process}", node=node, boot=boot_at(state, node), process=process)


def boot_at(state: State, node: str) -> str:
    """The boot of the worker that has the node's name now; empty when there is none."""
    known = state.nodes.get(node)
    return known.boot if known is not None else ""
