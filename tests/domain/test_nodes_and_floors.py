"""Nodes that come and go, floors, parking, and what workers say they run."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.effects import StopStray
from interlock.domain.entities import Budget, LoadSpec, Scheduling
from interlock.domain.selector import parse_selector
from interlock.domain.units import SECOND
from tests.domain.cluster import Cluster, check_replay


def test_a_floor_without_load_info_is_one_event_and_parked_and_loads_by_itself_once_it_is_known() -> None:
    cluster = Cluster()
    cluster.node("n0")
    cluster.forget()
    cluster.model("never-served", backend="", min_replicas=1)
    cluster.wait(3600)
    assert cluster.names() == ["ModelDeclared", "ModelParked"]
    assert not cluster.effects
    cluster.node("n1")
    cluster.wait(3600)
    assert cluster.count("ModelParked") == 1, "a node is not what it lacks"
    assert not cluster.effects
    cluster.send(cmd.StoreLoadInfo(model="never-served", spec=LoadSpec(backend="echo")))
    cluster.settle()
    assert cluster.count("ModelUnparked") == cluster.count("ReplicaLoaded") == 1


def test_a_declared_floor_loads_without_ever_having_been_asked_for() -> None:
    cluster = Cluster()
    cluster.node("n0")
    cluster.model("m", min_replicas=1)
    cluster.settle()
    assert cluster.count("ReplicaLoaded") == 1


def test_a_floor_above_capacity_loads_what_fits_and_is_parked_until_a_node_that_helps_joins() -> None:
    cluster = Cluster()
    cluster.node("n0")
    cluster.model("m", min_replicas=3)
    cluster.settle()
    cluster.wait(3600)
    assert cluster.count("ReplicaLoaded") == 1
    assert cluster.count("ModelParked") == 1
    cluster.node("small", vram=4)
    cluster.wait(60)
    assert cluster.count("ModelUnparked") == 0
    cluster.node("n1")
    cluster.settle()
    assert cluster.count("ReplicaLoaded") == 2
    assert cluster.count("ModelParked") == 2


def test_replicas_all_follows_the_candidates() -> None:
    cluster = Cluster()
    for name in ("n0", "n1"):
        cluster.node(name, labels={"tier": "x"})
    cluster.model("m", everywhere=True, selector={"tier": "x"})
    cluster.settle()
    cluster.node("n2", labels={"tier": "x"})
    cluster.node("other", labels={"tier": "y"})
    cluster.settle()
    assert sorted(r.node for r in cluster.state.replicas.values()) == ["n0", "n1", "n2"]


def test_a_floor_evicts_only_replicas_of_lower_priority_above_their_own_floor() -> None:
    cluster = Cluster()
    cluster.node("n0", vram=24)
    cluster.model("tenant", vram=20)
    cluster.loaded("tenant")
    cluster.wait(60)
    cluster.model("equal", vram=20, min_replicas=1)
    cluster.wait(60)
    assert cluster.count("ReplicaEvicted") == 0
    cluster.model("higher", vram=20, min_replicas=1, priority=1)
    cluster.settle()
    assert cluster.count("ReplicaEvicted") == 1


def test_failing_floor_loads_back_off_then_park_and_go_quiet() -> None:
    cluster = Cluster()
    cluster.node("n0")
    cluster.model("m", min_replicas=1)
    for _ in range(50):
        for effect in list(cluster.effects):
            if effect.name == "backend.install":
                cluster.fail(effect, "boom")
            else:
                cluster.answer(effect)
        cluster.wait(600)
    assert cluster.count("ReplicaLoadFailed") == 3
    assert cluster.state.models["m"].parked.lacks == "edit"
    cluster.model("m", min_replicas=1, vram=8)
    assert cluster.effects, "an edit is what it lacked"


def test_a_replica_that_its_selector_left_behind_takes_no_locks_and_goes_when_idle() -> None:
    cluster = Cluster()
    cluster.node("slow", labels={"tier": "slow"})
    cluster.model("m")
    replica = cluster.loaded("m")
    cluster.request("r1", "m")
    cluster.node("fast", labels={"tier": "fast"})
    cluster.send(cmd.SetScheduling(model="m", scheduling=Scheduling(selector=parse_selector({"tier": "fast"}))))
    assert replica in cluster.state.replicas
    cluster.request("r2", "m")
    cluster.settle()
    assert cluster.answers["r2"].node == "fast"
    cluster.release("r1")
    cluster.settle()
    assert replica not in cluster.state.replicas


def test_a_drain_empties_the_node_when_idle_takes_nothing_new_and_a_resume_ends_it() -> None:
    cluster = Cluster()
    cluster.node("n0")
    cluster.model("m")
    replica = cluster.loaded("m")
    cluster.request("r1", "m")
    cluster.send(cmd.DrainNode(node="n0"))
    assert cluster.request("r2", "m").kind == "draining"
    cluster.release("r1")
    cluster.settle()
    assert replica not in cluster.state.replicas
    cluster.node("n0", boot="boot-2")
    assert cluster.state.nodes["n0"].status == "draining", "a restart of the worker does not end a drain"
    cluster.send(cmd.ResumeNode(node="n0"))
    cluster.settle()
    assert cluster.answers["r2"].node == "n0"


def test_a_drain_gives_up_loads_in_progress_and_they_start_elsewhere() -> None:
    cluster = Cluster()
    cluster.node("n0", vram=48)
    cluster.node("n1")
    cluster.model("m")
    cluster.request("r1", "m")
    cluster.send(cmd.DrainNode(node="n0"))
    cluster.settle()
    assert cluster.answers["r1"].node == "n1"
    assert [r.node for r in cluster.state.replicas.values()] == ["n1"]


def test_a_model_declared_again_does_not_serve_from_what_is_left_of_its_namesake() -> None:
    cluster = Cluster()
    cluster.node("n0", slots=2)
    cluster.model("m")
    old = cluster.loaded("m")
    cluster.request("r1", "m")
    cluster.send(cmd.RemoveModel(model="m"))
    cluster.model("m", vram=8)
    cluster.request("r2", "m")
    cluster.settle()
    assert cluster.answers["r2"].replica != old
    cluster.release("r1")
    cluster.settle()
    assert old not in cluster.state.replicas


def test_an_unreachable_node_keeps_its_replicas_in_mind_until_it_is_offline() -> None:
    cluster = Cluster()
    cluster.node("n0")
    cluster.model("m", min_replicas=1)
    cluster.settle()
    cluster.node("n1")
    cluster.send(cmd.ReportSilence(node="n0"))
    cluster.wait(300)
    assert cluster.count("ReplicaReserved") == 1, "a brief loss moves nothing"
    cluster.wait(400)
    cluster.settle()
    assert cluster.count("NodeWentOffline") == 1
    assert [r.node for r in cluster.state.replicas.values()] == ["n1"]


def test_a_recovered_node_serves_again_with_what_it_still_runs() -> None:
    cluster = Cluster()
    cluster.node("n0")
    cluster.model("m")
    replica = cluster.loaded("m")
    cluster.send(cmd.ReportSilence(node="n0"))
    cluster.send(cmd.ReportHeard(node="n0", boot="boot-1"))
    assert cluster.request("r1", "m").replica == replica


def test_a_worker_that_started_anew_has_lost_what_it_does_not_name() -> None:
    cluster = Cluster()
    cluster.node("n0", vram=48)
    cluster.model("a")
    cluster.model("b")
    kept, lost = cluster.loaded("a"), cluster.loaded("b")
    cluster.node("n0", vram=48, boot="boot-2", running=(cmd.Running(process="p", replica=kept),))
    assert kept in cluster.state.replicas
    assert lost not in cluster.state.replicas
    check_replay(cluster)


def test_a_process_that_the_log_does_not_know_is_stopped_once() -> None:
    cluster = Cluster()
    cluster.node("n0")
    stray = cmd.Running(process="pid-7", model="ghost")
    for _ in range(3):
        cluster.send(cmd.ReportRunning(node="n0", boot="boot-1", asked_at=cluster.now, running=(stray,)))
    assert cluster.count("StrayFound") == 1
    assert [type(effect) for effect in cluster.effects] == [StopStray]
    cluster.settle()
    assert not cluster.state.strays


def test_what_changed_after_the_question_is_not_judged_by_its_answer() -> None:
    cluster = Cluster()
    cluster.node("n0")
    cluster.model("m")
    asked_at = cluster.now
    cluster.wait(1)
    replica = cluster.loaded("m")
    cluster.send(cmd.ReportRunning(node="n0", boot="boot-1", asked_at=asked_at, running=()))
    assert replica in cluster.state.replicas
    cluster.wait(1)
    cluster.send(cmd.ReportRunning(node="n0", boot="boot-1", asked_at=cluster.now, running=()))
    assert replica not in cluster.state.replicas


def test_heartbeat_figures_below_a_quantum_make_no_event() -> None:
    cluster = Cluster()
    cluster.node("n0", vram=24, disk=100 * 2**30)
    before = len(cluster.log)
    cluster.send(cmd.ReportCapacity(node="n0", used=(100 * 2**20,), disk=100 * 2**30 + 5))
    assert len(cluster.log) == before
    cluster.send(cmd.ReportCapacity(node="n0", used=(5 * 2**30,), disk=100 * 2**30))
    assert cluster.count("NodeCapacityChanged") == 1


def test_what_others_use_is_not_free_for_us() -> None:
    cluster = Cluster()
    cluster.node("n0", vram=24)
    cluster.send(cmd.ReportCapacity(node="n0", used=(20 * 2**30,)))
    cluster.model("m", vram=9)
    assert cluster.request("r1", "m").kind == "capacity"
    cluster.send(cmd.ReportCapacity(node="n0", used=(1,)))
    cluster.settle()
    assert cluster.answers["r1"].node == "n0"


def test_a_budget_limits_what_models_may_use_and_raising_it_wakes_who_waits() -> None:
    cluster = Cluster()
    cluster.node("n0", vram=24)
    cluster.send(cmd.SetNodeBudget(node="n0", budget=Budget(percent=50)))
    cluster.model("a", vram=9)
    cluster.loaded("a")
    cluster.request("busy", "a")
    cluster.model("b", vram=9)
    cluster.request("r1", "b")
    cluster.send(cmd.SetNodeBudget(node="n0", budget=Budget()))
    cluster.settle()
    assert cluster.answers["r1"].model == "b"


def test_the_operators_labels_win_over_the_workers_and_stay() -> None:
    cluster = Cluster()
    cluster.node("n0", labels={"tier": "slow", "zone": "a"})
    cluster.send(cmd.SetNodeLabels(node="n0", labels={"tier": "fast", "zone": ""}))
    cluster.node("n0", labels={"tier": "slow", "zone": "a"}, boot="boot-2")
    labels = cluster.state.nodes["n0"].labels
    assert labels["tier"] == "fast"
    assert "zone" not in labels
    assert labels["gpu.vram"] == "24GB"
    assert labels["node.replica-slots"] == "1"


def test_removing_a_model_refuses_its_waiters_and_its_replicas_leave_when_idle() -> None:
    cluster = Cluster()
    cluster.node("n0")
    cluster.model("m")
    replica = cluster.loaded("m")
    cluster.request("r1", "m")
    cluster.request("r2", "m")
    cluster.send(cmd.RemoveModel(model="m"))
    assert cluster.answers["r2"].code == "unknown_model"
    assert replica in cluster.state.replicas
    cluster.release("r1")
    cluster.settle()
    assert not cluster.state.replicas
    check_replay(cluster)


def test_a_frozen_reconciler_leaves_floors_alone_until_it_thaws() -> None:
    cluster = Cluster()
    cluster.node("n0")
    cluster.send(cmd.Freeze(what="reconciler"))
    cluster.model("m", min_replicas=1)
    assert not cluster.effects
    cluster.send(cmd.Thaw(what="reconciler"))
    cluster.settle()
    assert cluster.count("ReplicaLoaded") == 1


def test_a_takeover_changes_nothing_in_a_settled_cluster() -> None:
    cluster = Cluster()
    cluster.node("n0")
    cluster.model("m", min_replicas=3)
    cluster.settle()
    cluster.request("r1", "m")
    cluster.request("r2", "m")
    cluster.forget()
    cluster.send(cmd.StartEpoch(epoch=2, writer="standby"))
    assert cluster.names() == ["EpochStarted"]


@pytest.mark.parametrize("loss", ["silence", "goodbye", "removal", "reboot", "report"])
def test_floors_that_lose_their_copies_at_once_are_looked_at_by_priority(loss: str) -> None:
    cluster = Cluster()
    cluster.node("a", vram=48)
    cluster.model("kept", vram=20, min_replicas=1)
    cluster.model("valued", vram=20, min_replicas=1, priority=5)
    cluster.settle()
    cluster.node("b", vram=24, boot="b")
    cluster.forget()
    lose_all_on_a(cluster, loss)
    first = next(event for event in cluster.events if isinstance(event, ev.ReplicaReserved))
    assert first.model == "valued"


@pytest.mark.parametrize("loss", ["goodbye", "removal", "reboot"])
def test_a_floor_whose_copy_is_lost_goes_before_the_request_whose_load_is_lost_with_it(loss: str) -> None:
    cluster = Cluster()
    cluster.node("a", vram=48)
    cluster.model("kept", vram=20, min_replicas=1)
    cluster.settle()
    cluster.model("asked", vram=20, priority=5)
    cluster.request("q", "asked", deadline=cluster.now + 7200 * SECOND)
    cluster.node("b", vram=24, boot="b")
    cluster.forget()
    lose_all_on_a(cluster, loss)
    first = next(event for event in cluster.events if isinstance(event, ev.ReplicaReserved))
    assert first.model == "kept"


@pytest.mark.parametrize("loss", ["goodbye", "removal"])
def test_every_floor_whose_copy_is_lost_goes_before_a_request_that_lost_its_load(loss: str) -> None:
    cluster = Cluster()
    cluster.node("a", vram=30)
    for name in ("first", "second"):
        cluster.model(name, vram=10, min_replicas=1)
        cluster.settle()
    cluster.model("asked", vram=10)
    cluster.request("q", "asked", deadline=cluster.now + 7200 * SECOND)
    cluster.node("b", vram=20, boot="b")
    cluster.forget()
    lose_all_on_a(cluster, loss)
    assert [event.model for event in cluster.events if isinstance(event, ev.ReplicaReserved)] == ["first", "second"]


def test_every_floor_that_a_machine_loses_goes_before_who_waits_for_its_room_when_it_begins_anew() -> None:
    cluster = Cluster()
    cluster.node("a", vram=40)
    for name in ("first", "second", "third"):
        cluster.model(name, vram=10, min_replicas=1)
        cluster.settle()
    cluster.model("asked", vram=10)
    cluster.model("also", vram=10)
    cluster.request("q1", "asked")
    cluster.request("q2", "also")
    cluster.forget()
    cluster.node("a", vram=30, boot="boot-2")
    reserved = [event.model for event in cluster.events if isinstance(event, ev.ReplicaReserved)]
    assert reserved == ["first", "second", "third"]


def test_the_rest_of_one_review_comes_before_the_next_so_that_its_floors_come_before_later_requests() -> None:
    cluster = Cluster()
    cluster.node("a", vram=30)
    cluster.model("kept", vram=10, min_replicas=1)
    cluster.settle()
    cluster.model("asked", vram=10)
    cluster.request("q", "asked")
    cluster.model("early", vram=20, min_replicas=1)
    assert cluster.state.models["early"].parked is not None
    cluster.forget()
    cluster.node("a", vram=30, boot="boot-2")
    reserved = [event.model for event in cluster.events if isinstance(event, ev.ReplicaReserved)]
    assert reserved == ["early", "kept"]


def lose_all_on_a(cluster: Cluster, loss: str) -> None:
    match loss:
        case "silence":
            cluster.send(cmd.ReportSilence(node="a"))
            cluster.wait(3600)
        case "goodbye":
            cluster.send(cmd.WorkerLeft(node="a", boot="boot-1"))
        case "removal":
            cluster.send(cmd.RemoveNode(node="a"))
        case "reboot":
            cluster.node("a", vram=24, boot="boot-2")
        case "report":
            cluster.wait(1)
            cluster.send(cmd.ReportRunning(node="a", boot="boot-1", asked_at=cluster.now, running=()))
