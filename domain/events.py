"""Every event, in the past tense. An event holds what changed and why; ``at`` is the instant on the writer's clock.

To change an event: add a field with a default, or raise its ``class_version`` and add an upcaster in ``codec.py``; the
golden histories in ``tests/golden`` say whether old logs still read the same.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from .causes import UNTOLD, LoadCause
from .claims import Claim
from .entities import Budget, Churn, Files, Lack, LoadSpec, Scheduling, TenantLimits, Wait
from .explanation import Explanation
from .refusals import RefusalCode
from .units import FOREVER


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of all events. ``stream`` names the aggregate that it belongs to."""

    class_version: ClassVar[int] = 1
    at: int

    @property
    def stream(self) -> str:
        """The aggregate's stream."""
        return "scheduler"


class NodeEvent(Event, frozen=True, kw_only=True):
    """An event of a node."""

    node: str

    @property
    def stream(self) -> str:
        """``node:NAME``."""
        return f"node:{self.node}"


class ModelEvent(Event, frozen=True, kw_only=True):
    """An event of a model."""

    model: str

    @property
    def stream(self) -> str:
        """``model:NAME``."""
        return f"model:{self.model}"


class ReplicaEvent(Event, frozen=True, kw_only=True):
    """An event of a replica; ``model`` and ``node`` come along so that the log can be read by either."""

    replica: str
    model: str
    node: str

    @property
    def stream(self) -> str:
        """``replica:ID``."""
        return f"replica:{self.replica}"


# --- Node -----------------------------------------------------------------------------------------------------------


class NodeRegistered(NodeEvent, frozen=True, kw_only=True):
    """A worker joined, or joined again with another boot or other facts.

    ``replaced``: another machine has taken over the name; what an operator has set stays, but for the approval.
    ``unified``: its one pool is its main memory as well. What an operator has set of slots and budget holds; what the
    worker states of them, for when that ends, is in ``worker_slots`` (0: the same) and ``worker_budget`` (None: same).
    """

    address: str = ""
    boot: str = ""
    labels: dict[str, str] = {}
    pools: tuple[int, ...] = ()
    foreign: tuple[int, ...] = ()
    ram: int = 0
    disk: int | None = None
    max_replicas_per_model: int = 1
    budget: Budget = Budget()
    gpu_vendor: str = ""
    machine: str = ""
    replaced: bool = False
    unified: bool = False
    worker_slots: int = 0
    worker_budget: Budget | None = None


class NodeApproved(NodeEvent, frozen=True, kw_only=True):
    """The node may be a candidate."""


class NodeLabelsChanged(NodeEvent, frozen=True, kw_only=True):
    """The operator's labels, whole, after the change."""

    labels: dict[str, str] = {}


class NodeCapacityChanged(NodeEvent, frozen=True, kw_only=True):
    """What the worker reports of memory and disk has changed by at least one quantum."""

    pools: tuple[int, ...] = ()
    foreign: tuple[int, ...] = ()
    disk: int | None = None
    ram: int = 0


class NodeClockOff(NodeEvent, frozen=True, kw_only=True):
    """Its machine's clock is off by ``off`` microseconds, in whole seconds; below 0 it is behind, at 0 right again.

    It is said for people: nothing follows from it.
    """

    off: int = 0


class NodeBudgetSet(NodeEvent, frozen=True, kw_only=True):
    """The part of its memory that models may use. ``lifted``: the operator's word ends, and the worker's holds."""

    budget: Budget
    lifted: bool = False


class NodeReplicaSlotsSet(NodeEvent, frozen=True, kw_only=True):
    """How many replicas of one model it may hold. ``lifted``: the operator's word ends, and the worker's holds."""

    max_replicas_per_model: int
    lifted: bool = False


class NodeBecameUnreachable(NodeEvent, frozen=True, kw_only=True):
    """Silent for too long; what it ran is kept in mind until ``offline_at``.

    With ``call``, the words of a call that failed, its worker was asked and did not answer: it is known to be silent
    sooner than others are, and until ``alone_at`` it may be one of many.
    """

    offline_at: int
    call: str = ""
    alone_at: int = 0


class NodeOfflinePostponed(NodeEvent, frozen=True, kw_only=True):
    """Contact with many nodes was lost at once: this one counts as offline no sooner than at ``offline_at``."""

    offline_at: int


