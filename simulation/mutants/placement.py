"""Seeded bugs in where copies go; made like those of :mod:`interlock.simulation.mutants.core`."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from interlock.domain import anti_affinity, memory, placement, reconcile, scoring
from interlock.domain.entities import Phase, Replica
from interlock.domain.profiles import BUILT_IN

from .patching import Patches, Row


def group_ignored(patches: Patches) -> None:
    """Members of a hard anti-affinity group are put on one node."""
    patches.swap(anti_affinity.kept_away, lambda at, model, node, leaving=(): False)


def avoidance_ignored(patches: Patches) -> None:
    """Scores are all that counts: members of a soft group, and copies of one model, share a node for a better one."""
    patches.swap(placement.avoided, lambda at, model, node: 0)


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


def disk_promised_twice(patches: Patches) -> None:
    """The disk of files that are to give way counts as free before they do."""

    def of_its_own(replica: Any) -> int:
        return replica.disk if replica.phase in (Phase.RESERVED, Phase.INSTALLING, Phase.STAGING) else 0

    patches.attribute(Replica, "disk_coming", property(of_its_own))


def others_leave_unnoticed(patches: Patches) -> None:
    """Memory that others give back wakes no wish that is parked for want of it."""
    for lacks in ("capacity", "node"):
        patches.entry(reconcile.CURES, lacks, reconcile.CURES[lacks] - {"limits"})


ROWS: tuple[Row, ...] = (
    (group_ignored, "S", "anti-affinity", True),
    (avoidance_ignored, "S", "placement-under-faults", True),
    (profile_ignored, "S", "packed-and-spread", True),
    (locality_ignored, "S", "weights-already-there", True),
    (ram_ignored, "S", "ram-runs-out", True),
    (disk_promised_twice, "S", "disk-promised-once", True),
    (others_leave_unnoticed, "W", "out-of-memory", True),
)
