"""Roll-outs where no node has room for both revisions: one copy of several makes way while the others serve."""

from __future__ import annotations

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.entities import Phase
from interlock.domain.units import GIB
from tests.domain.cluster import Cluster, check_invariants, check_replay
from tests.domain.test_roll_outs_and_spent_tries import edit, edit_back, fail_the_load, parked


def copies_on(*nodes: str, vram: int = 16, **scheduling: object) -> Cluster:
    """A model with one loaded copy on each of these nodes, none of which has room for two."""
    cluster = Cluster()
    for name in nodes:
        cluster.node(name)
    cluster.model("m", vram=vram, **{"min_replicas": len(nodes), **scheduling})
    cluster.settle()
    cluster.forget()
    return cluster


def serving_on(cluster: Cluster) -> list[str]:
    """Where the model's copies are that take requests."""
    return sorted(key[4] for key in cluster.state.warm["m"].order) if "m" in cluster.state.warm else []


def test_one_of_two_copies_makes_way_and_the_other_serves_until_the_new_revision_has_loaded() -> None:
    cluster = copies_on("a", "b")
    edit(cluster)
    assert cluster.count("ReplicaRetired") == 1
    while cluster.state.models["m"].serving == 1:
        assert serving_on(cluster) == ["b"]
        cluster.answer(cluster.effects[0])
    assert serving_on(cluster) == ["a"]
    cluster.settle()
    assert serving_on(cluster) == ["a", "b"]
    assert cluster.count("ReplicaRetired") == cluster.count("RevisionServing") == 1
    check_invariants(cluster)
    check_replay(cluster)


def test_a_model_that_is_to_run_on_every_candidate_is_never_without_a_copy_for_an_edit() -> None:
    cluster = copies_on("a", "b", "c", min_replicas=0, everywhere=True)
    edit(cluster)
    while cluster.effects:
        assert serving_on(cluster)
        cluster.answer(cluster.effects[0])
    assert serving_on(cluster) == ["a", "b", "c"]
    assert cluster.state.models["m"].serving == 2


def test_a_copy_that_was_to_make_way_for_an_edit_that_is_taken_back_serves_again_and_stays() -> None:
    cluster = copies_on("a", "b")
    cluster.request("q1", "m")
    cluster.request("q2", "m")  # both are busy, so that the one that makes way has not left yet
    before = cluster.state.models["m"].declared_spec
    edit(cluster)
    assert len(serving_on(cluster)) == 1
    edit_back(cluster, before)
    assert serving_on(cluster) == ["a", "b"]
    cluster.release("q1")
    cluster.release("q2")
    cluster.settle()
    assert serving_on(cluster) == ["a", "b"]
    assert cluster.count("UnloadRequested") == cluster.count("ReplicaReserved") == cluster.count("RevisionServing") == 0
    edit(cluster)  # and for the next edit a copy makes way as for any
    assert cluster.count("ReplicaRetired") == 2
    cluster.settle()
    assert serving_on(cluster) == ["a", "b"]
    check_invariants(cluster)
    check_replay(cluster)


def test_of_several_copies_an_idle_one_makes_way_and_leaves_at_once() -> None:
    cluster = copies_on("a", "b")
    cluster.request("q", "m")
    busy = cluster.state.replicas[cluster.state.requests["q"].replica].node
    edit(cluster)
    leaving = [event for event in cluster.events if isinstance(event, ev.UnloadRequested)]
    assert [(event.node, event.reason) for event in leaving] == [("b" if busy == "a" else "a", "roll-out")]


def test_where_all_are_busy_one_takes_no_more_and_makes_way_when_it_is_idle() -> None:
    cluster = copies_on("a", "b", parallel=2)
    for request in ("q-1", "q-2"):
        cluster.request(request, "m")
    edit(cluster)
    (retired,) = [replica for replica in cluster.state.replicas.values() if replica.retired]
    assert retired.phase is Phase.LOADED
    assert retired.node not in serving_on(cluster)
    cluster.request("q-3", "m")
    assert cluster.state.requests["q-3"].replica != retired.id
    cluster.request("q-4", "m")  # the other one is full now
    assert cluster.state.requests["q-4"].replica == ""
    assert cluster.count("UnloadRequested") == 0
    cluster.release(
        next(request for request in ("q-1", "q-2") if cluster.state.requests[request].replica == retired.id)
    )
    assert cluster.count("UnloadRequested") == 1
    cluster.settle()
    assert cluster.state.models["m"].serving == 2
    check_replay(cluster)


def test_an_only_copy_makes_no_way_and_the_new_revision_takes_over_at_once() -> None:
    cluster = copies_on("a")
    edit(cluster)
    assert cluster.count("ReplicaRetired") == 0
    assert cluster.names().index("RevisionServing") < cluster.names().index("UnloadRequested")


def test_nobody_makes_way_for_a_revision_that_would_not_fit_in_its_place() -> None:
    cluster = copies_on("a", "b")
    cluster.model("beside", vram=6, pinned=True, min_replicas=2)
    cluster.settle()
    edit(cluster, vram=20 * GIB)
    assert cluster.count("ReplicaRetired") == 0
    assert serving_on(cluster) == ["a", "b"]
    assert parked(cluster) == ("capacity_exhausted", "capacity")


