"""Eviction: the smallest set of idle replicas whose leaving makes room, and why a replica may not be in it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, islice

import msgspec

from . import contact
from .anti_affinity import kept_away, members_there
from .churn import counted_evictions, evictable_from, live_churn
from .claims import RAM, Claim
from .disk import staging_need
from .entities import LoadSpec, Model, Node, Phase, Replica
from .many_victims import few_of_many, helpers_among, lack_of
from .memory import fit_after, least_share, room_after, spec_on
from .placement import avoided
from .recent_use import reload_cost
from .room import may_host
from .scoring import Room, Standing
from .shrinking import floor_of, keeps_replicas, serving_copies
from .state import State, first_free
from .units import FOREVER, format_instant
from .wishes import Cost, Offer, by_wishes, has_wishes

EXACT_NODES = 64
"""Up to so many open candidates every one is weighed; beyond, a bounded search by reload cost goes first."""
COMPARED_MODELS = 16
"""So many models are compared with the first that has a victim in the bounded search."""
COMPARED_NODES = 4
"""So many of a model's replicas are compared in the bounded search while they are where the last load failed."""
EXACT_REPLICAS = 12
"""Of up to so many replicas on a node that could help every combination is weighed; of more, the one set that
:mod:`interlock.domain.many_victims` finds."""


class Eviction(msgspec.Struct, frozen=True, gc=False):
    """Room that victims make: where, who leaves, what the load claims there and how much of that they still hold."""

    node: str
    index: int
    claim: Claim
    disk: int
    victims: tuple[str, ...]
    owed_in: Claim


class Search(msgspec.Struct):
    """What looking for victims found: the best eviction if any, and when a replica that is safe now ceases to be."""

    best: Eviction | None = None
    cost: Cost = (False, 0, 0, 0, "")
    safe_until: int = FOREVER
    bounded: dict[str, tuple[int, int]] = {}
    """Nodes where a set would make room, but that have seen too many evictions: how many, and when the next may be."""
    wishes: bool = False
    """Whether the model is to be anywhere in particular: then the best set of each node is kept in ``offers``."""
    offers: dict[str, tuple[Offer, Eviction]] = {}
    standings: tuple[Standing, ...] = ()
    """How the nodes stand among which the model's wishes have chosen, best first."""
    spurned: Cost | None = None
    """The least that making room costs on a node where the model's last load failed."""


def may_evict_for(state: State, model: Model, now: int) -> bool:
    """Whether anybody at all may be evicted for the model now: not while that is frozen, or it may run unheard."""
    return "evictions" not in state.frozen and not contact.held_back_until(state, model, now)


def why_not_victim(state: State, replica: Replica, beneficiary: Model, now: int, *, strictly: bool) -> str:
    """Why the replica may not make room for the beneficiary; empty when it may. ``strictly``: only lower priority."""
    if why := why_barred(state, replica, beneficiary, strictly=strictly):
        return why
    model = state.models.get(replica.model)
    return _resident(model, replica, now) if model is not None and is_resident(model, replica, beneficiary, now) else ""


def is_resident(model: Model, replica: Replica, beneficiary: Model, now: int) -> bool:
    """Whether the replica of this model has not stayed for long enough yet to make room for one of its own priority."""
    return replica.evictable_at > now and model.scheduling.priority == beneficiary.scheduling.priority


def why_barred(state: State, replica: Replica, beneficiary: Model, *, strictly: bool) -> str:
    """Why the replica may not make room for the beneficiary, however long it has stayed; empty when it may."""
    if replica.phase is not Phase.LOADED:
        return replica.phase
    if locks := state.lock_count(replica.id):
        return f"{locks} request{'' if locks == 1 else 's'} in flight"
    model = state.models.get(replica.model)
    if model is None:
        return ""
    if model.name == beneficiary.name and state.takes_locks(replica):
        return "it serves the very model"
    if replica.model in state.queues and state.takes_locks(replica):
        # They are about to be granted: a warm model never waits behind a cold one.
        return "its own requests wait for it"
    if model.scheduling.pinned:
        return "pinned"
    mine, its = beneficiary.scheduling.priority, model.scheduling.priority
    if its > mine or (strictly and its == mine):
        return f"priority {its} against {mine}{', and a floor takes only lower' if its == mine else ''}"
    if not spare_of_floor(state, replica, model):
        everywhere = model.scheduling.everywhere
        return "its node is to have one" if everywhere else f"needed for the floor of {floor_of(state, model)}"
    if _leaves_for_its_floor(state, replica, model):
        return "it leaves in any case, and its room is its floor's first"
    return ""


