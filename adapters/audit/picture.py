"""The cluster's state as data to look at: nodes, models, replicas, locks, the queue, settings."""

from __future__ import annotations

from typing import Any

from interlock.domain.entities import Model, Node, Replica, Request, RequestStatus
from interlock.domain.selector import format_selector
from interlock.domain.settings import Settings, format_setting
from interlock.domain.state import State
from interlock.domain.units import FOREVER, format_instant


def picture(state: State) -> dict[str, Any]:
    """Everything that decisions depend on, as JSON data in a stable order; instants in ISO 8601, sizes in bytes."""
    requests = sorted(state.requests.values(), key=lambda request: request.serial)
    return {
        "nodes": [node_view(state, state.nodes[name]) for name in sorted(state.nodes)],
        "models": [model_view(state, state.models[name]) for name in sorted(state.models)],
        "replicas": [
            replica_view(state, replica) for replica in sorted(state.replicas.values(), key=lambda one: one.serial)
        ],
        "locks": {one.id: one.replica for one in requests if one.status is RequestStatus.LOCKED},
        "queue": [request_view(one) for one in requests if one.status is RequestStatus.QUEUED],
        "requests": [request_view(one) for one in requests],
        "settings": settings_view(state.settings),
        "frozen": sorted(state.frozen),
    }


def node_view(state: State, node: Node) -> dict[str, Any]:
    """One node, with what is taken in each of its pools."""
    pools = zip(node.pools, node.budgets, node.foreign, state.committed[node.name], strict=True)
    return {
        "name": node.name,
        "address": node.address,
        "status": node.status.value,
        "approved": node.approved,
        "labels": node.labels,
        "pools": [
            {"total": total, "budget": budget, "foreign": foreign, "used": used}
            for total, budget, foreign, used in pools
        ],
        "ram": node.ram,
        "disk": node.disk,
        "disk_used": state.disk_used.get(node.name, 0),
        "gpu_vendor": node.gpu_vendor,
        "max_replicas_per_model": node.max_replicas_per_model,
        "replicas": list(state.by_node.get(node.name, ())),
        "boot": node.boot,
    }


def model_view(state: State, model: Model) -> dict[str, Any]:
    """One model, with what keeps it from its floor when it is parked."""
    scheduling = model.scheduling
    replicas = [state.replicas[replica] for replica in state.by_model.get(model.name, ())]
    return {
        "name": model.name,
        "aliases": list(model.aliases),
        "backend": model.declared_spec.backend,
        "vram": model.declared_spec.vram,
        "disk": model.declared_spec.disk,
        "declared": model.declared,
        "serving": model.serving,
        "node_selector": format_selector(scheduling.selector),
        "min_replicas": scheduling.min_replicas,
        "max_replicas": scheduling.max_replicas,
        "everywhere": scheduling.everywhere,
        "parallel": scheduling.parallel,
        "priority": scheduling.priority,
        "pinned": scheduling.pinned,
        "loaded": sum(replica.phase.value == "loaded" for replica in replicas),
        "replicas": len(replicas),
        "waiting": len(state.waiting(model.name)),
        "failures": model.failures,
        "failure": model.failure,
        "parked": model.parked.reason if model.parked else "",
        "parked_until": _instant(model.parked.until) if model.parked else None,
    }


def replica_view(state: State, replica: Replica) -> dict[str, Any]:
    """One replica, with how many requests it serves."""
    return {
        "id": replica.id,
        "model": replica.model,
        "node": replica.node,
        "index": replica.index,
        "revision": replica.revision,
        "phase": replica.phase.value,
        "in_flight": state.lock_count(replica.id),
        "address": replica.address,
        "memory": sum(size for _, size in replica.claim),
        "owed": replica.owed,
        "beneficiary": replica.beneficiary,
        "reason": replica.reason,
        "loaded_at": _instant(replica.loaded_at),
        "used_at": _instant(replica.used_at),
        "evictable_at": _instant(replica.evictable_at),
    }


def request_view(request: Request) -> dict[str, Any]:
    """One request that waits or runs."""
    return {
        "id": request.id,
        "request": request.id,
        "model": request.model,
        "status": request.status.value,
        "replica": request.replica,
        "waits_for": request.wait.kind if request.wait else "",
        "waits_on": request.wait.on if request.wait else "",
        "holder": request.holder,
        "tenant": request.tenant,
        "priority": request.priority,
        "arrival": _instant(request.arrival),
        "deadline": _instant(request.deadline),
        "passes": request.passes,
    }


def settings_view(settings: Settings) -> dict[str, str]:
    """Every setting as people write it."""
    return {name: format_setting(name, getattr(settings, name)) for name in Settings.__struct_fields__}


def _instant(instant: int) -> str | None:
    return format_instant(instant) if 0 < instant < FOREVER else None
