"""Who may ask what: three tokens for three audiences, and browsers kept out where there is no token."""

from __future__ import annotations

import hashlib
import hmac
from enum import StrEnum
from urllib.parse import urlsplit

from aiohttp import web

from .config import CLIENT, GatewayConfig, is_loopback
from .problems import Forbidden, Unauthorized

TENANT = web.RequestKey("tenant", str)
"""Whose token a request came with, by name; the token itself goes no further than this module."""


class Audience(StrEnum):
    """For whom a path is; each has its own token, and none opens another's paths."""

    PUBLIC = "public"
    CLIENT = "client"
    WORKER = "worker"
    ADMIN = "admin"


_SETTING = {
    Audience.CLIENT: "client_token",
    Audience.WORKER: "registration_token",
    Audience.ADMIN: "admin_token",
}


class Guard:
    """Lets a request through or raises Unauthorized or Forbidden."""

    def __init__(self, config: GatewayConfig) -> None:
        self._open = config.insecure
        self._tenants = {_digest(token): name for name, token in config.tenants.items()}
        self._digests = {
            audience: _digest(getattr(config, setting))
            for audience, setting in _SETTING.items()
            if getattr(config, setting)
        }

    def check(self, request: web.Request, audience: Audience) -> None:
        """Whether this request may ask what ``audience`` may."""
        if audience is Audience.PUBLIC:
            return
        if self._digests.get(audience) is None and not (audience is Audience.CLIENT and self._tenants):
            if not self._open:
                _keep_browsers_out(request)
            return
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            cure = f"Send 'Authorization: Bearer' with the {_SETTING[audience]}."
            raise Unauthorized("This path needs a token.", cure=cure)
        given = _digest(token.strip())
        # Every token is compared, so that the time taken tells nothing about which came close.
        found = [other for other, digest in self._digests.items() if hmac.compare_digest(digest, given)]
        # Only digests are looked up, so that the time taken tells nothing about the token.
        tenant = self._tenants.get(given)
        if audience in found or (tenant is not None and audience is Audience.CLIENT):
            request[TENANT] = tenant or (CLIENT if audience is Audience.CLIENT else "")
            return
        if tenant is not None:
            raise Forbidden("A client's token does not open this path.", cure=f"Use the {_SETTING[audience]}.")
        if found:
            raise Forbidden(f"The {_SETTING[found[0]]} does not open this path.", cure=f"Use the {_SETTING[audience]}.")
        raise Unauthorized("The token is not valid.", cure=f"Use the {_SETTING[audience]}.")


def _digest(token: str) -> bytes:
    # Equal lengths whatever the token, so that comparing takes the same time.
    # A header may hold bytes that are no UTF-8, and then the token is simply a wrong one.
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def _keep_browsers_out(request: web.Request) -> None:
    """Without a token, a page of another site must not reach us through the browser of whoever sits here."""
    host = request.headers.get("Host", "")
    name = urlsplit(f"//{host}").hostname or ""
    if not is_loopback(name):
        raise Forbidden(
            f"Without tokens this server answers to localhost only, not to {name!r}.", cure="Set the tokens."
        )
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise Forbidden(f"Without tokens this server answers no page of {origin!r}.", cure="Set the tokens.")
