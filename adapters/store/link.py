"""One connection to PostgreSQL on which every wait is bounded, and whose errors are the port's.

Three bounds lie inside each other. The server stops a statement after ``statement_s`` and a wait for a lock after
``lock_s``; TCP gives up a dead peer by keep-alives and its user timeout; and for a server that is stopped or hangs
while its machine still answers TCP, a watchdog shuts the socket down after ``answer_s``.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any

import psycopg
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.datetime import (
    DateLoader,
    IntervalLoader,
    TimeLoader,
    TimestampLoader,
    TimestamptzLoader,
    TimetzLoader,
)

from interlock.domain.errors import (
    CommitUnknown,
    EventConflict,
    InterlockError,
    InvalidField,
    InvalidSetting,
    StoreUnavailable,
)

from .queries import Params


@dataclass(frozen=True)
class Timeouts:
    """How long the parts of a call may take, in seconds."""

    connect_s: int = 5
    lock_s: float = 5.0
    statement_s: float = 10.0
    answer_s: float = 15.0


class _Watchdog:
    """Shuts sockets down whose deadline has passed; one thread for the process, which sleeps nearly always."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: dict[int, tuple[float, socket.socket]] = {}
        self._keys = itertools.count()
        self._wakes_at = inf
        self._running = False

    @contextmanager
    def guard(self, peer: socket.socket, seconds: float) -> Iterator[None]:
        """Shut ``peer`` down when the block takes longer than ``seconds``."""
        deadline = time.monotonic() + seconds
        with self._changed:
            key = next(self._keys)
            self._deadlines[key] = (deadline, peer)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="interlock-store-watchdog", daemon=True).start()
            elif deadline < self._wakes_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                del self._deadlines[key]

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for deadline, peer in self._deadlines.values():
                    if deadline <= now:
                        with suppress(OSError):
                            peer.shutdown(socket.SHUT_RDWR)
                self._wakes_at = min((one for one, _ in self._deadlines.values() if one > now), default=inf)
                self._changed.wait(None if self._wakes_at == inf else self._wakes_at - now)


_watchdog = _Watchdog()


