"""Every command that the core decides, and the replies to them.

Clients, workers and operators send commands through the writer; the driver adds its own (``Tick``, ``Review``). Each is
sent in an :class:`Envelope` with an id: a repeat of the same id decides nothing, and hears how it stands.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from .entities import SERVED, Budget, LoadSpec, Scheduling, TenantLimits


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """Base of all commands."""


# --- Clients, through a gateway -------------------------------------------------------------------------------------


class AcquireLock(Command, frozen=True, kw_only=True):
    """A request wants a replica of ``model``.

    It waits until ``deadline``, an instant; where that is 0, for ``patience`` from when this is decided, which needs no
    clock that agrees with the writer's (below 0: not at all); and where both are 0, for as long as the setting says.

    ``prefix`` are the marks of its prompt (see :mod:`interlock.domain.prefixes`): it prefers a replica that holds them.

    Replies Locked, Waiting (the outcome follows as an event of the request) or Rejected.
    """

    request: str
    model: str
    holder: str
    tenant: str = ""
    priority: int = 0
    deadline: int = 0
    patience: int = 0
    prefix: tuple[int, ...] = ()


class ReleaseLock(Command, frozen=True, kw_only=True):
    """The request is over: ``served``, ``declined``, ``failed`` or ``cancelled``; ``detail`` is the backend's words.

    Replies Done.
    """

    request: str
    outcome: str = SERVED
    detail: str = ""


class CancelRequest(Command, frozen=True, kw_only=True):
    """The client left while its request waited or ran; replies Done."""

    request: str
    reason: str = "client left"


class ReportBackendGone(Command, frozen=True, kw_only=True):
    """The locked replica was UNAVAILABLE or FAILED_PRECONDITION before its first byte: routes the request again.

    ``answered``: somebody there said that the model is not loaded, so that contact with its node is not what lacks.
    ``holder``: whose request it is, should the id be used again before this is repeated.
    """

    request: str
    replica: str
    detail: str = ""
    answered: bool = False
    holder: str = ""


class LoseHolder(Command, frozen=True, kw_only=True):
    """The holder's lease has lapsed."""

    holder: str


# --- Workers --------------------------------------------------------------------------------------------------------


class Running(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A process that a worker runs for a replica; ``replica`` is empty when it does not know which."""

    process: str
    replica: str = ""
    model: str = ""
    index: int = 0
    address: str = ""


class RegisterNode(Command, frozen=True, kw_only=True):
    """A worker joins. ``used`` is what is in use per pool in all, ours included; ``disk`` what models' files may take.

    ``approve``: no operator is needed. ``machine`` tells a restart from another machine of the same name; that one is
    refused while the first is at work, unless it ``replaces`` it. ``unified``: its one pool is its main memory as well.

    ``clock`` is what the machine's own clock showed (microseconds since 1970, 0: not told), at ``sent_at`` or later (0:
    now). Nothing is decided by it.
    """

    node: str
    address: str = ""
    boot: str = ""
    labels: dict[str, str] = {}
    pools: tuple[int, ...] = ()
    used: tuple[int, ...] = ()
    ram: int = 0
    disk: int | None = None
    max_replicas_per_model: int = 1
    budget: Budget | None = None
    gpu_vendor: str = ""
    approve: bool = False
    running: tuple[Running, ...] = ()
    machine: str = ""
    replaces: bool = False
    unified: bool = False
    clock: int = 0
    sent_at: int = 0


class ReportCapacity(Command, frozen=True, kw_only=True):
    """A heartbeat's figures, as :class:`RegisterNode` has them. Changes below a quantum make no event.

    They were sent at ``sent_at`` or later: what was loaded after that may be in them or not; 0: they are of now. So was
    ``clock``, as in :class:`RegisterNode`.
    """

    node: str
    pools: tuple[int, ...] = ()
    used: tuple[int, ...] = ()
    disk: int | None = None
    ram: int = 0
    sent_at: int = 0
    clock: int = 0


class ReportRunning(Command, frozen=True, kw_only=True):
    """What the worker runs, as asked at ``asked_at``: what changed after that is not judged by it."""

    node: str
    boot: str
    asked_at: int
    running: tuple[Running, ...] = ()


class ReportSilence(Command, frozen=True, kw_only=True):
    """Nothing was heard of the node for ``unreachable_after``.

    Or ``call``, the words of a call that failed there, had its worker asked what it runs, and it did not answer.
    """

    node: str
    call: str = ""


class ReportHeard(Command, frozen=True, kw_only=True):
    """A node that counted as unreachable speaks again, with this boot."""

    node: str
    boot: str


class WorkerLeft(Command, frozen=True, kw_only=True):
    """The worker says goodbye: it has stopped all that it ran. Of another boot than the node's it means nothing."""

    node: str
    boot: str = ""


