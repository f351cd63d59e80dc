"""The load workflow, releases and re-routing: nothing is lost, nothing is done twice."""

from __future__ import annotations

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.commands import Locked, Rejected
from interlock.domain.effects import InstallBackend, LoadModel, UnloadModel
from interlock.domain.entities import LoadSpec, RequestStatus, Scheduling
from interlock.domain.loads import pending_effects
from interlock.domain.units import SECOND
from interlock.domain.variant import passes_allowed
from interlock.domain.views import load_status_view
from tests.domain.cluster import Cluster, check_invariants, check_replay


def cluster_with(*models: str, nodes: int = 1, **scheduling: object) -> Cluster:
    cluster = Cluster()
    for n in range(nodes):
        cluster.node(f"n{n}", disk=None)
    for name in models:
        cluster.model(name, **scheduling)
    return cluster


def test_a_load_goes_through_install_stage_and_load_and_stages_once_per_node() -> None:
    cluster = cluster_with()
    cluster.model("m", disk=8)
    cluster.loaded("m")
    asked = [name for name in cluster.names() if name in ("BackendInstallRequested", "StagingStarted", "LoadStarted")]
    assert asked == ["BackendInstallRequested", "StagingStarted", "LoadStarted"]
    cluster.send(cmd.RequestUnload(model="m"))
    cluster.settle()
    cluster.loaded("m")
    assert cluster.count("StagingStarted") == 1


def test_a_failed_load_is_tried_on_another_node_and_the_backends_words_are_kept() -> None:
    cluster = cluster_with("m", nodes=2)
    cluster.request("r1", "m")
    cluster.fail(cluster.effects[0], "CUDA error: out of memory")
    assert cluster.state.models["m"].failure == "CUDA error: out of memory"
    cluster.settle()
    cluster.wait(2)
    cluster.settle()
    assert cluster.answers["r1"].node == "n1"


def test_a_load_that_fails_as_often_as_it_may_refuses_its_waiters_in_the_backends_own_words() -> None:
    cluster = cluster_with("m")
    cluster.request("r1", "m")
    cluster.request("r2", "m")
    for _ in range(3):
        cluster.wait(10)
        install = next(effect for effect in cluster.effects if isinstance(effect, InstallBackend))
        cluster.fail(install, "no such file: m.gguf")
        for unload in [effect for effect in cluster.effects if isinstance(effect, UnloadModel)]:
            cluster.answer(unload)
    for request in ("r1", "r2"):
        assert cluster.answers[request].code == "load_failed"
        assert "no such file: m.gguf" in cluster.answers[request].message
    assert not cluster.state.replicas
    assert cluster.request("too soon", "m").code == "load_failed"
    cluster.wait(10)
    assert cluster.request("later", "m").kind == "load"


def test_a_silent_load_fails_and_progress_extends_its_window() -> None:
    cluster = cluster_with("m")
    cluster.request("r1", "m", deadline=cluster.now + 10**12)
    cluster.answer(cluster.effects[0])
    load = cluster.effects[0]
    for done in range(1, 4):
        cluster.wait(200)
        cluster.send(cmd.ReportProgress(replica=load.replica, op=load.op, done=done, total=9))
    assert cluster.count("ReplicaLoadFailed") == 0
    assert cluster.count("LoadProgressed") == 3
    cluster.wait(301)
    assert "no progress" in next(e.reason for e in cluster.events if type(e).__name__ == "ReplicaLoadFailed")


def test_progress_is_kept_in_tenths_so_that_a_waiter_can_be_told_and_the_log_stays_small() -> None:
    cluster = cluster_with("m")
    cluster.request("r1", "m")
    cluster.answer(cluster.effects[0])
    load = cluster.effects[0]
    for done in range(0, 101):
        cluster.send(cmd.ReportProgress(replica=load.replica, op=load.op, done=done, total=100))
    assert cluster.count("LoadProgressed") == 10
    assert load_status_view(cluster.state, "m").progress == 1.0
    cluster.answer(load)
    assert cluster.state.replicas[load.replica].total == 0
    check_replay(cluster)


