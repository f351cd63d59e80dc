"""The state as it was: the nearest snapshot before a position, and the log from there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.domain.engine import Engine
from interlock.domain.recording import Snapshot
from interlock.domain.snapshots import SCHEMA, restore

if TYPE_CHECKING:
    from .rows import Log


def engine_at(log: Log, position: int) -> Engine:
    """An engine that has folded the log up to and with ``position``.

    Raises UnknownEvent when an event there is too new for this program.
    """
    snapshot = newest_snapshot(log, position)
    engine = restore(snapshot) if snapshot is not None else Engine()
    return engine.replay(log.read(engine.ledger.position, upto=position))


def newest_snapshot(log: Log, position: int) -> Snapshot | None:
    """The newest kept snapshot of this program's own shape that is not beyond ``position``; None when there is none."""
    usable = (one for one in log.load_snapshots() if one.position <= position and one.schema == SCHEMA)
    return next(usable, None)
