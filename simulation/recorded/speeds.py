"""How fast the nodes were: what installing and unloading took on each, and at what rates it staged and loaded."""

from __future__ import annotations

from statistics import median_low

from interlock.domain import events as ev
from interlock.domain.units import format_duration

from .tables import Row


class Speeds:
    """The speeds of a stretch, fed with its events in order; those at its beginning may be known already."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        """By replica, when its backend was asked for, or when it was asked to leave."""
        self._lengths: dict[tuple[str, str], list[int]] = {}
        self._rates: dict[tuple[str, str], str] = {}

    def on(self, event: ev.Event) -> None:
        """Take in how long something took."""
        if isinstance(event, ev.BackendInstallRequested | ev.UnloadRequested | ev.ReplicaEvicted):
            self._asked[event.replica] = event.at
        elif isinstance(event, ev.BackendInstalled):
            self._took(event, "install_time")
        elif isinstance(event, ev.UnloadConfirmed):
            self._took(event, "unload_time")
        elif isinstance(event, ev.LoadStarted) and event.stage_rate:
            self._rates.setdefault((event.node, "stage_rate"), f"{event.stage_rate}B/s")
        elif isinstance(event, ev.ReplicaLoaded) and event.load_rate:
            self._rates.setdefault((event.node, "load_rate"), f"{event.load_rate}B/s")

    def _took(self, event: ev.ReplicaEvent, key: str) -> None:
        asked = self._asked.pop(event.replica, None)
        if asked is not None:
            self._lengths.setdefault((event.node, key), []).append(event.at - asked)

    def add_to(self, nodes: dict[str, Row]) -> None:
        """Say it in the nodes' tables, where it is not said there."""
        for (node, key), rate in self._rates.items():
            if node in nodes:
                nodes[node].setdefault(key, rate)
        for (node, key), lengths in self._lengths.items():
            if node in nodes:
                nodes[node].setdefault(key, format_duration(median_low(lengths)))
