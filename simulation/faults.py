"""Faults: beginning and ending each kind, at its moment or at random, and counting which of them changed anything.

A fault has *fired* when its moment came; it is *effective* each time that something went otherwise because of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from interlock.domain.units import FOREVER, HOUR

from . import world
from .clock import START, Clock, Streams, draw
from .cluster import Trouble, VirtualCluster, VirtualNode
from .gateways import GATEWAYS, Gateways
from .reading.scenario import (
    CLIENT_FAULTS,
    FAULT_KINDS,
    INSTANT_FAULTS,
    NODE_FAULTS,
    REPLICA_FAULTS,
    FaultSpec,
    RandomFaults,
)
from .writer import STAGES, Writer

End = Callable[[], object]


class Faults:
    """All that goes wrong in a run. ``history`` rows are (start, end, kind, target), in microseconds from the start."""

    def __init__(
        self, clock: Clock, streams: Streams, writer: Writer, cluster: VirtualCluster, gateways: Gateways
    ) -> None:
        self.clock = clock
        self.streams = streams
        self.writer = writer
        self.cluster = cluster
        self.gateways = gateways
        self.fired: Counter[str] = Counter()
        self.effective: Counter[str] = Counter()
        self.history: list[tuple[int, int, str, str]] = []
        self.agreed: list[FaultSpec] = []
        self.last_end = 0
        """When the last fault that ends will have ended, in microseconds from the start."""
        self._ends: dict[int, End] = {}
        self._errors: set[int] = set()
        """By their numbers, the faults for which commits fail."""
        self._endless: set[int] = set()
        """The store's faults that are at work and have no end."""
        self._numbers = 0

    def agree(self, spec: FaultSpec) -> None:
        """Have the fault begin at its moment."""
        self.agreed.append(spec)
        self.clock.at(START + spec.at, self.begin, spec)

    def agree_random(self, spec: RandomFaults, duration: int) -> None:
        """Draw the moments, targets and lengths of random faults, and have all healed at ``stop_at``."""
        stop = min(spec.stop_at, duration)
        names = list(self.cluster.nodes)
        for kind, rate in sorted(spec.rates.items()):
            needs_node = kind in NODE_FAULTS or kind in REPLICA_FAULTS
            if needs_node and not names:
                continue
            chance = self.streams[f"faults/{kind}"]
            at = 0
            while rate > 0:
                at += round(chance.expovariate(rate / HOUR))
                if at >= stop:
                    break
                target = chance.choice(names) if needs_node else ""
                length = 0 if kind in INSTANT_FAULTS else draw(spec.length, chance)
                self.agree(FaultSpec(kind=kind, at=at, target=target, length=max(1, min(length, stop - at))))
        self.clock.at(START + stop, self.heal_all)

    def begin(self, spec: FaultSpec) -> None:
        """The fault's moment has come."""
        self.fired[spec.kind] += 1
        self._numbers += 1
        number = self._numbers
        end = self._start(number, spec)
        now = self.clock.elapsed
        until = now if end is None else _until(now, spec)
        self.history.append((now, until, spec.kind, spec.target or spec.model))
        if until < FOREVER:
            self.last_end = max(self.last_end, until)
        if end is not None:
            self._ends[number] = end
            self.clock.after(spec.length, self._end, number)

    def _end(self, number: int) -> None:
        end = self._ends.pop(number, None)
        if end is not None:
            end()

    def _is_over(self, held: dict[int, int]) -> None:
        """Whatever else was to keep the node so for longer is over: somebody has set it right."""
        now = self.clock.elapsed
        for number in held:
            start, _, kind, target = self.history[number - 1]
            self.history[number - 1] = (start, now, kind, target)
            del self._ends[number]
        if held:
            held.clear()
            self.last_end = max(end for _, end, _, _ in self.history if end < FOREVER)

    def heal_all(self) -> None:
        """End every fault that is still at work, and bring up every node that is down for one."""
        now = self.clock.elapsed
        self.history = [(start, min(end, now), kind, target) for start, end, kind, target in self.history]
        for number in list(self._ends):
            self._end(number)
        self.last_end = now

    @property
    def at_work(self) -> bool:
        """Whether a fault that has a length has not ended."""
        return bool(self._ends)

    @property
    def store_is_lost(self) -> bool:
        """Whether nothing will ever be durable again, whoever leads."""
        return any(number in self._errors or self.writer.nobody_leads_in(number) for number in self._endless)

    def took_effect(self, kind: str, times: int = 1) -> None:
        """Something went otherwise because of a fault of this kind."""
        self.effective[kind] += times

    def counts(self) -> dict[str, dict[str, int]]:
        """Of each kind that has fired, how often it did so, and how often it took effect."""
        return {
            kind: {"fired": self.fired[kind], "effective": self.effective[kind]}
            for kind in FAULT_KINDS
            if self.fired[kind]
        }

    # --- each kind --------------------------------------------------------------------------------------------------

    def _start(self, number: int, spec: FaultSpec) -> End | None:
        kind = spec.kind
        if kind in ("writer-crash", "store-stall", "store-error"):
            return self._strike_writer(number, spec)
        if kind == "holder-crash":
            gateway = self.streams["holder-crash"].randrange(GATEWAYS)
            self.took_effect(kind, min(1, self.gateways.crash(gateway)))
            return None
        if kind == "process-kill":
            self._kill(spec)
            return None
        if kind in CLIENT_FAULTS:
            return self.gateways.lose_clients(spec.model, spec.p, spec.delay)
        if kind in REPLICA_FAULTS:
            nodes = [self.cluster.nodes[spec.target]] if spec.target else list(self.cluster.nodes.values())
            ends = [self._trouble(number, spec, node) for node in nodes]
            return lambda: [end() for end in ends]
        return self._strike_node(number, spec, self.cluster.nodes[spec.target])

    def _strike_node(self, number: int, spec: FaultSpec, node: VirtualNode) -> End | None:
        cluster, kind, trouble = self.cluster, spec.kind, node.trouble
        if kind == "node-crash":
            return self._hold(number, spec, trouble.down, lambda: cluster.crash(node), lambda: cluster.come_back(node))
        if kind == "worker-leaves":
            return self._hold(number, spec, trouble.down, lambda: cluster.leave(node), lambda: cluster.come_back(node))
        if kind == "partition":
            return self._hold(
                number, spec, trouble.cut, lambda: cluster.cut(node, off=True), lambda: cluster.cut(node, off=False)
            )
        if kind == "node-recover":
            self._is_over(trouble.down)
            self.took_effect(kind, int(cluster.start(node)))
            return None
        if kind == "heal":
            self._is_over(trouble.cut)
            self.took_effect(kind, int(cluster.cut(node, off=False)))
            return None
        if kind == "machine-swap":
            if cluster.swap_machine(node, number):
                self._is_over(trouble.down)  # what was wrong with the old machine is not with this one
                self._is_over(trouble.cut)
                self.took_effect(kind)
            return None
        if kind == "name-clash":
            end = self._trouble(number, spec, node)
            cluster.clash(node, number, lambda: number in node.trouble.clashes)
            return end
        if kind == "memory-pressure":
            return self._squeeze(number, spec, node)
        return self._trouble(number, spec, node)

    def _hold(
        self, number: int, spec: FaultSpec, held: dict[int, int], strike: Callable[[], bool], release: End
    ) -> End | None:
        """Begin an outage, or let one that is at work last until this fault is over, too.

        None when the node cannot be struck: it is down, and no fault is why.
        """
        until = _until(self.clock.elapsed, spec)
        if not held and not strike():
            return None
        if until > max(held.values(), default=-1):
            self.took_effect(spec.kind)
        held[number] = until

        def end() -> None:
            del held[number]
            if not held:
                release()

        return end

    def _squeeze(self, number: int, spec: FaultSpec, node: VirtualNode) -> End:
        """Somebody else's process takes memory there; what it takes is told with the heartbeats."""
        node.worker = world.squeeze(node.worker, number, spec.pool, spec.size)
        end = self._trouble(number, spec, node)

        def leave() -> None:
            node.worker = world.relax(node.worker, number)
            end()

        return leave

    def _trouble(self, number: int, spec: FaultSpec, node: VirtualNode) -> End:
        """Put the fault on the node's list, and have it watched where its contact may suffer."""
        trouble = node.trouble
        entries = _entries(trouble, spec)
        for table, value in entries:
            table[number] = value
        trouble.active += 1
        if spec.kind == "clock-jump":
            node.clock_jumped(self.clock.now)
        if spec.kind in NODE_FAULTS:
            node.in_doubt = True
            self.cluster.watch(node)

        def end() -> None:
            trouble.active -= 1
            for table, _ in entries:
                table.pop(number, None)
            if spec.kind == "clock-jump":
                node.clock_jumped(self.clock.now)

        return end

    def _kill(self, spec: FaultSpec) -> None:
        """Kill one replica's process: of the model, on the node, whichever is named; chosen by the seed."""
        nodes = [self.cluster.nodes[spec.target]] if spec.target else list(self.cluster.nodes.values())
        found = [
            (node, process.replica)
            for node in nodes
            for process in node.worker.processes
            if not spec.model or process.model == spec.model
        ]
        if not found:
            return
        node, replica = self.streams["process-kill"].choice(found)
        self.took_effect(spec.kind, int(self.cluster.kill(node, replica)))

    def _strike_writer(self, number: int, spec: FaultSpec) -> End | None:
        writer, kind = self.writer, spec.kind
        chance = self.streams[kind]
        if kind == "writer-crash":
            writer.die_at(chance.choice(STAGES))
            return None
        if spec.length >= FOREVER:
            self._endless.add(number)
        if kind == "store-stall":
            writer.stall(cut_off=chance.random() < 0.5, number=number)
        else:
            self._errors.add(number)
            writer.failing = True

        def end() -> None:
            self._endless.discard(number)
            if kind == "store-stall":
                writer.resume(number)
                return
            self._errors.discard(number)
            writer.failing = bool(self._errors)

        return end


def _until(now: int, spec: FaultSpec) -> int:
    """When a fault that begins now ends."""
    return min(now + spec.length, FOREVER)


def _entries(trouble: Trouble, spec: FaultSpec) -> list[tuple[dict[int, object], object]]:
    """Which of the node's tables the fault enters, and what."""
    entries: dict[str, tuple[object, object]] = {
        "drop-messages": (trouble.drop, spec.p),
        "duplicate-messages": (trouble.duplicate, spec.p),
        "delay-messages": (trouble.delay, (spec.p, spec.delay)),
        "backend-dies": (trouble.dies, (spec.model, spec.delay)),
        "load-fails": (trouble.fails, spec.model),
        "load-hangs": (trouble.hangs, spec.model),
        "slow-load": (trouble.slow, (spec.model, spec.factor)),
        "probe-timeout": (trouble.probes, None),
        "clock-jump": (trouble.clock_off, spec.by),
        "name-clash": (trouble.clashes, None),
        "memory-pressure": (trouble.pressed, None),
    }
    table, value = entries[spec.kind]
    assert isinstance(table, dict)
    return [(table, value)]
