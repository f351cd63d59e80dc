"""Placement profiles: which of several nodes with room is taken, and why it says so."""

from __future__ import annotations

import random

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain import placement
from interlock.domain.commands import Rejected
from interlock.domain.entities import Model, Scheduling
from interlock.domain.errors import InvalidField
from interlock.domain.placement import Choice, choose
from interlock.domain.profiles import BUILT_IN, parse_profiles
from interlock.domain.room import room_on
from interlock.domain.settings import format_setting, parse_setting
from interlock.domain.state import State
from interlock.domain.units import GIB, SECOND
from tests.domain.cluster import Cluster, check_invariants, check_replay


def cluster_of(placement: str = "", **nodes: int) -> Cluster:
    cluster = Cluster()
    values: dict[str, int | str] = {"min_residency": 0}
    cluster.send(cmd.ChangeSettings(values=values | ({"placement": placement} if placement else {})))
    for name, vram in nodes.items():
        cluster.node(name, vram=vram, slots=4, disk=500 * GIB)
    return cluster


def placed(cluster: Cluster, model: str, **more: object) -> ev.ReplicaReserved:
    """Declare the model if there is none, load one copy of it, and return the reservation."""
    if model not in cluster.state.models:
        cluster.model(model, **more)
    cluster.loaded(model)
    check_invariants(cluster)
    return [event for event in cluster.events if isinstance(event, ev.ReplicaReserved)][-1]


def test_pack_takes_the_smallest_hole_that_fits() -> None:
    cluster = cluster_of("pack", big=80, middle=48, small=24)
    assert [placed(cluster, name, vram=10).node for name in ("m1", "m2", "m3")] == ["small", "small", "middle"]
    check_replay(cluster)


def test_balance_fills_unequal_nodes_by_their_share() -> None:
    cluster = cluster_of("balance", big=80, small=20)
    taken = [placed(cluster, f"m{n}", vram=4).node for n in range(5)]
    assert taken == ["big", "big", "big", "big", "small"]


def test_spread_counts_copies_then_everything() -> None:
    cluster = cluster_of(a=24, b=24, c=80)
    for name in ("x", "y"):
        placed(cluster, name, vram=1)
    cluster.model("m", vram=1, placement="spread", min_replicas=3)
    cluster.settle()
    nodes = [cluster.state.replicas[replica].node for replica in cluster.state.by_model["m"]]
    assert sorted(nodes) == ["a", "b", "c"]
    assert nodes[-1] == "c", "it has the most memory, and two other replicas"


def test_locality_goes_where_the_files_are() -> None:
    cluster = cluster_of(big=80, small=24)
    cluster.model("m", vram=4, disk=8, placement="near")
    assert "m" not in cluster.state.models, "no such profile yet"
    cluster.send(cmd.ChangeSettings(values={"placement_profiles": parse_profiles("near: locality 1")}))
    cluster.send(cmd.DrainNode(node="big"))
    first = placed(cluster, "m", vram=4, disk=8, placement="near")
    cluster.send(cmd.ResumeNode(node="big"))
    cluster.send(cmd.EvictReplica(replica=first.replica))
    cluster.settle()
    second = placed(cluster, "m")
    assert (first.node, second.node, second.disk) == ("small", "small", 0)
    rows = {row.node: row for row in second.explanation.considered}
    assert rows["small"].detail == "24GiB free; locality 100×1"
    assert (rows["small"].score, rows["big"].score) == (100.0, 0.0)
    assert second.explanation.note == (
        "small was chosen for m by the profile near: its files are there already (locality), "
        "though big has more free memory."
    )
    check_replay(cluster)


def test_a_node_that_was_seen_to_load_slowly_is_not_taken_for_a_fast_start() -> None:
    cluster = cluster_of(big=80, small=24)
    cluster.model("probe", vram=8)
    cluster.send(cmd.RequestLoad(model="probe"))
    cluster.answer(cluster.effects[0])
    load = cluster.effects.pop(0)
    cluster.send(cmd.ReportLoaded(replica=load.replica, op=load.op, took=80 * SECOND))
    rate = cluster.state.nodes["big"].load_rate
    assert 0.085 * GIB < rate <= 0.1 * GIB, "8 GiB in 80 s, rounded down"
    assert placed(cluster, "m", vram=4, placement="fast-start").node == "small"
    check_replay(cluster)


def test_a_measured_rate_moves_by_a_quarter_and_survives_a_restart_of_the_worker() -> None:
    cluster = cluster_of(a=24)
    for took in (8 * SECOND, 80 * SECOND, 80 * SECOND):
        cluster.model(f"m{took}", vram=8, disk=0)
        cluster.send(cmd.RequestLoad(model=f"m{took}"))
        if not cluster.effects:
            break
        cluster.answer(cluster.effects[0])
        load = cluster.effects.pop(0)
        cluster.send(cmd.ReportLoaded(replica=load.replica, op=load.op, took=took))
    rate = cluster.state.nodes["a"].load_rate
    assert 0.5 * GIB < rate < 0.75 * GIB, "a quarter of what was missing, twice"
    cluster.node("a", vram=24, boot="boot-2")
    assert cluster.state.nodes["a"].load_rate == rate
    check_replay(cluster)


def test_what_is_avoided_stands_above_every_score() -> None:
    cluster = cluster_of("pack", big=80, small=24)
    assert placed(cluster, "m1", vram=4, anti_affinity="g").node == "small"
    reserved = placed(cluster, "m2", vram=4, anti_affinity="g")
    assert reserved.node == "big"
    assert "rather than small: a member of its group is there" in reserved.explanation.note


