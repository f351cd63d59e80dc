"""Who makes room where many could: only those that give something that is lacking, and none that could have stayed.

What a load lacks on a node, and what a replica's leaving would give of it, are amounts by *kind*: bytes of a pool or of
main memory, a slot, a member fewer of a group that bars the load. Among a few replicas :mod:`interlock.domain.eviction`
tries every set; among many, one or two are built here for each choice of pools, the largest part of what is lacking
first, and then thinned out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import accumulate

import msgspec

from .anti_affinity import kept_away, members_there
from .claims import RAM
from .entities import LoadSpec, Model, Node, Replica
from .memory import shares
from .recent_use import reload_cost
from .state import State

SLOT, GROUP = -1, -2
"""Kinds beside the pools: a slot of the model on the node, and members of its group that keep it away."""
COMPARED_TARGETS = 4
"""So many choices of pools are compared that take about as few victims each."""
WHOLE = 1 << 40
"""What parts of different kinds are measured in, so that bytes and slots can be added up."""

Gift = tuple[tuple[int, int], ...]
"""Amounts by kind."""


class Lack(msgspec.Struct, frozen=True, gc=False):
    """What a load needs on a node, and what there is of it; below zero, what must leave before there is any."""

    balance: dict[int, int]
    needs: Gift
    """What it needs whichever pools it takes."""
    splits: tuple[tuple[int, int], ...]
    """Over how many pools it may be split, and the bytes in each; (0, 0) for a load that takes none."""


class Helper(msgspec.Struct, frozen=True, gc=False):
    """A replica whose leaving would give something that is lacking; ``place`` is its rank by what a reload costs."""

    replica: Replica
    gift: dict[int, int]
    place: int


def lack_of(
    state: State, model: Model, node: Node, balance: Mapping[int, int], slots: Mapping[int, str], spec: LoadSpec
) -> Lack:
    """What one more replica of the model needs there; ``spec`` is what it takes on this node."""
    members, insisting = members_there(state, model, node) if kept_away(state, model, node) else (0, 0)
    barring = members if model.scheduling.anti_affinity_hard else insisting
    there = {**balance, SLOT: node.max_replicas_per_model - len(slots), GROUP: -barring}
    needs: Gift = ((SLOT, 1), (GROUP, 0))
    if spec.ram and RAM in balance:
        needs = (*needs, (RAM, spec.ram))
    splits = tuple(shares(spec, len(balance) - (RAM in balance))) if spec.vram else ((0, 0),)
    return Lack(there, needs, splits)


def helpers_among(state: State, model: Model, lack: Lack, possible: Sequence[Replica]) -> list[Helper]:
    """Those that give something that is lacking, in the order in which they come; nobody when all are too few.

    Whoever is not among them is in no smallest set: without him there would be as much of all that is lacking.
    """
    gifts = [_gift(state, model, replica, lack.balance) for replica in possible]
    room = _with(lack.balance, gifts)
    if not has_room(lack, room):
        return []
    short = _may_be_short(lack, room)
    helpers: list[Helper] = []
    for replica, gift in zip(possible, gifts, strict=True):
        useful = {kind: size for kind, size in gift if kind in short}
        if useful:
            helpers.append(Helper(replica, useful, len(helpers)))
    return helpers


def _gift(state: State, model: Model, replica: Replica, kinds: Mapping[int, int]) -> Gift:
    """What its leaving gives, needed or not."""
    gift = [entry for entry in replica.claim if entry[0] in kinds]
    if replica.model == model.name:
        gift.append((SLOT, 1))
    if kinds[GROUP]:
        group, hard = state.grouped.get(replica.id, ("", False))
        if group == model.scheduling.anti_affinity and (hard or model.scheduling.anti_affinity_hard):
            gift.append((GROUP, 1))
    return tuple(gift)


def _may_be_short(lack: Lack, room: Mapping[int, int]) -> dict[int, None]:
    """The kinds of which more is needed, for one choice of pools at least that could have room."""
    balance = lack.balance
    short = dict.fromkeys(kind for kind, need in lack.needs if balance[kind] < need)
    for count, share in lack.splits:
        able = _able(room, share)
        if len(able) >= count > 0:
            short.update(dict.fromkeys(pool for pool in able if balance[pool] < share))
    return short


def _able(room: Mapping[int, int], share: int) -> list[int]:
    return [pool for pool, size in room.items() if size >= share and 0 <= pool != RAM]


def has_room(lack: Lack, room: Mapping[int, int]) -> bool:
    """Whether the load fits once there is so much of each kind."""
    for kind, need in lack.needs:
        if room[kind] < need:
            return False
    return any(not count or len(_able(room, share)) >= count for count, share in lack.splits)


def _with(balance: Mapping[int, int], gifts: Iterable[Gift]) -> dict[int, int]:
    room = dict(balance)
    for gift in gifts:
        for kind, size in gift:
            room[kind] += size
    return room


def _room_of(lack: Lack, victims: Iterable[Helper]) -> dict[int, int]:
    """How much there is of each kind once these have left."""
    return _with(lack.balance, [tuple(victim.gift.items()) for victim in victims])


def few_of_many(state: State, lack: Lack, helpers: Sequence[Helper], most: Mapping[str, int]) -> tuple[Replica, ...]:
    """A small set that makes room and of which nobody can be left out, in order of cost; empty when there is none.

    ``helpers`` come cheapest to reload first; ``most`` says of how many models' replicas only so many may leave.
    """
    targets = _targets(lack, helpers)
    if targets and targets[0][0] == 1:
        for helper in helpers:
            if has_room(lack, _room_of(lack, (helper,))):
                return (helper.replica,)
    best: list[Helper] = []
    aim: dict[int, int] = {}
    compared = 0
    for least, short in targets:
        if best and (least > len(best) or compared == COMPARED_TARGETS):
            break
        found = _set_for(state, lack, least, short, helpers, most)
        compared += bool(found)
        if found and (not best or _cost(state, found) < _cost(state, best)):
            best, aim = found, short
    best = without_spare(lack, _with_cheaper(aim, best, helpers, most))
    return tuple([helper.replica for helper in best])


def _set_for(
    state: State,
    lack: Lack,
    least: int,
    short: Mapping[int, int],
    helpers: Sequence[Helper],
    most: Mapping[str, int],
) -> list[Helper]:
    """The better of the sets that give what is short; empty when there is none.

    Where several kinds are, who gives of all of them may be the best, or who gives the most of each: the second is
    tried where the first takes more than ``least``.
    """
    best: list[Helper] = []
    for one_by_one in (False, True) if len(short) > 1 else (False,):
        found = without_spare(lack, _cover(short, helpers, most, one_by_one=one_by_one))
        if found and (not best or _cost(state, found) < _cost(state, best)):
            best = found
        if len(best) == least:
            break
    return best


def _cost(state: State, victims: Sequence[Helper]) -> tuple[int, int, int]:
    replicas = [victim.replica for victim in victims]
    return len(victims), sum(reload_cost(state, one) for one in replicas), max(one.used_at for one in replicas)


def _targets(lack: Lack, helpers: Sequence[Helper]) -> list[tuple[int, dict[int, int]]]:
    """What is short for each choice of pools worth looking at, and how many must leave for it at least.

    Each pool for a load that lies in one; for one that is split, those that take the fewest victims each.
    """
    balance = lack.balance
    room = _room_of(lack, helpers)
    sizes: dict[int, list[int]] = {}
    for helper in helpers:
        for kind, size in helper.gift.items():
            sizes.setdefault(kind, []).append(size)
    sums = {kind: list(accumulate(sorted(given, reverse=True))) for kind, given in sizes.items()}

    def fewest(kind: int, need: int) -> int:
        return bisect_left(sums[kind], need - balance[kind]) + 1 if balance[kind] < need else 0

    needed = {kind: need - balance[kind] for kind, need in lack.needs if balance[kind] < need}
    least = max((fewest(kind, need) for kind, need in lack.needs), default=0)
    targets: list[tuple[int, dict[int, int]]] = []
    for count, share in lack.splits:
        able = sorted([(fewest(pool, share), share - balance[pool], pool) for pool in _able(room, share)])
        choices = [able] if not count else [[one] for one in able] if count == 1 else [able[:count]]
        for choice in choices if len(able) >= count else ():
            pools = {pool: lacking for _, lacking, pool in choice if lacking > 0} if count else {}
            bound = max([least, *(number for number, _, _ in choice)]) if count else least
            targets.append((bound, {**needed, **pools}))
    targets.sort(key=lambda target: (target[0], sum(target[1].values())))
    return targets


def _cover(
    short: Mapping[int, int], helpers: Sequence[Helper], most: Mapping[str, int], *, one_by_one: bool
) -> list[Helper]:
    """Victims who give all that is short, in order of cost; nobody when that cannot be. Some may be spare."""
    rest, left = dict(short), dict(most)
    victims: dict[int, Helper] = {}
    for kinds in [[kind] for kind in short] if one_by_one else [list(short)]:
        aim = {kind: short[kind] for kind in kinds if kind in rest}
        if not _take(aim, rest, left, helpers, victims):
            return []
    return [victims[place] for place in sorted(victims)]


def _take(
    aim: Mapping[int, int],
    rest: dict[int, int],
    left: dict[str, int],
    helpers: Sequence[Helper],
    victims: dict[int, Helper],
) -> bool:
    """Take who gives the largest part of the aim, again and again; the last is the cheapest that gives all the rest.

    A part never grows while others go, so that it is reckoned anew only when it would be the largest.
    """
    heap = [(-_part(helper, rest, aim), helper.place) for helper in helpers if helper.place not in victims]
    heapify(heap)
    while lacking := {kind: rest[kind] for kind in aim if kind in rest}:
        if not heap:
            return False
        _, place = heappop(heap)
        helper = helpers[place]
        now = (-_part(helper, rest, aim), place)
        if not now[0] or not left.get(helper.replica.model, 1):
            continue
        if heap and now > heap[0]:
            heappush(heap, now)
            continue
        if _gives(helper, lacking):
            can = [one for one in helpers if one.place not in victims and left.get(one.replica.model, 1)]
            helper = _first(can, lacking) or helper
        victims[helper.place] = helper
        if helper.replica.model in left:
            left[helper.replica.model] -= 1
        for kind, size in helper.gift.items():
            if kind in rest:
                rest[kind] -= size
                if rest[kind] <= 0:
                    del rest[kind]
    return True


def _part(helper: Helper, rest: Mapping[int, int], aim: Mapping[int, int]) -> int:
    """What the replica gives of the aim that is still lacking, as a part of all that was."""
    part = 0
    for kind, size in helper.gift.items():
        if kind in rest and kind in aim:
            part += min(size, rest[kind]) * WHOLE // aim[kind]
    return part


def _gives(helper: Helper, lacking: Mapping[int, int]) -> bool:
    """Whether the replica gives all that is still lacking."""
    gift = helper.gift
    return all([gift.get(kind, 0) >= size for kind, size in lacking.items()])  # noqa: C419  # because it is faster


def _first(helpers: Iterable[Helper], lacking: Mapping[int, int]) -> Helper | None:
    """The cheapest of these that gives all that is lacking."""
    return next((helper for helper in helpers if _gives(helper, lacking)), None)


def without_spare(lack: Lack, victims: list[Helper]) -> list[Helper]:
    """The victims, in order of cost, without those that can stay; the most expensive to reload is asked first."""
    room = _room_of(lack, victims)
    kept = victims.copy()
    for victim in reversed(victims):
        less = room.copy()
        for kind, size in victim.gift.items():
            less[kind] -= size
        if has_room(lack, less):
            kept.remove(victim)
            room = less
    return kept


def _with_cheaper(
    short: Mapping[int, int], victims: list[Helper], helpers: Sequence[Helper], most: Mapping[str, int]
) -> list[Helper]:
    """Each victim, the most expensive first, gives way to the cheapest that would do in its place."""
    over = {kind: sum(victim.gift.get(kind, 0) for victim in victims) - size for kind, size in short.items()}
    taken = {victim.place: victim for victim in victims}
    left = dict(most)
    for victim in victims:
        if victim.replica.model in left:
            left[victim.replica.model] -= 1
    for victim in reversed(victims):
        mine = victim.replica.model
        lacking = {kind: lack for kind, more in over.items() if (lack := victim.gift.get(kind, 0) - more) > 0}
        for other in helpers[: victim.place]:
            if not _gives(other, lacking) or other.place in taken:
                continue
            its = other.replica.model
            if its != mine and not left.get(its, 1):
                continue
            del taken[victim.place]
            taken[other.place] = other
            for kind in over:
                over[kind] += other.gift.get(kind, 0) - victim.gift.get(kind, 0)
            for name, sign in ((mine, 1), (its, -1)):
                if name in left:
                    left[name] += sign
            break
    return [taken[place] for place in sorted(taken)]
