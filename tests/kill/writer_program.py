"""A writer with clients of its own, in a process that a test kills: it says what it was promised, line by line.

    writer_program.py STORE SEED [--settle]

Lines: ``state POSITION DIGEST`` once it leads (the state that it begins with), ``ack COMMAND POSITION`` after each
acknowledged command that changes something, ``free SECONDS`` once no holder of an earlier run has a lock any more.
With ``--settle`` it then stops as one that was asked to.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import random
import sys

from interlock.adapters.memory.workers import InMemoryWorkers
from interlock.adapters.runtime import crashpoints
from interlock.adapters.runtime.clock import SystemClock
from interlock.adapters.runtime.store_threads import StoreThreads
from interlock.adapters.runtime.takeover import Seat
from interlock.adapters.store import open_store
from interlock.domain import commands as c
from interlock.domain.engine import Engine
from interlock.domain.entities import LoadSpec, Scheduling
from interlock.domain.snapshots import encode_cluster
from interlock.domain.units import GIB

LEASE_US = 400_000
HOLDER_LEASE_US = 600_000
CLIENTS = 6
NODES = ("orin", "thor")
MODELS = ("a", "b", "c")


def say(*words: object) -> None:
    """One line, written whole: the kernel keeps it when this process dies."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Program:
    """The seat, and clients that ask it for locks and give them back."""

    def __init__(self, url: str, seed: int) -> None:
        reach = crashpoints.from_environment()
        self.run = f"p{os.getpid()}"
        self.workers = InMemoryWorkers(NODES, run=self.run)
        self.seat = Seat(
            StoreThreads(open_store(url), reach),
            self.workers,
            SystemClock(),
            owner=self.run,
            lease_us=LEASE_US,
            opening=self.opening,
            reach=reach,
            snapshot_events=200,
        )
        self.chance = random.Random(seed)
        self.serial = itertools.count(1)

    def opening(self, engine: Engine) -> list[c.Envelope]:
        """Say what the term begins with, before it changes."""
        say("state", engine.ledger.position, hashlib.sha256(encode_cluster(engine.state)).hexdigest())
        return []

    def envelope(self, command: c.Command) -> c.Envelope:
        """The command under an id that no other run uses."""
        return c.Envelope(command_id=f"{self.run}-{next(self.serial)}", command=command)

    def ack(self, envelope: c.Envelope) -> None:
        """Say that the command was acknowledged."""
        term = self.seat.term
        say("ack", envelope.command_id, term.writer.committed.ledger.position if term is not None else -1)

    async def send(self, command: c.Command) -> None:
        """Have a command decided; one that may find everything as it wants it is not spoken of."""
        envelope = self.envelope(command)
        await self.seat.send(envelope)
        if isinstance(command, c.ReleaseLock):
            self.ack(envelope)

    async def set_up(self) -> None:
        """Nodes that register anew, and models that fit side by side only in part."""
        await self.send(c.ChangeSettings(values={"holder_lease": HOLDER_LEASE_US, "min_residency": 0}))
        for name in NODES:
            boot = (await self.workers.running(name)).boot
            await self.send(c.RegisterNode(node=name, boot=boot, pools=(20 * GIB,), approve=True))
        for name in MODELS:
            spec = LoadSpec(backend="echo", vram=9 * GIB)
            await self.send(c.DeclareModel(model=name, spec=spec, scheduling=Scheduling(parallel=4)))

    async def client(self, number: int) -> None:
        """Ask, hold, let go, for ever; now and then forget to, as a holder that renews no lease."""
        for turn in itertools.count():
            request = f"{self.run}-{number}-{turn}"
            model = self.chance.choice(MODELS)
            forgets = self.chance.random() < 0.05
            holder = f"{self.run}-forgetful" if forgets else self.run
            envelope = self.envelope(c.AcquireLock(request=request, model=model, holder=holder))
            reply = await self.seat.acquire(envelope)
            self.ack(envelope)
            await asyncio.sleep(0)
            if isinstance(reply, c.Locked) and not forgets:
                await self.send(c.ReleaseLock(request=request))

    def others(self) -> list[str]:
        """Holders of earlier runs that still have locks."""
        return [holder for holder in self.seat.state().by_holder if not holder.startswith(self.run)]

    async def renew(self) -> None:
        """Keep this run's own lease, and say when those of earlier runs have ended."""
        began = asyncio.get_running_loop().time()
        free = False
        while True:
            await self.seat.renew_lease(self.run)
            if not free and not self.others():
                free = True
                say("free", asyncio.get_running_loop().time() - began)
            await asyncio.sleep(0.05)

    async def main(self, settle: bool) -> None:
        """Lead and serve until killed, or until settled."""
        running = asyncio.create_task(self.seat.run())
        leads = asyncio.create_task(self.seat.began.wait())
        await asyncio.wait([running, leads], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        renewing = asyncio.create_task(self.renew())
        await self.set_up()
        clients = [] if settle else [asyncio.create_task(self.client(number)) for number in range(CLIENTS)]
        if settle:
            while self.others():
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.1)
            renewing.cancel()
            await self.seat.stop()
            await running
            return
        await asyncio.wait([running, renewing, *clients], return_when=asyncio.FIRST_COMPLETED)
        for task in [running, renewing, *clients]:
            if task.done():
                task.result()


if __name__ == "__main__":
    asyncio.run(Program(sys.argv[1], int(sys.argv[2])).main("--settle" in sys.argv))
