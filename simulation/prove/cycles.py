"""Fair cycles: what may go on for ever without anything new coming from outside.

Resources only ever shrink, so a cycle uses none: it is a cycle of pictures, and arrivals, faults and administrative
steps are not in it. A strongly connected component is *fair* when every fair action that is possible in all of it is
also taken in it; then there is a walk around it that no fairness assumption rules out. Within a component no request
arrives or ends, so a request's place in the order of arrival is its name there: the tag that keeps it distinct.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from .actions import ALWAYS_FAIR, Key
from .explore import Edge, Exploration

Step = tuple[int, Edge]
"""A picture's number, and the step taken from there."""
STARTS_TRIED = 40
"""So many bad steps of a component are tried as the first of the walk around it."""


class Lasso(msgspec.Struct, frozen=True):
    """A cycle of pictures that breaks a property; ``words`` say how."""

    property: str
    words: str
    cycle: list[Step]


def find_lassos(exploration: Exploration) -> list[Lasso]:
    """The cycles found that break T, then those that break Q; of each the one that is reached first comes first."""
    found: list[Lasso] = []
    fair = ALWAYS_FAIR | ({"release"} if exploration.scope.completions_fair else set())
    graph = [_steps_of(exploration, core) for core in range(len(exploration.cores))]
    for component in _components(graph):
        inside = frozenset(component)
        loops = [(core, edge) for core in component for edge in graph[core] if edge.target in inside]
        if not loops:
            continue
        # T does not lean on the deadline: own steps must end before it, too.
        own = [step for step in loops if step[1].label.decided]
        if own and _is_fair(inside, graph, lambda key: key[0] in fair and key[:2] != ("timer", "deadline")):
            words = "a request is decided on again and again, and never ends"
            found.append(Lasso("T", words, _walk(own, inside, graph, _needs(inside, graph, fair, deadlines=False))))
        busy = [step for step in loops if step[1].label.effects]
        if busy and _is_fair(inside, graph, lambda key: key[0] in fair):
            effects = sorted({name for _, edge in busy for name in edge.label.effects})
            words = f"without anything new, effects go on for ever: {', '.join(effects)}"
            found.append(Lasso("Q", words, _walk(busy, inside, graph, _needs(inside, graph, fair, deadlines=True))))
    order = {core: place for place, core in enumerate(exploration.first_states())}
    return sorted(
        found,
        key=lambda lasso: (lasso.property != "T", min(order[core] for core, _ in lasso.cycle), len(lasso.cycle)),
    )


def _steps_of(exploration: Exploration, core: int) -> list[Edge]:
    return [edge for edge in exploration.cores[core].edges.get("", ()) if edge.target >= 0]


def _components(graph: list[list[Edge]]) -> Iterator[list[int]]:
    """Tarjan's strongly connected components, without recursion."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    path: list[int] = []
    on_path: set[int] = set()
    for root in range(len(graph)):
        if root in order:
            continue
        work: list[tuple[int, Iterator[Edge]]] = [(root, iter(graph[root]))]
        order[root] = low[root] = len(order)
        path.append(root)
        on_path.add(root)
        while work:
            core, rest = work[-1]
            edge = next(rest, None)
            if edge is None:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[core])
                if low[core] == order[core]:
                    cut = path.index(core)
                    component = path[cut:]
                    del path[cut:]
                    on_path.difference_update(component)
                    yield component
            elif edge.target not in order:
                order[edge.target] = low[edge.target] = len(order)
                path.append(edge.target)
                on_path.add(edge.target)
                work.append((edge.target, iter(graph[edge.target])))
            elif edge.target in on_path:
                low[core] = min(low[core], order[edge.target])


def _is_fair(inside: frozenset[int], graph: list[list[Edge]], counts: Callable[[Key], bool]) -> bool:
    """Whether no fair action is possible all the time in the component and never taken in it."""
    always: set[Key] | None = None
    taken: set[Key] = set()
    for core in sorted(inside):
        keys = {edge.action.key for edge in graph[core] if counts(edge.action.key)}
        always = keys if always is None else always & keys
        taken |= {edge.action.key for edge in graph[core] if edge.target in inside}
    return not ((always or set()) - taken)


def _needs(inside: frozenset[int], graph: list[list[Edge]], fair: frozenset[str], *, deadlines: bool) -> list[Key]:
    """The fair actions that the walk must take, or have impossible somewhere."""
    keys: dict[Key, None] = {}
    for core in sorted(inside):
        for edge in graph[core]:
            key = edge.action.key
            if key[0] in fair and (deadlines or key[:2] != ("timer", "deadline")):
                keys[key] = None
    return list(keys)


def _walk(bad: list[Step], inside: frozenset[int], graph: list[list[Edge]], needs: list[Key]) -> list[Step]:
    """The shortest closed walk found that takes a bad step and is fair."""
    best: list[Step] = []
    for first in bad[:STARTS_TRIED]:
        back = _way(first[1].target, {first[0]}, inside, graph)
        walk = [first, *(back or [])]
        for key in needs:
            if not _meets(walk, key, graph):
                walk = _detour(walk, key, inside, graph)
        if not best or len(walk) < len(best):
            best = walk
    return best


def _meets(walk: list[Step], key: Key, graph: list[list[Edge]]) -> bool:
    """Whether the walk takes the action, or passes a picture where it is not possible."""
    return any(edge.action.key == key or all(e.action.key != key for e in graph[core]) for core, edge in walk)


def _detour(walk: list[Step], key: Key, inside: frozenset[int], graph: list[list[Edge]]) -> list[Step]:
    """The walk, by way of a picture where the action is not possible, or through a step that takes it."""
    start = walk[0][0]
    free = {core for core in inside if all(edge.action.key != key for edge in graph[core])}
    takes = [(core, e) for core in sorted(inside) for e in graph[core] if e.action.key == key and e.target in inside]
    over = free | {core for core, _ in takes}
    out = _way(start, over, inside, graph) or []
    reached = out[-1][1].target if out else start
    if reached not in free:
        step = next(step for step in takes if step[0] == reached)
        out.append(step)
        reached = step[1].target
    home = _way(reached, {start}, inside, graph) or []
    return [*out, *home, *walk]


def _way(start: int, goals: set[int], inside: frozenset[int], graph: list[list[Edge]]) -> list[Step] | None:
    """The shortest way inside the component to any of the goals; empty when it starts on one."""
    if start in goals:
        return []
    came: dict[int, Step] = {}
    todo = deque([start])
    while todo:
        core = todo.popleft()
        for edge in graph[core]:
            if edge.target in inside and edge.target not in came and edge.target != start:
                came[edge.target] = (core, edge)
                if edge.target in goals:
                    way: list[Step] = []
                    at = edge.target
                    while at != start:
                        way.append(came[at])
                        at = came[at][0]
                    return way[::-1]
                todo.append(edge.target)
    return None
