"""Read-only questions, answered from the committed state; what has ended, from the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from interlock.adapters import own_rules
from interlock.adapters.http.ports import Readiness, Sample
from interlock.domain.engine import Engine
from interlock.domain.entities import Phase, RequestStatus
from interlock.domain.planning import Change, Report, plan
from interlock.domain.settings import Settings, format_setting
from interlock.domain.state import State
from interlock.domain.views import (
    LoadStatusView,
    ModelView,
    NodeView,
    ReplicaView,
    RequestView,
    TenantView,
    load_status_view,
    model_view,
    node_view,
    replica_view,
    request_view,
    tenant_views,
)

from .clock import Clock
from .history import request_from_log
from .store_threads import StoreThreads

_TENANTS_TOLD = 50
"""Bound on the label values that tenants bring to the metrics."""


class Queries:
    """The gateway's ``QueryPort``.

    ``state`` gives the newest state that this process may show, ``fork`` an engine to try things on.
    """

    def __init__(
        self,
        store: StoreThreads,
        clock: Clock,
        *,
        state: Callable[[], State],
        fork: Callable[[], Awaitable[Engine]],
        last_heard: Callable[[str], int],
        readiness: Callable[[], Sequence[str]],
        figures: Callable[[], Iterable[Sample]],
    ) -> None:
        self._store, self._clock = store, clock
        self._state, self._last_heard, self._readiness, self._figures = state, last_heard, readiness, figures
        self._fork, self._planning = fork, asyncio.Lock()

    async def nodes(self) -> Sequence[NodeView]:
        """See the port."""
        state = self._state()
        return [node_view(state, state.nodes[name], self._last_heard(name)) for name in sorted(state.nodes)]

    async def node(self, name: str) -> NodeView | None:
        """See the port."""
        state = self._state()
        node = state.nodes.get(name)
        return node_view(state, node, self._last_heard(name)) if node is not None else None

    async def models(self) -> Sequence[ModelView]:
        """See the port."""
        state = self._state()
        return [model_view(state, state.models[name]) for name in sorted(state.models)]

    async def model(self, name: str) -> ModelView | None:
        """See the port."""
        state = self._state()
        model = state.find_model(name)
        return model_view(state, model) if model is not None else None

    async def replicas(self) -> Sequence[ReplicaView]:
        """See the port."""
        state, now = self._state(), self._clock.now()
        return [replica_view(state, replica, now) for replica in state.replicas.values()]

    async def requests(self) -> Sequence[RequestView]:
        """See the port."""
        state = self._state()
        return [request_view(state, request) for request in state.requests.values()]

    async def request(self, request: str) -> RequestView | None:
        """See the port."""
        state = self._state()
        known = state.requests.get(request)
        if known is not None:
            return request_view(state, known)
        return request_from_log(request, await self._store.events_of_request(request))

    async def is_taken(self, request: str) -> bool:
        """See the port."""
        return request in self._state().requests or await self._store.knows_request(request)

    async def tenants(self) -> Sequence[TenantView]:
        """See the port."""
        return tenant_views(self._state(), self._clock.now())

    async def load_status(self, model: str) -> LoadStatusView | None:
        """See the port."""
        return load_status_view(self._state(), model)

    async def settings(self) -> Mapping[str, str]:
        """See the port."""
        settings = self._state().settings
        return {name: format_setting(name, getattr(settings, name)) for name in Settings.__struct_fields__}

    async def frozen(self) -> Sequence[str]:
        """See the port."""
        return sorted(self._state().frozen)

    async def plan(self, change: Change) -> Report:
        """See the port. One at a time, beside the loop: thinking it through can take seconds in a large cluster."""
        async with self._planning:
            engine = await self._fork()
            return await asyncio.to_thread(plan, engine, change, self._clock.now())

    async def ready(self) -> Readiness:
        """See the port."""
        reasons = tuple(self._readiness())
        return Readiness(not reasons, reasons)

    async def metrics(self) -> Sequence[Sample]:
        """See the port."""
        return [*_of_state(self._state()), *self._figures()]


def _of_state(state: State) -> Iterable[Sample]:
    """How many there are of everything."""
    by_status: dict[str, int] = {}
    for node in state.nodes.values():
        by_status[node.status.value] = by_status.get(node.status.value, 0) + 1
    for status, count in sorted(by_status.items()):
        yield Sample("interlock_nodes", count, {"status": status}, help="Nodes by status.")
    clocks = sum(1 for node in state.nodes.values() if node.clock_off)
    yield Sample("interlock_node_clocks_off", clocks, help="Nodes whose machine's clock is off.")
    phases = dict.fromkeys(Phase, 0)
    for replica in state.replicas.values():
        phases[replica.phase] += 1
    for phase, count in phases.items():
        yield Sample("interlock_replicas", count, {"phase": phase.value}, help="Replicas by phase.")
    statuses = dict.fromkeys(RequestStatus, 0)
    for request in state.requests.values():
        statuses[request.status] += 1
    for name, count in statuses.items():
        yield Sample("interlock_requests", count, {"status": name.value}, help="Requests that wait or run.")
    for rule, times in own_rules.counts():
        text = "Answers of own placement rules that could not be used."
        yield Sample("interlock_placement_rule_abstained_total", times, {"rule": rule}, kind="counter", help=text)
    yield from _of_tenants(state)
    held_back = int(state.mass_loss_until > 0)
    yield Sample("interlock_mass_loss", held_back, help="1 while the silence of many nodes at once is not believed.")
    yield Sample("interlock_models", len(state.models), help="Models that are declared.")
    yield Sample("interlock_models_parked", len(state.parked), help="Models whose floor cannot be kept now.")
    yield Sample(
        "interlock_thrashing_total", state.thrashings, kind="counter",
        help="How often a model was found in a cycle of evictions and loads.",
    )  # fmt: skip


def _of_tenants(state: State) -> Iterable[Sample]:
    """How many requests each has; beyond so many tenants, the busiest by name and the rest together."""
    busiest = sorted(state.live_of_tenant.items(), key=lambda one: (-one[1], one[0]))
    told = dict(busiest[:_TENANTS_TOLD])
    if len(busiest) > _TENANTS_TOLD:
        told["other"] = told.get("other", 0) + sum(live for _, live in busiest[_TENANTS_TOLD:])
    for name, live in sorted(told.items()):
        yield Sample("interlock_tenant_requests", live, {"tenant": name}, help="Requests that wait or run, by tenant.")
