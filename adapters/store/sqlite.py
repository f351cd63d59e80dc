"""The event store on SQLite: one file, one writer process, any number of readers beside it.

Every batch is one transaction: it compares the epoch, reads the log's end, inserts and commits with the write-ahead log
flushed to disk. The writer's lease is a lock on a file beside the database; it ends with the process that holds it.

Both doors, and taking an epoch, begin by taking SQLite's write lock. So while one of them looks at the lease, no other
can take it, and a look is enough.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from interlock.domain.errors import CommitUnknown, EventConflict, Fenced, LeaseHeld, StoreUnavailable, UsageError
from interlock.domain.recording import Head, Recorded, Snapshot

from . import batch as batches
from . import chain, sql
from .lease import FileLease
from .queries import Params, Question
from .sql_store import IDLE_READERS, KEPT_SNAPSHOTS, LIBRARY_OWNER, SqlStore

SCHEMA_VERSION = 1
FILE_NAME = "events.db"
_LOOK_AGAIN_S = 0.02
_BAD_TEXT = "surrogateescape"

_CURES = {
    sqlite3.SQLITE_FULL: ("the disk is full", "Free space there; nothing of the batch was stored."),
    sqlite3.SQLITE_READONLY: ("the file or its folder is read-only", "Make it writable, or name another with --data."),
    sqlite3.SQLITE_PERM: ("access is denied", "Give this user the file, or name another with --data."),
    sqlite3.SQLITE_CANTOPEN: (
        "the file cannot be opened",
        "Check that the folder exists and is writable, or name another with --data.",
    ),
    sqlite3.SQLITE_CORRUPT: (
        "the file is damaged",
        "Restore it from a backup; `interlock audit verify` names the first bad position.",
    ),
    sqlite3.SQLITE_NOTADB: ("the file is no SQLite database", "Name the right file, or restore it from a backup."),
    sqlite3.SQLITE_BUSY: ("another process keeps it locked", "Stop the process that holds a transaction open on it."),
    sqlite3.SQLITE_LOCKED: ("another process keeps it locked", "Stop the process that holds a transaction open on it."),
    sqlite3.SQLITE_IOERR: ("reading or writing it failed", "Check the disk."),
}


def unavailable(problem: sqlite3.Error | OSError, path: Path) -> StoreUnavailable:
    """The port's error for an error of SQLite or of the file system, with the action that cures it."""
    code = getattr(problem, "sqlite_errorcode", 0) & 0xFF
    reason, cure = _CURES.get(code, (str(problem), "Check the file and its folder."))
    return StoreUnavailable(f"the event store {path} does not work: {reason}.", cure=cure)


