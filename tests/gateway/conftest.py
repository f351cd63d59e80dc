"""A real gateway on a free loopback port, over an in-memory cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from interlock.adapters.http.app import GATEWAY, Server, build_app, serve_http
from interlock.adapters.http.config import GatewayConfig
from interlock.adapters.http.ports import EventRow
from tests.gateway.fakes import FakeAudit, FakeBackends, FakeEvents, FakeScheduler


class Cluster:
    """The fakes, the server over them and a client of it."""

    def __init__(self) -> None:
        self.scheduler, self.backends = FakeScheduler(), FakeBackends()
        self.events = FakeEvents(*(EventRow(place, f"Event{place}", {"n": place}) for place in (1, 2, 3)))
        self.app: web.Application
        self.server: Server
        self.http: aiohttp.ClientSession

    async def start(self, **settings: Any) -> Cluster:
        """Listen with these settings of GatewayConfig."""
        config = GatewayConfig(**settings)
        self.app = build_app(
            self.scheduler,
            self.scheduler,
            self.backends,
            config,
            liveness=self.scheduler,
            audit=FakeAudit(),
            events=self.events,
        )
        self.server = await serve_http(self.app, "127.0.0.1", 0)
        self.connect()
        return self

    def connect(self) -> None:
        """Make the client of the server."""
        self.http = aiohttp.ClientSession(self.server.url)

    async def stop(self) -> None:
        """Close the client and the server."""
        await self.http.close()
        await self.server.close()

    @property
    def holder(self) -> str:
        """The holder id of this gateway run."""
        return self.app[GATEWAY].claims.holder

    def openai(self, **arguments: Any) -> openai.AsyncOpenAI:
        """The official client, which must not retry behind a test's back."""
        arguments = {"api_key": "none", "max_retries": 0, **arguments}
        return openai.AsyncOpenAI(base_url=f"{self.server.url}/v1", **arguments)

    async def ask(self, method: str, path: str, **arguments: Any) -> tuple[int, Any, Any]:
        """Status, JSON (None when there is no body) and headers."""
        async with self.http.request(method, path, **arguments) as response:
            body = await response.read()
            return response.status, await response.json() if body else None, response.headers

    async def ask_raw(self, body: object, **arguments: Any) -> bytes:
        """One chat request, whatever its answer."""
        async with self.http.post("/v1/chat/completions", json=body, **arguments) as response:
            return await response.read()

    async def chat(self, model: str = "m", text: str = "hello there", **arguments: Any) -> tuple[int, Any, Any]:
        """One chat request, not streamed."""
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        return await self.ask("POST", "/v1/chat/completions", json=body, **arguments)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A gateway with default settings, and a model ``m`` loaded as ``r1`` and ``r2``."""
    one = await Cluster().start()
    one.scheduler.serve("m", "r1", "r2")
    yield one
    await one.stop()


@pytest.fixture
async def bare() -> AsyncIterator[Cluster]:
    """A cluster that a test starts with settings of its own."""
    one = Cluster()
    one.scheduler.serve("m", "r1", "r2")
    yield one
    await one.stop()
