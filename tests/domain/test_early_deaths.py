"""Copies that die before they have served anybody: two in a row are as good as loads that fail."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.commands import Locked
from interlock.domain.entities import Lack
from interlock.domain.units import SECOND
from tests.domain.cluster import Cluster, check_invariants, check_replay


def with_a_floor(**more: object) -> Cluster:
    cluster = Cluster()
    cluster.node("n", vram=24)
    cluster.model("m", vram=20, min_replicas=1, **more)
    cluster.settle()
    return cluster


def copy_of(cluster: Cluster) -> str:
    (replica,) = cluster.state.by_model["m"]
    return replica


def die(cluster: Cluster, after: float = 1) -> None:
    """The copy's process ends by itself so many seconds after it has loaded, or after what came last."""
    cluster.wait(after)
    cluster.send(cmd.ReportReplicaDied(replica=copy_of(cluster), reason="exit status 139"))


def loads_begun(cluster: Cluster) -> int:
    return cluster.count("ReplicaReserved")


def test_one_copy_that_dies_early_is_an_accident_and_loaded_again_at_once() -> None:
    cluster = with_a_floor()
    cluster.forget()
    die(cluster)
    assert loads_begun(cluster) == 1
    assert cluster.state.models["m"].tries_failed == 0


def test_a_floor_whose_copies_die_early_one_after_the_other_is_given_more_and_more_time_and_then_parked() -> None:
    cluster = with_a_floor()
    pauses = []
    for _ in range(10):
        cluster.forget()
        die(cluster)
        if "m" in cluster.state.by_model:
            pauses.append(0)
        else:
            began = cluster.now
            cluster.wait(60)
            if "m" not in cluster.state.by_model:
                break
            (reserved,) = [event for event in cluster.events if isinstance(event, ev.ReplicaReserved)]
            pauses.append((reserved.at - began) // SECOND)
        cluster.settle()
        check_invariants(cluster)
    assert pauses == [0, 1, 2]
    parked = cluster.state.models["m"].parked
    assert parked is not None
    assert parked.lacks is Lack.EDIT, "its tries are spent: a person has to look"
    check_replay(cluster)


def test_a_request_whose_copies_die_at_its_call_waits_between_them() -> None:
    cluster = Cluster()
    cluster.node("n", vram=24)
    cluster.model("m", vram=20)
    cluster.request("r", "m")
    for _ in range(2):
        cluster.settle()
        replica = cluster.state.requests["r"].replica
        cluster.send(cmd.ReportBackendGone(request="r", replica=replica, detail="connection refused"))
    cluster.settle()
    assert "r" not in cluster.answers or cluster.state.requests["r"].replica == ""
    cluster.forget()
    cluster.wait(1)
    assert loads_begun(cluster) == 1
    cluster.settle()
    assert cluster.state.requests["r"].replica


def test_a_copy_that_has_served_somebody_makes_up_for_those_before_it() -> None:
    cluster = with_a_floor()
    die(cluster)
    cluster.settle()
    die(cluster)
    cluster.wait(1)
    cluster.settle()
    assert cluster.state.models["m"].tries_failed == 1, "that it has loaded says nothing: the others had loaded, too"
    assert isinstance(cluster.request("r", "m"), Locked)
    cluster.forget()
    cluster.release("r")
    (proved,) = [event for event in cluster.events if isinstance(event, ev.ReplicaProved)]
    model = cluster.state.models["m"]
    assert (proved.deaths, model.tries_failed, model.early_deaths, model.tried_on) == (2, 0, 0, ())
    die(cluster)
    assert loads_begun(cluster) == 1, "it has served: its end is no failed try"
    check_replay(cluster)


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_a_call_that_was_not_answered_proves_nothing(outcome: str) -> None:
    cluster = with_a_floor()
    die(cluster)
    cluster.settle()
    cluster.request("r", "m")
    cluster.send(cmd.ReleaseLock(request="r", outcome=outcome))
    assert cluster.count("ReplicaProved") == 0
    die(cluster)
    assert cluster.state.models["m"].tries_failed == 1


def test_a_call_that_the_backend_declines_is_answered() -> None:
    cluster = with_a_floor()
    die(cluster)
    cluster.settle()
    cluster.request("r", "m")
    cluster.send(cmd.ReleaseLock(request="r", outcome="declined"))
    assert cluster.count("ReplicaProved") == 1
    die(cluster)
    assert cluster.state.models["m"].early_deaths == 0


def test_a_copy_that_dies_long_after_its_load_dies_of_something_else() -> None:
    cluster = with_a_floor()
    for _ in range(5):
        cluster.forget()
        die(cluster, after=600)
        assert loads_begun(cluster) == 1
        cluster.settle()


@pytest.mark.parametrize("end", ["death", "reboot", "unload"])
def test_a_copy_that_has_lasted_ends_the_row_of_those_before_it(end: str) -> None:
    cluster = Cluster()
    cluster.node("n", vram=24, slots=2)
    cluster.model("m", vram=9, min_replicas=1)
    cluster.settle()
    for number in range(5):
        die(cluster)
        assert cluster.state.models["m"].early_deaths == 1
        cluster.settle()
        cluster.wait(86_400)
        if end == "death":
            die(cluster)
        elif end == "reboot":
            cluster.node("n", vram=24, slots=2, boot=f"boot-{number + 2}")
        elif end == "unload":
            cluster.send(cmd.EvictReplica(replica=copy_of(cluster)))
        cluster.settle()
        check_invariants(cluster)
    check_replay(cluster)


def test_a_copy_that_stands_and_has_lasted_ends_the_row_as_well() -> None:
    cluster = Cluster()
    cluster.node("n", vram=24, slots=2)
    cluster.model("m", vram=9, min_replicas=1)
    cluster.settle()
    die(cluster)
    cluster.settle()
    cluster.wait(86_400)
    another = cluster.loaded("m")
    cluster.send(cmd.ReportReplicaDied(replica=another, reason="exit status 139"))
    assert cluster.state.models["m"].early_deaths == 1
    check_replay(cluster)


def test_how_long_a_copy_is_safe_from_eviction_says_nothing_about_when_it_dies_early() -> None:
    cluster = with_a_floor()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    die(cluster, after=60)
    cluster.settle()
    die(cluster, after=60)
    assert cluster.state.models["m"].tries_failed == 1


def test_a_load_makes_up_for_loads_that_failed_whatever_died_early_before() -> None:
    """A standby that nobody calls: each day its copy dies, and the first load after that fails."""
    cluster = with_a_floor()
    die(cluster)
    cluster.settle()
    for _ in range(5):
        die(cluster, after=86_400)
        cluster.fail(cluster.effects[0])
        cluster.settle()
        cluster.wait(60)
        cluster.settle()
        assert cluster.state.models["m"].failures == 0
        assert "m" in cluster.state.warm


def test_copies_that_are_missing_together_count_once() -> None:
    cluster = Cluster()
    cluster.node("n", vram=24, slots=4)
    cluster.model("m", vram=5, min_replicas=4)
    cluster.settle()
    for _ in range(3):
        cluster.wait(1)
        cluster.send(cmd.ReportRunning(node="n", boot="boot-1", asked_at=cluster.now, running=()))
        check_invariants(cluster)
        cluster.wait(60)
        cluster.settle()
    model = cluster.state.models["m"]
    assert (model.early_deaths, model.tries_failed) == (3, 2)
    assert len(cluster.state.warm["m"].where) == 4


def test_one_request_finds_out_that_all_copies_die_at_their_first_call() -> None:
    cluster = with_a_floor()
    cluster.wait(3600)
    cluster.request("r", "m")
    cluster.forget()
    for _ in range(9):
        request = cluster.state.requests.get("r")
        if request is None:
            break
        cluster.send(cmd.ReportBackendGone(request="r", replica=request.replica, detail="connection refused"))
        cluster.wait(10)
        cluster.settle()
    (refused,) = [event for event in cluster.events if isinstance(event, ev.RequestRefused)]
    assert refused.code == "backend_failed"
    assert loads_begun(cluster) <= 4


def test_of_copies_that_are_missing_together_one_that_has_served_hides_no_other() -> None:
    cluster = Cluster()
    cluster.node("n", vram=24, slots=2)
    cluster.model("m", vram=9, min_replicas=2)
    cluster.settle()
    cluster.request("r", "m")
    cluster.release("r")
    cluster.wait(1)
    cluster.send(cmd.ReportRunning(node="n", boot="boot-1", asked_at=cluster.now, running=()))
    assert cluster.state.models["m"].early_deaths == 1


def test_each_row_has_its_own_bound() -> None:
    """Four copies died early; what is mended then may fail to load once without being given up."""
    cluster = with_a_floor()
    for _ in range(4):
        die(cluster)
        cluster.wait(60)
        cluster.settle()
    cluster.loaded("m")
    cluster.wait(86_400)
    cluster.node("n", vram=24, boot="boot-2")
    cluster.fail(cluster.effects[0])
    parked = cluster.state.models["m"].parked
    assert parked is not None
    assert parked.lacks is Lack.TIME


def test_an_accident_is_made_up_for_at_once_though_an_older_pause_is_not_over() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_backoff": 200 * SECOND}))
    cluster.node("n", vram=24, slots=2)
    cluster.model("m", vram=9, min_replicas=2)
    first, second = cluster.effects
    cluster.fail(second)
    assert cluster.state.models["m"].parked is not None
    cluster.settle()
    cluster.forget()
    cluster.wait(1)
    cluster.send(cmd.ReportReplicaDied(replica=first.replica, reason="exit status 139"))
    assert loads_begun(cluster) >= 1


def test_copies_that_die_together_die_of_one_thing() -> None:
    cluster = Cluster()
    for name in "abcd":
        cluster.node(name, vram=24)
    cluster.model("m", vram=20, min_replicas=4)
    cluster.settle()
    for replica in list(cluster.state.by_model["m"]):
        cluster.send(cmd.ReportReplicaDied(replica=replica, reason="the driver was updated"))
    assert cluster.state.models["m"].tries_failed == 0
    cluster.settle()
    assert len(cluster.state.warm["m"].where) == 4


def test_copies_that_die_early_on_one_node_leave_those_that_serve_and_the_other_nodes_alone() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 2}))
    cluster.node("bad", vram=40)
    cluster.node("good", vram=24)
    cluster.send(cmd.DrainNode(node="good"))
    cluster.model("m", vram=20, min_replicas=1)
    cluster.settle()
    die(cluster)
    for _ in range(2):
        cluster.wait(60)
        cluster.settle()
        die(cluster)
    cluster.wait(600)
    assert "m" not in cluster.state.by_model
    cluster.send(cmd.ResumeNode(node="good"))
    cluster.settle()
    assert cluster.state.replicas[copy_of(cluster)].node == "good"


def test_an_edit_forgets_copies_that_died_early() -> None:
    cluster = with_a_floor()
    die(cluster)
    cluster.settle()
    die(cluster)
    cluster.model("m", vram=18, min_replicas=1)
    assert cluster.state.models["m"].early_deaths == 0
    assert "m" in cluster.state.by_model


def test_a_node_that_is_lost_takes_its_copies_along_and_nobody_calls_that_early() -> None:
    cluster = with_a_floor()
    for boot in ("boot-2", "boot-3", "boot-4"):
        cluster.forget()
        cluster.node("n", vram=24, boot=boot)
        assert loads_begun(cluster) == 1
        cluster.settle()
    assert cluster.state.models["m"].early_deaths == 0
