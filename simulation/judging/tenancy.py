"""Tenants by the events alone: what each has in the cluster and has sent, against what it may.

The core keeps a rate as an instant; here it is a bucket of time that fills as time passes, so that neither can be wrong
in the same way as the other. Who is let in above a limit breaks S, who is refused below it, or told a wrong time, U.
"""

from __future__ import annotations

from collections.abc import Iterator

from interlock.domain import events as ev
from interlock.domain.entities import TenantLimits
from interlock.domain.settings import Settings
from interlock.domain.units import FOREVER, format_duration, format_rate

Finding = tuple[str, str]
"""Property and detail."""


class Tenants:
    """The limits, and per tenant its live requests and its bucket: (microseconds in it, when that was)."""

    def __init__(self) -> None:
        self.own: dict[str, TenantLimits] = {}
        self.live: dict[str, dict[str, None]] = {}
        self.whose: dict[str, str] = {}
        self.buckets: dict[str, tuple[int, int]] = {}

    def limits_changed(self, event: ev.TenantLimitsSet) -> None:
        """A tenant has limits of its own, and a full bucket."""
        self.own[event.tenant] = event.limits
        self.buckets.pop(event.tenant, None)

    def settings_changed(self, event: ev.SettingsChanged) -> None:
        """Whoever has no limits of its own has these; every bucket is full."""
        if "tenant_rate" in event.values or "tenant_burst" in event.values:
            self.buckets.clear()

    def let_in(self, event: ev.RequestQueued | ev.ReplicaLocked, settings: Settings) -> Iterator[Finding]:
        """A request is taken in, unless it was before."""
        tenant = event.tenant
        if not tenant or event.request in self.whose:
            return
        live = self.live.setdefault(tenant, {})
        at_once, rate, burst = self._limits(tenant, settings)
        if len(live) >= at_once:
            yield "S", f"{event.request} is let in: {tenant} has {len(live)} requests and may have {at_once}"
        live[event.request] = None
        self.whose[event.request] = tenant
        if rate:
            level = self._level(tenant, event.at, rate, burst)
            if level < rate:
                yield "S", f"{event.request} is let in: {tenant} sends more than {format_rate(rate)} after {burst}"
            self.buckets[tenant] = (level - rate, event.at)

    def refused(self, event: ev.RequestRefused, settings: Settings) -> Iterator[Finding]:
        """A request is refused for its tenant's limits."""
        at_once, rate, burst = self._limits(event.tenant, settings)
        live = len(self.live.get(event.tenant, ()))
        if live >= at_once:
            return
        missing = rate - self._level(event.tenant, event.at, rate, burst)
        if missing <= 0:
            yield (
                "U",
                f"{event.request} is refused for {event.tenant}, which has {live} requests and is within its rate",
            )
        elif event.retry_after != missing:
            told, true = format_duration(event.retry_after), format_duration(missing)
            yield "U", f"{event.request} is told to come again in {told}, and may in {true}"

    def end(self, request: str) -> None:
        """A request is over."""
        tenant = self.whose.pop(request, "")
        if tenant:
            del self.live[tenant][request]

    def _limits(self, tenant: str, settings: Settings) -> tuple[int, int, int]:
        own = self.own.get(tenant, TenantLimits())
        return (
            settings.tenant_limit if own.at_once is None else own.at_once,
            settings.tenant_rate if own.rate is None else own.rate,
            settings.tenant_burst if own.burst is None else own.burst,
        )

    def _level(self, tenant: str, at: int, rate: int, burst: int) -> int:
        level, since = self.buckets.get(tenant, (FOREVER, at))
        return min(level + at - since, burst * rate)
