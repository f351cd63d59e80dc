"""Writing a run's events into a SQLite event store, which every audit command reads."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from interlock.adapters.outputs import writable_file
from interlock.adapters.store.sqlite import FILE_NAME, SqliteStore
from interlock.domain.errors import UsageError
from interlock.domain.recording import Recorded

BATCH = 2_000


def events_file(named: str | Path) -> Path:
    """The file that will be written (in a folder: under the store's usual name); raises UsageError where none can be.

    It is asked before a run, which may take an hour.
    """
    text = str(named).removeprefix("sqlite:///")
    if "://" in text:
        scheme = text.partition("://")[0]  # and no more of it: it may hold a password
        problem = f"--events writes a file, and {scheme}://... is the address of a store."
        raise UsageError(problem, cure="Name a new file: --events run.db.")
    path = Path(text)
    if path.is_dir():
        path = path / FILE_NAME
    if path.exists():
        raise UsageError(
            f"The file {path} exists already.", cure="Name a new file for --events, or move that one away."
        )
    return writable_file(path)


def write_events(rows: list[Recorded], named: str | Path) -> Path:
    """Store the events in a new file, and return it; raises UsageError as :func:`events_file` does."""
    path = events_file(named)
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