class ReportInstalled(Command, frozen=True, kw_only=True):
    """Answers InstallBackend."""

    replica: str
    op: str
    address: str


class ReportStaged(Command, frozen=True, kw_only=True):
    """Answers StageModel. ``took``: the microseconds that moving the files has taken, 0 when not measured."""

    replica: str
    op: str
    took: int = 0


class ReportProgress(Command, frozen=True, kw_only=True):
    """Bytes have moved in the operation in progress."""

    replica: str
    op: str
    done: int = 0
    total: int = 0


class ReportLoaded(Command, frozen=True, kw_only=True):
    """Answers LoadModel. ``took``: the microseconds that loading has taken, 0 when not measured."""

    replica: str
    op: str
    took: int = 0


class ReportLoadFailed(Command, frozen=True, kw_only=True):
    """Answers InstallBackend, StageModel or LoadModel with a no, in the worker's own words."""

    replica: str
    op: str
    reason: str


class ReportUnloaded(Command, frozen=True, kw_only=True):
    """Answers UnloadModel: nothing of the replica is left."""

    replica: str
    op: str


class ReportReplicaDied(Command, frozen=True, kw_only=True):
    """The replica's process ended by itself."""

    replica: str
    reason: str


class ReportStrayStopped(Command, frozen=True, kw_only=True):
    """Answers StopStray."""

    node: str
    process: str


# --- Operators ------------------------------------------------------------------------------------------------------


class ApproveNode(Command, frozen=True, kw_only=True):
    """Let a pending node be a candidate."""

    node: str


class SetNodeLabels(Command, frozen=True, kw_only=True):
    """Merge into the operator's labels; an empty value removes the label, the worker's included."""

    node: str
    labels: dict[str, str]


class DrainNode(Command, frozen=True, kw_only=True):
    """No new locks or loads there; empty it.

    ``within``: so long after the decision what is still there is taken away, requests and all; FOREVER clears such a
    deadline, 0 leaves the one that is set as it is. ``by_worker``: the worker stops; its next start ends the drain.
    """

    node: str
    within: int = 0
    by_worker: bool = False


class ResumeNode(Command, frozen=True, kw_only=True):
    """End a drain."""

    node: str


class RemoveNode(Command, frozen=True, kw_only=True):
    """Take the node out of the cluster."""

    node: str


class SetNodeBudget(Command, frozen=True, kw_only=True):
    """Limit the memory that models may use there, whatever the worker says of it; None: what the worker says holds."""

    node: str
    budget: Budget | None


class SetReplicaSlots(Command, frozen=True, kw_only=True):
    """How many replicas of one model it may hold, 1 or more, whatever the worker says; None: what that says holds."""

    node: str
    max_replicas_per_model: int | None


class SetTenantLimits(Command, frozen=True, kw_only=True):
    """Give a tenant limits of its own; without any, the settings hold for it again."""

    tenant: str
    limits: TenantLimits = TenantLimits()


class DeclareModel(Command, frozen=True, kw_only=True):
    """Make the model be so: declares it, or edits it where it differs."""

    model: str
    spec: LoadSpec
    scheduling: Scheduling = Scheduling()
    aliases: tuple[str, ...] = ()


