"""The reconciler: what it keeps up as nodes, selectors and writers change, and what that costs."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.commands import Rejected
from interlock.domain.effects import InstallBackend, LoadModel
from interlock.domain.engine import Engine
from interlock.domain.entities import LoadSpec, Phase, Scheduling
from interlock.domain.loads import pending_effects
from interlock.domain.selector import parse_selector
from interlock.domain.snapshots import encode_cluster
from interlock.domain.units import GIB, SECOND
from tests.domain.cluster import Cluster, check_invariants
from tests.domain.test_core_under_random_histories import _start, _step


def nodes_of(cluster: Cluster, model: str) -> list[str]:
    replicas = (cluster.state.replicas[replica] for replica in cluster.state.by_model.get(model, ()))
    return sorted(replica.node for replica in replicas if replica.phase is Phase.LOADED)


def parked(cluster: Cluster, model: str) -> str:
    found = cluster.state.models[model].parked
    return found.lacks if found is not None else ""


# --- one on every candidate ------------------------------------------------------------------------------------------


def everywhere(*names: str) -> Cluster:
    cluster = Cluster()
    for name in names:
        cluster.node(name)
    cluster.model("m", everywhere=True)
    cluster.settle()
    return cluster


def test_all_brings_a_copy_to_a_node_that_joins() -> None:
    cluster = everywhere("a", "b")
    assert nodes_of(cluster, "m") == ["a", "b"]
    cluster.node("c")
    cluster.settle()
    assert nodes_of(cluster, "m") == ["a", "b", "c"]


def test_all_waits_for_the_approval_of_a_node() -> None:
    cluster = everywhere("a")
    cluster.send(cmd.RegisterNode(node="b", pools=(24 * GIB,), boot="b"))
    cluster.settle()
    assert nodes_of(cluster, "m") == ["a"]
    cluster.send(cmd.ApproveNode(node="b"))
    cluster.settle()
    assert nodes_of(cluster, "m") == ["a", "b"]


def test_all_leaves_a_drained_node_and_comes_back_when_it_is_resumed() -> None:
    cluster = everywhere("a", "b")
    cluster.send(cmd.DrainNode(node="b"))
    cluster.settle()
    assert (nodes_of(cluster, "m"), parked(cluster, "m")) == (["a"], "")
    cluster.send(cmd.ResumeNode(node="b"))
    cluster.settle()
    assert nodes_of(cluster, "m") == ["a", "b"]


def test_all_asks_nothing_of_the_others_when_a_node_goes_and_loads_when_it_is_back() -> None:
    cluster = everywhere("a", "b")
    cluster.forget()
    cluster.send(cmd.ReportSilence(node="b"))
    cluster.wait(601)
    assert (cluster.effects, parked(cluster, "m")) == ([], "")
    cluster.send(cmd.ReportHeard(node="b", boot="boot-1"))
    cluster.settle()
    assert nodes_of(cluster, "m") == ["a", "b"]


@pytest.mark.parametrize("way", ["removed", "offline", "drained", "relabelled", "left"])
def test_all_is_satisfied_again_once_the_node_that_had_no_room_is_gone(way: str) -> None:
    cluster = Cluster()
    cluster.node("a")
    cluster.node("tiny", vram=4, labels={"tier": "edge"})
    cluster.model("m", everywhere=True, selector={"tier": ["edge", "core"]} if way == "relabelled" else {})
    if way == "relabelled":
        cluster.send(cmd.SetNodeLabels(node="a", labels={"tier": "core"}))
    cluster.settle()
    assert (nodes_of(cluster, "m"), parked(cluster, "m")) == (["a"], "capacity")
    {
        "removed": lambda: cluster.send(cmd.RemoveNode(node="tiny")),
        "offline": lambda: (cluster.send(cmd.ReportSilence(node="tiny")), cluster.wait(601)),
        "drained": lambda: cluster.send(cmd.DrainNode(node="tiny")),
        "relabelled": lambda: cluster.send(cmd.SetNodeLabels(node="tiny", labels={"tier": ""})),
        "left": lambda: cluster.send(cmd.WorkerLeft(node="tiny")),
    }[way]()
    assert parked(cluster, "m") == "", "there is nothing that it lacks"


# --- floors ----------------------------------------------------------------------------------------------------------


def test_a_floor_above_its_ceiling_is_refused_and_both_are_named() -> None:
    cluster = Cluster()
    reply = cluster.model("m", min_replicas=3, max_replicas=2).reply
    assert "min_replicas" in reply.message
    assert "3 is above max_replicas" in reply.message


def test_a_selector_that_changes_while_a_floor_loads_keeps_it_elsewhere_and_the_old_copy_goes() -> None:
    cluster = Cluster()
    for name, tier in (("a", "slow"), ("b", "slow"), ("c", "fast"), ("d", "fast")):
        cluster.node(name, labels={"tier": tier})
    cluster.model("m", min_replicas=2, selector={"tier": "slow"})
    cluster.answer(cluster.effects[0])
    assert isinstance(cluster.effects[-1], LoadModel), "one of two is on its way"
    moved = Scheduling(selector=parse_selector({"tier": "fast"}), min_replicas=2)
    cluster.send(cmd.SetScheduling(model="m", scheduling=moved))
    cluster.settle()
    assert nodes_of(cluster, "m") == ["c", "d"]
    check_invariants(cluster)


def test_a_label_that_changes_under_a_busy_copy_moves_its_floor_and_it_serves_to_its_end() -> None:
    cluster = Cluster()
    cluster.node("a", labels={"tier": "fast"})
    cluster.model("m", min_replicas=1, selector={"tier": "fast"})
    cluster.settle()
    cluster.request("r1", "m")
    cluster.node("b", labels={"tier": "fast"})
    cluster.send(cmd.SetNodeLabels(node="a", labels={"tier": "slow"}))
    cluster.settle()
    assert nodes_of(cluster, "m") == ["a", "b"], "the old copy is busy"
    cluster.request("r2", "m")
    assert cluster.state.replicas[cluster.state.requests["r2"].replica].node == "b"
    cluster.release("r1")
    cluster.settle()
    assert nodes_of(cluster, "m") == ["b"]


def test_a_parked_floor_is_tried_again_only_for_what_it_lacks() -> None:
    cluster = Cluster()
    cluster.node("a", vram=8, labels={"tier": "fast"})
    cluster.model("m", min_replicas=1, selector={"tier": "fast"})
    assert parked(cluster, "m") == "node", "too large for every candidate"
    cluster.forget()
    cluster.node("b", labels={"tier": "slow"})
    cluster.model("other", vram=1)
    cluster.loaded("other")
    assert [event for event in cluster.events if getattr(event, "model", "") == "m"] == []
    cluster.node("c", labels={"tier": "fast"})
    cluster.settle()
    assert nodes_of(cluster, "m") == ["c"]


# --- a takeover changes nothing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_a_new_writer_finds_nothing_to_do_whatever_was_going_on(seed: int) -> None:
    """Loads in progress, back-off, parking: the state is the same, byte for byte, and so is what is asked."""
    rng = random.Random(3000 + seed)
    cluster = _start(rng)
    for n in range(120):
        _step(cluster, rng, n)
        if n % 7:
            continue
        again = Engine().replay(cluster.log)
        before, asked = encode_cluster(again.state), pending_effects(again.state)
        epoch = again.ledger.epoch + 1
        outcome = again.handle(
            cmd.Envelope(command_id="takeover", command=cmd.StartEpoch(epoch=epoch, writer="new")), cluster.now
        )
        assert [type(event) for event in outcome.events] == [ev.EpochStarted]
        assert encode_cluster(again.state) == before
        assert pending_effects(again.state) == asked


def test_a_takeover_in_the_middle_of_a_back_off_waits_for_the_same_instant() -> None:
    cluster = Cluster()
    cluster.node("a")
    cluster.model("m", min_replicas=1)
    cluster.fail(cluster.effects[0])
    until = cluster.state.models["m"].parked.until
    again = Engine().replay(cluster.log)
    again.handle(cmd.Envelope(command_id="t", command=cmd.StartEpoch(epoch=9, writer="new")), cluster.now)
    assert again.state.models["m"].parked.until == until
    assert again.next_wakeup() == cluster.engine.next_wakeup()


# --- what nobody had looked at ---------------------------------------------------------------------------------------


def test_a_left_behind_copy_goes_when_a_lost_gateway_held_its_last_lock() -> None:
    cluster = Cluster()
    cluster.node("a", labels={"tier": "fast"})
    cluster.model("m", selector={"tier": "fast"})
    replica = cluster.loaded("m")
    cluster.request("r1", "m", holder="g1")
    cluster.send(cmd.SetNodeLabels(node="a", labels={"tier": "slow"}))
    cluster.send(cmd.LoseHolder(holder="g1"))
    assert cluster.state.replicas[replica].phase is Phase.UNLOADING


def test_a_copy_above_a_lowered_ceiling_goes_with_its_last_request() -> None:
    cluster = Cluster()
    for name in ("a", "b"):
        cluster.node(name)
    cluster.model("m", min_replicas=2, max_replicas=2)
    cluster.settle()
    cluster.request("r1", "m")
    cluster.request("r2", "m")
    cluster.send(cmd.SetScheduling(model="m", scheduling=Scheduling(min_replicas=1, max_replicas=1)))
    assert len(nodes_of(cluster, "m")) == 2
    cluster.release("r2")
    assert nodes_of(cluster, "m") == ["a"]


def test_a_request_is_refused_as_soon_as_a_label_leaves_its_model_without_candidates() -> None:
    cluster = Cluster()
    cluster.node("a", labels={"tier": "fast"})
    cluster.model("old", vram=20)
    cluster.loaded("old")
    cluster.request("r1", "old")
    cluster.model("m", vram=20, selector={"tier": "fast"})
    cluster.request("r2", "m")
    cluster.send(cmd.SetNodeLabels(node="a", labels={"tier": "slow"}))
    refused = [event.code for event in cluster.events if isinstance(event, ev.RequestRefused)]
    assert refused == ["no_node_matches"]


def test_a_floor_whose_copy_leaves_loads_elsewhere_before_it_is_gone() -> None:
    cluster = Cluster()
    cluster.node("a")
    cluster.model("m", min_replicas=1)
    cluster.settle()
    cluster.node("b")
    cluster.send(cmd.RequestUnload(model="m"))
    assert {replica.node: replica.phase for replica in cluster.state.replicas.values()} == {
        "a": Phase.UNLOADING, "b": Phase.INSTALLING,
    }  # fmt: skip


def test_a_floor_that_lacked_disk_has_its_second_copy_beside_the_first_once_that_is_staged() -> None:
    cluster = Cluster()
    cluster.node("a", vram=48, slots=2, disk=10 * GIB)
    cluster.model("m", min_replicas=2, disk=8)
    assert parked(cluster, "m") == "capacity"
    cluster.settle()
    assert (nodes_of(cluster, "m"), parked(cluster, "m")) == (["a", "a"], "")


# --- what a tick costs -----------------------------------------------------------------------------------------------


class Counted(dict):
    """A map that counts the entities that are taken from it."""

    visits = 0

    def __getitem__(self, key):
        self.visits += 1
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.visits += 1
        return super().get(key, default)

    def values(self):
        self.visits += len(self)
        return super().values()

    def items(self):
        self.visits += len(self)
        return super().items()

    def __iter__(self) -> Iterator:
        self.visits += len(self)
        return super().__iter__()


def settled(nodes: int) -> Cluster:
    """So many nodes with one idle copy each, every one of a model of its own with a floor; nothing is waiting."""
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"idle_unload": 60 * SECOND}))
    for number in range(nodes):
        cluster.node(f"n{number:04}", labels={"own": str(number)})
        cluster.model(f"m{number:04}", min_replicas=1, max_replicas=2, selector={"own": str(number)})
        cluster.settle()
        cluster.now += 1  # so that one copy at a time is due
    return cluster


def visits(cluster: Cluster, act) -> int:
    state = cluster.state
    state.nodes, state.replicas, state.models = Counted(state.nodes), Counted(state.replicas), Counted(state.models)
    act()
    return state.nodes.visits + state.replicas.visits + state.models.visits


ACTS = {
    "an idle copy looked at": lambda cluster: cluster.engine.tick(cluster.engine.next_wakeup()),
    "a node's silence": lambda cluster: cluster.send(cmd.ReportSilence(node="n0007")),
    "a copy lost": lambda cluster: cluster.send(
        cmd.ReportReplicaDied(replica=next(iter(cluster.state.by_model["m0007"])), reason="killed")
    ),
    "a heartbeat that says nothing new": lambda cluster: cluster.send(cmd.ReportCapacity(node="n0007", used=(9,))),
    "another number of slots": lambda cluster: cluster.send(
        cmd.SetReplicaSlots(node="n0007", max_replicas_per_model=2)
    ),
}


@pytest.mark.parametrize("name", list(ACTS))
def test_a_change_costs_what_changed_and_not_what_exists(name: str) -> None:
    few, many = settled(40), settled(400)
    assert visits(many, lambda: ACTS[name](many)) <= visits(few, lambda: ACTS[name](few)) + 5


def test_a_declaration_that_names_no_backend_leaves_what_is_known_about_loading_it() -> None:
    cluster = Cluster()
    cluster.node("a")
    cluster.model("m", backend="")
    cluster.send(cmd.StoreLoadInfo(model="m", spec=LoadSpec(backend="echo", options={"context": 4096})))
    cluster.loaded("m")
    cluster.forget()
    cluster.model("m", backend="")
    assert cluster.names() == []
    cluster.model("m", backend="", vram=10)
    spec = cluster.state.models["m"].declared_spec
    assert (spec.backend, spec.options) == ("echo", {"context": 4096})
    assert all(effect.spec.backend for effect in cluster.effects if isinstance(effect, InstallBackend))


def test_what_parked_floors_lacked_and_got_while_the_reconciler_was_frozen_is_looked_at_after_the_thaw() -> None:
    cluster = Cluster()
    cluster.node("a")
    cluster.model("elsewhere", min_replicas=1, selector={"tier": "fast"})
    cluster.model("giant", vram=40, min_replicas=1)
    cluster.model("bare", vram=1, backend="", min_replicas=1)
    cluster.send(cmd.Freeze(what="reconciler"))
    cluster.send(cmd.SetNodeLabels(node="a", labels={"tier": "fast"}))
    cluster.model("giant", vram=8, min_replicas=1)
    cluster.send(cmd.StoreLoadInfo(model="bare", spec=LoadSpec(backend="echo")))
    assert "ReplicaReserved" not in cluster.names()
    cluster.send(cmd.Thaw(what="reconciler"))
    cluster.settle()
    assert sorted(cluster.state.warm) == ["bare", "elsewhere", "giant"]


def test_no_revision_takes_over_counting_on_evictions_that_are_frozen() -> None:
    cluster = Cluster()
    cluster.node("a")
    for name in ("m", "beside"):
        cluster.model(name, vram=10)
        cluster.loaded(name)
    cluster.send(cmd.Freeze(what="evictions"))
    cluster.model("m", vram=20)
    assert cluster.state.models["m"].serving == 1
    parked = cluster.state.models["m"].parked
    assert parked is not None
    assert parked.lacks == "capacity"
    cluster.send(cmd.Thaw(what="evictions"))
    assert cluster.state.models["m"].serving == 2


def test_an_alias_is_given_once() -> None:
    cluster = Cluster()
    spec = LoadSpec(backend="echo", vram=GIB)
    reply = cluster.send(cmd.DeclareModel(model="m", spec=spec, aliases=("x", "x"))).reply
    assert isinstance(reply, Rejected)
    assert "'x' is given twice" in reply.message


def test_an_operators_load_makes_no_copy_of_the_same_model_leave() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.node("a")
    cluster.model("m")
    cluster.loaded("m")
    cluster.forget()
    reply = cluster.send(cmd.RequestLoad(model="m")).reply
    assert isinstance(reply, Rejected)
    assert reply.code == "capacity_exhausted"
    assert cluster.names() == []


def test_an_operators_load_that_frozen_evictions_stand_in_the_way_of_is_refused_as_frozen() -> None:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.node("a")
    cluster.model("old", vram=20)
    cluster.loaded("old")
    cluster.model("new", vram=20)
    cluster.send(cmd.Freeze(what="evictions"))
    reply = cluster.send(cmd.RequestLoad(model="new")).reply
    assert isinstance(reply, Rejected)
    assert (reply.code, "frozen" in reply.message) == ("frozen", True)


def test_an_operators_load_where_no_node_takes_work_is_not_said_to_find_no_room() -> None:
    cluster = Cluster()
    cluster.node("n")
    cluster.model("m")
    for stop in ((cmd.DrainNode(node="n"),), (cmd.ResumeNode(node="n"), cmd.ReportSilence(node="n"))):
        for command in stop:
            cluster.send(command)
        reply = cluster.send(cmd.RequestLoad(model="m")).reply
        assert reply.code == "capacity_exhausted"
        assert reply.message.startswith("None of the nodes that m may use takes work now. n: ")
