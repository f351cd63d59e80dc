"""Nodes: joining, reporting, falling silent, coming back, draining, leaving; and what they say they run."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from . import clocks, contact, left_behind, loads
from . import events as ev
from .commands import (
    ApproveNode,
    DrainNode,
    RegisterNode,
    RemoveNode,
    ReportCapacity,
    ReportHeard,
    ReportRunning,
    ReportSilence,
    ReportStrayStopped,
    ResumeNode,
    Running,
    SetNodeBudget,
    SetNodeLabels,
    SetReplicaSlots,
    WorkerLeft,
)
from .entities import LOADING_PHASES, Budget, Node, NodeStatus, Phase, Replica
from .errors import Conflict, InvalidField, NotFound
from .leaving import is_emptied
from .requests import LONGEST_NAME
from .shrinking import has_floor
from .state import State
from .units import FOREVER, GIB, LARGEST_SIZE

DRAINED = "its node was drained: the deadline has passed"
"""Why a replica was taken away with requests in flight."""
WORKER_LEFT = "its worker left"
"""Why a node is offline whose worker has said goodbye, and all that it ran is gone."""
MOST_SLOTS = 1_000_000
"""So many replicas of one model a node may hold at most."""
QUANTUM = GIB // 4
"""Reported figures count in steps of this many bytes, so that heartbeats do not flood the log."""


def find(state: State, name: str) -> Node:
    """The node of that name; raises NotFound."""
    node = state.nodes.get(name)
    if node is None:
        raise NotFound("node", name, cure="`interlock nodes` lists them.")
    return node


# --- joining and reporting ------------------------------------------------------------------------------------------


def register(state: State, command: RegisterNode, now: int) -> list[ev.Event]:
    """A worker joins, or joins again. With another boot, nothing of what it ran before is left but what it names."""
    if not command.node or len(command.node) > LONGEST_NAME:
        raise InvalidField("name", "is empty or too long", cure=f"Give 1 to {LONGEST_NAME} characters.")
    if not command.node.isprintable():
        cure = "Use characters that can be printed."
        raise InvalidField("name", f"{command.node!r} holds a character that no name has", cure=cure)
    _check_slots(command.max_replicas_per_model, "max_replicas_per_model")
    _check_sizes(command)
    _check_labels(command.labels)
    old = state.nodes.get(command.node)
    replaced = old is not None and is_another(old, command)
    if old is not None:
        _check_name_is_free(old, command)
    registered = _registered(state, command, old, now)
    events: list[ev.Event] = []
    rebooted = old is not None and old.boot != command.boot
    if old is not None and replaced:
        events += _lose_all(state, old.name, "another machine has taken its node's name", now)
    elif old is not None and rebooted:
        running = {process.replica for process in command.running}
        events += _lose_all(state, old.name, "its worker started anew", now, but=running)
    if old is None or rebooted or _facts(old) != _facts_of(registered):
        events.append(registered)
        events += _left_behind_after(state, old, registered, events, now)
    elif old.status in (NodeStatus.UNREACHABLE, NodeStatus.OFFLINE):
        events.append(ev.NodeRecovered(at=now, node=old.name))
    if old is not None and old.drained_by_worker and rebooted:
        events.append(ev.NodeResumed(at=now, node=old.name))
    if command.approve and (old is None or replaced or not old.approved):
        events.append(ev.NodeApproved(at=now, node=command.node))
    events += clocks.note(command, None if replaced else old, now)
    if any(isinstance(event, ev.NodeRegistered | ev.NodeRecovered) for event in events):
        events += contact.contact_is_back(state, (command.node,), now)
    lost = {event.replica for event in events if isinstance(event, ev.ReplicaLost | ev.UnloadConfirmed)}
    return [*events, *_strays(state, command.node, command.running, now, lost)]


def _left_behind_after(
    state: State, old: Node | None, event: ev.NodeRegistered, before: list[ev.Event], now: int
) -> list[ev.Event]:
    """The ends of loads that the facts of this registration leave behind, of those that it has not lost."""
    if old is None:
        return []
    after = replace(
        old, worker_labels=event.labels, pools=event.pools, ram=event.ram, unified=event.unified, budget=event.budget,
        max_replicas_per_model=event.max_replicas_per_model, gpu_vendor=event.gpu_vendor,
    )  # fmt: skip
    over = (ev.ReplicaLost, ev.ReplicaLoadFailed, ev.UnloadConfirmed)
    lost = {event.replica for event in before if isinstance(event, over)}
    here = [replica for replica in most_important_first(state, old.name) if replica.id not in lost]
    return left_behind.by_node(state, after, here, now)


def _given_up_after(state: State, after: Node, now: int) -> list[ev.Event]:
    """The ends of loads that a node's change to what it is ``after`` leaves behind."""
    return left_behind.by_node(state, after, most_important_first(state, after.name), now)


