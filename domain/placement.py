"""Placement: where one more replica fits without anybody leaving, and which of those places is the best.

Filters first, as :mod:`interlock.domain.room` judges each node; then the scores of :mod:`interlock.domain.scoring`, by
the model's placement profile.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

import msgspec

from .anti_affinity import members_there
from .entities import Model, Replica
from .memory import least_share
from .profiles import Profile
from .room import room_on
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
    rank = LOAD_FAILED if node in model.tried_on else 0
    if members_there(state, model, state.nodes[node], leaving)[0] > 0:
        rank |= GROUP_IS_THERE
    same = sum(1 for replica in leaving if replica.model == model.name) if leaving else 0
    return rank | COPY_IS_THERE if len(state.by_slot.get((node, model.name), ())) > same else rank


def avoids_nothing(state: State, model: Model) -> bool:
    """Whether there is no node at all that a replica of the model avoids."""
    return not (model.tried_on or model.scheduling.anti_affinity or model.name in state.by_model)


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
