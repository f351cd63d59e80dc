"""A client that hammers at its limit is told no by the gateway, and not by a decision of the core for each knock.

Each refusal of the core is an event, for ever. One that says "not before then, whatever this tenant asks for" answers
all that the tenant sends until then, so the gateway repeats it, with what is left of the time, and asks again at the
latest a second after it was given, so that limits that were raised meanwhile take hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from interlock.domain.commands import AnyReply, Rejected
from interlock.domain.units import SECOND

from .problems import RequestRefused

_LONGEST_SECONDS = 1.0
"""How long an answer is repeated without asking again."""
_PROBE_SECONDS = 0.1
"""How long one request that goes to ask again goes alone, while the last answer still holds."""
_MOST_TENANTS = 1_000


class _Held:
    """What a tenant was told: it holds until ``until``, and from ``ask_at`` on somebody goes and asks again."""

    __slots__ = ("ask_at", "asked_at", "reply", "until")

    def __init__(self, reply: Rejected, asked_at: float) -> None:
        self.reply, self.asked_at = reply, asked_at
        self.until = asked_at + reply.retry_after / SECOND
        self.ask_at = min(self.until, asked_at + _LONGEST_SECONDS)


class Refrain:
    """The refusals that hold for whole tenants now, for a bounded number of them. Times are monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._held: dict[str, _Held] = {}

    def repeated(self, tenant: str) -> RequestRefused | None:
        """The refusal that a request of this tenant would get now, as far as is known; None sends it to the core."""
        held = self._held.get(tenant)
        if held is None:
            return None
        now = self.clock()
        if now >= held.until:
            del self._held[tenant]
            return None
        if now >= held.ask_at:
            held.ask_at = now + _PROBE_SECONDS
            return None
        reply = held.reply
        left = max(1, round((held.until - now) * SECOND))
        return RequestRefused(reply.code, reply.message, cure=reply.cure, retry_after=left)

    def told(self, tenant: str, reply: AnyReply, asked_at: float) -> None:
        """Take note of what the core answered to a request of this tenant that was sent at ``asked_at``.

        The decision was made later than that, so that nobody is told no for longer than the core would.
        """
        held = self._held.get(tenant)
        if held is not None and asked_at < held.asked_at:
            return  # an older answer, late: of a request that waited, say
        if held is not None:
            del self._held[tenant]
        if isinstance(reply, Rejected) and reply.whole_tenant:
            if len(self._held) >= _MOST_TENANTS:
                del self._held[next(iter(self._held))]  # the one told first: the core is asked for it again, no more
            self._held[tenant] = _Held(reply, asked_at)

    def forget(self) -> None:
        """Ask the core again for everybody: the limits have changed."""
        self._held.clear()
