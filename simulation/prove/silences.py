"""S while contact with many nodes is lost: it is noticed, nobody counts as gone then, and nothing is moved in haste.

Whether many are silent is counted from the nodes, each judgement on the state before its event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from interlock.domain import events as ev
from interlock.domain.entities import Model, NodeStatus, Phase
from interlock.domain.state import State

from .situation import Finding

_FEWEST = 3
"""In a smaller cluster half of the nodes are one, and a single node may well be down."""
_BY_A_CALL = "its backend is gone: UNAVAILABLE"
_BACK = "contact is back"
_OF_ITSELF = "silent for offline_after"


def _many_are_silent(state: State, now: int, *, more: Iterable[str] = (), but: str = "") -> bool:
    """Whether so many nodes are silent, and have been for so short a time, that rather the network is to blame.

    ``more`` fall silent in this moment; ``but`` has just spoken.
    """
    known = [node for node in state.nodes.values() if node.approved and node.status is not NodeStatus.OFFLINE]
    lately = now - state.settings.offline_after
    silent = {node.name for node in known if node.status is NodeStatus.UNREACHABLE and node.silent_since > lately}
    silent = (silent | {node.name for node in known if node.name in more}) - {but}
    share = state.settings.mass_loss_share
    return share > 0 and len(known) >= _FEWEST and 100 * len(silent) >= share * len(known)


def judge_contact(before: State, events: Iterable[ev.Event]) -> Iterator[Finding]:
    """What one step makes of silences."""
    fell = [event for event in events if isinstance(event, ev.NodeBecameUnreachable)]
    noticed = before.mass_loss_until > 0 or any(isinstance(event, ev.MassLossSuspected) for event in events)
    if fell and not noticed and _many_are_silent(before, fell[0].at, more=[event.node for event in fell]):
        yield Finding("S", "contact with many nodes is lost at once, and it is believed that all of them are gone")
    known = sum(1 for node in before.nodes.values() if node.approved and node.status is not NodeStatus.OFFLINE)
    for event in fell:
        if event.call and not event.alone_at and known >= _FEWEST and before.settings.mass_loss_share:
            yield Finding("S", f"a call to {event.node} failed, and nobody waits to see whether others are silent, too")


def gone(state: State, event: ev.NodeWentOffline, now: int) -> Finding | None:
    """While contact with many is lost, no silence is long enough."""
    if state.mass_loss_until and event.reason == _OF_ITSELF:
        return Finding("S", f"{event.node} counts as offline while contact with many nodes is lost")
    return None


def postponed(state: State, event: ev.NodeOfflinePostponed, now: int) -> Finding | None:
    """They are given up one after the other, so that not all that they ran begins anew in one moment."""
    for node in state.nodes.values():
        turn = node.offline_at == event.offline_at and node.status is NodeStatus.UNREACHABLE
        if turn and node.name != event.node and event.offline_at >= state.mass_loss_until:
            return Finding("S", f"{event.node} and {node.name} are to count as offline in the same moment")
    return None


def over(state: State, event: ev.MassLossOver, now: int) -> Finding | None:
    """It is over when its grace is, or when enough of the nodes have spoken again."""
    if now < state.mass_loss_until and _many_are_silent(state, now):
        return Finding("S", "the silence of many nodes is believed before its grace is over")
    silent = any(node.status is NodeStatus.UNREACHABLE for node in state.nodes.values())
    if event.reason == _BACK and silent and not event.alone_at:
        return Finding("S", "contact is back with some nodes, and nobody waits to see whether it is with the others")
    return None


def given_up(state: State, event: ev.ReplicaLost, now: int) -> Finding | None:
    """A call that nobody answers says no more than the silence of the node."""
    node = state.nodes.get(event.node)
    if event.reason.startswith(_BY_A_CALL) and node is not None and node.status is NodeStatus.UNREACHABLE:
        return Finding("S", f"{event.model} on {event.node} is given up for a call that failed, and its node is silent")
    return None


def moved(state: State, event: ev.ReplicaReserved, model: Model) -> Finding | None:
    """A model that may be running where nobody is heard evicts nobody for another copy, and gets none beside others."""
    if event.victims and any(state.nodes[name].alone_at > event.at for name in _unheard(state, model)):
        return Finding("S", f"{model.name} evicts on {event.node} before it is known whether others are silent, too")
    mine = [replica for replica in state.replicas.values() if replica.model == model.name]
    if not (state.mass_loss_until and _unheard(state, model)):
        return None
    heard = [r for r in mine if state.nodes[r.node].status is NodeStatus.HEALTHY and r.phase is Phase.LOADED]
    if event.victims or (heard and event.revision == model.serving):
        return Finding("S", f"{model.name} is moved to {event.node} while it may run where contact is lost")
    return None


def _unheard(state: State, model: Model) -> list[str]:
    """The silent nodes that hold a copy of the model."""
    nodes = (replica.node for replica in state.replicas.values() if replica.model == model.name)
    return [name for name in nodes if state.nodes[name].status is NodeStatus.UNREACHABLE]
