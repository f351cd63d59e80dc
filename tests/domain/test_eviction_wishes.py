"""Which node makes room: not where the last load failed, then the fewest victims, then the cheapest, then by wish."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.eviction import EXACT_NODES
from interlock.domain.units import GIB
from tests.domain.cluster import Cluster, check_invariants, check_replay


def full(sizes: dict[str, tuple[int, ...]], vram: int = 24, **settings: int | str) -> Cluster:
    """Nodes that hold idle models of these sizes, named after their node, and little else."""
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0, "evictions_per_node": 0, **settings}))
    for node, models in sizes.items():
        cluster.node(node, vram=vram, slots=4, disk=500 * GIB)
        for number, size in enumerate(models):
            name = f"{node}-{number}"
            cluster.model(name, vram=size, selector={"node.name": node})
            cluster.loaded(name)
    return cluster


def use(cluster: Cluster, model: str, times: int) -> None:
    for n in range(times):
        cluster.request(f"{model}/{n}", model)
        cluster.release(f"{model}/{n}")


def room_made(cluster: Cluster, model: str) -> ev.ReplicaReserved:
    cluster.forget()
    cluster.request("r", model)
    check_invariants(cluster)
    reserved = next(event for event in cluster.events if isinstance(event, ev.ReplicaReserved))
    assert reserved.victims
    return reserved


def fail_once(cluster: Cluster, model: str) -> str:
    """A load of the model for which room is made fails; returns the node."""
    reserved = room_made(cluster, model)
    while not any(effect.name == "model.load" for effect in cluster.effects):
        cluster.answer(cluster.effects[0])
    cluster.fail(next(effect for effect in cluster.effects if effect.name == "model.load"))
    cluster.settle()
    return reserved.node


def test_of_two_equals_the_least_recently_used_goes_and_nothing_is_said_of_wishes() -> None:
    cluster = full({"a": (20,), "b": (20,)})
    use(cluster, "a-0", 1)
    use(cluster, "b-0", 1)
    cluster.model("m", vram=20)
    reserved = room_made(cluster, "m")
    assert (reserved.node, reserved.explanation.note) == ("a", "")


def test_room_is_made_where_the_last_load_did_not_fail_though_it_takes_more_victims_there() -> None:
    cluster = full({"a": (20,), "b": (10, 10)})
    cluster.model("m", vram=20)
    assert fail_once(cluster, "m") == "a"
    cluster.model("filler", vram=20, selector={"node.name": "a"})
    cluster.loaded("filler")
    cluster.forget()
    cluster.wait(2)
    reserved = next(event for event in cluster.events if isinstance(event, ev.ReplicaReserved))
    assert (reserved.node, len(reserved.victims)) == ("b", 2)
    assert reserved.explanation.note == "b makes room for m rather than a: it failed to come up there."
    check_invariants(cluster)
    check_replay(cluster)


def test_where_no_other_node_would_do_it_is_tried_where_it_failed() -> None:
    cluster = full({"a": (20,), "b": (20,)})
    cluster.model("m", vram=20, selector={"node.name": "a"})
    fail_once(cluster, "m")
    cluster.model("filler", vram=20, selector={"node.name": "a"})
    cluster.loaded("filler")
    cluster.forget()
    cluster.wait(2)
    reserved = next(event for event in cluster.events if isinstance(event, ev.ReplicaReserved))
    assert (reserved.node, reserved.explanation.note) == ("a", "")


def grouped(popularity: int) -> Cluster:
    """Node a has the cheapest victim, and a member of the group of ``m``; b's was used so much more often."""
    cluster = full({"a": (20,), "b": (20,)})
    cluster.model("sister", vram=2, selector={"node.name": "a"}, anti_affinity="g")
    cluster.loaded("sister")
    use(cluster, "a-0", 3)
    use(cluster, "b-0", popularity)
    use(cluster, "sister", 50)
    cluster.model("m", vram=20, anti_affinity="g")
    return cluster


def test_a_soft_group_is_kept_apart_where_that_costs_less_than_twice_as_much() -> None:
    reserved = room_made(grouped(popularity=6), "m")
    assert reserved.node == "b"
    assert reserved.explanation.note == (
        "b makes room for m by the profile default rather than a: a member of its group is there."
    )
    rows = {row.node: row.detail for row in reserved.explanation.considered}
    assert "avoided: a member of its group is there" in rows["a"]


def test_a_soft_group_is_no_reason_to_send_away_what_is_used_twice_as_much() -> None:
    assert room_made(grouped(popularity=7), "m").node == "a"


def test_a_member_that_makes_the_room_itself_is_no_reason_to_avoid_its_node() -> None:
    cluster = full({"b": (20,)})
    cluster.node("a", vram=24)
    cluster.model("sister", vram=20, selector={"node.name": "a"}, anti_affinity="g")
    cluster.loaded("sister")
    use(cluster, "b-0", 2)
    use(cluster, "sister", 1)
    cluster.model("m", vram=20, anti_affinity="g")
    assert room_made(cluster, "m").node == "a"


@pytest.mark.parametrize(
    ("placement", "node"), [("", "a"), ("pack", "a"), ("spread", "b"), ("balance", "b"), ("rest: spread 1", "b")]
)
def test_among_nodes_that_cost_about_the_same_the_profile_chooses(placement: str, node: str) -> None:
    own = placement.startswith("rest")
    cluster = full({"a": (16, 1, 1), "b": (16,)}, **({"placement_profiles": placement} if own else {}))
    for name in ("a-1", "a-2"):
        use(cluster, name, 9)
    use(cluster, "b-0", 1)
    cluster.model("m", vram=16, placement="rest" if own else placement)
    use(cluster, "a-0", 1)
    use(cluster, "b-0", 1)
    reserved = room_made(cluster, "m")
    assert reserved.node == node
    if placement == "spread":
        assert reserved.explanation.note == (
            "b makes room for m by the profile spread: the fewest replicas run there (spread)."
        )
    check_replay(cluster)


def test_the_victims_count_as_gone_when_nodes_are_scored() -> None:
    cluster = full({"a": (8, 8), "b": (8, 8)}, vram=16)
    cluster.model("m", vram=16, placement="balance")
    use(cluster, "a-0", 1)
    reserved = room_made(cluster, "m")
    assert (reserved.node, len(reserved.victims)) == ("b", 2)
    totals = {row.node: row.score for row in reserved.explanation.considered}
    assert totals == {"a": 0.0, "b": 0.0}


def test_in_a_large_cluster_too_room_is_made_elsewhere_than_where_the_load_failed() -> None:
    cluster = full({f"n{n:02}": (20,) for n in range(EXACT_NODES + 6)})
    cluster.model("m", vram=20)
    failed = fail_once(cluster, "m")
    for name in [name for name in cluster.state.models if name.startswith("n")]:
        if name != f"{failed}-0":
            use(cluster, name, 2)
    cluster.model("filler", vram=20, selector={"node.name": failed})
    cluster.loaded("filler")
    cluster.forget()
    cluster.wait(2)
    reserved = next(event for event in cluster.events if isinstance(event, ev.ReplicaReserved))
    assert reserved.node != failed
    assert (
        reserved.explanation.note
        == f"{reserved.node} makes room for m rather than {failed}: it failed to come up there."
    )