def _leaves_for_its_floor(state: State, replica: Replica, model: Model) -> bool:
    """Whether it is of a revision that does not serve, on a candidate, while of the one that does too few serve."""
    if replica.revision == model.serving or replica.node not in state.candidates(model).nodes:
        return False
    return serving_copies(state, model) < floor_of(state, model)


def _resident(model: Model, replica: Replica, now: int) -> str:
    churn = live_churn(model, now)
    again = f", after {churn.cycles} evictions and reloads in a row" if churn is not None and churn.cycles > 1 else ""
    return f"resident until {format_instant(replica.evictable_at)}{again}"


def spare_of_floor(state: State, replica: Replica, model: Model, leaving: int = 1) -> bool:
    """Whether the model's floor on its candidates holds without ``leaving`` of them, this replica among them."""
    most = _most_leaving(state, replica, model)
    return most is None or leaving <= most


def _most_leaving(state: State, replica: Replica, model: Model) -> int | None:
    """How many copies of the model, this replica among them, may leave the node; None when its floor holds anyhow.

    Only copies that can serve keep it: one on a silent node, or of an older revision, stands in for nobody.
    """
    scheduling, candidates = model.scheduling, state.candidates(model).nodes
    if not (scheduling.everywhere or scheduling.min_replicas) or replica.node not in candidates:
        return None
    if not scheduling.everywhere:
        return serving_copies(state, model) - floor_of(state, model) if state.takes_locks(replica) else None
    if not any(keeps_replicas(state.nodes[name]) for name in candidates):
        return None
    if not state.takes_locks(replica):
        return None
    here = state.by_slot.get((replica.node, model.name), {}).values()  # each candidate is to keep one of its own
    return sum(1 for other in here if state.takes_locks(state.replicas[other])) - 1


def find_victims(state: State, model: Model, now: int, *, strictly: bool = False) -> Search:
    """The smallest victim set on one of the model's open candidates, cheapest to reload, then least recently used.

    What a reload costs is weighed by recent use, as :mod:`interlock.domain.recent_use` counts it. A node where the
    model's last load failed comes last. Where nodes are about equal the model's wishes decide, as
    :mod:`interlock.domain.wishes` says.
    """
    search = Search(wishes=has_wishes(state, model))
    if strictly and not _anybody_lower(state, model):
        return search
    nodes = state.candidates(model).open
    if len(nodes) <= EXACT_NODES or not _search_by_cost(state, model, now, search, strictly=strictly):
        for _, name in nodes:
            _weigh_node(state, model, state.nodes[name], now, search, strictly=strictly)
    if len(search.offers) > 1:
        _grant_wishes(state, model, search)
    return search


def find_victims_on(state: State, model: Model, node: Node, now: int, *, strictly: bool = False) -> Search:
    """What the same search finds on this node alone."""
    search = Search()
    _weigh_node(state, model, node, now, search, strictly=strictly)
    return search


def _anybody_lower(state: State, beneficiary: Model) -> bool:
    """Whether any model with replicas has lower priority, or is removed: where all are equal, floors evict nobody."""
    models = (state.models.get(name) for name in state.by_model)
    return any(model is None or model.scheduling.priority < beneficiary.scheduling.priority for model in models)


def _grant_wishes(state: State, model: Model, search: Search) -> None:
    ranked = by_wishes(state, model, [offer for offer, _ in search.offers.values()], search.cost)
    chosen = ranked[0][1]
    search.best, search.cost = search.offers[chosen.standing.room.node][1], chosen.cost
    search.standings = tuple(standing for standing, _ in ranked)


def failed_there(model: Model, node: Node) -> bool:
    """Whether a load of the model failed on the node and none has come about since: it is tried elsewhere first."""
    return node.name in model.tried_on


def _weigh_node(state: State, model: Model, node: Node, now: int, search: Search, *, strictly: bool) -> None:
    disk = staging_need(state, model, node)
    if disk is None or not may_host(state, model, node):
        return
    possible: list[Replica] = []
    for replica_id in state.by_node.get(node.name, ()):
        replica = state.replicas[replica_id]
        if why_barred(state, replica, model, strictly=strictly):
            continue
        its = state.models.get(replica.model)
        if its is None or not is_resident(its, replica, model, now):
            possible.append(replica)
        elif replica.evictable_at < search.safe_until:
            search.safe_until = replica.evictable_at
    if possible and not kept_away(state, model, node, possible):
        _weigh_sets(state, model, node, possible, disk, now, search)


