"""Virtual nodes: the workers of :mod:`interlock.simulation.world` in virtual time, and their links to the writer.

A node that nothing is wrong with costs no event: it is taken to be heard. Heartbeats, the question what it runs, and
registrations that are tried again begin with a fault and end when the node is well known again.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Protocol

from msgspec.structs import replace

from interlock.domain.claims import in_pools
from interlock.domain.clocks import CLOCK_TOLERANCE
from interlock.domain.commands import AnyReply as Reply
from interlock.domain.commands import (
    Command,
    Done,
    Envelope,
    Rejected,
    ReportCapacity,
    ReportLoaded,
    ReportSilence,
    ReportStaged,
)
from interlock.domain.contact import ANSWER_PATIENCE
from interlock.domain.effects import Effect, InstallBackend, LoadModel, StageModel, UnloadModel
from interlock.domain.entities import LOADING_PHASES, NodeStatus, Phase
from interlock.domain.loads import UNLOAD_TRIES, pending_effects
from interlock.domain.nodes import QUANTUM
from interlock.domain.units import FOREVER, SECOND

from . import world
from .clock import Clock, Streams, draw
from .judging.order_rules import CarriedOut
from .reading.fields import Distribution
from .reading.scenario import NodeSpec
from .world import NodeFacts, Worker
from .writer import Writer

PROGRESS_PER_SILENCE = 3
"""A load in progress reports so often within one silent window."""


class Trouble:
    """What faults do to one node now, each by the fault's number; the model "" is any model."""

    __slots__ = (
        "active",
        "clashes",
        "clock_off",
        "cut",
        "delay",
        "dies",
        "down",
        "drop",
        "duplicate",
        "fails",
        "hangs",
        "pressed",
        "probes",
        "slow",
    )

    def __init__(self) -> None:
        self.active = 0
        self.drop: dict[int, float] = {}
        self.duplicate: dict[int, float] = {}
        self.delay: dict[int, tuple[float, Distribution]] = {}
        self.dies: dict[int, tuple[str, Distribution]] = {}
        self.fails: dict[int, str] = {}
        self.hangs: dict[int, str] = {}
        self.slow: dict[int, tuple[str, float]] = {}
        self.probes: dict[int, None] = {}
        self.clock_off: dict[int, int] = {}
        self.clashes: dict[int, None] = {}
        self.pressed: dict[int, None] = {}
        self.down: dict[int, int] = {}
        """What keeps the machine down, and until when; it comes up when the last of them ends."""
        self.cut: dict[int, int] = {}
        """What keeps it cut off, and until when."""

    @property
    def strains_the_link(self) -> bool:
        """Whether messages get lost, or are late."""
        return bool(self.drop or self.delay)


class VirtualNode:
    """One node's worker, what is wrong with it, and what the control plane has heard of it."""

    __slots__ = (
        "_clock", "copies", "in_doubt", "last_heard", "registered", "removed", "sent", "spec", "term", "trouble",
        "watched", "worker",
    )  # fmt: skip

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.worker = Worker(facts_of(spec), up=spec.up)
        self.trouble = Trouble()
        self.registered = spec.up
        self.removed = False
        self.in_doubt = False
        """The control plane does not know for certain what the node runs."""
        self.watched = False
        self.term = 0
        self.last_heard = 0
        self.sent: dict[str, int] = {}
        """When the order of each operation was last sent."""
        self.copies: dict[str, tuple[world.Files, int]] = {}
        """By operation the files that are on their way to its disk, and since when."""
        self._clock = [(0, 0)]
        """From when on its clock was off by how much, in order; both in microseconds."""

    @property
    def clock_off(self) -> int:
        """By how much its clock is off, all jumps together."""
        return self._clock[-1][1]

    def clock_jumped(self, now: int) -> None:
        """Its clock has been set, by a fault or by whoever mends it."""
        self._clock.append((now, sum(self.trouble.clock_off.values())))

    def clock_off_at(self, instant: int) -> tuple[int, ...]:
        """By how much its clock was off then; more than one figure where it was set in that very instant."""
        ends = [*(start for start, _ in self._clock[1:]), FOREVER]
        return tuple(off for (start, off), end in zip(self._clock, ends, strict=True) if start <= instant <= end)

    @property
    def can_be_relied_on(self) -> bool:
        """Whether what passes between it and the control plane arrives, and arrives in time."""
        return self.worker.hears and not self.trouble.strains_the_link


