"""A node's slots for a model that are lowered under what is loaded: what is too much leaves when it is idle."""

from __future__ import annotations

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from tests.domain.cluster import Cluster, check_invariants, check_replay


def three_copies() -> tuple[Cluster, list[str]]:
    cluster = Cluster()
    cluster.node("only", vram=48, slots=3)
    cluster.model("chat", vram=8, parallel=1, min_replicas=1, max_replicas=3, pinned=True)
    cluster.settle()
    while len(cluster.state.by_model["chat"]) < 3:
        cluster.loaded("chat")
    return cluster, list(cluster.state.by_model["chat"])


def left(cluster: Cluster) -> list[tuple[str, str]]:
    return [(event.replica, event.reason) for event in cluster.events if isinstance(event, ev.UnloadRequested)]


def lower(cluster: Cluster, slots: int) -> None:
    cluster.forget()
    cluster.send(cmd.SetReplicaSlots(node="only", max_replicas_per_model=slots))


def test_idle_copies_above_the_slots_leave_at_once_pinned_or_not_and_as_many_as_fit_stay() -> None:
    cluster, ids = three_copies()
    lower(cluster, 1)
    cluster.settle()
    assert left(cluster) == [(ids[0], "slots"), (ids[1], "slots")]
    assert list(cluster.state.by_model["chat"]) == [ids[2]]
    check_invariants(cluster)
    check_replay(cluster)


def test_a_busy_copy_leaves_when_its_request_ends() -> None:
    cluster, _ = three_copies()
    for request in ("a", "b", "c"):
        cluster.request(request, "chat")
    busy = {request: cluster.state.requests[request].replica for request in ("a", "b", "c")}
    lower(cluster, 2)
    assert left(cluster) == []
    cluster.release("b")
    assert left(cluster) == [(busy["b"], "slots")]
    cluster.release("a")
    cluster.settle()
    assert len(left(cluster)) == 1, "two are what the node may hold"
    check_invariants(cluster)


def test_the_copy_that_was_used_least_lately_leaves_first() -> None:
    cluster, _ = three_copies()
    for request in ("a", "b", "c"):
        cluster.request(request, "chat")
    order = [cluster.state.requests[request].replica for request in ("c", "a", "b")]
    for request in ("c", "a", "b"):
        cluster.wait(1)
        cluster.release(request)
    lower(cluster, 1)
    cluster.settle()
    assert [replica for replica, _ in left(cluster)] == order[:2]


def test_what_was_raised_again_takes_copies_again_and_nothing_leaves_for_it() -> None:
    cluster, _ = three_copies()
    lower(cluster, 2)
    cluster.settle()
    cluster.send(cmd.SetReplicaSlots(node="only", max_replicas_per_model=3))
    cluster.loaded("chat")
    assert len(cluster.state.by_model["chat"]) == 3
    assert len(left(cluster)) == 1


def test_nothing_leaves_while_the_reconciler_is_frozen() -> None:
    cluster, _ = three_copies()
    cluster.send(cmd.Freeze(what="reconciler"))
    lower(cluster, 1)
    assert left(cluster) == []
    cluster.send(cmd.Thaw(what="reconciler"))
    cluster.settle()
    assert len(left(cluster)) == 2


def test_the_copy_that_serves_stays_when_an_older_revision_is_still_busy() -> None:
    cluster = Cluster()
    cluster.node("only", vram=48, slots=2)
    cluster.model("chat", vram=8, min_replicas=1)
    cluster.settle()
    cluster.request("long", "chat")
    cluster.model("chat", vram=9, min_replicas=1)
    cluster.settle()
    serving = next(r for r in cluster.state.replicas.values() if r.revision == 2)
    lower(cluster, 1)
    cluster.settle()
    cluster.request("r", "chat")
    assert cluster.state.requests["r"].replica == serving.id
    cluster.release("long")
    cluster.settle()
    assert list(cluster.state.by_model["chat"]) == [serving.id]
    check_invariants(cluster)


def test_the_copy_that_serves_stays_until_the_load_beside_it_has_come_about() -> None:
    cluster = Cluster()
    cluster.node("only", vram=48, slots=2)
    cluster.model("chat", vram=8, min_replicas=1, pinned=True)
    cluster.settle()
    (old,) = cluster.state.by_model["chat"]
    cluster.model("chat", vram=9, min_replicas=1, pinned=True)
    (install,) = cluster.effects
    lower(cluster, 1)
    assert left(cluster) == []
    cluster.fail(install)
    cluster.settle()
    assert old in cluster.state.by_model["chat"]
    cluster.request("r", "chat")
    assert cluster.state.requests["r"].replica == old
