"""The invariant about recent use: who makes room alone is not worth more than another who could.

Judged from the events alone.

Recent uses are counted here anew, and halved at once with every turnover; the core halves them when it reads them.
"""

from __future__ import annotations

from collections import Counter

from interlock.domain import causes
from interlock.domain import events as ev
from interlock.domain.claims import total
from interlock.domain.recent_use import LONGEST_TURNOVER

from .court import Court
from .picture import ModelView, ReplicaView

NODES_JUDGED = 64
"""In a larger cluster the core compares a bounded number of victims only."""

NODES_COMPARED = 16
"""In a larger cluster what replicas are worth is noted for the node alone that makes room."""


class UseRules:
    """Counts uses, and judges victims by them. Fed with each event after the picture has taken it in."""

    def __init__(self, court: Court) -> None:
        self.court = court
        self.uses: Counter[str] = Counter()
        self.past: Counter[str] = Counter()
        self.evicted = 0
        self.worth: dict[str, int] = {}
        """What each replica was worth when the decision under way was taken; in a large cluster, on its node."""

    def on_ReplicaLocked(self, event: ev.ReplicaLocked) -> None:
        self.uses[event.replica] = min(self.court.settings.recent_uses, self.uses[event.replica] + 1)

    def on_ReplicaLoaded(self, event: ev.ReplicaLoaded) -> None:
        self.uses[event.replica] = min(self.court.settings.recent_uses, self.past.pop(event.model, 0))

    def on_ReplicaLost(self, event: ev.ReplicaLost) -> None:
        self.uses.pop(event.replica, None)

    def on_UnloadConfirmed(self, event: ev.UnloadConfirmed) -> None:
        self.uses.pop(event.replica, None)

    def on_ModelRemoved(self, event: ev.ModelRemoved) -> None:
        self.past.pop(event.model, None)

    def on_ReplicaEvicted(self, event: ev.ReplicaEvicted) -> None:
        picture = self.court.picture
        node = picture.nodes.get(event.node)
        if node is not None and not self.worth:
            nodes = picture.nodes.values() if len(picture.nodes) <= NODES_COMPARED else (node,)
            self.worth = {its.id: self._worth(its) for one in nodes for its in one.replicas.values()}
        self.past[event.model] = min(self.court.settings.recent_uses, self.uses[event.replica])
        if event.model not in picture.models:
            del self.past[event.model]
        self.evicted += 1
        if self.evicted >= min(len(picture.replicas), LONGEST_TURNOVER):
            self.evicted = 0
            for counts in (self.uses, self.past):
                for name in list(counts):
                    counts[name] >>= 1

    def on_ReplicaReserved(self, event: ev.ReplicaReserved) -> None:
        worth, self.worth = self.worth, {}
        picture = self.court.picture
        model, node = picture.models.get(event.model), picture.nodes.get(event.node)
        if len(event.victims) != 1 or not worth or len(picture.nodes) > NODES_JUDGED or model is None or node is None:
            return
        victim = picture.replicas.get(event.victims[0])
        if victim is None:
            return
        strictly = causes.is_of_floor(event.cause)
        for other in node.replicas.values():
            if self._would_do(other, victim, model, event.at, strictly) and worth[other.id] < worth[victim.id]:
                text = f"{victim.id} of {victim.model} makes room, and {other.id} of {other.model} would have cost less"
                self.court.breach("S", text, victim.id)

    def _worth(self, replica: ReplicaView) -> int:
        return total(replica.claim) * (1 + min(self.court.settings.recent_uses, self.uses[replica.id]))

    def _would_do(self, other: ReplicaView, victim: ReplicaView, model: ModelView, at: int, strictly: bool) -> bool:
        """Whether the other could have gone instead; where a rule is not simple, it is taken not to."""
        its = self.court.picture.models.get(other.model)
        if its is None or other is victim or other.phase != "loaded" or other.locks or its.waiting:
            return False
        if victim.model == model.name or other.evictable_at > at or its.scheduling.pinned:
            return False
        if its.scheduling.min_replicas or its.scheduling.everywhere or model.scheduling.anti_affinity:
            return False
        mine, theirs = model.scheduling.priority, its.scheduling.priority
        if theirs > mine or (strictly and theirs == mine):
            return False
        sizes = dict(other.claim)
        return all(sizes.get(pool, 0) >= size for pool, size in victim.claim)
