"""What went wrong: silent and lost nodes, processes that died, loads that failed, and memory that others took."""

from __future__ import annotations

import msgspec

from interlock.domain import events as ev
from interlock.domain.entities import NodeStatus
from interlock.domain.nodes import WORKER_LEFT
from interlock.domain.state import State
from interlock.domain.units import format_duration
from interlock.simulation.judging.node_rules import WITH_ITS_NODE

from .tables import Row, size_of

SHOWED_NOTHING = ("no progress for", "moved only")
"""How the reasons begin for which a load is given up that did not end by itself."""


class _Silence(msgspec.Struct):
    """A node that is not heard, and whether its machine has lost what it ran."""

    since: int
    crashed: bool = False
    left: bool = False
    """Its worker has said goodbye."""


class _Failing(msgspec.Struct):
    """Loads of one model that fail on one node: how, since when, and when the last of them ended."""

    kind: str
    since: int
    until: int = 0


class Faults:
    """The misfortunes of a stretch, fed with its events in order."""

    def __init__(self, state: State, start: int) -> None:
        self.start = start
        self.rows: list[Row] = []
        self._patience = state.settings.unreachable_after
        self._heard_at: dict[str, int] = {}
        self._silent: dict[str, _Silence] = {}
        self._failing: dict[tuple[str, str], _Failing] = {}
        """Loads that fail, by node and model."""
        self._began: dict[str, int] = {}
        self._pressed: dict[tuple[str, int], tuple[int, int]] = {}
        """Memory that others use: (node, pool) to bytes, and since when."""
        self._clocks: dict[str, tuple[int, int]] = {}
        """Clocks that are off: by how much, and since when."""
        self._boots = {node.name: node.boot for node in state.nodes.values()}
        for node in state.nodes.values():
            if node.status in (NodeStatus.UNREACHABLE, NodeStatus.OFFLINE):
                self._silent[node.name] = _Silence(start, node.status is NodeStatus.OFFLINE)
            self._press(node.name, node.foreign, start)
            self._set_clock(node.name, node.clock_off, start)

    def on(self, event: ev.Event, actor: str) -> None:
        """Take in what the event says of a misfortune; ``actor`` said it."""
        if isinstance(event, ev.NodeBecameUnreachable):
            # Its heartbeats may have been lost before; but not all of its words, if one was heard after that.
            last = max(self.start, event.at - self._patience, self._heard_at.get(event.node, 0) + 1)
            self._silent.setdefault(event.node, _Silence(event.at if event.call else last))
        elif isinstance(event, ev.NodeWentOffline):
            left = event.reason == WORKER_LEFT
            self._silent.setdefault(event.node, _Silence(event.at, crashed=True, left=left))
        elif isinstance(event, ev.NodeRecovered):
            self._heard(event.node, event.at)
        elif isinstance(event, ev.NodeRegistered):
            self._registered(event)
        elif isinstance(event, ev.NodeCapacityChanged):
            self._press(event.node, event.foreign, event.at)
        elif isinstance(event, ev.NodeClockOff):
            self._set_clock(event.node, event.off, event.at)
        elif isinstance(event, ev.ReplicaLost):
            if not event.reason.startswith(WITH_ITS_NODE) and event.node not in self._silent:
                self._add("process-kill", event.at, event.node, event.model)
        elif isinstance(event, ev.ReplicaEvent):
            self._loading(event)
        if actor.startswith("worker:"):
            self._heard_at[actor.removeprefix("worker:")] = event.at

    def tables(self, end: int) -> list[Row]:
        """``[[faults]]`` in order of time, for a stretch that ends then."""
        for node in list(self._silent):
            self._heard(node, end, for_ever=True)
        for node, pool in list(self._pressed):
            self._relieve(node, pool, end)
        for node in list(self._clocks):
            self._set_clock(node, 0, end)
        for (node, model), failing in self._failing.items():
            self._add(failing.kind, failing.since, node, model, end - failing.since + 1)
        self._failing.clear()
        return sorted(self.rows, key=lambda row: int(row.pop("order")))

    def _loading(self, event: ev.ReplicaEvent) -> None:
        key = (event.node, event.model)
        if isinstance(event, ev.ReplicaReserved):
            self._began[event.replica] = event.at
        elif isinstance(event, ev.ReplicaLoaded) and key in self._failing:
            failing = self._failing.pop(key)
            self._add(failing.kind, failing.since, event.node, event.model, failing.until - failing.since + 1)
        elif isinstance(event, ev.ReplicaLoadFailed) and event.counts:
            kind = "load-hangs" if event.reason.startswith(SHOWED_NOTHING) else "load-fails"
            began = max(self.start, self._began.get(event.replica, self.start))
            self._failing.setdefault(key, _Failing(kind, began)).until = event.at

    def _registered(self, event: ev.NodeRegistered) -> None:
        if event.node not in self._boots:
            self._add("node-recover", event.at, event.node)
        elif event.node in self._silent or event.boot != self._boots[event.node]:
            if event.boot != self._boots[event.node]:
                self._set_clock(event.node, 0, event.at)  # the new boot tells it anew
            silence = self._silent.setdefault(event.node, _Silence(event.at - 1))
            silence.crashed |= event.boot != self._boots[event.node]
            self._heard(event.node, event.at)
        self._boots[event.node] = event.boot
        self._press(event.node, event.foreign, event.at)

    def _heard(self, node: str, at: int, *, for_ever: bool = False) -> None:
        silence = self._silent.pop(node, None)
        if silence is None:
            return
        if silence.crashed and silence.since <= self.start:
            if not for_ever:
                self._add("node-recover", at, node)  # it is not up when the stretch begins
            return
        kind = "worker-leaves" if silence.left else "node-crash" if silence.crashed else "partition"
        # What is heard in that very instant gets through.
        self._add(kind, silence.since, node, length=None if for_ever else max(1, at - silence.since - 1))

    def _press(self, node: str, foreign: tuple[int, ...], at: int) -> None:
        for pool, size in enumerate(foreign):
            known = self._pressed.get((node, pool))
            if (known[0] if known else 0) != size:
                self._relieve(node, pool, at)
                if size:
                    self._pressed[node, pool] = (size, at)

    def _relieve(self, node: str, pool: int, at: int) -> None:
        size, since = self._pressed.pop((node, pool), (0, at))
        if size and at > since:
            self._add("memory-pressure", since, node, length=at - since)
            self.rows[-1] |= {"size": size_of(size), "pool": pool}

    def _set_clock(self, node: str, off: int, at: int) -> None:
        known, since = self._clocks.pop(node, (0, at))
        if known and at > since:
            self._add("clock-jump", since, node, length=at - since)
            self.rows[-1]["by"] = f"{'-' if known < 0 else ''}{format_duration(abs(known))}"
        if off:
            self._clocks[node] = (off, at)

    def _add(self, kind: str, at: int, node: str, model: str = "", length: int | None = -1) -> None:
        """A row; a ``length`` of None lasts for ever, one below 0 has none."""
        row: Row = {"order": at, "kind": kind, "at": format_duration(max(0, at - self.start)), "target": node}
        if model:
            row["model"] = model
        if length is None or length >= 0:
            row["for"] = "forever" if length is None else format_duration(length)
        self.rows.append(row)