def _check_slots(slots: int, field: str) -> None:
    if not 1 <= slots <= MOST_SLOTS:
        raise InvalidField(field, f"{slots} is not from 1 to {MOST_SLOTS}")


def _check_sizes(command: RegisterNode | ReportCapacity) -> None:
    """No figure is one that no machine has: snapshots keep no larger numbers."""
    for field, sizes in (("pools", command.pools), ("used", command.used), ("ram", (command.ram,))):
        if wrong := [size for size in sizes if not 0 <= size <= LARGEST_SIZE]:
            raise InvalidField(field, f"{wrong[0]} is no size in bytes that a machine has")
    if command.disk is not None and not 0 <= command.disk <= LARGEST_SIZE:
        raise InvalidField("disk", f"{command.disk} is no size in bytes that a machine has")


def _check_labels(labels: dict[str, str]) -> None:
    """A selector can ask for each: it writes "not" with a leading "!"."""
    for key in labels:
        if not key or key.startswith("!") or not key.isprintable():
            cure = "Name it with characters that can be printed, without a leading '!'."
            raise InvalidField("labels", f"{key!r} is not a label's name", cure=cure)


def is_another(node: Node, command: RegisterNode) -> bool:
    """Whether another machine asks for the node's name; one that names no identity passes for the same."""
    return bool(node.machine and command.machine and node.machine != command.machine)


def _check_name_is_free(node: Node, command: RegisterNode) -> None:
    """Two workers of one name would take it from each other for ever: raises Conflict for the one that comes second.

    While the node is at work another machine must say that it replaces it, and a boot that was replaced stays so: each
    boot takes the name once. A node that is silent or gone is free to be replaced.
    """
    if node.boot == command.boot or node.status in (NodeStatus.UNREACHABLE, NodeStatus.OFFLINE):
        return
    cure = (
        f"Give this worker another --name, or stop the other one: its name is free as soon as it is silent for "
        f"unreachable_after. A machine that is to take its place starts with --replace; or `interlock nodes remove "
        f"{node.name}` first."
    )
    if command.boot in node.former_boots:
        raise Conflict(
            f"the worker at {command.address} was replaced as {node.name} by one at {node.address}.", cure=cure
        )
    if is_another(node, command) and not command.replaces and node.status is not NodeStatus.PENDING:
        raise Conflict(f"another machine is at work as {node.name}, at {node.address}.", cure=cure)


