"""How fast the nodes were: what installing and unloading took on each, and at what rates it staged and loaded."""

from __future__ import annotations

from statistics import median_low

from interlock.domain import events as ev
from interlock.domain.loads import measured
from interlock.domain.state import State
from interlock.domain.units import SECOND, format_duration

from .tables import Row

ROUGH = "speeds of nodes that the log knows only rounded down, by up to an eighth: no load in it tells them exactly"


class Speeds:
    """The speeds of a stretch, fed with its events in order; ``state`` is the state at its beginning.

    A node's rates are in the log rounded down. A load that gives just the rate that the log names, when it is measured
    by what it moved and how long it took, tells it exactly; one that took longer for a fault does not.
    """

    def __init__(self, state: State) -> None:
        self._asked: dict[str, int] = {}
        """By replica, when its backend was asked for, or when it was asked to leave."""
        self._lengths: dict[tuple[str, str], list[int]] = {}
        self._rates: dict[tuple[str, str], int] = {}
        """What the log says."""
        for node in state.nodes.values():
            for key, rate in (("load_rate", node.load_rate), ("stage_rate", node.stage_rate)):
                if rate:
                    self._rates[node.name, key] = rate
        self._moved: dict[tuple[str, str], list[tuple[int, int]]] = {}
        """Bytes, and the microseconds that they took."""
        self._began: dict[str, int] = {}
        self._vram = {model.name: model.declared_spec.vram for model in state.models.values()}
        self._disk = {replica.id: replica.disk for replica in state.replicas.values()}

    def on(self, event: ev.Event) -> None:
        """Take in how long something took."""
        if isinstance(event, ev.BackendInstallRequested | ev.UnloadRequested | ev.ReplicaEvicted):
            self._asked[event.replica] = event.at
        elif isinstance(event, ev.BackendInstalled):
            self._took(event, "install_time")
        elif isinstance(event, ev.UnloadConfirmed):
            self._took(event, "unload_time")
        elif isinstance(event, ev.ModelDeclared | ev.RevisionDeclared | ev.LoadInfoStored):
            self._vram[event.model] = event.spec.vram
        elif isinstance(event, ev.ReplicaReserved):
            self._disk[event.replica] = event.disk
        elif isinstance(event, ev.StagingStarted):
            self._began[event.replica] = event.at
        elif isinstance(event, ev.LoadStarted):
            self._rate(event, "stage_rate", event.stage_rate, self._disk.get(event.replica, 0))
            self._began[event.replica] = event.at
        elif isinstance(event, ev.ReplicaLoaded):
            self._rate(event, "load_rate", event.load_rate, self._vram.get(event.model, 0))

    def _took(self, event: ev.ReplicaEvent, key: str) -> None:
        asked = self._asked.pop(event.replica, None)
        if asked is not None:
            self._lengths.setdefault((event.node, key), []).append(event.at - asked)

    def _rate(self, event: ev.ReplicaEvent, key: str, told: int, size: int) -> None:
        """The bytes are there: the log may say a rate, and has the two moments."""
        if told:
            self._rates.setdefault((event.node, key), told)
        began = self._began.pop(event.replica, event.at)
        if size and event.at > began:
            self._moved.setdefault((event.node, key), []).append((size, event.at - began))

    def _exactly(self, node: str, key: str) -> int | None:
        rate = self._rates[node, key]
        fits = [
            size * SECOND // took for size, took in self._moved.get((node, key), ()) if measured(0, size, took) == rate
        ]
        return median_low(fits) if fits else None

    def add_to(self, nodes: dict[str, Row]) -> int:
        """Say it in the nodes' tables; returns how many nodes have a rate that is only roughly known."""
        rough = set()
        for (node, key), rate in self._rates.items():
            if node in nodes:
                exactly = self._exactly(node, key)
                nodes[node][key] = f"{exactly or rate}B/s"
                if exactly is None:
                    rough.add(node)
        for (node, key), lengths in self._lengths.items():
            if node in nodes:
                nodes[node].setdefault(key, format_duration(median_low(lengths)))
        return len(rough)