class SqliteStore(SqlStore):
    """The ``EventStore`` port, and the audit's questions, on one SQLite file. Safe to use from several threads.

    ``path`` is the file. ``read_only`` opens an existing store for readers, beside a running writer or without one;
    everything that writes then raises ``StoreUnavailable``. ``durable=False`` does not wait for the disk, for logs that
    can be made again. ``busy_timeout_ms`` bounds every wait for another process's transaction.
    """

    dialect = "sqlite"
    page_events = 2_000

    def __init__(
        self, path: Path, *, read_only: bool = False, durable: bool = True, busy_timeout_ms: int = 5_000
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._durable = durable
        self._busy_timeout_ms = busy_timeout_ms
        self._lease = FileLease(path.with_name(path.name + ".lease"))
        self._owner = ""
        self._write_lock = threading.Lock()
        self._pool_lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._writer: sqlite3.Connection | None = None
        if read_only:
            self._open_read_only()
        else:
            self._open_writable()

    def _open_read_only(self) -> None:
        if not self.path.is_file():
            raise StoreUnavailable(f"there is no event store at {self.path}.", cure="Name one with --store or --data.")
        with self._reader() as db:
            self._check_schema(db)

    def _open_writable(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise StoreUnavailable(
                f"the folder {self.path.parent} cannot be made: {problem.strerror}.",
                cure="Name another with --data.",
            ) from problem
        with self._translated():
            self._writer = self._connect("rwc")
            self._refuse_another_programs(self._writer)
            migrate(self._writer)
            self._check_schema(self._writer)

    def _refuse_another_programs(self, db: sqlite3.Connection) -> None:
        """Raise StoreUnavailable for a file with a table of the log's name that we have not made."""
        tables = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'stored_events'").fetchall()
        if tables and not db.execute("PRAGMA user_version").fetchone()[0]:
            raise StoreUnavailable(
                f"{self.path} has a table stored_events without the version of a schema of ours (its user_version is "
                "0): another program made it, or somebody has set that.",
                cure="Name another file, or restore this one from a backup.",
            )

    @property
    def schema_version(self) -> int:
        """The version of the schema that the file has."""
        return int(self.fetch("PRAGMA user_version")[0][0])

    def _check_schema(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreUnavailable(
                f"the event store {self.path} has schema version {version}, and this program knows {SCHEMA_VERSION}.",
                cure="Upgrade Interlock.",
            )
        if version < SCHEMA_VERSION:
            raise StoreUnavailable(
                f"the event store {self.path} has schema version {version}, and this program needs {SCHEMA_VERSION}.",
                cure="Run `interlock migrate` on it.",
            )

    # --- Connections --------------------------------------------------------------------------------------------------

    def _connect(self, mode: str) -> sqlite3.Connection:
        address = f"file:{quote(str(self.path))}?mode={mode}"
        db = sqlite3.connect(
            address, uri=True, timeout=self._busy_timeout_ms / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            if mode == "rwc":
                db.execute("PRAGMA journal_mode = WAL")
                db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'OFF'}")
                db.execute("PRAGMA wal_autocheckpoint = 4000")
            else:
                db.execute("PRAGMA query_only = 1")
            db.execute("PRAGMA cache_size = -32768")
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _connect_reader(self) -> sqlite3.Connection:
        try:
            db = self._connect("ro")
            try:
                db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
            except sqlite3.OperationalError:
                db.close()
                raise
        except sqlite3.OperationalError:
            # A log that was closed well, in a folder that we may not write, has no shared memory file and cannot get
            # one. Nobody can be writing it there either, so that it may be read as it stands. A reader that may write
            # there leaves an empty write-ahead log behind.
            ahead = self.path.with_name(self.path.name + "-wal")
            if ahead.exists() and ahead.stat().st_size:
                raise
            db = self._connect("ro&immutable=1")
        return db

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the errors of SQLite and the file system into the port's."""
        try:
            yield
        except sqlite3.IntegrityError as problem:
            raise EventConflict(
                f"a stream and version, or an event id, is stored already with other content ({problem}).",
                cure="Read the log's tail and decide again.",
            ) from problem
        except (sqlite3.Error, OSError) as problem:
            raise unavailable(problem, self.path) from problem

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection that only reads; it never waits for the writer, nor the writer for it."""
        with self._translated():
            with self._pool_lock:
                self._check_open()
                db = self._idle.pop() if self._idle else None
            db = db or self._connect_reader()
            try:
                yield db
            except BaseException:
                db.close()
                raise
            with self._pool_lock:
                if len(self._idle) < IDLE_READERS and not self._closed:
                    self._idle.append(db)
                    return
            db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its beginning and commits at its end, or leaves nothing."""
        with self._write_lock, self._translated():
            self._check_open()
            if self._writer is None:
                raise StoreUnavailable(f"the event store {self.path} was opened to be read only.")
            db = self._writer
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.rollback()
                raise
            self._commit(db)

    def _commit(self, db: sqlite3.Connection) -> None:
        try:
            db.execute("COMMIT")
        except sqlite3.Error as problem:
            with suppress(sqlite3.Error):
                db.rollback()
            if problem.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR:
                # The frames may have reached the disk though their flush failed, and a crash would bring them back.
                raise CommitUnknown(
                    f"the commit to {self.path} failed while it was written: {problem}.",
                    cure="Take a new epoch, then look what is stored.",
                ) from problem
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"the event store {self.path} is closed.")

    # --- The port -----------------------------------------------------------------------------------------------------

    def take_epoch(self, owner: str, lease_us: int) -> int:
        """See the port. The lease lasts until it is released or this process ends; ``lease_us`` has no meaning here."""
        held_before = self._lease.held
        try:
            with self._writing() as db:
                if (held_before and owner != self._owner) or not self._lease.acquire():
                    holder = db.execute("SELECT owner FROM interlock_epoch").fetchone()[0]
                    raise LeaseHeld(
                        f"{holder or 'another process'} is the writer of {self.path}.",
                        cure="Stop that process; its lease ends with it.",
                    )
                db.execute("UPDATE interlock_epoch SET epoch = epoch + 1, owner = ?", (owner,))
                epoch = int(db.execute("SELECT epoch FROM interlock_epoch").fetchone()[0])
        except BaseException:
            if not held_before:
                self._lease.release()
            raise
        self._owner = owner
        return epoch

    def renew_epoch(self, epoch: int, lease_us: int) -> None:
        """See the port: nothing to extend, so this only tells whether ``epoch`` is still the newest."""
        self._check_epoch(self.fetch("SELECT epoch, owner FROM interlock_epoch")[0], epoch)

    def release_epoch(self, epoch: int) -> None:
        """See the port."""
        if self._lease.held and self.fetch("SELECT epoch FROM interlock_epoch")[0][0] == epoch:
            self._lease.release()

    def append(self, batch: Sequence[Recorded], epoch: int) -> Head:
        """See the port.

        A batch whose beginning is stored already adds the rest, when the log ends at that beginning.
        """
        with self._writing() as db:
            self._check_epoch(db.execute("SELECT epoch, owner FROM interlock_epoch").fetchone(), epoch)
            end = _end(db)
            if batch:
                rest = batches.remainder(batch, end, lambda first, last: _rows_between(db, first, last))
                end = _insert(db, batches.seal(rest, epoch, end), end)
        return end.head()

    @staticmethod
    def _check_epoch(row: chain.Row, epoch: int) -> None:
        if row[0] != epoch:
            raise Fenced(f"epoch {epoch} has passed: {row[1] or 'another writer'} took epoch {row[0]}.")

    def head(self) -> Head:
        """See the port."""
        with self._reader() as db:
            return _end(db).head()

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """See the port."""
        with self._writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO interlock_snapshots VALUES (?, ?, ?)",
                (snapshot.position, snapshot.schema, snapshot.state),
            )
            db.execute(
                "DELETE FROM interlock_snapshots WHERE position NOT IN "
                "(SELECT position FROM interlock_snapshots ORDER BY position DESC LIMIT ?)",
                (KEPT_SNAPSHOTS,),
            )

    def close(self) -> None:
        """See the port."""
        with self._write_lock, self._pool_lock:
            self._closed = True
            connections = [*self._idle, *([self._writer] if self._writer else [])]
            self._idle.clear()
            self._writer = None
            for db in connections:
                with suppress(sqlite3.Error):
                    db.close()
            self._lease.release()

    # --- The audit's door ---------------------------------------------------------------------------------------------

    def fetch(self, statement: str, params: Params = ()) -> list[chain.Row]:
        """See ``LogReader``."""
        with self._reader() as db:
            try:
                return db.execute(statement, params).fetchall()
            except sqlite3.OperationalError as problem:
                if "Could not decode" not in str(problem):
                    raise
                # Somebody put bytes that are no Unicode into a text: show them rather than stop, so that a verifier can
                # name the row.
                return _fetch_bad_text(db, statement, params)

    @contextmanager
    def question(self, timeout_s: float) -> Iterator[Question]:
        """See ``LogReader``: the authorizer lets nothing through but reading this file."""
        with self._translated():
            self._check_open()
            db = self._connect_reader()
            timer = threading.Timer(timeout_s, db.interrupt)
            timer.start()
            try:
                db.set_authorizer(_only_reading)
                yield lambda statement: _ask(db, statement)
            except (sqlite3.Error, sqlite3.Warning) as problem:
                raise _answer_to(problem, timeout_s) from problem
            finally:
                timer.cancel()
                timer.join()
                db.close()

    # --- Following ----------------------------------------------------------------------------------------------------

    def wait_beyond(self, position: int, timeout_s: float) -> Head:
        """See ``LogReader``. SQLite tells nobody about a commit, so this looks again and again."""
        until = time.monotonic() + timeout_s
        while (head := self.head()).position <= position and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_AGAIN_S))
        return head

    # --- The library's door -------------------------------------------------------------------------------------------

    @contextmanager
    def unfenced(self) -> Iterator[sqlite3.Connection]:
        """A transaction for the library's door, in which no writer leads and none can come to lead.

        Raises ``LeaseHeld`` while a writer does. Every earlier epoch is fenced, so that a writer that sleeps cannot
        append behind what is inserted here.
        """
        with self._writing() as db:
            if self._lease.held or not self._lease.acquire():
                raise LeaseHeld(f"a writer leads the cluster on {self.path}.", cure="Send it commands instead.")
            # No writer can take it back before this transaction ends: that begins with the write lock, which we hold.
            self._lease.release()
            db.execute(
                "UPDATE interlock_epoch SET epoch = epoch + 1, owner = ? WHERE owner <> ?",
                (LIBRARY_OWNER, LIBRARY_OWNER),
            )
            yield db

    def insert_unfenced(
        self,
        make: Callable[[batches.End, int, int], Sequence[Recorded]],
        tracking: tuple[str, int] | None = None,
    ) -> list[int]:
        """See ``recorders.Engine``."""
        with self.unfenced() as db:
            end = _end(db)
            epoch = int(db.execute("SELECT epoch FROM interlock_epoch").fetchone()[0])
            last = db.execute("SELECT time FROM stored_events ORDER BY rowid DESC LIMIT 1").fetchone()
            rows = batches.seal(make(end, epoch, last[0] if last else 0), epoch, end)
            _insert(db, rows, end)
            if tracking:
                _track(db, tracking)
        return [row[0] for row in rows]

    def write(self, statement: str, rows: Sequence[Params]) -> None:
        """See ``recorders.Engine``."""
        with self._writing() as db:
            db.executemany(statement, rows)

    def track(self, tracking: tuple[str, int]) -> None:
        """See ``recorders.Engine``."""
        with self._writing() as db:
            _track(db, tracking)


