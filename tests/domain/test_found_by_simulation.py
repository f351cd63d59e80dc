"""Defects that simulation has found, each as the shortest history that shows it."""

from __future__ import annotations

from interlock.domain import events as ev
from interlock.domain.entities import Phase
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
