"""The story's log on SQLite: one for all tests that only read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.adapters.audit.service import AuditService
from interlock.adapters.store import SqliteStore
from tests.golden.story import write_store


@pytest.fixture(scope="session")
def story_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The story as a SQLite store."""
    return write_store(tmp_path_factory.mktemp("story") / "events.db")


@pytest.fixture
def story_log(story_file: Path) -> Iterator[SqliteStore]:
    """The story's store, for reading."""
    store = SqliteStore(story_file, read_only=True)
    yield store
    store.close()


@pytest.fixture
def audit(story_log: SqliteStore) -> AuditService:
    """The audit of the story."""
    return AuditService(story_log)
