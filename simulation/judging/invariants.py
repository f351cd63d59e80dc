"""The invariants, judged at every event from a picture of their own: S, the own steps of T, and what U forbids.

Each check costs a few look-ups, whatever the cluster's size. What is wrong is collected, not raised: a run goes on to
show what follows from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from interlock.domain import causes
from interlock.domain import events as ev
from interlock.domain.commands import Command, ReportBackendGone
from interlock.domain.engine import Outcome
from interlock.domain.entities import WaitKind
from interlock.domain.explanation import Explanation
from interlock.domain.nodes import WORKER_LEFT
from interlock.domain.settings import Settings
from interlock.domain.units import format_duration, format_size
from interlock.domain.variant import passes_allowed
from interlock.simulation.clock import START

from .churn_rules import ChurnRules
from .early_death_rules import EarlyDeathRules
from .left_behind_rules import LeftBehindRules
from .making_room import RoomRules
from .node_rules import NodeRules
from .order_rules import OrderRules
from .picture import ModelView, NodeView, Picture, ReplicaView
from .placements import Placements
from .pools import could_lie_in, name_of, there, wrong_claim
from .prefix_rules import PrefixRules
from .queueing import Queues
from .refusal_rules import RefusalRules
from .roll_out_rules import RollOutRules
from .shrink_rules import ShrinkRules
from .tenancy import Tenants
from .use_rules import UseRules
from .vain_loads import VainLoads

VIOLATIONS_KEPT = 20
"""So many of each property."""
NODES_COMPARED = 64
"""Up to so many nodes are searched for room when somebody is evicted."""
IDLE_ROUNDS_MAX = 3
"""A request may be looked at so often in vain, with nothing at all having happened in between."""
LEAVES_ANYWAY = frozenset({"removed", "revision", "selector", "drain", "operator", "budget", "slots", "roll-out"})
"""Reasons to unload that no floor stands against: the replica does not count for it, or a person wants it gone."""


class Violation(msgspec.Struct, frozen=True):
    """One breach: the property, when (microseconds from the start), at which position, and what."""

    property: str
    at: int
    position: int
    detail: str
    subject: str = ""


class Invariants:
    """Watches committed events.

    ``is_running(replica)`` asks the world whether its process is alive and reachable, ``is_served(request)`` whether a
    backend is answering it at this moment.
    """

    def __init__(
        self,
        is_running: Callable[[str], bool] = lambda replica: False,
        is_served: Callable[[str], bool] = lambda request: False,
        settings: Settings | None = None,
    ) -> None:
        self.picture = Picture()
        self.queues = Queues(self.picture)
        self.placements = Placements(self.picture)
        self.tenants = Tenants()
        self.settings = settings or Settings()
        load_attempts = self.settings.load_attempts
        self.violations: list[Violation] = []
        self.count = 0
        self.noted: Callable[[str], None] = lambda prop: None
        """Hears of the property of each violation that is new."""
        self.is_running = is_running
        self.is_served = is_served
        self.bound = passes_allowed(load_attempts)
        self.load_attempts = load_attempts
        self.most_steps = 0
        self.steps: dict[str, int] = {}
        self.rounds: dict[str, tuple[int, int, tuple[str, str]]] = {}
        """Request to (rounds in vain, changes seen then, what it waited for)."""
        self.stories: dict[str, list[str]] = {}
        self.changes = 0
        self.touched: dict[str, None] = {}
        self.all_touched = False
        self.epoch = 0
        self.judging = True
        self._victims: list[ReplicaView] = []
        self._position = 0
        self._at = 0
        self.node_rules = NodeRules(self)
        self.churn_rules = ChurnRules(self)
        self.order_rules = OrderRules(self)
        use_rules = UseRules(self)
        self.room_rules = RoomRules(self, use_rules, self.placements)
        self.roll_out_rules = RollOutRules(self, self.room_rules)
        self._more: dict[type[ev.Event], list[Callable[[Any], None]]] = {}
        for rules in (
            self.node_rules, self.order_rules, self.churn_rules, PrefixRules(self), use_rules, self.room_rules,
            ShrinkRules(self), self.roll_out_rules, VainLoads(self), RefusalRules(self), LeftBehindRules(self),
            EarlyDeathRules(self),
        ):  # fmt: skip
            for name in dir(rules):
                if name.startswith("on_"):
                    self._more.setdefault(getattr(ev, name[3:]), []).append(getattr(rules, name))
        self._handlers: dict[type[ev.Event], Callable[[Any], None]] = {
            getattr(ev, name[3:]): getattr(self, name) for name in dir(self) if name.startswith("on_")
        }

    def breach(self, prop: str, detail: str, subject: str = "") -> None:
        """Note a violation; the same one of the same subject once."""
        if not self.judging:
            return
        self.count += 1
        known = any(v.property == prop and v.subject == subject and v.detail == detail for v in self.violations)
        if not known and sum(v.property == prop for v in self.violations) < VIOLATIONS_KEPT:
            self.violations.append(Violation(prop, self._at - START, self._position, detail, subject))
            self.noted(prop)

    def see(self, outcome: Outcome, command: Command) -> None:
        """Judge the events of one outcome, in order, and the picture after them."""
        handlers = self._handlers
        self.node_rules.before(command)
        for recorded, event in zip(outcome.recorded, outcome.events, strict=True):
            self._position, self._at = recorded.position, event.at
            if recorded.epoch < self.epoch:
                self.breach("S", f"epoch {recorded.epoch} after epoch {self.epoch}: writers interleave")
            self.epoch = recorded.epoch
            handler = handlers.get(type(event))
            if handler is not None:
                handler(event)
            for more in self._more.get(type(event), ()):
                more(event)
        if type(command) is ReportBackendGone and any(
            isinstance(event, ev.ReplicaLocked | ev.RequestQueued) and event.request == command.request
            for event in outcome.events
        ):
            self._step(command.request)
        for victim in self._victims:
            self.breach("S", f"{victim.id} is evicted, and what it frees is not reserved in the same step", victim.id)
        self._victims.clear()
        self.node_rules.after()
        self._after()

    def _after(self) -> None:
        """U: nobody waits while a warm candidate has room. Judged when all that follows from a command has happened."""
        models = self.picture.models
        if self.all_touched:
            self.touched = dict.fromkeys(name for name, model in models.items() if model.waiting)
        for name in self.touched:
            model = models.get(name)
            if model is not None and model.waiting:
                replica = self.picture.usable(model)
                if replica is not None:
                    request = next(iter(model.waiting))
                    self.breach("U", f"{request} waits for {name} while {replica.id} on {replica.node} has room", name)
        self.touched.clear()
        self.all_touched = False

    def _step(self, request: str) -> None:
        """T: the request took a step of its own."""
        steps = self.steps[request] = self.steps.get(request, 0) + 1
        self.most_steps = max(self.most_steps, steps)
        if steps > self.bound:
            self.breach("T", f"{request} has taken {steps} own steps; the bound is {self.bound}", request)

    def _changed(self, model: str = "", *, everything: bool = False) -> None:
        self.changes += 1
        self.all_touched |= everything
        if model:
            self.touched[model] = None

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _node(self, name: str) -> NodeView:
        node = self.picture.nodes.get(name)
        if node is None:
            node = self.picture.nodes[name] = NodeView(name)
        self._changed(everything=True)
        return node

    def on_NodeRegistered(self, event: ev.NodeRegistered) -> None:
        node = self._node(event.node)
        node.worker_labels, node.pools, node.budget = event.labels, event.pools, event.budget
        node.foreign, node.ram, node.unified = event.foreign, event.ram, event.unified
        node.slots = event.max_replicas_per_model
        if event.replaced:
            node.approved = False
            node.load_rate = 0
            node.staged.clear()
            self.placements.forget_rates(event.node)
        node.vendor, node.disk, node.boot, node.status = event.gpu_vendor, event.disk, event.boot, "up"
        node.relabel()
        node.resize()

    def on_NodeApproved(self, event: ev.NodeApproved) -> None:
        self._node(event.node).approved = True

    def on_NodeLabelsChanged(self, event: ev.NodeLabelsChanged) -> None:
        node = self._node(event.node)
        node.operator_labels = event.labels
        node.relabel()

    def on_NodeCapacityChanged(self, event: ev.NodeCapacityChanged) -> None:
        node = self._node(event.node)
        node.pools, node.foreign, node.disk, node.ram = event.pools, event.foreign, event.disk, event.ram
        node.relabel()
        node.resize()

    def on_NodeBudgetSet(self, event: ev.NodeBudgetSet) -> None:
        node = self._node(event.node)
        node.budget = event.budget
        node.resize()

    def on_NodeReplicaSlotsSet(self, event: ev.NodeReplicaSlotsSet) -> None:
        node = self._node(event.node)
        node.slots = event.max_replicas_per_model
        node.relabel()

    def on_NodeBecameUnreachable(self, event: ev.NodeBecameUnreachable) -> None:
        node = self._node(event.node)
        node.status, node.silent_since = "silent", event.at

    def on_NodeRecovered(self, event: ev.NodeRecovered) -> None:
        self._node(event.node).status = "up"

    def on_NodeDrainStarted(self, event: ev.NodeDrainStarted) -> None:
        self._node(event.node).drained = True

    def on_NodeResumed(self, event: ev.NodeResumed) -> None:
        self._node(event.node).drained = False

    def on_NodeWentOffline(self, event: ev.NodeWentOffline) -> None:
        node = self._node(event.node)
        waited = event.at - node.silent_since if node.status == "silent" else 0
        if event.reason != WORKER_LEFT and waited < self.settings.offline_after:
            self.breach("S", f"{event.node} counts as gone after a short silence, with all that it runs", event.node)
        node.status = "offline"

    def on_NodeRemoved(self, event: ev.NodeRemoved) -> None:
        self._node(event.node)
        for replica in list(self.picture.nodes[event.node].replicas.values()):
            self.breach("S", f"{replica.id} is on {event.node}, which was removed", replica.id)
        del self.picture.nodes[event.node]

    # --- models -----------------------------------------------------------------------------------------------------

    def _model(self, name: str) -> ModelView:
        self._changed(name)
        return self.picture.models[name]

    def on_ModelDeclared(self, event: ev.ModelDeclared) -> None:
        if event.revision <= (left := self.picture.left_of(event.model)):
            text = f"{event.model} begins at revision {event.revision}, and revision {left} of a former one is there"
            self.breach("S", text, event.model)
        model = ModelView(event.model, event.scheduling, event.spec, event.revision)
        self.picture.models[event.model] = model
        model.replicas = {r.id: r for r in self.picture.replicas.values() if r.model == event.model}
        self._changed(event.model)

    def on_ModelSchedulingChanged(self, event: ev.ModelSchedulingChanged) -> None:
        self._model(event.model).scheduling = event.scheduling

    def on_RevisionDeclared(self, event: ev.RevisionDeclared) -> None:
        model = self._model(event.model)
        if event.spec == model.specs[model.declared]:
            self.breach("S", f"revision {event.revision} of {event.model} differs in nothing", event.model)
        self.roll_out_rules.declared(event, model)
        model.declared = event.revision
        model.specs[event.revision] = event.spec

    def on_RevisionServing(self, event: ev.RevisionServing) -> None:
        model = self._model(event.model)
        if event.revision < model.serving:
            self.breach("S", f"{event.model} serves revision {event.revision} after {model.serving}", event.model)
        self.roll_out_rules.takes_over(event, model)
        model.serving = event.revision

    def on_LoadInfoStored(self, event: ev.LoadInfoStored) -> None:
        model = self._model(event.model)
        model.load_known = True
        model.specs[model.declared] = event.spec

    def on_ModelParked(self, event: ev.ModelParked) -> None:
        model = self._model(event.model)
        model.parked, model.floor_parked = event.reason, self.picture.below_floor(model)

    def on_ModelUnparked(self, event: ev.ModelUnparked) -> None:
        self._model(event.model).parked = ""

    def on_ModelRemoved(self, event: ev.ModelRemoved) -> None:
        self._changed(event.model)
        del self.picture.models[event.model]

    # --- requests ---------------------------------------------------------------------------------------------------

    def on_RequestQueued(self, event: ev.RequestQueued) -> None:
        picture = self.picture
        wanted = (event.wait.kind, event.wait.on)
        rounds, changes, before = self.rounds.get(event.request, (0, -1, ("", "")))
        in_vain = event.request in picture.waiting and changes == self.changes and before == wanted
        rounds = rounds + 1 if in_vain else 0
        self.rounds[event.request] = (rounds, self.changes, wanted)
        if event.explanation is not None and event.request in picture.waiting:
            told = f"at {format_duration(event.at - START)} {_round(event.model, event.explanation)}"
            self.stories.setdefault(event.request, []).append(told)
        if rounds == IDLE_ROUNDS_MAX + 1:
            cycle = " || ".join(self.stories.get(event.request, ())[-3:]) or f"waits for {event.wait.kind}"
            text = f"{event.request} goes round in circles while nothing changes: {cycle}"
            self.breach("T", text, event.request)
        self._let_in(event)
        picture.waiting[event.request] = event.model
        model = picture.models.get(event.model)
        if model is not None:
            model.waiting[event.request] = None
            self.touched[event.model] = None
            if event.wait.kind is WaitKind.CAPACITY and not picture.could_fit(model, self.settings.disk_margin):
                self.breach("W", f"{event.request} waits for room for {event.model} that no candidate has", event.model)
        self._unlock(event.request)

    def _let_in(self, event: ev.RequestQueued | ev.ReplicaLocked) -> None:
        self.queues.see(event)
        if event.tenant:
            for prop, text in self.tenants.let_in(event, self.settings):
                self.breach(prop, text, event.tenant)

    def on_RequestCancelled(self, event: ev.RequestCancelled) -> None:
        self._end(event.request, event.model)

    def on_RequestRefused(self, event: ev.RequestRefused) -> None:
        model = self.picture.models.get(event.model)
        # Whose backends were gone until its own steps were used up is refused whatever there is: T asks for that.
        allowed = passes_allowed(self.settings.load_attempts)
        spent = event.code == "backend_failed" and self.steps.get(event.request, 0) >= allowed
        if model is not None and not spent and event.code not in ("unknown_model", "queue_full", "rate_limited"):
            replica = self.picture.usable(model)
            if replica is not None:
                text = f"{event.request} is refused ({event.code}) while {replica.id} on {replica.node} has room"
                self.breach("U", text, event.model)
        waits_for_it = len(model.waiting) if model is not None else 0
        room_in_queue = len(self.picture.waiting) < self.settings.queue_limit
        if event.code == "queue_full" and room_in_queue and waits_for_it < self.settings.model_queue_limit:
            waiting = f"{len(self.picture.waiting)} of {self.settings.queue_limit} wait"
            self.breach("U", f"{event.request} is refused for a full queue while {waiting}", "queue")
        if event.code == "rate_limited":
            for prop, text in self.tenants.refused(event, self.settings):
                self.breach(prop, text, event.tenant)
        self._end(event.request, event.model)

    def _end(self, request: str, model: str) -> None:
        self._stop_waiting(request, model)
        self._unlock(request)
        self.queues.end(request)
        self.tenants.end(request)
        self.changes += 1
        for memory in (self.steps, self.rounds, self.stories):
            memory.pop(request, None)

    def _stop_waiting(self, request: str, model: str) -> None:
        if self.picture.waiting.pop(request, None) is not None:
            view = self.picture.models.get(model)
            if view is not None:
                view.waiting.pop(request, None)

    def _unlock(self, request: str) -> None:
        replica_id = self.picture.locked.pop(request, None)
        replica = self.picture.replicas.get(replica_id) if replica_id is not None else None
        if replica is not None:
            replica.locks.pop(request, None)

    # --- locks ------------------------------------------------------------------------------------------------------

    def on_ReplicaLocked(self, event: ev.ReplicaLocked) -> None:
        picture = self.picture
        self.changes += 1
        if event.request in picture.waiting:
            self._stop_waiting(event.request, event.model)
            self.rounds.pop(event.request, None)
            self.touched[event.model] = None
        self._let_in(event)
        replica = picture.replicas.get(event.replica)
        if event.request in picture.locked:
            self.breach("S", f"{event.request} holds {picture.locked[event.request]} and locks {event.replica}")
        if replica is None:
            self.breach("S", f"{event.request} locks {event.replica}, which is not there", event.replica)
            return
        replica.locks[event.request] = None
        picture.locked[event.request] = event.replica
        if not self.judging:
            return
        model = picture.models.get(replica.model)
        if model is None or not picture.eligible(replica):
            self.breach("S", f"{event.request} locks {self._why_not(replica)}", event.replica)
        elif model.scheduling.parallel and len(replica.locks) > model.scheduling.parallel:
            text = f"{replica.id} serves {len(replica.locks)} requests; {model.name} allows {model.scheduling.parallel}"
            self.breach("S", text, event.replica)
        passed = self.queues.passed_over(model, event.request, self.settings) if model is not None else ""
        if passed:
            self.breach("W", f"{event.request} is served while {passed} has waited longer for {event.model}", passed)
        if replica.model != event.model:
            self.breach("S", f"{event.request} for {event.model} locks a replica of {replica.model}", event.replica)

    def _why_not(self, replica: ReplicaView) -> str:
        model, node = self.picture.models.get(replica.model), self.picture.nodes.get(replica.node)
        where = f"{replica.id} of {replica.model} on {replica.node}"
        if replica.phase != "loaded":
            return f"{where}, which is {replica.phase}"
        if model is None or node is None:
            return f"{where}, whose {'model' if model is None else 'node'} is gone"
        if replica.revision != model.serving:
            return f"{where} of revision {replica.revision}, while revision {model.serving} serves"
        if replica.retired:
            return f"{where}, which makes way for a new revision"
        if not self.picture.candidate(model, node):
            return f"{where}, a node that its selector does not match"
        return f"{where}, a node that takes no work"

    def on_ReplicaReleased(self, event: ev.ReplicaReleased) -> None:
        if event.outcome in ("served", "failed") and self.judging and self.is_served(event.request):
            self.breach(
                "S", f"{event.request} loses its lock on {event.replica} while it is being served", event.replica
            )
        replica = self.picture.replicas.get(event.replica)
        if replica is not None:
            replica.used_at = event.at
        if self.picture.locked.get(event.request) not in (event.replica, None):
            self.breach("S", f"{event.request} releases {event.replica} and holds another", event.replica)
        self.changes += 1
        self.touched[event.model] = None
        self._end(event.request, event.model)

    def on_CallWentUnanswered(self, event: ev.CallWentUnanswered) -> None:
        replica = self.picture.replicas.get(event.replica)
        if self.picture.locked.pop(event.request, None) != event.replica or replica is None:
            self.breach("S", f"{event.request} lets go of {event.replica} and does not hold it", event.replica)
            return
        replica.used_at = event.at
        del replica.locks[event.request]
        self._changed(event.model)

    # --- replicas ---------------------------------------------------------------------------------------------------

    def on_ReplicaReserved(self, event: ev.ReplicaReserved) -> None:
        picture = self.picture
        self._changed(event.model)
        replica = ReplicaView(
            event.replica, event.model, event.node, event.index, event.revision, event.claim, event.disk
        )
        node, model = picture.nodes.get(event.node), picture.models.get(event.model)
        if node is None or model is None:
            self.breach("S", f"{event.replica} is reserved for {event.model} on {event.node}: one is gone")
            return
        victims, self._victims = self._victims, []
        if self.judging:
            self._judge_reservation(event, replica, node, model)
            for victim in victims:
                self._judge_victim(event, victim, model)
            for victim in self.room_rules.spare(event, model, victims):
                text = f"{victim.id} is evicted for {event.replica}, which had room without that"
                self.breach("S", text, victim.id)
            self._judge_needless(event, model)
            if better := self.placements.better(event, model, self.settings):
                self.breach("S", f"{event.replica} of {model.name} is placed on {better}", event.replica)
            if self.room_rules.in_vain(event):
                text = f"{event.replica} of {model.name} makes others leave, or is one more, and its tries are spent"
                self.breach("S", text, event.replica)
            self.room_rules.look_for_coming_room(event, model, self.queues)
            if wrong := self.room_rules.judge(event, model, victims):
                self.breach("S", f"room for {event.replica} of {model.name} is made on {wrong}", event.replica)
            if passed := self.queues.passed_over_for_room(event, model, node, self.settings, self.room_rules.is_spent):
                text = f"{event.cause} gets room on {node.name} that {passed} has waited longer for"
                self.breach("W", text, passed)
            if floor := self.queues.floor_passed_over(event, model, node):
                self.breach("W", f"{event.cause} gets room on {node.name} that the floor of {floor} lacks", floor)
        picture.replicas[replica.id] = node.replicas[replica.id] = model.replicas[replica.id] = replica
        node.count(node.claims, replica.claim, +1)
        node.count(node.staying, replica.claim, +1)
        for pool, size in event.claim:
            if node.staying[pool] > node.limits[pool]:
                over = f"{format_size(node.staying[pool])} of {format_size(node.limits[pool])}"
                text = f"{event.replica} brings {event.node} {name_of(pool)} to {over} ({size} B more)"
                self.breach("S", text, event.node)
        if (request := causes.requester(event.cause)) is not None:
            self._step(request)

    def _judge_reservation(
        self, event: ev.ReplicaReserved, replica: ReplicaView, node: NodeView, model: ModelView
    ) -> None:
        picture = self.picture
        if not picture.candidate(model, node):
            self.breach("S", f"{event.replica} of {model.name} is placed on {node.name}, no candidate", event.replica)
        elif not node.takes_work:
            self.breach("S", f"{event.replica} is placed on {node.name}, which takes no work", event.replica)
        if not model.load_known:
            self.breach("Q", f"{event.replica} of {model.name} begins without load info: it cannot load", model.name)
        wrong = wrong_claim(there(model.specs[event.revision], unified=node.unified), event.claim)
        if wrong:
            self.breach("S", f"{event.replica} of {model.name} {wrong}", event.replica)
        same = [other for other in node.replicas.values() if other.model == model.name]
        if any(other.index == event.index for other in same):
            self.breach("S", f"two replicas of {model.name} have index {event.index} on {node.name}", event.replica)
        staying = sum(1 for other in same if other.phase != "unloading")
        alike = any(other.revision == event.revision and other.phase != "unloading" for other in same)
        if model.scheduling.everywhere and alike:
            self.breach("S", f"{model.name} is to have one copy on each candidate; {node.name} gets two", event.replica)
        if staying >= node.slots:
            self.breach("S", f"{node.name} holds {staying} of {model.name} and may hold {node.slots}", event.replica)
        for name, revision, _ in event.drops:
            if any(other.model == name for other in node.replicas.values()):
                self.breach("S", f"{event.replica} drops the files of {name}, which has a replica there", event.node)
            node.staged.pop((name, revision), None)
        replica.drops = event.drops
        if node.disk is not None and event.disk:
            staged = sum(node.staged.values())
            coming = sum(other.disk_coming for other in node.replicas.values())
            if staged + coming + event.disk > node.disk - self.settings.disk_margin:
                self.breach("S", f"{event.replica} wants more disk on {node.name} than there is", event.node)
        self._judge_group(event, node, model)
        self._judge_growth(event, model)

    def _judge_group(self, event: ev.ReplicaReserved, node: NodeView, model: ModelView) -> None:
        """A hard group's members share no node: only those that make room for one may still be there."""
        group, hard = model.scheduling.anti_affinity, model.scheduling.anti_affinity_hard
        if not group:
            return
        for other in node.replicas.values():
            its = self.picture.models.get(other.model)
            if its is None or its.scheduling.anti_affinity != group or other.id in event.victims:
                continue
            if hard or its.scheduling.anti_affinity_hard:
                text = f"{event.replica} of {model.name} shares {node.name} with {other.id}, of the same group {group}"
                self.breach("S", text, event.replica)

    def _judge_growth(self, event: ev.ReplicaReserved, model: ModelView) -> None:
        """A warm model grows only while scaling is on and below its ceiling; roll-outs and operators may do more."""
        if not causes.is_of_request_or_floor(event.cause):
            return
        scheduling = model.scheduling
        copies = sum(
            1
            for other in model.replicas.values()
            if other.phase != "unloading"
            and self.picture.candidate(model, self.picture.nodes.get(other.node))
            and self.picture.nodes[other.node].keeps_replicas
        )
        if scheduling.max_replicas and copies >= scheduling.max_replicas and self.picture.has_live_copy(model):
            text = f"{event.replica} is copy {copies + 1} of {model.name}; its ceiling is {scheduling.max_replicas}"
            self.breach("S", text, model.name)
        if causes.is_of_request(event.cause) and self.picture.has_live_copy(model):
            if not scheduling.scales:
                self.breach("S", f"{event.replica} is one more copy of {model.name}, which does not scale", model.name)
            if event.victims:
                self.breach("S", f"{model.name} grows by evicting {', '.join(event.victims)}", model.name)

    def _judge_victim(self, event: ev.ReplicaReserved, victim: ReplicaView, model: ModelView) -> None:
        """What can be judged only with the beneficiary at hand."""
        its = self.picture.models.get(victim.model)
        if victim.node != event.node:
            self.breach("S", f"{victim.id} on {victim.node} is evicted for a load on {event.node}", victim.id)
        if not self.picture.candidate(model, self.picture.nodes.get(victim.node)):
            self.breach("S", f"{victim.id} is evicted for {model.name} on {victim.node}, no candidate of it", victim.id)
        if its is None:
            return
        mine, theirs = model.scheduling.priority, its.scheduling.priority
        strictly = causes.is_of_floor(event.cause)
        if theirs > mine or (strictly and theirs == mine):
            text = f"{victim.id} of {its.name} (priority {theirs}) is evicted for {model.name} (priority {mine})"
            self.breach("S", text, victim.id)
        if victim.evictable_at > event.at and theirs >= mine:
            self.breach("S", f"{victim.id} of {its.name} is evicted within its residency", victim.id)

    def _judge_needless(self, event: ev.ReplicaReserved, model: ModelView) -> None:
        """Nobody is evicted while another candidate has room; judged where looking at all of them is cheap."""
        if not event.victims or len(self.picture.nodes) > NODES_COMPARED:
            return
        declared = model.specs[event.revision]
        for node in self.picture.nodes.values():
            spec = there(declared, unified=node.unified)
            if not node.takes_work or not self.picture.candidate(model, node):
                continue
            free = {pool: limit - node.claims[pool] for pool, limit in node.limits.items()}
            same = sum(1 for other in node.replicas.values() if other.model == event.model)
            if same and model.scheduling.everywhere:
                continue  # one there is all that is wanted
            disk = 0 if (event.model, event.revision) in node.staged else spec.disk
            staged = sum(node.staged.values()) + sum(max(r.disk, r.disk_coming) for r in node.replicas.values())
            on_disk = node.disk is None or not disk or staged + disk <= node.disk - self.settings.disk_margin
            if same < node.slots and on_disk and could_lie_in(free, spec) and not self._kept_apart(event, node):
                text = f"{', '.join(event.victims)} is evicted for {event.replica}, and {node.name} has room"
                self.breach("S", text, event.replica)

    def _kept_apart(self, event: ev.ReplicaReserved, node: NodeView) -> bool:
        return any(self._of_one_group(other.model, event.model) for other in node.replicas.values())

    def _of_one_group(self, one: str, other: str) -> bool:
        groups = [
            self.picture.models[name].scheduling.anti_affinity for name in (one, other) if name in self.picture.models
        ]
        return len(groups) == 2 and groups[0] != "" and groups[0] == groups[1]

    def on_ReplicaEvicted(self, event: ev.ReplicaEvicted) -> None:
        self._changed(event.model)
        replica = self.picture.replicas.get(event.replica)
        if replica is None:
            return
        if "evictions" in self.picture.frozen:
            self.breach("S", f"{event.replica} is evicted while evictions are frozen", event.replica)
        if replica.phase != "loaded":
            self.breach("S", f"{event.replica} is evicted while it is {replica.phase}", event.replica)
        if replica.locks:
            self.breach("S", f"{event.replica} is evicted with {len(replica.locks)} requests in flight", event.replica)
        model = self.picture.models.get(event.model)
        if model is not None and model.scheduling.pinned:
            self.breach("S", f"{event.replica} of {model.name} is evicted, and pinned", event.replica)
        if model is not None and model.waiting and self.picture.eligible(replica):
            text = (
                f"{event.replica} is evicted while {len(model.waiting)} requests wait for {model.name}, and it is free"
            )
            self.breach("U", text, event.replica)
        self._leave_above_floor(replica, model, "evicted")
        self._judge_bound(event)
        self.churn_rules.evicted(event)
        replica.beneficiary = event.beneficiary
        self._victims.append(replica)
        self.picture.leave(replica)

    def _judge_bound(self, event: ev.ReplicaEvicted) -> None:
        """A node sees no more evictions in a window than its bound, but for those of one load after a quiet window."""
        node, bound = self.picture.nodes.get(event.node), self.settings.evictions_per_node
        if node is None or not bound:
            return
        lately = [(until, for_whom) for until, for_whom in node.evictions if until > event.at]
        if len(lately) >= bound and any(for_whom != event.beneficiary for _, for_whom in lately):
            text = f"eviction {len(lately) + 1} on {node.name} within {format_duration(self.settings.eviction_window)}"
            self.breach("S", f"{text}; its bound is {bound}", node.name)
        node.evictions = [*lately, (event.at + self.settings.eviction_window, event.beneficiary)]

    def _leave_above_floor(self, replica: ReplicaView, model: ModelView | None, how: str) -> None:
        if model is None or not self.picture.candidate(model, self.picture.nodes.get(replica.node)):
            return
        floor = self.picture.floor(model)
        if model.scheduling.everywhere:
            if not self.picture.has_twin(replica):
                text = f"{replica.id} is {how}; {model.name} is to have a copy on {replica.node}, and keeps none there"
                self.breach("S", text, replica.id)
            return
        usable = self.picture.usable_copies(model)
        if how == "evicted" and replica.revision != model.serving and usable < floor:
            self.breach("S", f"{replica.id} of an old revision makes room that its own floor is to have", replica.id)
        if floor and self.picture.eligible(replica) and usable <= floor:
            self.breach("S", f"{replica.id} is {how}; {model.name} keeps fewer than its floor of {floor}", replica.id)

    def on_BackendInstallRequested(self, event: ev.BackendInstallRequested) -> None:
        self._changed(event.model)
        replica = self.picture.replicas.get(event.replica)
        node = self.picture.nodes.get(event.node)
        if replica is None or node is None:
            return
        replica.phase = "installing"
        if not replica.resident:
            replica.resident = True
            node.count(node.resident, replica.claim, +1)
        for pool, _ in replica.claim:
            if node.resident[pool] > node.limits[pool]:
                text = f"{node.name} {name_of(pool)} is to hold {format_size(node.resident[pool])}"
                self.breach("S", f"{text} of {format_size(node.limits[pool])}", node.name)

    def on_StagingStarted(self, event: ev.StagingStarted) -> None:
        self._phase(event, "staging")

    def on_LoadStarted(self, event: ev.LoadStarted) -> None:
        self.placements.see(event)
        replica = self._phase(event, "loading")
        if replica is not None and replica.disk and replica.node in self.picture.nodes:
            staged = self.picture.nodes[replica.node].staged
            for key in [key for key in staged if key[0] == replica.model]:
                del staged[key]  # they have one place
            staged[replica.model, replica.revision] = replica.disk
            for other in self.picture.nodes[replica.node].replicas.values():  # they are there, and give way to nobody
                other.drops = tuple(files for files in other.drops if files[0] != replica.model)

    def _phase(self, event: ev.ReplicaEvent, phase: str) -> ReplicaView | None:
        self._changed(event.model)
        replica = self.picture.replicas.get(event.replica)
        if replica is None:
            self.breach("S", f"{event.replica} is {phase} and not there", event.replica)
        else:
            replica.phase = phase
        return replica

    def on_LoadProgressed(self, event: ev.LoadProgressed) -> None:
        self.changes += 1

    def on_ReplicaLoaded(self, event: ev.ReplicaLoaded) -> None:
        self.placements.see(event)
        replica = self._phase(event, "loaded")
        if replica is not None:
            replica.evictable_at, replica.used_at = event.evictable_at, event.at
            self.churn_rules.loaded(event, replica)
            node = self.picture.nodes.get(event.node)
            if node is not None:
                node.load_rate = event.load_rate or node.load_rate

    def on_ReplicaRetired(self, event: ev.ReplicaRetired) -> None:
        self._changed(event.model)

    def on_UnloadRequested(self, event: ev.UnloadRequested) -> None:
        self._changed(event.model)
        replica = self.picture.replicas.get(event.replica)
        if replica is None:
            return
        if replica.locks:
            self.breach("S", f"{replica.id} is unloaded with {len(replica.locks)} requests in flight", replica.id)
        if replica.phase == "loaded" and event.reason not in LEAVES_ANYWAY:
            self._leave_above_floor(replica, self.picture.models.get(replica.model), "unloaded")
        node = self.picture.nodes.get(replica.node)
        first = replica.phase == "loaded"
        if event.reason == "budget" and first and node is not None and not node.above_budget(replica.claim):
            self.breach("S", f"{replica.id} leaves for the budget of {node.name}, which allows it", replica.id)
        if event.reason == "slots" and first and node is not None and not node.above_slots(replica.model):
            self.breach("S", f"{replica.id} leaves for the slots of {node.name}, which allow it", replica.id)
        self.picture.leave(replica)

    def on_ReplicaLoadFailed(self, event: ev.ReplicaLoadFailed) -> None:
        self.placements.see(event)
        self._lost(event, gone=event.gone)

    def on_ReplicaLost(self, event: ev.ReplicaLost) -> None:
        if "no longer runs" in event.reason and self.judging and self.is_running(event.replica):
            self.breach("S", f"{event.replica} counts as lost while its process runs: busy is not dead", event.replica)
        if (model := self.picture.models.get(event.model)) is not None:
            model.bereft_at = event.at
        self._lost(event, gone=event.gone)

    def _lost(self, event: ev.ReplicaEvent, *, gone: bool) -> None:
        self._changed(event.model)
        replica = self.picture.replicas.get(event.replica)
        if replica is None:
            return
        for request in replica.locks:
            self.picture.locked.pop(request, None)
        replica.locks.clear()
        if gone:
            self.picture.drop(replica)
        else:
            self.picture.leave(replica)

    def on_UnloadConfirmed(self, event: ev.UnloadConfirmed) -> None:
        self._changed(event.model)
        replica = self.picture.replicas.get(event.replica)
        if replica is not None:
            if replica.locks:
                self.breach("S", f"{replica.id} is gone with {len(replica.locks)} requests in flight", replica.id)
            self.picture.drop(replica)

    # --- scheduler --------------------------------------------------------------------------------------------------

    def on_SettingsChanged(self, event: ev.SettingsChanged) -> None:
        self._changed(everything=True)
        self.settings = replace(self.settings, **event.values)
        self.tenants.settings_changed(event)
        # A request that began under the larger budget may use it up.
        self.load_attempts = max(self.load_attempts, self.settings.load_attempts)
        self.bound = passes_allowed(self.load_attempts)

    def on_TenantLimitsSet(self, event: ev.TenantLimitsSet) -> None:
        self.tenants.limits_changed(event)

    def on_Frozen(self, event: ev.Frozen) -> None:
        self.changes += 1
        self.picture.frozen.add(event.what)

    def on_Thawed(self, event: ev.Thawed) -> None:
        self._changed(everything=True)
        self.picture.frozen.discard(event.what)


def _round(model: str, explanation: Explanation) -> str:
    """One round of routing in words: what was found wrong with each node, in order."""
    rows = [f"{row.node}: {row.detail or row.filter}" for row in explanation.considered if row.outcome == "rejected"]
    return f"{model}: " + " → ".join(rows) if rows else f"{model}: {explanation.step}"
