"""The same work as the library `eventsourcing` does it: load the aggregate, lock or release, save; with threads.

An application of the library is given every advantage that it has a use for: each thread has aggregates of its own, so
that no two ever conflict, and begins a new one before loading it takes long.
"""

from __future__ import annotations

import threading
from time import perf_counter
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from psycopg.conninfo import conninfo_to_dict

_DECISIONS_PER_AGGREGATE = 50
_CONNECTIONS = 32
_LEAST_DECISIONS, _LONGEST_S = 20, 15.0


class Slot(Aggregate):
    """A replica's locks, as an aggregate of the library."""

    @event("Created")
    def __init__(self, model: str, node: str) -> None:
        self.model, self.node = model, node
        self.requests: dict[str, str] = {}

    @event("Locked")
    def lock(self, request: str, holder: str) -> None:
        """A request takes the replica."""
        self.requests[request] = holder

    @event("Released")
    def release(self, request: str) -> None:
        """The request is over."""
        del self.requests[request]


class Slots(Application[UUID]):
    """Load-lock-save, and the same for a release."""

    def add(self) -> UUID:
        """A new replica."""
        slot = Slot("m-1", "node-00001")
        self.save(slot)
        return slot.id

    def lock(self, slot_id: UUID, request: str) -> None:
        """One durable decision."""
        slot: Slot = self.repository.get(slot_id)
        slot.lock(request, "gateway-1")
        self.save(slot)

    def release(self, slot_id: UUID, request: str) -> None:
        """Another."""
        slot: Slot = self.repository.get(slot_id)
        slot.release(request)
        self.save(slot)


def load_lock_save(url: str, waiting: int, seconds: float) -> float:
    """Decisions a second with ``waiting`` threads, each going on when its decision is durable."""
    application = Slots(env=_environment(url))
    counts = [0] * waiting
    ready, stop = threading.Barrier(waiting + 1), threading.Event()

    def work(place: int) -> None:
        slot, number = application.add(), 0
        # Connections are open and every thread has stored something before the clock starts.
        ready.wait()
        while not stop.is_set():
            if number % _DECISIONS_PER_AGGREGATE == 0:
                slot = application.add()
            application.lock(slot, f"q-{place}-{number}")
            counts[place] += 1
            application.release(slot, f"q-{place}-{number}")
            counts[place] += 1
            number += 2

    threads = [threading.Thread(target=work, args=(place,)) for place in range(waiting)]
    for thread in threads:
        thread.start()
    ready.wait()
    begun = perf_counter()
    stop.wait(seconds)
    while sum(counts) < _LEAST_DECISIONS and perf_counter() - begun < _LONGEST_S:
        # With very many threads the first decisions take long; a figure of none would be no limit.
        stop.wait(seconds)
    done, took = sum(counts), perf_counter() - begun
    stop.set()
    for thread in threads:
        thread.join()
    application.close()
    return done / took


def _environment(url: str) -> dict[str, str]:
    parts = conninfo_to_dict(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(parts.get("dbname", "")),
        "POSTGRES_HOST": str(parts.get("host", "")),
        "POSTGRES_PORT": str(parts.get("port", "5432")),
        "POSTGRES_USER": str(parts.get("user", "")),
        "POSTGRES_PASSWORD": str(parts.get("password", "")),
        "POSTGRES_POOL_SIZE": str(_CONNECTIONS),
        "POSTGRES_MAX_OVERFLOW": str(_CONNECTIONS),
        "POSTGRES_POOL_TIMEOUT": "60",
        "POSTGRES_CONNECT_TIMEOUT": "30",
        "POSTGRES_LOCK_TIMEOUT": "0",
    }
