"""The leases of holders: gateways' runs renew them, in memory; one that lapses becomes a ``LoseHolder`` command."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from interlock.domain.ports import Renewal
from interlock.domain.units import SECOND

from .clock import Clock

_TOLD_FOR_S = 30.0
"""However short the lease is: a holder may have been promised a longer one before."""


class Holders:
    """Every holder's lease in one term. A takeover gives each holder that the state knows one fresh lease."""

    def __init__(self, known: Iterable[str], clock: Clock, lease_us: Callable[[], int]) -> None:
        self._clock, self._lease_us = clock, lease_us
        self._until: dict[str, float] = {}
        self._ended: dict[str, dict[str, float]] = {}
        """By holder, requests that an operator has ended, and until when it is told so."""
        self._swept_at = clock.monotonic()
        for holder in known:
            self.renew(holder)

    def renew(self, holder: str) -> Renewal:
        """Another whole lease from now, and what the holder is to break off."""
        lease_us, now = self._lease_us(), self._clock.monotonic()
        self._until[holder] = now + lease_us / SECOND
        ended = {request: until for request, until in self._ended.pop(holder, {}).items() if until > now}
        if ended:
            self._ended[holder] = ended
        return Renewal(lease_us, tuple(ended))

    def end(self, holder: str, request: str) -> None:
        """An operator has ended the request: its holder is told with its renewals, for a lease, in case one is lost."""
        until = self._clock.monotonic() + max(self._lease_us() / SECOND, _TOLD_FOR_S)
        self._ended.setdefault(holder, {})[request] = until

    def meet(self, holder: str) -> None:
        """A holder whose requests arrive has a lease, from the first of them on."""
        if holder not in self._until:
            self.renew(holder)

    def lapsed(self) -> list[str]:
        """The holders whose leases have lapsed; they are forgotten.

        Time in which nobody looked is not held against them: this process was stopped then, and could not hear them.
        """
        now = self._clock.monotonic()
        stopped_s = now - self._swept_at - self._lease_us() / SECOND / 3
        self._swept_at = now
        if stopped_s > 0:
            self._until = {holder: until + stopped_s for holder, until in self._until.items()}
        gone = [holder for holder, until in self._until.items() if until < now]
        for holder in gone:
            del self._until[holder]
            self._ended.pop(holder, None)
        return gone
