"""Memory in pools: what fits where, models that span pools, and what victims owe, pool by pool."""

from __future__ import annotations

import itertools
import random

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.claims import less, overlap, total
from interlock.domain.commands import Rejected
from interlock.domain.effects import Effect
from interlock.domain.entities import ANY_POOLS, Budget, LoadSpec, Phase, Scheduling
from interlock.domain.errors import InvalidField
from interlock.domain.memory import fit, fit_after, least_share, parse_pools
from interlock.domain.snapshots import take_snapshot
from interlock.domain.units import GIB
from tests.domain.cluster import Cluster, check_invariants, check_replay


def pools_of(rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.randrange(0, 33) for _ in range(rng.randrange(0, 5)))


def fits_by_trying(free: tuple[int, ...], spec: LoadSpec) -> bool:
    """Every choice of pools, with every number of them that the model allows."""
    counts = range(1, len(free) + 1) if spec.pools == ANY_POOLS else (spec.pools,)
    return any(
        all(size * count >= spec.vram for size in chosen)
        for count in counts
        for chosen in itertools.combinations(free, count)
    )


@pytest.mark.parametrize("seed", range(300))
def test_a_fit_is_found_exactly_when_some_choice_of_pools_has_the_room(seed: int) -> None:
    rng = random.Random(seed)
    free, spec = pools_of(rng), LoadSpec(vram=rng.randrange(0, 65), pools=rng.choice((ANY_POOLS, 1, 2, 3)))
    claim = fit(dict(enumerate(free)), spec)
    if spec.vram == 0:
        assert claim == ()
        return
    assert (claim is not None) == fits_by_trying(free, spec)
    if claim is None:
        return
    sizes = {size for _, size in claim}
    assert len(sizes) == 1, "the shares are equal"
    assert spec.vram <= total(claim) < spec.vram + len(claim)
    assert all(size <= free[pool] for pool, size in claim)
    assert [pool for pool, _ in claim] == sorted({pool for pool, _ in claim})
    assert spec.pools in (ANY_POOLS, len(claim))
    # What an index of the most free pool may leave out has no fit.
    assert max(free) >= least_share(spec)
    spared = [size for pool, size in enumerate(free) if pool not in dict(claim) and size >= claim[0][1]]
    assert all(free[pool] <= size for pool, _ in claim for size in spared), "the tightest pools are taken"


@pytest.mark.parametrize("seed", range(300))
def test_what_victims_will_free_is_owed_in_the_pools_where_they_free_it(seed: int) -> None:
    rng = random.Random(seed)
    free, spec = pools_of(rng), LoadSpec(vram=rng.randrange(1, 65), pools=rng.choice((ANY_POOLS, 1, 2, 3)))
    room = tuple(size + rng.randrange(0, 25) for size in free)
    found = fit_after(dict(enumerate(free)), dict(enumerate(room)), spec)
    assert (found is not None) == fits_by_trying(room, spec)
    if found is None:
        return
    claim, owed = found
    assert all(size <= room[pool] for pool, size in claim)
    assert all(0 < size <= room[pool] - free[pool] for pool, size in owed)
    assert all(size <= free[pool] for pool, size in less(claim, owed))
    assert less(claim, less(claim, owed)) == owed == overlap(owed, claim)


# --- models that span pools ------------------------------------------------------------------------------------------


def two_gpus(cluster: Cluster | None = None, *pools: int, name: str = "pair", **facts: object) -> Cluster:
    cluster = cluster or Cluster()
    sizes = tuple(size * GIB for size in pools or (24, 24))
    cluster.send(cmd.RegisterNode(node=name, pools=sizes, approve=True, boot="b", **facts))
    return cluster


def spanning(cluster: Cluster, name: str, vram: int, pools: int, **scheduling: object) -> None:
    spec = LoadSpec(backend="echo", vram=vram * GIB, pools=pools)
    cluster.send(cmd.DeclareModel(model=name, spec=spec, scheduling=Scheduling(**scheduling)))