def test_a_broken_edit_costs_one_copy_and_the_others_serve_on() -> None:
    cluster = copies_on("a", "b", "c")
    edit(cluster)
    cluster.answer(cluster.effects[0])  # the one that makes way is gone
    for _ in range(3):
        fail_the_load(cluster)
        cluster.wait(300)
    assert parked(cluster)[0] == "load_failed"
    assert len(serving_on(cluster)) == 2
    assert cluster.count("ReplicaRetired") == 1
    edit(cluster)
    cluster.settle()
    assert serving_on(cluster) == ["a", "b", "c"]
    check_replay(cluster)


def test_an_edit_while_one_copy_makes_way_sends_no_second_one_off() -> None:
    cluster = copies_on("a", "b", "c", parallel=1)
    for request in ("q-1", "q-2", "q-3"):
        cluster.request(request, "m")
    edit(cluster)
    edit(cluster)
    assert cluster.count("ReplicaRetired") == 1
    assert len(serving_on(cluster)) == 2


def test_while_the_reconciler_is_frozen_nobody_makes_way() -> None:
    cluster = copies_on("a", "b")
    cluster.send(cmd.Freeze(what="reconciler"))
    edit(cluster)
    assert cluster.count("ReplicaRetired") == 0
    cluster.send(cmd.Thaw(what="reconciler"))
    assert cluster.count("ReplicaRetired") == 1


def test_a_copy_that_makes_way_holds_no_prompts_any_more() -> None:
    cluster = copies_on("a", "b", parallel=4, prefix_affinity=64)
    cluster.request("q", "m", prefix=(7, 8))
    mine = cluster.state.requests["q"].replica
    other = next(replica for replica in cluster.state.by_model["m"] if replica != mine)
    cluster.request("p", "m", prefix=(9, 10))
    assert cluster.state.requests["p"].replica == other
    edit(cluster)
    (retired,) = [replica.id for replica in cluster.state.replicas.values() if replica.retired]
    assert retired not in cluster.state.prefixes.held
    assert len(cluster.state.prefixes.held) == 1


def test_room_elsewhere_is_taken_while_the_copy_that_makes_way_is_still_busy() -> None:
    cluster = copies_on("a", "b", parallel=1)
    for request in ("q-1", "q-2"):
        cluster.request(request, "m")
    edit(cluster)
    assert parked(cluster) == ("capacity_exhausted", "capacity")
    cluster.node("c")
    cluster.settle()
    assert cluster.state.models["m"].serving == 2
    assert serving_on(cluster) == ["c"]


def test_room_elsewhere_is_taken_while_a_copy_is_to_be_cleaned_up_on_a_silent_node() -> None:
    cluster = Cluster()
    cluster.node("a")
    cluster.node("b")
    cluster.model("m", vram=16)
    cluster.loaded("m")
    edit(cluster)
    cluster.send(cmd.ReportSilence(node=cluster.effects[-1].node))
    edit(cluster)  # the load is given up, and what it left behind is on the silent node
    assert cluster.state.models["m"].serving == 1
    cluster.node("c")
    cluster.settle()
    assert cluster.state.models["m"].serving == 3
    check_replay(cluster)


def test_once_another_model_has_taken_the_room_nobody_else_makes_way_and_those_who_serve_stay() -> None:
    cluster = copies_on("a", "b", "c", min_replicas=0, max_replicas=3, priority=10)
    while len(serving_on(cluster)) < 3:
        cluster.send(cmd.RequestLoad(model="m"))
        cluster.settle()
    cluster.model("batch", vram=16, min_replicas=3)
    edit(cluster)
    cluster.settle()
    assert len(serving_on(cluster)) == 2
    assert len(cluster.state.by_model["batch"]) == 1
    assert parked(cluster) == ("capacity_exhausted", "capacity")
    cluster.node("d")
    cluster.settle()
    check_replay(cluster)


def busy_pair() -> tuple[Cluster, str, str]:
    """Two busy copies of which one makes way; the nodes of the one that does and of the other."""
    cluster = copies_on("a", "b", parallel=2)
    for request in ("q-1", "q-2"):
        cluster.request(request, "m")
    edit(cluster)
    (retired,) = [replica.node for replica in cluster.state.replicas.values() if replica.retired]
    return cluster, retired, "b" if retired == "a" else "a"


def test_the_copy_that_makes_way_serves_while_nobody_else_does() -> None:
    cluster, retired, other = busy_pair()
    cluster.request("q-3", "m")
    cluster.request("q-4", "m")  # waits: the other one is full, and this one makes way
    cluster.send(cmd.ReportSilence(node=other))
    assert serving_on(cluster) == [retired]
    assert cluster.state.requests["q-4"].replica
    cluster.send(cmd.ReportHeard(node=other, boot="boot-1"))
    assert serving_on(cluster) == [other]
    for request in list(cluster.state.requests):
        cluster.release(request)
    cluster.settle()
    assert cluster.state.models["m"].serving == 2
    check_replay(cluster)


def test_the_copy_that_makes_way_serves_while_the_reconciler_is_frozen_for_it_cannot_leave() -> None:
    cluster, _, _ = busy_pair()
    cluster.request("q-3", "m")
    cluster.request("q-4", "m")
    assert not cluster.state.requests["q-4"].replica
    cluster.send(cmd.Freeze(what="reconciler"))
    assert cluster.state.requests["q-4"].replica
    cluster.send(cmd.Thaw(what="reconciler"))
    assert len(serving_on(cluster)) == 1
    check_replay(cluster)
