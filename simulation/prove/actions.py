"""Actions: everything that can happen next in a situation, and carrying one of them out.

An action's ``key`` calls things by slot, name and place in the queue, so that the same action has the same key in every
situation with the same picture. ``resource`` names what it uses up; an empty one means that it may always happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappush
from typing import Any

import msgspec
from msgspec.structs import replace

from interlock.domain.churn import live_churn
from interlock.domain.commands import (
    AcquireLock,
    CancelRequest,
    Command,
    LoseHolder,
    ReleaseLock,
    ReportBackendGone,
    ReportReplicaDied,
    ReportSilence,
    StartEpoch,
)
from interlock.domain.entities import Node, NodeStatus, Phase, Replica, Request, RequestStatus
from interlock.domain.fairness import order_queues_anew
from interlock.domain.loads import UNLOAD_TRIES, pending_effect, stop_stray
from interlock.domain.shrinking import idle_since, idle_unload_of
from interlock.domain.state import State
from interlock.domain.timers import prune
from interlock.domain.units import FOREVER
from interlock.simulation import world

from .image import RIVAL_BOOT, Picture, admitted_at, aged_at, slot_of
from .scope import Scope
from .situation import Situation

Key = tuple[str | int, ...]
BUSY_FOREVER = "always-"
"""Requests that hold a lock from the beginning and never release it have ids that begin so."""
NO_ANSWER = "UNAVAILABLE"
"""What a call says where nobody answers."""
_AT_WORK = (NodeStatus.HEALTHY, NodeStatus.DRAINING)


class Action(msgspec.Struct, frozen=True, gc=False):
    """One thing that can happen. ``about`` are the ids and values that this situation knows it by."""

    key: Key
    about: Any
    resource: str = ""


ALWAYS_FAIR = frozenset({"answer", "timer", "pass", "mail", "report", "silence", "tell", "again"})
"""Kinds of action that happen in the end if they stay possible. ``release`` joins them when completions are fair."""


def possible(situation: Situation, picture: Picture, scope: Scope) -> Iterator[Action]:
    """Every action that is possible now, whatever is left of the scope's resources.

    The operator's steps come in their order: the resource of the first is ``admin:0``, and so on.
    """
    state = situation.state
    yield from _of_requests(situation, picture, scope)
    yield from _of_workers(situation, state, scope)
    yield from _of_time(situation, picture, scope)
    for place, word in enumerate(situation.mail):
        yield Action(("mail", place, type(word).__name__), place)
    for number, step in enumerate(scope.steps):
        yield Action(("admin", number), step.command, f"admin:{number}")
    if scope.amount("takeovers"):
        yield Action(("takeover",), None, "takeovers")


# --- what clients and gateways do -----------------------------------------------------------------------------------


def _of_requests(situation: Situation, picture: Picture, scope: Scope) -> Iterator[Action]:
    state = situation.state
    holders = list(dict.fromkeys(request.holder for request in state.requests.values()))
    if scope.amount("requests"):
        used = len([holder for holder in holders if not holder.startswith(BUSY_FOREVER)])
        for number, kind in enumerate(scope.kinds):
            for holder in range(min(used + 1, scope.holders)):
                yield Action(("arrive", number, holder), (kind, holder), "requests")
    for place, request_id in enumerate(picture.requests):
        if request_id.startswith(BUSY_FOREVER):
            continue
        request = state.requests[request_id]
        if request.status is RequestStatus.LOCKED:
            yield from _of_locked(situation, request, place)
        elif request.status is RequestStatus.ADRIFT:
            yield Action(("report", place), (request_id, ""))
        if scope.may_hit("departures", "", request.model):
            yield Action(("hang-up", place), request_id, "departures")
    if scope.amount("holder_losses"):
        for place, name in enumerate(holders):
            yield Action(("lose-holder", place), name, "holder_losses")


def _of_locked(situation: Situation, request: Request, place: int) -> Iterator[Action]:
    yield Action(("release", place), request.id)
    replica = situation.state.replicas.get(request.replica)
    if replica is None:  # only a defect, or a mutant, gets here
        return
    worker = situation.workers.get(replica.node)
    if worker is not None and worker.hears and worker.process_of(replica.id) is not None:
        return
    yield Action(("gone", place), (request.id, replica.id))
    if worker is not None and not worker.hears and situation.state.nodes[replica.node].status in _AT_WORK:
        yield Action(("in-vain", place), (request.id, replica.id))


# --- what workers do ------------------------------------------------------------------------------------------------


def _of_workers(situation: Situation, state: State, scope: Scope) -> Iterator[Action]:
    for replica_id in state.transit:
        replica = state.replicas[replica_id]
        worker = situation.workers.get(replica.node)
        effect = pending_effect(state, replica)
        if worker is None or effect is None or not worker.hears:
            continue
        slot = slot_of(replica)
        step = (*slot, replica.phase.value)
        if world.can_fail(effect) and scope.is_doomed(replica.node, replica.model):
            yield Action(("answer", *step), (effect, "it always fails"))
            continue
        yield Action(("answer", *step), (effect, ""))
        if world.can_fail(effect) and scope.may_hit("failures", replica.node, replica.model):
            yield Action(("fail", *step), (effect, "out of memory"), "failures")
        if scope.may_hit("delays", replica.node):
            yield Action(("delay", *step), (effect, ""), "delays")
        if scope.may_hit("repeats", replica.node):
            yield Action(("repeat", *step), (effect, ""), "repeats")
    for node, process in sorted(state.strays):
        if node in situation.workers and situation.workers[node].hears:
            yield Action(("answer", node, "stray"), (stop_stray(state, node, process), ""))
    for worker in situation.workers.values():
        yield from _of_worker(situation, worker, scope)


def _of_worker(situation: Situation, worker: world.Worker, scope: Scope) -> Iterator[Action]:
    state, name = situation.state, worker.name
    node = state.nodes.get(name)
    if name in scope.rivals and node is not None:
        if node.boot != RIVAL_BOOT:
            yield Action(("rival", name), name)
        if worker.hears and node.boot != world.boot_of(worker):
            yield Action(("again", name), name)
    if worker.hears:
        if scope.may_hit("crashes", name):
            yield Action(("crash", name), name, "crashes")
        if scope.may_hit("goodbyes", name):
            yield Action(("goodbye", name), name, "goodbyes")
        if scope.may_hit("partitions", name):
            yield Action(("cut", name), name, "partitions")
        for process in worker.processes:
            replica = state.replicas.get(process.replica)
            if replica is None:
                continue
            if scope.is_fragile(name, replica.model) and _dies_young(situation, replica):
                yield Action(("kill", *slot_of(replica)), (name, process.replica))
            elif scope.may_hit("kills", name, replica.model):
                yield Action(("kill", *slot_of(replica)), (name, process.replica), "kills")
        # While a node may be cut off its reports are asked for at any time: a partition's end is one of these.
        if node is not None and (_has_news(state, name, worker) or (worker.processes and scope.amount("partitions"))):
            yield Action(("tell", name), name)
        return
    if node is not None and node.status in _AT_WORK:
        yield Action(("silence", name), name)
    if worker.up:
        yield Action(("heal", name), name)
    else:
        approved = any(node.facts.name == name and node.approved for node in scope.nodes)
        yield Action(("start", name), (name, approved))


def _dies_young(situation: Situation, replica: Replica) -> bool:
    """Whether it may die now, soon after it has loaded, before it has served anybody.

    Not while the word of another that has died so is on its way: else such words would gather without end.
    """
    if replica.phase is not Phase.LOADED or not replica.trial_until:
        return False
    if _is_dead_on_its_way(situation):
        return False
    return situation.now < replica.trial_until


def _is_dead_on_its_way(situation: Situation) -> bool:
    """Whether a worker has said that a process died, and it has not arrived. It does before a trial ends."""
    return any(isinstance(word, ReportReplicaDied) for word in situation.mail)


def _has_news(state: State, name: str, worker: world.Worker) -> bool:
    """Whether what the worker runs differs from the log in a way that its report settles."""
    runs = {process.replica for process in worker.processes}
    for replica_id in state.by_node.get(name, ()):
        replica = state.replicas[replica_id]
        missing = replica_id not in runs
        if missing and (replica.phase is Phase.LOADED or replica.tries >= UNLOAD_TRIES):
            return True
    return any(
        process.replica not in state.replicas and (name, process.id) not in state.strays for process in worker.processes
    )


# --- what time does -------------------------------------------------------------------------------------------------


_Instants = dict[int, tuple[Key, str]]
"""What each instant that is to come brings, and what it uses up; of several that come together, the first."""


def _of_time(situation: Situation, picture: Picture, scope: Scope) -> Iterator[Action]:
    """Each instant that is to come may come next; those of residency, which are compared, in their order."""
    found: _Instants = {}
    _find_replicas(found, situation, picture)
    if scope.amount("kills") or (scope.fragile and not _is_dead_on_its_way(situation)):
        _find_trials(found, situation, picture)
    _find_requests(found, situation, picture)
    _find_tenants(found, situation)
    _find_models(found, situation)
    _find_nodes(found, situation)
    for instant, (key, resource) in found.items():
        if not resource or scope.amount(resource):
            yield Action(key, instant, resource)
    yield from _of_idleness(situation, picture)


def _find_replicas(found: _Instants, situation: Situation, picture: Picture) -> None:
    state, now = situation.state, situation.now
    safe = FOREVER
    for replica_id in picture.replicas:
        replica = state.replicas[replica_id]
        if now < replica.silent_at < FOREVER:
            worker = situation.workers.get(replica.node)
            # An operation on a worker that hears is answered in time, unless the scope has it hang.
            moving = replica.phase is not Phase.RESERVED and worker is not None and worker.hears
            found.setdefault(replica.silent_at, (("timer", "silent", *slot_of(replica)), "hangs" if moving else ""))
        if replica.phase is Phase.LOADED and now < replica.evictable_at < safe:
            safe = replica.evictable_at
        if replica.phase is Phase.UNLOADING and replica.room_by > now:
            found.setdefault(replica.room_by, (("pass", "room", *slot_of(replica)), ""))
    if safe < FOREVER:
        found[safe] = (("pass", "residency"), "")


def _find_trials(found: _Instants, situation: Situation, picture: Picture) -> None:
    """The ends of trials, which count where processes die."""
    for replica_id in picture.replicas:
        replica = situation.state.replicas[replica_id]
        if replica.phase is Phase.LOADED and situation.now < replica.trial_until < FOREVER:
            found.setdefault(replica.trial_until, (("pass", "trial", *slot_of(replica)), ""))


def _find_requests(found: _Instants, situation: Situation, picture: Picture) -> None:
    state, now = situation.state, situation.now
    for place, request_id in enumerate(picture.requests):
        request = state.requests[request_id]
        if request.status is RequestStatus.LOCKED:
            continue
        if request.wait is not None and now < request.wait.until < FOREVER:
            found.setdefault(request.wait.until, (("timer", "wake", place), ""))
        if now < request.deadline < FOREVER:
            found.setdefault(request.deadline, (("timer", "deadline", place), ""))
    if situation.priorities:
        waiting = (r for r in state.requests.values() if r.status is not RequestStatus.LOCKED)
        aged = [instant for request in waiting for instant in aged_at(situation, request) if instant > now]
        if aged:
            found.setdefault(min(aged), (("pass", "ageing"), ""))


def _find_tenants(found: _Instants, situation: Situation) -> None:
    state, now = situation.state, situation.now
    for name in sorted(state.tenants):
        more = [instant for instant in admitted_at(state, name) if instant > now]
        if more:
            found.setdefault(min(more), (("pass", "tenant", name), ""))


def _find_models(found: _Instants, situation: Situation) -> None:
    state, now = situation.state, situation.now
    for name in sorted(state.models):
        model = state.models[name]
        if now < model.retry_at < FOREVER:
            found.setdefault(model.retry_at, (("pass", "retry", name), ""))
        if model.parked is not None and now < model.parked.until < FOREVER:
            found.setdefault(model.parked.until, (("timer", "unpark", name), ""))
        churn = live_churn(model, now)
        if churn is not None:
            found.setdefault(churn.until, (("pass", "churn", name), ""))


def _find_nodes(found: _Instants, situation: Situation) -> None:
    """Those of each node, of contact with many lost at once, and of the evictions that nodes have taken."""
    state, now = situation.state, situation.now
    for name in sorted(state.nodes):
        node = state.nodes[name]
        if now < node.offline_at < FOREVER and not _after_the_grace(state, node):
            found.setdefault(node.offline_at, (("timer", "offline", name), ""))
        if node.alone_at > now:
            found.setdefault(node.alone_at, (("pass", "alone", name), ""))
        if now < node.drain_by < FOREVER:
            found.setdefault(node.drain_by, (("timer", "drain", name), ""))
    if now < state.mass_loss_until:
        found.setdefault(state.mass_loss_until, (("timer", "mass-loss"), ""))
    for name in sorted(state.evictions):
        counted = [until for until in state.evictions[name] if until > now]
        if counted:
            found.setdefault(min(counted), (("pass", "window", name), ""))


def _after_the_grace(state: State, node: Node) -> bool:
    """Whether the node's turn to count as offline is one after the end of the suspicion that stands now."""
    turns = range(1, state.mass_loss_turns)
    later = (state.mass_loss_until + turn * state.settings.reconcile_interval for turn in turns)
    return state.mass_loss_until > 0 and node.offline_at in later


