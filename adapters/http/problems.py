"""Errors as HTTP answers: one JSON shape, a status and a code for everything that can go wrong.

``{"error": {"message", "type", "code"}}``, with ``param`` where a field is to blame, ``loading`` where a load is being
waited for, and ``request_id`` where the fault is ours. ``type`` is the class that a client may act on:
``misconfigured``, ``waiting`` and ``failed`` for refusals, else ``invalid_request_error``, ``authentication_error``,
``not_found_error``, ``conflict_error``, ``unavailable`` or ``internal_error``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Literal, get_args, get_origin

import msgspec
from aiohttp import web

from interlock.domain.commands import Rejected
from interlock.domain.errors import (
    BackendDeclined,
    BackendFailed,
    BackendGone,
    Conflict,
    InterlockError,
    InvalidField,
    InvalidSetting,
    NotFound,
    NoWriter,
    Refused,
    StoreError,
    Unavailable,
    UnreadableFile,
    UsageError,
)
from interlock.domain.refusals import HTTP_STATUS, RefusalCode
from interlock.domain.units import SECOND

from .ports import View

_STATUS: dict[str, int] = {code.value: status for code, status in HTTP_STATUS.items()}
_MISCONFIGURED = frozenset({"unknown_model", "no_node_matches", "never_fits", "load_info_missing"})
_FAILED = frozenset({"load_failed", "backend_failed"})
_AT = re.compile(r" - at `(?:key in )?`?\$\.?([^`]*)`")
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
_MISSING_FIELD = re.compile(r"missing required field `([^`]*)`")


class RequestRefused(Refused):
    """A refusal on its way to a client: ``retry_after`` in µs (0: none), ``loading`` describes the load in progress."""

    def __init__(
        self, code: str, message: str, *, cure: str = "", retry_after: int = 0, loading: View | None = None
    ) -> None:
        super().__init__(code, message, cure=cure)
        self.retry_after = retry_after
        self.loading = loading


class Unauthorized(InterlockError):
    """No token, or one that opens nothing here."""


class GatewayStops(Unavailable):
    """This gateway stops: it takes nothing more, and has no time left for what it has taken."""

    def __init__(self) -> None:
        super().__init__(
            "this gateway is being stopped.", cure="Try again: another one answers, or this one's next run."
        )


class Forbidden(InterlockError):
    """A token of another audience, or a page of another site asking through a browser."""


class BodyTooLarge(UsageError):
    """The request's body is larger than the gateway takes."""


class UnknownPath(UsageError):
    """Nothing answers at this path."""


class WrongMethod(UsageError):
    """The path exists and does not take this method."""

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


def rejection(reply: Rejected) -> InterlockError:
    """The error that a rejected command means."""
    if reply.code in _STATUS:
        return RequestRefused(reply.code, reply.message, cure=reply.cure, retry_after=reply.retry_after)
    kinds: dict[str, type[InterlockError]] = {
        "not_found": _Missing,
        "conflict": Conflict,
        "invalid": UsageError,
        "cancelled": Cancelled,
    }
    return kinds.get(reply.code, InterlockError)(reply.message, cure=reply.cure)


class Cancelled(InterlockError):
    """The request was ended by somebody else: an operator released it, or its holder counted as lost."""


class _Missing(InterlockError):
    """NotFound in the core's own words."""


def decode_problem(error: msgspec.MsgspecError, whole: str = "body", body: object = None) -> InvalidField:
    """What msgspec says of a body that does not decode, with the field or the position named first.

    Where ``body`` is the struct that was to come of it, the cure names the fields or the words that there are.
    """
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return InvalidField(whole, f"not JSON: {text.removeprefix('JSON is malformed: ')}")
    at = _AT.search(text)
    path = at[1] if at else ""
    problem = text[: at.start()] if at else text
    for pattern, said in ((_UNKNOWN_FIELD, "no such field"), (_MISSING_FIELD, "missing")):
        if named := pattern.search(problem):
            known = "" if path or said == "missing" else ", ".join(_types(body))
            cure = f"The fields are: {known}." if known else ""
            return InvalidField(f"{path}.{named[1]}".lstrip("."), said, cure=cure)
    words = ", ".join(_words(_types(body).get(path))) if problem.startswith("Invalid enum value") else ""
    return InvalidField(
        path or whole, problem[:1].lower() + problem[1:], cure=f"Choose one of: {words}." if words else ""
    )


