"""Room that is on its way: a replica that leaves in any case, and what will be free once it has left.

What a victim leaves beyond what it was evicted for is not counted: who goes is chosen so that little is left.
Evicting somebody takes as long as waiting for who leaves already, and costs a reload besides. So a request waits for
such room, but not for ever: a worker may hang. Each replica that leaves says with ``room_by`` until when it is waited
for, and it is waited for by one model.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from .entities import Model, Replica, WaitKind
from .room import fits_after
from .state import State


class RoomToCome(msgspec.Struct, frozen=True, gc=False):
    """Where there will be room, who leaves it, and the instant at which to ask again."""

    node: str
    replica: str
    until: int


def room_to_come(state: State, model: Model, now: int) -> RoomToCome | None:
    """Room for one more replica of the model that is on its way; None when there is none. Of several the oldest.

    Not where the model's last load failed: room that is made elsewhere may be worth more.
    """
    if not state.leaving or not state.settings.unload_patience:
        return None
    open_nodes = state.candidates(model).keys
    waited_for = {replica for _, replica in waits_for_leaving(state, but=model.name)}
    best: Replica | None = None
    for replica_id in state.leaving:
        replica = state.replicas[replica_id]
        if replica.room_by <= now or replica.node not in open_nodes or replica.node in model.tried_on:
            continue
        may_be = replica_id not in waited_for and (best is None or replica.serial < best.serial)
        if may_be and fits_after(state, model, state.nodes[replica.node], (replica,)):
            best = replica
    return RoomToCome(best.node, best.id, best.room_by) if best is not None else None


def waits_for_leaving(state: State, but: str) -> Iterator[tuple[str, str]]:
    """Each other model whose first in line waits for room on its way, and the replica that is to leave it."""
    leaving = WaitKind.LEAVING
    for name, queue in state.queues.items():
        wait = state.requests[queue[0][2]].wait if name != but else None
        if wait is not None and wait.kind is leaving:
            yield name, wait.on
