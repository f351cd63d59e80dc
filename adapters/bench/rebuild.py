"""``bench rebuild``: from a log to the state, and from a snapshot and the tail after it."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from time import perf_counter

from interlock.adapters.audit.rebuild import engine_at
from interlock.adapters.store import SqliteStore, open_store
from interlock.domain.codec import decode_event
from interlock.domain.commands import AcquireLock, Command, Envelope, ReleaseLock
from interlock.domain.engine import Engine
from interlock.domain.recording import Recorded
from interlock.domain.snapshots import take_snapshot

from .fleet import NOW, Fleet
from .report import Row, Scale, Tell, median, row

LOG_EVENTS = 1_000_000
REPLAYED_EVENTS = 200_000
SNAPSHOT_EVENTS = 10_000
"""The writer's own distance between two snapshots: the longest tail there is."""
NODES = 100
_BATCH_EVENTS = 2_000
_READY_S = 6.0


def measure(scale: Scale, tell: Tell) -> list[Row]:
    """Replay beside reading and decoding, and the time until a log of a million events is ready to decide on."""
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as folder:
        store = SqliteStore(Path(folder) / "events.db", durable=False)
        try:
            events = scale.of(LOG_EVENTS, 5_000)
            tell(f"rebuild: writing a log of {events} events")
            _write(store, events)
            return _measure(store, scale, tell)
        finally:
            store.close()


def _write(store: SqliteStore, events: int) -> None:
    """A log of warm traffic on a hundred nodes, with a snapshot where the writer would have made its last one."""
    epoch = store.take_epoch("bench", 60_000_000)
    fleet = Fleet(NODES, parallel=4, epoch=epoch)
    engine, rows = fleet.engine, list(fleet.rows)
    number, snapshot_at = 0, events - SNAPSHOT_EVENTS
    while engine.ledger.position < events:
        request, model = f"q-{number:09d}", fleet.warm[number * 7 % len(fleet.warm)]
        rows += _decide(engine, number, AcquireLock(request=request, model=model, holder="gateway-1"))
        rows += _decide(engine, number, ReleaseLock(request=request))
        number += 1
        if len(rows) >= _BATCH_EVENTS:
            store.append(rows, epoch)
            rows = []
            if 0 < snapshot_at <= engine.ledger.position:
                store.save_snapshot(take_snapshot(engine))
                snapshot_at = 0
    store.append(rows, epoch)


def _decide(engine: Engine, number: int, command: Command) -> tuple[Recorded, ...]:
    command_id = f"c-{number:09d}-{type(command).__name__}"
    return engine.handle(Envelope(command_id=command_id, command=command, actor="gateway-1"), NOW + number).recorded


def _measure(store: SqliteStore, scale: Scale, tell: Tell) -> list[Row]:
    count = min(store.head().position, scale.of(REPLAYED_EVENTS, 2_000))
    read: list[float] = []
    replayed: list[float] = []
    ready: list[float] = []
    for run in range(scale.runs):
        tell(f"rebuild: run {run + 1} of {scale.runs}")
        gc.collect()
        begun = perf_counter()
        for recorded in store.read(upto=count):
            decode_event(recorded.topic, recorded.state)
        read.append(count / (perf_counter() - begun))
        gc.collect()
        begun = perf_counter()
        Engine().replay(store.read(upto=count))
        replayed.append(count / (perf_counter() - begun))
        gc.collect()
        begun = perf_counter()
        _open_and_restore(store.path)
        ready.append(perf_counter() - begun)
    head = store.head().position
    return [
        row(
            "log to state", replayed, "events/s", limit=median(read), bar="≥ 0.3x", holds=lambda _, ratio: ratio >= 0.3
        ),
        row(
            f"ready from snapshot + tail of {min(head, SNAPSHOT_EVENTS)}, {head} events",
            ready,
            "s",
            bar=f"≤ {_READY_S:g} s",
            holds=lambda value, _: value <= _READY_S,
        ),
        row(f"all {head} events without a snapshot", [head / median(replayed)], "s"),
    ]


def _open_and_restore(path: Path) -> None:
    """All that a new writer does before it can decide: open the store, find the snapshot, fold the tail."""
    store = open_store(path, read_only=True)
    try:
        engine_at(store, store.head().position)
    finally:
        store.close()
