"""Slots: how many replicas of one model a node takes, and which one leaves when it holds more than that.

The number may be lowered under what is loaded already. As with a budget, nothing is moved by force: what is too much
takes requests on, and leaves when it is idle, whatever floor or pin it has.
"""

from __future__ import annotations

from .entities import Replica
from .state import State


def is_above_slots(state: State, node: str, model: str) -> bool:
    """Whether the node holds more replicas of the model than it is to, those that are leaving among them."""
    return len(state.by_slot.get((node, model), ())) > state.nodes[node].max_replicas_per_model


def leaves_for_slots(state: State, replica: Replica) -> bool:
    """Whether this replica leaves next because its node holds too many of its model: the idle one used least lately.

    Only those count that take requests. Who is of an older revision leaves in any case; and until a load has come about
    nobody goes for it, who would be missed if it failed.
    """
    if not is_above_slots(state, replica.node, replica.model):
        return False
    slots = state.by_slot[replica.node, replica.model].values()
    serving = [one for one in (state.replicas[other] for other in slots) if state.takes_locks(one)]
    if len(serving) <= state.nodes[replica.node].max_replicas_per_model:
        return False
    idle = [one for one in serving if not state.lock_count(one.id)]
    return bool(idle) and min(idle, key=lambda one: (one.used_at, one.serial)) is replica
