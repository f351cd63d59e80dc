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


class SteadyClock:
    """Another clock, but its wall time never runs backwards, nor stands below ``least`` (microseconds since 1970).

    The log's time cannot go back. Where the machine's is set back, or a writer takes over from one that was ahead, no
    instant would be due until the machine's has caught up: this clock goes on from where the log is instead.
    """

    def __init__(self, clock: Clock, least: int = 0) -> None:
        self._clock = clock
        self._wall, self._since = max(clock.now(), least), clock.monotonic()

    def now(self) -> int:
        """See :class:`Clock`."""
        monotonic = self._clock.monotonic()
        gone_on = self._wall + round((monotonic - self._since) * 1_000_000)
        self._wall, self._since = max(self._clock.now(), gone_on), monotonic
        return self._wall

    def monotonic(self) -> float:
        """See :class:`Clock`."""
        return self._clock.monotonic()


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        """See :class:`Clock`."""
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        """See :class:`Clock`."""
        return time.monotonic()
