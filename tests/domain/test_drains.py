"""A drain with a deadline: what is idle leaves at once, what is busy when idle, and in the end all of it goes."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.units import FOREVER, MINUTE, SECOND
from tests.domain.cluster import Cluster, check_replay


def busy_cluster() -> Cluster:
    """n0 serves r1 with model m; n1 is free."""
    cluster = Cluster()
    cluster.node("n0")
    cluster.model("m")
    cluster.loaded("m")
    cluster.request("r1", "m")
    cluster.node("n1")
    cluster.forget()
    return cluster


def test_at_the_deadline_what_is_busy_is_lost_and_its_request_goes_elsewhere() -> None:
    cluster = busy_cluster()
    replica = cluster.state.requests["r1"].replica
    cluster.send(cmd.DrainNode(node="n0", within=4 * MINUTE))
    assert cluster.state.nodes["n0"].drain_by == cluster.now + 4 * MINUTE
    cluster.wait(239)
    assert cluster.state.requests["r1"].status == "locked", "until then it may end by itself"
    cluster.wait(1)
    enforced = next(event for event in cluster.events if isinstance(event, ev.NodeDrainEnforced))
    assert (enforced.replicas, enforced.requests) == (1, 1)
    lost = next(event for event in cluster.events if isinstance(event, ev.ReplicaLost))
    assert "drained: the deadline has passed" in lost.reason
    assert not lost.gone, "the worker is asked to stop it"
    cluster.send(cmd.ReportBackendGone(request="r1", replica=replica, detail="UNAVAILABLE"))
    cluster.settle()
    assert cluster.answers["r1"].node == "n1"
    assert cluster.state.nodes["n0"].emptied


def test_a_drain_that_is_complete_says_so_once() -> None:
    cluster = busy_cluster()
    cluster.send(cmd.DrainNode(node="n0", within=10 * MINUTE))
    assert cluster.count("NodeDrained") == 0
    cluster.release("r1")
    cluster.settle()
    assert cluster.count("NodeDrained") == 1
    cluster.wait(3600)
    assert cluster.count("NodeDrainEnforced") == 0, "what came to an end in time needs no force"
    assert cluster.send(cmd.DrainNode(node="n0", within=5 * MINUTE)).events == ()


def test_a_node_where_nothing_runs_is_drained_at_once() -> None:
    cluster = busy_cluster()
    names = [type(event).__name__ for event in cluster.send(cmd.DrainNode(node="n1")).events]
    assert names == ["NodeDrainStarted", "NodeDrained"]


def test_a_process_that_nobody_knows_keeps_a_drain_from_being_complete() -> None:
    cluster = busy_cluster()
    running = (cmd.Running(process="p-9"),)
    cluster.send(cmd.ReportRunning(node="n1", boot="boot-1", asked_at=cluster.now, running=running))
    cluster.send(cmd.DrainNode(node="n1"))
    assert not cluster.state.nodes["n1"].emptied
    cluster.settle()
    assert cluster.state.nodes["n1"].emptied


def test_the_deadline_can_be_changed_cleared_and_ends_with_the_drain() -> None:
    cluster = busy_cluster()
    cluster.send(cmd.DrainNode(node="n0", within=10 * MINUTE))
    cluster.send(cmd.DrainNode(node="n0"))
    assert cluster.state.nodes["n0"].drain_by == cluster.now + 10 * MINUTE, "saying it again changes nothing"
    cluster.send(cmd.DrainNode(node="n0", within=MINUTE))
    assert cluster.state.nodes["n0"].drain_by == cluster.now + MINUTE
    cluster.send(cmd.DrainNode(node="n0", within=FOREVER))
    cluster.wait(3600)
    assert cluster.state.requests["r1"].status == "locked"
    cluster.send(cmd.DrainNode(node="n0", within=MINUTE))
    cluster.send(cmd.ResumeNode(node="n0"))
    cluster.wait(3600)
    assert cluster.state.requests["r1"].status == "locked"
    assert cluster.count("NodeDrainEnforced") == 0


def test_a_restarted_worker_is_still_drained_by_the_same_deadline() -> None:
    cluster = busy_cluster()
    cluster.send(cmd.DrainNode(node="n0", within=10 * MINUTE))
    due = cluster.state.nodes["n0"].drain_by
    process = cmd.Running(process="p-1", replica=cluster.state.requests["r1"].replica, model="m")
    cluster.node("n0", boot="boot-2", running=(process,))
    assert cluster.state.nodes["n0"].drain_by == due
    cluster.wait(600)
    assert cluster.count("NodeDrainEnforced") == 1


def test_neither_a_floor_nor_a_frozen_reconciler_stands_against_the_deadline() -> None:
    cluster = Cluster()
    cluster.node("n0")
    cluster.model("m", min_replicas=1)
    cluster.settle()
    cluster.send(cmd.Freeze(what="reconciler"))
    cluster.send(cmd.DrainNode(node="n0", within=MINUTE))
    cluster.settle()
    assert cluster.state.by_node["n0"], "frozen: nothing leaves by itself"
    cluster.wait(60)
    cluster.settle()
    assert cluster.state.nodes["n0"].emptied


def test_a_silent_node_s_drain_is_enforced_when_it_can_be() -> None:
    cluster = busy_cluster()
    cluster.send(cmd.DrainNode(node="n0", within=MINUTE))
    cluster.send(cmd.ReportSilence(node="n0"))
    cluster.wait(61)
    assert cluster.state.requests["r1"].status == "adrift"
    cluster.send(cmd.ReportHeard(node="n0", boot="boot-1"))
    cluster.settle()
    assert cluster.state.nodes["n0"].emptied


def test_a_negative_deadline_is_refused() -> None:
    cluster = busy_cluster()
    outcome = cluster.send(cmd.DrainNode(node="n0", within=-SECOND))
    assert outcome.reply.code == "invalid"
    assert not outcome.events


@pytest.mark.parametrize("within", [0, MINUTE])
def test_a_snapshot_keeps_the_deadline(within: int) -> None:
    cluster = busy_cluster()
    cluster.send(cmd.DrainNode(node="n0", within=within))
    assert (cluster.engine.next_wakeup() is not None) == bool(within)
    check_replay(cluster)


def test_a_drain_by_the_worker_itself_ends_with_its_next_start() -> None:
    cluster = busy_cluster()
    cluster.send(cmd.DrainNode(node="n1", by_worker=True))
    cluster.send(cmd.WorkerLeft(node="n1"))
    cluster.node("n1", boot="boot-1")
    assert cluster.state.nodes["n1"].status == "draining", "the boot that was about to stop is still about to"
    cluster.node("n1", boot="boot-2")
    assert cluster.state.nodes["n1"].status == "healthy"
    assert not cluster.state.nodes["n1"].emptied
    check_replay(cluster)


@pytest.mark.parametrize("operator_first", [True, False])
def test_a_drain_that_an_operator_wants_as_well_outlives_the_worker(operator_first: bool) -> None:
    cluster = busy_cluster()
    both = [cmd.DrainNode(node="n1"), cmd.DrainNode(node="n1", by_worker=True)]
    for command in both if operator_first else reversed(both):
        cluster.send(command)
    cluster.node("n1", boot="boot-2")
    assert cluster.state.nodes["n1"].status == "draining"
    cluster.send(cmd.ResumeNode(node="n1"))
    cluster.node("n1", boot="boot-3")
    assert cluster.state.nodes["n1"].status == "healthy"
    check_replay(cluster)
