"""Recent use: who has served lately makes room last, and what is not asked for any more makes room after all."""

from __future__ import annotations

import pytest

from interlock.domain import commands as cmd
from interlock.domain import recent_use
from interlock.domain.recent_use import past_uses, recent_uses
from tests.domain.cluster import Cluster, check_invariants, check_replay


def busy(**settings: object) -> Cluster:
    """One node of 24 GiB with a small model that is asked for all the time, and a large one beside it."""
    cluster = Cluster()
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0, "thrash_cycles": 0, **settings}))
    cluster.node("thor", 24)
    for name, vram in (("small", 9), ("large", 10), ("next", 10)):
        cluster.model(name, vram)
    for number in range(8):
        serve(cluster, f"s-{number}", "small")
    serve(cluster, "l-1", "large")
    return cluster


def serve(cluster: Cluster, request: str, model: str) -> None:
    """One request from its arrival to its end, with the load that it may need."""
    cluster.request(request, model)
    cluster.settle()
    cluster.release(request)


def loaded(cluster: Cluster) -> set[str]:
    """The models that are loaded."""
    return {replica.model for replica in cluster.state.replicas.values()}


def test_a_small_popular_model_stays_and_the_large_one_that_nobody_asks_for_goes() -> None:
    cluster = busy()
    serve(cluster, "n-1", "next")
    assert loaded(cluster) == {"small", "next"}
    check_invariants(cluster)
    check_replay(cluster)


def test_without_it_size_alone_decides() -> None:
    cluster = busy(recent_uses=0)
    serve(cluster, "n-1", "next")
    assert loaded(cluster) == {"large", "next"}


def test_no_more_uses_count_than_the_setting_says() -> None:
    cluster = busy(recent_uses=3)
    small = next(replica for replica in cluster.state.replicas.values() if replica.model == "small")
    assert recent_uses(cluster.state, small) == 3


def test_evictions_age_what_was_popular_until_it_goes_too() -> None:
    cluster = busy()
    for number in range(12):
        serve(cluster, f"t-{number}", ("next", "large")[number % 2])
        if "small" not in loaded(cluster):
            break
    assert loaded(cluster) == {"next", "large"}
    check_replay(cluster)


def test_an_evicted_model_leaves_its_uses_to_its_next_replica() -> None:
    cluster = busy()
    cluster.model("whole", 24)
    serve(cluster, "w-1", "whole")
    assert loaded(cluster) == {"whole"}
    left = past_uses(cluster.state, "small")
    assert left > 1
    serve(cluster, "s-again", "small")
    small = next(replica for replica in cluster.state.replicas.values() if replica.model == "small")
    assert recent_uses(cluster.state, small) >= left // 2
    check_replay(cluster)


def test_uses_are_bounded_where_they_are_counted_and_not_only_where_they_are_read() -> None:
    cluster = busy(recent_uses=2)
    assert [replica.uses for replica in cluster.state.replicas.values() if replica.model == "small"] == [2]


def test_a_turnover_takes_no_more_evictions_than_its_bound_however_many_replicas_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recent_use, "LONGEST_TURNOVER", 1)
    state = busy().state.fork()
    assert len(state.replicas) == 2
    recent_use.count_eviction(state, next(iter(state.replicas.values())))
    assert state.turnovers == 1
