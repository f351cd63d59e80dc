"""``up`` and ``serve``: everything wired, started in order, stopped in the opposite order, with nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterable

import msgspec

from interlock.adapters.nats.broker import Broker
from interlock.adapters.nats.connection import NatsConfig
from interlock.domain.commands import Command, DeclareModel
from interlock.domain.engine import Engine
from interlock.domain.entities import LoadSpec, Scheduling
from interlock.domain.errors import InvalidSetting, NoWriter
from interlock.domain.units import MIB

from .assembly import ControlPlane
from .config import Configuration, load_config
from .fleet import Fleet, local_workers
from .folder import DataFolder, Endpoint

log = logging.getLogger(__name__)

_LEAD_LIMIT_S = 15.0
"""An embedded store has no other writer for so long, or something is wrong with it."""

BUILT_IN_MODELS = (
    DeclareModel(
        model="embeddings",
        spec=LoadSpec(backend="embeddings", vram=64 * MIB),
        scheduling=Scheduling(parallel=16),
    ),
    DeclareModel(model="echo", spec=LoadSpec(backend="echo", vram=MIB), scheduling=Scheduling(parallel=16)),
)


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The flags of ``interlock up``; None where one was not given. ``config`` is the path of an ``interlock.toml``."""

    store: str | None = None
    nats: str | None = None
    workers: str | None = None
    http: str | None = None
    data: str | None = None
    insecure: bool | None = None
    config: str | None = None


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The flags of ``interlock serve``; None where one was not given."""

    store: str | None = None
    nats: str | None = None
    http: str | None = None
    data: str | None = None
    insecure: bool | None = None
    config: str | None = None


def run_up(options: UpOptions) -> int:
    """The whole cluster until SIGINT, SIGTERM or SIGHUP; returns the exit status.

    Raises an error of the tree, with its exit code, when the cluster cannot start.
    """
    return _run(_up(_configuration(options)))


def run_serve(options: ServeOptions) -> int:
    """A writer or standby with its gateway, without workers and broker of its own; as :func:`run_up`."""
    return _run(_serve(_configuration(options)))


def _configuration(options: UpOptions | ServeOptions) -> Configuration:
    flags = msgspec.structs.asdict(options)
    return load_config({name: value for name, value in flags.items() if name != "config"}, file=options.config).check()


def _run(main: object) -> int:
    assert asyncio.iscoroutine(main)
    result: int = asyncio.run(main)
    return result


# --- up -------------------------------------------------------------------------------------------------------------


async def _up(config: Configuration) -> int:
    stop = _stop_on_signals()
    specs = local_workers(config.text("workers"))
    gateway = config.gateway(auto_approve=True)
    folder = DataFolder(config.data)
    folder.claim()
    broker = None if config.text("nats") else Broker(folder.path / "nats")
    keeping: asyncio.Task[None] | None = None
    try:
        if broker is not None:
            nats = await broker.start()
            keeping = asyncio.create_task(broker.keep(), name="broker")
        else:
            nats = NatsConfig.parse(config.text("nats"))
        plane = ControlPlane(
            config, nats, gateway, expected=[spec.name for spec in specs], opening=built_in_models, migrates=True
        )
        await plane.start()
        fleet = Fleet(
            specs,
            folder.path,
            url=_reachable(plane.server.url),
            nats=nats,
            token=gateway.registration_token,
        )
        endpoint = Endpoint(_reachable(plane.server.url), os.getpid(), plane.server.run, gateway.admin_token)
        await _live(plane, fleet, folder, endpoint, stop, guarded=bool(gateway.client_token or gateway.tenants))
    finally:
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        if broker is not None:
            await broker.stop()
        folder.release()
    return 0


async def _live(
    plane: ControlPlane, fleet: Fleet, folder: DataFolder, endpoint: Endpoint, stop: asyncio.Event, *, guarded: bool
) -> None:
    """From a listening gateway to a stopped cluster. ``guarded``: clients need a token."""
    leading = asyncio.create_task(plane.run(), name="seat")
    try:
        await _until(plane.seat.opened, leading, stop, plane)
        if plane.seat.refused:
            first = plane.seat.refused[0]
            raise InvalidSetting(first.message, cure=first.cure)
        if not stop.is_set():
            await fleet.stop_leftovers()
            fleet.start()
            folder.announce(endpoint)
            await _until_ready(plane, leading, stop)
        if not stop.is_set():
            _say_ready(endpoint.url, guarded=guarded)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([leading, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
    finally:
        log.info("stopping")
        try:
            await plane.drain()  # while the workers, on which the running requests are, still run
        finally:
            await fleet.stop()
            await _close(plane, leading)


async def _close(plane: ControlPlane, leading: asyncio.Task[None]) -> None:
    """Stop the gateway, then the writer, then the rest; raises what ended the writer, if anything did."""
    try:
        await plane.stop_serving()
        await plane.seat.stop()
        await leading
    finally:
        await plane.close()


async def _until(opened: asyncio.Event, leading: asyncio.Task[None], stop: asyncio.Event, plane: ControlPlane) -> None:
    """Until this process leads as it is configured, or has to stop; raises what keeps it from leading."""
    waits = [asyncio.create_task(opened.wait()), asyncio.create_task(stop.wait())]
    try:
        await asyncio.wait([leading, *waits], timeout=_LEAD_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    if leading.done():
        leading.result()
    if not opened.is_set() and not stop.is_set():
        why = " ".join(plane.seat.lacks())
        raise NoWriter(f"this process cannot lead: {why}", cure="Stop the other writer, or name another --store.")


async def _until_ready(plane: ControlPlane, leading: asyncio.Task[None], stop: asyncio.Event) -> None:
    told: tuple[str, ...] = ()
    while not stop.is_set() and not leading.done():
        readiness = await plane.queries.ready()
        if readiness.ready:
            return
        if readiness.reasons != told:
            told = readiness.reasons
            log.info("waiting: %s", " ".join(told))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.05)


def built_in_models(engine: Engine) -> Iterable[Command]:
    """The models in the box, where the store has never had one of that name: what an operator removed stays removed."""
    for declared in BUILT_IN_MODELS:
        if f"model:{declared.model}" not in engine.ledger.versions and declared.model not in engine.state.aliases:
            yield declared


def _say_ready(url: str, *, guarded: bool) -> None:
    token = first = ""
    if guarded:
        token = ' -H "Authorization: Bearer $INTERLOCK_CLIENT_TOKEN"'
        if not os.environ.get("INTERLOCK_CLIENT_TOKEN"):
            first = ", with INTERLOCK_CLIENT_TOKEN set to a client's token"
    body = '{"model": "embeddings", "input": "Where does this run?"}'
    chat = '{"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}'
    kind = "-H 'Content-Type: application/json'"
    sys.stdout.write(
        f"Interlock is ready at {url}\n\nTry{first}:\n"
        f"  curl -s {url}/v1/embeddings{token} {kind} -d '{body}'\n"
        f"  curl -s {url}/v1/chat/completions{token} {kind} -d '{chat}'\n"
        f"  {_command()} nodes --url {url}\n\nCtrl-C stops all of it.\n"
    )
    sys.stdout.flush()


def _command() -> str:
    """How this program is called from the same folder: by its path, unless the shell would find it by its name."""
    called = sys.argv[0]
    return called if os.path.basename(called) == "interlock" and shutil.which("interlock") is None else "interlock"


def _reachable(url: str) -> str:
    """The URL as this machine reaches it, where the gateway listens on every address."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


# --- serve ----------------------------------------------------------------------------------------------------------


async def _serve(config: Configuration) -> int:
    stop = _stop_on_signals()
    if not config.text("nats"):
        raise InvalidSetting("nats: no broker is named.", cure="Give --nats URL, or set INTERLOCK_NATS.")
    plane = ControlPlane(config, NatsConfig.parse(config.text("nats")), config.gateway(), forwards=True)
    await plane.start()
    leading = asyncio.create_task(plane.run(), name="seat")
    stopped = asyncio.create_task(stop.wait())
    try:
        sys.stdout.write(f"Interlock serves at {plane.server.url}\n")
        sys.stdout.flush()
        await asyncio.wait([leading, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        await _close(plane, leading)
    return 0


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
