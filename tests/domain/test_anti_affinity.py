"""Anti-affinity groups: soft ones avoid a node, hard ones never share it."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.entities import Scheduling
from tests.domain.cluster import Cluster, check_invariants, check_replay

HARD = {"anti_affinity": "g", "anti_affinity_hard": True}
SOFT = {"anti_affinity": "g"}


def cluster_of(*nodes: str, vram: int = 24) -> Cluster:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    for name in nodes:
        cluster.node(name, vram=vram, slots=2)
    return cluster


def where(cluster: Cluster, model: str) -> list[str]:
    return sorted(cluster.state.replicas[replica].node for replica in cluster.state.by_model.get(model, ()))


def load(cluster: Cluster, *models: str) -> None:
    for model in models:
        cluster.loaded(model)


def test_members_of_a_soft_group_take_different_nodes_while_there_are_some() -> None:
    cluster = cluster_of("a")
    cluster.node("b", vram=80, slots=2)
    for name in ("m1", "m2", "m3"):
        cluster.model(name, **SOFT)
    load(cluster, "m1", "m2", "m3")
    assert (where(cluster, "m1"), where(cluster, "m2")) == (["b"], ["a"])
    reserved = [event for event in cluster.events if isinstance(event, ev.ReplicaReserved)]
    assert reserved[1].explanation.note == "a was chosen for m2 rather than b: a member of its group is there."
    details = {row.node: row.detail for row in reserved[1].explanation.considered}
    assert details == {"a": "24GiB free", "b": "71GiB free; avoided: a member of its group is there"}
    assert where(cluster, "m3") == ["b"], "none is left without a member: the roomiest, then"
    check_invariants(cluster)
    check_replay(cluster)


@pytest.mark.parametrize(("first", "second"), [(HARD, HARD), (HARD, SOFT), (SOFT, HARD)])
def test_one_that_insists_is_enough_to_keep_two_apart(first: dict[str, object], second: dict[str, object]) -> None:
    cluster = cluster_of("a")
    cluster.model("m1", min_replicas=1, **first)
    cluster.settle()
    cluster.model("m2", **second)
    assert cluster.request("r1", "m2").kind == "capacity"
    why = next(e.explanation for e in cluster.events if isinstance(e, ev.RequestQueued))
    assert why.considered[0].filter == "anti_affinity"
    assert "r-000001 (m1) of group g is there" in why.considered[0].detail
    assert "one more node for the members of group g" in why.cure
    cluster.node("b")
    assert where(cluster, "m2") == ["b"]
    check_invariants(cluster)


def test_a_hard_groups_own_copies_share_no_node() -> None:
    cluster = cluster_of("a")
    cluster.model("m", min_replicas=2, **HARD)
    cluster.settle()
    assert where(cluster, "m") == ["a"]
    parked = cluster.state.models["m"].parked
    assert (parked.reason, parked.lacks) == ("capacity_exhausted", "capacity")
    cluster.node("b")
    cluster.settle()
    assert where(cluster, "m") == ["a", "b"]
    assert cluster.state.models["m"].parked is None


def test_a_member_is_evicted_to_free_its_node_of_the_group() -> None:
    cluster = cluster_of("a", "b")
    for name, more in (("other", {}), ("m1", HARD), ("m2", {**HARD, "pinned": True}), ("m3", HARD)):
        cluster.model(name, vram=5, **more)
    load(cluster, "m1", "m2", "other")
    cluster.forget()
    assert cluster.request("r1", "m3").kind == "load"
    evicted = [e.model for e in cluster.events if isinstance(e, ev.ReplicaEvicted)]
    assert evicted == ["m1"], "memory is free: the member leaves, and nobody else"
    check_invariants(cluster)
    cluster.settle()
    assert where(cluster, "m3") == ["a"]
    check_replay(cluster)


def test_a_pinned_member_is_no_victim_and_its_node_no_place() -> None:
    cluster = cluster_of("a")
    for name, more in (("other", {}), ("m1", {**HARD, "pinned": True}), ("m2", HARD)):
        cluster.model(name, vram=5, **more)
    load(cluster, "m1", "other")
    assert cluster.request("r1", "m2").kind == "capacity"
    assert cluster.count("ReplicaEvicted") == 0


def test_a_member_that_leaves_keeps_others_away_until_nothing_is_left_of_it() -> None:
    cluster = cluster_of("a")
    cluster.model("m1", **HARD)
    cluster.model("m2", **HARD)
    replica = cluster.loaded("m1")
    cluster.send(cmd.EvictReplica(replica=replica))
    assert cluster.request("r1", "m2").kind == "leaving"
    cluster.settle()
    assert where(cluster, "m2") == ["a"]
    assert cluster.state.requests["r1"].replica


@pytest.mark.parametrize("change", ["group", "removal"])
def test_leaving_the_group_wakes_who_waited_for_it(change: str) -> None:
    cluster = cluster_of("a")
    cluster.model("m1", **HARD)
    cluster.loaded("m1")
    cluster.request("busy", "m1")
    cluster.model("m2", **HARD)
    assert cluster.request("r1", "m2").kind == "capacity"
    command = (
        cmd.SetScheduling(model="m1", scheduling=Scheduling()) if change == "group" else cmd.RemoveModel(model="m1")
    )
    cluster.send(command)
    assert where(cluster, "m2") == ["a"]
    check_invariants(cluster)
    check_replay(cluster)


def test_joining_a_group_moves_nothing_that_runs() -> None:
    cluster = cluster_of("a")
    load_both = ("m1", "m2")
    for name in load_both:
        cluster.model(name)
    load(cluster, *load_both)
    for name in load_both:
        cluster.send(cmd.SetScheduling(model=name, scheduling=Scheduling(**HARD)))
    assert (where(cluster, "m1"), where(cluster, "m2")) == (["a"], ["a"])
    check_invariants(cluster)
    check_replay(cluster)


def test_insisting_needs_a_group() -> None:
    cluster = cluster_of("a")
    cluster.model("m", anti_affinity_hard=True)
    assert "m" not in cluster.state.models