def _registered(state: State, command: RegisterNode, old: Node | None, now: int) -> ev.NodeRegistered:
    """Facts as the worker states them; what an operator has set stays."""
    slots = stated = command.max_replicas_per_model
    budget, its_budget = command.budget or Budget(), None
    if old is not None and old.slots_set:
        slots = old.max_replicas_per_model
    if old is not None and old.budget_set:
        budget, its_budget = old.budget, budget
    replaced = old is not None and is_another(old, command)
    disk = command.disk if replaced else available_disk(state, command.node, command.disk)
    kept = None
    if old is not None and old.boot != command.boot:
        kept = frozenset(() if replaced else (process.replica for process in command.running))
    machine = command.machine or (old.machine if old is not None else "")
    return ev.NodeRegistered(
        at=now, node=command.node, address=command.address, boot=command.boot, labels=command.labels,
        pools=command.pools, foreign=foreign(state, command.node, command.pools, command.used, kept), ram=command.ram,
        disk=disk, max_replicas_per_model=slots, budget=budget, gpu_vendor=command.gpu_vendor, machine=machine,
        replaced=replaced, unified=command.unified and len(command.pools) == 1,
        worker_slots=stated if stated != slots else 0, worker_budget=its_budget if its_budget != budget else None,
    )  # fmt: skip


def _facts(node: Node) -> tuple[object, ...]:
    slots, budget = (node.max_replicas_per_model, node.worker_slots), (node.budget, node.worker_budget)
    memory = (node.pools, node.ram, node.unified)
    return (node.address, node.worker_labels, *memory, *budget, *slots, node.gpu_vendor, node.machine)


def _facts_of(event: ev.NodeRegistered) -> tuple[object, ...]:
    slots, budget = (event.max_replicas_per_model, event.worker_slots), (event.budget, event.worker_budget)
    memory = (event.pools, event.ram, event.unified)
    return (event.address, event.labels, *memory, *budget, *slots, event.gpu_vendor, event.machine)


