"""Defects that simulation has found, each as the shortest history that shows it."""

from __future__ import annotations

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.entities import Phase
from interlock.domain.shrinking import copies, floor_of
from tests.domain.cluster import Cluster


def test_a_growth_load_that_failed_is_tried_again_by_itself_while_requests_wait() -> None:
    """The request waited for a release alone: the second copy was not tried again until something else happened."""
    cluster = Cluster()
    cluster.node("a")
    cluster.node("b")
    cluster.model("m", max_replicas=2)
    cluster.loaded("m")
    cluster.request("q1", "m")
    cluster.forget()
    cluster.request("q2", "m")
    cluster.fail(cluster.effects[-1])
    cluster.settle()
    cluster.forget()
    cluster.wait(2)
    cluster.settle()
    assert cluster.count("ReplicaReserved") == 1
    assert [r.phase for r in cluster.state.replicas.values()] == [Phase.LOADED, Phase.LOADED]
    assert any(type(event) is ev.ReplicaLocked and event.request == "q2" for event in cluster.events)


def test_one_copy_on_every_candidate_means_one_on_each_and_not_two_on_some() -> None:
    """A node that came back got no copy, because another with two slots had been given a second one meanwhile."""
    cluster = Cluster()
    cluster.node("a", slots=2)
    cluster.node("b", slots=2)
    cluster.model("m", everywhere=True)
    cluster.settle()
    lost = next(r.id for r in cluster.state.replicas.values() if r.node == "b")
    cluster.send(cmd.DrainNode(node="b"))
    cluster.settle()
    assert lost not in cluster.state.replicas
    for request in ("q1", "q2", "q3"):
        cluster.request(request, "m")
    cluster.settle()
    assert [r.node for r in cluster.state.replicas.values()] == ["a"]
    cluster.send(cmd.ResumeNode(node="b"))
    cluster.settle()
    assert sorted(r.node for r in cluster.state.replicas.values()) == ["a", "b"]


def test_a_drained_node_that_falls_silent_is_not_to_have_a_copy() -> None:
    """Its silence hid that it was drained: "one on every candidate" wanted a copy there again, and never got it."""
    cluster = Cluster()
    cluster.node("a")
    cluster.node("b")
    cluster.model("m", everywhere=True)
    cluster.settle()
    cluster.send(cmd.DrainNode(node="b"))
    cluster.settle()
    cluster.send(cmd.ReportSilence(node="b"))
    model = cluster.state.models["m"]
    assert copies(cluster.state, model) == floor_of(cluster.state, model) == 1


def test_a_model_whose_replica_died_has_no_better_claim_to_its_room_than_one_that_waited_longer() -> None:
    cluster = Cluster()
    cluster.node("a", vram=24)
    cluster.model("chat", vram=20)
    cluster.request("c1", "chat")
    cluster.settle()
    cluster.model("kept", vram=20, min_replicas=1)
    assert cluster.request("k1", "kept").kind == "capacity"
    assert cluster.request("c2", "chat").kind == "busy"
    cluster.send(cmd.ReportReplicaDied(replica=cluster.state.requests["c1"].replica, reason="killed"))
    cluster.settle()
    assert list(cluster.state.by_model) == ["kept"]
    assert cluster.state.requests["k1"].replica


def test_the_room_of_a_request_that_has_used_up_its_tries_goes_to_who_has_waited_longest() -> None:
    """The next of its own model got it, because the refusal's review came before the rest of the one for the room."""
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 2}))
    cluster.node("a")
    cluster.model("m", vram=20)
    cluster.model("other", vram=20)
    for request, model in (("q1", "m"), ("q2", "other"), ("q3", "m")):
        cluster.request(request, model)
        cluster.wait(1)
    for boot in range(2, 7):
        cluster.node("a", vram=24, boot=f"boot-{boot}")
    cluster.answer(cluster.effects[-1])  # its backend is installed
    cluster.fail(cluster.effects[-1])
    cluster.wait(5)
    cluster.forget()
    cluster.answer(cluster.effects[-1])  # what the failed load left behind is gone
    assert [event.request for event in cluster.events if isinstance(event, ev.RequestRefused)] == ["q1"]
    assert [event.cause for event in cluster.events if isinstance(event, ev.ReplicaReserved)] == ["request q2"]
