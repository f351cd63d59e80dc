"""The cluster's state: the fold of the events, and nothing else.

Entities are frozen and replaced; the containers here are what a fork copies. Beside the entities stand indexes, all
derived from them, that answer the questions of routing without scanning the cluster. Only :mod:`interlock.domain.apply`
writes here.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from heapq import heappush
from typing import Protocol, Self, TypeVar

from .claims import RAM, Claim
from .entities import LOADING_PHASES, Model, Node, NodeStatus, Phase, Replica, Request, Stray, Tenant
from .memory import foreign_within_budget
from .prefixes import PrefixIndex
from .selector import Selector, matches
from .settings import Settings

OpenKey = tuple[int, str]
"""A node's place in :attr:`CandidateSet.open`: most free memory in one pool first, then by name."""
WarmKey = tuple[int, int, int, str, str]
"""A replica's place in a :class:`WarmSet`: fewest locks first, then least recently used, then oldest; id and node."""
QueueKey = tuple[int, int, str]
"""A waiting request's place: its rank (see :mod:`interlock.domain.fairness`), its serial number and its id."""
StayKey = tuple[int, int, str]
"""A replica's place in :attr:`State.stays`: until when it is safe from its equals, its serial number and its id."""
Timer = tuple[int, str, str]
"""An instant, the kind of timer, and the id of what it belongs to."""


class CandidateSet:
    """The approved nodes that one selector matches, and those of them that take work, roomiest first."""

    __slots__ = ("keys", "nodes", "open")

    def __init__(self) -> None:
        self.nodes: dict[str, None] = {}
        self.open: list[OpenKey] = []
        self.keys: dict[str, OpenKey] = {}

    def fork(self) -> CandidateSet:
        """An independent copy."""
        copy = CandidateSet.__new__(CandidateSet)
        copy.nodes, copy.open, copy.keys = self.nodes.copy(), self.open.copy(), self.keys.copy()
        return copy

    def place(self, node: str, key: OpenKey | None) -> None:
        """Put the node where ``key`` belongs among the open ones, or take it from there."""
        old = self.keys.get(node)
        if old == key:
            return
        if old is not None:
            del self.open[bisect_left(self.open, old)]
            del self.keys[node]
        if key is not None:
            insort(self.open, key)
            self.keys[node] = key


class WarmSet:
    """One model's replicas that may be locked, in the order in which they are taken."""

    __slots__ = ("order", "size", "twins", "where")

    def __init__(self, size: int) -> None:
        self.size = size
        """Bytes that one of them takes: what loading it again would move."""
        self.twins = 0
        """How many of them stand on a node that has another of them already."""
        self.order: list[WarmKey] = []
        self.where: dict[str, WarmKey] = {}

    def fork(self) -> WarmSet:
        """An independent copy."""
        copy = WarmSet.__new__(WarmSet)
        copy.size, copy.twins = self.size, self.twins
        copy.order, copy.where = self.order.copy(), self.where.copy()
        return copy

    def idle(self) -> list[WarmKey]:
        """Those without a lock."""
        order = self.order
        return order if not order or order[-1][0] == 0 else order[: bisect_left(order, (1,))]

    def remove(self, replica: str) -> None:
        """Take the replica out, if it is there."""
        key = self.where.pop(replica, None)
        if key is not None:
            self._take_out(key)

    def put(self, replica: Replica, locks: int) -> None:
        """Put the replica in, or move it to where it belongs now."""
        old = self.where.get(replica.id)
        if old is not None:
            self._take_out(old)
        key = self.where[replica.id] = (locks, replica.used_at, replica.serial, replica.id, replica.node)
        insort(self.order, key)

    def _take_out(self, key: WarmKey) -> None:
        # Most often it is the first, which has just been chosen: then no key has to be compared.
        del self.order[0 if self.order[0] is key else bisect_left(self.order, key)]


class _Copied(Protocol):
    def copy(self) -> Self: ...


_Key = TypeVar("_Key")
_Value = TypeVar("_Value", bound=_Copied)


def _each(containers: dict[_Key, _Value]) -> dict[_Key, _Value]:
    """A copy of each container; most maps of a small state are empty, and cost nothing."""
    copies: dict[_Key, _Value] = {}
    if containers:
        for key, value in containers.items():  # a comprehension would make a function first, which takes longer
            copies[key] = value.copy()
    return copies


