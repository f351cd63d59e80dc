"""Route: where a request goes, and why."""

from __future__ import annotations

from interlock.domain import commands as cmd
from interlock.domain.commands import Locked, Rejected, Waiting
from interlock.domain.engine import Engine
from interlock.domain.entities import LoadSpec, Scheduling
from interlock.domain.events import ReplicaEvicted, ReplicaLocked, ReplicaReserved, RequestQueued, RequestRefused
from interlock.domain.selector import parse_selector
from interlock.domain.snapshots import restore, take_snapshot
from interlock.domain.units import GIB
from tests.domain.cluster import Cluster, check_invariants, check_replay


def two_boards() -> Cluster:
    """The cluster of the incident: a slow orin and a fast thor."""
    cluster = Cluster()
    cluster.node("agx-orin-slow", vram=64, labels={"tier": "slow"})
    cluster.node("nvidia-thor", vram=128, labels={"tier": "fast"})
    return cluster


def last(cluster: Cluster, kind: type):
    return next(event for event in reversed(cluster.events) if isinstance(event, kind))


def verdicts(event) -> dict[str, tuple[str, str]]:
    return {row.node: (row.outcome, row.filter) for row in event.explanation.considered}


# --- the incident ---------------------------------------------------------------------------------------------------


def incident(parallel: int) -> Cluster:
    """The model is loaded on both; thor's replica is busy; the selector then matches thor only."""
    cluster = two_boards()
    cluster.model("qwen3-8b", parallel=1, min_replicas=2)
    cluster.settle()
    scheduling = Scheduling(selector=parse_selector({"tier": "fast"}), parallel=parallel)
    thor = next(r for r in cluster.state.replicas.values() if r.node == "nvidia-thor")
    assert cluster.request("held-1", "qwen3-8b").node
    assert cluster.request("held-2", "qwen3-8b").node
    idle = next(r for r in cluster.state.requests.values() if r.replica != thor.id)
    cluster.release(idle.id)
    cluster.send(cmd.SetScheduling(model="qwen3-8b", scheduling=scheduling))
    cluster.effects.clear()
    cluster.forget()
    return cluster


def test_the_incident_is_served_by_thor_at_the_first_try_when_its_replica_has_room() -> None:
    cluster = incident(parallel=2)
    reply = cluster.request("r1", "qwen3-8b")
    assert isinstance(reply, Locked)
    assert reply.node == "nvidia-thor"
    assert cluster.names() == ["ReplicaLocked"]


def test_the_incident_waits_for_thor_when_its_replica_is_full_and_is_served_by_its_release() -> None:
    cluster = incident(parallel=1)
    assert cluster.request("r1", "qwen3-8b") == Waiting(request="r1", kind="busy")
    assert verdicts(last(cluster, RequestQueued)) == {
        "agx-orin-slow": ("rejected", "selector"),
        "nvidia-thor": ("rejected", "parallel"),
    }
    assert cluster.names() == ["RequestQueued"], "no eviction, no install, and never a lock on orin"
    holder = next(r.id for r in cluster.state.requests.values() if r.status == "locked")
    cluster.release(holder)
    assert cluster.answers["r1"].node == "nvidia-thor"


# --- step 1: model and candidates -----------------------------------------------------------------------------------


def test_an_unknown_model_is_refused_and_the_cure_is_named() -> None:
    cluster = two_boards()
    reply = cluster.request("r1", "nobody")
    assert isinstance(reply, Rejected)
    assert reply.code == "unknown_model"
    assert "models apply" in reply.cure


def test_an_alias_routes_to_its_model() -> None:
    cluster = two_boards()
    cluster.send(cmd.DeclareModel(model="qwen3-8b", spec=LoadSpec(backend="echo"), aliases=("gpt-4",)))
    cluster.loaded("qwen3-8b")
    assert cluster.request("r1", "gpt-4").model == "qwen3-8b"


def test_no_approved_node_matching_is_refused_at_once() -> None:
    cluster = two_boards()
    cluster.model("m", selector={"tier": "huge"})
    reply = cluster.request("r1", "m")
    assert reply.code == "no_node_matches"
    assert {row.filter for row in last(cluster, RequestRefused).explanation.considered} == {"selector"}


def test_a_node_that_waits_for_approval_is_no_candidate_and_the_explanation_says_so() -> None:
    cluster = Cluster()
    cluster.send(cmd.RegisterNode(node="new", pools=(24 * GIB,), boot="b"))
    cluster.model("m")
    assert cluster.request("r1", "m").code == "no_node_matches"
    assert verdicts(last(cluster, RequestRefused)) == {"new": ("rejected", "approval")}


