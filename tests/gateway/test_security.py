"""Tokens, and where the gateway listens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interlock.adapters.http.app import AddressInUse, build_app, serve_http
from interlock.adapters.http.config import GatewayConfig, check_bind
from interlock.domain.errors import InvalidSetting
from tests.gateway.conftest import Cluster
from tests.gateway.fakes import FakeBackends, FakeScheduler

TOKENS: dict[str, Any] = {"registration_token": "join", "client_token": "ask", "admin_token": "rule"}
PATHS = {"ask": ("GET", "/v1/models"), "join": ("GET", "/api/node/thor/models"), "rule": ("GET", "/api/models")}


@pytest.mark.parametrize("audience", PATHS)
@pytest.mark.parametrize("token", ["ask", "join", "rule", "wrong", "", None])
async def test_each_token_opens_its_own_paths_only(bare: Cluster, audience: str, token: str | None) -> None:
    await bare.start(**TOKENS)
    bare.scheduler.node_table["thor"] = {"name": "thor"}
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    status, answer, got = await bare.ask(*PATHS[audience], headers=headers)
    if token == audience:
        assert status == 200
    elif token in PATHS:
        assert (status, answer["error"]["code"]) == (403, "forbidden")
    else:
        assert (status, answer["error"]["code"]) == (401, "unauthorized")
        assert got["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("tokens", [TOKENS, {}])
async def test_a_token_that_is_no_text_is_a_wrong_one(bare: Cluster, tokens: dict[str, Any]) -> None:
    await bare.start(**tokens)
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer \xff\r\n"
    )
    status, said = await raw(bare, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert status == (401 if tokens else 200), said


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"X-Request-Id", 400), (b"X-Interlock-Priority", 400), (b"X-Interlock-Deadline", 400), (b"Origin", 403),
        (b"Host", 403),
    ],
)  # fmt: skip
async def test_a_header_that_is_no_text_is_refused(cluster: Cluster, header: bytes, status: int) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    host = b"" if header == b"Host" else b"Host: localhost\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\n%sConnection: close\r\n%s: \xff\r\n" % (host, header)
    got, said = await raw(cluster, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert got == status, said


async def raw(cluster: Cluster, request: bytes) -> tuple[int, bytes]:
    """Status and answer of a request that is sent as it is, byte for byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.server.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer


async def test_probes_the_page_and_the_description_need_no_token(bare: Cluster) -> None:
    await bare.start(**TOKENS)
    for path in ("/livez", "/readyz", "/openapi.json"):
        status, _, _ = await bare.ask("GET", path)
        assert status == 200
    async with bare.http.get("/") as response:
        assert response.status == 200
    for path in ("/metrics", "/events", "/api/audit/verify"):
        status, _, _ = await bare.ask("GET", path)
        assert status == 401


async def test_the_official_clients_key_is_the_client_token(bare: Cluster) -> None:
    await bare.start(**TOKENS)
    assert [model.id async for model in bare.openai(api_key="ask").models.list()] == ["m"]


@pytest.mark.parametrize(
    "headers", [{"Host": "rebound.example"}, {"Origin": "https://elsewhere.example"}, {"Origin": "null"}]
)
async def test_without_tokens_a_page_of_another_site_is_kept_out(cluster: Cluster, headers: dict[str, str]) -> None:
    status, answer, _ = await cluster.ask("POST", "/api/freeze", headers=headers)
    assert (status, answer["error"]["code"]) == (403, "forbidden")
    assert cluster.scheduler.decided == []


async def test_our_own_page_is_let_in_without_tokens(cluster: Cluster) -> None:
    status, _, _ = await cluster.ask("POST", "/api/freeze", headers={"Origin": cluster.server.url})
    assert status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "gateway.example"])
def test_without_tokens_it_refuses_to_listen_beyond_loopback(host: str) -> None:
    with pytest.raises(InvalidSetting, match=r"client_token, admin_token.*INTERLOCK_CLIENT_TOKEN.*--insecure") as told:
        check_bind(GatewayConfig(registration_token="x"), host)
    assert "registration_token" not in str(told.value)
    check_bind(GatewayConfig(**TOKENS), host)
    check_bind(GatewayConfig(insecure=True), host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_no_tokens(host: str) -> None:
    assert check_bind(GatewayConfig(), host) is None  # type: ignore[func-returns-value]  # it raises, or not


@pytest.mark.parametrize("token", ["x ", " x", "x\n", "  "])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_token_that_no_header_can_hold_is_a_refusal_to_start(host: str, token: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^client_token: its token .*blank"):
        check_bind(GatewayConfig(**{**TOKENS, "client_token": token}), host)
    with pytest.raises(InvalidSetting, match=r"^tenants\.web: its token .*blank"):
        check_bind(GatewayConfig(**TOKENS, tenants={"web": token}), host)


async def test_a_port_that_is_taken_is_named_with_its_cure(cluster: Cluster) -> None:
    scheduler = FakeScheduler()
    app = build_app(scheduler, scheduler, FakeBackends(), GatewayConfig(), liveness=scheduler)
    with pytest.raises(AddressInUse, match=rf"127\.0\.0\.1:{cluster.server.port} already\. .*--http") as told:
        await serve_http(app, "127.0.0.1", cluster.server.port)
    assert told.value.exit_code == 3


@pytest.mark.parametrize(
    "same", [("client_token", "admin_token"), ("registration_token", "client_token")], ids=lambda pair: " ".join(pair)
)
async def test_one_token_for_two_audiences_is_a_refusal_to_start(bare: Cluster, same: tuple[str, str]) -> None:
    with pytest.raises(InvalidSetting, match="three different") as refused:
        await bare.start(**dict.fromkeys(same, "twice"))
    assert all(name in str(refused.value) for name in same)
    assert "twice" not in str(refused.value)
    await bare.start()
