"""``bench commit``: durable lock decisions a second on PostgreSQL, with the real writer, core, chain and store.

Beside it stand the same rows in raw binary ``unnest`` inserts of the same batch size, one after the other, and the same
work as `eventsourcing` does it: load the aggregate, lock, save. A decision is an acquire or a release.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
import psycopg
from psycopg import sql

from interlock.adapters.runtime.clock import SystemClock
from interlock.adapters.runtime.lease import Lease
from interlock.adapters.runtime.store_threads import StoreThreads
from interlock.adapters.runtime.writer import Writer
from interlock.adapters.store import migrate, open_store
from interlock.adapters.store.link import Link, Timeouts, bytea_array, int8_array, text_array
from interlock.adapters.store.postgres import PostgresStore
from interlock.domain.commands import AcquireLock, AnyReply, Command, Done, Envelope, Locked, ReleaseLock
from interlock.domain.errors import InvariantBroken

from .fleet import Fleet
from .library import load_lock_save
from .postgres import temporary_server
from .report import Row, Scale, Tell, median, row

WAITING = (1, 64, 1_024)
NODES = 100
_PARALLEL = 16
_SECONDS = 2.0
_WARM_UP_SECONDS = 0.5
_LEASE_US = 30_000_000
_SETUP_BATCH = 2_000
_RAW_ROWS = 20_000


class Run(msgspec.Struct, frozen=True):
    """What one run of ours has shown: decisions a second, events per decision, events per batch."""

    decisions_s: float
    events_per_decision: float
    batch_events: int


def measure(scale: Scale, tell: Tell) -> list[Row]:
    """The three concurrencies, each in databases of its own."""
    if scale.store:
        return _measure(scale.store, scale, tell)
    with temporary_server() as url:
        return _measure(url, scale, tell)


def _measure(url: str, scale: Scale, tell: Tell) -> list[Row]:
    rows: list[Row] = []
    seconds = max(0.2, _SECONDS * min(1.0, scale.share * 10))
    for waiting in WAITING:
        ours, raw, library, batches = [], [], [], []
        for number in range(scale.runs):
            tell(f"commit: {waiting} waiting, run {number + 1} of {scale.runs}")
            with _database(url) as database:
                run = asyncio.run(_ours(database, waiting, seconds))
                ours.append(run.decisions_s)
                batches.append(run.batch_events)
                raw.append(_raw(database, run.batch_events) / run.events_per_decision)
            with _database(url) as database:
                library.append(load_lock_save(database, waiting, max(1.0, seconds)))
        rows += _rows(waiting, ours, raw, library, batches)
    return rows


def _rows(waiting: int, ours: list[float], raw: list[float], library: list[float], batches: list[int]) -> list[Row]:
    case, unit = f"{waiting} waiting", "decisions/s"
    raw_bar, library_bar = ("≥ 0.25x raw", "≥ 20x load-lock-save") if waiting == 64 else (None, None)
    return [
        row(
            f"{case}, beside raw inserts",
            ours,
            unit,
            limit=median(raw),
            bar=raw_bar,
            holds=(lambda _, ratio: ratio >= 0.25) if raw_bar else None,
        ),
        row(
            f"{case}, beside load-lock-save",
            ours,
            unit,
            limit=median(library),
            bar=library_bar,
            holds=(lambda _, ratio: ratio >= 20) if library_bar else None,
        ),
        row(f"{case}, events a batch", batches, "events"),
    ]


# --- Ours -----------------------------------------------------------------------------------------------------------


async def _ours(url: str, waiting: int, seconds: float) -> Run:
    """``waiting`` clients, each acquiring and releasing in turn, each waiting until its decision is durable."""
    migrate(url)
    store = open_store(url)
    threads, clock = StoreThreads(store), SystemClock()
    lease = Lease(threads, "bench", _LEASE_US, clock)
    fleet = Fleet(NODES, parallel=_PARALLEL, epoch=await lease.take())
    for first in range(0, len(fleet.rows), _SETUP_BATCH):
        store.append(fleet.rows[first : first + _SETUP_BATCH], lease.epoch)
    sizes: list[int] = []
    writer = Writer(
        threads,
        fleet.engine,
        lease,
        clock,
        name="bench",
        dispatch=lambda effects: None,
        listeners=[lambda recorded, events: sizes.append(len(recorded))],
    )
    fleet.rows.clear()
    gc.collect()
    leading = asyncio.create_task(writer.lead())
    try:
        load = _Load(writer, fleet.warm)
        clients = [asyncio.create_task(load.client(client)) for client in range(waiting)]
        await asyncio.sleep(min(seconds, _WARM_UP_SECONDS))
        done, batches, begun = load.decisions, len(sizes), perf_counter()
        await asyncio.sleep(seconds)
        decisions, took = load.decisions - done, perf_counter() - begun
        measured = sizes[batches:]
        load.stop = True
        await asyncio.gather(*clients)
        await writer.stop()
        await leading
        await lease.give_back()
    finally:
        leading.cancel()
        await threads.close()
    if not decisions or not measured:
        raise InvariantBroken("No decision became durable while it was measured.")
    events = sum(measured)
    return Run(decisions / took, max(1.0, events / decisions), max(1, round(events / len(measured))))


class _Load:
    """Clients that take and release locks for as long as they may."""

    def __init__(self, writer: Writer, models: Sequence[str]) -> None:
        self._writer, self._models = writer, models
        self.decisions = 0
        self.stop = False

    async def client(self, client: int) -> None:
        """One client; its models follow one another, so that no two clients go the same way."""
        for number in itertools.count():
            if self.stop:
                return
            request = f"q-{client:04d}-{number:06d}"
            model = self._models[(client * 37 + number * 11) % len(self._models)]
            acquire = AcquireLock(request=request, model=model, holder="gateway-1")
            await self._send(f"{request}-acquire", acquire, Locked)
            await self._send(f"{request}-release", ReleaseLock(request=request), Done)

    async def _send(self, command_id: str, command: Command, wanted: type[AnyReply]) -> None:
        reply = await self._writer.send(Envelope(command_id=command_id, command=command, actor="gateway-1"))
        if not isinstance(reply, wanted):
            raise InvariantBroken(f"The benchmark expected {wanted.__name__} and got {reply!r}.")
        self.decisions += 1


# --- Raw inserts ----------------------------------------------------------------------------------------------------

_COLUMNS = (
    ("originator_id", "text"),
    ("originator_version", "bigint"),
    ("topic", "text"),
    ("state", "bytea"),
    ("notification_id", "bigint"),
    ("event_id", "text"),
    ("time", "bigint"),
    ("epoch", "bigint"),
    ("actor", "text"),
    ("command_id", "text"),
    ("correlation_id", "text"),
    ("causation_id", "text"),
    ("request_id", "text"),
    ("digest", "bytea"),
)
_PACK: dict[str, Any] = {"text": text_array, "bigint": int8_array, "bytea": bytea_array}


def _raw(url: str, batch_events: int) -> float:
    """Events a second of the very rows that ours stored, in a table of the same shape with the same indexes."""
    names = ", ".join(name for name, _ in _COLUMNS)
    arrays = ", ".join(f"${place}::{kind}[]" for place, (_, kind) in enumerate(_COLUMNS, 1))
    statement = f"INSERT INTO raw_events ({names}) SELECT * FROM unnest({arrays})"
    store = PostgresStore(url, read_only=True)
    try:
        query = f"SELECT {names} FROM stored_events ORDER BY notification_id DESC LIMIT ?"
        rows = store.fetch(query, [max(batch_events, min(_RAW_ROWS, batch_events * 500))])[::-1]
    finally:
        store.close()
    link = Link(url, Timeouts())
    try:
        link.execute("CREATE TABLE raw_events (LIKE stored_events INCLUDING ALL)")
        count = 0
        begun = perf_counter()
        for first in range(0, len(rows) - batch_events + 1, batch_events):
            batch = list(zip(*rows[first : first + batch_events], strict=True))
            packed = [_PACK[kind](column) for column, (_, kind) in zip(batch, _COLUMNS, strict=True)]
            link.execute(statement, packed, commits=True)
            count += batch_events
        return count / (perf_counter() - begun)
    finally:
        link.close()


# --- Databases ------------------------------------------------------------------------------------------------------

_numbers = itertools.count(1)


@contextmanager
def _database(url: str) -> Iterator[str]:
    """A fresh database on that server, dropped afterwards."""
    name = f"interlock_bench_{next(_numbers)}"
    with psycopg.connect(url, autocommit=True) as session:
        session.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        # As a URL still, since that is how a store is known to be on PostgreSQL.
        yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(url, autocommit=True) as session:
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
