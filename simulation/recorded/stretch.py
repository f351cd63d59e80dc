"""The stretch as a whole: from a state and the events after it to the tables of a scenario, and what was counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from interlock.domain import events as ev
from interlock.domain.claims import in_pools
from interlock.domain.entities import Model, NodeStatus, Phase, TenantLimits
from interlock.domain.state import State
from interlock.domain.units import SECOND, format_duration
from interlock.domain.written import scheduling_as_written

from .asked import Requests
from .done import Steps, is_half_way
from .left_out import kind_of, what_was
from .machines import CHANGED, Machines
from .speeds import ROUGH, Speeds
from .tables import Row, limits_table, settings_table, spec_table
from .wrong import Faults


class Counts(msgspec.Struct, kw_only=True):
    """What is compared of a stretch. Waits are those of requests that got a lock, in microseconds."""

    requests: int = 0
    served: int = 0
    waiting: int = 0
    refused: dict[str, int] = {}
    loads: int = 0
    evictions: int = 0
    waits: list[int] = []


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch as ``tables`` of a scenario file; what it counted; and what a scenario cannot say, with how often."""

    tables: dict[str, Any]
    counts: Counts
    left_out: dict[str, int]


def record_of(
    state: State, events: Iterable[tuple[ev.Event, str]], start: int, end: int, name: str = "recorded"
) -> Recorded:
    """The stretch from ``start`` to ``end`` (microseconds since 1970).

    ``state`` is the state at its beginning, and ``events`` those after that, each with its actor, up to its end and in
    order.
    """
    requests, faults, steps = Requests(state, start), Faults(state, start), Steps(state, start)
    machines, speeds, counts, left_out = Machines(state), Speeds(state), Counts(), what_was(state, start)
    for event, actor in events:
        if machines.on(event):
            continue
        requests.on(event)
        faults.on(event, actor)
        steps.on(event)
        speeds.on(event)
        _count(counts, requests, event)
        left_out[kind_of(event)] += 1
    counts.requests = len(requests.known)
    counts.waiting = sum(not asked.locked_at and not asked.ended_at for asked in requests.known.values())
    left_out[ROUGH] = speeds.add_to(machines.rows)
    left_out[CHANGED] = machines.changed
    told = {words: count for words, count in left_out.items() if words and count}
    tables: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "duration": format_duration(max(SECOND, end - start + 1)),  # what came in its last instant came
        "scheduler": settings_table(state.settings),
        "nodes": machines.tables(),
        "models": [_model_table(state, model) for model in state.models.values()],
        "replicas": list(_replica_tables(state, requests)),
        "tenants": [
            {"name": tenant.name, **limits_table(tenant.limits)}
            for tenant in state.tenants.values()
            if tenant.limits != TenantLimits()
        ],
        "requests": requests.tables(end),
        "faults": list(_of_known(faults.tables(end), machines, steps.models)),
        "admin": steps.rows,
        "expect": {"properties": []},
    }
    return Recorded(tables={k: v for k, v in tables.items() if v or k == "schema"}, counts=counts, left_out=told)


def _model_table(state: State, model: Model) -> Row:
    """As its copies are loaded; that it has been edited since is a step of the first moment."""
    spec = model.serving_spec if is_half_way(state, model) else model.declared_spec
    row = {"name": model.name, **spec_table(spec), **scheduling_as_written(model.scheduling)}
    return row | {"aliases": list(model.aliases)} if model.aliases else row


def _replica_tables(state: State, requests: Requests) -> Iterator[Row]:
    """What is loaded where something can be: of models that there are, on nodes that are up; with what is in flight."""
    for replica in state.replicas.values():
        up = state.nodes[replica.node].status is not NodeStatus.OFFLINE
        if replica.phase is not Phase.LOADED or replica.model not in state.models or not up:
            continue
        row: Row = {"model": replica.model, "node": replica.node}
        row["pools"] = [pool for pool, _ in in_pools(replica.claim)]
        if replica.evictable_at > requests.start:
            row["evictable_in"] = format_duration(replica.evictable_at - requests.start)
        if busy := requests.in_flight(replica.id):
            row["busy_for"] = busy
        yield row


def _of_known(faults: list[Row], machines: Machines, models: set[str]) -> Iterator[Row]:
    """Faults of nodes, pools and models that the scenario knows."""
    for row in faults:
        known = row["target"] in machines.rows and row.get("model", "") in ("", *models)
        if known and row.get("pool", 0) < max(1, machines.pools_of(row["target"])):
            yield row


def _count(counts: Counts, requests: Requests, event: ev.Event) -> None:
    if isinstance(event, ev.ReplicaLocked):
        counts.waits.append(event.at - max(event.arrival, requests.start))
    elif isinstance(event, ev.ReplicaReleased):
        counts.served += event.outcome == "served" and event.request in requests.known
    elif isinstance(event, ev.RequestRefused):
        counts.refused[event.code] = counts.refused.get(event.code, 0) + 1
    elif isinstance(event, ev.LoadStarted):
        counts.loads += 1
    elif isinstance(event, ev.ReplicaEvicted):
        counts.evictions += bool(event.beneficiary)
