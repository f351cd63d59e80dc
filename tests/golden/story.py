"""A representative run of the core: every event type at least once, from fixed ids and instants."""

from __future__ import annotations

from pathlib import Path

from interlock.adapters.store import SqliteStore
from interlock.domain import commands as cmd
from interlock.domain.engine import Engine, Outcome
from interlock.domain.entities import Budget, LoadSpec, Scheduling, TenantLimits
from interlock.domain.selector import parse_selector
from interlock.domain.units import GIB, HOUR, MINUTE, SECOND, parse_instant

START = parse_instant("2026-01-01T00:00:00Z")


class Story:
    """An engine with a clock and counted command ids; keeps what each command brought."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.now = START
        self.outcomes: list[Outcome] = []
        self._sent = 0

    def send(self, command: cmd.Command, *, actor: str = "story", correlation: str = "") -> Outcome:
        """Decide a command now."""
        self._sent += 1
        envelope = cmd.Envelope(
            command_id=f"c-{self._sent:04d}", command=command, actor=actor, correlation_id=correlation
        )
        outcome = self.engine.handle(envelope, self.now)
        self.outcomes.append(outcome)
        return outcome

    def wait(self, length: int) -> None:
        """Let time pass, handling every timer when it is due."""
        until = self.now + length
        while (due := self.engine.next_wakeup()) is not None and due <= until:
            self.now = max(self.now, due)
            self.outcomes.append(self.engine.tick(self.now))
        self.now = until

    def node(self, name: str, gib: int = 24, **facts: object) -> None:
        """A worker registers and is approved."""
        self.send(
            cmd.RegisterNode(
                node=name, address=f"10.0.0.{len(self.engine.state.nodes) + 1}:50051", boot=f"{name}-1",
                pools=(gib * GIB,), disk=900 * GIB, ram=64 * GIB, **facts,  # type: ignore[arg-type]  # checked by use
            )
        )  # fmt: skip
        self.send(cmd.ApproveNode(node=name), actor="operator:ann")

    def model(self, name: str, gib: int = 9, backend: str = "echo", disk_gib: int = 0, **scheduling: object) -> None:
        """A model is declared, or edited."""
        selector = parse_selector(scheduling.pop("selector", {}))  # type: ignore[arg-type]  # a mapping
        self.send(
            cmd.DeclareModel(
                model=name,
                spec=LoadSpec(backend=backend, vram=gib * GIB, disk=disk_gib * GIB),
                scheduling=Scheduling(selector=selector, **scheduling),  # type: ignore[arg-type]  # checked by use
            ),
            actor="operator:ann",
        )

    def acquire(self, request: str, model: str, **fields: object) -> Outcome:
        """A request asks for a replica."""
        command = cmd.AcquireLock(request=request, model=model, holder="gateway-1", **fields)  # type: ignore[arg-type]  # checked by use
        return self.send(command, actor="gateway-1", correlation=f"trace-{request}")

    def release(self, request: str, outcome: str = "served") -> None:
        """A request is over."""
        self.send(cmd.ReleaseLock(request=request, outcome=outcome), actor="gateway-1")

    def op(self, replica: str) -> str:
        """The operation that the worker is asked for now."""
        return f"{replica}.{self.engine.state.replicas[replica].op}"

    def load(self, replica: str) -> None:
        """The worker does all that loading takes, a second a step."""
        node = self.engine.state.replicas[replica].node
        actor = f"worker:{node}"
        while replica in self.engine.state.replicas:
            phase = self.engine.state.replicas[replica].phase.value
            self.now += SECOND
            if phase == "installing":
                address = f"127.0.0.1:{9000 + int(replica[2:])}"
                self.send(cmd.ReportInstalled(replica=replica, op=self.op(replica), address=address), actor=actor)
            elif phase == "staging":
                self.send(cmd.ReportStaged(replica=replica, op=self.op(replica), took=SECOND), actor=actor)
            elif phase == "loading":
                self.send(cmd.ReportLoaded(replica=replica, op=self.op(replica), took=SECOND), actor=actor)
            else:
                return

    def unload(self, replica: str) -> None:
        """The worker lets go of a replica."""
        self.now += SECOND
        actor = f"worker:{self.engine.state.replicas[replica].node}"
        self.send(cmd.ReportUnloaded(replica=replica, op=self.op(replica)), actor=actor)

    def unload_all(self) -> None:
        """The workers let go of all that is to leave."""
        for replica in list(self.engine.state.replicas):
            if self.engine.state.replicas[replica].phase.value == "unloading":
                self.unload(replica)

    def newest(self) -> str:
        """The replica that was reserved last."""
        return f"r-{self.engine.state.reservations:06d}"


def write_store(path: Path) -> Path:
    """The whole run as a log on SQLite, in this file; returns it."""
    store = SqliteStore(path, durable=False)
    try:
        store.append([row for outcome in tell().outcomes for row in outcome.recorded], store.take_epoch("story", 1))
    finally:
        store.close()
    return path


def tell() -> Story:
    """The whole run."""
    story = Story()
    story.send(cmd.StartEpoch(epoch=1, writer="story"))
    _nodes_join(story)
    _a_cold_request(story)
    _an_eviction(story)
    _loads_that_fail(story)
    _edits_and_floors(story)
    _backends_go(story)
    _nodes_fail(story)
    _drain_with_a_deadline(story)
    _many_fall_silent(story)
    _models_that_push_each_other_out(story)
    _operators(story)
    _a_call_in_vain(story)
    _one_copy_makes_way(story)
    _a_clock_is_off(story)
    _an_edit_taken_back(story)
    return story


def _nodes_join(story: Story) -> None:
    story.node("thor", 24, labels={"tier": "fast"}, gpu_vendor="nvidia")
    story.node("orin", 16, labels={"tier": "slow"})
    story.send(cmd.SetNodeLabels(node="orin", labels={"room": "b"}), actor="operator:ann")
    story.send(cmd.ReportCapacity(node="orin", pools=(16 * GIB,), used=(2 * GIB,), disk=800 * GIB), actor="worker:orin")


def _a_cold_request(story: Story) -> None:
    """Declared, waits for its load with staging and progress, is locked, is served; a second one waits while busy."""
    story.model("qwen", 9, disk_gib=8, selector={"tier": "fast"})
    story.acquire("q-1", "qwen")
    replica = story.newest()
    story.now += 2 * MINUTE
    story.send(cmd.ReportProgress(replica=replica, op=story.op(replica), done=5, total=10), actor="worker:thor")
    story.load(replica)
    story.acquire("q-2", "qwen")
    story.wait(2 * SECOND)
    story.release("q-1")
    story.wait(SECOND)
    story.release("q-2")


def _an_eviction(story: Story) -> None:
    """A second model fits only when the first leaves, once that has been resident for long enough."""
    story.model("llama", 20, selector={"tier": "fast"})
    story.acquire("q-3", "llama")
    story.wait(MINUTE)
    victim = "r-000001"
    story.unload(victim)
    story.load(story.newest())
    story.release("q-3")
    story.acquire("q-4", "nobody")
    story.model("giant", 500)
    story.acquire("q-5", "giant")


def _loads_that_fail(story: Story) -> None:
    story.model("broken", 4, selector={"room": "b"})
    story.acquire("q-6", "broken")
    for _ in range(3):
        replica = story.newest()
        op = story.op(replica)
        story.send(cmd.ReportLoadFailed(replica=replica, op=op, reason="no such file"), actor="worker:orin")
        if replica in story.engine.state.replicas:
            story.unload(replica)
        story.wait(10 * SECOND)
    story.acquire("q-7", "qwen")
    story.send(cmd.CancelRequest(request="q-7"), actor="gateway-1")
    story.acquire("q-8", "llama")
    story.acquire("q-9", "llama")
    story.send(cmd.LoseHolder(holder="gateway-1"))
    story.unload("r-000002")
    story.load("r-000006")


def _edits_and_floors(story: Story) -> None:
    """A floor without load info parks, and load info un-parks it; an edit brings up a second revision beside it."""
    story.model("embed", 1, backend="", min_replicas=1)
    story.send(cmd.StoreLoadInfo(model="embed", spec=LoadSpec(backend="embeddings")), actor="operator:ann")
    story.load(story.newest())
    story.model("embed", 2, backend="embeddings", min_replicas=1)
    story.load(story.newest())
    story.unload_all()
    # A second copy is surplus after a while, and is kept as long as the reconciler is frozen.
    story.send(cmd.RequestLoad(model="embed"), actor="operator:ann")
    story.load(story.newest())
    story.send(cmd.Freeze(what="reconciler"), actor="operator:ann")
    story.wait(6 * MINUTE)
    story.send(cmd.Thaw(what="reconciler"), actor="operator:ann")
    story.unload_all()


def _backends_go(story: Story) -> None:
    """A backend is gone before its first byte: the replica is lost, and the request routes again."""
    story.wait(MINUTE)
    story.acquire("q-10", "embed")
    held = story.engine.state.requests["q-10"].replica
    story.send(cmd.ReportBackendGone(request="q-10", replica=held, detail="connection refused"), actor="gateway-1")
    story.load(story.newest())
    story.release("q-10")
    story.unload(held)


def _a_clock_is_off(story: Story) -> None:
    """A worker's clock is an hour ahead, until somebody sets it right."""
    for off in (HOUR, 0):
        story.wait(SECOND)
        report = cmd.ReportCapacity(node="thor", clock=story.now + off, sent_at=story.now)
        story.send(report, actor="worker:thor")


