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


def has_floor(state: State, name: str) -> bool:
    """Whether there is a model of that name that is to have copies without anybody's asking."""
    model = state.models.get(name)
    return model is not None and (model.scheduling.min_replicas > 0 or model.scheduling.everywhere)


def below_floor(state: State, model: Model) -> bool:
    """Whether the model has fewer copies than it is to have without anybody's asking."""
    floor = floor_of(state, model)
    return floor > 0 and copies(state, model) < floor


def copies(state: State, model: Model) -> int:
    """The model's copies that count against its ceiling and for its floor: loaded or to be, on its candidates.

    Of a model that is to run on every candidate, two on one node count as one: they are no copy on another.
    """
    candidates = state.candidates(model).nodes
    replicas = (state.replicas[replica] for replica in state.by_model.get(model.name, ()))
    counted = [replica.node for replica in replicas if counts(state, replica, candidates)]
    return len(dict.fromkeys(counted)) if model.scheduling.everywhere else len(counted)


def serving_copies(state: State, model: Model) -> int:
    """The model's copies that take locks."""
    warm = state.warm.get(model.name)
    return len(warm.order) if warm is not None else 0


def is_moving(state: State, model: Model) -> bool:
    """Whether a copy of the model is on its way, up or down: what it takes may be free before long."""
    mine = (state.replicas[replica] for replica in state.by_model.get(model.name, ()))
    return any(one.phase is not Phase.LOADED or (one.retired and not state.takes_locks(one)) for one in mine)


def is_loaded(state: State, model: Model) -> bool:
    """Whether a copy of the model is loaded anywhere, whether it can serve now or not."""
    mine = (state.replicas[replica].phase for replica in state.by_model.get(model.name, ()))
    return any(phase is Phase.LOADED for phase in mine)


def has_twin(state: State, replica: Replica) -> bool:
    """Whether its node holds another copy of the same model that takes locks."""
    here = (state.replicas[other] for other in state.by_slot.get((replica.node, replica.model), {}).values())
    return any(one.id != replica.id and state.takes_locks(one) for one in here)


def idle_unload_of(state: State, model: Model) -> int:
    """How long the model must be idle before its last copy goes: its own length, else the cluster's."""
    own = model.scheduling.idle_unload
    return state.settings.idle_unload if own is None else own


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

    Above the ceiling: at once. Above max(floor, 1): after ``scale_down_delay`` without use; of a model that is to run
    on every candidate only one of two on a node. The last copy: after the model's ``idle_unload``, unless a floor
    or a pin keeps it. Never while requests wait or a copy is on its way, up or down: what goes up does not come down in
    the same tick, and copies leave one at a time.

    Only copies that take locks count: one on a silent node, or of an older revision, does not stand in for the one that
    serves. Else the usable copy would leave after each request, and be loaded again for the next.
    """
    if "reconciler" in state.frozen or state.waiting(model.name) or state.loading.get(model.name):
        return None
    if not model.scheduling.everywhere and 1 < len(state.by_model.get(model.name, ())) <= floor_of(state, model):
        return None  # without looking at each: a floor of many copies is looked at often
    if any(state.replicas[replica].phase is Phase.UNLOADING for replica in state.by_model.get(model.name, ())):
        return None
    warm = state.warm.get(model.name)
    idle = warm.idle() if warm is not None else None
    if not idle:
        return None
    floor, everywhere = floor_of(state, model), model.scheduling.everywhere
    loose = [state.replicas[key[3]] for key in idle]
    if everywhere:
        loose = [replica for replica in loose if has_twin(state, replica)]
    replica = min(loose, key=lambda replica: (idle_since(replica), replica.serial), default=None)
    if replica is None:
        return None
    since, delay = idle_since(replica), state.settings.scale_down_delay
    count, ceiling = serving_copies(state, model), model.scheduling.max_replicas
    if ceiling and count > ceiling and not everywhere:
        return replica, "ceiling"
    if everywhere or count > max(floor, 1):
        return (replica, "scale-down") if since + delay <= now else None
    ttl = idle_unload_of(state, model)
    lone = count == 1 and floor == 0 and not model.scheduling.pinned and ttl < FOREVER
    return (replica, "idle") if lone and since + ttl <= now else None
