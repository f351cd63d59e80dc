"""Judges where replicas are placed: no node with room may stand before the one that was taken, by the profile's scores.

The scores are reckoned here a second time, from the picture alone. What is too intricate to be reckoned twice is not
judged: own rules, models whose last load failed or that span pools, nodes that victims are leaving.
Where victims make room, :mod:`interlock.simulation.judging.making_room` asks for the scores.
"""

from __future__ import annotations

from interlock.domain import events as ev
from interlock.domain.claims import RAM
from interlock.domain.profiles import SCORES, Profile, find_profile
from interlock.domain.settings import Settings

from .picture import ModelView, NodeView, Picture, ReplicaView
from .pools import could_lie_in, there

JUDGED_NODES_MAX = 16
_ASSUMED_RATE = 2**30


class Placements:
    """Keeps what the picture has not: measured rates, and models whose last load failed."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.rates: dict[tuple[str, str], int] = {}
        self.failed: set[str] = set()
        """Models whose last load failed, so that it counts where."""
        self.died_early: set[str] = set()
        """Models of which copies have died before they had served anybody: a load does not make up for that."""
        self.margin = 0
        self.leaving: dict[str, ReplicaView] = {}
        """Per node, a replica that is taken to have left."""

    def forget_rates(self, node: str) -> None:
        """Another machine has the node's name: how fast it is nobody has seen."""
        for what in ("stage", "load"):
            self.rates.pop((what, node), None)

    def see(self, event: ev.LoadStarted | ev.ReplicaLoaded | ev.ReplicaLoadFailed | ev.ReplicaLost) -> None:
        """Note what an event tells of rates and failures."""
        if isinstance(event, ev.ReplicaLoadFailed):
            self.failed.add(event.model)
        elif isinstance(event, ev.ReplicaLost):
            if event.early and event.retry_at:
                self.died_early.add(event.model)
        elif isinstance(event, ev.LoadStarted):
            if event.stage_rate:
                self.rates["stage", event.node] = event.stage_rate
        else:
            self.failed.discard(event.model)
            if event.load_rate:
                self.rates["load", event.node] = event.load_rate

    def forgive(self, model: str) -> None:
        """Where it could not be brought up counts no longer."""
        self.failed.discard(model)
        self.died_early.discard(model)

    def better(self, event: ev.ReplicaReserved, model: ModelView, settings: Settings) -> str:
        """What speaks for another node than the one that was taken; empty when nothing does."""
        nodes, self.margin = self.picture.nodes, settings.disk_margin
        profile = find_profile(model.scheduling.placement or settings.placement, settings.placement_profiles)
        if event.victims or len(nodes) > JUDGED_NODES_MAX or profile is None:
            return ""
        if model.name in self.failed or model.name in self.died_early:
            return ""
        if profile.filters or any(score not in SCORES for score, _ in profile.weights):
            return ""
        if model.specs[model.declared].pools != 1 or model.scheduling.everywhere:
            return ""
        fitting = [node for node in nodes.values() if self._fits(model, node)]
        if any(r.phase == "unloading" and r.beneficiary for node in fitting for r in node.replicas.values()):
            return ""
        totals = {node.name: self._standing(model, node, fitting, profile) for node in fitting}
        mine = totals.get(event.node)
        best = max(totals, key=lambda name: totals[name], default="")
        if mine is None or totals[best] <= mine:
            return ""
        return f"{event.node}, where {best} stands before it by the profile {profile.name}: {totals[best]} to {mine}"

    def _fits(self, model: ModelView, node: NodeView) -> bool:
        spec = there(model.specs[model.declared], unified=node.unified)
        same = [replica for replica in node.replicas.values() if replica.model == model.name]
        if not self.picture.candidate(model, node) or not node.takes_work or len(same) >= node.slots:
            return False
        if self.picture.members(model, node, insisting=True) or not could_lie_in(self._free(node), spec):
            return False
        coming = sum(replica.disk_coming for replica in node.replicas.values())
        here = {replica.model for replica in node.replicas.values()}
        taken = sum(size for (name, _), size in node.staged.items() if name in here) + coming + self.margin
        return node.disk is None or self._staging(model, node) <= max(0, node.disk - taken)

    def standings_without(
        self, model: ModelView, leaving: list[tuple[NodeView, ReplicaView]], profile: Profile
    ) -> dict[str, tuple[bool, bool, int]]:
        """How these nodes stand once one replica has left each of them, by name."""
        self.leaving = {node.name: replica for node, replica in leaving}
        nodes = [node for node, _ in leaving]
        standings = {node.name: self._standing(model, node, nodes, profile) for node in nodes}
        self.leaving = {}
        return standings

    def _free(self, node: NodeView) -> dict[int, int]:
        """What replicas may still claim of each pool, when those that are taken to leave have left."""
        gone = self.leaving.get(node.name)
        return self.free_without(node, [gone] if gone is not None else [])

    def free_without(self, node: NodeView, leaving: list[ReplicaView]) -> dict[int, int]:
        """What others may claim of each pool of the node once these replicas have left it."""
        free = {pool: room - node.claims[pool] for pool, room in node.rooms.items()}
        for replica in leaving:
            for pool, size in replica.claim:
                if pool in free:
                    free[pool] += size
        return free

    def _in_pools(self, node: NodeView) -> list[int]:
        return [max(0, size) for pool, size in self._free(node).items() if pool != RAM]

    def _staging(self, model: ModelView, node: NodeView) -> int:
        return 0 if (model.name, model.declared) in node.staged else model.specs[model.declared].disk

    def _standing(
        self, model: ModelView, node: NodeView, fitting: list[NodeView], profile: Profile
    ) -> tuple[bool, bool, int]:
        """What is not avoided there, then the weighted sum."""
        copies = any(replica.model == model.name for replica in node.replicas.values())
        total = sum(weight * self._score(score, model, node, fitting) for score, weight in profile.weights)
        return not self.picture.members(model, node), not copies, total

    def _score(self, score: str, model: ModelView, node: NodeView, fitting: list[NodeView]) -> int:
        if score == "locality":
            return 0 if self._staging(model, node) else 100
        if score == "balance":
            budgets = sum(node.budget.of(total) for total in node.pools)
            return 100 * max(0, sum(self._in_pools(node)) - self._need(model, node)) // budgets if budgets else 0
        if score == "spread":
            copies = sum(1 for replica in node.replicas.values() if replica.model == model.name)
            alike = max(copies, self.picture.members(model, node))
            return 25 * max(0, 3 - alike) + 25 - min(24, len(node.replicas) - (node.name in self.leaving))
        if score == "pack":
            rests = {one.name: self._rest(model, one) for one in fitting}
            return 100 - 100 * rests[node.name] // (max(rests.values()) or 1)
        times = {one.name: self._time(model, one) for one in fitting}
        return 100 * min(times.values()) // times[node.name]

    def _rest(self, model: ModelView, node: NodeView) -> int:
        return max(0, max(self._in_pools(node), default=0) - self._need(model, node))

    @staticmethod
    def _need(model: ModelView, node: NodeView) -> int:
        """What it takes of the node's pool: on a board with one memory its main memory, too."""
        return there(model.specs[model.declared], unified=node.unified).vram

    def _time(self, model: ModelView, node: NodeView) -> int:
        loading = model.specs[model.declared].vram * 1_000_000 // self.rates.get(("load", node.name), _ASSUMED_RATE)
        staging = self._staging(model, node) * 1_000_000 // self.rates.get(("stage", node.name), _ASSUMED_RATE)
        return 1 + staging + loading
