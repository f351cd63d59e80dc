"""A control plane in memory: a seat over a store with faults to order and workers that answer at once."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from interlock.adapters.memory.workers import InMemoryWorkers
from interlock.adapters.runtime.clock import SystemClock
from interlock.adapters.runtime.store_threads import StoreThreads
from interlock.adapters.runtime.takeover import Seat
from interlock.adapters.store.memory import MemoryLog, MemoryStore
from interlock.domain import commands as c
from interlock.domain.codec import decode_event
from interlock.domain.engine import Engine
from interlock.domain.entities import LoadSpec, Scheduling
from interlock.domain.recording import Recorded
from interlock.domain.snapshots import encode_cluster
from interlock.domain.units import GIB, SECOND

LEASE_US = 2 * SECOND


class Gate:
    """Holds up appends: ``before_append`` of a store waits here while it is shut."""

    def __init__(self, store: MemoryStore) -> None:
        self.batches: list[list[Recorded]] = []
        self._open = threading.Event()
        self._open.set()
        self.reached = threading.Event()
        store.before_append = self._pass

    def shut(self) -> None:
        """Hold up the next append."""
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        """Let appends through."""
        self._open.set()

    def _pass(self, batch: Sequence[Recorded]) -> None:
        self.batches.append(list(batch))
        self.reached.set()
        assert self._open.wait(20), "the gate was never opened"


class Rig:
    """One process's seat on a log. Several on one log are several processes."""

    def __init__(self, log: MemoryLog | None = None, workers: InMemoryWorkers | None = None, **seat: Any) -> None:
        self.log = log or MemoryLog()
        self.store = MemoryStore(self.log)
        self.gate = Gate(self.store)
        self.workers = workers or InMemoryWorkers()
        self.threads = StoreThreads(self.store)
        self.name = f"writer-{next(_numbers)}"
        self.seat = Seat(
            self.threads, self.workers, SystemClock(), owner=self.name, **{"lease_us": LEASE_US, **seat}
        )  # fmt: skip
        self.running: asyncio.Task[None] | None = None
        self._serial = itertools.count(1)

    async def lead(self) -> Rig:
        """Start, and return once it leads and its epoch is in the log."""
        self.start()
        await self.until(lambda: self.seat.term is not None and self.seat.term.writer.committed.ledger.epoch > 0)
        return self

    def start(self) -> None:
        """Begin to follow, and to lead when nobody else does."""
        self.running = asyncio.create_task(self.seat.run())

    async def stop(self) -> None:
        """Stop as a process that was asked to."""
        self.gate.open()
        await self.seat.stop()
        if self.running is not None:
            await asyncio.gather(self.running, return_exceptions=True)
        await self.threads.close()

    async def die(self) -> None:
        """Stop as a process that was killed: nothing is released, and nothing said."""
        assert self.running is not None
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        self.gate.open()

    async def until(self, condition: Callable[[], bool], limit_s: float = 10) -> None:
        """Wait for a condition."""
        async with asyncio.timeout(limit_s):
            while not condition():
                await asyncio.sleep(0.002)

    async def reached(self) -> None:
        """Wait until an append stands at the shut gate."""
        await asyncio.to_thread(self.gate.reached.wait, 10)

    # --- Commands -----------------------------------------------------------------------------------------------------

    def envelope(self, command: c.Command, command_id: str = "") -> c.Envelope:
        """The command in an envelope with an id of its own."""
        return c.Envelope(command_id=command_id or f"{self.name}-c{next(self._serial)}", command=command)

    async def send(self, command: c.Command, command_id: str = "") -> c.AnyReply:
        """Have it decided."""
        return await self.seat.send(self.envelope(command, command_id))

    async def acquire(self, request: str, model: str = "m", holder: str = "gw") -> c.AnyReply:
        """Ask for a lock."""
        return await self.seat.acquire(self.envelope(c.AcquireLock(request=request, model=model, holder=holder)))

    async def node(self, name: str, vram: int = 24, **facts: Any) -> None:
        """A worker starts and registers."""
        if name not in self.workers._nodes:
            self.workers.add_node(name)
        boot = (await self.workers.running(name)).boot
        await self.send(c.RegisterNode(node=name, boot=boot, pools=(vram * GIB,), approve=True, **facts))

    async def model(self, name: str = "m", vram: int = 9, backend: str = "echo", **scheduling: Any) -> None:
        """Declare a model."""
        scheduling = {"parallel": 0, **scheduling}
        spec = LoadSpec(backend=backend, vram=vram * GIB)
        await self.send(c.DeclareModel(model=name, spec=spec, scheduling=Scheduling(**scheduling)))

    # --- The log ------------------------------------------------------------------------------------------------------

    def events(self, name: str = "") -> list[Any]:
        """The stored events, of one class or all."""
        events = [decode_event(recorded.topic, recorded.state) for recorded in self.store.read()]
        return [event for event in events if name in ("", type(event).__name__)]

    def effects(self, name: str) -> list[Any]:
        """The effects of one name that reached a worker."""
        return [effect for effect in self.workers.performed if effect.name == name]


_numbers = itertools.count(1)


def expect_sound(rig: Rig) -> None:
    """The log alone gives the live state, epochs do not interleave, no command is stored twice, and the chain holds."""
    stored = list(rig.store.read())
    replayed = Engine().replay(stored)
    if rig.seat.term is not None:
        assert encode_cluster(replayed.state) == encode_cluster(rig.seat.state())
    epochs = [recorded.epoch for recorded in stored]
    assert epochs == sorted(epochs), "epochs interleave"
    assert len({recorded.event_id for recorded in stored}) == len(stored)
    assert [recorded.position for recorded in stored] == list(range(1, len(stored) + 1))
    assert rig.store.verify().holds
