"""Growth and shrinking: copies follow the load, and never both ways at once."""

from __future__ import annotations

from interlock.domain import commands as cmd
from interlock.domain.entities import Scheduling
from tests.domain.cluster import Cluster, check_replay


def grown(copies: int = 3, **scheduling: object) -> Cluster:
    """A cluster in which `m` has grown to so many copies, all idle now."""
    cluster = Cluster()
    for n in range(copies):
        cluster.node(f"n{n}")
    cluster.model("m", max_replicas=copies, **scheduling)
    for n in range(2 * copies):
        cluster.request(f"r{n}", "m")
        cluster.settle()
    for request in list(cluster.state.requests):
        cluster.release(request)
    assert len(cluster.state.by_model["m"]) == copies
    cluster.forget()
    return cluster


def test_copies_above_the_floor_go_one_by_one_after_the_delay_and_the_last_stays() -> None:
    cluster = grown()
    cluster.wait(299)
    assert cluster.count("UnloadRequested") == 0
    cluster.wait(2)
    assert cluster.count("UnloadRequested") == 1, "one at a time"
    cluster.settle()
    cluster.wait(3600)
    assert len(cluster.state.by_model["m"]) == 1
    assert cluster.count("UnloadRequested") == 2
    check_replay(cluster)


def test_a_copy_in_use_is_not_idle() -> None:
    cluster = grown(2)
    for n in range(6):
        cluster.wait(100)
        for name in ("x", "y"):
            cluster.request(f"{name}{n}", "m")
        for name in ("x", "y"):
            cluster.release(f"{name}{n}")
    assert cluster.count("UnloadRequested") == 0


def test_a_lowered_ceiling_takes_effect_at_once_on_idle_copies() -> None:
    cluster = grown(3)
    cluster.send(cmd.SetScheduling(model="m", scheduling=Scheduling(max_replicas=1)))
    cluster.settle()
    assert len(cluster.state.by_model["m"]) == 1
    assert {e.reason for e in cluster.events if type(e).__name__ == "UnloadRequested"} == {"ceiling"}


def test_the_last_copy_goes_only_by_idle_unload_and_a_request_brings_it_back() -> None:
    cluster = grown(1)
    cluster.wait(10_000)
    assert len(cluster.state.by_model["m"]) == 1
    cluster.send(cmd.ChangeSettings(values={"idle_unload": 60_000_000}))
    cluster.wait(1)
    cluster.settle()
    assert not cluster.state.replicas
    cluster.request("again", "m")
    cluster.settle()
    assert cluster.answers["again"].model == "m"


def test_a_pin_or_a_floor_keeps_the_last_copy_from_idle_unload() -> None:
    for keeping in ({"pinned": True}, {"min_replicas": 1}):
        cluster = grown(1, **keeping)
        cluster.send(cmd.ChangeSettings(values={"idle_unload": 60_000_000}))
        cluster.wait(10_000)
        assert len(cluster.state.by_model["m"]) == 1


def test_nothing_shrinks_while_the_reconciler_is_frozen_and_the_thaw_catches_up() -> None:
    cluster = grown(2)
    cluster.send(cmd.Freeze(what="reconciler"))
    cluster.wait(3600)
    assert cluster.count("UnloadRequested") == 0
    cluster.send(cmd.Thaw(what="reconciler"))
    cluster.wait(1)
    cluster.settle()
    assert len(cluster.state.by_model["m"]) == 1


def test_a_model_everywhere_keeps_its_copies_when_a_node_falls_silent() -> None:
    cluster = Cluster()
    for n in range(3):
        cluster.node(f"n{n}")
    cluster.model("m", everywhere=True)
    cluster.settle()
    cluster.send(cmd.ReportSilence(node="n0"))
    cluster.wait(500)
    assert len(cluster.state.by_model["m"]) == 3
    assert cluster.count("UnloadRequested") == 0
