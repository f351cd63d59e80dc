"""Ids of requests: the client's own where it sent one, and unique in the log whatever clients send."""

from __future__ import annotations

import itertools
import re
import secrets

import msgspec

from interlock.domain.errors import InvalidField

_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_REPLICA_LIKE = re.compile(r"r-\d+")
_MOST_REMEMBERED = 100_000
"""Client ids remembered as used, about ten megabytes; once there are more, every further one gets a suffix."""


class Ids(msgspec.Struct, frozen=True):
    """``request`` is unique in the log; ``correlation`` is what the client calls it."""

    request: str
    correlation: str


class RequestIds:
    """Gives out ids for one run of a gateway. ``run`` must be unique among runs."""

    def __init__(self, run: str = "") -> None:
        self.run = run or secrets.token_hex(4)
        self._serial = itertools.count(1)
        self._used: set[str] = set()

    def take(self, given: str | None) -> Ids:
        """Ids for one request that came with ``X-Request-Id: given``; raises InvalidField when that cannot be one."""
        if given is None:
            fresh = f"req-{self.run}-{next(self._serial)}"
            return Ids(fresh, fresh)
        check(given)
        taken = given in self._used or _REPLICA_LIKE.fullmatch(given) or given.startswith(f"req-{self.run}-")
        if taken or len(self._used) >= _MOST_REMEMBERED:
            return self.again(Ids(given, given))
        self._used.add(given)
        return Ids(given, given)

    def is_the_clients(self, ids: Ids) -> bool:
        """Whether the id is as the client sent it: another run, or another gateway, may have given it to the log."""
        return ids.request == ids.correlation and not ids.request.startswith(f"req-{self.run}-")

    def again(self, ids: Ids) -> Ids:
        """Other ids for the same request: its id turned out to be taken. ``~`` never occurs in a client's id."""
        return Ids(f"{ids.correlation}~{self.run}-{next(self._serial)}", ids.correlation)


def check(given: str) -> None:
    """Raise InvalidField unless ``given`` can be a request id."""
    if not _CLIENT_ID.fullmatch(given):
        cure = "Use 1 to 128 letters, digits, dots, dashes and underscores."
        raise InvalidField("X-Request-Id", "not an id that the log can hold", cure=cure)
