"""Orders by the events alone: each is carried out by the machine that had the name when it was given, or by nobody.

A name may pass to another machine while an order is on its way, and the first may hear it late. That is no defect: the
order was the first one's. What was meant for its successor is not, and the other way round.
"""

from __future__ import annotations

import msgspec

from interlock.domain import events as ev

from .court import Court

_Order = (
    ev.BackendInstallRequested | ev.StagingStarted | ev.LoadStarted | ev.ReplicaEvicted | ev.UnloadRequested
    | ev.ReplicaLost | ev.ReplicaLoadFailed
)  # fmt: skip


class CarriedOut(msgspec.Struct, frozen=True):
    """An order that a machine has begun to carry out: the operation, what is done, the name and the machine's boot."""

    op: str
    name: str
    node: str
    boot: str


class OrderRules:
    """What must hold of orders. Fed with each event after the picture has taken it in."""

    def __init__(self, court: Court) -> None:
        self.court = court
        self.meant_for: dict[str, str] = {}
        """By operation, the boot that had the node's name when the order was given."""

    def _given(self, event: _Order) -> None:
        self._note(f"{event.replica}.{event.op}", event.node)

    on_BackendInstallRequested = on_StagingStarted = on_LoadStarted = _given
    on_ReplicaEvicted = on_UnloadRequested = on_ReplicaLost = on_ReplicaLoadFailed = _given

    def on_StrayFound(self, event: ev.StrayFound) -> None:
        """A process that nobody knows is to be stopped."""
        self._note(f"{event.node}.{event.process}", event.node)

    def _note(self, op: str, name: str) -> None:
        node = self.court.picture.nodes.get(name)
        if node is not None:
            self.meant_for[op] = node.boot

    def judge(self, done: list[CarriedOut]) -> None:
        """At the end: who has carried out what."""
        for order in done:
            meant = self.meant_for.get(order.op, order.boot)
            if order.boot != meant:
                text = f"{order.op}: {order.name} is done by {order.boot}, which has no longer the name {order.node}"
                self.court.breach("S", f"{text}, or not yet: {meant} was meant", "boot")
