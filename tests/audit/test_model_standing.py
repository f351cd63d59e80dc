"""What `audit why` says of a model that nothing is wrong with, and of one that is on its way."""

from __future__ import annotations

from interlock.adapters.audit.model_standing import how_it_stands
from interlock.domain import commands as cmd
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


def test_a_model_that_nobody_asked_for_yet_is_told_to_wait_for_its_first_request() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("m")
    assert told(cluster) == "m has no copy. No floor asks for one; the first request loads it."


def test_a_model_on_its_way_is_told_with_its_load_and_with_who_waits_for_it() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("m")
    cluster.request("q1", "m")
    assert told(cluster) == (
        "m serves nowhere yet; on its way: r-000001 on n (installing). 1 waits for r-000001 to load."
    )
    cluster.request("q2", "m")
    assert told(cluster).endswith("2 wait for r-000001 to load.")


def test_a_load_that_failed_is_told_in_the_workers_words_and_with_the_pause_before_the_next() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("m")
    cluster.request("q", "m")
    cluster.fail(cluster.effects[-1], "out of shared memory")
    assert told(cluster).startswith(
        "m has no copy. Its last load failed: out of shared memory; the next try is due in 1s. 1 waits because"
    )


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