def test_a_models_own_profile_goes_before_the_clusters() -> None:
    cluster = cluster_of("pack", big=80, small=24)
    assert placed(cluster, "m1", placement="balance", vram=4).node == "big"
    assert placed(cluster, "m2", vram=4).node == "small"
    cluster.send(cmd.SetScheduling(model="m2", scheduling=Scheduling(placement="default", min_replicas=2)))
    cluster.settle()
    assert {cluster.state.replicas[r].node for r in cluster.state.by_model["m2"]} == {"big", "small"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"placement": "nowhere"}, "no placement profile is named 'nowhere'"),
        ({"placement_profiles": "mine: no_such_score 3"}, "no score is named 'no_such_score'"),
        ({"placement_profiles": "mine: pack 1, only no_such_filter"}, "no filter is named 'no_such_filter'"),
    ],
)
def test_a_profile_that_is_not_there_is_refused(values: dict[str, int | str], words: str) -> None:
    reply = cluster_of().send(cmd.ChangeSettings(values=values)).reply
    assert isinstance(reply, Rejected)
    assert words in reply.message


def test_a_profile_that_is_in_use_cannot_be_taken_away() -> None:
    cluster = cluster_of()
    cluster.send(cmd.ChangeSettings(values={"placement_profiles": "mine: pack 1"}))
    cluster.model("m", placement="mine")
    reply = cluster.send(cmd.ChangeSettings(values={"placement_profiles": ""})).reply
    assert isinstance(reply, Rejected)
    assert cluster.state.settings.placement_profiles == "mine: pack 1"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("b: pack 2 ; a: spread 1,locality 3", "a: locality 3, spread 1; b: pack 2"),
        ({"a": {"locality": 3, "only": ["quiet"]}}, "a: locality 3, only quiet"),
        ("", ""),
    ],
)
def test_profiles_are_kept_in_one_way(given: object, kept: str) -> None:
    assert parse_setting("placement_profiles", given) == kept
    assert parse_setting("placement_profiles", format_setting("placement_profiles", kept)) == kept


@pytest.mark.parametrize(
    "wrong",
    ["pack 1", "pack: pack 1", "a: pack", "a: pack 0", "a: pack 1001", "a: pack 1; a: pack 2", "a: pack 1, pack 2",
     "A b: pack 1", 7, {"a": 1}, {"a": {"only": "x"}}, "a:", "; ".join(f"p{n}: pack 1" for n in range(33))],
)  # fmt: skip
def test_wrong_profiles_are_refused(wrong: object) -> None:
    with pytest.raises(InvalidField, match="placement_profiles"):
        parse_profiles(wrong)


# --- bounded and exhaustive choice ----------------------------------------------------------------------------------


def _random_cluster(rng: random.Random, nodes: int) -> Cluster:
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"placement_profiles": "mix: balance 1, locality 2, pack 3, spread 1"}))
    for n in range(nodes):
        cluster.node(f"n{n:04d}", vram=rng.choice((8, 16, 24, 80)), slots=rng.choice((1, 2)), disk=60 * GIB)
    for n in range(6):
        cluster.model(f"m{n}", vram=rng.choice((3, 6, 12)), disk=rng.choice((0, 10)), **_wishes(rng))
    for _ in range(3 * nodes):
        cluster.send(cmd.RequestLoad(model=f"m{rng.randrange(6)}"))
        cluster.settle()
        if rng.random() < 0.2 and cluster.state.replicas:
            cluster.send(cmd.EvictReplica(replica=rng.choice(list(cluster.state.replicas))))
            cluster.settle()
    return cluster


def _wishes(rng: random.Random) -> dict[str, object]:
    group = rng.choice(("", "", "g"))
    hard = bool(group) and rng.random() < 0.5
    return {"placement": rng.choice((*BUILT_IN, "mix")), "anti_affinity": group, "anti_affinity_hard": hard}


def _has_room(state: State, model: Model) -> bool:
    return any(room_on(state, model, state.nodes[name]) is not None for _, name in state.candidates(model).open)


@pytest.mark.parametrize("seed", range(20))
def test_the_bounded_choice_is_the_exhaustive_one_in_a_small_cluster(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = _random_cluster(random.Random(seed), nodes=8)
    for model in cluster.state.models.values():
        monkeypatch.setattr(placement, "EXACT_NODES", 64)
        exact = choose(cluster.state, model)
        monkeypatch.setattr(placement, "EXACT_NODES", 0)
        bounded = choose(cluster.state, model)
        assert _taken(exact) == _taken(bounded)
        assert (exact is not None) == _has_room(cluster.state, model)


def _taken(choice: Choice | None) -> object:
    return choice and (choice.room, choice.standings and choice.standings[0])


@pytest.mark.parametrize("seed", range(10))
def test_a_bounded_choice_misses_no_room_in_a_larger_cluster(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "EXACT_NODES", 0)
    monkeypatch.setattr(placement, "COMPARED_AT_AN_END", 2)
    monkeypatch.setattr(placement, "COMPARED_STAGED", 1)
    cluster = _random_cluster(random.Random(seed), nodes=40)
    assert cluster.count("ReplicaReserved") > 40
    for model in cluster.state.models.values():
        choice = choose(cluster.state, model)
        assert (choice is not None) == _has_room(cluster.state, model)
        if choice is not None and choice.standings:
            least = min(placement.avoided(cluster.state, model, one.room.node) for one in choice.standings)
            assert placement.avoided(cluster.state, model, choice.room.node) == least
    check_replay(cluster)