def first_free(taken: Mapping[int, str]) -> int:
    """The lowest index of a slot that is not taken."""
    return next(index for index in range(len(taken) + 1) if index not in taken) if taken else 0


_MAPS = (
    "nodes", "models", "aliases", "replicas", "requests", "strays", "candidate_sets", "by_node", "by_model", "by_slot",
    "loading", "transit", "locks", "queues", "by_holder", "awaited", "committed", "staged", "disk_used", "warm",
    "leaving", "parked", "everywhere", "frozen", "idle_timers", "over_budget", "evictions", "past_uses",
    "groups", "grouped", "staged_at", "tenants", "live_of_tenant", "silent", "offline",
)  # fmt: skip


class State:
    """Everything that decisions may depend on, but for the command and ``now``.

    Entities: ``nodes``, ``models``, ``replicas``, ``requests``, ``strays``, ``tenants`` by id; ``settings``;
    ``frozen``.
    Counters: ``arrivals`` and ``reservations`` give requests and replicas their serial numbers; ``thrashings`` says
    how often a model was found in a cycle of evictions and loads.
    ``evictions``: node to the instants until which each of its latest evictions counts against its bound.
    ``turnovers`` and ``evicted_in_turnover`` age recent uses; ``past_uses``: model to what was left of them when it was
    evicted, and the turnover of that moment.
    ``mass_loss_until`` is not 0 while contact with many nodes is lost; ``mass_loss_turns`` nodes got a later end.
    Indexes (maps used as ordered sets have None as values):

    - ``candidate_sets`` by selector; ``approved`` the approved nodes' names in order
    - ``by_node``, ``by_model``: replica ids; ``by_slot``: (node, model) to index to replica id
    - ``loading``: model to the ids of its loads in progress; ``transit``: ids of replicas that an effect is pending for
    - ``leaving``: ids of replicas that are being unloaded for nobody in particular
    - ``locks``: replica id to request ids; ``queues``: model to its waiting requests in order
    - ``by_holder``: holder to request ids; ``awaited``: beneficiary to its victims that still hold memory
    - ``committed``: node to bytes in use or reserved by pool; ``disk_used``: node to bytes staged or being staged
    - ``staged``: node to (model, revision) to bytes on disk, those first whose use ended longest ago
    - ``warm``: model to its :class:`WarmSet`; ``parked``: models that are; ``everywhere``: those with one per candidate
    - ``over_budget``: nodes where more is in use or reserved in a pool than the budget allows
    - ``live_of_tenant``: how many requests of a tenant wait or run; ``tenants_due``: a heap of (due, tenant)
    - ``idle_timers``: replica to the instant of the one ``idle`` timer that it has in the heap
    - ``staged_at``: (model, revision) to the names of the nodes that hold its files, in order
    - ``groups``: anti-affinity group to node to how many of its members are there, and how many of them insist;
      ``grouped``: replica to the group that it is counted in, and whether it insists
    - ``warm_by_size``: (bytes of one replica, model) of every warm set, smallest first
    - ``stays``: every replica that has loaded, in the order in which they cease to be safe from their equals
    - ``prefixes``: which replica served which marks of prompts last (:class:`~interlock.domain.prefixes.PrefixIndex`)
    - ``silent``: approved nodes that are unreachable, as they fell silent; ``offline``: those that are
    - ``timers``: a heap whose first entry is always live
    """

    __slots__ = (
        *_MAPS, "approved", "arrivals", "evicted_in_turnover", "mass_loss_turns", "mass_loss_until", "prefixes",
        "reservations", "settings", "stays", "tenants_due", "thrashings", "timers", "turnovers", "warm_by_size",
    )  # fmt: skip

    def __init__(self) -> None:
        self.settings = Settings()
        self.arrivals = 0
        self.reservations = 0
        self.mass_loss_until = self.mass_loss_turns = 0
        self.thrashings = 0
        self.turnovers = self.evicted_in_turnover = 0
        self.nodes: dict[str, Node] = {}
        self.models: dict[str, Model] = {}
        self.aliases: dict[str, str] = {}
        self.replicas: dict[str, Replica] = {}
        self.requests: dict[str, Request] = {}
        self.strays: dict[tuple[str, str], Stray] = {}
        self.frozen: dict[str, None] = {}
        self.approved: list[str] = []
        self.candidate_sets: dict[Selector, CandidateSet] = {}
        self.by_node: dict[str, dict[str, None]] = {}
        self.by_model: dict[str, dict[str, None]] = {}
        self.by_slot: dict[tuple[str, str], dict[int, str]] = {}
        self.loading: dict[str, dict[str, None]] = {}
        self.transit: dict[str, None] = {}
        self.leaving: dict[str, None] = {}
        self.locks: dict[str, dict[str, None]] = {}
        self.queues: dict[str, list[QueueKey]] = {}
        self.by_holder: dict[str, dict[str, None]] = {}
        self.awaited: dict[str, dict[str, None]] = {}
        self.committed: dict[str, dict[int, int]] = {}
        self.staged: dict[str, dict[tuple[str, int], int]] = {}
        self.disk_used: dict[str, int] = {}
        self.warm: dict[str, WarmSet] = {}
        self.parked: dict[str, None] = {}
        self.everywhere: dict[str, None] = {}
        self.evictions: dict[str, tuple[int, ...]] = {}
        self.past_uses: dict[str, tuple[int, int]] = {}
        self.idle_timers: dict[str, int] = {}
        self.over_budget: dict[str, None] = {}
        self.groups: dict[str, dict[str, tuple[int, int]]] = {}
        self.grouped: dict[str, tuple[str, bool]] = {}
        self.staged_at: dict[tuple[str, int], list[str]] = {}
        self.tenants: dict[str, Tenant] = {}
        self.live_of_tenant: dict[str, int] = {}
        self.tenants_due: list[tuple[int, str]] = []
        self.silent: dict[str, None] = {}
        self.offline: dict[str, None] = {}
        self.timers: list[Timer] = []
        self.warm_by_size: list[tuple[int, str]] = []
        self.stays: list[StayKey] = []
        self.prefixes = PrefixIndex()

    def fork(self) -> State:
        """An independent state; entities are shared, containers copied. Spelled out: exploration lives on it."""
        copy = State.__new__(State)
        copy.settings, copy.arrivals, copy.reservations = self.settings, self.arrivals, self.reservations
        copy.mass_loss_until, copy.mass_loss_turns = self.mass_loss_until, self.mass_loss_turns
        copy.silent, copy.offline = self.silent.copy(), self.offline.copy()
        copy.thrashings, copy.evictions = self.thrashings, self.evictions.copy()
        copy.turnovers, copy.evicted_in_turnover = self.turnovers, self.evicted_in_turnover
        copy.past_uses = self.past_uses.copy()
        copy.approved, copy.timers = self.approved.copy(), self.timers.copy()
        copy.warm_by_size, copy.frozen = self.warm_by_size.copy(), self.frozen.copy()
        copy.stays = self.stays.copy()
        copy.nodes, copy.models, copy.aliases = self.nodes.copy(), self.models.copy(), self.aliases.copy()
        copy.replicas, copy.requests, copy.strays = self.replicas.copy(), self.requests.copy(), self.strays.copy()
        copy.transit, copy.parked, copy.everywhere = self.transit.copy(), self.parked.copy(), self.everywhere.copy()
        copy.leaving = self.leaving.copy()
        copy.committed, copy.disk_used = self.committed.copy(), self.disk_used.copy()
        copy.over_budget = self.over_budget.copy()
        copy.idle_timers, copy.prefixes = self.idle_timers.copy(), self.prefixes.fork()
        copy.grouped = self.grouped.copy()
        copy.tenants = self.tenants.copy()
        copy.live_of_tenant, copy.tenants_due = self.live_of_tenant.copy(), self.tenants_due.copy()
        copy.candidate_sets = {key: value.fork() for key, value in self.candidate_sets.items()}
        copy.warm = {key: value.fork() for key, value in self.warm.items()} if self.warm else {}
        copy.by_node, copy.by_model, copy.by_slot = _each(self.by_node), _each(self.by_model), _each(self.by_slot)
        copy.loading, copy.locks, copy.by_holder = _each(self.loading), _each(self.locks), _each(self.by_holder)
        copy.awaited, copy.groups, copy.staged = _each(self.awaited), _each(self.groups), _each(self.staged)
        copy.queues, copy.staged_at = _each(self.queues), _each(self.staged_at)
        return copy

    # --- questions that several rules ask -------------------------------------------------------------------------

    def candidates(self, model: Model) -> CandidateSet:
        """The model's candidate set: the one that lookup, placement, eviction and floors all use."""
        return self.candidate_sets[model.scheduling.selector]

    def lock_count(self, replica: str) -> int:
        """Requests in flight on the replica: its live locks."""
        return len(self.locks.get(replica, ()))

    def free_memory(self, node: Node) -> dict[int, int]:
        """Bytes by pool that a new load could reserve: budget less what is committed, and less what others use."""
        return {pool: size if size > 0 else 0 for pool, size in self.balance_of_memory(node).items()}

    def free_in_pools(self, node: Node) -> tuple[int, ...]:
        """The same for the pools that models are loaded into, in their order."""
        balance = self.balance_of_memory(node)
        return tuple([size if size > 0 else 0 for pool, size in balance.items() if pool != RAM])

    def balance_of_memory(self, node: Node) -> dict[int, int]:
        """What is free in each pool; below zero, what must leave before anything is free there.

        What others use counts against the pool's total first: memory outside the budget is theirs anyway.
        """
        used, limits = self.committed[node.name], node.limits
        balance = {pool: limit - used.get(pool, 0) for pool, limit in limits.items()}
        for pool, foreign in enumerate(node.foreign):
            if foreign:
                balance[pool] -= foreign_within_budget(node, pool, limits[pool])
        return balance

    def disk_free(self, node: Node) -> int | None:
        """Bytes that staging may still take, less the margin that stays free; None when unknown."""
        if node.disk is None:
            return None
        return node.disk - self.settings.disk_margin - self.disk_used.get(node.name, 0)

    def free_index(self, node: Node, model: str) -> int | None:
        """The lowest free slot of this model on the node; None when the node holds as many as it may."""
        taken = self.by_slot.get((node.name, model), {})
        return None if len(taken) >= node.max_replicas_per_model else first_free(taken)

    def takes_locks(self, replica: Replica) -> bool:
        """Whether the replica may be locked: loaded, of the serving revision, on a healthy candidate.

        One that makes way may not while others serve.
        """
        model = self.models.get(replica.model)
        return (
            model is not None
            and replica.phase is Phase.LOADED
            and replica.revision == model.serving
            and self.on_healthy_candidate(replica, model)
            and not (replica.retired and self._is_spared(replica))
        )

    def _is_spared(self, replica: Replica) -> bool:
        """Whether a copy that makes way is not needed: others serve, and nothing keeps it from leaving."""
        if "reconciler" in self.frozen:
            return False
        mine = (self.replicas[other] for other in self.by_model.get(replica.model, ()))
        return any(not other.retired and self.takes_locks(other) for other in mine)

    def on_healthy_candidate(self, replica: Replica, model: Model) -> bool:
        """Whether the replica is where requests for its model may go."""
        return replica.node in self.candidates(model).nodes and self.nodes[replica.node].takes_work

    def waiting(self, model: str) -> list[QueueKey]:
        """The model's queue, first to be served first; the request id is each entry's last item."""
        return self.queues.get(model, [])

    def find_model(self, name: str) -> Model | None:
        """The model of that name or alias."""
        return self.models.get(name) or self.models.get(self.aliases.get(name, ""))

    def one_string_each(self, node: str, model: str) -> tuple[str, str]:
        """The same two names, as the very strings that the node and the model have.

        Each event brings copies of its own. A lookup by the same string compares no letters, which in a large cluster
        lie far apart in memory: measured, that is a tenth of a warm decision at 10,000 nodes.
        """
        of_node, of_model = self.nodes.get(node), self.models.get(model)
        return of_node.name if of_node is not None else node, of_model.name if of_model is not None else model

    # --- index upkeep, for apply only -----------------------------------------------------------------------------

    def index_node(self, node: Node) -> None:
        """Bring the candidate sets and the warm sets up to date with the node."""
        self.index_budget(node)
        key = self.open_key(node) if node.takes_work else None
        labels = node.labels
        for selector, candidates in self.candidate_sets.items():
            if node.approved and matches(selector, labels):
                candidates.nodes[node.name] = None
                candidates.place(node.name, key)
            else:
                candidates.nodes.pop(node.name, None)
                candidates.place(node.name, None)
        for replica in self.by_node.get(node.name, ()):
            self.index_warm(self.replicas[replica])

    def index_contact(self, node: Node) -> None:
        """Bring ``silent`` and ``offline`` up to date with the node."""
        for index, status in ((self.silent, NodeStatus.UNREACHABLE), (self.offline, NodeStatus.OFFLINE)):
            if node.approved and node.status is status:
                index.setdefault(node.name)
            else:
                index.pop(node.name, None)

    def index_free(self, node_name: str) -> None:
        """Bring the candidate sets up to date with the node's free memory alone."""
        node = self.nodes.get(node_name)
        if node is None:
            return
        self.index_budget(node)
        if not node.takes_work:
            return
        key = self.open_key(node)
        for candidates in self.candidate_sets.values():
            if node_name in candidates.nodes:
                candidates.place(node_name, key)

    def open_key(self, node: Node) -> OpenKey:
        """The node's place among the open nodes of a candidate set."""
        sizes = [size for pool, size in self.balance_of_memory(node).items() if pool != RAM]
        return (-max(0, max(sizes, default=0)), node.name)

    def index_budget(self, node: Node) -> None:
        """Say whether more is in use or reserved there than its budget allows."""
        used = self.committed[node.name]
        if any(used.get(pool, 0) > limit for pool, limit in node.limits.items()):
            self.over_budget[node.name] = None
        else:
            self.over_budget.pop(node.name, None)

    def index_selector(self, selector: Selector) -> None:
        """Make sure that the selector has its candidate set."""
        if selector in self.candidate_sets:
            return
        candidates = self.candidate_sets[selector] = CandidateSet()
        for node in self.nodes.values():
            if node.approved and matches(selector, node.labels):
                candidates.nodes[node.name] = None
                if node.takes_work:
                    candidates.place(node.name, self.open_key(node))

    def drop_unused_selectors(self) -> None:
        """Forget the candidate sets that no model uses any more."""
        used = {model.scheduling.selector for model in self.models.values()}
        for selector in [known for known in self.candidate_sets if known not in used]:
            del self.candidate_sets[selector]

    def index_warm(self, replica: Replica) -> None:
        """Put the replica into its model's warm set, or take it out, as the rule says."""
        self._place_warm(replica)
        self.index_making_way(replica.model)

    def unindex_warm(self, replica: Replica) -> None:
        """Take the replica, of which nothing is left, out of its model's warm set, and out of ``stays``."""
        self._drop_warm(replica)
        self.index_making_way(replica.model)
        self.unindex_stay(replica)

    def index_making_way(self, name: str) -> None:
        """Bring the model's copies that make way up to date with whether others serve."""
        model = self.models.get(name)
        if model is None or not model.made_way:
            return
        for replica in self.by_model.get(name, ()):
            if self.replicas[replica].retired:
                self._place_warm(self.replicas[replica])

    def _place_warm(self, replica: Replica) -> None:
        if self.takes_locks(replica):
            warm = self.warm.get(replica.model)
            if warm is None:
                size = self.models[replica.model].serving_spec.vram
                warm = self.warm[replica.model] = WarmSet(size)
                insort(self.warm_by_size, (size, replica.model))
            if replica.id not in warm.where:
                warm.twins += self._has_twin(replica, warm)
            warm.put(replica, self.lock_count(replica.id))
        else:
            self._drop_warm(replica)

    def _drop_warm(self, replica: Replica) -> None:
        warm = self.warm.get(replica.model)
        if warm is not None:
            if replica.id in warm.where:
                warm.twins -= self._has_twin(replica, warm)
            warm.remove(replica.id)
            if not warm.where:
                del self.warm[replica.model]
                del self.warm_by_size[bisect_left(self.warm_by_size, (warm.size, replica.model))]

    def _has_twin(self, replica: Replica, warm: WarmSet) -> bool:
        """Whether its node has another of its model's replicas in the warm set."""
        here = self.by_slot.get((replica.node, replica.model))
        return here is not None and any(other != replica.id and other in warm.where for other in here.values())

    def stage(self, node: str, model: str, revision: int, size: int) -> None:
        """The files of this revision are on the node's disk from now on."""
        staged = self.staged.setdefault(node, {})
        if (model, revision) not in staged:
            insort(self.staged_at.setdefault((model, revision), []), node)
        staged.pop((model, revision), None)
        staged[model, revision] = size

    def other_revisions_staged(self, node: str, model: str, revision: int) -> list[int]:
        """Of which other revisions the model's files are on the node's disk."""
        return [other for name, other in self.staged.get(node, {}) if name == model and other != revision]

    def unused_from_now(self, node: str, model: str, revision: int) -> None:
        """A replica of these files is gone: among the files on the disk, they were used last."""
        size = self.staged.get(node, {}).get((model, revision))
        if size is not None:
            self.stage(node, model, revision, size)

    def drop_staged(self, node: str, model: str, revision: int) -> None:
        """These files go from the node's disk."""
        staged = self.staged[node]
        del staged[model, revision]
        if not staged:
            del self.staged[node]
        nodes = self.staged_at[model, revision]
        nodes.remove(node)
        if not nodes:
            del self.staged_at[model, revision]

    def forget_staged(self, node: str) -> None:
        """The node is gone, and what is on its disk with it."""
        for key in self.staged.pop(node, ()):
            nodes = self.staged_at[key]
            nodes.remove(node)
            if not nodes:
                del self.staged_at[key]

    def index_group(self, replica: Replica, *, gone: bool = False) -> None:
        """Count the replica in the anti-affinity group that its model names now; ``gone``: in none.

        It counts until nothing is left of it, like its memory.
        """
        model = None if gone else self.models.get(replica.model)
        scheduling = model.scheduling if model is not None else None
        now = (scheduling.anti_affinity, scheduling.anti_affinity_hard) if scheduling else ("", False)
        old = self.grouped.get(replica.id, ("", False))
        if now == old:
            return
        if old[0]:
            self._count_member(*old, replica.node, -1)
            del self.grouped[replica.id]
        if now[0]:
            self._count_member(*now, replica.node, +1)
            self.grouped[replica.id] = now

    def _count_member(self, group: str, hard: bool, node: str, sign: int) -> None:
        nodes = self.groups.setdefault(group, {})
        members, insisting = nodes.get(node, (0, 0))
        members, insisting = members + sign, insisting + sign * hard
        if members:
            nodes[node] = (members, insisting)
            return
        del nodes[node]
        if not nodes:
            del self.groups[group]

    def index_phase(self, replica: Replica) -> None:
        """Bring ``loading``, ``transit``, ``leaving`` and ``stays`` up to date with the replica's phase."""
        loads = self.loading.get(replica.model)
        if replica.phase in LOADING_PHASES:
            self.loading.setdefault(replica.model, {})[replica.id] = None
        elif loads is not None and loads.pop(replica.id, 0) is None and not loads:
            del self.loading[replica.model]
        if replica.phase in (Phase.LOADED, Phase.RESERVED):
            self.transit.pop(replica.id, None)
        else:
            self.transit[replica.id] = None
            if replica.phase is Phase.UNLOADING and not replica.beneficiary:
                self.leaving[replica.id] = None
        if replica.evictable_at:
            self.index_stay(replica)

    def index_stay(self, replica: Replica) -> None:
        """Put the replica where its stay ends among the others, if it is not there; it keeps its place to its end."""
        key = (replica.evictable_at, replica.serial, replica.id)
        place = bisect_left(self.stays, key)
        if self.stays[place : place + 1] != [key]:
            self.stays.insert(place, key)

    def unindex_stay(self, replica: Replica) -> None:
        """Take the replica out of ``stays``, if it is there."""
        key = (replica.evictable_at, replica.serial, replica.id)
        place = bisect_left(self.stays, key)
        if self.stays[place : place + 1] == [key]:
            del self.stays[place]

    def commit(self, node: str, claim: Claim, sign: int) -> None:
        """Count a claim in or out of the node's pools."""
        if node not in self.committed or not claim:
            return
        figures = self.committed[node].copy()
        for pool, size in claim:
            figures[pool] = figures.get(pool, 0) + sign * size
            if not figures[pool]:
                del figures[pool]
        self.committed[node] = figures

    def set_timer(self, instant: int, kind: str, owner: str) -> None:
        """Remember an instant at which something must be looked at."""
        heappush(self.timers, (instant, kind, owner))
