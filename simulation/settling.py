"""How long a run may go on once nothing new comes in.

Virtual time alone says nothing: a request may have a deadline in a week, and a service may take a day. What must end is
doing. So patience is spent by the time in which things are done, or in which nothing is promised, and it is whole again
whenever a request's wait has ended, which can happen only so often.
"""

from __future__ import annotations

from interlock.domain.units import DAY, HOUR, SECOND

PATIENCE = 6 * HOUR
"""So long things may be done, or nothing be promised, before the run counts as one that does not settle."""
LONGEST = 3_653 * DAY
"""No run is followed for longer, whatever is promised beyond."""
FINE = HOUR // 60
GROWTH = 64
"""After the first hours a step is this fraction of the time that has passed."""


class Settling:
    """The patience with one run. Call :meth:`passed` after each step; lengths are microseconds of virtual time."""

    def __init__(self, waiting: int, deeds: int) -> None:
        self.length = 0
        self.spent = 0
        self._fewest = waiting
        self._deeds = deeds

    def step(self, reconcile_interval: int) -> int:
        """How long to let time pass before looking again."""
        if self.length < PATIENCE:
            return max(SECOND, min(reconcile_interval, FINE))
        return max(FINE, self.length // GROWTH)

    def passed(self, length: int, *, waiting: int, deeds: int, promised: bool) -> None:
        """Time has passed. ``promised``: something is agreed for a later instant, and it will come.

        ``deeds`` counts what was done so far, ``waiting`` the requests that wait.
        """
        self.length += length
        if waiting < self._fewest:
            self._fewest, self.spent = waiting, 0
        elif deeds != self._deeds or not promised:
            self.spent += length
        self._deeds = deeds

    @property
    def over(self) -> bool:
        """Whether patience is at its end."""
        return self.spent >= PATIENCE or self.length >= LONGEST
