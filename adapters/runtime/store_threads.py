"""The event store from the event loop: appends in a thread of their own, so that nothing else ever waits before one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from interlock.adapters.store import Filters, LogReader
from interlock.domain.ports import EventStore
from interlock.domain.recording import Head, Recorded, Snapshot

_T = TypeVar("_T")
PAGE_EVENTS = 5_000


class StoreThreads:
    """An ``EventStore`` whose calls are awaited.

    Appends have one thread, the lease has another, and reading a third, so that a slow append never delays a renewal.
    """

    def __init__(self, store: EventStore, reach: Callable[[str], None] = lambda point: None) -> None:
        self.store = store
        self._reach = reach
        self._append = ThreadPoolExecutor(1, "interlock-append")
        self._lease = ThreadPoolExecutor(1, "interlock-lease")
        self._read = ThreadPoolExecutor(2, "interlock-read")

    def append(self, batch: Sequence[Recorded], epoch: int) -> Future[Head]:
        """Begin to store a batch; see the port for what the future may raise."""

        def work() -> Head:
            self._reach("send")
            head = self.store.append(batch, epoch)
            self._reach("commit")
            return head

        return self._append.submit(work)

    async def take_epoch(self, owner: str, lease_us: int) -> int:
        """See the port."""
        return await self._in(self._lease, lambda: self.store.take_epoch(owner, lease_us))

    async def renew_epoch(self, epoch: int, lease_us: int) -> None:
        """See the port."""
        await self._in(self._lease, lambda: self.store.renew_epoch(epoch, lease_us))

    async def release_epoch(self, epoch: int) -> None:
        """See the port."""
        await self._in(self._lease, lambda: self.store.release_epoch(epoch))

    async def page(self, after: int, limit: int = PAGE_EVENTS) -> list[Recorded]:
        """The next events after a position, at most ``limit``."""
        return await self.read(lambda: list(self.store.read(after, limit=limit)))

    async def find_command(self, command_id: str) -> list[Recorded]:
        """See the port."""
        return await self.read(lambda: self.store.find_command(command_id))

    async def events_of_request(self, request: str) -> list[Recorded]:
        """All events that concern one request, in order."""

        def work() -> list[Recorded]:
            if isinstance(self.store, LogReader):
                return list(self.store.log_all(Filters(request=request)))
            return [recorded for recorded in self.store.read() if recorded.request_id == request]

        return await self.read(work)

    async def knows_request(self, request: str) -> bool:
        """Whether any event was caused under that request id; found by an index, however long the log is."""

        def work() -> bool:
            if isinstance(self.store, LogReader):
                return bool(self.store.select("request_id = ? AND request_id <> ''", (request,), limit=1))
            return any(recorded.request_id == request for recorded in self.store.read())

        return await self.read(work)

    async def save_snapshot(self, make: Callable[[], Snapshot]) -> None:
        """Make a snapshot, and keep it."""
        await self.read(lambda: self.store.save_snapshot(make()))

    async def read(self, work: Callable[[], _T]) -> _T:
        """Run anything that only reads, or that nobody waits for."""
        return await self._in(self._read, work)

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def close(self) -> None:
        """Close the store; what its threads are doing ends within the store's own time limits."""
        await asyncio.to_thread(self.store.close)
        for pool in (self._append, self._lease, self._read):
            pool.shutdown(wait=False, cancel_futures=True)
