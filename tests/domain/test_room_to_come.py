"""Room that is on its way: nobody is evicted for a load as long as somebody leaves in any case and that is enough."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.errors import InvalidSetting
from interlock.domain.settings import parse_setting
from interlock.domain.units import SECOND
from tests.domain.cluster import Cluster, check_invariants


def two_nodes(**sizes: int) -> Cluster:
    """Two empty nodes of 24 GiB, and models of these sizes."""
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    for name in ("first", "second"):
        cluster.node(name, vram=24)
    for name, size in sizes.items():
        cluster.model(name, vram=size)
    return cluster


def one_leaves(*, patience: int = 30) -> Cluster:
    """Two nodes with room for one large model each; the one on the first is being unloaded."""
    cluster = two_nodes(old=20, kept=20, new=20)
    cluster.send(cmd.ChangeSettings(values={"unload_patience": patience * SECOND}))
    for name in ("old", "kept"):
        cluster.loaded(name)
    unload(cluster, "old")
    return cluster


def unload(cluster: Cluster, model: str) -> None:
    (replica,) = cluster.state.by_model[model]
    cluster.send(cmd.EvictReplica(replica=replica))


def evicted(cluster: Cluster) -> list[str]:
    return [event.model for event in cluster.events if isinstance(event, ev.ReplicaEvicted)]


def test_a_request_waits_for_room_that_is_on_its_way() -> None:
    cluster = one_leaves()
    cluster.request("r", "new")
    assert not evicted(cluster)
    assert cluster.state.requests["r"].wait.kind == "leaving"
    assert cluster.events[-1].explanation.cure.startswith("old (r-000001) to leave first, as it is asked to: for that")
    cluster.settle()
    assert cluster.state.requests["r"].replica
    assert not evicted(cluster)
    check_invariants(cluster)


def test_of_several_that_leave_the_oldest_is_waited_for() -> None:
    cluster = two_nodes(old=20, younger=20, new=20)
    oldest = cluster.loaded("old")
    cluster.loaded("younger")
    unload(cluster, "younger")
    unload(cluster, "old")
    cluster.request("r", "new")
    assert cluster.state.requests["r"].wait.on == oldest


def test_it_waits_no_longer_than_the_setting_says() -> None:
    cluster = one_leaves()
    cluster.request("r", "new")
    cluster.wait(29)
    assert not evicted(cluster)
    cluster.wait(2)
    assert evicted(cluster) == ["kept"]
    check_invariants(cluster)


def test_a_second_try_to_unload_is_not_waited_for_anew() -> None:
    cluster = one_leaves()
    cluster.wait(301)
    assert next(iter(cluster.state.replicas.values())).tries == 2
    cluster.request("r", "new")
    assert evicted(cluster) == ["kept"]


def test_without_patience_it_evicts_at_once() -> None:
    cluster = one_leaves(patience=0)
    cluster.request("r", "new")
    assert evicted(cluster) == ["kept"]


def test_what_leaves_a_node_that_is_no_candidate_or_too_small_is_waited_for_by_nobody() -> None:
    cluster = one_leaves()
    cluster.model("elsewhere", vram=20, selector={"node.name": "second"})
    cluster.request("r", "elsewhere")
    assert evicted(cluster) == ["kept"]


def test_a_victims_room_belongs_to_the_load_it_was_evicted_for() -> None:
    cluster = two_nodes()
    for name in ("first", "second"):
        cluster.model(f"on-{name}", vram=20, selector={"node.name": name})
        cluster.loaded(f"on-{name}")
    for name in ("one", "other"):
        cluster.model(name, vram=20)
        cluster.request(name, name)
    assert sorted(evicted(cluster)) == ["on-first", "on-second"]


def test_a_load_that_was_given_up_makes_room_for_others_when_it_is_cleaned_up() -> None:
    cluster = two_nodes(kept=20, unwanted=20, new=20)
    cluster.loaded("kept")
    cluster.send(cmd.RequestLoad(model="unwanted"))
    cluster.effects.clear()
    unload(cluster, "unwanted")
    cluster.request("r", "new")
    assert not evicted(cluster)
    cluster.settle()
    assert cluster.state.requests["r"].replica


def test_it_does_not_wait_for_room_where_its_last_load_failed() -> None:
    cluster = two_nodes(new=20, old=20, kept=20)
    cluster.send(cmd.RequestLoad(model="new"))
    cluster.fail(cluster.effects[0])
    cluster.settle()
    cluster.wait(5)
    assert cluster.state.models["new"].failed_nodes == ("first",)
    for name in ("old", "kept"):
        cluster.loaded(name)
    unload(cluster, "old")
    cluster.request("r", "new")
    assert evicted(cluster) == ["kept"]


def test_a_floor_waits_for_it_as_well() -> None:
    cluster = one_leaves()
    cluster.model("floor", vram=20, min_replicas=1, priority=1)
    assert not evicted(cluster)
    assert cluster.state.models["floor"].parked is not None
    cluster.settle()
    assert not evicted(cluster)
    assert "floor" in cluster.state.warm
    check_invariants(cluster)


def test_an_operators_load_is_now_and_does_not_wait() -> None:
    cluster = one_leaves()
    cluster.send(cmd.RequestLoad(model="new"))
    assert evicted(cluster) == ["kept"]


def test_a_request_that_has_not_the_time_for_it_evicts_at_once() -> None:
    cluster = one_leaves()
    cluster.request("r", "new", patience=20 * SECOND)
    assert evicted(cluster) == ["kept"]


def test_room_is_on_its_way_for_one_model_only() -> None:
    cluster = one_leaves()
    cluster.model("newer", vram=20)
    cluster.request("r1", "new")
    cluster.request("r2", "newer")
    assert evicted(cluster) == ["kept"], "the second does not wait for what the first is to get"
    cluster.settle()
    assert all(cluster.state.requests[name].replica for name in ("r1", "r2"))


def test_who_has_waited_for_it_waits_for_no_other_that_leaves_later() -> None:
    cluster = one_leaves()
    cluster.node("third", vram=24)
    cluster.model("idle", vram=20, selector={"node.name": "third"})
    cluster.send(cmd.RequestLoad(model="idle"))
    for effect in [effect for effect in cluster.effects if effect.node == "third"]:
        cluster.answer(effect)
    while effect := next((effect for effect in cluster.effects if effect.node == "third"), None):
        cluster.answer(effect)
    cluster.request("r", "new")
    cluster.wait(29)
    unload(cluster, "idle")
    cluster.wait(2)
    assert evicted(cluster) == ["kept"]


def test_who_loses_the_rest_of_the_room_that_it_waited_for_looks_again_at_once() -> None:
    cluster = two_nodes(half=12, kept=20, new=20, small=10)
    for name in ("half", "kept"):
        cluster.loaded(name)
    unload(cluster, "half")
    cluster.request("r", "new")
    assert cluster.state.requests["r"].wait.kind == "leaving"
    cluster.request("s", "small")
    assert evicted(cluster) == ["kept"], "half and small do not leave enough"


def test_turning_it_off_evicts_for_those_who_wait() -> None:
    cluster = one_leaves()
    cluster.request("r", "new")
    cluster.send(cmd.ChangeSettings(values={"unload_patience": 0}))
    assert evicted(cluster) == ["kept"]


@pytest.mark.parametrize("length", ["forever", "2h", "1000000d"])
def test_a_patience_without_an_end_is_refused(length: str) -> None:
    with pytest.raises(InvalidSetting, match=r"unload_patience: .* too long"):
        parse_setting("unload_patience", length)


def test_what_a_load_is_owed_there_is_its_victims_memory_and_takes_nothing_of_the_room_on_its_way() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    for name in ("first", "second"):
        cluster.node(name)
    first = {"node.name": "first"}
    cluster.model("leaves", vram=8, selector=first)
    cluster.model("victim", vram=16, selector=first)
    cluster.model("bystander", vram=24, selector={"node.name": "second"})
    for name in ("leaves", "victim", "bystander"):
        cluster.loaded(name)
    cluster.request("busy", "leaves")
    cluster.model("taker", vram=15, selector=first)
    cluster.request("q-1", "taker")
    cluster.release("busy")
    cluster.send(cmd.RequestUnload(model="leaves"))
    cluster.forget()
    cluster.model("new", vram=8)
    cluster.request("q-2", "new")
    assert cluster.state.requests["q-2"].wait.kind == "leaving"
    assert cluster.count("ReplicaEvicted") == 0
