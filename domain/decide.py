"""``decide(state, command, now)``: the one door to every decision.

It reads the state, the command and ``now``, and returns events and follow-up commands; it changes nothing. What is
wrong with a command is raised as an error of the tree, and leaves no event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from . import commands as cmd
from . import contact, loads, models, nodes, parking, reconcile, requests, tenants
from . import events as ev
from .errors import InvalidField
from .own_rules import check_profiles
from .profiles import check_profile
from .settings import DEFAULTS, Settings
from .state import State
from .timers import rule_of


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Events, in order, and commands to decide right after them in the same breath."""

    events: list[ev.Event]
    follow_ups: tuple[cmd.Command, ...] = ()


_Rule = Callable[[State, Any, int], "list[ev.Event] | Decision"]


def decide(state: State, command: cmd.Command, now: int) -> Decision:
    """Decide one command. ``now`` is in microseconds since 1970 and never runs backwards."""
    decided = _RULES[type(command)](state, command, now)
    return decided if isinstance(decided, Decision) else Decision(decided)


def next_wakeup(state: State) -> int | None:
    """The first instant at which a ``Tick`` has something to do; None when nothing is timed."""
    return state.timers[0][0] if state.timers else None


def _tick(state: State, command: cmd.Tick, now: int) -> Decision:
    """Handle the first timer that is due; more due timers follow."""
    if not state.timers or state.timers[0][0] > now:
        return Decision([])
    _, kind, owner = state.timers[0]
    return Decision(rule_of(DUE, kind, owner)(state, owner, now), (command,))


DUE: dict[str, Callable[[State, str, int], list[ev.Event]]] = {
    "silent": lambda state, owner, now: loads.silent(state, state.replicas[owner], now),
    "offline": lambda state, owner, now: nodes.went_offline(state, state.nodes[owner], now),
    "mass-loss": lambda state, owner, now: contact.grace_is_over(state, now),
    "drain": lambda state, owner, now: nodes.enforce_drain(state, state.nodes[owner], now),
    "idle": lambda state, owner, now: reconcile.idle_reached(state, state.replicas[owner], now),
    "unpark": lambda state, owner, now: parking.unpark_by_time(state, state.models[owner], now),
    "deadline": lambda state, owner, now: requests.deadline_reached(state, state.requests[owner], now),
    "wake": lambda state, owner, now: requests.wake(state, state.requests[owner], now),
}
"""What is done when a timer is due, for each kind that ``timers.LIVE`` knows."""


def _review(state: State, command: cmd.Review, now: int) -> Decision:
    if command.nodes:
        rest = msgspec.structs.replace(command, nodes=command.nodes[1:])
        return Decision(nodes.drained(state, command.nodes[0], now), (rest,))
    events, remaining = reconcile.review(state, command, now)
    if not events:
        return Decision([])
    return Decision(events, (msgspec.structs.replace(command, models=remaining),))


def _backend_gone(state: State, command: cmd.ReportBackendGone, now: int) -> Decision:
    """First what the call says of the replica is recorded; then, in the same breath, the request is routed again."""
    events = requests.backend_gone(state, command, now)
    recorded = any(isinstance(event, ev.ReplicaLost | ev.CallWentUnanswered) for event in events)
    return Decision(events, (command,) if recorded else ())


def _start_epoch(state: State, command: cmd.StartEpoch, now: int) -> list[ev.Event]:
    return [ev.EpochStarted(at=now, epoch=command.epoch, writer=command.writer, defaults=DEFAULTS)]


FREEZABLE = ("evictions", "reconciler")


def _freeze(state: State, command: cmd.Freeze, now: int) -> list[ev.Event]:
    _check_freezable(command.what)
    return [] if command.what in state.frozen else [ev.Frozen(at=now, what=command.what)]


def _thaw(state: State, command: cmd.Thaw, now: int) -> list[ev.Event]:
    _check_freezable(command.what)
    return [ev.Thawed(at=now, what=command.what)] if command.what in state.frozen else []


def _check_freezable(what: str) -> None:
    if what not in FREEZABLE:
        raise InvalidField("what", f"{what!r} cannot be frozen", cure=f"Choose {' or '.join(FREEZABLE)}.")


def _change_settings(state: State, command: cmd.ChangeSettings, now: int) -> list[ev.Event]:
    unknown = sorted(set(command.values) - set(Settings.__struct_fields__))
    if unknown:
        raise InvalidField(unknown[0], "is no setting", cure=f"Settings: {', '.join(Settings.__struct_fields__)}.")
    changed = {name: value for name, value in command.values.items() if getattr(state.settings, name) != value}
    if not _PLACEMENT.isdisjoint(changed):
        _check_placement(state, msgspec.structs.replace(state.settings, **changed))
    return [ev.SettingsChanged(at=now, values=changed)] if changed else []


_PLACEMENT = frozenset({"placement", "placement_profiles"})


def _check_placement(state: State, settings: Settings) -> None:
    """Every profile that somebody names is there, and every score and filter of a profile is known here."""
    check_profiles(settings.placement_profiles)
    check_profile(settings.placement, settings.placement_profiles)
    for name in sorted({model.scheduling.placement for model in state.models.values()} - {""}):
        check_profile(name, settings.placement_profiles, "placement_profiles")


_RULES: dict[type[cmd.Command], _Rule] = {
    cmd.AcquireLock: requests.acquire,
    cmd.ReleaseLock: requests.release,
    cmd.CancelRequest: requests.cancel,
    cmd.ReportBackendGone: _backend_gone,
    cmd.LoseHolder: requests.lose_holder,
    cmd.RegisterNode: nodes.register,
    cmd.ReportCapacity: nodes.report_capacity,
    cmd.ReportRunning: nodes.report_running,
    cmd.ReportSilence: nodes.silence,
    cmd.ReportHeard: nodes.heard,
    cmd.WorkerLeft: nodes.worker_left,
    cmd.ReportInstalled: loads.installed,
    cmd.ReportStaged: loads.staged,
    cmd.ReportProgress: loads.progressed,
    cmd.ReportLoaded: loads.loaded,
    cmd.ReportLoadFailed: loads.load_failed,
    cmd.ReportUnloaded: loads.unloaded,
    cmd.ReportReplicaDied: loads.died,
    cmd.ReportStrayStopped: nodes.stray_stopped,
    cmd.ApproveNode: nodes.approve,
    cmd.SetNodeLabels: nodes.set_labels,
    cmd.DrainNode: nodes.drain,
    cmd.ResumeNode: nodes.resume,
    cmd.RemoveNode: nodes.remove,
    cmd.SetNodeBudget: nodes.set_budget,
    cmd.SetReplicaSlots: nodes.set_replica_slots,
    cmd.SetTenantLimits: tenants.set_limits,
    cmd.DeclareModel: models.declare,
    cmd.SetScheduling: models.set_scheduling,
    cmd.StoreLoadInfo: models.store_load_info,
    cmd.RemoveModel: models.remove,
    cmd.RequestLoad: models.load,
    cmd.RequestUnload: models.unload,
    cmd.EvictReplica: loads.evict_by_hand,
    cmd.Freeze: _freeze,
    cmd.Thaw: _thaw,
    cmd.ChangeSettings: _change_settings,
    cmd.StartEpoch: _start_epoch,
    cmd.Tick: _tick,
    cmd.Review: _review,
}
"""Every command and the rule that decides it; looked up at each call, so that an experiment can replace a rule."""
