"""A worker as a process of its own: how it joins, beats, is killed, comes back and says goodbye."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import msgspec
import psutil
import pytest
from nats.aio.client import Client

from interlock.adapters.grpc.calls import Generation
from interlock.adapters.grpc.client import BackendClient
from interlock.adapters.nats import connection
from interlock.adapters.nats.broker import Broker
from interlock.adapters.nats.connection import NatsConfig
from interlock.adapters.nats.worker_link import NatsWorkers
from interlock.adapters.worker import pidfiles
from interlock.adapters.worker.config import WorkerConfig, parse
from interlock.domain import commands as c
from interlock.domain import effects as e
from interlock.domain.entities import LoadSpec
from interlock.domain.errors import BackendGone, Fenced, InvalidField, WorkerUnavailable
from tests.workers.conftest import a_worker
from tests.workers.control_plane import ControlPlane
from tests.workers.rig import RealRig, Reports, backend_pids, free_port


class WorkerProcess:
    """``python -m interlock.adapters.worker`` with a test's settings; its output is in ``worker.log``."""

    def __init__(self, config: WorkerConfig, *more: str) -> None:
        self.config = config
        self.more = more
        self.process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        config = self.config
        config.data.mkdir(parents=True, exist_ok=True)
        secrets = config.nats.environment() | {"INTERLOCK_REGISTRATION_TOKEN": "s3cret"}
        with (config.data / "worker.log").open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "interlock.adapters.worker", "--name", config.name, "--url", config.url),
                *("--nats", config.nats.url, "--data", str(config.data), "--heartbeat-interval", "200ms", *self.more),
                env=os.environ | secrets,
                stderr=output,
            )

    async def wait(self) -> int:
        assert self.process is not None
        return await self.process.wait()

    async def send(self, number: signal.Signals) -> int:
        """Signal it and wait for its end; returns its exit status."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.wait()


SIZES = ("--vram", "24GiB,8GiB", "--ram", "64GiB", "--disk", "900GiB")


@pytest.fixture
async def worker(worker_config: WorkerConfig, control_plane: ControlPlane) -> AsyncIterator[WorkerProcess]:
    made = WorkerProcess(worker_config, "--label", "tier=slow", *SIZES)
    await made.start()
    await control_plane.until(lambda: bool(control_plane.heartbeats))
    yield made
    await made.send(signal.SIGKILL)


@pytest.fixture
def process_rig(worker: WorkerProcess, nats_client: Client, backends: BackendClient) -> RealRig:
    return RealRig(NatsWorkers(nats_client, backends), worker.config.name, Reports(), backends)


async def gone(pid: int) -> None:
    """Wait until that process has ended."""
    async with asyncio.timeout(10):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


async def test_a_worker_registers_with_its_figures_labels_and_token(
    worker: WorkerProcess, control_plane: ControlPlane
) -> None:
    body = control_plane.registrations[0]
    assert body["name"] == worker.config.name
    assert body["labels"] == {"tier": "slow"}
    assert body["pools"] == [24 * 2**30, 8 * 2**30]
    assert body["total_vram"] == 32 * 2**30
    assert body["ram"] == body["total_ram"] == 64 * 2**30
    assert body["disk"] == 900 * 2**30
    assert (body["token"], control_plane.tokens[0]) == ("s3cret", "Bearer s3cret")
    assert body["running"] == []
    assert body["boot"] == control_plane.heartbeats[0]["boot"]


async def test_a_worker_tells_what_its_clock_shows_as_it_sends_each_message(
    worker: WorkerProcess, control_plane: ControlPlane
) -> None:
    await control_plane.until(lambda: len(control_plane.heartbeats) > 1)
    now = time.time_ns() // 1000
    told = [body["clock"] for body in (*control_plane.registrations[:1], *control_plane.heartbeats)]
    assert all(earlier <= later for earlier, later in itertools.pairwise(told))
    assert 0 <= now - told[-1] < now - told[0] < 60_000_000


async def test_a_secret_is_never_on_the_command_line(worker: WorkerProcess, process_rig: RealRig) -> None:
    await process_rig.installed("r-1")
    for pid in (worker.pid, await process_rig.pid("r-1")):
        words = " ".join(psutil.Process(pid).cmdline())
        assert "s3cret" not in words
        assert worker.config.nats.password not in words
    inherited = psutil.Process(await process_rig.pid("r-1")).environ()
    assert not [name for name in inherited if name.startswith("INTERLOCK_")]


async def test_a_killed_worker_leaves_no_backend_running(process_rig: RealRig, worker: WorkerProcess) -> None:
    await process_rig.loaded("r-1")
    pid = await process_rig.pid("r-1")
    await worker.send(signal.SIGKILL)
    await gone(pid)


async def test_a_worker_that_comes_back_has_a_new_boot_and_nothing_running(
    process_rig: RealRig, worker: WorkerProcess, control_plane: ControlPlane
) -> None:
    await process_rig.loaded("r-1")
    await worker.send(signal.SIGKILL)
    await worker.start()
    await control_plane.until(lambda: len(control_plane.registrations) == 2)
    first, second = control_plane.registrations
    assert first["boot"] != second["boot"]
    assert second["running"] == []
    assert await process_rig.running() == ()


async def test_an_epoch_is_remembered_over_a_kill(
    process_rig: RealRig, worker: WorkerProcess, control_plane: ControlPlane
) -> None:
    await process_rig.installed("r-1", epoch=7)
    await worker.send(signal.SIGKILL)
    await worker.start()
    await control_plane.until(lambda: len(control_plane.registrations) == 2)
    with pytest.raises(Fenced, match="epoch 6 has passed"):
        await process_rig.do(e.InstallBackend, "r-2", epoch=6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stopped_worker_stops_everything_and_says_goodbye(
    number: signal.Signals, process_rig: RealRig, worker: WorkerProcess, control_plane: ControlPlane
) -> None:
    await process_rig.loaded("r-1")
    pid = await process_rig.pid("r-1")
    assert await worker.send(number) == 0
    assert not psutil.pid_exists(pid)
    last = control_plane.heartbeats[-1]
    assert last["leaving"] is True
    assert last["running"] == []
    assert not list((worker.config.data / "processes").iterdir())


async def test_a_stop_does_not_wait_for_a_load_that_hangs(process_rig: RealRig, worker: WorkerProcess) -> None:
    spec = LoadSpec(backend="echo", options={"fail": "hang"})
    address = await process_rig.installed("r-1", spec=spec)
    loading = asyncio.create_task(process_rig.do(e.LoadModel, "r-1", spec=spec, address=address))
    async with asyncio.timeout(10):
        await process_rig.backends.health(address)
        assert await worker.send(signal.SIGTERM) == 0
    loading.cancel()
    await asyncio.wait([loading])


async def test_a_second_worker_on_the_same_folder_refuses_to_start(worker: WorkerProcess) -> None:
    second = WorkerProcess(worker.config)
    await second.start()
    assert await asyncio.wait_for(second.wait(), 10) == 1
    assert "another worker uses" in (worker.config.data / "worker.log").read_text()


async def test_an_orphan_of_an_earlier_worker_is_stopped_before_registering(
    worker_config: WorkerConfig, control_plane: ControlPlane
) -> None:
    # A backend without a lifeline, as one would be left where the kernel does not end it with its parent.
    name = f"p-{uuid4().hex[:8]}-1"
    orphan = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "interlock.adapters.backends.server", "--backend=echo", "--port=0"),
        f"--process={name}",
    )
    pidfiles.write(worker_config.data / "processes" / f"{name}.json", orphan.pid, name)
    try:
        async with a_worker(worker_config, control_plane):
            assert backend_pids(f"--process={name}") == []
    finally:
        if orphan.returncode is None:
            orphan.kill()
        await orphan.wait()


async def test_a_process_that_only_took_over_the_id_is_left_alone(
    worker_config: WorkerConfig, control_plane: ControlPlane
) -> None:
    stranger = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys; sys.stdin.read()", stdin=asyncio.subprocess.PIPE
    )
    pidfiles.write(worker_config.data / "processes" / "p-earlier-2.json", stranger.pid, "p-earlier-2")
    async with a_worker(worker_config, control_plane):
        assert stranger.returncode is None
    assert stranger.stdin is not None
    stranger.stdin.close()
    assert await stranger.wait() == 0


async def test_a_backend_that_dies_is_in_no_heartbeat_and_one_is_sent_at_once(
    worker_config: WorkerConfig, control_plane: ControlPlane, nats_client: Client, backends: BackendClient
) -> None:
    slow = msgspec.structs.replace(worker_config, heartbeat_s=60.0)
    async with a_worker(slow, control_plane):
        rig = RealRig(NatsWorkers(nats_client, backends), slow.name, Reports(), backends)
        await rig.loaded("r-1")
        assert control_plane.heartbeats == []
        await rig.kill("r-1")
        await control_plane.until(lambda: bool(control_plane.heartbeats), within_s=5)
        assert control_plane.heartbeats[0]["running"] == []


async def test_what_is_in_use_is_told_at_once_when_a_replica_has_left(
    worker_config: WorkerConfig, control_plane: ControlPlane, nats_client: Client, backends: BackendClient
) -> None:
    """A load that failed may have met others' memory: the next try is not to run into it before a heartbeat is due."""
    slow = msgspec.structs.replace(worker_config, heartbeat_s=60.0)
    async with a_worker(slow, control_plane):
        rig = RealRig(NatsWorkers(nats_client, backends), slow.name, Reports(), backends)
        address = await rig.loaded("r-1")
        assert control_plane.heartbeats == []
        await rig.do(e.UnloadModel, "r-1", address=address)
        await control_plane.until(lambda: bool(control_plane.heartbeats), within_s=5)
        assert control_plane.heartbeats[0]["running"] == []


