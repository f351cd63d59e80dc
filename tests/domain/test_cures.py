"""What would help where no node has room: never room where room helps nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.explanation import Explanation
from interlock.domain.own_rules import RULES, Filter
from interlock.domain.units import GIB
from tests.domain.cluster import Cluster


def why_parked(cluster: Cluster, model: str) -> Explanation:
    parked = [e for e in cluster.events if isinstance(e, ev.ModelParked) and e.model == model]
    assert parked[-1].explanation is not None
    return parked[-1].explanation


def cure_of_wait(cluster: Cluster, model: str) -> str:
    cluster.request(f"for {model}", model)
    queued = [e for e in cluster.events if isinstance(e, ev.RequestQueued) and e.model == model]
    assert queued[-1].explanation is not None
    return queued[-1].explanation.cure


def test_where_every_candidate_is_being_drained_or_silent_these_are_to_come_back() -> None:
    cluster = Cluster()
    cluster.node("drained")
    cluster.node("silent")
    cluster.model("one", selector={"node.name": "drained"})
    cluster.model("other", selector={"node.name": "silent"})
    cluster.send(cmd.DrainNode(node="drained"))
    cluster.send(cmd.ReportSilence(node="silent"))
    assert cure_of_wait(cluster, "one") == "`interlock nodes resume drained`, or another node that one may use."
    assert cure_of_wait(cluster, "other") == "Contact with silent, or another node that other may use."
    cluster.model("late", min_replicas=1)
    cure = why_parked(cluster, "late").cure
    assert cure == "`interlock nodes resume drained`, contact with silent, or another node that late may use."
    cluster.send(cmd.DrainNode(node="silent"))
    cluster.model("later", min_replicas=1)
    assert why_parked(cluster, "later").cure.startswith(
        "`interlock nodes resume drained` (or silent), contact with silent"
    )


def test_a_worker_that_drains_its_node_to_stop_is_to_start_again() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("m")
    cluster.send(cmd.DrainNode(node="n", by_worker=True))
    assert cure_of_wait(cluster, "m") == "A new start of the worker of n, or another node that m may use."


@pytest.fixture
def rule() -> Iterator[str]:
    RULES.add("nowhere", Filter(lambda model, node: False))
    yield "nowhere"
    RULES.remove("nowhere")


def test_where_an_own_filter_refuses_every_node_the_filter_is_named(rule: str) -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.send(cmd.ChangeSettings(values={"placement_profiles": f"calm: only {rule}"}))
    cluster.model("m", placement="calm")
    assert cure_of_wait(cluster, "m") == (
        "A node that passes the filter nowhere of the placement profile calm, as by other labels on n; or another "
        "`placement` for m."
    )


def test_a_floor_above_the_slots_names_them_and_leaves_other_models_out_of_it() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("beside", vram=4)
    cluster.loaded("beside")
    cluster.model("many", vram=4, min_replicas=2)
    why = why_parked(cluster, "many")
    assert why.cure == (
        "Another node that many may use, a higher `max_replicas_per_model` on n, or a lower `min_replicas` for many."
    )
    assert [row.detail for row in why.considered] == ["r-000002 is installing"]


def test_a_copy_that_leaves_its_slot_is_what_is_waited_for() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("m")
    cluster.send(cmd.ChangeSettings(values={"unload_patience": 0}))
    replica = cluster.loaded("m")
    cluster.send(cmd.EvictReplica(replica=replica))
    assert cure_of_wait(cluster, "m") == f"{replica} to be gone from n, which it is asked to leave."


def test_one_node_that_can_never_hold_what_every_candidate_is_to_have_is_to_be_larger() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.node("tiny", vram=2)
    cluster.model("everywhere", vram=4, everywhere=True)
    why = why_parked(cluster, "everywhere")
    assert why.step == "never fits"
    assert why.cure == (
        "A larger node than tiny, a higher budget there, less `vram` for everywhere, or a node_selector that leaves "
        "tiny out."
    )


def test_a_floor_that_lacks_a_disk_and_slots_names_both() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.node("narrow", disk=5 * GIB)
    cluster.model("m", vram=4, disk=10, min_replicas=3)
    cure = "A larger disk on narrow, less `disk` for m, or a higher `max_replicas_per_model` on n."
    assert why_parked(cluster, "m").cure == cure


def test_where_only_some_of_the_nodes_could_have_room_those_are_named() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.node("tiny", vram=2)
    cluster.model("pinned", vram=20, pinned=True)
    cluster.loaded("pinned")
    cluster.model("m", vram=20)
    assert cure_of_wait(cluster, "m") == "Room on n."


def test_where_the_only_node_that_is_large_enough_is_drained_that_one_is_named() -> None:
    cluster = Cluster()
    cluster.node("large")
    cluster.node("tiny", vram=2)
    cluster.model("m", vram=20)
    cluster.send(cmd.DrainNode(node="large"))
    assert cure_of_wait(cluster, "m") == "`interlock nodes resume large`, or another node that m may use."


def test_a_model_for_any_pools_says_that_its_shares_are_equal() -> None:
    cluster = Cluster()
    cluster.node("n", pools=(16 * GIB, 8 * GIB))
    cluster.model("m", vram=20, pools=0)
    cluster.request("q", "m")
    [refused] = [e for e in cluster.events if isinstance(e, ev.RequestRefused)]
    assert refused.explanation is not None
    [row] = refused.explanation.considered
    assert row.detail == "needs 20GiB in one pool or in equal shares of several; free in its pools: 16GiB, 8GiB"
