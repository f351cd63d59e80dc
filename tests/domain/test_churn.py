"""Churn: a node takes so many evictions in a while, and models that evict each other again and again slow down."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from interlock.adapters.audit.sentences import sentence
from interlock.domain import churn
from interlock.domain import commands as cmd
from interlock.domain.entities import Churn, Replica, Scheduling
from interlock.domain.events import ReplicaLoaded, RequestRefused, RequestWoken, ThrashingDetected
from interlock.domain.state import State
from interlock.domain.units import FOREVER, MINUTE, SECOND
from tests.domain.cluster import Cluster, check_invariants, check_replay


def bounded(**settings: int) -> Cluster:
    """A node that sees at most three evictions in a minute, and holds one of five models at a time."""
    cluster = Cluster()
    values = {"min_residency": 0, "evictions_per_node": 3, "eviction_window": MINUTE, "thrash_cycles": 0, **settings}
    cluster.send(cmd.ChangeSettings(values=values))
    cluster.node("n", vram=24)
    for name in "abcde":
        cluster.model(name, vram=20)
    return cluster


def serve(cluster: Cluster, request: str, model: str) -> None:
    cluster.request(request, model)
    cluster.settle()
    if request in cluster.state.requests and cluster.state.requests[request].status == "locked":
        cluster.release(request)


def served_in_turn(cluster: Cluster, models: str) -> None:
    for n, model in enumerate(models):
        serve(cluster, f"r{n}", model)


def test_a_node_takes_no_more_evictions_in_a_while_than_its_bound_and_says_when_the_next_may_be() -> None:
    cluster = bounded()
    served_in_turn(cluster, "abcde")
    assert cluster.count("ReplicaEvicted") == 3
    waiting = cluster.state.requests["r4"]
    assert (waiting.wait.kind, waiting.wait.until) == ("capacity", cluster.now + MINUTE)
    row = cluster.events[-1].explanation.considered[0]
    assert "3 evictions in the last 1m; the next is possible at" in row.detail
    cluster.wait(59)
    assert cluster.count("ReplicaEvicted") == 3
    cluster.wait(1)
    cluster.settle()
    assert cluster.answers["r4"].model == "e"
    check_invariants(cluster)
    check_replay(cluster)


def test_the_bound_is_the_nodes_own_and_another_node_goes_on() -> None:
    cluster = bounded()
    served_in_turn(cluster, "abcd")
    cluster.node("other", vram=24)
    serve(cluster, "x", "a")
    serve(cluster, "y", "e")
    assert [event.node for event in cluster.events if type(event).__name__ == "ReplicaEvicted"][-1] == "other"
    check_replay(cluster)


def test_one_load_may_take_more_victims_than_the_bound_once_it_has_been_quiet_for_a_while() -> None:
    cluster = bounded(evictions_per_node=2)
    for number in range(4):
        cluster.model(f"small{number}", vram=6)
        serve(cluster, f"s{number}", f"small{number}")
    cluster.model("late", vram=6)
    serve(cluster, "l", "late")
    assert cluster.count("ReplicaEvicted") == 1
    cluster.request("big", "a")
    assert cluster.state.requests["big"].wait.until == cluster.now + MINUTE
    cluster.wait(61)
    cluster.settle()
    assert cluster.answers["big"].model == "a"
    assert cluster.count("ReplicaEvicted") == 1 + 4
    check_invariants(cluster)


def test_a_higher_priority_preempts_within_the_bound_and_not_beyond_it() -> None:
    cluster = bounded(min_residency=10 * MINUTE)
    for priority, name in enumerate(("p1", "p2", "p3", "p4"), start=1):
        cluster.model(name, vram=20, priority=priority)
    serve(cluster, "r0", "a")
    for name in ("p1", "p2", "p3"):
        serve(cluster, name, name)
    assert cluster.count("ReplicaEvicted") == 3
    serve(cluster, "p4", "p4")
    assert cluster.count("ReplicaEvicted") == 3
    assert cluster.state.requests["p4"].wait.until == cluster.now + MINUTE


def test_a_floor_that_meets_the_bound_is_parked_until_its_instant_and_then_raised() -> None:
    cluster = bounded()
    served_in_turn(cluster, "abcd")
    cluster.model("vital", vram=20, priority=5, min_replicas=1)
    assert cluster.state.models["vital"].parked.until == cluster.now + MINUTE
    cluster.wait(61)
    cluster.settle()
    assert cluster.state.models["vital"].parked is None
    assert cluster.state.by_model["vital"]


def test_room_that_comes_free_helps_a_floor_before_its_instant() -> None:
    cluster = bounded()
    served_in_turn(cluster, "abcd")
    cluster.model("vital", vram=20, priority=5, min_replicas=1)
    cluster.send(cmd.RequestUnload(model="d"))
    cluster.settle()
    assert cluster.state.by_model["vital"]
    check_replay(cluster)


def test_who_waits_for_an_instant_beyond_its_deadline_is_told_when_to_come_again() -> None:
    cluster = bounded()
    served_in_turn(cluster, "abcd")
    cluster.request("r4", "e", deadline=cluster.now + 20 * SECOND)
    cluster.wait(21)
    refused = next(event for event in cluster.events if isinstance(event, RequestRefused))
    assert refused.retry_after == 40 * SECOND


# --- cycles ---------------------------------------------------------------------------------------------------------


def alternating(rounds: int, vram: int = 20, **settings: int) -> Cluster:
    """Two models on one slot, asked for in turn as soon as the other may be evicted."""
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 10 * SECOND, **settings}))
    cluster.node("n", vram=24)
    for name in ("day", "night"):
        cluster.model(name, vram=vram)
    for n in range(rounds):
        serve_at_last(cluster, f"r{n}", ("day", "night")[n % 2])
    return cluster


def serve_at_last(cluster: Cluster, request: str, model: str) -> None:
    cluster.request(request, model)
    while request not in cluster.answers:
        cluster.settle()
        if request not in cluster.answers:
            cluster.wait(1)
    cluster.release(request)


def stays(cluster: Cluster) -> list[int]:
    loaded = [event for event in cluster.events if isinstance(event, ReplicaLoaded)]
    return [(event.evictable_at - event.at) // SECOND for event in loaded]


def test_each_cycle_after_the_third_doubles_the_stay_up_to_what_pays_the_load_off() -> None:
    cluster = alternating(16)
    assert stays(cluster) == [10] * 6 + [20, 20, 40, 40, 80, 80, 160, 160, 160, 160]
    assert cluster.count("ThrashingDetected") == cluster.state.thrashings == 10
    check_invariants(cluster)
    check_replay(cluster)


def test_the_longest_stay_is_a_setting_and_off_means_off() -> None:
    assert stays(alternating(12, longest_residency=30 * SECOND))[-1] == 30
    assert stays(alternating(12, thrash_cycles=0)) == [10] * 12


def test_models_whose_loads_are_short_beside_their_residency_may_change_places_as_often_as_they_like() -> None:
    cluster = alternating(12, vram=13, min_residency=120 * SECOND)
    assert set(stays(cluster)) == {120}
    assert cluster.count("ThrashingDetected") == 0


def test_a_quiet_while_ends_it() -> None:
    cluster = alternating(10)
    assert stays(cluster)[-1] == 40
    cluster.forget()
    cluster.wait(600)
    serve(cluster, "later", "day")
    assert stays(cluster) == [10]
    assert cluster.state.models["day"].churn is None


def test_the_event_says_who_pushes_whom_out_and_what_would_end_it() -> None:
    told = next(event for event in alternating(8).events if isinstance(event, ThrashingDetected))
    assert (told.model, told.others, told.cycles) == ("day", ("night",), 3)
    assert sentence(told).startswith("day was evicted for night and loaded again 3 times in ")
    assert "it now stays at least 20s" in sentence(told)
    assert "more memory, a floor or a pin would end this" in sentence(told)


def test_who_waits_hears_why_it_takes_longer() -> None:
    cluster = alternating(8)
    cluster.request("next", "day")
    waiting = cluster.events[-1]
    assert "after 3 evictions and reloads in a row" in waiting.explanation.considered[0].detail
    assert waiting.wait.until == cluster.state.replicas[cluster.state.by_model["night"].popitem()[0]].evictable_at


def test_who_may_have_room_after_a_longer_stay_is_woken_for_that_and_not_for_min_residency() -> None:
    cluster = alternating(8)
    cluster.request("next", "day")
    night = next(iter(cluster.state.by_model["night"]))
    cluster.now = cluster.state.replicas[night].evictable_at
    cluster.wait(0)
    [woken] = [e for e in cluster.events if isinstance(e, RequestWoken) and e.request == "next"]
    assert woken.cause == f"{night} of night, kept for longer after evictions and reloads, may make room now"


def test_who_may_have_room_once_a_node_takes_evictions_again_is_woken_for_that() -> None:
    cluster = bounded()
    served_in_turn(cluster, "abcd")
    cluster.request("next", "e")
    cluster.wait(61)
    [woken] = [e for e in cluster.events if isinstance(e, RequestWoken) and e.request == "next"]
    assert woken.cause == "node n takes evictions again, after as many as evictions_per_node allows"


def three_stays() -> Cluster:
    """One replica on each of three nodes; the last two are safe until the same instant, the first not for as long."""
    cluster = Cluster()
    for number, pause in enumerate((5, 0, 0)):
        cluster.node(f"n{number}", vram=24)
        cluster.model(f"m{number}", vram=20, selector={"node.name": f"n{number}"})
        cluster.loaded(f"m{number}")
        cluster.wait(pause)
    cluster.model("anywhere")
    cluster.model("last", selector={"node.name": "n2"})
    cluster.send(cmd.ChangeSettings(values={"min_residency": SECOND}))  # so that each has stayed for longer than that
    return cluster


def test_of_several_whose_stay_ends_at_once_the_oldest_is_named_on_a_node_that_the_model_may_use() -> None:
    state = three_stays().state
    first, second, third = sorted(state.replicas)
    assert churn.what_ends(state, state.models["anywhere"], state.replicas[first].evictable_at).startswith(first)
    until = state.replicas[third].evictable_at
    assert until == state.replicas[second].evictable_at
    assert churn.what_ends(state, state.models["anywhere"], until).startswith(second)
    assert churn.what_ends(state, state.models["last"], until).startswith(third)


class Watched(dict[str, Replica]):
    """The replicas of a cluster, and how many of them were looked at."""

    looked = 0

    def __getitem__(self, name: str) -> Replica:
        self.looked += 1
        return super().__getitem__(name)

    def values(self) -> Any:
        self.looked += len(self)
        return super().values()


def test_to_say_what_an_instant_ends_no_replica_is_looked_at_but_those_whose_stay_it_ends() -> None:
    state = three_stays().state.fork()
    first, _, third = sorted(state.replicas)
    for until, looked in ((first, 1), (third, 2)):
        state.replicas = watched = Watched(state.replicas)
        churn.what_ends(state, state.models["last"], dict.__getitem__(watched, until).evictable_at)
        assert watched.looked == looked


def test_of_several_nodes_whose_evictions_count_until_one_instant_the_first_is_named_that_the_model_may_use() -> None:
    cluster = three_stays()
    state = cluster.state.fork()
    state.evictions = {"n1": (7, 9), "n2": (9,), "n0": (8,)}
    ends = "takes evictions again, after as many as evictions_per_node allows"
    assert churn.what_ends(state, state.models["anywhere"], 9) == f"node n1 {ends}"
    assert churn.what_ends(state, state.models["last"], 9) == f"node n2 {ends}"
    assert churn.what_ends(state, state.models["last"], 7) == "the instant from which room may be made for it has come"


def test_a_model_that_makes_room_now_for_this_one_and_now_for_that_is_in_no_cycle() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": SECOND, "evictions_per_node": 0}))
    cluster.node("n", vram=24)
    names = "abcdefghijk"
    for name in names:
        cluster.model(name, vram=20)
    # With each round the step is wider, so that nobody makes room for the same model twice.
    visits = [names[n * step % len(names)] for step in range(1, 6) for n in range(len(names))]
    for n, model in enumerate(visits):
        serve(cluster, f"r{n}", model)
        cluster.wait(2)
    assert cluster.count("ThrashingDetected") == 0
    assert set(stays(cluster)) == {1}
    assert max(model.churn.cycles for model in cluster.state.models.values() if model.churn is not None) <= 1
    check_replay(cluster)


def test_room_for_a_model_that_it_lately_made_none_for_ends_the_row_and_a_few_that_take_turns_are_still_a_cycle() -> (
    None
):
    cluster = alternating(8)
    assert cluster.state.models["night"].churn.cycles == 3
    cluster.model("visitor", vram=20)
    serve_at_last(cluster, "v", "visitor")
    churn = cluster.state.models["night"].churn
    assert (churn.cycles, churn.evicted, churn.others) == (0, False, ("day", "visitor"))
    for n, model in enumerate(("night", "day", "visitor") * 5):
        serve_at_last(cluster, f"again{n}", model)
    assert cluster.state.models["night"].churn.cycles >= 3
    check_invariants(cluster)
    check_replay(cluster)


def test_two_copies_that_make_room_for_one_load_are_one_step() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.node("n", vram=24, slots=2)
    cluster.model("pair", vram=10, min_replicas=2)
    cluster.settle()
    assert len(cluster.state.by_model["pair"]) == 2
    cluster.model("other", vram=10, priority=1, selector={"node.name": "n"})
    cluster.model("large", vram=20, priority=2)
    cluster.send(cmd.SetScheduling(model="pair", scheduling=Scheduling()))
    cluster.request("o", "other")
    cluster.settle()
    cluster.release("o")
    assert cluster.state.models["pair"].churn.others == ("other",)
    cluster.send(cmd.RequestUnload(model="other"))
    cluster.settle()
    cluster.send(cmd.SetScheduling(model="pair", scheduling=Scheduling(min_replicas=2)))
    cluster.settle()
    cluster.send(cmd.SetScheduling(model="pair", scheduling=Scheduling()))
    cluster.request("l", "large")
    victims = [event for event in cluster.events if getattr(event, "beneficiary_model", "") == "large"]
    assert [(event.churn.evicted, event.churn.others) for event in victims] == [(False, ("other", "large"))] * 2
    check_replay(cluster)


def test_the_next_eviction_is_possible_as_soon_as_one_of_those_that_count_does_no_more() -> None:
    state = State()
    state.settings = replace(state.settings, evictions_per_node=2)
    assert churn.evictable_from(state, [10, 20], 1) == 10
    assert churn.evictable_from(state, [10, 20], 2) == 20
    assert churn.evictable_from(state, [10, 20], 9) == 20, "more than the bound at once, when all is quiet"
    assert churn.evictable_from(state, [10], 1) == 0


def after_eviction_for(beneficiary: str, others: tuple[str, ...], now: int) -> Churn | None:
    """What is remembered of a model with two cycles since 5 that made room for these, and makes room for one more."""
    cluster = Cluster()
    cluster.node("only", vram=24)
    cluster.model("m", vram=4)
    replica = cluster.state.replicas[cluster.loaded("m")]
    state = cluster.state.fork()
    remembered = Churn(cycles=2, since=5, until=FOREVER, others=others)
    state.models["m"] = replace(state.models["m"], churn=remembered)
    return churn.churn_after_eviction(state, replica, beneficiary, now)


def test_of_the_models_that_room_was_made_for_only_the_last_few_are_remembered() -> None:
    kept = after_eviction_for("e", ("a", "b", "c", "d"), 9)
    assert kept is not None
    assert kept.others == ("b", "c", "d", "e")


def test_a_row_of_cycles_goes_on_for_the_same_few_and_begins_now_for_another() -> None:
    same, another = after_eviction_for("a", ("a", "b"), 9), after_eviction_for("c", ("a", "b"), 9)
    assert same is not None
    assert another is not None
    assert (same.cycles, same.since, same.others) == (2, 5, ("b", "a"))
    assert (another.cycles, another.since, another.others) == (0, 9, ("a", "b", "c"))
