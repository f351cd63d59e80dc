"""Folding epochs, holders, settings and freezes."""

from __future__ import annotations

from msgspec.structs import replace

from interlock.domain import events as ev
from interlock.domain.fairness import order_queues_anew
from interlock.domain.settings import Settings, born_with
from interlock.domain.state import State
from interlock.domain.timers import arm_idle

from .handlers import applies
from .tenants import start_afresh


@applies(ev.EpochStarted)
def _epoch_started(state: State, event: ev.EpochStarted) -> None:
    """The ledger keeps the epoch. The first of a log says which defaults the cluster was born with."""
    if not state.nodes and not state.models and state.settings == Settings():
        state.settings = born_with(event.defaults)


@applies(ev.HolderLost)
def _holder_lost(state: State, event: ev.HolderLost) -> None:
    """Its requests end by events of their own, which follow."""


@applies(ev.MassLossSuspected)
def _mass_loss_suspected(state: State, event: ev.MassLossSuspected) -> None:
    state.mass_loss_until, state.mass_loss_turns = event.until, 0
    state.set_timer(event.until, "mass-loss", "")


@applies(ev.MassLossOver)
def _mass_loss_over(state: State, event: ev.MassLossOver) -> None:
    state.mass_loss_until = 0
    for name in state.silent if event.alone_at else ():
        state.nodes[name] = replace(state.nodes[name], alone_at=event.alone_at)


@applies(ev.SettingsChanged)
def _settings_changed(state: State, event: ev.SettingsChanged) -> None:
    state.settings = replace(state.settings, **event.values)
    if "scale_down_delay" in event.values or "idle_unload" in event.values:
        for replica in state.replicas.values():
            arm_idle(state, replica)
    if "priority_ageing" in event.values:
        order_queues_anew(state)
    if "tenant_rate" in event.values or "tenant_burst" in event.values:
        start_afresh(state)


@applies(ev.Frozen)
def _frozen(state: State, event: ev.Frozen) -> None:
    state.frozen[event.what] = None
    _index_making_way(state)


def _index_making_way(state: State) -> None:
    """What makes way serves on while the reconciler is frozen, for it cannot leave."""
    for name in state.models:
        state.index_making_way(name)


@applies(ev.Thawed)
def _thawed(state: State, event: ev.Thawed) -> None:
    state.frozen.pop(event.what, None)
    _index_making_way(state)
