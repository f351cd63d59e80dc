"""A backend that does not answer is not dead: its worker says that it runs, and can still end it."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil

from interlock.domain import commands as c
from interlock.domain import effects as e
from tests.workers.rig import RealRig


async def test_a_backend_that_is_stopped_still_counts_as_running_and_serves_when_it_goes_on(real_rig: RealRig) -> None:
    address = await real_rig.loaded("r-1")
    pid = await real_rig.pid("r-1")
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(10):
            while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
                await asyncio.sleep(0)
        report = await real_rig.workers.running(real_rig.node)
        assert [(process.replica, process.address) for process in report.running] == [("r-1", address)]
        assert not [heard for heard in real_rig.reports.heard if isinstance(heard, c.ReportReplicaDied)]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await real_rig.loaded("r-2", index=1)


async def test_a_backend_that_is_stopped_for_good_can_be_unloaded_all_the_same(real_rig: RealRig) -> None:
    await real_rig.loaded("r-1")
    pid = await real_rig.pid("r-1")
    os.kill(pid, signal.SIGSTOP)
    answer = await real_rig.do(e.UnloadModel, "r-1")
    assert isinstance(answer, c.ReportUnloaded)
    async with asyncio.timeout(10):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0)
    assert (await real_rig.workers.running(real_rig.node)).running == ()


async def test_a_backend_that_is_killed_is_told_of_at_once_and_is_no_longer_among_what_runs(real_rig: RealRig) -> None:
    await real_rig.loaded("r-1")
    os.kill(await real_rig.pid("r-1"), signal.SIGKILL)
    died = await real_rig.reports.until(lambda heard: isinstance(heard, c.ReportReplicaDied))
    assert died.replica == "r-1"
    assert (await real_rig.workers.running(real_rig.node)).running == ()


async def test_a_success_that_comes_after_the_unload_leaves_nothing_running(real_rig: RealRig) -> None:
    """The control plane gives a load up while it goes on: whatever is done first, no process of it is left."""
    address = await real_rig.installed("r-1")
    load = real_rig.effect(e.LoadModel, "r-1", address=address)
    loading = asyncio.create_task(real_rig.workers.perform(load, 1))
    unloaded = await real_rig.do(e.UnloadModel, "r-1", address=address)
    assert isinstance(unloaded, c.ReportUnloaded)
    await asyncio.wait([loading], timeout=20)
    assert (await real_rig.workers.running(real_rig.node)).running == ()
    loading.cancel()
