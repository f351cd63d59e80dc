"""Contact with many nodes lost at once: it is not believed at first, nothing moves in haste, in the end one by one."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.units import MINUTE, SECOND
from tests.domain.cluster import Cluster, check_invariants, check_replay


def cluster_of(count: int, **settings: int) -> Cluster:
    """So many nodes n0, n1, ..., with room for two copies each; a floor of one model each is kept."""
    cluster = Cluster()
    if settings:
        cluster.send(cmd.ChangeSettings(values=settings))
    for number in range(count):
        cluster.node(f"n{number}")
        cluster.model(f"m{number}", min_replicas=1)
        cluster.settle()
    cluster.forget()
    return cluster


def silence(cluster: Cluster, *numbers: int) -> None:
    for number in numbers:
        cluster.send(cmd.ReportSilence(node=f"n{number}"))


def hear(cluster: Cluster, *numbers: int) -> None:
    for number in numbers:
        cluster.send(cmd.ReportHeard(node=f"n{number}", boot="boot-1"))


def offline_at(cluster: Cluster) -> list[int]:
    return [event.at for event in cluster.events if isinstance(event, ev.NodeWentOffline)]


@pytest.mark.parametrize(("nodes", "silent", "suspected"), [(2, 2, False), (3, 1, False), (3, 2, True), (4, 2, True)])
def test_half_of_at_least_three_nodes_are_too_many_to_be_believed(nodes: int, silent: int, suspected: bool) -> None:
    cluster = cluster_of(nodes)
    silence(cluster, *range(silent))
    assert cluster.count("MassLossSuspected") == int(suspected)
    check_replay(cluster)


def test_no_node_counts_as_offline_before_the_grace_has_passed_and_then_one_at_a_time() -> None:
    cluster = cluster_of(6)
    silence(cluster, 0, 1, 2)
    began = cluster.now
    cluster.wait(30 * 60 - 1)
    assert offline_at(cluster) == []
    assert not cluster.effects, "nothing has moved"
    assert cluster.count("NodeOfflinePostponed") == 3
    cluster.wait(3600)
    step = 30 * SECOND
    assert offline_at(cluster) == [began + 30 * MINUTE + turn * step for turn in range(3)]
    cluster.settle()
    check_invariants(cluster)
    assert all(cluster.state.by_model[f"m{number}"] for number in range(6)), "the floors are kept on what is left"


def test_when_enough_of_them_speak_again_the_rest_is_believed_in_its_own_time() -> None:
    cluster = cluster_of(6)
    silence(cluster, 0, 1, 2)
    cluster.wait(60)
    hear(cluster, 0)
    assert cluster.count("MassLossOver") == 1
    assert not cluster.state.mass_loss_until
    cluster.wait(600)
    assert len(offline_at(cluster)) == 2


def test_nodes_that_come_back_find_what_they_run_as_it_was() -> None:
    cluster = cluster_of(4)
    before = sorted(cluster.state.replicas)
    silence(cluster, 0, 1, 2, 3)
    cluster.wait(25 * 60)
    hear(cluster, 0, 1, 2, 3)
    for number in range(4):
        running = tuple(
            cmd.Running(process=f"p-{replica}", replica=replica, model=f"m{number}")
            for replica in cluster.state.by_node[f"n{number}"]
        )
        cluster.send(cmd.ReportRunning(node=f"n{number}", boot="boot-1", asked_at=cluster.now, running=running))
    cluster.wait(3600)
    assert sorted(cluster.state.replicas) == before
    assert not cluster.effects


def test_a_model_that_may_be_where_contact_is_lost_takes_free_room_for_a_request_and_evicts_nobody() -> None:
    cluster = Cluster()
    for number in range(4):
        cluster.node(f"n{number}", vram=10)
        cluster.model(f"m{number}", vram=9)
        cluster.loaded(f"m{number}")
    cluster.wait(60)
    cluster.forget()
    silence(cluster, 0, 1)
    assert cluster.request("r0", "m0", deadline=cluster.now + 100 * MINUTE).kind == "contact"
    cluster.model("new", vram=9)
    assert cluster.request("r1", "new").kind == "load", "what is nowhere is not moved: it may evict as always"
    check_invariants(cluster)
    cluster.node("n9", vram=10)
    cluster.settle()
    assert cluster.answers["r0"].node == "n9", "free room may be taken"


def test_a_request_that_was_held_back_is_served_when_contact_is_back() -> None:
    cluster = Cluster()
    for number in range(4):
        cluster.node(f"n{number}", vram=10)
        cluster.model(f"m{number}", vram=9)
        cluster.loaded(f"m{number}")
    cluster.wait(60)
    silence(cluster, 0, 1)
    cluster.request("r0", "m0", deadline=cluster.now + 100 * MINUTE)
    cluster.request("r1", "m1", deadline=cluster.now + 100 * MINUTE)
    hear(cluster, 1)
    cluster.settle()
    assert cluster.answers["r1"].node == "n1"
    assert "r0" in cluster.answers, "it is no mass loss any more: n0 alone is silent, and m0 is moved"


def test_growth_waits_while_copies_may_be_where_contact_is_lost() -> None:
    cluster = Cluster()
    for number in range(4):
        cluster.node(f"n{number}")
    cluster.model("m", min_replicas=2, max_replicas=4)
    cluster.settle()
    homes = sorted(cluster.state.replicas[replica].node for replica in cluster.state.by_model["m"])
    others = sorted(set(cluster.state.nodes) - set(homes))
    cluster.send(cmd.ReportSilence(node=homes[0]))
    cluster.send(cmd.ReportSilence(node=others[0]))
    cluster.request("r1", "m")
    assert cluster.request("r2", "m", deadline=cluster.now + 100 * MINUTE).kind == "busy"
    assert not cluster.effects
    cluster.send(cmd.ReportHeard(node=others[0], boot="boot-1"))
    assert [effect.name for effect in cluster.effects] == ["backend.install"]


def test_the_share_is_a_setting_and_off_believes_every_silence() -> None:
    cluster = cluster_of(4, mass_loss_share=0)
    silence(cluster, 0, 1, 2, 3)
    assert cluster.count("MassLossSuspected") == 0
    cluster.wait(600)
    assert len(offline_at(cluster)) == 4


def test_silences_that_are_far_apart_are_believed() -> None:
    cluster = cluster_of(6, offline_after=10 * MINUTE)
    for number in range(6):
        silence(cluster, number)
        cluster.wait(9 * 60)
    assert cluster.count("MassLossSuspected") <= 1, "in the end a few are left, and two of them are half"


def test_a_node_that_was_approved_by_nobody_does_not_count() -> None:
    cluster = cluster_of(3)
    for number in range(5):
        cluster.send(cmd.RegisterNode(node=f"p{number}", pools=(1,), boot="b"))
    silence(cluster, 0, 1)
    assert cluster.count("MassLossSuspected") == 1
