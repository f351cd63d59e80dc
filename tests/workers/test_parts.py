"""The worker's parts by themselves: ports, figures, staging, settings, the twin's clock."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from interlock.adapters.memory.clock import ManualClock
from interlock.adapters.memory.workers import InMemoryWorkers
from interlock.adapters.nats import messages as wire
from interlock.adapters.worker import figures, process, staging
from interlock.adapters.worker.config import parse
from interlock.adapters.worker.figures import Meter
from interlock.adapters.worker.ports import Ports
from interlock.adapters.worker.supervisor import Supervisor
from interlock.domain import commands as c
from interlock.domain import effects as e
from interlock.domain.errors import Conflict, InvalidField, Unavailable, WorkerUnavailable
from tests.workers.rig import ECHO, MemoryRig, Reports, free_port


def test_a_port_is_not_handed_out_again_before_its_time() -> None:
    now = [0.0]
    port = free_port()
    ports = Ports("127.0.0.1", (port, port), 60.0, clock=lambda: now[0])
    assert ports.take() == port
    with pytest.raises(Conflict, match="in use"):
        ports.take()
    ports.give_back(port)
    now[0] = 59.9
    with pytest.raises(Conflict, match="--port-hold"):
        ports.take()
    now[0] = 60.1
    assert ports.take() == port


def test_a_port_where_somebody_listens_is_not_handed_out() -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Conflict):
            Ports("127.0.0.1", (port, port), 0).take()


def test_without_a_gpu_the_pool_is_the_systems_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_open_nvml", lambda: None)
    read = Meter(tmp_path / "models").read()
    assert read.pools == (psutil.virtual_memory().total,)
    assert 0 < read.used[0] < read.pools[0]
    assert read.gpu_vendor == ""
    assert 0 < read.disk_available <= read.disk_total


def gpus(*memory: tuple[int, int] | None) -> Any:
    """NVIDIA's library on a machine with these GPUs: total and used bytes, or None for unified memory."""

    class NVMLError(Exception):
        pass

    def memory_of(index: int) -> SimpleNamespace:
        found = memory[index]
        if found is None:
            raise NVMLError("Not Supported")
        return SimpleNamespace(total=found[0], used=found[1])

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlDeviceGetCount=lambda: len(memory),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=memory_of,
        nvmlDeviceGetUUID=lambda index: f"GPU-{index}",
    )


def test_each_gpu_is_a_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_open_nvml", lambda: gpus((24, 3), (48, 5)))
    read = Meter(tmp_path / "models").read()
    assert (read.pools, read.used, read.gpu_vendor) == ((24, 48), (3, 5), "nvidia")
    assert (read.vram_total, read.vram_available) == (72, 64)


def test_a_process_sees_the_gpus_of_its_pools_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_open_nvml", lambda: gpus((24, 3), (24, 5), (24, 0)))
    meter = Meter(tmp_path / "models")
    assert meter.devices((0, 2)) == ("GPU-0", "GPU-2")
    assert meter.devices(()) == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert process._environment(meter.devices((2,)))["CUDA_VISIBLE_DEVICES"] == "GPU-2"
    assert "CUDA_VISIBLE_DEVICES" not in process._environment(())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7")
    assert process._environment(("GPU-2",))["CUDA_VISIBLE_DEVICES"] == "MIG-7", "what the operator has set stands"


def test_a_pool_that_is_no_gpu_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_open_nvml", lambda: gpus(None))
    assert Meter(tmp_path / "models").devices((0,)) == ()
    assert Meter(tmp_path / "models", pools=(5, 5)).devices((0, 1)) == ()


def test_a_board_with_unified_memory_reports_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_open_nvml", lambda: gpus(None))
    read = Meter(tmp_path / "models").read()
    assert read.pools == (psutil.virtual_memory().total,)
    assert read.unified
    assert read.gpu_vendor == "nvidia"
    assert not Meter(tmp_path / "models", pools=(5,), ram=5).read().unified, "who gives both has both"


def test_a_gpu_that_fails_counts_as_full_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = gpus((80, 10), (80, 20))
    monkeypatch.setattr(figures, "_open_nvml", lambda: driver)
    meter = Meter(tmp_path / "models")
    assert meter.read().used == (10, 20)

    def fallen_off(index: int) -> Any:
        if index == 1:
            raise driver.NVMLError("GPU is lost")
        return SimpleNamespace(total=80, used=10)

    driver.nvmlDeviceGetMemoryInfo = fallen_off
    read = meter.read()
    assert (read.pools, read.used, read.unified) == ((80, 80), (10, 80), False)
    assert meter.devices((0,)) == ("GPU-0",)
    with pytest.raises(Unavailable, match="GPU 1 does not tell of its memory"):
        Meter(tmp_path / "models").read()


