"""Roll-outs and floors whose loads fail, and what counts as a copy while nodes are silent or revisions change."""

from __future__ import annotations

from msgspec.structs import replace

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.effects import LoadModel
from interlock.domain.entities import LoadSpec, Phase
from interlock.domain.loads import LONGEST_BACKOFF, pause_after
from interlock.domain.settings import Settings
from interlock.domain.units import GIB, SECOND
from interlock.domain.variant import passes_left
from tests.domain.cluster import Cluster, check_invariants, check_replay


def edit(cluster: Cluster, name: str = "m", **changes: object) -> None:
    model = cluster.state.models[name]
    spec = replace(model.declared_spec, options={"edited": model.declared}, **changes)
    cluster.send(cmd.DeclareModel(model=name, spec=spec, scheduling=model.scheduling))


def edit_back(cluster: Cluster, spec: LoadSpec, name: str = "m") -> None:
    """Declare the model as it was in every respect."""
    cluster.send(cmd.DeclareModel(model=name, spec=spec, scheduling=cluster.state.models[name].scheduling))


def parked(cluster: Cluster, name: str = "m") -> tuple[str, str]:
    wish = cluster.state.models[name].parked
    return (wish.reason, wish.lacks) if wish is not None else ("", "")


def fail_the_load(cluster: Cluster) -> None:
    """The load that was asked for last fails, and what it left behind is gone."""
    cluster.fail(cluster.effects[-1])
    cluster.answer(cluster.effects[-1])


def serving(**scheduling: object) -> Cluster:
    cluster = Cluster()
    cluster.node("a", slots=2)
    cluster.model("m", **scheduling)
    if not scheduling.get("min_replicas"):
        cluster.send(cmd.RequestLoad(model="m"))
    cluster.settle()
    return cluster


def test_a_new_revision_whose_load_fails_is_tried_as_often_as_any_load_and_then_waits_for_an_edit() -> None:
    cluster = serving()
    edit(cluster)
    for _ in range(2):
        fail_the_load(cluster)
        assert parked(cluster) == ("load_failed", "time")
        cluster.wait(120)
        assert parked(cluster) == ("", "")
    fail_the_load(cluster)
    assert parked(cluster) == ("load_failed", "edit")
    cluster.wait(3600)
    assert not cluster.effects
    edit(cluster)
    assert parked(cluster) == ("", "")
    cluster.settle()
    model = cluster.state.models["m"]
    assert (model.serving, model.declared) == (3, 3)
    check_replay(cluster)


def test_a_revision_that_is_known_to_fail_does_not_take_over_for_want_of_room() -> None:
    cluster = serving()
    edit(cluster)
    fail_the_load(cluster)
    cluster.model("other", vram=14)
    cluster.request("q", "other")
    cluster.settle()
    cluster.wait(120)
    assert parked(cluster) == ("capacity_exhausted", "capacity")
    assert cluster.state.models["m"].serving == 1
    cluster.release("q")
    cluster.send(cmd.RequestUnload(model="other"))
    cluster.settle()
    assert cluster.state.models["m"].serving == 2


def test_a_floor_that_falls_short_while_its_roll_out_fails_is_brought_up_by_its_next_try() -> None:
    cluster = serving(min_replicas=1)
    old = next(iter(cluster.state.by_model["m"]))
    edit(cluster)
    fail_the_load(cluster)
    cluster.send(cmd.ReportReplicaDied(replica=old, reason="killed"))
    assert parked(cluster) == ("load_failed", "time")
    cluster.wait(120)
    cluster.settle()
    assert [cluster.state.replicas[replica].revision for replica in cluster.state.by_model["m"]] == [2]


def test_an_edit_during_a_roll_out_waits_for_what_that_leaves() -> None:
    cluster = serving()
    edit(cluster, vram=10 * GIB)
    edit(cluster, vram=11 * GIB)
    assert cluster.count("RevisionServing") == 0
    cluster.answer(cluster.effects[-1])  # the load that is given up lets go
    cluster.settle()
    assert cluster.state.models["m"].serving == 3
    assert cluster.names().index("RevisionServing") > cluster.names().index("UnloadConfirmed")


