"""Seeded bugs in how nodes come and go and how loads end; made like those of :mod:`interlock.simulation.mutations`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interlock.domain import events as ev
from interlock.domain import nodes

from .patching import Patches

Row = tuple[Callable[[Patches], None], str, str, bool]


def drain_deadline_ignored(patches: Patches) -> None:
    """The deadline of a drain comes, and what is busy there stays as long as it likes."""
    enforce = nodes.enforce_drain

    def only_say_so(at: Any, node: Any, now: int) -> Any:
        return [event for event in enforce(at, node, now) if isinstance(event, ev.NodeDrainEnforced)]

    patches.swap(enforce, only_say_so)


def name_stolen(patches: Patches) -> None:
    """A second machine that registers under a node's name gets it, and the first takes it back with its next word."""
    patches.swap(nodes._check_name_is_free, lambda node, command: None)


ROWS: tuple[Row, ...] = (
    (drain_deadline_ignored, "S", "drain-with-deadline", True),
    (name_stolen, "S", "two-machines-one-name", True),
)
"""As in :data:`interlock.simulation.mutations.ALL`."""
