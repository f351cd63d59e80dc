"""Room on a node: one judgement, on which placement, explanations, eviction and roll-outs agree."""

from __future__ import annotations

import random
from functools import cache
from itertools import combinations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.anti_affinity import kept_away
from interlock.domain.disk import staging_need
from interlock.domain.entities import Model, Node
from interlock.domain.eviction import Search, ground_of, weigh_set
from interlock.domain.many_victims import has_room, lack_of
from interlock.domain.memory import room_after
from interlock.domain.placement import choose
from interlock.domain.room import Filter, fits_after, judge_room, may_host, room_on
from interlock.domain.routing import explain_room
from interlock.domain.scoring import Room
from interlock.domain.state import State
from interlock.domain.units import GIB
from tests.domain.cluster import Cluster

MODELS = 8
SEEDS = range(30)


@cache
def crowded(seed: int) -> State:
    """Unequal nodes, full or nearly so, and models that need what some of them lack."""
    rng, cluster = random.Random(seed), Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0, "evictions_per_node": 0}))
    for n in range(6):
        pools = tuple(rng.choice((6, 8, 16)) * GIB for _ in range(rng.choice((1, 1, 2))))
        ram = rng.choice((0, 8 * GIB, 32 * GIB))
        cluster.node(f"n{n}", pools=pools, slots=rng.choice((1, 2)), disk=rng.choice((None, 20 * GIB)), ram=ram)
    for n in range(MODELS):
        group = rng.choice(("", "", "g"))
        needs = {"vram": rng.choice((2, 4, 6)), "disk": rng.choice((0, 4, 9)), "ram": rng.choice((0, 0, 3, 6))}
        wishes = {"anti_affinity": group, "anti_affinity_hard": bool(group) and rng.random() < 0.5}
        cluster.model(f"m{n}", pools=rng.choice((1, 1, 2)), everywhere=rng.random() < 0.15, **needs, **wishes)
    for _ in range(16):
        cluster.send(cmd.RequestLoad(model=f"m{rng.randrange(MODELS)}"))
        cluster.settle()
    return cluster.state


def open_to(state: State, model: Model) -> list[Node]:
    return [state.nodes[name] for _, name in state.candidates(model).open]


@pytest.mark.parametrize("seed", SEEDS)
def test_an_explanation_rejects_a_node_by_the_filter_for_which_placement_passes_it_over(seed: int) -> None:
    state = crowded(seed)
    for model in state.models.values():
        rows = {row.node: row for row in explain_room(state, model, "place", "").considered}
        for node in open_to(state, model):
            judged, row = judge_room(state, model, node), rows[node.name]
            if isinstance(judged, Room):
                assert (row.outcome, row.filter) == ("eligible", "")
            else:
                assert (row.outcome, row.filter) == ("rejected", judged.value)
                assert row.detail


@pytest.mark.parametrize("seed", SEEDS)
def test_a_place_is_chosen_wherever_a_node_has_room_and_nowhere_else(seed: int) -> None:
    state = crowded(seed)
    for model in state.models.values():
        rooms = [room for node in open_to(state, model) if (room := room_on(state, model, node)) is not None]
        choice = choose(state, model)
        assert (choice is not None) == bool(rooms)
        assert choice is None or choice.room in rooms


@pytest.mark.parametrize("seed", SEEDS)
def test_victims_make_room_exactly_where_the_model_would_fit_once_they_have_left(seed: int) -> None:
    state = crowded(seed)
    for model in state.models.values():
        for node in open_to(state, model):
            disk = staging_need(state, model, node)
            if disk is None or not may_host(state, model, node):
                continue
            there = [state.replicas[replica] for replica in state.by_node.get(node.name, ())]
            ground, balance = ground_of(state, model, node, disk), state.balance_of_memory(node)
            lack = lack_of(state, model, node, balance, ground.slots, ground.spec)
            for victims in (one for size in range(1, 4) for one in combinations(there, size)):
                fits = fits_after(state, model, node, victims)
                assert weigh_set(state, model, ground, victims, Search()) == fits
                slots = sum(one.model == model.name for one in victims)
                if not (slots or kept_away(state, model, node, victims) or kept_away(state, model, node)):
                    given = {**lack.balance, **room_after(balance, victims)}
                    assert has_room(lack, given) == fits


def test_every_filter_stands_in_the_way_somewhere() -> None:
    """Or the tests above would show less than they say."""
    seen: set[object] = set()
    for seed in SEEDS:
        state = crowded(seed)
        for model in state.models.values():
            seen.update(type(judged) is Filter and judged for judged in _judged(state, model))
    assert seen >= {False, *Filter} - {Filter.OWN}, "tests/domain/test_own_rules.py has the own filters"


def _judged(state: State, model: Model) -> list[Room | Filter]:
    return [judge_room(state, model, node) for node in open_to(state, model)]


def test_a_node_that_has_its_copy_of_a_model_that_is_to_be_everywhere_is_no_eligible_place_for_another() -> None:
    cluster = Cluster()
    for name in "ab":
        cluster.node(name, slots=2)
    cluster.model("m", everywhere=True)
    first, second = (event for event in cluster.events if isinstance(event, ev.ReplicaReserved))
    rows = {row.node: row for row in second.explanation.considered}
    assert (first.node, second.node) == ("a", "b")
    assert (rows["a"].outcome, rows["a"].filter, rows["a"].detail) == ("rejected", "copy", "has its copy")


def test_a_node_that_lacks_memory_and_main_memory_is_said_to_lack_the_first_of_them() -> None:
    cluster = Cluster()
    cluster.node("a", vram=8, ram=4 * GIB)
    cluster.model("both", vram=24, ram=16)
    cluster.model("main", vram=4, ram=16)
    state = cluster.state
    for name, filter in (("both", Filter.MEMORY), ("main", Filter.RAM)):
        assert judge_room(state, state.models[name], state.nodes["a"]) is filter
