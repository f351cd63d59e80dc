"""One backend process: started on a port, known by a pid file, watched until it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import msgspec

from interlock.adapters.backends.server import NO_BACKEND, PORT_TAKEN
from interlock.domain.errors import BackendFailed, Conflict

from . import pidfiles

log = logging.getLogger(__name__)

_SERVER = "interlock.adapters.backends.server"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is to be: for which replica of which model, with which backend."""

    backend: str
    model: str
    index: int
    replica: str = ""
    epoch: int = 0
    devices: tuple[str, ...] = ()
    """The GPUs that it may see, by the driver's own ids; empty: whatever the worker itself sees."""

    @property
    def key(self) -> str:
        """The process key, ``model#index``, as LocalAI names processes."""
        return f"{self.model}#{self.index}"


class PortTaken(Conflict):
    """Somebody else listens at the port; another one may do."""


class StartFailed(BackendFailed):
    """The process ended, or did not answer, before it was ready; the message is in its words."""


class BackendProcess:
    """A running process. ``ended`` is set with how it ended once it is gone; ``ready`` once its port answers."""

    def __init__(self, process_id: str, wanted: Wanted, port: int, host: str, folder: Path) -> None:
        self.id = process_id
        self.wanted = wanted
        self.port = port
        self.stopping = False
        self.ready = False
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._host = host
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._why = ""

    @property
    def pid(self) -> int:
        """Its process id; 0 before it is started."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return not self.ended.done()

    async def start(self, models: Path, timeout_s: float) -> None:
        """Start it and return when its port answers; raises PortTaken or StartFailed, with nothing left running."""
        receive, send = os.pipe()
        try:
            await self._spawn(models, send)
        except BaseException:
            os.close(receive)
            raise
        finally:
            os.close(send)
        told = await _first_line(receive, timeout_s)
        if told:
            self.ready = True
            return
        if self.alive and self._process is not None and self._process.returncode is None and told is None:
            await self.stop(0)
            raise StartFailed(f"no answer on port {self.port} within {timeout_s:g} s; {self.last_words()}")
        await self.ended
        code = self._process.returncode if self._process else None
        if code == PORT_TAKEN:
            raise PortTaken(f"port {self.port} is taken.")
        if code == NO_BACKEND:
            raise StartFailed(self.last_words())
        raise StartFailed(f"the process ended at its start ({self.ended.result()})")

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, kill it after ``grace_s``, and return when it is gone. May be called more than once."""
        self.stopping = True
        if self._process is None or not self.alive:
            return
        if grace_s > 0:
            self._signal(signal.SIGTERM)
            await asyncio.wait([self.ended], timeout=grace_s)
        if self.alive:
            self._kill_group()
        await self.ended

    def kill(self, why: str) -> None:
        """Kill it as if it had ended by itself; ``why`` is told with how it ended."""
        self._why = f"{why}; "
        self._kill_group()

    def last_words(self) -> str:
        """The last line that it wrote, for people."""
        try:
            with self._log_path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1].strip()[:500] if lines else "it wrote nothing"

    def forget(self, *, keep_log: bool) -> None:
        """Remove its files."""
        self._pid_path.unlink(missing_ok=True)
        if not keep_log:
            self._log_path.unlink(missing_ok=True)

    @property
    def _pid_path(self) -> Path:
        return self._folder / "processes" / f"{self.id}.json"

    @property
    def _log_path(self) -> Path:
        return self._folder / "logs" / f"{self.id}.log"

    async def _spawn(self, models: Path, ready_fd: int) -> None:
        wanted = self.wanted
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        # Each as one word: a model may be named like a flag.
        arguments = [
            f"--backend={wanted.backend}",
            f"--host={self._host}",
            f"--port={self.port}",
            f"--model={wanted.model}",
            f"--replica={wanted.replica}",
            f"--index={wanted.index}",
            f"--epoch={wanted.epoch}",
            f"--process={self.id}",
            f"--models={models}",
            f"--parent={os.getpid()}",
            f"--ready-fd={ready_fd}",
        ]
        with self._log_path.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                _SERVER,
                *arguments,
                stdin=asyncio.subprocess.PIPE,  # its lifeline: it ends when this end closes, as it does when we die
                stdout=output,
                stderr=output,
                pass_fds=(ready_fd,),
                start_new_session=True,  # Ctrl-C goes to the whole group: the worker stops its processes itself
                env=_environment(wanted.devices),
            )
        pidfiles.write(self._pid_path, self._process.pid, self.id)
        self._watch = asyncio.create_task(self._await_end(self._process), name=f"watch {self.id}")

    async def _await_end(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        self.ended.set_result(f"{self._why}{how}; {self.last_words()}")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    def _kill_group(self) -> None:
        """Kill it and its children. Safe only while it has not been waited for: its id cannot be another's then."""
        if self._process is None or self._process.returncode is not None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._signal(signal.SIGKILL)


def _environment(devices: tuple[str, ...]) -> dict[str, str]:
    """What a backend inherits: everything but our own settings, among which are secrets; and which GPUs are its own.

    Where somebody has restricted the worker already, that stands.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices), **inherited} if devices else inherited


async def _first_line(receive: int, timeout_s: float) -> bytes | None:
    """What the process says on its ready pipe: empty when it closed it, None when it said nothing in time."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[bytes] = loop.create_future()

    def on_readable() -> None:
        loop.remove_reader(receive)
        if not told.done():
            told.set_result(os.read(receive, 64))

    loop.add_reader(receive, on_readable)
    try:
        async with asyncio.timeout(timeout_s):
            return await told
    except TimeoutError:
        return None
    finally:
        loop.remove_reader(receive)
        os.close(receive)
