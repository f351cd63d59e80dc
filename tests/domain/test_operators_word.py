"""What operators say of a node, and what its worker says of it: whose word holds, and for how long."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain.entities import Budget
from tests.domain.cluster import Cluster, check_replay

HALF, MOST = Budget(percent=50), Budget(percent=80)


def the_node(cluster: Cluster):
    return cluster.state.nodes["n"]


def test_slots_that_an_operator_has_set_outlive_a_restart_of_the_worker() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.send(cmd.SetReplicaSlots(node="n", max_replicas_per_model=4))
    cluster.node("n", boot="boot-2", slots=2)
    assert the_node(cluster).max_replicas_per_model == 4
    assert the_node(cluster).labels["node.replica-slots"] == "4"
    cluster.send(cmd.SetReplicaSlots(node="n", max_replicas_per_model=None))
    assert the_node(cluster).max_replicas_per_model == 2, "what the worker has said last"
    cluster.node("n", boot="boot-3", slots=3)
    assert the_node(cluster).max_replicas_per_model == 3
    check_replay(cluster)


def test_a_budget_that_an_operator_has_set_outlives_a_worker_that_says_another() -> None:
    cluster = Cluster()
    cluster.node("n", budget=HALF)
    cluster.send(cmd.SetNodeBudget(node="n", budget=MOST))
    cluster.node("n", boot="boot-2", budget=HALF)
    assert the_node(cluster).budget == MOST
    cluster.send(cmd.SetNodeBudget(node="n", budget=None))
    assert the_node(cluster).budget == HALF, "what the worker has said last"
    check_replay(cluster)


def test_a_worker_that_names_no_budget_any_more_gives_all_of_it() -> None:
    cluster = Cluster()
    cluster.node("n", budget=HALF)
    cluster.node("n", boot="boot-2")
    assert the_node(cluster).budget == Budget()
    cluster.send(cmd.SetNodeBudget(node="n", budget=MOST))
    cluster.node("n", boot="boot-3", budget=HALF)
    cluster.node("n", boot="boot-4")
    assert the_node(cluster).budget == MOST
    cluster.send(cmd.SetNodeBudget(node="n", budget=None))
    assert the_node(cluster).budget == Budget()
    check_replay(cluster)


def test_an_operator_s_word_that_says_the_same_as_the_worker_counts_when_the_worker_changes_its_mind() -> None:
    cluster = Cluster()
    cluster.node("n", budget=HALF)
    cluster.send(cmd.SetReplicaSlots(node="n", max_replicas_per_model=1))
    cluster.send(cmd.SetNodeBudget(node="n", budget=HALF))
    assert cluster.send(cmd.SetNodeBudget(node="n", budget=HALF)).events == (), "said again, it is no news"
    cluster.node("n", boot="boot-2", slots=5, budget=MOST)
    assert (the_node(cluster).max_replicas_per_model, the_node(cluster).budget) == (1, HALF)
    check_replay(cluster)


def test_to_lift_what_no_operator_has_set_changes_nothing() -> None:
    cluster = Cluster()
    cluster.node("n", slots=2, budget=HALF)
    assert cluster.send(cmd.SetReplicaSlots(node="n", max_replicas_per_model=None)).events == ()
    assert cluster.send(cmd.SetNodeBudget(node="n", budget=None)).events == ()


def test_a_worker_that_registers_again_with_the_same_words_beside_the_operator_s_is_no_event() -> None:
    cluster = Cluster()
    cluster.node("n", slots=2, budget=HALF)
    cluster.send(cmd.SetReplicaSlots(node="n", max_replicas_per_model=4))
    cluster.send(cmd.SetNodeBudget(node="n", budget=MOST))
    cluster.node("n", boot="boot-2", slots=2, budget=HALF)
    cluster.forget()
    cluster.node("n", boot="boot-2", slots=2, budget=HALF)
    assert cluster.events == []


def test_no_worker_s_label_beats_an_automatic_one() -> None:
    cluster = Cluster()
    cluster.node("alpha")
    cluster.node("n", labels={"node.name": "alpha", "node.replica-slots": "1", "tier": "fast"})
    cluster.send(cmd.SetReplicaSlots(node="n", max_replicas_per_model=4))
    found = the_node(cluster).labels
    assert (found["node.name"], found["node.replica-slots"], found["tier"]) == ("n", "4", "fast")
    cluster.model("m", selector={"node.name": "alpha"})
    assert list(cluster.state.candidates(cluster.state.models["m"]).nodes) == ["alpha"]
    check_replay(cluster)


@pytest.mark.parametrize("key", ["", "!bad", "two\nlines"])
def test_a_label_that_no_selector_can_name_is_refused_at_registration(key: str) -> None:
    cluster = Cluster()
    command = cmd.RegisterNode(node="n", boot="b", labels={key: "x"}, pools=(1,))
    reply = cluster.send(command).reply
    assert isinstance(reply, cmd.Rejected)
    assert "labels" in reply.message
    assert not cluster.state.nodes
