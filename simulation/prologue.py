"""The time before the run: what has been registered, declared and loaded when it begins, as a history in the log.

Nodes and models enter through the rules that decide their commands, without what would follow from them: the world is
set up first, and looked at when it is complete. Loaded replicas get the events of a load that went well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from interlock.domain import causes
from interlock.domain import events as ev
from interlock.domain.apply import apply
from interlock.domain.claims import Claim
from interlock.domain.commands import ChangeSettings, Command, DeclareModel, Done, Envelope, SetTenantLimits, StartEpoch
from interlock.domain.decide import decide
from interlock.domain.engine import Engine, Outcome
from interlock.domain.errors import InterlockError, UnreadableFile
from interlock.domain.recording import Recorded
from interlock.domain.units import FOREVER

from . import world
from .clock import START
from .cluster import VirtualCluster
from .reading.scenario import ReplicaSpec, Scenario
from .standing import place_of
from .world import Files, Process

BACKGROUND = "background"
"""The holder of the locks that stand at time 0."""


class Prologue:
    """Builds the engine's first state and the workers' with it; :attr:`outcome` is all that was recorded."""

    def __init__(self, engine: Engine, cluster: VirtualCluster, scenario: Scenario, told_as: str = "prologue") -> None:
        self.engine = engine
        self.cluster = cluster
        self.scenario = scenario
        self.events: list[ev.Event] = []
        self.recorded: list[Recorded] = []
        self.busy: list[tuple[int, str]] = []
        """Background requests with the length of time after which they end."""
        self._envelope = Envelope(command_id=told_as, command=StartEpoch(epoch=1, writer="writer-1"), actor="scenario")

    @property
    def outcome(self) -> Outcome:
        """What was recorded, in the form of one decision's outcome."""
        return Outcome(tuple(self.recorded), tuple(self.events), Done(), (), {})

    def tell(self) -> None:
        """Everything that was before; raises UnreadableFile when the scenario's world cannot be."""
        self._decided(StartEpoch(epoch=1, writer="writer-1"), "the scheduler")
        if self.scenario.settings:
            self._decided(ChangeSettings(values=self.scenario.settings), "the settings")
        for tenant in self.scenario.tenants:
            limited = SetTenantLimits(tenant=tenant.name, limits=tenant.limits)
            self._decided(limited, f"tenant {tenant.name}")
        for spec in self.scenario.nodes:
            node = self.cluster.add(spec)
            if spec.up:
                self._decided(world.register(node.worker, approve=spec.approved), f"node {spec.name}")
        self.declare()
        for replica in self.scenario.replicas:
            self._loaded(replica)

    def declare(self) -> None:
        """The models, all of them before anything is looked at."""
        for model in self.scenario.models:
            command = DeclareModel(
                model=model.name, spec=model.spec, scheduling=model.scheduling, aliases=model.aliases
            )
            self._decided(command, f"model {model.name}")

    def _decided(self, command: Command, what: str) -> None:
        try:
            self.take(decide(self.engine.state, command, START).events)
        except InterlockError as error:
            where = f"{self.scenario.source}:{self.scenario.lines.get(what, 1)}"
            raise UnreadableFile(f"{where}: {what[:80]}: {error.message}", cure=error.cure) from None

    def take(self, events: Iterable[ev.Event]) -> None:
        """Let these have happened, without what would follow from them."""
        ledger = self.engine.ledger
        for event in events:
            recorded = ledger.record(event, self._envelope, len(self.events), "scenario")
            apply(self.engine.state, event)
            ledger.enter(recorded, event, self.engine.state)
            self.events.append(event)
            self.recorded.append(recorded)

    def _loaded(self, spec: ReplicaSpec) -> None:
        self._history(spec, *place_of(self.engine.state, spec, self.scenario.source))

    def _history(self, spec: ReplicaSpec, index: int, claim: Claim, disk: int) -> None:
        state = self.engine.state
        model = state.models[spec.model]
        replica = f"r-{state.reservations + 1:06d}"
        node = self.cluster.nodes[spec.node]
        worker = node.worker
        port = world.FIRST_PORT + len(worker.processes)
        process = Process(replica, f"p{worker.boot}-{replica}", spec.model, index, port, loaded=True, holds=claim)
        load = model.serving_spec
        files = {Files(spec.model, world.edition(load), load.disk)} if load.disk else set()
        node.worker = world.with_loaded(worker, process, files)
        address = world.address_of(node.worker, process)
        of: dict[str, Any] = {"at": START, "replica": replica, "model": spec.model, "node": spec.node}
        events: list[ev.Event] = [
            ev.ReplicaReserved(
                **of, index=index, revision=model.serving, claim=claim, disk=disk, silent_at=FOREVER,
                cause=causes.SCENARIO,
            ),
            ev.BackendInstallRequested(**of, op=1, silent_at=FOREVER),
            ev.BackendInstalled(**of, address=address),
            ev.LoadStarted(**of, op=2, silent_at=FOREVER),
            ev.ReplicaLoaded(**of, evictable_at=START + spec.evictable_in, address=address),
        ]  # fmt: skip
        for number in range(spec.in_flight):
            request = f"{BACKGROUND}-{replica}-{number + 1}"
            locked = ev.ReplicaLocked(
                **of, request=request, holder=BACKGROUND, arrival=START, deadline=FOREVER, cause="scenario"
            )
            events.append(locked)
            length = spec.busy_each[number] if spec.busy_each else spec.busy_for
            if length < FOREVER:
                self.busy.append((length, request))
        self.take(events)
