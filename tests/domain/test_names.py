"""One name is one machine: a restart is told from another machine, and two workers cannot take a name in turns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.entities import Budget, NodeStatus
from interlock.domain.loads import pending_effects
from interlock.domain.units import GIB
from tests.domain.cluster import Cluster, check_invariants, check_replay


def said_by(machine: str, boot: str, **more: object) -> cmd.RegisterNode:
    facts = {"pools": (24 * GIB,), "approve": True, "disk": 100 * GIB, "address": f"{machine}:1"} | more
    return cmd.RegisterNode(node="thor", machine=machine, boot=boot, **facts)


def serving_cluster() -> Cluster:
    """thor is the machine m1, where a model is staged and loaded."""
    cluster = Cluster()
    cluster.send(said_by("m1", "b1"))
    cluster.model("m", disk=8)
    cluster.loaded("m")
    cluster.forget()
    return cluster


def test_another_machine_is_refused_while_the_first_is_at_work_and_told_what_to_do() -> None:
    cluster = serving_cluster()
    outcome = cluster.send(said_by("m2", "b9"))
    assert outcome.reply.code == "conflict"
    assert "another machine is at work as thor, at m1:1" in outcome.reply.message
    assert "--name" in outcome.reply.cure
    assert "--replace" in outcome.reply.cure
    assert not outcome.events


def test_a_restart_of_the_same_machine_is_no_other_machine() -> None:
    cluster = serving_cluster()
    cluster.send(said_by("m1", "b2"))
    assert cluster.state.nodes["thor"].boot == "b2"
    assert cluster.state.nodes["thor"].status == "healthy"
    assert cluster.state.staged["thor"], "its files are still on its disk"


def test_a_worker_that_names_no_machine_joins_again_by_its_name() -> None:
    cluster = serving_cluster()
    cluster.send(said_by("", "b2"))
    node = cluster.state.nodes["thor"]
    assert (node.boot, node.machine, node.status) == ("b2", "m1", "healthy")


def test_a_silent_machine_may_be_replaced_by_one_that_must_be_approved_anew() -> None:
    cluster = serving_cluster()
    cluster.send(cmd.SetNodeLabels(node="thor", labels={"tier": "fast"}))
    cluster.send(cmd.SetNodeBudget(node="thor", budget=Budget(percent=80)))
    cluster.send(cmd.ReportSilence(node="thor"))
    cluster.send(said_by("m2", "b9", approve=False))
    node = cluster.state.nodes["thor"]
    assert (node.machine, node.status, node.approved) == ("m2", "pending", False)
    assert node.labels["tier"] == "fast", "the operator's labels stay"
    assert node.budget.percent == 80
    assert not cluster.state.by_node.get("thor"), "nothing of what the other ran is there"
    assert not cluster.state.staged.get("thor"), "nor are its files"
    assert node.disk == 100 * GIB
    check_invariants(cluster)
    check_replay(cluster)


def test_what_a_replacing_machine_runs_is_stopped_whatever_it_calls_it() -> None:
    cluster = serving_cluster()
    replica = next(iter(cluster.state.replicas))
    process = cmd.Running(process="p-1", replica=replica, model="m")
    cluster.send(said_by("m2", "b9", replaces=True, running=(process,)))
    assert cluster.count("StrayFound") == 1
    assert replica not in cluster.state.replicas


def test_the_one_that_was_replaced_does_not_take_the_name_back_while_its_successor_is_at_work() -> None:
    cluster = serving_cluster()
    cluster.send(said_by("m2", "b9", replaces=True))
    again = cluster.send(said_by("m1", "b1", replaces=True))
    assert again.reply.code == "conflict"
    assert "was replaced as thor" in again.reply.message
    cluster.send(cmd.WorkerLeft(node="thor"))
    assert cluster.send(said_by("m1", "b1")).events, "a name that nobody uses is free again"


def test_a_late_word_of_an_earlier_boot_changes_nothing() -> None:
    cluster = serving_cluster()
    cluster.send(said_by("m1", "b2"))
    assert cluster.send(said_by("m1", "b1")).reply.code == "conflict"
    assert cluster.state.nodes["thor"].boot == "b2"


def test_a_goodbye_of_an_earlier_boot_ends_nothing_of_the_one_at_work() -> None:
    cluster = serving_cluster()
    cluster.send(said_by("m1", "b2"))
    assert not cluster.send(cmd.WorkerLeft(node="thor", boot="b1")).events
    assert cluster.state.nodes["thor"].status is NodeStatus.HEALTHY
    cluster.send(cmd.WorkerLeft(node="thor", boot="b2"))
    assert cluster.state.nodes["thor"].status is NodeStatus.OFFLINE


def test_memory_of_replicas_that_died_with_the_last_boot_is_nobody_s() -> None:
    cluster = serving_cluster()
    cluster.send(said_by("m1", "b2", used=(9 * GIB,)))
    assert cluster.state.nodes["thor"].foreign == (9 * GIB,), "what is in use now is used by others"


@given(st.lists(st.tuples(st.sampled_from(["m1", "m2", "m3"]), st.booleans()), max_size=40))
def test_two_workers_cannot_take_a_name_from_each_other_for_ever(words: list[tuple[str, bool]]) -> None:
    """Without a restart or a silence each worker takes the name at most once, whatever it says and however often."""
    cluster = Cluster()
    for machine, replaces in words:
        cluster.send(said_by(machine, f"boot-{machine}", replaces=replaces))
    taken = [event.boot for event in cluster.events if isinstance(event, ev.NodeRegistered)]
    assert len(taken) == len(set(taken))


def test_an_order_names_the_boot_that_is_meant_so_that_another_machine_of_the_name_leaves_it_alone() -> None:
    cluster = Cluster()
    cluster.send(said_by("m1", "b1"))
    cluster.model("m", min_replicas=1)
    assert [effect.boot for effect in cluster.effects] == ["b1"]
    cluster.send(cmd.ReportSilence(node="thor"))
    cluster.send(said_by("m2", "b9"))
    assert [effect.boot for effect in pending_effects(cluster.state)] == ["b9"]
    cluster.send(cmd.ReportRunning(node="thor", boot="b9", asked_at=cluster.now, running=(cmd.Running(process="p"),)))
    assert [(effect.name, effect.boot) for effect in pending_effects(cluster.state)][-1] == ("backend.stop", "b9")
