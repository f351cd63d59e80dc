"""A worker's life: clean up after the last one, register, work, stop everything, say goodbye."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nats.aio.client import Client

from interlock.adapters.nats import connection
from interlock.domain.errors import BrokerUnavailable, Conflict

from . import pidfiles
from .config import WorkerConfig
from .figures import Meter
from .link import WorkerLink
from .ports import Ports
from .process import BackendProcess
from .registration import Registration
from .supervisor import Supervisor

log = logging.getLogger(__name__)

_BROKER_PAUSE_S = 1.0


async def run_worker(config: WorkerConfig, stop: asyncio.Event | None = None) -> None:
    """Run until ``stop`` is set, or a SIGTERM or SIGINT comes when none is given. Nothing is left running after it.

    Waits for broker and control plane for as long as they take. Raises Conflict when another worker uses ``data``.
    """
    if stop is None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with _alone(config.data):
        found = await asyncio.to_thread(pidfiles.stop_all, config.data / "processes")
        if found:
            log.warning("stopped %d processes that an earlier run of this worker had left", found)
        await _Worker(config).live(stop)


class _Worker:
    """The parts of one worker, wired."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._client: Client | None = None
        self._link: WorkerLink | None = None
        self._supervisor = Supervisor(
            config.data,
            Ports(config.host, config.ports, config.port_hold_s),
            node=config.name,
            host=config.host,
            advertise=config.reached_at,
            start_timeout_s=config.start_timeout_s,
            stop_grace_s=config.stop_grace_s,
            hang_limit_s=config.hang_limit_s,
            tell=lambda progress: self._link.tell(progress) if self._link else None,
            on_death=self._on_death,
            devices=lambda pools: meter.devices(pools),
        )
        meter = Meter(self._supervisor.models, pools=config.pools, ram=config.ram, disk=config.disk)
        self._registration = Registration(
            config, self._supervisor, meter, on_refused=self._refused, on_registered=self._registered
        )

    async def live(self, stop: asyncio.Event) -> None:
        """Work until told to stop, then stop everything and say goodbye."""
        work = asyncio.create_task(self._work(), name="worker")
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, stopped):
                task.cancel()
            await asyncio.wait([work, stopped])
            await self._leave()

    async def _work(self) -> None:
        self._client = await _connected(self._config)
        # What a process leaves is told at once: a load that failed may have met others' memory there.
        self._link = WorkerLink(self._client, self._supervisor, self._config.name, self._registration.nudge)
        # Subscribed before registered: the first order may follow the registration at once.
        await self._link.subscribe(self._config.name)
        await self._registration.register()
        await self._registration.beat_for_ever()

    async def _registered(self, node_id: str) -> None:
        if self._link is not None:
            await self._link.subscribe(self._config.name)
            await self._link.subscribe(node_id)
            self._link.accept()

    async def _refused(self) -> None:
        """Another worker has our name, and with it all that the control plane asks for and knows of."""
        if self._link is not None:
            await self._link.refuse()
        await self._supervisor.stop_all()

    async def _leave(self) -> None:
        if self._link is not None:
            await self._link.unsubscribe()
        await self._supervisor.close()
        if self._link is not None:
            await self._link.close()
        await self._registration.say_goodbye()
        await self._registration.close()
        if self._client is not None:
            await connection.close(self._client)

    async def _on_death(self, process: BackendProcess) -> None:
        if self._link is not None:
            self._link.tell_death(process)
        self._registration.nudge()


async def _connected(config: WorkerConfig) -> Client:
    while True:
        try:
            return await connection.connect(config.nats, f"worker {config.name}")
        except BrokerUnavailable as error:
            log.warning("%s Again in %g s", error, _BROKER_PAUSE_S)
            await asyncio.sleep(_BROKER_PAUSE_S)


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """Keep a second worker out of ``data``: it would take our processes for orphans. The lock dies with us."""
    data.mkdir(parents=True, exist_ok=True)
    handle = os.open(data / "worker.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another worker uses {data}.", cure="Give each worker its own --data.") from None
        yield
    finally:
        os.close(handle)
