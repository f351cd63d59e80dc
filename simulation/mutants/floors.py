"""Seeded bugs in how many copies there are to be; made like those of :mod:`interlock.simulation.mutants.core`."""

from __future__ import annotations

from interlock.domain import shrinking

from .patching import Patches, Row


def silent_copy_counts(patches: Patches) -> None:
    """A copy that cannot serve stands in for the one that does, which leaves after each request as one too many."""
    patches.swap(shrinking.serving_copies, shrinking.copies)


ROWS: tuple[Row, ...] = ((silent_copy_counts, "S", "silent-copy-stands-in-for-nobody", True),)
"""As in :data:`interlock.simulation.mutants.core.ALL`."""