def _nodes_fail(story: Story) -> None:
    """Silence and return, silence for good, a drain, a stray process."""
    story.send(cmd.ReportSilence(node="orin"))
    story.send(cmd.ReportHeard(node="orin", boot="orin-1"), actor="worker:orin")
    running = (cmd.Running(process="p-77", model="ghost"),)
    report = cmd.ReportRunning(node="thor", boot="thor-1", asked_at=START, running=running)
    story.send(report, actor="worker:thor")
    story.send(cmd.ReportStrayStopped(node="thor", process="p-77"), actor="worker:thor")
    story.send(cmd.DrainNode(node="thor"), actor="operator:ann")
    story.send(cmd.ResumeNode(node="thor"), actor="operator:ann")
    story.node("spare", 8)
    story.send(cmd.ReportSilence(node="spare"))
    story.wait(HOUR)


def _drain_with_a_deadline(story: Story) -> None:
    """What is busy when the deadline comes is taken away, and then the node is empty."""
    story.node("old", 24)
    story.model("endless", 5, selector={"node.name": "old"})
    story.acquire("q-30", "endless")
    held = story.newest()
    story.load(held)
    story.send(cmd.DrainNode(node="old", within=10 * MINUTE), actor="operator:ann")
    story.wait(11 * MINUTE)
    story.unload(held)
    story.send(cmd.ReleaseLock(request="q-30", outcome="failed", detail="drained"), actor="gateway-1")
    story.send(cmd.RemoveModel(model="endless"), actor="operator:ann")
    story.send(cmd.RemoveNode(node="old"), actor="operator:ann")


