"""Named moments between a decision and its effect, at which a test has this very process killed.

``INTERLOCK_CRASH_POINT=commit:17`` stops the thread that passes the point ``commit`` for the 17th time, and writes a
line to ``INTERLOCK_CRASH_FIFO``, so that whoever reads it sends SIGKILL. Nothing else in the program's path changes;
without the variable a point is a call that returns.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from interlock.domain.units import whole_number

POINTS = ("decide", "send", "commit", "reply", "effect")
"""Decided and not sent; in the store's thread before the append; stored and not yet known here; folded before any
reply; replied before any effect."""

_never = threading.Event()


def _pass(point: str) -> None:
    """No point is armed."""


def from_environment() -> Callable[[str], None]:
    """The function to call at each point."""
    armed = os.environ.get("INTERLOCK_CRASH_POINT", "")
    name, _, count = armed.partition(":")
    left = whole_number(count)
    if left is None:
        return _pass
    fifo = os.environ.get("INTERLOCK_CRASH_FIFO", "")

    def reach(point: str) -> None:
        nonlocal left
        if point != name:
            return
        left -= 1
        if left:
            return
        handle = os.open(fifo, os.O_WRONLY)
        os.write(handle, f"{point}\n".encode())
        _never.wait()

    return reach
