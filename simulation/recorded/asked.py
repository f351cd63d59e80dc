"""What was asked: each request of the stretch with its arrival, its patience, and how long it was served."""

from __future__ import annotations

from statistics import median_low

import msgspec

from interlock.domain import events as ev
from interlock.domain.entities import RequestStatus
from interlock.domain.state import State
from interlock.domain.units import FOREVER, SECOND, format_duration

from .tables import Row

ASSUMED_SERVICE = 2 * SECOND
"""How long a request would have been served of whose model nobody was."""


class Asked(msgspec.Struct):
    """One request. Instants in microseconds since 1970; 0 for what has not happened."""

    model: str
    arrival: int
    deadline: int
    tenant: str
    priority: int
    locked_at: int = 0
    ended_at: int = 0
    outcome: str = ""


class Requests:
    """The requests of a stretch, fed with its events in order. Those in flight at its beginning are not among them."""

    def __init__(self, state: State, start: int) -> None:
        self.start = start
        self.known: dict[str, Asked] = {}
        self._running: dict[str, str] = {}
        """In flight at the beginning: request to replica."""
        self._over: dict[str, int] = {}
        """When they ended."""
        for request in state.requests.values():
            if request.status is RequestStatus.LOCKED:
                self._running[request.id] = request.replica
            else:
                known = Asked(request.model, start, request.deadline, request.tenant, request.priority)
                self.known[request.id] = known

    def in_flight(self, replica: str) -> list[str]:
        """How long each lock that the replica has at the beginning is kept."""
        mine = [request for request, its in self._running.items() if its == replica]
        return [
            format_duration(max(1, self._over[request] - self.start)) if request in self._over else "forever"
            for request in mine
        ]

    def on(self, event: ev.Event) -> None:
        """Take in what the event says of a request."""
        request = getattr(event, "request", "")
        if request in self._running and request not in self._over:
            self._over[request] = event.at  # it is over, or its replica is and it comes again
            if isinstance(event, ev.ReplicaReleased):
                return
        if isinstance(event, ev.RequestQueued | ev.ReplicaLocked):
            asked = self.known.get(event.request)
            if asked is None or asked.ended_at:
                arrival = event.at if event.request in self._running else event.arrival
                asked = Asked(event.model, arrival, event.deadline, event.tenant, event.priority)
                self.known[event.request] = asked
            asked.locked_at = event.at if isinstance(event, ev.ReplicaLocked) else 0
        elif isinstance(event, ev.RequestRefused):
            asked = self.known.setdefault(event.request, Asked(event.model, event.at, 0, event.tenant, 0))
            asked.ended_at = event.at
        elif isinstance(event, ev.RequestCancelled | ev.ReplicaReleased) and event.request in self.known:
            asked = self.known[event.request]
            asked.ended_at = event.at
            asked.outcome = event.outcome if isinstance(event, ev.ReplicaReleased) else "cancelled"

    def tables(self, end: int) -> list[Row]:
        """``[[requests]]`` in order of arrival, for a stretch that ends then."""
        usual = self._usual_service()
        asked = sorted(self.known.values(), key=lambda one: one.arrival)
        return [self._row(one, usual, end) for one in asked]

    def _row(self, asked: Asked, usual: dict[str, int], end: int) -> Row:
        at = max(asked.arrival, self.start)
        row: Row = {"model": asked.model, "at": format_duration(at - self.start)}
        served = (asked.ended_at or end) - asked.locked_at if asked.locked_at else usual.get(asked.model)
        if asked.outcome == "cancelled" and served is not None:
            served = max(served + 1, usual.get(asked.model, 0))  # its client left before it was done
        row["service_time"] = format_duration(max(1, ASSUMED_SERVICE if served is None else served))
        if asked.deadline > at:
            row["deadline"] = "forever" if asked.deadline >= FOREVER else format_duration(asked.deadline - at)
        if asked.outcome == "cancelled" and asked.ended_at > at:
            row["leaves_after"] = format_duration(asked.ended_at - at)
        if asked.priority:
            row["priority"] = asked.priority
        if asked.tenant:
            row["tenant"] = asked.tenant
        return row

    def _usual_service(self) -> dict[str, int]:
        """By model, the median of how long its requests were served."""
        served: dict[str, list[int]] = {}
        for one in self.known.values():
            if one.locked_at and one.ended_at and one.outcome != "cancelled":
                served.setdefault(one.model, []).append(one.ended_at - one.locked_at)
        return {model: median_low(lengths) for model, lengths in served.items()}
