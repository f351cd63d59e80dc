"""Connecting to NATS: credentials out of the environment or the URL, bounded waits, our own errors."""

from __future__ import annotations

import asyncio
import logging
import os
from urllib.parse import unquote, urlsplit, urlunsplit
from weakref import WeakSet

import msgspec
import nats
import nats.errors
from nats.aio.client import Client

from interlock.domain.errors import BrokerUnavailable, InvalidSetting

log = logging.getLogger(__name__)

_closing: WeakSet[Client] = WeakSet()
"""Connections that we end ourselves, which is no loss."""


class NatsConfig(msgspec.Struct, frozen=True):
    """Where the broker is and who we are. ``credentials`` is the path of a NATS credentials file."""

    url: str
    user: str = ""
    password: str = ""
    credentials: str = ""

    def __repr__(self) -> str:
        return f"NatsConfig(url={self.url!r}, user={self.user!r})"

    @classmethod
    def parse(cls, url: str) -> NatsConfig:
        """From ``nats://[user:password@]host:port`` and INTERLOCK_NATS_USER, _PASSWORD and _CREDENTIALS.

        Raises InvalidSetting for what is no address.
        """
        try:
            parts = urlsplit(url if "://" in url else f"nats://{url}")
            named = parts.port is None or parts.port > 0
        except ValueError:  # a port that is none, or half a pair of brackets
            named = False
        if not named:
            raise InvalidSetting("nats: it names no address.", cure="Give nats://HOST:PORT.")
        place = parts.netloc.rpartition("@")[2]
        return cls(
            url=urlunsplit(parts._replace(netloc=place)),
            user=unquote(parts.username or "") or os.environ.get("INTERLOCK_NATS_USER", ""),
            password=unquote(parts.password or "") or os.environ.get("INTERLOCK_NATS_PASSWORD", ""),
            credentials=os.environ.get("INTERLOCK_NATS_CREDENTIALS", ""),
        )

    def environment(self) -> dict[str, str]:
        """The variables that hand these credentials to a child process, which keeps them off its command line."""
        named = {
            "INTERLOCK_NATS_USER": self.user,
            "INTERLOCK_NATS_PASSWORD": self.password,
            "INTERLOCK_NATS_CREDENTIALS": self.credentials,
        }
        return {name: value for name, value in named.items() if value}


async def connect(config: NatsConfig, name: str, *, timeout_s: float = 5.0) -> Client:
    """A connection that comes back by itself; raises BrokerUnavailable when there is none within ``timeout_s``."""

    heard: list[Exception] = []

    async def on_error(error: Exception) -> None:
        heard[:] = [error]
        log.warning("NATS (%s): %s", name, _words(error))

    async def on_lost() -> None:
        if client not in _closing:
            log.warning("NATS (%s): connection lost", name)

    async def on_back() -> None:
        log.info("NATS (%s): connected again", name)

    client = Client()
    try:
        async with asyncio.timeout(timeout_s):
            await client.connect(
                servers=[config.url],
                name=name,
                user=config.user or None,
                password=config.password or None,
                user_credentials=config.credentials or None,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                connect_timeout=max(1, round(timeout_s)),
                ping_interval=10,
                max_outstanding_pings=2,
                error_cb=on_error,
                disconnected_cb=on_lost,
                reconnected_cb=on_back,
            )
    except (OSError, TimeoutError, nats.errors.Error) as error:
        await close(client)
        raise BrokerUnavailable(
            f"no NATS broker answers at {config.url}: {_words(heard[0] if heard else error)}.",
            cure="Check --nats and its credentials (INTERLOCK_NATS_USER, INTERLOCK_NATS_PASSWORD).",
        ) from None
    return client


async def settle(client: Client, *, timeout_s: int = 5) -> None:
    """Return when the broker has seen all that was sent before: subscriptions in force, messages taken.

    Raises nats.errors.Error. The library's flush alone proves less: its PING goes straight to the socket, past what is
    still queued. By the time that the first is answered the queue is out, and the second comes after it.
    """
    for _ in range(2):
        await client.flush(timeout=timeout_s)


async def close(client: Client) -> None:
    """Close, sending what is still to be sent when the broker takes it within a second."""
    _closing.add(client)
    try:
        if client.is_connected:
            await settle(client, timeout_s=1)
    except (nats.errors.Error, TimeoutError, OSError):
        log.debug("NATS: closed with messages unsent")
    try:
        await client.close()
    except (nats.errors.Error, OSError, RuntimeError) as error:
        log.debug("NATS: %s while closing", error)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
