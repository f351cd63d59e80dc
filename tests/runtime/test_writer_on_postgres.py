"""The writer over a real PostgreSQL whose sessions are cut under it."""

from __future__ import annotations

import asyncio
import itertools

import psycopg
import pytest

from interlock.adapters.memory.workers import InMemoryWorkers
from interlock.adapters.runtime.clock import SystemClock
from interlock.adapters.runtime.store_threads import StoreThreads
from interlock.adapters.runtime.takeover import Seat
from interlock.adapters.store import open_store
from interlock.domain import commands as c
from interlock.domain.engine import Engine
from interlock.domain.entities import LoadSpec, Scheduling
from interlock.domain.errors import NoWriter
from interlock.domain.snapshots import encode_cluster
from interlock.domain.units import GIB

pytestmark = pytest.mark.xdist_group("postgres")

CUTS = 12


def cut_all_sessions(url: str) -> None:
    """End every session on the database but this one, as a restart of the server does."""
    with psycopg.connect(url, autocommit=True) as session:
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def test_cut_sessions_cost_no_answer_and_no_event(postgres_url: str) -> None:
    store, workers = open_store(postgres_url), InMemoryWorkers(["thor"])
    seat = Seat(StoreThreads(store), workers, SystemClock(), owner="w", lease_us=2_000_000)
    running = asyncio.create_task(seat.run())
    await seat.began.wait()
    serial = itertools.count(1)
    stop = asyncio.Event()

    async def decided(command: c.Command) -> c.AnyReply:
        """Until a writer has answered: the same envelope, as gateways do."""
        envelope = c.Envelope(command_id=f"c{next(serial)}", command=command)
        while True:
            try:
                return await (seat.acquire if isinstance(command, c.AcquireLock) else seat.send)(envelope)
            except NoWriter:
                await asyncio.sleep(0.02)

    async def client(number: int) -> int:
        for turn in itertools.count():
            if stop.is_set():
                return turn
            request = f"q{number}-{turn}"
            assert isinstance(await decided(c.AcquireLock(request=request, model="m", holder="gw")), c.Locked)
            assert isinstance(await decided(c.ReleaseLock(request=request)), c.Done)
        return 0

    await decided(c.RegisterNode(node="thor", boot="b-thor-1", pools=(24 * GIB,), approve=True))
    spec = LoadSpec(backend="echo", vram=GIB)
    await decided(c.DeclareModel(model="m", spec=spec, scheduling=Scheduling(parallel=0)))
    clients = [asyncio.create_task(client(number)) for number in range(16)]
    for _ in range(CUTS):
        position = seat.feed.position
        await asyncio.to_thread(cut_all_sessions, postgres_url)
        async with asyncio.timeout(20):
            while seat.feed.position < position + 200:
                assert not running.done()
                await asyncio.sleep(0.005)
    stop.set()
    served = sum(await asyncio.wait_for(asyncio.gather(*clients), 20))
    live = encode_cluster(seat.state())
    stored = list(store.read())
    assert encode_cluster(Engine().replay(stored).state) == live
    epochs = [recorded.epoch for recorded in stored]
    assert epochs == sorted(epochs)
    assert epochs[-1] > 1
    locks = [recorded for recorded in stored if ".ReplicaLocked." in recorded.topic]
    released = [recorded for recorded in stored if ".ReplicaReleased." in recorded.topic]
    assert len({recorded.request_id for recorded in locks}) == len(locks) == len(released) == served
    await seat.stop()
    await running
    await asyncio.to_thread(store.close)
