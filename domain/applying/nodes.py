"""Folding what happens to nodes, and the strays found on them."""

from __future__ import annotations

from bisect import insort

from msgspec.structs import replace

from interlock.domain import events as ev
from interlock.domain.claims import fold, total
from interlock.domain.entities import Node, NodeStatus, Stray
from interlock.domain.state import State
from interlock.domain.units import FOREVER

from .changes import put_node
from .handlers import applies


@applies(ev.NodeRegistered)
def _node_registered(state: State, event: ev.NodeRegistered) -> None:
    old = state.nodes.get(event.node)
    approved = old.approved and not event.replaced if old else False
    if old is not None and event.replaced:
        _forget_machine(state, old)
    drained = old.drained if old else False
    node = Node(
        name=old.name if old else event.node,
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
        unified=event.unified,
        disk=event.disk,
        max_replicas_per_model=event.max_replicas_per_model,
        gpu_vendor=event.gpu_vendor,
        offline_at=FOREVER,
        drain_by=old.drain_by if old else FOREVER,
        emptied=old.emptied if old else False,
        drained_by_worker=old.drained_by_worker if old else False,
        machine=event.machine,
        former_boots=_former_boots(old, event.boot),
        load_rate=old.load_rate if old and not event.replaced else 0,
        stage_rate=old.stage_rate if old and not event.replaced else 0,
        # An earlier program's registration overwrote what operators had set: then it is the worker's.
        slots_set=bool(old and old.slots_set and old.max_replicas_per_model == event.max_replicas_per_model),
        budget_set=bool(old and old.budget_set and old.budget == event.budget),
        worker_slots=event.worker_slots,
        worker_budget=event.worker_budget,
        clock_off=old.clock_off if old and old.boot == event.boot and not event.replaced else 0,
    )
    state.committed.setdefault(event.node, {})
    if event.unified and old is not None and not old.unified:
        _fold_claims(state, event.node)
    put_node(state, node)


def _fold_claims(state: State, node: str) -> None:
    """What replicas had claimed of main memory lies in the one pool, as it turns out."""
    for replica_id in state.by_node.get(node, ()):
        replica = state.replicas[replica_id]
        claim, owed_in = fold(replica.claim), fold(replica.owed_in)
        if claim == replica.claim:
            continue
        state.commit(node, replica.present, -1)
        folded = replace(replica, claim=claim, owed=total(owed_in), owed_in=owed_in)
        state.replicas[replica_id] = folded
        state.commit(node, folded.present, +1)


FORMER_BOOTS = 8
"""So many boots of a node are kept in mind."""


def _former_boots(old: Node | None, boot: str) -> tuple[str, ...]:
    if old is None:
        return ()
    known = old.former_boots if old.boot == boot else (*old.former_boots, old.boot)
    return tuple(former for former in known if former != boot)[-FORMER_BOOTS:]


def _forget_machine(state: State, old: Node) -> None:
    """Another machine has the name: it was approved by nobody, and its disk holds none of our files."""
    if old.approved:
        state.approved.remove(old.name)
    state.forget_staged(old.name)
    state.disk_used.pop(old.name, None)


def _status(approved: bool, drained: bool) -> NodeStatus:
    if not approved:
        return NodeStatus.PENDING
    return NodeStatus.DRAINING if drained else NodeStatus.HEALTHY


@applies(ev.NodeApproved)
def _node_approved(state: State, event: ev.NodeApproved) -> None:
    node = state.nodes[event.node]
    status = _status(True, node.drained) if node.status is NodeStatus.PENDING else node.status
    insort(state.approved, node.name)
    put_node(state, replace(node, approved=True, status=status))


@applies(ev.NodeLabelsChanged)
def _node_labels_changed(state: State, event: ev.NodeLabelsChanged) -> None:
    put_node(state, replace(state.nodes[event.node], operator_labels=event.labels))


@applies(ev.NodeCapacityChanged)
def _node_capacity_changed(state: State, event: ev.NodeCapacityChanged) -> None:
    node = state.nodes[event.node]
    put_node(state, replace(node, pools=event.pools, foreign=event.foreign, disk=event.disk, ram=event.ram))


@applies(ev.NodeClockOff)
def _node_clock_off(state: State, event: ev.NodeClockOff) -> None:
    state.nodes[event.node] = replace(state.nodes[event.node], clock_off=event.off)


