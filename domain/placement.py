"""Placement: where one more replica fits without anybody leaving, and which of those places is the best.

Filters first: a free slot, no member of a hard anti-affinity group, memory, main memory, disk, the profile's own
filters. Then the scores of :mod:`interlock.domain.scoring`, by the model's placement profile.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

import msgspec

from .anti_affinity import kept_away, members_there
from .entities import Files, Model, Node, Phase, Replica
from .memory import fit, least_share, spec_on
from .own_rules import refused_by
from .profiles import BUILT_IN, Profile
from .scoring import COPY_IS_THERE, GROUP_IS_THERE, LOAD_FAILED, WORSE_THAN_ALL, Room, Standing, profile_of, weigh
from .state import State

__all__ = ["Choice", "Room", "choose", "find_room"]

EXACT_NODES = 64
"""Among so many open candidates every one with room is scored; in a larger cluster a bounded part of them."""
COMPARED_AT_AN_END = 8
"""In a large cluster so many of the emptiest and of the fullest nodes with room are scored."""
COMPARED_STAGED = 8
"""In a large cluster so many of the nodes that hold the model's files are scored, the first by name."""


class Choice(msgspec.Struct, frozen=True, gc=False):
    """The room taken, by which profile, and how the rooms stand that were compared, best first."""

    room: Room
    profile: Profile
    standings: tuple[Standing, ...] = ()


def find_room(state: State, model: Model) -> Room | None:
    """The best room among the model's candidates, or None."""
    choice = choose(state, model)
    return choice.room if choice is not None else None


def choose(state: State, model: Model) -> Choice | None:
    """The best room among the model's candidates, and what spoke for it; None when there is no room.

    It never misses a room that exists. Which one is the best is exact in a cluster of up to EXACT_NODES open
    candidates, and at any size for a profile without weights; beyond, it is the best of a bounded number of rooms.
    """
    profile = profile_of(state, model)
    if not profile.weights:
        room = _roomiest(state, model)
        return Choice(room, profile) if room is not None else None
    standings = weigh(state, model, profile, _rooms(state, model, profile))
    return Choice(standings[0].room, profile, tuple(standings)) if standings else None


def _roomiest(state: State, model: Model) -> Room | None:
    """With nothing to weigh: what is least to be avoided, then the most free memory, then by name."""
    fallback: Room | None = None
    fallback_rank = WORSE_THAN_ALL
    least = least_share(model.declared_spec)
    for key, name in state.candidates(model).open:
        if -key < least:
            break
        rank = avoided(state, model, name)
        if rank >= fallback_rank:
            continue
        room = room_on(state, model, state.nodes[name])
        if room is not None:
            if rank == 0:
                return room
            fallback, fallback_rank = room, rank
    return fallback


def avoided(state: State, model: Model, node: str, leaving: tuple[Replica, ...] = ()) -> int:
    """What a replica avoids on this node, as :data:`~interlock.domain.scoring.AVOIDED` counts it.

    Those that are leaving are taken to have left.
    """
    if avoids_nothing(state, model):
        return 0
    rank = LOAD_FAILED if node in model.failed_nodes else 0
    if members_there(state, model, state.nodes[node], leaving)[0] > 0:
        rank |= GROUP_IS_THERE
    same = sum(1 for replica in leaving if replica.model == model.name) if leaving else 0
    return rank | COPY_IS_THERE if len(state.by_slot.get((node, model.name), ())) > same else rank


def avoids_nothing(state: State, model: Model) -> bool:
    """Whether there is no node at all that a replica of the model avoids."""
    return not (model.failed_nodes or model.scheduling.anti_affinity or model.name in state.by_model)


def _rooms(state: State, model: Model, profile: Profile) -> list[Standing]:
    """The rooms to score: all of them in a small cluster, else some of each kind that a score may favour."""
    candidates = state.candidates(model)
    nodes = candidates.open
    end = bisect_right(nodes, -least_share(model.declared_spec), key=lambda entry: entry[0])
    if len(nodes) <= EXACT_NODES:
        standings = [_standing_on(state, model, name) for _, name in nodes[:end]]
        return [standing for standing in standings if standing is not None]
    rooms: dict[str, Standing] = {}
    if profile.weight("locality") or profile.weight("load_time"):
        staged = (name for name in state.staged_at.get((model.name, model.declared), ()) if name in candidates.keys)
        _take_some(state, model, staged, COMPARED_STAGED, rooms)
    emptiest = (nodes[place][1] for place in range(end))
    _take_some(state, model, emptiest, COMPARED_AT_AN_END, rooms)
    if len(rooms) >= COMPARED_AT_AN_END:
        fullest = (nodes[place][1] for place in range(end - 1, -1, -1))
        _take_some(state, model, fullest, COMPARED_AT_AN_END, rooms)
    return list(rooms.values())


def _take_some(state: State, model: Model, names: Iterable[str], most: int, rooms: dict[str, Standing]) -> None:
    """Take the first ``most`` rooms where the least is to be avoided."""
    found, least = 0, WORSE_THAN_ALL
    for name in names:
        rank = avoided(state, model, name)
        if rank > least or (rank == least and found == most):
            continue
        standing = rooms.get(name) or _standing_on(state, model, name)
        if standing is None:
            continue
        rooms[name] = standing
        found = found + 1 if rank == least else 1
        least = rank
        if rank == 0 and found == most:
            return


