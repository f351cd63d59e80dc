"""A prompt goes to the replica that holds its beginning, unless that one is too busy."""

from __future__ import annotations

import itertools
import random

import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain import prefixes
from interlock.domain.prefixes import DEPTHS, HOLDERS_PER_MARK, PrefixIndex, marks_of
from interlock.domain.settings import format_setting, parse_setting

from .cluster import Cluster, check_invariants, check_replay

SYSTEM = (11, 12, 13, 14, 15, 16)
CHAT = (*SYSTEM, 17, 18)


def _three(parallel: int = 8, **scheduling: object) -> Cluster:
    """Three nodes with one replica each."""
    cluster = Cluster()
    for name in ("a", "b", "c"):
        cluster.node(name)
    cluster.model("m", parallel=parallel, max_replicas=3, **scheduling)
    for _ in range(3):
        cluster.loaded("m")
    cluster.forget()
    return cluster


def _ask(cluster: Cluster, request: str, prefix: tuple[int, ...] = ()) -> str:
    """The node that the request gets; every request comes a second after the one before."""
    cluster.wait(1)
    reply = cluster.request(request, "m", prefix=prefix)
    check_invariants(cluster)
    assert isinstance(reply, cmd.Locked), reply
    return reply.node


def _told(cluster: Cluster) -> str:
    """What the last lock says of the node that it chose."""
    lock = next(event for event in reversed(cluster.events) if isinstance(event, ev.ReplicaLocked))
    assert lock.explanation is not None
    return next(row.detail for row in lock.explanation.considered if row.outcome == "chosen")


def test_the_next_turn_of_a_conversation_goes_where_the_last_one_was() -> None:
    cluster = _three()
    first = _ask(cluster, "turn-1", SYSTEM)
    cluster.release("turn-1")
    assert _ask(cluster, "other") != first, "without a prefix, the least recently used serves"
    cluster.release("other")
    assert _ask(cluster, "turn-2", CHAT) == first
    assert _told(cluster).endswith(": holds 8 of 16 blocks of its prompt")
    check_replay(cluster)


def test_two_prompts_that_share_nothing_are_spread_by_the_plain_rule() -> None:
    cluster = _three()
    assert len({_ask(cluster, f"r{number}", (number, number + 100)) for number in range(3)}) == 3


def test_the_replica_that_holds_most_is_taken_before_one_that_holds_the_system_prompt_alone() -> None:
    cluster = _three()
    first = _ask(cluster, "one", (*SYSTEM, 21, 22))
    for number in range(4):  # the system prompt alone is worth two or three requests: another replica takes it, too
        _ask(cluster, f"busy-{number}", SYSTEM)
    second = _ask(cluster, "two", (*SYSTEM, 31, 32))
    for number in range(4):
        cluster.release(f"busy-{number}")
    assert second != first
    assert _ask(cluster, "one-again", (*SYSTEM, 21, 22)) == first
    assert _ask(cluster, "two-again", (*SYSTEM, 31, 32)) == second


def test_a_hot_prefix_spreads_when_its_holder_has_too_many_in_flight() -> None:
    cluster = _three(parallel=0)
    nodes = [_ask(cluster, f"r{number}", CHAT) for number in range(30)]
    worth = cluster.state.settings.prefix_affinity
    assert nodes[: worth + 1] == [nodes[0]] * (worth + 1)
    for number in range(1, 31):
        counts = [nodes[:number].count(node) for node in ("a", "b", "c")]
        assert max(counts) - min(counts) <= worth + 1
    assert "c" in nodes
    assert "b" in nodes
    check_replay(cluster)


def test_a_choice_against_the_holder_says_why() -> None:
    cluster = _three(parallel=0, prefix_affinity=1)
    for number in range(2):
        _ask(cluster, f"r{number}", CHAT)
    _ask(cluster, "r2", CHAT)
    assert "holds 16 of 16 blocks of its prompt, and is too busy: 2 in flight against 0" in _told(cluster)


def test_a_request_never_waits_for_the_replica_that_holds_its_prompt() -> None:
    cluster = _three(parallel=1)
    first = _ask(cluster, "r1", CHAT)
    assert _ask(cluster, "r2", CHAT) != first
    assert _ask(cluster, "r3", CHAT) != first
    assert isinstance(cluster.request("r4", "m", prefix=CHAT), cmd.Waiting)


def test_a_request_that_waited_brings_its_prompt_to_the_replica_that_it_gets() -> None:
    cluster = _three(parallel=1)
    nodes = [_ask(cluster, f"r{number}", (number,)) for number in range(3)]
    assert isinstance(cluster.request("late", "m", prefix=CHAT), cmd.Waiting)
    assert cluster.state.requests["late"].prefix == CHAT
    check_replay(cluster)
    cluster.release("r1")
    assert cluster.state.requests["late"].replica in cluster.state.by_node[nodes[1]]
    cluster.release("late")
    for number in (0, 2):
        cluster.release(f"r{number}")
    assert _ask(cluster, "next", CHAT) == nodes[1]


