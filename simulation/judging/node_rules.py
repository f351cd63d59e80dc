"""The invariants about nodes that come and go, and about loads that end; fed like those in ``invariants.py``."""

from __future__ import annotations

from interlock.domain import events as ev
from interlock.domain.claims import in_pools
from interlock.domain.commands import Command, RegisterNode, ReportCapacity, ReportReplicaDied, WorkerLeft
from interlock.domain.entities import Budget
from interlock.domain.nodes import QUANTUM, WORKER_LEFT
from interlock.domain.settings import Settings
from interlock.domain.units import FOREVER, SECOND, format_size

from .court import Court
from .picture import ModelView, NodeView

FEWEST_NODES = 3
"""In a smaller cluster half of the nodes are one, and that one may well be down."""
CONTACT_IS_BACK = "contact is back"
BY_A_CALL = "its backend is gone: UNAVAILABLE"
"""How the reason begins for which a replica is lost because nobody answered a call."""
ENDED_BY_ITSELF = "the backend process ended by itself"
"""How the reason begins that a worker gives. It may be told of a process that was started anew since."""
WITH_ITS_NODE = ("its node", "its worker", "another machine")
"""How the reasons begin for which a replica is lost with all else on its node, whatever runs there."""


class Operation:
    """A part of a load that is under way: when it began, the bytes that it must move, what it has shown."""

    __slots__ = ("began_at", "ends_by", "moved", "trusted_until")

    def __init__(self, settings: Settings, at: int, size: int) -> None:
        self.began_at = at
        self.moved = False
        self.trusted_until = at + max(settings.load_silence, size * SECOND // settings.quiet_load_rate)
        slowest = settings.load_silence + size * SECOND // settings.slowest_load_rate
        self.ends_by = max(self.trusted_until, at + slowest)


class NodeRules:
    """What must hold of names, drains and loads. Fed with each event after the picture has taken it in."""

    def __init__(self, court: Court) -> None:
        self.court = court
        self.drain_by: dict[str, int] = {}
        """Drains whose deadline is to come."""
        self._enforced: list[str] = []
        self.at_work: dict[str, bool] = {}
        self.admitted: dict[str, bool] = {}
        """Whether its name is that of an approved machine: of those that wait for approval the last one has it."""
        """Nodes that registered, and whether they were heard since they last were silent."""
        self.boots: dict[str, dict[str, None]] = {}
        self.disbelieved_until = 0
        """While contact with many nodes is lost; 0 while it is not."""
        self.turns: dict[int, str] = {}
        """When which node counts as gone after contact with many was lost."""
        self._registration: RegisterNode | None = None
        self._goodbye = ""
        """Which boot says goodbye, while that is decided on."""
        self._dead = ""
        """Whose process has died, while that is decided on."""
        self.foreign: dict[str, list[int]] = {}
        """By node, what others use at least, as it was last reported."""
        self.slots_set: dict[str, int] = {}
        """By node, how many replicas of one model an operator has set, until that is lifted."""
        self.budget_set: dict[str, Budget] = {}
        self.in_doubt: dict[str, int] = {}
        """Silent nodes that may be some of many: when they were found so by a failed call, or contact came back."""
        self.operations: dict[str, Operation] = {}
        """By replica, while it loads."""
        self.given_up: dict[str, None] = {}
        """Loads that were given up and are still to be stopped on their workers."""

    def on_NodeRegistered(self, event: ev.NodeRegistered) -> None:
        """One name is one worker: while the first is at work nobody takes it, and who lost it does not come back."""
        boots = self.boots.setdefault(event.node, {})
        at_work = self.at_work.get(event.node, False)
        if event.replaced and at_work and self.admitted.get(event.node, False):
            self.court.breach("S", f"another machine takes the name {event.node} from one at work", event.node)
        elif event.boot in boots and at_work and event.boot != next(reversed(boots)):
            self.court.breach("S", f"two workers take the name {event.node} from each other in turns", event.node)
        boots.pop(event.boot, None)
        boots[event.boot] = None
        self.at_work[event.node] = True
        self.admitted[event.node] = self.admitted.get(event.node, False) and not event.replaced
        if self.slots_set.get(event.node, event.max_replicas_per_model) != event.max_replicas_per_model:
            self.court.breach("S", f"{event.node} registers, and the slots that an operator set are gone", event.node)
        if self.budget_set.get(event.node, event.budget) != event.budget:
            self.court.breach("S", f"{event.node} registers, and the budget that an operator set is gone", event.node)
        self._contact(event.at)
        self.foreign.pop(event.node, None)
        if self._registration is not None:
            self.figures(self._registration)

    def on_NodeApproved(self, event: ev.NodeApproved) -> None:
        self.admitted[event.node] = True

    def before(self, command: Command) -> None:
        """A command's events come next. The figures of a registration count from the event on that it leads to."""
        self._registration = command if isinstance(command, RegisterNode) else None
        self._goodbye = command.boot if isinstance(command, WorkerLeft) else ""
        self._dead = command.replica if isinstance(command, ReportReplicaDied) else ""
        if isinstance(command, ReportCapacity):
            self.figures(command)

    def figures(self, command: ReportCapacity | RegisterNode) -> None:
        """What is in use beyond all that our replicas may hold there is others', whatever the core makes of it."""
        node = self.court.picture.nodes.get(command.node)
        if node is None or not command.used:
            return
        rest = list(command.used)
        for replica in node.replicas.values():
            for pool, size in in_pools(replica.claim) if replica.phase != "reserved" else ():
                if pool < len(rest):
                    rest[pool] -= size
        self.foreign[command.node] = [max(0, size) // QUANTUM * QUANTUM for size in rest]

    def _promise(self, event: ev.ReplicaReserved) -> None:
        """Nothing is promised that somebody else holds: what is claimed and what others use fit into the pool."""
        node, foreign = self.court.picture.nodes.get(event.node), self.foreign.get(event.node, [])
        for pool, _ in in_pools(event.claim) if node is not None else ():
            others = foreign[pool] if pool < len(foreign) else 0
            if node is not None and others and node.staying[pool] + others > node.pools[pool]:
                text = f"{event.replica} is promised memory on {event.node} pool {pool} that others hold"
                ours, most = format_size(node.staying[pool]), format_size(node.pools[pool])
                self.court.breach("S", f"{text}: {ours} and {format_size(others)} of {most}", event.node)

    def on_NodeBecameUnreachable(self, event: ev.NodeBecameUnreachable) -> None:
        self.at_work[event.node] = False
        self.in_doubt.pop(event.node, None)
        if event.call and len(self._known()) >= FEWEST_NODES:
            self.in_doubt[event.node] = event.at
        if not self.disbelieved_until and self._many_are_silent(event.at):
            settings = self.court.settings
            self.disbelieved_until = event.at + max(settings.mass_loss_grace, settings.offline_after)

    def on_NodeWentOffline(self, event: ev.NodeWentOffline) -> None:
        self.at_work[event.node] = False
        if event.at < self.disbelieved_until and event.reason != WORKER_LEFT:
            text = f"{event.node} counts as gone while contact with many nodes is lost: all of it moves at once"
            self.court.breach("S", text, event.node)
        boots = self.boots.get(event.node)
        if self._goodbye and boots and self._goodbye != next(reversed(boots)):
            text = f"{event.node} counts as gone for the goodbye of a former boot, and runs on"
            self.court.breach("S", text, event.node)

    def on_NodeRecovered(self, event: ev.NodeRecovered) -> None:
        self.at_work[event.node] = True
        self._contact(event.at)

    def on_MassLossSuspected(self, event: ev.MassLossSuspected) -> None:
        self.turns.clear()

    def on_NodeOfflinePostponed(self, event: ev.NodeOfflinePostponed) -> None:
        other = self.turns.setdefault(event.offline_at, event.node)
        if other != event.node:
            text = f"{event.node} and {other} are to count as gone in the same moment, and their floors move at once"
            self.court.breach("S", text, event.node)

    def _contact(self, at: int) -> None:
        if self.disbelieved_until and not self._many_are_silent(at):
            self.disbelieved_until = 0

    def _known(self) -> list[NodeView]:
        """The approved nodes that are not known to be gone."""
        return [node for node in self.court.picture.nodes.values() if node.approved and node.status != "offline"]

    def _many_are_silent(self, at: int) -> bool:
        """Whether so many nodes have fallen silent so lately that it is rather the network between us and them."""
        nodes = self._known()
        lately = self.court.settings.offline_after
        silent = sum(1 for node in nodes if node.status == "silent" and node.silent_since + lately > at)
        share = self.court.settings.mass_loss_share
        return share > 0 and len(nodes) >= FEWEST_NODES and 100 * silent >= share * len(nodes)

    def on_MassLossOver(self, event: ev.MassLossOver) -> None:
        if event.at < self.disbelieved_until and self._many_are_silent(event.at):
            self.court.breach("S", "the silence of many nodes at once is believed before its grace is over", "contact")
        self.disbelieved_until = 0
        if event.reason == CONTACT_IS_BACK:
            silent = [node.name for node in self.court.picture.nodes.values() if node.status == "silent"]
            self.in_doubt.update(dict.fromkeys(silent, event.at))

    # --- moving while contact is lost -------------------------------------------------------------------------------

    def on_ReplicaReserved(self, event: ev.ReplicaReserved) -> None:
        """A model whose copies may be where nobody is heard does not grow, and evicts nobody.

        Copies there count for its floor. What has left elsewhere, as an old revision does, may be replaced.
        """
        self._promise(event)
        model = self.court.picture.models.get(event.model)
        if model is None:
            return
        if event.at >= self.disbelieved_until:
            self._moved_before_it_is_known(event, model)
            return
        unheard = any(self._is_silent(replica.node) for replica in model.replicas.values())
        picture = self.court.picture
        grows = picture.has_live_copy(model, but=event.replica)
        grows &= picture.copies(model, but=event.replica) >= picture.floor(model)
        if unheard and (event.victims or (grows and event.revision == model.serving)):
            text = f"{event.model} is moved to {event.node} while its copies may be where contact is lost"
            self.court.breach("S", text, event.replica)

    def _moved_before_it_is_known(self, event: ev.ReplicaReserved, model: ModelView) -> None:
        """A node that a call has found silent before its time may be one of many, and one that was may be heard next.

        It is known once a node that fell silent in the same moment would have been missed, or has not come back either.
        """
        settings = self.court.settings
        if not (event.victims and settings.mass_loss_share and len(self._known()) >= FEWEST_NODES):
            return
        for replica in model.replicas.values():
            found_at = self.in_doubt.get(replica.node) if self._is_silent(replica.node) else None
            if found_at is not None and event.at < found_at + settings.unreachable_after:
                text = f"{event.model} evicts on {event.node}, and {replica.node}, where it may run, may be one of many"
                self.court.breach("S", f"{text} that are silent: nobody knows yet", event.replica)

    def _is_silent(self, name: str) -> bool:
        node = self.court.picture.nodes.get(name)
        return node is not None and node.status == "silent"

    def on_NodeReplicaSlotsSet(self, event: ev.NodeReplicaSlotsSet) -> None:
        if event.lifted:
            self.slots_set.pop(event.node, None)
        else:
            self.slots_set[event.node] = event.max_replicas_per_model

    def on_NodeBudgetSet(self, event: ev.NodeBudgetSet) -> None:
        if event.lifted:
            self.budget_set.pop(event.node, None)
        else:
            self.budget_set[event.node] = event.budget

    def on_NodeDrainStarted(self, event: ev.NodeDrainStarted) -> None:
        self.drain_by[event.node] = event.drain_by

    def on_NodeResumed(self, event: ev.NodeResumed) -> None:
        self.drain_by.pop(event.node, None)

    def on_NodeRemoved(self, event: ev.NodeRemoved) -> None:
        for memory in (
            self.drain_by, self.at_work, self.admitted, self.boots, self.in_doubt, self.slots_set, self.budget_set,
        ):  # fmt: skip
            memory.pop(event.node, None)

    def on_NodeDrainEnforced(self, event: ev.NodeDrainEnforced) -> None:
        due = self.drain_by.pop(event.node, FOREVER)
        if event.at < due:
            self.court.breach("S", f"{event.node} is emptied by force before its drain's deadline", event.node)
        self._enforced.append(event.node)

    def on_NodeDrained(self, event: ev.NodeDrained) -> None:
        self.drain_by.pop(event.node, None)
        node = self.court.picture.nodes.get(event.node)
        if node is None or not node.drained:
            self.court.breach("S", f"{event.node} counts as drained, and nobody drains it", event.node)
        elif node.replicas:
            self.court.breach("S", f"{event.node} counts as empty with {next(iter(node.replicas))} there", event.node)

    # --- loads ------------------------------------------------------------------------------------------------------

    def on_StagingStarted(self, event: ev.StagingStarted) -> None:
        replica = self.court.picture.replicas.get(event.replica)
        if replica is not None:
            self.operations[event.replica] = Operation(self.court.settings, event.at, replica.disk)

    def on_LoadStarted(self, event: ev.LoadStarted) -> None:
        replica = self.court.picture.replicas.get(event.replica)
        if replica is not None:
            size = sum(size for _, size in replica.claim)
            self.operations[event.replica] = Operation(self.court.settings, event.at, size)

    def on_LoadProgressed(self, event: ev.LoadProgressed) -> None:
        operation = self.operations.get(event.replica)
        if operation is not None:
            operation.moved = True
            if event.silent_at > operation.ends_by:
                text = f"{event.replica} may go on moving a few bytes for ever: nothing ends a load that trickles"
                self.court.breach("W", text, event.replica)

    def on_ReplicaLoadFailed(self, event: ev.ReplicaLoadFailed) -> None:
        operation = self.operations.pop(event.replica, None)
        early = operation is not None and not operation.moved and event.at < operation.trusted_until
        if early and event.reason.startswith("no progress"):
            text = f"the load of {event.model} as {event.replica} is given up sooner than its size allows"
            self.court.breach("S", text, event.replica)
        if not event.gone:
            self.given_up[event.replica] = None

    def on_ReplicaLoaded(self, event: ev.ReplicaLoaded) -> None:
        self.operations.pop(event.replica, None)
        if event.replica in self.given_up:
            text = f"{event.replica} counts as loaded after it was given up, while its worker is told to stop it"
            self.court.breach("S", text, event.replica)

    def on_ReplicaLost(self, event: ev.ReplicaLost) -> None:
        if event.replica in self.operations and event.replica == self._dead:
            text = f"{event.replica} dies while it loads, and its load does not count as failed: nothing ends the next"
            self.court.breach("S", text, event.replica)
        self.operations.pop(event.replica, None)
        if event.reason.startswith(BY_A_CALL) and self._is_silent(event.node):
            text = f"{event.replica} is given up for a call that failed, and its node is silent: it may well run there"
            self.court.breach("S", text, event.replica)
        told = event.reason.startswith((*WITH_ITS_NODE, ENDED_BY_ITSELF))
        if event.gone and not told and self.court.is_running(event.replica):
            text = f"{event.replica} counts as dead while its process runs: nobody asked its worker"
            self.court.breach("S", text, event.replica)
        if event.gone:
            self.given_up.pop(event.replica, None)

    def on_UnloadConfirmed(self, event: ev.UnloadConfirmed) -> None:
        self.given_up.pop(event.replica, None)

    def after(self) -> None:
        """All that follows from one command has happened."""
        for name in self._enforced:
            node = self.court.picture.nodes.get(name)
            for replica in node.replicas.values() if node is not None else ():
                if replica.phase != "unloading":
                    text = f"{replica.id} stays on {name} after the deadline of its drain, {replica.phase}"
                    self.court.breach("S", text, replica.id)
        self._enforced.clear()