def test_a_load_that_was_given_up_is_stopped_on_its_worker_and_its_late_success_changes_nothing() -> None:
    cluster = cluster_with("m")
    cluster.request("r1", "m")
    cluster.answer(cluster.effects[0])
    load = cluster.effects.pop()
    assert isinstance(load, LoadModel)
    cluster.wait(301)
    assert [type(effect) for effect in cluster.effects] == [UnloadModel]
    before = len(cluster.log)
    cluster.send(cmd.ReportLoaded(replica=load.replica, op=load.op))
    assert len(cluster.log) == before
    assert cluster.state.committed["n0"][0] > 0, "memory counts as used until its release is confirmed"
    cluster.answer(cluster.effects[0])
    check_invariants(cluster)


def test_a_caller_that_gives_up_does_not_end_the_load() -> None:
    cluster = cluster_with("m")
    cluster.request("r1", "m")
    cluster.send(cmd.CancelRequest(request="r1"))
    cluster.settle()
    assert cluster.count("ReplicaLoaded") == 1
    assert not cluster.state.requests


def test_what_victims_freed_is_released_when_the_load_they_made_room_for_fails() -> None:
    cluster = cluster_with("old", "new", nodes=1)
    cluster.model("old", vram=20)
    cluster.loaded("old")
    cluster.wait(60)
    cluster.model("new", vram=20)
    cluster.request("r1", "new")
    cluster.answer(cluster.effects[0])
    assert isinstance(cluster.effects[0], InstallBackend)
    cluster.fail(cluster.effects[0])
    cluster.answer(cluster.effects[0])
    assert cluster.count("HoldReleased") == 1
    assert cluster.state.committed["n0"] == {}
    check_replay(cluster)


def held_load(*, victim_gone: bool) -> Cluster:
    """A load for which another model was evicted, which has left or is still leaving."""
    cluster = cluster_with("old", "new", nodes=1)
    cluster.model("old", vram=20)
    cluster.loaded("old")
    cluster.wait(60)
    cluster.model("new", vram=20)
    cluster.request("r1", "new")
    if victim_gone:
        cluster.answer(cluster.effects[0])
    return cluster


def test_a_load_whose_process_dies_gives_up_what_victims_freed_and_ends_after_that() -> None:
    cluster = held_load(victim_gone=True)
    cluster.answer(cluster.effects[0])
    load = cluster.effects[0]
    cluster.forget()
    cluster.send(cmd.ReportReplicaDied(replica=load.replica, reason="signal 9"))
    assert cluster.names()[:2] == ["HoldReleased", "ReplicaLoadFailed"]
    check_replay(cluster)


def test_a_load_that_is_not_wanted_any_more_while_its_victim_leaves_ends_after_its_hold() -> None:
    cluster = held_load(victim_gone=False)
    cluster.forget()
    cluster.model("new", vram=18)
    told = cluster.names(of=ev.ReplicaEvent)
    assert told[:2] == ["HoldReleased", "ReplicaLoadFailed"]
    cluster.settle()
    check_replay(cluster)


def test_an_unload_that_is_never_answered_is_asked_three_times_and_then_settled_by_what_the_worker_runs() -> None:
    cluster = cluster_with("m")
    replica = cluster.loaded("m")
    cluster.send(cmd.EvictReplica(replica=replica))
    cluster.wait(10_000)
    assert cluster.count("UnloadRequested") == 3
    cluster.send(cmd.ReportRunning(node="n0", boot="boot-1", asked_at=cluster.now, running=()))
    assert replica not in cluster.state.replicas


def test_a_backend_that_is_gone_loses_the_replica_and_the_same_request_routes_again() -> None:
    cluster = cluster_with("m", nodes=2, min_replicas=2)
    cluster.settle()
    first = cluster.request("r1", "m")
    again = cluster.send(cmd.ReportBackendGone(request="r1", replica=first.replica, detail="UNAVAILABLE")).reply
    assert isinstance(again, Locked)
    assert again.node != first.node
    assert cluster.state.requests["r1"].passes == 1
    assert cluster.count("ReplicaLost") == 1


def test_re_routing_ends_with_the_budget_that_the_ranking_argument_gives() -> None:
    cluster = cluster_with("m")
    cluster.loaded("m")
    reply = cluster.request("r1", "m")
    for _ in range(passes_allowed(3) + 1):
        if isinstance(reply, Rejected):
            break
        cluster.wait(60)  # the pause before the next load, when copies die in a row
        cluster.settle()
        locked = cluster.state.requests.get("r1")
        if locked is None:
            break
        reply = cluster.send(
            cmd.ReportBackendGone(request="r1", replica=locked.replica, detail="UNAVAILABLE: gone")
        ).reply
    assert "r1" not in cluster.state.requests
    refused = [e for e in cluster.events if type(e).__name__ == "RequestRefused"]
    assert len(refused) == 1
    assert (refused[0].code, refused[0].message) == (
        "backend_failed",
        "Every backend tried was gone; the last said: UNAVAILABLE: gone",
    )


