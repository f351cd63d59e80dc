"""The event store on PostgreSQL: one fenced writer at a time, warm standbys, any number of readers.

**Why readers see no gap.** A batch is one statement, so that it becomes visible whole. The writer sends a batch only
after the one before it was acknowledged, on positions that follow it; and the statement itself compares the log's end,
so that a batch can only ever stand directly on a committed one. A takeover first updates the epoch row, which waits for
a statement that holds it ``FOR SHARE`` and makes every later one match nothing, and reads the tail afterwards. The
library's door holds the same row for its whole transaction. So batches commit in the order of their positions, and what
any snapshot sees is a gapless beginning of the log, without locks and without a look at running transactions.

**After ``CommitUnknown``** the caller takes a new epoch. That waits for the lost statement's end if it runs on the
server, and fences it if it has yet to begin there, so that what is read afterwards is final: ``find_command``, or a
repeat of the batch stamped with the new epoch, tells whether it had been stored. A repeat under the old epoch is safe
too: it adds nothing, or everything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg

from interlock.domain.errors import (
    ChainBroken,
    EventConflict,
    Fenced,
    InterlockError,
    LeaseHeld,
    StoreUnavailable,
    UsageError,
)
from interlock.domain.recording import Head, Recorded, Snapshot

from . import batch as batches
from . import chain, sql
from .link import Link, Timeouts, bytea_array, describe, int8_array, numbered, text_array
from .queries import Params, Question
from .sql_store import IDLE_READERS, KEPT_SNAPSHOTS, LIBRARY_OWNER, SqlStore

SCHEMA_VERSION = 1
CHANNEL = "interlock_events"
_MIGRATION_LOCK = 0x696E7465726C6F63
_SQL_PAGE_ROWS = 1_000
_SERVERS_TROUBLES = ("08", "40", "53", "55", "57", "58", "F0", "XX")
"""Classes of errors that no foreign statement is to blame for; any other is its asker's mistake."""


