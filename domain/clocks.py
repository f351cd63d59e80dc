"""Workers' clocks: that one is off is noted, for people; nothing is decided by it.

Every instant in the core is the control plane's. A machine whose clock is off serves as well as any other, but its own
logs mislead, and certificates that hold do not hold there.
"""

from __future__ import annotations

from . import events as ev
from .commands import RegisterNode, ReportCapacity
from .entities import Node
from .units import FOREVER, SECOND

CLOCK_TOLERANCE = 5 * SECOND
"""A clock that is off by no more than this, or by no more than this other than noted, makes no event."""


def is_told(command: RegisterNode | ReportCapacity) -> bool:
    """Whether the worker has said what its clock shows; an earlier program's worker does not."""
    return 0 < command.clock < FOREVER


def note(command: RegisterNode | ReportCapacity, node: Node | None, now: int) -> list[ev.Event]:
    """The event that says how far the clock of the worker is off, where something else is known of its node.

    What was told of the worker's former boot is not known of this one: it is said anew.
    """
    known = node.clock_off if node is not None else 0
    if not is_told(command):
        return []
    anew = node is not None and type(command) is RegisterNode and command.boot != node.boot
    off = off_by(command.clock, command.sent_at, now, 0 if anew else known)
    return [ev.NodeClockOff(at=now, node=command.node, off=off)] if off != known or (anew and off) else []


def off_by(clock: int, sent_at: int, now: int, known: int) -> int:
    """By how much a clock is off that showed ``clock`` at ``sent_at`` (0: now) or later; ``known`` while it may be so.

    Below 0 it is behind. A message that was long on its way shows what the clock was then, so that a clock seems
    behind: it counts as that only by what no such delay explains. Right is what is off by half of the tolerance.
    """
    least = clock - now
    most = max(least, clock - sent_at) if sent_at else least
    if abs(least) <= CLOCK_TOLERANCE // 2:
        return 0
    if least - CLOCK_TOLERANCE <= known <= most + CLOCK_TOLERANCE:
        return known
    if least < 0 <= most + CLOCK_TOLERANCE:
        return 0
    return (least + SECOND // 2) // SECOND * SECOND
