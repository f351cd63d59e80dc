"""Seeded bugs in recent use; made like those of :mod:`interlock.simulation.mutants.core`."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from interlock.domain import recent_use

from .patching import Patches, Row


def recent_use_ignored(patches: Patches) -> None:
    """Only size counts: what is popular and small makes room for everything."""
    patches.swap(recent_use.recent_uses, lambda at, replica: 0)


def uses_never_age(patches: Patches) -> None:
    """Evictions do not age uses: what was popular once stays for ever."""
    count = recent_use.count_eviction

    def counted(at: Any, replica: Any) -> None:
        count(at, replica)
        at.turnovers = 0

    patches.swap(count, counted)


def past_uses_forgotten(patches: Patches) -> None:
    """A popular model that was evicted comes back as one that nobody has asked for."""
    patches.swap(recent_use.remember_uses, lambda at, replica: replace(replica, uses=0, uses_at=at.turnovers))


ROWS: tuple[Row, ...] = (
    (recent_use_ignored, "S", "daily-sweep", True),
    (uses_never_age, "S", "fashion-changes", True),
    (past_uses_forgotten, "S", "popular-comes-back", True),
)