class PostgresStore(SqlStore):
    """The ``EventStore`` port, and the audit's questions, on PostgreSQL. Safe to use from several threads.

    ``url`` is a libpq connection string; what it says about time-outs wins over ``timeouts``. Raises
    ``StoreUnavailable`` when the server cannot be reached, or was never prepared by ``interlock migrate``.
    """

    dialect = "postgres"
    page_events = 5_000

    def __init__(self, url: str, *, read_only: bool = False, timeouts: Timeouts | None = None) -> None:
        self.url = url
        self.read_only = read_only
        self._timeouts = timeouts or Timeouts()
        self._writer = _Slot(self)
        self._control = _Slot(self)
        self._pool_lock = threading.Lock()
        self._idle: list[Link] = []
        self._closed = False
        # Where the log ends as this writer knows it; None when it has to look first.
        self._end: batches.End | None = None
        try:
            self._check_schema()
        except BaseException:
            self.close()
            raise

    @property
    def schema_version(self) -> int:
        """The version of the schema that the database has; 0 before the first migration."""
        if self.fetch("SELECT to_regclass('interlock_schema') IS NULL")[0][0]:
            return 0
        return int(self.fetch("SELECT max(version) FROM interlock_schema")[0][0] or 0)

    def _check_schema(self) -> None:
        version = self.schema_version
        if version != SCHEMA_VERSION:
            raise StoreUnavailable(
                f"the event store {describe(self.url)} has schema version {version}, and this program works with "
                f"version {SCHEMA_VERSION}.",
                cure="Run `interlock migrate --store URL` once." if version < SCHEMA_VERSION else "Upgrade Interlock.",
            )

    # --- Connections --------------------------------------------------------------------------------------------------

    def connect(self) -> Link:
        """A new session. Raises ``StoreUnavailable``."""
        if self._closed:
            raise StoreUnavailable(f"the event store {describe(self.url)} is closed.")
        return Link(self.url, self._timeouts, read_only=self.read_only)

    @contextmanager
    def _reader(self) -> Iterator[Link]:
        with self._pool_lock:
            link = self._idle.pop() if self._idle else None
        link = link or self.connect()
        try:
            yield link
        finally:
            with self._pool_lock:
                keep = not link.lost and not self._closed and len(self._idle) < IDLE_READERS
                if keep:
                    self._idle.append(link)
            if not keep:
                link.close()

    # --- The port: leading --------------------------------------------------------------------------------------------

    def take_epoch(self, owner: str, lease_us: int) -> int:
        """See the port. Waits for appends in flight; afterwards every earlier epoch adds nothing any more."""
        with self._control.use() as link:
            row = link.execute(sql.text("postgres_take_epoch"), [owner, lease_us]).fetchone()
            if row is None:
                holder, left = link.execute(
                    "SELECT owner, extract(epoch FROM lease_until - clock_timestamp())::float8 FROM interlock_epoch"
                ).fetchone() or ("", 0.0)
                raise LeaseHeld(
                    f"{holder or 'another process'} is the writer for {max(left, 0.0):.1f} s more.",
                    cure="Wait for its lease to lapse, or stop it.",
                )
        # Only what is read from now on is what earlier writers have left behind.
        with self._writer.lock:
            self._end = None
        return int(row[0])

    def renew_epoch(self, epoch: int, lease_us: int) -> None:
        """See the port. A lease that has lapsed, but that nobody took, goes on."""
        statement = (
            "UPDATE interlock_epoch SET lease_until = clock_timestamp() + $2::bigint * interval '1 microsecond' "
            "WHERE singleton AND epoch = $1::bigint"
        )
        with self._control.use() as link:
            if link.execute(statement, [epoch, lease_us]).rowcount == 0:
                self._check_epoch(link, epoch)

    def release_epoch(self, epoch: int) -> None:
        """See the port."""
        with self._control.use() as link:
            link.execute("UPDATE interlock_epoch SET lease_until = clock_timestamp() WHERE epoch = $1::bigint", [epoch])

    @staticmethod
    def _check_epoch(link: Link, epoch: int) -> batches.End:
        """The log's end, read with the epoch in one snapshot. Raises ``Fenced`` when ``epoch`` has passed."""
        row = link.execute(
            "SELECT e.epoch, e.owner, s.notification_id, s.digest FROM interlock_epoch e LEFT JOIN "
            "(SELECT * FROM stored_events ORDER BY notification_id DESC LIMIT 1) s ON true"
        ).fetchone()
        if row is None or row[0] != epoch:
            taken = f"{row[1] or 'another writer'} took epoch {row[0]}" if row else "the epoch row is missing"
            raise Fenced(f"epoch {epoch} has passed: {taken}.")
        return batches.End(row[2], row[3]) if row[2] else batches.End()

    # --- The port: appending ------------------------------------------------------------------------------------------

    def append(self, batch: Sequence[Recorded], epoch: int) -> Head:
        """See the port.

        A batch whose beginning is stored already adds the rest, when the log ends at that beginning.
        """
        with self._writer.use() as link:
            known, self._end = self._end, None
            if known is None or not batch or batch[0].position != known.position + 1:
                known, batch = self._look(link, batch, epoch)
            else:
                batches.check_positions(batch)
            end = self._insert(link, batch, epoch, known) if batch else known
            if end is None:
                # The log's end is not where we knew it: look there, once.
                known, batch = self._look(link, batch, epoch)
                end = self._insert(link, batch, epoch, known) if batch else known
            if end is None:
                raise ChainBroken("the log's end moved while the epoch stood.", cure="Run `interlock audit verify`.")
            self._end = end
        return end.head()

    def _look(self, link: Link, batch: Sequence[Recorded], epoch: int) -> tuple[batches.End, Sequence[Recorded]]:
        """The log's end, and what of the batch is not stored yet."""
        end = self._check_epoch(link, epoch)
        if not batch:
            return end, batch
        return end, batches.remainder(batch, end, lambda first, last: _rows_between(link, first, last))

    def _insert(self, link: Link, batch: Sequence[Recorded], epoch: int, end: batches.End) -> batches.End | None:
        """Store ``batch`` on ``end`` and give the new end; None when the log does not end there: nothing was stored."""
        rows = batches.seal(batch, epoch, end)
        try:
            fences, events, _ = link.execute(
                sql.text("postgres_append"), _columns(rows, epoch, end), commits=True
            ).fetchone() or (0, 0, None)
        except EventConflict:
            # It may be this very batch: a first attempt, whose answer was lost, can have ended just now.
            if self._look(link, batch, epoch)[1]:
                raise
            return None
        if not fences:
            self._check_epoch(link, epoch)
            raise Fenced(f"epoch {epoch} has passed.")
        return batches.End(rows[-1][0], rows[-1][-1]) if events else None

    # --- The port: reading --------------------------------------------------------------------------------------------

    def head(self) -> Head:
        """See the port."""
        rows = self.fetch("SELECT notification_id, digest FROM stored_events ORDER BY notification_id DESC LIMIT 1")
        return (batches.End(*rows[0]) if rows else batches.End()).head()

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """See the port."""
        with self._control.use() as link, link.transaction():
            link.execute(
                "INSERT INTO interlock_snapshots VALUES ($1::bigint, $2::text, $3::bytea) "
                "ON CONFLICT (position) DO UPDATE SET schema = excluded.schema, state = excluded.state",
                [snapshot.position, snapshot.schema, snapshot.state],
            )
            link.execute(
                "DELETE FROM interlock_snapshots WHERE position NOT IN "
                "(SELECT position FROM interlock_snapshots ORDER BY position DESC LIMIT $1::bigint)",
                [KEPT_SNAPSHOTS],
            )

    def close(self) -> None:
        """See the port. The lease, if held, runs on until it lapses; ``release_epoch`` ends it."""
        self._closed = True
        with self._pool_lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()
        self._writer.close()
        self._control.close()

    # --- The audit's door ---------------------------------------------------------------------------------------------

    def fetch(self, statement: str, params: Params = ()) -> list[chain.Row]:
        """See ``LogReader``. A session that has died while it was idle is replaced once."""
        for last in (False, True):
            with self._reader() as link:
                try:
                    return link.execute(numbered(statement), params).fetchall()
                except StoreUnavailable:
                    if last or not link.lost:
                        raise
        raise AssertionError("unreachable")

    @contextmanager
    def question(self, timeout_s: float) -> Iterator[Question]:
        """See ``LogReader``: a cursor in a read-only transaction, which takes one query and nothing else."""
        link = self.connect()
        try:
            link.execute("SELECT set_config('statement_timeout', $1, false)", [f"{int(timeout_s * 1000)}ms"])
            link.execute("BEGIN READ ONLY")
            link.take_any_date()
            # After a first query the transaction cannot be made writable any more.
            link.execute("SELECT 1")
            yield lambda statement: _ask(link, statement, timeout_s)
        except InterlockError as problem:
            cause = problem.__cause__
            if isinstance(cause, psycopg.Error) and _askers_mistake(cause):
                words = str(cause).strip().splitlines()[0]
                raise UsageError(f"the query cannot be run: {words}.", cure="Ask with one SELECT.") from problem
            raise
        except psycopg.Error as problem:
            # Raised while values are read, which are all here already.
            words = str(problem).strip().splitlines()[0]
            cure = "Ask for the column as text: SELECT column::text."
            raise UsageError(f"the answer cannot be shown: {words}.", cure=cure) from problem
        finally:
            link.close()

    # --- The library's door -------------------------------------------------------------------------------------------

    def insert_unfenced(
        self,
        make: Callable[[batches.End, int, int], Sequence[Recorded]],
        tracking: tuple[str, int] | None = None,
    ) -> list[int]:
        """See ``recorders.Engine``."""
        with self._writer.use() as link, link.transaction():
            self._end = None
            row = link.execute(sql.text("postgres_unfence"), [LIBRARY_OWNER]).fetchone()
            if row is None:
                raise LeaseHeld("a writer leads the cluster.", cure="Send it commands instead.")
            # Locks are held from here on: what this next statement sees is the log's end until we commit.
            tail = link.execute(
                "SELECT notification_id, digest, time FROM stored_events ORDER BY notification_id DESC LIMIT 1"
            ).fetchone()
            end = batches.End(tail[0], tail[1]) if tail else batches.End()
            rows = batches.seal(make(end, int(row[0]), tail[2] if tail else 0), int(row[0]), end)
            if rows:
                stored = link.execute(sql.text("postgres_append"), _columns(rows, int(row[0]), end)).fetchone()
                if stored is None or stored[1] != len(rows):
                    raise ChainBroken("the log's end moved while it was locked.", cure="Run `interlock audit verify`.")
            if tracking:
                _track(link, tracking)
        return [row[0] for row in rows]

    def write(self, statement: str, rows: Sequence[Params]) -> None:
        """See ``recorders.Engine``."""
        with self._control.use() as link, link.transaction():
            for row in rows:
                link.execute(numbered(statement), row)

    def track(self, tracking: tuple[str, int]) -> None:
        """See ``recorders.Engine``."""
        with self._control.use() as link, link.transaction():
            _track(link, tracking)

    # --- Following ----------------------------------------------------------------------------------------------------

    def wait_beyond(self, position: int, timeout_s: float) -> Head:
        """The log's head, as soon as it is beyond ``position``, or after ``timeout_s`` at the latest.

        Wakes up by notification; a caller that loops polls with its time-out as the safety net.
        """
        with self._reader() as link:
            link.execute(f"LISTEN {CHANNEL}")
            try:
                head = self.head()
                if head.position <= position and link.notified(timeout_s):
                    head = self.head()
            finally:
                if not link.lost:
                    link.execute(f"UNLISTEN {CHANNEL}")
        return head


