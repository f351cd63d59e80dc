"""What the worker port's contract needs of each implementation, in memory and real."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeVar

import psutil

from interlock.adapters.grpc.client import BackendClient
from interlock.adapters.memory.workers import InMemoryWorkers
from interlock.adapters.nats.worker_link import NatsWorkers
from interlock.domain import commands as c
from interlock.domain import effects as e
from interlock.domain.entities import LoadSpec
from interlock.domain.ports import WorkerPort

ECHO = LoadSpec(backend="echo", vram=1000)

Effect = TypeVar("Effect", bound=e.ReplicaEffect)


class Reports:
    """What a worker port told of between answers."""

    def __init__(self) -> None:
        self.heard: list[c.Command] = []
        self._changed = asyncio.Event()

    async def hear(self, command: c.Command) -> None:
        self.heard.append(command)
        self._changed.set()

    async def until(self, holds: Callable[[c.Command], bool], within_s: float = 10.0) -> c.Command:
        async with asyncio.timeout(within_s):
            while True:
                for command in self.heard:
                    if holds(command):
                        return command
                self._changed.clear()
                await self._changed.wait()


class Rig:
    """A worker port, one node that it reaches, and short words for the effects on a replica of model ``m``."""

    def __init__(self, workers: WorkerPort, node: str, reports: Reports) -> None:
        self.workers = workers
        self.node = node
        self.reports = reports
        self._ops = count(1)

    async def do(self, kind: type[Effect], replica: str, *, epoch: int = 1, **more: Any) -> c.Command:
        """Perform one effect and return its only report."""
        effect = self.effect(kind, replica, **more)
        answer: Sequence[c.Command] = await self.workers.perform(effect, epoch)
        assert len(answer) == 1
        return answer[0]

    def effect(self, kind: type[Effect], replica: str, **more: Any) -> Effect:
        fields: dict[str, Any] = {"op": f"op-{next(self._ops)}", "node": self.node, "replica": replica}
        fields |= {"model": "m", "index": 0} | more
        if kind is not e.UnloadModel:
            fields.setdefault("spec", ECHO)
        return kind(**fields)

    async def installed(self, replica: str, **more: Any) -> str:
        """Install a backend; returns its address."""
        report = await self.do(e.InstallBackend, replica, **more)
        assert isinstance(report, c.ReportInstalled), report
        return report.address

    async def loaded(self, replica: str, **more: Any) -> str:
        """Install and load; returns the address."""
        address = await self.installed(replica, **more)
        report = await self.do(e.LoadModel, replica, address=address, **more)
        assert isinstance(report, c.ReportLoaded), report
        return address

    async def running(self) -> tuple[c.Running, ...]:
        return (await self.workers.running(self.node)).running

    async def kill(self, replica: str) -> None:
        """The replica's process dies."""
        raise NotImplementedError


class MemoryRig(Rig):
    def __init__(self, workers: InMemoryWorkers, node: str, reports: Reports) -> None:
        super().__init__(workers, node, reports)
        self.twin = workers

    async def kill(self, replica: str) -> None:
        await self.twin.kill(replica)


class RealRig(Rig):
    def __init__(self, workers: NatsWorkers, node: str, reports: Reports, backends: BackendClient) -> None:
        super().__init__(workers, node, reports)
        self.backends = backends

    async def kill(self, replica: str) -> None:
        os.kill(await self.pid(replica), signal.SIGKILL)

    async def pid(self, replica: str) -> int:
        """The process id of the replica's backend."""
        process = next(running.process for running in await self.running() if running.replica == replica)
        found = backend_pids(f"--process={process}")
        assert len(found) == 1
        return found[0]


def backend_pids(word: str) -> list[int]:
    """Backend processes on this machine with that word in their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if word in words and "interlock.adapters.backends.server" in words:
            found.append(process.pid)
    return found


def free_port() -> int:
    """A loopback port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
