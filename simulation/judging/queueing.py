"""Who waits, and whether anybody is passed over: a picture of the queues folded from the events alone.

W asks of each wait that it has an end to count on. A request that those who came later pass for ever has none, so the
order of waiting is judged under W: within a model, and among models that could use the very room that comes free.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from interlock.domain import causes
from interlock.domain import events as ev
from interlock.domain.entities import Wait, WaitKind
from interlock.domain.refusals import RefusalCode
from interlock.domain.settings import Settings
from interlock.domain.units import FOREVER

from .picture import ModelView, NodeView, Picture
from .pools import there, would_hold

CURED_BY_ROOM = (WaitKind.CAPACITY, WaitKind.LEAVING, WaitKind.NODES_DOWN, WaitKind.DRAINING)
"""Waits that end when there is room, whether others had taken it or its node was away."""


class Asked(msgspec.Struct, frozen=True):
    """What a request asked for, and the order in which it came."""

    arrival: int
    priority: int
    order: int


class Queues:
    """The requests that live, and what those that wait are waiting for."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.asked: dict[str, Asked] = {}
        self.waits: dict[str, Wait] = {}
        self._came = 0

    def see(self, event: ev.RequestQueued | ev.ReplicaLocked) -> None:
        """A request waits, or has its lock."""
        if event.request not in self.asked:
            self._came += 1
            self.asked[event.request] = Asked(event.arrival, event.priority, self._came)
        if isinstance(event, ev.RequestQueued):
            self.waits[event.request] = event.wait
        else:
            self.waits.pop(event.request, None)

    def end(self, request: str) -> None:
        """A request is over."""
        self.asked.pop(request, None)
        self.waits.pop(request, None)

    def place(self, request: str, settings: Settings) -> tuple[int, int]:
        """Where the request stands: those of lower place go first."""
        asked = self.asked[request]
        ageing = settings.priority_ageing
        if ageing >= FOREVER:
            return (-asked.priority, asked.order)
        return (asked.arrival - asked.priority * ageing, asked.order)

    def first(self, model: ModelView, settings: Settings) -> str:
        """The request of this model that has waited the most, priorities counted in; empty when none waits."""
        return min(model.waiting, key=lambda request: self.place(request, settings), default="")

    def passed_over(self, model: ModelView, request: str, settings: Settings) -> str:
        """Who should have had the lock that the request got, of those that still wait for the same model."""
        first = self.first(model, settings) if model.waiting else ""
        return first if first and self.place(first, settings) < self.place(request, settings) else ""

    def passed_over_for_room(
        self,
        event: ev.ReplicaReserved,
        model: ModelView,
        node: NodeView,
        settings: Settings,
        is_spent: Callable[[str, str], bool],
    ) -> str:
        """Whose request of another model should have had this room; the picture is that before the reservation.

        ``is_spent(model, node)`` says of which model nobody leaves a node any more.
        """
        request = causes.requester(event.cause)
        if request is None or request not in self.asked or self.picture.below_floor(model):
            return ""  # a floor goes before any request
        mine = self.place(request, settings)
        for other in self.picture.models.values():
            if event.victims and is_spent(other.name, event.node):
                continue
            first = self.first(other, settings) if other is not model and other.waiting else ""
            if first and self.place(first, settings) < mine and self._could_use(other, first, event, model, node):
                return first
        return ""

    def floor_passed_over(self, event: ev.ReplicaReserved, model: ModelView, node: NodeView) -> str:
        """Whose floor should have had this free room.

        One that is parked for room, or that has lost a copy at this very instant and has not been looked at since, goes
        before requests, and before floors of less priority.
        """
        floor = causes.is_of_floor(event.cause) or self.picture.below_floor(model)
        if event.victims or not (floor or causes.is_of_request(event.cause)) or "reconciler" in self.picture.frozen:
            return ""
        for other in self.picture.models.values():
            parked = other.floor_parked and other.parked == RefusalCode.CAPACITY_EXHAUSTED
            bereft = not other.parked and other.bereft_at == event.at
            lacks_room = other is not model and (parked or bereft) and self.picture.below_floor(other)
            if not lacks_room or (floor and other.scheduling.priority <= model.scheduling.priority):
                continue
            if self._fits_there(other, event, node):
                return other.name
        return ""

    def _could_use(
        self, other: ModelView, request: str, event: ev.ReplicaReserved, model: ModelView, node: NodeView
    ) -> bool:
        """Whether the request waits for nothing but room, and this very room, with its victims, would have done."""
        wait = self.waits.get(request)
        if wait is None or wait.kind not in CURED_BY_ROOM or wait.until <= event.at:
            return False  # of what is due in this very instant, either may be looked at first
        if event.victims and (other.scheduling.priority < model.scheduling.priority or wait.until < FOREVER):
            return False
        return self._fits_there(other, event, node)

    def _fits_there(self, other: ModelView, event: ev.ReplicaReserved, node: NodeView) -> bool:
        """Whether what was reserved would have done for the other model, as far as that can be said."""
        spec = other.specs[other.declared]
        if spec.pools != 1 or self.picture.members(other, node, insisting=True):
            return False  # what is enough for others is not for these
        if not self.picture.candidate(other, node) or any(r.model == other.name for r in node.replicas.values()):
            return False
        return would_hold(event.claim, there(spec, unified=node.unified)) and spec.disk <= event.disk