class _Slot:
    """A session of its own for one kind of work, made when needed and again when it was lost; one user at a time."""

    def __init__(self, store: PostgresStore) -> None:
        self.lock = threading.RLock()
        self._store = store
        self._link: Link | None = None

    @contextmanager
    def use(self) -> Iterator[Link]:
        with self.lock:
            if self._link is None or self._link.lost:
                self._drop()
                self._link = self._store.connect()
            try:
                yield self._link
            finally:
                if self._link.lost:
                    self._drop()

    def close(self) -> None:
        with self.lock:
            self._drop()

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def migrate(url: str, *, timeouts: Timeouts | None = None) -> int:
    """Create or upgrade the schema at ``url``, and return its version. Several at once wait for one another."""
    link = Link(url, timeouts or Timeouts())
    try:
        with link.transaction():
            link.execute("SELECT pg_advisory_xact_lock($1::bigint)", [_MIGRATION_LOCK])
            link.execute("CREATE TABLE IF NOT EXISTS interlock_schema (version integer PRIMARY KEY)")
            row = link.execute("SELECT coalesce(max(version), 0) FROM interlock_schema").fetchone()
            for version in range((row[0] if row else 0) + 1, SCHEMA_VERSION + 1):
                link.script(sql.text(f"postgres_schema_{version}"))
                link.execute("INSERT INTO interlock_schema VALUES ($1::integer)", [version])
        return max(SCHEMA_VERSION, row[0] if row else 0)
    finally:
        link.close()