def _of_idleness(situation: Situation, picture: Picture) -> Iterator[Action]:
    """The replica that has been idle longest becomes idle for long: its model may have a copy too many then."""
    state, now = situation.state, situation.now
    settings = state.settings
    for replica_id in sorted(picture.replicas, key=lambda name: idle_since(state.replicas[name])):
        replica = state.replicas[replica_id]
        model = state.models.get(replica.model)
        if replica.phase is not Phase.LOADED or model is None or replica_id in state.locks:
            continue
        delays = [settings.scale_down_delay] if model.scheduling.scales else []
        ttl = idle_unload_of(state, model)
        delays += [ttl] if ttl < FOREVER else []
        for delay in sorted(delays):
            if idle_since(replica) + delay > now:
                yield Action(("timer", "idle", *slot_of(replica)), (replica_id, delay))
                return


_INSTANTS_OF_REPLICAS = ("silent_at", "evictable_at", "room_by", "trial_until")


def bring(state: State, instant: int, now: int) -> None:
    """Make an instant that is to come be now, wherever the state holds it; equal ones come together."""
    for replica in list(state.replicas.values()):
        found = [name for name in _INSTANTS_OF_REPLICAS if getattr(replica, name) == instant]
        if not found:
            continue
        brought = state.replicas[replica.id] = replace(replica, **dict.fromkeys(found, now))
        if "evictable_at" in found:
            state.unindex_stay(replica)
            state.index_stay(brought)
    for request in [
        r for r in state.requests.values()
        if r.deadline == instant or (r.wait is not None and r.wait.until == instant)
    ]:  # fmt: skip
        wait, deadline = request.wait, now if request.deadline == instant else request.deadline
        if wait is not None and wait.until == instant:
            wait = replace(wait, until=now)
        state.requests[request.id] = replace(request, wait=wait, deadline=deadline)
    for name, model in list(state.models.items()):
        if model.parked is not None and model.parked.until == instant:
            model = state.models[name] = replace(model, parked=replace(model.parked, until=now))
        if model.churn is not None and model.churn.until == instant:
            model = state.models[name] = replace(model, churn=replace(model.churn, until=now))
        if model.retry_at == instant:
            state.models[name] = replace(model, retry_at=now)
    for name, counted in list(state.evictions.items()):
        if instant in counted:
            state.evictions[name] = tuple(now if until == instant else until for until in counted)
    for name, node in list(state.nodes.items()):
        if node.offline_at == instant:
            _bring_silence(state, name, now)
            node = state.nodes[name] = replace(state.nodes[name], offline_at=now)
        if node.alone_at == instant:
            node = state.nodes[name] = replace(node, alone_at=now)
        if node.drain_by == instant:
            state.nodes[name] = replace(node, drain_by=now)
    if state.mass_loss_until == instant:
        state.mass_loss_until = now
    state.timers = [timer if timer[0] != instant else (now, timer[1], timer[2]) for timer in state.timers]
    heapify(state.timers)
    prune(state)


