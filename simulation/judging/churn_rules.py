"""The invariants about cycles of evictions and loads, judged from the events alone, with a count of their own.

What is counted here is forgotten sooner than in the core, so that it never is more than the core has counted.
"""

from __future__ import annotations

from msgspec import Struct

from interlock.domain import events as ev
from interlock.domain.churn import OTHERS_KEPT
from interlock.domain.units import GIB, SECOND, format_duration

from .court import Court
from .picture import ReplicaView

PAYS_OFF = 8
"""A replica that stays so many times as long as its load takes need not stay longer for being evicted."""


class _Row(Struct):
    """A model's evictions for the same few, each followed by a load: how many lately, for whom, and until when."""

    cycles: int = 0
    evicted: bool = False
    until: int = 0
    made_room_for: str = ""
    lately: list[str] = []
    ever: set[str] = set()
    repeats: int = 0
    """How often it has made room for a model for which it had made room before, however long ago."""


class ChurnRules:
    """Counts cycles, and judges how long replicas stay for them."""

    def __init__(self, court: Court) -> None:
        self.court = court
        self.rows: dict[str, _Row] = {}

    def evicted(self, event: ev.ReplicaEvicted) -> None:
        """A replica makes room: a load of its model would close a cycle, if it did so for the same model lately."""
        row = self._row(event.model, event.at)
        if event.beneficiary == row.made_room_for:
            return  # two copies that make room for one load are one step
        row.made_room_for, beneficiary = event.beneficiary, event.beneficiary_model
        row.repeats += beneficiary in row.ever
        row.ever.add(beneficiary)
        row.evicted = beneficiary in row.lately
        if not row.evicted:
            row.cycles = 0
        row.lately = [*(other for other in row.lately if other != beneficiary), beneficiary][-OTHERS_KEPT:]
        row.until = event.at + self.court.settings.thrash_window

    def loaded(self, event: ev.ReplicaLoaded, replica: ReplicaView) -> None:
        """What is evicted and loaded again and again stays longer, as far as its load is worth it."""
        settings = self.court.settings
        if not settings.thrash_cycles:
            return
        row = self._row(event.model, event.at)
        if row.evicted:
            row.cycles, row.evicted = row.cycles + 1, False
            row.until = event.at + settings.thrash_window
        node = self.court.picture.nodes[replica.node]
        worth_it = PAYS_OFF * (SECOND * sum(size for _, size in replica.claim) // (node.load_rate or GIB))
        due = min(2 * max(settings.min_residency, SECOND), worth_it, settings.longest_residency)
        if row.cycles >= settings.thrash_cycles and event.evictable_at < event.at + due:
            text = f"{event.model} was evicted and loaded again {row.cycles} times in a row, and may leave again"
            self.court.breach("S", f"{text} before {format_duration(due)} have passed", event.model)

    def on_ThrashingDetected(self, event: ev.ThrashingDetected) -> None:
        """Only what makes room for the same models again and again is in a cycle; the first time begins one."""
        row = self._row(event.model, event.at)
        if event.cycles > 1 + row.repeats:
            text = f"{event.model} is to be in a cycle for the {event.cycles}. time, and made room for a model"
            self.court.breach("S", f"{text} that it had made room for before {row.repeats} times", event.model)

    def _row(self, model: str, at: int) -> _Row:
        row = self.rows.setdefault(model, _Row())
        if at >= row.until:
            row.cycles, row.evicted, row.lately = 0, False, []
        return row
