"""The entities of the cluster's state. All are frozen: a change replaces the entity.

Instants are microseconds since 1970, lengths microseconds, memory and disk bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache

import msgspec

from .claims import RAM, Claim, less
from .open_words import OpenWords
from .refusals import RefusalCode
from .selector import Selector, vram_label
from .units import FOREVER

ANY_POOLS = 0
"""A model that is split over as few pools as it takes."""
MOST_POOLS = 16
"""A model is split over so many pools at most."""


Files = tuple[str, int, int]
"""A model's files on a disk: model, revision, bytes."""


class NodeStatus(StrEnum):
    """``pending`` waits for approval; ``unreachable`` is silent; ``offline`` is gone, with all that ran there."""

    PENDING = "pending"
    HEALTHY = "healthy"
    UNREACHABLE = "unreachable"
    DRAINING = "draining"
    OFFLINE = "offline"


class Phase(StrEnum):
    """A replica's life: reserved → installing → staging → loading → loaded → unloading → gone."""

    RESERVED = "reserved"
    INSTALLING = "installing"
    STAGING = "staging"
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"


LOADING_PHASES = frozenset({Phase.RESERVED, Phase.INSTALLING, Phase.STAGING, Phase.LOADING})


class Budget(msgspec.Struct, frozen=True, gc=False):
    """The part of a node's memory that models may use: a share in percent, or bytes per pool."""

    percent: int = 100
    size: int = 0

    def of(self, total: int) -> int:
        """The bytes of a pool of ``total`` bytes that models may use."""
        return min(total, self.size) if self.size else total * self.percent // 100


class Node(msgspec.Struct, frozen=True, gc=False):
    """A worker machine. ``pools`` are its memory pools' totals; ``foreign`` what others use in each, as reported."""

    name: str
    address: str
    boot: str
    """Changes when the worker starts anew: what ran under another boot is gone."""
    status: NodeStatus
    approved: bool
    drained: bool
    """An operator wants it empty, which survives a restart of the worker; or the worker itself, which does not."""
    worker_labels: dict[str, str]
    operator_labels: dict[str, str]
    pools: tuple[int, ...]
    foreign: tuple[int, ...]
    budget: Budget
    ram: int
    """Its main memory; 0 when unknown, which bounds nothing."""
    disk: int | None
    """Bytes that staged models may take in all; None when unknown, which does not mean full."""
    max_replicas_per_model: int
    gpu_vendor: str
    offline_at: int
    load_rate: int = 0
    """Bytes a second at which it loads models, as measured; 0 before it has loaded one."""
    stage_rate: int = 0
    """The same for staging."""
    labels: dict[str, str] = {}
    """What selectors see; kept by :func:`merged_labels`."""
    drain_by: int = FOREVER
    """When what a drain has left behind is taken away."""
    emptied: bool = False
    """The drain is complete: nothing of ours runs there."""
    machine: str = ""
    """The machine's own identity, which outlives a restart of its worker; empty when it names none."""
    silent_since: int = 0
    """When it fell silent; 0 while it is heard."""
    alone_at: int = 0
    """Until when it may be one of many that are silent, and nobody is evicted for what it may run; 0 for never."""
    former_boots: tuple[str, ...] = ()
    """The boots before this one, newest last, so that a worker that was replaced is known when it comes back."""
    unified: bool = False
    """Its one pool is its main memory as well: what a model takes of both it takes there."""
    drained_by_worker: bool = False
    left: bool = False
    """Its worker has said goodbye: a heartbeat that comes after that was sent before it."""
    slots_set: bool = False
    """An operator has set ``max_replicas_per_model``: that survives a restart of the worker."""
    budget_set: bool = False
    """The same of the budget."""
    worker_slots: int = 0
    """What the worker states of the slots, where an operator has set others; else 0."""
    worker_budget: Budget | None = None
    """The same of the budget; else None."""
    clock_off: int = 0
    """Microseconds by which its clock is off, as last noted; below 0 it is behind. Nothing is decided by it."""

    @property
    def budgets(self) -> tuple[int, ...]:
        """Bytes per pool that models may use."""
        return tuple(self.budget.of(total) for total in self.pools)

    @property
    def limits(self) -> Mapping[int, int]:
        """Bytes that models may claim in all, by pool: the budgets, and main memory where it is known and apart."""
        return _limits(self.pools, self.budget, 0 if self.unified else self.ram)

    @property
    def takes_work(self) -> bool:
        """Whether new locks and loads may go there."""
        return self.status is NodeStatus.HEALTHY