def test_a_failed_floor_is_tried_where_it_has_not_failed_but_not_on_more_nodes_than_it_has_attempts() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 2}))
    for name in ("first", "second"):
        cluster.node(name)
        cluster.model(f"on-{name}", vram=20, pinned=True, selector={"node.name": name})
        cluster.loaded(f"on-{name}")
    cluster.node("bad")
    cluster.model("m", vram=20, min_replicas=1)
    for _ in range(2):
        fail_the_load(cluster)
        cluster.wait(120)
    assert parked(cluster) == ("load_failed", "edit")
    cluster.forget()
    cluster.send(cmd.RequestUnload(model="on-first"))
    cluster.answer(cluster.effects[-1])
    assert [event.node for event in cluster.events if isinstance(event, ev.ReplicaReserved)] == ["first"]
    fail_the_load(cluster)
    cluster.wait(600)
    assert parked(cluster) == ("load_failed", "edit")
    cluster.send(cmd.RequestUnload(model="on-second"))
    cluster.answer(cluster.effects[-1])
    cluster.wait(600)
    assert not cluster.effects, "it has failed on as many nodes as it may be tried"


def test_a_node_that_joins_during_the_pause_is_tried_at_its_end() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 1}))
    cluster.node("bad")
    cluster.model("m", vram=20, min_replicas=1)
    fail_the_load(cluster)
    assert parked(cluster) == ("load_failed", "edit")
    cluster.node("late")
    assert parked(cluster) == ("load_failed", "time")
    cluster.wait(120)
    assert [cluster.state.replicas[r].node for r in cluster.state.by_model["m"]] == ["late"]


def test_who_leaves_a_queue_is_no_reason_to_try_a_failed_load_again() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 1}))
    cluster.node("bad")
    cluster.model("m", vram=20, min_replicas=1)
    cluster.request("q1", "m")
    cluster.request("q2", "m")
    fail_the_load(cluster)
    cluster.send(cmd.CancelRequest(request="q2"))
    assert parked(cluster) == ("load_failed", "edit")


def test_a_copy_on_a_silent_node_is_not_the_one_too_many() -> None:
    cluster = Cluster()
    cluster.node("far")
    cluster.model("m", max_replicas=1)
    cluster.loaded("m")
    cluster.node("near")
    cluster.send(cmd.ReportSilence(node="far"))
    cluster.request("q", "m")
    cluster.settle()
    cluster.release("q")
    assert cluster.count("UnloadRequested") == 0
    cluster.send(cmd.ReportHeard(node="far", boot="boot-1"))
    assert cluster.count("UnloadRequested") == 1, "now that both can serve one is too many"


def test_a_busy_copy_of_an_older_revision_is_not_the_one_that_may_stay() -> None:
    cluster = serving(max_replicas=1)
    cluster.request("long", "m")
    edit(cluster)
    cluster.settle()
    cluster.request("q", "m")
    cluster.release("q")
    assert [cluster.state.replicas[r].revision for r in cluster.state.by_model["m"]] == [1, 2]
    assert cluster.count("UnloadRequested") == 0


def test_loading_by_hand_stops_at_the_ceiling() -> None:
    cluster = serving(max_replicas=1)
    reply = cluster.send(cmd.RequestLoad(model="m")).reply
    assert reply.code == "conflict"
    assert "its max_replicas is 1" in reply.message


def test_a_model_declared_again_counts_on_from_what_the_former_one_left() -> None:
    cluster = Cluster()
    cluster.node("a", disk=100 * GIB)
    cluster.model("m", disk=9)
    cluster.loaded("m")
    cluster.send(cmd.RemoveModel(model="m"))
    cluster.settle()
    assert not cluster.state.replicas
    cluster.send(cmd.DeclareModel(model="m", spec=LoadSpec(backend="echo", vram=9 * GIB, disk=9 * GIB)))
    assert cluster.state.models["m"].declared == 2
    cluster.forget()
    cluster.loaded("m")
    assert cluster.count("StagingStarted") == 1
    check_replay(cluster)


def test_another_copy_wakes_who_waits_for_the_one_that_its_floor_kept() -> None:
    cluster = Cluster()
    cluster.node("near")
    cluster.model("kept", vram=20, min_replicas=1, max_replicas=2, parallel=1)
    cluster.settle()
    cluster.wait(60)
    cluster.model("passing", vram=20, selector={"node.name": "near"}, priority=1)
    cluster.request("q", "passing")
    assert cluster.count("ReplicaEvicted") == 0
    cluster.node("far")
    cluster.loaded("kept")
    assert cluster.count("ReplicaEvicted") == 1
    assert cluster.state.requests["q"].replica


def test_a_revision_that_fits_nowhere_is_parked_and_the_old_one_serves_on() -> None:
    cluster = serving(min_replicas=1)
    edit(cluster, vram=240 * GIB)
    assert parked(cluster) == ("never_fits", "node")
    cluster.request("q", "m")
    assert cluster.state.requests["q"].replica
    assert cluster.count("UnloadRequested") == 0