def _types(body: object) -> dict[str, object]:
    """The fields of a struct by the names that they have in JSON; none when it is no struct."""
    if not (isinstance(body, type) and issubclass(body, msgspec.Struct)):
        return {}
    return {field.encode_name: field.type for field in msgspec.structs.fields(body)}


def _words(kind: object) -> list[str]:
    """The words among which a field of this type chooses."""
    if get_origin(kind) is Literal:
        return [str(word) for word in get_args(kind)]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [str(word.value) for word in kind]
    return [word for part in get_args(kind) for word in _words(part)]


_TABLE: tuple[tuple[type[InterlockError], int, str, str], ...] = (
    (InvalidField, 400, "invalid_request_error", "invalid_field"),
    (InvalidSetting, 400, "invalid_request_error", "invalid_setting"),
    (UnreadableFile, 400, "invalid_request_error", "unreadable"),
    (BodyTooLarge, 413, "invalid_request_error", "too_large"),
    (UnknownPath, 404, "not_found_error", "unknown_path"),
    (WrongMethod, 405, "invalid_request_error", "method_not_allowed"),
    (UsageError, 400, "invalid_request_error", "invalid"),
    (Unauthorized, 401, "authentication_error", "unauthorized"),
    (Forbidden, 403, "authentication_error", "forbidden"),
    (NotFound, 404, "not_found_error", "not_found"),
    (_Missing, 404, "not_found_error", "not_found"),
    (Cancelled, 409, "conflict_error", "cancelled"),
    (Conflict, 409, "conflict_error", "conflict"),
    (BackendGone, 502, "failed", "backend_failed"),
    (BackendDeclined, 400, "invalid_request_error", "invalid_input"),
    (BackendFailed, 502, "failed", "backend_failed"),
    (NoWriter, 503, "unavailable", "no_writer"),
    (GatewayStops, 503, "unavailable", "gateway_stops"),
    (Unavailable, 503, "unavailable", "unavailable"),
    (StoreError, 503, "unavailable", "store_error"),
)


def describe(error: InterlockError) -> tuple[int, dict[str, object], dict[str, str]]:
    """The status, the ``error`` object and the headers that tell a client of ``error``."""
    headers: dict[str, str] = {}
    if isinstance(error, Refused):
        return _describe_refusal(error)
    if isinstance(error, NotFound) and error.kind == "model":
        return _describe_refusal(Refused(RefusalCode.UNKNOWN_MODEL.value, error.message, cure=error.cure))
    told = (row[1:] for row in _TABLE if isinstance(error, row[0]))
    status, type_name, code = next(told, (500, "internal_error", "internal"))
    body: dict[str, object] = {"message": str(error), "type": type_name, "code": code}
    if isinstance(error, InvalidField):
        body["param"] = error.field
    if isinstance(error, BackendDeclined) and error.unsupported:
        body |= {"code": "unsupported", "param": "model"}
    if status == 503:
        headers["Retry-After"] = "1"
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, WrongMethod):
        headers["Allow"] = error.allowed
    return status, body, headers


def _describe_refusal(error: Refused) -> tuple[int, dict[str, object], dict[str, str]]:
    code = error.code
    status = _STATUS.get(code, 503)
    kind = "misconfigured" if code in _MISCONFIGURED else "failed" if code in _FAILED else "waiting"
    body: dict[str, object] = {"message": str(error), "type": kind, "code": code}
    headers: dict[str, str] = {}
    if kind == "waiting":
        # Whole seconds, rounded up: a client that comes back on time must not be early.
        wait = error.retry_after if isinstance(error, RequestRefused) else 0
        headers["Retry-After"] = str(max(1, -(-wait // SECOND)))
    if isinstance(error, RequestRefused) and error.loading is not None:
        body["loading"] = error.loading
    return status, body, headers


def answer(error: InterlockError, extra: Mapping[str, object] | None = None) -> web.Response:
    """The HTTP answer for an error."""
    status, body, headers = describe(error)
    if extra:
        body |= extra
    payload = msgspec.json.encode({"error": body})
    return web.Response(status=status, body=payload, headers=headers, content_type="application/json")


def internal(request_id: str) -> web.Response:
    """The HTTP answer for a defect of ours: no detail, and the id under which the log has it."""
    said = "Interlock failed on this request; its log has the details under this request id."
    error = {"message": said, "type": "internal_error", "code": "internal", "request_id": request_id}
    return web.Response(status=500, body=msgspec.json.encode({"error": error}), content_type="application/json")
