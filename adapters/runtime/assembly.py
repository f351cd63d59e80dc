"""One control plane, wired: store, broker connection, seat, gateway, event fan-out. ``up`` and ``serve`` start it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence

from interlock.adapters import own_rules
from interlock.adapters.audit.service import AsyncAudit, AuditService
from interlock.adapters.grpc.client import BackendClient
from interlock.adapters.http.app import Server, build_app, serve_http
from interlock.adapters.http.config import GatewayConfig
from interlock.adapters.nats import connection
from interlock.adapters.nats.commands import CommandServer, NatsCommands
from interlock.adapters.nats.connection import NatsConfig
from interlock.adapters.nats.worker_link import NatsWorkers
from interlock.adapters.store import is_postgres, migrate, open_store
from interlock.adapters.store.recorders import LogTrackingRecorder
from interlock.domain.commands import AnyReply, ChangeSettings, Command, Envelope, Locked, Rejected
from interlock.domain.engine import Engine
from interlock.domain.errors import NoWriter
from interlock.domain.ports import Renewal

from . import crashpoints
from .clock import SystemClock
from .config import Configuration
from .fanout import Fanout, StoreTracker
from .queries import Queries
from .store_threads import StoreThreads
from .takeover import Seat

log = logging.getLogger(__name__)

Opening = Callable[[Engine], Iterable[Command]]


class _LocalDoor:
    """The seat as other gateways reach it: the writer here or nobody, so that no command goes in circles."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    def _check(self) -> Seat:
        if self._seat.term is None:
            raise NoWriter("this process does not lead.")
        return self._seat

    async def send(self, envelope: Envelope) -> AnyReply:
        """See ``CommandPort``."""
        return await self._check().send(envelope)

    async def acquire(self, envelope: Envelope) -> Locked | Rejected:
        """See ``CommandPort``."""
        return await self._check().acquire(envelope)

    async def renew_lease(self, holder: str) -> Renewal:
        """See ``CommandPort``."""
        return await self._check().renew_lease(holder)


class ControlPlane:
    """Store, seat and gateway of one process: :meth:`start`, :meth:`run` beside whatever else, :meth:`close`.

    ``opening`` gives the commands that every term of this process begins with.
    """

    def __init__(
        self,
        config: Configuration,
        nats: NatsConfig,
        gateway: GatewayConfig,
        *,
        expected: Sequence[str] = (),
        opening: Opening = lambda engine: (),
        forwards: bool = False,
        migrates: bool = False,
    ) -> None:
        self._config, self._nats, self._gateway = config, nats, gateway
        self._expected, self._opening = expected, opening
        self._forwards, self._migrates = forwards, migrates
        self._closing = contextlib.AsyncExitStack()
        self._run = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.seat: Seat
        self.server: Server
        self.queries: Queries

    async def start(self) -> None:
        """Open the store, connect, and listen; raises what stands in the way, having closed all that was opened."""
        try:
            await self._start()
        except BaseException:
            await self._closing.aclose()
            raise

    async def _start(self) -> None:
        url, clock, reach = self._config.store, SystemClock(), crashpoints.from_environment()
        own_rules.install()
        if self._migrates and is_postgres(url):
            await asyncio.to_thread(migrate, url)
        opened = await asyncio.to_thread(open_store, url)
        store = StoreThreads(opened, reach)
        self._closing.push_async_callback(store.close)
        client = await connection.connect(self._nats, f"control plane {self._run}")
        self._closing.push_async_callback(connection.close, client)
        backends = BackendClient()
        self._closing.push_async_callback(backends.close)
        workers = NatsWorkers(client, backends, self._report)
        forward = NatsCommands(client) if self._forwards else None
        self.seat = Seat(
            store,
            workers,
            clock,
            owner=self._run,
            lease_us=self._config.settings().writer_lease,
            expected=self._expected,
            opening=self._envelopes,
            forward=forward,
            broker=lambda: client.is_connected,
            reach=reach,
            snapshot_events=self._config.snapshot_events,
        )
        await workers.start()
        self._closing.push_async_callback(workers.close)
        if forward is not None:
            await forward.start()
            self._closing.push_async_callback(forward.close)
        fanout = Fanout(client, store, self.seat.feed, StoreTracker(LogTrackingRecorder(opened)))
        leading = asyncio.create_task(self._while_leading(CommandServer(client, _LocalDoor(self.seat)), fanout))
        self._closing.push_async_callback(_cancel, leading)
        await self._listen(store, clock, backends, AsyncAudit(AuditService(opened)))

    async def _listen(
        self, store: StoreThreads, clock: SystemClock, backends: BackendClient, audit: AsyncAudit
    ) -> None:
        """Open the gateway in front of the seat."""
        self.queries = Queries(
            store,
            clock,
            state=self.seat.state,
            fork=self.seat.fork,
            last_heard=self.seat.last_heard,
            readiness=self.seat.lacks,
            figures=self.seat.figures,
        )
        app = build_app(
            self.seat,
            self.queries,
            backends,
            self._gateway,
            liveness=self.seat,
            audit=audit,
            events=self.seat.feed,
        )
        self.server = await serve_http(app, *self._config.address())

    async def run(self) -> None:
        """Follow and lead until :meth:`stop`; see :meth:`Seat.run`."""
        await self.seat.run()

    async def drain(self) -> None:
        """Refuse new requests; running ones end within the gateway's ``drain_limit``."""
        await self.server.drain()

    async def stop_serving(self) -> None:
        """Drain, and stop listening."""
        await self.server.close()

    async def close(self) -> None:
        """Close what :meth:`start` opened; the seat's run has ended."""
        await self._closing.aclose()

    async def _report(self, command: Command) -> None:
        await self.seat.report(command)

    def _envelopes(self, engine: Engine) -> list[Envelope]:
        wanted = self._config.scheduler()
        changed = {name: value for name, value in wanted.items() if getattr(engine.state.settings, name) != value}
        commands: list[Command] = [ChangeSettings(values=changed)] if changed else []
        commands += self._opening(engine)
        return [
            Envelope(
                command_id=f"opening-{self._run}-{engine.ledger.position}-{place}",
                command=command,
                actor="configuration",
            )
            for place, command in enumerate(commands)
        ]

    async def _while_leading(self, commands: CommandServer, fanout: Fanout) -> None:
        """Take other gateways' commands, and publish events, in every term of this process."""
        while True:
            await self.seat.began.wait()
            await commands.start()
            publishing = asyncio.create_task(fanout.run(), name="fanout")
            try:
                await self.seat.ended.wait()
            finally:
                await _cancel(publishing)
                await commands.close()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
