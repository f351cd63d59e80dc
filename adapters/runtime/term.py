"""One term with all that hangs on it: the writer, its effects, the holders' leases, the nodes' signs of life."""

from __future__ import annotations

import asyncio
import gc
import itertools
import secrets
from collections.abc import Callable, Sequence

from interlock.adapters.http.ports import Sample
from interlock.domain.commands import (
    CLIENT_ACTOR,
    AcquireLock,
    AnyReply,
    Command,
    Done,
    Envelope,
    LoseHolder,
    ReleaseLock,
)
from interlock.domain.engine import Engine
from interlock.domain.ports import WorkerPort
from interlock.domain.state import State
from interlock.domain.units import SECOND

from .clock import Clock, SteadyClock
from .effects import Effects
from .holders import Holders
from .lease import Lease
from .liveness import Liveness
from .store_threads import StoreThreads
from .writer import SNAPSHOT_EVENTS, Committed, Writer

_LONGEST_SWEEP_S = 1.0


class Term:
    """This process leads, from a taken epoch on, until :meth:`run` returns or raises."""

    def __init__(
        self,
        store: StoreThreads,
        engine: Engine,
        lease: Lease,
        workers: WorkerPort,
        clock: Clock,
        *,
        name: str,
        listeners: Sequence[Committed] = (),
        reach: Callable[[str], None] = lambda point: None,
        snapshot_events: int = SNAPSHOT_EVENTS,
        registered: set[str] | None = None,
    ) -> None:
        self._run = secrets.token_hex(4)
        clock = SteadyClock(clock, engine.ledger.time)
        self._serial = itertools.count(1)
        self.effects = Effects(workers, epoch=lambda: lease.epoch, state=self._state, report=self.report)
        self.writer = Writer(
            store,
            engine,
            lease,
            clock,
            name=name,
            dispatch=self.effects.dispatch,
            listeners=[*listeners, self._committed],
            reach=reach,
            snapshot_events=snapshot_events,
        )
        self.liveness = Liveness(workers, clock, state=self._state, report=self.report, registered=registered)
        self.holders = Holders(engine.state.by_holder, clock, lambda: self._state().settings.holder_lease)

    def _state(self) -> State:
        return self.writer.committed.state

    def _committed(self, recorded: object, events: Sequence[object]) -> None:
        self.liveness.on_committed((), events)  # type: ignore[arg-type]  # they are events, as listeners get them

    def report(self, command: Command, about: str = "") -> None:
        """Have a command of the control plane's own decided; nobody waits for it."""
        envelope = Envelope(
            command_id=f"{self._run}-{next(self._serial)}",
            command=command,
            actor=f"worker:{about}" if about else "writer",
        )
        self.writer.put(envelope)

    def heed(self, envelope: Envelope) -> None:
        """Notice what a command shows beside what it asks: that a node, or a holder, is alive."""
        self.liveness.on_command(envelope)
        if isinstance(envelope.command, AcquireLock):
            self.holders.meet(envelope.command.holder)

    async def send(self, envelope: Envelope) -> AnyReply:
        """Have it decided. Whose claim an operator ends, its holder is told with its next renewal."""
        command, held = envelope.command, None
        if isinstance(command, ReleaseLock) and envelope.actor != CLIENT_ACTOR:
            held = self._state().requests.get(command.request)
        reply = await self.writer.send(envelope)
        if held is not None and isinstance(reply, Done):
            self.holders.end(held.holder, held.id)
        return reply

    async def run(self) -> None:
        """Lead; see :meth:`Writer.lead`."""
        sweeping = asyncio.create_task(self._sweep(), name="sweep")
        # The state that was read from the log lives as long as the term: the collector need not walk it ever again.
        gc.collect()
        gc.freeze()
        try:
            await self.writer.lead()
        finally:
            gc.unfreeze()
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
            await self.effects.close()
            await self.liveness.close()

    async def _sweep(self) -> None:
        """Look at every lease and every node, often enough for the shortest patience."""
        while True:
            settings = self._state().settings
            shortest_s = min(settings.holder_lease, settings.unreachable_after, settings.reconcile_interval) / SECOND
            await asyncio.sleep(min(_LONGEST_SWEEP_S, shortest_s / 10))
            for holder in self.holders.lapsed():
                self.report(LoseHolder(holder=holder))
            self.liveness.sweep()

    def figures(self) -> list[Sample]:
        """How the term goes, for Prometheus."""
        engine = self.writer.committed
        return [
            Sample("interlock_log_position", engine.ledger.position, help="The last committed event's position."),
            Sample("interlock_epoch", self.writer.epoch, help="The epoch that this process writes under."),
            Sample("interlock_commands_queued", self.writer.queued, help="Commands to be decided or stored."),
            Sample("interlock_effects_running", self.effects.running, help="Operations under way on workers."),
        ]