def die_at_each_first_call(cluster: Cluster, request: str) -> list[ev.RequestRefused]:
    """Every backend that comes up loads fine, and is gone when the request calls it."""
    for _ in range(2 * passes_allowed(3)):
        cluster.wait(10)
        cluster.settle()
        locked = cluster.state.requests.get(request)
        if locked is None:
            break
        cluster.send(cmd.ReportBackendGone(request=request, replica=locked.replica, detail="exit status 139"))
    return [event for event in cluster.events if isinstance(event, ev.RequestRefused)]


def test_a_backend_that_dies_at_each_first_call_is_what_the_refusal_tells_of_and_not_a_lack_of_room() -> None:
    cluster = cluster_with("m")
    cluster.request("r1", "m")  # so that loads and routes alternate, and a route is the last step that it may take
    (refused,) = die_at_each_first_call(cluster, "r1")
    assert (refused.code, refused.retry_after) == ("backend_failed", 4 * SECOND), "its next load is due then"
    assert "the last said: exit status 139" in refused.message
    assert cluster.count("ReplicaLost") == passes_allowed(3) // 2


def test_a_request_whose_backends_used_up_its_own_steps_still_waits_for_a_copy_that_serves_another() -> None:
    cluster = cluster_with("m", nodes=5, min_replicas=5, parallel=1)
    cluster.settle()
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 1}))
    cluster.request("other", "m")
    cluster.request("mine", "m")
    for _ in range(passes_allowed(1)):
        replica = cluster.state.requests["mine"].replica
        cluster.send(cmd.ReportBackendGone(request="mine", replica=replica, detail="gone"))
    assert cluster.state.requests["mine"].status is RequestStatus.QUEUED
    cluster.release("other")
    assert isinstance(cluster.answers["mine"], Locked)


def test_releasing_twice_changes_nothing_the_second_time() -> None:
    cluster = cluster_with("m")
    cluster.loaded("m")
    cluster.request("r1", "m")
    cluster.release("r1")
    before = len(cluster.log)
    assert cluster.release("r1").reply == cmd.Done()
    assert len(cluster.log) == before


def test_a_repeated_command_gets_its_recorded_reply_also_after_a_replay() -> None:
    cluster = cluster_with("m")
    cluster.loaded("m")
    acquire = cmd.AcquireLock(request="r1", model="m", holder="g")
    first = cluster.send(acquire, "command-1").reply
    for engine in (cluster.engine, type(cluster.engine)().replay(cluster.log)):
        repeated = engine.handle(cmd.Envelope(command_id="command-1", command=acquire), cluster.now)
        assert repeated.reply == first
        assert not repeated.events


def test_a_lost_holder_releases_all_that_it_held_and_the_next_in_line_are_served() -> None:
    cluster = cluster_with("m")
    cluster.loaded("m")
    cluster.request("r1", "m", holder="dead")
    cluster.request("r2", "m", holder="dead")
    cluster.request("r3", "m", holder="alive")
    cluster.send(cmd.LoseHolder(holder="dead"))
    assert cluster.answers["r3"].model == "m"
    assert set(cluster.state.requests) == {"r3"}
    lost = next(e for e in cluster.events if type(e).__name__ == "HolderLost")
    assert (lost.holder, lost.requests) == ("dead", 2)


def test_a_process_that_dies_loses_its_replica_at_once_and_the_load_that_waited_for_its_memory_goes_on() -> None:
    cluster = cluster_with()
    cluster.model("old", vram=20)
    replica = cluster.loaded("old")
    cluster.wait(60)
    cluster.model("new", vram=20)
    cluster.request("r1", "new")
    cluster.effects.clear()
    cluster.send(cmd.ReportReplicaDied(replica=replica, reason="killed"))
    cluster.settle()
    assert cluster.answers["r1"].model == "new"