def test_main_memory_is_what_the_machine_has_or_what_is_given(tmp_path: Path) -> None:
    read = Meter(tmp_path / "models").read()
    assert 0 < read.ram_available < read.ram
    given = Meter(tmp_path / "models", pools=(1,), ram=4_000_000_000).read()
    assert (given.ram, given.ram_available) == (4_000_000_000, 4_000_000_000)
    assert Meter(tmp_path / "models", ram=4_000).read((os.getpid(),)).ram_available == 0, "ours count as users"


def test_the_disk_is_what_is_free_and_a_given_one_is_less_by_what_models_take_already(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "weights").write_bytes(b"x" * 5_000_000)
    read = Meter(models, pools=(1,)).read()
    assert read.disk == read.disk_available
    assert Meter(models, pools=(1,), disk=9_000_000).read().disk == 4_000_000
    assert Meter(models, pools=(1,), disk=4_000_000).read().disk == 0


async def test_a_staging_that_comes_late_or_again_takes_no_files_with_it(tmp_path: Path) -> None:
    """Its drops made room for it once; what has been brought since is another load's."""
    source = tmp_path / "weights.bin"
    source.write_bytes(b"x" * 1000)
    supervisor = Supervisor(tmp_path / "data", Ports("127.0.0.1", (1, 1), 0.0), node="n", host="127.0.0.1")

    async def stage(op: str, replica: str, model: str, *drops: str) -> bool:
        order = wire.Stage(
            op_id=op, epoch=1, model_id=model, replica=replica, drops=drops, options={"source": str(source)}
        )
        return (await supervisor.stage(order)).success

    def there() -> set[str]:
        return {path.name for path in supervisor.models.iterdir() if path.is_dir()}

    assert await stage("r-1.2", "r-1", "old")
    assert await stage("r-2.2", "r-2", "new", "old")
    assert there() == {"new"}
    assert await stage("r-3.2", "r-3", "old")
    assert await stage("r-2.2", "r-2", "new", "old"), "the answer that it had"
    await supervisor.unload(wire.Unload(op_id="r-2.3", epoch=1, replica="r-2", stop=True))
    assert not await stage("r-2.1", "r-2", "new", "old")
    assert there() == {"new", "old"}
    await supervisor.close()


class Held:
    """Staging that waits for a word before it begins; counts what has begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.go = threading.Event()
        stage = staging.stage

        def held(*args: Any, **more: Any) -> int:
            self.begun += 1
            assert self.go.wait(30)
            return stage(*args, **more)

        monkeypatch.setattr(staging, "stage", held)


@pytest.mark.parametrize("leaves", [False, True], ids=["both-stay", "the-first-leaves"])
async def test_files_that_are_on_their_way_are_brought_once_for_all_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """Each hears how far they are, and they come though the order that began has ended."""
    held, told = Held(monkeypatch), list[wire.Progress]()
    source = tmp_path / "weights.bin"
    source.write_bytes(b"x" * 1000)
    supervisor = Supervisor(
        tmp_path / "data", Ports("127.0.0.1", (1, 1), 0.0), node="n", host="127.0.0.1", tell=told.append
    )

    def stage(replica: str) -> asyncio.Task[wire.StageAnswer]:
        options = {"source": str(source)}
        order = wire.Stage(op_id=f"{replica}.2", epoch=1, model_id="m", replica=replica, options=options)
        return asyncio.create_task(supervisor.stage(order))

    first, second = stage("r-1"), stage("r-2")
    await _until(lambda: held.begun > 0)
    if leaves:
        await asyncio.wait_for(supervisor.unload(wire.Unload(op_id="r-1.3", epoch=1, replica="r-1", stop=True)), 10)
    held.go.set()
    answers = await asyncio.gather(first, second, return_exceptions=True)
    found = [(answer.success, answer.found) for answer in answers if isinstance(answer, wire.StageAnswer)]
    assert found == ([(True, True)] if leaves else [(True, False), (True, True)])
    assert held.begun == 1
    assert {progress.replica for progress in told} == ({"r-2"} if leaves else {"r-1", "r-2"})
    assert (await stage("r-3")).found, "they are there"
    await supervisor.close()


async def test_files_from_elsewhere_wait_until_those_on_their_way_have_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model's files have one place."""
    held = Held(monkeypatch)
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
    supervisor = Supervisor(tmp_path / "data", Ports("127.0.0.1", (1, 1), 0.0), node="n", host="127.0.0.1")
    orders = [
        wire.Stage(op_id=f"r-{number}.2", epoch=1, model_id="m", replica=f"r-{number}", options={"source": str(source)})
        for number, source in enumerate((tmp_path / "old", tmp_path / "new"))
    ]
    tasks = [asyncio.create_task(supervisor.stage(order)) for order in orders]
    await _until(lambda: held.begun > 0)
    assert held.begun == 1
    held.go.set()
    assert [answer.success for answer in await asyncio.gather(*tasks)] == [True, True]
    assert [path.name for path in (supervisor.models / "m").iterdir()] == ["new"]
    await supervisor.close()


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


