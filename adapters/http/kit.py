"""What the handlers share: the gateway's parts, route declarations, reading bodies and writing JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from interlock.domain.commands import AnyReply, ChangeSettings, Command, Rejected, SetTenantLimits
from interlock.domain.errors import InvalidField
from interlock.domain.ports import CommandPort

from .config import GatewayConfig
from .ids import Ids, RequestIds, check
from .lifecycle import Claims
from .metrics import GatewayMetrics
from .ports import BackendPort, QueryPort, View
from .problems import decode_problem, rejection
from .security import Audience

_T = TypeVar("_T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
JSON = "application/json"
EVENTS = "text/event-stream"

IDS = web.RequestKey("ids", Ids)


class Gateway:
    """The parts that one gateway run is made of."""

    def __init__(self, commands: CommandPort, queries: QueryPort, backends: BackendPort, config: GatewayConfig) -> None:
        self.commands, self.queries, self.backends, self.config = commands, queries, backends, config
        self.metrics = GatewayMetrics()
        self.ids = RequestIds()
        self.claims = Claims(commands, queries, config, self.ids, self.metrics)

    def ids_of(self, request: web.Request) -> Ids:
        """The ids of a request that asks for no model: the client's own, as it is, or fresh ones."""
        given = request.headers.get("X-Request-Id")
        if given is None:
            return self.ids.take(None)
        check(given)
        return Ids(given, given)

    async def send(self, request: web.Request, command: Command, actor: str = "admin") -> AnyReply:
        """Have a command decided; raises what a rejection means."""
        envelope = self.claims.envelope(command, request[IDS], actor)
        reply = await self.commands.send(envelope)
        if isinstance(reply, Rejected):
            raise rejection(reply)
        if isinstance(command, SetTenantLimits | ChangeSettings):
            self.claims.refrain.forget()
        return reply


class Route(msgspec.Struct, frozen=True):
    """One method of one path, as it is served and as ``/openapi.json`` tells it."""

    method: str
    path: str
    handler: Handler
    audience: Audience
    summary: str
    body: Any = None
    answer: Any = None
    status: int = 200
    media: str = JSON
    query: tuple[str, ...] = ()
    """The query parameters that it knows."""
    needed: tuple[str, ...] = ()
    """Those among them that must be there."""
    streams: bool = False
    """Whether the answer comes as server-sent events when the body asks for a stream."""


class Message(msgspec.Struct, frozen=True):
    """The answer to a change that has nothing to show."""

    message: str


def json_response(data: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """``data`` as a JSON answer."""
    return web.Response(status=status, body=msgspec.json.encode(data), headers=headers, content_type=JSON)


async def read(request: web.Request, decoder: msgspec.json.Decoder[_T], *, empty: bytes = b"") -> _T:
    """The decoded body; raises InvalidField naming field or position. ``empty`` stands in for a body of no bytes."""
    try:
        body = await request.read() or empty
    except web.RequestPayloadError:
        encoding = request.headers.get("Content-Encoding", "")
        problem = (
            f"not {encoding[:40]!a}, as its Content-Encoding says" if encoding else "cut off, or not as its headers say"
        )
        raise InvalidField("body", problem, cure="Send it plain, or as its headers say.") from None
    if not body:
        raise InvalidField("body", "missing", cure="Send a JSON object.")
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise decode_problem(error, body=decoder.type) from None
    except UnicodeDecodeError:
        raise InvalidField("body", "not JSON: a text in it is not UTF-8") from None
    except RecursionError:
        raise InvalidField("body", "nested too deeply") from None


def fields(view: View) -> dict[str, Any]:
    """A view as a mapping of JSON values."""
    found: dict[str, Any] = msgspec.to_builtins(view)
    return found


def query(request: web.Request, *known: str) -> dict[str, str]:
    """The query parameters; raises InvalidField for one that is not known or comes twice."""
    for name in request.query:
        if name not in known:
            raise InvalidField(name, "no such parameter", cure=f"The parameters are: {', '.join(known) or 'none'}.")
        if len(request.query.getall(name)) > 1:
            raise InvalidField(name, "given more than once")
    return dict(request.query)