def _bring_silence(state: State, node: str, now: int) -> None:
    """Make the node have been silent for ``offline_after``, and with it those that fell silent before it."""
    since = now - state.settings.offline_after
    for name in state.silent:
        before = state.nodes[name]
        state.nodes[name] = replace(before, silent_since=min(before.silent_since, since))
        if name == node:
            return


def bring_age(situation: Situation, instant: int) -> None:
    """Make all who wait have waited for longer, up to the instant at which one of them has aged."""
    if not situation.priorities:
        return
    state, by = situation.state, instant - situation.now
    waiting = [request for request in state.requests.values() if request.status is not RequestStatus.LOCKED]
    if any(instant in aged_at(situation, request) for request in waiting):
        for request in waiting:
            state.requests[request.id] = replace(request, arrival=request.arrival - by)
        order_queues_anew(state)


def bring_rate(state: State, instant: int, now: int) -> None:
    """Make a tenant have sent nothing for so long that it may send one request more."""
    for name, tenant in list(state.tenants.items()):
        if instant in admitted_at(state, name):
            due = tenant.due - (instant - now)
            state.tenants[name] = replace(tenant, due=due)
            heappush(state.tenants_due, (due, name))


def bring_idle(state: State, replica_id: str, delay: int, now: int) -> None:
    """Make the replica have been idle for ``delay``; the timer that looks at it, if it has one, is due then."""
    replica = state.replicas[replica_id]
    since = now - delay
    used_at = since if replica.used_at else 0
    state.replicas[replica_id] = replace(replica, used_at=used_at, loaded_at=min(replica.loaded_at, since))
    state.index_warm(state.replicas[replica_id])
    if replica_id in state.idle_timers:  # it may be set for an earlier use: then it is renewed before it is due
        state.idle_timers[replica_id] = now
        others = [timer for timer in state.timers if timer[1:] != ("idle", replica_id)]
        state.timers = [*others, (now, "idle", replica_id)]
        heapify(state.timers)
    prune(state)