def claim_of(cluster: Cluster, model: str) -> list[tuple[int, int]]:
    (replica,) = cluster.state.by_model[model]
    return [(pool, size // GIB) for pool, size in cluster.state.replicas[replica].claim]


def test_a_model_that_declares_two_pools_takes_an_equal_share_of_each() -> None:
    cluster = two_gpus()
    spanning(cluster, "wide", 40, 2)
    cluster.request("r1", "wide")
    assert claim_of(cluster, "wide") == [(0, 20), (1, 20)]
    assert cluster.state.committed["pair"] == {0: 20 * GIB, 1: 20 * GIB}
    assert cluster.effects[0].pools == (0, 1), "its process is told which GPUs are its own"


def test_a_small_model_is_not_split_and_is_told_its_one_pool() -> None:
    cluster = two_gpus()
    cluster.model("a", vram=20)
    cluster.model("b", vram=20)
    cluster.request("r1", "a")
    cluster.request("r2", "b")
    assert [effect.pools for effect in cluster.effects] == [(0,), (1,)]


def test_two_pools_of_one_node_are_never_pools_of_two_nodes() -> None:
    cluster = Cluster()
    cluster.node("one", vram=24)
    cluster.node("other", vram=24)
    spanning(cluster, "wide", 40, 2)
    assert cluster.request("r1", "wide").code == "never_fits"


def test_a_model_that_spans_as_many_as_needed_stays_in_one_pool_while_one_is_enough() -> None:
    cluster = two_gpus(None, 24, 24, 24)
    spanning(cluster, "small", 20, ANY_POOLS)
    spanning(cluster, "wide", 40, ANY_POOLS)
    cluster.loaded("small")
    assert claim_of(cluster, "small") == [(0, 20)]
    cluster.loaded("wide")
    assert claim_of(cluster, "wide") == [(1, 20), (2, 20)]


def test_a_spanning_model_finds_its_node_behind_one_with_a_larger_pool() -> None:
    cluster = Cluster()
    cluster.node("single", vram=48)
    two_gpus(cluster)
    spanning(cluster, "wide", 46, 2)
    cluster.loaded("wide")
    (replica,) = cluster.state.replicas.values()
    assert (replica.node, replica.phase) == ("pair", Phase.LOADED)


def test_a_change_of_the_number_of_pools_is_a_new_revision() -> None:
    cluster = two_gpus()
    spanning(cluster, "m", 20, 1)
    cluster.loaded("m")
    spanning(cluster, "m", 20, 2)
    assert cluster.state.models["m"].declared == 2
    cluster.settle()
    cluster.loaded("m")
    assert {replica.claim for replica in cluster.state.replicas.values()} == {((0, 10 * GIB), (1, 10 * GIB))}


def test_a_spanning_model_evicts_one_small_model_in_each_pool_and_no_more() -> None:
    cluster = two_gpus()
    cluster.model("a", vram=20)
    cluster.model("b", vram=20)
    spanning(cluster, "wide", 40, 2)
    a, b = cluster.loaded("a"), cluster.loaded("b")
    cluster.wait(31)
    cluster.request("r1", "wide")
    wide = cluster.state.replicas["r-000003"]
    assert set(cluster.state.awaited[wide.id]) == {a, b}
    assert [(pool, size // GIB) for pool, size in wide.owed_in] == [(0, 16), (1, 16)]
    assert cluster.state.committed["pair"] == {0: 24 * GIB, 1: 24 * GIB}, "never more than there is, while they leave"
    cluster.answer(cluster.effects[0])
    check_invariants(cluster)
    assert len(cluster.state.replicas["r-000003"].owed_in) == 1, "one has paid, in its own pool alone"
    assert cluster.effects[0].name == "model.unload", "no install before the second is gone too"
    cluster.settle()
    check_invariants(cluster)
    check_replay(cluster)
    assert cluster.state.replicas["r-000003"].phase is Phase.LOADED


def test_a_victim_that_lies_in_both_pools_makes_room_in_each() -> None:
    cluster = two_gpus()
    spanning(cluster, "wide", 40, 2)
    cluster.model("small", vram=20)
    cluster.loaded("wide")
    cluster.wait(31)
    cluster.request("r1", "small")
    small = cluster.state.replicas["r-000002"]
    assert [(pool, size // GIB) for pool, size in small.owed_in] == [(0, 16)]
    cluster.settle()
    check_invariants(cluster)
    assert cluster.state.committed["pair"] == {0: 20 * GIB}


def test_an_explanation_says_what_each_pool_has_free() -> None:
    cluster = two_gpus()
    cluster.model("a", vram=20)
    spanning(cluster, "wide", 40, 2)
    cluster.request("r1", "a")
    cluster.request("r2", "wide")
    queued = next(event for event in cluster.events if getattr(event, "request", "") == "r2")
    (row,) = queued.explanation.considered
    assert row.filter == "memory"
    assert row.detail.startswith("needs 40GiB in 2 pools, 20GiB in each; free in its pools: 4GiB, 24GiB")


@pytest.mark.parametrize("value", [0, 17, -1, True, "two", 1.5])
def test_a_number_of_pools_that_means_nothing_is_refused(value: object) -> None:
    with pytest.raises(InvalidField, match="pools"):
        parse_pools(value, "pools")


def test_a_command_with_an_impossible_number_of_pools_is_rejected() -> None:
    cluster = two_gpus()
    spec = LoadSpec(backend="echo", vram=GIB, pools=17)
    reply = cluster.send(cmd.DeclareModel(model="m", spec=spec, scheduling=Scheduling())).reply
    assert "pools" in reply.message


# --- budgets that are lowered ----------------------------------------------------------------------------------------


def lower(cluster: Cluster, name: str, **budget: int) -> None:
    cluster.send(cmd.SetNodeBudget(node=name, budget=Budget(**budget)))


def leaving(cluster: Cluster) -> list[str]:
    return [event.replica for event in cluster.events if isinstance(event, ev.UnloadRequested)]


def test_what_is_above_a_lowered_budget_leaves_cheapest_first_and_no_more_than_it_takes() -> None:
    cluster = Cluster()
    cluster.node("only", vram=48)
    for name, vram in (("large", 20), ("small", 8), ("middle", 9)):
        cluster.model(name, vram=vram)
    loaded = {name: cluster.loaded(name) for name in ("large", "small", "middle")}
    lower(cluster, "only", size=25 * GIB)
    assert leaving(cluster) == [loaded["small"], loaded["middle"]]
    assert {event.reason for event in cluster.events if isinstance(event, ev.UnloadRequested)} == {"budget"}
    cluster.settle()
    check_invariants(cluster)
    assert list(cluster.state.by_model) == ["large"]
    assert not cluster.state.over_budget


def test_none_leaves_that_can_be_spared_because_another_frees_enough() -> None:
    cluster = Cluster()
    cluster.node("only", vram=48)
    for name, vram in (("large", 20), ("small", 8), ("middle", 12)):
        cluster.model(name, vram=vram)
    loaded = {name: cluster.loaded(name) for name in ("large", "small", "middle")}
    lower(cluster, "only", size=30 * GIB)
    assert leaving(cluster) == [loaded["middle"]]


def test_a_busy_replica_above_the_budget_serves_on_and_leaves_with_its_last_request() -> None:
    cluster = Cluster()
    cluster.node("only", vram=24)
    cluster.model("m", vram=20, parallel=2)
    replica = cluster.loaded("m")
    cluster.request("r1", "m")
    lower(cluster, "only", percent=50)
    cluster.request("r2", "m")
    cluster.release("r1")
    assert leaving(cluster) == []
    cluster.release("r2")
    assert leaving(cluster) == [replica]


def test_no_load_goes_where_the_budget_is_exceeded_and_the_refusal_says_what_cures_it() -> None:
    cluster = Cluster()
    cluster.node("only", vram=24)
    cluster.model("a", vram=12)
    cluster.model("b", vram=12)
    cluster.loaded("a")
    cluster.request("r1", "a")
    lower(cluster, "only", size=10 * GIB)
    assert cluster.request("r2", "b").code == "never_fits"
    refused = next(event for event in cluster.events if isinstance(event, ev.RequestRefused))
    assert "raise a budget" in refused.explanation.cure


def test_only_what_lies_in_the_pool_that_is_too_full_leaves() -> None:
    cluster = two_gpus(None, 24, 40)
    cluster.model("in-large", vram=30)
    cluster.model("in-small", vram=20)
    large, small = cluster.loaded("in-large"), cluster.loaded("in-small")
    lower(cluster, "pair", size=20 * GIB)
    assert cluster.state.replicas[small].phase is Phase.LOADED
    assert leaving(cluster) == [large]


def test_what_a_pin_or_a_floor_protects_leaves_last() -> None:
    cluster = Cluster()
    cluster.node("only", vram=48)
    cluster.model("pinned", vram=4, pinned=True)
    cluster.model("floor", vram=5, min_replicas=1)
    cluster.model("plain", vram=20)
    cluster.settle()
    pinned, plain = cluster.loaded("pinned"), cluster.loaded("plain")
    lower(cluster, "only", size=10 * GIB)
    assert leaving(cluster) == [plain]
    lower(cluster, "only", size=5 * GIB)
    assert leaving(cluster) == [plain, pinned], "the smaller of the two, for which the other stays within the budget"


def test_what_a_lowered_budget_makes_leave_is_of_the_lowest_priority_before_it_is_cheap_to_load_again() -> None:
    cluster = Cluster()
    cluster.node("only", vram=48)
    cluster.model("cheap", vram=8, priority=5)
    cluster.model("dear", vram=12, priority=0)
    cluster.loaded("cheap")
    dear = cluster.loaded("dear")
    lower(cluster, "only", size=12 * GIB)
    assert leaving(cluster) == [dear]


def test_a_budget_is_sticky_when_the_worker_registers_anew_and_goes_with_what_it_exceeds() -> None:
    cluster = Cluster()
    cluster.node("only", vram=24)
    cluster.model("m", vram=20)
    lower(cluster, "only", percent=50)
    cluster.node("only", vram=24, boot="boot-2")
    assert cluster.state.nodes["only"].budget == Budget(percent=50)
    assert cluster.request("r1", "m").code == "never_fits"
    lower(cluster, "only", percent=100)
    cluster.loaded("m")
    assert cluster.state.by_model["m"]


def test_a_frozen_reconciler_lets_what_is_above_the_budget_stay_until_it_is_thawed() -> None:
    cluster = Cluster()
    cluster.node("only", vram=24)
    cluster.model("m", vram=20)
    replica = cluster.loaded("m")
    cluster.send(cmd.Freeze(what="reconciler"))
    lower(cluster, "only", percent=50)
    assert leaving(cluster) == []
    cluster.send(cmd.Thaw(what="reconciler"))
    assert leaving(cluster) == [replica]


def test_on_a_node_above_its_budget_so_many_leave_that_the_newcomer_is_within_it() -> None:
    """What is too much there must go before anything is free: what one victim frees is not the newcomer's yet."""
    cluster = Cluster()
    cluster.node("only", vram=24)
    for name in ("a", "b"):
        cluster.model(name, vram=9)
        cluster.loaded(name)
    cluster.model("c", vram=8)
    cluster.send(cmd.Freeze(what="reconciler"))
    lower(cluster, "only", percent=50)
    cluster.wait(60)
    cluster.request("r1", "c")
    reserved = [event for event in cluster.events if isinstance(event, ev.ReplicaReserved) and event.model == "c"]
    assert [len(event.victims) for event in reserved] == [2]


# --- reported figures ------------------------------------------------------------------------------------------------


def report(cluster: Cluster, *used: float, **more: object) -> None:
    figures = tuple(int(size * GIB) for size in used)
    cluster.send(cmd.ReportCapacity(node="only", used=figures, **more))


def foreign(cluster: Cluster) -> float:
    return cluster.state.nodes["only"].foreign[0] / GIB


def test_what_others_use_outside_the_budget_takes_nothing_of_it() -> None:
    cluster = Cluster()
    cluster.node("only", vram=40, budget=Budget(percent=50))
    assert cluster.state.nodes["only"].budgets == (20 * GIB,)
    report(cluster, 10)
    assert foreign(cluster) == 10
    assert cluster.state.free_in_pools(cluster.state.nodes["only"]) == (20 * GIB,)
    report(cluster, 25)
    assert cluster.state.free_in_pools(cluster.state.nodes["only"]) == (15 * GIB,), "five of them are within it"


def test_what_others_use_stays_known_while_a_load_is_on_its_way() -> None:
    """Its claim is not in use yet: taken for used, it would hide what others use, and two would share one room."""
    cluster = Cluster()
    cluster.node("only", vram=24)
    cluster.model("m", vram=9)
    report(cluster, 10)
    cluster.send(cmd.RequestLoad(model="m"))
    for used in (10, 12, 19):
        report(cluster, used)
        assert foreign(cluster) == 10
    cluster.settle()
    report(cluster, 19)
    assert foreign(cluster) == 10
    assert cluster.state.free_in_pools(cluster.state.nodes["only"]) == (5 * GIB,)


def test_what_others_take_and_give_back_during_a_load_is_seen_as_far_as_it_can_be_told() -> None:
    cluster = Cluster()
    cluster.node("only", vram=24)
    cluster.model("m", vram=9)
    report(cluster, 10)
    cluster.send(cmd.RequestLoad(model="m"))
    report(cluster, 21)
    assert foreign(cluster) == 12, "21 are in use, and 9 at most are ours"
    report(cluster, 4)
    assert foreign(cluster) == 4, "4 are in use in all"


def test_figures_from_before_a_load_was_done_do_not_hide_what_others_use() -> None:
    """They overtook each other: what the worker said before it had loaded arrives after its word that it has."""
    cluster = Cluster()
    cluster.node("only", vram=24)
    cluster.model("m", vram=9)
    report(cluster, 10)
    before = cluster.now
    cluster.wait(1)
    cluster.loaded("m")
    report(cluster, 10, sent_at=before)
    assert foreign(cluster) == 10, "the 9 of the replica were not in use yet"
    cluster.wait(1)
    report(cluster, 19, sent_at=cluster.now)
    assert foreign(cluster) == 10
    report(cluster, 10, sent_at=cluster.now)
    assert foreign(cluster) == 1, "of now, they leave no more to others"


def test_a_model_that_takes_more_than_it_declares_takes_it_from_what_is_free() -> None:
    cluster = Cluster()
    cluster.node("only", vram=24)
    cluster.model("m", vram=9)
    cluster.loaded("m")
    report(cluster, 14)
    assert cluster.state.free_in_pools(cluster.state.nodes["only"]) == (10 * GIB,)


def test_a_model_that_takes_less_than_it_declares_keeps_its_claim() -> None:
    cluster = Cluster()
    cluster.node("only", vram=24)
    cluster.model("m", vram=20)
    cluster.loaded("m")
    report(cluster, 9)
    assert cluster.state.free_in_pools(cluster.state.nodes["only"]) == (4 * GIB,)


def test_a_board_with_unified_memory_has_one_pool_and_what_the_system_uses_is_not_there_for_models() -> None:
    cluster = Cluster()
    cluster.node("only", vram=64, ram=64 * GIB)
    cluster.model("m", vram=50)
    report(cluster, 20)
    cluster.request("r1", "m")
    assert not cluster.state.replicas, "44GiB are left of the board's memory"
    report(cluster, 6)
    cluster.settle()
    assert cluster.state.committed["only"] == {0: 50 * GIB}


def test_what_staging_has_brought_is_not_counted_twice() -> None:
    cluster = Cluster()
    cluster.node("only", vram=100, disk=30 * GIB)
    cluster.model("m", disk=20)
    cluster.send(cmd.RequestLoad(model="m"))
    cluster.answer(cluster.effects[0])
    stage = cluster.effects[0]
    cluster.send(cmd.ReportProgress(replica=stage.replica, op=stage.op, done=10 * GIB, total=20 * GIB))
    report(cluster, 0, disk=20 * GIB)
    assert cluster.state.nodes["only"].disk == 30 * GIB
    cluster.settle()
    report(cluster, 0, disk=10 * GIB)
    assert cluster.state.nodes["only"].disk == 30 * GIB, "10 are free and 20 are ours"
    assert cluster.state.disk_free(cluster.state.nodes["only"]) == 9 * GIB


def test_a_staging_that_moves_more_than_was_declared_brings_no_more_than_that() -> None:
    cluster = Cluster()
    cluster.node("only", vram=100, disk=30 * GIB)
    cluster.model("m", disk=20)
    cluster.send(cmd.RequestLoad(model="m"))
    cluster.answer(cluster.effects[0])
    stage = cluster.effects[0]
    cluster.send(cmd.ReportProgress(replica=stage.replica, op=stage.op, done=25 * GIB, total=25 * GIB))
    report(cluster, 0, disk=10 * GIB)
    assert cluster.state.nodes["only"].disk == 30 * GIB


# --- disk ------------------------------------------------------------------------------------------------------------


def test_staging_leaves_the_margin_free() -> None:
    cluster = Cluster()
    cluster.node("only", vram=100, disk=20 * GIB)
    cluster.model("brim", disk=20)
    cluster.model("fits", disk=19)
    assert cluster.request("r1", "brim").code == "never_fits"
    cluster.loaded("fits")
    cluster.send(cmd.ChangeSettings(values={"disk_margin": 0}))
    cluster.request("r2", "brim")
    assert cluster.state.requests["r2"].wait.kind == "capacity", "until what is staged there is gone"


def test_a_model_without_files_needs_no_margin() -> None:
    cluster = Cluster()
    cluster.node("only", vram=100, disk=0)
    cluster.model("m")
    assert cluster.loaded("m")


def small_disk(*, disk: int = 21) -> Cluster:
    """One node with room for one model in memory, and for two models' files on its disk."""
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.node("only", vram=10, disk=disk * GIB)
    for name in ("a", "b", "c"):
        cluster.model(name, disk=10)
    return cluster


def files(cluster: Cluster) -> list[str]:
    return [model for model, _ in cluster.state.staged.get("only", {})]


def serve(cluster: Cluster, request: str, model: str) -> None:
    cluster.request(request, model)
    cluster.settle()
    cluster.release(request)


def test_files_that_nothing_uses_give_way_the_least_recently_used_first() -> None:
    cluster = small_disk()
    for number, model in enumerate(("a", "b", "a")):
        serve(cluster, f"r{number}", model)
    serve(cluster, "r9", "c")
    assert sorted(files(cluster)) == ["a", "c"], "a was brought before b, and used after it"
    serve(cluster, "r10", "a")
    serve(cluster, "r11", "b")
    assert sorted(files(cluster)) == ["a", "b"]
    check_invariants(cluster)
    check_replay(cluster)


def test_the_worker_is_told_which_files_go_before_the_new_ones_come() -> None:
    cluster = small_disk()
    serve(cluster, "r1", "a")
    serve(cluster, "r2", "b")
    cluster.request("r3", "c")
    cluster.answer(cluster.effects[0])
    cluster.answer(cluster.effects[0])
    (stage,) = cluster.effects
    assert (stage.name, stage.drops) == ("model.stage", ("a",))
    reserved = [event for event in cluster.events if isinstance(event, ev.ReplicaReserved)][-1]
    assert reserved.drops == (("a", 1, 10 * GIB),)


def test_files_of_what_is_loaded_never_give_way() -> None:
    cluster = Cluster()
    cluster.node("only", vram=100, disk=21 * GIB)
    for name in ("a", "b", "c"):
        cluster.model(name, disk=10)
    cluster.loaded("a")
    cluster.loaded("b")
    cluster.request("r1", "c")
    assert cluster.state.requests["r1"].wait.kind == "capacity"
    row = cluster.events[-1].explanation.considered[0]
    assert row.filter == "disk"
    assert "of files that nothing uses" in row.detail


def test_files_are_there_still_when_the_load_they_were_to_give_way_to_ends_before_its_staging() -> None:
    cluster = small_disk()
    serve(cluster, "r1", "a")
    serve(cluster, "r2", "b")
    cluster.request("r3", "c")
    assert files(cluster) == ["b"]
    cluster.answer(cluster.effects[0])
    cluster.fail(cluster.effects[0])
    assert sorted(files(cluster)) == ["a", "b"]
    check_invariants(cluster)
    check_replay(cluster)


def large_gives_way() -> Cluster:
    """A full disk on which 60 GiB that nothing uses are to give way to the 30 of ``a``; ``b`` needs 30, too."""
    cluster = Cluster()
    cluster.node("only", vram=100, disk=101 * GIB)
    for name, disk in (("large", 60), ("kept", 40), ("a", 30), ("b", 30)):
        cluster.model(name, vram=1, disk=disk)
    cluster.loaded("large")
    cluster.loaded("kept")
    cluster.send(cmd.RequestUnload(model="large"))
    cluster.settle()
    cluster.request("ra", "a")
    cluster.request("rb", "b")
    return cluster


def test_what_gives_way_keeps_its_disk_until_the_staging_that_it_gives_way_to_begins() -> None:
    cluster = large_gives_way()
    assert cluster.state.requests["rb"].wait.kind == "capacity"
    check_invariants(cluster)
    cluster.answer(cluster.effects[0])
    assert cluster.state.requests["rb"].wait.kind == "load", "the files are gone, and took more than those that come"
    check_invariants(cluster)
    cluster.settle()
    check_invariants(cluster)
    check_replay(cluster)


def test_nobody_was_promised_the_disk_of_files_that_stay_because_the_load_ended_before() -> None:
    cluster = large_gives_way()
    cluster.fail(cluster.effects[0])
    (reserved,) = [one for one in cluster.events if isinstance(one, ev.ReplicaReserved) and one.model == "b"]
    assert [model for model, _, _ in reserved.drops] == ["large"], "it is there still, and gives way to b"
    assert cluster.state.disk_free(cluster.state.nodes["only"]) == 0
    check_invariants(cluster)
    check_replay(cluster)


def test_no_more_files_give_way_than_it_takes() -> None:
    cluster = small_disk(disk=31)
    cluster.model("small", disk=1)
    serve(cluster, "r0", "small")
    for number, model in enumerate(("a", "b")):
        serve(cluster, f"r{number + 1}", model)
    cluster.model("c", disk=19)
    serve(cluster, "r9", "c")
    assert files(cluster) == ["small", "b", "c"], "small is the oldest, and frees too little to spare another"


def test_a_worker_that_starts_anew_before_the_files_went_still_has_them_and_its_disk_is_no_smaller() -> None:
    cluster = small_disk()
    serve(cluster, "r1", "a")
    serve(cluster, "r2", "b")
    cluster.request("r3", "c")
    cluster.node("only", vram=10, disk=GIB, boot="boot-2")
    assert cluster.state.nodes["only"].disk == 21 * GIB
    check_invariants(cluster)


def to_give_way(*, disk: int, a: int = 10, others: tuple[str, ...] = ("kept",)) -> tuple[Cluster, Effect]:
    """A full disk on which the files of ``a`` are to give way to those of ``first``, whose backend is being installed.

    Nothing uses those of ``others`` either. With the order to install that backend.
    """
    cluster = Cluster()
    cluster.node("only", vram=100, disk=disk * GIB)
    cluster.model("a", vram=1, disk=a)
    for name in (*others, "first", "next"):
        cluster.model(name, vram=1, disk=10)
    for name in ("a", *others):
        cluster.loaded(name)
        cluster.send(cmd.RequestUnload(model=name))
        cluster.settle()
    cluster.request("rf", "first")
    (install,) = cluster.effects
    cluster.effects.clear()
    assert dropped(cluster) == ["a"]
    return cluster, install


def dropped(cluster: Cluster) -> list[str]:
    """Whose files give way to the newest reservation."""
    reserved = [event for event in cluster.events if isinstance(event, ev.ReplicaReserved)][-1]
    return [model for model, _, _ in reserved.drops]


def test_files_that_another_load_found_there_still_stay_though_they_were_to_give_way() -> None:
    """The staging ordered them away once that load was over, and they were believed to be there all the same."""
    cluster, install = to_give_way(disk=21)
    serve(cluster, "ra", "a")
    cluster.send(cmd.RequestUnload(model="a"))
    cluster.settle()
    cluster.answer(install)
    (stage,) = cluster.effects
    assert (stage.name, stage.drops) == ("model.stage", ())
    cluster.settle()
    assert sorted(files(cluster)) == ["a", "first"]
    check_invariants(cluster)
    check_replay(cluster)


def test_an_old_edition_is_not_there_again_because_the_load_that_it_was_to_give_way_to_failed_early() -> None:
    cluster, install = to_give_way(disk=21)
    cluster.model("a", vram=1, disk=10, backend="another")
    serve(cluster, "ra", "a")
    cluster.effects.append(install)
    cluster.fail(install)
    assert list(cluster.state.staged["only"]) == [("a", 2)], "they have one place, and the new ones took it"
    check_invariants(cluster)
    check_replay(cluster)


def test_what_an_old_edition_leaves_free_goes_to_who_waits_for_disk() -> None:
    cluster = Cluster()
    cluster.node("only", vram=100, disk=31 * GIB)
    cluster.model("a", vram=1, disk=20)
    cluster.model("next", vram=1, disk=20)
    cluster.loaded("a")
    cluster.send(cmd.RequestUnload(model="a"))
    cluster.settle()
    cluster.model("a", vram=1, disk=10, backend="another")
    cluster.request("ra", "a")
    assert cluster.request("rn", "next").kind == "capacity"
    for _ in range(2):
        cluster.answer(cluster.effects[0])
    assert cluster.state.requests["rn"].wait.kind == "load"
    check_invariants(cluster)
    check_replay(cluster)


def test_what_files_that_stay_after_all_leave_free_goes_to_who_waits_for_disk() -> None:
    """They were to give way whole, and what takes their place is smaller: the rest had been kept for them."""
    cluster, _ = to_give_way(disk=61, a=20, others=("kept", "two", "three", "four"))
    cluster.request("ra", "a")
    assert dropped(cluster) == ["kept", "two"]
    for name in ("three", "four"):
        cluster.send(cmd.RequestLoad(model=name))
    assert cluster.request("rn", "next").kind == "capacity"
    for step in ("backend.install", "model.stage"):
        (effect,) = [effect for effect in cluster.effects if effect.model == "a"]
        assert effect.name == step
        cluster.answer(effect)
    assert cluster.state.requests["rn"].wait.kind == "load"
    check_invariants(cluster)
    check_replay(cluster)


# --- figures that nobody sends, and that must not break anything ------------------------------------------------------


def test_fewer_pools_without_their_use_are_taken_as_empty_of_others() -> None:
    cluster = Cluster()
    cluster.node("n", pools=(24 * GIB, 24 * GIB), used=(0, 9 * GIB))
    cluster.send(cmd.ReportCapacity(node="n", pools=(24 * GIB,)))
    assert cluster.state.free_in_pools(cluster.state.nodes["n"]) == (24 * GIB,)
    cluster.send(cmd.ReportCapacity(node="n", pools=(24 * GIB, 24 * GIB, 24 * GIB)))
    assert len(cluster.state.free_in_pools(cluster.state.nodes["n"])) == 3
    check_invariants(cluster)


@pytest.mark.parametrize(
    "command",
    [
        cmd.RegisterNode(node="x", pools=(1,), disk=10**30),
        cmd.RegisterNode(node="x", pools=(10**30,)),
        cmd.RegisterNode(node="x", pools=(1,), max_replicas_per_model=10**30),
        cmd.ReportCapacity(node="n", ram=10**30),
        cmd.SetReplicaSlots(node="n", max_replicas_per_model=10**30),
        cmd.DeclareModel(model="m", spec=LoadSpec(options={"seed": 10**30})),
        cmd.DeclareModel(model="m", spec=LoadSpec(options={"t": float("nan")})),
        cmd.DeclareModel(model="m", spec=LoadSpec(), scheduling=Scheduling(prefix_affinity=10**30)),
    ],
)
def test_a_number_that_no_snapshot_keeps_is_refused(command: cmd.Command) -> None:
    cluster = Cluster()
    cluster.node("n")
    assert isinstance(cluster.send(command).reply, Rejected)
    assert take_snapshot(cluster.engine).position == cluster.engine.ledger.position
