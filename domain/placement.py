"""Placement: where one more replica fits without anybody leaving."""

from __future__ import annotations

import msgspec

from .anti_affinity import kept_away
from .claims import Claim
from .entities import Model, Node, Phase
from .memory import fit, least_share
from .state import State


class Room(msgspec.Struct, frozen=True, gc=False):
    """A place for a replica: node, slot, the memory it takes there, and the disk that staging it takes."""

    node: str
    index: int
    claim: Claim
    disk: int


def find_room(state: State, model: Model) -> Room | None:
    """The best room among the model's candidates, or None.

    Filters: a free slot, no member of a hard anti-affinity group, memory in as many pools as the model is split over,
    disk. Scores: a node where the last load of this model did not fail, then one without a member of its group, then
    one without a copy of it, then the most free memory, then by name.
    """
    fallback: Room | None = None
    fallback_rank = 8
    group = model.scheduling.anti_affinity
    members = state.groups.get(group, {}) if group else {}
    least = least_share(model.declared_spec)
    for key, name in state.candidates(model).open:
        if -key < least:
            break
        rank = (4 if name in model.failed_nodes else 0) + (2 if name in members else 0)
        rank += (name, model.name) in state.by_slot
        if rank >= fallback_rank:
            continue
        room = room_on(state, model, state.nodes[name])
        if room is not None:
            if rank == 0:
                return room
            fallback, fallback_rank = room, rank
    return fallback


def has_its_copy(state: State, model: Model, node: Node) -> bool:
    """Whether a model that is to have one copy on every candidate has it on this node already."""
    if not model.scheduling.everywhere:
        return False
    here = (state.replicas[replica] for replica in state.by_slot.get((node.name, model.name), {}).values())
    return any(replica.revision == model.declared and replica.phase is not Phase.UNLOADING for replica in here)


def room_on(state: State, model: Model, node: Node) -> Room | None:
    """Room on this node, or None when a slot, memory or disk is missing, or one copy there is all that is wanted."""
    index = state.free_index(node, model.name)
    if index is None or has_its_copy(state, model, node) or kept_away(state, model, node):
        return None
    claim = fit(state.free_in_pools(node), model.declared_spec)
    disk = staging_need(state, model, node)
    if claim is None or disk is None:
        return None
    return Room(node.name, index, claim, disk)


def staging_need(state: State, model: Model, node: Node) -> int | None:
    """Bytes of disk that staging the model there takes: 0 when it is staged already; None when they are not free."""
    need = model.declared_spec.disk
    if need == 0 or (model.name, model.declared) in state.staged.get(node.name, {}):
        return 0
    free = state.disk_free(node)
    return need if free is None or need <= free else None


def fits_when_empty(state: State, model: Model, node: Node) -> bool:
    """Whether one replica would fit on the node if nothing of ours were there."""
    spec = model.declared_spec
    if node.disk is not None and spec.disk and spec.disk > node.disk - state.settings.disk_margin:
        return False
    return fit(node.budgets, spec) is not None


def ever_fits(state: State, model: Model) -> bool:
    """Whether one replica would fit on some candidate, healthy or not, if it were empty."""
    return any(fits_when_empty(state, model, state.nodes[name]) for name in state.candidates(model).nodes)