def test_a_revision_is_rolled_out_when_the_silent_node_of_the_old_one_is_back() -> None:
    cluster = serving(min_replicas=1)
    cluster.send(cmd.ReportSilence(node="a"))
    edit(cluster)
    assert cluster.state.models["m"].serving == 1
    assert parked(cluster) == ("capacity_exhausted", "capacity")
    cluster.send(cmd.ReportHeard(node="a", boot="boot-1"))
    assert parked(cluster) == ("", "")
    cluster.settle()
    assert cluster.state.models["m"].serving == 2


def test_a_revision_takes_over_at_once_where_its_room_is_that_of_the_old_one() -> None:
    cluster = serving(vram=20)
    edit(cluster)
    assert cluster.state.models["m"].serving == 2
    assert cluster.count("UnloadRequested") == 1


def test_a_revision_that_loaded_where_it_may_no_longer_serve_does_not_take_over() -> None:
    cluster = Cluster()
    for name in ("a", "b", "c"):
        cluster.node(name)
    cluster.model("m", vram=20)
    cluster.loaded("m")
    edit(cluster)
    loading = cluster.effects[-1].node
    cluster.send(cmd.ReportSilence(node=loading))
    for _ in range(2):
        cluster.answer(next(effect for effect in cluster.effects if effect.node == loading))
    assert cluster.state.replicas["r-000002"].phase is Phase.LOADED
    assert cluster.count("RevisionServing") == 0
    cluster.send(cmd.ReportHeard(node=loading, boot="boot-1"))
    assert cluster.count("RevisionServing") == 1


def test_only_a_copy_that_serves_keeps_a_floor() -> None:
    cluster = Cluster()
    for name in ("far", "near"):
        cluster.node(name)
    cluster.model("kept", vram=20, min_replicas=1, max_replicas=2)
    cluster.settle()
    cluster.loaded("kept")
    cluster.wait(60)
    cluster.send(cmd.ReportSilence(node="far"))
    cluster.model("other", vram=20, selector={"node.name": "near"})
    cluster.request("q", "other")
    assert cluster.count("ReplicaEvicted") == 0
    cluster.send(cmd.ReportHeard(node="far", boot="boot-1"))
    assert cluster.count("ReplicaEvicted") == 1


def test_a_model_whose_tries_are_spent_takes_free_room_and_makes_nobody_leave() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 1}))
    cluster.node("a")
    cluster.model("broken", vram=20)
    cluster.model("popular", vram=20)
    cluster.request("b1", "broken")
    fail_the_load(cluster)
    cluster.loaded("popular")
    cluster.wait(600)
    reply = cluster.request("b2", "broken")
    assert reply.code == "load_failed"
    assert "makes nobody leave any more" in reply.message
    assert cluster.count("ReplicaEvicted") == 0
    cluster.send(cmd.RequestLoad(model="broken"))
    assert cluster.count("ReplicaEvicted") == 1, "an operator may try again"


def test_copies_that_fail_to_load_beside_those_that_serve_do_not_spend_the_tries_elsewhere() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 2}))
    cluster.node("good")
    cluster.model("m", vram=20, max_replicas=2, parallel=1)
    first = cluster.loaded("m")
    cluster.request("busy", "m")
    cluster.node("bad")
    cluster.request("waits", "m")
    for _ in range(2):
        fail_the_load(cluster)
        cluster.wait(120)
    assert not cluster.effects, "what is only a wish is not tried for ever"
    cluster.send(cmd.ReportReplicaDied(replica=first, reason="killed"))
    cluster.wait(120)
    assert [cluster.state.replicas[r].node for r in cluster.state.by_model["m"]] == ["good"]


def test_floors_get_room_by_their_priority_and_before_requests() -> None:
    cluster = Cluster()
    cluster.node("a")
    cluster.model("holder", vram=20, pinned=True)
    cluster.loaded("holder")
    cluster.model("kept", vram=20, min_replicas=1)
    cluster.model("valued", vram=20, min_replicas=1, priority=1)
    cluster.model("passing", vram=20)
    cluster.request("q", "passing")
    cluster.forget()
    cluster.send(cmd.RemoveModel(model="holder"))
    cluster.settle()
    assert [event.model for event in cluster.events if isinstance(event, ev.ReplicaReserved)] == ["valued"]


def test_no_more_copies_are_begun_at_once_than_wait_and_who_queues_behind_begins_another() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"growth_per_tick": 3}))
    cluster.node("a", vram=100, slots=4)
    cluster.model("m", vram=20, max_replicas=4, parallel=1)
    cluster.loaded("m")
    cluster.request("busy", "m")
    cluster.forget()
    for number in range(2):
        cluster.request(f"waits-{number}", "m")
        assert cluster.count("ReplicaReserved") == number + 1
    cluster.settle()
    assert all(cluster.state.requests[f"waits-{number}"].replica for number in range(2))


