"""What every engine does with a batch before it is stored:

check it, tell what is new in it, and seal it into the chain.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import astuple

from interlock.domain.errors import ChainBroken, EventConflict, InvalidField
from interlock.domain.recording import Head, Recorded

from . import chain

_EPOCH = chain.COLUMNS.index("epoch")
_EVENT_ID = chain.COLUMNS.index("event_id")


@dataclass(frozen=True)
class End:
    """Where a log ends: its last position (0 when empty) and the raw digest there."""

    position: int = 0
    digest: bytes = chain.GENESIS

    def head(self) -> Head:
        """The same in the port's terms."""
        return Head(self.position, self.digest.hex())


def to_recorded(row: chain.Row) -> Recorded:
    """The event in a raw row, sealed or not."""
    return Recorded(*row[: len(chain.COLUMNS)])


def check_positions(batch: Sequence[Recorded]) -> None:
    """Raise ``EventConflict`` unless the batch's positions follow one another."""
    first = batch[0].position
    for index, event in enumerate(batch):
        if event.position != first + index:
            raise EventConflict(
                f"the batch has position {event.position} where {first + index} belongs.",
                cure="The writer assigns positions without gaps.",
            )


def remainder(
    batch: Sequence[Recorded], end: End, stored: Callable[[int, int], Sequence[chain.Row]]
) -> Sequence[Recorded]:
    """The events of ``batch`` that are not stored yet: all of it, none of it, or what follows a stored beginning.

    ``stored(first, last)`` reads the rows at these positions. What stands there must be the same events with the same
    content; only their epoch may differ, because a writer that repeats a batch after a takeover stamps it with its own.
    Raises ``EventConflict`` when other events stand there, or when the batch would leave a gap.
    """
    check_positions(batch)
    first = batch[0].position
    if first > end.position + 1 or first < 1:
        raise EventConflict(
            f"the log ends at position {end.position} and the batch begins at {first}.",
            cure="Read the log's tail and decide again.",
        )
    overlap = min(end.position - first + 1, len(batch))
    if overlap <= 0:
        return batch
    rows = stored(first, first + overlap - 1)
    if len(rows) != overlap:
        raise ChainBroken(
            f"positions {first} to {first + overlap - 1} hold {len(rows)} events.", cure="Run `interlock audit verify`."
        )
    for event, row in zip(batch, rows, strict=False):
        if not same_content(event, row):
            raise EventConflict(
                f"position {event.position} holds event {row[_EVENT_ID]!r} of {row[1]} version {row[2]}, "
                f"which is not the event {event.event_id!r} of {event.stream} version {event.version} to be stored.",
                cure="Read the log's tail and decide again.",
            )
    return batch[overlap:]


def same_content(event: Recorded, row: chain.Row) -> bool:
    """Whether ``row`` is this event: equal in every column but the epoch."""
    wanted = astuple(event)
    return wanted[:_EPOCH] == row[:_EPOCH] and wanted[_EPOCH + 1 :] == row[_EPOCH + 1 : len(wanted)]


def seal(batch: Sequence[Recorded], epoch: int, end: End) -> list[chain.Row]:
    """The rows to store for ``batch`` on top of ``end``, each with its digest.

    Raises ``InvalidField`` when an event is stamped with another epoch, or holds a value that no log can store.
    """
    rows: list[chain.Row] = []
    previous = end.digest
    for event in batch:
        if event.epoch != epoch:
            raise InvalidField("epoch", f"event {event.event_id!r} is stamped {event.epoch} under epoch {epoch}")
        row = astuple(event)
        try:
            previous = chain.digest(previous, row)
        except (TypeError, ValueError, struct.error) as problem:
            raise InvalidField("event", f"{event.event_id!r} cannot be stored: {problem}") from problem
        rows.append((*row, previous))
    return rows
