"""What the stores on SQLite and on PostgreSQL have in common: the reading half of the port."""

from __future__ import annotations

from collections.abc import Iterator

from interlock.domain.recording import Recorded, Snapshot

from . import batch
from .queries import LogReader

KEPT_SNAPSHOTS = 2
"""A store keeps so many, the newest: one that turns out to be unreadable has another behind it."""
IDLE_READERS = 4
"""So many connections that only read are kept open for the next reader."""
LIBRARY_OWNER = "eventsourcing"
"""Who the epoch's owner is once the library has written."""


class SqlStore(LogReader):
    """The part of the ``EventStore`` port that asks and changes nothing. How to fetch is for the engine to say."""

    page_events: int
    """So many events are fetched at a time while the log is read."""

    def read(self, after: int = 0, *, upto: int | None = None, limit: int | None = None) -> Iterator[Recorded]:
        """See the port. Each page is a statement of its own, so that a slow reader holds nothing back."""
        for row in self.sealed_rows(after, upto=upto, limit=limit, page_events=self.page_events):
            yield batch.to_recorded(row)

    def find_command(self, command_id: str) -> list[Recorded]:
        """See the port."""
        if not command_id:
            return []
        # The second comparison is what lets a partial index serve the first.
        return self.select("command_id = ? AND command_id <> ''", (command_id,))

    def load_snapshots(self) -> list[Snapshot]:
        """See the port."""
        rows = self.fetch("SELECT position, schema, state FROM interlock_snapshots ORDER BY position DESC")
        return [Snapshot(*row) for row in rows]
