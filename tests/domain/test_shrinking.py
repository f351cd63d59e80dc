"""Growth and shrinking: copies follow the load, and never both ways at once."""

from __future__ import annotations

from interlock.domain import commands as cmd
from interlock.domain.entities import Phase, Scheduling
from interlock.domain.units import FOREVER
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


def doubled(**facts: object) -> Cluster:
    """`m` has two copies on n0, and is then to have one on every candidate, n1 among them."""
    cluster = Cluster()
    cluster.node("n0", slots=2)
    cluster.model("m", max_replicas=2)
    for request in ("r0", "r1"):
        cluster.request(request, "m")
        cluster.settle()
    cluster.node("n1", **facts)
    cluster.send(cmd.SetScheduling(model="m", scheduling=Scheduling(everywhere=True)))
    cluster.settle()
    return cluster


def where(cluster: Cluster) -> list[str]:
    return sorted(cluster.state.replicas[replica].node for replica in cluster.state.by_model["m"])


def test_two_copies_on_one_node_are_no_copy_on_another() -> None:
    assert where(doubled()) == ["n0", "n0", "n1"]


def test_of_a_model_everywhere_only_one_of_two_on_a_node_is_too_many() -> None:
    cluster = doubled()
    cluster.wait(60)
    for request in ("r0", "r1"):  # those on n0 were used last: the one on n1 is idle for longest
        cluster.release(request)
    cluster.wait(3600)
    cluster.settle()
    assert where(cluster) == ["n0", "n1"]
    cluster.wait(3600)
    assert where(cluster) == ["n0", "n1"]
    check_replay(cluster)


def test_a_second_copy_on_a_node_may_be_evicted_and_the_only_one_there_may_not() -> None:
    cluster = doubled(vram=16)
    for request in ("r0", "r1"):
        cluster.release(request)
    cluster.wait(60)
    cluster.model("big", vram=15)
    cluster.request("b", "big")
    cluster.settle()
    assert where(cluster) == ["n0", "n1"]
    cluster.model("bigger", vram=16)
    cluster.wait(60)
    cluster.request("c", "bigger")
    cluster.settle()
    assert where(cluster) == ["n0", "n1"]


def test_the_one_copy_of_a_model_everywhere_that_serves_is_not_evicted_beside_one_that_still_loads() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.node("only", slots=2)
    cluster.model("m", everywhere=True)
    cluster.settle()
    cluster.model("m", vram=10, everywhere=True)
    assert where(cluster) == ["only", "only"], "its new revision is on its way"
    cluster.model("big", vram=12)
    cluster.request("b", "big")
    assert cluster.count("ReplicaEvicted") == 0
    cluster.settle()
    check_replay(cluster)


def test_a_models_own_idle_unload_goes_before_the_clusters() -> None:
    for own, cluster_wide, left in ((60_000_000, FOREVER, 0), (FOREVER, 60_000_000, 1), (None, 60_000_000, 0)):
        cluster = grown(1, idle_unload=own)
        cluster.send(cmd.ChangeSettings(values={"idle_unload": cluster_wide}))
        cluster.wait(59)
        assert len(cluster.state.by_model["m"]) == 1
        cluster.wait(2)
        cluster.settle()
        assert len(cluster.state.by_model.get("m", ())) == left
        check_replay(cluster)


def test_a_new_idle_unload_counts_for_a_copy_that_is_idle_already() -> None:
    cluster = grown(1)
    cluster.wait(100)
    cluster.send(cmd.SetScheduling(model="m", scheduling=Scheduling(max_replicas=1, idle_unload=120_000_000)))
    cluster.wait(19)
    assert len(cluster.state.by_model["m"]) == 1
    cluster.wait(2)
    cluster.settle()
    assert not cluster.state.replicas
    check_replay(cluster)


def test_a_short_idle_unload_does_not_keep_a_second_copy_from_leaving_after_its_delay() -> None:
    cluster = grown(2, idle_unload=60_000_000)
    cluster.wait(299)
    assert len(cluster.state.by_model["m"]) == 2
    cluster.wait(2)
    cluster.settle()
    cluster.wait(2)
    cluster.settle()
    assert not cluster.state.replicas


def test_a_busy_copy_of_the_old_revision_is_no_twin_of_the_one_that_serves() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.node("a", vram=48, slots=2)
    cluster.model("m", vram=20, everywhere=True)
    cluster.settle()
    cluster.request("long", "m")
    cluster.model("m", vram=21, everywhere=True)
    cluster.settle()
    (serving,) = [key[3] for key in cluster.state.warm["m"].order]
    cluster.wait(3600)
    assert cluster.state.replicas[serving].phase is Phase.LOADED  # it is no copy too many
    cluster.model("other", vram=20)
    cluster.request("q", "other")
    assert cluster.state.replicas[serving].phase is Phase.LOADED  # and no victim: its node is to have one
    check_replay(cluster)