@applies(ev.NodeBudgetSet)
def _node_budget_set(state: State, event: ev.NodeBudgetSet) -> None:
    node = state.nodes[event.node]
    stated = node.budget if node.worker_budget is None else node.worker_budget
    kept = None if event.lifted or stated == event.budget else stated
    put_node(state, replace(node, budget=event.budget, budget_set=not event.lifted, worker_budget=kept))


@applies(ev.NodeReplicaSlotsSet)
def _node_replica_slots_set(state: State, event: ev.NodeReplicaSlotsSet) -> None:
    node, slots = state.nodes[event.node], event.max_replicas_per_model
    stated = node.worker_slots or node.max_replicas_per_model
    kept = 0 if event.lifted or stated == slots else stated
    put_node(state, replace(node, max_replicas_per_model=slots, slots_set=not event.lifted, worker_slots=kept))


@applies(ev.NodeBecameUnreachable)
def _node_became_unreachable(state: State, event: ev.NodeBecameUnreachable) -> None:
    node = state.nodes[event.node]
    silent = replace(node, status=NodeStatus.UNREACHABLE, offline_at=event.offline_at, silent_since=event.at)
    put_node(state, replace(silent, alone_at=event.alone_at))
    state.set_timer(event.offline_at, "offline", node.name)


@applies(ev.NodeOfflinePostponed)
def _node_offline_postponed(state: State, event: ev.NodeOfflinePostponed) -> None:
    state.mass_loss_turns += 1
    put_node(state, replace(state.nodes[event.node], offline_at=event.offline_at))
    state.set_timer(event.offline_at, "offline", event.node)


@applies(ev.NodeRecovered)
def _node_recovered(state: State, event: ev.NodeRecovered) -> None:
    node = state.nodes[event.node]
    status = _status(node.approved, node.drained)
    put_node(state, replace(node, status=status, offline_at=FOREVER, silent_since=0, alone_at=0, left=False))


@applies(ev.NodeDrainStarted)
def _node_drain_started(state: State, event: ev.NodeDrainStarted) -> None:
    node = state.nodes[event.node]
    status = NodeStatus.DRAINING if node.status is NodeStatus.HEALTHY else node.status
    drained = replace(node, drained=True, status=status, drain_by=event.drain_by, drained_by_worker=event.by_worker)
    put_node(state, drained)
    if event.drain_by < FOREVER:
        state.set_timer(event.drain_by, "drain", node.name)


@applies(ev.NodeDrainEnforced)
def _node_drain_enforced(state: State, event: ev.NodeDrainEnforced) -> None:
    put_node(state, replace(state.nodes[event.node], drain_by=FOREVER))


@applies(ev.NodeDrained)
def _node_drained(state: State, event: ev.NodeDrained) -> None:
    put_node(state, replace(state.nodes[event.node], emptied=True, drain_by=FOREVER))


@applies(ev.NodeResumed)
def _node_resumed(state: State, event: ev.NodeResumed) -> None:
    node = state.nodes[event.node]
    status = NodeStatus.HEALTHY if node.status is NodeStatus.DRAINING else node.status
    resumed = replace(node, drained=False, status=status, drain_by=FOREVER, emptied=False, drained_by_worker=False)
    put_node(state, resumed)


@applies(ev.NodeWentOffline)
def _node_went_offline(state: State, event: ev.NodeWentOffline) -> None:
    node = state.nodes[event.node]
    offline = replace(node, status=NodeStatus.OFFLINE, offline_at=FOREVER, silent_since=0, alone_at=0)
    put_node(state, replace(offline, left=event.left))


@applies(ev.NodeRemoved)
def _node_removed(state: State, event: ev.NodeRemoved) -> None:
    node = state.nodes.pop(event.node)
    if node.approved:
        state.approved.remove(node.name)
    for candidates in state.candidate_sets.values():
        candidates.nodes.pop(node.name, None)
        candidates.place(node.name, None)
    state.forget_staged(event.node)
    for index in (state.committed, state.disk_used, state.over_budget, state.silent, state.offline, state.evictions):
        index.pop(node.name, None)
    for key in [key for key in state.strays if key[0] == node.name]:
        del state.strays[key]


@applies(ev.StrayFound)
def _stray_found(state: State, event: ev.StrayFound) -> None:
    state.strays[event.node, event.process] = Stray(event.node, event.process, event.model)


@applies(ev.StrayStopped)
def _stray_stopped(state: State, event: ev.StrayStopped) -> None:
    state.strays.pop((event.node, event.process), None)
