"""The worker port's contract, on the twin in memory and on a real broker, worker and backend processes."""

from __future__ import annotations

import asyncio

import pytest

from interlock.domain import commands as c
from interlock.domain import effects as e
from interlock.domain.entities import LoadSpec
from interlock.domain.errors import Fenced, WorkerUnavailable
from tests.workers.rig import Rig


async def test_an_install_quotes_replica_and_operation_and_tells_the_address(rig: Rig) -> None:
    effect = rig.effect(e.InstallBackend, "r-1")
    (report,) = await rig.workers.perform(effect, 1)
    assert isinstance(report, c.ReportInstalled)
    assert (report.replica, report.op) == ("r-1", effect.op)
    assert ":" in report.address


async def test_what_runs_is_listed_with_its_replica_model_index_and_address(rig: Rig) -> None:
    address = await rig.installed("r-1", index=3)
    (running,) = await rig.running()
    assert (running.replica, running.model, running.index, running.address) == ("r-1", "m", 3, address)
    assert running.process
    assert (await rig.workers.running(rig.node)).boot


async def test_the_same_operation_twice_is_one_process(rig: Rig) -> None:
    effect = rig.effect(e.InstallBackend, "r-1")
    first = await rig.workers.perform(effect, 1)
    assert await rig.workers.perform(effect, 1) == first
    assert len(await rig.running()) == 1


async def test_the_same_operation_twice_at_once_is_one_process(rig: Rig) -> None:
    effect = rig.effect(e.InstallBackend, "r-1")
    first, second = await asyncio.gather(rig.workers.perform(effect, 1), rig.workers.perform(effect, 1))
    assert first == second
    assert len(await rig.running()) == 1


async def test_two_operations_for_one_replica_are_one_process(rig: Rig) -> None:
    effects = [rig.effect(e.InstallBackend, "r-1") for _ in range(2)]
    (first,), (second,) = await asyncio.gather(*(rig.workers.perform(effect, 1) for effect in effects))
    assert isinstance(first, c.ReportInstalled)
    assert isinstance(second, c.ReportInstalled)
    assert first.address == second.address
    assert len(await rig.running()) == 1


async def test_each_replica_has_an_address_of_its_own(rig: Rig) -> None:
    assert await rig.installed("r-1") != await rig.installed("r-2", index=1)


async def test_an_install_without_a_backend_fails(rig: Rig) -> None:
    report = await rig.do(e.InstallBackend, "r-1", spec=LoadSpec())
    assert isinstance(report, c.ReportLoadFailed)
    assert "backend" in report.reason
    assert await rig.running() == ()


async def test_an_install_of_an_unknown_backend_fails_and_names_it(rig: Rig) -> None:
    report = await rig.do(e.InstallBackend, "r-1", spec=LoadSpec(backend="no-such-thing"))
    assert isinstance(report, c.ReportLoadFailed)
    assert "no-such-thing" in report.reason


async def test_staging_answers(rig: Rig) -> None:
    report = await rig.do(e.StageModel, "r-1")
    assert isinstance(report, c.ReportStaged)


async def test_a_load_may_be_repeated_under_its_own_and_another_operation(rig: Rig) -> None:
    address = await rig.installed("r-1")
    effect = rig.effect(e.LoadModel, "r-1", address=address)
    for _ in range(2):
        (report,) = await rig.workers.perform(effect, 1)
        assert isinstance(report, c.ReportLoaded)
        assert (report.replica, report.op) == ("r-1", effect.op)
    assert isinstance(await rig.do(e.LoadModel, "r-1", address=address), c.ReportLoaded)


async def test_a_load_that_fails_is_reported_in_the_backends_own_words(rig: Rig) -> None:
    spec = LoadSpec(backend="echo", options={"fail": "load", "message": "out of memory: 9 GiB wanted"})
    address = await rig.installed("r-1", spec=spec)
    report = await rig.do(e.LoadModel, "r-1", spec=spec, address=address)
    assert isinstance(report, c.ReportLoadFailed)
    assert report.reason == "out of memory: 9 GiB wanted"


async def test_a_load_where_nothing_runs_fails(rig: Rig) -> None:
    report = await rig.do(e.LoadModel, "r-1", address="127.0.0.1:1")
    assert isinstance(report, c.ReportLoadFailed)


async def test_an_unload_is_confirmed_when_nothing_of_the_replica_is_left(rig: Rig) -> None:
    address = await rig.loaded("r-1")
    assert isinstance(await rig.do(e.UnloadModel, "r-1", address=address), c.ReportUnloaded)
    assert await rig.running() == ()


