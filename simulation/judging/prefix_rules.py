"""The invariants about prompts: who holds what, judged from the events alone, without the core's index.

What a replica holds is here all that it was ever locked for; the core may forget some of it, and then the rule of the
best holder is not asked of it.
"""

from __future__ import annotations

from interlock.domain import events as ev
from interlock.domain.prefixes import DEPTHS, HOLDERS_PER_MARK, MARKS_PER_REPLICA

from .court import Court
from .picture import ModelView, ReplicaView


class PrefixRules:
    """What must hold of locks for prompts. Fed with each event after the picture has taken it in."""

    def __init__(self, court: Court) -> None:
        self.court = court
        self.held: dict[str, dict[int, None]] = {}
        self.asked: dict[str, tuple[int, ...]] = {}
        """The marks that a request came with."""

    def on_RequestQueued(self, event: ev.RequestQueued) -> None:
        self._same(event)

    def _same(self, event: ev.RequestQueued | ev.ReplicaLocked) -> None:
        """A request keeps the marks that it came with, however long it waits and whatever it is routed to."""
        if not event.prefix and event.request not in self.asked:
            return
        if self.asked.setdefault(event.request, event.prefix) != event.prefix:
            self.court.breach("S", f"{event.request} came with other marks of its prompt than it has", event.request)

    def _ends(self, event: ev.ReplicaReleased | ev.RequestRefused | ev.RequestCancelled) -> None:
        self.asked.pop(event.request, None)

    on_ReplicaReleased = on_RequestRefused = on_RequestCancelled = _ends

    def on_ReplicaLocked(self, event: ev.ReplicaLocked) -> None:
        self._same(event)
        if not event.prefix:
            return
        picture = self.court.picture
        model, replica = picture.models.get(event.model), picture.replicas.get(event.replica)
        chosen = event.explanation is not None and event.explanation.step == "warm"
        if model is not None and replica is not None and chosen:
            self._judge(event, model, replica)
        self.held.setdefault(event.replica, {}).update(dict.fromkeys(event.prefix))

    def _judge(self, event: ev.ReplicaLocked, model: ModelView, chosen: ReplicaView) -> None:
        own = model.scheduling.prefix_affinity
        worth = self.court.settings.prefix_affinity if own is None else own
        if not worth:
            if event.arrival == event.at:  # else it may have come before affinity was switched off
                self.court.breach("S", f"{event.request} is marked with its prompt, and affinity is off", event.model)
            return
        parallel = model.scheduling.parallel
        locks = {replica.id: len(replica.locks) - (replica is chosen) for replica in model.replicas.values()}
        free = [
            replica.id
            for replica in model.replicas.values()
            if self.court.picture.eligible(replica) and (not parallel or locks[replica.id] < parallel)
        ]
        if chosen.id not in free:
            return  # judged elsewhere
        fewest, whole = min(locks[replica] for replica in free), DEPTHS[len(event.prefix) - 1]
        costs = {
            replica: (locks[replica] - fewest) * whole - worth * self._depth(replica, event.prefix) for replica in free
        }
        depth = self._depth(chosen.id, event.prefix)
        mine = f"{event.request} goes to {chosen.id}, which holds {depth} of {whole} blocks"
        if costs[chosen.id] > 0 and locks[chosen.id] > fewest:
            text = f"{mine} and has {locks[chosen.id]} in flight; elsewhere it is {fewest}, and {worth} more may be"
            self.court.breach("S", text, event.replica)
        forgetful = len(free) > HOLDERS_PER_MARK or any(len(self.held.get(r, ())) >= MARKS_PER_REPLICA for r in free)
        best = min(free, key=lambda replica: costs[replica])
        if costs[best] < min(0, costs[chosen.id]) and not forgetful:
            text = f"{mine}; {best} holds {self._depth(best, event.prefix)} and has {locks[best]} in flight"
            self.court.breach("S", text, event.replica)

    def _depth(self, replica: str, prefix: tuple[int, ...]) -> int:
        held = self.held.get(replica, {})
        return next((DEPTHS[place] for place in range(len(prefix) - 1, -1, -1) if prefix[place] in held), 0)

    def _leaves(
        self,
        event: ev.ReplicaEvicted
        | ev.ReplicaRetired
        | ev.UnloadRequested
        | ev.UnloadConfirmed
        | ev.ReplicaLost
        | ev.ReplicaLoadFailed,
    ) -> None:
        self.held.pop(event.replica, None)

    on_ReplicaEvicted = on_UnloadRequested = on_UnloadConfirmed = on_ReplicaLost = on_ReplicaLoadFailed = _leaves
    on_ReplicaRetired = _leaves

    def on_RevisionServing(self, event: ev.RevisionServing) -> None:
        model = self.court.picture.models.get(event.model)
        for replica in model.replicas.values() if model is not None else ():
            if replica.revision != event.revision:
                self.held.pop(replica.id, None)
