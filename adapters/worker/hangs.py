"""A backend that hangs for good: its process is alive, answers no health call, and does nothing that could end that.

Busy is not dead, so that no answer alone says nothing: whoever computes, reads or writes may answer yet. Only a process
that was silent and idle at every look within the limit is taken to be hung. Looks are counted, and not the time between
them, so that a machine that was asleep does not find everything hung when it wakes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec
import psutil

LOOKS = 10
"""So many looks in a row, evenly over the limit, must find neither an answer nor a deed."""
IDLE_SHARE = 0.01
"""Less CPU time than this share of the time between two looks is what an idle runtime's own threads take."""


class Deeds(msgspec.Struct, frozen=True):
    """What a process and its children have done so far: seconds of CPU time, bytes read and written."""

    cpu_s: float = 0.0
    moved: int = 0


def deeds_of(pid: int) -> Deeds:
    """What they have done; what cannot be seen of it counts as nothing."""
    cpu_s, moved = 0.0, 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                cpu_s += times.user + times.system
                if hasattr(one, "io_counters"):  # not on every system
                    io = one.io_counters()
                    moved += getattr(io, "read_chars", io.read_bytes) + getattr(io, "write_chars", io.write_bytes)
    return Deeds(cpu_s, moved)


async def await_hang(
    answers: Callable[[float], Awaitable[bool]], deeds: Callable[[], Deeds], limit_s: float, looks: int = LOOKS
) -> None:
    """Return when all ``looks`` in ``limit_s`` have found it silent and idle. ``answers`` is told how long it has."""
    pause_s = limit_s / looks
    before, in_vain = deeds(), 0
    while in_vain < looks:
        await asyncio.sleep(pause_s)
        answered = await answers(pause_s)
        now = deeds()
        idle = now.cpu_s - before.cpu_s < IDLE_SHARE * pause_s and now.moved == before.moved
        in_vain = in_vain + 1 if idle and not answered else 0
        before = now
