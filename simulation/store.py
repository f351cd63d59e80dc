"""Writing a run's events into a SQLite event store, which every audit command reads."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from interlock.adapters.store.sqlite import FILE_NAME, SqliteStore
from interlock.domain.errors import UsageError
from interlock.domain.recording import Recorded

BATCH = 2_000


def write_events(rows: list[Recorded], path: Path) -> Path:
    """Store the events in a new file (in a folder: under the store's usual name); raises UsageError when it exists."""
    if path.is_dir():
        path = path / FILE_NAME
    if path.exists():
        raise UsageError(
            f"The file {path} exists already.", cure="Name a new file for --events, or move that one away."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    store = SqliteStore(path, durable=False)
    try:
        epoch = 0
        for wanted, of_epoch in groupby(rows, key=lambda row: row.epoch):
            while epoch < wanted:
                epoch = store.take_epoch("simulation", 0)
            batch = list(of_epoch)
            for start in range(0, len(batch), BATCH):
                store.append(batch[start : start + BATCH], epoch)
        store.release_epoch(epoch)
    finally:
        store.close()
    return path
