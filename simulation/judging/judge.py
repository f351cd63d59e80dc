"""What is judged on the live state between decisions: full invariants, W and Q.

These look at the state as a whole, so they run at checkpoints, and after each decision only in small clusters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from interlock.domain import placement, reconcile, requests, roll_outs, routing
from interlock.domain.clocks import CLOCK_TOLERANCE
from interlock.domain.engine import Engine
from interlock.domain.entities import Lack, Model, Phase, RequestStatus, WaitKind
from interlock.domain.loads import UNLOAD_TRIES
from interlock.domain.routing import Evict, Hold, Join, Place, Refuse
from interlock.domain.shrinking import below_floor, is_moving, surplus
from interlock.domain.snapshots import encode_cluster, restore, take_snapshot
from interlock.domain.state import State
from interlock.domain.units import FOREVER, SECOND
from interlock.simulation.cluster import VirtualCluster, VirtualNode
from interlock.simulation.world import boot_of

from .picture import Picture
from .pools import name_of

Finding = tuple[str, str, str]
"""Property, detail and subject."""
Due = set[tuple[int, str]]
"""The instants that have a timer, and what each belongs to."""


def full(engine: Engine, picture: Picture) -> Iterator[Finding]:
    """The invariants that compare the whole state with the picture, and with itself."""
    state = engine.state
    for replica_id, view in picture.replicas.items():
        replica = state.replicas.get(replica_id)
        if replica is None:
            yield "S", f"{replica_id} is {view.phase} by the events and not in the state", replica_id
        elif replica.phase.value != view.phase:
            yield "S", f"{replica_id} is {view.phase} by the events and {replica.phase.value} in the state", replica_id
        elif list(state.locks.get(replica_id, ())) != list(view.locks):
            held = len(state.locks.get(replica_id, ()))
            yield "S", f"{replica_id} has {held} requests in flight and {len(view.locks)} live locks", replica_id
    for replica_id in state.replicas.keys() - picture.replicas.keys():
        yield "S", f"{replica_id} is in the state and gone by the events", replica_id
    yield from _books(state)
    yield from _unheld(state, picture)
    for replica_id in state.prefixes.held:
        known = picture.replicas.get(replica_id)
        if known is None or known.phase != "loaded":
            phase = known.phase if known is not None else "gone"
            yield "S", f"{replica_id} is {phase}, and still counts as a holder of prompts", replica_id
            return  # a snapshot of such a state cannot be restored
    snapshot = take_snapshot(engine)
    if encode_cluster(restore(snapshot).state) != encode_cluster(state):
        yield "S", "a snapshot restores to another state than the one it was taken of", "snapshot"


def _books(state: State) -> Iterator[Finding]:
    """The state's figures against its entities."""
    for name in state.nodes:
        used: Counter[int] = Counter()
        for replica_id in state.by_node.get(name, ()):
            replica = state.replicas[replica_id]
            used.update(dict(replica.claim))
            used.subtract(dict(replica.owed_in))
        if used != Counter(state.committed[name]):
            yield "S", f"{name} counts {state.committed[name]} bytes as used, its replicas claim {dict(used)}", name
    locks: dict[str, set[str]] = {}
    of_tenant: dict[str, int] = {}
    for request in state.requests.values():
        if request.tenant:
            of_tenant[request.tenant] = of_tenant.get(request.tenant, 0) + 1
        if request.status is RequestStatus.LOCKED:
            locks.setdefault(request.replica, set()).add(request.id)
    for tenant in state.live_of_tenant.keys() | of_tenant.keys():
        counted, live = state.live_of_tenant.get(tenant, 0), of_tenant.get(tenant, 0)
        if counted != live:
            yield "S", f"tenant {tenant} counts {counted} requests and has {live}", tenant
    for replica_id in state.locks.keys() | locks.keys():
        if set(state.locks.get(replica_id, ())) != locks.get(replica_id, set()):
            yield "S", f"{replica_id}: requests in flight are not its live locks", replica_id


