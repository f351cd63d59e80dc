"""Workers on this machine as child processes, for ``interlock up``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from interlock.domain.errors import WorkerUnavailable

from .config import WorkerConfig, arguments, environment

_STOP_GRACE_S = 15.0


class LocalWorker:
    """One worker process. It ends when we do: told to stop by :meth:`stop`, or by the kernel when we are killed.

    Its output goes to ``worker.log`` in its data folder. Start it from the thread that lives as long as it should.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 when it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start it and return; it registers when it can."""
        self.config.data.mkdir(parents=True, exist_ok=True)
        with (self.config.data / "worker.log").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "interlock.adapters.worker",
                *arguments(self.config),
                f"--parent={os.getpid()}",
                env=os.environ | environment(self.config),
                stdin=asyncio.subprocess.PIPE,  # its lifeline
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C goes to the whole group: we stop it ourselves, in order
            )

    async def wait(self) -> int:
        """Its exit status, once it has ended; raises WorkerUnavailable when it was never started."""
        if self._process is None:
            raise WorkerUnavailable(f"worker {self.config.name} is not started.")
        return await self._process.wait()

    async def send(self, number: signal.Signals) -> int:
        """Signal it, and wait for its end; returns its exit status."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
        return await self.wait()

    async def stop(self, grace_s: float = _STOP_GRACE_S) -> None:
        """Ask it to stop what it runs, say goodbye and end; kill it after ``grace_s``. Its backends end with it."""
        if self._process is None:
            return
        try:
            async with asyncio.timeout(grace_s):
                await self.send(signal.SIGTERM)
        except TimeoutError:
            await self.send(signal.SIGKILL)
