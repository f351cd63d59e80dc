"""Probes, metrics, the dashboard page and the live feed of events."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from importlib.resources import files
from typing import Any

import msgspec
from aiohttp import web

from interlock.domain.errors import InvalidField, InvariantBroken
from interlock.domain.units import whole_number

from .kit import EVENTS, Gateway, Route, json_response, query
from .ports import EventRow, EventsPort, Readiness
from .security import Audience

_AFTER = ("after",)
_SILENCE_SECONDS = 15.0
"""The feed says something this often, so that proxies keep it open and a client that left is noticed."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


class Probes:
    """The handlers of ``/livez``, ``/readyz``, ``/metrics``, ``/`` and ``/events``."""

    def __init__(self, gateway: Gateway, events: EventsPort | None) -> None:
        self._gateway, self._events = gateway, events
        self._feeds: set[asyncio.Task[Any]] = set()
        self._page = files("interlock.adapters.http").joinpath("dashboard.html").read_bytes()

    def routes(self) -> list[Route]:
        """What is served, for the application and for OpenAPI."""
        public, admin = Audience.PUBLIC, Audience.ADMIN
        text, page = "text/plain", "text/html"
        routes = [
            Route("GET", "/livez", self.live, public, "Whether the process answers"),
            Route("GET", "/readyz", self.ready, public, "Whether the cluster can serve", None, Readiness),
            Route("GET", "/metrics", self.metrics, admin, "Figures for Prometheus", media=text),
            Route("GET", "/", self.dashboard, public, "The dashboard; it asks for the admin token", media=page),
        ]
        if self._events is not None:
            told = "The live feed of events"
            routes.append(Route("GET", "/events", self.events, admin, told, media=EVENTS, query=_AFTER))
        return routes

    async def live(self, request: web.Request) -> web.StreamResponse:
        """Yes, when it answers at all, and which run of a gateway it is that does."""
        return json_response({"live": True, "run": self._gateway.ids.run})

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """200 when the cluster can serve, else 503 with what is missing."""
        readiness = await self._gateway.queries.ready()
        if self._gateway.claims.stopping:
            readiness = Readiness(False, ("This gateway is being stopped.", *readiness.reasons))
        return json_response(readiness, 200 if readiness.ready else 503)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """The gateway's own figures and the scheduler's."""
        samples = await self._gateway.queries.metrics()
        text = self._gateway.metrics.text(samples, self._gateway.claims.unsettled)
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def dashboard(self, request: web.Request) -> web.StreamResponse:
        """The page; what it shows it asks for like any other client."""
        headers = {"Content-Security-Policy": _POLICY, "X-Frame-Options": "DENY"}
        return web.Response(body=self._page, content_type="text/html", charset="utf-8", headers=headers)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Events as they become durable; ``?after=`` or ``Last-Event-ID`` resume after a position."""
        after = query(request, *_AFTER).get("after") or request.headers.get("Last-Event-ID")
        position = None if after is None else whole_number(after)
        if after is not None and position is None:
            raise InvalidField("after", f"{after[:40]!r} is not a position")
        if self._events is None:
            raise InvariantBroken("the route exists with an events port only")
        if (task := asyncio.current_task()) is not None:
            self._feeds.add(task)
            task.add_done_callback(self._feeds.discard)
        rows = self._events.follow(position)
        first = asyncio.ensure_future(_next(rows))
        response = web.StreamResponse(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        response.content_type = EVENTS
        await response.prepare(request)
        await _forward(response, rows, first)
        return response

    async def end_feeds(self, app: web.Application) -> None:
        """End every feed: a gateway that stops must not wait for readers that never leave."""
        for task in self._feeds:
            task.cancel()


async def _next(rows: Any) -> EventRow | None:
    return await anext(rows, None)


async def _forward(response: web.StreamResponse, rows: Any, coming: asyncio.Future[EventRow | None]) -> None:
    async with aclosing(rows):
        try:
            while True:
                await asyncio.wait((coming,), timeout=_SILENCE_SECONDS)
                if not coming.done():
                    await response.write(b": still here\n\n")
                    continue
                if (row := coming.result()) is None:
                    return
                data = msgspec.json.encode(row.data)
                await response.write(b"id: %d\nevent: %s\ndata: %s\n\n" % (row.position, row.event.encode(), data))
                coming = asyncio.ensure_future(_next(rows))
        finally:
            # A generator cannot be closed while it runs: the step under way ends first.
            coming.cancel()
            await asyncio.wait((coming,))