def facts_of(spec: NodeSpec) -> NodeFacts:
    """What the node's worker says of its machine."""
    return NodeFacts(
        name=spec.name,
        labels=tuple(sorted(spec.labels.items())),
        pools=spec.pools,
        budget=spec.budget,
        ram=spec.ram,
        unified=spec.unified,
        disk=spec.disk,
        max_replicas_per_model=spec.max_replicas_per_model,
    )


class OnFault(Protocol):
    """Who counts what faults have done."""

    def fault_took_effect(self, kind: str) -> None:
        """A fault of this kind has changed something."""


class VirtualCluster:
    """All virtual nodes, by name."""

    def __init__(self, clock: Clock, streams: Streams, writer: Writer, watcher: OnFault) -> None:
        self.clock = clock
        self.streams = streams
        self.writer = writer
        self.watcher = watcher
        self.nodes: dict[str, VirtualNode] = {}
        self.carried_out: list[CarriedOut] = []
        """Every order that a machine has begun to carry out."""
        self._messages = count(1)
        self._unsure: dict[str, list[Callable[[], None]]] = {}
        """Who waits to hear whether a node is there, at whom a call has failed."""

    def add(self, spec: NodeSpec) -> VirtualNode:
        """A node of the scenario."""
        node = self.nodes[spec.name] = VirtualNode(spec)
        return node

    # --- links ------------------------------------------------------------------------------------------------------

    def pass_on(self, node: VirtualNode, deliver: Callable[[], None], *, last: bool = False) -> None:
        """Let a message pass between the node and the control plane, either way, as its link is now.

        The ``last`` one arrives though the worker that has sent it is gone.
        """
        if node.worker.cut or not node.worker.up:
            return
        trouble, delay, copies = node.trouble, 0, 1
        if trouble.active:
            chance = self.streams[f"link/{node.spec.name}"]
            if any(chance.random() < p for p in trouble.drop.values()):
                self.watcher.fault_took_effect("drop-messages")
                return
            for p, length in trouble.delay.values():
                if chance.random() < p:
                    self.watcher.fault_took_effect("delay-messages")
                    delay += draw(length, chance)
            if any(chance.random() < p for p in trouble.duplicate.values()):
                self.watcher.fault_took_effect("duplicate-messages")
                copies = 2

        def arrive() -> None:
            if not node.worker.cut and (last or node.worker.up):
                deliver()

        for copy in range(copies):
            self.clock.after(delay + copy, arrive)

    def report(
        self, node: VirtualNode, command: Command, then: Callable[[Reply], None] | None = None, *, last: bool = False
    ) -> None:
        """Let the node's worker say something to the writer; what a duplicate says, it says once."""
        envelope = Envelope(
            command_id=f"{node.spec.name}-{next(self._messages)}", command=command, actor=f"worker:{node.spec.name}"
        )

        def deliver() -> None:
            if self._is_known(node):
                self.heard(node)
            if then is None:
                self.writer.submit(envelope)
            else:
                # The sender tries again by itself, with a message of its own, so a dead writer just loses it.
                self.writer.submit(envelope, then if self.writer.leading else None)

        self.pass_on(node, deliver, last=last)

    def _is_known(self, node: VirtualNode) -> bool:
        """Whether its words are the node's: another machine that wants the name is no sign of life of the first."""
        known = self.writer.engine.state.nodes.get(node.spec.name)
        return known is None or known.boot == world.boot_of(node.worker)

    # --- effects ----------------------------------------------------------------------------------------------------

    def send(self, effect: Effect, epoch: int) -> None:
        """Send an effect to its node's worker."""
        node = self.nodes.get(effect.node)
        if node is not None and not node.removed:
            node.sent[effect.op] = self.clock.now
            self.pass_on(node, lambda: self._take(node, effect, epoch))

    def _take(self, node: VirtualNode, effect: Effect, epoch: int) -> None:
        begun = world.begin(node.worker, effect, epoch)
        node.worker = begun.worker
        for answer in begun.answers:
            self.report(node, answer)
        if not begun.works:
            return
        self.carried_out.append(CarriedOut(effect.op, effect.name, effect.node, world.boot_of(node.worker)))
        boot = node.worker.boot
        if isinstance(effect, LoadModel):
            if self._strikes(effect.model, node.trouble.fails, "load-fails"):
                failed = "the backend said: CUDA error: an illegal memory access was encountered"
                self.clock.after(0, self._finish, node, effect, boot, failed)
                return
            if self._strikes(effect.model, node.trouble.hangs, "load-hangs"):
                return
        length, already = self._length(node, effect), 0
        if isinstance(effect, StageModel):
            already = self._join_copy(node, effect)
            length -= already
        silence = self.writer.engine.state.settings.load_silence
        step = max(SECOND, silence // PROGRESS_PER_SILENCE)
        if length > step and node.spec.progress and isinstance(effect, StageModel | LoadModel):
            self.clock.after(step, self._progress, node, effect, boot, already + step, already + length)
        self.clock.after(length, self._finish, node, effect, boot, "", 0 if already else length)

    def _join_copy(self, node: VirtualNode, effect: StageModel) -> int:
        """Files come once, for all orders that want them: for how long they have been on their way already."""
        files, jobs = world.files_of(effect), node.worker.jobs - {effect.op}
        node.copies = {op: copy for op, copy in node.copies.items() if op in jobs}
        since = min((began for coming, began in node.copies.values() if coming == files), default=self.clock.now)
        node.copies[effect.op] = (files, since)
        return self.clock.now - since

    def _bytes(self, effect: StageModel | LoadModel) -> int:
        """What the operation moves, as its progress counts it."""
        return effect.spec.disk if isinstance(effect, StageModel) else effect.spec.vram

    def _die_soon(self, node: VirtualNode, model: str, replica: str) -> None:
        """A process that has just loaded will not last, if a fault says so."""
        chance = self.streams["backend-dies"]
        for number, (of, delay) in node.trouble.dies.items():
            if of in ("", model):
                self.clock.after(draw(delay, chance), self._dies, node, replica, number)

    def _dies(self, node: VirtualNode, replica: str, fault: int) -> None:
        if fault in node.trouble.dies and self.kill(node, replica):
            self.watcher.fault_took_effect("backend-dies")

    def _strikes(self, model: str, faults: dict[int, str], kind: str) -> bool:
        hit = any(of in ("", model) for of in faults.values())
        if hit:
            self.watcher.fault_took_effect(kind)
        return hit

    def _length(self, node: VirtualNode, effect: Effect) -> int:
        """How long the work takes, in microseconds."""
        spec = node.spec
        if isinstance(effect, InstallBackend):
            return spec.install_time
        if isinstance(effect, UnloadModel):
            return spec.unload_time
        if isinstance(effect, StageModel):
            return effect.spec.disk * SECOND // spec.stage_rate if spec.stage_rate else 0
        if not isinstance(effect, LoadModel):
            return 0
        length = effect.spec.vram * SECOND // spec.load_rate
        for model, factor in node.trouble.slow.values():
            if model in ("", effect.model):
                self.watcher.fault_took_effect("slow-load")
                length = round(min(length * factor, FOREVER))
        return length

    def _progress(self, node: VirtualNode, effect: StageModel | LoadModel, boot: int, done: int, total: int) -> None:
        if node.worker.boot != boot or effect.op not in node.worker.jobs:
            return
        size = self._bytes(effect)
        for word in world.progress(node.worker, effect, size * done // total, size):
            self.report(node, word)
        silence = self.writer.engine.state.settings.load_silence
        step = max(SECOND, silence // PROGRESS_PER_SILENCE)
        if done + step < total:
            self.clock.after(step, self._progress, node, effect, boot, done + step, total)

    def _finish(self, node: VirtualNode, effect: Effect, boot: int, failure: str, took: int = 0) -> None:
        if node.worker.boot != boot or not node.worker.up:
            return
        node.worker, answers = world.finish(node.worker, effect, failure)
        for answer in answers:
            if isinstance(answer, ReportStaged | ReportLoaded):
                answer = replace(answer, took=took)
            self.report(node, answer)
            if isinstance(effect, LoadModel) and isinstance(answer, ReportLoaded):
                self._die_soon(node, effect.model, answer.replica)
        if isinstance(effect, UnloadModel) and not self.figures_agree(node):
            self._beat_once(node)  # what a replica leaves is seen at once: a load that failed may have met others there

    # --- contact ----------------------------------------------------------------------------------------------------

    def heard(self, node: VirtualNode) -> None:
        """The control plane hears of the node."""
        node.last_heard = self.clock.now

    def watch(self, node: VirtualNode) -> None:
        """Something is wrong with the node: from now on it sends heartbeats, and is missed when it does not."""
        if node.watched or node.removed:
            return
        node.watched = True
        node.term += 1
        node.last_heard = self.clock.now
        settings = self.writer.engine.state.settings
        self.clock.after(settings.heartbeat_interval, self._beat, node, node.term)
        self.clock.after(settings.unreachable_after, self._miss, node, node.term)
        self.clock.after(settings.reconcile_interval, self._ask_again, node, node.term)

    def _at_ease(self, node: VirtualNode) -> bool:
        if node.removed:
            return True
        known = self.writer.engine.state.nodes.get(node.spec.name)
        silent = known is not None and known.status in (NodeStatus.UNREACHABLE, NodeStatus.OFFLINE)
        if not node.worker.up and (known is None or known.status is NodeStatus.OFFLINE):
            return True
        if not self.writer.leading or node.trouble.active or node.in_doubt or not self.is_well_known(node):
            return False
        return node.worker.hears and node.registered and self._is_known(node) and not silent

    def _beat(self, node: VirtualNode, term: int) -> None:
        if term != node.term:
            return
        if self._at_ease(node):
            node.watched = False
            return
        if node.worker.up and node.registered:
            self._beat_once(node)
        elif node.worker.up:
            self.register(node)
        self._probe(node)
        self.clock.after(self.writer.engine.state.settings.heartbeat_interval, self._beat, node, term)

    def _beat_once(self, node: VirtualNode) -> None:
        now = self.clock.now
        boot, figures = world.boot_of(node.worker), world.capacity(node.worker, now, now + node.clock_off)
        self.pass_on(node, lambda: self._heartbeat_arrives(node, boot, figures))

    def is_well_known(self, node: VirtualNode) -> bool:
        """Whether the control plane has the figures right that the node's heartbeats tell, and how its clock stands."""
        return self.figures_agree(node) and self.clock_agrees(node)

    def clock_agrees(self, node: VirtualNode) -> bool:
        """Whether it is known as far as it is told how far the node's clock is off."""
        known = self.writer.engine.state.nodes.get(node.spec.name)
        if known is None or not node.worker.up or not self._is_known(node):
            return True
        return abs(known.clock_off - node.clock_off) <= CLOCK_TOLERANCE

    def clock_off_at(self, name: str, instant: int) -> tuple[int, ...]:
        """By how much a node's clock was off at an instant, as :meth:`VirtualNode.clock_off_at`."""
        return self.nodes[name].clock_off_at(instant)

    def figures_agree(self, node: VirtualNode) -> bool:
        """Whether the control plane counts as others' memory what is, on that machine, not that of its replicas."""
        state = self.writer.engine.state
        known = state.nodes.get(node.spec.name)
        if known is None or not node.worker.up:
            return True
        rest = list(world.used(node.worker))
        for process in node.worker.processes:
            replica = state.replicas.get(process.replica)
            for pool, size in in_pools(replica.claim) if replica is not None and process.loaded else ():
                rest[pool] -= size
        return known.foreign == tuple(max(0, size) // QUANTUM * QUANTUM for size in rest)

    def _figures_arrive(self, node: VirtualNode, figures: ReportCapacity) -> None:
        """The figures that came with a heartbeat, as they were when it was sent."""
        name = node.spec.name
        before = self.writer.engine.state.nodes[name].foreign
        actor = f"worker:{name}"
        self.writer.submit(Envelope(command_id=f"{name}-{next(self._messages)}", command=figures, actor=actor))
        after = self.writer.engine.state.nodes.get(name)
        if node.trouble.pressed and after is not None and after.foreign != before:
            self.watcher.fault_took_effect("memory-pressure")
        if not self.is_well_known(node):
            self.watch(node)  # these may have overtaken each other: the next ones set it right

    def _heartbeat_arrives(self, node: VirtualNode, boot: str, figures: ReportCapacity) -> None:
        known = self.writer.engine.state.nodes.get(node.spec.name)
        if self._is_known(node):
            self.heard(node)
        if not self.writer.leading or known is None:
            return
        if known.boot != world.boot_of(node.worker):
            self.register(node)
        elif known.status in (NodeStatus.UNREACHABLE, NodeStatus.OFFLINE):
            node.in_doubt = True
            self.report(node, world.heartbeat(node.worker))
            self.ask(node)
        if known.boot == boot:
            self._figures_arrive(node, figures)

    def _miss(self, node: VirtualNode, term: int) -> None:
        """Look whether the node has been silent for too long."""
        if not node.watched or term != node.term:
            return
        settings = self.writer.engine.state.settings
        silent_for = self.clock.now - node.last_heard
        if silent_for < settings.unreachable_after:
            self.clock.after(settings.unreachable_after - silent_for, self._miss, node, term)
            return
        known = self.writer.engine.state.nodes.get(node.spec.name)
        if known is not None and known.status in (NodeStatus.HEALTHY, NodeStatus.DRAINING):
            self._report_silence(node)
        self.clock.after(settings.unreachable_after, self._miss, node, term)

    def make_sure(self, node_name: str, call: str, then: Callable[[], None]) -> None:
        """A call has failed there: ask the worker what it runs, and go on when it has answered, or counts as silent."""
        node = self.nodes.get(node_name)
        known = self.writer.engine.state.nodes.get(node_name)
        if node is None or known is None or known.status not in (NodeStatus.HEALTHY, NodeStatus.DRAINING):
            then()
            return
        waiting = self._unsure.get(node_name)
        if waiting is not None:
            waiting.append(then)
            return
        waiting = self._unsure[node_name] = [then]
        asked_at = self.clock.now

        def is_there() -> None:
            if self._unsure.get(node_name) is waiting:
                self._go_on(node_name)

        def has_said_nothing() -> None:
            if self._unsure.get(node_name) is not waiting:
                return
            if node.last_heard <= asked_at:
                self._report_silence(node, call)
            self._go_on(node_name)

        self.pass_on(node, lambda: self.pass_on(node, is_there))
        self.clock.after(ANSWER_PATIENCE, has_said_nothing)

    def _go_on(self, node_name: str) -> None:
        for then in self._unsure.pop(node_name):
            then()

    def _report_silence(self, node: VirtualNode, call: str = "") -> None:
        command = ReportSilence(node=node.spec.name, call=call)
        self.writer.submit(Envelope(command_id=f"silence-{next(self._messages)}", command=command))
        node.in_doubt = True
        self.watch(node)

    def _probe(self, node: VirtualNode) -> None:
        """Probe the node's replicas while probes time out. No answer is no news: the worker is asked what it runs."""
        if not node.trouble.probes:
            return
        state = self.writer.engine.state
        for replica in list(state.by_node.get(node.spec.name, ())):
            if state.replicas[replica].phase is Phase.LOADED:
                self.watcher.fault_took_effect("probe-timeout")
                self.ask(node)

    # --- what runs --------------------------------------------------------------------------------------------------

    def ask(self, node: VirtualNode) -> None:
        """Ask the worker what it runs."""
        asked_at = self.clock.now

        def arrive() -> None:
            answer = world.report_running(node.worker, asked_at)
            # What the answer itself calls for leaves first.
            self.report(node, answer, lambda reply: self.clock.after(0, self._answered, node, asked_at, reply))

        self.pass_on(node, arrive)

    def _ask_again(self, node: VirtualNode, term: int) -> None:
        if not node.watched or term != node.term:
            return
        self.ask(node)
        self.clock.after(self.writer.engine.state.settings.reconcile_interval, self._ask_again, node, term)

    def _answered(self, node: VirtualNode, asked_at: int, reply: Reply) -> None:
        """The answer has been compared with the log. What is pending still is asked again: orders get lost, too.

        As in production one order of an operation is under way at a time: what was sent no sooner than the question may
        not have been there to be told of, and what the worker is at will have its answer.
        """
        if isinstance(reply, Rejected):
            return
        name, state = node.spec.name, self.writer.engine.state
        pending = [effect for effect in pending_effects(state) if effect.node == name]
        for effect in pending:
            if node.sent.get(effect.op, -1) < asked_at and effect.op not in node.worker.jobs:
                self.writer.send_again(effect)
        waits = any(
            state.replicas[replica].phase in LOADING_PHASES or state.replicas[replica].tries >= UNLOAD_TRIES
            for replica in state.by_node.get(name, ())
        )
        if not (pending or waits or node.trouble.active):
            node.in_doubt = False

    def doubt_all(self) -> None:
        """A new writer leads: every node is asked what it runs."""
        for node in self.nodes.values():
            if node.registered and not node.removed:
                node.in_doubt = True
                self.watch(node)
                if node.worker.up:
                    self.ask(node)

    # --- coming and going -------------------------------------------------------------------------------------------

    def register(self, node: VirtualNode) -> None:
        """The worker registers, and again with every heartbeat until it is heard."""
        if not node.worker.up or node.removed:
            return
        boot = node.worker.boot

        def done(reply: Reply) -> None:
            if isinstance(reply, Done) and node.worker.boot == boot:
                node.registered = True
                node.in_doubt = True
                self.heard(node)
                self.ask(node)
            elif isinstance(reply, Rejected) and reply.code == "conflict" and node.worker.boot == boot:
                # Another machine has the name: what is asked for it is meant for that one, and nothing runs here.
                node.worker = world.stop_all(node.worker)

        now = self.clock.now
        word = world.register(node.worker, approve=node.spec.approved, clock=now + node.clock_off, sent_at=now)
        self.report(node, word, done)

    def crash(self, node: VirtualNode) -> bool:
        """The machine dies; False when it was down already."""
        if not node.worker.up:
            return False
        node.worker = world.crash(node.worker)
        node.registered = False
        self.watch(node)
        return True

    def leave(self, node: VirtualNode) -> bool:
        """The worker stops all that it runs and says goodbye, and nothing more; False when it was down already."""
        if not node.worker.up:
            return False
        for word in world.leave(node.worker)[1]:
            self.report(node, word, last=True)
        return self.crash(node)

    def start(self, node: VirtualNode) -> bool:
        """The machine comes up, and its worker registers; False when it was up."""
        if node.worker.up:
            return False
        node.removed = False
        node.worker = world.start(node.worker)
        node.registered = False
        self.watch(node)
        self.register(node)
        return True

    def come_back(self, node: VirtualNode) -> None:
        """What kept the machine down is over: it comes up, unless the operator has removed it meanwhile."""
        if not node.removed:
            self.start(node)

    def swap_machine(self, node: VirtualNode, number: int) -> bool:
        """The machine is replaced by another of the same name; False when the operator has removed the node."""
        if node.removed:
            return False
        node.worker = world.swap_machine(node.worker, f"m-{node.spec.name}-{number}")
        node.registered = False
        self.watch(node)
        self.register(node)
        return True

    def clash(self, node: VirtualNode, number: int, still: Callable[[], bool]) -> None:
        """Another machine wants the node's name with every heartbeat, as long as ``still`` says so."""
        known = self.writer.engine.state.nodes.get(node.spec.name)
        boot = f"rival-{number}"
        if self.writer.leading and (known is None or known.boot != boot):
            rival = replace(
                world.register(node.worker, approve=node.spec.approved),
                address=f"rival-{number}:7000", boot=boot, machine=f"m-rival-{number}", running=(), used=(),
            )  # fmt: skip
            envelope = Envelope(command_id=f"rival-{next(self._messages)}", command=rival, actor="worker:rival")
            self.writer.submit(envelope, lambda reply: self.watcher.fault_took_effect("name-clash"))

        def again() -> None:
            if still():
                self.clash(node, number, still)

        self.clock.after(self.writer.engine.state.settings.heartbeat_interval, again)

    def cut(self, node: VirtualNode, *, off: bool) -> bool:
        """Cut the node off from the control plane, or let messages pass again; False when it was so already."""
        if node.worker.cut == off:
            return False
        node.worker = world.cut(node.worker) if off else world.heal(node.worker)
        node.in_doubt = True
        self.watch(node)
        return True

    def kill(self, node: VirtualNode, replica: str) -> bool:
        """The replica's process dies; False when it has none. The word of it may get lost on the way."""
        node.in_doubt = True
        self.watch(node)
        before = node.worker
        node.worker, answers = world.kill(node.worker, replica)
        for answer in answers:
            self.report(node, answer)
        return node.worker is not before

    def remove(self, node: VirtualNode) -> None:
        """The operator has taken the node out of the cluster, and switches it off."""
        node.worker = world.crash(node.worker)
        node.registered = False
        node.removed = True

    # --- questions --------------------------------------------------------------------------------------------------

    def is_running(self, replica: str) -> bool:
        """Whether the replica's process is alive on a node that can be reached."""
        return any(node.worker.hears and node.worker.process_of(replica) is not None for node in self.nodes.values())

    def call(self, node_name: str, address: str, model: str) -> str:
        """Call a backend; empty when it serves, else the error before its first byte."""
        node = self.nodes.get(node_name)
        if node is None:
            return f"UNAVAILABLE: no route to {address}"
        problem = world.call(node.worker, address, model)
        fault = next((number for number, (of, _) in node.trouble.dies.items() if of in ("", model)), None)
        process = world.listening_at(node.worker, address)
        if problem or fault is None or process is None:
            return problem
        self._dies(node, process.replica, fault)
        return f"UNAVAILABLE: {address} was closed before its first byte"
