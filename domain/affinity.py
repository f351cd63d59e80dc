"""Affinity: a prompt goes to the replica that holds most of it, unless that one is too busy.

A prefix cache saves computing what it holds of a prompt; a busy replica makes everybody on it wait. The two are weighed
in one number: a replica that holds the whole prompt may have ``prefix_affinity`` more requests in flight than the least
busy one, and one that holds a part of it may have that part as many. Whoever comes out best takes the request; when
nobody does, the plain rule decides. A replica without room is never chosen, so affinity never makes a request wait.
"""

from __future__ import annotations

import msgspec

from .entities import Model
from .prefixes import DEPTHS
from .state import State


class Match(msgspec.Struct, frozen=True, gc=False):
    """The replica that holds most of a prompt. ``taken``: it is not too busy. ``note`` says so in words."""

    replica: str
    taken: bool
    note: str


def worth(state: State, model: Model) -> int:
    """So many more requests in flight may a replica have that holds the whole prompt; 0 when affinity is off."""
    own = model.scheduling.prefix_affinity
    return state.settings.prefix_affinity if own is None else own


def match(state: State, model: Model, marks: tuple[int, ...]) -> Match | None:
    """The replica that the prompt should go to, or the one that is too busy for it; None when nobody holds any of it.

    A few look-ups per mark, from the deepest on; it ends at the first depth where an idle-enough holder is found.
    """
    warm, holders = state.warm.get(model.name), state.prefixes.holders.get(model.name)
    if warm is None or holders is None:
        return None
    fewest, parallel, slack = warm.order[0][0], model.scheduling.parallel, worth(state, model)
    whole = DEPTHS[len(marks) - 1]
    best = None
    for place in range(len(marks) - 1, -1, -1):
        known = holders.get(marks[place])
        if known is None:
            continue
        depth = DEPTHS[place]
        for replica in known:
            key = warm.where.get(replica)
            if key is None:
                continue  # it may not be locked now
            locks = key[0]
            full = parallel > 0 and locks >= parallel
            rank = (full, (locks - fewest) * whole - slack * depth, -depth, key)
            if best is None or rank < best:
                best = rank
        if best is not None and not best[0] and best[1] == -slack * depth:
            break  # nobody less busy holds more
    if best is None:
        return None
    full, cost, depth, key = best
    locks, _, _, replica, _ = key
    held = f"holds {-depth} of {whole} blocks of its prompt"
    taken = not full and cost <= 0
    if not taken:
        note = f"{replica} {held}, and is too busy: {locks} in flight against {fewest}"
    else:
        note = f"{held}, {locks} in flight against {fewest}" if locks > fewest else held
    return Match(replica, taken, note)
