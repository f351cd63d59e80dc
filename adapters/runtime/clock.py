"""The one place where the running system reads a clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for the log, and time that never jumps for leases."""

    def now(self) -> int:
        """Microseconds since 1970-01-01T00:00:00Z."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never runs backwards, whatever happens to the wall clock."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        """See :class:`Clock`."""
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        """See :class:`Clock`."""
        return time.monotonic()
