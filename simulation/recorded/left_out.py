"""What of a record a scenario cannot say: each kind in words, with how often it was there."""

from __future__ import annotations

from collections import Counter

from interlock.domain import causes
from interlock.domain import events as ev
from interlock.domain.entities import Model, Phase
from interlock.domain.state import State


def what_was(state: State, start: int) -> Counter[str]:
    """What the state holds and a scenario cannot begin with."""
    left = Counter[str]()
    replicas = state.replicas.values()
    left["loads and unloads under way at the beginning"] = sum(one.phase is not Phase.LOADED for one in replicas)
    left["replicas that were used lately, which protects them when somebody has to leave"] = sum(
        one.uses > 0 for one in replicas
    )
    left["replicas that had been idle for a while"] = sum(
        one.phase is Phase.LOADED and max(one.used_at, one.loaded_at) < start and one.id not in state.locks
        for one in replicas
    )
    loaded = {(replica.node, replica.model) for replica in replicas}
    left["files on disks that no replica uses"] = sum(
        (node, model) not in loaded for node, files in state.staged.items() for model, _ in files
    )
    left["models that had failed, waited for a next try or were parked"] = sum(map(_has_a_past, state.models.values()))
    left["tenants that had used up some of their rate"] = sum(one.due > start for one in state.tenants.values())
    left["nodes on which others used memory at the beginning, which shows with their first heartbeat"] = sum(
        any(node.foreign) for node in state.nodes.values()
    )
    return Counter({words: count for words, count in left.items() if count})


def _has_a_past(model: Model) -> bool:
    return bool(model.failures or model.early_deaths or model.retry_at or model.parked or model.churn)


def kind_of(event: ev.Event) -> str:
    """What an event tells of that is not repeated, in words; empty when it is, or follows from what is."""
    if isinstance(event, ev.RequestQueued | ev.ReplicaLocked) and event.prefix:
        return "prompts, by which requests went to replicas that knew them"
    if isinstance(event, ev.HolderLost):
        return "gateways that were lost"
    if isinstance(event, ev.EpochStarted):
        return "changes of the writer"
    if isinstance(event, ev.UnloadRequested) and event.reason == "operator":
        return "unloads by hand"
    if isinstance(event, ev.ReplicaReserved) and event.cause == causes.OPERATOR:
        return "loads by hand"
    if isinstance(event, ev.ReplicaReleased) and event.outcome == "declined":
        return "requests that their backends declined"
    if isinstance(event, ev.RequestRefused) and event.whole_tenant:
        return "refusals of a tenant that its gateway repeated, at least"
    return ""
