"""Room that is on its way: replicas that leave in any case, and what will be free once they have left.

What a victim leaves beyond what it was evicted for is not counted: who goes is chosen so that little is left.
Evicting somebody takes as long as waiting for who leaves already, and costs a reload besides. So a load waits for such
room, but not for ever: a worker may hang. Each replica that leaves says with ``room_by`` until when it is waited for.
"""

from __future__ import annotations

import msgspec

from .anti_affinity import kept_away
from .entities import Model, Node, Replica
from .eviction import room_after
from .memory import fit_after, spec_on
from .placement import may_host, staging_need
from .state import State


class RoomToCome(msgspec.Struct, frozen=True, gc=False):
    """Where there will be room, who leaves it, and the instant at which to ask again."""

    node: str
    leaving: tuple[str, ...]
    until: int


def room_to_come(state: State, model: Model, now: int) -> RoomToCome | None:
    """Room for one more replica of the model that is on its way; None when there is none. Of several, by node's name.

    Not where the model's last load failed: room that is made elsewhere may be worth more.
    """
    open_nodes = state.candidates(model).keys
    by_node: dict[str, list[Replica]] = {}
    for replica_id in state.leaving:
        replica = state.replicas[replica_id]
        if replica.room_by > now and replica.node in open_nodes and replica.node not in model.failed_nodes:
            by_node.setdefault(replica.node, []).append(replica)
    for name in sorted(by_node):
        leaving = sorted(by_node[name], key=lambda replica: replica.serial)
        if _will_fit(state, model, state.nodes[name], leaving):
            # Whichever instant comes first, the others may still hold then: it is asked again.
            return RoomToCome(name, tuple([replica.id for replica in leaving]), leaving[0].room_by)
    return None


def _will_fit(state: State, model: Model, node: Node, leaving: list[Replica]) -> bool:
    """Whether the model fits there once these have left, and the loads that they made room for have got theirs."""
    slots = state.by_slot.get((node.name, model.name), {})
    same = sum(1 for replica in leaving if replica.model == model.name)
    if len(slots) - same >= node.max_replicas_per_model or not may_host(state, model, node):
        return False
    if kept_away(state, model, node, leaving) or staging_need(state, model, node) is None:
        return False
    balance = state.balance_of_memory(node)
    room = room_after(balance, leaving)
    for replica_id in state.by_node[node.name]:
        for pool, size in state.replicas[replica_id].owed_in:
            if pool in room:
                room[pool] -= size
    return fit_after(balance, room, spec_on(node, model.declared_spec)) is not None
