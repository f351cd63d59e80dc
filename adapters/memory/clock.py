"""A clock that stands still until it is told to go on."""

from __future__ import annotations

import asyncio
import heapq

_TURNS = 16
"""Turns of the loop after a wake-up, so that whoever woke comes to its next wait before time goes on."""


class ManualClock:
    """Counts microseconds. Who sleeps on it wakes in order of instant, then of having come."""

    def __init__(self, now: int = 0) -> None:
        self.now = now
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    async def sleep(self, length: int) -> None:
        """Return once ``length`` microseconds have been let go by; at once for zero."""
        if length <= 0:
            return
        self._count += 1
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + length, self._count, woken))
        await woken

    async def advance(self, length: int) -> None:
        """Let ``length`` microseconds go by, and everybody due in them wake and work until they wait again."""
        await _turns()
        end = self.now + length
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
            await _turns()
        self.now = end


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