def test_a_parked_roll_out_is_parked_no_more_while_a_load_of_it_is_on_its_way() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 1}))
    cluster.node("a", slots=2)
    cluster.model("m")
    old = cluster.loaded("m")
    edit(cluster)
    fail_the_load(cluster)
    assert parked(cluster) == ("load_failed", "edit")
    cluster.wait(600)
    cluster.send(cmd.ReportReplicaDied(replica=old, reason="killed"))
    cluster.request("q", "m")
    cluster.send(cmd.ChangeSettings(values={"min_residency": 1}))
    assert parked(cluster) == ("", "")


def test_a_request_whose_own_steps_were_lost_with_a_machine_waits_for_the_copy_that_serves() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 1}))
    cluster.node("good")
    cluster.model("m", vram=20, max_replicas=2, parallel=1)
    cluster.loaded("m")
    cluster.request("busy", "m")
    cluster.node("shaky")
    cluster.request("waits", "m", deadline=cluster.now + 3_600_000_000)
    for boot in range(2, 20):
        cluster.node("shaky", boot=f"boot-{boot}")
        cluster.wait(1)
    assert cluster.count("RequestRefused") == 0
    assert passes_left(1, cluster.state.requests["waits"].passes) == 0
    cluster.release("busy")
    assert cluster.state.requests["waits"].replica


def test_a_floor_whose_loads_are_tried_again_at_once_is_parked_when_its_tries_are_spent() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_backoff": 0, "load_attempts": 3}))
    cluster.node("a")
    cluster.model("m", min_replicas=1)
    for _ in range(3):
        assert parked(cluster) == ("", "")
        fail_the_load(cluster)
    assert parked(cluster) == ("load_failed", "edit")
    assert not cluster.effects


def test_the_pause_doubles_and_is_no_shorter_than_a_second_once_tries_are_spent() -> None:
    at_once, default = Settings(load_backoff=0, load_attempts=2), Settings(load_attempts=2)
    assert [pause_after(at_once, failures) // SECOND for failures in (1, 2, 3, 4)] == [0, 1, 2, 4]
    assert [pause_after(default, failures) // SECOND for failures in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert pause_after(at_once, 99) == pause_after(default, 99) == LONGEST_BACKOFF


def test_an_edit_that_fits_nowhere_and_is_taken_back_leaves_the_copy_that_serves_alone() -> None:
    cluster = serving(min_replicas=1)
    before = cluster.state.models["m"].declared_spec
    edit(cluster, vram=100 * GIB)
    assert parked(cluster) == ("never_fits", "node")
    cluster.forget()
    edit_back(cluster, before)
    assert cluster.names() == ["RevisionDeclared", "ModelUnparked"]
    model = cluster.state.models["m"]
    assert (model.declared, model.serving, model.declared_spec) == (1, 1, before)
    assert not cluster.effects
    assert isinstance(cluster.request("q", "m"), cmd.Locked)
    check_replay(cluster)


def test_a_load_of_an_edit_that_is_taken_back_is_given_up_and_the_next_edit_is_not_taken_for_what_it_left() -> None:
    cluster = serving(min_replicas=1, disk=4)
    before = cluster.state.models["m"].declared_spec
    edit(cluster)
    assert [effect.replica for effect in cluster.effects] == ["r-000002"]
    edit_back(cluster, before)
    assert cluster.state.replicas["r-000002"].phase is Phase.UNLOADING
    edit(cluster)
    assert cluster.state.models["m"].declared == 3
    cluster.settle()
    assert {replica.revision for replica in cluster.state.replicas.values()} == {3}
    check_invariants(cluster)
    check_replay(cluster)


def test_files_of_a_revision_that_was_called_off_are_not_taken_for_those_of_the_next_edit() -> None:
    cluster = serving(min_replicas=1, disk=4)
    before = cluster.state.models["m"].declared_spec
    edit(cluster)
    while not isinstance(cluster.effects[0], LoadModel):
        cluster.answer(cluster.effects[0])
    edit_back(cluster, before)
    cluster.settle()
    staged = cluster.count("StagingStarted")
    edit(cluster, disk=5 * GIB)
    cluster.settle()
    assert cluster.state.models["m"].serving == 3
    assert cluster.count("StagingStarted") == staged + 1
    check_invariants(cluster)


def test_failures_of_a_revision_that_was_called_off_count_no_more() -> None:
    cluster = serving(min_replicas=1)
    before = cluster.state.models["m"].declared_spec
    edit(cluster)
    fail_the_load(cluster)
    assert parked(cluster) == ("load_failed", "time")
    edit_back(cluster, before)
    model = cluster.state.models["m"]
    assert (model.failures, model.retry_at, parked(cluster)) == (0, 0, ("", ""))
    cluster.wait(600)
    assert not cluster.effects
