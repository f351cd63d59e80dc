"""Files that commands write: none of them may be written over an event store.

Nothing of Interlock is imported with this: ``audit verify`` writes its anchor where the domain cannot even be loaded,
and refuses a file with an error of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

_DATABASE = b"SQLite format 3\0"
_BESIDE = ("-wal", "-shm", "-journal", ".lease")
"""What SQLite and the writer's lease call the files beside a store."""


def writable_file(named: str | Path) -> Path:
    """The file, which may be written; raises UsageError where its folder is missing, and for one of an event store.

    It is asked before what is written takes its time.
    """
    from interlock.domain.errors import UsageError

    path = Path(named)
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}.", cure="Make it, or name a file in another.")
    if harm := harmed_store(path):
        raise UsageError(harm, cure="Name another file.")
    return path


def harmed_store(path: Path) -> str:
    """What is wrong with writing to ``path``, as a sentence: it is an event store, or a file of one; else empty.

    A store is known by its first bytes, however it was named: by an address, its folder, or through a link.
    """
    if _is_database(path):
        return f"{path} is an event store, which would be lost."
    real = Path(os.path.realpath(path))  # resolve() raises where a link leads to itself: opening it says so
    for ending in _BESIDE:
        store = real.with_name(real.name.removesuffix(ending))
        if real.name.endswith(ending) and _is_database(store):
            return f"{path} belongs to the event store {store}, which would be lost."
    return ""


def _is_database(path: Path) -> bool:
    try:
        # A pipe has no beginning to look at, and would keep whoever tries waiting.
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_DATABASE)) == _DATABASE
    except OSError:
        return False
