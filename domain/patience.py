"""How long an operation of a load may go on: the window in which something must be heard, and the end of it all.

Both grow with the bytes that must move, so that a large model is not given up for being large. An operation that shows
no progress has its bytes at ``quiet_load_rate``; one that shows progress has a window of ``load_silence`` after each
word of it, and in all its bytes at ``slowest_load_rate``, so that a trickle ends.
"""

from __future__ import annotations

from .claims import total
from .entities import Phase, Replica
from .settings import Settings
from .units import SECOND


def bytes_of(replica: Replica, phase: Phase) -> int:
    """What the operation of this phase must move, as far as it is known."""
    if phase is Phase.STAGING:
        return replica.disk
    return total(replica.claim) if phase is Phase.LOADING else 0


def window(settings: Settings, size: int) -> int:
    """How long an operation on so many bytes may show nothing at all."""
    return max(settings.load_silence, size * SECOND // settings.quiet_load_rate)


def limit(settings: Settings, size: int) -> int:
    """How long an operation on so many bytes may take in all; never less than its first window."""
    return max(window(settings, size), settings.load_silence + size * SECOND // settings.slowest_load_rate)
