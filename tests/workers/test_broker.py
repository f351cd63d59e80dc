"""The broker that ``up`` starts."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from nats.aio.msg import Msg

from interlock.adapters.nats import connection
from interlock.adapters.nats.broker import Broker
from interlock.adapters.nats.connection import NatsConfig
from interlock.domain.errors import BrokerUnavailable, InvalidSetting

STARTER = """
import asyncio, pathlib, sys
from interlock.adapters.nats.broker import Broker

async def main():
    broker = Broker(pathlib.Path(sys.argv[1]))
    await broker.start()
    print(broker.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_broker_keeps_port_and_credentials_over_a_restart(tmp_path: Path) -> None:
    first = Broker(tmp_path)
    before = await first.start()
    await first.stop()
    second = Broker(tmp_path)
    after = await second.start()
    await second.stop()
    assert (before.url, before.user, before.password) == (after.url, after.user, after.password)
    assert first.pid == second.pid == 0


async def test_only_its_owner_can_read_a_brokers_credentials(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    config = await broker.start()
    pid = broker.pid
    words = " ".join(psutil.Process(pid).cmdline())
    await broker.stop()
    assert len(config.password) >= 32
    assert config.password not in words
    assert config.password not in repr(config)
    for name in ("nats.conf", "credentials.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


async def test_a_broker_lets_nobody_in_without_its_credentials(broker: NatsConfig) -> None:
    for wrong in (NatsConfig(broker.url), NatsConfig(broker.url, broker.user, "guess")):
        with pytest.raises(BrokerUnavailable):
            await connection.connect(wrong, "intruder", timeout_s=2)


async def test_a_broker_listens_on_loopback_only(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    await broker.start()
    listening = [each for each in psutil.Process(broker.pid).net_connections() if each.status == psutil.CONN_LISTEN]
    await broker.stop()
    assert {each.laddr.ip for each in listening} == {"127.0.0.1"}


async def test_a_broker_ends_with_whoever_started_it(tmp_path: Path) -> None:
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTER, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert starter.stdout is not None
    pid = int(await starter.stdout.readline())
    assert psutil.pid_exists(pid)
    os.kill(starter.pid, signal.SIGKILL)
    await starter.wait()
    async with asyncio.timeout(10):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


async def test_a_leftover_broker_is_stopped_by_the_next(tmp_path: Path) -> None:
    first = Broker(tmp_path)
    await first.start()
    left_over = first.pid
    second = Broker(tmp_path)
    config = await second.start()
    client = await connection.connect(config, "test")
    await connection.close(client)
    assert first.pid == 0
    assert second.pid not in (0, left_over)
    await second.stop()


async def test_no_broker_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(BrokerUnavailable, match="--nats"):
        await connection.connect(NatsConfig("nats://127.0.0.1:1"), "test", timeout_s=1)


@pytest.mark.parametrize("port", ["²", "9" * 5000, "99999", "0", "x"])
def test_an_address_whose_port_is_none_is_refused_without_its_password(port: str) -> None:
    for url in (f"nats://ann:secret@10.0.0.1:{port}", f"10.0.0.1:{port}", "nats://[::1"):
        with pytest.raises(InvalidSetting, match="names no address") as refused:
            NatsConfig.parse(url)
        assert "secret" not in str(refused.value)


def test_credentials_come_from_the_url_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOCK_NATS_USER", "env-user")
    monkeypatch.setenv("INTERLOCK_NATS_PASSWORD", "env-password")
    inside = NatsConfig.parse("nats://ann:p%40ss@10.0.0.1:4222")
    outside = NatsConfig.parse("10.0.0.1:4222")
    assert (inside.url, inside.user, inside.password) == ("nats://10.0.0.1:4222", "ann", "p@ss")
    assert (outside.url, outside.user, outside.password) == ("nats://10.0.0.1:4222", "env-user", "env-password")


async def test_a_subscription_that_is_settled_is_in_force(broker: NatsConfig) -> None:
    listener, asker = [await connection.connect(broker, name) for name in ("listener", "asker")]

    async def answer(message: Msg) -> None:
        await message.respond(b"here")

    for _ in range(100):
        subject = f"settled.{uuid4().hex}"
        await listener.subscribe(subject, cb=answer)
        await connection.settle(listener)
        assert (await asker.request(subject, b"", timeout=5)).data == b"here"
    for client in (listener, asker):
        await connection.close(client)
