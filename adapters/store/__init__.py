"""The event store: SQLite embedded, PostgreSQL for a cluster, memory for tests, behind one port.

::

    store = open_store("./.interlock")                      # a folder: SQLite in it
    store = open_store("sqlite:///var/lib/interlock/a.db")  # a file
    store = open_store("postgresql://host/interlock")       # needs `interlock migrate` once
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from interlock.domain.errors import InvalidSetting

from .memory import Fault, MemoryLog, MemoryStore
from .queries import Filters, LogReader, SqlAnswer
from .sqlite import FILE_NAME, SqliteStore

if TYPE_CHECKING:
    from .postgres import PostgresStore

__all__ = [
    "Fault",
    "Filters",
    "LogReader",
    "MemoryLog",
    "MemoryStore",
    "SqlAnswer",
    "SqliteStore",
    "check_store",
    "is_postgres",
    "migrate",
    "open_store",
    "sqlite_path",
]

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql://", "postgres://")


def is_postgres(url: str | Path) -> bool:
    """Whether ``url`` names a PostgreSQL store."""
    return str(url).startswith(_POSTGRES)


def sqlite_path(url: str | Path) -> Path:
    """The SQLite file that ``url`` means.

    ``sqlite:///a/b.db`` is relative and ``sqlite:////a/b.db`` absolute, and always a file unless a folder stands there.
    A plain path is a folder, in which the file is called ``events.db``, unless it is a file or, not existing yet, has a
    suffix. Raises ``InvalidSetting`` for another scheme, and for SQLite's ``:memory:``, where nothing would last.
    """
    text = str(url)
    if text.startswith(_SQLITE):
        path = Path(text.removeprefix(_SQLITE))
        if path.name == ":memory:":
            raise InvalidSetting(f"{text!r} would be gone with this process.", cure="Use sqlite:///FILE.")
        return path / FILE_NAME if path.is_dir() else path
    if "://" in text:
        raise InvalidSetting(
            f"{text!r} names no event store.", cure="Use sqlite:///FILE, postgresql://HOST/DATABASE, or a folder."
        )
    path = Path(text)
    if path.is_dir() or (not path.is_file() and not path.suffix):
        return path / FILE_NAME
    return path


def check_store(url: str | Path) -> None:
    """Raise ``InvalidSetting`` when ``url`` is no address that a store can have; whether one is there is not asked."""
    if not is_postgres(url):
        sqlite_path(url)


def open_store(url: str | Path, *, read_only: bool = False, durable: bool = True) -> SqliteStore | PostgresStore:
    """Open the store that ``url`` names: the port and the audit's questions (``LogReader``) in one object.

    ``read_only`` is for auditors and works while a writer runs. ``durable=False`` (SQLite only) does not wait for the
    disk. A SQLite file is made, and brought up to date, as needed; a PostgreSQL database must have been prepared by
    ``migrate``. Raises ``StoreUnavailable`` with the cure, or ``InvalidSetting``.
    """
    if is_postgres(url):
        # Imported here, so that an embedded store needs no client library.
        from .postgres import PostgresStore

        return PostgresStore(str(url), read_only=read_only)
    return SqliteStore(sqlite_path(url), read_only=read_only, durable=durable)


def migrate(url: str | Path) -> int:
    """Create or upgrade the schema of the store that ``url`` names, and return its version; again changes nothing."""
    if is_postgres(url):
        from . import postgres

        return postgres.migrate(str(url))
    store = SqliteStore(sqlite_path(url))
    try:
        return store.schema_version
    finally:
        store.close()
