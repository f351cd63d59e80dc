"""Recent use: how many requests a replica has served lately, as far as that matters to who makes room.

A count per replica that every lock raises, up to the setting ``recent_uses``, and that evictions halve: once each
*turnover*, when as many replicas have been evicted as the cluster holds. So what was popular in the morning does not
keep its place in the evening, and nothing needs a clock. The count is halved when it is read: a replica remembers the
turnover in which its count was right (dynamic ageing as in Arlitt et al., "Evaluating content management techniques
for Web proxy caches", 2000, with halving in place of an offset).

A model that is evicted leaves its count behind, and its next replica begins with what is left of it: what comes back
soon was not cold.
"""

from __future__ import annotations

from msgspec.structs import replace

from .claims import total
from .entities import Replica
from .state import State

LONGEST_TURNOVER = 256
"""A turnover takes so many evictions at most, so that a busy corner of a large cluster does not wait for the rest."""


def recent_uses(state: State, replica: Replica) -> int:
    """How many requests the replica has served lately."""
    uses = replica.uses
    return min(state.settings.recent_uses, uses >> (state.turnovers - replica.uses_at)) if uses else 0


def reload_cost(state: State, replica: Replica) -> int:
    """What its leaving costs: the bytes that loading it again would move, once for every recent use and once anyhow."""
    return total(replica.claim) * (1 + recent_uses(state, replica))


def past_uses(state: State, model: str) -> int:
    """What is left of the recent uses that the model had when a replica of it was evicted last."""
    uses, turnover = state.past_uses.get(model, (0, state.turnovers))
    return min(state.settings.recent_uses, uses >> (state.turnovers - turnover))


# --- for apply only ---------------------------------------------------------------------------------------------------


def count_use(state: State, replica: Replica, at: int) -> Replica:
    """The replica with one use more."""
    uses = (replica.uses >> (state.turnovers - replica.uses_at)) + 1
    most = state.settings.recent_uses
    return replace(replica, used_at=at, uses=uses if uses < most else most, uses_at=state.turnovers)


def count_eviction(state: State, replica: Replica) -> None:
    """The replica is evicted: its model keeps its recent uses in mind, and with every turnover all counts halve."""
    uses = recent_uses(state, replica)
    if uses and replica.model in state.models:
        state.past_uses[replica.model] = (uses, state.turnovers)
    else:
        state.past_uses.pop(replica.model, None)
    state.evicted_in_turnover += 1
    if state.evicted_in_turnover >= min(len(state.replicas), LONGEST_TURNOVER):
        state.turnovers += 1
        state.evicted_in_turnover = 0


def remember_uses(state: State, replica: Replica) -> Replica:
    """The replica that has just loaded, with what is left of the uses that its model had when it was evicted."""
    uses = past_uses(state, replica.model)
    state.past_uses.pop(replica.model, None)
    return replace(replica, uses=uses, uses_at=state.turnovers)
