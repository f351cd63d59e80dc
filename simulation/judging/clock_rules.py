"""Workers' clocks by the events alone: what is noted of one is so, what it tells is noted, and nothing goes by it."""

from __future__ import annotations

from collections.abc import Callable

from interlock.domain import events as ev
from interlock.domain.clocks import CLOCK_TOLERANCE, is_told
from interlock.domain.commands import Command, RegisterNode, ReportCapacity
from interlock.domain.engine import Outcome
from interlock.domain.units import tell_clock

from .court import Court


class ClockRules:
    """What must hold of clocks. Fed with each outcome in which more happens than locks and releases.

    ``now()`` is the control plane's clock, and ``offsets(node, at)`` by how much the node's was off at that instant:
    more than one figure where it was set in it.
    """

    def __init__(self, court: Court, now: Callable[[], int], offsets: Callable[[str, int], tuple[int, ...]]) -> None:
        self.court = court
        self._now = now
        self._offsets = offsets
        self.noted: dict[str, int] = {}
        """By node, as far as it is known."""
        self.boots: dict[str, str] = {}
        self._last = 0

    def see(self, outcome: Outcome, command: Command) -> None:
        """These events are durable."""
        told = command if isinstance(command, RegisterNode | ReportCapacity) and is_told(command) else None
        for event in outcome.events:
            if told is not None and not self._last <= event.at <= self._now():
                text = f"what follows from a word of {told.node} is dated by another clock than ours"
                self.court.breach("S", text, told.node)
            self._last = max(self._last, event.at)
            if isinstance(event, ev.NodeRegistered):
                if self.boots.get(event.node) != event.boot or event.replaced:
                    self.noted.pop(event.node, None)
                self.boots[event.node] = event.boot
            elif isinstance(event, ev.NodeRemoved):
                self.noted.pop(event.node, None)
                self.boots.pop(event.node, None)
            elif isinstance(event, ev.NodeClockOff):
                self._note(event, told)
        if told is not None and outcome.events:
            self.told(told)

    def _note(self, event: ev.NodeClockOff, told: RegisterNode | ReportCapacity | None) -> None:
        """It is off by so much, or was when its worker told of it."""
        self.noted[event.node] = event.off
        if told is None or told.node != event.node:
            self.court.breach("S", f"the clock of {event.node} is noted, and its worker has not told it", event.node)
            return
        leeway = CLOCK_TOLERANCE + self._now() - told.sent_at
        true = self._offsets(event.node, told.sent_at)
        if all(abs(event.off - one) > leeway for one in true):
            text = f"the clock of {event.node} is noted as {_off(event.off)}, and is {_off(true[-1])}"
            self.court.breach("S", text, event.node)

    def told(self, command: RegisterNode | ReportCapacity) -> None:
        """A worker has told its clock, and what was to be noted of it is."""
        if not is_told(command) or command.node not in self.boots:
            return
        least, most = command.clock - self._now(), command.clock - command.sent_at
        noted = self.noted.get(command.node, 0)
        if not least - CLOCK_TOLERANCE <= noted <= most + CLOCK_TOLERANCE:
            text = f"the clock of {command.node} is told as {_off(most)}, and noted as {_off(noted)}"
            self.court.breach("S", text, command.node)


def _off(off: int) -> str:
    return tell_clock(off) if off else "right"
