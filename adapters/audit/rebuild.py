"""The state as it was: the nearest snapshot before a position, and the log from there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from interlock.domain import events as ev
from interlock.domain.codec import decode_event
from interlock.domain.engine import Engine
from interlock.domain.errors import ChainBroken
from interlock.domain.recording import Recorded, Snapshot
from interlock.domain.snapshots import SCHEMA, restore

if TYPE_CHECKING:
    from .rows import Log

ASK_VERIFY = "Run `interlock audit verify`; if the chain holds, this is a defect to be reported."


def engine_at(log: Log, position: int) -> Engine:
    """An engine that has folded the log up to and with ``position``.

    Raises UnknownEvent when an event there is too new for this program, ChainBroken when one cannot be read.
    """
    snapshot = newest_snapshot(log, position)
    engine = _restored(snapshot) if snapshot is not None else Engine()
    for recorded in log.read(engine.ledger.position, upto=position):
        fold(engine, recorded)
    return engine


def _restored(snapshot: Snapshot) -> Engine:
    try:
        return restore(snapshot)
    except _OF_DAMAGE as problem:
        told = f"The snapshot at position {snapshot.position} cannot be read: {_told(problem)}."
        cure = "Delete it from the table of snapshots: the log is read from an older one, or from its beginning."
        raise ChainBroken(told, cure=cure) from problem


class Rebuilt:
    """The states at several positions, each an engine of its own.

    Whoever asks in the order of the log has it read once: each state is built on from the one before, unless a snapshot
    lies between the two.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self._last: Engine | None = None

    def at(self, position: int) -> Engine:
        """See :func:`engine_at`, which it raises as."""
        last = self._last
        snapshot = newest_snapshot(self.log, position) if last is not None else None
        between = snapshot.position if snapshot is not None else 0
        if last is None or not between <= last.ledger.position <= position:
            last = self._last = engine_at(self.log, position)
        else:
            for recorded in self.log.read(last.ledger.position, upto=position):
                fold(last, recorded)
        return last.fork()


def fold(engine: Engine, recorded: Recorded) -> None:
    """Apply the next event of the log; raises as :func:`engine_at` does."""
    _follows(recorded, engine.ledger.position)
    try:
        engine.fold(recorded)
    except _OF_DAMAGE as problem:
        raise _unreadable(recorded, problem) from problem


def events_of(rows: Iterable[Recorded], after: int) -> Iterator[ev.Event]:
    """The events in consecutive rows, the first beyond ``after``; raises as :func:`engine_at` does."""
    for recorded in rows:
        _follows(recorded, after)
        after = recorded.position
        try:
            event = decode_event(recorded.topic, recorded.state)
        except _OF_DAMAGE as problem:
            raise _unreadable(recorded, problem) from problem
        yield event


def _follows(recorded: Recorded, last: int) -> None:
    if recorded.position != last + 1:
        raise ChainBroken(f"Position {recorded.position} follows {last} in the log.", cure=ASK_VERIFY)


_OF_DAMAGE = (msgspec.MsgspecError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What reading an event that somebody altered may end in."""


def _unreadable(recorded: Recorded, problem: Exception) -> ChainBroken:
    return ChainBroken(f"Position {recorded.position} cannot be read: {_told(problem)}.", cure=ASK_VERIFY)


def _told(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}".splitlines()[0]


def newest_snapshot(log: Log, position: int) -> Snapshot | None:
    """The newest kept snapshot of this program's own shape that is not beyond ``position``; None when there is none."""
    usable = (one for one in log.load_snapshots() if one.position <= position and one.schema == SCHEMA)
    return next(usable, None)
