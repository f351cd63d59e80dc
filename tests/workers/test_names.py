"""Two workers of one name: only the one that the control plane has accepted takes orders, and runs anything."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import msgspec
import pytest
from nats.aio.client import Client

from interlock.adapters.grpc.client import BackendClient
from interlock.adapters.nats.worker_link import NatsWorkers
from interlock.adapters.worker.config import WorkerConfig, parse
from interlock.adapters.worker.registration import kept_identity
from interlock.domain.errors import WorkerUnavailable
from tests.workers.conftest import a_worker
from tests.workers.control_plane import ControlPlane
from tests.workers.rig import RealRig, Reports


def test_a_machine_s_identity_is_kept_in_its_folder_and_two_folders_have_two(worker_config: WorkerConfig) -> None:
    mine = kept_identity(worker_config.data)
    assert mine == kept_identity(worker_config.data)
    assert mine != kept_identity(worker_config.data / "another")


def test_flags_say_which_machine_it_is_and_that_it_takes_another_s_place() -> None:
    config = parse(["--name", "thor", "--nats", "nats://127.0.0.1:1", "--machine", "board-7", "--replace"])
    assert (config.machine, config.replaces) == ("board-7", True)


async def test_a_refused_worker_takes_no_orders_and_the_first_goes_on(
    worker_config: WorkerConfig, control_plane: ControlPlane, nats_client: Client, backends: BackendClient
) -> None:
    workers = NatsWorkers(nats_client, backends)
    rig = RealRig(workers, worker_config.name, Reports(), backends)
    second = msgspec.structs.replace(worker_config, data=worker_config.data / "second")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(a_worker(worker_config, control_plane))
        first = control_plane.registrations[0]
        control_plane.refused.add(kept_identity(second.data))
        await stack.enter_async_context(a_worker(second, control_plane))
        assert control_plane.registrations[-1]["machine"] == kept_identity(second.data) != first["machine"]
        await rig.installed("r-1")
        for _ in range(5):
            report = await workers.running(worker_config.name)
            assert report.boot == first["boot"]
            assert [process.replica for process in report.running] == ["r-1"]


async def test_a_worker_that_has_lost_its_name_stops_what_it_runs_and_listens_no_more(
    worker_config: WorkerConfig, control_plane: ControlPlane, nats_client: Client, backends: BackendClient
) -> None:
    workers = NatsWorkers(nats_client, backends)
    rig = RealRig(workers, worker_config.name, Reports(), backends)
    async with a_worker(worker_config, control_plane):
        await rig.installed("r-1")
        before = len(control_plane.registrations)
        control_plane.refused.add(kept_identity(worker_config.data))
        control_plane.known.clear()
        await control_plane.until(lambda: len(control_plane.registrations) > before)
        async with asyncio.timeout(20):
            while True:
                try:
                    await workers.running(worker_config.name)
                except WorkerUnavailable:
                    break
        control_plane.refused.clear()
        await control_plane.until(lambda: worker_config.name in control_plane.known)
        again = await rig_running(workers, worker_config.name)
        assert again == [], "what it ran while the name was another's is gone"


async def rig_running(workers: NatsWorkers, node: str) -> list[str]:
    """What the node says it runs, asked until it listens again."""
    async with asyncio.timeout(20):
        while True:
            try:
                return [process.replica for process in (await workers.running(node)).running]
            except WorkerUnavailable:
                await asyncio.sleep(0)


async def test_the_reason_of_a_refusal_is_in_the_worker_s_log(
    worker_config: WorkerConfig, control_plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    control_plane.refused.add(kept_identity(worker_config.data))
    async with a_worker(worker_config, control_plane):
        before = len(control_plane.registrations)
        await control_plane.until(lambda: len(control_plane.registrations) > before)
    assert "HTTP status 409" in caplog.text
    assert "another machine is at work" in caplog.text
