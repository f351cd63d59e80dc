"""Scores: what speaks for each node that has room, as whole numbers from 0 to 100, summed by a profile's weights.

Above every score stands what a replica avoids: a node where the model's last load failed, one with a member of its
anti-affinity group, one with a copy of it. Equals are told apart by free memory, then by name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from msgspec.structs import replace

from .claims import Claim, in_pools, total
from .entities import Model, Node
from .own_rules import RULES, facts_of_model, facts_of_node
from .profiles import BUILT_IN, Profile, find_profile
from .state import State
from .units import GIB, SECOND

BEST = 100
LOAD_FAILED, GROUP_IS_THERE, COPY_IS_THERE = 4, 2, 1
"""What a replica avoids on a node, as bits of a rank: each weighs more than all after it."""
AVOIDED = (
    (LOAD_FAILED, "it failed to come up there"),
    (GROUP_IS_THERE, "a member of its group is there"),
    (COPY_IS_THERE, "a copy of it is there"),
)
WORSE_THAN_ALL = 2 * LOAD_FAILED
"""A rank that no node has."""
ASSUMED_RATE = GIB
"""Bytes a second that a node is taken to load or stage at before it has been measured."""


class Room(msgspec.Struct, frozen=True, gc=False):
    """A place for a replica: node, slot, the memory it takes there, and the disk that staging it takes."""

    node: str
    index: int
    claim: Claim
    disk: int


class Standing(msgspec.Struct, frozen=True, gc=False):
    """How a node with room stands: what is avoided there, its total, and the (score, value, weight) behind that.

    ``free`` is the most in one pool, ``free_in_all`` what is free in all of them. ``leaving`` make the room, and are
    taken to have left: how many are of the model itself, of its group, and in all; ``victims`` are their ids.
    """

    room: Room
    avoided: int
    free: int
    free_in_all: int
    leaving: tuple[int, int, int] = (0, 0, 0)
    victims: tuple[str, ...] = ()
    total: int = 0
    parts: tuple[tuple[str, int, int], ...] = ()


def profile_of(state: State, model: Model) -> Profile:
    """The profile that chooses the model's nodes: its own, or the cluster's."""
    settings = state.settings
    return (
        find_profile(model.scheduling.placement or settings.placement, settings.placement_profiles)
        or BUILT_IN["default"]
    )


def weigh(state: State, model: Model, profile: Profile, rooms: list[Standing]) -> list[Standing]:
    """The same standings with totals, best first. ``pack`` and ``load_time`` are in proportion to these rooms."""
    scores = [(name, weight, _score(name, state, model, rooms)) for name, weight in profile.weights]
    weighed = []
    for standing in rooms:
        node = state.nodes[standing.room.node]
        parts = tuple((name, score(node, standing), weight) for name, weight, score in scores)
        total = sum(value * weight for _, value, weight in parts)
        weighed.append(replace(standing, total=total, parts=parts))
    sign = 1 if profile.fills_up else -1
    weighed.sort(key=lambda standing: (standing.avoided, -standing.total, sign * standing.free, standing.room.node))
    return weighed


_Score = Callable[[Node, Standing], int]


def _score(name: str, state: State, model: Model, rooms: list[Standing]) -> _Score:
    built_in = _SCORES.get(name)
    if built_in is not None:
        return built_in(state, model, rooms)
    return lambda node, standing: RULES.rates(
        name, facts_of_model(model, node), facts_of_node(state, node, standing.victims)
    )


def _rest(model: Model, standing: Standing) -> int:
    """The most that one pool has free, less what the replica takes of one."""
    return max(0, standing.free - max((size for _, size in in_pools(standing.room.claim)), default=0))


def _pack(state: State, model: Model, rooms: list[Standing]) -> _Score:
    """The least free memory left: large holes stay for large models."""
    largest = max(map(partial(_rest, model), rooms), default=0) or 1
    return lambda node, standing: BEST - BEST * _rest(model, standing) // largest


def _spread(state: State, model: Model, rooms: list[Standing]) -> _Score:
    """The fewest replicas of this model and its group, then of any model."""
    group = state.groups.get(model.scheduling.anti_affinity, {})

    def score(node: Node, standing: Standing) -> int:
        same, of_group, leaving = standing.leaving
        members, _ = group.get(node.name, (0, 0))
        alike = max(members - of_group, len(state.by_slot.get((node.name, model.name), ())) - same)
        return 25 * max(0, 3 - alike) + 25 - min(24, len(state.by_node.get(node.name, ())) - leaving)

    return score


def _balance(state: State, model: Model, rooms: list[Standing]) -> _Score:
    """The largest share of its memory left free: unequal nodes fill evenly."""

    def score(node: Node, standing: Standing) -> int:
        budget = sum(node.budgets)
        left = standing.free_in_all - total(in_pools(standing.room.claim))
        return BEST * max(0, left) // budget if budget else 0

    return score


def _locality(state: State, model: Model, rooms: list[Standing]) -> _Score:
    """Its files are on the node's disk already, or it has none."""
    return lambda node, standing: BEST if standing.room.disk == 0 else 0


def _load_time(state: State, model: Model, rooms: list[Standing]) -> _Score:
    """The shortest time to stage and load it, at the speeds that were measured on each node."""
    quickest = min((load_time(model, state.nodes[one.room.node], one.room) for one in rooms), default=1)
    return lambda node, standing: BEST * quickest // load_time(model, node, standing.room)


def load_time(model: Model, node: Node, room: Room) -> int:
    """Microseconds that staging and loading are expected to take there; never 0."""
    staging = room.disk * SECOND // (node.stage_rate or ASSUMED_RATE)
    return 1 + staging + model.declared_spec.vram * SECOND // (node.load_rate or ASSUMED_RATE)


def why_best(model: Model, profile: Profile, standings: tuple[Standing, ...], how: str = "was chosen") -> str:
    """One sentence: what spoke for the best of them against the next."""
    best = standings[0]
    said = f"{best.room.node} {how} for {model.name} by the profile {profile.name}"
    if len(standings) == 1:
        return f"{said}: no other node has room."
    rival, name = standings[1], standings[1].room.node
    gains = [
        (weight * (mine - its), score)
        for (score, mine, weight), (_, its, _) in zip(best.parts, rival.parts, strict=True)
    ]
    gain, score = max(gains, default=(0, ""))
    roomiest = min(standings, key=lambda standing: (-standing.free, standing.room.node))
    though = f", though {roomiest.room.node} has more free memory" if roomiest.free > best.free else ""
    if best.avoided < rival.avoided:
        why = next(words for bit, words in AVOIDED if rival.avoided & bit > best.avoided & bit)
        return f"{said} rather than {name}: {why}."
    if gain > 0:
        return f"{said}: {_WORDS.get(score, f'its score {score} is the best')} ({score}){though}."
    amount = "less" if profile.fills_up else "more"
    tie = f"it has {amount} free memory" if best.free != rival.free else "its name comes first"
    return f"{said}: it and {name} score the same, and {tie}."


_WORDS = {
    "pack": "it leaves the least memory over",
    "spread": "the fewest replicas run there",
    "balance": "the largest share of its memory stays free",
    "locality": "its files are there already",
    "load_time": "it loads fastest there",
}
_SCORES: dict[str, Callable[[State, Model, list[Standing]], _Score]] = {
    "pack": _pack,
    "spread": _spread,
    "balance": _balance,
    "locality": _locality,
    "load_time": _load_time,
}