async def test_a_worker_beats_as_often_as_the_control_plane_asks(
    worker_config: WorkerConfig, control_plane: ControlPlane
) -> None:
    control_plane.asks = {"heartbeat_interval": "100ms"}
    async with a_worker(msgspec.structs.replace(worker_config, heartbeat_s=None), control_plane):
        await control_plane.until(lambda: len(control_plane.heartbeats) >= 2, within_s=5)
        control_plane.asks = {"heartbeat_interval": "1h"}
        seen = len(control_plane.heartbeats)
        await control_plane.until(lambda: len(control_plane.heartbeats) > seen, within_s=5)
        with pytest.raises(TimeoutError):
            await control_plane.until(lambda: len(control_plane.heartbeats) > seen + 2, within_s=0.5)


async def test_a_worker_whose_gateway_is_gone_beats_through_another(
    worker_config: WorkerConfig, control_plane: ControlPlane
) -> None:
    other = ControlPlane()
    await other.start()
    other.known.add(worker_config.name)
    both = msgspec.structs.replace(worker_config, url=f"{control_plane.url},{other.url}")
    try:
        async with a_worker(both, control_plane):
            await control_plane.until(lambda: bool(control_plane.heartbeats))
            assert other.heartbeats == []
            await control_plane.stop()
            await other.until(lambda: len(other.heartbeats) > 1)
            assert other.registrations == [], "who knows the node need not be told its facts"
    finally:
        await other.stop()


