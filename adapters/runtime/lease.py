"""The writer's hold on its epoch, as far as it may rely on it: renewed in thirds, counted from before each asking.

Each asking shows whether the store answers at all, too: a long lease is renewed more often than it needs for that.
"""

from __future__ import annotations

import asyncio
import logging

from interlock.domain.errors import Fenced, LeaseHeld, Unavailable
from interlock.domain.units import SECOND

from .clock import Clock
from .store_threads import StoreThreads

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 1.0
SILENCE_S = 2.5
"""A store that has answered nobody for so long counts as away: one answer may be late, two are not."""


class Lease:
    """One owner's lease. ``epoch`` is the newest that it took; ``length_us`` how long a hold lasts."""

    def __init__(self, store: StoreThreads, owner: str, length_us: int, clock: Clock) -> None:
        self._store, self._owner, self._clock = store, owner, clock
        self.length_us = length_us
        self.epoch = 0
        self._until = 0.0
        self._heard_at = clock.monotonic()

    @property
    def silent_s(self) -> float:
        """For how long the store has not answered: since before it was asked what it answered last."""
        return self._clock.monotonic() - self._heard_at

    @property
    def length_s(self) -> float:
        """The length in seconds."""
        return self.length_us / SECOND

    @property
    def holds(self) -> bool:
        """Whether nobody else can have become the writer."""
        return self._clock.monotonic() < self._until

    async def take(self) -> int:
        """Take a new epoch; raises ``LeaseHeld`` while another owner leads, and ``StoreUnavailable``."""
        asked_at = self._clock.monotonic()
        try:
            self.epoch = await self._store.take_epoch(self._owner, self.length_us)
        except LeaseHeld:
            self._heard_at = asked_at
            raise
        self._heard_at = asked_at
        self._until = asked_at + self.length_s
        return self.epoch

    async def renew(self) -> None:
        """Extend it; raises ``Fenced`` when another writer has taken over, and ``StoreUnavailable``."""
        asked_at, epoch = self._clock.monotonic(), self.epoch
        try:
            await self._store.renew_epoch(epoch, self.length_us)
        except Fenced:
            if epoch == self.epoch:
                raise
            return  # we took the newer epoch ourselves while this was on its way
        self._heard_at = max(self._heard_at, asked_at)
        self._until = max(self._until, asked_at + self.length_s)

    async def keep(self) -> None:
        """Renew for ever. Raises ``Fenced``, or the store's error when it has not answered for two lengths."""
        while True:
            await asyncio.sleep(min(self.length_s / 3, _LONGEST_PAUSE_S))
            try:
                await self.renew()
            except Unavailable as error:
                if self._clock.monotonic() > self._until + self.length_s:
                    raise
                log.warning("the writer's lease could not be renewed: %s", error)

    async def give_back(self) -> None:
        """End it early, so that a standby need not wait; a store that does not answer lets it lapse instead."""
        self._until = 0.0
        try:
            await self._store.release_epoch(self.epoch)
        except Unavailable as error:
            log.warning("the writer's lease was not released, it lapses: %s", error)
