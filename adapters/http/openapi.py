"""``/openapi.json``, built from the very route declarations that are served."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from aiohttp import web

from .kit import EVENTS, JSON, Route
from .security import Audience

_PARAMETER = re.compile(r"{(\w+)}")


class ErrorBody(msgspec.Struct, frozen=True):
    """What went wrong; ``code`` is stable, ``message`` is for people."""

    message: str
    type: str
    code: str
    param: str = ""
    loading: dict[str, Any] | None = None
    request_id: str = ""


class Error(msgspec.Struct, frozen=True):
    """Every answer that is not a success."""

    error: ErrorBody


def route(routes: Sequence[Route]) -> Route:
    """The route that serves the description of ``routes``."""

    async def describe(request: web.Request) -> web.StreamResponse:
        return web.Response(body=document, content_type=JSON)

    own = Route("GET", "/openapi.json", describe, Audience.PUBLIC, "This description")
    document = msgspec.json.encode(build([*routes, own]))
    return own


def build(routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    types = [kind for route in routes for kind in (route.body, route.answer) if kind is not None]
    wanted = list({str(kind): kind for kind in (Error, *types)}.values())
    schemas, components = msgspec.json.schema_components(wanted, ref_template="#/components/schemas/{name}")
    found = {str(kind): schema for kind, schema in zip(wanted, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for one in routes:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, found)
    bearer = {"type": "http", "scheme": "bearer"}
    audiences = [audience for audience in Audience if audience is not Audience.PUBLIC]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Interlock", "version": _version()},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": dict.fromkeys(audiences, bearer)},
    }


def _operation(one: Route, found: dict[str, Any]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "done"}
    if one.status != 204:
        success["content"] = {one.media: {"schema": found[str(one.answer)] if one.answer is not None else {}}}
    if one.streams:
        success["content"][EVENTS] = {"schema": {"type": "string"}}
    failure = {"description": "an error", "content": {JSON: {"schema": found[str(Error)]}}}
    operation: dict[str, Any] = {
        "summary": one.summary,
        "operationId": _operation_id(one),
        "responses": {str(one.status): success, "default": failure},
    }
    if one.audience is not Audience.PUBLIC:
        operation["security"] = [{one.audience.value: []}]
    text = {"type": "string"}
    named = [(name, "path", True) for name in _PARAMETER.findall(one.path)]
    named += [(name, "query", name in one.needed) for name in one.query]
    if named:
        operation["parameters"] = [
            {"name": name, "in": place, "required": required, "schema": text} for name, place, required in named
        ]
    if one.body is not None:
        operation["requestBody"] = {"content": {JSON: {"schema": found[str(one.body)]}}}
    return operation


def _operation_id(one: Route) -> str:
    words = re.findall(r"\w+", one.path)
    return "_".join([one.method.lower(), *words])


def _version() -> str:
    try:
        return version("interlock")
    except PackageNotFoundError:
        return "0"
