"""Shrinking: which copy of a model is one too many, so that the reconciler removes it, one at a time."""

from __future__ import annotations

from .entities import Model, Node, NodeStatus, Phase, Replica
from .state import State
from .units import FOREVER


def floor_of(state: State, model: Model) -> int:
    """Copies that the model is to have at least: its ``min_replicas``, or one per candidate that keeps what it runs."""
    if model.scheduling.everywhere:
        return sum(1 for name in state.candidates(model).nodes if keeps_replicas(state.nodes[name]))
    ceiling = model.scheduling.max_replicas
    return min(model.scheduling.min_replicas, ceiling) if ceiling else model.scheduling.min_replicas


def copies(state: State, model: Model) -> int:
    """The model's copies that count against its ceiling and for its floor: loaded or to be, on its candidates."""
    candidates = state.candidates(model).nodes
    return sum(
        1 for replica in state.by_model.get(model.name, ()) if counts(state, state.replicas[replica], candidates)
    )


def counts(state: State, replica: Replica, candidates: dict[str, None]) -> bool:
    """Whether a replica is a copy: not leaving, and on a candidate that keeps it."""
    if replica.phase is Phase.UNLOADING or replica.node not in candidates:
        return False
    return keeps_replicas(state.nodes[replica.node])


def keeps_replicas(node: Node) -> bool:
    """Whether what runs there counts as a copy: a brief loss of contact moves nothing, a drain empties the node."""
    return node.status in (NodeStatus.HEALTHY, NodeStatus.UNREACHABLE) and not node.drained


def idle_since(replica: Replica) -> int:
    """When it was last used, or loaded if it never was."""
    return max(replica.used_at, replica.loaded_at)


def surplus(state: State, model: Model, now: int) -> tuple[Replica, str] | None:
    """The least recently used idle copy that is one too many at ``now``, and why; None when there is none.

    Above the ceiling: at once. Above max(floor, 1): after ``scale_down_delay`` without use. The last copy: after
    ``idle_unload``, unless a floor or a pin keeps it. Never while requests wait or a copy is on its way, up or down:
    what goes up does not come down in the same tick, and copies leave one at a time.
    """
    if "reconciler" in state.frozen or state.waiting(model.name) or state.loading.get(model.name):
        return None
    if not model.scheduling.everywhere and 1 < len(state.by_model.get(model.name, ())) <= floor_of(state, model):
        return None  # without looking at each: a floor of many copies is looked at often
    if any(state.replicas[replica].phase is Phase.UNLOADING for replica in state.by_model.get(model.name, ())):
        return None
    warm = state.warm.get(model.name)
    idle = warm.buckets.get(0) if warm is not None else None
    if not idle:
        return None
    replica = min((state.replicas[key[2]] for key in idle), key=lambda replica: (idle_since(replica), replica.serial))
    since, settings = idle_since(replica), state.settings
    count, ceiling, floor = copies(state, model), model.scheduling.max_replicas, floor_of(state, model)
    if ceiling and count > ceiling and not model.scheduling.everywhere:
        return replica, "ceiling"
    if count > max(floor, 1):
        return (replica, "scale-down") if since + settings.scale_down_delay <= now else None
    lone = count == 1 and floor == 0 and not model.scheduling.pinned and settings.idle_unload < FOREVER
    return (replica, "idle") if lone and since + settings.idle_unload <= now else None
