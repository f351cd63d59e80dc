"""A broker for the session; a control plane, a worker and its port for each test. All on free loopback ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from nats.aio.client import Client

from interlock.adapters.grpc.client import BackendClient
from interlock.adapters.memory.workers import InMemoryWorkers
from interlock.adapters.nats import connection
from interlock.adapters.nats.broker import Broker
from interlock.adapters.nats.connection import NatsConfig
from interlock.adapters.nats.worker_link import NatsWorkers, Timeouts
from interlock.adapters.worker.config import WorkerConfig
from interlock.adapters.worker.run import run_worker
from tests.workers.control_plane import ControlPlane
from tests.workers.rig import MemoryRig, RealRig, Reports, Rig


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsConfig]:
    server = Broker(tmp_path_factory.mktemp("nats"))
    yield asyncio.run(server.start())
    asyncio.run(server.stop())


@pytest.fixture
async def nats_client(broker: NatsConfig) -> AsyncIterator[Client]:
    client = await connection.connect(broker, "test")
    yield client
    await connection.close(client)


@pytest.fixture
async def backends() -> AsyncIterator[BackendClient]:
    client = BackendClient()
    yield client
    await client.close()


@pytest.fixture
async def control_plane() -> AsyncIterator[ControlPlane]:
    plane = ControlPlane()
    await plane.start()
    yield plane
    await plane.stop()


@pytest.fixture
def worker_config(broker: NatsConfig, control_plane: ControlPlane, tmp_path: Path) -> WorkerConfig:
    # A name of its own per test: the broker is shared, and names are addresses on it.
    return WorkerConfig(
        name=f"node-{uuid4().hex[:8]}",
        url=control_plane.url,
        nats=broker,
        data=tmp_path / "worker",
        heartbeat_s=0.2,
        stop_grace_s=2.0,
    )


@asynccontextmanager
async def a_worker(config: WorkerConfig, control_plane: ControlPlane) -> AsyncIterator[WorkerConfig]:
    """A worker inside this process (its backends are processes of their own), registered when the block begins."""
    stop = asyncio.Event()
    before = len(control_plane.registrations)
    running = asyncio.create_task(run_worker(config, stop))
    try:
        await control_plane.until(lambda: len(control_plane.registrations) > before)
        yield config
    finally:
        stop.set()
        await running


@pytest.fixture
async def real_rig(
    worker_config: WorkerConfig, control_plane: ControlPlane, nats_client: Client, backends: BackendClient
) -> AsyncIterator[RealRig]:
    reports = Reports()
    workers = NatsWorkers(
        nats_client, backends, reports.hear, timeouts=Timeouts(poll_s=0.05, progress_s=0.0, stop_s=6.0)
    )
    await workers.start()
    async with a_worker(worker_config, control_plane):
        yield RealRig(workers, worker_config.name, reports, backends)
    await workers.close()


@pytest.fixture(params=["memory", "real"])
def rig(request: pytest.FixtureRequest) -> Rig:
    if request.param == "real":
        real: RealRig = request.getfixturevalue("real_rig")
        return real
    reports = Reports()
    return MemoryRig(InMemoryWorkers(["orin"], reports.hear), "orin", reports)