def test_when_all_matching_nodes_are_down_the_request_waits_and_the_recovery_wakes_it() -> None:
    cluster = two_boards()
    cluster.model("m", selector={"tier": "fast"})
    cluster.send(cmd.ReportSilence(node="nvidia-thor"))
    assert cluster.request("r1", "m").kind == "nodes_down"
    cluster.send(cmd.ReportHeard(node="nvidia-thor", boot="boot-1"))
    cluster.settle()
    assert cluster.answers["r1"].node == "nvidia-thor"


# --- step 2: warm ---------------------------------------------------------------------------------------------------


def test_the_lock_goes_to_the_replica_with_the_fewest_locks() -> None:
    cluster = two_boards()
    cluster.model("m", parallel=0, min_replicas=2)
    cluster.settle()
    nodes = [cluster.request(f"r{n}", "m").node for n in range(4)]
    assert sorted(nodes) == ["agx-orin-slow"] * 2 + ["nvidia-thor"] * 2


def test_among_equals_the_least_recently_used_serves_and_before_any_use_the_roomiest() -> None:
    cluster = Cluster()
    cluster.node("small", vram=24)
    cluster.model("m", min_replicas=2)
    cluster.settle()
    cluster.node("roomy", vram=80)
    cluster.settle()
    (oldest, _) = sorted(cluster.state.replicas.values(), key=lambda replica: replica.serial)
    assert oldest.node == "small", "so that age would choose the other one"
    assert cluster.request("r1", "m").node == "roomy", "never used, both: the one with more free memory"
    cluster.release("r1")
    cluster.wait(1)
    assert cluster.request("r2", "m").node == "small"


def test_the_explanation_of_a_lock_names_every_node_with_its_filter_or_score() -> None:
    cluster = two_boards()
    cluster.node("third", vram=24)
    cluster.model("m", selector={"tier": ["slow", "fast"]})
    cluster.loaded("m")
    cluster.request("r1", "m")
    event = last(cluster, ReplicaLocked)
    assert verdicts(event) == {
        "agx-orin-slow": ("rejected", "replica"),
        "nvidia-thor": ("chosen", ""),
        "third": ("rejected", "selector"),
    }
    assert next(row.score for row in event.explanation.considered if row.outcome == "chosen") == 0.0


def test_a_warm_model_does_not_wait_behind_a_cold_one() -> None:
    cluster = two_boards()
    cluster.model("warm", parallel=0)
    cluster.loaded("warm")
    cluster.model("cold", vram=120)
    cluster.request("w0", "warm")
    cluster.request("c1", "cold")
    assert isinstance(cluster.request("w1", "warm"), Locked)


def test_requests_of_one_model_are_served_first_in_first_out_but_for_their_priority() -> None:
    cluster = two_boards()
    cluster.model("m")
    cluster.loaded("m")
    cluster.request("r0", "m")
    for name, priority in (("r1", 0), ("r2", 0), ("urgent", 5)):
        cluster.request(name, "m", priority=priority)
    served = []
    for _ in range(3):
        holder = next(r.id for r in cluster.state.requests.values() if r.status == "locked")
        cluster.release(holder)
        served.append(next(r.id for r in cluster.state.requests.values() if r.status == "locked"))
    assert served == ["urgent", "r1", "r2"]


# --- steps 3 and 4: join and place ----------------------------------------------------------------------------------


def test_two_hundred_requests_for_a_cold_model_cause_one_install_and_one_load() -> None:
    cluster = two_boards()
    cluster.model("m", parallel=0)
    for n in range(200):
        assert isinstance(cluster.request(f"r{n}", "m"), Waiting)
    cluster.settle()
    assert cluster.count("BackendInstallRequested") == cluster.count("LoadStarted") == 1
    assert sum(isinstance(reply, Locked) for reply in cluster.answers.values()) == 200


def test_loaded_and_its_waiters_locks_are_one_decision() -> None:
    cluster = two_boards()
    cluster.model("m", parallel=2)
    for n in range(3):
        cluster.request(f"r{n}", "m")
    cluster.answer(cluster.effects[0])
    outcome = cluster.answer(cluster.effects[0])
    kinds = [type(event).__name__ for event in outcome.events]
    assert kinds[:3] == ["ReplicaLoaded", "ReplicaLocked", "ReplicaLocked"]
    assert len({record.command_id for record in outcome.recorded}) == 1


