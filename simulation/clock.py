"""Virtual time: SimPy's event queue, driven by callbacks. Time 0 is 2026-01-01T00:00:00Z; lengths are microseconds.

Callbacks beat a process per request two to one, and leave nothing suspended whose end could be forgotten.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import simpy
from simpy.events import Timeout

from interlock.domain.units import FOREVER, parse_instant

from .reading.fields import Distribution

START = parse_instant("2026-01-01T00:00:00Z")


class Clock:
    """The run's clock and agenda. Things due at the same instant happen in the order in which they were agreed."""

    def __init__(self) -> None:
        self.env = simpy.Environment()
        self._agenda = self.env._queue

    @property
    def now(self) -> int:
        """Microseconds since 1970."""
        return START + int(self.env._now)

    @property
    def elapsed(self) -> int:
        """Microseconds since the start of the run."""
        return int(self.env._now)

    def after(self, delay: int, call: Callable[..., None], *args: Any) -> None:
        """Call it after ``delay``; never, when that is FOREVER."""
        if delay >= FOREVER:
            return
        event = Timeout(self.env, delay if delay > 0 else 0, args)
        event.callbacks.append(lambda due: call(*due._value))

    def at(self, instant: int, call: Callable[..., None], *args: Any) -> None:
        """Call it at an instant since 1970; at once when that has passed."""
        self.after(instant - START - self.elapsed, call, *args)

    def run(self, until: int) -> bool:
        """Let time pass up to ``until`` after the start; False when there was nothing left to happen before."""
        if until <= self.elapsed:
            return True
        agenda, step = self._agenda, self.env.step
        is_dry = not agenda
        # Not by env.run(until): that leaves an event of its own on the agenda, which would never be empty again.
        while agenda and agenda[0][0] < until:
            step()
        self.env._now = until
        return not is_dry

    def finish_instant(self) -> None:
        """Let all happen that is due at this very instant, and what is agreed for it meanwhile."""
        while self.env.peek() <= self.env.now:
            self.env.step()


class Streams:
    """One seed, one family of generators: each purpose draws from a stream of its own, so that they do not disturb."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, random.Random] = {}

    def __getitem__(self, name: str) -> random.Random:
        stream = self._streams.get(name)
        if stream is None:
            # Seeding with text hashes it with SHA-512: the same under any PYTHONHASHSEED.
            stream = self._streams[name] = random.Random(f"{self.seed}/{name}")
        return stream


def draw(distribution: Distribution, stream: random.Random) -> int:
    """One length in microseconds."""
    length = distribution.length
    if length >= FOREVER or distribution.kind == "fixed":
        return length
    if distribution.kind == "exp":
        return min(round(stream.expovariate(1.0) * length), FOREVER)
    return min(round(length * math.exp(stream.gauss(0.0, distribution.sigma))), FOREVER)
