"""Room once some have left: whether a model would fit on a node then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .anti_affinity import kept_away
from .disk import staging_need
from .entities import Model, Node, Replica
from .memory import fit_after, spec_on
from .placement import may_host
from .state import State


def room_after(balance: Mapping[int, int], leaving: Iterable[Replica]) -> dict[int, int]:
    """What there is of each pool and of main memory once these have left."""
    room = dict(balance)
    for replica in leaving:
        for pool, size in replica.claim:
            if pool in room:
                room[pool] += size
    return room


def fits_after(state: State, model: Model, node: Node, leaving: tuple[Replica, ...]) -> bool:
    """Whether one replica of the declared revision would fit on the node once these have left it.

    What loads there are still owed is in use by their victims, and no room yet. The files of another edition give way
    once no copy is left that uses them.
    """
    slots = len(state.by_slot.get((node.name, model.name), ()))
    own = sum(1 for replica in leaving if replica.model == model.name)
    if slots - own >= node.max_replicas_per_model or not may_host(state, model, node):
        return False
    if kept_away(state, model, node, leaving):
        return False
    if staging_need(state, model, node, replacing=0 < slots == own) is None:
        return False
    balance = state.balance_of_memory(node)
    return fit_after(balance, room_after(balance, leaving), spec_on(node, model.declared_spec)) is not None
