"""The cluster's state as data to look at: nodes, models, replicas, locks, the queue, settings."""

from __future__ import annotations

from typing import Any

import msgspec

from interlock.domain.entities import RequestStatus
from interlock.domain.settings import Settings, format_setting
from interlock.domain.state import State
from interlock.domain.views import (
    ModelView,
    NodeView,
    ReplicaView,
    RequestView,
    TenantView,
    model_view,
    node_view,
    replica_view,
    request_view,
    tenant_views,
)


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster at one moment; lists in a stable order. ``locks`` are request to replica."""

    nodes: list[NodeView]
    models: list[ModelView]
    replicas: list[ReplicaView]
    locks: dict[str, str]
    queue: list[RequestView]
    requests: list[RequestView]
    settings: dict[str, str]
    frozen: list[str]
    tenants: list[TenantView]


def picture(state: State, now: int) -> Picture:
    """Everything that decisions depend on, as views; ``now`` only for ages."""
    requests = sorted(state.requests.values(), key=lambda request: request.serial)
    replicas = sorted(state.replicas.values(), key=lambda replica: replica.serial)
    waiting = [request for request in requests if request.status is RequestStatus.QUEUED]
    return Picture(
        nodes=[node_view(state, state.nodes[name]) for name in sorted(state.nodes)],
        models=[model_view(state, state.models[name]) for name in sorted(state.models)],
        replicas=[replica_view(state, replica, now) for replica in replicas],
        locks={one.id: one.replica for one in requests if one.status is RequestStatus.LOCKED},
        queue=[request_view(state, request) for request in waiting],
        requests=[request_view(state, request) for request in requests],
        settings=settings_view(state.settings),
        frozen=sorted(state.frozen),
        tenants=tenant_views(state, now),
    )


def settings_view(settings: Settings) -> dict[str, str]:
    """Every setting as people write it."""
    return {name: format_setting(name, getattr(settings, name)) for name in Settings.__struct_fields__}


def comparable(state: State) -> dict[str, Any]:
    """A picture as plain data in which only what changed differs: without ages, and each request once."""
    data: dict[str, Any] = msgspec.to_builtins(picture(state, 0))
    del data["queue"]
    for replica in data["replicas"]:
        del replica["age"]
    return data