def test_a_model_that_does_not_scale_gets_no_second_copy_however_many_wait() -> None:
    cluster = two_boards()
    cluster.model("m")
    for n in range(5):
        cluster.request(f"r{n}", "m")
    cluster.settle()
    assert cluster.count("ReplicaReserved") == 1


def test_a_model_that_scales_grows_one_load_at_a_time_up_to_its_ceiling_and_never_evicts_for_it() -> None:
    cluster = two_boards()
    cluster.node("c", vram=24)
    cluster.node("d", vram=24)
    cluster.model("m", max_replicas=3)
    cluster.loaded("m")
    for n in range(9):
        cluster.request(f"r{n}", "m")
        assert len(cluster.state.loading.get("m", ())) <= 1
    cluster.settle()
    for n in range(9, 12):
        cluster.request(f"r{n}", "m")
        cluster.settle()
    assert len(cluster.state.by_model["m"]) == 3
    assert cluster.count("ReplicaEvicted") == 0


def test_memory_counts_per_pool_so_that_two_gpus_are_not_one() -> None:
    cluster = Cluster()
    cluster.send(cmd.RegisterNode(node="pair", pools=(24 * GIB, 24 * GIB), approve=True, boot="b"))
    cluster.model("wide", vram=40)
    assert cluster.request("r1", "wide").code == "never_fits"
    cluster.model("a", vram=20)
    cluster.model("b", vram=20)
    cluster.request("r2", "a")
    cluster.request("r3", "b")
    claims = [replica.claim for replica in cluster.state.replicas.values()]
    assert claims == [((0, 20 * GIB),), ((1, 20 * GIB),)]


def test_disk_is_reserved_for_staging_and_an_unknown_disk_is_not_a_full_one() -> None:
    cluster = Cluster()
    cluster.node("small", vram=100, disk=10 * GIB)
    cluster.node("unknown", vram=50)
    cluster.model("a", disk=8, selector={"node.name": "small"})
    cluster.model("b", disk=8)
    cluster.request("r1", "a")
    cluster.request("r2", "b")
    assert [replica.node for replica in cluster.state.replicas.values()] == ["small", "unknown"]


# --- step 5: evict --------------------------------------------------------------------------------------------------


def full_node(slots: int = 1, **second: object) -> Cluster:
    """One node that holds `old` alone, past its residency; `new` does not fit beside it."""
    cluster = Cluster()
    cluster.node("only", vram=24, slots=slots)
    cluster.model("old", vram=20)
    cluster.loaded("old")
    cluster.wait(60)
    cluster.model("new", vram=20, **second)
    cluster.forget()
    return cluster


def test_evicting_and_reserving_are_one_decision_and_the_memory_is_held_for_the_load() -> None:
    cluster = full_node()
    cluster.request("r1", "new")
    assert cluster.names() == ["ReplicaEvicted", "ReplicaReserved", "RequestQueued"]
    cluster.request("r2", "old")
    assert cluster.count("ReplicaReserved") == 1, "the victim's next request cannot take the room back"
    cluster.settle()
    assert cluster.answers["r1"].model == "new"
    check_invariants(cluster)
    check_replay(cluster)


def test_two_models_that_do_not_fit_together_alternate_with_one_eviction_per_load() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0, "evictions_per_node": 0, "thrash_cycles": 0}))
    cluster.node("only", vram=24)
    cluster.model("a", vram=20)
    cluster.model("b", vram=20)
    for n in range(20):
        cluster.request(f"r{n}", "ab"[n % 2])
        cluster.settle()
        cluster.wait(1)
        for locked in [r.id for r in cluster.state.requests.values() if r.status == "locked"]:
            cluster.release(locked)
        cluster.settle()
    for _ in range(20):
        for locked in [r.id for r in cluster.state.requests.values() if r.status == "locked"]:
            cluster.release(locked)
        cluster.settle()
    assert not cluster.state.requests
    assert cluster.count("ReplicaLocked") == 20
    assert cluster.count("ReplicaEvicted") <= cluster.count("ReplicaLoaded")


def test_a_busy_replica_is_no_victim_and_its_release_wakes_the_one_that_waits() -> None:
    cluster = full_node()
    cluster.request("r0", "old")
    assert cluster.request("r1", "new").kind == "capacity"
    assert "old: 1 request in flight" in last(cluster, RequestQueued).explanation.considered[0].detail
    cluster.release("r0")
    assert cluster.count("RequestWoken") == cluster.count("ReplicaEvicted") == 1