class NodeRecovered(NodeEvent, frozen=True, kw_only=True):
    """It speaks again, with the same boot."""


class NodeDrainStarted(NodeEvent, frozen=True, kw_only=True):
    """No new locks or loads; what is idle leaves, what is busy leaves when idle, and at ``drain_by`` all the same.

    ``by_worker``: the worker itself is about to stop, and not an operator wants it empty.
    """

    drain_by: int = FOREVER
    by_worker: bool = False


class NodeDrainEnforced(NodeEvent, frozen=True, kw_only=True):
    """The drain's deadline has come: so many replicas are taken away, with the requests that still run on them."""

    replicas: int
    requests: int


class NodeDrained(NodeEvent, frozen=True, kw_only=True):
    """The drain is complete: nothing of ours runs there any more."""


class NodeResumed(NodeEvent, frozen=True, kw_only=True):
    """The drain is over."""


class NodeWentOffline(NodeEvent, frozen=True, kw_only=True):
    """It is gone; all that ran there is lost. ``left``: by its worker's own word, and only a registration undoes it."""

    reason: str = ""
    left: bool = False


class NodeRemoved(NodeEvent, frozen=True, kw_only=True):
    """The operator took it out of the cluster."""


class StrayFound(NodeEvent, frozen=True, kw_only=True):
    """The worker runs a process that the log does not know; it will be stopped."""

    process: str
    model: str = ""


class StrayStopped(NodeEvent, frozen=True, kw_only=True):
    """That process is gone."""

    process: str


# --- Model ----------------------------------------------------------------------------------------------------------


class ModelDeclared(ModelEvent, frozen=True, kw_only=True):
    """A model is known from now on; its first revision is above that of any replica left of an earlier namesake."""

    revision: int = 1
    spec: LoadSpec
    scheduling: Scheduling
    aliases: tuple[str, ...] = ()


class ModelSchedulingChanged(ModelEvent, frozen=True, kw_only=True):
    """Where and how often it may run, and its other names, whole, after the change."""

    scheduling: Scheduling
    aliases: tuple[str, ...] = ()


class RevisionDeclared(ModelEvent, frozen=True, kw_only=True):
    """Its backend, options or needs were edited; or are again what they are in the revision that serves.

    Then that is its revision, and ``called_off`` the one that was to come up; it is 0 otherwise.
    """

    revision: int
    spec: LoadSpec
    called_off: int = 0


class RevisionServing(ModelEvent, frozen=True, kw_only=True):
    """This revision's replicas take the locks from now on, and no others."""

    revision: int


class LoadInfoStored(ModelEvent, frozen=True, kw_only=True):
    """It is known from now on how to load the model; ``source`` is ``declared``, ``operator`` or ``first load``."""

    spec: LoadSpec
    source: str


class ModelParked(ModelEvent, frozen=True, kw_only=True):
    """The reconciler's wish for it cannot be met; nothing is tried until ``lacks`` changes."""

    reason: RefusalCode
    lacks: Lack
    until: int = FOREVER
    explanation: Explanation | None = None


class ModelUnparked(ModelEvent, frozen=True, kw_only=True):
    """What it lacked has changed."""

    cause: str


class ModelRemoved(ModelEvent, frozen=True, kw_only=True):
    """The operator took it out; its replicas leave when idle."""


class ThrashingDetected(ModelEvent, frozen=True, kw_only=True):
    """It was evicted for ``others`` and loaded again ``cycles`` times since ``since``: it now stays longer each time.

    Its fresh ``replica`` is safe from eviction by its equals until ``evictable_at``.
    """

    replica: str
    node: str
    others: tuple[str, ...] = ()
    cycles: int
    since: int
    evictable_at: int


class RequestQueued(ModelEvent, frozen=True, kw_only=True):
    """The request waits, or waits for something else than before."""

    request: str
    wait: Wait
    holder: str
    arrival: int
    deadline: int
    tenant: str = ""
    priority: int = 0
    passes: int = 0
    prefix: tuple[int, ...] = ()
    explanation: Explanation | None = None


class RequestWoken(ModelEvent, frozen=True, kw_only=True):
    """The very change that could help it has happened: it is decided again in the same breath."""

    request: str
    cause: str


class RequestCancelled(ModelEvent, frozen=True, kw_only=True):
    """It ended before it was served: the client left, or its holder was lost."""

    request: str
    reason: str


