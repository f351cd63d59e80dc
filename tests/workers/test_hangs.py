"""A backend that hangs for good is found by what it does not do, and nothing else is: busy is not dead, nor is idle."""

from __future__ import annotations

import os
import signal

import pytest
from msgspec.structs import replace

from interlock.adapters.worker.config import WorkerConfig, parse
from interlock.adapters.worker.hangs import Deeds, await_hang, deeds_of
from interlock.domain import commands as c
from tests.workers.rig import RealRig, backend_pids

NOBODY = 2**22 + 1
"""A process id beyond any that the system gives."""


@pytest.fixture
def worker_config(worker_config: WorkerConfig) -> WorkerConfig:
    return replace(worker_config, hang_limit_s=1.0)


class Suspect:
    """A process that is looked at, and what it answers and does at each look; nothing when there is no word for it."""

    def __init__(self, *looks: str) -> None:
        self.looks = list(looks)
        self.done = Deeds()
        self.looked_at = 0

    async def answers(self, timeout_s: float) -> bool:
        self.looked_at += 1
        look = self.looks.pop(0) if self.looks else "nothing"
        if look in ("computes", "idles"):
            used_s = timeout_s / (10 if look == "computes" else 1000)
            self.done = replace(self.done, cpu_s=self.done.cpu_s + used_s)
        elif look == "moves a byte":
            self.done = replace(self.done, moved=self.done.moved + 1)
        return look == "answers"

    async def looks_until_it_hangs(self) -> int:
        await await_hang(self.answers, lambda: self.done, 0.04, looks=4)
        return self.looked_at


async def test_a_process_that_never_answers_and_never_does_anything_hangs_after_the_limit() -> None:
    assert await Suspect().looks_until_it_hangs() == 4
    assert await Suspect("idles", "idles", "idles", "idles").looks_until_it_hangs() == 4


@pytest.mark.parametrize("sign", ["answers", "computes", "moves a byte"])
async def test_any_sign_of_life_gives_a_process_the_whole_limit_again(sign: str) -> None:
    assert await Suspect("nothing", "nothing", "nothing", sign).looks_until_it_hangs() == 8


def test_what_a_process_does_is_seen_and_one_that_is_gone_does_nothing() -> None:
    before = deeds_of(os.getpid())
    while deeds_of(os.getpid()).cpu_s <= before.cpu_s:
        sum(range(10_000))
    assert deeds_of(NOBODY) == Deeds()


async def test_a_backend_that_hangs_for_good_is_killed_and_told_of_and_an_idle_one_is_not(real_rig: RealRig) -> None:
    await real_rig.loaded("r-1")
    await real_rig.loaded("r-2", index=1)
    pid = await real_rig.pid("r-1")
    os.kill(pid, signal.SIGSTOP)
    died = await real_rig.reports.until(lambda heard: isinstance(heard, c.ReportReplicaDied), within_s=20)
    assert isinstance(died, c.ReportReplicaDied)
    assert died.replica == "r-1"
    assert "it hung: for 1 s it answered no health call, computed nothing and moved no byte; killed" in died.reason
    assert [process.replica for process in await real_rig.running()] == ["r-2"]
    assert pid not in backend_pids("--replica=r-1")  # tests beside this one have replicas of that name, too


def test_the_limit_is_a_setting_of_the_worker() -> None:
    given = ["--name", "orin", "--nats", "nats://127.0.0.1:1"]
    assert parse(given).hang_limit_s == 600
    assert parse([*given, "--hang-limit", "forever"]).hang_limit_s > 10**9
