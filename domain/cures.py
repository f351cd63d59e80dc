"""Cures: what would help a model for which no node has room, in a sentence that says no more than is so.

Nodes that take no work come first: where a model may use no other, room helps nobody. Then the filters that its open
candidates do not pass; those that hold as many of its replicas as they may are in nobody's way but a floor's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import disk
from .anti_affinity import kept_away
from .entities import Model, Node, NodeStatus, Phase, Replica
from .explanation import FULL_SURVEY_LIMIT
from .memory import lacks_ram, spec_on
from .own_rules import refused_by
from .room import Filter, fits_when_empty, judge_room
from .scoring import profile_of
from .shrinking import floor_of
from .state import State

NAMED = 4
"""So many nodes, or replicas whose files stand in the way of a load, are named at most."""
FULL = (Filter.SLOTS, Filter.COPY)
"""What a node does not pass that holds as many of the model's replicas as it may."""


def cure_of_no_room(state: State, model: Model) -> str:
    """What would help, for a model that finds room on none of its candidates and nobody who may leave."""
    full, lacking = _judged(state, model)
    if not (full or lacking):
        return _cure_of_closed(state, model, state.candidates(model).nodes)
    if not lacking:
        return _cure_of_slots(state, model, full)
    nodes = [node for node, _ in lacking]
    group = model.scheduling.anti_affinity
    if group and any(kept_away(state, model, node) for node in nodes):
        return f"Room on one of these nodes, one more node for the members of group {group}, or a group that is soft."
    if all(judged is Filter.OWN for _, judged in lacking):
        return _cure_of_own_rules(state, model, nodes)
    large = [node for node, judged in lacking if judged is not Filter.OWN and fits_when_empty(state, model, node)]
    if not large:
        small = [(node, judged) for node, judged in lacking if judged is not Filter.OWN]
        return _cure_of_small_nodes(state, model, small, full)
    short = [node.name for node in nodes if lacks_ram(state.free_memory(node), spec_on(node, model.declared_spec))]
    if short:
        return f"Main memory on {short[0]} or another candidate, or less `ram` for {model.name}, if it takes less."
    crammed = next((node for node in nodes if disk.staging_need(state, model, node) is None), None)
    if crammed is not None:
        return _cure_of_full_disk(state, model, crammed)
    if len(large) == len(lacking) and not full:
        return "Room on one of these nodes."
    return f"Room on {_any_of(node.name for node in large)}."


def lacks_a_larger_node(state: State, model: Model) -> bool:
    """Whether the candidates that could take one more copy are open, and too small for it even when they are empty."""
    _, lacking = _judged(state, model)
    nodes = [node for node, judged in lacking if judged in (Filter.MEMORY, Filter.RAM, Filter.DISK)]
    return bool(nodes) and not any(fits_when_empty(state, model, node) for node in nodes)


def _judged(state: State, model: Model) -> tuple[list[Node], list[tuple[Node, Filter]]]:
    """The open candidates that hold as many copies as they may, and the first of the others with what each lacks."""
    full: list[Node] = []
    lacking: list[tuple[Node, Filter]] = []
    for _, name in state.candidates(model).open:
        node = state.nodes[name]
        judged = judge_room(state, model, node)
        if judged in FULL:
            full.append(node)
        elif isinstance(judged, Filter):
            lacking.append((node, judged))
        if len(lacking) == FULL_SURVEY_LIMIT:
            break
    return full, lacking


def _cure_of_closed(state: State, model: Model, names: Iterable[str]) -> str:
    """Nodes that are being drained or are silent: what would open them again."""
    nodes = [state.nodes[name] for name in names]
    drained = [node.name for node in nodes if node.drained and not node.drained_by_worker]
    stopping = [node.name for node in nodes if node.drained_by_worker]
    silent = [node.name for node in nodes if node.status in (NodeStatus.UNREACHABLE, NodeStatus.OFFLINE)]
    others = f" (or {_any_of(drained[1:])})" if drained[1:] else ""
    ways = [f"`interlock nodes resume {drained[0]}`{others}"] if drained else []
    ways += [f"a new start of the worker of {_any_of(stopping)}"] if stopping else []
    ways += [f"contact with {_any_of(silent)}"] if silent else []
    told = f"{', '.join(ways)}, or another node that {model.name} may use."
    return told[0].upper() + told[1:]


