"""Views: the state as operators and programs read it. Pure functions of the state; every struct encodes as plain JSON.

Instants are microseconds since 1970, lengths microseconds, memory and disk bytes. An instant of 0 means never.
"""

from __future__ import annotations

import msgspec

from .claims import RAM, in_pools, in_ram, sum_of, total
from .entities import LOADING_PHASES, Budget, Model, Node, NodeStatus, Phase, Replica, Request, TenantLimits
from .memory import foreign_within_budget
from .selector import format_selector
from .settings import format_affinity, format_idle_unload, format_setting
from .shrinking import copies, floor_of
from .state import State
from .tenants import earliest, limits_of
from .units import FOREVER, format_rate, format_size


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """One memory pool of a node.

    ``total`` is what there is, ``budget`` the part that models may use. ``committed`` is what our replicas use
    (``used`` by loaded and leaving ones) or have ``reserved`` (loads in progress), and ``foreign`` what others use,
    counted against what lies outside the budget first. ``free`` is what a new load could reserve. Within the budget,
    ``used + reserved + free = budget``, so ``used`` holds the part of ``foreign`` that reaches into it.
    """

    total: int
    budget: int
    committed: int
    used: int
    reserved: int
    foreign: int
    free: int


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A worker machine. ``disk``: what staged models may take in all, None when unknown; ``staged``: what they take.

    ``ram`` is 0 when unknown, and ``unified`` when it is the one pool as well; ``ram_used`` is what our replicas use of
    it or have reserved.
    """

    name: str
    address: str
    boot: str
    status: str
    approved: bool
    drained: bool
    labels: dict[str, str]
    pools: list[PoolView]
    vram_budget: str
    ram: int
    unified: bool
    ram_used: int
    disk: int | None
    disk_used: int
    staged: list[str]
    load_rate: int
    stage_rate: int
    max_replicas_per_model: int
    gpu_vendor: str
    replicas: list[str]
    in_flight: int
    strays: list[str]
    offline_at: int = 0
    last_heard: int = 0
    drain_by: int = 0
    """When what a drain has left behind is taken away; 0 when no such instant was named."""
    emptied: bool = False
    """Its drain is complete."""
    clock_off: int = 0
    """Microseconds by which its machine's clock is off, in whole seconds; below 0 it is behind."""


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """One copy of a model. ``age`` is the time since it loaded, None before; ``locks`` are the requests that hold it.

    ``takes_locks``: loaded, of the serving revision, on a healthy candidate. For a victim, ``beneficiary`` is the load
    that it makes room for; for that load, ``waits_for`` are the victims that still hold memory.
    """

    id: str
    model: str
    node: str
    index: int
    revision: int
    phase: str
    address: str
    memory: int
    ram: int
    pools: list[int]
    in_flight: int
    locks: list[str]
    takes_locks: bool
    age: int | None
    loaded_at: int
    used_at: int
    evictable_at: int
    silent_at: int
    reason: str
    beneficiary: str
    waits_for: list[str]


class LoadStatusView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model's load in progress; ``progress`` (0 to 1) is left out where it is not known."""

    state: str
    node: str
    replica: str
    progress: float | None = None


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """What is served. ``declared`` is the newest revision, ``serving`` the one whose replicas take locks.

    ``parked`` is why its floor cannot be kept now and ``lacks`` what must change; both empty when it is not.
    """

    name: str
    aliases: list[str]
    backend: str
    options: dict[str, str | int | float | bool]
    vram: int
    ram: int
    pools: int
    disk: int
    node_selector: dict[str, str | list[str]]
    candidates: list[str]
    min_replicas: int
    max_replicas: int
    everywhere: bool
    parallel: int
    priority: int
    pinned: bool
    idle_unload: str
    prefix_affinity: int | str
    anti_affinity: str
    anti_affinity_hard: bool
    placement: str
    declared: int
    serving: int
    load_info_known: bool
    replicas: list[str]
    loaded: int
    copies: int
    floor: int
    in_flight: int
    queue: int
    parked: str
    lacks: str
    parked_until: int
    failures: int
    failure: str
    retry_at: int
    load_status: LoadStatusView | None


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's use and what holds for it now; ``own_limits``: an operator gave it some, else they are the settings.

    ``at_once`` and ``rate`` as people write them; ``next_at`` is when its next request may come, 0 when at once.
    """

    name: str
    running: int
    waiting: int
    at_once: str
    rate: str
    burst: int
    priority: int
    own_limits: bool
    next_at: int


class RequestView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request that waits or runs, or, from the log, one that has ended (``outcome`` is set, and ``ended_at``).

    ``status`` is ``queued``, ``locked``, ``adrift`` or ``ended``; ``wait`` is what a queued one waits for, in the words
    of :class:`~interlock.domain.entities.Wait`, ``place`` its place in its model's queue, from 1.
    """

    id: str
    model: str
    status: str
    holder: str = ""
    tenant: str = ""
    priority: int = 0
    arrival: int = 0
    deadline: int = 0
    replica: str = ""
    node: str = ""
    wait: str = ""
    waits_on: str = ""
    looks_again_at: int = 0
    place: int = 0
    passes: int = 0
    outcome: str = ""
    code: str = ""
    message: str = ""
    ended_at: int = 0


