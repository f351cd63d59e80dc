"""Judges roll-outs: when a new revision takes over, and which copy makes way for it.

It takes over once a copy of it can serve. Before that only where there is no room for both, the room would do for it
alone, and no copy could make way while others serve.
"""

from __future__ import annotations

from interlock.domain import events as ev

from .court import Court
from .making_room import RoomRules
from .picture import ModelView, NodeView, ReplicaView


class RollOutRules:
    """Looks at each revision that takes over, and at each copy that makes way."""

    def __init__(self, court: Court, rooms: RoomRules) -> None:
        self.court, self.rooms = court, rooms

    def declared(self, event: ev.RevisionDeclared, model: ModelView) -> None:
        """Judge a revision before the picture says that it is declared; who was to make way for another one stays."""
        if event.revision != model.serving:
            if event.spec == model.specs[model.serving]:
                text = f"revision {event.revision} of {event.model} is as what serves: everything is loaded anew"
                self.court.breach("S", text, event.model)
            return
        if event.spec != model.specs[model.serving]:
            self.court.breach("S", f"{event.model} is declared as it serves, and is not", event.model)
        model.made_way = 0
        for replica in model.replicas.values():
            replica.retired = False

    def takes_over(self, event: ev.RevisionServing, model: ModelView) -> None:
        """Judge it before the picture says that it serves."""
        why = self._early(model, event.revision)
        if why:
            text = f"revision {event.revision} of {event.model} takes over from one that serves, {why}"
            self.court.breach("S", text)

    def _early(self, model: ModelView, revision: int) -> str:
        """What is wrong with its taking over now; empty when a copy of it can serve, or none of the old lives.

        Whether both fit shows once copies on their way are there or gone, and nowhere while the node of the old one is
        silent.
        """
        picture = self.court.picture
        mine = list(model.replicas.values())
        loaded = [replica for replica in mine if replica.phase == "loaded"]
        if any(one.revision == revision and picture.may_serve_there(one, model) for one in loaded):
            return ""
        nodes = [picture.nodes[replica.node] for replica in loaded if replica.revision == model.serving]
        keeping = [node for node in nodes if node.keeps_replicas and picture.candidate(model, node)]
        if not keeping:
            return ""
        new = [picture.nodes.get(replica.node) for replica in loaded if replica.revision == revision]
        if any(not picture.candidate(model, node) for node in new):
            return "for a copy that its selector has left"
        moving = next((replica.id for replica in mine if replica.phase != "loaded" or self._makes_way(replica)), "")
        if moving:
            return f"while {moving} moves"
        if not any(node.takes_work for node in keeping):
            return f"while {keeping[0].name} is silent"
        if not picture.has_live_copy(model):
            return ""
        if not picture.could_fit(model, self.court.settings.disk_margin):
            return "and fits on no node that it may run on"
        if (beside := self._room_beside(model, revision)) is not None:
            return f"and there is room for both on {beside.name}"
        spare = self._who_could_make_way(model, revision)
        return f"and {spare.id} on {spare.node} could make way while others serve" if spare is not None else ""

    def _room_beside(self, model: ModelView, revision: int) -> NodeView | None:
        """A node without a copy that has room for one; None when there is none, or it is too intricate to say."""
        picture, spec, scheduling = self.court.picture, model.specs[revision], model.scheduling
        intricate = spec.pools != 1 or spec.disk or scheduling.everywhere or scheduling.anti_affinity
        if intricate or self.rooms.has_own_rules(model):
            return None
        taken = {replica.node for replica in model.replicas.values()}
        free = (one for one in picture.nodes.values() if one.takes_work and one.name not in taken)
        return next((n for n in free if picture.candidate(model, n) and self.rooms.has_room(model, n, spec, [])), None)

    def _who_could_make_way(self, model: ModelView, revision: int) -> ReplicaView | None:
        """Whose place would do while others serve; None when fewer than two do, or it is too intricate to say."""
        picture, spec = self.court.picture, model.specs[revision]
        serving = [replica for replica in model.replicas.values() if picture.eligible(replica)]
        if len(serving) < 2 or spec.pools != 1 or spec.disk or self.rooms.has_own_rules(model):
            return None
        nodes = picture.nodes
        return next((one for one in serving if self.rooms.has_room(model, nodes[one.node], spec, [one])), None)

    def on_ReplicaRetired(self, event: ev.ReplicaRetired) -> None:
        picture, replica = self.court.picture, self.court.picture.replicas.get(event.replica)
        model = picture.models.get(event.model)
        if replica is None or model is None or not picture.eligible(replica) or model.declared == model.serving:
            text = f"{event.replica} makes way, and there is no new revision, or it serves nobody"
            self.court.breach("S", text, event.replica)
        elif not picture.has_live_copy(model, but=event.replica):
            text = f"{event.replica} makes way, and no other copy of {event.model} serves"
            self.court.breach("S", text, event.replica)
        elif model.made_way == model.declared:
            text = f"{event.replica} makes way, as another copy of {event.model} has for the same revision"
            self.court.breach("S", text, event.replica)
        if replica is not None and model is not None:
            replica.retired, model.made_way = True, model.declared

    def _makes_way(self, replica: ReplicaView) -> bool:
        return replica.retired and not self.court.picture.eligible(replica)

    def on_UnloadRequested(self, event: ev.UnloadRequested) -> None:
        replica = self.court.picture.replicas.get(event.replica)
        if event.reason == "roll-out" and replica is not None and not replica.retired:
            text = f"{replica.id} leaves for a roll-out, for which it was not to make way"
            self.court.breach("S", text, replica.id)