async def test_an_unload_of_what_is_not_there_is_confirmed(rig: Rig) -> None:
    assert isinstance(await rig.do(e.UnloadModel, "r-9"), c.ReportUnloaded)


async def test_an_unload_leaves_other_replicas_alone(rig: Rig) -> None:
    await rig.loaded("r-1")
    await rig.loaded("r-2", index=1)
    await rig.do(e.UnloadModel, "r-1")
    assert [running.replica for running in await rig.running()] == ["r-2"]


async def test_an_install_that_comes_after_the_unload_starts_nothing(rig: Rig) -> None:
    await rig.do(e.UnloadModel, "r-1")
    report = await rig.do(e.InstallBackend, "r-1")
    assert isinstance(report, c.ReportLoadFailed)
    assert await rig.running() == ()


async def test_an_unload_ends_a_load_in_progress(rig: Rig) -> None:
    await rig.installed("r-1", spec=LoadSpec(backend="echo", options={"fail": "load"}))
    assert isinstance(await rig.do(e.UnloadModel, "r-1"), c.ReportUnloaded)
    assert isinstance(await rig.do(e.LoadModel, "r-1"), c.ReportLoadFailed)


async def test_a_stray_is_stopped_by_its_process(rig: Rig) -> None:
    await rig.installed("r-1")
    await rig.installed("r-2", index=1)
    (stray,) = [running.process for running in await rig.running() if running.replica == "r-1"]
    answer = await rig.workers.perform(e.StopStray(op="s-1", node=rig.node, process=stray), 1)
    assert answer == [c.ReportStrayStopped(node=rig.node, process=stray)]
    assert [running.replica for running in await rig.running()] == ["r-2"]


async def test_an_older_epoch_is_refused_and_does_nothing(rig: Rig) -> None:
    await rig.installed("r-1", epoch=5)
    for effect in (
        rig.effect(e.InstallBackend, "r-2", index=1),
        rig.effect(e.StageModel, "r-1"),
        rig.effect(e.UnloadModel, "r-1"),
    ):
        with pytest.raises(Fenced):
            await rig.workers.perform(effect, 4)
    assert [running.replica for running in await rig.running()] == ["r-1"]


async def test_a_newer_epoch_repeats_the_same_operation(rig: Rig) -> None:
    effect = rig.effect(e.InstallBackend, "r-1")
    first = await rig.workers.perform(effect, 1)
    assert await rig.workers.perform(effect, 2) == first
    with pytest.raises(Fenced):
        await rig.workers.perform(effect, 1)


async def test_an_order_for_another_worker_of_the_same_name_is_left_to_that_one(rig: Rig) -> None:
    await rig.installed("r-1")
    report = await rig.workers.running(rig.node)
    (process,) = [running.process for running in report.running]
    with pytest.raises(WorkerUnavailable):
        await rig.workers.perform(e.StopStray(op="s-1", node=rig.node, boot="another", process=process), 1)
    assert [running.replica for running in await rig.running()] == ["r-1"]
    await rig.workers.perform(e.StopStray(op="s-2", node=rig.node, boot=report.boot, process=process), 1)
    assert await rig.running() == ()


async def test_a_node_that_nobody_speaks_for_is_unavailable(rig: Rig) -> None:
    with pytest.raises(WorkerUnavailable):
        await rig.workers.running("nowhere")
    with pytest.raises(WorkerUnavailable):
        await rig.workers.perform(e.StopStray(op="s-1", node="nowhere", process="p"), 1)


async def test_a_process_that_dies_is_reported_and_no_longer_listed(rig: Rig) -> None:
    await rig.loaded("r-1")
    await rig.kill("r-1")
    report = await rig.reports.until(lambda heard: isinstance(heard, c.ReportReplicaDied))
    assert isinstance(report, c.ReportReplicaDied)
    assert report.replica == "r-1"
    assert "SIGKILL" in report.reason
    assert await rig.running() == ()


async def test_the_operation_of_a_process_that_died_does_not_send_anybody_to_its_port(rig: Rig) -> None:
    effect = rig.effect(e.InstallBackend, "r-1")
    await rig.workers.perform(effect, 1)
    await rig.kill("r-1")
    await rig.reports.until(lambda heard: isinstance(heard, c.ReportReplicaDied))
    (report,) = await rig.workers.perform(effect, 1)
    assert isinstance(report, c.ReportLoadFailed)