def _cure_of_slots(state: State, model: Model, nodes: list[Node]) -> str:
    """Every open candidate holds as many of the model's replicas as it may."""
    mine = (state.replicas[replica] for replica in state.by_model.get(model.name, ()))
    going = [replica for replica in mine if replica.phase is Phase.UNLOADING]
    if going:
        return f"{going[0].id} to be gone from {going[0].node}, which it is asked to leave."
    fewer = f", or a lower `min_replicas` for {model.name}" if floor_of(state, model) else ""
    where = _any_of(node.name for node in nodes)
    return f"Another node that {model.name} may use, a higher `max_replicas_per_model` on {where}{fewer}."


def _cure_of_own_rules(state: State, model: Model, nodes: list[Node]) -> str:
    """No open candidate passes the own filters of the model's profile."""
    profile = profile_of(state, model)
    names = _any_of(dict.fromkeys(refused_by(state, model, node, profile) for node in nodes), "and")
    where = _any_of(node.name for node in nodes)
    passing = f"A node that passes the filter {names} of the placement profile {profile.name}"
    return f"{passing}, as by other labels on {where}; or another `placement` for {model.name}."


def _cure_of_small_nodes(state: State, model: Model, small: Sequence[tuple[Node, Filter]], full: list[Node]) -> str:
    """The open candidates that lack a copy could not hold one even when they are empty."""
    closed = [
        name
        for name in state.candidates(model).nodes
        if not state.nodes[name].takes_work and fits_when_empty(state, model, state.nodes[name])
    ]
    if closed:
        return _cure_of_closed(state, model, closed)
    where = _any_of(node.name for node, _ in small)
    lacking = {judged for _, judged in small}
    ways = [f"a larger disk on {where}"] if lacking == {Filter.DISK} else [f"a larger node than {where}"]
    ways += ["a higher budget there"] if Filter.MEMORY in lacking else []
    ways += [f"less {' or '.join(f'`{key}`' for key in _KEYS if _KEYS[key] in lacking)} for {model.name}"]
    if model.scheduling.everywhere:
        ways += [f"a node_selector that leaves {where} out"]
    elif full:
        ways += [f"a higher `max_replicas_per_model` on {_any_of(node.name for node in full)}"]
    told = f"{', '.join(ways[:-1])}, or {ways[-1]}."
    return told[0].upper() + told[1:]


_KEYS = {"vram": Filter.MEMORY, "ram": Filter.RAM, "disk": Filter.DISK}
"""The keys by which a model takes less, and what that mends."""


def _cure_of_full_disk(state: State, model: Model, node: Node) -> str:
    """Whom to unload, so that their files may give way; evictions make room in memory and not on the disk."""
    larger = f"a larger disk, or less `disk` for {model.name}, if it takes less."
    users = disk.whose_files_would_do(state, model, node)
    if not users:
        return f"Disk on {node.name} or another candidate: {larger}"
    whom = f"unload {_users(users)}, whose files give way then (`interlock replicas evict ID`)"
    return f"Disk on {node.name} or another candidate: {whom}; {larger}"


def _users(users: list[Replica]) -> str:
    more = f" and {len(users) - NAMED} more" if len(users) > NAMED else ""
    return ", ".join(f"{replica.id} of {replica.model}" for replica in users[:NAMED]) + more


def _any_of(names: Iterable[str], word: str = "or") -> str:
    """The first few of these names as a list."""
    known = list(names)
    shown = known[:NAMED] if len(known) <= NAMED else [*known[: NAMED - 1], f"{len(known) - NAMED + 1} more"]
    return f"{', '.join(shown[:-1])} {word} {shown[-1]}" if len(shown) > 1 else "".join(shown)
