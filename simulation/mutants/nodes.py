"""Seeded bugs in how nodes come and go and how loads end; made like those of ``core.py``."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from interlock.domain import clocks, contact, left_behind, loads, nodes, patience, requests, trials
from interlock.domain import events as ev
from interlock.domain.applying import replicas
from interlock.domain.commands import ReportReplicaDied
from interlock.domain.entities import Phase
from interlock.domain.units import FOREVER
from interlock.simulation import cluster

from .patching import Patches, Row


def drain_deadline_ignored(patches: Patches) -> None:
    """The deadline of a drain comes, and what is busy there stays as long as it likes."""
    enforce = nodes.enforce_drain

    def only_say_so(at: Any, node: Any, now: int) -> Any:
        return [event for event in enforce(at, node, now) if isinstance(event, ev.NodeDrainEnforced)]

    patches.swap(enforce, only_say_so)


def name_stolen(patches: Patches) -> None:
    """A second machine that registers under a node's name gets it, and the first takes it back with its next word."""
    patches.swap(nodes._check_name_is_free, lambda node, command: None)


def orders_for_any_boot(patches: Patches) -> None:
    """An order names its node and not which worker is meant: whoever listens under that name carries it out."""
    patches.swap(loads.boot_at, lambda at, node: "")


def all_gone_at_once(patches: Patches) -> None:
    """When the grace has passed, all nodes that are still silent count as gone in the same moment."""
    postponed = contact.postponed

    def in_one_moment(at: Any, node: Any, now: int) -> Any:
        return [replace(event, offline_at=at.mass_loss_until) for event in postponed(at, node, now)]

    patches.swap(postponed, in_one_moment)


def recovery_reloads(patches: Patches) -> None:
    """A node that comes back after a silence is emptied first, and loads again what it runs."""
    heard = nodes.heard

    def begin_anew(at: Any, command: Any, now: int) -> Any:
        events = heard(at, command, now)
        return [*events, *nodes._lose_all(at, command.node, "not trusted after a silence", now)] if events else []

    patches.swap(heard, begin_anew)


def probe_believed(patches: Patches) -> None:
    """A health probe that is not answered in time means that the process is dead; its worker is not asked."""

    def believe(self: Any, node: Any) -> None:
        state = self.writer.engine.state
        for replica in list(state.by_node.get(node.spec.name, ())) if node.trouble.probes else ():
            if state.replicas[replica].phase is Phase.LOADED:
                self.report(node, ReportReplicaDied(replica=replica, reason="a probe timed out"))

    patches.attribute(cluster.VirtualCluster, "_probe", believe)


def silence_unscaled(patches: Patches) -> None:
    """A load that shows no progress is given up after load_silence, whatever its size."""
    patches.swap(patience.window, lambda settings, size: settings.load_silence)


