"""Tenants: how many requests one API key may have at once, and how many it may send.

The rate is kept as one instant per tenant (the generic cell rate algorithm): ``due`` is when the next request would
come if all came evenly. Each request that is taken in moves it on by the time between two; a request may come up to a
burst before it. So nothing ticks, nothing is refilled, and whoever is refused can be told when to come again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import msgspec

from . import events as ev
from .commands import SetTenantLimits
from .entities import Tenant, TenantLimits
from .errors import InvalidField
from .explanation import Explanation
from .refusals import RefusalCode
from .routing import Refuse
from .setting_kinds import Count
from .settings import HIGHEST_PRIORITY, KINDS
from .state import State
from .units import FOREVER, SECOND, format_rate

LONGEST_TENANT = 200
_COMES_AGAIN = 1 * SECOND
"""What is told to a tenant at its limit of requests at once: any of its own may end, and no instant says when."""


class Limits(msgspec.Struct, frozen=True, gc=False):
    """What holds for one tenant: its own limits, and the settings for the rest."""

    at_once: int
    rate: int
    burst: int
    priority: int


def limits_of(state: State, tenant: str) -> Limits:
    """What holds for this tenant now."""
    known, settings = state.tenants.get(tenant), state.settings
    own = known.limits if known is not None else TenantLimits()
    return Limits(
        settings.tenant_limit if own.at_once is None else own.at_once,
        settings.tenant_rate if own.rate is None else own.rate,
        settings.tenant_burst if own.burst is None else own.burst,
        settings.tenant_priority if own.priority is None else own.priority,
    )


def over_limit(state: State, tenant: str, limits: Limits, now: int) -> Refuse | None:
    """The refusal of one more request of this tenant; None when it may come."""
    live = state.live_of_tenant.get(tenant, 0)
    if live >= limits.at_once:
        cure = f"`interlock tenants limit {tenant} --at-once N` raises the limit."
        message = f"Tenant {tenant} may send nothing: its limit is 0."
        again = 0  # what is never let in comes no sooner for trying again
        if limits.at_once:
            cure = f"Send fewer at once; {cure}"
            message = f"Tenant {tenant} has {live} requests waiting or running; its limit is {limits.at_once}."
            again = _COMES_AGAIN
        return Refuse(RefusalCode.RATE_LIMITED, message, again, explain=partial(Explanation, "tenant", cure=cure))
    if not limits.rate:
        return None
    known = state.tenants.get(tenant)
    comes_at = earliest(known, limits) if known is not None else 0
    if comes_at <= now:
        return None
    cure = f"Send them more slowly; `interlock tenants limit {tenant} --rate N/s --burst N` raises the limit."
    message = f"Tenant {tenant} sends faster than {format_rate(limits.rate)}, after a burst of {limits.burst}."
    explain = partial(Explanation, "tenant", cure=cure)
    return Refuse(RefusalCode.RATE_LIMITED, message, comes_at - now, whole_tenant=True, explain=explain)


def earliest(tenant: Tenant, limits: Limits) -> int:
    """When the tenant's next request may come."""
    return tenant.due - (limits.burst - 1) * limits.rate


def parse_limits(given: Mapping[str, object]) -> TenantLimits:
    """Limits as people write them: ``at_once``, ``rate``, ``burst``, ``priority``; what is not given is the setting's.

    Raises InvalidField and InvalidSetting.
    """
    unknown = sorted(set(given) - set(TenantLimits.__struct_fields__))
    if unknown:
        raise InvalidField(unknown[0], "is no limit", cure=f"Give {', '.join(TenantLimits.__struct_fields__)}.")
    told = {name: value for name, value in given.items() if value is not None}
    read = {name: _KINDS[name].parse(value, name) for name, value in told.items()}
    return TenantLimits(**read)  # type: ignore[arg-type]  # none of these kinds gives text


_KINDS = {
    "at_once": KINDS["tenant_limit"],
    "rate": KINDS["tenant_rate"],
    "burst": KINDS["tenant_burst"],
    "priority": KINDS["tenant_priority"],
}
"""A limit is of the same kind as the setting that stands in for it."""


def set_limits(state: State, command: SetTenantLimits, now: int) -> list[ev.Event]:
    """Give a tenant limits of its own."""
    if not command.tenant or len(command.tenant) > LONGEST_TENANT:
        raise InvalidField("tenant", "is empty or too long", cure=f"Give 1 to {LONGEST_TENANT} characters.")
    limits = command.limits
    for field in TenantLimits.__struct_fields__:
        value, kind = getattr(limits, field), _KINDS[field]
        lowest = kind.least if isinstance(kind, Count) else 0
        most = HIGHEST_PRIORITY if field == "priority" else FOREVER
        if value is not None and not lowest <= value <= most:
            raise InvalidField(field, f"{value} is not from {lowest} to {most}", cure="Leave it out for the setting's.")
    known = state.tenants.get(command.tenant)
    if limits == (known.limits if known is not None else TenantLimits()):
        return []
    return [ev.TenantLimitsSet(at=now, tenant=command.tenant, limits=limits)]