# --- carrying out ---------------------------------------------------------------------------------------------------


def holder_named(state: State, number: int, now: int) -> str:
    """The gateway of that number; one that has no request yet is called by the instant at which it comes."""
    holders = list(dict.fromkeys(request.holder for request in state.requests.values()))
    ours = [name for name in holders if not name.startswith(BUSY_FOREVER)]
    return ours[number] if number < len(ours) else f"gateway-{now}"


def _arrive(after: Situation, about: Any) -> None:
    kind, holder = about
    name = holder_named(after.state, holder, after.now)
    deadline = after.now + kind.deadline if kind.deadline else 0
    after.handle(
        AcquireLock(
            request=f"q{after.now}",
            model=kind.model,
            holder=name,
            priority=kind.priority,
            deadline=deadline,
            tenant=kind.tenant,
            prefix=kind.prefix,
        )
    )


def _release(after: Situation, about: Any) -> None:
    after.handle(ReleaseLock(request=about))


def _gone(after: Situation, about: Any) -> None:
    after.handle(ReportBackendGone(request=about[0], replica=about[1], detail=NO_ANSWER))


def _in_vain(after: Situation, about: Any) -> None:
    """The node's worker is asked, and does not answer either. ``gone`` is a call that is believed without that.

    So it is while the worker has not said yet what it runs, and when it was cut off right after its answer.
    """
    after.handle(ReportSilence(node=after.state.replicas[about[1]].node, call=NO_ANSWER))
    _gone(after, about)