def trickle_unbounded(patches: Patches) -> None:
    """A load goes on for as long as it moves a byte in every window."""
    patches.swap(patience.limit, lambda settings, size: FOREVER // 2)


def late_success_kept(patches: Patches) -> None:
    """A load that was given up counts as loaded when its worker's success comes late, and is stopped all the same."""
    awaiting = loads._awaiting

    def await_for_ever(at: Any, replica_id: str, op: str, phase: Any) -> Any:
        replica = at.replicas.get(replica_id)
        late = replica is not None and replica.phase is Phase.UNLOADING and replica.reason == "load failed"
        if late and phase is Phase.LOADING and op == loads.operation(replica, replica.op - 1):
            return replica
        return awaiting(at, replica_id, op, phase)

    patches.swap(awaiting, await_for_ever)


def foreign_memory_ignored(patches: Patches) -> None:
    """What others use of a node's memory is reported, and counts as free all the same."""
    patches.swap(nodes.foreign, lambda at, name, pools, used, kept=None, sent_at=0: (0,) * len(pools))


def mass_loss_believed(patches: Patches) -> None:
    """Half of the nodes fall silent at once, and each is taken to be gone after its own time."""
    patches.swap(contact._too_many, lambda at, silent, total: False)


def moved_in_the_dark(patches: Patches) -> None:
    """While contact with many nodes is lost, a model whose copies may be there evicts others, and grows."""
    patches.swap(contact.holds_back, lambda at, model: False)


def call_believed(patches: Patches) -> None:
    """A call that nobody answers means that the replica is gone, also on a node that is silent."""
    patches.swap(requests._says_no_more_than_silence, lambda at, replica: False)


def silent_alone(patches: Patches) -> None:
    """A node that a failed call finds silent is silent alone, and one that is not heard as soon as the first others."""
    patches.swap(contact.alone_at, lambda at, now: 0)


def back_with_the_first(patches: Patches) -> None:
    """Contact is back with the first of many nodes, and at once the others, which follow in a moment, are moved."""
    contact_is_back = contact.contact_is_back

    def and_no_more_doubt(at: Any, names: Any, now: int) -> Any:
        return [replace(event, alone_at=0) for event in contact_is_back(at, names, now)]

    patches.swap(contact_is_back, and_no_more_doubt)


def late_goodbye_believed(patches: Patches) -> None:
    """A goodbye is believed whatever boot says it, also when its successor has been at work for long."""
    worker_left = nodes.worker_left
    patches.swap(worker_left, lambda at, command, now: worker_left(at, replace(command, boot=""), now))


def operators_word_forgotten(patches: Patches) -> None:
    """A worker that registers anew brings its own slots and budget along, whatever an operator has set meanwhile."""
    register = nodes.register

    def as_the_worker_says(at: Any, command: Any, now: int) -> Any:
        own = {"max_replicas_per_model": command.max_replicas_per_model, "worker_slots": 0}
        own |= {"budget": command.budget, "worker_budget": None} if command.budget is not None else {}
        events = register(at, command, now)
        return [replace(event, **own) if isinstance(event, ev.NodeRegistered) else event for event in events]

    patches.swap(register, as_the_worker_says)


def worker_clock_believed(patches: Patches) -> None:
    """What a worker says counts as said when its own clock says so: nobody sees that the clock is off."""

    def by_its_own_clock(rule: Any) -> Any:
        return lambda at, command, now: rule(at, command, command.clock if clocks.is_told(command) else now)

    for rule in (nodes.register, nodes.report_capacity):
        patches.swap(rule, by_its_own_clock(rule))


def place_in_line_kept(patches: Patches) -> None:
    """A client that leaves while it waits keeps its place in line, and gets a lock that nobody releases."""
    patches.swap(requests.cancel, lambda at, command, now: [])


def selector_leaves_loads(patches: Patches) -> None:
    """A load goes on where its model's selector has left, and the copy is unloaded the moment that it is there."""
    patches.swap(left_behind.by_selector, lambda at, model, selector, now: [])


def labels_leave_loads(patches: Patches) -> None:
    """A load goes on on a node whose labels have left its model."""
    patches.swap(left_behind._matches, lambda at, replica, labels: True)


def budget_leaves_loads(patches: Patches) -> None:
    """A load goes on on a node whose budget no longer holds it, and requests are served there."""
    patches.swap(left_behind._too_much, lambda at, after, coming, but: [])


def early_deaths_count_for_nothing(patches: Patches) -> None:
    """A floor whose copies die before they have served anybody is loaded again at once, for ever."""
    patches.swap(trials.dies_early, lambda at, replica, now: False)


def accidents_pause(patches: Patches) -> None:
    """A copy that dies before it has served anybody leaves its model alone for a while, the first one, too."""
    patches.swap(
        loads.retry_after_death, lambda at, model, now: now + loads.pause_after(at.settings, model.early_deaths + 1)
    )


def serving_proves_nothing(patches: Patches) -> None:
    """Copies that died before they had served anybody count for ever, whoever serves since."""
    patches.swap(requests._proved, lambda model, replica, now: [])


def deaths_at_once_are_a_row(patches: Patches) -> None:
    """Copies that die of one thing at the same time count as if they had been tried one after the other."""
    patches.swap(replicas._others_say_nothing_new, lambda at, model: None)


ROWS: tuple[Row, ...] = (
    (early_deaths_count_for_nothing, "T", "dies-at-its-first-call", True),
    (accidents_pause, "W", "dies-at-its-first-call", True),
    (serving_proves_nothing, "W", "dies-at-its-first-call", True),
    (deaths_at_once_are_a_row, "S", "dies-at-its-first-call", True),
    (selector_leaves_loads, "S", "selector-leaves-a-load", True),
    (labels_leave_loads, "S", "left-before-it-took-over", True),
    (budget_leaves_loads, "S", "budget-leaves-a-load", True),
    (drain_deadline_ignored, "S", "drain-with-deadline", True),
    (name_stolen, "S", "two-machines-one-name", True),
    (orders_for_any_boot, "S", "name-taken-while-silent", True),
    (mass_loss_believed, "S", "half-the-cluster-silent", True),
    (moved_in_the_dark, "S", "nothing-moves-in-the-dark", True),
    (call_believed, "S", "cut-off-under-traffic", True),
    (back_with_the_first, "S", "nothing-moves-in-the-dark", True),
    (silent_alone, "S", "cut-off-under-traffic", True),
    (all_gone_at_once, "S", "half-the-cluster-gone", True),
    (recovery_reloads, "S", "adopted-after-partition", True),
    (probe_believed, "S", "busy-is-not-dead", False),
    (silence_unscaled, "S", "slow-but-alive-load", True),
    (trickle_unbounded, "W", "trickling-load", True),
    (foreign_memory_ignored, "S", "foreign-memory", True),
    (late_success_kept, "S", "late-success", True),
    (late_goodbye_believed, "S", "goodbye-comes-late", True),
    (operators_word_forgotten, "S", "operators-word-stays", True),
    (place_in_line_kept, "W", "clients-hang-up", True),
    (worker_clock_believed, "S", "clock-off", True),
)
"""As in :data:`interlock.simulation.mutants.core.ALL`."""
