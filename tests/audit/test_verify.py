"""The check of the chain, on SQLite and PostgreSQL, without the domain."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interlock.adapters.audit.service import AuditService
from interlock.adapters.audit.verify import CannotVerify, verify
from interlock.adapters.audit.whatif import what_if
from interlock.adapters.store import migrate, open_store
from tests.golden.story import tell, write_store
from tests.servers import PostgresServer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of one's own to damage."""
    return write_store(tmp_path / "events.db")


def _damage(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()


def test_a_log_that_nobody_touched_holds(path: Path) -> None:
    found = verify(str(path))
    assert found["holds"]
    assert found["checked"] == found["position"] > 100
    assert found["bad_position"] is None


@pytest.mark.parametrize(
    ("statement", "bad"),
    [
        ("UPDATE stored_events SET state = replace(state, 'thor', 'orin') WHERE rowid = 14", 14),
        ("UPDATE stored_events SET actor = 'nobody' WHERE rowid = 3", 3),
        ("UPDATE stored_events SET time = time + 1 WHERE rowid = 100", 100),
        ("DELETE FROM stored_events WHERE rowid = 7", 7),
        ("DELETE FROM stored_events WHERE rowid = 1", 1),
        ("UPDATE stored_events SET digest = zeroblob(32) WHERE rowid = 9", 9),
        ("UPDATE stored_events SET rowid = 0 WHERE rowid = 1", 0),
        ("UPDATE stored_events SET rowid = -9223372036854775808 WHERE rowid = 9", -(2**63)),
        ("UPDATE stored_events SET rowid = 9223372036854775807 WHERE rowid = 9", 9),
        ("UPDATE stored_events SET topic = cast(x'ff' AS TEXT) WHERE rowid = 5", 5),
    ],
)
def test_the_first_position_that_was_altered_is_named(path: Path, statement: str, bad: int) -> None:
    _damage(path, statement)
    found = verify(str(path))
    assert not found["holds"]
    assert found["bad_position"] == bad
    assert found["problem"]
    store = open_store(path, read_only=True)
    try:
        assert AuditService(store).verify() == found
    finally:
        store.close()


def test_a_tail_that_was_cut_is_seen_by_an_anchor_alone(path: Path, tmp_path: Path) -> None:
    anchor = tmp_path / "anchor.json"
    end = verify(str(path), write_anchor=anchor)["position"]
    _damage(path, f"DELETE FROM stored_events WHERE rowid > {end - 3}")
    assert verify(str(path))["holds"]
    found = verify(str(path), anchors=[anchor])
    assert found["bad_position"] == end - 2
    assert "cut" in found["problem"]


def test_no_anchor_is_written_of_a_log_that_does_not_hold(path: Path, tmp_path: Path) -> None:
    _damage(path, "UPDATE stored_events SET actor = 'nobody' WHERE rowid = 3")
    verify(str(path), write_anchor=tmp_path / "anchor.json")
    assert not (tmp_path / "anchor.json").exists()


@pytest.mark.parametrize(
    ("damage", "status"),
    [
        (lambda folder: str(folder / "missing.db"), 3),
        (lambda folder: "mysql://somewhere", 2),
        (lambda folder: "postgresql://127.0.0.1:1/none", 3),
        (lambda folder: "postgresql://u:p%zz@127.0.0.1/none", 2),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, damage: Callable[[Path], str], status: int) -> None:
    with pytest.raises(CannotVerify) as failed:
        verify(damage(tmp_path))
    assert failed.value.exit_code == status


def test_a_broken_anchor_is_no_anchor(path: Path, tmp_path: Path) -> None:
    (tmp_path / "anchor.json").write_text("{}")
    with pytest.raises(CannotVerify, match="not an anchor"):
        verify(str(path), anchors=[tmp_path / "anchor.json"])


def test_the_domain_is_never_imported(path: Path) -> None:
    program = (
        "import sys\n"
        "from interlock.adapters.audit.verify import verify\n"
        f"assert verify({str(path)!r})['holds']\n"
        "print([name for name in sys.modules if name.startswith(('interlock.domain', 'msgspec', 'eventsourcing'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- The same on PostgreSQL -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A PostgreSQL store with the story in it."""
    server = PostgresServer(fsync=False)
    try:
        migrate(server.url())
        store = open_store(server.url())
        store.append([row for outcome in tell().outcomes for row in outcome.recorded], store.take_epoch("story", 1))
        store.close()
        yield server.url()
    finally:
        server.stop()


def test_a_log_on_postgresql_is_checked_and_asked_the_same_way(postgres: str, path: Path) -> None:
    assert verify(postgres) == verify(str(path))
    there, here = open_store(postgres, read_only=True), open_store(path, read_only=True)
    try:
        for subject in ("q-3", "r-000001", "model:embed", "node:thor", "correlation:trace-q-1"):
            assert AuditService(there).why(subject) == AuditService(here).why(subject)
        assert AuditService(there).log({"event": "ReplicaLocked"}) == AuditService(here).log({"event": "ReplicaLocked"})
        assert AuditService(there).state("40") == AuditService(here).state("40")
        again = [what_if(AuditService(log).stretch("40", "head"), {"load_attempts": "1"}, {}) for log in (there, here)]
        assert again[0] == again[1]
    finally:
        there.close()
        here.close()
