"""Which of many idle replicas make room: who gives what is lacking, as few as can be, and nobody who could stay."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain import eviction
from interlock.domain.apply import apply
from interlock.domain.entities import ANY_POOLS, Model, Replica
from interlock.domain.eviction import EXACT_REPLICAS, Search, find_victims, ground_of, weigh_set
from interlock.domain.units import GIB
from tests.domain.cluster import Cluster, check_invariants, check_replay

SMALL = EXACT_REPLICAS + 1


def host(*pools: int, **facts: object) -> Cluster:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0, "evictions_per_node": 0}))
    cluster.node("host", pools=tuple(size * GIB for size in pools), **{"slots": 4, **facts})
    return cluster


def load(cluster: Cluster, name: str, *, times: int = 1, **spec: object) -> None:
    """Declare the model and load it as often as asked, as far as it fits."""
    cluster.model(name, **spec)
    for _ in range(times):
        cluster.send(cmd.RequestLoad(model=name))
        cluster.settle()


def small_ones(cluster: Cluster, number: int = SMALL, vram: int = 1, prefix: str = "small") -> None:
    for n in range(number):
        load(cluster, f"{prefix}-{n}", vram=vram)


def victims_for(cluster: Cluster, name: str) -> list[str]:
    """The models of those that would make room for it."""
    found = find_victims(cluster.state, cluster.state.models[name], cluster.now).best
    return sorted(cluster.state.replicas[victim].model for victim in found.victims) if found is not None else []


def stand_aside(cluster: Cluster, model: str) -> None:
    """Its copies are of an older revision: only then may they make room for one of their own model."""
    declared = cluster.state.models[model].declared_spec
    apply(cluster.state, ev.RevisionDeclared(at=cluster.now, model=model, revision=2, spec=declared))
    apply(cluster.state, ev.RevisionServing(at=cluster.now, model=model, revision=2))


def use(cluster: Cluster, model: str, times: int) -> None:
    for n in range(times):
        cluster.wait(1)
        cluster.request(f"{model}/{n}", model)
        cluster.release(f"{model}/{n}")


# --- who helps -------------------------------------------------------------------------------------------------------


def test_who_lies_in_another_pool_than_the_one_that_makes_room_stays() -> None:
    cluster = host(20, 24)
    load(cluster, "large", vram=19)  # in the first pool, which it nearly fills
    load(cluster, "larger", vram=12)
    small_ones(cluster)
    cluster.model("new", vram=22)
    assert victims_for(cluster, "new") == sorted(["larger", *(f"small-{n}" for n in range(SMALL) if n != 0)][:11])


def test_where_main_memory_alone_is_short_who_takes_none_stays() -> None:
    cluster = host(64, ram=26)
    cluster.node("host", pools=(64 * GIB,), ram=26 * GIB, slots=4)
    load(cluster, "roomy", vram=30)
    for n in range(SMALL):
        load(cluster, f"deep-{n}", vram=1, ram=2)
    cluster.model("new", vram=2, ram=6)
    assert victims_for(cluster, "new") == ["deep-0", "deep-1", "deep-2"]


def test_where_the_models_own_slots_are_all_that_is_short_one_of_its_own_goes() -> None:
    cluster = host(64)
    small_ones(cluster, vram=2)
    load(cluster, "new", times=4, vram=1)
    assert victims_for(cluster, "new") == []  # they serve the very model
    stand_aside(cluster, "new")
    assert victims_for(cluster, "new") == ["new"]


def test_where_a_hard_group_is_all_that_stands_in_the_way_its_members_go_and_nobody_else() -> None:
    cluster = host(64)
    small_ones(cluster, vram=2)
    for name in ("first", "second"):
        load(cluster, name, vram=1, anti_affinity="apart")
    cluster.model("new", vram=1, anti_affinity="apart", anti_affinity_hard=True)
    assert victims_for(cluster, "new") == ["first", "second"]


def test_it_is_said_of_who_stays_that_its_leaving_would_free_nothing_or_would_cost_more() -> None:
    cluster = host(20, 14)
    load(cluster, "elsewhere", vram=20)
    load(cluster, "large", vram=9)
    load(cluster, "small", vram=5)
    cluster.model("new", vram=4)
    cluster.forget()
    cluster.request("r", "new")
    (row,) = cluster.events[0].explanation.considered
    for words in (
        "keeps elsewhere (r-000001): 20GiB, not used lately, and its leaving would free nothing that new lacks",
        "keeps large (r-000002): 9GiB, not used lately, so that its leaving would cost more",
        "evicts small (r-000003): 5GiB",
    ):
        assert words in row.detail


# --- how few, and which ----------------------------------------------------------------------------------------------


def test_as_few_go_as_can_be() -> None:
    cluster = host(36)
    small_ones(cluster)
    for name, vram in (("ten", 10), ("eight", 8), ("five", 5)):
        load(cluster, name, vram=vram)
    cluster.model("new", vram=17)
    assert victims_for(cluster, "new") == ["eight", "ten"]


def test_of_as_few_the_cheapest_go_and_among_equals_the_least_recently_used() -> None:
    cluster = host(41)
    small_ones(cluster)
    for name in ("popular", "first", "second", "third"):
        load(cluster, name, vram=7)
    for name, times in (("popular", 5), ("first", 1), ("third", 1), ("second", 1)):
        use(cluster, name, times)
    cluster.model("new", vram=12)
    assert victims_for(cluster, "new") == ["first", "third"]


def test_who_frees_a_little_of_everything_stays_once_others_have_freed_it_all() -> None:
    cluster = host(36, 24, ram=16)
    cluster.node("host", pools=(36 * GIB, 24 * GIB), ram=16 * GIB, slots=4)
    load(cluster, "bit-of-all", vram=12, ram=6, pools=2)
    load(cluster, "across", vram=22, pools=2)
    load(cluster, "one-pool", vram=12)
    load(cluster, "on-cpu", vram=0, ram=10)
    small_ones(cluster, 14)
    cluster.model("new", vram=16, ram=8, pools=2)
    assert victims_for(cluster, "new") == ["across", "on-cpu"]


def test_a_model_keeps_its_floor_and_others_go_in_place_of_its_copies() -> None:
    cluster = host(36)
    load(cluster, "kept", vram=5, min_replicas=2)
    assert len(cluster.state.by_model["kept"]) == 3
    small_ones(cluster, 21)
    cluster.model("new", vram=10)
    victims = victims_for(cluster, "new")
    assert victims.count("kept") == 1
    assert len(victims) == 6


def test_nobody_goes_where_all_together_would_free_too_little() -> None:
    cluster = host(24, 24)
    load(cluster, "pinned", vram=20, pinned=True)
    load(cluster, "pinned-too", vram=20, pinned=True)
    small_ones(cluster, 8)
    small_ones(cluster, 1, vram=4, prefix="four")
    cluster.model("new", vram=10)
    assert victims_for(cluster, "new") == []


def test_the_bound_of_evictions_holds_for_many_too_and_says_when_the_next_is_possible() -> None:
    cluster = host(26)
    small_ones(cluster, 26)
    cluster.model("first", vram=2)
    cluster.model("second", vram=3)
    cluster.send(cmd.ChangeSettings(values={"evictions_per_node": 4}))
    cluster.request("r1", "first")
    cluster.settle()
    use(cluster, "first", 3)
    search = find_victims(cluster.state, cluster.state.models["second"], cluster.now)
    assert search.best is None or len(search.best.victims) <= 2
    assert "host" in search.bounded
    assert search.safe_until == search.bounded["host"][1]


def test_the_eviction_of_many_goes_through_and_replays() -> None:
    cluster = host(24, 24)
    small_ones(cluster, 48)
    cluster.model("new", vram=40, pools=2)
    cluster.forget()
    cluster.request("r", "new")
    check_invariants(cluster)
    cluster.settle()
    check_invariants(cluster)
    check_replay(cluster)
    assert cluster.count("ReplicaEvicted") == 40
    assert cluster.state.requests["r"].replica


# --- whatever is there -----------------------------------------------------------------------------------------------

PARTS = st.fixed_dictionaries(
    {
        "vram": st.integers(0, 5),
        "ram": st.integers(0, 2),
        "pools": st.sampled_from((1, 1, 1, 2, ANY_POOLS)),
        "times": st.integers(1, 3),
        "anti_affinity": st.sampled_from(("", "", "", "apart")),
    }
)
NEW = st.fixed_dictionaries(
    {
        "vram": st.integers(4, 30),
        "ram": st.integers(0, 12),
        "pools": st.sampled_from((1, 1, 2, 3, ANY_POOLS)),
        "times": st.integers(0, 2),
        "group": st.sampled_from(
            ({}, {"anti_affinity": "apart"}, {"anti_affinity": "apart", "anti_affinity_hard": True})
        ),
    }
)


@pytest.mark.parametrize("exact", [0, EXACT_REPLICAS])
@settings(max_examples=80, deadline=None)
@given(
    pools=st.lists(st.integers(8, 30), min_size=1, max_size=3),
    ram=st.sampled_from((0, 16, 24)),
    parts=st.lists(PARTS, min_size=10, max_size=16),
    used=st.lists(st.integers(0, 13), max_size=12),
    new=NEW.map(dict),
)
def test_no_victim_can_be_left_out_and_a_set_is_found_whenever_all_together_would_make_room(
    exact: int, pools: list[int], ram: int, parts: list[dict], used: list[int], new: dict
) -> None:
    cluster = host(*pools, ram=ram * GIB, slots=3)
    load(cluster, "new", **new.pop("group"), **new)
    stand_aside(cluster, "new")
    for number, part in enumerate(parts):
        load(cluster, f"m{number}", **part)
    for number in used:
        if f"m{number}" in cluster.state.warm:
            use(cluster, f"m{number}", 1)
    assume(not makes_room(cluster, []))  # else it would be placed, and nobody be asked to leave
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eviction, "EXACT_REPLICAS", exact)
        found = find_victims(cluster.state, cluster.state.models["new"], cluster.now).best
    everybody = [replica for replica in cluster.state.replicas.values() if replica.node == "host"]
    if found is None:
        assert not makes_room(cluster, everybody)
        return
    victims = [cluster.state.replicas[victim] for victim in found.victims]
    assert makes_room(cluster, victims)
    for victim in victims:
        assert not makes_room(cluster, [other for other in victims if other is not victim]), victim


def makes_room(cluster: Cluster, victims: list[Replica]) -> bool:
    state, model = cluster.state, cluster.state.models["new"]
    assert isinstance(model, Model)
    return weigh_set(state, model, ground_of(state, model, state.nodes["host"], 0), tuple(victims), Search())