def _many_fall_silent(story: Story) -> None:
    """Most nodes are silent at once: nobody counts as offline until the grace has passed, and then one by one."""
    story.send(cmd.ChangeSettings(values={"mass_loss_grace": 11 * MINUTE}), actor="operator:ann")
    story.node("far-1", 8)
    story.node("far-2", 8)
    story.node("far-3", 8)
    for name in ("far-1", "far-2", "far-3"):
        story.send(cmd.ReportSilence(node=name))
    story.wait(HOUR)
    for name in ("far-1", "far-2", "far-3"):
        story.send(cmd.RemoveNode(node=name), actor="operator:ann")
    story.send(cmd.ChangeSettings(values={"mass_loss_grace": 30 * MINUTE}), actor="operator:ann")


def _a_call_in_vain(story: Story) -> None:
    """Nobody answers a call, nor does the node's worker when it is asked: the copy is kept until it is heard again."""
    story.node("remote", 24, labels={"room": "remote"})
    story.model("afar", 9, selector={"room": "remote"})
    story.acquire("q-40", "afar")
    held = story.newest()
    story.load(held)
    words = "UNAVAILABLE: 10.0.0.4:50051 does not answer"
    story.send(cmd.ReportSilence(node="remote", call=words))
    story.send(cmd.ReportBackendGone(request="q-40", replica=held, detail=words), actor="gateway-1")
    story.wait(5 * SECOND)
    story.send(cmd.ReportHeard(node="remote", boot="remote-1"), actor="worker:remote")
    story.release("q-40")
    story.send(cmd.RemoveModel(model="afar"), actor="operator:ann")
    story.send(cmd.RemoveNode(node="remote"), actor="operator:ann")