def _unheld(state: State, picture: Picture) -> Iterator[Finding]:
    """What a load is still owed is memory of victims that are still there: what is freed is held for the load."""
    leaving: dict[str, dict[int, int]] = {}
    for victim in picture.replicas.values():
        if victim.beneficiary:
            at_victims = leaving.setdefault(victim.beneficiary, {})
            for pool, size in victim.claim:
                at_victims[pool] = at_victims.get(pool, 0) + size
    for replica_id, replica in state.replicas.items():
        at_victims = leaving.get(replica_id, {}) if replica.owed_in else {}
        if any(size > at_victims.get(pool, 0) for pool, size in replica.owed_in):
            text = f"what was freed on {replica.node} for {replica_id} of {replica.model} is not held for it"
            yield "S", text, replica_id


def forgotten(state: State, now: int) -> Iterator[Finding]:
    """W: what waits although nothing stands in its way, or although nothing will ever wake it."""
    due: Due = {(instant, owner) for instant, _, owner in state.timers}
    for name, queue in state.queues.items():
        model = state.models.get(name)
        if model is None:
            yield "W", f"{queue[0][2]} waits for {name}, which is no model", name
            continue
        head = state.requests[queue[0][2]]
        plan = routing.route(state, model, now)
        # A timer that is due in this very instant may be handled after another command of the same instant.
        woken_now = head.wait is not None and head.wait.until <= now and (head.wait.until, head.id) in due
        enough = isinstance(plan, Place) and requests.has_grown_enough(state, model, head.passes)
        # Who waits for the end of a pause, or for contact, is told then that the tries are spent: room may come first.
        told_then = (
            isinstance(plan, Refuse)
            and head.wait is not None
            and head.wait.kind in (WaitKind.BACKOFF, WaitKind.CONTACT)
        )
        if not isinstance(plan, Join | Hold) and not woken_now and not enough and not told_then:
            what = type(plan).__name__.lower()
            yield "W", f"{head.id} waits for {name} ({_wait(head.wait)}) while routing it anew says {what}", name
        for _, _, request_id in queue:
            request = state.requests[request_id]
            if request.deadline < FOREVER and (request.deadline, request_id) not in due:
                yield "W", f"{request_id} has no timer for its deadline", request_id
            wait = request.wait
            # Those behind the head wait for the head: what it waits for must be there.
            if request is head and wait is not None and wait.kind is WaitKind.LOAD and not state.loading.get(name):
                yield "W", f"{request_id} waits for the load {wait.on}, and {name} has none in progress", request_id
            if wait is not None and wait.until < FOREVER and (wait.until, request_id) not in due:
                yield "W", f"{request_id} has no timer for the instant that it waits for", request_id
    for replica_id in state.transit:
        replica = state.replicas[replica_id]
        if replica.silent_at >= FOREVER and replica.tries < UNLOAD_TRIES:
            yield "W", f"{replica_id} is {replica.phase.value} without a deadline", replica_id
        elif replica.silent_at < FOREVER and (replica.silent_at, replica_id) not in due:
            yield (
                "W",
                f"{replica_id} is {replica.phase.value}, and nothing will notice when it falls silent",
                replica_id,
            )
    for replica_id in state.awaited:
        replica = state.replicas[replica_id]
        if (replica.silent_at, replica_id) not in due:
            yield "W", f"{replica_id} holds memory on {replica.node} for a load, and nothing ends the hold", replica_id
    yield from _floors(state, now, due)
    yield from _roll_outs(state, now, due)
    yield from _given_up_early(state)


def _roll_outs(state: State, now: int, due: Due) -> Iterator[Finding]:
    """New revisions that could come up now, and that nobody brings up."""
    if "reconciler" in state.frozen:
        return
    for name, model in state.models.items():
        if model.declared == model.serving or is_moving(state, model):
            continue  # what moves will have it looked at
        parked = model.parked
        waits = parked is not None and parked.until < FOREVER and (parked.until, name) in due
        if not waits and roll_outs.roll_out(state, model, now):
            yield "W", f"revision {model.declared} of {name} could come up now, and nothing is under way", name