def migrate(db: sqlite3.Connection) -> None:
    """Bring the schema up to date, in one transaction; does nothing when it is."""
    if db.execute("PRAGMA user_version").fetchone()[0] >= SCHEMA_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        for version in range(db.execute("PRAGMA user_version").fetchone()[0] + 1, SCHEMA_VERSION + 1):
            for statement in sql.statements(f"sqlite_schema_{version}"):
                db.execute(statement)
        db.execute("COMMIT")
    except BaseException:
        db.rollback()
        raise


def _end(db: sqlite3.Connection) -> batches.End:
    row = db.execute("SELECT rowid, digest FROM stored_events ORDER BY rowid DESC LIMIT 1").fetchone()
    return batches.End(*row) if row else batches.End()


def _rows_between(db: sqlite3.Connection, first: int, last: int) -> list[chain.Row]:
    statement = sql.text("sqlite_rows") + " WHERE rowid BETWEEN ? AND ? ORDER BY rowid"
    return db.execute(statement, (first, last)).fetchall()


def _insert(db: sqlite3.Connection, rows: Sequence[chain.Row], end: batches.End) -> batches.End:
    if not rows:
        return end
    db.executemany(sql.text("sqlite_append"), rows)
    return batches.End(rows[-1][0], rows[-1][-1])


