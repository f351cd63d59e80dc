"""A small cluster in memory for tests of the core: an engine, its log, and workers that answer when told to."""

from __future__ import annotations

from collections import Counter

from interlock.domain import commands as cmd
from interlock.domain.answers import done
from interlock.domain.effects import Effect
from interlock.domain.engine import Engine, Outcome
from interlock.domain.entities import LoadSpec, Phase, RequestStatus, Scheduling, TenantLimits
from interlock.domain.events import Event
from interlock.domain.recording import Recorded
from interlock.domain.selector import parse_selector
from interlock.domain.snapshots import encode_cluster, restore, take_snapshot
from interlock.domain.state import State
from interlock.domain.units import FOREVER, GIB, SECOND

ON_THEIR_WAY = (Phase.RESERVED, Phase.INSTALLING, Phase.STAGING)


class Cluster:
    """Sends commands, keeps the log and the effects not yet answered, and moves a clock by hand."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.now = 1_000_000 * SECOND
        self.log: list[Recorded] = []
        self.events: list[Event] = []
        self.effects: list[Effect] = []
        self.answers: dict[str, object] = {}
        self.versions: dict[str, int] = {}
        self.sent = 0

    @property
    def state(self):
        return self.engine.state

    def send(self, command: cmd.Command, command_id: str = "") -> Outcome:
        self.sent += 1
        envelope = cmd.Envelope(command_id=command_id or f"c{self.sent}", command=command)
        return self._keep(self.engine.handle(envelope, self.now))

    def _keep(self, outcome: Outcome) -> Outcome:
        for row in outcome.recorded:  # as every store demands it
            assert row.version == self.versions.get(row.stream, 0) + 1, f"{row.stream} has had version {row.version}"
            self.versions[row.stream] = row.version
        self.log += outcome.recorded
        self.events += outcome.events
        self.effects += outcome.effects
        self.answers |= outcome.answers
        return outcome

    def wait(self, seconds: float) -> None:
        """Let time pass, ticking at every instant that is due."""
        end = self.now + int(seconds * SECOND)
        while (due := self.engine.next_wakeup()) is not None and due <= end:
            self.now = max(self.now, due)
            before = len(self.log)
            self._keep(self.engine.tick(self.now))
            assert len(self.log) > before, f"the timer {self.state.timers[:1]} made no event"
        self.now = end

    # --- setting up ---------------------------------------------------------------------------------------------

    def node(self, name: str, vram: int = 24, **facts: object) -> None:
        slots = facts.pop("slots", 1)
        labels = facts.pop("labels", {})
        self.send(
            cmd.RegisterNode(
                node=name, pools=facts.pop("pools", (vram * GIB,)), labels=labels, max_replicas_per_model=slots,
                approve=True, boot=facts.pop("boot", "boot-1"), **facts,
            )
        )  # fmt: skip

    def model(
        self,
        name: str,
        vram: int = 9,
        backend: str = "echo",
        disk: int = 0,
        pools: int = 1,
        ram: int = 0,
        **scheduling: object,
    ) -> Outcome:
        selector = parse_selector(scheduling.pop("selector", {}))
        spec = LoadSpec(backend=backend, vram=vram * GIB, ram=ram * GIB, disk=disk * GIB, pools=pools)
        return self.send(
            cmd.DeclareModel(model=name, spec=spec, scheduling=Scheduling(selector=selector, **scheduling))
        )

    def loaded(self, name: str) -> str:
        """Load one replica of the model by hand; returns its id."""
        self.send(cmd.RequestLoad(model=name))
        self.settle()
        return max(self.state.by_model[name], key=lambda replica: self.state.replicas[replica].serial)

    # --- clients and workers ------------------------------------------------------------------------------------

    def request(self, request: str, model: str, holder: str = "gateway", **more: object) -> object:
        return self.send(cmd.AcquireLock(request=request, model=model, holder=holder, **more)).reply

    def release(self, request: str) -> Outcome:
        return self.send(cmd.ReleaseLock(request=request))

    def answer(self, effect: Effect) -> Outcome:
        """The worker does what it was asked."""
        if effect in self.effects:
            self.effects.remove(effect)
        return self.send(done(effect, f"{effect.node}:1"))

    def fail(self, effect: Effect, reason: str = "out of memory") -> Outcome:
        self.effects.remove(effect)
        return self.send(cmd.ReportLoadFailed(replica=effect.replica, op=effect.op, reason=reason))

    def settle(self) -> None:
        """Workers do all that they were asked, until nothing is asked any more."""
        for _ in range(1000):
            if not self.effects:
                return
            self.answer(self.effects[0])
        raise AssertionError("the workers are asked for ever")

    # --- asking -------------------------------------------------------------------------------------------------

    def names(self, *, of: type[Event] | None = None) -> list[str]:
        return [type(event).__name__ for event in self.events if of is None or isinstance(event, of)]

    def count(self, name: str) -> int:
        return self.names().count(name)

    def forget(self) -> None:
        """Start counting events anew."""
        self.events.clear()


def check_invariants(cluster: Cluster) -> None:
    """The invariants of the design, in full, from the entities alone."""
    state = cluster.state
    _check_requests(state)
    _check_tenants(state)
    _check_slots_and_memory(state)
    _check_disks(state)
    _check_who_leaves(state)
    _check_warm_sets(state)
    _check_stays(state)
    _check_groups(state)


def _check_requests(state: State) -> None:
    locked: dict[str, int] = {}
    for request in state.requests.values():
        if request.status is RequestStatus.LOCKED:
            replica = state.replicas[request.replica]
            assert replica.phase is Phase.LOADED, f"{request.id} holds a lock on {replica}"
            locked[request.replica] = locked.get(request.replica, 0) + 1
    assert {name: len(held) for name, held in state.locks.items()} == locked, "in flight is not the live locks"
    for model, queue in state.queues.items():
        assert queue == sorted(queue) != [], f"the queue of {model} is out of order"
        m = state.models[model]
        warm = state.warm.get(model)
        room = warm and (not m.scheduling.parallel or warm.order[0][0] < m.scheduling.parallel)
        assert not room, f"{model} has requests waiting and a warm replica with room"


def _check_tenants(state: State) -> None:
    live: dict[str, int] = {}
    for request in state.requests.values():
        if request.tenant:
            live[request.tenant] = live.get(request.tenant, 0) + 1
    assert state.live_of_tenant == live, "what is counted of a tenant is not what it has"
    for tenant in state.tenants.values():
        assert tenant.due or tenant.limits != TenantLimits(), f"{tenant.name} is kept for nothing"
        assert not tenant.due or (tenant.due, tenant.name) in state.tenants_due, f"{tenant.name} is never forgotten"


def _check_slots_and_memory(state: State) -> None:
    slots = [(r.node, r.model, r.index) for r in state.replicas.values()]
    assert len(slots) == len(set(slots)), "two replicas in one slot"
    for node in state.nodes.values():
        used: Counter[int] = Counter()
        for replica in state.replicas.values():
            if replica.node == node.name:
                assert replica.owed == sum(size for _, size in replica.owed_in), f"{replica.id} owes otherwise per pool"
                used.update(dict(replica.claim))
                used.subtract(dict(replica.owed_in))
        assert +used == Counter(state.committed[node.name]), f"{node.name}: {used} is not {state.committed[node.name]}"
    above = [
        node.name for node in state.nodes.values()
        if any(used > node.limits.get(pool, FOREVER) for pool, used in state.committed[node.name].items())
    ]  # fmt: skip
    assert sorted(state.over_budget) == sorted(above), "nodes above their budget"


def _check_disks(state: State) -> None:
    for node in state.nodes.values():
        there = [
            (r.disk, 0 if r.phase is Phase.STAGING else sum(size for _, _, size in r.drops))
            for r in state.replicas.values() if r.node == node.name and r.phase in ON_THEIR_WAY
        ]  # fmt: skip
        coming = [max(sizes) for sizes in there]
        files = sum(state.staged.get(node.name, {}).values()) + sum(coming)
        assert state.disk_used.get(node.name, 0) == files, f"{node.name}: {files} bytes are staged or reserved"


def _check_who_leaves(state: State) -> None:
    leaving = [r.id for r in state.replicas.values() if r.phase is Phase.UNLOADING and not r.beneficiary]
    assert sorted(state.leaving) == sorted(leaving), "replicas that leave for nobody in particular"
    for beneficiary, victims in state.awaited.items():
        assert victims, f"{beneficiary} waits for nobody and is still held back"
        assert all(state.replicas[victim].beneficiary == beneficiary for victim in victims)


def _check_warm_sets(state: State) -> None:
    for name, warm in state.warm.items():
        for replica_id, (locks, *_) in warm.where.items():
            assert state.takes_locks(state.replicas[replica_id])
            assert locks == state.lock_count(replica_id), f"{name}: {replica_id} is in the wrong place"
        assert warm.order == sorted(warm.where.values())
        assert warm.twins == len(warm.order) - len({node for *_, node in warm.order})
    for replica in state.replicas.values():
        inside = replica.model in state.warm and replica.id in state.warm[replica.model].where
        assert inside == state.takes_locks(replica)
    for replica_id in state.prefixes.held:
        replica = state.replicas[replica_id]
        assert replica.phase is Phase.LOADED, f"{replica_id} is {replica.phase.value} and holds prefixes"


def _check_stays(state: State) -> None:
    stays = [(r.evictable_at, r.serial, r.id) for r in state.replicas.values() if r.evictable_at]
    assert state.stays == sorted(stays), "until when replicas are safe from their equals"


def _check_groups(state: State) -> None:
    members: dict[str, dict[str, tuple[int, int]]] = {}
    for replica in state.replicas.values():
        scheduling = state.models[replica.model].scheduling if replica.model in state.models else Scheduling()
        if scheduling.anti_affinity:
            nodes = members.setdefault(scheduling.anti_affinity, {})
            count, insisting = nodes.get(replica.node, (0, 0))
            nodes[replica.node] = (count + 1, insisting + scheduling.anti_affinity_hard)
    assert state.groups == members


def check_replay(cluster: Cluster) -> None:
    """Replaying the log, and restoring a snapshot, give the live state byte for byte."""
    live = encode_cluster(cluster.state)
    assert encode_cluster(Engine().replay(cluster.log).state) == live
    restored = restore(take_snapshot(cluster.engine))
    assert encode_cluster(restored.state) == live
    assert restored.state.timers[:1] == cluster.state.timers[:1]
    for name in (
        "committed",
        "disk_used",
        "queues",
        "locks",
        "approved",
        "by_slot",
        "warm_by_size",
        "stays",
        "transit",
        "leaving",
        "groups",
        "evictions",
        "grouped",
        "staged_at",
        "live_of_tenant",
    ):
        mine, theirs = getattr(cluster.state, name), getattr(restored.state, name)
        unordered = name in ("transit", "leaving")
        assert (sorted(mine) if unordered else mine) == (sorted(theirs) if unordered else theirs), name
    assert list(restored.state.silent) == list(cluster.state.silent)
    assert restored.state.prefixes.held == cluster.state.prefixes.held
    assert list(restored.state.prefixes.held) == list(cluster.state.prefixes.held)
    assert restored.state.prefixes.holders == cluster.state.prefixes.holders
    assert restored.state.prefixes.count == cluster.state.prefixes.count
    for name, warm in cluster.state.warm.items():
        assert restored.state.warm[name].order == warm.order
        assert restored.state.warm[name].twins == warm.twins
    for selector, candidates in cluster.state.candidate_sets.items():
        assert restored.state.candidate_sets[selector].open == candidates.open