def _given_up_early(state: State) -> Iterator[Finding]:
    """Models that wait for a person to edit them although their loads may be tried again."""
    if "reconciler" in state.frozen:
        return
    attempts = state.settings.load_attempts
    for name in state.parked:
        model = state.models[name]
        if model.parked is not None and model.parked.lacks is Lack.EDIT and model.tries_failed < attempts:
            tries = f"{model.tries_failed} of {attempts} loads have failed"
            yield "W", f"{name} is parked until somebody edits it, and {tries}", name


def _wait(wait: object) -> str:
    return str(getattr(wait, "kind", "nothing"))


def _floors(state: State, now: int, due: Due) -> Iterator[Finding]:
    """Models below their floor that nobody will raise."""
    if "reconciler" in state.frozen:
        return
    for name, model in state.models.items():
        if not below_floor(state, model):
            continue
        if model.parked is None:
            yield "W", f"{name} is below its floor, not parked, and nothing is under way", name
        elif model.parked.lacks is Lack.TIME:
            if (model.parked.until, name) not in due:
                yield "W", f"{name} is parked until an instant that has no timer", name
        elif model.parked.lacks is Lack.EDIT and model.tries_failed >= state.settings.load_attempts:
            # What has failed too often waits for a person, by design, unless it may have been the nodes' fault.
            elsewhere = room_elsewhere(state, model)
            if elsewhere:
                yield "W", f"{name} is parked for its failed loads, and {elsewhere}, where none failed, has room", name
        elif isinstance(reconcile.floor_plan(state, model, now), Place | Evict):
            yield "W", f"{name} is parked for {model.parked.reason}, and there is room now", name


def room_elsewhere(state: State, model: Model) -> str:
    """A node with room on which it has not failed to come up, when it has on fewer nodes than it may be tried."""
    choice = placement.choose(state, model)
    if choice is None or is_spent(state, model, choice.room.node):
        return ""
    return choice.room.node


def is_spent(state: State, model: Model, node: str) -> bool:
    """Whether its loads have failed, or its copies died early, as often as they may, and it was tried enough there.

    That is where either has happened, or anywhere when either has on as many nodes.
    """
    attempts, nodes = state.settings.load_attempts, {*model.failed_nodes, *model.died_on}
    spent = model.failures >= attempts or model.early_deaths > attempts
    return spent and (node in nodes or len(nodes) >= attempts)


def _above_budget(state: State) -> Iterator[Finding]:
    """Nodes that hold more than their budget, and idle replicas that could leave."""
    if "reconciler" in state.frozen:
        return
    for name, node in state.nodes.items():
        here = [state.replicas[replica] for replica in state.by_node.get(name, ())]
        for pool, budget in node.limits.items():
            mine = [replica for replica in here if pool in dict(replica.claim)]
            staying = sum(dict(r.claim)[pool] for r in mine if r.phase is not Phase.UNLOADING)
            idle = [r.id for r in mine if r.phase is Phase.LOADED and not state.lock_count(r.id)]
            if staying > budget and idle:
                yield "Q", f"{name_of(pool)} of {name} is above its budget, and {idle[0]} stays there, idle", name


def _above_slots(state: State) -> Iterator[Finding]:
    """Nodes where more replicas of a model serve than they are to hold, and idle ones that could leave."""
    if "reconciler" in state.frozen:
        return
    for name, node in state.nodes.items():
        here = [state.replicas[replica] for replica in state.by_node.get(name, ())]
        serving = [replica for replica in here if state.takes_locks(replica)]
        for model, count in Counter(replica.model for replica in serving).items():
            idle = [r.id for r in serving if r.model == model and not state.lock_count(r.id)]
            if count > node.max_replicas_per_model and idle:
                yield "Q", f"{name} holds {count} of {model}, above its slots, and {idle[0]} stays there, idle", name


def _making_way(state: State) -> Iterator[Finding]:
    """Idle replicas that make way for a new revision, and stay."""
    for replica in state.replicas.values() if "reconciler" not in state.frozen else ():
        stays = replica.retired and replica.phase is Phase.LOADED and not state.takes_locks(replica)
        if stays and not state.lock_count(replica.id):
            yield "Q", f"{replica.id} of {replica.model} makes way for a new revision, is idle, and stays", replica.id


