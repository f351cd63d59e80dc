"""The audit's questions, the same answers on both engines."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interlock.adapters.store import Filters, LogReader, chain, open_store
from interlock.domain.errors import StoreUnavailable, UsageError
from interlock.domain.recording import Recorded
from tests.store.support import LEASE_US, event, positions


def history(epoch: int) -> list[Recorded]:
    """A small log in which every filter has something to find and something to leave."""
    told = "interlock.domain.events:"

    def one(position: int, name: str, stream: str, state: bytes, **changes: Any) -> Recorded:
        return event(position, epoch, topic=told + name, stream=stream, version=position, state=state, **changes)

    return [
        one(1, "NodeRegistered", "node:thor", b'{"node":"thor"}', request_id="", correlation_id="k0"),
        one(2, "ModelDeclared", "model:qwen", b'{"model":"qwen"}', actor="operator"),
        one(3, "RequestQueued", "model:qwen", b'{"model":"qwen","request":"q9"}'),
        one(4, "ReplicaReserved", "replica:r1", b'{"replica":"r1","model":"qwen","node":"thor"}'),
        one(5, "ReplicaLoaded", "replica:r1", '{"replica":"r1","model":"qwen","node":"thor","note":"größe"}'.encode()),
        one(6, "ReplicaLoaded", "replica:r2", b'{"replica":"r2","model":"other","node":"orin","for":"qwen"}'),
        one(7, "Loaded", "scheduler", b'{"node":{"name":"thor"}}', command_id=""),
        one(8, "Raw", "scheduler", b"\xff\x00 not json", command_id="c4"),
        one(9, "Raw", "scheduler", b"not json"),
        one(10, "Raw", "scheduler", b"[1, 2]"),
    ]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a log that holds ``history``."""
    address = f"sqlite:///{tmp_path}/events.db"
    if request.param == "postgres":
        address = request.getfixturevalue("postgres_url")
    store = open_store(address)
    epoch = store.take_epoch("writer", LEASE_US)
    store.append(history(epoch), epoch)
    store.close()
    return address


@pytest.fixture
def reader(url: str) -> Iterator[LogReader]:
    """An auditor's store."""
    store = open_store(url, read_only=True)
    yield store
    store.close()


BEGIN = 1_767_225_600_000_000


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, list(range(1, 11))),
        ({"streams": ("replica:r1", "node:thor")}, [1, 4, 5]),
        ({"event": "ReplicaLoaded"}, [5, 6]),
        ({"event": "Loaded"}, [7]),
        ({"event": "interlock.domain.events:ReplicaLoaded"}, [5, 6]),
        ({"event": "replicaloaded"}, []),
        ({"event": "%Loaded"}, []),
        ({"node": "thor"}, [1, 4, 5]),
        ({"model": "qwen"}, [2, 3, 4, 5]),
        ({"replica": "r2"}, [6]),
        ({"node": "thor", "event": "ReplicaLoaded"}, [5]),
        ({"request": "q9"}, [3, 9]),
        ({"actor": "operator"}, [2]),
        ({"command_id": "c4"}, [4, 8]),
        ({"correlation_id": "k0"}, [1]),
        ({"since": BEGIN + 4, "until": BEGIN + 6}, [4, 5]),
        ({"since": BEGIN + 99}, []),
        ({"node": "no'body\"; --"}, []),
    ],
)
def test_filters_find_what_they_say(reader: LogReader, filters: dict[str, Any], found: list[int]) -> None:
    assert positions(reader.log(Filters(**filters))) == found
    assert positions(list(reader.log_all(Filters(**filters)))) == found


def test_pages_follow_one_another(reader: LogReader) -> None:
    wanted = Filters(model="qwen")
    first = reader.log(wanted, limit=3)
    assert positions(first) == [2, 3, 4]
    assert positions(reader.log(wanted, after=first[-1].position, limit=3)) == [5]
    assert reader.log(wanted, after=5, limit=3) == []
    assert reader.log(wanted, limit=0) == []


def test_the_last_page_can_be_had_instead_of_the_first(reader: LogReader) -> None:
    every = reader.log(Filters())
    assert len(every) > 3
    assert reader.log(Filters(), limit=3, newest=True) == every[-3:]
    assert reader.log(Filters(), after=every[-2].position, limit=3, newest=True) == every[-1:]


def test_single_events_are_found_by_id_position_and_time(reader: LogReader) -> None:
    wanted = history(1)[4]
    assert reader.event("c5.0") == wanted
    assert reader.at(5) == wanted
    assert reader.event("nothing") is None
    assert reader.at(99) is None
    assert [reader.position_at(BEGIN + offset) for offset in (0, 1, 5, 99)] == [0, 1, 5, 10]