def test_gateways_are_named_one_by_one() -> None:
    parsed = parse(["--nats", "nats://h:1", "--url", "http://a:1/, http://b:2"])
    assert parsed.urls == ("http://a:1", "http://b:2")
    with pytest.raises(InvalidField, match="one is empty"):
        parse(["--nats", "nats://h:1", "--url", "http://a:1,"])


async def test_a_worker_waits_for_a_control_plane_that_is_down(
    worker_config: WorkerConfig, control_plane: ControlPlane
) -> None:
    port = control_plane.port
    await control_plane.stop()
    made = WorkerProcess(worker_config)
    await made.start()
    try:
        async with asyncio.timeout(10):
            while not (worker_config.data / "models").is_dir():  # it has taken its figures: it tries to register
                await asyncio.sleep(0.01)
        await control_plane.start(port)
        await control_plane.until(lambda: bool(control_plane.registrations))
        assert await made.send(signal.SIGTERM) == 0
    finally:
        await made.send(signal.SIGKILL)


async def test_a_worker_that_is_forgotten_registers_again(worker: WorkerProcess, control_plane: ControlPlane) -> None:
    control_plane.known.clear()
    await control_plane.until(lambda: len(control_plane.registrations) == 2)
    assert control_plane.registrations[0]["boot"] == control_plane.registrations[1]["boot"]


