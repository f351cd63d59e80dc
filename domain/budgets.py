"""Budgets: a node on which more is claimed than its budget allows, and which replica leaves first for that.

A budget may be lowered, and pools or main memory may shrink, under what is loaded already. Nothing new is placed there
then, and what is too much leaves as soon as it is idle: those that nothing protects first, then lower priority, then
what is cheapest to load again. A pin and a floor only make it later: the budget is an operator's order, as a drain is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .claims import sum_of, total
from .entities import Node, Phase, Replica
from .eviction import spare_of_floor
from .state import State


def excess(state: State, node: Node, but: Collection[str] = ()) -> dict[int, int]:
    """By how many bytes pools are above their budget, without what is on its way out and ``but`` these; only those."""
    here = [state.replicas[replica] for replica in state.by_node.get(node.name, ()) if replica not in but]
    staying = sum_of(replica.claim for replica in here if replica.phase is not Phase.UNLOADING)
    above = ((pool, staying.get(pool, 0) - limit) for pool, limit in node.limits.items())
    return {pool: size for pool, size in above if size > 0}


def leaves_for_budget(state: State, node_name: str) -> Replica | None:
    """The idle replica that leaves next because its node is above its budget; None when none is, or all are busy."""
    if node_name not in state.over_budget:
        return None
    above = excess(state, state.nodes[node_name])
    if not above:
        return None
    here = (state.replicas[replica] for replica in state.by_node.get(node_name, ()) if replica not in state.locks)
    idle = [
        replica for replica in here if replica.phase is Phase.LOADED and any(pool in above for pool, _ in replica.claim)
    ]
    idle.sort(key=lambda replica: _order(state, replica))
    leaving = enough(above, idle)
    return leaving[0] if leaving else None


def enough(above: dict[int, int], ordered: Iterable[Replica]) -> list[Replica]:
    """As many of these, in their order, as it takes to free so much; all of them when that is not enough.

    Whoever can be spared because a later one frees enough, is.
    """
    leaving: list[Replica] = []
    for replica in ordered:
        leaving.append(replica)
        if _covered(above, leaving):
            break
    for replica in reversed(leaving.copy()):
        others = [other for other in leaving if other is not replica]
        if _covered(above, others):
            leaving = others
    return leaving


def _covered(above: dict[int, int], leaving: list[Replica]) -> bool:
    freed = sum_of(replica.claim for replica in leaving)
    return all(freed.get(pool, 0) >= size for pool, size in above.items())


def _order(state: State, replica: Replica) -> tuple[bool, int, int, int, int]:
    model = state.models.get(replica.model)
    if model is None:
        return (False, 0, total(replica.claim), replica.used_at, replica.serial)
    protected = model.scheduling.pinned or not spare_of_floor(state, replica, model)
    return (protected, model.scheduling.priority, total(replica.claim), replica.used_at, replica.serial)