def _one_copy_makes_way(story: Story) -> None:
    """Two copies on nodes with room for one each: the busy one serves on while the other makes way for an edit."""
    for name in ("twin-1", "twin-2"):
        story.node(name, 24, labels={"room": "twins"})
    story.model("twins", 16, selector={"room": "twins"}, everywhere=True)
    first, second = (f"r-{story.engine.state.reservations - 1:06d}", story.newest())
    story.load(first)
    story.load(second)
    story.acquire("q-50", "twins")
    story.model("twins", 17, selector={"room": "twins"}, everywhere=True)
    story.unload_all()
    story.load(story.newest())
    story.release("q-50")
    story.unload_all()
    story.load(story.newest())
    story.send(cmd.RemoveModel(model="twins"), actor="operator:ann")
    story.unload_all()
    for name in ("twin-1", "twin-2"):
        story.send(cmd.RemoveNode(node=name), actor="operator:ann")


def _an_edit_taken_back(story: Story) -> None:
    """An edit is taken back while its load is on its way: the copy that serves goes on serving."""
    story.node("calm", 48, labels={"room": "calm"}, max_replicas_per_model=2)
    story.model("tried", 16, selector={"room": "calm"}, min_replicas=1)
    story.load(story.newest())
    story.model("tried", 17, selector={"room": "calm"}, min_replicas=1)
    story.model("tried", 16, selector={"room": "calm"}, min_replicas=1)
    story.unload_all()
    story.send(cmd.RemoveModel(model="tried"), actor="operator:ann")
    story.unload_all()
    story.send(cmd.RemoveNode(node="calm"), actor="operator:ann")


def _models_that_push_each_other_out(story: Story) -> None:
    """Two models on a node that holds one: after a few rounds each stays longer."""
    story.send(cmd.ChangeSettings(values={"min_residency": 2 * SECOND}), actor="operator:ann")
    story.node("narrow", 24, labels={"room": "narrow"})
    for name in ("day", "night"):
        story.model(name, 20, selector={"room": "narrow"})
    for n in range(7):
        story.acquire(f"t-{n}", ("day", "night")[n % 2])
        story.wait(10 * SECOND)
        story.unload_all()
        story.load(story.newest())
        story.release(f"t-{n}")
    story.send(cmd.ChangeSettings(values={"min_residency": 30 * SECOND}), actor="operator:ann")


def _operators(story: Story) -> None:
    story.send(cmd.SetNodeBudget(node="thor", budget=Budget(percent=80)), actor="operator:ann")
    story.send(cmd.SetReplicaSlots(node="thor", max_replicas_per_model=2), actor="operator:ann")
    story.send(cmd.ChangeSettings(values={"placement_profiles": "near: locality 3, balance 1"}), actor="operator:ann")
    scheduling = Scheduling(priority=5, pinned=True, anti_affinity="chats", anti_affinity_hard=True, placement="near")
    story.send(cmd.SetScheduling(model="qwen", scheduling=scheduling), actor="operator:ann")
    story.send(cmd.Freeze(what="evictions"), actor="operator:ann")
    story.send(cmd.Thaw(what="evictions"), actor="operator:ann")
    story.send(cmd.ChangeSettings(values={"queue_limit": 50}), actor="operator:ann")
    limits = TenantLimits(at_once=2, rate=MINUTE, burst=1)
    story.send(cmd.SetTenantLimits(tenant="research", limits=limits), actor="operator:ann")
    story.send(cmd.RemoveModel(model="giant"), actor="operator:ann")
    story.send(cmd.RemoveNode(node="spare"), actor="operator:ann")
    story.acquire("q-11", "qwen")
    story.acquire("q-12", "qwen", tenant="research", priority=3)
    story.acquire("q-13", "qwen", tenant="research")
