"""Seeded bugs in what is held for a load; made like those of :mod:`interlock.simulation.mutants.core`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interlock.domain import events as ev
from interlock.domain import loads
from interlock.domain.applying import changes

from .patching import Patches, Row


def hold_forgotten(patches: Patches) -> None:
    """What a victim frees is not held for the load that it made room for."""

    def unpaid(at: Any, victim: Any) -> None:
        waiting = at.awaited.get(victim.beneficiary)
        if waiting is not None:
            del waiting[victim.id]
            if not waiting:
                del at.awaited[victim.beneficiary]

    patches.swap(changes.pay_beneficiary, unpaid)


def hold_told_after_its_load(patches: Patches) -> None:
    """A load ends, and the hold for it after that: in a stream that is over, whose versions no store takes again."""

    def told_last(ends: Callable[..., Any]) -> Callable[..., Any]:
        def ended(*args: Any, **kwargs: Any) -> Any:
            events = ends(*args, **kwargs)
            return sorted(events, key=lambda event: isinstance(event, ev.HoldReleased))

        return ended

    for ends in (loads.give_up, loads.lose):
        patches.swap(ends, told_last(ends))


ROWS: tuple[Row, ...] = (
    (hold_forgotten, "S", "hold-kept", True),
    (hold_told_after_its_load, "S", "room-made-for-nobody", True),
)
