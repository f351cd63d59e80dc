"""The audit's questions to a log, the same on every engine:

pages of events by filter, single events, raw rows, and SQL.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import msgspec

from interlock.domain.errors import UsageError
from interlock.domain.recording import Head, Recorded

from . import batch, chain, sql

Params = Sequence[Any]
Question = Callable[[str], tuple[list[str], Iterator[chain.Row]]]
"""Runs one foreign statement: its column names, and its rows as they come."""

PAGE_EVENTS = 1_000
SQL_ROWS = 10_000
SQL_TIMEOUT_S = 30.0


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which events to show; what is left empty does not filter, and all that is given must hold.

    ``streams`` are exact names, one of which must match. ``event`` is the last part of a topic (``ReplicaLoaded``), or
    the whole topic. ``node``, ``model`` and ``replica`` match the stream of that thing and every event whose payload
    has a field of that name with this value; ``request`` matches the column and a payload field likewise. ``since`` and
    ``until`` are microseconds since 1970-01-01T00:00:00Z, with ``since <= time < until``.
    """

    streams: tuple[str, ...] = ()
    event: str = ""
    node: str = ""
    model: str = ""
    replica: str = ""
    request: str = ""
    actor: str = ""
    command_id: str = ""
    correlation_id: str = ""
    since: int | None = None
    until: int | None = None


class SqlAnswer(msgspec.Struct, frozen=True):
    """What a query gave: its columns, its rows, and whether rows beyond the limit were left out."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    truncated: bool


class LogReader(ABC):
    """A log that can be asked. Engines say how to fetch; the questions are put together here.

    Statements are written with ``?`` for parameters and the engine's own column names, taken from its ``rows``
    statement.
    """

    dialect: str
    """``sqlite`` or ``postgres``: names the SQL files and the few expressions that differ."""

    @abstractmethod
    def fetch(self, statement: str, params: Params = ()) -> list[chain.Row]:
        """All rows of a query. Raises ``StoreUnavailable``."""

    @abstractmethod
    def question(self, timeout_s: float) -> AbstractContextManager[Question]:
        """A place to run one foreign statement in; it can read and nothing else, and is stopped after ``timeout_s``."""

    @abstractmethod
    def wait_beyond(self, position: int, timeout_s: float) -> Head:
        """The log's head, as soon as it is beyond ``position``, or after ``timeout_s`` at the latest."""

    # --- Events -------------------------------------------------------------------------------------------------------

    def select(
        self, condition: str, params: Params, *, limit: int | None = None, newest: bool = False
    ) -> list[Recorded]:
        """The events that satisfy an SQL ``condition``, in order of position; of more, the oldest or ``newest``."""
        return [batch.to_recorded(row) for row in self._rows(condition, params, limit, newest)]

    def log(
        self, filters: Filters, *, after: int = 0, limit: int = PAGE_EVENTS, newest: bool = False
    ) -> list[Recorded]:
        """One page: at most ``limit`` events beyond position ``after`` that pass the filters, in order.

        The last event's position is the cursor of the next page; a page with fewer than ``limit`` events is the last
        for now. Positions never change, so that a cursor stays good. ``newest`` gives the last page instead.
        """
        conditions, params = _conditions(filters, self.dialect)
        condition = " AND ".join([f"{self.position_column} > ?", *conditions])
        return self.select(condition, [after, *params], limit=limit, newest=newest)

    def log_all(self, filters: Filters, *, after: int = 0) -> Iterator[Recorded]:
        """Every event beyond ``after`` that passes the filters, page by page."""
        while page := self.log(filters, after=after):
            yield from page
            after = page[-1].position

    def event(self, event_id: str) -> Recorded | None:
        """The event with this id, or None."""
        return next(iter(self.select("event_id = ?", (event_id,))), None)

    def at(self, position: int) -> Recorded | None:
        """The event at this position, or None."""
        return next(iter(self.select(f"{self.position_column} = ?", (position,))), None)

    def position_at(self, time: int) -> int:
        """The last position whose event is not later than ``time`` (microseconds); 0 when all are later."""
        statement = f"SELECT max({self.position_column}) FROM stored_events WHERE time <= ?"
        return int(self.fetch(statement, (time,))[0][0] or 0)

    # --- Raw rows -----------------------------------------------------------------------------------------------------

    def sealed_rows(
        self,
        after: int | None = 0,
        *,
        upto: int | None = None,
        limit: int | None = None,
        page_events: int = PAGE_EVENTS,
    ) -> Iterator[chain.Row]:
        """Raw rows with their digests in order of position, as ``chain.check`` takes them; nothing is decoded.

        ``after=None`` begins with whatever row is first, though it may stand where no log has one.
        """
        left = limit
        while left is None or left > 0:
            size = page_events if left is None else min(page_events, left)
            bounds = [
                (f"{self.position_column} {sign} ?", at) for sign, at in ((">", after), ("<=", upto)) if at is not None
            ]
            condition = " AND ".join(bound for bound, _ in bounds) or "TRUE"
            rows = self._rows(condition, [at for _, at in bounds], size)
            yield from rows
            if len(rows) < size:
                return
            after = rows[-1][0]
            left = None if left is None else left - len(rows)

    def verify(self, *, anchors: Sequence[chain.Anchor] = ()) -> chain.Finding:
        """Check the hash chain of the whole log, and the anchors."""
        return chain.check(self.sealed_rows(None), anchors=anchors)

    # --- SQL ----------------------------------------------------------------------------------------------------------

    def execute_sql(self, statement: str, *, limit: int = SQL_ROWS, timeout_s: float = SQL_TIMEOUT_S) -> SqlAnswer:
        """Run one foreign query that reads; at most ``limit`` rows come back.

        Raises ``UsageError`` when it is no query, does not parse, or would write; ``StoreUnavailable`` when it takes
        longer than ``timeout_s``. The view ``events`` has the log under plain names.
        """
        statement = statement.strip().rstrip(";").rstrip()
        if not statement:
            raise UsageError("the query is empty.", cure="Try: SELECT * FROM events ORDER BY position DESC LIMIT 5")
        with self.question(timeout_s) as ask:
            columns, rows = ask(statement)
            kept = list(islice(rows, limit + 1))
        return SqlAnswer(columns, kept[:limit], len(kept) > limit)

    # --- Details ------------------------------------------------------------------------------------------------------

    @property
    def position_column(self) -> str:
        """What ``stored_events`` calls the position."""
        return _POSITION[self.dialect]

    def _rows(self, condition: str, params: Params, limit: int | None, newest: bool = False) -> list[chain.Row]:
        statement = f"{sql.text(f'{self.dialect}_rows')} WHERE {condition} ORDER BY {self.position_column}"
        if limit is None:
            return self.fetch(statement, params)
        if newest:
            return self.fetch(f"{statement} DESC LIMIT ?", [*params, limit])[::-1]
        return self.fetch(f"{statement} LIMIT ?", [*params, limit])


