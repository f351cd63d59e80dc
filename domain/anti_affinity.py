"""Anti-affinity: models that name the same group avoid each other's nodes, and their own copies'.

Soft: another node is taken if there is one. Hard, on either side: no node is shared, and who finds none waits. A
replica keeps others away until nothing is left of it; victims keep nobody away from the room that they make.
"""

from __future__ import annotations

from collections.abc import Iterable

from .entities import Model, Node, Replica
from .state import State


def members_there(state: State, model: Model, node: Node, leaving: Iterable[Replica] = ()) -> tuple[int, int]:
    """Replicas of the model's group on the node without those that are leaving, and how many of them insist."""
    group = model.scheduling.anti_affinity
    if not group:
        return 0, 0
    members, insisting = state.groups.get(group, {}).get(node.name, (0, 0))
    for replica in leaving:
        its, hard = state.grouped.get(replica.id, ("", False))
        if its == group:
            members, insisting = members - 1, insisting - hard
    return members, insisting


def kept_away(state: State, model: Model, node: Node, leaving: Iterable[Replica] = ()) -> bool:
    """Whether the model may not go to the node, even when those that are leaving have left."""
    members, insisting = members_there(state, model, node, leaving)
    return members > 0 and (insisting > 0 or model.scheduling.anti_affinity_hard)


def who_keeps_away(state: State, model: Model, node: Node) -> str:
    """The members of the model's group on the node, in words."""
    group = model.scheduling.anti_affinity
    members = [
        f"{replica} ({state.replicas[replica].model})"
        for replica in state.by_node.get(node.name, ())
        if state.grouped.get(replica, ("", False))[0] == group
    ]
    return f"{', '.join(members[:3])} of group {group} {'are' if len(members) > 1 else 'is'} there"
