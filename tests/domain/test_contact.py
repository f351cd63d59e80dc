"""Contact with many nodes lost at once: it is not believed at first, nothing moves in haste, in the end one by one."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.contact import suspected
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


def test_nodes_that_fell_silent_in_one_instant_stay_in_that_order_over_a_restart() -> None:
    cluster = cluster_of(6)
    silence(cluster, 2, 0, 1)
    assert list(cluster.state.silent) == ["n2", "n0", "n1"]
    check_replay(cluster)


def test_a_node_that_is_known_to_be_gone_is_not_one_of_those_that_half_are_counted_of() -> None:
    cluster = cluster_of(5)
    silence(cluster, 0)
    cluster.wait(11 * 60)
    assert len(offline_at(cluster)) == 1
    silence(cluster, 1)
    assert cluster.count("MassLossSuspected") == 0
    silence(cluster, 2)
    assert cluster.count("MassLossSuspected") == 1, "two of the four that are left"


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
    assert not cluster.effects, "n0 may be heard in a moment, too"
    cluster.wait(30)
    assert "r0" not in cluster.answers
    assert cluster.count("ReplicaEvicted") == 1, "it is no mass loss any more: n0 alone is silent, and m0 is moved"
    cluster.settle()
    assert "r0" in cluster.answers


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


# --- a call that nobody answers -------------------------------------------------------------------------------------

CALL = "UNAVAILABLE: n0:50000 does not answer"


def full_cluster(count: int, **settings: int) -> Cluster:
    """So many nodes n0, n1, ..., each filled by the one copy of m0, m1, ...; r0 holds a lock on m0."""
    cluster = Cluster()
    if settings:
        cluster.send(cmd.ChangeSettings(values=settings))
    for number in range(count):
        cluster.node(f"n{number}", vram=10)
        cluster.model(f"m{number}", vram=9)
        cluster.loaded(f"m{number}")
    cluster.wait(60)
    cluster.send(cmd.AcquireLock(request="r0", model="m0", holder="gw", deadline=cluster.now + 100 * MINUTE))
    cluster.forget()
    return cluster


def call_in_vain(cluster: Cluster, request: str = "r0", *, answered: bool = False, **changes: str) -> object:
    """The request finds nobody at its replica."""
    replica = changes.get("replica") or cluster.state.requests[request].replica
    return cluster.send(cmd.ReportBackendGone(request=request, replica=replica, detail=CALL, answered=answered)).reply


def test_a_call_that_fails_on_a_silent_node_costs_no_copy_and_the_request_is_routed_again() -> None:
    cluster = full_cluster(4)
    replica = cluster.state.requests["r0"].replica
    cluster.send(cmd.ReportSilence(node="n0", call=CALL))
    call_in_vain(cluster)
    assert cluster.count("ReplicaLost") == 0
    assert cluster.count("CallWentUnanswered") == 1
    request = cluster.state.requests["r0"]
    assert request.passes == 1, "it is a step of its own, as after a backend that is gone"
    assert request.wait is not None
    assert request.wait.kind == "contact"
    assert not cluster.effects
    check_invariants(cluster)
    check_replay(cluster)
    hear(cluster, 0)
    assert cluster.answers["r0"].replica == replica, "it was there all the time"
    check_invariants(cluster)


def test_the_same_call_reported_again_lets_go_of_nothing_else() -> None:
    cluster = full_cluster(4)
    replica = cluster.state.requests["r0"].replica
    cluster.send(cmd.ReportSilence(node="n0", call=CALL))
    call_in_vain(cluster)
    events = len(cluster.events)
    call_in_vain(cluster, replica=replica)
    assert len(cluster.events) == events
    hear(cluster, 0)
    call_in_vain(cluster, replica=replica)
    assert cluster.count("ReplicaLost") == 1, "its node is heard now: the call is believed"


def test_who_is_called_in_vain_is_served_by_another_copy_at_once() -> None:
    cluster = Cluster()
    for number in range(3):
        cluster.node(f"n{number}", vram=10)
    cluster.model("m", vram=9, min_replicas=2)
    cluster.settle()
    cluster.request("r0", "m")
    first = cluster.state.requests["r0"].replica
    node = cluster.state.replicas[first].node
    cluster.send(cmd.ReportSilence(node=node, call=CALL))
    cluster.forget()
    reply = call_in_vain(cluster)
    assert isinstance(reply, cmd.Locked)
    assert reply.replica != first
    assert not cluster.effects, "the copy on the silent node counts for the floor"


def test_a_call_is_believed_where_the_node_is_heard_and_where_somebody_answered() -> None:
    heard = full_cluster(4)
    call_in_vain(heard)
    assert heard.count("ReplicaLost") == 1
    answered = full_cluster(4)
    answered.send(cmd.ReportSilence(node="n0"))
    call_in_vain(answered, answered=True)
    assert answered.count("ReplicaLost") == 1


def test_for_what_is_found_silent_by_a_call_free_room_is_taken_at_once() -> None:
    cluster = full_cluster(4)
    cluster.node("n9", vram=10)
    cluster.send(cmd.ReportSilence(node="n0", call=CALL))
    call_in_vain(cluster)
    assert [(effect.name, effect.node) for effect in cluster.effects] == [("backend.install", "n9")]


def test_for_what_is_found_silent_by_a_call_nobody_is_evicted_before_others_would_be_missed() -> None:
    cluster = full_cluster(4)
    cluster.send(cmd.ReportSilence(node="n0", call=CALL))
    call_in_vain(cluster)
    cluster.wait(29)
    assert not cluster.effects
    cluster.wait(1)
    assert cluster.count("ReplicaEvicted") == 1, "n0 alone is silent: m0 is moved"
    assert cluster.count("RequestWoken") == 1


def test_a_call_that_shows_the_first_of_many_silent_nodes_moves_nothing_at_all() -> None:
    cluster = full_cluster(4)
    cluster.send(cmd.ReportSilence(node="n0", call=CALL))
    call_in_vain(cluster)
    cluster.wait(20)
    silence(cluster, 1)
    assert cluster.count("MassLossSuspected") == 1
    cluster.wait(20 * 60)
    assert not cluster.effects
    hear(cluster, 0, 1)
    assert cluster.answers["r0"].node == "n0"


@pytest.mark.parametrize(("nodes", "share"), [(2, 50), (4, 0)])
def test_where_no_silence_of_many_is_looked_for_nobody_waits_to_see_one(nodes: int, share: int) -> None:
    cluster = full_cluster(nodes, mass_loss_share=share)
    cluster.send(cmd.ReportSilence(node="n0", call=CALL))
    call_in_vain(cluster)
    assert cluster.count("ReplicaEvicted") == 1


def test_a_node_that_is_missed_in_its_own_time_is_moved_at_once() -> None:
    cluster = full_cluster(4)
    cluster.send(cmd.ReportSilence(node="n0"))
    call_in_vain(cluster)
    assert cluster.count("ReplicaEvicted") == 1


def test_a_node_that_was_silent_for_long_and_is_heard_again_says_nothing_of_those_that_are_silent_now() -> None:
    """Its return was counted against the silence of the others, though it was no longer one of them."""
    cluster = cluster_of(3, mass_loss_share=30)
    silence(cluster, 0)
    assert cluster.count("MassLossSuspected") == 1
    cluster.wait(10 * 60 - 5)
    silence(cluster, 1)
    cluster.wait(10)
    hear(cluster, 0)
    assert cluster.count("MassLossOver") == 0
    hear(cluster, 1)
    assert cluster.count("MassLossOver") == 1
    check_replay(cluster)


def test_the_suspicion_of_a_mass_loss_ends_when_an_operator_removes_those_that_are_silent() -> None:
    cluster = Cluster()
    for name in ("n1", "n2", "n3", "n4"):
        cluster.node(name)
    for name in ("n1", "n2"):
        cluster.send(cmd.ReportSilence(node=name))
    assert suspected(cluster.state)
    cluster.send(cmd.RemoveNode(node="n1"))
    cluster.send(cmd.RemoveNode(node="n2"))
    assert not suspected(cluster.state)
    check_replay(cluster)


def test_a_heartbeat_that_a_goodbye_has_overtaken_brings_nobody_back() -> None:
    cluster = cluster_of(1)
    cluster.send(cmd.WorkerLeft(node="n0"))
    hear(cluster, 0)
    assert cluster.state.nodes["n0"].status == "offline"
    assert cluster.count("NodeRecovered") == 0
    cluster.node("n0")
    assert cluster.state.nodes["n0"].status == "healthy", "it registers, with the same boot even"
    silence(cluster, 0)
    hear(cluster, 0)
    assert cluster.state.nodes["n0"].status == "healthy"
    check_replay(cluster)


def test_a_node_that_went_offline_by_silence_comes_back_by_a_heartbeat() -> None:
    cluster = cluster_of(1)
    silence(cluster, 0)
    cluster.wait(3600)
    assert cluster.state.nodes["n0"].status == "offline"
    hear(cluster, 0)
    assert cluster.state.nodes["n0"].status == "healthy"
    check_replay(cluster)