def _track(db: sqlite3.Connection, tracking: tuple[str, int]) -> None:
    if db.execute(sql.text("sqlite_track"), tracking).fetchone() is None:
        raise EventConflict(f"{tracking[0]} has tracked position {tracking[1]} already.")


def _fetch_bad_text(db: sqlite3.Connection, statement: str, params: Params) -> list[chain.Row]:
    db.text_factory = lambda text: text.decode("utf-8", _BAD_TEXT)
    try:
        return db.execute(statement, params).fetchall()
    finally:
        db.text_factory = str


def _only_reading(
    action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None
) -> int:
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if second == "load_extension" else sqlite3.SQLITE_OK
    reading = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in reading else sqlite3.SQLITE_DENY


def _answer_to(problem: Exception, timeout_s: float) -> Exception:
    """What a foreign query's error means: too long, or the asker's mistake."""
    code = getattr(problem, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_INTERRUPT:
        return StoreUnavailable(f"the query took longer than {timeout_s:g} s.", cure="Narrow it down.")
    if code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY):
        return UsageError(f"the query cannot be run: {problem}.", cure="Ask with one SELECT; nothing else is allowed.")
    return problem


def _ask(db: sqlite3.Connection, statement: str) -> tuple[list[str], Iterator[chain.Row]]:
    cursor = db.execute(statement)
    return [column[0] for column in cursor.description or ()], cursor