_POSITION = {"sqlite": "rowid", "postgres": "notification_id"}
_FIELD = {
    # Not every state is JSON: the library's applications may compress or encrypt theirs.
    "sqlite": "CASE WHEN json_valid(CAST(state AS TEXT)) THEN json_extract(CAST(state AS TEXT), '$.{field}') END",
    "postgres": "interlock_json(state) ->> '{field}'",
}


def _conditions(filters: Filters, dialect: str) -> tuple[list[str], list[Any]]:
    """The SQL conditions of the filters that are given, and their parameters."""
    conditions: list[str] = []
    params: list[Any] = []

    def add(condition: str, *values: Any) -> None:
        conditions.append(condition)
        params.extend(values)

    def field(name: str) -> str:
        return _FIELD[dialect].format(field=name)

    if filters.streams:
        add(f"originator_id IN ({', '.join('?' * len(filters.streams))})", *filters.streams)
    if filters.event:
        name = filters.event
        # LIKE would need escaping, and ignores case on SQLite.
        ends = f"substr(topic, length(topic) - {len(name)}) IN (?, ?)"
        add(f"(topic = ? OR {ends})", name, f":{name}", f".{name}")
    for kind in ("node", "model", "replica"):
        if value := getattr(filters, kind):
            add(f"(originator_id = ? OR {field(kind)} = ?)", f"{kind}:{value}", value)
    if filters.request:
        add(f"(request_id = ? OR {field('request')} = ?)", filters.request, filters.request)
    for column in ("actor", "command_id", "correlation_id"):
        if value := getattr(filters, column):
            # The second comparison is what lets a partial index serve the first.
            add(f"({column} = ? AND {column} <> '')", value)
    if filters.since is not None:
        add("time >= ?", filters.since)
    if filters.until is not None:
        add("time < ?", filters.until)
    return conditions, params
