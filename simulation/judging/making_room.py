"""Judges who makes room: nobody who could have stayed; and where one victim would do, which node, and which replica.

All of it is reckoned anew from the picture.

Not where the last load failed, if another node would do; then the fewest victims; then the cheapest to reload; among
those that cost less than twice as much, by the model's group and profile. What is too intricate to be reckoned twice is
not judged: floors, hard groups, disks, models that span pools, own rules, nodes that other victims are leaving.
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from interlock.domain import causes
from interlock.domain import events as ev
from interlock.domain.entities import LoadSpec, WaitKind
from interlock.domain.profiles import SCORES, Profile, find_profile
from interlock.domain.wishes import ABOUT_THE_SAME

from .court import Court
from .picture import ModelView, NodeView, ReplicaView
from .placements import Placements
from .pools import could_lie_in, there
from .queueing import Queues
from .use_rules import UseRules

NODES_JUDGED = 16


class _Unsure(Exception):
    """Whether a replica could leave, or a node take the model, hangs on rules that are not reckoned here."""


class _Offer(Struct):
    """A node, its cheapest victim, what that is worth, and whether the model's last load failed there."""

    node: NodeView
    victim: ReplicaView
    worth: int
    failed: bool


class RoomRules:
    """Keeps where loads failed, and judges each reservation that victims make room for."""

    def __init__(self, court: Court, uses: UseRules, placements: Placements) -> None:
        self.court, self.uses, self.placements = court, uses, placements
        self.failed: dict[str, Counter[str]] = {}
        """Of each model, how often a load failed on each node since one came about."""
        self.died: dict[str, Counter[str]] = {}
        """The same of copies that died before they had served anybody, but for accidents, since one served."""
        self.revisions: dict[str, int] = {}
        self.coming: dict[str, ReplicaView] = {}
        """For a request that others were evicted for: who leaves in any case, and makes the room as well."""

    def on_ReplicaReserved(self, event: ev.ReplicaReserved) -> None:
        self.revisions[event.replica] = event.revision

    def _leaves(self, event: ev.UnloadRequested | ev.ReplicaLost | ev.ReplicaLoadFailed) -> None:
        replica = self.court.picture.replicas.get(event.replica)
        if replica is not None:
            replica.room_by = event.room_by

    on_UnloadRequested = _leaves

    def on_ReplicaLost(self, event: ev.ReplicaLost) -> None:
        self._leaves(event)
        self.placements.see(event)
        if event.early and event.retry_at:
            self.died.setdefault(event.model, Counter())[event.node] += 1

    def on_ReplicaLoadFailed(self, event: ev.ReplicaLoadFailed) -> None:
        self._leaves(event)
        model = self.court.picture.models.get(event.model)
        if model is not None and event.counts and self.revisions.pop(event.replica, 0) == model.declared:
            self.failed.setdefault(event.model, Counter())[event.node] += 1

    def on_ReplicaLoaded(self, event: ev.ReplicaLoaded) -> None:
        self.failed.pop(event.model, None)
        self.revisions.pop(event.replica, None)

    def _anew(self, event: ev.RevisionDeclared | ev.ModelRemoved | ev.ReplicaProved) -> None:
        self.failed.pop(event.model, None)
        self.died.pop(event.model, None)
        self.placements.forgive(event.model)

    on_RevisionDeclared = on_ModelRemoved = on_ReplicaProved = _anew

    def in_vain(self, event: ev.ReplicaReserved) -> bool:
        """Whether a model whose tries are spent makes somebody leave, or is to have one more copy than serve.

        Where it has failed, or anywhere when it has failed on many nodes.
        """
        model = self.court.picture.models[event.model]
        grows = causes.is_of_request(event.cause) and self.court.picture.has_live_copy(model)
        evicts = bool(event.victims) and causes.is_of_request_or_floor(event.cause)
        return (grows or evicts) and self.is_spent(event.model, event.node)

    def is_spent(self, model: str, node: str) -> bool:
        """Whether the model's loads have failed as often as they may, this node among those, or on as many nodes."""
        failed, died = self.failed.get(model, Counter()), self.died.get(model, Counter())
        attempts = self.court.settings.load_attempts
        if max(failed.total(), died.total()) < attempts:
            return False
        return len(failed.keys() | died.keys()) >= attempts or self.is_avoided(model, node)

    def is_avoided(self, model: str, node: str) -> bool:
        """Whether the model could not be brought up there."""
        return node in self.failed.get(model, ()) or node in self.died.get(model, ())

    def spare(self, event: ev.ReplicaReserved, model: ModelView, victims: list[ReplicaView]) -> list[ReplicaView]:
        """The victims without whom, and with all the others gone, there would be room on their node.

        Room in any of its pools, in main memory, a slot, and nobody of the group who keeps the model away.
        """
        node, spec = self.court.picture.nodes[event.node], model.specs[event.revision]
        return [
            victim
            for victim in victims
            if self.has_room(model, node, spec, [other for other in victims if other is not victim])
        ]

    def has_room(self, model: ModelView, node: NodeView, spec: LoadSpec, leaving: list[ReplicaView]) -> bool:
        """Whether there are a slot and memory for the model there once these have left, and nobody keeps it away."""
        gone = {replica.id for replica in leaving}
        staying = [replica for replica in node.replicas.values() if replica.id not in gone]
        if sum(replica.model == model.name for replica in staying) >= node.slots:
            return False
        if self.court.picture.members(model, node, insisting=True, without=gone):
            return False
        return could_lie_in(self.placements.free_without(node, leaving), there(spec, unified=node.unified))

    def on_RequestQueued(self, event: ev.RequestQueued) -> None:
        """The load that it waits for has been begun: only now its deadline is known."""
        coming = self.coming.pop(event.request, None)
        if coming is not None and coming.room_by < event.deadline:
            what = f"{coming.id} of {coming.model}, which leaves {coming.node}, makes room in any case"
            self.court.breach("S", f"others are evicted for {event.request}, and {what}", event.request)

    def look_for_coming_room(self, event: ev.ReplicaReserved, model: ModelView, queues: Queues) -> None:
        """Remember whose leaving, which is waited for, makes the room that somebody was evicted for."""
        picture, request = self.court.picture, causes.requester(event.cause)
        if request is None or not event.victims or len(picture.nodes) > NODES_JUDGED:
            return
        wait = queues.waits.get(request)
        if self._intricate(model) or (wait is not None and wait.kind is WaitKind.LEAVING):
            return  # who has waited for such room waits for no more of it
        others = (queues.first(other, self.court.settings) for other in picture.models.values() if other is not model)
        waited_for = {
            wait.on for other in others if (wait := queues.waits.get(other)) and wait.kind is WaitKind.LEAVING
        }
        for node in self._candidates(model):
            for replica in node.replicas.values():
                soon = replica.phase == "unloading" and not replica.beneficiary and replica.room_by > event.at
                failed = self.is_avoided(model.name, node.name)
                if not soon or failed or replica.id in waited_for:
                    continue
                if self.has_room(model, node, model.specs[event.revision], [replica]):
                    self.coming[request] = replica

    def judge(self, event: ev.ReplicaReserved, model: ModelView, victims: list[ReplicaView]) -> str:
        """What is wrong with making room there; empty when nothing is, or it is too intricate to say."""
        settings = self.court.settings
        profile = find_profile(model.scheduling.placement or settings.placement, settings.placement_profiles)
        if not victims or len(self.court.picture.nodes) > NODES_JUDGED or profile is None or self._intricate(model):
            return ""
        try:
            offers = [offer for node in self._candidates(model) if (offer := self._offer(event, model, node))]
        except _Unsure:
            return ""
        taken = next((offer for offer in offers if offer.node.name == event.node), None)
        failed = self.is_avoided(model.name, event.node)
        for offer in offers:
            if (offer.failed, 1) < (failed, len(victims)):
                why = "it failed to come up there" if failed else f"{len(victims)} victims go"
                return f"{event.node}, where {why}, and {offer.victim.id} on {offer.node.name} alone would have done"
        if taken is None or len(victims) > 1 or taken.victim is not victims[0]:
            return ""
        return self._dearer([offer for offer in offers if offer.failed == failed], taken, model, profile)

    def _dearer(self, offers: list[_Offer], taken: _Offer, model: ModelView, profile: Profile) -> str:
        least = min(offer.worth for offer in offers)
        wishes = bool(profile.weights or model.scheduling.anti_affinity)
        most = max(least, ABOUT_THE_SAME * least - 1) if wishes else least
        if taken.worth > most:
            return f"{taken.node.name}, at the price of {taken.worth}, and {least} is the least that it costs elsewhere"
        about = [offer for offer in offers if offer.worth <= most]
        standings = self.placements.standings_without(model, [(one.node, one.victim) for one in about], profile)
        best = max(standings, key=lambda name: standings[name])
        if standings[best] <= standings[taken.node.name]:
            return ""
        return (
            f"{taken.node.name}, where {best} stands before it by the profile {profile.name}, and costs about as much: "
            f"{standings[best]} to {standings[taken.node.name]}"
        )

    def _intricate(self, model: ModelView) -> bool:
        spec = model.specs[model.declared]
        return self.has_own_rules(model) or spec.pools != 1 or spec.disk > 0 or model.scheduling.everywhere

    def has_own_rules(self, model: ModelView) -> bool:
        """Whether filters or scores that are not ours have a say in where the model goes."""
        settings = self.court.settings
        name = model.scheduling.placement or settings.placement
        profile = find_profile(name, settings.placement_profiles)
        return profile is None or bool(profile.filters) or any(score not in SCORES for score, _ in profile.weights)

    def _candidates(self, model: ModelView) -> list[NodeView]:
        picture = self.court.picture
        return [node for node in picture.nodes.values() if node.takes_work and picture.candidate(model, node)]

    def _offer(self, event: ev.ReplicaReserved, model: ModelView, node: NodeView) -> _Offer | None:
        if any(replica.model == model.name for replica in node.replicas.values()):
            raise _Unsure
        if self.court.picture.members(model, node, insisting=True):
            raise _Unsure
        bound = self.court.settings.evictions_per_node
        counted = [until for until, whom in node.evictions if until > event.at and whom != event.replica]
        if (bound and len(counted) >= bound) or not node.slots:
            return None
        spec = there(model.specs[model.declared], unified=node.unified)
        found: list[_Offer] = []
        for replica in list(node.replicas.values()):
            free = self.placements.free_without(node, [replica])
            if self._may_leave(event, model, replica) and could_lie_in(free, spec):
                worth = self.uses.worth.get(replica.id)
                if worth is None:
                    raise _Unsure
                found.append(_Offer(node, replica, worth, self.is_avoided(model.name, node.name)))
        cheapest = [offer for offer in found if offer.worth == min(one.worth for one in found)]
        if len({offer.victim.claim for offer in cheapest}) > 1:
            raise _Unsure
        return next((one for one in cheapest if one.victim.id in event.victims), cheapest[0]) if cheapest else None

    def _may_leave(self, event: ev.ReplicaReserved, model: ModelView, replica: ReplicaView) -> bool:
        if replica.phase == "unloading" and replica.beneficiary:
            if replica.id in event.victims:
                return True
            raise _Unsure
        its = self.court.picture.models.get(replica.model)
        if replica.phase != "loaded" or replica.locks or (its is not None and its.scheduling.pinned):
            return False
        if its is None or its.waiting:
            raise _Unsure
        mine, theirs = model.scheduling.priority, its.scheduling.priority
        if theirs > mine or (theirs == mine and (causes.is_of_floor(event.cause) or replica.evictable_at > event.at)):
            return False
        group = its.scheduling.anti_affinity
        if (
            its.scheduling.min_replicas
            or its.scheduling.everywhere
            or (group and group == model.scheduling.anti_affinity)
        ):
            raise _Unsure
        return True
