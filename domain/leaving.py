"""Replicas that must leave: what their selector, revision, node or model has left behind goes when it is idle."""

from __future__ import annotations

from .budgets import leaves_for_budget
from .entities import Node, Phase, Replica
from .slots import leaves_for_slots
from .state import State


def why_leaving(state: State, replica: Replica) -> str:
    """Why a loaded replica must leave once it is idle; empty when it may stay."""
    if replica.phase is not Phase.LOADED:
        return ""
    model = state.models.get(replica.model)
    if model is None:
        return "removed"
    if replica.revision != model.serving and replica.revision != model.declared:
        return "revision"
    if replica.retired and not state.takes_locks(replica):
        return "roll-out"
    if replica.node not in state.candidates(model).nodes:
        return "selector"
    if state.nodes[replica.node].drained:
        return "drain"
    if leaves_for_slots(state, replica):
        return "slots"
    return "budget" if replica.node in state.over_budget and leaves_for_budget(state, replica.node) is replica else ""


def is_emptied(state: State, node: Node) -> bool:
    """Whether the node's drain has just become complete: no replica is left there, and no process that must stop."""
    if not node.drained or node.emptied or state.by_node.get(node.name):
        return False
    return all(where != node.name for where, _ in state.strays)


def leaving_now(state: State, model: str) -> Replica | None:
    """The oldest idle replica of the model that must leave, or one beside it on a node above its budget; or None."""
    for replica_id in state.by_model.get(model, ()):
        replica = state.replicas[replica_id]
        if not state.lock_count(replica_id) and why_leaving(state, replica):
            return replica
        if replica.node in state.over_budget and (other := leaves_for_budget(state, replica.node)) is not None:
            return other
    return None
