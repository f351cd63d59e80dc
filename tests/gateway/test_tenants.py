"""Tenants over HTTP: whose token it is, what each may, and that no token is ever told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from interlock.adapters.http.app import build_app, serve_http
from interlock.adapters.http.config import GatewayConfig, check_bind
from interlock.adapters.http.refrain import Refrain
from interlock.domain.codec import decode_event
from interlock.domain.commands import Envelope, Locked, Rejected, SetTenantLimits
from interlock.domain.errors import InvalidSetting
from interlock.domain.events import ReplicaLocked, RequestQueued
from interlock.domain.units import SECOND
from tests.gateway.conftest import Cluster
from tests.gateway.core import CoreScheduler
from tests.gateway.test_real_core import WORKER

TENANTS = {"research": "sk-research", "web": "sk-web"}
ADMIN = {"Authorization": "Bearer rule"}


def of(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def core() -> AsyncIterator[tuple[Cluster, CoreScheduler]]:
    """A worker, a model, and two tenants beside the one client token."""
    one, scheduler = Cluster(), CoreScheduler()
    config = GatewayConfig(
        auto_approve=True, registration_token="join", client_token="sk-any", admin_token="rule", tenants=TENANTS
    )
    one.app = build_app(scheduler, scheduler, one.backends, config, liveness=scheduler)
    one.server = await serve_http(one.app, "127.0.0.1", 0)
    one.connect()
    await one.ask("POST", "/api/node/register", json=WORKER, headers=of("join"))
    await one.ask("PUT", "/api/models/m", json={"backend": "echo", "vram": "9GiB", "parallel": 0}, headers=ADMIN)
    yield one, scheduler
    await one.stop()


Core = tuple[Cluster, CoreScheduler]


def taken_in(scheduler: CoreScheduler) -> list[Any]:
    """The events by which each request was first known, in order."""
    first: dict[str, Any] = {}
    for row in scheduler.log:
        event = decode_event(row.topic, row.state)
        if isinstance(event, RequestQueued | ReplicaLocked):
            first.setdefault(event.request, event)
    return list(first.values())


async def test_a_request_counts_as_its_tokens_tenant_and_no_token_reaches_the_log(core: Core) -> None:
    cluster, scheduler = core
    for token in ("sk-research", "sk-web", "sk-any"):
        status, _, _ = await cluster.chat(headers=of(token))
        assert status == 200
    assert [event.tenant for event in taken_in(scheduler)] == ["research", "web", "client"]
    assert b"sk-" not in msgspec.json.encode(scheduler.log)


async def test_a_tenants_token_opens_what_clients_may_and_nothing_else(core: Core) -> None:
    cluster, _ = core
    assert (await cluster.ask("GET", "/v1/models", headers=of("sk-web")))[0] == 200
    for method, path in (("GET", "/api/tenants"), ("POST", "/api/node/register"), ("GET", "/metrics")):
        status, answer, _ = await cluster.ask(method, path, headers=of("sk-web"))
        assert (status, answer["error"]["code"]) == (403, "forbidden")
        assert "sk-web" not in answer["error"]["message"]
    status, answer, _ = await cluster.ask("GET", "/v1/models", headers=of("sk-wrong"))
    assert (status, answer["error"]["code"]) == (401, "unauthorized")


async def test_a_tenant_over_its_limit_is_told_when_to_come_again_and_others_are_served(core: Core) -> None:
    cluster, _ = core
    limits = {"rate": "1/m", "burst": 2}
    status, _, _ = await cluster.ask("PUT", "/api/tenants/research/limits", json=limits, headers=ADMIN)
    assert status == 200
    for _ in range(2):
        assert (await cluster.chat(headers=of("sk-research")))[0] == 200
    status, answer, headers = await cluster.chat(headers=of("sk-research"))
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (429, "waiting", "rate_limited")
    assert 50 <= int(headers["Retry-After"]) <= 60
    assert "research" in answer["error"]["message"]
    assert (await cluster.chat(headers=of("sk-web")))[0] == 200
    _, rows, _ = await cluster.ask("GET", "/api/tenants", headers=ADMIN)
    assert [(row["name"], row["rate"], row["own_limits"]) for row in rows] == [("research", "1/m", True)]
    async with cluster.http.get("/metrics", headers=ADMIN) as page:
        assert 'interlock_requests_refused_total{reason="rate_limited"} 1' in await page.text()
    assert (await cluster.ask("DELETE", "/api/tenants/research/limits", headers=ADMIN))[0] == 200
    assert (await cluster.chat(headers=of("sk-research")))[0] == 200


async def hammer(cluster: Cluster, clients: int, knocks: int) -> list[tuple[int, Any, int]]:
    """As many clients at once, each knocking so often without a pause: status, body and Retry-After of each answer."""

    async def one() -> list[tuple[int, Any, int]]:
        told = []
        for _ in range(knocks):
            status, answer, headers = await cluster.chat(headers=of("sk-web"))
            told.append((status, answer, int(headers.get("Retry-After", 0))))
        return told

    return [answer for client in await asyncio.gather(*(one() for _ in range(clients))) for answer in client]


async def test_whoever_hammers_at_its_rate_is_told_so_each_time_and_the_log_does_not_grow(core: Core) -> None:
    cluster, scheduler = core
    await cluster.ask("PUT", "/api/tenants/web/limits", json={"rate": "1/m", "burst": 1}, headers=ADMIN)
    assert (await cluster.chat(headers=of("sk-web")))[0] == 200
    status, first, _ = await cluster.chat(headers=of("sk-web"))
    before, started = scheduler.events.count("RequestRefused"), time.monotonic()
    answers = await hammer(cluster, 8, 50)
    seconds = 1 + int(time.monotonic() - started)
    assert {status} == {answer[0] for answer in answers} == {429}
    assert all(body == first for _, body, _ in answers)
    assert all(50 <= after <= 60 for _, _, after in answers)
    grown = scheduler.events.count("RequestRefused") - before
    assert grown <= 10 * seconds  # one a second, and one in a tenth of one that asks again
    async with cluster.http.get("/metrics", headers=ADMIN) as page:
        text = await page.text()
    assert f'interlock_requests_refused_again_total{{tenant="web"}} {400 - grown}' in text
    assert 'interlock_requests_refused_total{reason="rate_limited"} 401' in text
    assert (await cluster.chat(headers=of("sk-research")))[0] == 200
    assert (await cluster.chat(headers=of("sk-any")))[0] == 200


async def test_limits_raised_elsewhere_take_hold_within_a_second_and_those_raised_here_at_once(core: Core) -> None:
    cluster, scheduler = core
    for limits in ({"rate": "1/m", "burst": 1}, {"rate": "1/m", "burst": 2}):
        await cluster.ask("PUT", "/api/tenants/web/limits", json=limits, headers=ADMIN)
        assert (await cluster.chat(headers=of("sk-web")))[0] == 200
    assert (await cluster.chat(headers=of("sk-web")))[0] == 200
    assert (await cluster.chat(headers=of("sk-web")))[0] == 429
    scheduler.handle(Envelope(command_id="elsewhere", command=SetTenantLimits(tenant="web")))
    raised = time.monotonic()
    async with asyncio.timeout(10):
        while (await cluster.chat(headers=of("sk-web")))[0] == 429:
            await asyncio.sleep(0.02)
    assert time.monotonic() - raised < 5  # a second, on a machine that has time for it; the refusal said a minute
    for _ in range(5):
        assert (await cluster.chat(headers=of("sk-web")))[0] == 200


async def test_too_many_at_once_is_asked_each_time_since_any_of_them_may_end(core: Core) -> None:
    cluster, _ = core
    await cluster.ask("PUT", "/api/tenants/web/limits", json={"at_once": 1}, headers=ADMIN)
    cluster.backends.stalls = {"r-000001:1": 0}
    running = asyncio.create_task(cluster.chat(headers=of("sk-web")))
    await cluster.backends.stalled.wait()
    assert (await cluster.chat(headers=of("sk-web")))[0] == 429
    cluster.backends.stalls.clear()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    async with asyncio.timeout(10):
        while (await cluster.chat(headers=of("sk-web")))[0] == 429:
            await asyncio.sleep(0)
    async with cluster.http.get("/metrics", headers=ADMIN) as page:
        assert "interlock_requests_refused_again_total{" not in await page.text()


def refusal(seconds: float) -> Rejected:
    return Rejected(code="rate_limited", message="too fast", retry_after=int(seconds * SECOND), whole_tenant=True)


def test_a_repeated_refusal_tells_what_is_left_and_ends_with_the_cores_instant() -> None:
    clock = [100.0]
    refrain = Refrain(lambda: clock[0])
    assert refrain.repeated("web") is None
    refrain.told("web", refusal(0.5), 100.0)
    clock[0] = 100.2
    told = refrain.repeated("web")
    assert told is not None
    assert (told.code, told.retry_after) == ("rate_limited", 300_000)
    assert refrain.repeated("research") is None
    clock[0] = 100.5
    assert refrain.repeated("web") is None


def test_after_a_second_one_request_asks_again_while_the_others_are_still_told() -> None:
    clock = [100.0]
    refrain = Refrain(lambda: clock[0])
    refrain.told("web", refusal(60), 100.0)
    clock[0] = 101.0
    assert refrain.repeated("web") is None
    told = refrain.repeated("web")
    assert told is not None
    assert told.retry_after == 59 * SECOND
    refrain.told("web", refusal(59), 101.0)
    clock[0] = 101.9
    assert refrain.repeated("web") is not None
    locked = Locked(request="q", replica="r", node="n", model="m", address="")
    refrain.told("web", locked, 99.0)
    assert refrain.repeated("web") is not None, "the answer to an older request says nothing of now"
    refrain.told("web", locked, 101.5)
    assert refrain.repeated("web") is None


def test_refusals_are_kept_for_a_bounded_number_of_tenants() -> None:
    refrain = Refrain(lambda: 0.0)
    for number in range(1_001):
        refrain.told(f"tenant-{number}", refusal(1), 0.0)
    assert refrain.repeated("tenant-0") is None
    assert refrain.repeated("tenant-1") is not None


async def test_a_client_that_leaves_gives_its_tenants_place_back(core: Core) -> None:
    cluster, scheduler = core
    await cluster.ask("PUT", "/api/tenants/web/limits", json={"at_once": 1}, headers=ADMIN)
    await cluster.chat(headers=of("sk-web"))
    cluster.backends.stalls = {"r-000001:1": 0}
    leaving = asyncio.create_task(cluster.chat(headers=of("sk-web")))
    await cluster.backends.stalled.wait()
    status, _, _ = await cluster.chat(headers=of("sk-web"))
    assert status == 429
    leaving.cancel()
    await scheduler.until_idle()
    cluster.backends.stalls.clear()
    assert (await cluster.chat(headers=of("sk-web")))[0] == 200


async def test_a_priority_is_asked_for_by_a_header_and_kept_within_what_the_tenant_may(core: Core) -> None:
    cluster, scheduler = core
    await cluster.ask("PUT", "/api/tenants/web/limits", json={"priority": 2}, headers=ADMIN)
    for given in ("7", "-3"):
        assert (await cluster.chat(headers={**of("sk-web"), "X-Interlock-Priority": given}))[0] == 200
    assert [event.priority for event in taken_in(scheduler)] == [2, -3]
    for wrong in ("high", "1001", "1.5", "", "9" * 5000, "-" + "9" * 5000, "--1"):
        status, answer, _ = await cluster.chat(headers={**of("sk-web"), "X-Interlock-Priority": wrong})
        assert (status, answer["error"]["param"]) == (400, "X-Interlock-Priority")


@pytest.mark.parametrize("body", [{"at_once": -1}, {"rate": "fast"}, {"burst": 0}, {"colour": 1}, {"priority": 5000}])
async def test_limits_that_cannot_be_are_refused_by_name(core: Core, body: dict[str, object]) -> None:
    cluster, _ = core
    status, answer, _ = await cluster.ask("PUT", "/api/tenants/web/limits", json=body, headers=ADMIN)
    assert status == 400
    assert next(iter(body)) in answer["error"]["message"]


def test_tenants_tokens_stand_in_for_the_client_token_and_must_differ() -> None:
    check_bind(GatewayConfig(registration_token="a", admin_token="b", tenants=TENANTS), "0.0.0.0")
    for wrong in (
        {"research": "same", "web": "same"}, {"research": "rule"}, {"client": "x"}, {"": "x"}, {"web": ""},
    ):  # fmt: skip
        with pytest.raises(InvalidSetting) as told:
            check_bind(GatewayConfig(admin_token="rule", tenants=wrong), "127.0.0.1")
        assert "same" not in str(told.value).replace("are the same", "")
