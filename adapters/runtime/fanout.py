"""Committed events to NATS, as CloudEvents: a projection that follows the log by itself, at its own pace.

It follows the live feed from the position that it has reached. That is tracked in the store now and then: each note of
it is a commit, for which the writer's next one may have to wait. So an event may be published twice after a stop or a
crash; the broker drops the repeat by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import Protocol

from nats.aio.client import Client

from interlock.adapters.nats.events import EventPublisher
from interlock.adapters.store.recorders import LogTrackingRecorder
from interlock.domain.errors import EventConflict, Unavailable

from .events import EventFeed
from .store_threads import StoreThreads

log = logging.getLogger(__name__)

TRACKING_NAME = "interlock.nats"
_TOGETHER_S = 0.02
"""So long events are gathered that trickle in: publishing many at once costs little more than publishing one."""
_TRACK_EVERY_S = 1.0
_PAUSE_S, _LONG_PAUSE_S = 1.0, 30.0


class Tracker(Protocol):
    """Remembers how far a projection has come."""

    def read(self) -> int:
        """The position that was reached; 0 at first."""
        ...

    def write(self, position: int) -> None:
        """Remember a later one."""
        ...


class StoreTracker:
    """A tracker in the event store's own tables."""

    def __init__(self, recorder: LogTrackingRecorder) -> None:
        self._recorder = recorder

    def read(self) -> int:
        """See :class:`Tracker`."""
        return self._recorder.max_tracking_id(TRACKING_NAME) or 0

    def write(self, position: int) -> None:
        """See :class:`Tracker`."""
        try:
            self._recorder.store.track((TRACKING_NAME, position))
        except EventConflict:
            log.debug("position %d was tracked already", position)


class Fanout:
    """Publishes every committed event; run it while this process leads."""

    def __init__(self, client: Client, store: StoreThreads, feed: EventFeed, tracker: Tracker) -> None:
        self._publisher = EventPublisher(client)
        self._store, self._feed, self._tracker = store, feed, tracker
        self.position = self._tracked = 0

    async def run(self) -> None:
        """Publish until it is cancelled; a broker or a store that does not answer is tried again."""
        try:
            await self._run()
        finally:
            with contextlib.suppress(Exception):  # the store may be closed: then some events are published again
                await self._track()

    async def _run(self) -> None:
        started = False
        while True:
            try:
                if not started:
                    await self._publisher.start()
                    self._tracked = await self._store.read(self._tracker.read)
                    self.position = max(self.position, self._tracked)
                    started = True
                await self._publish_on()
            except Unavailable as error:
                log.warning("events wait to be published: %s", error)
                await asyncio.sleep(_PAUSE_S)
            except Exception as error:
                # Whatever goes wrong here must neither reach the writer nor end the projection for good.
                log.error("events are not published: %s: %s", type(error).__name__, error)
                await asyncio.sleep(_LONG_PAUSE_S)

    async def _publish_on(self) -> None:
        loop = asyncio.get_running_loop()
        track_at = loop.time()
        while True:
            page = await self._feed.some_beyond(self.position)
            if page:
                await self._publisher.publish(page)
                self.position = page[-1].position
            await asyncio.sleep(_TOGETHER_S)
            if self._tracked < self.position and loop.time() >= track_at:
                await self._track()
                track_at = loop.time() + _TRACK_EVERY_S
            if self._tracked == self.position:
                await self._feed.beyond(self.position)

    async def _track(self) -> None:
        """Note in the store how far it has come, unless that is known."""
        if self._tracked < self.position:
            position = self.position
            await self._store.read(partial(self._tracker.write, position))
            self._tracked = position
