"""What is SQLite's own: the lease that dies with its holder, errors that name their cure, and files in odd places."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from interlock.adapters.audit.verify import verify
from interlock.adapters.store import FILE_NAME, SqliteStore, migrate, open_store, sqlite_path
from interlock.adapters.store.lease import FileLease
from interlock.domain.errors import InvalidSetting, LeaseHeld, StoreUnavailable
from tests.store.support import LEASE_US, batch

# Leads, forks a child that lives on with a copy of every open file, says so, and sleeps until it is killed.
WRITER = """
import os, signal, sys
from interlock.adapters.store import open_store
store = open_store(sys.argv[1])
store.take_epoch("the other process", 1)
forked, tell = os.pipe()
child = os.fork()
if child == 0:
    os.write(tell, b"!")
    signal.pause()
os.read(forked, 1)
print(child, flush=True)
signal.pause()
"""


def test_the_lease_ends_with_its_process_even_if_a_child_lives_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        store = open_store(tmp_path)
        try:
            with pytest.raises(LeaseHeld, match="the other process"):
                store.take_epoch("standby", LEASE_US)
            process.kill()
            process.wait()
            assert store.take_epoch("standby", LEASE_US) == 2
        finally:
            process.kill()
            os.kill(child, signal.SIGKILL)
    store.close()


def test_no_lock_file_is_left_behind(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.take_epoch("writer", LEASE_US)
    store.append(batch(1, 1, 1), 1)
    store.close()
    assert [one.name for one in tmp_path.iterdir()] == [FILE_NAME]


def test_a_lease_on_a_file_that_was_removed_is_no_lease(tmp_path: Path) -> None:
    first, second = FileLease(tmp_path / "lease"), FileLease(tmp_path / "lease")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    assert not first.acquire()
    second.release()
    second.release()
    assert not (tmp_path / "lease").exists()


def contend(path: Path, rounds: int, results: multiprocessing.SimpleQueue[int]) -> None:
    """Take and release a lease many times, counting how often somebody else was inside too."""
    lease, inside, broken, taken = FileLease(path), path.with_name("inside"), 0, 0
    while taken < rounds:
        if lease.acquire():
            try:
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                broken += 1
            inside.unlink(missing_ok=True)
            taken += 1
            lease.release()
    results.put(broken)


def test_a_lease_has_one_holder_at_a_time_however_it_is_contended(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
    workers = [context.Process(target=contend, args=(tmp_path / "lease", 300, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [results.get() for _ in workers] == [0, 0, 0]


# --- Errors that name their cure --------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    """A store that leads in epoch 1, with two events."""
    made = SqliteStore(tmp_path / FILE_NAME, busy_timeout_ms=50)
    made.take_epoch("writer", LEASE_US)
    made.append(batch(1, 2, 1), 1)
    return made


def session(store: SqliteStore) -> sqlite3.Connection:
    """The connection on which the store writes."""
    assert store._writer is not None
    return store._writer


def test_a_full_disk_stores_nothing_and_says_so(store: SqliteStore) -> None:
    pages = session(store).execute("PRAGMA page_count").fetchone()[0]
    session(store).execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StoreUnavailable, match=r"disk is full.*Free space"):
        store.append(batch(3, 500, 1), 1)
    assert store.head().position == 2
    session(store).execute("PRAGMA max_page_count = 1000000")
    assert store.append(batch(3, 500, 1), 1).position == 502


def test_a_file_that_may_not_be_written_says_so(store: SqliteStore) -> None:
    session(store).execute("PRAGMA query_only = 1")
    with pytest.raises(StoreUnavailable, match=r"read-only.*--data"):
        store.append(batch(3, 1, 1), 1)


def test_a_file_that_somebody_locks_says_so(store: SqliteStore) -> None:
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another process keeps it locked"):
            store.append(batch(3, 1, 1), 1)
        assert store.head().position == 2
        other.execute("ROLLBACK")
    other.close()
    assert store.append(batch(3, 1, 1), 1).position == 3


def test_a_file_that_is_none_of_ours_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("dear diary " * 100)
    with pytest.raises(StoreUnavailable, match="no SQLite database"):
        open_store(tmp_path / "notes.db")
    with pytest.raises(StoreUnavailable, match="no SQLite database"):
        open_store(tmp_path / "notes.db", read_only=True)


def test_a_damaged_file_says_so(store: SqliteStore) -> None:
    store.append(batch(3, 500, 1), 1)
    store.close()
    content = bytearray(store.path.read_bytes())
    content[8192:] = b"\x13" * (len(content) - 8192)
    store.path.write_bytes(content)
    damaged = open_store(store.path, read_only=True)
    with pytest.raises(StoreUnavailable, match=r"damaged.*backup"):
        list(damaged.read())
    damaged.close()


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=r"cannot be made.*--data"):
        open_store(tmp_path / "file" / "below")


def test_a_store_that_is_not_there_is_not_made_for_a_reader(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no event store"):
        open_store(tmp_path / "nothing", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_a_later_release_is_left_alone(store: SqliteStore) -> None:
    session(store).execute("PRAGMA user_version = 99")
    store.close()
    for read_only in (False, True):
        with pytest.raises(StoreUnavailable, match=r"version 99.*Upgrade"):
            open_store(store.path, read_only=read_only)


def test_a_log_whose_version_somebody_took_away_is_left_alone_and_named(store: SqliteStore) -> None:
    session(store).execute("PRAGMA user_version = 0")
    store.close()
    with pytest.raises(StoreUnavailable, match=r"table stored_events.*user_version is 0.*Name another file"):
        open_store(store.path)


def test_a_text_that_is_no_unicode_is_a_bad_row_and_not_a_crash(store: SqliteStore) -> None:
    session(store).execute("UPDATE stored_events SET actor = CAST(x'ff' AS TEXT) WHERE rowid = 2")
    finding = store.verify()
    assert finding.bad_position == 2
    assert finding.checked == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stored_events SET actor = 'mallory' WHERE rowid = 1",
        "UPDATE stored_events SET digest = zeroblob(32) WHERE rowid = 1",
        "UPDATE stored_events SET state = CAST(state AS TEXT) WHERE rowid = 1",
        "UPDATE stored_events SET originator_version = '1x' WHERE rowid = 1",
        "DELETE FROM stored_events WHERE rowid = 1",
    ],
)
def test_a_row_that_was_changed_behind_our_back_is_found(store: SqliteStore, statement: str) -> None:
    session(store).execute(statement)
    assert store.verify().bad_position == 1


def test_a_reader_gets_by_where_nothing_may_be_written(store: SqliteStore) -> None:
    # Without shared memory: the file was closed well, and its folder is another user's.
    store.close()
    if os.geteuid() != 0:
        os.chmod(store.path.parent, 0o555)
    reader = SqliteStore(store.path, read_only=True)
    assert reader.head().position == 2
    reader.close()
    os.chmod(store.path.parent, 0o755)


# --- Addresses --------------------------------------------------------------------------------------------------------


def test_an_address_means_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.d").mkdir()
    (tmp_path / "plain").touch()
    assert sqlite_path(tmp_path) == tmp_path / FILE_NAME
    assert sqlite_path(tmp_path / ".interlock") == tmp_path / ".interlock" / FILE_NAME
    assert sqlite_path(tmp_path / "run.sqlite") == tmp_path / "run.sqlite"
    assert sqlite_path(tmp_path / "there.d") == tmp_path / "there.d" / FILE_NAME
    assert sqlite_path(tmp_path / "plain") == tmp_path / "plain"
    assert sqlite_path(f"sqlite:///{tmp_path}/new") == tmp_path / "new"
    assert sqlite_path(f"sqlite:///{tmp_path}") == tmp_path / FILE_NAME
    assert sqlite_path("sqlite:///relative.db") == Path("relative.db")
    with pytest.raises(InvalidSetting, match="mysql"):
        open_store("mysql://host/db")


def test_odd_names_are_names(tmp_path: Path) -> None:
    path = tmp_path / "a b?c#d%41.db"
    store = open_store(path)
    store.take_epoch("writer", LEASE_US)
    store.close()
    assert path.exists()


def test_preparing_twice_changes_nothing(tmp_path: Path, postgres_url: str, empty_database: str) -> None:
    for url in (f"sqlite:///{tmp_path}/events.db", postgres_url, empty_database):
        assert migrate(url) == migrate(url) == 1
        store = open_store(url)
        assert store.schema_version == 1
        epoch = store.take_epoch("writer", LEASE_US)
        assert store.append(batch(1, 1, epoch), epoch).position == 1
        assert migrate(url) == 1
        assert store.head().position == 1
        store.close()


def _read_as_somebody_else(path: Path, tell: multiprocessing.connection.Connection) -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    try:
        store = open_store(path, read_only=True)
        tell.send((store.head().position, len(list(store.read())), verify(str(path))["holds"]))
        store.close()
    except Exception as error:
        tell.send(repr(error))


def _asked_as_somebody_else(path: Path) -> object:
    fork = multiprocessing.get_context("fork")
    hear, tell = fork.Pipe(duplex=False)
    reader = fork.Process(target=_read_as_somebody_else, args=(path, tell))
    reader.start()
    assert hear.poll(20)
    answer: object = hear.recv()
    reader.join()
    return answer


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_only_read_reads_a_log_that_was_closed_well_and_read_since(store: SqliteStore) -> None:
    store.append(batch(1, 3, 1), 1)
    store.close()
    open_store(store.path, read_only=True).close()
    left = store.path.with_name(f"{store.path.name}-wal")
    assert left.stat().st_size == 0, "what a reader leaves behind"
    # A folder that everybody may enter, and write nothing into.
    folder = Path(tempfile.mkdtemp(prefix="interlock-read-only-"))
    try:
        shutil.copy(store.path, folder)
        folder.chmod(0o755)
        assert _asked_as_somebody_else(folder / store.path.name) == (3, 3, True)
        shutil.copy(left, folder)
        assert _asked_as_somebody_else(folder / store.path.name) == (3, 3, True)
    finally:
        shutil.rmtree(folder)