async def test_a_port_is_held_back_so_that_the_next_model_gets_another(
    worker_config: WorkerConfig, control_plane: ControlPlane, nats_client: Client, backends: BackendClient
) -> None:
    async with a_worker(worker_config, control_plane):
        rig = RealRig(NatsWorkers(nats_client, backends), worker_config.name, Reports(), backends)
        old = await rig.loaded("r-1", model="first")
        await rig.do(e.UnloadModel, "r-1", model="first")
        assert await rig.loaded("r-2", model="second") != old


async def test_a_port_that_is_used_again_never_answers_for_the_model_before(
    worker_config: WorkerConfig, control_plane: ControlPlane, nats_client: Client, backends: BackendClient
) -> None:
    port = free_port()
    config = msgspec.structs.replace(worker_config, ports=(port, port), port_hold_s=0.0)
    async with a_worker(config, control_plane):
        rig = RealRig(NatsWorkers(nats_client, backends), config.name, Reports(), backends)
        old = await rig.loaded("r-1", model="first")
        await backends.predict(old, "first", Generation(prompt="x"), replica="r-1")
        await rig.do(e.UnloadModel, "r-1", model="first")
        new = await rig.loaded("r-2", model="second")
        assert new == old
        with pytest.raises(BackendGone):
            await backends.predict(old, "first", Generation(prompt="x"), replica="r-1")
        await rig.do(e.UnloadModel, "r-2", model="second")
        assert await rig.loaded("r-3", model="first") == old
        with pytest.raises(BackendGone):
            await backends.predict(old, "first", Generation(prompt="x"), replica="r-1")


async def test_a_worker_survives_a_broker_that_is_not_there_yet(
    worker_config: WorkerConfig, control_plane: ControlPlane, tmp_path: Path
) -> None:
    config = msgspec.structs.replace(worker_config, nats=NatsConfig("nats://127.0.0.1:1"))
    made = WorkerProcess(config)
    await made.start()
    async with asyncio.timeout(10):
        while not (config.data / "worker.lock").exists():
            await asyncio.sleep(0.01)
    assert await made.send(signal.SIGTERM) == 0
    assert control_plane.registrations == []


async def test_a_worker_takes_orders_again_when_the_broker_comes_back(
    worker_config: WorkerConfig, control_plane: ControlPlane, backends: BackendClient, tmp_path: Path
) -> None:
    broker = Broker(tmp_path / "nats")
    nats = await broker.start()
    client = await connection.connect(nats, "writer")
    config = msgspec.structs.replace(worker_config, nats=nats)
    async with a_worker(config, control_plane):
        rig = RealRig(NatsWorkers(client, backends), config.name, Reports(), backends)
        await rig.loaded("r-1")
        os.kill(broker.pid, signal.SIGKILL)
        await broker.stop()
        assert (await broker.start()).url == nats.url
        async with asyncio.timeout(15):
            while True:
                try:
                    running = await rig.running()
                    break
                except WorkerUnavailable:
                    await asyncio.sleep(0.05)
        assert [each.replica for each in running] == ["r-1"]
        assert isinstance(await rig.do(e.UnloadModel, "r-1"), c.ReportUnloaded)
    await connection.close(client)
    await broker.stop()
