"""The invariants about nodes that come and go, judged from the picture like those beside them in ``invariants.py``."""

from __future__ import annotations

from typing import Protocol

from interlock.domain import events as ev
from interlock.domain.units import FOREVER

from .picture import Picture


class Court(Protocol):
    """Who keeps the picture and notes what is wrong."""

    picture: Picture

    def breach(self, prop: str, detail: str, subject: str = "") -> None:
        """Note a violation."""


class NodeRules:
    """What must hold of drains. Fed with each event after the picture has taken it in."""

    def __init__(self, court: Court) -> None:
        self.court = court
        self.drain_by: dict[str, int] = {}
        """Drains whose deadline is to come."""
        self._enforced: list[str] = []
        self.at_work: dict[str, bool] = {}
        """Nodes that registered, and whether they were heard since they last were silent."""
        self.boots: dict[str, dict[str, None]] = {}

    def on_NodeRegistered(self, event: ev.NodeRegistered) -> None:
        """One name is one worker: while the first is at work nobody takes it, and who lost it does not come back."""
        boots = self.boots.setdefault(event.node, {})
        at_work = self.at_work.get(event.node, False)
        if event.replaced and at_work:
            self.court.breach("S", f"another machine takes the name {event.node} from one at work", event.node)
        elif event.boot in boots and at_work and event.boot != next(reversed(boots)):
            self.court.breach("S", f"two workers take the name {event.node} from each other in turns", event.node)
        boots.pop(event.boot, None)
        boots[event.boot] = None
        self.at_work[event.node] = True

    def on_NodeBecameUnreachable(self, event: ev.NodeBecameUnreachable) -> None:
        self.at_work[event.node] = False

    def on_NodeWentOffline(self, event: ev.NodeWentOffline) -> None:
        self.at_work[event.node] = False

    def on_NodeRecovered(self, event: ev.NodeRecovered) -> None:
        self.at_work[event.node] = True

    def on_NodeDrainStarted(self, event: ev.NodeDrainStarted) -> None:
        self.drain_by[event.node] = event.drain_by

    def on_NodeResumed(self, event: ev.NodeResumed) -> None:
        self.drain_by.pop(event.node, None)

    def on_NodeRemoved(self, event: ev.NodeRemoved) -> None:
        for memory in (self.drain_by, self.at_work, self.boots):
            memory.pop(event.node, None)

    def on_NodeDrainEnforced(self, event: ev.NodeDrainEnforced) -> None:
        due = self.drain_by.pop(event.node, FOREVER)
        if event.at < due:
            self.court.breach("S", f"{event.node} is emptied by force before its drain's deadline", event.node)
        self._enforced.append(event.node)

    def on_NodeDrained(self, event: ev.NodeDrained) -> None:
        self.drain_by.pop(event.node, None)
        node = self.court.picture.nodes.get(event.node)
        if node is None or not node.drained:
            self.court.breach("S", f"{event.node} counts as drained, and nobody drains it", event.node)
        elif node.replicas:
            self.court.breach("S", f"{event.node} counts as empty with {next(iter(node.replicas))} there", event.node)

    def after(self) -> None:
        """All that follows from one command has happened."""
        for name in self._enforced:
            node = self.court.picture.nodes.get(name)
            for replica in node.replicas.values() if node is not None else ():
                if replica.phase != "unloading":
                    text = f"{replica.id} stays on {name} after the deadline of its drain, {replica.phase}"
                    self.court.breach("S", text, replica.id)
        self._enforced.clear()