def test_staging_brings_a_folder_once_and_tells_its_bytes(tmp_path: Path) -> None:
    source, models = tmp_path / "source", tmp_path / "models"
    (source / "sub").mkdir(parents=True)
    (source / "a.bin").write_bytes(b"a" * 9_000_000)
    (source / "sub" / "b.bin").write_bytes(b"b" * 10)
    told: list[tuple[int, int]] = []
    for _ in range(2):
        size = staging.stage(models, "org/m", source.as_uri(), lambda *now: told.append(now), threading.Event())
        assert size == 9_000_010
    assert told == [(4_194_304, 9_000_010), (8_388_608, 9_000_010), (9_000_000, 9_000_010), (9_000_010, 9_000_010)]
    assert (models / "org%2Fm" / "sub" / "b.bin").read_bytes() == b"b" * 10
    staging.remove(models, "org/m")
    assert list(models.iterdir()) == []


def test_staging_looks_at_the_room_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "big").write_bytes(b"x" * 100)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: SimpleNamespace(free=99))
    with pytest.raises(staging.StagingFailed, match="too full"):
        staging.stage(tmp_path / "models", "m", str(tmp_path / "big"), lambda *now: None, threading.Event())
    assert list((tmp_path / "models").iterdir()) == []


def test_staging_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 9_000_000)
    stop = threading.Event()
    with pytest.raises(staging.StagingFailed, match="stopped"):
        staging.stage(tmp_path / "models", "m", str(tmp_path / "big"), lambda *now: stop.set(), stop)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("source", ["/no/such/file", "https://example.org/model"])
def test_staging_what_cannot_be_had_says_so(source: str, tmp_path: Path) -> None:
    with pytest.raises(staging.StagingFailed, match=source):
        staging.stage(tmp_path, "m", source, lambda *now: None, threading.Event())


def test_settings_come_from_flags_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOCK_NATS", "nats://broker:4222")
    monkeypatch.setenv("INTERLOCK_REGISTRATION_TOKEN", "s3cret")
    monkeypatch.setenv("INTERLOCK_HEARTBEAT_INTERVAL", "3s")
    config = parse(["--name", "orin", "--label", "tier=slow", "--vram", "64GiB", "--heartbeat-interval", "2s"])
    assert (config.nats.url, config.token, config.heartbeat_s) == ("nats://broker:4222", "s3cret", 2.0)
    assert (config.labels, config.pools) == ({"tier": "slow"}, (64 * 2**30,))
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    "words", [["--label", "tier"], ["--ports", "9-1"], ["--vram", "lots"], ["--heartbeat-interval", "soon"]]
)
def test_a_setting_that_cannot_be_is_refused_by_name(words: list[str]) -> None:
    with pytest.raises(InvalidField, match=words[0]):
        parse(["--name", "orin", "--nats", "nats://127.0.0.1:4222", *words])


async def test_the_twin_takes_the_time_that_it_is_given() -> None:
    clock = ManualClock()
    twin = InMemoryWorkers(["orin"], clock=clock, delay=lambda effect: 500)
    rig = MemoryRig(twin, "orin", Reports())
    work = asyncio.create_task(rig.do(e.InstallBackend, "r-1"))
    await clock.advance(499)
    assert not work.done()
    await clock.advance(1)
    assert isinstance(work.result(), c.ReportInstalled)


async def test_the_twin_fails_as_often_as_it_is_told() -> None:
    twin = InMemoryWorkers(["orin"])
    rig = MemoryRig(twin, "orin", Reports())
    twin.fail("backend.install", "no room", model="m")
    assert isinstance(await rig.do(e.InstallBackend, "r-1"), c.ReportLoadFailed)
    assert isinstance(await rig.do(e.InstallBackend, "r-1"), c.ReportInstalled)
    assert [effect.op for effect in twin.performed] == ["op-1", "op-2"]


async def test_the_twin_can_fall_silent_and_come_back_without_its_processes() -> None:
    twin = InMemoryWorkers(["orin"])
    rig = MemoryRig(twin, "orin", Reports())
    await rig.installed("r-1")
    boot = (await twin.running("orin")).boot
    twin.silence("orin")
    with pytest.raises(WorkerUnavailable):
        await rig.do(e.LoadModel, "r-1", spec=ECHO)
    twin.heal("orin")
    assert len(await rig.running()) == 1
    twin.restart("orin")
    assert await rig.running() == ()
    assert (await twin.running("orin")).boot != boot


def test_a_models_files_go_and_those_of_others_stay(tmp_path: Path) -> None:
    source, models = tmp_path / "weights.bin", tmp_path / "models"
    source.write_bytes(b"x" * 1000)
    for model in ("old", "kept"):
        staging.stage(models, model, str(source), lambda done, total: None, threading.Event())
    staging.remove(models, "old")
    assert sorted(path.name for path in models.iterdir()) == sorted(
        path.name for path in models.iterdir() if "kept" in path.name
    )
    assert any(models.iterdir())
