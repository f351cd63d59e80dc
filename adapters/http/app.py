"""The gateway as an aiohttp application, and the server that runs it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Sequence

from aiohttp import web
from aiohttp.typedefs import Middleware

from interlock.domain.errors import InterlockError, InvariantBroken, Unavailable
from interlock.domain.ports import CommandPort
from interlock.domain.units import format_size

from . import openapi
from .audit import Audit
from .config import GatewayConfig, check_bind
from .kit import IDS, Gateway, Handler, Route
from .lifecycle import Claims
from .nodes import Nodes
from .openai import OpenAI
from .operators import Operators
from .ports import AuditPort, BackendPort, EventsPort, LivenessPort, QueryPort
from .probes import Probes
from .problems import BodyTooLarge, UnknownPath, WrongMethod, answer, internal
from .security import Guard

log = logging.getLogger("interlock.gateway")

_SHUTDOWN_S = 1.0
GATEWAY = web.AppKey("gateway", Gateway)


class AddressInUse(Unavailable):
    """Another program listens at the address already."""


def build_app(
    commands: CommandPort,
    queries: QueryPort,
    backends: BackendPort,
    config: GatewayConfig,
    *,
    liveness: LivenessPort,
    audit: AuditPort | None = None,
    events: EventsPort | None = None,
) -> web.Application:
    """The whole HTTP surface over these ports. Without ``audit`` or ``events`` their paths do not exist.

    Run it with ``handler_cancellation=True``, as :func:`serve_http` does: that is how a client that leaves is noticed.
    """
    gateway = Gateway(commands, queries, backends, config)
    probes = Probes(gateway, events)
    routes = [
        *OpenAI(gateway).routes(),
        *Nodes(gateway, liveness).routes(),
        *Operators(gateway).routes(),
        *(Audit(audit).routes() if audit else ()),
        *probes.routes(),
    ]
    routes.append(openapi.route(routes))
    app = web.Application(client_max_size=config.body_limit, middlewares=[_errors(gateway)])
    app[GATEWAY] = gateway
    _add(app, routes, Guard(config))
    app.on_response_prepare.append(_name_request)
    app.on_shutdown.append(probes.end_feeds)
    app.cleanup_ctx.append(_keep_holder)
    return app


def _add(app: web.Application, routes: Sequence[Route], guard: Guard) -> None:
    for route in routes:
        handler = _guarded(route, guard)
        app.router.add_route(route.method, route.path, handler)
        if route.method == "GET" and route.media != "text/event-stream":
            # Probes and proxies ask this way; the server sends the head of the answer and leaves out its body.
            app.router.add_route("HEAD", route.path, handler)


def _guarded(route: Route, guard: Guard) -> Handler:
    audience, handler = route.audience, route.handler

    async def handle(request: web.Request) -> web.StreamResponse:
        guard.check(request, audience)
        return await handler(request)

    return handle


def _errors(gateway: Gateway) -> Middleware:
    """Turns whatever a handler raises into a JSON answer, and counts the answers."""
    answers = gateway.metrics.answers

    @web.middleware
    async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            request[IDS] = gateway.ids_of(request)
            response = await handler(request)
        except InvariantBroken:
            log.exception("%s %s, request %s", request.method, request.path, _id(request))
            response = internal(_id(request))
        except InterlockError as error:
            response = answer(error)
        except web.HTTPException as error:
            response = answer(_translate(request, error, gateway.config))
        except ConnectionError:
            raise  # the client is gone: there is nobody to answer
        except Exception:
            log.exception("%s %s, request %s", request.method, request.path, _id(request))
            response = internal(_id(request))
        resource = request.match_info.route.resource
        answers.add(resource.canonical if resource is not None else "unknown", str(response.status))
        return response

    return errors


def _id(request: web.Request) -> str:
    ids = request.get(IDS)
    return ids.request if ids is not None else ""


def _translate(request: web.Request, error: web.HTTPException, config: GatewayConfig) -> InterlockError:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return WrongMethod(f"{request.path} does not take {request.method}; it takes {allowed}.", allowed)
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        limit = format_size(config.body_limit)
        return BodyTooLarge(f"The body is larger than {limit}.", cure="Send less, or raise the setting body_limit.")
    if isinstance(error, web.HTTPNotFound):
        return UnknownPath(f"Nothing answers at {request.path}.", cure="GET /openapi.json lists every path.")
    return InterlockError(f"{error.reason}.")


async def _name_request(request: web.Request, response: web.StreamResponse) -> None:
    ids = request.get(IDS)
    if ids is not None:
        response.headers["X-Request-Id"] = ids.correlation
        if ids.request != ids.correlation:
            response.headers["X-Interlock-Request-Id"] = ids.request


async def _keep_holder(app: web.Application) -> AsyncIterator[None]:
    claims = app[GATEWAY].claims
    renewing = asyncio.create_task(claims.renew_forever())
    yield
    await claims.drain()
    renewing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await renewing


class Server:
    """A gateway that listens. ``port`` is the one it got, also when 0 was asked for; ``/livez`` tells its ``run``."""

    def __init__(self, runner: web.AppRunner, claims: Claims, host: str, port: int, run: str) -> None:
        self._runner, self._claims = runner, claims
        self.host = host
        self.port = port
        self.run = run

    @property
    def url(self) -> str:
        """Where it can be reached."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def drain(self) -> None:
        """Refuse new requests and let running ones end within ``drain_limit``; it listens on, to tell them so."""
        await self._claims.stop()

    async def close(self) -> None:
        """Drain, stop listening, and confirm releases."""
        await self.drain()
        await self._runner.cleanup()


async def serve_http(app: web.Application, host: str, port: int) -> Server:
    """Listen on ``host`` and ``port``.

    Raises InvalidSetting when that needs tokens which are not set, and AddressInUse or Unavailable when the address
    cannot be had.
    """
    config = app[GATEWAY].config
    check_bind(config, host)
    # Whoever has a lock had its time to end before: what is left then are questions, and bodies that do not come.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        if error.errno == errno.EADDRINUSE:
            cure = "Stop the program that does, or choose another port with --http HOST:PORT."
            raise AddressInUse(f"Another program listens on {host}:{port} already.", cure=cure) from None
        cure = "Choose an address of this machine and a port that you may use, with --http HOST:PORT."
        raise Unavailable(f"Cannot listen on {host}:{port}: {error.strerror}.", cure=cure) from None
    gateway = app[GATEWAY]
    return Server(runner, gateway.claims, host, runner.addresses[0][1], gateway.ids.run)