def test_a_fresh_replica_is_safe_for_min_residency_and_the_wait_names_the_instant() -> None:
    cluster = Cluster()
    cluster.node("only", vram=24)
    cluster.model("old", vram=20)
    cluster.loaded("old")
    cluster.model("new", vram=20)
    cluster.request("r1", "new")
    assert cluster.state.requests["r1"].wait.until == cluster.now + 30_000_000
    cluster.wait(29)
    assert cluster.count("ReplicaEvicted") == 0
    cluster.wait(2)
    assert cluster.count("ReplicaEvicted") == 1


def test_a_higher_priority_need_not_wait_for_residency_and_a_lower_one_never_evicts() -> None:
    cluster = Cluster()
    cluster.node("only", vram=24)
    cluster.model("old", vram=20, priority=1)
    cluster.loaded("old")
    cluster.model("low", vram=20)
    cluster.model("high", vram=20, priority=2)
    cluster.request("r1", "low")
    cluster.wait(100)
    assert cluster.count("ReplicaEvicted") == 0
    cluster.request("r2", "high")
    assert last(cluster, ReplicaEvicted).beneficiary_model == "high"


def test_pinned_models_and_floors_are_not_evicted() -> None:
    for protection in ({"pinned": True}, {"min_replicas": 1}):
        cluster = Cluster()
        cluster.node("only", vram=24)
        cluster.model("old", vram=20, **protection)
        cluster.settle()
        if not cluster.state.replicas:
            cluster.loaded("old")
        cluster.wait(60)
        cluster.model("new", vram=20)
        assert cluster.request("r1", "new").kind == "capacity"
        assert cluster.count("ReplicaEvicted") == 0


def test_nothing_is_evicted_outside_the_candidates() -> None:
    cluster = two_boards()
    cluster.model("on-orin", vram=60, selector={"tier": "slow"})
    cluster.model("on-thor", vram=120, selector={"tier": "fast"})
    cluster.loaded("on-orin")
    cluster.loaded("on-thor")
    cluster.wait(60)
    cluster.request("busy", "on-thor")
    cluster.model("new", vram=20, selector={"tier": "fast"})
    assert cluster.request("r1", "new").kind == "capacity"
    assert cluster.count("ReplicaEvicted") == 0


def test_the_smallest_set_of_victims_goes_cheapest_then_least_recently_used() -> None:
    cluster = Cluster()
    cluster.node("only", vram=40)
    for name, vram in (("big", 16), ("small-1", 8), ("small-2", 8), ("small-3", 8)):
        cluster.model(name, vram=vram)
        cluster.loaded(name)
    cluster.wait(60)
    for name in ("small-1", "small-3"):
        cluster.request(f"use-{name}", name)
        cluster.release(f"use-{name}")
        cluster.wait(1)
    cluster.model("new", vram=8)
    cluster.request("r1", "new")
    assert last(cluster, ReplicaEvicted).model == "small-2", "one of the cheap ones, and never used"
    cluster.model("wide", vram=16)
    cluster.request("r2", "wide")
    assert last(cluster, ReplicaEvicted).model == "big", "one victim rather than two"


def test_frozen_evictions_make_requests_wait_and_a_thaw_wakes_them() -> None:
    cluster = full_node()
    cluster.send(cmd.Freeze(what="evictions"))
    assert cluster.request("r1", "new").kind == "frozen"
    cluster.send(cmd.Thaw(what="evictions"))
    cluster.settle()
    assert cluster.answers["r1"].model == "new"


def test_the_explanation_of_an_eviction_says_for_whom_and_what_kept_the_others() -> None:
    cluster = full_node()
    cluster.request("r1", "new")
    event = last(cluster, ReplicaEvicted)
    assert event.beneficiary == last(cluster, ReplicaReserved).replica
    assert "evicts old" in event.explanation.considered[0].detail


def test_of_many_on_a_node_those_that_leave_are_told_of_first_and_the_rest_is_counted() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.node("only", vram=100)
    for number in range(10):
        cluster.model(f"p{number}", vram=1, pinned=True)
        cluster.loaded(f"p{number}")
    cluster.model("victim", vram=80)
    cluster.loaded("victim")
    cluster.model("new", vram=80)
    cluster.request("r", "new")
    words = last(cluster, ReplicaEvicted).explanation.considered[0].detail.split("; ")
    assert words[1].startswith("evicts victim (r-000011): ")
    assert words[2] == "keeps p0 (r-000001): pinned"
    assert words[-1] == "and 3 more"
    assert len(words) == 10


