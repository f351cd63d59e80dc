"""Questions to the log over HTTP: routed, checked, and handed to the AuditPort."""

from __future__ import annotations

from aiohttp import web

from interlock.domain.errors import InvalidField
from interlock.domain.units import whole_number

from .kit import Route, json_response, query
from .ports import AuditPort
from .security import Audience

_FILTERS = (
    "model", "node", "request", "replica", "event", "actor", "correlation", "since", "until", "after", "limit",
)  # fmt: skip
_AT, _SPAN = ("at",), ("from", "to")
_MOST_ROWS = 10_000


class Audit:
    """The handlers of ``/api/audit``."""

    def __init__(self, audit: AuditPort) -> None:
        self._audit = audit

    def routes(self) -> list[Route]:
        """What is served, for the application and for OpenAPI."""
        admin = Audience.ADMIN
        return [
            Route("GET", "/api/audit/log", self.log, admin, "Events that match, with a stable cursor", query=_FILTERS),
            Route("GET", "/api/audit/why/{id}", self.why, admin, "The chain of causes of one thing", query=("full",)),
            Route("GET", "/api/audit/state", self.state, admin, "The cluster as it was", query=_AT, needed=_AT),
            Route("GET", "/api/audit/diff", self.diff, admin, "What changed between", query=_SPAN, needed=_SPAN),
            Route("GET", "/api/audit/verify", self.verify, admin, "Whether the hash chain holds"),
        ]

    async def log(self, request: web.Request) -> web.StreamResponse:
        """Rows of the log."""
        filters = query(request, *_FILTERS)
        limit = filters.get("limit")
        if limit is not None and whole_number(limit, 1, _MOST_ROWS) is None:
            raise InvalidField("limit", f"{limit[:40]!r} is not a number of rows", cure=f"Use 1 to {_MOST_ROWS}.")
        return json_response(await self._audit.log(filters))

    async def why(self, request: web.Request) -> web.StreamResponse:
        """Why one thing came about."""
        full = query(request, "full").get("full", "false")
        if full not in ("", "1", "true", "0", "false"):
            raise InvalidField("full", f"{full!r} is not true or false")
        return json_response(await self._audit.why(request.match_info["id"], full=full in ("", "1", "true")))

    async def state(self, request: web.Request) -> web.StreamResponse:
        """The cluster at a time or position."""
        return json_response(await self._audit.state(_needed(query(request, *_AT), "at")))

    async def diff(self, request: web.Request) -> web.StreamResponse:
        """What changed between two times or positions."""
        given = query(request, *_SPAN)
        return json_response(await self._audit.diff(_needed(given, "from"), _needed(given, "to")))

    async def verify(self, request: web.Request) -> web.StreamResponse:
        """Whether anybody changed the log behind our back."""
        query(request)
        return json_response(await self._audit.verify())


def _needed(given: dict[str, str], name: str) -> str:
    if not given.get(name):
        raise InvalidField(name, "missing", cure="Give a time, 2026-01-01T03:12:00Z, or a position.")
    return given[name]