@pytest.mark.parametrize("how", ["dies", "is unloaded", "is lost with its node", "is evicted by hand"])
def test_a_replica_that_leaves_takes_its_prefixes_with_it(how: str) -> None:
    cluster = _three()
    node = _ask(cluster, "r1", CHAT)
    cluster.release("r1")
    (replica,) = cluster.state.by_node[node]
    if how == "dies":
        cluster.send(cmd.ReportReplicaDied(replica=replica, reason="killed"))
    elif how == "is unloaded":
        cluster.send(cmd.RequestUnload(model="m"))
    elif how == "is evicted by hand":
        cluster.send(cmd.EvictReplica(replica=replica))
    else:
        cluster.send(cmd.WorkerLeft(node=node))
    assert not cluster.state.prefixes.held
    assert not cluster.state.prefixes.holders
    check_replay(cluster)


def test_a_revision_that_serves_no_more_is_forgotten() -> None:
    cluster = _three()
    _ask(cluster, "r1", CHAT)
    cluster.model("m", parallel=8, max_replicas=3, backend="other")
    cluster.settle()
    model = cluster.state.models["m"]
    assert model.serving == model.declared
    assert not cluster.state.prefixes.held


def test_a_node_that_was_silent_for_a_moment_keeps_its_prefixes() -> None:
    cluster = _three()
    node = _ask(cluster, "r1", CHAT)
    cluster.release("r1")
    cluster.send(cmd.ReportSilence(node=node))
    assert _ask(cluster, "r2", SYSTEM) != node
    cluster.release("r2")
    cluster.send(cmd.ReportHeard(node=node, boot="boot-1"))
    assert _ask(cluster, "r3", CHAT) == node


@pytest.mark.parametrize("where", ["model", "cluster"])
def test_affinity_that_is_off_leaves_no_trace(where: str) -> None:
    cluster = _three(prefix_affinity=0) if where == "model" else _three()
    if where == "cluster":
        cluster.send(cmd.ChangeSettings(values={"prefix_affinity": parse_setting("prefix_affinity", "off")}))
    nodes = []
    for number in range(3):
        nodes.append(_ask(cluster, f"r{number}", CHAT))
        cluster.release(f"r{number}")
    assert sorted(nodes) == ["a", "b", "c"]
    assert not cluster.state.prefixes.held
    assert all(not event.prefix for event in cluster.events if isinstance(event, ev.ReplicaLocked))


def test_the_setting_is_a_number_or_off() -> None:
    assert parse_setting("prefix_affinity", "off") == parse_setting("prefix_affinity", 0) == 0
    assert parse_setting("prefix_affinity", "7") == 7
    assert (format_setting("prefix_affinity", 0), format_setting("prefix_affinity", 7)) == ("off", "7")


def test_more_marks_than_there_are_depths_are_refused() -> None:
    cluster = _three()
    reply = cluster.request("r1", "m", prefix=tuple(range(len(DEPTHS) + 1)))
    assert isinstance(reply, cmd.Rejected)
    assert (reply.code, "prefix" in reply.message) == ("invalid", True)


def test_marks_are_dense_at_first_and_few_for_the_longest_prompt() -> None:
    chain = range(1, 5001)
    assert marks_of(chain[:7]) == (1, 2, 3, 4, 6)
    assert len(marks_of(chain)) == len(DEPTHS) == 24
    assert marks_of([]) == ()
    assert all(deep <= 2 * shallow for shallow, deep in itertools.pairwise(DEPTHS))
    assert marks_of([2**40 + 5]) == (5,)


@pytest.mark.parametrize("seed", range(8))
def test_the_index_stays_bounded_and_consistent_under_a_flood(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "MARKS_PER_REPLICA", 20)
    monkeypatch.setattr(prefixes, "MARKS_IN_ALL", 300)
    monkeypatch.setattr(prefixes, "HOLDERS_PER_MARK", 3)
    rng, index = random.Random(seed), PrefixIndex()
    replicas = [(f"m{number % 3}", f"r{number}") for number in range(60)]
    for step in range(3000):
        model, replica = rng.choice(replicas)
        if rng.random() < 0.05:
            index.forget(replica)
        else:
            start = rng.choice((1, 2, rng.randrange(10**6)))
            index.note(model, replica, tuple(range(start, start + rng.randrange(1, 9))))
            assert replica in index.held
        assert index.count <= 300
        if step % 100 == 0:
            _check_index(index)
            assert index.fork().holders == index.holders
    _check_index(index)
    for _, replica in replicas:
        index.forget(replica)
    assert (index.count, len(index.held), index.holders) == (0, 0, {})


def test_of_the_holders_of_one_mark_so_many_are_remembered_and_no_more() -> None:
    index = PrefixIndex()
    for number in range(40):
        index.note("m", f"r{number:02}", (7,))
    assert index.holders["m"][7] == tuple(f"r{number:02}" for number in range(40 - HOLDERS_PER_MARK, 40))


def _check_index(index: PrefixIndex) -> None:
    """``holders`` is ``held`` the other way round, and every bound is kept."""
    turned: dict[str, dict[int, set[str]]] = {}
    for replica, (model, marks, _) in index.held.items():
        assert 0 < len(marks) <= 20
        for mark in marks:
            turned.setdefault(model, {}).setdefault(mark, set()).add(replica)
    found = {model: {mark: set(names) for mark, names in of.items()} for model, of in index.holders.items()}
    assert found == turned
    assert index.count == sum(len(marks) for _, marks, _ in index.held.values())
    for by_mark in index.holders.values():
        for holders in by_mark.values():
            assert list(holders) == sorted(holders)
            assert len(holders) <= 3
