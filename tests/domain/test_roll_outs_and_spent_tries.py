"""Roll-outs and floors whose loads fail, and what counts as a copy while nodes are silent or revisions change."""

from __future__ import annotations

from msgspec.structs import replace

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.entities import LoadSpec
from interlock.domain.units import GIB
from tests.domain.cluster import Cluster, check_replay


def edit(cluster: Cluster, name: str = "m", **changes: object) -> None:
    model = cluster.state.models[name]
    spec = replace(model.declared_spec, options={"edited": model.declared}, **changes)
    cluster.send(cmd.DeclareModel(model=name, spec=spec, scheduling=model.scheduling))


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
