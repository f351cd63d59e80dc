"""The audit's questions as one service over a store, for the command line and for HTTP alike."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from interlock.adapters.store.queries import SqlAnswer
from interlock.domain.errors import InvalidField
from interlock.domain.settings import Settings
from interlock.domain.units import format_instant

from . import export
from .differences import Change, changes
from .picture import Picture, comparable, picture
from .rebuild import engine_at
from .rows import Page, cursor_of, filters_of, matching, position_of, read_page, topics_of, writable
from .why import Why, explain

if TYPE_CHECKING:
    from interlock.adapters.store.queries import Filters
    from interlock.domain.recording import Recorded

    from .rows import Log
    from .whatif import Stretch

FOLLOW_S = 1.0
_EXPORT_PAGE = 1_000


class Past(Picture, frozen=True, kw_only=True):
    """The cluster as it was after the event at ``position``, which happened at ``time``."""

    position: int
    time: str


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What changed from one position to another."""

    start: int
    end: int
    changes: list[Change]


class AuditService:
    """Questions to one log. Blocking. Ids, times and positions are as users write them; errors are of the tree."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def log(self, filters: Mapping[str, str], *, newest: bool = False) -> Page:
        """One page of rows that match; see :func:`~interlock.adapters.audit.rows.read_page`."""
        return read_page(self._log, filters, newest=newest)

    def follow(self, filters: Mapping[str, str], *, newest: bool = False, poll_s: float = FOLLOW_S) -> Iterator[Page]:
        """Pages of what matches, then of what comes; never ends by itself. A page may have no rows.

        ``newest`` begins with the last page of what is there.
        """
        given = dict(filters)
        while True:
            page = self.log(given, newest=newest)
            yield page
            newest = False
            # Events that do not match need not be looked at again.
            given["after"] = str(page.cursor)
            if not page.more:
                seen = self._log.head().position
                self._log.wait_beyond(max(seen, page.cursor), poll_s)

    def why(self, subject: str, *, full: bool = False) -> Why:
        """The chain of causes; see :func:`~interlock.adapters.audit.why.explain`."""
        return explain(self._log, subject, full=full)

    def state(self, at: str) -> Past:
        """The cluster as it was at a time or position."""
        return self._state(position_of(self._log, at, "at"))

    def diff(self, start: str, end: str) -> Difference:
        """What changed between two times or positions."""
        first, last = position_of(self._log, start, "from"), position_of(self._log, end, "to")
        before, after = (comparable(engine_at(self._log, position).state) for position in (first, last))
        return Difference(start=first, end=last, changes=changes(before, after))

    def stretch(self, begin: str, until: str) -> Stretch:
        """A part of the log, ready to be run again; see :mod:`interlock.adapters.audit.whatif`."""
        from .whatif import stretch  # here, because no other question needs the simulation

        return stretch(self._log, begin, until)

    def verify(self) -> dict[str, Any]:
        """Whether the hash chain holds, and if not, the first bad position."""
        found = self._log.verify()
        return {
            "holds": found.holds,
            "checked": found.checked,
            "position": found.position,
            "digest": found.digest,
            "bad_position": found.bad_position,
            "problem": found.problem,
        }

    def check_export(
        self, form: str, *, filters: Mapping[str, str] | None = None, redact: Sequence[str] = (), path: Path | None
    ) -> None:
        """Raise what :meth:`export` would raise before it writes anything."""
        export.check(form, path, redact)
        export.check_fields(redact, self._all(filters or {}))

    def export(
        self,
        form: str,
        out: IO[bytes],
        *,
        filters: Mapping[str, str] | None = None,
        redact: Sequence[str] = (),
        path: Path | None = None,
    ) -> int:
        """Write every event that matches; returns how many. See :mod:`interlock.adapters.audit.export`."""
        self.check_export(form, filters=filters, redact=redact, path=path)
        return export.write(form, export.records(self._all(filters or {}), redact), out)

    def sql(self, statement: str) -> SqlAnswer:
        """The answer to a query that only reads."""
        if not writable(statement):
            raise InvalidField("statement", "it holds what is no text", cure="Write it in UTF-8.")
        return self._log.execute_sql(statement)

    def settings(self) -> Settings:
        """The cluster's settings at the end of the log."""
        return engine_at(self._log, self._log.head().position).state.settings

    def _state(self, position: int) -> Past:
        engine = engine_at(self._log, position)
        seen = picture(engine.state, engine.ledger.time)
        return Past(position=position, time=format_instant(engine.ledger.time), **msgspec.structs.asdict(seen))

    def _all(self, given: Mapping[str, str]) -> Iterator[Recorded]:
        return self._pages(filters_of(given), topics_of(given.get("event", "")), cursor_of(given))

    def _pages(self, filters: Filters, topics: tuple[str, ...], after: int) -> Iterator[Recorded]:
        while page := matching(self._log, filters, topics, after=after, limit=_EXPORT_PAGE):
            yield from page
            after = page[-1].position


class AsyncAudit:
    """The service for an event loop: each question runs in a thread. Satisfies the gateway's ``AuditPort``."""

    def __init__(self, service: AuditService) -> None:
        self._service = service

    async def log(self, filters: Mapping[str, str]) -> Page:
        """See the service."""
        return await asyncio.to_thread(self._service.log, filters)

    async def why(self, subject: str, *, full: bool = False) -> Why:
        """See the service."""
        return await asyncio.to_thread(self._service.why, subject, full=full)

    async def state(self, at: str) -> Past:
        """See the service."""
        return await asyncio.to_thread(self._service.state, at)

    async def diff(self, start: str, end: str) -> Difference:
        """See the service."""
        return await asyncio.to_thread(self._service.diff, start, end)

    async def verify(self) -> dict[str, Any]:
        """See the service."""
        return await asyncio.to_thread(self._service.verify)