def _instant(instant: int) -> int:
    return 0 if instant >= FOREVER else instant


def node_view(state: State, node: Node, last_heard: int = 0) -> NodeView:
    """One node; ``last_heard`` comes from whoever listens to it."""
    replicas = list(state.by_node.get(node.name, ()))
    return NodeView(
        name=node.name,
        address=node.address,
        boot=node.boot,
        status=node.status.value,
        approved=node.approved,
        drained=node.drained,
        labels=node.labels,
        pools=_pools(state, node),
        vram_budget=_budget(node.budget),
        ram=node.ram,
        unified=node.unified,
        ram_used=state.committed[node.name].get(RAM, 0),
        disk=node.disk,
        disk_used=state.disk_used.get(node.name, 0),
        staged=sorted({model for model, _ in state.staged.get(node.name, {})}),
        load_rate=node.load_rate,
        stage_rate=node.stage_rate,
        max_replicas_per_model=node.max_replicas_per_model,
        gpu_vendor=node.gpu_vendor,
        replicas=replicas,
        in_flight=sum(map(state.lock_count, replicas)),
        strays=[process for name, process in sorted(state.strays) if name == node.name],
        offline_at=_instant(node.offline_at) if node.status is NodeStatus.UNREACHABLE else 0,
        last_heard=last_heard,
        drain_by=_instant(node.drain_by),
        emptied=node.emptied,
        clock_off=node.clock_off,
    )


def _budget(budget: Budget) -> str:
    if budget.size:
        return format_size(budget.size)
    return "" if budget.percent == 100 else f"{budget.percent}%"


def _pools(state: State, node: Node) -> list[PoolView]:
    here = (state.replicas[replica] for replica in state.by_node.get(node.name, ()))
    loading = sum_of(replica.present for replica in here if replica.phase in LOADING_PHASES)
    views = []
    committed, free = state.committed[node.name], state.free_in_pools(node)
    for pool, (size, budget, foreign) in enumerate(zip(node.pools, node.budgets, node.foreign, strict=True)):
        within = min(budget, foreign_within_budget(node, pool, budget))
        held, reserved = committed.get(pool, 0), loading.get(pool, 0)
        views.append(
            PoolView(
                total=size,
                budget=budget,
                committed=held,
                used=held - reserved + within,
                reserved=reserved,
                foreign=foreign,
                free=free[pool],
            )
        )
    return views


def replica_view(state: State, replica: Replica, now: int) -> ReplicaView:
    """One replica; ``now`` only for its age."""
    locks = list(state.locks.get(replica.id, ()))
    return ReplicaView(
        id=replica.id,
        model=replica.model,
        node=replica.node,
        index=replica.index,
        revision=replica.revision,
        phase=replica.phase.value,
        address=replica.address,
        memory=total(in_pools(replica.claim)),
        ram=in_ram(replica.claim),
        pools=[pool for pool, _ in in_pools(replica.claim)],
        in_flight=len(locks),
        locks=locks,
        takes_locks=state.takes_locks(replica),
        age=max(0, now - replica.loaded_at) if replica.loaded_at else None,
        loaded_at=replica.loaded_at,
        used_at=replica.used_at,
        evictable_at=_instant(replica.evictable_at),
        silent_at=_instant(replica.silent_at),
        reason=replica.reason,
        beneficiary=replica.beneficiary,
        waits_for=list(state.awaited.get(replica.id, ())),
    )


