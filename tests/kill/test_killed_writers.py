"""SIGKILL between deciding and effect: what was acknowledged is in the log, and what is in the log is the state."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from interlock.adapters.store import open_store
from tests.kill.killing import LEASE_US, Campaign, Life, program

KILLS = 25
SOAK_KILLS = 400


def test_a_writer_killed_anywhere_loses_nothing_on_sqlite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    campaign = Campaign(str(tmp_path / "store"), tmp_path, seed=1)
    campaign.run(KILLS)
    with capsys.disabled():
        print(f"\nsqlite: {campaign.report()}")
    assert sum(campaign.hits.values()) == KILLS


@pytest.mark.xdist_group("postgres")
def test_a_writer_killed_anywhere_loses_nothing_on_postgres(
    tmp_path: Path, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = Campaign(postgres_url, tmp_path, seed=2)
    campaign.run(KILLS)
    with capsys.disabled():
        print(f"\npostgres: {campaign.report()}")
    assert sum(campaign.hits.values()) == KILLS


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [11, 12])
def test_many_more_kills_on_sqlite(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    campaign = Campaign(str(tmp_path / "store"), tmp_path, seed=seed)
    campaign.run(SOAK_KILLS)
    with capsys.disabled():
        print(f"\nsqlite: {campaign.report()}")
    assert sum(campaign.hits.values()) == SOAK_KILLS


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.xdist_group("postgres")
def test_many_more_kills_on_postgres(tmp_path: Path, postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    campaign = Campaign(postgres_url, tmp_path, seed=21)
    campaign.run(SOAK_KILLS)
    with capsys.disabled():
        print(f"\npostgres: {campaign.report()}")
    assert sum(campaign.hits.values()) == SOAK_KILLS


# --- Two writers on one store ---------------------------------------------------------------------------------------


def next_line(process: subprocess.Popen, kind: str) -> str:
    """The next line of that kind."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(kind.encode()):
            return line.decode()
    raise AssertionError(f"it ended without a line {kind!r}")


def epochs_of(url: str) -> list[tuple[int, str]]:
    """Every stored event's epoch and command."""
    store = open_store(url, read_only=True)
    try:
        return [(recorded.epoch, recorded.command_id) for recorded in store.read()]
    finally:
        store.close()


@pytest.mark.xdist_group("postgres")
def test_the_second_writer_waits_and_takes_over_within_the_lease_when_the_first_is_killed(postgres_url: str) -> None:
    with program(postgres_url, 1) as first:
        next_line(first, "ack")
        with program(postgres_url, 2) as second:
            for _ in range(200):
                next_line(first, "ack")
            assert {epoch for epoch, _ in epochs_of(postgres_url)} == {1}, "the second has appended"
            first.kill()
            first.wait()
            killed_at = time.monotonic()
            next_line(second, "state")
            next_line(second, "ack")
            took_s = time.monotonic() - killed_at
    assert took_s < LEASE_US / 1e6 + 2.0
    epochs = [epoch for epoch, _ in epochs_of(postgres_url)]
    assert epochs == sorted(epochs)
    assert epochs[-1] == 2


@pytest.mark.xdist_group("postgres")
def test_a_paused_writer_that_wakes_up_adds_nothing_after_the_takeover(postgres_url: str) -> None:
    with program(postgres_url, 1) as first, program(postgres_url, 2) as second:
        leader, other = (first, second) if who_leads(first, second) == first.pid else (second, first)
        for _ in range(100):
            next_line(leader, "ack")
        os.kill(leader.pid, signal.SIGSTOP)
        next_line(other, "state")
        next_line(other, "ack")
        taken = max(epoch for epoch, _ in epochs_of(postgres_url))
        os.kill(leader.pid, signal.SIGCONT)
        for _ in range(300):
            next_line(other, "ack")
        leader.kill()
        rest, _ = leader.communicate(timeout=20)
    epochs = epochs_of(postgres_url)
    assert [epoch for epoch, _ in epochs] == sorted(epoch for epoch, _ in epochs), "epochs interleave"
    after = [command for epoch, command in epochs if epoch >= taken]
    assert not [command for command in after if command.startswith(f"p{leader.pid}-")], "the paused one has appended"
    stored = {command for _, command in epochs}
    acked = [command for command, _ in Life(rest.decode().splitlines()).acked()]
    assert [command for command in acked if command not in stored] == []


def who_leads(*processes: subprocess.Popen) -> int:
    """The process id of the one that says something first: a standby is silent."""

    async def listen() -> int:
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[int] = loop.create_future()
        for process in processes:
            assert process.stdout is not None
            loop.add_reader(process.stdout.fileno(), lambda pid=process.pid: heard.done() or heard.set_result(pid))
        return await asyncio.wait_for(heard, 20)

    return asyncio.run(listen())
