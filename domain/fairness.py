"""Fair waiting: in which order waiting requests are served, of one model and of several that want the same room.

A request's place is an instant, its *rank*: its arrival, moved to the front by ``priority_ageing`` for each point of
priority. Those of earlier rank go first. So a point of priority is worth that much waiting and no more: a request is
overtaken only by those that arrive within (their priority - its own) times ``priority_ageing`` after it, however many
come later. No timer ages anybody, for the order of two requests never changes.
"""

from __future__ import annotations

from collections.abc import Iterable

from .entities import Request
from .settings import Settings
from .state import QueueKey, State
from .units import FOREVER


def rank(settings: Settings, arrival: int, priority: int) -> int:
    """A request's place: the lower goes first. With ageing off it is the priority alone, whatever the waiting."""
    ageing = settings.priority_ageing
    return -priority if ageing >= FOREVER else arrival - priority * ageing


def queue_key(state: State, request: Request) -> QueueKey:
    """A request's entry in its model's queue: by rank, and among equals in the order of arrival."""
    return (rank(state.settings, request.arrival, request.priority), request.serial, request.id)


def fair_order(state: State, names: Iterable[str]) -> list[str]:
    """Models that have waiting requests, by the rank of their first: who goes first for room that all could use."""
    return sorted(names, key=lambda name: state.queues[name][0])


def order_queues_anew(state: State) -> None:
    """For apply: ``priority_ageing`` has changed, and it holds for those who wait already."""
    for queue in state.queues.values():
        queue[:] = sorted(queue_key(state, state.requests[entry[2]]) for entry in queue)
