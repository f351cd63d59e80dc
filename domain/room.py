"""Room on a node for one more replica: the filters that a node must pass, in their order, and how it is there.

One function judges, for whoever asks: placement takes the room, an explanation names the first filter that a node does
not pass, and eviction and roll-outs ask what would be once some have left.
"""

from __future__ import annotations

from enum import StrEnum

from .anti_affinity import kept_away
from .disk import staging_need
from .entities import Model, Node, Phase, Replica
from .memory import fit, fit_in_pools, lacks_ram, room_after, spec_on
from .own_rules import refused_by
from .profiles import BUILT_IN
from .scoring import Room, profile_of
from .state import State, first_free


class Filter(StrEnum):
    """What a node can lack for one more replica of a model, in the order in which it is looked at.

    Approval, selector and health come before: only a model's open candidates are judged here.
    """

    SLOTS = "slots"
    """It holds as many of the model's replicas as it may."""
    COPY = "copy"
    """The model is to have one copy on every candidate, and has it there."""
    ANTI_AFFINITY = "anti_affinity"
    """A member of the model's group is there, and one of the two insists."""
    OWN = "own"
    """A filter of the model's placement profile."""
    MEMORY = "memory"
    """Memory in its pools."""
    RAM = "ram"
    """Main memory."""
    DISK = "disk"
    """Disk for staging, files that may give way counted in."""


def judge_room(state: State, model: Model, node: Node, leaving: tuple[Replica, ...] = ()) -> Room | Filter:
    """The room for one more replica of the declared revision, or the first filter that the node does not pass.

    Those that are ``leaving`` are taken to have left, and its slot is the lowest that is free already. What loads there
    are still owed is in use by their victims, and no room yet. The files of another edition give way once no copy is
    left that uses them.
    """
    slots = state.by_slot.get((node.name, model.name), {})
    own = sum([one.model == model.name for one in leaving]) if leaving else 0
    if len(slots) - own >= node.max_replicas_per_model:
        return Filter.SLOTS
    if has_its_copy(state, model, node):
        return Filter.COPY
    if kept_away(state, model, node, leaving):
        return Filter.ANTI_AFFINITY
    if is_refused(state, model, node):
        return Filter.OWN
    free = room_after(state.balance_of_memory(node), leaving) if leaving else state.free_memory(node)
    spec = spec_on(node, model.declared_spec)
    claim = fit(free, spec)
    if claim is None:
        return Filter.RAM if lacks_ram(free, spec) and fit_in_pools(free, spec) is not None else Filter.MEMORY
    disk = staging_need(state, model, node, replacing=0 < own == len(slots))
    if disk is None:
        return Filter.DISK
    return Room(node.name, first_free(slots), claim, disk)


def room_on(state: State, model: Model, node: Node) -> Room | None:
    """Room on this node, or None when it does not pass a filter."""
    judged = judge_room(state, model, node)
    return judged if isinstance(judged, Room) else None


def fits_after(state: State, model: Model, node: Node, leaving: tuple[Replica, ...]) -> bool:
    """Whether one replica of the declared revision would fit on the node once these have left it."""
    return isinstance(judge_room(state, model, node, leaving), Room)


def fits_when_empty(state: State, model: Model, node: Node) -> bool:
    """Whether one replica would fit on the node if nothing of ours were there."""
    spec = model.declared_spec
    if node.disk is not None and spec.disk and spec.disk > node.disk - state.settings.disk_margin:
        return False
    return fit(node.limits, spec_on(node, spec)) is not None


def ever_fits(state: State, model: Model) -> bool:
    """Whether one replica would fit on some candidate, healthy or not, if it were empty."""
    return any(fits_when_empty(state, model, state.nodes[name]) for name in state.candidates(model).nodes)


def may_host(state: State, model: Model, node: Node) -> bool:
    """Whether the node is one for this model whoever leaves it: by its copies there, and by the own filters."""
    return not has_its_copy(state, model, node) and not is_refused(state, model, node)


def has_its_copy(state: State, model: Model, node: Node) -> bool:
    """Whether a model that is to have one copy on every candidate has it on this node already."""
    if not model.scheduling.everywhere:
        return False
    here = (state.replicas[replica] for replica in state.by_slot.get((node.name, model.name), {}).values())
    return any(replica.revision == model.declared and replica.phase is not Phase.UNLOADING for replica in here)


def is_refused(state: State, model: Model, node: Node) -> bool:
    """Whether a filter of the model's placement profile refuses the node; profiles in the box have none."""
    named = model.scheduling.placement or state.settings.placement
    return named not in BUILT_IN and bool(refused_by(state, model, node, profile_of(state, model)))
