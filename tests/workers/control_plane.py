"""A stand-in for the control plane's HTTP side: it takes registrations and heartbeats and remembers them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web


class ControlPlane:
    """Listens on a free loopback port. ``registrations`` and ``heartbeats`` hold the JSON bodies, in order."""

    def __init__(self) -> None:
        self.registrations: list[dict[str, Any]] = []
        self.heartbeats: list[dict[str, Any]] = []
        self.asks: dict[str, str] = {}
        self.tokens: list[str] = []
        self.known: set[str] = set()
        self.refused: set[str] = set()
        """Machines whose names are taken."""
        self.port = 0
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_post("/api/node/register", self._register)
        app.router.add_post("/api/node/{id}/heartbeat", self._heartbeat)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def until(self, holds: Callable[[], bool], within_s: float = 15.0) -> None:
        """Wait for a registration or heartbeat that makes ``holds`` true."""
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(holds), within_s)

    async def _register(self, request: web.Request) -> web.Response:
        body = await self._take(request, self.registrations)
        if body["machine"] in self.refused:
            return web.json_response({"error": {"message": "another machine is at work as that"}}, status=409)
        self.known.add(body["name"])
        return web.json_response(
            {"id": body["name"], "name": body["name"], "status": "healthy", **self.asks}, status=201
        )

    async def _heartbeat(self, request: web.Request) -> web.Response:
        await self._take(request, self.heartbeats)
        if request.match_info["id"] not in self.known:
            return web.json_response({"error": "node not found"}, status=404)
        return web.json_response({"message": "heartbeat received", **self.asks})

    async def _take(self, request: web.Request, into: list[dict[str, Any]]) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(await request.read())
        self.tokens.append(request.headers.get("Authorization", ""))
        async with self._changed:
            into.append(body)
            self._changed.notify_all()
        return body
