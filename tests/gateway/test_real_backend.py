"""The gateway over real gRPC to real backend processes that really die."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import pytest

from interlock.adapters.grpc.client import BackendClient
from interlock.adapters.http.app import build_app, serve_http
from interlock.adapters.http.config import GatewayConfig
from interlock.domain import commands as c
from interlock.domain.entities import LoadSpec
from interlock.domain.errors import BackendGone
from tests.gateway.conftest import Cluster
from tests.gateway.fakes import FakeScheduler


class Backends:
    """Echo backends in processes of their own, and the client that calls them."""

    def __init__(self) -> None:
        self.client = BackendClient()
        self.processes: dict[str, Process] = {}

    async def start(self, port: int, **options: str | int) -> str:
        """One more backend with model ``m`` loaded; returns its address."""
        arguments = ("-m", "interlock.adapters.backends.server", "--backend", "echo", "--port", str(port))
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, "--model", "m", stdin=PIPE)
        address = f"127.0.0.1:{port}"
        self.processes[address] = process
        async with asyncio.timeout(30):
            while True:
                try:
                    await self.client.health(address)
                    break
                except BackendGone:
                    await asyncio.sleep(0.02)
        await self.client.load(address, "m", LoadSpec(backend="echo", options=dict(options)), timeout_s=10)
        return address

    async def kill(self, address: str) -> None:
        """End one, as a crash does."""
        self.processes[address].kill()
        await self.processes.pop(address).wait()

    async def stop(self) -> None:
        """End all of them."""
        await self.client.close()
        for address in list(self.processes):
            await self.kill(address)


class PlacedScheduler(FakeScheduler):
    """A scheduler whose replicas' ids are their addresses."""

    def _lock(self, request: str, model: str) -> c.Locked | None:
        lock = super()._lock(request, model)
        if lock is None:
            return None
        placed = c.Locked(request=request, replica=lock.replica, node="n", model=model, address=lock.replica)
        self.locks[request] = placed
        return placed


@pytest.fixture
async def backends() -> AsyncIterator[Backends]:
    running = Backends()
    yield running
    await running.stop()


@pytest.fixture
async def placed(backends: Backends) -> AsyncIterator[Cluster]:
    """A gateway that calls real backends."""
    one = Cluster()
    one.scheduler = PlacedScheduler()
    one.app = build_app(one.scheduler, one.scheduler, backends.client, GatewayConfig(), liveness=one.scheduler)
    one.server = await serve_http(one.app, "127.0.0.1", 0)
    one.connect()
    yield one
    await one.stop()


async def free_port() -> int:
    """A port that nobody listens on now."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def test_a_process_that_died_is_noticed_and_the_request_served_by_another(
    placed: Cluster, backends: Backends
) -> None:
    dead, alive = await backends.start(await free_port()), await backends.start(await free_port())
    placed.scheduler.serve("m", dead, alive)
    await backends.kill(dead)
    said = "hello you"
    answer = await placed.openai().chat.completions.create(model="m", messages=[{"role": "user", "content": said}])
    assert answer.choices[0].message.content == said
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2
    await placed.scheduler.until(lambda: bool(placed.scheduler.ended))
    assert [command.replica for command in placed.scheduler.of(c.ReportBackendGone)] == [dead]
    assert placed.scheduler.acquired == placed.scheduler.released == 2


async def test_a_process_that_dies_mid_stream_ends_the_stream_visibly(placed: Cluster, backends: Backends) -> None:
    address = await backends.start(await free_port(), tokens_per_second=20, words=1000)
    placed.scheduler.serve("m", address)
    body = {"model": "m", "prompt": "word", "stream": True}
    async with placed.http.post("/v1/completions", json=body) as response:
        assert response.status == 200
        await response.content.readuntil(b"\n\n")
        await backends.kill(address)
        rest = (await response.read()).decode()
    assert '"error"' in rest
    assert "[DONE]" not in rest
    await placed.scheduler.until(lambda: bool(placed.scheduler.ended))
    assert [outcome for _, outcome in placed.scheduler.ended] == ["failed"]


async def test_a_backends_failure_has_its_own_words(placed: Cluster, backends: Backends) -> None:
    address = await backends.start(await free_port(), fail="predict", message="the cat sat on it")
    placed.scheduler.serve("m", address)
    status, answer, _ = await placed.chat()
    assert (status, answer["error"]["code"]) == (502, "backend_failed")
    assert "the cat sat on it" in answer["error"]["message"]


async def test_embeddings_and_streams_come_from_the_real_thing(placed: Cluster, backends: Backends) -> None:
    address = await backends.start(await free_port(), dimensions=8)
    placed.scheduler.serve("m", address)
    client = placed.openai()
    vectors = await client.embeddings.create(model="m", input=["a", "b"])
    assert [len(entry.embedding) for entry in vectors.data] == [8, 8]
    stream = await client.completions.create(model="m", prompt="one two three", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "one two three"
    await placed.scheduler.until(lambda: len(placed.scheduler.ended) == 2)
    assert {outcome for _, outcome in placed.scheduler.ended} == {"served"}