class Ground(msgspec.Struct, frozen=True, gc=False):
    """What holds on one node for every set of victims: reckoned once, since there are many sets."""

    node: Node
    disk: int
    slots: dict[int, str]
    balance: dict[int, int]
    spec: LoadSpec
    failed_there: bool


def ground_of(state: State, model: Model, node: Node, disk: int) -> Ground:
    """The node as the model finds it; ``disk`` is what staging would take there, in bytes."""
    slots = state.by_slot.get((node.name, model.name), {})
    spec = spec_on(node, model.declared_spec)
    return Ground(node, disk, slots, state.balance_of_memory(node), spec, failed_there(model, node))


def _weigh_sets(
    state: State, model: Model, node: Node, possible: list[Replica], disk: int, now: int, search: Search
) -> None:
    """Try sets of growing size; the first size that makes room on this node is its smallest.

    Where the node takes no such number of evictions now, it is only noted from when on it does.
    """
    possible.sort(key=lambda replica: (reload_cost(state, replica), replica.used_at, replica.serial))
    if _is_outdone(state, model, possible[0], node, search):
        return
    ground = ground_of(state, model, node, disk)
    counted = counted_evictions(state, node, now)
    largest = len(possible)
    if search.best is not None and search.cost[0] <= ground.failed_there:
        largest = min(largest, len(search.best.victims))
    for size, sets in _sets_by_size(state, model, ground, possible):
        if size > largest:
            return
        until = evictable_from(state, counted, size)
        found, into = False, Search() if until else search
        for victims in sets:
            found |= weigh_set(state, model, ground, victims, into)
            if found and size == 1:
                break  # they come cheapest first: no other alone is better
        if found and until:
            _note_bound(search, node, len(counted), until)
        if found or size == largest:
            return


def _is_outdone(state: State, model: Model, cheapest: Replica, node: Node, search: Search) -> bool:
    """Whether one victim elsewhere is as good as any on a node can be of whom this is the cheapest."""
    if search.best is None or len(search.best.victims) > 1 or failed_there(model, node):
        return False  # of a node where the last load failed it is told what making room there would have cost
    return not _may_improve(state, model, cheapest, node, search)


def _sets_by_size(
    state: State, model: Model, ground: Ground, possible: list[Replica]
) -> Iterator[tuple[int, Iterable[tuple[Replica, ...]]]]:
    """The sets of victims to weigh on one node, those of few first: all of them, or of many replicas one that will do.

    Who would give nothing that is lacking is in none of several: somebody else would have to leave all the same.
    """
    few = len(possible) <= EXACT_REPLICAS
    if few:
        yield 1, ((replica,) for replica in possible)
    lack = lack_of(state, model, ground.node, ground.balance, ground.slots, ground.spec)
    helpers = helpers_among(state, model, lack, possible)
    if len(helpers) <= EXACT_REPLICAS:
        replicas = [helper.replica for helper in helpers]
        for size in range(1 + few, len(replicas) + 1):
            yield size, combinations(replicas, size)
        return
    most: dict[str, int] = {}
    for helper in helpers:
        its = state.models.get(helper.replica.model)
        if its is not None and its.name not in most:
            bound = _most_leaving(state, helper.replica, its)
            if bound is not None:
                most[its.name] = bound
    found = few_of_many(state, lack, helpers, most)
    if found:
        yield len(found), (found,)


def _note_bound(search: Search, node: Node, counted: int, until: int) -> None:
    """A set would make room on the node, which takes no more evictions before ``until``."""
    search.bounded[node.name] = (counted, until)
    search.safe_until = min(search.safe_until, until)