def _hang_up(after: Situation, about: Any) -> None:
    after.handle(CancelRequest(request=about, reason="client left"))


def _lose_holder(after: Situation, about: Any) -> None:
    """What it had sent before arrives later: the release of its first request."""
    held = [after.state.requests[request] for request in after.state.by_holder.get(about, ())]
    late = tuple(ReleaseLock(request=request.id) for request in held if request.status is RequestStatus.LOCKED)
    after.mail += late[:1]
    after.handle(LoseHolder(holder=about))


def _answer(after: Situation, about: Any) -> None:
    for command in _work(after, about):
        after.handle(command)


def _delay(after: Situation, about: Any) -> None:
    after.mail += _work(after, about)


def _repeat(after: Situation, about: Any) -> None:
    answers = _work(after, about)
    for command in answers:
        after.handle(command)
    after.mail += answers


def _work(after: Situation, about: Any) -> tuple[Command, ...]:
    effect, failure = about
    worker, answers = world.perform(after.workers[effect.node], effect, after.engine.ledger.epoch, failure)
    after.workers[effect.node] = worker
    return answers


def _mail(after: Situation, about: Any) -> None:
    command = after.mail[about]
    after.mail = after.mail[:about] + after.mail[about + 1 :]
    after.handle(command)


def _crash(after: Situation, about: Any) -> None:
    after.workers[about] = world.crash(after.workers[about])