class Link:
    """One session, in auto-commit mode. Not for two threads at once.

    Raises ``StoreUnavailable`` when the server cannot be reached.
    """

    def __init__(self, url: str, timeouts: Timeouts, *, read_only: bool = False) -> None:
        self._timeouts = timeouts
        self._name = describe(url)
        try:
            self._session = psycopg.connect(_conninfo(url, timeouts), autocommit=True, cursor_factory=psycopg.RawCursor)
        except psycopg.Error as problem:
            raise StoreUnavailable(
                f"the event store {self._name} cannot be reached: {_words(problem)}.",
                cure="Start that server, or name another with --store.",
            ) from problem
        # A handle of our own on the socket: the client library may close its number while the watchdog looks at it.
        self._peer = _duplicate(self._session.fileno())
        for dumper in (_Int8Dumper, _TextDumper, _ByteaDumper):
            self._session.adapters.register_dumper(dumper.of, dumper)
        self.execute(
            "SELECT set_config('statement_timeout', $1, false), set_config('lock_timeout', $2, false), "
            "set_config('idle_in_transaction_session_timeout', $3, false), "
            "set_config('default_transaction_read_only', $4, false)",
            [
                f"{int(timeouts.statement_s * 1000)}ms",
                f"{int(timeouts.lock_s * 1000)}ms",
                # A client that sleeps inside a transaction is ended before a takeover that waits for it gives up.
                f"{int(timeouts.lock_s * 500)}ms",
                "on" if read_only else "off",
            ],
        )

    @property
    def lost(self) -> bool:
        """Whether the session is over."""
        return self._session.closed or self._session.pgconn.status != pq.ConnStatus.OK

    @property
    def backend_pid(self) -> int:
        """The process that serves this session on the server."""
        return self._session.info.backend_pid

    def execute(
        self,
        statement: str,
        params: Params = (),
        *,
        commits: bool = False,
        prepare: bool = True,
        binary: bool = True,
        wait_s: float | None = None,
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        """Run one statement with ``$1`` parameters and give its cursor; the result is here already.

        ``commits`` says that the statement commits what it does: if its answer is lost then, the error is
        ``CommitUnknown``. ``binary=False`` asks for values as text: see :meth:`take_any_date`.
        """
        try:
            with _watchdog.guard(self._peer, wait_s or self._timeouts.answer_s):
                cursor = self._session.cursor(binary=binary)
                return cursor.execute(statement, params or None, prepare=prepare, binary=binary)
        except psycopg.Error as problem:
            raise self._translated(problem, commits) from problem

    def take_any_date(self) -> None:
        """Take dates and times that Python has no value for (``infinity``, 24:00) as the server's own text.

        It counts for what is asked with ``binary=False``.
        """
        for name, loader in _LOADERS.items():
            self._session.adapters.register_loader(name, loader)

    def script(self, statements: str) -> None:
        """Run several statements without parameters."""
        try:
            with _watchdog.guard(self._peer, self._timeouts.answer_s):
                self._session.execute(statements.encode())
        except psycopg.Error as problem:
            raise self._translated(problem, False) from problem

    @contextmanager
    def transaction(self, mode: str = "") -> Iterator[None]:
        """A transaction of several statements; its commit can be ``CommitUnknown``."""
        self.execute(f"BEGIN {mode}")
        try:
            yield
        except BaseException:
            with suppress(InterlockError):
                self.execute("ROLLBACK")
            raise
        self.execute("COMMIT", commits=True)

    def notified(self, timeout_s: float) -> bool:
        """Wait at most ``timeout_s`` for a notification that this session listens for."""
        try:
            with _watchdog.guard(self._peer, timeout_s + self._timeouts.answer_s):
                return any(True for _ in self._session.notifies(timeout=timeout_s, stop_after=1))
        except psycopg.Error as problem:
            raise self._translated(problem, False) from problem

    def close(self) -> None:
        """End the session."""
        with suppress(psycopg.Error):
            self._session.close()
        self._peer.close()

    def _translated(self, problem: psycopg.Error, commits: bool) -> InterlockError:
        """The port's error for one of the client library's."""
        if isinstance(problem, psycopg.DataError) and not self.lost:
            return InvalidField("event", f"it cannot be stored: {_words(problem)}")
        # A FATAL error has a code and ends the session: whether the commit came before it is as unknown as without one.
        if self.lost or problem.sqlstate is None:
            if commits:
                return CommitUnknown(
                    f"the connection to {self._name} ended before the commit was answered: {_words(problem)}.",
                    cure="Take a new epoch, then look what is stored.",
                )
            return StoreUnavailable(
                f"the connection to the event store {self._name} ended: {_words(problem)}.", cure="Check that server."
            )
        if isinstance(problem, psycopg.errors.UniqueViolation):
            return EventConflict(
                f"a stream and version, or an event id, is stored already with other content ({_words(problem)}).",
                cure="Read the log's tail and decide again.",
            )
        reason, cure = _reason(problem.sqlstate)
        return StoreUnavailable(f"the event store {self._name} does not work: {reason or _words(problem)}.", cure=cure)


_REASONS = {
    "57014": ("a statement took longer than it may", "Look for what slows the server down, or holds its locks."),
    "55P03": ("another session holds a lock on it", "End the session that does; pg_stat_activity shows it."),
    "53100": ("the server's disk is full", "Free space there; nothing of the batch was stored."),
    "53300": ("the server has no connection left", "Raise its max_connections, or end sessions."),
    "25006": ("the server, or this user, may only read", "Name the primary server with --store."),
    "42501": ("this user lacks a right", "Grant it what `interlock migrate` made."),
    "42P01": ("its tables are missing", "Run `interlock migrate --store URL` once."),
    "42703": ("its tables are of another version", "Run `interlock migrate --store URL` once."),
    "XX001": ("the server's data is damaged", "Restore it from a backup."),
}


def _reason(sqlstate: str) -> tuple[str, str]:
    return _REASONS.get(sqlstate, ("", "Check that server's log."))


def _words(problem: psycopg.Error) -> str:
    """The first line of an error, which says it all."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[0].strip().rstrip(".")


def describe(url: str) -> str:
    """The address in ``url`` without a password, for messages."""
    parts = _parts(url)
    where = f"{parts.get('host', 'localhost')}:{parts['port']}" if "port" in parts else parts.get("host", "localhost")
    return f"postgresql://{where}/{parts.get('dbname', '')}"


def _parts(url: str) -> dict[str, Any]:
    """What ``url`` says, by name; raises InvalidSetting for one that does not parse."""
    try:
        return conninfo_to_dict(url)
    except psycopg.ProgrammingError as problem:
        # What is quoted there may be a part of the password.
        words = _words(problem).partition('"')[0].removesuffix("in ").strip(" :")
        cure = "Write --store postgresql://USER@HOST:PORT/DATABASE, and other signs in it as %20 and the like."
        raise InvalidSetting(f"the address of the event store does not parse: {words}.", cure=cure) from problem


def _conninfo(url: str, timeouts: Timeouts) -> str:
    """``url`` with our timeouts where it names none."""
    ours: dict[str, str | int] = {
        "connect_timeout": timeouts.connect_s,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        "tcp_user_timeout": int(timeouts.answer_s * 1000),
        "application_name": "interlock",
    }
    given = _parts(url)
    return make_conninfo(url, **{name: value for name, value in ours.items() if name not in given})


def _lenient(loader: type[Loader]) -> type[Loader]:
    """The loader, but for what it has no value for: then the server's text itself."""

    class Lenient(loader):  # type: ignore[valid-type,misc]  # because the class is a parameter
        def load(self, data: Buffer) -> Any:
            try:
                return super().load(data)
            except (psycopg.DataError, OverflowError):
                return bytes(data).decode()

    return Lenient


_LOADERS = {
    "date": _lenient(DateLoader),
    "time": _lenient(TimeLoader),
    "timetz": _lenient(TimetzLoader),
    "timestamp": _lenient(TimestampLoader),
    "timestamptz": _lenient(TimestamptzLoader),
    "interval": _lenient(IntervalLoader),
}


def _duplicate(number: int) -> socket.socket:
    # Not by ``socket.dup``: that makes the socket blocking, for the client library as well, which then waits for ever
    # for more when a large result has come to its end.
    return socket.socket(fileno=os.dup(number))


@cache
def numbered(statement: str) -> str:
    """``statement`` with ``$1``, ``$2``... in place of ``?``, which it must not use otherwise."""
    first, *rest = statement.split("?")
    return first + "".join(f"${index}{part}" for index, part in enumerate(rest, 1))


# --- Arrays -----------------------------------------------------------------------------------------------------------
# The client library packs arrays element by element in Python, at 0.4 µs each; a batch has thousands. These are packed
# a column at a time.

_ARRAY = struct.Struct(">iiIii")
_INT8 = struct.Struct(">iq")
_LENGTH = struct.Struct(">i")
_LENGTHS = [_LENGTH.pack(length) for length in range(4_096)]


@dataclass(frozen=True, slots=True)
class Int8Array:
    """A ``bigint[]`` in PostgreSQL's binary form."""

    data: bytes


@dataclass(frozen=True, slots=True)
class TextArray:
    """A ``text[]`` in PostgreSQL's binary form."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ByteaArray:
    """A ``bytea[]`` in PostgreSQL's binary form."""

    data: bytes


def int8_array(values: Sequence[int]) -> Int8Array:
    """Pack a column of 64-bit numbers."""
    pack = _INT8.pack
    return Int8Array(_ARRAY.pack(1, 0, 20, len(values), 1) + b"".join([pack(8, value) for value in values]))


def text_array(values: Sequence[str]) -> TextArray:
    """Pack a column of texts."""
    return TextArray(_joined(25, [value.encode() for value in values]))


def bytea_array(values: Sequence[bytes]) -> ByteaArray:
    """Pack a column of byte strings."""
    return ByteaArray(_joined(17, values))


def _joined(oid: int, values: Sequence[bytes]) -> bytes:
    return _ARRAY.pack(1, 0, oid, len(values), 1) + b"".join(_with_lengths(values))


def _with_lengths(values: Iterable[bytes]) -> list[bytes]:
    parts: list[bytes] = []
    add = parts.append
    for value in values:
        length = len(value)
        add(_LENGTHS[length] if length < 4_096 else _LENGTH.pack(length))
        add(value)
    return parts


class _ArrayDumper(Dumper):
    """Hands an array over as it was packed."""

    format = pq.Format.BINARY

    def dump(self, obj: Any) -> Buffer:
        data: bytes = obj.data
        return data


class _Int8Dumper(_ArrayDumper):
    of = Int8Array
    oid = 1016


class _TextDumper(_ArrayDumper):
    of = TextArray
    oid = 1009


class _ByteaDumper(_ArrayDumper):
    of = ByteaArray
    oid = 1001
