"""How the gateway is configured. Lengths in microseconds, sizes in bytes, as everywhere; checked when it starts."""

from __future__ import annotations

import ipaddress
import itertools
from enum import Enum
from typing import Annotated

import msgspec

from interlock.domain.errors import InvalidSetting
from interlock.domain.setting_kinds import declared
from interlock.domain.tenants import LONGEST_TENANT
from interlock.domain.units import HOUR, MIB, SECOND

CLIENT = "client"
"""The tenant of whoever has ``client_token``. Without any token requests have no tenant, and no limits."""


class Kind(Enum):
    """How a setting of the gateway is written, and shown."""

    SECRET = "secret"
    """A token: shown is only whether it is set."""
    TENANTS = "tenants"
    """Tokens by name, as a table or as ``"name=token,name=token"``; only the names are shown."""
    FLAG = "flag"
    SIZE = "size"
    LENGTH = "length"


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting of the gateway, with its kind. An empty token leaves its paths open, which only loopback allows."""

    registration_token: Annotated[str, Kind.SECRET] = ""
    """Opens ``/api/node/...`` to workers."""
    client_token: Annotated[str, Kind.SECRET] = ""
    """Opens ``/v1/...`` to clients."""
    tenants: Annotated[dict[str, str], Kind.TENANTS] = {}
    """Client tokens by their tenants' names: each opens ``/v1/...`` too, and its requests count as that tenant's."""
    admin_token: Annotated[str, Kind.SECRET] = ""
    """Opens every other path of ``/api``, ``/metrics`` and ``/events`` to operators."""
    insecure: Annotated[bool, Kind.FLAG] = False
    """Listen anywhere without tokens."""
    auto_approve: Annotated[bool, Kind.FLAG] = False
    """Let workers that register take work without an operator's approval."""
    show_node: Annotated[bool, Kind.FLAG] = False
    """Say in ``X-Interlock-Node`` which node served a request."""
    body_limit: Annotated[int, Kind.SIZE] = 8 * MIB
    """The largest request body that is read."""
    holder_lease: Annotated[int, Kind.LENGTH] = 30 * SECOND
    """The cluster's setting of that name, until the writer says another; the gateway renews at least thrice in it."""
    wait_limit: Annotated[int, Kind.LENGTH] = HOUR
    """The longest that a client may wait for a lock, whatever deadline it names: a last resort beyond the core's."""
    writer_patience: Annotated[int, Kind.LENGTH] = 10 * SECOND
    """How long a new request waits for a writer while none leads; longer than a takeover takes."""
    release_patience: Annotated[int, Kind.LENGTH] = 2 * SECOND
    """How long a request that is over waits for its release to be durable; the release itself goes on."""
    drain_limit: Annotated[int, Kind.LENGTH] = 5 * SECOND
    """How long a gateway that stops lets running requests end and releases be confirmed."""


KINDS: dict[str, Kind] = declared(GatewayConfig)


def is_loopback(host: str) -> bool:
    """Whether a host, as one binds to it or as a client names it, is this machine alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(config: GatewayConfig, host: str) -> None:
    """Refuse to listen beyond loopback without tokens, or with such as cannot be; raises InvalidSetting."""
    tokens = {name: getattr(config, name) for name in ("registration_token", "client_token", "admin_token")}
    named = {f"tenants.{name}": token for name, token in config.tenants.items()}
    _check_tenants(config)
    _check_blanks(tokens | named)
    _check_different(tokens | named)
    if config.insecure or is_loopback(host):
        return
    missing = [name for name, token in tokens.items() if not token and not (name == "client_token" and named)]
    if missing:
        raise InvalidSetting(
            f"{', '.join(missing)}: not set, and {host} can be reached from other machines.",
            cure="Set "
            + ", ".join(f"INTERLOCK_{name.upper()}" for name in missing)
            + ", or listen on 127.0.0.1, or pass --insecure.",
        )


def _check_tenants(config: GatewayConfig) -> None:
    for name, token in config.tenants.items():
        if not 0 < len(name) <= LONGEST_TENANT or not name.isprintable() or name == CLIENT:
            cure = f"Give 1 to {LONGEST_TENANT} characters that can be printed; {CLIENT!r} is whoever has client_token."
            raise InvalidSetting(f"tenants: {name!r} is no tenant's name.", cure=cure)
        if not token:
            raise InvalidSetting(f"tenants.{name}: its token is empty.", cure="Give each tenant a token of its own.")


def _check_blanks(tokens: dict[str, str]) -> None:
    """A header ends where its last blank begins: no client could ever send such a token."""
    for name, token in tokens.items():
        if token != token.strip():
            what = "begins or ends with a blank, or a line's end" if token.strip() else "holds nothing but blanks"
            cure = "Take the blanks away, as a file's last line end, or leave it out."
            raise InvalidSetting(f"{name}: its token {what}, and would open nothing.", cure=cure)


def _check_different(tokens: dict[str, str]) -> None:
    for first, second in itertools.combinations(tokens, 2):
        if tokens[first] and tokens[first] == tokens[second]:
            raise InvalidSetting(
                f"{first}, {second}: both are the same, so that whoever has one may do what the other is for.",
                cure="Set three different tokens, and another for each tenant.",
            )