def _goodbye(after: Situation, about: Any) -> None:
    """Its word is on its way, and may be overtaken by that of its successor."""
    after.workers[about], words = world.leave(after.workers[about])
    after.mail += words


def _start(after: Situation, about: Any) -> None:
    name, approved = about
    worker = after.workers[name] = world.start(after.workers[name])
    after.handle(world.register(worker, approve=approved))


def _cut(after: Situation, about: Any) -> None:
    after.workers[about] = world.cut(after.workers[about])


def _heal(after: Situation, about: Any) -> None:
    worker = after.workers[about] = world.heal(after.workers[about])
    after.handle(world.heartbeat(worker))
    after.handle(world.report_running(worker, after.now))


def _silence(after: Situation, about: Any) -> None:
    after.handle(ReportSilence(node=about))


def _tell(after: Situation, about: Any) -> None:
    after.handle(world.report_running(after.workers[about], after.now))


def rival_of(worker: world.Worker) -> Command:
    """What another machine of the same name says; it runs nothing, and hears nothing that is meant for the first."""
    said = world.register(worker, approve=True)
    return replace(said, boot=RIVAL_BOOT, machine="m-rival", address="rival:7000", running=())


def _rival(after: Situation, about: Any) -> None:
    after.handle(rival_of(after.workers[about]))


def _again(after: Situation, about: Any) -> None:
    """The node's own worker is told that it is not known, and registers once more."""
    after.handle(world.register(after.workers[about], approve=True))


def _kill(after: Situation, about: Any) -> None:
    """The worker's word of it is on its way; a call may find out first."""
    name, replica = about
    after.workers[name], died = world.kill(after.workers[name], replica)
    after.mail += died


def _time(after: Situation, about: Any) -> None:
    """An instant comes; None when the clock has reached it by itself."""
    if about is None:
        prune(after.state)
    elif isinstance(about, int):
        bring(after.state, about, after.now)
        bring_age(after, about)
        bring_rate(after.state, about, after.now)
    else:
        bring_idle(after.state, about[0], about[1], after.now)
    after.tick()


def _admin(after: Situation, about: Any) -> None:
    after.handle(about)


def _takeover(after: Situation, about: Any) -> None:
    """A new writer; it sends what is pending again, and the workers do what they had not done yet."""
    epoch = after.engine.ledger.epoch + 1
    after.handle(StartEpoch(epoch=epoch, writer=f"writer-{epoch}"))


_CARRIED_OUT: dict[str, Callable[[Situation, Any], None]] = {
    "arrive": _arrive, "release": _release, "gone": _gone, "in-vain": _in_vain, "report": _gone,
    "lose-holder": _lose_holder, "answer": _answer, "fail": _answer, "delay": _delay, "repeat": _repeat, "mail": _mail,
    "crash": _crash, "start": _start, "cut": _cut, "heal": _heal, "silence": _silence, "tell": _tell, "kill": _kill,
    "rival": _rival, "again": _again, "hang-up": _hang_up, "goodbye": _goodbye,
    "timer": _time, "pass": _time, "admin": _admin, "takeover": _takeover,
}  # fmt: skip


UNHEARD = frozenset({"crash", "cut", "kill", "delay", "goodbye"})
"""Kinds of action of which the core hears nothing yet: only the world has changed."""


def room_for(before: Situation, action: Action) -> Situation:
    """A situation like this one, in which the action can be carried out without changing this one."""
    return before.beside() if action.key[0] in UNHEARD else before.fork()


def perform(after: Situation, action: Action) -> None:
    """Carry an action out, in place. Raises what the core raises: InvariantBroken, or anything that is a defect."""
    _CARRIED_OUT[str(action.key[0])](after, action.about)
