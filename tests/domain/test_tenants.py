"""Tenants: how much one API key may have at once and send, and that nothing is kept of those who are quiet."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.adapters.audit.sentences import sentence
from interlock.domain import commands as cmd
from interlock.domain.commands import Locked, Rejected, Waiting
from interlock.domain.entities import TenantLimits
from interlock.domain.errors import InterlockError
from interlock.domain.events import RequestRefused, TenantLimitsSet
from interlock.domain.tenants import parse_limits
from interlock.domain.units import FOREVER, MINUTE, SECOND, format_rate, parse_rate
from tests.domain.cluster import Cluster, check_invariants, check_replay


def serving(parallel: int = 0, **values: int) -> Cluster:
    """A loaded model that serves any number at once, under these settings."""
    cluster = Cluster()
    cluster.node("n1", vram=24)
    cluster.model("m", vram=20, parallel=parallel)
    cluster.loaded("m")
    cluster.send(cmd.ChangeSettings(values=values))
    return cluster


def limit(cluster: Cluster, tenant: str, **limits: int) -> None:
    cluster.send(cmd.SetTenantLimits(tenant=tenant, limits=TenantLimits(**limits)))


def is_over(reply: object) -> bool:
    return isinstance(reply, Rejected) and reply.code == "rate_limited"


# --- at once --------------------------------------------------------------------------------------------------------


def test_a_tenant_has_at_most_so_many_requests_waiting_or_running_and_others_are_not_touched() -> None:
    cluster = serving(parallel=2, tenant_limit=3)
    replies = [cluster.request(f"noisy-{number}", "m", tenant="noisy") for number in range(5)]
    assert [type(reply) for reply in replies] == [Locked, Locked, Waiting, Rejected, Rejected]
    assert is_over(replies[3])
    assert "its limit is 3" in replies[3].message
    assert replies[3].retry_after == SECOND
    assert isinstance(cluster.request("quiet-1", "m", tenant="quiet"), Waiting)
    assert isinstance(cluster.request("nobody-1", "m"), Waiting)
    check_invariants(cluster)
    check_replay(cluster)


def test_every_way_in_which_a_request_ends_gives_its_place_back() -> None:
    cluster = serving(parallel=1, tenant_limit=1, request_deadline=10 * SECOND)
    cluster.request("served", "m", tenant="t")
    cluster.release("served")
    cluster.request("in-the-way", "m")
    cluster.request("leaves", "m", tenant="t")
    assert is_over(cluster.request("one-more", "m", tenant="t"))
    cluster.send(cmd.CancelRequest(request="leaves"))
    assert isinstance(cluster.request("too-late", "m", tenant="t"), Waiting)
    cluster.wait(11)
    assert isinstance(cluster.request("of-a-lost-gateway", "m", tenant="t", holder="dying"), Waiting)
    cluster.send(cmd.LoseHolder(holder="dying"))
    cluster.release("in-the-way")
    assert isinstance(cluster.request("backend-goes", "m", tenant="t"), Locked)
    held = cluster.state.requests["backend-goes"].replica
    cluster.send(cmd.ReportReplicaDied(replica=held, reason="killed"))
    assert is_over(cluster.request("while-it-is-adrift", "m", tenant="t"))
    check_invariants(cluster)
    cluster.release("backend-goes")
    assert cluster.state.live_of_tenant == {}
    check_invariants(cluster)
    check_replay(cluster)


def test_a_request_that_is_routed_again_is_counted_once_and_not_limited_again() -> None:
    cluster = serving(parallel=1, tenant_limit=1, tenant_rate=MINUTE, tenant_burst=1)
    cluster.request("r", "m", tenant="t")
    replica = cluster.state.requests["r"].replica
    cluster.send(cmd.ReportBackendGone(request="r", replica=replica, detail="refused"))
    assert cluster.state.live_of_tenant == {"t": 1}
    cluster.settle()
    assert isinstance(cluster.answers["r"], Locked)
    assert cluster.state.live_of_tenant == {"t": 1}
    check_replay(cluster)


# --- in the long run ------------------------------------------------------------------------------------------------


def test_a_tenant_sends_a_burst_and_then_at_its_rate() -> None:
    cluster = serving(tenant_rate=10 * SECOND, tenant_burst=3)
    assert [is_over(cluster.request(f"r{number}", "m", tenant="t")) for number in range(4)] == [False] * 3 + [True]
    cluster.wait(9.9)
    assert is_over(cluster.request("early", "m", tenant="t"))
    cluster.wait(0.1)
    assert not is_over(cluster.request("in-time", "m", tenant="t"))
    assert is_over(cluster.request("another", "m", tenant="t"))
    cluster.wait(3600)
    assert [is_over(cluster.request(f"s{number}", "m", tenant="t")) for number in range(4)] == [False] * 3 + [True]
    check_replay(cluster)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=40), st.integers(1, 20), st.integers(1, 5), st.integers(0, 3),
)  # fmt: skip
def test_who_comes_again_when_told_is_let_in_and_a_microsecond_earlier_is_not(
    pauses: list[int], between: int, burst: int, at: int
) -> None:
    cluster = serving(tenant_rate=between * SECOND, tenant_burst=burst)
    let_in: list[int] = []
    for number, pause in enumerate(pauses):
        cluster.wait(pause + at / 4)
        reply = cluster.request(f"r{number}", "m", tenant="t")
        if not is_over(reply):
            let_in.append(cluster.now)
            continue
        cluster.now += reply.retry_after - 1
        assert is_over(cluster.request(f"early-{number}", "m", tenant="t"))
        cluster.now += 1
        assert not is_over(cluster.request(f"told-{number}", "m", tenant="t"))
        let_in.append(cluster.now)
    # In any stretch of time: a burst, and then one each time.
    for place, first in enumerate(let_in):
        for count, last in enumerate(let_in[place:], start=1):
            assert count <= burst + (last - first) // (between * SECOND)
    check_replay(cluster)


# --- limits of its own ----------------------------------------------------------------------------------------------


def test_a_tenants_own_limits_go_before_the_settings_and_the_rest_is_theirs() -> None:
    cluster = serving(tenant_limit=1, tenant_rate=MINUTE, tenant_burst=1)
    limit(cluster, "big", at_once=2, rate=0)
    assert [is_over(cluster.request(f"b{number}", "m", tenant="big")) for number in range(3)] == [False, False, True]
    limit(cluster, "big", at_once=FOREVER)
    cluster.wait(1)
    assert not is_over(cluster.request("b4", "m", tenant="big"))
    assert is_over(cluster.request("b5", "m", tenant="big"))
    limit(cluster, "big")
    assert "big" not in cluster.state.tenants
    limit(cluster, "big")
    assert cluster.count("TenantLimitsSet") == 3
    check_replay(cluster)


def test_a_limit_of_none_shuts_a_tenant_out() -> None:
    cluster = serving()
    limit(cluster, "gone", at_once=0)
    assert is_over(cluster.request("r", "m", tenant="gone"))


def test_new_limits_give_a_fresh_burst() -> None:
    cluster = serving(tenant_rate=3600 * SECOND, tenant_burst=1)
    cluster.request("r1", "m", tenant="t")
    assert is_over(cluster.request("r2", "m", tenant="t"))
    cluster.send(cmd.ChangeSettings(values={"tenant_rate": SECOND}))
    assert not is_over(cluster.request("r3", "m", tenant="t"))
    check_replay(cluster)


def test_a_tenant_cannot_raise_its_priority_above_what_it_may() -> None:
    cluster = serving(parallel=1)
    cluster.request("running", "m")
    cluster.request("pushy", "m", tenant="t", priority=100)
    assert cluster.state.requests["pushy"].priority == 0
    limit(cluster, "t", priority=2)
    cluster.request("granted", "m", tenant="t", priority=100)
    cluster.request("humble", "m", tenant="t", priority=-4)
    assert cluster.state.requests["granted"].priority == 2
    assert cluster.state.requests["humble"].priority == -4


def test_a_priority_out_of_all_bounds_is_an_error() -> None:
    cluster = serving()
    reply = cluster.request("r", "m", priority=1001)
    assert (reply.code, cluster.count("ReplicaLocked")) == ("invalid", 0)


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_a_tenant_that_was_quiet_for_long_enough_is_forgotten() -> None:
    cluster = serving(tenant_rate=SECOND, tenant_burst=5)
    for number in range(300):
        cluster.request(f"r{number}", "m", tenant=f"tenant-{number}")
        cluster.release(f"r{number}")
        cluster.wait(0.5)
        assert len(cluster.state.tenants) <= 3
        assert len(cluster.state.tenants_due) <= 3
    assert cluster.state.live_of_tenant == {}
    check_invariants(cluster)
    check_replay(cluster)


def test_without_limits_nothing_is_kept_but_a_count() -> None:
    cluster = serving()
    cluster.request("r", "m", tenant="t")
    assert cluster.state.live_of_tenant == {"t": 1}
    assert cluster.state.tenants == {}
    assert cluster.state.tenants_due == []


# --- what is written ------------------------------------------------------------------------------------------------


def test_a_refusal_says_whose_and_why_and_what_would_help() -> None:
    cluster = serving(tenant_limit=0)
    cluster.request("r", "m", tenant="research")
    refused = cluster.events[-1]
    assert isinstance(refused, RequestRefused)
    assert (refused.tenant, refused.code, refused.explanation.step) == ("research", "rate_limited", "tenant")
    assert "interlock tenants limit research" in refused.explanation.cure


def test_who_may_send_nothing_is_not_told_to_try_again_or_to_send_fewer() -> None:
    cluster = serving(tenant_limit=0)
    reply = cluster.request("r", "m", tenant="research")
    refused = cluster.events[-1]
    assert isinstance(reply, Rejected)
    assert isinstance(refused, RequestRefused)
    assert reply.retry_after == refused.retry_after == 0
    assert "may send nothing" in sentence(refused)
    assert "again" not in sentence(refused)
    assert "fewer" not in refused.explanation.cure


def test_only_a_refusal_for_the_rate_holds_for_all_that_the_tenant_sends_until_then() -> None:
    for limits, whole in ({"tenant_limit": 0}, False), ({"tenant_rate": MINUTE, "tenant_burst": 1}, True):
        cluster = serving(**limits)
        cluster.request("r1", "m", tenant="research")
        cluster.request("r2", "m", tenant="research")
        refused = cluster.events[-1]
        assert isinstance(refused, RequestRefused)
        reply = cluster.request("r3", "m", tenant="research")
        assert isinstance(reply, Rejected)
        assert refused.whole_tenant is reply.whole_tenant is whole
        assert ("without an event" in sentence(refused)) is whole


@pytest.mark.parametrize("text", ["5/s", "100/m", "1/h", "7/d", "1/1m31s", "off", "1000000/s"])
def test_a_rate_reads_back_as_it_was_written(text: str) -> None:
    assert format_rate(parse_rate(text)) == text


@given(st.integers(0, 10**13))
def test_any_rate_can_be_written(between: int) -> None:
    assert parse_rate(format_rate(between)) == between


@pytest.mark.parametrize("text", ["5", "/s", "0/s", "5/", "-1/s", "5/fortnight", "2000000/s", 5, None])
def test_what_is_no_rate_is_refused(text: object) -> None:
    with pytest.raises(InterlockError):
        parse_rate(text)


def test_limits_are_read_as_people_write_them() -> None:
    read = parse_limits({"at_once": "20", "rate": "5/s", "burst": 10, "priority": "-1"})
    assert read == TenantLimits(at_once=20, rate=200_000, burst=10, priority=-1)
    assert parse_limits({"at_once": "off", "rate": "off"}) == TenantLimits(at_once=FOREVER, rate=0)
    for wrong in ({"at_once": -1}, {"burst": 0}, {"rate": "much"}, {"color": 1}, {"priority": -1001}):
        with pytest.raises(InterlockError):
            parse_limits(wrong)


def test_limits_that_cannot_be_are_refused_by_the_core_too() -> None:
    cluster = serving()
    for limits in (TenantLimits(at_once=-1), TenantLimits(burst=0), TenantLimits(priority=5000)):
        assert cluster.send(cmd.SetTenantLimits(tenant="t", limits=limits)).reply.code == "invalid"
    assert cluster.send(cmd.SetTenantLimits(tenant="", limits=TenantLimits(at_once=1))).reply.code == "invalid"
    assert not [event for event in cluster.events if isinstance(event, TenantLimitsSet)]
