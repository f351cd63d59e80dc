"""Seeded bugs in where copies go; made like those of :mod:`interlock.simulation.mutants.core`."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from interlock.domain import (
    anti_affinity,
    eviction,
    many_victims,
    memory,
    parking,
    placement,
    room_to_come,
    scoring,
    wishes,
)
from interlock.domain.applying import changes
from interlock.domain.commands import ChangeKind
from interlock.domain.entities import Lack, Phase, Replica
from interlock.domain.profiles import BUILT_IN
from interlock.domain.state import State

from .patching import Patches, Row


def group_ignored(patches: Patches) -> None:
    """Members of a hard anti-affinity group are put on one node."""
    patches.swap(anti_affinity.kept_away, lambda at, model, node, leaving=(): False)


def avoidance_ignored(patches: Patches) -> None:
    """Scores are all that counts: members of a soft group, and copies of one model, share a node for a better one."""
    patches.swap(placement.avoided, lambda at, model, node, leaving=(): 0)


def profile_ignored(patches: Patches) -> None:
    """Every model is placed by the most free memory, whatever profile it or the cluster names."""
    patches.swap(scoring.profile_of, lambda at, model: BUILT_IN["default"])


def locality_ignored(patches: Patches) -> None:
    """A node counts as near whether the model's files lie there or not."""
    weigh = scoring.weigh

    def all_near(at: Any, model: Any, profile: Any, rooms: Any) -> Any:
        return weigh(at, model, profile, [replace(standing, room=replace(standing.room, disk=0)) for standing in rooms])

    patches.swap(weigh, all_near)


def ram_ignored(patches: Patches) -> None:
    """A model goes where its pools have room, whatever main memory it needs beside."""
    patches.swap(memory.lacks_ram, lambda free, spec: False)


def old_edition_kept(patches: Patches) -> None:
    """The files of a model's old revision are believed to be there beside the new ones that took their place."""
    patches.attribute(State, "other_revisions_staged", lambda at, node, model, revision: [])


def found_files_go_all_the_same(patches: Patches) -> None:
    """Files that were to give way do so, though another load found them there still and counted them in again."""
    patches.swap(changes.stay_after_all, lambda at, node, model: None)


def one_memory_taken_for_two(patches: Patches) -> None:
    """On a board with one memory, what models take of both is counted as if there were two."""
    patches.swap(memory.spec_on, lambda node, spec: spec)


def disk_promised_twice(patches: Patches) -> None:
    """The disk of files that are to give way counts as free before they do."""

    def of_its_own(replica: Any) -> int:
        return replica.disk if replica.phase in (Phase.RESERVED, Phase.INSTALLING, Phase.STAGING) else 0

    patches.attribute(Replica, "disk_coming", property(of_its_own))


def others_leave_unnoticed(patches: Patches) -> None:
    """Memory that others give back wakes no wish that is parked for want of it."""
    for lacks in (Lack.CAPACITY, Lack.NODE):
        patches.entry(parking.CURES, lacks, parking.CURES[lacks] - {ChangeKind.LIMITS})


def evicts_where_it_failed(patches: Patches) -> None:
    """Room is made where it is cheapest, though the model's last load failed there and another node would do."""
    patches.swap(eviction.failed_there, lambda model, node: False)


def wishes_ignored(patches: Patches) -> None:
    """Of nodes where making room costs about the same the cheapest is taken, whatever the model's group and profile."""
    patches.swap(wishes.has_wishes, lambda at, model: False)


def spare_victims_kept(patches: Patches) -> None:
    """Of many replicas those that free the most go, and stay victims when others have made them spare."""
    patches.swap(many_victims.without_spare, lambda lack, victims: victims)


def victims_still_counted(patches: Patches) -> None:
    """Nodes that could make room are scored with the victims still there."""

    def as_they_stand(at: Any, model: Any, found: Any, victims: Any, room: Any, cost: Any) -> Any:
        node = at.nodes[found.node]
        free = at.free_in_pools(node)
        place = scoring.Room(node.name, found.index, found.claim, found.disk)
        standing = scoring.Standing(place, placement.avoided(at, model, node.name), max(free), sum(free))
        return wishes.Offer(cost, found.victims, standing)

    patches.swap(eviction._offer, as_they_stand)


def coming_room_unseen(patches: Patches) -> None:
    """Somebody is evicted while another, who leaves in any case, is about to make the room."""
    patches.swap(room_to_come.room_to_come, lambda at, model, now: None)


ROWS: tuple[Row, ...] = (
    (group_ignored, "S", "anti-affinity", True),
    (avoidance_ignored, "S", "placement-under-faults", True),
    (profile_ignored, "S", "packed-and-spread", True),
    (locality_ignored, "S", "weights-already-there", True),
    (ram_ignored, "S", "ram-runs-out", True),
    (one_memory_taken_for_two, "S", "one-memory-board", True),
    (old_edition_kept, "S", "edition-replaced", True),
    (found_files_go_all_the_same, "S", "files-found-there-still", True),
    (disk_promised_twice, "S", "disk-promised-once", True),
    (others_leave_unnoticed, "W", "out-of-memory", True),
    (evicts_where_it_failed, "S", "room-elsewhere", True),
    (wishes_ignored, "S", "room-as-wished", True),
    (victims_still_counted, "S", "room-as-wished", True),
    (spare_victims_kept, "S", "only-those-that-help-leave", True),
    (coming_room_unseen, "S", "room-on-its-way", True),
)
