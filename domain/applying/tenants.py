"""Folding what tenants have in the cluster, and what they may."""

from __future__ import annotations

from heapq import heappop, heappush

from msgspec.structs import replace

from interlock.domain import events as ev
from interlock.domain.entities import Tenant, TenantLimits
from interlock.domain.state import State

from .handlers import applies


def take_in(state: State, tenant: str, at: int) -> None:
    """One more request of this tenant waits or runs, and its instant moves on."""
    state.live_of_tenant[tenant] = state.live_of_tenant.get(tenant, 0) + 1
    known = state.tenants.get(tenant)
    own = known.limits.rate if known is not None else None
    rate = state.settings.tenant_rate if own is None else own
    if rate:
        known = known or Tenant(tenant)
        state.tenants[tenant] = known = replace(known, due=max(at, known.due) + rate)
        heappush(state.tenants_due, (known.due, tenant))
    _forget_idle(state, at)


def let_out(state: State, tenant: str) -> None:
    """One of its requests is over."""
    left = state.live_of_tenant[tenant] - 1
    if left:
        state.live_of_tenant[tenant] = left
    else:
        del state.live_of_tenant[tenant]


def _forget_idle(state: State, at: int) -> None:
    """Forget tenants whose instant is past: they may send a whole burst again, like one that was never seen."""
    due = state.tenants_due
    while due and due[0][0] <= at:
        instant, name = heappop(due)
        known = state.tenants.get(name)
        if known is not None and known.due == instant:
            _put(state, replace(known, due=0))


def _put(state: State, tenant: Tenant) -> None:
    if tenant.due or tenant.limits != TenantLimits():
        state.tenants[tenant.name] = tenant
    else:
        state.tenants.pop(tenant.name, None)


def start_afresh(state: State) -> None:
    """The limits have changed: each tenant may send a whole burst under the new ones."""
    for tenant in list(state.tenants.values()):
        _put(state, replace(tenant, due=0))
    state.tenants_due.clear()


@applies(ev.TenantLimitsSet)
def _tenant_limits_set(state: State, event: ev.TenantLimitsSet) -> None:
    _put(state, Tenant(event.tenant, event.limits))
