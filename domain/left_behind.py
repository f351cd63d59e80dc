"""Loads on their way that a change has left behind: of a selector, of a node's labels, or of what models may use there.

They are given up, as in a drain, so that they start elsewhere and who waits for them is served there. Going on, such a
load would keep others from its room, and leave the moment that it is done. What is loaded stays until it is idle.
"""

from __future__ import annotations

from collections.abc import Collection

from . import events as ev
from . import loads
from .budgets import enough, excess
from .entities import LOADING_PHASES, Model, Node, Replica, merged_labels
from .selector import Selector, matches
from .state import State

NO_CANDIDATE = "its node is no candidate of its model any more"
NO_ROOM = "its node is to hold less than is loaded and on its way there"


def by_selector(state: State, model: Model, selector: Selector, now: int) -> list[ev.Event]:
    """The ends of the model's loads on nodes that its new selector does not match."""
    mine = [state.replicas[replica] for replica in state.by_model.get(model.name, ())]
    ended = [r for r in mine if r.phase in LOADING_PHASES and not matches(selector, state.nodes[r.node].labels)]
    return [event for replica in ended for event in loads.give_up(state, replica, NO_CANDIDATE, now)]


def by_node(state: State, after: Node, here: list[Replica], now: int) -> list[ev.Event]:
    """The ends of loads among the replicas ``here`` when their node is changed to what it is ``after``."""
    labels = merged_labels(after)
    coming = [replica for replica in here if replica.phase in LOADING_PHASES]
    reasons = {replica.id: NO_CANDIDATE for replica in coming if not _matches(state, replica, labels)}
    rest = [replica for replica in coming if replica.id not in reasons]
    reasons |= {replica.id: NO_ROOM for replica in _too_much(state, after, rest, reasons)}
    ended = [replica for replica in coming if replica.id in reasons]
    return [event for replica in ended for event in loads.give_up(state, replica, reasons[replica.id], now)]


def _too_much(state: State, after: Node, coming: list[Replica], but: Collection[str]) -> list[Replica]:
    """Loads that the node has no room for, beside what is loaded there and without those that end anyhow.

    As few as it takes, of those of lower priority first, then of those that began last.
    """
    above = excess(state, after, but) if coming else {}
    in_excess = [replica for replica in coming if any(pool in above for pool, _ in replica.claim)]
    return enough(above, sorted(in_excess, key=lambda replica: (_priority(state, replica), -replica.serial)))


def _matches(state: State, replica: Replica, labels: dict[str, str]) -> bool:
    model = state.models.get(replica.model)
    return model is None or matches(model.scheduling.selector, labels)


def _priority(state: State, replica: Replica) -> int:
    model = state.models.get(replica.model)
    return model.scheduling.priority if model is not None else 0
