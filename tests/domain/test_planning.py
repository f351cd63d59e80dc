"""Planning: what a change would do is told before anybody makes it, and nothing of the live cluster moves."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from interlock.adapters.planwords import document, rows
from interlock.domain import commands as cmd
from interlock.domain import rehearsal
from interlock.domain.entities import Budget, LoadSpec, Scheduling
from interlock.domain.explanation import FULL_SURVEY_LIMIT
from interlock.domain.own_rules import RULES, Filter
from interlock.domain.planning import (
    Change,
    NodeChange,
    Report,
    commands_of,
    missing_copies,
    patience,
    plan,
    waiting_revisions,
)
from interlock.domain.selector import parse_selector
from interlock.domain.snapshots import encode_cluster, take_snapshot
from interlock.domain.units import FOREVER, GIB, MINUTE, SECOND
from tests.domain.cluster import Cluster
from tests.domain.test_core_under_random_histories import _start, _step


def declared(name: str, vram: int = 9, backend: str = "echo", **scheduling: object) -> cmd.DeclareModel:
    selector = parse_selector(scheduling.pop("selector", {}))
    spec = LoadSpec(backend=backend, vram=vram * GIB)
    return cmd.DeclareModel(model=name, spec=spec, scheduling=Scheduling(selector=selector, **scheduling))


def planned(cluster: Cluster, *models: cmd.DeclareModel, **change: object) -> Report:
    """The plan, made twice: the engine is the same after it, byte for byte, and so is the plan."""
    before = take_snapshot(cluster.engine)
    timers = list(cluster.state.timers)
    report = plan(cluster.engine, Change(models=models, **change), cluster.now)
    assert take_snapshot(cluster.engine) == before, "a plan changed the live engine"
    assert cluster.state.timers == timers
    assert plan(cluster.engine, Change(models=models, **change), cluster.now) == report
    return report


def places(report: Report) -> list[tuple[str, str]]:
    return [(one.model, one.node) for one in report.placed]


@pytest.fixture
def pair() -> Cluster:
    """Two nodes of 24 GiB, one fast, and a model ``old`` of 20 GiB that is loaded on the fast one."""
    cluster = Cluster()
    cluster.node("orin", labels={"tier": "slow"})
    cluster.node("thor", labels={"tier": "fast"})
    cluster.model("old", vram=20, selector={"tier": "fast"})
    cluster.loaded("old")
    return cluster


# --- Models ---------------------------------------------------------------------------------------------------------


def test_a_floor_that_fits_is_placed(pair: Cluster) -> None:
    report = planned(pair, declared("new", min_replicas=1))
    assert places(report) == [("new", "orin")]
    assert (report.holds, report.left, report.unmet) == (True, (), ())
    assert [(line.kind, line.name, line.what, line.after) for line in report.changed] == [
        ("model", "new", "declared", True)
    ]


def test_a_floor_of_higher_priority_evicts_and_says_whom(pair: Cluster) -> None:
    report = planned(pair, declared("new", vram=20, min_replicas=1, priority=1, selector={"tier": "fast"}))
    assert [(one.model, one.node, one.evicts) for one in report.placed] == [("new", "thor", ("old",))]
    assert [(one.replica, one.kind, one.beneficiary, one.step) for one in report.left] == [
        ("r-000001", "evicted", "new", "now")
    ]
    assert not report.holds, "old may go nowhere else"
    pair.model("old", vram=20)
    assert planned(pair, declared("new", vram=20, min_replicas=1, priority=1, selector={"tier": "fast"})).holds


def test_a_floor_of_equal_priority_evicts_nobody_and_is_parked(pair: Cluster) -> None:
    report = planned(pair, declared("new", vram=20, min_replicas=1, selector={"tier": "fast"}))
    assert (report.holds, report.placed, report.left) == (False, (), ())
    [unmet] = report.unmet
    assert (unmet.model, unmet.missing, unmet.reason, unmet.lacks) == ("new", 1, "capacity_exhausted", "capacity")
    only_lower = "old: priority 0 against 0, and a floor takes only lower"
    assert only_lower in next(row.detail for row in unmet.nodes if row.node == "thor")


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (declared("new", vram=99), "never_fits"),
        (declared("new", selector={"tier": "none"}), "no_node_matches"),
        (declared("new", backend=""), "load_info_missing"),
    ],
)
def test_what_can_never_be_served_is_told_with_and_without_a_floor(
    pair: Cluster, model: cmd.DeclareModel, code: str
) -> None:
    report = planned(pair, model)
    [first] = report.first_requests
    assert (first.outcome, first.code, report.holds) == ("refused", code, False)
    assert first.cure
    scheduling = Scheduling(selector=model.scheduling.selector, min_replicas=2)
    report = planned(pair, cmd.DeclareModel(model="new", spec=model.spec, scheduling=scheduling))
    [unmet] = report.unmet
    assert (unmet.reason, unmet.missing, report.holds, report.first_requests) == (code, 2, False, ())


def test_without_a_floor_the_plan_says_where_a_first_request_would_go(pair: Cluster) -> None:
    fast = {"tier": "fast"}
    report = planned(
        pair, declared("a"), declared("b", vram=20, selector=fast), declared("old", vram=20, selector=fast)
    )
    assert [(one.model, one.outcome, one.node, one.evicts) for one in report.first_requests] == [
        ("a", "load", "orin", ()),
        ("b", "wait", "thor", ("old",)),  # old is fresh: its residency runs
        ("old", "warm", "thor", ()),
    ]
    pair.wait(31)
    [first] = planned(pair, declared("b", vram=20, selector={"tier": "fast"})).first_requests
    assert (first.outcome, first.evicts) == ("evict", ("old",))


def test_a_first_request_that_nobody_could_make_room_for_has_no_place(pair: Cluster) -> None:
    pair.model("old", vram=20, selector={"tier": "fast"}, pinned=True)
    report = planned(pair, declared("b", vram=20, selector={"tier": "fast"}))
    assert [(one.outcome, one.code) for one in report.first_requests] == [("refused", "capacity_exhausted")]
    assert not report.holds


def test_what_is_frozen_or_drained_is_named_as_what_stands_in_the_way(pair: Cluster) -> None:
    fast = declared("b", vram=20, selector={"tier": "fast"})
    pair.wait(31)
    pair.send(cmd.Freeze(what="evictions"))
    [first] = planned(pair, fast).first_requests
    assert (first.outcome, first.code, first.cure) == ("refused", "frozen", "`interlock thaw evictions`.")
    pair.send(cmd.Thaw(what="evictions"))
    found = planned(pair, fast, nodes=(NodeChange(node="thor", drain=True),)).first_requests
    told = {first.model: (first.outcome, first.code) for first in found}
    assert told == dict.fromkeys(("b", "old"), ("refused", "draining")), "the one there, too"


def test_an_edit_shows_what_differs_and_the_copies_that_leave(pair: Cluster) -> None:
    report = planned(pair, declared("old", vram=22, selector={"tier": "slow"}, min_replicas=1))
    assert {line.what: (line.before, line.after) for line in report.changed} == {
        "vram": (20 * GIB, 22 * GIB),
        "min_replicas": (0, 1),
        "node_selector": ({"tier": "fast"}, {"tier": "slow"}),
    }
    assert places(report) == [("old", "orin")]
    assert [one.kind for one in report.left] == ["unloaded"]


def test_a_revision_that_finds_no_room_is_parked_while_the_floor_is_kept(pair: Cluster) -> None:
    pair.model("kept", vram=10, selector={"tier": "slow"}, min_replicas=1)
    pair.model("m", vram=10, selector={"tier": "slow"}, min_replicas=1)
    pair.settle()
    for vram, reason, lacks, told in (
        (22, "capacity_exhausted", "capacity", "(orin: needs 22GiB, 14GiB free without r-000003; kept: "),
        (99, "never_fits", "node", "(orin: needs 99GiB, 14GiB free without r-000003; kept: "),
    ):
        report = planned(pair, declared("m", vram=vram, selector={"tier": "slow"}, min_replicas=1))
        [unmet] = report.unmet
        assert (unmet.missing, unmet.revision, unmet.reason, unmet.lacks) == (0, 2, reason, lacks)
        assert not report.holds
        [line] = document(report).parked
        assert line.why.startswith("revision 2 does not take the place of the one that serves: it")
        assert told in line.why
        assert line.cure
    assert planned(pair, declared("m", vram=14, selector={"tier": "slow"}, min_replicas=1)).holds, "in its place"
    pair.model("m", vram=99, selector={"tier": "slow"}, min_replicas=1)
    assert planned(pair, declared("new", vram=1)).unmet_before == ("m",)


def test_a_revision_comes_up_beside_the_one_that_serves_or_alone_where_that_leaves_at_once(pair: Cluster) -> None:
    [placed] = document(planned(pair, declared("old", vram=4, selector={"tier": "slow"}))).placed
    assert (placed.node, placed.why) == ("orin", "revision 2 comes up alone: the one before it takes no more requests")
    pair.send(cmd.SetReplicaSlots(node="thor", max_replicas_per_model=2))
    [placed] = document(planned(pair, declared("old", vram=4, selector={"tier": "fast"}))).placed
    assert (placed.node, placed.why) == ("thor", "revision 2 comes up beside the one that serves")


def test_the_same_again_changes_nothing(pair: Cluster) -> None:
    report = planned(pair, declared("old", vram=20, selector={"tier": "fast"}))
    assert report.holds
    assert (report.changed, report.placed, report.left) == ((), (), ())


def test_removing_a_model_unloads_it_and_refuses_those_who_wait(pair: Cluster) -> None:
    pair.request("q1", "old")
    pair.request("q2", "old")
    report = planned(pair, removed=("old",))
    [gone] = report.left
    assert (gone.reason, gone.in_flight, gone.step) == ("removed", 1, "requests ended")
    assert report.refused == (("old", "unknown_model", 1, False),)
    assert report.running == 1
    assert planned(pair, removed=("nobody",)).rejected[0].code == "unknown_model"


def test_a_plan_by_which_requests_are_refused_does_not_hold_and_its_summary_says_so(pair: Cluster) -> None:
    pair.request("q1", "old")
    pair.request("q2", "old")
    report = planned(pair, removed=("old",))
    assert not report.holds
    assert document(report).summary == "1 unloaded; 1 request would be refused."
    pair.send(cmd.CancelRequest(request="q2"))
    assert planned(pair, removed=("old",)).holds, "who runs may end first"


def test_a_removed_models_alias_and_name_may_be_taken_by_others_of_the_same_change(pair: Cluster) -> None:
    heir = cmd.DeclareModel(model="heir", spec=LoadSpec(backend="echo", vram=GIB), aliases=("prod", "old"))
    for change in ({}, {"removed": ("old",)}):
        spec, scheduling = pair.state.models["old"].declared_spec, pair.state.models["old"].scheduling
        pair.send(cmd.DeclareModel(model="old", spec=spec, scheduling=scheduling, aliases=("prod",)))
        report = planned(pair, heir, **change)
        assert [one.name for one in report.rejected] == ([] if change else ["heir"])
        assert ("old", "declared") in [(line.name, line.what) for line in report.changed] or not change


def test_a_model_is_not_taken_out_by_an_alias_and_the_plan_names_the_model(pair: Cluster) -> None:
    spec = pair.state.models["old"].declared_spec
    pair.send(cmd.DeclareModel(model="old", spec=spec, aliases=("prod",)))
    [bad] = planned(pair, removed=("prod",)).rejected
    assert (bad.name, bad.code, bad.message) == ("prod", "conflict", "'prod' is an alias of old, and no model.")
    assert bad.cure.startswith("Name the model to take it out: old.")


def test_a_floor_that_lacks_a_copy_is_told_of_the_nodes_that_lack_it(pair: Cluster) -> None:
    pair.model("hermit", vram=1, selector={"tier": "slow"}, anti_affinity="g", anti_affinity_hard=True, min_replicas=1)
    pair.settle()
    [line] = document(planned(pair, declared("e", vram=1, everywhere=True, anti_affinity="g"))).parked
    assert "(orin: r-000002 (hermit) of group g is there; hermit: priority 0" in line.why
    assert "thor" not in line.why, "it has its copy there"
    assert [row.filter for row in line.considered] == ["anti_affinity", "copy"]
    drain = NodeChange(node="orin", drain=True)
    line, _ = document(planned(pair, declared("e", vram=1, min_replicas=2), nodes=(drain,))).parked
    assert "(orin: is draining; thor: r-000003 is loaded)" in line.why
    RULES.add("not_orin", Filter(lambda _, node: node.name != "orin"))
    try:
        wish = declared("e", min_replicas=2, placement="own")
        [line] = document(planned(pair, wish, settings={"placement_profiles": "own: only not_orin"})).parked
    finally:
        RULES.remove("not_orin")
    assert "orin: does not pass the filter not_orin" in line.why
    assert "thor: needs 9GiB, 4GiB free" in line.why


# --- Nodes ----------------------------------------------------------------------------------------------------------


def test_a_new_node_takes_what_was_parked(pair: Cluster) -> None:
    pair.model("big", vram=40, min_replicas=1)
    assert pair.state.models["big"].parked
    report = planned(pair, nodes=(NodeChange(node="h100", pools=(80 * GIB,)),))
    assert places(report) == [("big", "h100")]
    assert [(line.kind, line.name, line.what) for line in report.changed] == [("node", "h100", "known")]
    assert report.holds


def test_main_memory_of_a_known_node_counts_and_a_new_one_may_have_nothing_else(pair: Cluster) -> None:
    for name in ("thor", "orin"):
        pair.send(cmd.ReportCapacity(node=name, ram=16 * GIB))
    pair.model("deep", vram=1, ram=20, min_replicas=1)
    assert pair.state.models["deep"].parked is not None
    for change in (NodeChange(node="thor", ram=32 * GIB), NodeChange(node="cpu", ram=32 * GIB)):
        assert places(planned(pair, nodes=(change,))) == [("deep", change.node)]


def test_a_name_that_no_node_has_is_rejected_and_not_taken_for_a_new_one(pair: Cluster) -> None:
    report = planned(pair, nodes=(NodeChange(node="tohr", drain=True),))
    assert [(one.name, one.code) for one in report.rejected] == [("tohr", "not_found")]
    assert not report.holds


def test_a_drain_moves_floors_and_lets_running_requests_end(pair: Cluster) -> None:
    pair.model("old", vram=20, min_replicas=1)
    pair.request("q1", "old")
    report = planned(pair, nodes=(NodeChange(node="thor", drain=True),))
    assert places(report) == [("old", "orin")]
    [gone] = report.left
    assert (gone.kind, gone.reason, gone.step, gone.in_flight) == ("unloaded", "drain", "requests ended", 1)


def test_a_drain_that_leaves_a_model_without_a_node_does_not_hold(pair: Cluster) -> None:
    pair.model("old", vram=20, selector={"tier": "fast"}, min_replicas=1)
    report = planned(pair, nodes=(NodeChange(node="thor", drain=True),))
    assert [(one.model, one.missing) for one in report.unmet] == [("old", 1)]
    assert not report.holds


def test_a_drain_of_all_nodes_that_a_model_without_a_floor_may_use_does_not_hold(pair: Cluster) -> None:
    thor = NodeChange(node="thor", drain=True)
    report = planned(pair, nodes=(thor,))
    assert [(one.model, one.outcome, one.code) for one in report.first_requests] == [("old", "refused", "draining")]
    assert not report.holds
    wider = planned(pair, declared("old", vram=20), nodes=(thor,))
    assert wider.holds, "orin takes it"
    pair.send(cmd.SetNodeLabels(node="orin", labels={"tier": "fast"}))
    assert planned(pair, nodes=(thor,)).holds
    small = NodeChange(node="orin", pools=(8 * GIB,))
    assert not planned(pair, nodes=(thor, small)).holds, "orin may be used, and is too small"


def test_a_model_without_a_floor_that_serves_and_would_find_no_other_place_is_told(pair: Cluster) -> None:
    pair.model("held", vram=20, selector={"tier": "slow"}, pinned=True)
    pair.loaded("held")
    pair.model("old", vram=20)
    thor = NodeChange(node="thor", drain=True)
    report = planned(pair, nodes=(thor,))
    assert [(one.model, one.node) for one in report.left] == [("old", "thor")]
    [first] = report.first_requests
    assert (first.model, first.outcome, first.code) == ("old", "refused", "capacity_exhausted")
    assert "held: pinned" in next(row.detail for row in first.nodes if row.node == "orin")
    assert not report.holds
    assert document(report).summary == "1 unloaded; no place for: old."
    assert [one.outcome for one in planned(pair, declared("old", vram=20), nodes=(thor,)).first_requests] == ["refused"]
    pair.model("held", vram=20, selector={"tier": "slow"})
    assert planned(pair, nodes=(thor,)).holds, "a request would make it leave"
    pair.model("cold", vram=20)
    pair.model("held", vram=20, selector={"tier": "slow"}, pinned=True)
    assert [one.model for one in planned(pair, nodes=(thor,)).first_requests] == ["old"], "cold had no copy to lose"


def test_a_place_that_is_lost_now_is_told_also_where_idleness_would_cost_it_later(pair: Cluster) -> None:
    pair.model("held", vram=20, selector={"tier": "slow"}, pinned=True)
    pair.loaded("held")
    pair.model("old", vram=20)
    pair.send(cmd.ChangeSettings(values={"idle_unload": 10 * MINUTE}))
    pair.model("heir", vram=20, selector={"tier": "fast"}, min_replicas=1)
    report = planned(pair, nodes=(NodeChange(node="thor", drain=True),))
    assert [(one.model, one.step) for one in report.left] == [("old", "now")]
    assert [(one.model, one.code) for one in report.first_requests] == [("old", "capacity_exhausted")]


def test_a_model_that_is_asked_for_and_evicted_when_requests_end_is_not_said_to_serve(pair: Cluster) -> None:
    fast = {"tier": "fast"}
    pair.request("q1", "old")
    new = declared("new", vram=20, min_replicas=1, priority=1, selector=fast)
    report = planned(pair, declared("old", vram=20, selector=fast, parallel=2), new)
    assert [(one.model, one.kind, one.step) for one in report.left] == [("old", "evicted", "requests ended")]
    assert [(one.model, one.outcome) for one in report.first_requests] == [("old", "refused")]


def test_removing_a_node_breaks_what_runs_there(pair: Cluster) -> None:
    pair.request("q1", "old")
    report = planned(pair, nodes=(NodeChange(node="thor", remove=True),))
    [gone] = report.left
    assert (gone.kind, gone.in_flight, gone.step) == ("lost", 1, "now")
    assert [(one.model, one.code) for one in report.first_requests] == [("old", "no_node_matches")]
    assert report.refused == (("old", "no_node_matches", 1, True),)
    [line] = document(report).refused
    assert line.why == "1 running request would lose its replica, and be refused"
    assert not report.holds


def test_labels_that_leave_a_model_nowhere_to_run_are_told(pair: Cluster) -> None:
    report = planned(pair, nodes=(NodeChange(node="thor", labels={"tier": "slow"}),))
    assert [(one.model, one.outcome, one.code) for one in report.first_requests] == [
        ("old", "refused", "no_node_matches")
    ]
    assert [one.reason for one in report.left] == ["selector"]
    assert ("label tier", "fast", "slow") in {(line.what, line.before, line.after) for line in report.changed}


def test_budgets_slots_disk_and_memory_of_a_known_node_count(pair: Cluster) -> None:
    wish = declared("new", vram=12, min_replicas=2, selector={"tier": "slow"})
    assert [one.missing for one in planned(pair, wish).unmet] == [1]
    roomy = NodeChange(node="orin", slots=2)
    assert planned(pair, wish, nodes=(roomy,)).holds
    tight = NodeChange(node="orin", slots=2, budget=Budget(percent=50))
    assert [one.missing for one in planned(pair, wish, nodes=(tight,)).unmet] == [1]
    smaller = NodeChange(node="orin", slots=2, pools=(8 * GIB, 8 * GIB))
    assert [one.reason for one in planned(pair, wish, nodes=(smaller,)).unmet] == ["never_fits"]
    full = NodeChange(node="orin", disk=0)
    heavy = cmd.DeclareModel(model="new", spec=LoadSpec(backend="echo", vram=GIB, disk=GIB))
    assert planned(pair, heavy).holds
    assert not planned(pair, heavy, nodes=(full, NodeChange(node="thor", disk=0))).holds


def test_a_pending_node_that_is_approved_takes_part(pair: Cluster) -> None:
    pair.send(cmd.RegisterNode(node="new", boot="b", pools=(80 * GIB,)))
    wish = declared("big", vram=40, min_replicas=1)
    assert not planned(pair, wish).holds
    report = planned(pair, wish, nodes=(NodeChange(node="new", approve=True),))
    assert (places(report), report.holds) == ([("big", "new")], True)


# --- Settings and time ----------------------------------------------------------------------------------------------


def test_what_only_time_brings_is_told_with_its_time(pair: Cluster) -> None:
    report = planned(pair, settings={"idle_unload": 10 * MINUTE})
    [gone] = report.left
    assert (gone.replica, gone.reason, gone.step, gone.after) == ("r-000001", "idle", "later", 10 * MINUTE)
    assert report.holds
    assert [(line.name, line.before, line.after) for line in report.changed] == [("idle_unload", FOREVER, 10 * MINUTE)]


def test_what_happens_anyway_is_no_consequence_of_the_change(pair: Cluster) -> None:
    pair.send(cmd.ChangeSettings(values={"idle_unload": 10 * MINUTE}))
    pair.model("parked", vram=99, min_replicas=1)
    pair.model("coming", min_replicas=1)
    report = planned(pair, declared("new", vram=1, min_replicas=1))
    assert places(report) == [("new", "orin")]
    assert (report.left, report.unmet_before, report.under_way, report.holds) == ((), ("parked",), 1, True)
    sooner = planned(pair, settings={"idle_unload": MINUTE})
    assert [(one.model, one.after) for one in sooner.left] == [("old", MINUTE)]


def test_a_lower_floor_shrinks_after_its_delay_and_a_lower_ceiling_at_once() -> None:
    cluster = Cluster()
    for name in "abc":
        cluster.node(name)
    cluster.model("m", min_replicas=3)
    cluster.settle()
    later = planned(cluster, declared("m", min_replicas=1))
    assert [(one.reason, one.step, one.after) for one in later.left] == [("scale-down", "later", 5 * MINUTE)] * 2
    at_once = planned(cluster, declared("m", min_replicas=1, max_replicas=1))
    assert [(one.reason, one.step) for one in at_once.left] == [("ceiling", "now")] * 2


def test_a_frozen_reconciler_keeps_no_floor_and_is_named(pair: Cluster) -> None:
    pair.send(cmd.Freeze(what="reconciler"))
    [unmet] = planned(pair, declared("new", min_replicas=1)).unmet
    assert (unmet.reason, unmet.lacks, unmet.cure) == ("frozen", "thaw", "`interlock thaw reconciler`.")


def test_a_drain_takes_away_at_its_deadline_also_what_a_frozen_reconciler_keeps(pair: Cluster) -> None:
    pair.send(cmd.Freeze(what="reconciler"))
    pair.model("old", vram=20)
    for minutes in (10, 2000):
        report = planned(pair, nodes=(NodeChange(node="thor", drain=True, within=minutes * MINUTE),))
        [gone] = report.left
        assert (gone.replica, gone.reason, gone.step, gone.after) == ("r-000001", "drain", "later", minutes * MINUTE)
        assert report.holds
    without = planned(pair, nodes=(NodeChange(node="thor", drain=True),))
    assert (without.left, [one.replica for one in without.held], without.holds) == ((), ["r-000001"], False)


def test_what_a_frozen_reconciler_holds_back_is_told(pair: Cluster) -> None:
    pair.send(cmd.Freeze(what="reconciler"))
    fast = {"tier": "fast"}
    removed = planned(pair, removed=("old",))
    assert ([(one.replica, one.reason) for one in removed.held], removed.holds) == ([("r-000001", "removed")], False)
    told = document(removed)
    assert told.summary == "No replica would come or go; 1 copy stays as long as the reconciler is frozen."
    assert told.held[0].why == "r-000001 would go (its model was removed), and stays: `interlock thaw reconciler`."
    assert next(rows(told))[:4] == ("HOLD", "old", "thor", "when thawed")
    edited = planned(pair, declared("old", vram=10, selector=fast))
    [unmet] = edited.unmet
    assert (unmet.revision, unmet.reason, unmet.lacks, unmet.cure) == (
        2,
        "frozen",
        "thaw",
        "`interlock thaw reconciler`.",
    )
    assert (edited.held, edited.holds) == ((), False), "said once"
    [unmet] = planned(pair, declared("new", vram=99, min_replicas=1)).unmet
    assert (unmet.reason, unmet.lacks) == ("never_fits", "thaw")
    assert unmet.cure.startswith("`interlock thaw reconciler`. Add a larger node")
    assert planned(pair, declared("old", vram=20, selector=fast)).holds, "nothing is held back where nothing changes"


def test_a_floor_whose_nodes_all_take_no_work_is_not_said_to_lack_room_and_its_cure_opens_them(pair: Cluster) -> None:
    floor = declared("m", min_replicas=1)
    drain = {name: NodeChange(node=name, drain=True) for name in ("orin", "thor")}

    def told(**change: object) -> tuple[str, str, str, str]:
        [line] = document(planned(pair, floor, **change)).parked
        return line.reason, line.lacks, line.why.removeprefix("1 copy missing: "), line.cure

    capacity = ("capacity_exhausted", "capacity")
    assert told(nodes=tuple(drain.values())) == (
        *capacity,
        "the nodes that it may use are being drained (orin: is draining; thor: is draining)",
        "`interlock nodes resume orin` (or thor), or another node that m may use.",
    )
    pair.send(cmd.ReportSilence(node="orin"))
    assert told(nodes=(drain["thor"],)) == (
        *capacity,
        "the nodes that it may use are being drained or down (orin: is unreachable; thor: is draining)",
        "`interlock nodes resume thor`, contact with orin, or another node that m may use.",
    )
    pair.send(cmd.ReportSilence(node="thor"))
    assert told() == (
        *capacity,
        "the nodes that it may use are down (orin: is unreachable; thor: is unreachable)",
        "Contact with orin or thor, or another node that m may use.",
    )
    pair.node("small", vram=9)
    pair.model("there", vram=9, min_replicas=1, priority=1)
    pair.settle()
    assert told()[2].startswith("its candidates have no room, and nothing there may be evicted for it (")


def test_of_a_cluster_too_large_to_list_it_is_told_too_that_all_nodes_are_drained_or_down() -> None:
    cluster = Cluster()
    for number in range(FULL_SURVEY_LIMIT + 1):
        cluster.node(f"n{number}")
        cluster.send(cmd.DrainNode(node=f"n{number}"))
    [line] = document(planned(cluster, declared("m", min_replicas=1))).parked
    assert line.why == "1 copy missing: the nodes that it may use are being drained or down"
    assert line.cure.startswith("`interlock nodes resume n0` (or n1, ")


def test_a_first_request_for_nodes_that_are_down_is_not_said_to_find_no_room(pair: Cluster) -> None:
    pair.send(cmd.ReportSilence(node="orin"))
    [first] = document(planned(pair, declared("m", selector={"tier": "slow"}))).on_demand
    assert first.code == "capacity_exhausted"
    assert first.why == "a request would be refused: the nodes that it may use are down (orin: is unreachable)"


def test_workers_that_cannot_be_reached_answer_nothing(pair: Cluster) -> None:
    pair.model("new", min_replicas=1)  # its load begins on orin, which falls silent
    pair.send(cmd.ReportSilence(node="orin"))
    report = planned(pair, declared("other", selector={"tier": "slow"}))
    assert report.silent == ("orin",)
    assert [(one.outcome, one.code) for one in report.first_requests] == [("refused", "capacity_exhausted")]


def test_a_load_under_way_goes_on_where_its_worker_can_be_reached(pair: Cluster) -> None:
    pair.model("new", min_replicas=1)
    run = rehearsal.Rehearsal(pair.engine.fork(), pair.now)
    run.settle()
    assert [type(noted.event).__name__ for noted in run.noted][-1] == "ReplicaLoaded"
    pair.send(cmd.ReportSilence(node="orin"))
    run = rehearsal.Rehearsal(pair.engine.fork(), pair.now)
    run.settle()
    assert run.noted == []


def test_a_load_that_is_tried_again_anyway_is_no_consequence_of_the_change(pair: Cluster) -> None:
    pair.model("shaky", min_replicas=1)
    pair.fail(pair.effects[0])
    assert pair.state.models["shaky"].parked
    assert places(planned(pair, declared("new", vram=1, min_replicas=1))) == [("new", "orin")]
    sooner = planned(pair, declared("shaky", vram=8, min_replicas=1))
    assert [(one.model, one.node, one.step) for one in sooner.placed] == [("shaky", "orin", "now")]
    assert sooner.shaky == (("shaky", 1, "out of memory"),)


def test_a_plan_that_is_too_long_says_how_far_it_came(pair: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "LONGEST", 4)
    report = planned(pair, *(declared(f"m{n}", vram=1, min_replicas=1) for n in range(8)))
    assert report.cut_after == 0
    assert len(report.placed) < 8
    assert not report.holds


# --- Against what then happens --------------------------------------------------------------------------------------


def _random_change(rng: random.Random) -> Change:
    models = []
    for name in rng.sample(("m1", "m2", "m3", "m5"), rng.choice((0, 1, 2))):
        low = rng.choice((0, 0, 1, 2))
        selector = rng.choice(({}, {"tier": "x"}, {"!tier": "y"}))
        models.append(
            declared(
                name, vram=rng.choice((5, 9, 12)), min_replicas=low, priority=rng.choice((0, 1)), selector=selector
            )
        )
    nodes = rng.choice(
        (
            (),
            (NodeChange(node="a", drain=True),),
            (NodeChange(node="b", labels={"tier": "x"}, slots=2),),
            (NodeChange(node="c", remove=True),),
            (NodeChange(node="d", pools=(30 * GIB,), labels={"tier": "x"}),),
            (NodeChange(node="a", budget=Budget(50)), NodeChange(node="b", drain=False)),
        )
    )
    settings = rng.choice(({}, {}, {"scale_down_delay": 2 * MINUTE}, {"min_residency": 0}))
    removed = ("m4",) if rng.random() < 0.2 else ()
    return Change(models=tuple(models), nodes=nodes, settings=settings, removed=removed)


@pytest.mark.parametrize("seed", range(60))
def test_planning_leaves_any_live_engine_as_it_is(seed: int) -> None:
    rng = random.Random(f"plan-{seed}")
    cluster = _start(rng)
    for n in range(60):
        _step(cluster, rng, n)
        if n % 6 == 5:
            before, log = encode_cluster(cluster.state), list(cluster.log)
            position, versions = cluster.engine.ledger.position, dict(cluster.engine.ledger.versions)
            timers = list(cluster.state.timers)
            plan(cluster.engine, _random_change(rng), cluster.now)
            assert encode_cluster(cluster.state) == before
            assert (cluster.engine.ledger.position, cluster.engine.ledger.versions) == (position, versions)
            assert (cluster.state.timers, cluster.log) == (timers, log)


def _obey(cluster: Cluster) -> None:
    """Workers do all that they are asked; unloading is quicker than loading."""
    while cluster.effects:
        cluster.answer(next((one for one in cluster.effects if one.name == "model.unload"), cluster.effects[0]))


def _where(cluster: Cluster) -> Counter[tuple[str, str]]:
    return Counter((replica.model, replica.node) for replica in cluster.state.replicas.values())


@pytest.mark.parametrize("seed", range(120))
def test_what_is_planned_is_what_happens_when_workers_do_as_they_are_asked(seed: int) -> None:
    rng = random.Random(f"do-{seed}")
    cluster = _start(rng)
    for n in range(40):
        _step(cluster, rng, n)
    for request in list(cluster.state.requests):
        cluster.send(cmd.CancelRequest(request=request))
    cluster.settle()
    change = _random_change(rng)
    report = plan(cluster.engine, change, cluster.now)
    if any(one.evicts for one in report.placed if one.step == "later"):
        return  # a copy that comes now may go later: what is told is the end, and this looks at the present
    before = _where(cluster)
    for command in commands_of(change, cluster.state):
        cluster.send(command)
    _obey(cluster)
    told = before.copy()
    told.update((one.model, one.node) for one in report.placed if one.step != "later")
    told.subtract((one.model, one.node) for one in report.left if one.step != "later")
    assert +told == _where(cluster)
    end = cluster.now + patience(cluster.state, cluster.now)
    while (due := cluster.engine.next_wakeup()) is not None and due <= end:
        cluster.wait((due - cluster.now) / SECOND)
        _obey(cluster)
    told_of, missing = (
        {one.model for one in report.unmet} | set(report.unmet_before),
        set(missing_copies(cluster.state)),
    )
    if report.silent:  # whose workers do as they are asked here, and cannot in a plan
        assert missing <= told_of
    else:
        assert told_of == missing | set(waiting_revisions(cluster.state))