class SetScheduling(Command, frozen=True, kw_only=True):
    """Replace where and how often the model may run."""

    model: str
    scheduling: Scheduling


class StoreLoadInfo(Command, frozen=True, kw_only=True):
    """Tell how the model can be loaded."""

    model: str
    spec: LoadSpec


class RemoveModel(Command, frozen=True, kw_only=True):
    """Take the model out; its waiting requests are refused, its replicas leave when idle."""

    model: str


class RequestLoad(Command, frozen=True, kw_only=True):
    """Load one more replica now, without a request."""

    model: str


class RequestUnload(Command, frozen=True, kw_only=True):
    """Unload the model's idle replicas now; refused while one is busy."""

    model: str


class EvictReplica(Command, frozen=True, kw_only=True):
    """Unload this replica now; refused while it is locked."""

    replica: str


class Freeze(Command, frozen=True, kw_only=True):
    """Stop ``evictions`` or the ``reconciler``."""

    what: str


class Thaw(Command, frozen=True, kw_only=True):
    """Let ``evictions`` or the ``reconciler`` go on."""

    what: str


class ChangeSettings(Command, frozen=True, kw_only=True):
    """Change settings; values as the core counts them."""

    values: dict[str, int | str]


# --- The driver -----------------------------------------------------------------------------------------------------


class StartEpoch(Command, frozen=True, kw_only=True):
    """The writer has taken over: everything is looked at once."""

    epoch: int
    writer: str


class Tick(Command, frozen=True, kw_only=True):
    """The clock moved: handle the first timer that is due."""


class ChangeKind(StrEnum):
    """What has changed, as far as it matters to what is looked at. No log holds this."""

    MODEL = "model"
    """The model itself: its revision, scheduling, load info or what serves."""
    QUEUE = "queue"
    """Who waits for it, or what those who wait may count on."""
    NODE = "node"
    """A node joined, healed, went or was changed."""
    LIMITS = "limits"
    """What nodes may hold at most, by their own figures or by a setting: what never fitted may fit then."""
    CAPACITY = "capacity"
    """Room came free, or may be made."""
    UNPARK = "unpark"
    """A wish is parked no more, as when its instant has come."""
    THAW = "thaw"
    """What was frozen is so no more: all that has come meanwhile is looked at."""
    EPOCH = "epoch"
    """A writer took over."""


class Review(Command, frozen=True, kw_only=True):
    """Look again at what a change could help, model by model: waiting requests, replicas that must leave, floors.

    Follow-up of another decision. ``change`` is the kind of change and ``cause`` says it in words.
    """

    change: ChangeKind
    cause: str
    models: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    """Nodes whose drain may be complete."""


# --- Replies --------------------------------------------------------------------------------------------------------


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """Base of all replies."""


class Done(Reply, frozen=True, kw_only=True):
    """It is so now, or was already."""

    detail: str = ""


class Locked(Reply, frozen=True, kw_only=True):
    """The request holds a lock on ``replica``, whose backend listens at ``address``."""

    request: str
    replica: str
    node: str
    model: str
    address: str


class Waiting(Reply, frozen=True, kw_only=True):
    """The request waits; ``kind`` and ``on`` as in :class:`~interlock.domain.entities.Wait`."""

    request: str
    kind: str
    on: str = ""


class Rejected(Reply, frozen=True, kw_only=True):
    """The answer is no: a refusal code, or ``not_found``, ``conflict``, ``invalid``, ``cancelled``.

    ``retry_after`` in microseconds; with ``whole_tenant`` all that the tenant sends until then gets this answer.
    """

    code: str
    message: str
    cure: str = ""
    retry_after: int = 0
    whole_tenant: bool = False


AnyReply = Done | Locked | Waiting | Rejected


CLIENT_ACTOR = "client"
"""The actor of what a gateway asks for its clients."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A command on its way: who sent it, and how it hangs together with others."""

    command_id: str
    command: Command
    actor: str = "interlock"
    correlation_id: str = ""
    causation_id: str = ""
    request_id: str = ""