def _columns(rows: Sequence[chain.Row], epoch: int, end: batches.End) -> list[object]:
    """The parameters of the append statement."""
    _, stream, version, topic, state, event_id, time, _, actor, command, correlation, causation, request, digest = zip(
        *rows, strict=True
    )
    texts = [text_array(column) for column in (actor, command, correlation, causation, request)]
    return [
        epoch,
        end.position,
        end.digest,
        rows[-1][0],
        text_array(stream),
        int8_array(version),
        text_array(topic),
        bytea_array(state),
        text_array(event_id),
        int8_array(time),
        *texts,
        bytea_array(digest),
    ]


def _rows_between(link: Link, first: int, last: int) -> list[chain.Row]:
    statement = sql.text("postgres_rows") + " WHERE notification_id BETWEEN $1 AND $2 ORDER BY notification_id"
    return link.execute(statement, [first, last]).fetchall()


def _track(link: Link, tracking: tuple[str, int]) -> None:
    if link.execute(sql.text("postgres_track"), tracking).fetchone() is None:
        raise EventConflict(f"{tracking[0]} has tracked position {tracking[1]} already.")


def _askers_mistake(problem: psycopg.Error) -> bool:
    # 08P01 is a parameter that no value came for.
    state = problem.sqlstate or ""
    return state == "08P01" or (bool(state) and state[:2] not in _SERVERS_TROUBLES)


def _ask(link: Link, statement: str, timeout_s: float) -> tuple[list[str], Iterator[chain.Row]]:
    # A cursor takes a query and nothing else, gives its rows in pages, and an extended-protocol message takes one
    # statement only.
    link.execute(f"DECLARE question NO SCROLL CURSOR FOR {statement}", wait_s=timeout_s * 2)
    fetch = f"FETCH FORWARD {_SQL_PAGE_ROWS} FROM question"
    first = link.execute(fetch, prepare=False, binary=False, wait_s=timeout_s * 2)

    def rows() -> Iterator[chain.Row]:
        page = first.fetchall()
        while page:
            yield from page
            page = link.execute(fetch, prepare=False, binary=False, wait_s=timeout_s * 2).fetchall()

    return [column.name for column in first.description or ()], rows()
