"""What several judgements ask of a state: read from its entities, and not by the core's rules or indexes."""

from __future__ import annotations

from collections import defaultdict

from interlock.domain.claims import RAM
from interlock.domain.entities import Model, Node, NodeStatus, Phase, Replica
from interlock.domain.selector import matches
from interlock.domain.state import State
from interlock.domain.units import FOREVER
from interlock.simulation.judging.pools import could_lie_in, there


def is_candidate(model: Model, node: Node) -> bool:
    """Whether the node may serve the model at all."""
    return node.approved and matches(model.scheduling.selector, node.labels)


def is_usable(state: State, replica: Replica, model: Model) -> bool:
    """Whether the replica may be locked, locks aside."""
    node = state.nodes.get(replica.node)
    return (
        replica.phase is Phase.LOADED
        and replica.revision == model.serving
        and node is not None
        and node.status is NodeStatus.HEALTHY
        and is_candidate(model, node)
        and not (replica.retired and _is_spared(state, replica, model))
    )


def _is_spared(state: State, replica: Replica, model: Model) -> bool:
    """Whether a copy that makes way may leave, and others serve."""
    others = [one for one in state.replicas.values() if one.model == model.name and not one.retired]
    return "reconciler" not in state.frozen and any(is_usable(state, other, model) for other in others)


def comes_or_goes(state: State, replica: Replica, model: Model) -> bool:
    """Whether the replica is on its way, up or down; one that makes way is, unless it serves on."""
    return replica.phase is not Phase.LOADED or (replica.retired and not is_usable(state, replica, model))


def locks_on(state: State, replica: str) -> int:
    """Live locks, counted from the requests."""
    return [request.replica for request in state.requests.values()].count(replica)


def usable_with_room(state: State, model: Model) -> Replica | None:
    """A replica that could take one more lock; None when there is none."""
    for replica in state.replicas.values():
        if replica.model == model.name and is_usable(state, replica, model):
            parallel = model.scheduling.parallel
            if not parallel or locks_on(state, replica.id) < parallel:
                return replica
    return None


def used_in_pools(state: State, node: Node) -> defaultdict[int, int]:
    """Bytes by pool that live replicas use, have reserved, or have held for them."""
    used: defaultdict[int, int] = defaultdict(int)
    for replica in state.replicas.values():
        if replica.node == node.name:
            for pool, size in replica.claim:
                used[pool] += size
            for pool, size in replica.owed_in:  # what victims still hold counts with them, and not twice
                used[pool] -= size
    return used


def limit_of(node: Node, pool: int) -> int:
    """What models may claim of the pool in all; there is no limit to main memory that nobody knows."""
    if pool == RAM:
        return 0 if node.unified else node.ram or FOREVER
    return node.budget.of(node.pools[pool])


def is_or_may_be_copy(state: State, model: Model, replica: Replica) -> bool:
    """Whether the replica is a copy, though its node may be silent."""
    node = state.nodes[replica.node]
    alive = node.status in (NodeStatus.HEALTHY, NodeStatus.UNREACHABLE)
    return replica.phase is not Phase.UNLOADING and alive and is_candidate(model, node)


def below_floor(state: State, model: Model) -> bool:
    """Whether the model has fewer copies than it is to have without anybody's asking."""
    copies = [r for r in state.replicas.values() if r.model == model.name and is_or_may_be_copy(state, model, r)]
    if not model.scheduling.everywhere:
        return len(copies) < model.scheduling.min_replicas
    alive = (NodeStatus.HEALTHY, NodeStatus.UNREACHABLE)
    wanted = {node.name for node in state.nodes.values() if node.status in alive and is_candidate(model, node)}
    return bool(wanted - {replica.node for replica in copies})


def could_ever_fit(state: State, model: Model) -> bool:
    """Whether one copy would fit on some candidate, if it were empty."""
    spec, margin = model.declared_spec, state.settings.disk_margin
    candidates = [node for node in state.nodes.values() if is_candidate(model, node)]
    on_disk = [node for node in candidates if node.disk is None or not spec.disk or spec.disk <= node.disk - margin]
    return any(could_lie_in(node.limits, there(spec, unified=node.unified)) for node in on_disk)


def room_that_comes(state: State, model: Model, now: int, deadline: int, waited_for: set[str]) -> str:
    """Who leaves a node in any case, soon enough to be waited for, so that the model fits there; empty when nobody.

    ``waited_for`` are replicas whose room is another's. Judged for models of one pool that take no disk and are of no
    group, where their last load did not fail.
    """
    spec, scheduling = model.declared_spec, model.scheduling
    if spec.pools != 1 or spec.disk or scheduling.anti_affinity or scheduling.everywhere:
        return ""
    for leaving in state.replicas.values():
        soon = leaving.phase is Phase.UNLOADING and now < leaving.room_by < deadline and leaving.id not in waited_for
        node = state.nodes.get(leaving.node)
        if not soon or leaving.beneficiary or node is None or node.name in model.tried_on:
            continue
        if not is_candidate(model, node) or node.status is not NodeStatus.HEALTHY:
            continue
        if would_fit_without(state, model, node, leaving):
            return f"{leaving.model} on {node.name}"
    return ""


def would_fit_without(state: State, model: Model, node: Node, leaving: Replica) -> bool:
    """Whether a slot and memory are there for the declared revision, of one pool, once the replica has left."""
    mine = [r for r in state.replicas.values() if (r.node, r.model) == (node.name, model.name) and r is not leaving]
    used = used_in_pools(state, node)
    free = {pool: limit_of(node, pool) - used[pool] for pool in node.limits}
    for pool, size in leaving.claim:
        free[pool] = free.get(pool, 0) + size
    need = there(model.declared_spec, unified=node.unified)
    return len(mine) < node.max_replicas_per_model and could_lie_in(free, need)
