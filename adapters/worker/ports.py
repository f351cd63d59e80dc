"""Ports for backend processes. A port whose process has ended is held back a while.

Whoever still has the old address then meets a closed port rather than another model. (The backends refuse calls for
other models anyway; this keeps them from being asked.)
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from interlock.domain.errors import Conflict

_TRIES = 1000


class Ports:
    """Hands out ports that nobody listens at, from ``low`` to ``high``, or any that the system gives.

    ``hold_s`` seconds must pass before a port is handed out again; ``clock`` counts seconds.
    """

    def __init__(
        self,
        host: str,
        span: tuple[int, int] | None,
        hold_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._span = span
        self._hold_s = hold_s
        self._clock = clock
        self._taken: set[int] = set()
        self._held: dict[int, float] = {}
        self._next = span[0] if span else 0

    def take(self) -> int:
        """A port for a new process; raises Conflict when there is none."""
        now = self._clock()
        self._held = {port: until for port, until in self._held.items() if until > now}
        for _ in range(_TRIES if self._span is None else self._span[1] - self._span[0] + 1):
            port = self._try(self._advance())
            if port and port not in self._taken and port not in self._held:
                self._taken.add(port)
                return port
        raise Conflict(
            f"no port is free: {len(self._taken)} are in use and {len(self._held)} held back.",
            cure="Widen --ports, or shorten --port-hold.",
        )

    def give_back(self, port: int) -> None:
        """The port's process has ended: hold it back."""
        self._taken.discard(port)
        self._held[port] = self._clock() + self._hold_s

    def _advance(self) -> int:
        """The next candidate: going round the range means that the port used last comes last."""
        if self._span is None:
            return 0
        port, (low, high) = self._next, self._span
        self._next = low if port >= high else port + 1
        return port

    def _try(self, port: int) -> int:
        """The port if it can be bound now, or one that the system gives for 0; 0 when it cannot."""
        with socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, port))
            except OSError:
                return 0
            given: int = probe.getsockname()[1]
            return given