class RequestRefused(ModelEvent, frozen=True, kw_only=True):
    """The answer is no, with a code and what would cure it. ``retry_after`` in microseconds, 0 when pointless.

    With ``whole_tenant``, all that the tenant sends until then gets this answer, unless its limits change.
    """

    request: str
    code: str
    message: str
    retry_after: int = 0
    tenant: str = ""
    whole_tenant: bool = False
    explanation: Explanation | None = None

    @property
    def stream(self) -> str:
        """The model's stream; the scheduler's for a name that is no model's, so that no client can invent streams."""
        return "scheduler" if self.code == "unknown_model" else f"model:{self.model}"


# --- Replica --------------------------------------------------------------------------------------------------------


class ReplicaReserved(ReplicaEvent, frozen=True, kw_only=True):
    """Memory, disk and a slot are its own from now on. ``victims`` still hold ``owed`` bytes, per pool ``owed_in``.

    ``drops`` are files that no replica uses any more: they go from the disk before its own come.
    """

    index: int
    revision: int
    claim: Claim = ()
    disk: int = 0
    victims: tuple[str, ...] = ()
    owed: int = 0
    owed_in: Claim = ()
    drops: tuple[Files, ...] = ()
    cause: LoadCause = UNTOLD
    silent_at: int
    explanation: Explanation | None = None


class BackendInstallRequested(ReplicaEvent, frozen=True, kw_only=True):
    """The worker is asked to start a backend process for it."""

    op: int
    silent_at: int


class BackendInstalled(ReplicaEvent, frozen=True, kw_only=True):
    """The process runs and answers at ``address``."""

    address: str


class StagingStarted(ReplicaEvent, frozen=True, kw_only=True):
    """The worker is asked to bring the model's files onto its disk."""

    op: int
    silent_at: int
    give_up_at: int = FOREVER


class LoadStarted(ReplicaEvent, frozen=True, kw_only=True):
    """The backend is asked to load the model. ``stage_rate``: what the node stages at from now on, if that is new."""

    op: int
    silent_at: int
    stage_rate: int = 0
    give_up_at: int = FOREVER


class LoadProgressed(ReplicaEvent, frozen=True, kw_only=True):
    """Bytes have moved: the operation in progress has until ``silent_at`` to show more."""

    silent_at: int
    done: int = 0
    total: int = 0
    give_up_at: int = FOREVER


class ReplicaLoaded(ReplicaEvent, frozen=True, kw_only=True):
    """It can serve. It is safe from eviction by its equals until ``evictable_at``.

    ``load_rate``: what the node loads at from now on, in bytes a second, if that is new.
    ``churn`` is what is remembered of its model's evict and reload cycles from here on. Until ``trial_until`` it dies
    early though nobody calls it; 0 in logs from before that counted.
    """

    evictable_at: int
    address: str = ""
    trial_until: int = 0
    load_rate: int = 0
    churn: Churn | None = None


class ReplicaLoadFailed(ReplicaEvent, frozen=True, kw_only=True):
    """The load ended without a replica; ``reason`` in the backend's own words. ``gone``: nothing is left to stop.

    ``counts``: it went wrong, and counts towards the model's tries; else somebody gave it up.
    Until ``room_by`` loads wait for the room that it leaves rather than evict somebody.
    """

    reason: str
    retry_at: int
    gone: bool
    counts: bool = True
    op: int = 0
    silent_at: int = 0
    room_by: int = 0


class ReplicaLocked(ReplicaEvent, frozen=True, kw_only=True):
    """The request may use the replica until it releases it, which holds its ``prefix`` from now on."""

    request: str
    holder: str
    arrival: int
    deadline: int
    tenant: str = ""
    priority: int = 0
    passes: int = 0
    prefix: tuple[int, ...] = ()
    cause: str = ""
    explanation: Explanation | None = None


class ReplicaReleased(ReplicaEvent, frozen=True, kw_only=True):
    """The request's claim is over: ``served``, ``declined``, ``failed``, ``cancelled`` or ``holder lost``.

    ``declined``: the caller asked for what the model cannot do. ``failed`` is the backend's or the gateway's fault.
    """

    request: str
    outcome: str
    detail: str = ""