def test_pending_effects_are_what_a_new_writer_sends_again() -> None:
    cluster = cluster_with("a", "b")
    cluster.request("r1", "a")
    cluster.request("r2", "b")
    assert pending_effects(cluster.state) == cluster.effects
    cluster.answer(cluster.effects[0])
    assert {effect.op for effect in pending_effects(cluster.state)} == {effect.op for effect in cluster.effects}


def test_a_new_revision_serves_when_its_first_replica_has_loaded_and_the_old_one_leaves_when_idle() -> None:
    cluster = cluster_with("m", nodes=2)
    old = cluster.loaded("m")
    cluster.request("r1", "m")
    cluster.send(cmd.DeclareModel(model="m", spec=LoadSpec(backend="echo", vram=9 * 2**30, options={"ctx": 2})))
    assert cluster.state.models["m"].serving == 1
    cluster.settle()
    assert cluster.state.models["m"].serving == 2
    assert cluster.request("r2", "m").replica != old
    assert old in cluster.state.replicas, "busy"
    cluster.release("r1")
    cluster.settle()
    assert old not in cluster.state.replicas


def test_a_new_revision_serves_at_once_when_both_cannot_fit() -> None:
    cluster = cluster_with("m")
    cluster.loaded("m")
    cluster.send(cmd.DeclareModel(model="m", spec=LoadSpec(backend="echo", vram=9 * 2**30, options={"ctx": 2})))
    assert cluster.state.models["m"].serving == 2
    cluster.request("r1", "m")
    cluster.settle()
    assert cluster.state.replicas[cluster.answers["r1"].replica].revision == 2


def test_declaring_the_same_again_makes_no_event() -> None:
    cluster = cluster_with("m")
    before = len(cluster.log)
    cluster.model("m")
    assert len(cluster.log) == before


def test_bad_input_is_rejected_with_the_field_and_leaves_no_event() -> None:
    cluster = cluster_with("m")
    before = len(cluster.log)
    for command, word in (
        (cmd.AcquireLock(request="", model="m", holder="g"), "request"),
        (cmd.DeclareModel(model="x", spec=LoadSpec(), scheduling=Scheduling(parallel=-1)), "parallel"),
        (cmd.DeclareModel(model="x", spec=LoadSpec(), scheduling=Scheduling(min_replicas=3, max_replicas=2)), "min_"),
        (cmd.Freeze(what="time"), "what"),
        (cmd.ChangeSettings(values={"speed": 1}), "speed"),
        (cmd.DrainNode(node="nowhere"), "nowhere"),
        (cmd.EvictReplica(replica="r-999999"), "r-999999"),
    ):
        reply = cluster.send(command).reply
        assert isinstance(reply, Rejected)
        assert word in reply.message
    assert len(cluster.log) == before


def test_a_process_that_dies_each_time_it_loads_is_tried_as_often_as_any_load_that_fails() -> None:
    cluster = cluster_with("m")
    cluster.request("q", "m")
    for _ in range(3):
        load = cluster.effects.pop()
        cluster.send(cmd.ReportReplicaDied(replica=load.replica, reason="signal 11"))
        cluster.wait(120)
    assert not cluster.effects
    (refused,) = [event for event in cluster.events if isinstance(event, ev.RequestRefused)]
    assert refused.code == "load_failed"
    assert "signal 11" in refused.message
    check_replay(cluster)


def test_what_a_victim_leaves_is_anybodys_room_once_the_load_that_it_leaves_for_has_ended() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.node("a")
    for name in ("v", "w"):
        cluster.model(name, vram=12)
        cluster.loaded(name)
    cluster.model("m", vram=12)
    cluster.request("q", "m")
    assert cluster.count("ReplicaEvicted") == 1
    cluster.model("m", vram=11)  # the load is given up, and its victim is still there
    wait = cluster.state.requests["q"].wait
    assert wait is not None
    assert wait.kind == "leaving"
    assert cluster.count("ReplicaEvicted") == 1
    cluster.settle()
    assert cluster.state.requests["q"].replica
    check_replay(cluster)


def test_a_load_whose_victim_never_leaves_says_so_and_blames_no_backend() -> None:
    cluster = held_load(victim_gone=False)
    victim = next(replica.id for replica in cluster.state.replicas.values() if replica.beneficiary)
    cluster.forget()
    cluster.wait(601)
    failed = next(event for event in cluster.events if isinstance(event, ev.ReplicaLoadFailed))
    assert failed.reason == f"what was to make room for it on n0 has not left: {victim}"
