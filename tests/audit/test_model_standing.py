"""What `audit why` says of a model that nothing is wrong with, and of one that is on its way."""

from __future__ import annotations

from interlock.adapters.audit.model_standing import Standing, how_it_stands, standing_of
from interlock.adapters.audit.sentences import sentence
from interlock.domain import commands as cmd
from interlock.domain import events as ev
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
    assert " 1 waits because it failed to come up, and the next try is due later; it looks again at " in told(cluster)
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


def test_of_a_removed_model_its_last_events_tell() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("whale", vram=4000, min_replicas=1)
    cluster.send(cmd.RemoveModel(model="whale"))
    assert told(cluster, "whale") == ""
    assert standing_of(cluster.state, "whale", cluster.now) is None


def standing(cluster: Cluster, model: str) -> Standing:
    found = standing_of(cluster.state, model, cluster.now)
    assert found is not None
    return found


def test_a_parked_wish_is_told_as_it_is_now_and_not_as_it_was_when_it_was_parked() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("many", vram=4, min_replicas=2)
    cluster.settle()
    found = standing(cluster, "many")
    assert found.sentence == (
        "The wish for many is parked until one of its nodes may hold one more copy, or another node joins. many serves "
        "from r-000001 on n (idle). It has 1 of the 2 copies of its floor."
    )
    assert found.parked is not None
    assert [row.detail for row in found.parked.considered] == ["r-000001 is loaded"]


def test_a_wish_whose_nodes_take_no_work_is_not_said_to_lack_room() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.send(cmd.DrainNode(node="n"))
    cluster.model("m", min_replicas=1)
    assert standing(cluster, "m").sentence.startswith(
        "The wish for m is parked until a node that it may use takes work"
    )


def test_a_wish_for_every_candidate_of_which_one_is_too_small_is_not_said_to_lack_room() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.node("tiny", vram=2)
    cluster.model("m", vram=4, everywhere=True)
    cluster.settle()
    assert "is parked until a node joins or changes that could hold it. m serves" in standing(cluster, "m").sentence


def test_a_wish_that_is_parked_while_evictions_are_frozen_is_parked_until_they_are_thawed() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("low", vram=20, priority=-1)
    cluster.loaded("low")
    cluster.wait(60)
    cluster.send(cmd.Freeze(what="evictions"))
    cluster.model("m", vram=20, min_replicas=1)
    expected = "The wish for m is parked (frozen) until evictions are thawed or room comes free."
    assert standing(cluster, "m").sentence.startswith(expected)


def test_a_parked_roll_out_says_which_revision_is_to_come_up_which_serves_and_what_is_in_the_way() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("beside", vram=10, min_replicas=1)
    cluster.model("m", vram=10, min_replicas=1)
    cluster.settle()
    cluster.model("m", vram=22, min_replicas=1)
    [parked] = [e for e in cluster.events if isinstance(e, ev.ModelParked)]
    for why in (parked.explanation, standing(cluster, "m").parked):
        assert why is not None
        assert why.note == "Revision 2 of it is to come up; revision 1 serves on."
        assert [row.detail for row in why.considered] == [
            "needs 22GiB, 14GiB free without r-000002; beside: priority 0 against 0, and a floor takes only lower"
        ]
        assert why.cure == "Room for revision 2 on one of these nodes, one more node, or another edit of m."
    assert sentence(parked).endswith("until room comes free. Revision 2 of it is to come up; revision 1 serves on.")
    assert "m serves from r-000002 on n (idle)." in standing(cluster, "m").sentence


def test_a_parked_roll_out_that_fits_nowhere_wants_a_larger_node() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("m", vram=10, min_replicas=1)
    cluster.settle()
    cluster.model("m", vram=30, min_replicas=1)
    why = standing(cluster, "m").parked
    assert why is not None
    assert why.cure == "A larger node, a higher budget, or another edit of m."
    assert [row.detail for row in why.considered] == ["needs 30GiB, 24GiB free without r-000001"]
