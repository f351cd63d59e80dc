"""Defects that exploration has found, each as the shortest history that shows it."""

from __future__ import annotations

from interlock.domain import commands as cmd
from interlock.domain.entities import Phase, Scheduling
from interlock.domain.events import ReplicaReserved
from interlock.domain.selector import parse_selector
from tests.domain.cluster import Cluster


def test_a_copy_on_a_drained_node_keeps_no_floor_for_eviction() -> None:
    """The busy copy on the drained node counted, so that its replacement elsewhere was evicted below the floor."""
    cluster = Cluster()
    cluster.node("first", vram=24)
    cluster.node("second", vram=12)
    cluster.model("beta", vram=10, min_replicas=1)
    cluster.settle()
    cluster.request("q1", "beta")
    cluster.send(cmd.DrainNode(node="first"))
    cluster.settle()
    cluster.wait(60)
    cluster.model("alpha", vram=10)
    cluster.forget()
    cluster.request("q2", "alpha")
    assert cluster.count("ReplicaEvicted") == 0
    assert cluster.count("RequestQueued") == 1


def test_a_floor_that_is_parked_for_room_still_tries_a_failed_load_again() -> None:
    """Parked for want of room for its second copy, the failed load of the first was never tried again."""
    cluster = Cluster()
    cluster.node("solo")
    cluster.model("greedy", vram=20, min_replicas=2)
    assert cluster.state.models["greedy"].parked is not None
    cluster.fail(cluster.effects[-1])
    cluster.settle()
    cluster.wait(60)
    cluster.settle()
    assert [replica.phase for replica in cluster.state.replicas.values()] == [Phase.LOADED]
    assert cluster.state.models["greedy"].parked is not None


def test_a_wish_parked_for_a_failed_load_is_looked_at_again_when_another_copy_has_loaded() -> None:
    """Parked until an edit though the model loads after all, the second copy was never tried again."""
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 1}))
    cluster.node("first")
    cluster.node("second")
    cluster.model("m", vram=8, min_replicas=2)
    _, second = (effect for effect in cluster.effects if effect.name == "backend.install")
    cluster.fail(second)
    assert cluster.state.models["m"].parked is not None
    assert cluster.state.models["m"].parked.lacks == "edit"
    cluster.settle()
    cluster.wait(60)
    cluster.settle()
    assert cluster.state.models["m"].parked is None
    assert [replica.phase for replica in cluster.state.replicas.values()] == [Phase.LOADED, Phase.LOADED]


def test_more_attempts_free_a_wish_that_had_used_up_its_attempts() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 1}))
    cluster.node("solo")
    cluster.model("m", vram=8, min_replicas=1)
    cluster.fail(cluster.effects[-1])
    cluster.settle()
    cluster.wait(60)
    assert cluster.state.models["m"].parked is not None
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 3}))
    cluster.settle()
    cluster.wait(60)
    cluster.settle()
    assert [replica.phase for replica in cluster.state.replicas.values()] == [Phase.LOADED]


def test_a_machine_that_begins_anew_has_room_for_whoever_has_waited_longest_for_it() -> None:
    """It was silent when it lost the younger request's load: only that one was looked at, and had the room again."""
    cluster = Cluster()
    cluster.node("large", vram=24)
    cluster.node("small", vram=12)
    cluster.model("older", vram=10)
    cluster.model("younger", vram=14)
    cluster.request("q1", "older")
    cluster.settle()
    cluster.request("q2", "younger")
    first = cluster.state.requests["q1"].replica
    cluster.send(cmd.ReportBackendGone(request="q1", replica=first, detail="UNAVAILABLE"))
    cluster.send(cmd.ReportSilence(node="large"))
    cluster.send(
        cmd.SetScheduling(model="older", scheduling=Scheduling(selector=parse_selector({"node.name": "large"})))
    )
    cluster.forget()
    cluster.node("large", vram=24, boot="boot-2")
    first_room = next(event for event in cluster.events if isinstance(event, ReplicaReserved))
    assert first_room.model == "older"
