"""The live feed: every committed event, to whoever follows. It never holds up the writer.

A ring keeps the last few; a follower that is further behind reads from the store until it has caught up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

import msgspec

from interlock.adapters.http.ports import EventRow
from interlock.adapters.nats.subjects import event_name
from interlock.domain.events import Event
from interlock.domain.recording import Recorded
from interlock.domain.units import format_instant

from .store_threads import StoreThreads

_KEPT_EVENTS = 2_000
_RECENT_EVENTS = 50
"""What a follower that names no position begins with."""
_PAGE_EVENTS = 500


class EventData(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it leaves on the feed; ``data`` is the event itself."""

    position: int
    time: str
    stream: str
    event: str
    event_id: str
    actor: str
    correlation_id: str
    causation_id: str
    request: str
    data: msgspec.Raw


def row_of(recorded: Recorded) -> EventRow:
    """The feed's row for a stored event."""
    name = event_name(recorded.topic)
    data = EventData(
        position=recorded.position,
        time=format_instant(recorded.time),
        stream=recorded.stream,
        event=name,
        event_id=recorded.event_id,
        actor=recorded.actor,
        correlation_id=recorded.correlation_id,
        causation_id=recorded.causation_id,
        request=recorded.request_id,
        data=msgspec.Raw(recorded.state),
    )
    return EventRow(recorded.position, name, data)


class EventFeed:
    """The gateway's ``EventsPort``, fed by the writer or by a standby that follows the log."""

    def __init__(self, store: StoreThreads) -> None:
        self._store = store
        self._ring: deque[Recorded] = deque(maxlen=_KEPT_EVENTS)
        self._news = asyncio.Event()
        self.position = 0
        """The last committed position that was heard of."""

    def begin(self, position: int) -> None:
        """The log is known up to here. What was stored without being heard of is not in the ring."""
        if position != self.position:
            self._ring.clear()
        self.position = position

    def on_committed(self, recorded: Sequence[Recorded], events: Sequence[Event]) -> None:
        """Take in a stored batch, and wake the followers."""
        self._ring.extend(recorded)
        self.position = recorded[-1].position
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def beyond(self, position: int) -> None:
        """Return as soon as there are events after a position."""
        while self.position <= position:
            await self._news.wait()

    async def follow(self, after: int | None) -> AsyncIterator[EventRow]:
        """See the gateway's port."""
        at = max(0, self.position - _RECENT_EVENTS) if after is None else after
        while True:
            for recorded in await self.some_beyond(at):
                at = recorded.position
                yield row_of(recorded)
            await self.beyond(at)

    async def some_beyond(self, at: int) -> list[Recorded]:
        """Some events after a position, from the ring where it reaches so far back; none when there are none."""
        if at >= self.position:
            return []
        if self._ring and self._ring[0].position <= at + 1:
            return [recorded for recorded in self._ring if recorded.position > at]
        page = await self._store.page(at, _PAGE_EVENTS)
        return [recorded for recorded in page if recorded.position <= self.position]