@lru_cache(4096)
def _limits(pools: tuple[int, ...], budget: Budget, ram: int) -> Mapping[int, int]:
    """Kept, since every look at a node asks for it, and nodes come in few shapes."""
    limits = {pool: budget.of(total) for pool, total in enumerate(pools)}
    return limits | {RAM: ram} if ram else limits


def merged_labels(node: Node) -> dict[str, str]:
    """The worker's labels, then the operator's, the later winning; an empty value removes one.

    Neither beats an automatic one: a worker that calls itself by another node's name does not get what is meant for it.
    """
    automatic = {"node.name": node.name, "node.replica-slots": str(node.max_replicas_per_model)}
    if node.gpu_vendor:
        automatic["gpu.vendor"] = node.gpu_vendor
    if bucket := vram_label(max(node.pools, default=0)):
        automatic["gpu.vram"] = bucket
    merged = node.worker_labels | node.operator_labels | automatic
    return {key: value for key, value in merged.items() if value}


class LoadSpec(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How a model is loaded, and what that takes. No ``backend`` means that no load info is known."""

    backend: str = ""
    options: dict[str, str | int | float | bool] = {}
    vram: int = 0
    ram: int = 0
    """Main memory that one replica takes beside what lies in the pools, however many those are."""
    disk: int = 0
    pools: int = 1
    """Over how many of one node's memory pools it is split, in equal shares; ANY_POOLS is as few as it takes."""


class Scheduling(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Where a model may run and how often. ``max_replicas`` 0 means no ceiling; ``everywhere`` is one per candidate."""

    selector: Selector = ()
    min_replicas: int = 0
    max_replicas: int = 0
    everywhere: bool = False
    parallel: int = 1
    """Requests that one replica serves at once; 0 means no limit."""
    priority: int = 0
    pinned: bool = False
    idle_unload: int | None = None
    """How long it must be idle before its last copy goes; None: the cluster's setting; FOREVER: never."""
    prefix_affinity: int | None = None
    """So many more requests in flight may a replica have that holds the whole prompt; 0 is off, None the setting's."""
    anti_affinity: str = ""
    """The group whose replicas avoid each other's nodes; its own copies are among them."""
    anti_affinity_hard: bool = False
    """Rather wait than share a node with a member of the group."""
    placement: str = ""
    """The placement profile that chooses its nodes; empty for the cluster's."""

    @property
    def scales(self) -> bool:
        """Whether the model may have more than one replica on demand."""
        return self.everywhere or self.min_replicas >= 1 or self.max_replicas >= 1


class Lack(OpenWords):
    """What a parked wish lacks; logs and answers hold the words. Which changes may bring it: ``parking.CURES``."""

    LOAD_INFO = "load info"
    """Nobody has said how to load it."""
    NODE = "node"
    """No candidate could ever have it: one that could must join or change, or the model."""
    CAPACITY = "capacity"
    """A candidate could have it, and has no room that is free or may be made now."""
    EDIT = "edit"
    """Its loads have failed as often as they may: it must be edited, or find a node where they have not failed."""
    TIME = "time"
    """Nothing but time: it is tried again at an instant."""
    THAW = "thaw"
    """A reconciler that is not frozen. No state and no event holds this: it is what a plan says of a floor."""


class Parked(msgspec.Struct, frozen=True, gc=False):
    """A wish that cannot be met now: why, and what must change before it is tried again.

    ``until`` is when it is tried again by itself; FOREVER when only a change can help.
    """

    reason: RefusalCode
    lacks: Lack
    until: int = FOREVER


class Churn(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A model's evictions for the same few, each followed by a load soon after: cycles, so many in a row ``since``.

    All is forgotten at ``until`` unless the next step comes before. ``evicted``: a load would close a cycle;
    ``others`` are the models that it made room for, the last of them last.
    """

    cycles: int = 0
    since: int = 0
    until: int = 0
    evicted: bool = False
    others: tuple[str, ...] = ()


class Model(msgspec.Struct, frozen=True, gc=False):
    """What is served. ``declared`` is the newest revision, ``serving`` the one whose replicas take locks."""

    name: str
    aliases: tuple[str, ...]
    scheduling: Scheduling
    declared: int
    declared_spec: LoadSpec
    serving: int
    serving_spec: LoadSpec
    parked: Parked | None = None
    failures: int = 0
    """Loads failed in a row."""
    early_deaths: int = 0
    """Copies in a row that died on trial; see :mod:`interlock.domain.trials`. One that loads does not end the row."""
    failure: str = ""
    """The backend's own words for the last of them."""
    failed_nodes: tuple[str, ...] = ()
    """Where loads failed since one did not."""
    died_on: tuple[str, ...] = ()
    """Where those died, but for the first of them, which may be an accident."""
    retry_at: int = 0
    """No load of this model is tried before."""
    churn: Churn | None = None
    made_way: int = 0
    """The declared revision for which a copy of the serving one has made way; 0 when none has."""

    @property
    def tries_failed(self) -> int:
        """How often in a row it failed to come up: loads that failed, or copies that died early after the first."""
        return max(self.failures, self.early_deaths - 1)

    @property
    def tried_on(self) -> tuple[str, ...]:
        """Where it failed to come up."""
        return tuple(dict.fromkeys((*self.failed_nodes, *self.died_on))) if self.died_on else self.failed_nodes

    @property
    def load_info_known(self) -> bool:
        """Whether anything is known about how to load it."""
        return bool(self.declared_spec.backend)


SERVED = "served"
ANSWERED = frozenset({SERVED, "declined"})
"""The outcomes of calls that their backend has answered, be it that it cannot do what was asked."""


class Replica(msgspec.Struct, frozen=True, gc=False):
    """One copy of a model on a node, in one incarnation."""

    id: str
    serial: int
    model: str
    node: str
    index: int
    revision: int
    phase: Phase
    claim: Claim
    owed: int
    """Bytes of the claim that are not there yet, in all pools together: victims still hold them."""
    disk: int
    address: str = ""
    op: int = 0
    """Counts the operations asked of the worker for this replica, so that a late answer is told from a fresh one."""
    silent_at: int = FOREVER
    """When the operation in progress counts as silent."""
    held: bool = False
    """Victims made room for it: what they free is held for it."""
    beneficiary: str = ""
    """For a victim: the replica that it makes room for."""
    reason: str = ""
    """Why it is unloading."""
    loaded_at: int = 0
    used_at: int = 0
    """When it was last locked or released; 0 when never used."""
    uses: int = 0
    """Its recent uses as they were in the turnover ``uses_at``; read them by ``recent_use.recent_uses``."""
    uses_at: int = 0
    evictable_at: int = 0
    idle_seen_at: int = 0
    """When it was last found idle and kept; it is not looked at for that again until it is used."""
    tries: int = 0
    """How often the unload in progress was asked for."""
    done: int = 0
    total: int = 0
    """Bytes moved of the operation in progress, as the worker last said; 0 of 0 when it says nothing."""
    give_up_at: int = FOREVER
    """When the operation in progress ends as failed, however it progresses."""
    owed_in: Claim = ()
    """What is owed, per pool."""
    drops: tuple[Files, ...] = ()
    """What must go from its node's disk before its own files come."""
    room_by: int = 0
    """While it is unloading: until when loads wait for the room that it leaves rather than evict somebody."""
    trial_until: int = 0
    """Until when its death counts as early; 0 when it has answered somebody, or another copy died early beside it."""
    retired: bool = False
    """It makes way for a new revision: it takes no new locks while others serve, and leaves when it is idle."""

    @property
    def disk_coming(self) -> int:
        """Bytes of disk kept for files that are to come: what they take, or what those that give way take still."""
        if self.phase is Phase.STAGING:
            return self.disk
        if self.phase in (Phase.RESERVED, Phase.INSTALLING):
            return max(self.disk, sum(size for _, _, size in self.drops))
        return 0

    @property
    def present(self) -> Claim:
        """The part of the claim that counts as used: all but what victims still hold, and count for it."""
        return less(self.claim, self.owed_in)


class RequestStatus(StrEnum):
    """``adrift``: its replica was lost under it; its holder reports next."""

    QUEUED = "queued"
    LOCKED = "locked"
    ADRIFT = "adrift"


class WaitKind(OpenWords):
    """What a queued request waits for; logs and answers hold the words."""

    LOAD = "load"
    """The load of one replica of its model."""
    BUSY = "busy"
    """Every warm replica is at its limit, or others of its model came before it."""
    CAPACITY = "capacity"
    """There is no room, and nothing may be evicted now."""
    LEAVING = "leaving"
    """One replica leaves in any case, and makes room."""
    NODES_DOWN = "nodes_down"
    """Every node that it may use is down."""
    DRAINING = "draining"
    """No node that it may use takes work, and one of them is being drained."""
    FROZEN = "frozen"
    """Somebody could make room, but evictions are frozen."""
    CONTACT = "contact"
    """Its model may be running where contact was lost, with many nodes or perhaps with many."""
    BACKOFF = "backoff"
    """The last load of its model failed, and the next try is due later."""
    WOKEN = "woken"
    """Nothing more: it is decided anew in the same breath. No event holds this."""
    TURN = "turn"
    """Its turn. No state and no event holds this: it is what the audit calls a wait that nobody wrote down."""


class Wait(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a queued request waits for: for ``load`` and ``leaving``, ``on`` is the replica.

    ``until`` is when it looks again by itself; FOREVER when only a change can help.
    """

    kind: WaitKind
    on: str = ""
    until: int = FOREVER


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request's claim on the cluster, from its arrival to its release."""

    id: str
    model: str
    holder: str
    tenant: str
    priority: int
    arrival: int
    deadline: int
    serial: int
    """Order of arrival."""
    status: RequestStatus
    replica: str = ""
    wait: Wait | None = None
    passes: int = 0
    """Its own steps so far: loads begun for it, and routes after a backend was gone."""
    prefix: tuple[int, ...] = ()
    """The marks of its prompt; see :mod:`interlock.domain.prefixes`."""


class TenantLimits(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What one tenant may: None means as the setting says. ``at_once`` FOREVER and ``rate`` 0 mean without limit."""

    at_once: int | None = None
    """Requests that wait or run."""
    rate: int | None = None
    """Microseconds from one request to the next, in the long run."""
    burst: int | None = None
    """Requests at once after a quiet time."""
    priority: int | None = None
    """The highest that its requests may have."""


class Tenant(msgspec.Struct, frozen=True, gc=False):
    """Whose requests are limited together: one API key. Known only while it has limits of its own, or was busy lately.

    ``due`` is when its next request would come if all came evenly at its rate; it may come up to a burst earlier.
    """

    name: str
    limits: TenantLimits = TenantLimits()
    due: int = 0


class Stray(msgspec.Struct, frozen=True, gc=False):
    """A process that a worker runs and the log does not know; it is stopped."""

    node: str
    process: str
    model: str
