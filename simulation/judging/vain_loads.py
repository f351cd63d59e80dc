"""Judges loads of models of which nobody has said how to load them: they fail again and again, and nothing changes."""

from __future__ import annotations

from interlock.domain import events as ev
from interlock.domain.units import format_duration
from interlock.simulation.clock import START

from .court import Court

ROUNDS = 3
"""After so many loads in vain it is a loop, and its rounds are told."""


class VainLoads:
    """Remembers by model how its loads without load info went."""

    def __init__(self, court: Court) -> None:
        self.court = court
        self.rounds: dict[str, list[str]] = {}

    def on_LoadInfoStored(self, event: ev.LoadInfoStored) -> None:
        """Now somebody has said it."""
        self.rounds.pop(event.model, None)

    def on_ReplicaLoadFailed(self, event: ev.ReplicaLoadFailed) -> None:
        """One round more: what was asked for, where, and what the worker said."""
        model = self.court.picture.models.get(event.model)
        if model is None or model.load_known:
            return
        backend = model.specs[model.declared].backend
        told = self.rounds.setdefault(event.model, [])
        at = format_duration(event.at - START)
        told.append(f"at {at} {event.node}: backend.install of {backend!r} → rejected by the worker: {event.reason}")
        if len(told) == ROUNDS:
            text = f"{event.model} is brought up again and again without load info while nothing changes: "
            self.court.breach("Q", text + " || ".join(told), event.model)
