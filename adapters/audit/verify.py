"""The check of the hash chain over stored bytes: nothing is decoded, and the domain is never imported.

That way a log can be checked that this program could not even read, and a defect of the scheduler cannot hide one in
its own check.
"""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from interlock.adapters.outputs import harmed_store

if TYPE_CHECKING:
    from interlock.adapters.store import chain

_PAGE_EVENTS = 5_000
_FILE_NAME = "events.db"


class CannotVerify(Exception):
    """The log or an anchor cannot be read. Has what the errors of the tree have: exit status and cure."""

    def __init__(self, message: str, cure: str = "", exit_code: int = 3) -> None:
        super().__init__(f"{message} {cure}".strip())
        self.message = message
        self.cure = cure
        self.exit_code = exit_code


def verify(url: str, *, anchors: Sequence[Path] = (), write_anchor: Path | None = None) -> dict[str, Any]:
    """Check the whole log that ``url`` names: ``sqlite:///FILE``, ``postgresql://...``, or a folder.

    The answer: ``holds``, ``checked`` (events), ``position`` and ``digest`` (the last good end), ``bad_position`` and
    ``problem``. An anchor is written only when all holds. Raises CannotVerify.
    """
    chain = _load_chain()
    if write_anchor is not None and (harm := harmed_store(write_anchor)):
        raise CannotVerify(
            harm, "Write the anchor to another file.", exit_code=2
        )  # because this module knows no domain
    try:
        known = [chain.read_anchor(path) for path in anchors]
    except OSError as problem:
        raise CannotVerify(f"an anchor cannot be read: {problem}.", exit_code=2) from problem  # because no domain here
    except ValueError as problem:
        raise CannotVerify(f"{problem}.", exit_code=2) from problem  # because this module knows no domain
    found = chain.check(_rows(url), anchors=known)
    if found.holds and write_anchor is not None:
        try:
            chain.write_anchor(write_anchor, chain.Anchor(found.position, found.digest))
        except OSError as problem:
            cure = "Choose a folder that you may write."
            message = f"the anchor {write_anchor} cannot be written: {problem.strerror}."
            raise CannotVerify(message, cure, exit_code=2) from problem  # because this module knows no domain
    return {
        "holds": found.holds,
        "checked": found.checked,
        "position": found.position,
        "digest": found.digest,
        "bad_position": found.bad_position,
        "problem": found.problem,
    }


def _load_chain() -> ModuleType:
    """The module of the hash chain alone; the usual import would bring its package's whole store, domain included."""
    name = "interlock.adapters.store.chain"
    if name in sys.modules:
        return sys.modules[name]
    path = _store_folder() / "chain.py"
    alone = "interlock_chain_alone"
    spec = importlib.util.spec_from_file_location(alone, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their own module up by name.
    sys.modules[alone] = module
    spec.loader.exec_module(module)
    return module


def _store_folder() -> Path:
    return Path(__file__).resolve().parent.parent / "store"


def _statements(dialect: str, position: str, mark: str) -> tuple[str, str]:
    """What asks for the first page of rows, and for the one beyond a position."""
    rows = (_store_folder() / "sql" / f"{dialect}_rows.sql").read_text(encoding="utf-8")
    page = f"ORDER BY {position} LIMIT {_PAGE_EVENTS}"
    return f"{rows} {page}", f"{rows} WHERE {position} > {mark} {page}"


def _rows(url: str) -> Iterator[chain.Row]:
    if url.startswith(("postgresql://", "postgres://")):
        return _postgres_rows(url)
    return _sqlite_rows(_sqlite_path(url))


def _sqlite_path(url: str) -> Path:
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
    elif "://" in url:
        cure = "Use sqlite:///FILE, postgresql://HOST/DATABASE, or a folder."
        raise CannotVerify(f"{url!r} names no event store.", cure, exit_code=2)  # because no domain here
    else:
        path = Path(url)
    return path / _FILE_NAME if path.is_dir() or (not path.suffix and not path.is_file()) else path


def _sqlite_rows(path: Path) -> Iterator[chain.Row]:
    if not path.is_file():
        cure = "Name one with --store or --data."
        raise CannotVerify(f"there is no event store at {path}.", cure)  # because no domain here
    try:
        db = _open_sqlite(path)
        try:
            first, next_ones = _statements("sqlite", "rowid", "?")
            yield from _pages(
                lambda after: (db.execute(first) if after is None else db.execute(next_ones, (after,))).fetchall()
            )
        finally:
            db.close()
    except sqlite3.Error as problem:
        message = f"the event store {path} cannot be read: {problem}."
        raise CannotVerify(message, "Restore it from a backup.") from problem  # because no domain here


def _open_sqlite(path: Path) -> sqlite3.Connection:
    """For reading only; a log that was closed well may lie in a folder that we may not write."""
    address = f"file:{quote(str(path))}?mode=ro"
    db = sqlite3.connect(address, uri=True)
    # Bytes that are no Unicode are shown rather than refused, so that the check can name their row.
    db.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    try:
        db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
    except sqlite3.OperationalError:
        db.close()
        ahead = path.with_name(f"{path.name}-wal")
        if ahead.exists() and ahead.stat().st_size:
            raise
        db = sqlite3.connect(f"{address}&immutable=1", uri=True)
        db.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    return db


def _postgres_rows(url: str) -> Iterator[chain.Row]:
    # Imported here, so that checking an embedded log needs no client library.
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError as problem:
        # What is quoted there may be a part of the password.
        words = str(problem).partition('"')[0].removesuffix("in ").strip(" :\n")
        cure = "Write --store postgresql://USER@HOST:PORT/DATABASE, and other signs in it as %20 and the like."
        message = f"the address of the event store does not parse: {words}."
        raise CannotVerify(message, cure, exit_code=2) from problem  # because this module knows no domain
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=5, application_name="interlock verify") as session:
            first, next_ones = (text.encode() for text in _statements("postgres", "notification_id", "%s"))
            yield from _pages(
                lambda after: (
                    session.execute(first, binary=True)
                    if after is None
                    else session.execute(next_ones, (after,), binary=True)
                ).fetchall()
            )
    except psycopg.Error as problem:
        words = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        message = f"the event store cannot be read: {words}."
        raise CannotVerify(message, "Start that server, or name another with --store.") from problem  # no domain here


def _pages(fetch: Any) -> Iterator[chain.Row]:
    # Not beyond some number: a row that was added before the first one is to be seen wherever it stands.
    after = None
    while page := fetch(after):
        yield from page
        after = page[-1][0]
