"""A second picture of the cluster, folded from the events alone, without the core's state, indexes or rules.

It keeps just what the invariants judge by, so that a mistake in the core's own bookkeeping cannot hide itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from interlock.domain.claims import RAM, Claim
from interlock.domain.entities import Budget, Files, LoadSpec, Scheduling
from interlock.domain.selector import matches, vram_label
from interlock.domain.settings import Settings
from interlock.domain.units import FOREVER

from .pools import could_lie_in, there


class NodeView:
    """One node. Figures are by pool: ``claims`` of all replicas, ``staying`` of those not leaving, ``resident``.

    Main memory is one of the pools, without a limit where nobody knows how much there is.
    """

    __slots__ = (
        "approved", "boot", "budget", "claims", "disk", "drained", "evictions", "foreign", "labels", "limits",
        "load_rate", "name", "operator_labels", "pools", "ram", "replicas", "resident", "silent_since", "slots",
        "staged", "status", "staying", "unified", "vendor", "worker_labels",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.boot = ""
        self.approved = self.drained = False
        self.status = "up"
        self.silent_since = self.load_rate = 0
        self.evictions: list[tuple[int, str]] = []
        """Until when each of its latest evictions counts, and for whom it was."""
        self.pools: tuple[int, ...] = ()
        self.foreign: tuple[int, ...] = ()
        """What others use of each pool, as the events say."""
        self.ram = 0
        self.unified = False
        self.budget = Budget()
        self.slots = 1
        self.disk: int | None = None
        self.vendor = ""
        self.worker_labels: dict[str, str] = {}
        self.operator_labels: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self.replicas: dict[str, ReplicaView] = {}
        self.claims: Counter[int] = Counter()
        self.staying: Counter[int] = Counter()
        self.resident: Counter[int] = Counter()
        self.limits: dict[int, int] = {}
        self.staged: dict[tuple[str, int], int] = {}

    @property
    def takes_work(self) -> bool:
        """Whether new locks and loads may go there."""
        return self.approved and self.status == "up" and not self.drained

    @property
    def keeps_replicas(self) -> bool:
        """Whether what runs there counts as a copy: not what must leave, and not what is gone."""
        return self.status != "offline" and not self.drained

    @property
    def budgets(self) -> dict[int, int]:
        """What models may use of each pool."""
        return {**{pool: self.budget.of(size) for pool, size in enumerate(self.pools)}, RAM: self._apart}

    @property
    def _apart(self) -> int:
        """Main memory beside the pools: nobody knows how much, or there is none."""
        return 0 if self.unified else self.ram or FOREVER

    @property
    def rooms(self) -> dict[int, int]:
        """What replicas may claim of each pool in all: its budget, or what others leave of it when that is less."""
        foreign = self.foreign or (0,) * len(self.pools)
        left = {pool: size - its for pool, (size, its) in enumerate(zip(self.pools, foreign, strict=True))}
        return {pool: max(0, min(budget, left.get(pool, budget))) for pool, budget in self.budgets.items()}

    def relabel(self) -> None:
        """Work out the labels that selectors see."""
        labels = {"node.name": self.name, "node.replica-slots": str(self.slots)}
        if self.vendor:
            labels["gpu.vendor"] = self.vendor
        if bucket := vram_label(max(self.pools, default=0)):
            labels["gpu.vram"] = bucket
        labels = self.worker_labels | self.operator_labels | labels
        self.labels = {key: value for key, value in labels.items() if value}

    def resize(self) -> None:
        """Pools or budget are new. What is claimed already may stay; nothing more than the budget may come."""
        rooms = self.rooms
        self.limits = {pool: max(rooms.get(pool, 0), self.claims[pool]) for pool in (*self.claims, *rooms)}

    def count(self, figures: Counter[int], claim: Claim, sign: int) -> None:
        """Count a claim in or out of one of the figures."""
        for pool, size in claim:
            figures[pool] += sign * size

    def above_slots(self, model: str) -> bool:
        """Whether more replicas of the model are loaded than the node is to hold."""
        loaded = (one for one in self.replicas.values() if one.phase == "loaded")
        return sum(one.model == model for one in loaded) > self.slots

    def above_budget(self, claim: Claim) -> bool:
        """Whether more stays than the budget allows in a pool of this claim."""
        budgets = self.budgets
        return any(self.staying[pool] > budgets.get(pool, -1) for pool, _ in claim)

    def shrink_limits(self) -> None:
        """Something left: what was above the budget may not come back."""
        rooms = self.rooms
        for pool, limit in self.limits.items():
            self.limits[pool] = max(rooms.get(pool, 0), min(limit, self.claims[pool]))


class ModelView:
    """One model. ``bereft_at`` is when it last lost a copy, -1 for never."""

    __slots__ = (
        "bereft_at", "declared", "floor_parked", "load_known", "made_way", "name", "parked", "replicas", "scheduling",
        "serving", "specs", "waiting",
    )  # fmt: skip

    def __init__(self, name: str, scheduling: Scheduling, spec: LoadSpec, revision: int = 1) -> None:
        self.name = name
        self.scheduling = scheduling
        self.declared = self.serving = revision
        self.specs = {revision: spec}
        self.load_known = bool(spec.backend)
        self.parked = ""
        self.floor_parked = False
        self.made_way = 0
        self.bereft_at = -1
        self.replicas: dict[str, ReplicaView] = {}
        self.waiting: dict[str, None] = {}


class ReplicaView:
    """One replica. ``locks`` are its requests; ``beneficiary`` says for whom it is a victim."""

    __slots__ = (
        "beneficiary", "claim", "disk", "drops", "evictable_at", "id", "index", "locks", "model", "node", "phase",
        "resident", "retired", "revision", "room_by", "used_at",
    )  # fmt: skip

    def __init__(self, id_: str, model: str, node: str, index: int, revision: int, claim: Claim, disk: int) -> None:
        self.id = id_
        self.model = model
        self.node = node
        self.index = index
        self.revision = revision
        self.claim = claim
        self.disk = disk
        self.drops: tuple[Files, ...] = ()
        self.phase = "reserved"
        self.resident = False
        self.evictable_at = FOREVER
        self.used_at = 0
        self.room_by = 0
        self.retired = False
        self.beneficiary = ""
        self.locks: dict[str, None] = {}

    @property
    def disk_coming(self) -> int:
        """Disk that its files will take; until their staging begins, those that give way to them are there still."""
        there = sum(size for _, _, size in self.drops) if self.phase != "staging" else 0
        return max(self.disk, there) if self.phase in ("reserved", "installing", "staging") else 0


class Picture:
    """Nodes, models and replicas as the events tell of them; ``locked`` maps each running request to its replica."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeView] = {}
        self.models: dict[str, ModelView] = {}
        self.replicas: dict[str, ReplicaView] = {}
        self.locked: dict[str, str] = {}
        self.waiting: dict[str, str] = {}
        self.frozen: set[str] = set()

    def candidate(self, model: ModelView, node: NodeView | None) -> bool:
        """Whether the node is in the model's candidate set."""
        return node is not None and node.approved and matches(model.scheduling.selector, node.labels)

    def eligible(self, replica: ReplicaView) -> bool:
        """Whether a request may be sent to the replica at all, its load aside."""
        model = self.models.get(replica.model)
        if model is None or replica.phase != "loaded" or replica.revision != model.serving:
            return False
        return self.may_serve_there(replica, model) and not (replica.retired and self._is_spared(replica, model))

    def _is_spared(self, replica: ReplicaView, model: ModelView) -> bool:
        """Whether a copy that makes way may leave, and others serve."""
        others = [other for other in model.replicas.values() if other is not replica and not other.retired]
        return "reconciler" not in self.frozen and any(self.eligible(other) for other in others)

    def usable(self, model: ModelView) -> ReplicaView | None:
        """A replica that has room for one more request now."""
        parallel = model.scheduling.parallel
        for replica in model.replicas.values():
            if replica.phase == "loaded" and (not parallel or len(replica.locks) < parallel) and self.eligible(replica):
                return replica
        return None

    def copies(self, model: ModelView, but: str = "") -> int:
        """Replicas that count for the model's floor, loaded or on their way."""
        staying = [r.node for r in model.replicas.values() if r.id != but and r.phase != "unloading"]
        nodes = [self.nodes.get(name) for name in staying]
        return sum(node is not None and node.keeps_replicas and self.candidate(model, node) for node in nodes)

    def usable_copies(self, model: ModelView) -> int:
        """Replicas to which requests may be sent, their load aside."""
        return sum(self.eligible(replica) for replica in model.replicas.values())

    def below_floor(self, model: ModelView) -> bool:
        """Whether the model has fewer copies than it is to have without anybody's asking."""
        if not model.scheduling.everywhere:
            return self.copies(model) < model.scheduling.min_replicas
        wanted = {node.name for node in self.nodes.values() if node.keeps_replicas and self.candidate(model, node)}
        return bool(wanted - {r.node for r in model.replicas.values() if r.phase != "unloading"})

    def may_serve_there(self, replica: ReplicaView, model: ModelView) -> bool:
        """Whether the replica is on a healthy candidate of its model."""
        node = self.nodes.get(replica.node)
        return node is not None and node.takes_work and self.candidate(model, node)

    def could_fit(self, model: ModelView, disk_margin: int) -> bool:
        """Whether some candidate, emptied, could hold one replica of the declared revision."""
        spec = model.specs[model.declared]
        nodes = (node for node in self.nodes.values() if self.candidate(model, node))
        return any(
            could_lie_in(node.budgets, there(spec, unified=node.unified))
            and (node.disk is None or not spec.disk or node.disk - disk_margin >= spec.disk)
            for node in nodes
        )

    def left_of(self, model: str) -> int:
        """The highest revision of which replicas or files of that name are anywhere; 0 when nothing is."""
        replicas = [replica.revision for replica in self.replicas.values() if replica.model == model]
        files = [revision for node in self.nodes.values() for name, revision in node.staged if name == model]
        return max((*replicas, *files), default=0)

    def members(
        self, model: ModelView, node: NodeView, *, insisting: bool = False, without: Collection[str] = ()
    ) -> int:
        """Replicas of the model's anti-affinity group on the node; ``insisting``: those that bar it from there."""
        group = model.scheduling.anti_affinity
        there = [replica.model for replica in node.replicas.values() if replica.id not in without] if group else []
        owners = [self.models.get(name) for name in there]
        members = [its for its in owners if its is not None and its.scheduling.anti_affinity == group]
        if insisting and not model.scheduling.anti_affinity_hard:
            return sum(its.scheduling.anti_affinity_hard for its in members)
        return len(members)

    def has_live_copy(self, model: ModelView, but: str = "") -> bool:
        """Whether a replica of the serving revision is loaded on a healthy candidate."""
        return any(replica.id != but and self.eligible(replica) for replica in model.replicas.values())

    def floor(self, model: ModelView) -> int:
        """Copies that eviction must leave on the model's candidates."""
        if model.scheduling.everywhere:
            return sum(1 for node in self.nodes.values() if self.candidate(model, node))
        return model.scheduling.min_replicas

    def idle_unload(self, model: ModelView, settings: Settings) -> int:
        """How long the model's last copy may be idle."""
        own = model.scheduling.idle_unload
        return settings.idle_unload if own is None else own

    def has_twin(self, replica: ReplicaView) -> bool:
        """Whether its node has another copy of the same model that may be sent requests."""
        node = self.nodes.get(replica.node)
        here = node.replicas.values() if node is not None else ()
        return any(twin.id != replica.id and twin.model == replica.model and self.eligible(twin) for twin in here)

    def drop(self, replica: ReplicaView) -> None:
        """Nothing is left of the replica."""
        self._keep_drops(replica)
        self.replicas.pop(replica.id, None)
        model = self.models.get(replica.model)
        if model is not None:
            model.replicas.pop(replica.id, None)
        node = self.nodes.get(replica.node)
        if node is not None and node.replicas.pop(replica.id, None) is not None:
            node.count(node.claims, replica.claim, -1)
            if replica.phase != "unloading":
                node.count(node.staying, replica.claim, -1)
            if replica.resident:
                node.count(node.resident, replica.claim, -1)
            node.shrink_limits()

    def _keep_drops(self, replica: ReplicaView) -> None:
        """Files that were to give way to its own are there still when its staging never began."""
        node = self.nodes.get(replica.node)
        if node is not None and replica.phase in ("reserved", "installing"):
            for model, revision, size in replica.drops:
                node.staged.setdefault((model, revision), size)

    def leave(self, replica: ReplicaView) -> None:
        """The replica is on its way out; its memory is still in use."""
        self._keep_drops(replica)
        if replica.phase != "unloading":
            replica.phase = "unloading"
            node = self.nodes.get(replica.node)
            if node is not None:
                node.count(node.staying, replica.claim, -1)
