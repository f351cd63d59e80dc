"""Judges copies that die before they have served anybody: else their model is loaded again and again, for ever."""

from __future__ import annotations

from typing import NamedTuple

from interlock.domain import events as ev
from interlock.domain.units import MINUTE
from interlock.simulation.clock import START

from .court import Court

OF_ITS_NODE = frozenset(
    {
        "another machine has taken its node's name", "its worker started anew", "its node is offline",
        "its worker left", "its node was removed", "its node was drained: the deadline has passed",
    }
)  # fmt: skip
"""What takes a copy along that has done nothing wrong itself."""


LONGEST_PAUSE = 5 * MINUTE
TEN_MINUTES = 10 * MINUTE
"""A copy that dies so soon after its load dies early, if it has served nobody; another has lasted."""


class _Fresh(NamedTuple):
    """A copy that has served nobody since it loaded, and until when it may not die."""

    model: str
    revision: int
    until: int


class EarlyDeathRules:
    """Knows which copies have served nobody yet, and how many of each model in a row have died so."""

    def __init__(self, court: Court) -> None:
        self.court = court
        self.fresh: dict[str, _Fresh] = {}
        self.row: dict[str, int] = {}
        self.failed: dict[str, int] = {}
        """Of each model, its loads that failed since one did not."""

    def on_ReplicaLoadFailed(self, event: ev.ReplicaLoadFailed) -> None:
        if event.counts:
            self.failed[event.model] = self.failed.get(event.model, 0) + 1

    def on_ModelParked(self, event: ev.ModelParked) -> None:
        """A person has to look: only when either its loads or its copies have failed as often in a row as they may."""
        failed, row = self.failed.get(event.model, 0), self.row.get(event.model, 0)
        if event.lacks == "edit" and max(failed, row - 1) < self.court.settings.load_attempts:
            tries = f"{failed} loads have failed in a row, and {row} copies died early"
            text = f"{event.model} is parked until it is edited: {tries}"
            self.court.breach("W", text, event.model)

    def on_ReplicaLoaded(self, event: ev.ReplicaLoaded) -> None:
        self.failed.pop(event.model, None)
        if event.at <= START and not event.trial_until:
            return  # it was there before the run, and has served
        replica = self.court.picture.replicas.get(event.replica)
        revision = replica.revision if replica is not None else 0
        self.fresh[event.replica] = _Fresh(event.model, revision, event.at + TEN_MINUTES)

    def on_ReplicaReleased(self, event: ev.ReplicaReleased) -> None:
        copy = self.fresh.get(event.replica)
        if copy is None or event.outcome not in ("served", "declined"):
            return
        del self.fresh[event.replica]
        if self._is_declared(copy):
            self.row.pop(event.model, None)

    def on_ReplicaProved(self, event: ev.ReplicaProved) -> None:
        self.failed.pop(event.model, None)

    def on_ReplicaLost(self, event: ev.ReplicaLost) -> None:
        copy = self._gone(event)
        what = f"{event.replica} of {event.model}"
        if copy is None or event.reason in OF_ITS_NODE or event.at >= copy.until or not self._is_declared(copy):
            if event.early:
                self.court.breach("S", f"{what} counts as one that died before it had served anybody", event.replica)
            return
        if not event.early:
            self.court.breach("T", f"{what} died before it had served anybody, and nothing counts that", event.replica)
        if any(one.model == event.model and event.at >= one.until for one in self.fresh.values()):
            self.row.pop(event.model, None)  # another has lasted
        self._judge_pause(event, what, self.row.get(event.model, 0))
        self.row[event.model] = self.row.get(event.model, 0) + 1
        for other in [name for name, one in self.fresh.items() if one.model == event.model]:
            del self.fresh[other]  # what is there already says nothing new

    def _judge_pause(self, event: ev.ReplicaLost, what: str, row: int) -> None:
        pause = event.retry_at - event.at if event.retry_at else 0
        if row and pause < min(self.court.settings.load_backoff << (row - 1), LONGEST_PAUSE):
            dies = f"{what} is the {row + 1}th in a row to die before it has served anybody"
            self.court.breach("T", f"{dies}, and is loaded again at once", event.model)
        if not row and pause:
            text = f"{event.model} is left alone for {what}, and the one before it had served somebody"
            self.court.breach("W", text, event.model)

    def _gone(self, event: ev.ReplicaLost | ev.ReplicaEvicted | ev.UnloadRequested) -> _Fresh | None:
        """Whoever goes after its ten minutes has lasted."""
        copy = self.fresh.pop(event.replica, None)
        if copy is not None and event.at >= copy.until and self._is_declared(copy):
            self.row.pop(event.model, None)
        return copy

    def on_ReplicaEvicted(self, event: ev.ReplicaEvicted) -> None:
        self._gone(event)

    def on_UnloadRequested(self, event: ev.UnloadRequested) -> None:
        self._gone(event)

    def _anew(self, event: ev.RevisionDeclared | ev.ModelRemoved) -> None:
        self.row.pop(event.model, None)
        self.failed.pop(event.model, None)

    on_RevisionDeclared = on_ModelRemoved = _anew

    def _is_declared(self, copy: _Fresh) -> bool:
        model = self.court.picture.models.get(copy.model)
        return model is not None and model.declared == copy.revision
