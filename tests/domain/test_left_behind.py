"""Loads on their way that a change leaves behind end, as in a drain; what is loaded stays until it is idle."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.entities import Budget, Phase, Scheduling
from interlock.domain.selector import parse_selector
from interlock.domain.units import GIB
from tests.domain.cluster import Cluster, check_invariants, check_replay


def loading_on(*nodes: str, vram: int = 10, **scheduling: object) -> Cluster:
    """Nodes of tier x, and a request that waits for a load of a model that wants such nodes."""
    cluster = Cluster()
    for name in nodes:
        cluster.node(name, labels={"tier": "x"})
    cluster.model("m", vram=vram, selector={"tier": "x"}, **scheduling)
    cluster.request("r1", "m")
    cluster.forget()
    return cluster


def given_up(cluster: Cluster) -> list[tuple[str, str]]:
    return [(event.replica, event.reason) for event in cluster.events if isinstance(event, ev.ReplicaLoadFailed)]


NO_ROOM = "its node is to hold less than is loaded and on its way there"
NO_CANDIDATE = [("r-000001", "its node is no candidate of its model any more")]


@pytest.mark.parametrize("anew", [False, True])
def test_a_load_whose_node_the_selector_leaves_ends_and_who_waits_for_it_is_served_elsewhere(anew: bool) -> None:
    cluster = loading_on("a")
    cluster.node("b", labels={"tier": "y"})
    moved = Scheduling(selector=parse_selector({"tier": "y"}))
    spec = cluster.state.models["m"].declared_spec
    how = cmd.DeclareModel(model="m", spec=spec, scheduling=moved) if anew else None
    cluster.send(how or cmd.SetScheduling(model="m", scheduling=moved))
    assert given_up(cluster) == NO_CANDIDATE
    assert cluster.state.requests["r1"].passes == 2
    cluster.settle()
    assert cluster.answers["r1"].node == "b"
    assert cluster.state.models["m"].failures == 0
    check_invariants(cluster)
    check_replay(cluster)


def test_a_load_whose_node_loses_its_label_ends() -> None:
    cluster = loading_on("a")
    cluster.node("b", labels={"tier": "x"})
    cluster.send(cmd.SetNodeLabels(node="a", labels={"tier": "y"}))
    assert given_up(cluster) == NO_CANDIDATE
    cluster.settle()
    assert cluster.answers["r1"].node == "b"


def test_a_label_that_the_selector_does_not_ask_for_ends_no_load() -> None:
    cluster = loading_on("a")
    cluster.send(cmd.SetNodeLabels(node="a", labels={"room": "1"}))
    cluster.send(cmd.SetScheduling(model="m", scheduling=Scheduling()))
    assert given_up(cluster) == []


def test_a_worker_that_registers_without_the_label_ends_the_load_that_it_goes_on_with() -> None:
    cluster = loading_on("a")
    cluster.node("a", labels={"tier": "y"})
    assert given_up(cluster) == NO_CANDIDATE
    cluster.settle()
    check_invariants(cluster)


def test_slots_that_a_selector_asks_for_are_a_label_too() -> None:
    cluster = Cluster()
    cluster.node("a", slots=2)
    cluster.model("m", selector={"node.replica-slots": "2"})
    cluster.request("r1", "m")
    cluster.send(cmd.SetReplicaSlots(node="a", max_replicas_per_model=1))
    assert given_up(cluster) == NO_CANDIDATE


def test_a_budget_below_a_load_on_its_way_ends_it_and_leaves_what_is_loaded_to_its_end() -> None:
    cluster = loading_on("a")
    cluster.settle()  # m is loaded, and serves r1
    cluster.model("other", vram=10)
    cluster.request("r2", "other")
    cluster.send(cmd.SetNodeBudget(node="a", budget=Budget(size=4 * GIB)))
    assert given_up(cluster) == [("r-000002", NO_ROOM)]
    assert cluster.state.replicas["r-000001"].phase is Phase.LOADED
    cluster.release("r1")
    cluster.settle()
    assert not cluster.state.replicas
    check_invariants(cluster)
    check_replay(cluster)


def test_of_several_loads_those_of_lower_priority_end_first_then_the_youngest_and_no_more_than_it_takes() -> None:
    cluster = Cluster()
    cluster.node("a", vram=48)
    for name, priority in (("low", 0), ("old", 1), ("young", 1), ("high", 2)):
        cluster.model(name, vram=10, priority=priority)
        cluster.request(f"r-{name}", name)
    cluster.forget()
    cluster.send(cmd.SetNodeBudget(node="a", budget=Budget(size=24 * GIB)))
    ended = {event.model for event in cluster.events if isinstance(event, ev.ReplicaLoadFailed)}
    assert ended == {"low", "young"}
    cluster.settle()
    check_invariants(cluster)


def test_a_budget_that_is_lowered_and_lifted_again_brings_the_load_back_within_the_requests_own_steps() -> None:
    cluster = loading_on("a")
    cluster.send(cmd.SetNodeBudget(node="a", budget=Budget(size=12 * GIB)))
    assert given_up(cluster) == []
    cluster.model("tiny", vram=1, min_replicas=1)
    cluster.send(cmd.SetNodeBudget(node="a", budget=None))
    cluster.settle()
    assert isinstance(cluster.answers["r1"], cmd.Locked)


def test_pools_that_shrink_end_the_loads_that_they_no_longer_hold() -> None:
    cluster = loading_on("a", vram=20)
    cluster.send(cmd.ReportCapacity(node="a", pools=(16 * GIB,)))
    assert [reason for _, reason in given_up(cluster)] == [
        "its node is to hold less than is loaded and on its way there"
    ]
