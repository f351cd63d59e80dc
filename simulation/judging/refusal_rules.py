"""Judges what a request is told whose backend was gone, from the events alone."""

from __future__ import annotations

from interlock.domain import events as ev

from .court import Court


class RefusalRules:
    """Knows which requests were sent to a replica that was lost since: what ends them then are backends, not room."""

    def __init__(self, court: Court) -> None:
        self.court = court
        self._locks: dict[str, ev.ReplicaLocked] = {}
        self._adrift: dict[str, int] = {}
        """Requests that lost their replica and have not been told anything yet, with their deadlines."""

    def on_ReplicaLocked(self, event: ev.ReplicaLocked) -> None:
        self._adrift.pop(event.request, None)
        self._locks[event.request] = event

    def on_ReplicaReleased(self, event: ev.ReplicaReleased) -> None:
        self._forget(event.request)

    def on_RequestQueued(self, event: ev.RequestQueued) -> None:
        self._forget(event.request)

    def on_RequestCancelled(self, event: ev.RequestCancelled) -> None:
        self._forget(event.request)

    def on_ReplicaLost(self, event: ev.ReplicaLost) -> None:
        lost = [lock for lock in self._locks.values() if lock.replica == event.replica]
        for lock in lost:
            del self._locks[lock.request]
            self._adrift[lock.request] = lock.deadline

    def on_RequestRefused(self, event: ev.RequestRefused) -> None:
        deadline = self._adrift.get(event.request, 0)
        if event.code == "capacity_exhausted" and event.at < deadline:
            text = f"{event.request} is refused for want of room, and what ends it is that its backends were gone"
            self.court.breach("T", text, event.request)
        self._forget(event.request)

    def _forget(self, request: str) -> None:
        self._locks.pop(request, None)
        self._adrift.pop(request, None)