def unquiet(engine: Engine, cluster: VirtualCluster, now: int) -> Iterator[Finding]:
    """Q: what is still going on when nothing should be, and what the workers run that the log does not know."""
    state = engine.state
    yield from _above_budget(state)
    yield from _above_slots(state)
    yield from _making_way(state)
    yield from unanswered(state, cluster)
    for name, node in cluster.nodes.items():
        if not node.removed and node.can_be_relied_on:
            yield from _at_odds(state, name, node)
    for model in state.models.values():
        yield from _short_of_copies(state, model)
        yield from _overstays(state, model, now)
        extra = surplus(state, model, now)
        if extra is not None:
            yield "Q", f"{extra[0].id} of {model.name} is one too many ({extra[1]}) and stays", model.name


def unanswered(state: State, cluster: VirtualCluster) -> Iterator[Finding]:
    """What workers that can answer have been asked for, and have not done."""
    for replica_id in state.transit:
        replica = state.replicas[replica_id]
        node = cluster.nodes.get(replica.node)
        if node is not None and not node.can_be_relied_on:
            continue  # an answer from there cannot be had
        yield "Q", f"{replica_id} of {replica.model} on {replica.node} is still {replica.phase.value}", replica_id
    for name, process in state.strays:
        if name in cluster.nodes and cluster.nodes[name].can_be_relied_on:
            yield "Q", f"process {process} on {name}, which the log does not know, still counts as running", process


def _at_odds(state: State, name: str, node: VirtualNode) -> Iterator[Finding]:
    """How the log and a node that can be reached differ: in its status, in its clock, and in what runs there."""
    known = state.nodes.get(name)
    noted = known.clock_off if known is not None and known.boot == boot_of(node.worker) else node.clock_off
    if abs(noted - node.clock_off) > CLOCK_TOLERANCE:
        yield "Q", f"the clock of {name} is off by {node.clock_off // SECOND} s, and {noted // SECOND} are noted", name
    if known is not None and not (known.takes_work or known.drained or not known.approved):
        yield "Q", f"node {name} can be reached and counts as {known.status.value}", name
    for running in node.worker.processes:
        owner = state.replicas.get(running.replica)
        if owner is None or owner.node != name:
            yield "Q", f"process {running.id} on {name} is an orphan: the log does not know it", running.id
    for replica_id in state.by_node.get(name, ()):
        loaded = state.replicas[replica_id].phase is Phase.LOADED
        if loaded and node.worker.process_of(replica_id) is None:
            yield "Q", f"{replica_id} counts as loaded on {name}, where no process of it runs", replica_id


def _short_of_copies(state: State, model: Model) -> Iterator[Finding]:
    """A floor that is not kept, and candidates without a copy of a model that is to run on all of them."""
    name = model.name
    if model.parked is not None or "reconciler" in state.frozen:
        return
    if below_floor(state, model):
        yield "Q", f"{name} is neither at its floor nor parked", name
    if model.scheduling.everywhere:
        for node_name in state.candidates(model).nodes:
            if state.nodes[node_name].takes_work and (node_name, name) not in state.by_slot:
                yield "Q", f"{name} is to run on every candidate; {node_name} has no copy of it", name


def _overstays(state: State, model: Model, now: int) -> Iterator[Finding]:
    """A last copy that has been idle for longer than its model's own ``idle_unload``, or the cluster's."""
    own = model.scheduling.idle_unload
    ttl = state.settings.idle_unload if own is None else own
    held = list(state.by_model.get(model.name, ()))
    kept = model.scheduling.pinned or model.scheduling.min_replicas or model.scheduling.everywhere
    if len(held) != 1 or kept or held[0] in state.locks or state.waiting(model.name) or "reconciler" in state.frozen:
        return
    replica = state.replicas[held[0]]
    works = state.takes_locks(replica)  # on a node that is silent or drained it leaves another way
    if works and ttl < FOREVER and max(replica.used_at, replica.loaded_at) + ttl <= now:
        yield "Q", f"{replica.id} of {model.name} has been idle for longer than its idle_unload, and stays", model.name
