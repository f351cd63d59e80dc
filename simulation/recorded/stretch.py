"""The stretch as a whole: from a state and the events after it to the tables of a scenario, and what was counted."""

from __future__ import annotations

from collections import Counter
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
from .done import Steps
from .speeds import Speeds
from .tables import Row, labels_of, limits_table, node_table, settings_table, size_of, spec_table
from .wrong import Faults


class Counts(msgspec.Struct, kw_only=True):
    """What is compared of a stretch. Waits are those of requests that got a lock, in seconds."""

    requests: int = 0
    served: int = 0
    refused: dict[str, int] = {}
    loads: int = 0
    evictions: int = 0
    waits: list[float] = []


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
    speeds, counts, left_out = Speeds(), Counts(), Counter[str]()
    nodes = {node.name: node_table(node) for node in state.nodes.values()}
    for name in state.over_budget:
        nodes[name].pop("vram_budget", None)
    _count_what_was(state, left_out)
    for event, actor in events:
        if isinstance(event, ev.NodeRegistered | ev.NodeApproved) and _joins(nodes, event):
            continue
        requests.on(event)
        faults.on(event, actor)
        steps.on(event)
        speeds.on(event)
        _count(counts, requests, event)
        _leave_out(left_out, event)
    counts.requests = len(requests.known)
    speeds.add_to(nodes)
    tables: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "duration": format_duration(max(SECOND, end - start + 1)),  # what came in its last instant came
        "scheduler": settings_table(state.settings),
        "nodes": list(nodes.values()),
        "models": [_model_table(model) for model in state.models.values()],
        "replicas": list(_replica_tables(state, requests)),
        "tenants": [
            {"name": tenant.name, **limits_table(tenant.limits)}
            for tenant in state.tenants.values()
            if tenant.limits != TenantLimits()
        ],
        "requests": requests.tables(end),
        "faults": _of_known(faults.tables(end), nodes),
        "admin": steps.rows,
        "expect": {"properties": []},
    }
    return Recorded(tables={k: v for k, v in tables.items() if v or k == "schema"}, counts=counts, left_out=left_out)


def _model_table(model: Model) -> Row:
    row = {"name": model.name, **spec_table(model.declared_spec), **scheduling_as_written(model.scheduling)}
    return row | {"aliases": list(model.aliases)} if model.aliases else row


def _replica_tables(state: State, requests: Requests) -> Iterator[Row]:
    """What is loaded where something can be: of models that there are, on nodes that are up; with what is in flight."""
    for replica in state.replicas.values():
        up = state.nodes[replica.node].status is not NodeStatus.OFFLINE
        if replica.phase is not Phase.LOADED or replica.model not in state.models or not up:
            continue
        row: Row = {"model": replica.model, "node": replica.node}
        row["pools"] = [pool for pool, _ in in_pools(replica.claim)]
        if busy := requests.in_flight(replica.id):
            row["busy_for"] = busy
        yield row


def _joins(nodes: dict[str, Row], event: ev.NodeRegistered | ev.NodeApproved) -> bool:
    """A node that was not there before is declared, and comes up then; whether its approval came along with it."""
    row = nodes.get(event.node)
    if isinstance(event, ev.NodeApproved):
        if row is not None and row.get("came") == event.at:
            row["approved"] = True
            return True
        return False
    if row is None:
        row = nodes[event.node] = {"name": event.node, "came": event.at, "up": False, "approved": False}
        row |= {"pools": [size_of(pool) for pool in event.pools], "labels": labels_of(event.labels)}
        row |= {"max_replicas_per_model": event.max_replicas_per_model}
        row |= {"disk": size_of(event.disk)} if event.disk is not None else {}
        row |= {"ram": size_of(event.ram)} if event.ram and not event.unified else {}
        row |= {"unified": True} if event.unified else {}
    return False


def _of_known(faults: list[Row], nodes: dict[str, Row]) -> list[Row]:
    for row in nodes.values():
        row.pop("came", None)
    return [row for row in faults if row["target"] in nodes]


def _count(counts: Counts, requests: Requests, event: ev.Event) -> None:
    if isinstance(event, ev.ReplicaLocked):
        counts.waits.append((event.at - max(event.arrival, requests.start)) / SECOND)
    elif isinstance(event, ev.ReplicaReleased):
        counts.served += event.outcome == "served" and event.request in requests.known
    elif isinstance(event, ev.RequestRefused):
        counts.refused[event.code] = counts.refused.get(event.code, 0) + 1
    elif isinstance(event, ev.LoadStarted):
        counts.loads += 1
    elif isinstance(event, ev.ReplicaEvicted):
        counts.evictions += bool(event.beneficiary)


def _count_what_was(state: State, left_out: Counter[str]) -> None:
    """What the state holds and a scenario cannot begin with."""
    under_way = sum(1 for replica in state.replicas.values() if replica.phase is not Phase.LOADED)
    if under_way:
        left_out["loads and unloads under way at the beginning"] = under_way
    used = sum(1 for replica in state.replicas.values() if replica.uses)
    if used:
        left_out["replicas that were used lately, which protects them when somebody has to leave"] = used
    loaded = {(replica.node, replica.model) for replica in state.replicas.values()}
    staged = sum((node, model) not in loaded for node, files in state.staged.items() for model, _ in files)
    if staged:
        left_out["files on disks that no replica uses"] = staged


def _leave_out(left_out: Counter[str], event: ev.Event) -> None:
    if isinstance(event, ev.RequestQueued | ev.ReplicaLocked) and event.prefix:
        left_out["prompts, by which requests went to replicas that knew them"] += 1
    elif isinstance(event, ev.HolderLost):
        left_out["gateways that were lost"] += 1
    elif isinstance(event, ev.EpochStarted):
        left_out["changes of the writer"] += 1
    elif isinstance(event, ev.UnloadRequested) and event.reason in ("operator", "by hand"):
        left_out["unloads by hand"] += 1
