"""Churn: models that evict each other again and again, and how many evictions a node takes in a while.

A *cycle* is an eviction of a model's replica for a model that it lately made room for already, and a load of the same
model soon after it. A few are life; from the ``thrash_cycles``-th in a row on each freshly loaded replica stays twice
as long as the last, so that the cycle slows down by itself, until loading takes but a small part of the time. When it
is quiet for long enough, all is forgotten.

A model that makes room now for this one and now for that is no cycle of a few, but one of many that do not all fit. If
such replicas stayed longer, all the others would wait longer, and no load would be saved: somebody has to leave anyhow.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from .claims import total
from .entities import Churn, Model, Node, Replica
from .scoring import ASSUMED_RATE
from .state import State
from .units import SECOND, format_duration, format_instant

PAYS_OFF = 8
"""A replica that stays so many times as long as its load took spends at most a ninth of the time loading."""
SHORTEST_STAY = SECOND
"""What is doubled where ``min_residency`` is shorter."""
OTHERS_KEPT = 4
"""Of so many models that a model made room for it is remembered: a cycle is one of so many and itself at most."""
DOUBLINGS_MAX = 20


def stay(state: State, replica: Replica, cycles: int) -> int:
    """How long a freshly loaded replica is safe from its equals, after so many cycles of its model in a row.

    ``min_residency``, doubled with every cycle from the ``thrash_cycles``-th on, up to what pays its load off, and to
    ``longest_residency``.
    """
    settings = state.settings
    if not settings.thrash_cycles or cycles < settings.thrash_cycles:
        return settings.min_residency
    doublings = min(cycles - settings.thrash_cycles + 1, DOUBLINGS_MAX)
    doubled = max(settings.min_residency, SHORTEST_STAY) * (1 << doublings)
    paid_off = PAYS_OFF * load_time(state, replica)
    return max(settings.min_residency, min(doubled, paid_off, settings.longest_residency))


def load_time(state: State, replica: Replica) -> int:
    """How long loading it again would take, at what its node was last seen to load at."""
    return total(replica.claim) * SECOND // (state.nodes[replica.node].load_rate or ASSUMED_RATE)


def spell(state: State, staying: int) -> int:
    """How long after a step of a cycle the next one still belongs to it: longer, the longer replicas stay."""
    return max(state.settings.thrash_window, 4 * staying)


def live_churn(model: Model | None, now: int) -> Churn | None:
    """What is remembered of the model's cycles; None when it has been quiet for long enough."""
    churn = model.churn if model is not None else None
    return churn if churn is not None and churn.until > now else None


def churn_after_eviction(state: State, victim: Replica, beneficiary: str, now: int) -> Churn | None:
    """What is to be remembered when this replica is evicted for a model: a load of its own soon closes a cycle.

    Not when it makes room for a model for which it lately did not: that ends the row.
    """
    model = state.models.get(victim.model)
    if model is None or not state.settings.thrash_cycles:
        return None
    old = live_churn(model, now) or Churn(since=now)
    again = beneficiary in old.others or not old.others
    others = (*(other for other in old.others if other != beneficiary), beneficiary)[-OTHERS_KEPT:]
    cycles, since = (old.cycles, old.since) if again else (0, now)
    until = now + spell(state, stay(state, victim, cycles))
    return Churn(cycles=cycles, since=since, until=until, evicted=again, others=others)


def churn_after_load(state: State, replica: Replica, now: int) -> Churn | None:
    """What is to be remembered when this replica has loaded: one cycle more when its model was evicted lately."""
    old = live_churn(state.models.get(replica.model), now)
    if old is None or not old.evicted:
        return old
    cycles = old.cycles + 1
    staying = stay(state, replica, cycles)
    return Churn(cycles=cycles, since=old.since, until=now + staying + spell(state, staying), others=old.others)


# --- how many evictions a node takes --------------------------------------------------------------------------------


def counted_evictions(state: State, node: Node, now: int) -> list[int]:
    """Until when each of the node's evictions counts that still do, soonest first."""
    return sorted(until for until in state.evictions.get(node.name, ()) if until > now)


def evictable_from(state: State, counted: list[int], victims: int) -> int:
    """From when on the node takes so many evictions more; 0 when it takes them now.

    More than the bound at once are taken when none has been for the whole window: they make room for one load.
    """
    bound = state.settings.evictions_per_node
    over = len(counted) + victims - bound
    if not bound or not counted or over <= 0:
        return 0
    return counted[min(over, len(counted)) - 1]


def what_ends(state: State, model: Model, until: int) -> str:
    """What kept the model from room until this instant: a node's bound, the stay for a cycle, or min_residency."""
    nodes = state.candidates(model).nodes
    replica = _stayed_until(state, nodes, until)
    if replica is not None:
        if replica.evictable_at - replica.loaded_at <= state.settings.min_residency:
            return "a replica that was kept for min_residency may make room now"
        return f"{replica.id} of {replica.model}, kept for longer after evictions and reloads, may make room now"
    bound = _bounded_until(state, nodes, until)
    if bound:
        return f"node {bound} takes evictions again, after as many as evictions_per_node allows"
    return "the instant from which room may be made for it has come"


def _stayed_until(state: State, nodes: Mapping[str, None], until: int) -> Replica | None:
    """Of the replicas that were safe until this instant the oldest on one of these nodes; None when there is none."""
    stays = state.stays
    for place in range(bisect_left(stays, (until, 0, "")), len(stays)):
        instant, _, replica_id = stays[place]
        if instant != until:
            return None
        replica = state.replicas[replica_id]
        if replica.node in nodes:
            return replica
    return None


def _bounded_until(state: State, nodes: Mapping[str, None], until: int) -> str:
    """Of these nodes the one with an eviction that counted until this instant; the first in ``evictions`` of several.

    Whatever is fewer is gone through, these nodes or those that have seen evictions.
    """
    evictions = state.evictions
    if len(nodes) < len(evictions):
        found = [node for node in nodes if until in evictions.get(node, ())]
        if len(found) < 2:
            return "".join(found)
    return next((node for node, counted in evictions.items() if until in counted and node in nodes), "")


def explain_bound(state: State, counted: int, until: int) -> str:
    """Why a node takes no eviction now, in words."""
    window = format_duration(state.settings.eviction_window)
    evictions = "1 eviction" if counted == 1 else f"{counted} evictions"
    return f"{evictions} in the last {window}; the next is possible at {format_instant(until)[11:19]}"