def _standing_on(state: State, model: Model, name: str) -> Standing | None:
    node = state.nodes[name]
    room = room_on(state, model, node)
    if room is None:
        return None
    free = state.free_in_pools(node)
    return Standing(room, avoided(state, model, name), max(free, default=0), sum(free))


def has_its_copy(state: State, model: Model, node: Node) -> bool:
    """Whether a model that is to have one copy on every candidate has it on this node already."""
    if not model.scheduling.everywhere:
        return False
    here = (state.replicas[replica] for replica in state.by_slot.get((node.name, model.name), {}).values())
    return any(replica.revision == model.declared and replica.phase is not Phase.UNLOADING for replica in here)


def may_host(state: State, model: Model, node: Node) -> bool:
    """Whether the node is one for this model, whatever else runs there: by the own filters, and by its copies there."""
    if has_its_copy(state, model, node):
        return False
    settings = state.settings
    if model.scheduling.placement in BUILT_IN or (not model.scheduling.placement and settings.placement in BUILT_IN):
        return True
    return not refused_by(state, model, node, profile_of(state, model))


def room_on(state: State, model: Model, node: Node) -> Room | None:
    """Room on this node, or None when a slot, memory or disk is missing, or one copy there is all that is wanted."""
    index = state.free_index(node, model.name)
    if index is None or not may_host(state, model, node) or kept_away(state, model, node):
        return None
    claim = fit(state.free_memory(node), spec_on(node, model.declared_spec))
    disk = staging_need(state, model, node) if claim is not None else None
    if claim is None or disk is None:
        return None
    return Room(node.name, index, claim, disk)


def staging_need(state: State, model: Model, node: Node, *, replacing: bool = False) -> int | None:
    """Bytes of disk that staging the model there takes: 0 when it is staged already; None when they are not free.

    ``replacing``: its own copies there will have left, so that the files of another edition, which they use, give way.
    """
    need = model.declared_spec.disk
    if need == 0 or (model.name, model.declared) in state.staged.get(node.name, {}):
        return 0
    free = state.disk_free(node)
    if free is None or need <= free:
        return need
    free += sum(size for _, _, size in unused_files(state, node))
    if replacing:
        free += sum(size for (name, _), size in state.staged.get(node.name, {}).items() if name == model.name)
    return need if need <= free else None


def unused_files(state: State, node: Node) -> list[Files]:
    """The files on the node's disk that no replica there uses, those first whose use ended longest ago."""
    staged = state.staged.get(node.name, {})
    return [(*key, size) for key, size in staged.items() if (node.name, key[0]) not in state.by_slot]


def files_to_drop(state: State, model: Model, node: Node) -> tuple[Files, ...]:
    """What must go from the disk so that the model can be staged there; nothing while there is room.

    As many as it takes, least recently used first; whoever of them can be spared because a later one is enough, stays.
    """
    need, free = staging_need(state, model, node), state.disk_free(node)
    lack = 0 if not need or free is None else need - free
    drops: list[Files] = []
    for files in unused_files(state, node) if lack > 0 else ():
        drops.append(files)
        lack -= files[2]
        if lack <= 0:
            break
    for files in reversed(drops.copy()):
        if lack + files[2] <= 0:
            drops.remove(files)
            lack += files[2]
    return tuple(drops)


def whose_files_would_do(state: State, model: Model, node: Node) -> list[Replica]:
    """Who would have to be unloaded there so that the model can be staged; nobody when that would not be enough.

    Of models without requests and without a pin first, then those of the largest files; as few models as it takes.
    """
    lack = model.declared_spec.disk - (state.disk_free(node) or 0) - sum(size for *_, size in unused_files(state, node))
    in_use = [
        (any(state.lock_count(user.id) for user in users), _pinned(state, name), -size, name, users)
        for (name, _), size in state.staged.get(node.name, {}).items()
        if (users := _users(state, node, name))
    ]
    taken: list[tuple[int, list[Replica]]] = []
    for _, _, less, _, users in sorted(in_use, key=lambda entry: entry[:4]):
        if lack > 0:
            taken.append((-less, users))
            lack += less
    if lack > 0:
        return []
    for entry in taken.copy():
        if lack + entry[0] <= 0:  # one that came later is enough without it
            taken.remove(entry)
            lack += entry[0]
    return [user for _, users in taken for user in users]


def _users(state: State, node: Node, model: str) -> list[Replica]:
    """The replicas there that hold the model's files; nobody while one of them is coming or going."""
    users = [state.replicas[replica] for replica in state.by_slot.get((node.name, model), {}).values()]
    return users if all(user.phase is Phase.LOADED for user in users) else []


def _pinned(state: State, name: str) -> bool:
    model = state.models.get(name)
    return model is not None and model.scheduling.pinned


def fits_when_empty(state: State, model: Model, node: Node) -> bool:
    """Whether one replica would fit on the node if nothing of ours were there."""
    spec = model.declared_spec
    if node.disk is not None and spec.disk and spec.disk > node.disk - state.settings.disk_margin:
        return False
    return fit(node.limits, spec_on(node, spec)) is not None


def ever_fits(state: State, model: Model) -> bool:
    """Whether one replica would fit on some candidate, healthy or not, if it were empty."""
    return any(fits_when_empty(state, model, state.nodes[name]) for name in state.candidates(model).nodes)