def load_status_view(state: State, model: str) -> LoadStatusView | None:
    """The oldest load of the model in progress; None without."""
    found = state.find_model(model)
    loads = state.loading.get(found.name if found else model)
    if not loads:
        return None
    replica = state.replicas[next(iter(loads))]
    waits = "evicting" if replica.phase is Phase.RESERVED and state.awaited.get(replica.id) else replica.phase.value
    progress = min(1.0, replica.done / replica.total) if replica.total else None
    return LoadStatusView(state=waits, node=replica.node, replica=replica.id, progress=progress)


def model_view(state: State, model: Model) -> ModelView:
    """One model."""
    spec, scheduling, parked = model.declared_spec, model.scheduling, model.parked
    replicas = list(state.by_model.get(model.name, ()))
    return ModelView(
        name=model.name,
        aliases=list(model.aliases),
        backend=spec.backend,
        options=dict(spec.options),
        vram=spec.vram,
        ram=spec.ram,
        pools=spec.pools,
        disk=spec.disk,
        node_selector=format_selector(scheduling.selector),
        candidates=sorted(state.candidates(model).nodes),
        min_replicas=scheduling.min_replicas,
        max_replicas=scheduling.max_replicas,
        everywhere=scheduling.everywhere,
        parallel=scheduling.parallel,
        priority=scheduling.priority,
        pinned=scheduling.pinned,
        idle_unload=format_idle_unload(scheduling.idle_unload),
        prefix_affinity=format_affinity(scheduling.prefix_affinity),
        anti_affinity=scheduling.anti_affinity,
        anti_affinity_hard=scheduling.anti_affinity_hard,
        placement=scheduling.placement,
        declared=model.declared,
        serving=model.serving,
        load_info_known=model.load_info_known,
        replicas=replicas,
        loaded=sum(1 for replica in replicas if state.replicas[replica].phase is Phase.LOADED),
        copies=copies(state, model),
        floor=floor_of(state, model),
        in_flight=sum(map(state.lock_count, replicas)),
        queue=len(state.waiting(model.name)),
        parked=parked.reason if parked else "",
        lacks=parked.lacks if parked else "",
        parked_until=_instant(parked.until) if parked else 0,
        failures=model.tries_failed,
        failure=model.failure,
        retry_at=model.retry_at,
        load_status=load_status_view(state, model.name),
    )


def request_view(state: State, request: Request) -> RequestView:
    """One request that waits or runs. Behind the first of its queue it waits for what that one waits for."""
    queue = [entry[2] for entry in state.waiting(request.model)] if request.status.value == "queued" else []
    wait = state.requests[queue[0]].wait if queue else None
    replica = state.replicas.get(request.replica)
    return RequestView(
        id=request.id,
        model=request.model,
        status=request.status.value,
        holder=request.holder,
        tenant=request.tenant,
        priority=request.priority,
        arrival=request.arrival,
        deadline=request.deadline,
        replica=request.replica,
        node=replica.node if replica is not None else "",
        wait=wait.kind if wait is not None else "",
        waits_on=wait.on if wait is not None else "",
        looks_again_at=_instant(wait.until) if wait is not None else 0,
        place=queue.index(request.id) + 1 if request.id in queue else 0,
        passes=request.passes,
    )


def tenant_views(state: State, now: int) -> list[TenantView]:
    """Every tenant that has requests in the cluster, limits of its own, or was busy lately; by name."""
    waiting: dict[str, int] = {}
    for queue in state.queues.values():
        for _, _, request in queue:
            tenant = state.requests[request].tenant
            waiting[tenant] = waiting.get(tenant, 0) + 1
    views = []
    for name in sorted({*state.tenants, *state.live_of_tenant}):
        limits, known = limits_of(state, name), state.tenants.get(name)
        comes_at = earliest(known, limits) if known is not None and limits.rate else 0
        views.append(
            TenantView(
                name=name,
                running=state.live_of_tenant.get(name, 0) - waiting.get(name, 0),
                waiting=waiting.get(name, 0),
                at_once=format_setting("tenant_limit", limits.at_once),
                rate=format_rate(limits.rate),
                burst=limits.burst,
                priority=limits.priority,
                own_limits=known is not None and known.limits != TenantLimits(),
                next_at=comes_at if comes_at > now else 0,
            )
        )
    return views
