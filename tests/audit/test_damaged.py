"""A log that somebody altered: what can be read is shown, and what cannot is named with its position."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.adapters.audit.service import AuditService
from interlock.adapters.store import SqliteStore, open_store
from interlock.domain.commands import StartEpoch
from interlock.domain.errors import ChainBroken, InvalidField
from interlock.domain.snapshots import take_snapshot
from tests.domain.cluster import Cluster
from tests.golden.story import write_store

NO_UNICODE = "UPDATE stored_events SET actor = cast(x'ff' AS TEXT) WHERE rowid = 20"
BEFORE_ALL_TIME = "UPDATE stored_events SET time = -9000000000000000000 WHERE rowid = 20"
NO_JSON = "UPDATE stored_events SET state = cast('{' AS BLOB) WHERE rowid = 20"
ANOTHER_SHAPE = 'UPDATE stored_events SET state = cast(\'{"at": "noon"}\' AS BLOB) WHERE rowid = 20'
ANOTHER_NAME = (
    "UPDATE stored_events SET state = replace(state, 'r-000001', 'r-999999') WHERE topic LIKE '%ReplicaLoaded%'"
)
GAP = "DELETE FROM stored_events WHERE rowid = 20"


@contextmanager
def _altered(tmp_path: Path, statement: str) -> Iterator[AuditService]:
    path = write_store(tmp_path / "events.db")
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()
    store = open_store(path, read_only=True)
    try:
        yield AuditService(store)
    finally:
        store.close()


@pytest.mark.parametrize("statement", [NO_UNICODE, BEFORE_ALL_TIME, NO_JSON, ANOTHER_SHAPE, GAP])
def test_the_log_and_its_chains_are_shown_whatever_is_in_them(tmp_path: Path, statement: str) -> None:
    with _altered(tmp_path, statement) as audit:
        page = msgspec.json.decode(msgspec.json.encode(audit.log({"limit": "1000"})))
        assert {row["position"] for row in page["rows"]} >= {1, 19, 21}
        for subject in ("q-1", "r-000001", "node:thor", "position:21"):
            assert msgspec.json.encode(audit.why(subject, full=True))


def _state(audit: AuditService) -> Any:
    return audit.state("head")


def _diff(audit: AuditService) -> Any:
    return audit.diff("1", "head")


def _stretch(audit: AuditService) -> Any:
    return audit.stretch("10", "head")


@pytest.mark.parametrize("ask", [_state, _diff, _stretch])
@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (NO_JSON, "Position 20 cannot be read"),
        (ANOTHER_SHAPE, "Position 20 cannot be read"),
        (GAP, "Position 21 follows 19"),
    ],
)
def test_a_state_that_cannot_be_rebuilt_names_the_position_and_the_check(
    tmp_path: Path, statement: str, words: str, ask: Callable[[AuditService], Any]
) -> None:
    with _altered(tmp_path, statement) as audit, pytest.raises(ChainBroken, match=f"{words}.*interlock audit verify"):
        ask(audit)


def test_a_snapshot_that_cannot_be_read_is_named_and_a_model_is_told_from_the_log(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.send(StartEpoch(epoch=1, writer="w"))
    cluster.node("n")
    cluster.model("m")
    taken = take_snapshot(cluster.engine)
    store = SqliteStore(tmp_path / "events.db", durable=False)
    store.append(cluster.log, store.take_epoch("w", 1))
    store.save_snapshot(msgspec.structs.replace(taken, state=taken.state[:-9]))
    try:
        audit = AuditService(store)
        with pytest.raises(ChainBroken, match=f"The snapshot at position {taken.position} cannot be read.*Delete it"):
            audit.state("head")
        assert audit.why("model:m").sentence.startswith("It is known how to load m")
    finally:
        store.close()


def test_an_event_about_what_is_not_there_is_named(tmp_path: Path) -> None:
    with _altered(tmp_path, ANOTHER_NAME) as audit, pytest.raises(ChainBroken, match=r"Position \d+ cannot be read"):
        audit.state("head")


def test_a_stretch_that_begins_at_a_gap_is_no_stretch(tmp_path: Path) -> None:
    with (
        _altered(tmp_path, "DELETE FROM stored_events WHERE rowid = 11") as audit,
        pytest.raises(ChainBroken, match="Position 12 follows 10"),
    ):
        audit.stretch("10", "head")


def test_an_export_hides_no_text_that_is_none(tmp_path: Path) -> None:
    refused = pytest.raises(ChainBroken, match="position 20 holds a text that is no Unicode")
    with _altered(tmp_path, NO_UNICODE) as audit, refused:
        audit.export("jsonl", io.BytesIO())


def test_an_export_shows_a_time_outside_of_all_years_as_the_nearest(tmp_path: Path) -> None:
    out = io.BytesIO()
    with _altered(tmp_path, BEFORE_ALL_TIME) as audit:
        audit.export("jsonl", out)
    assert json.loads(out.getvalue().splitlines()[19])["time"] == "0001-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("name", ["model:\udcff", "a\0b"])
def test_a_name_that_nothing_can_have_is_refused_by_its_field(audit: AuditService, name: str) -> None:
    with pytest.raises(InvalidField, match="id: "):
        audit.why(name)
    for field in ("model", "request", "actor", "correlation"):
        with pytest.raises(InvalidField, match=f"{field}: "):
            audit.log({field: name})
    with pytest.raises(InvalidField, match="statement: "):
        audit.sql("SELECT '\udcff'")