def test_a_copy_that_each_node_is_to_have_is_kept_in_these_words() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.node("only", vram=24)
    cluster.model("everywhere", vram=4, everywhere=True)
    cluster.settle()
    cluster.model("old", vram=18)
    cluster.loaded("old")
    cluster.model("new", vram=18)
    cluster.request("r", "new")
    detail = last(cluster, ReplicaEvicted).explanation.considered[0].detail
    assert "keeps everywhere (r-000001): its node is to have one" in detail


def test_a_cut_survey_lists_a_node_with_several_copies_once_and_counts_nodes() -> None:
    cluster = Cluster()
    cluster.node("both", vram=80, slots=2)
    cluster.node("one", vram=24)
    for number in range(18):
        cluster.node(f"small-{number:02d}", vram=4)
    cluster.model("m", max_replicas=3)
    for _ in range(3):
        cluster.loaded("m")
    assert sorted(key[4] for key in cluster.state.warm["m"].order) == ["both", "both", "one"]
    for number in range(4):
        cluster.request(f"r{number}", "m")
        event = last(cluster, ReplicaLocked if number < 3 else RequestQueued)
        rows = event.explanation.considered
        assert sorted(row.node for row in rows) == (["both", "one"] if number in (0, 3) else [row.node for row in rows])
        assert len({row.node for row in rows}) == len(rows)
        assert event.explanation.rejected == {"replica": 18}


# --- steps 6 and 7: wait and refuse ---------------------------------------------------------------------------------


def test_a_model_larger_than_every_node_is_refused_at_once() -> None:
    cluster = two_boards()
    cluster.model("huge", vram=400)
    assert cluster.request("r1", "huge").code == "never_fits"


def test_a_full_queue_refuses_with_a_retry_after() -> None:
    cluster = full_node()
    cluster.send(cmd.ChangeSettings(values={"queue_limit": 1}))
    cluster.request("r0", "old")
    cluster.request("r1", "new")
    reply = cluster.request("r2", "new")
    assert reply.code == "queue_full"
    assert reply.retry_after > 0


def test_a_wait_past_its_deadline_is_refused_by_what_it_waited_for() -> None:
    cluster = full_node()
    cluster.request("r0", "old")
    cluster.request("r1", "new", deadline=cluster.now + 5_000_000)
    cluster.wait(6)
    assert cluster.answers["r1"].code == "capacity_exhausted"
    assert cluster.answers["r1"].retry_after > 0
    cluster.release("r0")
    cluster.request("r2", "new", deadline=cluster.now + 5_000_000)
    cluster.wait(6)
    assert cluster.answers["r2"].code == "loading"


def test_the_deadline_bounds_the_wait_and_never_the_service() -> None:
    cluster = two_boards()
    cluster.model("m")
    cluster.loaded("m")
    cluster.request("r1", "m", deadline=cluster.now + 1_000_000)
    cluster.wait(3600)
    assert cluster.state.requests["r1"].status == "locked"


def test_a_model_without_load_info_is_refused_and_loads_once_it_is_told() -> None:
    cluster = two_boards()
    cluster.model("m", backend="")
    assert cluster.request("r1", "m").code == "load_info_missing"
    assert cluster.count("BackendInstallRequested") == 0
    cluster.send(cmd.StoreLoadInfo(model="m", spec=LoadSpec(backend="echo")))
    cluster.request("r2", "m")
    cluster.settle()
    assert isinstance(cluster.answers["r2"], Locked)


def test_large_clusters_get_counts_the_best_and_the_nearest_instead_of_every_node() -> None:
    cluster = Cluster()
    for n in range(40):
        cluster.node(f"n{n:02d}", labels={"tier": "fast" if n < 30 else "slow"})
    cluster.model("m", selector={"tier": "fast"})
    cluster.loaded("m")
    cluster.request("r1", "m")
    why = last(cluster, ReplicaLocked).explanation
    assert why.rejected == {"selector": 10, "replica": 29}
    assert len(why.considered) <= 11
    assert why.considered[0].outcome == "chosen"


def test_a_replica_names_its_node_and_model_by_their_own_strings_however_the_state_came_to_be() -> None:
    cluster = two_boards()
    cluster.model("qwen3-8b")
    cluster.loaded("qwen3-8b")
    cluster.node("nvidia-thor", vram=128, labels={"tier": "fast"})  # its worker registers once more
    replayed = Engine().replay(cluster.log)
    for state in (replayed.state, restore(take_snapshot(replayed)).state):
        (replica,) = state.replicas.values()
        assert replica.node is next(name for name in state.nodes if name == replica.node)
        assert replica.model is next(name for name in state.models if name == replica.model)