def weigh_set(state: State, model: Model, ground: Ground, victims: tuple[Replica, ...], search: Search) -> bool:
    """Whether the model fits once these have left; if it does, the set competes with the best of the search."""
    node, slots = ground.node, ground.slots
    if len(slots) - _leaving(victims, model.name) >= node.max_replicas_per_model or not _floors_hold(state, victims):
        return False
    if kept_away(state, model, node, victims):
        return False
    room = room_after(ground.balance, victims)
    reload = recency = 0
    for replica in victims:
        reload += reload_cost(state, replica)
        if replica.used_at > recency:
            recency = replica.used_at
    found = fit_after(ground.balance, room, ground.spec)
    if found is None:
        return False
    cost = (ground.failed_there, len(victims), reload, recency, node.name)
    best_here = search.wishes and (node.name not in search.offers or cost < search.offers[node.name][0].cost)
    if cost[0] and (search.spurned is None or cost < search.spurned):
        search.spurned = cost
    if search.best is None or cost < search.cost or best_here:
        index = first_free(slots)
        ids = tuple([replica.id for replica in victims])
        eviction = Eviction(node.name, index, found[0], ground.disk, ids, found[1])
        if best_here:
            search.offers[node.name] = (_offer(state, model, eviction, victims, room, cost), eviction)
        if search.best is None or cost < search.cost:
            search.best, search.cost = eviction, cost
    return True


def _leaving(victims: tuple[Replica, ...], model: str) -> int:
    return len([replica for replica in victims if replica.model == model])


def _offer(
    state: State, model: Model, eviction: Eviction, victims: tuple[Replica, ...], room: Mapping[int, int], cost: Cost
) -> Offer:
    """The victims, and how their node stands once they have left it with ``room`` in its pools."""
    node, free = state.nodes[eviction.node], [max(0, size) for pool, size in room.items() if pool != RAM]
    same = _leaving(victims, model.name)
    members = members_there(state, model, node)[0] - members_there(state, model, node, victims)[0]
    place = Room(node.name, eviction.index, eviction.claim, eviction.disk)
    avoids = avoided(state, model, node.name, victims)
    leaving = (same, members, len(victims))
    standing = Standing(place, avoids, max(free, default=0), sum(free), leaving, eviction.victims)
    return Offer(cost, eviction.victims, standing)


def _floors_hold(state: State, victims: tuple[Replica, ...]) -> bool:
    if len(victims) == 1:
        return True
    for replica in victims:
        model = state.models.get(replica.model)
        leaving = _leaving(victims, replica.model)
        if model is not None and leaving > 1 and not spare_of_floor(state, replica, model, leaving):
            return False
    return True


def _search_by_cost(state: State, model: Model, now: int, search: Search, *, strictly: bool) -> bool:
    """In a large cluster: a cheap single victim, models by size and each model's idle replicas by recency.

    No replica costs less than its size, so that models are compared with the best find until they are larger than it
    costs, up to a bound; the first of a model's that may go stands for it. Returns False when no single replica makes
    room, and the exact search has to look for sets.
    """
    least = least_share(model.declared_spec)
    open_nodes = state.candidates(model).keys
    roomiest = -state.candidates(model).open[0][0]
    start = bisect_left(state.warm_by_size, (least - roomiest, ""))
    compared = 0
    for size, name in islice(state.warm_by_size, start, None):
        cheapest = search.best is not None and size > search.cost[2] and not search.cost[0]
        if cheapest or compared >= COMPARED_MODELS:
            break
        compared += search.best is not None
        spurned = 0
        for _, _, _, replica_id, node_name in state.warm[name].idle():
            key = open_nodes.get(node_name)
            if key is None or size - key[0] < least or node_name in search.bounded:
                continue  # before the replica itself is looked up: in a large cluster that is what takes time
            replica = state.replicas[replica_id]
            if why_not_victim(state, replica, model, now, strictly=strictly):
                continue
            node = state.nodes[node_name]
            if not _may_improve(state, model, replica, node, search):
                break
            disk = staging_need(state, model, node) if may_host(state, model, node) else None
            if disk is None:
                continue
            counted = counted_evictions(state, node, now)
            until = evictable_from(state, counted, 1)
            ground = ground_of(state, model, node, disk)
            if until and weigh_set(state, model, ground, (replica,), Search()):
                _note_bound(search, node, len(counted), until)
            elif not until and weigh_set(state, model, ground, (replica,), search):
                spurned += 1
                if not ground.failed_there or spurned >= COMPARED_NODES:
                    break
    return search.best is not None


def _may_improve(state: State, model: Model, replica: Replica, node: Node, search: Search) -> bool:
    """Whether the replica alone could be the best so far, or the best of a node that the model's wishes look at."""
    if search.best is None or search.wishes:
        return True
    cost = (failed_there(model, node), 1, reload_cost(state, replica), replica.used_at, node.name)
    return cost < search.cost
