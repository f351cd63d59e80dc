"""Waiting that is fair: the order of those who wait, within a model and among models that want the same room."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.domain import commands as cmd
from interlock.domain.apply import apply
from interlock.domain.engine import Engine
from interlock.domain.entities import Budget
from interlock.domain.events import (
    HolderLost,
    ReplicaEvicted,
    ReplicaLoadFailed,
    ReplicaLocked,
    ReplicaReserved,
    RequestRefused,
    RequestWoken,
)
from interlock.domain.requests import LONGEST_RETRY, UNTIMED_RETRY, deadline_reached
from interlock.domain.settings import Settings, format_setting, parse_setting
from interlock.domain.units import FOREVER, GIB, MINUTE, SECOND
from tests.domain.cluster import Cluster, check_invariants, check_replay


def one_slot(*models: str, **scheduling: object) -> Cluster:
    """A node with room for one of these models."""
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0, "request_deadline": 60 * MINUTE}))
    cluster.node("solo", vram=24)
    for model in models:
        cluster.model(model, vram=20, **scheduling)
    return cluster


def served(cluster: Cluster) -> list[str]:
    """The requests in the order in which they got their locks."""
    return [event.request for event in cluster.events if isinstance(event, ReplicaLocked)]


# --- ageing of priorities -------------------------------------------------------------------------------------------


def test_higher_priority_goes_first_as_long_as_it_is_worth_more_than_the_waiting() -> None:
    cluster = one_slot("m")
    cluster.loaded("m")
    cluster.request("running", "m")
    cluster.request("patient", "m")
    cluster.wait(59)
    cluster.request("urgent", "m", priority=1)
    cluster.wait(2)
    cluster.request("late", "m", priority=1)
    assert [entry[2] for entry in cluster.state.waiting("m")] == ["urgent", "patient", "late"]
    check_replay(cluster)


def test_a_request_is_served_in_the_end_whatever_stream_of_higher_priority_comes() -> None:
    cluster = one_slot("m")
    cluster.loaded("m")
    running = ["running"]
    cluster.request("running", "m")
    cluster.request("patient", "m")
    for number in range(400):  # each comes before the one before it is done: the queue is never empty
        cluster.request(f"urgent-{number}", "m", priority=3)
        cluster.wait(1)
        cluster.release(running.pop())
        running.append(served(cluster)[-1])
        if "patient" in running:
            break
    assert running == ["patient"]
    # Three points at a minute each: only who came within three minutes after it went before it.
    assert len(served(cluster)) - 2 == 180


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(-3, 3)), min_size=2, max_size=12),
    st.sampled_from([0, MINUTE // 2, MINUTE]),
)
def test_whoever_came_later_by_what_the_difference_of_priority_is_worth_goes_later(
    arrivals: list[tuple[int, int]], ageing: int
) -> None:
    cluster = one_slot("m")
    cluster.loaded("m")
    cluster.send(cmd.ChangeSettings(values={"priority_ageing": ageing}))
    cluster.request("running", "m")
    came: dict[str, tuple[int, int]] = {}
    for number, (pause, priority) in enumerate(arrivals):
        cluster.wait(pause)
        cluster.request(f"r{number}", "m", priority=priority)
        came[f"r{number}"] = (cluster.now, priority)
    now = "running"
    for _ in arrivals:
        cluster.release(now)
        now = served(cluster)[-1]
    order = served(cluster)[1:]
    assert sorted(order) == sorted(came)
    for place, first in enumerate(order):
        for second in order[place + 1 :]:
            (at, priority), (later, other) = came[first], came[second]
            # Whoever goes first came earlier, or so little later that its priority makes up for it.
            assert at - later <= (priority - other) * ageing
    check_invariants(cluster)


def test_with_ageing_off_priority_is_strict() -> None:
    cluster = one_slot("m")
    cluster.loaded("m")
    cluster.send(cmd.ChangeSettings(values={"priority_ageing": FOREVER}))
    cluster.request("running", "m")
    cluster.request("patient", "m")
    cluster.wait(50 * 60)
    cluster.request("urgent", "m", priority=1)
    cluster.release("running")
    assert served(cluster)[-1] == "urgent"


def test_another_ageing_holds_for_those_who_wait_already_also_after_a_restart() -> None:
    cluster = one_slot("m")
    cluster.loaded("m")
    cluster.request("running", "m")
    cluster.request("patient", "m")
    cluster.wait(10)
    cluster.request("urgent", "m", priority=5)
    assert [entry[2] for entry in cluster.state.waiting("m")] == ["urgent", "patient"]
    cluster.send(cmd.ChangeSettings(values={"priority_ageing": SECOND}))
    assert [entry[2] for entry in cluster.state.waiting("m")] == ["patient", "urgent"]
    check_replay(cluster)
    check_invariants(cluster)


def test_the_setting_is_written_as_a_length_or_off() -> None:
    assert parse_setting("priority_ageing", "off") == FOREVER
    assert format_setting("priority_ageing", FOREVER) == "off"
    assert format_setting("priority_ageing", Settings().priority_ageing) == "1m"


# --- among models ---------------------------------------------------------------------------------------------------


def test_models_that_compete_for_one_place_have_their_turns_in_the_order_of_arrival() -> None:
    cluster = one_slot("a", "b", "c")
    for number, model in enumerate(("b", "c", "a", "c", "b", "a")):
        cluster.request(f"r{number}", model)
        cluster.wait(1)
    order = []
    for _ in range(20):
        cluster.settle()
        order += [request for request in served(cluster) if request not in order]
        if len(order) == 6:
            break
        cluster.release(order[-1])
    # Who waits for a loaded model goes along with it; the place itself goes to whoever has waited the longest.
    assert order == ["r0", "r4", "r1", "r3", "r2", "r5"]
    check_invariants(cluster)


def test_a_freed_place_goes_to_the_model_whose_first_request_has_waited_the_most_in_aged_terms() -> None:
    cluster = one_slot("busy", "old", "urgent")
    cluster.loaded("busy")
    cluster.request("running", "busy")
    cluster.request("waits-longest", "old")
    cluster.wait(119)
    cluster.request("two-points", "urgent", priority=2)
    cluster.release("running")
    assert cluster.events[-1].model == "urgent"
    cluster = one_slot("busy", "old", "urgent")
    cluster.loaded("busy")
    cluster.request("running", "busy")
    cluster.request("waits-longest", "old")
    cluster.wait(121)
    cluster.request("two-points", "urgent", priority=2)
    cluster.release("running")
    assert cluster.events[-1].model == "old"


def test_an_instant_that_several_wait_for_is_that_of_the_one_who_has_waited_longest() -> None:
    """Their timers stand in the order of their names, which means nothing."""
    cluster = one_slot("resident", "first", "second")
    cluster.send(cmd.ChangeSettings(values={"min_residency": 10 * SECOND}))
    cluster.loaded("resident")
    cluster.request("z", "first")
    cluster.request("a", "second")
    cluster.forget()
    cluster.wait(10)
    assert [event.model for event in cluster.events if isinstance(event, ReplicaReserved)] == ["first"]


def test_the_room_of_a_model_that_lost_its_replica_goes_to_whoever_has_waited_longest() -> None:
    cluster = one_slot("hot", "cold")
    replica = cluster.loaded("hot")
    cluster.request("running", "hot")
    cluster.request("waits-longest", "cold")
    cluster.wait(1)
    cluster.request("came-later", "hot")
    cluster.forget()
    cluster.send(cmd.ReportReplicaDied(replica=replica, reason="killed"))
    assert [event.model for event in cluster.events if isinstance(event, ReplicaReserved)] == ["cold"]


def test_a_floor_is_kept_before_a_passing_request_has_the_room() -> None:
    cluster = one_slot("kept", "cold")
    cluster.model("kept", vram=20, min_replicas=1)
    cluster.settle()
    cluster.request("running", "kept")
    cluster.request("waits", "cold")
    cluster.forget()
    cluster.send(cmd.ReportReplicaDied(replica="r-000001", reason="killed"))
    assert [event.model for event in cluster.events if isinstance(event, ReplicaReserved)] == ["kept"]


def test_a_model_that_is_stuck_leaves_the_others_room_in_the_queue() -> None:
    cluster = one_slot("busy", "stuck")
    cluster.loaded("busy")
    cluster.send(cmd.ChangeSettings(values={"queue_limit": 5, "model_queue_limit": 3}))
    cluster.request("running", "busy")
    replies = [cluster.request(f"stuck-{number}", "stuck") for number in range(4)]
    assert [getattr(reply, "code", "") for reply in replies] == ["", "", "", "queue_full"]
    assert "3 requests wait for stuck already" in replies[3].message
    assert [getattr(cluster.request(f"b{n}", "busy"), "code", "") for n in range(3)] == ["", "", "queue_full"]
    assert "5 requests wait already" in cluster.events[-1].message
    check_invariants(cluster)


# --- a warm model never waits behind a cold one ---------------------------------------------------------------------


def test_what_a_lost_gateway_frees_serves_those_who_wait_for_it_before_a_cold_model_may_evict_it() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.node("n1", vram=24)
    cluster.node("n2", vram=24)
    cluster.model("one", vram=22, selector={"node.name": "n1"})
    cluster.model("two", vram=20, selector={"node.name": "n2"})
    cluster.model("cold", vram=20)
    cluster.loaded("one")
    cluster.loaded("two")
    cluster.request("r1", "one", holder="dying")
    cluster.request("r2", "two", holder="dying")
    cluster.request("waits-longest", "cold")
    cluster.wait(1)
    cluster.request("next-for-two", "two")
    cluster.forget()
    cluster.send(cmd.LoseHolder(holder="dying"))
    assert isinstance(cluster.events[0], HolderLost)
    # The replica of `two` would be the cheaper one to reload.
    assert [event.model for event in cluster.events if isinstance(event, ReplicaEvicted)] == ["one"]
    assert served(cluster) == ["next-for-two"]
    check_invariants(cluster)


# --- wake-ups name their cause --------------------------------------------------------------------------------------


def causes(cluster: Cluster, request: str) -> list[str]:
    """Why the request was looked at again or served, in order."""
    told = (ReplicaLocked, RequestWoken)
    return [event.cause for event in cluster.events if isinstance(event, told) and event.request == request]


def test_every_wake_up_names_the_change_that_brought_it() -> None:
    cluster = one_slot("m", "other")
    hot = cluster.loaded("other")
    cluster.request("running", "other")
    cluster.request("waits", "m")
    cluster.release("running")
    assert causes(cluster, "waits") == [f"request running released {hot}"]
    cluster.settle()
    assert causes(cluster, "waits")[-1] == "the load it waited for is done"


def test_a_cold_model_whose_load_took_too_long_is_not_told_to_have_more_copies() -> None:
    cluster = one_slot("cold", "kept")
    cluster.request("late", "cold", patience=5 * SECOND)
    cluster.wait(6)
    told = refused(cluster, "late")
    assert (told.code, told.explanation.cure) == (
        "loading", "A longer deadline, or a floor (`min_replicas`), so that a copy is there before anybody asks.",
    )  # fmt: skip
    cluster = one_slot()
    cluster.model("kept", min_replicas=1)
    cluster.request("early", "kept", patience=5 * SECOND)
    cluster.wait(6)
    assert refused(cluster, "early").explanation.cure == "A longer deadline: loading takes as long."


def test_the_instants_that_wake_are_told_by_what_they_are() -> None:
    cluster = one_slot("resident", "m", "broken")
    cluster.send(cmd.ChangeSettings(values={"min_residency": 10 * SECOND}))
    cluster.loaded("resident")
    cluster.request("waits", "m")
    cluster.wait(11)
    assert causes(cluster, "waits") == ["a replica that was kept for min_residency may make room now"]
    cluster = one_slot("broken")
    cluster.request("tries", "broken")
    cluster.fail(cluster.effects[0])
    cluster.settle()
    cluster.wait(2)
    assert causes(cluster, "tries")[-1] == "the pause after its model failed to come up is over"


def test_a_wake_up_says_which_model_or_node_has_changed() -> None:
    cluster = one_slot("resident", "m")
    cluster.send(cmd.ChangeSettings(values={"min_residency": 1000 * SECOND}))
    cluster.loaded("resident")
    cluster.request("waits", "m")
    cluster.send(cmd.SetNodeBudget(node="solo", budget=Budget(size=23 * GIB)))
    cluster.model("resident", vram=20, priority=-1)
    assert causes(cluster, "waits") == ["the scheduling of resident changed"]
    cluster = one_slot("one")
    cluster.node("spare", vram=24)
    cluster.send(cmd.DrainNode(node="solo"))
    cluster.send(cmd.DrainNode(node="spare"))
    cluster.request("waits", "one")
    cluster.send(cmd.ResumeNode(node="spare"))
    assert causes(cluster, "waits") == ["node spare was resumed"]


# --- when to come again ---------------------------------------------------------------------------------------------


def test_a_refused_request_is_told_the_instant_that_routing_itself_waits_for() -> None:
    cluster = one_slot("resident", "m")
    cluster.send(cmd.ChangeSettings(values={"min_residency": 40 * SECOND}))
    cluster.loaded("resident")
    cluster.request("r", "m", deadline=cluster.now + 10 * SECOND)
    cluster.wait(11)
    assert cluster.answers["r"].code == "capacity_exhausted"
    assert cluster.answers["r"].retry_after == 30 * SECOND
    cluster.wait(29)  # eleven and twenty-nine: the very instant
    cluster.request("again", "m")
    assert isinstance(cluster.events[-2], ReplicaReserved)


def test_nobody_is_told_to_come_again_only_after_a_very_long_time() -> None:
    cluster = one_slot("resident", "m")
    cluster.send(cmd.ChangeSettings(values={"min_residency": 60 * MINUTE}))
    cluster.loaded("resident")
    cluster.request("r", "m", deadline=cluster.now + 10 * SECOND)
    cluster.wait(11)
    assert cluster.answers["r"].retry_after == LONGEST_RETRY == 5 * MINUTE


def test_what_concerns_others_tells_nobody_when_to_come_again() -> None:
    cluster = one_slot("busy", "m")
    cluster.loaded("busy")
    cluster.request("running", "busy")
    cluster.node("elsewhere", vram=1)
    cluster.send(cmd.ReportSilence(node="elsewhere"))  # it counts as lost in ten minutes: that helps nobody here
    cluster.request("of-another", "busy", deadline=cluster.now + 12 * SECOND)
    cluster.request("r", "m", deadline=cluster.now + 10 * SECOND)
    cluster.wait(11)
    assert cluster.answers["r"].retry_after == UNTIMED_RETRY


def test_patience_counts_from_the_decision_whatever_the_clock_of_the_sender_says() -> None:
    cluster = one_slot("resident", "m")
    cluster.send(cmd.ChangeSettings(values={"min_residency": 40 * SECOND}))
    cluster.loaded("resident")
    cluster.request("r", "m", patience=10 * SECOND)
    assert cluster.state.requests["r"].deadline == cluster.now + 10 * SECOND
    cluster.request("s", "m", patience=10 * SECOND, deadline=cluster.now + 5 * SECOND)
    assert cluster.state.requests["s"].deadline == cluster.now + 5 * SECOND, "an instant that is named stands"
    refused = cluster.request("t", "m", patience=-1)
    assert isinstance(refused, cmd.Rejected), "who does not wait at all is told at once"


def test_a_refusal_at_the_deadline_says_in_words_what_was_waited_for() -> None:
    cluster = one_slot("m")
    cluster.send(cmd.DrainNode(node="solo"))
    cluster.request("r", "m", deadline=cluster.now + 30 * SECOND)
    cluster.wait(31)
    assert refused(cluster, "r").message == (
        "m: the deadline passed while waiting for a node that is not being drained."
    )


# --- the reason at the deadline -------------------------------------------------------------------------------------


def refused(cluster: Cluster, request: str) -> RequestRefused:
    return next(event for event in cluster.events if isinstance(event, RequestRefused) and event.request == request)


def test_whoever_waits_behind_another_for_a_load_that_is_over_is_told_at_its_deadline_what_it_waits_for_then() -> None:
    cluster = one_slot("m")
    for name in ("first", "second"):
        cluster.request(name, "m")
    cluster.request("third", "m", deadline=cluster.now + 30 * SECOND)
    cluster.settle()
    cluster.wait(31)
    told = refused(cluster, "third")
    assert told.code == "capacity_exhausted"
    assert told.message == "m: the deadline passed while waiting for a free replica."
    assert "parallel" in told.explanation.cure


def test_whoever_waits_behind_another_is_not_told_that_what_was_thawed_is_frozen() -> None:
    cluster = one_slot("m", "rival")
    cluster.loaded("rival")
    cluster.send(cmd.Freeze(what="evictions"))
    for name in ("first", "second"):
        cluster.request(name, "m")
    cluster.request("third", "m", deadline=cluster.now + 30 * SECOND)
    cluster.send(cmd.Thaw(what="evictions"))
    cluster.settle()
    cluster.wait(31)
    assert refused(cluster, "third").code == "capacity_exhausted"
    check_replay(cluster)


def test_whoever_waits_for_a_load_that_goes_on_is_told_so() -> None:
    cluster = one_slot("m")
    cluster.request("first", "m")
    cluster.request("second", "m", deadline=cluster.now + 30 * SECOND)
    cluster.wait(31)
    assert refused(cluster, "second").code == "loading"


def test_whoever_waits_behind_another_is_told_why_its_model_is_refused_and_not_why_it_came_to_wait() -> None:
    cluster = one_slot("m")
    cluster.send(cmd.ChangeSettings(values={"load_attempts": 1}))
    cluster.send(cmd.DrainNode(node="solo"))
    for request in ("first", "second"):
        cluster.request(request, "m")
    cluster.send(cmd.ResumeNode(node="solo"))
    cluster.answer(cluster.effects[0])
    before = Engine().replay(cluster.log).state
    cluster.fail(cluster.effects[0])
    apply(before, next(event for event in cluster.events if isinstance(event, ReplicaLoadFailed)))
    # Its deadline comes between the failure and what follows from that.
    (told,) = deadline_reached(before, before.requests["second"], cluster.now)
    assert isinstance(told, RequestRefused)
    assert (told.code, told.message) == ("load_failed", refused(cluster, "first").message)
