"""Who leaves and who stays when room is made, and why: replica by replica, in words.

Of the node that makes room a decision tells the replicas that leave first; of the others an audit asks for more.
"""

from __future__ import annotations

from . import eviction
from .claims import format_claim
from .entities import Model, Replica
from .eviction import Eviction, Search
from .recent_use import recent_uses
from .state import State
from .units import format_instant
from .wishes import Cost


def notes_there(
    state: State, model: Model, chosen: Eviction, now: int, *, strictly: bool, most: int | None = None
) -> list[str]:
    """Of each replica on the node that makes room: that it leaves, or why it stays; those that leave first."""
    there = sorted(state.by_node[chosen.node], key=lambda replica: replica not in chosen.victims)
    notes = [_note_there(state, replica, model, chosen, now, strictly) for replica in there[:most]]
    return [*notes, f"and {len(there) - most} more"] if most is not None and len(there) > most else notes


def _note_there(state: State, replica_id: str, model: Model, chosen: Eviction, now: int, strictly: bool) -> str:
    replica = state.replicas[replica_id]
    if replica_id in chosen.victims:
        return f"evicts {_name(replica)}: {_worth(state, replica)}"
    why = eviction.why_not_victim(state, replica, model, now, strictly=strictly)
    if why:
        return f"keeps {_name(replica)}: {why}"
    helps = replica.model == model.name or any(
        pool == short for pool, _ in replica.claim for short, _ in chosen.owed_in
    )
    so = (
        "so that its leaving would cost more"
        if helps
        else f"and its leaving would free nothing that {model.name} lacks"
    )
    return f"keeps {_name(replica)}: {_worth(state, replica)}, {so}"


def notes_elsewhere(state: State, model: Model, node: str, search: Search, now: int, *, strictly: bool) -> list[str]:
    """Of each replica on a node that the model may use and that did not make room: why it stayed.

    ``search`` is what found the room that was made.
    """
    here = eviction.find_victims_on(state, model, state.nodes[node], now, strictly=strictly)
    lost = _why_not_here(node, here, search)
    notes = []
    for replica in (state.replicas[replica] for replica in state.by_node.get(node, ())):
        why = eviction.why_not_victim(state, replica, model, now, strictly=strictly)
        if not why:
            would_go = here.best is not None and replica.id in here.best.victims
            why = f"{_worth(state, replica)}, {lost if would_go or here.best is None else 'and others would go first'}"
        notes.append(f"keeps {_name(replica)}: {why}")
    return notes


def _why_not_here(node: str, here: Search, search: Search) -> str:
    """Why nobody left this node, though somebody might have: the first that spoke for the one that made room."""
    if node in here.bounded:
        return f"but its node takes no eviction more before {format_instant(here.bounded[node][1])[11:19]}"
    if here.best is None:
        return "and there would not be room even then"
    return _what_was_dearer(here.cost, search.cost)


def _what_was_dearer(here: Cost, there: Cost) -> str:
    victims, fewest = here[1], there[1]
    if here[0] and not there[0]:
        return "but it failed to come up here"
    if victims > fewest:
        return f"but {victims} would have to leave here, and {fewest} {'does' if fewest == 1 else 'do'} there"
    if here[2] > there[2]:
        return "so that its leaving would cost more"
    if here[3] > there[3]:
        return "and it was used later"
    return f"but {there[4]} is preferred"


def _name(replica: Replica) -> str:
    return f"{replica.model} ({replica.id})"


def _worth(state: State, replica: Replica) -> str:
    """What its leaving costs, in words: the size that loading it again would move, and how much it was used lately."""
    uses = recent_uses(state, replica)
    lately = f"served {uses} lately" if uses else "not used lately"
    return f"{format_claim(replica.claim)}, {lately}"
