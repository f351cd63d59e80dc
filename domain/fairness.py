"""Fair waiting: in which order waiting requests are served, of one model and of several that want the same room.

A request's place is an instant, its *rank*: its arrival, moved to the front by ``priority_ageing`` for each point of
priority. Those of earlier rank go first. So a point of priority is worth that much waiting and no more: a request is
overtaken only by those that arrive within (their priority - its own) times ``priority_ageing`` after it, however many
come later. No timer ages anybody, for the order of two requests never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .entities import Request
from .settings import Settings
from .shrinking import below_floor
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


def by_importance(state: State, names: Iterable[str]) -> list[str]:
    """Models by their priority, the highest first; those of one priority, and what is left of removed ones, by name."""

    def place(name: str) -> tuple[int, str]:
        model = state.models.get(name)
        return (-model.scheduling.priority if model is not None else 0, name)

    return sorted(names, key=place)


def floors_first(state: State, names: Iterable[str]) -> list[str]:
    """Those of the models that are below their floor: what operators want kept, the more important first."""
    return by_importance(state, [name for name in names if lacks_copies(state, name)])


def fairly_placed(state: State, names: Sequence[str]) -> Sequence[str]:
    """The same models, of which those that compete for room stand in the order in which they may have it.

    Those that are below their floor keep their order among themselves and go first: what an operator wants kept goes
    before a passing request. The others go by whose request has waited the longest: while its floor is kept, a model's
    requests have no better claim than those of others.
    """
    if len(names) < 2 or not state.queues:
        return names
    floors = set(floors_first(state, names))
    waiting = [name for name in names if name in state.queues and name not in floors]
    if not waiting or len(waiting) + len(floors) < 2:
        return names
    competing = iter([*(name for name in names if name in floors), *fair_order(state, waiting)])
    return [next(competing) if name in floors or name in state.queues else name for name in names]


def lacks_copies(state: State, name: str) -> bool:
    """Whether there is a model of that name, and it is below its floor."""
    model = state.models.get(name)
    return model is not None and below_floor(state, model)


def order_queues_anew(state: State) -> None:
    """For apply: ``priority_ageing`` has changed, and it holds for those who wait already."""
    for queue in state.queues.values():
        queue[:] = sorted(queue_key(state, state.requests[entry[2]]) for entry in queue)