class ReplicaProved(ReplicaEvent, frozen=True, kw_only=True):
    """It has served somebody, after ``deaths`` copies of its model in a row had died before they had.

    With it the model's failed tries are forgotten.
    """

    deaths: int


class CallWentUnanswered(ReplicaEvent, frozen=True, kw_only=True):
    """The request's call failed on a node that is silent: it lets go of the replica, which may well run on, and routes
    again.
    """

    request: str
    detail: str = ""


class ReplicaFoundIdle(ReplicaEvent, frozen=True, kw_only=True):
    """Idle for as long as makes a copy surplus, but kept: it is not one too many now. Said once per idle time."""


class ReplicaRetired(ReplicaEvent, frozen=True, kw_only=True):
    """It makes way for a new revision of its model, and others serve: it takes no new locks, and leaves when idle."""

    cause: str


class ReplicaEvicted(ReplicaEvent, frozen=True, kw_only=True):
    """Chosen as a victim: it unloads to make room for ``beneficiary`` of ``beneficiary_model``.

    It counts against its node's bound until ``counts_until``; ``churn`` as with :class:`ReplicaLoaded`.
    """

    beneficiary: str
    beneficiary_model: str
    op: int
    silent_at: int
    counts_until: int = 0
    churn: Churn | None = None
    explanation: Explanation | None = None


class HoldReleased(ReplicaEvent, frozen=True, kw_only=True):
    """What victims freed for this replica is no longer held; ``reason`` is ``loaded``, ``failed`` or ``lost``."""

    reason: str


class UnloadRequested(ReplicaEvent, frozen=True, kw_only=True):
    """It takes no more locks and the worker is asked to unload it, for the ``tries``-th time.

    Until ``room_by`` loads wait for the room that it leaves rather than evict somebody.
    """

    reason: str
    op: int
    silent_at: int
    tries: int = 1
    room_by: int = 0


class UnloadConfirmed(ReplicaEvent, frozen=True, kw_only=True):
    """The worker has let go of it: its memory, slot and port are free."""


class ReplicaLost(ReplicaEvent, frozen=True, kw_only=True):
    """It no longer serves. When ``gone`` nothing is left of it; else the worker is asked to clean up.

    Until ``room_by`` loads wait for the room that it leaves rather than evict somebody. ``early``: it died before it
    had served anybody. From the second such copy in a row on that is a failed try, and the next is due at ``retry_at``.
    """

    reason: str
    gone: bool
    op: int = 0
    silent_at: int = 0
    room_by: int = 0
    early: bool = False
    retry_at: int = 0


# --- Scheduler ------------------------------------------------------------------------------------------------------


class EpochStarted(Event, frozen=True, kw_only=True):
    """A writer took over. ``defaults`` are those of its program: a cluster keeps the ones that it was born with."""

    epoch: int
    writer: str
    defaults: int = 0


class HolderLost(Event, frozen=True, kw_only=True):
    """A gateway's run fell silent; what it held is released by the events after this one."""

    holder: str
    requests: int


class MassLossSuspected(Event, frozen=True, kw_only=True):
    """So many of the nodes fell silent at once that our own network is suspected: nothing is moved until ``until``."""

    silent: int
    of: int
    until: int


class MassLossOver(Event, frozen=True, kw_only=True):
    """Contact is back, or the grace has passed: what is still silent is believed to be.

    When contact is back, the others may follow in a moment: until ``alone_at`` nobody is evicted for what they may run.
    """

    reason: str
    alone_at: int = 0


class SettingsChanged(Event, frozen=True, kw_only=True):
    """Settings have new values, as the core counts them."""

    values: dict[str, int | str]


class TenantLimitsSet(Event, frozen=True, kw_only=True):
    """A tenant has these limits of its own, whole, after the change."""

    tenant: str
    limits: TenantLimits


class Frozen(Event, frozen=True, kw_only=True):
    """The operator stopped ``what``: ``evictions`` or ``reconciler``."""

    what: str


class Thawed(Event, frozen=True, kw_only=True):
    """The operator lets ``what`` go on."""

    what: str


def _leaves(cls: type[Event]) -> list[type[Event]]:
    subclasses = cls.__subclasses__()
    return [leaf for sub in subclasses for leaf in _leaves(sub)] if subclasses else [cls]


EVENT_TYPES: dict[str, type[Event]] = {cls.__name__: cls for cls in _leaves(Event)}
"""Every event class by its name."""
