"""Judges loads that go on where nothing is to come of them: on no candidate, or above what models may use there."""

from __future__ import annotations

from interlock.domain import events as ev

from .court import Court


class LeftBehindRules:
    """Looks at each step of a load: a change since it began may have left it behind."""

    def __init__(self, court: Court) -> None:
        self.court = court

    def _goes_on(self, event: ev.ReplicaEvent) -> None:
        picture = self.court.picture
        replica, model = picture.replicas.get(event.replica), picture.models.get(event.model)
        node = picture.nodes.get(event.node)
        if replica is None or model is None or node is None:
            return
        what = f"the load of {event.model} as {event.replica} goes on on {event.node}"
        if not picture.candidate(model, node):
            self.court.breach("S", f"{what}, which is no candidate of its model any more", event.replica)
        elif node.above_budget(replica.claim):
            self.court.breach("S", f"{what}, which is to hold less than that", event.replica)

    on_BackendInstallRequested = on_StagingStarted = on_LoadStarted = on_ReplicaLoaded = _goes_on