def test_the_chain_is_verified_over_raw_rows(reader: LogReader) -> None:
    rows = list(reader.sealed_rows(page_events=3))
    assert [row[0] for row in rows] == list(range(1, 11))
    assert chain.verify(rows) is None
    assert reader.verify(anchors=[chain.Anchor(10, rows[-1][-1].hex())]).holds
    assert reader.verify(anchors=[chain.Anchor(11, "00" * 32)]).bad_position == 11


def test_sql_is_answered(reader: LogReader) -> None:
    answer = reader.execute_sql("SELECT position, stream, topic FROM events WHERE topic LIKE '%Loaded' ORDER BY 1;")
    assert answer.columns == ["position", "stream", "topic"]
    assert [row[:2] for row in answer.rows] == [(5, "replica:r1"), (6, "replica:r2"), (7, "scheduler")]
    assert not answer.truncated
    cut = reader.execute_sql("WITH these AS (SELECT * FROM events) SELECT position FROM these ORDER BY 1", limit=4)
    assert [row[0] for row in cut.rows] == [1, 2, 3, 4]
    assert cut.truncated


@pytest.mark.parametrize(
    "statement",
    [
        "",
        ";",
        "DELETE FROM stored_events",
        "UPDATE stored_events SET actor = 'x'",
        "DROP TABLE stored_events",
        "INSERT INTO interlock_snapshots VALUES (1, '', '')",
        "WITH gone AS (DELETE FROM stored_events RETURNING 1) SELECT * FROM gone",
        "SELECT 1; DELETE FROM stored_events",
        "COMMIT",
        "ROLLBACK; DELETE FROM stored_events",
        "ATTACH DATABASE 'other.db' AS other",
        "PRAGMA query_only = 0",
        "VACUUM",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SET default_transaction_read_only = off",
        "SELECT load_extension('x')",
        "SELECT lo_create(0)",
        "SELECT nothing FROM nowhere",
        "SELEC 1",
    ],
)
def test_sql_that_is_no_query_is_the_askers_mistake_and_changes_nothing(url: str, statement: str) -> None:
    # Through a store that may write: the door itself must hold.
    store = open_store(url)
    with pytest.raises(UsageError):
        store.execute_sql(statement)
    assert store.head().position == 10
    assert store.verify().holds
    assert store.execute_sql("SELECT count(*) FROM events").rows == [(10,)]
    store.close()


def test_sql_that_takes_too_long_is_stopped(reader: LogReader) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(StoreUnavailable, match="longer than"):
        reader.execute_sql(endless, timeout_s=0.05)
    assert reader.execute_sql("SELECT 1").rows == [(1,)]


def test_an_auditor_reads_beside_a_running_writer_and_cannot_write(url: str) -> None:
    writer, auditor = open_store(url), open_store(url, read_only=True)
    epoch = writer.take_epoch("writer", LEASE_US)
    for position in range(11, 14):
        head = writer.append([event(position, epoch, stream="later", version=position)], epoch)
        assert auditor.head() == head
    with pytest.raises(StoreUnavailable, match="read"):
        auditor.take_epoch("auditor", LEASE_US)
    with pytest.raises(StoreUnavailable, match="read"):
        auditor.append([event(14, epoch, stream="later")], epoch)
    assert auditor.verify().checked == 13
    writer.close()
    auditor.close()


@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("'infinity'::date", "infinity"),
        ("'4713-01-01 BC'::date", "4713-01-01 BC"),
        ("'-infinity'::timestamptz", "-infinity"),
        ("'24:00'::time", "24:00:00"),
        ("'24:00+01'::timetz", "24:00:00+01"),
        ("interval '100000000 years'", "100000000 years"),
        ("ARRAY['infinity'::timestamp]", ["infinity"]),
    ],
)
def test_a_date_that_python_does_not_know_is_the_servers_text(postgres_url: str, value: str, text: object) -> None:
    store = open_store(postgres_url, read_only=True)
    try:
        assert store.execute_sql(f"SELECT {value}, DATE '2026-01-02'").rows == [(text, datetime.date(2026, 1, 2))]
        assert store.execute_sql("SELECT lease_until FROM interlock_epoch").rows == [("-infinity",)]
    finally:
        store.close()


@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize(
    "statement",
    ["SELECT $1", "SELECT chr(0)", "SELECT 1/0", "SELECT set_config('transaction_read_only', 'off', false)"],
)
def test_what_only_the_statement_is_to_blame_for_is_the_askers_mistake(postgres_url: str, statement: str) -> None:
    store = open_store(postgres_url, read_only=True)
    try:
        with pytest.raises(UsageError, match="cannot be run"):
            store.execute_sql(statement)
    finally:
        store.close()
