"""The local workers of ``up``: real processes, named and labelled, started again when they fall, stopped at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from interlock.adapters.http.nodes import check_name
from interlock.adapters.modelfile import parse_budget
from interlock.adapters.nats.connection import NatsConfig
from interlock.adapters.worker import pidfiles
from interlock.domain.documents import parse_toml
from interlock.domain.errors import InvalidSetting, UnreadableFile, UsageError
from interlock.domain.nodes import MOST_SLOTS
from interlock.domain.units import parse_size, whole_number

log = logging.getLogger(__name__)

_STOP_GRACE_S = 12.0
"""Longer than a worker takes: its backends have five seconds, its goodbye three."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_MOST_WORKERS = 64
_FILE_CURE = "docs/operations.md describes the file."

# Asks the kernel to end the worker with us, so that none is left when we are killed.
_DIE_WITH_PARENT = """
import ctypes, os, runpy, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    sys.argv = ["interlock worker", *sys.argv[2:]]
    runpy.run_module("interlock.adapters.worker", run_name="__main__")
"""


class WorkerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One local worker, as a ``[[workers]]`` table of a workers file writes it; sizes as text."""

    name: str
    labels: dict[str, str] = {}
    vram: str = ""
    ram: str = ""
    disk: str = ""
    slots: int = 1
    vram_budget: str = ""


class _WorkersFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    workers: list[WorkerSpec] = []


def _check(worker: WorkerSpec) -> None:
    """What the worker itself would refuse, it must not refuse again and again as a process of its own."""
    check_name(worker.name)
    if not 1 <= worker.slots <= MOST_SLOTS:
        raise UsageError(f"{worker.name}: slots: {worker.slots} is not from 1 to {MOST_SLOTS}.")
    for size in (*worker.vram.split(","), worker.ram, worker.disk):
        if size:
            parse_size(size, worker.name)
    parse_budget(worker.vram_budget, worker.name)


def local_workers(text: str) -> list[WorkerSpec]:
    """The workers that ``--workers N|FILE`` means: ``orin``, ``thor``, ``worker-3`` and so on, or the file's."""
    if text.isdecimal():
        count = whole_number(text, most=_MOST_WORKERS)
        if count is None:
            problem = f"workers: {text[:40]} is no number of workers up to {_MOST_WORKERS}."
            raise InvalidSetting(problem, cure="Start workers of their own.")
        named = [("orin", {"tier": "slow"}), ("thor", {"tier": "fast"})]
        named += [(f"worker-{number}", {}) for number in range(3, count + 1)]
        return [WorkerSpec(name=name, labels=labels) for name, labels in named[:count]]
    path = Path(text)
    try:
        workers = msgspec.convert(parse_toml(path.read_text(encoding="utf-8")), _WorkersFile).workers
        for worker in workers:
            _check(worker)
    except OSError as error:
        problem = f"{path}: {(error.strerror or str(error)).lower()}."
        raise UnreadableFile(problem, cure="Give a number, or a TOML file with [[workers]].") from None
    except (ValueError, UsageError) as error:
        raise UnreadableFile(f"{path}: {str(error).rstrip('.')}.", cure=_FILE_CURE) from None
    if not workers:
        raise UnreadableFile(f"{path}: it describes no worker.", cure=_FILE_CURE)
    if len({worker.name for worker in workers}) < len(workers):
        raise UnreadableFile(f"{path}: two workers have the same name.", cure="Name each differently.")
    return workers


class Fleet:
    """Keeps the workers running. Start it from the main thread: the kernel ends them with their starting thread."""

    def __init__(
        self,
        specs: list[WorkerSpec],
        data: Path,
        *,
        url: str,
        nats: NatsConfig,
        token: str = "",
    ) -> None:
        self._specs, self._data = specs, data
        self._url, self._nats, self._token = url, nats, token
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._watching: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {name: process.pid for name, process in self._processes.items()}

    async def stop_leftovers(self) -> None:
        """Stop the workers of an earlier run that outlived it."""
        await asyncio.to_thread(pidfiles.stop_all, self._data / "run", grace_s=_STOP_GRACE_S)

    def start(self) -> None:
        """Start all, and start each again when it ends by itself."""
        for spec in self._specs:
            self._launch(spec)
            self._watching.append(asyncio.create_task(self._watch(spec), name=f"worker {spec.name}"))

    async def stop(self) -> None:
        """Stop all at once, by their process ids, and wait until they are gone."""
        self._stopping = True
        for task in self._watching:
            task.cancel()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        await asyncio.gather(*(self._end(process) for process in self._processes.values()))
        for name in self._processes:
            (self._data / "run" / f"{name}.json").unlink(missing_ok=True)

    async def _end(self, process: subprocess.Popen[bytes]) -> None:
        try:
            await asyncio.to_thread(process.wait, _STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            log.warning("worker process %d does not stop: it is killed", process.pid)
            process.kill()
            await asyncio.to_thread(process.wait)

    def _launch(self, spec: WorkerSpec) -> None:
        folder = self._data / "workers" / spec.name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "worker.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", _DIE_WITH_PARENT, str(os.getpid()), *self._arguments(spec, folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C goes to the whole group: we stop the workers ourselves, in order
            )
        self._processes[spec.name] = process
        pidfiles.write(self._data / "run" / f"{spec.name}.json", process.pid, str(folder))

    def _arguments(self, spec: WorkerSpec, folder: Path) -> list[str]:
        given = [
            ("--name", spec.name),
            ("--url", self._url),
            ("--nats", self._nats.url),
            ("--data", str(folder)),
            ("--slots", str(spec.slots)),
            *(("--label", f"{key}={value}") for key, value in sorted(spec.labels.items())),
            ("--vram", spec.vram),
            ("--ram", spec.ram),
            ("--disk", spec.disk),
            ("--vram-budget", spec.vram_budget),
        ]
        return [word for flag, value in given if value for word in (flag, value)]

    def _environment(self) -> Mapping[str, str]:
        """Ours, without what is ours alone; credentials go this way to stay off the command line."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
        token = {"INTERLOCK_REGISTRATION_TOKEN": self._token} if self._token else {}
        return {**kept, **self._nats.environment(), **token}

    async def _watch(self, spec: WorkerSpec) -> None:
        pause_s = _FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while not self._stopping:
            started_at = loop.time()
            process = self._processes[spec.name]
            while process.poll() is None:
                await asyncio.sleep(0.2)
            pause_s = _FIRST_PAUSE_S if loop.time() - started_at > _LONGEST_PAUSE_S else pause_s
            log.warning(
                "worker %s ended with status %d (see %s); it is started again in %.0f s",
                spec.name, process.returncode, self._data / "workers" / spec.name / "worker.log", pause_s,
            )  # fmt: skip
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            self._launch(spec)
