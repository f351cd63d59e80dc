"""Whole clusters as processes: started, asked over HTTP, killed and looked for afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psutil

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("up_program.py")
START_LIMIT_S = 45


def free_port() -> int:
    """A loopback port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Cluster:
    """One ``up`` (or ``serve``) process and a client of it."""

    def __init__(self, data: Path, command: str = "up", **options: Any) -> None:
        self.data = data
        self.port = free_port()
        self.options = {"data": str(data), "http": f"127.0.0.1:{self.port}", **options}
        self.command = command
        self.process: subprocess.Popen[bytes]
        self.http: aiohttp.ClientSession
        self.seen: dict[int, psutil.Process] = {}

    def launch(self, **more: Any) -> Cluster:
        """Start the process, in a group of its own as a terminal would."""
        data = self.data.parent / f"{self.data.name}.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
        with data.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), self.command, json.dumps({**self.options, **more})],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.data.parent,
                env=environment,
                start_new_session=True,
            )
        return self

    def log(self) -> str:
        """What it wrote to standard error."""
        return (self.data.parent / f"{self.data.name}.log").read_text()

    async def start(self, **more: Any) -> Cluster:
        """Start, and return once it is ready."""
        self.launch(**more)
        self.http = aiohttp.ClientSession(f"http://127.0.0.1:{self.port}")
        await self.ready()
        return self

    async def ready(self) -> None:
        """Wait until ``/readyz`` says so."""
        async with asyncio.timeout(START_LIMIT_S):
            while True:
                assert self.process.poll() is None, self.log()[-3000:]
                try:
                    async with self.http.get("/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)

    def remember(self) -> list[psutil.Process]:
        """All processes of the cluster now; they are looked for at the end."""
        try:
            found = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        self.seen |= {process.pid: process for process in found}
        return found

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        return await asyncio.wait_for(asyncio.to_thread(self.process.wait), START_LIMIT_S)

    async def stop(self) -> int:
        """Ctrl-C to the whole group; returns the exit status."""
        self.remember()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        return await self.ended()

    def kill_all(self) -> None:
        """Kill -9 for every process that it ever had, as far as it lives."""
        self.remember()
        for process in self.seen.values():
            with contextlib.suppress(psutil.NoSuchProcess):  # it may end with its parent in this very moment
                process.kill()

    async def close(self) -> None:
        """Let nothing of it live on."""
        if hasattr(self, "http"):
            await self.http.close()
        self.kill_all()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    async def expect_gone(self) -> None:
        """No process that it ever had is left."""
        alive: list[psutil.Process] = []
        for _ in range(200):
            alive = [one for one in self.seen.values() if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
            if not alive:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"left running: {[process.cmdline() for process in alive]}")

    # --- Asking -------------------------------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, body: object = None, **more: Any) -> tuple[int, Any]:
        """Status and JSON."""
        async with self.http.request(method, path, json=body, **more) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def chat(self, model: str, text: str = "hello", **more: Any) -> tuple[int, Any]:
        """One chat request."""
        return await self.ask(
            "POST", "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": text}]}, **more
        )

    async def declare(self, name: str, **table: Any) -> None:
        """Declare a model."""
        status, answer = await self.ask("POST", "/api/models", {"name": name, **table})
        assert status in (200, 201), answer

    async def events(self, event: str, **filters: str) -> list[dict[str, Any]]:
        """The log's rows of one event class."""
        status, page = await self.ask("GET", "/api/audit/log", params={"event": event, "limit": "1000", **filters})
        assert status == 200, page
        rows: list[dict[str, Any]] = page["rows"]
        return rows

    async def until(self, path: str, condition: Any, limit_s: float = 20) -> Any:
        """Ask until the answer is as wanted; returns it."""
        async with asyncio.timeout(limit_s):
            while True:
                _, answer = await self.ask("GET", path)
                if condition(answer):
                    return answer
                await asyncio.sleep(0.05)
