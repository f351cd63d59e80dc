"""What `audit why` says of a model that nothing is wrong with, and of one that is on its way."""

from __future__ import annotations

from interlock.adapters.audit.model_standing import how_it_stands
from interlock.domain import commands as cmd
from interlock.domain.entities import Scheduling
from interlock.domain.selector import parse_selector
from tests.domain.cluster import Cluster


def told(cluster: Cluster, model: str = "m") -> str:
    return how_it_stands(cluster.state, model, cluster.now)


def test_a_model_that_serves_is_told_with_its_copies_what_they_carry_and_its_floor() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("m", min_replicas=1)
    cluster.settle()
    assert told(cluster) == "m serves from r-000001 on n (idle). Its floor of 1 is kept."
    cluster.request("q", "m")
    assert told(cluster) == "m serves from r-000001 on n (1 in flight). Its floor of 1 is kept."


def test_a_model_that_nobody_asked_for_yet_is_told_with_what_would_become_of_a_request() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("m")
    cluster.model("elsewhere", selector={"tier": "none"})
    cluster.model("whale", vram=4000)
    assert told(cluster) == "m has no copy. The first request loads it."
    assert told(cluster, "elsewhere").startswith("elsewhere has no copy. A request would be refused: No approved node")
    assert "What would help: Add a larger node" in told(cluster, "whale")


def test_a_model_on_its_way_is_told_with_its_load_and_with_who_waits_for_it() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("m", min_replicas=1)
    assert told(cluster) == (
        "m serves from no copy now. Not serving: r-000001 on n (installing). "
        "Its floor of 1 counts on what loads or is out of sight."
    )
    cluster.request("q1", "m")
    assert told(cluster).endswith(" 1 waits for r-000001 to load.")
    cluster.request("q2", "m")
    assert told(cluster).endswith(" 2 wait for r-000001 to load.")


def test_a_copy_that_serves_nobody_now_is_told_with_what_keeps_it_and_what_it_carries() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("m", min_replicas=1)
    cluster.settle()
    cluster.request("q", "m")
    cluster.send(cmd.ReportSilence(node="n"))
    assert "Not serving: r-000001 on n (loaded, the node is unreachable, 1 in flight)." in told(cluster)
    cluster.send(cmd.ReportHeard(node="n", boot="boot-1"))
    cluster.send(cmd.SetScheduling(model="m", scheduling=Scheduling(selector=parse_selector({"tier": "none"}))))
    assert "(loaded, its selector does not match the node, 1 in flight)" in told(cluster)
    cluster.send(cmd.DrainNode(node="n"))
    assert "(loaded, the node is draining, its selector" in told(cluster)


def test_a_model_for_every_candidate_without_one_is_not_said_to_have_no_floor() -> None:
    cluster = Cluster()
    cluster.model("m", everywhere=True)
    assert "It is to run on every candidate, and none takes work." in told(cluster)


def test_a_load_that_failed_is_told_in_the_workers_words_and_with_the_next_try_where_one_is_wanted() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("m")
    cluster.request("q", "m")
    cluster.fail(cluster.effects[-1], "out of shared memory.")
    assert "Its last load failed: out of shared memory; the next try is due at " in told(cluster)
    assert " 1 waits because its last load failed and the next try is due later; it looks again at " in told(cluster)
    cluster.send(cmd.CancelRequest(request="q", reason="client left"))
    assert "out of shared memory." in told(cluster)
    assert "the next try" not in told(cluster)


def test_beyond_a_few_copies_their_number_is_told() -> None:
    cluster = Cluster()
    for number in range(6):
        cluster.node(f"n{number}")
    cluster.model("m", everywhere=True)
    cluster.settle()
    assert told(cluster).startswith("m serves from r-000001 on n0 (idle), r-000002 on n1 (idle), ")
    assert " and 2 more. Its floor of 6 is kept." in told(cluster)


def test_of_a_parked_or_removed_model_its_last_events_tell() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("whale", vram=4000, min_replicas=1)
    assert cluster.state.models["whale"].parked is not None
    assert told(cluster, "whale") == ""
    cluster.send(cmd.RemoveModel(model="whale"))
    assert told(cluster, "whale") == ""
