"""Main memory: one more pool of a node, which bounds what its replicas need of it all together."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from interlock.domain import commands as cmd
from interlock.domain import eviction
from interlock.domain.claims import RAM, in_pools, less
from interlock.domain.commands import Rejected, Waiting
from interlock.domain.entities import ANY_POOLS, LoadSpec, Phase
from interlock.domain.memory import fit, fit_after
from interlock.domain.units import GIB
from tests.domain.cluster import Cluster, check_invariants, check_replay


def host(ram: int = 32, **facts: object) -> Cluster:
    cluster = Cluster()
    cluster.node("host", vram=64, ram=ram * GIB, **facts)
    return cluster


def ram_used(cluster: Cluster, node: str = "host") -> int:
    return cluster.state.committed[node].get(RAM, 0) // GIB


def report(cluster: Cluster, ram: int) -> None:
    cluster.send(cmd.ReportCapacity(node="host", ram=ram * GIB))


# --- what fits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(100))
def test_a_model_fits_where_it_fits_in_the_pools_and_its_main_memory_is_free(seed: int) -> None:
    rng = random.Random(seed)
    pools = {pool: rng.randrange(33) for pool in range(rng.randrange(4))}
    known = rng.random() < 0.8
    free = {**pools, RAM: rng.randrange(33)} if known else pools
    room = {pool: size + rng.randrange(20) for pool, size in free.items()}
    spec = LoadSpec(vram=rng.choice((0, 9, 20)), ram=rng.choice((0, 9, 20)), pools=rng.choice((1, 2, ANY_POOLS)))
    without = replace(spec, ram=0)

    for figures, found in ((free, fit(free, spec)), (room, (fit_after(free, room, spec) or (None,))[0])):
        expected = fit(in_map(figures), without) is not None and figures.get(RAM, spec.ram) >= spec.ram
        assert (found is not None) == expected
        assert found is None or dict(found).get(RAM, 0) == spec.ram, (
            "it takes its main memory once, however it is split"
        )

    found_after = fit_after(free, room, spec)
    if found_after is not None:
        claim, owed = found_after
        assert all(size <= free.get(pool, size) for pool, size in less(claim, owed))
        assert dict(owed).get(RAM, 0) == max(0, spec.ram - free.get(RAM, spec.ram))


def in_map(figures: dict[int, int]) -> dict[int, int]:
    return dict(in_pools(tuple(figures.items())))


def test_what_the_replicas_of_a_node_take_of_its_main_memory_is_bounded_all_together() -> None:
    cluster = host(32)
    for name in ("a", "b", "c"):
        cluster.model(name, ram=12, min_replicas=1)
    cluster.settle()
    check_invariants(cluster)
    check_replay(cluster)
    assert sorted(cluster.state.by_model) == ["a", "b"]
    assert cluster.state.models["c"].parked.lacks == "capacity"
    assert ram_used(cluster) == 24


def test_main_memory_that_nobody_knows_bounds_nothing() -> None:
    cluster = host(0)
    for name in ("a", "b"):
        cluster.model(name, ram=500)
        cluster.loaded(name)
    assert ram_used(cluster) == 1000
    report(cluster, 600)
    cluster.settle()
    check_invariants(cluster)
    assert ram_used(cluster) == 500, "once it is known, what is too much leaves"


def test_a_model_that_runs_on_the_cpu_alone_takes_main_memory_and_no_pool() -> None:
    cluster = host(32)
    cluster.model("embed", vram=0, ram=30)
    cluster.request("r1", "embed")
    assert cluster.effects[0].pools == (), "no GPU is its own"
    cluster.settle()
    assert cluster.state.committed["host"] == {RAM: 30 * GIB}


def test_a_model_that_is_split_over_pools_takes_its_main_memory_once() -> None:
    cluster = Cluster()
    cluster.node("pair", pools=(24 * GIB, 24 * GIB), ram=32 * GIB)
    cluster.model("wide", vram=40, pools=2, ram=20)
    cluster.request("r1", "wide")
    assert cluster.effects[0].pools == (0, 1)
    assert cluster.state.committed["pair"] == {0: 20 * GIB, 1: 20 * GIB, RAM: 20 * GIB}


# --- where it does not -----------------------------------------------------------------------------------------------


def test_a_wait_for_main_memory_says_who_holds_it_how_much_is_free_and_what_would_help() -> None:
    cluster = host(32)
    cluster.model("old", ram=20, pinned=True)
    cluster.model("new", ram=20)
    cluster.loaded("old")
    assert isinstance(cluster.request("r1", "new"), Waiting)
    explanation = cluster.events[-1].explanation
    (row,) = explanation.considered
    assert row.filter == "ram"
    assert row.detail.startswith("needs 20GiB of main memory, 12GiB of 32GiB free")
    assert "old: pinned" in row.detail
    assert explanation.cure == "Main memory on host or another candidate, or less `ram` for new, if it takes less."


def test_what_no_candidate_could_hold_even_empty_is_refused_at_once() -> None:
    cluster = host(32)
    cluster.model("huge", ram=40)
    reply = cluster.request("r1", "huge")
    assert isinstance(reply, Rejected)
    assert reply.code == "never_fits"
    assert "lower the model's vram, ram or disk" in cluster.events[-1].explanation.cure


def test_more_main_memory_wakes_who_waits_for_it() -> None:
    cluster = host(32)
    cluster.model("old", ram=20, pinned=True)
    cluster.model("new", ram=20)
    cluster.loaded("old")
    cluster.request("r1", "new")
    report(cluster, 64)
    cluster.settle()
    assert "r1" in cluster.state.requests
    assert cluster.state.requests["r1"].replica, "it has its lock"


def test_a_floor_that_fitted_nowhere_is_kept_once_a_node_has_the_main_memory_or_the_disk() -> None:
    cluster = host(32, disk=40 * GIB)
    cluster.model("deep", ram=40, min_replicas=1)
    cluster.model("heavy", disk=60, min_replicas=1)
    assert {cluster.state.models[name].parked.reason for name in ("deep", "heavy")} == {"never_fits"}
    report(cluster, 64)
    cluster.send(cmd.ReportCapacity(node="host", disk=80 * GIB))
    cluster.settle()
    assert sorted(cluster.state.by_model) == ["deep", "heavy"]


def test_a_worker_that_registers_with_other_main_memory_is_believed_without_a_new_boot() -> None:
    cluster = host(32)
    cluster.node("host", vram=64, ram=64 * GIB)
    assert cluster.state.nodes["host"].ram == 64 * GIB


# --- who makes room --------------------------------------------------------------------------------------------------


def test_victims_are_those_whose_main_memory_is_enough_and_it_is_theirs_until_they_are_gone() -> None:
    cluster = host(32)
    for name, ram in (("a", 8), ("b", 8), ("c", 16)):
        cluster.model(name, ram=ram)
    a, b, c = (cluster.loaded(name) for name in ("a", "b", "c"))
    cluster.model("new", vram=0, ram=14)
    cluster.wait(31)
    cluster.request("r1", "new")
    new = cluster.state.replicas["r-000004"]
    assert list(cluster.state.awaited[new.id]) == [c], "one is enough, and the others are not"
    assert new.owed_in == ((RAM, 14 * GIB),)
    assert ram_used(cluster) == 32, "main memory counts as used until its release is confirmed"
    assert [effect.name for effect in cluster.effects] == ["model.unload"]
    check_invariants(cluster)
    cluster.settle()
    check_invariants(cluster)
    check_replay(cluster)
    assert ram_used(cluster) == 30
    assert cluster.state.replicas[a].phase is cluster.state.replicas[b].phase is Phase.LOADED


def test_a_set_is_found_that_frees_enough_of_each_kind_of_memory() -> None:
    cluster = host(32)
    cluster.model("wide", vram=60, ram=2)
    cluster.model("deep", vram=2, ram=28)
    wide, deep = cluster.loaded("wide"), cluster.loaded("deep")
    cluster.model("both", vram=40, ram=20)
    cluster.wait(31)
    cluster.request("r1", "both")
    assert set(cluster.state.awaited["r-000003"]) == {wide, deep}
    cluster.settle()
    check_invariants(cluster)
    assert cluster.state.committed["host"] == {0: 40 * GIB, RAM: 20 * GIB}


def test_nobody_leaves_where_that_would_free_no_main_memory() -> None:
    cluster = host(32)
    cluster.model("pinned", ram=20, pinned=True)
    cluster.model("gpu", vram=40)
    cluster.loaded("pinned")
    cluster.loaded("gpu")
    cluster.model("new", ram=20)
    cluster.wait(31)
    cluster.request("r1", "new")
    assert cluster.count("ReplicaEvicted") == 0


# --- what is told later ----------------------------------------------------------------------------------------------


def test_load_info_that_says_nothing_of_main_memory_leaves_it_as_it_was() -> None:
    cluster = host(32)
    cluster.model("m", ram=20, backend="")
    cluster.send(cmd.StoreLoadInfo(model="m", spec=LoadSpec(backend="echo")))
    assert cluster.state.models["m"].declared_spec.ram == 20 * GIB
    cluster.send(cmd.StoreLoadInfo(model="m", spec=LoadSpec(backend="echo", ram=9 * GIB)))
    assert cluster.state.models["m"].declared_spec.ram == 9 * GIB


def test_another_need_of_main_memory_is_a_new_revision() -> None:
    cluster = host(32)
    cluster.model("m", ram=20)
    cluster.loaded("m")
    cluster.model("m", ram=8)
    assert cluster.state.models["m"].declared == 2


def test_less_than_nothing_is_no_main_memory() -> None:
    outcome = host().model("m", ram=-1)
    assert isinstance(outcome.reply, Rejected)
    assert outcome.reply.message.startswith("ram")


# --- one memory for both ---------------------------------------------------------------------------------------------


def board(gib: int = 64) -> Cluster:
    cluster = Cluster()
    cluster.node("thor", vram=gib, ram=gib * GIB, unified=True)
    return cluster


def test_on_a_board_with_one_memory_a_model_takes_all_of_its_memory_there() -> None:
    cluster = board()
    cluster.model("chat", vram=30, ram=20)
    cluster.loaded("chat")
    assert cluster.state.committed["thor"] == {0: 50 * GIB}
    assert cluster.state.free_memory(cluster.state.nodes["thor"]) == {0: 14 * GIB}
    check_invariants(cluster)
    check_replay(cluster)


def test_what_fits_there_by_each_figure_and_not_by_both_has_to_wait_and_is_told_why() -> None:
    cluster = board()
    cluster.model("chat", vram=30, ram=20, pinned=True)
    cluster.model("vision", vram=20, ram=10)
    cluster.loaded("chat")
    assert isinstance(cluster.request("r1", "vision"), Waiting)
    (row,) = cluster.events[-1].explanation.considered
    assert row.filter == "memory"
    assert row.detail.startswith("needs 30GiB, 14GiB free; its vram and its ram are one memory there")


def test_what_is_more_than_the_one_memory_never_fits() -> None:
    cluster = board()
    cluster.model("huge", vram=40, ram=30)
    reply = cluster.request("r1", "huge")
    assert isinstance(reply, Rejected)
    assert reply.code == "never_fits"


def test_victims_give_back_what_they_took_of_the_one_memory() -> None:
    cluster = board()
    cluster.model("chat", vram=30, ram=20)
    cluster.model("vision", vram=20, ram=10)
    cluster.loaded("chat")
    cluster.wait(31)
    cluster.request("r1", "vision")
    cluster.settle()
    check_invariants(cluster)
    assert cluster.state.committed["thor"] == {0: 30 * GIB}


def test_a_model_for_the_cpu_alone_takes_the_one_memory_too() -> None:
    cluster = board()
    cluster.model("embed", vram=0, ram=12)
    cluster.loaded("embed")
    assert cluster.state.committed["thor"] == {0: 12 * GIB}


def test_a_machine_of_several_pools_has_main_memory_beside_them_whatever_it_says() -> None:
    cluster = Cluster()
    cluster.node("pair", pools=(24 * GIB, 24 * GIB), ram=32 * GIB, unified=True)
    assert not cluster.state.nodes["pair"].unified


def test_a_node_that_turns_out_to_have_one_memory_gives_back_all_of_what_was_claimed_apart() -> None:
    cluster = Cluster()
    facts = {"pools": (64 * GIB,), "ram": 64 * GIB, "approve": True, "boot": "boot-1"}
    cluster.send(cmd.RegisterNode(node="thor", **facts))
    cluster.model("old", vram=30, ram=20)
    cluster.model("large", vram=60)
    replica = cluster.loaded("old")
    cluster.send(cmd.RegisterNode(node="thor", unified=True, **facts))
    assert cluster.state.committed["thor"] == {0: 50 * GIB}
    cluster.wait(31)
    cluster.request("r1", "large")
    cluster.settle()
    assert replica not in cluster.state.replicas
    assert cluster.state.committed["thor"] == {0: 60 * GIB}
    check_invariants(cluster)
    check_replay(cluster)


def test_a_node_with_too_little_main_memory_makes_room_for_a_model_that_needs_none() -> None:
    """What holds too much of it is busy, and goes later; the pools are given to others meanwhile."""
    cluster = host(32)
    cluster.model("busy", vram=2, ram=30)
    cluster.model("idle", vram=60)
    cluster.loaded("busy")
    idle = cluster.loaded("idle")
    cluster.request("r0", "busy")
    report(cluster, 16)
    assert cluster.state.balance_of_memory(cluster.state.nodes["host"])[RAM] < 0
    cluster.model("new", vram=50)
    cluster.wait(31)
    cluster.request("r1", "new")
    assert [event.replica for event in cluster.events if type(event).__name__ == "ReplicaEvicted"] == [idle]
    cluster.settle()
    check_invariants(cluster)
    check_replay(cluster)
    assert cluster.state.requests["r1"].replica, "it has its lock"


def test_in_a_large_cluster_too_nobody_leaves_a_node_that_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "EXACT_NODES", 0)
    cluster = host(8, labels={"tier": "slow"})
    cluster.node("elsewhere", vram=64, ram=64 * GIB, labels={"tier": "fast"})
    cluster.model("idle", vram=9, selector={"tier": "fast"})
    cluster.loaded("idle")
    cluster.model("pinned", vram=0, ram=6, pinned=True, selector={"tier": "slow"})
    cluster.loaded("pinned")
    cluster.wait(31)
    cluster.model("new", vram=0, ram=8, selector={"tier": "slow"})
    assert cluster.request("r1", "new") == Waiting(request="r1", kind="capacity")
    assert "ReplicaEvicted" not in cluster.names()