def foreign(
    state: State,
    name: str,
    pools: tuple[int, ...],
    used: tuple[int, ...],
    kept: frozenset[str] | None = None,
    sent_at: int = 0,
) -> tuple[int, ...]:
    """Bytes per pool that others than our replicas use, in whole quanta; what is below one does not count.

    A replica that loads or unloads has none of its memory yet, or all of it still, or something between: as far as its
    bytes cannot be told from those of others, what was known of others stays. So it is with one that was loaded after
    the figures were sent (0: they are of now). After a restart only the replicas that were ``kept`` hold anything.
    """
    surely, perhaps = [0] * len(pools), [0] * len(pools)
    for replica_id in state.by_node.get(name, ()):
        replica = state.replicas[replica_id]
        if replica.phase is not Phase.RESERVED and (kept is None or replica_id in kept):
            holds = replica.phase is Phase.LOADED and not 0 < sent_at <= replica.loaded_at
            for pool, size in replica.claim:
                if pool < len(pools):
                    (surely if holds else perhaps)[pool] += size
    node = state.nodes.get(name)
    known = node.foreign if node is not None else ()
    figures = []
    for pool in range(len(pools)):
        most = (used[pool] if pool < len(used) else 0) - surely[pool]
        before = known[pool] if pool < len(known) else most
        figures.append(max(0, min(max(before, most - perhaps[pool]), most)) // QUANTUM * QUANTUM)
    return tuple(figures)


def available_disk(state: State, name: str, free: int | None) -> int | None:
    """Bytes that models' files may take in all: what is free, is there already, or has come of it; in whole quanta.

    Files that are to give way are there until the staging that they give way to begins.
    """
    if free is None:
        return None
    here = [state.replicas[replica] for replica in state.by_node.get(name, ())]
    arrived = sum(min(replica.done, replica.disk) for replica in here if replica.phase is Phase.STAGING)
    arrived += sum(
        size for replica in here if replica.phase in (Phase.RESERVED, Phase.INSTALLING) for _, _, size in replica.drops
    )
    return (free + arrived + sum(state.staged.get(name, {}).values())) // QUANTUM * QUANTUM


def report_capacity(state: State, command: ReportCapacity, now: int) -> list[ev.Event]:
    """A heartbeat's figures; an event only when they moved by a quantum, or its clock is not as it was known to be."""
    node = find(state, command.node)
    _check_sizes(command)
    pools = command.pools or node.pools
    # Of other pools than before it is not known what others use, where the worker does not say.
    told = bool(command.used) or len(pools) != len(node.pools)
    others = foreign(state, node.name, pools, command.used, None, command.sent_at) if told else node.foreign
    disk = available_disk(state, node.name, command.disk) if command.disk is not None else node.disk
    ram = command.ram or node.ram
    noted = clocks.note(command, node, now)
    if (pools, others, disk, ram) == (node.pools, node.foreign, node.disk, node.ram):
        return noted
    changed = ev.NodeCapacityChanged(at=now, node=node.name, pools=pools, foreign=others, disk=disk, ram=ram)
    after = replace(node, pools=pools, ram=ram)
    given_up = _given_up_after(state, after, now) if after != node else ()
    return [changed, *given_up, *noted]


# --- contact --------------------------------------------------------------------------------------------------------


def silence(state: State, command: ReportSilence, now: int) -> list[ev.Event]:
    """It is not heard: it takes no new work; what it ran is kept in mind until it counts as offline."""
    node = state.nodes.get(command.node)
    if node is None or node.status not in (NodeStatus.HEALTHY, NodeStatus.DRAINING):
        return []
    silent = ev.NodeBecameUnreachable(
        at=now, node=node.name, offline_at=now + state.settings.offline_after, call=command.call,
        alone_at=contact.alone_at(state, now) if command.call else 0,
    )  # fmt: skip
    return [silent, *contact.silence_of_many(state, node, now)]


def heard(state: State, command: ReportHeard, now: int) -> list[ev.Event]:
    """It speaks again. With another boot its old processes are gone; a registration with its facts follows.

    After its goodbye nothing but a registration is its word: a heartbeat was sent before, and was overtaken.
    """
    node = find(state, command.node)
    silent = node.status in (NodeStatus.UNREACHABLE, NodeStatus.OFFLINE) and not node.left
    if not silent or node.boot != command.boot:
        return []
    return [ev.NodeRecovered(at=now, node=node.name), *contact.contact_is_back(state, (node.name,), now)]


def went_offline(state: State, node: Node, now: int) -> list[ev.Event]:
    """Silent for so long that what it ran counts as lost; not yet, while contact with many nodes is lost."""
    if postponed := contact.postponed(state, node, now):
        return postponed
    lost = _lose_all(state, node.name, "its node is offline", now)
    return [ev.NodeWentOffline(at=now, node=node.name, reason="silent for offline_after"), *lost]


def worker_left(state: State, command: WorkerLeft, now: int) -> list[ev.Event]:
    """The worker says goodbye, having stopped all that it ran; a former boot's, which comes late, says nothing."""
    node = state.nodes.get(command.node)
    if node is None or node.status is NodeStatus.OFFLINE or (command.boot and command.boot != node.boot):
        return []
    lost = _lose_all(state, node.name, WORKER_LEFT, now)
    left = ev.NodeWentOffline(at=now, node=node.name, reason=WORKER_LEFT, left=True)
    return [left, *lost, *contact.many_no_longer(state, node, now)]


def most_important_first(state: State, node: str) -> list[Replica]:
    """The node's replicas: those whose models have a floor first, each part by the priority of their models.

    Models are looked at in the order in which their copies are lost; those lost in one decision have lost them at once.
    What an operator wants kept goes before a passing request, whatever its model's priority.
    """
    replicas = [state.replicas[replica] for replica in state.by_node.get(node, ())]
    return sorted(replicas, key=lambda replica: (not has_floor(state, replica.model), -_priority(state, replica)))


def _priority(state: State, replica: Replica) -> int:
    model = state.models.get(replica.model)
    return model.scheduling.priority if model is not None else 0


def _lose_all(state: State, node: str, reason: str, now: int, but: Iterable[str] = ()) -> list[ev.Event]:
    """Every replica on the node is gone, but for those named. Loads are lost first: no victim may install one then."""
    kept = set(but)
    replicas = [replica for replica in most_important_first(state, node) if replica.id not in kept]
    leaving = [replica for replica in replicas if replica.phase is Phase.UNLOADING]
    events: list[ev.Event] = []
    for replica in replicas:
        if replica.phase is not Phase.UNLOADING:
            events += loads.lose(state, replica, reason, now, gone=True)
    return [*events, *(_confirmed(replica, now) for replica in leaving)]


def _confirmed(replica: Replica, now: int) -> ev.UnloadConfirmed:
    return ev.UnloadConfirmed(at=now, replica=replica.id, model=replica.model, node=replica.node)


# --- what it runs ---------------------------------------------------------------------------------------------------


def report_running(state: State, command: ReportRunning, now: int) -> list[ev.Event]:
    """Compare what the worker runs with the log: what is missing is lost or unloaded, what is unknown is stopped.

    Replicas that changed after the question was asked are not judged by its answer.
    """
    node = find(state, command.node)
    if node.boot != command.boot or node.left:
        return []
    running = {process.replica for process in command.running}
    events: list[ev.Event] = []
    blamed: set[str] = set()
    for replica in most_important_first(state, node.name):
        if replica.id in running or replica.phase in LOADING_PHASES or replica.loaded_at >= command.asked_at:
            continue
        if replica.phase is Phase.LOADED:
            # Of one model's copies that are missing together one at most dies early: they may have died of one thing.
            died = replica.model not in blamed
            lost = loads.lose(state, replica, "its worker no longer runs it", now, gone=True, died=died)
            events += lost
            if any(isinstance(event, ev.ReplicaLost) and event.early for event in lost):
                blamed.add(replica.model)
        elif replica.tries >= loads.UNLOAD_TRIES:
            events += loads.confirm_unload(state, replica, now)
    return [*events, *_strays(state, node.name, command.running, now)]


def _strays(
    state: State, node: str, running: tuple[Running, ...], now: int, lost: Iterable[str] = ()
) -> list[ev.Event]:
    """Processes that the log does not know, or that belong to replicas ``lost`` in this very decision."""
    return [
        ev.StrayFound(at=now, node=node, process=process.process, model=process.model)
        for process in running
        if (process.replica not in state.replicas or process.replica in lost)
        and (node, process.process) not in state.strays
    ]


def stray_stopped(state: State, command: ReportStrayStopped, now: int) -> list[ev.Event]:
    """The process that the log did not know is gone."""
    if (command.node, command.process) not in state.strays:
        return []
    return [ev.StrayStopped(at=now, node=command.node, process=command.process)]


# --- operators ------------------------------------------------------------------------------------------------------


def approve(state: State, command: ApproveNode, now: int) -> list[ev.Event]:
    """Let a node be a candidate."""
    node = find(state, command.node)
    return [] if node.approved else [ev.NodeApproved(at=now, node=node.name)]


def set_labels(state: State, command: SetNodeLabels, now: int) -> list[ev.Event]:
    """Merge labels into the operator's; they win over the worker's and stay."""
    node = find(state, command.node)
    labels = node.operator_labels | command.labels
    labels = {key: value for key, value in labels.items() if value or key in node.worker_labels}
    if labels == node.operator_labels:
        return []
    changed = ev.NodeLabelsChanged(at=now, node=node.name, labels=labels)
    return [changed, *_given_up_after(state, replace(node, operator_labels=labels), now)]


def drain(state: State, command: DrainNode, now: int) -> list[ev.Event]:
    """No new locks or loads there; loads that are in progress are given up, so that they start elsewhere.

    Said again with another deadline, it changes the deadline. A worker's own drain becomes the operator's who says so
    too, and never the other way round.
    """
    node = find(state, command.node)
    if command.within < 0:
        raise InvalidField("deadline", "is negative", cure='Give a length, as in "10m".')
    drain_by = min(now + command.within, FOREVER) if command.within else node.drain_by
    taken_over = node.drained_by_worker and not command.by_worker
    if node.drained and (command.by_worker or (not taken_over and (node.emptied or drain_by == node.drain_by))):
        return []
    started = ev.NodeDrainStarted(at=now, node=node.name, drain_by=drain_by, by_worker=command.by_worker)
    events: list[ev.Event] = [started]
    for replica in most_important_first(state, node.name):
        if replica.phase in LOADING_PHASES:
            events += loads.give_up(state, replica, "its node drains", now)
    return events


def enforce_drain(state: State, node: Node, now: int) -> list[ev.Event]:
    """The drain's deadline has come: what is idle is unloaded, what is busy is lost, and its requests with it.

    An operator named the deadline, so that neither a floor nor a frozen reconciler stands against it.
    """
    here = [state.replicas[replica] for replica in state.by_node.get(node.name, ())]
    left = [replica for replica in here if replica.phase is not Phase.UNLOADING]
    requests = sum(state.lock_count(replica.id) for replica in left)
    events: list[ev.Event] = [
        ev.NodeDrainEnforced(at=now, node=node.name, replicas=len(left), requests=requests),
    ]
    for replica in left:
        if replica.phase in LOADING_PHASES:
            events += loads.give_up(state, replica, DRAINED, now)
        elif state.lock_count(replica.id):
            events += loads.lose(state, replica, DRAINED, now, gone=False)
        else:
            events.append(loads.unload(state, replica, "drain", now))
    return events


def drained(state: State, name: str, now: int) -> list[ev.Event]:
    """The last of what ran on a drained node is gone: say so, once."""
    node = state.nodes.get(name)
    if node is None or not is_emptied(state, node):
        return []
    return [ev.NodeDrained(at=now, node=name)]


def resume(state: State, command: ResumeNode, now: int) -> list[ev.Event]:
    """End a drain."""
    node = find(state, command.node)
    return [ev.NodeResumed(at=now, node=node.name)] if node.drained else []


def remove(state: State, command: RemoveNode, now: int) -> list[ev.Event]:
    """Take the node out; what it ran is lost."""
    node = find(state, command.node)
    lost = _lose_all(state, node.name, "its node was removed", now)
    return [*lost, ev.NodeRemoved(at=now, node=node.name), *contact.many_no_longer(state, node, now)]


def set_budget(state: State, command: SetNodeBudget, now: int) -> list[ev.Event]:
    """Limit the memory that models may use, or lift that limit again; loads on their way are given up until it does."""
    node = find(state, command.node)
    if command.budget is None:
        if not node.budget_set:
            return []
        stated = node.budget if node.worker_budget is None else node.worker_budget
        changed = ev.NodeBudgetSet(at=now, node=node.name, budget=stated, lifted=True)
    elif node.budget == command.budget and node.budget_set:
        return []
    else:
        changed = ev.NodeBudgetSet(at=now, node=node.name, budget=command.budget)
    return [changed, *_given_up_after(state, replace(node, budget=changed.budget), now)]


def set_replica_slots(state: State, command: SetReplicaSlots, now: int) -> list[ev.Event]:
    """How many replicas of one model the node may hold, by an operator's word, or by the worker's again."""
    node, slots = find(state, command.node), command.max_replicas_per_model
    if slots is None:
        slots = node.worker_slots or node.max_replicas_per_model
        if not node.slots_set:
            return []
    else:
        _check_slots(slots, "value")
        if node.max_replicas_per_model == slots and node.slots_set:
            return []
    lifted = command.max_replicas_per_model is None
    changed = ev.NodeReplicaSlotsSet(at=now, node=node.name, max_replicas_per_model=slots, lifted=lifted)
    return [changed, *_given_up_after(state, replace(node, max_replicas_per_model=slots), now)]
